//! Follows a watch through the loss of nodes: resumes with the last token at the next endpoint.

use std::ops::ControlFlow;
use std::time::Duration;

use sbc_proto::v1::{self, WatchFrom, WatchGoodbyeReason, watch_from::Start};
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::client::Cluster;
use crate::error::{Exit, Failure};
use crate::output::note;

/// Attempts in a row to resume a broken stream before it is given up: ten seconds, longer than an election.
const MAX_RESUMES: u32 = 20;
const RESUME_PAUSE: Duration = Duration::from_millis(500);

/// One message of a watch, whatever it watches.
pub(crate) enum Step<E> {
    Event(E, String),
    /// With whether the node has a quorum, where it says so.
    Synced(String, Option<bool>),
    Progress(String, Option<bool>),
    Goodbye(WatchGoodbyeReason, String),
}

/// What the reader of a watch sees.
pub(crate) enum Seen<E> {
    Event(E),
    /// All that was there at the beginning has been seen.
    Synced,
}

/// The response of a watch RPC.
pub(crate) trait WatchResponse {
    /// What it brings.
    type Event;
    /// `None`: a message that this version does not know.
    fn step(self) -> Option<Step<Self::Event>>;
}

macro_rules! watch_response {
    ($response:ty, $kind:path, $event:ty, $variant:ident) => {
        impl WatchResponse for $response {
            type Event = $event;
            fn step(self) -> Option<Step<$event>> {
                use $kind as Kind;
                Some(match self.kind? {
                    Kind::$variant(e) => {
                        let token = e.resume_token.clone();
                        Step::Event(e, token)
                    }
                    Kind::Synced(s) => Step::Synced(s.resume_token, s.quorum),
                    Kind::Progress(p) => Step::Progress(p.resume_token, p.quorum),
                    Kind::Goodbye(g) => Step::Goodbye(g.reason(), g.resume_token),
                })
            }
        }
    };
}

watch_response!(v1::CallServiceWatchResponse, v1::call_service_watch_response::Kind, v1::CallChange, Change);
watch_response!(v1::EventServiceWatchResponse, v1::event_service_watch_response::Kind, v1::Event, Event);
watch_response!(
    v1::DispatchServiceStreamEmergencyEventsResponse,
    v1::dispatch_service_stream_emergency_events_response::Kind,
    v1::EmergencyCallEvent,
    Event
);

/// `now`, `snapshot` or a resume token.
pub(crate) fn from(text: &str) -> WatchFrom {
    WatchFrom {
        start: Some(match text {
            "now" => Start::Now(v1::WatchNow {}),
            "snapshot" => Start::Snapshot(v1::WatchSnapshot {}),
            token => Start::ResumeToken(token.to_owned()),
        }),
    }
}

/// Follows a watch until `sink` breaks or what is watched is over. `what` names it in errors.
pub(crate) async fn follow<R: WatchResponse>(
    cluster: &Cluster,
    what: &str,
    start: WatchFrom,
    mut open: impl AsyncFnMut(Channel, WatchFrom) -> Result<Streaming<R>, Status>,
    mut sink: impl FnMut(Seen<R::Event>) -> Result<ControlFlow<()>, Failure>,
) -> Result<(), Failure> {
    let mut start = start;
    let (mut failures, mut quorum) = (0, true);
    loop {
        let broken = match cluster.connect().await {
            Err(failure) => failure,
            Ok(channel) => match open(channel, start.clone()).await {
                Err(status) => refused(what, &status)?,
                Ok(mut stream) => match read(what, &mut stream, &mut start, (&mut failures, &mut quorum), &mut sink).await? {
                    ControlFlow::Break(()) => return Ok(()),
                    ControlFlow::Continue(failure) => failure,
                },
            },
        };
        failures += 1;
        if failures >= MAX_RESUMES {
            return Err(broken);
        }
        tokio::time::sleep(RESUME_PAUSE).await;
    }
}

/// Reads one stream to its end: `Break` when the watch is over, `Continue` with the reason when it is to be resumed.
async fn read<R: WatchResponse>(
    what: &str,
    stream: &mut Streaming<R>,
    start: &mut WatchFrom,
    (failures, quorum): (&mut u32, &mut bool),
    sink: &mut impl FnMut(Seen<R::Event>) -> Result<ControlFlow<()>, Failure>,
) -> Result<ControlFlow<(), Failure>, Failure> {
    while let Some(message) = stream.next().await {
        let step = match message {
            Err(status) => return refused(what, &status).map(ControlFlow::Continue),
            Ok(message) => message.step(),
        };
        *failures = 0;
        let (token, seen) = match step {
            None => continue,
            Some(Step::Event(event, token)) => (token, Some(Seen::Event(event))),
            Some(Step::Synced(token, has)) => {
                tell_quorum(quorum, has);
                (token, Some(Seen::Synced))
            }
            Some(Step::Progress(token, has)) => {
                tell_quorum(quorum, has);
                (token, None)
            }
            Some(Step::Goodbye(reason, token)) => {
                resume(start, token);
                return goodbye(what, reason);
            }
        };
        if let Some(seen) = seen
            && sink(seen)?.is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        // Only now: an event whose printing failed is not behind us.
        resume(start, token);
    }
    Ok(ControlFlow::Continue(Failure::new(Exit::Unreachable, format!("{what}: the node closed the stream"))))
}

/// Says so when the node has lost its quorum, or has one again.
fn tell_quorum(known: &mut bool, now: Option<bool>) {
    let Some(now) = now else { return };
    match (std::mem::replace(known, now), now) {
        (true, false) => note("the node has no quorum: it tells of its own calls alone, before they are committed"),
        (false, true) => note("the node has a quorum again"),
        _ => {}
    }
}

fn resume(start: &mut WatchFrom, token: String) {
    // During a snapshot the node gives no tokens: the snapshot is then asked for again.
    if !token.is_empty() {
        start.start = Some(Start::ResumeToken(token));
    }
}

fn goodbye(what: &str, reason: WatchGoodbyeReason) -> Result<ControlFlow<(), Failure>, Failure> {
    match reason {
        WatchGoodbyeReason::Finished => Ok(ControlFlow::Break(())),
        WatchGoodbyeReason::Compacted => Err(Failure::failed(format!("{what}: what comes next is no longer kept"))
            .hint("begin again with --from snapshot: what lies between is lost")),
        reason => {
            let reason = reason.as_str_name();
            Ok(ControlFlow::Continue(Failure::new(Exit::Unreachable, format!("{what}: the node ended the stream ({reason})"))))
        }
    }
}

/// The failure to report if resuming does not help; `Err` where it cannot help.
fn refused(what: &str, status: &Status) -> Result<Failure, Failure> {
    let failure = Failure::from_status(what, status);
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal => Ok(failure),
        _ => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_begin() {
        assert_eq!(from("now").start, Some(Start::Now(v1::WatchNow {})));
        assert_eq!(from("snapshot").start, Some(Start::Snapshot(v1::WatchSnapshot {})));
        assert_eq!(from("abc").start, Some(Start::ResumeToken("abc".into())));
    }

    #[test]
    fn what_cannot_be_resumed_is_reported_at_once() {
        assert!(refused("x", &Status::permission_denied("no")).is_err());
        assert!(refused("x", &Status::out_of_range("gone")).is_err());
        assert!(refused("x", &Status::unavailable("gone")).is_ok());
        assert!(goodbye("x", WatchGoodbyeReason::Compacted).is_err());
        assert!(matches!(goodbye("x", WatchGoodbyeReason::Finished), Ok(ControlFlow::Break(()))));
        assert!(matches!(goodbye("x", WatchGoodbyeReason::SlowReader), Ok(ControlFlow::Continue(_))));
    }

    #[test]
    fn an_empty_token_does_not_move_the_start() {
        let mut start = from("snapshot");
        resume(&mut start, String::new());
        assert_eq!(start, from("snapshot"));
        resume(&mut start, "t".into());
        assert_eq!(start, from("t"));
    }
}
