//! Caller against PSAP on 127.0.43.0/24, each test on addresses of its own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::broadcast;
use tokio::time::{sleep, timeout};

use super::*;

/// Longer than anything here takes, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    psap: PsapHandle,
    events: broadcast::Receiver<PsapEvent>,
    caller: Caller,
}

impl Bench {
    async fn start(n: u8, options: PsapOptions) -> Bench {
        let psap = Psap::start((IpAddr::from([127, 0, 43, n]), 0).into(), options).await.unwrap();
        let events = psap.events();
        Bench { psap, events, caller: Caller::new([127, 0, 43, n + 1].into()) }
    }

    async fn call(&self, change: impl FnOnce(&mut CallOptions)) -> CallHandle {
        let mut options = CallOptions::new(self.psap.local(), &format!("sip:112@{}", self.psap.local()));
        change(&mut options);
        self.caller.invite(options).await.unwrap()
    }

    async fn answered(&self, change: impl FnOnce(&mut CallOptions)) -> CallHandle {
        let call = self.call(change).await;
        let reply = timeout(PATIENCE, call.answered()).await.unwrap().unwrap();
        assert_eq!((reply.code, reply.source), (200, self.psap.local()));
        assert_eq!(call.phase(), Phase::Answered);
        call
    }

    async fn event(&mut self, wanted: impl Fn(&PsapEvent) -> bool) -> PsapEvent {
        timeout(PATIENCE, async {
            loop {
                let event = self.events.recv().await.unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        })
        .await
        .unwrap()
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn sent(call: &CallHandle, start: &str) -> Vec<SocketAddr> {
    let ours = |l: &LadderLine| l.direction == LadderDirection::Sent && l.summary.starts_with(start);
    call.ladder().into_iter().filter(ours).map(|l| l.to).collect()
}

fn fast() -> PsapOptions {
    PsapOptions { ring: Duration::from_millis(10), ..PsapOptions::default() }
}

#[tokio::test]
async fn a_call_with_echo_ends_with_the_callers_bye() {
    let mut b = Bench::start(1, fast()).await;
    let call = b.answered(|_| ()).await;
    let id = call.call_id().to_owned();
    let event = b.event(|e| matches!(e, PsapEvent::InviteReceived { .. })).await;
    assert!(matches!(event, PsapEvent::InviteReceived { call: c, rings: 1, source, .. } if c == id && source == call.local()));
    b.event(|e| *e == PsapEvent::Acked { call: id.clone() }).await;
    eventually("twenty packets return", || call.rtp_stats().received >= 20).await;
    let rtp = call.rtp_stats();
    assert_eq!((rtp.duplicates, rtp.invalid), (0, 0));
    assert_eq!(rtp.last_source.unwrap().ip(), b.psap.local().ip());
    eventually("all but those on their way return", || call.rtp_stats().missing() <= 1).await;
    let ladder: Vec<String> = call.ladder().into_iter().map(|l| l.summary).collect();
    for (line, start) in ladder.iter().zip(["INVITE", "100", "180", "200 OK (INVITE 1) +SDP", "ACK"]) {
        assert!(line.starts_with(start), "{ladder:#?}");
    }
    let reply = call.bye(None).await.unwrap();
    assert_eq!((reply.code, call.phase()), (200, Phase::Ended));
    b.event(|e| matches!(e, PsapEvent::ByeReceived { .. })).await;
    let stats = b.psap.stats();
    assert_eq!((stats.invites, stats.merged, stats.calls), (1, 0, 0));
    assert!(stats.rtp.received >= 20 && stats.rtp.sent >= 20);
    // It is silent now, and the dialog is gone on the other side.
    assert_eq!(call.bye(None).await.unwrap().code, 481);
}

#[tokio::test]
async fn a_location_goes_along_and_the_call_is_answered() {
    let mut b = Bench::start(51, fast()).await;
    let call = b.answered(|o| o.location = Some(Location::new("<presence/>".into()))).await;
    b.event(|e| matches!(e, PsapEvent::Acked { .. })).await;
    eventually("echo", || call.rtp_stats().received >= 5).await;
    assert_eq!(call.bye(None).await.unwrap().code, 200);
}

#[tokio::test]
async fn hold_stops_the_echo_and_resume_brings_it_back() {
    let mut b = Bench::start(3, fast()).await;
    let call = b.answered(|_| ()).await;
    eventually("echo", || call.rtp_stats().received >= 5).await;

    let reply = call.reinvite(Direction::SendOnly, None).await.unwrap();
    assert_eq!(reply.code, 200);
    assert!(String::from_utf8_lossy(&reply.message.body).contains("a=recvonly"));
    let hold = |d| move |e: &PsapEvent| matches!(e, PsapEvent::ReInvite { direction, .. } if *direction == d);
    b.event(hold(Direction::SendOnly)).await;
    // We still send (music on hold); nothing that is sent from here on returns.
    let (echoed, at) = (b.psap.stats().rtp.sent, b.psap.stats().rtp.received);
    eventually("music on hold arrives", || b.psap.stats().rtp.received >= at + 5).await;
    assert_eq!(b.psap.stats().rtp.sent, echoed);

    let reply = call.reinvite(Direction::Inactive, None).await.unwrap();
    assert!(String::from_utf8_lossy(&reply.message.body).contains("a=inactive"));
    b.event(hold(Direction::Inactive)).await;
    let silent = call.rtp_stats().sent;
    sleep(Duration::from_millis(100)).await; // five packets' time
    assert!(call.rtp_stats().sent <= silent + 1, "sends while inactive");

    assert_eq!(call.reinvite(Direction::SendRecv, None).await.unwrap().code, 200);
    let before = call.rtp_stats().received;
    eventually("echo after resume", || call.rtp_stats().received >= before + 5).await;
    eventually("three re-INVITEs acknowledged, none repeated", || sent(&call, "ACK").len() == 4).await;
    assert_eq!(b.psap.stats().invites, 1);
    call.bye(None).await.unwrap();
}

#[tokio::test]
async fn cancel_while_ringing() {
    let mut b = Bench::start(5, PsapOptions { answer: Answer::Never, ..fast() }).await;
    let call = b.call(|_| ()).await;
    let reply = timeout(PATIENCE, call.cancel(None)).await.unwrap().unwrap();
    assert_eq!(reply.code, 200);
    let reply = timeout(PATIENCE, call.answered()).await.unwrap().unwrap();
    assert_eq!((reply.code, call.phase()), (487, Phase::Failed));
    b.event(|e| matches!(e, PsapEvent::Cancelled { .. })).await;
    eventually("the 487 is acknowledged", || b.psap.stats().calls == 0).await;
    assert!(call.cancel(None).await.is_err());
    assert!(matches!(call.bye(None).await, Err(CallError::State(_))));
}

#[tokio::test]
async fn a_busy_psap() {
    let mut b = Bench::start(7, PsapOptions { answer: Answer::Reject(486), ..fast() }).await;
    let call = b.call(|_| ()).await;
    let reply = timeout(PATIENCE, call.answered()).await.unwrap().unwrap();
    assert_eq!((reply.code, call.phase()), (486, Phase::Failed));
    b.event(|e| matches!(e, PsapEvent::Refused { code: 486, .. })).await;
    eventually("the 486 is acknowledged", || b.psap.stats().calls == 0).await;
    assert_eq!(sent(&call, "ACK").len(), 1);
}

#[tokio::test]
async fn the_psap_hangs_up() {
    let mut b = Bench::start(9, fast()).await;
    let call = b.answered(|_| ()).await;
    b.event(|e| matches!(e, PsapEvent::Acked { .. })).await;
    assert_eq!(b.psap.calls(), [call.call_id()]);
    assert_eq!(b.psap.hangup(call.call_id()).await.unwrap().code, 200);
    assert_eq!(call.wait_for(PATIENCE, |p| *p == Phase::Ended).await, Some(Phase::Ended));
    assert!(matches!(b.psap.hangup(call.call_id()).await, Err(CallError::State(_))));
    assert_eq!(b.psap.stats().calls, 0);
}

#[tokio::test]
async fn a_repeated_invite_rings_once_and_a_forked_one_is_merged() {
    let mut b = Bench::start(11, PsapOptions { answer: Answer::Never, ..fast() }).await;
    let call = b.call(|_| ()).await;
    call.wait_for(PATIENCE, |p| matches!(p, Phase::Proceeding(180))).await.unwrap();
    for _ in 0..3 {
        call.repeat_invite(b.psap.local()).await.unwrap();
    }
    eventually("answered from memory", || b.psap.stats().retransmissions == 3).await;
    // The same request by another branch.
    let fork = UdpSocket::bind((IpAddr::from([127, 0, 43, 12]), 0)).await.unwrap();
    let target = b.psap.local();
    let text = format!(
        "INVITE sip:112@{target} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKother;rport\r\nFrom: <sip:x@h>;tag=a\r\n\
         To: <sip:112@h>\r\nCall-ID: forked\r\nCSeq: 5 INVITE\r\nContact: <sip:x@127.0.43.12:9>\r\nContent-Length: 0\r\n\r\n",
        fork.local_addr().unwrap()
    );
    fork.send_to(text.as_bytes(), target).await.unwrap();
    b.event(|e| matches!(e, PsapEvent::InviteReceived { call, rings: 1, .. } if call == "forked")).await;
    fork.send_to(text.replace("bKother", "bKthird").as_bytes(), target).await.unwrap();
    b.event(|e| matches!(e, PsapEvent::Merged { call, .. } if call == "forked")).await;
    // Dialled again with another CSeq: that is a second ring.
    fork.send_to(text.replace("bKother", "bKfourth").replace("CSeq: 5", "CSeq: 6").as_bytes(), target).await.unwrap();
    b.event(|e| matches!(e, PsapEvent::InviteReceived { call, rings: 2, .. } if call == "forked")).await;
    assert_eq!((b.psap.rings(call.call_id()), b.psap.rings("forked"), b.psap.rings("none")), (1, 2, 0));
    assert_eq!((b.psap.stats().invites, b.psap.stats().merged), (3, 1));
}

#[tokio::test]
async fn requests_in_the_dialog_go_where_they_are_told() {
    let mut b = Bench::start(13, fast()).await;
    // A second PSAP is "another node": it does not know the call.
    let other = Psap::start("127.0.43.15:0".parse().unwrap(), fast()).await.unwrap();
    let call = b.answered(|o| o.headers.push(("X-Test".to_owned(), "1".to_owned()))).await;
    assert_eq!(call.remote_target(), Some(Ok(b.psap.local())));
    let reply = call.info("application/dtmf-relay", "Signal=1", None).await.unwrap();
    assert_eq!((reply.code, reply.contact), (200, Some(format!("sip:psap@{}", b.psap.local()))));
    b.event(|e| matches!(e, PsapEvent::Info { body, .. } if body == "Signal=1")).await;
    assert_eq!(call.request("OPTIONS", None).await.unwrap().code, 200);
    assert_eq!(call.request("UPDATE", None).await.unwrap().code, 200);
    assert_eq!(call.request("PUBLISH", None).await.unwrap().code, 501);
    let reply = call.bye(Some(other.local())).await.unwrap();
    assert_eq!((reply.code, reply.source), (481, other.local()));
}

#[tokio::test]
async fn equipment_that_ignores_contact_sends_its_ack_to_the_target() {
    // A proxy before the PSAP that only passes the INVITE's packets on would be one more program; the target is a relay of
    // two sockets here: the PSAP's Contact and the call's target differ.
    let b = Bench::start(16, fast()).await;
    let front = UdpSocket::bind("127.0.43.18:0").await.unwrap();
    let (target, psap) = (front.local_addr().unwrap(), b.psap.local());
    let relay = tokio::spawn(async move {
        let (mut buffer, mut phone) = (vec![0; 4_096], None);
        loop {
            let (n, from) = front.recv_from(&mut buffer).await.unwrap();
            let to = if from == psap { phone } else { phone.replace(from).or(Some(from)).and(Some(psap)) };
            front.send_to(&buffer[..n], to.unwrap()).await.unwrap();
        }
    });
    for (ignore_contact, wanted) in [(true, target), (false, psap)] {
        let call = b
            .call(|o| {
                o.target = target;
                o.ignore_contact = ignore_contact;
            })
            .await;
        let reply = timeout(PATIENCE, call.answered()).await.unwrap().unwrap();
        assert_eq!((reply.code, reply.source), (200, target));
        eventually("ACK", || sent(&call, "ACK") == [wanted]).await;
        assert_eq!(call.bye(None).await.unwrap().source, wanted);
        assert_eq!(sent(&call, "BYE"), [wanted]);
    }
    relay.abort();
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_a_timeout_after_32_seconds() {
    // A socket that never answers; time jumps, because nothing else is to do.
    let hole = UdpSocket::bind("127.0.43.20:0").await.unwrap();
    let caller = Caller::new([127, 0, 43, 21].into());
    let begin = tokio::time::Instant::now();
    let mut options = CallOptions::new(hole.local_addr().unwrap(), "urn:service:sos");
    options.rtp = false;
    let call = caller.invite(options).await.unwrap();
    let error = call.answered().await.unwrap_err();
    assert!(matches!(error, CallError::Timeout { .. }), "{error}");
    assert_eq!(begin.elapsed().as_secs(), 32);
    // Timer A: 0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5 s.
    assert_eq!(sent(&call, "INVITE urn:service:sos").len(), 7);
    assert_eq!(call.phase(), Phase::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_200_without_ack_is_repeated_and_the_call_hung_up() {
    let mut b = Bench::start(22, fast()).await;
    let phone = UdpSocket::bind("127.0.43.23:0").await.unwrap();
    let (target, local) = (b.psap.local(), phone.local_addr().unwrap());
    let text = format!(
        "INVITE sip:112@{target} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKx\r\nFrom: <sip:x@h>;tag=a\r\n\
         To: <sip:112@h>\r\nCall-ID: silent\r\nCSeq: 1 INVITE\r\nContact: <sip:x@{local}>\r\nContent-Length: 0\r\n\r\n"
    );
    phone.send_to(text.as_bytes(), target).await.unwrap();
    let mut answers = 0;
    let mut buffer = vec![0; 4_096];
    loop {
        let n = phone.recv(&mut buffer).await.unwrap();
        let message = Message::parse(&buffer[..n]).unwrap();
        match (message.status(), message.method()) {
            (200, _) => answers += 1,
            (_, "BYE") => break,
            _ => {}
        }
    }
    b.event(|e| matches!(e, PsapEvent::AckMissing { .. })).await;
    b.event(|e| matches!(e, PsapEvent::HungUp { .. })).await;
    // T1 doubling up to T2: 0, 0.5, 1.5, 3.5, 7.5, 11.5 … 31.5 s.
    assert_eq!(answers, 11);
}

/// The far end of a call, by hand: as a survivor that adopts a call does, it moves Contact, SDP and CSeq.
#[tokio::test]
async fn a_far_end_that_moves_is_followed() {
    let start = |ip: &str| endpoint::Endpoint::start(format!("{ip}:0").parse().unwrap(), None);
    let (old, mut requests, _reader) = start("127.0.43.24").await.unwrap();
    let (new, _, _reader2) = start("127.0.43.25").await.unwrap();
    let [old_rtp, new_rtp] = ["127.0.43.24:0", "127.0.43.25:0"].map(UdpSocket::bind);
    let (old_rtp, new_rtp) = (old_rtp.await.unwrap(), new_rtp.await.unwrap());
    let call = Caller::new([127, 0, 43, 26].into()).invite(CallOptions::new(old.local, "sip:112@127.0.43.24")).await.unwrap();
    let invite = timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
    let response = invite.response(200, "OK", "sbc").with("Contact", &old.contact("token"));
    let response = response.with_sdp(sdp::LocalSdp::new(old_rtp.local_addr().unwrap()).offer(Direction::SendRecv));
    assert!(timeout(PATIENCE, old.respond_until_ack(&invite, response)).await.unwrap());
    let mut buffer = [0; 500];
    timeout(PATIENCE, old_rtp.recv(&mut buffer)).await.unwrap().unwrap();

    let dialog = |tag: &str, contact: &str| {
        let answer = invite.message.response(200, "OK", tag);
        Dialog::of_callee(&invite.message, &answer, new.local).with_contact(&new.contact(contact)).whole().unwrap()
    };
    let mut foreign = dialog("other", "x");
    let mut dialog = dialog("sbc", "token");
    let stale = dialog.request("INFO");
    let moved = dialog.request("INVITE");
    let moved = moved.with_sdp(sdp::LocalSdp::new(new_rtp.local_addr().unwrap()).offer(Direction::SendRecv));
    let none = tokio::sync::Notify::new();
    let reply = new.invite(&moved, call.local(), PATIENCE, &none, |_| ()).await.unwrap();
    assert_eq!((reply.code, reply.source), (200, call.local()));
    assert!(reply.message.body.starts_with(b"v=0"));
    new.acknowledge(&moved, dialog.ack(moved.cseq().0), call.local()).await.unwrap();
    timeout(PATIENCE, new_rtp.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(call.remote_target(), Some(Ok(new.local)));
    // What the old owner still says is out of order; what others say is unknown.
    assert_eq!(new.transact(&stale, call.local()).await.unwrap().code, 500);
    assert_eq!(new.transact(&foreign.request("BYE"), call.local()).await.unwrap().code, 481);
    assert_eq!(call.phase(), Phase::Answered);
    assert_eq!(new.transact(&dialog.request("OPTIONS"), call.local()).await.unwrap().code, 200);
    assert_eq!(new.transact(&dialog.request("BYE"), call.local()).await.unwrap().code, 200);
    assert_eq!(call.phase(), Phase::Ended);
}

#[tokio::test]
async fn shutdown_frees_the_address_and_silences_the_calls() {
    let b = Bench::start(27, fast()).await;
    let call = b.answered(|_| ()).await;
    eventually("echo", || call.rtp_stats().received >= 1).await;
    let address = b.psap.local();
    b.psap.shutdown();
    eventually("the address is free", || std::net::UdpSocket::bind(address).is_ok()).await;
    // Nobody answers, also not from memory.
    let silent = std::net::UdpSocket::bind(address).unwrap();
    silent.set_nonblocking(true).unwrap();
    call.repeat_invite(address).await.unwrap();
    eventually("the INVITE is there, unanswered", || silent.recv(&mut [0; 2_000]).is_ok()).await;
}
