//! The two phones of a development cluster, in the terms of a demonstration: what was heard, how long it took.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sbc_phone::{
    CallError, CallHandle, CallOptions, Caller, Direction, LadderLine, Location, PsapEvent, PsapHandle, PsapOptions, Reply,
    RtpStats,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;

use crate::dev::stand::{ANYCAST, SIP_PORT};
use crate::error::{Exit, Failure};

/// How long the PSAP may take to learn what the caller did.
const LEARN: Duration = Duration::from_secs(5);
/// How long a demonstration's call may ring; the built-in PSAP answers at once.
const RING: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// What the PSAP has seen besides its own counters.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    holds: u64,
    resumes: u64,
    byes: u64,
    /// Events that went by unseen: the counts are then not the truth.
    missed: u64,
}

/// The built-in PSAP: answers, echoes audio, counts.
pub(crate) struct Psap {
    phone: PsapHandle,
    counts: Arc<Mutex<Counts>>,
    counter: JoinHandle<()>,
}

impl Drop for Psap {
    fn drop(&mut self) {
        self.counter.abort();
    }
}

impl Psap {
    /// Listens.
    pub(crate) async fn start(bind: SocketAddr) -> Result<Psap, Failure> {
        let phone = start_phone(bind).await?;
        let counts = Arc::new(Mutex::new(Counts::default()));
        let (mut events, counting) = (phone.events(), Arc::clone(&counts));
        let counter = tokio::spawn(async move {
            loop {
                let event = events.recv().await;
                let mut counts = lock(&counting);
                match event {
                    Ok(PsapEvent::ReInvite { direction: Direction::SendRecv, .. }) => counts.resumes += 1,
                    Ok(PsapEvent::ReInvite { .. }) => counts.holds += 1,
                    Ok(PsapEvent::ByeReceived { .. }) => counts.byes += 1,
                    Ok(_) => {}
                    Err(RecvError::Lagged(n)) => counts.missed += n,
                    Err(RecvError::Closed) => return,
                }
            }
        });
        Ok(Psap { phone, counts, counter })
    }

    /// Distinct INVITEs that made it ring.
    pub(crate) fn rang(&self) -> u64 {
        self.phone.stats().invites
    }

    /// RTP packets that it received.
    pub(crate) fn heard(&self) -> u64 {
        self.phone.stats().rtp.received
    }

    /// Re-INVITEs that stopped it sending, and those that let it send again, once they are as many as wanted or the time is up: the
    /// one who counts them is a task of its own.
    pub(crate) async fn offers(&self, wanted: (u64, u64)) -> (u64, u64) {
        let end = Instant::now() + LEARN;
        loop {
            let counts = *lock(&self.counts);
            let seen = (counts.holds, counts.resumes);
            if seen == wanted || Instant::now() > end {
                return seen;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// BYEs, once there is one or the time is up.
    pub(crate) async fn byes(&self) -> Result<u64, Failure> {
        let end = Instant::now() + LEARN;
        loop {
            let counts = *lock(&self.counts);
            if counts.missed > 0 {
                return Err(Failure::failed(format!("{} events of the PSAP were missed", counts.missed)));
            }
            if counts.byes > 0 || Instant::now() > end {
                return Ok(counts.byes);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A PSAP phone that answers and echoes audio.
pub(crate) async fn start_phone(bind: SocketAddr) -> Result<PsapHandle, Failure> {
    sbc_phone::Psap::start(bind, PsapOptions::default()).await.map_err(|e| {
        Failure::new(Exit::Conflict, format!("the PSAP phone cannot listen on {bind}"))
            .cause(e)
            .hint("what has that address? try `sbcctl dev down`")
    })
}

/// An answered call of the test caller, which ignores Contact: all that it sends goes to the anycast address.
pub(crate) struct Talk {
    call: CallHandle,
    setup: Duration,
}

impl Talk {
    /// Calls a number or URI and waits for the answer. A refusal is an error that has the ladder in its cause.
    pub(crate) async fn place(from: IpAddr, to: &str, rtp: bool, location: Option<Location>) -> Result<Talk, Failure> {
        let begin = Instant::now();
        let mut options = CallOptions::new(anycast(), &uri(to));
        (options.rtp, options.ignore_contact, options.ring, options.location) = (rtp, true, RING, location);
        let call = Caller::new(from).invite(options).await.map_err(|e| Failure::failed(format!("the call to {to}")).cause(e))?;
        match call.answered().await {
            Ok(reply) if reply.is_success() => Ok(Talk { call, setup: begin.elapsed() }),
            Ok(reply) => Err(Failure::failed(format!("the call to {to} was refused: {} {}", reply.code, reply.reason))
                .cause(text(&call.ladder()))),
            Err(e) => Err(Failure::failed(format!("the call to {to} was not answered: {e}")).cause(text(&call.ladder()))),
        }
    }

    /// From the INVITE to the 200.
    pub(crate) fn setup(&self) -> Duration {
        self.setup
    }

    /// Audio sent and returned.
    pub(crate) fn rtp(&self) -> RtpStats {
        self.call.rtp_stats()
    }

    /// All messages so far.
    pub(crate) fn ladder(&self) -> Vec<LadderLine> {
        self.call.ladder()
    }

    /// Where the far end wants its requests: what a caller that heeds Contact would use.
    pub(crate) fn contact(&self) -> Option<SocketAddr> {
        self.call.remote_target()?.ok()
    }

    /// Puts the far end on hold; returns how long the 200 took.
    pub(crate) async fn hold(&self) -> Result<Duration, Failure> {
        timed("the hold", self.call.reinvite(Direction::SendOnly, None)).await
    }

    /// Takes it back.
    pub(crate) async fn resume(&self) -> Result<Duration, Failure> {
        timed("the resume", self.call.reinvite(Direction::SendRecv, None)).await
    }

    /// Hangs up.
    pub(crate) async fn bye(&self) -> Result<Duration, Failure> {
        timed("the BYE", self.call.bye(None)).await
    }
}

async fn timed(what: &str, request: impl Future<Output = Result<Reply, CallError>>) -> Result<Duration, Failure> {
    let begin = Instant::now();
    match request.await {
        Ok(reply) if reply.is_success() => Ok(begin.elapsed()),
        Ok(reply) => Err(Failure::failed(format!("{what} was answered {} {}", reply.code, reply.reason))),
        Err(e) => Err(Failure::failed(format!("{what} was not answered")).cause(e)),
    }
}

fn anycast() -> SocketAddr {
    (ANYCAST, SIP_PORT).into()
}

/// A number becomes a SIP URI at the anycast address; a URI stays one.
fn uri(to: &str) -> String {
    if to.contains(':') { to.to_owned() } else { format!("sip:{to}@{ANYCAST}") }
}

fn text(ladder: &[LadderLine]) -> String {
    let line = |l: &LadderLine| format!("\n  {:.3} {} -> {} {}", l.at.as_secs_f32(), l.from, l.to, l.summary);
    ladder.iter().map(line).collect()
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_uris() {
        assert_eq!(uri("112"), "sip:112@127.0.0.100");
        assert_eq!(uri("urn:service:sos"), "urn:service:sos");
        assert_eq!(uri("tel:112"), "tel:112");
    }

    #[tokio::test]
    async fn counts_what_a_call_does_to_the_psap() {
        let bind: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let psap = Psap::start(bind).await.unwrap();
        let options = CallOptions::new(psap.phone.local(), "sip:112@127.0.0.1");
        let call = Caller::new(bind.ip()).invite(options).await.unwrap();
        assert!(call.answered().await.unwrap().is_success());
        let talk = Talk { call, setup: Duration::ZERO };
        talk.hold().await.unwrap();
        talk.resume().await.unwrap();
        talk.bye().await.unwrap();
        assert_eq!(psap.byes().await.unwrap(), 1);
        assert_eq!((psap.rang(), psap.offers((1, 1)).await), (1, (1, 1)));
        assert_eq!(talk.contact(), Some(psap.phone.local()));
        assert!(text(&talk.ladder()).contains("BYE"));
    }
}
