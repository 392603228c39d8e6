//! The leader is cut off from its peers for a minute, while SIP and media go on at it (AC-55): copies of INVITEs reach both sides of the
//! cut, at once or late, calls begin, are answered and end, and some ACKs go to the wrong side.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use cluster_tests::cluster::{list, number};
use cluster_tests::message::{Dialog, Message, sdp};
use cluster_tests::phone::Phone;
use cluster_tests::rtp::{media, packet};
use cluster_tests::sites::{LIMIT, Sites};
use cluster_tests::wait;
use serde_json::Value;

/// How long the cut lasts.
const CUT: u64 = 60_000;
/// All calls are over by then, ms from its beginning: those that outlive it, and the 32 s for which a 2xx is repeated.
const OVER: u64 = 90_000;
/// The news of an end is under way to the PSAP, or an INVITE to it.
const NEWS: Duration = Duration::from_millis(500);
const PSAP: &str = "198.18.1.2:5060";
/// RTP of a caller that speaks, and the looks at what is due.
const TURN: Duration = Duration::from_millis(20);

/// A side of the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The leader, which is cut off.
    Alone,
    /// One of the others.
    Others,
}

/// How the PSAP and the caller go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// Answered so many ms after it has rung; the caller hangs up so many ms after that.
    Talk(u64, u64),
    /// The same; the caller's ACKs go to the other side, and it speaks.
    AckAstray(u64, u64),
    Busy,
    /// The caller cancels after so many ms.
    Cancelled(u64),
}

/// A call: when it begins, ms from the beginning of the cut, where, and after how many ms a copy of its INVITE is at the other side.
struct Plan(i64, At, Option<u64>, Course);

fn plans() -> Vec<Plan> {
    use At::{Alone, Others};
    use Course::{AckAstray, Busy, Cancelled, Talk};
    vec![
        // Begun before the cut, so that the log has them; the copy waits for an owner that is silent, or gone, and knows alone of the end.
        Plan(-1500, Alone, Some(3000), Talk(500, 2000)),
        Plan(-1400, Alone, Some(10_000), Talk(500, 3000)),
        Plan(-1300, Alone, Some(5000), Talk(500, 70_000)),
        // Copies at once.
        Plan(6000, Alone, Some(0), Talk(1000, 5000)),
        Plan(6500, Others, Some(0), Talk(1000, 5000)),
        Plan(7000, Alone, Some(100), Talk(1000, 60_000)),
        Plan(7500, Others, Some(100), Talk(1000, 60_000)),
        // Late ones: the call is over, or stands.
        Plan(8000, Alone, Some(2500), Talk(200, 500)),
        Plan(8500, Others, Some(2500), Talk(200, 500)),
        Plan(9000, Alone, Some(2500), Talk(200, 20_000)),
        Plan(9500, Others, Some(2500), Talk(200, 20_000)),
        Plan(10_000, Alone, None, AckAstray(500, 65_000)),
        Plan(10_500, Others, None, AckAstray(500, 65_000)),
        Plan(20_000, Alone, Some(3000), Busy),
        Plan(20_500, Others, Some(3000), Busy),
        Plan(30_000, Alone, Some(3000), Cancelled(1000)),
        Plan(30_500, Others, Some(3000), Cancelled(1000)),
        // The cut is healed meanwhile.
        Plan(57_000, Alone, Some(5000), Talk(200, 1000)),
        Plan(57_500, Others, Some(5000), Talk(200, 1000)),
    ]
}

/// What is due.
enum Act {
    /// The INVITE of a call goes to that node.
    Invite(usize, SocketAddr),
    Answer(Message, SocketAddr),
    Cancel(usize),
    HangUp(usize),
}

/// A call as its caller sees it.
struct Call {
    plan: Plan,
    invite: Message,
    dialog: Option<Dialog>,
    /// When it was over for the caller.
    over: Option<Instant>,
    /// The cluster has hung up.
    hung_up_on: bool,
    voice: UdpSocket,
    speaks_to: Option<SocketAddr>,
}

/// An INVITE that rang at the PSAP.
struct Rung {
    call: usize,
    at: Instant,
    /// Call-ID and From-tag, by which another INVITE is the same request (RFC 3261 §8.2.2.2).
    request: (String, String),
    invite: Message,
    from: SocketAddr,
    over: bool,
}

struct Stage {
    start: Instant,
    nodes: [SocketAddr; 2],
    caller: Phone,
    psap: Phone,
    calls: Vec<Call>,
    rung: Vec<Rung>,
    due: BTreeMap<(Instant, usize), Act>,
    acts: usize,
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// The number of the call, which its caller's user part says.
fn number_of(message: &Message) -> usize {
    let user = message.uri("From").strip_prefix("sip:c").and_then(|rest| rest.split('@').next());
    user.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no call of ours: {message:?}"))
}

impl Stage {
    /// The phones, and when each call begins; the cut begins at `start`.
    fn set(sites: &Sites, leader: usize, start: Instant) -> Stage {
        let node = |n: usize| address(&format!("198.18.0.1{}:5060", n + 1));
        let nodes = [node(leader), node((leader + 1) % 3)];
        let (caller, psap) = sites.hub.inside(|| (Phone::bind("198.18.0.2:0"), Phone::bind(PSAP)));
        let call = |(n, plan): (usize, Plan)| {
            let voice = sites.hub.inside(|| UdpSocket::bind("198.18.0.2:0").expect("free"));
            voice.set_nonblocking(true).expect("a socket");
            let uri = format!("<sip:c{n}@{}>", caller.at());
            let invite = Message::invite("sip:112@198.18.0.100", caller.at(), "UDP");
            let tag = invite.tag("From").to_owned();
            let invite = invite.replace("From", &format!("{uri};tag={tag}"));
            let invite = invite.with_sdp(sdp(voice.local_addr().expect("bound"), 1, "sendrecv"));
            Call { plan, invite, dialog: None, over: None, hung_up_on: false, voice, speaks_to: None }
        };
        let calls: Vec<Call> = plans().into_iter().enumerate().map(call).collect();
        let mut stage = Stage { start, nodes, caller, psap, calls, rung: Vec::new(), due: BTreeMap::new(), acts: 0 };
        for n in 0..stage.calls.len() {
            let Plan(at, first, copy, course) = stage.calls[n].plan;
            let begins = if at < 0 { start - Duration::from_millis(at.unsigned_abs()) } else { start + ms(at.unsigned_abs()) };
            stage.plan(begins, Act::Invite(n, stage.node(first)));
            if let Some(copy) = copy {
                stage.plan(begins + ms(copy), Act::Invite(n, stage.node(other(first))));
            }
            if let Course::Cancelled(after) = course {
                stage.plan(begins + ms(after), Act::Cancel(n));
            }
        }
        stage
    }

    fn node(&self, at: At) -> SocketAddr {
        self.nodes[usize::from(at == At::Others)]
    }

    fn plan(&mut self, at: Instant, act: Act) {
        self.acts += 1;
        self.due.insert((at, self.acts), act);
    }

    /// Plays until so many ms after the beginning of the cut.
    fn play_until(&mut self, end: u64) {
        while self.start + ms(end) > Instant::now() {
            while let Some(entry) = self.due.first_entry().filter(|e| e.key().0 <= Instant::now()) {
                let act = entry.remove();
                self.act(act);
            }
            self.speak();
            for (message, from) in self.psap.gather(TURN / 4, |_| true) {
                self.at_psap(message, from);
            }
            for (message, from) in self.caller.gather(TURN / 4, |_| true) {
                self.at_caller(&message, from);
            }
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Invite(n, node) => self.caller.send(&self.calls[n].invite, node),
            Act::Cancel(n) => self.caller.send(&self.calls[n].invite.cancel(), self.node(self.calls[n].plan.1)),
            Act::Answer(ok, from) => {
                let rings = |r: &&Rung| !r.over && r.request == request_of(&ok);
                if self.rung.iter().any(|r| rings(&r)) {
                    self.psap.send(&ok, from);
                }
            }
            Act::HangUp(n) => {
                let call = &mut self.calls[n];
                if let Some(dialog) = call.dialog.as_mut().filter(|_| call.over.is_none()) {
                    call.over = Some(Instant::now());
                    let bye = dialog.request("BYE");
                    self.caller.send(&bye, target(dialog));
                }
            }
        }
    }

    /// Who has an answer and is to be heard says something.
    fn speak(&self) {
        for call in &self.calls {
            if let Some(to) = call.speaks_to.filter(|_| call.over.is_none()) {
                let _ = call.voice.send_to(&packet(0, 1), to);
            }
        }
    }

    fn at_psap(&mut self, message: Message, from: SocketAddr) {
        let request = request_of(&message);
        match message.method() {
            "INVITE" => self.rings(message, from, request),
            "CANCEL" | "BYE" => {
                self.psap.send(&message.response(200, "OK", "psap"), from);
                for rung in self.rung.iter_mut().filter(|r| r.request == request && !r.over) {
                    rung.over = true;
                    if message.method() == "CANCEL" {
                        self.psap.send(&rung.invite.response(487, "Request Terminated", "psap"), rung.from);
                    }
                }
            }
            _ => {}
        }
    }

    fn rings(&mut self, invite: Message, from: SocketAddr, request: (String, String)) {
        if self.rung.iter().any(|r| r.invite.header("Via") == invite.header("Via")) {
            return; // Repeated: so is its answer, by whoever waits for an ACK.
        }
        if self.rung.iter().any(|r| r.request == request && !r.over) {
            return self.psap.send(&invite.response(482, "Loop Detected", "psap"), from);
        }
        let (call, now) = (number_of(&invite), Instant::now());
        self.psap.send(&invite.response(180, "Ringing", "psap").with("Contact", &format!("<sip:psap@{PSAP}>")), from);
        let ok = invite.response(200, "OK", "psap").with("Contact", &format!("<sip:psap@{PSAP}>"));
        let ok = ok.with_sdp(sdp(address("198.18.1.2:42000"), 1, "sendrecv"));
        match self.calls[call].plan.3 {
            Course::Talk(after, _) | Course::AckAstray(after, _) => self.plan(now + ms(after), Act::Answer(ok, from)),
            Course::Busy => self.psap.send(&invite.response(486, "Busy Here", "psap"), from),
            Course::Cancelled(_) => {}
        }
        let over = self.calls[call].plan.3 == Course::Busy;
        self.rung.push(Rung { call, at: now, request, invite, from, over });
    }

    fn at_caller(&mut self, message: &Message, from: SocketAddr) {
        let of = |c: &Call| c.invite.header("Call-ID") == message.header("Call-ID");
        let Some(n) = self.calls.iter().position(of) else { return };
        if message.method() == "BYE" {
            self.caller.send(&message.response(200, "OK", ""), from);
            self.calls[n].hung_up_on |= self.calls[n].over.is_none();
            self.calls[n].over.get_or_insert(Instant::now());
        } else if message.cseq().1 == "INVITE" && message.status() >= 300 {
            self.caller.send(&self.calls[n].invite.ack_of(message), from);
            self.calls[n].over.get_or_insert(Instant::now());
        } else if message.cseq().1 == "INVITE" && message.status() >= 200 {
            self.answered(n, message);
        }
    }

    fn answered(&mut self, n: usize, ok: &Message) {
        let dialog = Dialog::of_caller(&self.calls[n].invite, ok, self.caller.at(), "UDP");
        let Plan(_, first, _, course) = self.calls[n].plan;
        let ack_to = if let Course::AckAstray(..) = course { self.node(other(first)) } else { target(&dialog) };
        self.caller.send(&dialog.ack(1), ack_to);
        let known = self.calls[n].dialog.as_ref().map(|known| known.remote.clone());
        if known.as_ref().is_some_and(|known| *known != dialog.remote) {
            // One fork too many (RFC 3261 §13.2.2.4).
            let mut dialog = dialog;
            return self.caller.send(&dialog.request("BYE"), target(&dialog));
        }
        if known.is_none() {
            if let Course::Talk(_, after) | Course::AckAstray(_, after) = course {
                self.plan(Instant::now() + ms(after), Act::HangUp(n));
            }
            if let Course::AckAstray(..) = course {
                self.calls[n].speaks_to = Some(media(ok));
            }
            self.calls[n].dialog = Some(dialog);
        }
    }

    /// What is wrong with the calls, as both phones have seen them.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (n, call) in self.calls.iter().enumerate() {
            let Plan(at, first, copy, course) = call.plan;
            let what = format!("call {n} ({at} ms, {first:?}, copied after {copy:?}, {course:?})");
            let rung: Vec<&Rung> = self.rung.iter().filter(|r| r.call == n).collect();
            // Two nodes that have it at once may both ring (until one yields: `ClaimEvent::RivalHas`); a copy that is late finds a node that has it.
            let most = if copy.is_some_and(|after| after < 1000) { 2 } else { 1 };
            if rung.is_empty() || rung.len() > most {
                wrong.push(format!("{what} rang {} times", rung.len()));
            }
            let Some(over) = call.over else {
                wrong.push(format!("{what} is not over"));
                continue;
            };
            if let Some(late) = rung.iter().find(|r| r.at > over + NEWS) {
                wrong.push(format!("{what} rang {:?} after its end", late.at - over));
            }
            let talks = matches!(course, Course::Talk(..) | Course::AckAstray(..));
            if call.hung_up_on || call.dialog.is_some() != talks {
                wrong.push(format!("{what}: hung up on: {}, answered: {}", call.hung_up_on, call.dialog.is_some()));
            }
        }
        wrong
    }

    /// Each call that was answered has one record of it, at each node.
    fn recorded(&self, sites: &Sites) {
        for node in 0..3 {
            wait::until("the records of all answered calls", LIMIT, || {
                let cdrs = list(&sites.ctl_of(node, &["cdr", "list"]).unwrap_or_default(), "cdrs");
                let answered = |call: &Call| {
                    let of = |cdr: &&Value| cdr["parties"]["sipCallId"] == call.invite.header("Call-ID");
                    cdrs.iter().filter(of).filter(|cdr| !cdr["answeredAt"].is_null()).count()
                };
                let told: Vec<usize> = self.calls.iter().map(answered).collect();
                let wanted: Vec<usize> = self.calls.iter().map(|call| usize::from(call.dialog.is_some())).collect();
                if told == wanted { Ok(()) } else { Err((node, told, wanted, cdrs)) }
            });
        }
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn other(at: At) -> At {
    if at == At::Alone { At::Others } else { At::Alone }
}

fn request_of(message: &Message) -> (String, String) {
    (message.header("Call-ID").to_owned(), message.tag("From").to_owned())
}

/// Where requests within a dialog go: the Contact is an address.
fn target(dialog: &Dialog) -> SocketAddr {
    let rest = dialog.target.split('@').nth(1).unwrap_or_default();
    address(rest.split(';').next().unwrap_or_default())
}

#[test]
fn ac55_a_minute_without_the_leader_rings_nobody_twice_and_loses_no_record() {
    let sites = Sites::start(|_| ());
    wait::until_equal("the log's level", LIMIT, &3, || number(&sites.ctl(&["status"]).unwrap_or_default()["formatLevel"]));
    let leader = sites.leader();
    let mut stage = Stage::set(&sites, leader, Instant::now() + ms(3000));
    stage.play_until(0);
    sites.cut_peers(leader, true);
    stage.play_until(CUT);
    assert_ne!(sites.leader(), leader, "the others have a leader of their own");
    sites.cut_peers(leader, false);
    stage.play_until(OVER);
    let wrong = stage.wrong();
    assert!(wrong.is_empty(), "{wrong:#?}");
    stage.recorded(&sites);
    assert!(list(&sites.ctl(&["call", "list"]).unwrap_or_default(), "calls").is_empty(), "nothing is left");
}
