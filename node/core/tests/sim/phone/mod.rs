//! A phone: the caller's or the PSAP's. Its transactions and dialogs are a small model of RFC 3261 of its own, so that what
//! the core says is checked by something that does not share the core's mistakes (parsing apart).

mod dialling;
mod requests;
mod responses;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::local::bracketed;
use sbc_core::sip::{Draft, HeaderId, Message, Method, NameAddr, Uri};

use crate::plan::{ContactHabit, Mid, Plan, PsapPlan, Rel, Who};
use crate::rng::Rng;

const MS: u64 = 1000;
const T1: u64 = 500 * MS;
const T2: u64 = 4000 * MS;
const TIMEOUT: u64 = 64 * T1;

/// A request that the phone sent, and what came back.
#[derive(Debug)]
pub(crate) struct ClientTx {
    pub(crate) leg: usize,
    pub(crate) method: Method,
    pub(crate) branch: String,
    pub(crate) cseq: u32,
    pub(crate) bytes: Bytes,
    dest: SocketAddr,
    interval: u64,
    /// Next retransmission; `None`: none.
    repeat: Option<u64>,
    /// Timer B or F.
    deadline: Option<u64>,
    provisional: bool,
    /// Final responses: status and To-tag.
    pub(crate) finals: BTreeSet<(u16, String)>,
    pub(crate) timed_out: bool,
    /// Another node was tried instead.
    pub(crate) given_up: bool,
    /// When it was first refused with 482.
    pub(crate) merged_at: Option<u64>,
    ack: Option<Bytes>,
}

/// A request that came, and what was said.
#[derive(Debug)]
struct ServerTx {
    branch: String,
    method: Method,
    leg: usize,
    last: Option<Bytes>,
    back: SocketAddr,
    invite_final: Option<(u16, u32)>,
    interval: u64,
    repeat: Option<u64>,
    deadline: u64,
}

/// Where a leg stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LegState {
    Inviting,
    Ringing,
    /// 2xx sent or received.
    Up,
    Ended,
}

/// A call as one phone sees it.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) call: usize,
    pub(crate) call_id: String,
    pub(crate) local_tag: String,
    pub(crate) remote_tag: Option<String>,
    local_uri: String,
    remote_uri: String,
    pub(crate) target: String,
    routes: Vec<String>,
    cseq: u32,
    pub(crate) invite: Option<Message>,
    invite_back: Option<SocketAddr>,
    pub(crate) state: LegState,
    pub(crate) rang: bool,
    pub(crate) answered: bool,
    pub(crate) acked: bool,
    pub(crate) bye_sent: bool,
    pub(crate) bye_received: bool,
    pub(crate) cancelled: bool,
    pub(crate) final_status: Option<u16>,
    /// SDP that the far end gave last.
    pub(crate) remote_sdp: Option<String>,
    sdp_version: u32,
    acks: Vec<(u32, String, SocketAddr, Bytes)>,
    bye_tries: u32,
    pub(crate) failed_over: bool,
    /// When it began, rang, was answered, was over, as this phone sees it.
    pub(crate) began_at: u64,
    pub(crate) rang_at: Option<u64>,
    pub(crate) answered_at: Option<u64>,
    pub(crate) ended_at: Option<u64>,
    /// Caller: the last RSeq number in each early dialog, by tag.
    rseqs: Vec<(String, u32)>,
    /// PSAP: it rang reliably, and waits for PRACK until then.
    unpracked: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Dial(usize),
    /// By leg.
    Failover(usize),
    Cancel(usize),
    Ring(usize),
    Answer(usize),
    Busy(usize),
    Bye(usize),
    /// Of a second answer's dialog, by the request that was not served.
    ByeAgain(usize),
    Mid(usize, Mid),
}

/// The phone.
pub(crate) struct Phone {
    pub(crate) addr: SocketAddr,
    pub(crate) who: Who,
    anycast: SocketAddr,
    plans: Vec<Plan>,
    pub(crate) legs: Vec<Leg>,
    pub(crate) clients: Vec<ClientTx>,
    servers: Vec<ServerTx>,
    acts: Vec<(u64, Act)>,
    pub(crate) out: Vec<(SocketAddr, Bytes)>,
    /// What a phone must never be sent.
    pub(crate) complaints: Vec<String>,
    /// Calls of which a leg was refused as merged (482), and when, each time.
    pub(crate) merged: Vec<(usize, u64)>,
    serial: u64,
    rng: Rng,
}

impl Phone {
    pub(crate) fn new(addr: SocketAddr, who: Who, anycast: SocketAddr, plans: Vec<Plan>, seed: u64) -> Phone {
        let mut phone = Phone {
            addr,
            who,
            anycast,
            plans,
            legs: Vec::new(),
            clients: Vec::new(),
            servers: Vec::new(),
            acts: Vec::new(),
            out: Vec::new(),
            complaints: Vec::new(),
            merged: Vec::new(),
            serial: 0,
            rng: Rng::new(seed ^ u64::from(addr.port())),
        };
        if who == Who::Caller {
            for (call, plan) in phone.plans.iter().enumerate() {
                phone.acts.push((plan.start * MS, Act::Dial(call)));
                if let Some(after) = plan.cancel {
                    phone.acts.push(((plan.start + after) * MS, Act::Cancel(call)));
                }
            }
        }
        phone
    }

    /// When `on_wake` is next due.
    pub(crate) fn next_wake(&self) -> Option<u64> {
        let acts = self.acts.iter().map(|a| a.0).min();
        let clients = self.clients.iter().flat_map(|c| [c.repeat, c.deadline]).flatten().min();
        let servers = self.servers.iter().filter_map(|s| s.repeat).min();
        [acts, clients, servers].into_iter().flatten().min()
    }

    /// Time passed.
    pub(crate) fn on_wake(&mut self, now: u64) {
        while let Some(at) = self.acts.iter().position(|a| a.0 <= now) {
            let (_, act) = self.acts.remove(at);
            self.act(now, act);
        }
        for i in 0..self.clients.len() {
            self.client_timers(now, i);
        }
        self.note_times(now);
        for s in &mut self.servers {
            if s.repeat.is_some_and(|at| at <= now) {
                if now >= s.deadline {
                    s.repeat = None;
                    continue;
                }
                s.interval = (s.interval * 2).min(T2);
                s.repeat = Some(now + s.interval);
                self.out.extend(s.last.clone().map(|b| (s.back, b)));
            }
        }
    }

    fn client_timers(&mut self, now: u64, i: usize) {
        let tx = &mut self.clients[i];
        if tx.deadline.is_some_and(|at| at <= now) {
            (tx.deadline, tx.repeat, tx.timed_out) = (None, None, true);
            let (leg, method) = (tx.leg, tx.method.clone());
            if method == Method::Invite && self.legs[leg].state < LegState::Up && self.is_settled(leg) {
                self.legs[leg].state = LegState::Ended;
            }
            return;
        }
        if tx.repeat.is_some_and(|at| at <= now) {
            tx.interval = if tx.method == Method::Invite { tx.interval * 2 } else { (tx.interval * 2).min(T2) };
            tx.repeat = Some(now + tx.interval);
            let packet = (tx.dest, tx.bytes.clone());
            self.out.push(packet);
        }
    }

    fn note_times(&mut self, now: u64) {
        for leg in &mut self.legs {
            for (is, at) in [
                (leg.rang, &mut leg.rang_at),
                (leg.answered, &mut leg.answered_at),
                (leg.state == LegState::Ended, &mut leg.ended_at),
            ] {
                if is {
                    at.get_or_insert(now);
                }
            }
        }
    }

    /// True when nothing more is to be heard of the first INVITE of a leg, by whatever way it went.
    fn is_settled(&self, leg: usize) -> bool {
        let first = |c: &&ClientTx| c.leg == leg && c.method == Method::Invite && c.cseq == 1;
        self.clients.iter().filter(first).all(|c| c.timed_out || !c.finals.is_empty())
    }

    fn act(&mut self, now: u64, act: Act) {
        match act {
            Act::Dial(call) => self.dial(now, call),
            Act::Failover(leg) => {
                if self.legs[leg].state == LegState::Inviting && !self.legs[leg].cancelled {
                    self.fail_over(now, leg);
                }
            }
            Act::Cancel(call) => {
                if let Some(leg) = self.legs.iter().position(|l| l.call == call) {
                    self.cancel(now, leg);
                }
            }
            Act::Ring(leg) if self.legs[leg].state == LegState::Inviting => {
                self.legs[leg].state = LegState::Ringing;
                self.legs[leg].rang = true;
                self.ring_elsewhere(leg);
                self.answer_invite(now, leg, 180);
                self.ring_elsewhere(leg);
            }
            // RFC 3262 §3: not before the PRACK; without one the call is refused.
            Act::Answer(leg) if self.legs[leg].unpracked.is_some_and(|until| now < until) => {
                self.acts.push((now + 50 * MS, Act::Answer(leg)));
            }
            Act::Answer(leg) if self.legs[leg].state <= LegState::Ringing && self.legs[leg].unpracked.is_some() => {
                self.legs[leg].state = LegState::Ended;
                self.answer_invite(now, leg, 504);
            }
            Act::Answer(leg) if self.legs[leg].state <= LegState::Ringing => {
                self.legs[leg].state = LegState::Up;
                self.legs[leg].answered = true;
                self.answer_invite(now, leg, 200);
                self.plan_talk(now, leg);
            }
            Act::Busy(leg) if self.legs[leg].state <= LegState::Ringing => {
                self.legs[leg].state = LegState::Ended;
                self.answer_invite(now, leg, 486);
            }
            Act::Bye(leg) => self.hang_up(now, leg),
            Act::ByeAgain(tx) => self.bye_again(now, tx),
            Act::Mid(leg, what) => self.mid(now, leg, what),
            Act::Ring(_) | Act::Answer(_) | Act::Busy(_) => {}
        }
    }

    /// What is to happen in the dialog that has begun.
    fn plan_talk(&mut self, now: u64, leg: usize) {
        let call = self.legs[leg].call;
        let Some(plan) = self.plans.get(call).cloned() else { return };
        if plan.hang_up.0 == self.who || plan.both {
            self.acts.push((now + plan.hang_up.1 * MS, Act::Bye(leg)));
        }
        for (who, after, what) in plan.mid {
            if who == self.who {
                self.acts.push((now + after * MS, Act::Mid(leg, what)));
            }
        }
    }

    fn branch(&mut self) -> String {
        self.serial += 1;
        format!("z9hG4bK{:x}-{:x}", self.serial, self.rng.next() & 0xffff_ffff)
    }

    fn via(&self, branch: &str) -> String {
        format!("SIP/2.0/UDP {};branch={branch};rport", self.addr)
    }

    fn sdp(&mut self, leg: usize, hold: bool) -> Bytes {
        let l = &mut self.legs[leg];
        l.sdp_version += 1;
        let (ip, version, call) = (self.addr.ip(), l.sdp_version, l.call);
        let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
        let direction = if hold { "sendonly" } else { "sendrecv" };
        Bytes::from(format!(
            "v=0\r\no=phone {call} {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=audio {} RTP/AVP 8\r\na={direction}\r\n",
            20000 + call * 2
        ))
    }

    /// A packet came.
    pub(crate) fn on_packet(&mut self, now: u64, from: SocketAddr, bytes: &Bytes) {
        let message = match Message::parse(bytes.clone()) {
            Ok(message) => message,
            Err(error) => {
                self.complaints.push(format!("unreadable: {error}: {}", String::from_utf8_lossy(bytes)));
                return;
            }
        };
        if message.is_request() {
            self.on_request(now, from, &message)
        } else {
            self.on_response(now, from, &message)
        }
        self.note_times(now);
    }
}

/// ACK to a non-2xx, or CANCEL: RFC 3261 §17.1.1.3, §9.1.
fn same_hop(request: &Message, method: &Method, to: &str) -> Draft {
    let mut draft = Draft::request(method, request.request_uri().expect("a request"));
    draft.push(HeaderId::Via, request.first(HeaderId::Via).expect("ours has one"));
    for route in request.all(HeaderId::Route) {
        draft.push(HeaderId::Route, route);
    }
    draft.push(HeaderId::MaxForwards, "70");
    draft.push(HeaderId::From, request.from());
    draft.push(HeaderId::To, to);
    draft.push(HeaderId::CallId, request.call_id());
    draft.push(HeaderId::CSeq, format!("{} {}", request.cseq(), method.as_str()));
    draft
}

/// Which planned call a From value is of: `c<number>` as user.
pub(crate) fn call_of(from: &str) -> usize {
    let user = NameAddr::parse(from).ok().and_then(|n| n.uri.user().map(str::to_owned));
    user.and_then(|u| u.strip_prefix('c')?.parse().ok()).unwrap_or(usize::MAX)
}

fn contact_of(message: &Message) -> Option<String> {
    NameAddr::parse(message.first(HeaderId::Contact)?).ok().map(|n| n.uri.as_str().to_owned())
}

fn body_of(message: &Message) -> Option<String> {
    let body = message.body();
    (!body.is_empty()).then(|| String::from_utf8_lossy(&body).into_owned())
}

fn strip_tag(value: &str) -> String {
    value.split(";tag=").next().unwrap_or(value).to_owned()
}

fn host_of(uri: &str) -> SocketAddr {
    let uri = Uri::parse(uri).expect("a target is a URI");
    SocketAddr::new(uri.host_ip().expect("the simulation has no names in Contact"), uri.port().unwrap_or(5060))
}
