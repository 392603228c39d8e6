//! A phone: the caller's or the PSAP's. Its transactions and dialogs are a small model of RFC 3261 of its own, so that what
//! the core says is checked by something that does not share the core's mistakes (parsing apart).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::ctx::bracketed;
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
    /// When it rang, was answered, was over, as this phone sees it.
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
    /// Calls of which a leg was refused as merged (482), each time.
    pub(crate) merged: Vec<usize>,
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

    fn dial(&mut self, now: u64, call: usize) {
        let id = format!("call-{call}@{}", bracketed(self.addr.ip()));
        let leg = self.legs.len();
        self.legs.push(Leg {
            call,
            call_id: id.clone(),
            local_tag: format!("from-{call}"),
            remote_tag: None,
            local_uri: format!("<sip:c{call}@{}>", self.addr),
            remote_uri: format!("<sip:112@{}>", self.anycast),
            target: format!("sip:112@{}", self.anycast),
            routes: Vec::new(),
            cseq: 1,
            invite: None,
            invite_back: None,
            state: LegState::Inviting,
            rang: false,
            answered: false,
            acked: false,
            bye_sent: false,
            bye_received: false,
            cancelled: false,
            final_status: None,
            remote_sdp: None,
            sdp_version: 0,
            acks: Vec::new(),
            bye_tries: 0,
            failed_over: false,
            rang_at: None,
            answered_at: None,
            ended_at: None,
            rseqs: Vec::new(),
            unpracked: None,
        });
        let mut draft = Draft::request(&Method::Invite, &self.legs[leg].target);
        let branch = self.branch();
        draft.push(HeaderId::Via, self.via(&branch));
        draft.push(HeaderId::MaxForwards, "70");
        draft.push(HeaderId::From, format!("{};tag=from-{call}", self.legs[leg].local_uri));
        draft.push(HeaderId::To, &*self.legs[leg].remote_uri);
        draft.push(HeaderId::CallId, id);
        draft.push(HeaderId::CSeq, "1 INVITE");
        draft.push(HeaderId::Contact, format!("<sip:c{call}@{}>", self.addr));
        if self.plans[call].habit == ContactHabit::KeepsRoute {
            draft.push(HeaderId::Route, format!("<sip:{};lr>", self.anycast));
        }
        match self.plans[call].rel {
            Rel::Silent => {}
            Rel::Supported => drop(draft.push(HeaderId::Supported, "100rel")),
            Rel::Required => drop(draft.push(HeaderId::Require, "100rel")),
        }
        if !self.plans[call].delayed_offer {
            let sdp = self.sdp(leg, false);
            draft.set_body(Some("application/sdp"), sdp);
        }
        let dest = self.anycast;
        self.start_client(now, leg, branch, &draft, dest);
        if let Some((after, _)) = self.plans[call].failover {
            self.acts.push((now + after * MS, Act::Failover(leg)));
        }
    }

    /// The same request by another way, once.
    fn fail_over(&mut self, now: u64, leg: usize) -> bool {
        let Some((_, node)) = self.plans[self.legs[leg].call].failover else { return false };
        let first = |c: &&mut ClientTx| c.leg == leg && c.method == Method::Invite && c.cseq == 1;
        if std::mem::replace(&mut self.legs[leg].failed_over, true) {
            return false;
        }
        let branch = self.branch();
        let Some(tx) = self.clients.iter_mut().find(first) else { return false };
        (tx.given_up, tx.repeat, tx.deadline) = (true, None, Some(now + TIMEOUT));
        let text = String::from_utf8(tx.bytes.to_vec()).expect("ours").replace(&tx.branch, &branch);
        let dest = match self.addr.is_ipv4() {
            true => format!("198.18.0.{}:5060", node + 1),
            false => format!("[2001:db8::{}]:5060", node + 1),
        };
        self.start_bytes(now, leg, branch, text.into(), dest.parse().expect("an address"));
        true
    }

    fn start_client(&mut self, now: u64, leg: usize, branch: String, draft: &Draft, dest: SocketAddr) {
        let bytes = draft.encode().expect("a phone writes well");
        self.start_bytes(now, leg, branch, bytes, dest);
    }

    fn start_bytes(&mut self, now: u64, leg: usize, branch: String, bytes: Bytes, dest: SocketAddr) {
        let message = Message::parse(bytes.clone()).expect("a phone writes well");
        self.out.push((dest, bytes.clone()));
        self.clients.push(ClientTx {
            leg,
            method: message.method().clone(),
            branch,
            cseq: message.cseq(),
            bytes,
            dest,
            interval: T1,
            repeat: Some(now + T1),
            deadline: Some(now + TIMEOUT),
            provisional: false,
            finals: BTreeSet::new(),
            timed_out: false,
            given_up: false,
            merged_at: None,
            ack: None,
        });
    }

    fn cancel(&mut self, now: u64, leg: usize) {
        self.legs[leg].cancelled = true;
        self.cancel_invites(now, leg);
    }

    /// Cancels what is open of the first INVITE, by whatever ways it went.
    fn cancel_invites(&mut self, now: u64, leg: usize) {
        for i in 0..self.clients.len() {
            let tx = &self.clients[i];
            // RFC 3261 §9.1: not before a provisional response; `on_response` does it then.
            let open = tx.finals.is_empty() && !tx.timed_out && tx.provisional;
            let sent = self.clients.iter().any(|c| c.method == Method::Cancel && c.branch == tx.branch);
            if tx.leg != leg || tx.method != Method::Invite || tx.cseq != 1 || !open || sent {
                continue;
            }
            let (branch, dest) = (tx.branch.clone(), tx.dest);
            let request = Message::parse(tx.bytes.clone()).expect("ours");
            let draft = same_hop(&request, &Method::Cancel, request.to());
            self.start_client(now, leg, branch, &draft, dest);
        }
    }

    /// A request within the dialog, and where it goes.
    fn in_dialog(&self, leg: usize, method: &Method, cseq: u32, branch: &str) -> (Draft, SocketAddr) {
        let l = &self.legs[leg];
        let habit = match self.who {
            Who::Caller => self.plans[l.call].habit,
            Who::Psap => ContactHabit::Honours,
        };
        let first = format!("sip:112@{}", self.anycast);
        let uri = if habit == ContactHabit::Ignores { &first } else { &l.target };
        let mut draft = Draft::request(method, uri);
        draft.push(HeaderId::Via, self.via(branch));
        draft.push(HeaderId::MaxForwards, "70");
        draft.push(HeaderId::From, format!("{};tag={}", l.local_uri, l.local_tag));
        draft.push(HeaderId::To, format!("{};tag={}", l.remote_uri, l.remote_tag.as_deref().unwrap_or("none")));
        draft.push(HeaderId::CallId, &*l.call_id);
        draft.push(HeaderId::CSeq, format!("{cseq} {}", method.as_str()));
        for route in &l.routes {
            draft.push(HeaderId::Route, &**route);
        }
        if habit == ContactHabit::KeepsRoute {
            draft.push(HeaderId::Route, format!("<sip:{};lr>", self.anycast));
        }
        let dest = if habit == ContactHabit::Honours { host_of(&l.target) } else { self.anycast };
        (draft, dest)
    }

    fn hang_up(&mut self, now: u64, leg: usize) {
        let l = &mut self.legs[leg];
        if l.state != LegState::Up && !(l.bye_sent && l.bye_tries > 0) {
            return;
        }
        // RFC 3261 §15: the called side must not send BYE before the ACK.
        if self.who == Who::Psap && !l.acked {
            self.acts.push((now + 100 * MS, Act::Bye(leg)));
            return;
        }
        l.state = LegState::Ended;
        l.bye_sent = true;
        l.bye_tries += 1;
        l.cseq += 1;
        let cseq = l.cseq;
        let branch = self.branch();
        let (draft, dest) = self.in_dialog(leg, &Method::Bye, cseq, &branch);
        self.start_client(now, leg, branch, &draft, dest);
    }

    fn mid(&mut self, now: u64, leg: usize, what: Mid) {
        if self.legs[leg].state != LegState::Up || (self.who == Who::Psap && !self.legs[leg].acked) {
            return;
        }
        let method = match what {
            Mid::Hold => Method::Invite,
            Mid::Info => Method::Info,
            Mid::Options => Method::Options,
            Mid::Update => Method::Update,
        };
        self.legs[leg].cseq += 1;
        let cseq = self.legs[leg].cseq;
        let branch = self.branch();
        let (mut draft, dest) = self.in_dialog(leg, &method, cseq, &branch);
        if matches!(what, Mid::Hold | Mid::Update) {
            draft.push(HeaderId::Contact, format!("<sip:p@{}>", self.addr));
        }
        match what {
            Mid::Hold => {
                let sdp = self.sdp(leg, true);
                draft.set_body(Some("application/sdp"), sdp);
            }
            Mid::Info => {
                draft.set_body(Some("application/dtmf-relay"), Bytes::from_static(b"Signal=1\r\n"));
            }
            Mid::Options | Mid::Update => {}
        }
        self.start_client(now, leg, branch, &draft, dest);
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

    fn on_response(&mut self, now: u64, _from: SocketAddr, response: &Message) {
        let status = response.status().unwrap_or(0);
        let branch = response.top_via().branch().unwrap_or_default();
        let Some(i) = self.clients.iter().position(|c| c.branch == branch && c.method == *response.method()) else {
            self.complaints.push(format!("a response to nothing: {status} {}", response.method().as_str()));
            return;
        };
        let leg = self.clients[i].leg;
        if status < 200 {
            self.on_provisional(now, i, leg, status, response);
            return;
        }
        let tx = &mut self.clients[i];
        let first = tx.finals.is_empty();
        tx.finals.insert((status, response.to_tag().unwrap_or_default().to_owned()));
        (tx.repeat, tx.deadline) = (None, None);
        if status == 482 {
            tx.merged_at.get_or_insert(now);
        }
        match *response.method() {
            Method::Invite if status < 300 => self.on_2xx(now, i, leg, response),
            Method::Invite => self.on_invite_failure(now, i, leg, first, response),
            Method::Bye if status == 503 && first && self.legs[leg].bye_tries < 12 => {
                // Rule G: the node cannot say; Retry-After.
                self.acts.push((now + 2000 * MS, Act::Bye(leg)));
            }
            _ => {}
        }
    }

    fn on_provisional(&mut self, now: u64, i: usize, leg: usize, status: u16, response: &Message) {
        let tx = &mut self.clients[i];
        tx.provisional = true;
        if tx.method == Method::Invite {
            // RFC 3261 §17.1.1.2: Proceeding has no timers.
            (tx.repeat, tx.deadline) = (None, None);
        }
        if tx.method != Method::Invite || tx.cseq != 1 || !tx.finals.is_empty() {
            return;
        }
        let l = &mut self.legs[leg];
        if status >= 180 && l.state == LegState::Inviting {
            l.state = LegState::Ringing;
            l.rang = true;
        }
        if status > 100 && l.remote_tag.is_none() {
            l.remote_tag = response.to_tag().map(str::to_owned);
        }
        if l.cancelled || l.answered {
            self.cancel_invites(now, leg);
        }
        if status > 100 {
            self.on_reliable(now, leg, response);
        }
    }

    /// RFC 3262 §4: PRACK for what is reliable and in order.
    fn on_reliable(&mut self, now: u64, leg: usize, response: &Message) {
        let reliable = response.values(HeaderId::Require).any(|v| v == "100rel");
        let wrong = match self.plans[self.legs[leg].call].rel {
            Rel::Silent => reliable,
            Rel::Supported => false,
            Rel::Required => !reliable,
        };
        if wrong {
            self.complaints.push(format!("reliable {reliable}: {}", String::from_utf8_lossy(response.raw())));
        }
        let (Some(rseq), Some(tag), Some(target)) = (response.number(HeaderId::RSeq), response.to_tag(), contact_of(response))
        else {
            return;
        };
        let l = &mut self.legs[leg];
        match l.rseqs.iter_mut().find(|r| r.0 == tag) {
            Some((_, last)) if rseq == *last + 1 => *last = rseq,
            Some(_) => return,
            None => l.rseqs.push((tag.to_owned(), rseq)),
        }
        // The early dialog of the response, which need not be the one that is answered.
        let own = (l.remote_tag.replace(tag.to_owned()), std::mem::replace(&mut l.target, target));
        l.cseq += 1;
        let cseq = l.cseq;
        let branch = self.branch();
        let (mut prack, dest) = self.in_dialog(leg, &Method::Prack, cseq, &branch);
        prack.push(HeaderId::RAck, format!("{rseq} {} INVITE", response.cseq()));
        self.start_client(now, leg, branch, &prack, dest);
        (self.legs[leg].remote_tag, self.legs[leg].target) = own;
    }

    fn on_2xx(&mut self, now: u64, i: usize, leg: usize, response: &Message) {
        let (cseq, tag) = (self.clients[i].cseq, response.to_tag().unwrap_or_default().to_owned());
        if let Some((_, _, dest, ack)) = self.legs[leg].acks.iter().find(|a| a.0 == cseq && a.1 == tag) {
            self.out.push((*dest, ack.clone()));
            return;
        }
        let initial = cseq == 1;
        let l = &mut self.legs[leg];
        let before = l.remote_tag.clone();
        if let Some(contact) = contact_of(response) {
            l.target = contact;
        }
        if initial {
            l.remote_tag = Some(tag.clone());
            l.routes = response.values(HeaderId::RecordRoute).map(str::to_owned).collect();
            l.routes.reverse();
        }
        l.remote_sdp = body_of(response).or(l.remote_sdp.take());
        let late = initial && l.answered;
        let delayed = initial && self.who == Who::Caller && self.plans[l.call].delayed_offer;
        let branch = self.branch();
        let (mut ack, dest) = self.in_dialog(leg, &Method::Ack, cseq, &branch);
        if delayed {
            let sdp = self.sdp(leg, false);
            ack.set_body(Some("application/sdp"), sdp);
        }
        let ack = ack.encode().expect("a phone writes well");
        self.legs[leg].acks.push((cseq, tag, dest, ack.clone()));
        self.out.push((dest, ack));
        if !initial {
            return;
        }
        if late {
            // A second fork answered: its dialog is ended at once, the first one stays (RFC 3261 §13.2.2.4).
            let branch = self.branch();
            let (bye, dest) = self.in_dialog(leg, &Method::Bye, cseq + 1, &branch);
            self.start_client(now, leg, branch, &bye, dest);
            self.legs[leg].remote_tag = before;
            return;
        }
        let l = &mut self.legs[leg];
        (l.answered, l.acked, l.state, l.final_status) = (true, true, LegState::Up, response.status());
        if l.failed_over {
            // RFC 3261 §16.7 step 10: what is open elsewhere is cancelled.
            self.cancel_invites(now, leg);
        }
        let l = &mut self.legs[leg];
        if l.cancelled {
            self.hang_up(now, leg);
        } else {
            self.plan_talk(now, leg);
        }
    }

    fn on_invite_failure(&mut self, now: u64, i: usize, leg: usize, first: bool, response: &Message) {
        let tx = &self.clients[i];
        let request = Message::parse(tx.bytes.clone()).expect("ours");
        let dest = tx.dest;
        let ack = same_hop(&request, &Method::Ack, response.to()).encode().expect("a phone writes well");
        self.clients[i].ack = Some(ack.clone());
        self.out.push((dest, ack));
        if !first || self.clients[i].cseq != 1 || self.legs[leg].answered {
            return;
        }
        let status = response.status().unwrap_or(0);
        let again = matches!(status, 408 | 480 | 500..=599) && !self.legs[leg].cancelled;
        if again && self.fail_over(now, leg) {
            return;
        }
        if self.is_settled(leg) {
            let l = &mut self.legs[leg];
            (l.state, l.final_status) = (LegState::Ended, Some(status));
        }
    }

    fn on_request(&mut self, now: u64, from: SocketAddr, request: &Message) {
        let branch = request.top_via().branch().unwrap_or_default().to_owned();
        let method = request.method().clone();
        if method == Method::Ack {
            self.on_ack(&branch, request);
            return;
        }
        if let Some(tx) = self.servers.iter_mut().find(|s| s.branch == branch && s.method == method) {
            tx.back = from;
            self.out.extend(tx.last.clone().map(|b| (from, b)));
            return;
        }
        if method == Method::Cancel {
            self.on_cancel(now, from, request, branch);
            return;
        }
        let leg = match request.to_tag() {
            None if method == Method::Invite => return self.on_new_call(now, from, request, branch),
            None => None,
            Some(tag) => self.legs.iter().position(|l| {
                l.call_id == request.call_id() && l.local_tag == tag && l.remote_tag.as_deref() == request.from_tag()
            }),
        };
        let Some(leg) = leg else {
            self.respond(now, usize::MAX, branch, from, request, 481);
            return;
        };
        match method {
            Method::Bye => {
                self.legs[leg].bye_received = true;
                self.legs[leg].state = LegState::Ended;
                self.respond(now, leg, branch, from, request, 200);
            }
            Method::Prack => self.on_prack(now, leg, branch, from, request),
            _ if self.legs[leg].state == LegState::Ended => self.respond(now, leg, branch, from, request, 481),
            Method::Invite => self.on_reinvite(now, leg, branch, from, request),
            _ => {
                if let (Method::Update, Some(contact)) = (&method, contact_of(request)) {
                    self.legs[leg].target = contact;
                }
                self.respond(now, leg, branch, from, request, 200);
            }
        }
    }

    fn on_prack(&mut self, now: u64, leg: usize, branch: String, from: SocketAddr, request: &Message) {
        let invite = self.legs[leg].invite.clone().expect("with the call");
        if request.first(HeaderId::RAck) != Some(&*format!("1 {} INVITE", invite.cseq())) {
            self.complaints.push(format!("RAck: {:?}", request.first(HeaderId::RAck)));
        }
        let open = self.legs[leg].unpracked.take().is_some();
        let own = |s: &&mut ServerTx| s.leg == leg && s.method == Method::Invite && s.invite_final.is_none();
        if let Some(tx) = self.servers.iter_mut().find(own) {
            tx.repeat = None;
        }
        self.respond(now, leg, branch, from, request, if open { 200 } else { 481 });
    }

    /// Rings reliably, where the plan says so and the INVITE lets it. True: with a description.
    fn rings_reliably(&self, leg: usize, request: &Message) -> Option<bool> {
        let may = |id| request.values(id).any(|v| v == "100rel");
        let plan = self.plans.get(self.legs.get(leg)?.call)?;
        let sdp = plan.psap_rel.filter(|_| may(HeaderId::Supported) || may(HeaderId::Require))?;
        Some(sdp && !request.body().is_empty())
    }

    fn on_reinvite(&mut self, now: u64, leg: usize, branch: String, from: SocketAddr, request: &Message) {
        let open = self.clients.iter().any(|c| c.leg == leg && c.method == Method::Invite && c.finals.is_empty() && !c.timed_out);
        let unacked = self.servers.iter().any(|s| s.leg == leg && s.method == Method::Invite && s.repeat.is_some());
        if open || unacked {
            self.respond(now, leg, branch, from, request, 491);
            return;
        }
        if let Some(contact) = contact_of(request) {
            self.legs[leg].target = contact;
        }
        self.legs[leg].remote_sdp = body_of(request).or(self.legs[leg].remote_sdp.take());
        self.respond(now, leg, branch, from, request, 200);
    }

    fn on_new_call(&mut self, now: u64, from: SocketAddr, request: &Message, branch: String) {
        let same = |l: &Leg| l.call_id == request.call_id() && l.remote_tag.as_deref() == request.from_tag();
        if self.legs.iter().any(same) {
            // RFC 3261 §8.2.2.2: by another way.
            self.merged.push(call_of(request.from()));
            self.respond(now, usize::MAX, branch, from, request, 482);
            return;
        }
        let call = call_of(request.from());
        let leg = self.legs.len();
        let via = |id| request.all(id).map(str::to_owned).collect::<Vec<_>>();
        self.legs.push(Leg {
            call,
            call_id: request.call_id().to_owned(),
            local_tag: format!("psap-{leg}"),
            remote_tag: request.from_tag().map(str::to_owned),
            local_uri: request.to().to_owned(),
            remote_uri: strip_tag(request.from()),
            target: contact_of(request).unwrap_or_default(),
            routes: via(HeaderId::RecordRoute),
            // Not 1, so that the CSeq number tells its re-INVITEs from a caller's first INVITE.
            cseq: 100,
            invite: Some(request.clone()),
            invite_back: Some(from),
            state: LegState::Inviting,
            rang: false,
            answered: false,
            acked: false,
            bye_sent: false,
            bye_received: false,
            cancelled: false,
            final_status: None,
            remote_sdp: body_of(request),
            sdp_version: 0,
            acks: Vec::new(),
            bye_tries: 0,
            failed_over: false,
            rang_at: None,
            answered_at: None,
            ended_at: None,
            rseqs: Vec::new(),
            unpracked: None,
        });
        self.servers.push(ServerTx {
            branch,
            method: Method::Invite,
            leg,
            last: None,
            back: from,
            invite_final: None,
            interval: T1,
            repeat: None,
            deadline: 0,
        });
        self.answer_invite(now, leg, 100);
        match self.plans.get(call).map(|p| p.psap) {
            Some(PsapPlan::Answer { ring, answer }) => {
                self.acts.push((now + ring * MS, Act::Ring(leg)));
                self.acts.push((now + answer * MS, Act::Answer(leg)));
            }
            Some(PsapPlan::Busy { after }) => self.acts.push((now + after * MS, Act::Busy(leg))),
            Some(PsapPlan::RingOnly) => self.acts.push((now + 50 * MS, Act::Ring(leg))),
            None => self.complaints.push(format!("a call from nobody: {}", request.from())),
        }
    }

    /// Another early dialog of the same INVITE (RFC 3261 §12.1).
    fn ring_elsewhere(&mut self, leg: usize) {
        let l = &self.legs[leg];
        let (Some(request), Some(back)) = (&l.invite, l.invite_back) else { return };
        if !self.plans.get(l.call).is_some_and(|p| p.psap_forks) {
            return;
        }
        let mut draft = request.response(180, None);
        draft.set(HeaderId::To, format!("{};tag=elsewhere-{leg}", request.to()));
        draft.push(HeaderId::Contact, format!("<sip:elsewhere@{}>", self.addr));
        self.out.push((back, draft.encode().expect("a phone writes well")));
    }

    fn answer_invite(&mut self, now: u64, leg: usize, status: u16) {
        let Some(request) = self.legs[leg].invite.clone() else { return };
        let back = self.legs[leg].invite_back.expect("with the INVITE");
        let branch = request.top_via().branch().unwrap_or_default().to_owned();
        self.respond(now, leg, branch, back, &request, status);
    }

    fn respond(&mut self, now: u64, leg: usize, branch: String, back: SocketAddr, request: &Message, status: u16) {
        let mut draft = request.response(status, None);
        if status > 100 && request.to_tag().is_none() {
            let tag = self.legs.get(leg).map_or("stray", |l| &*l.local_tag);
            draft.set(HeaderId::To, format!("{};tag={tag}", request.to()));
        }
        let invite = request.method() == &Method::Invite;
        if invite && (101..300).contains(&status) {
            draft.push(HeaderId::Contact, format!("<sip:p@{}>", self.addr));
            for route in request.all(HeaderId::RecordRoute) {
                draft.push(HeaderId::RecordRoute, route);
            }
        }
        let reliable = if invite && status == 180 { self.rings_reliably(leg, request) } else { None };
        if reliable.is_some() {
            draft.push(HeaderId::Require, "100rel");
            draft.push(HeaderId::RSeq, "1");
            self.legs[leg].unpracked = Some(now + TIMEOUT);
        }
        if invite && (200..300).contains(&status) || reliable == Some(true) {
            let sdp = self.sdp(leg, false);
            draft.set_body(Some("application/sdp"), sdp);
        }
        let bytes = draft.encode().expect("a phone writes well");
        self.out.push((back, bytes.clone()));
        let method = request.method().clone();
        let at = self.servers.iter().position(|s| s.branch == branch && s.method == method).unwrap_or_else(|| {
            let (method, branch) = (method.clone(), branch.clone());
            let tx =
                ServerTx { branch, method, leg, last: None, back, invite_final: None, interval: T1, repeat: None, deadline: 0 };
            self.servers.push(tx);
            self.servers.len() - 1
        });
        let tx = &mut self.servers[at];
        tx.last = Some(bytes);
        tx.back = back;
        if reliable.is_some() {
            (tx.repeat, tx.deadline, tx.interval) = (Some(now + T1), now + TIMEOUT, T1);
        }
        if invite && status >= 200 {
            tx.invite_final = Some((status, request.cseq()));
            tx.interval = T1;
            (tx.repeat, tx.deadline) = (Some(now + T1), now + TIMEOUT);
        }
    }

    fn on_ack(&mut self, branch: &str, ack: &Message) {
        let legs = &self.legs;
        let of_2xx = |s: &ServerTx| {
            s.invite_final.is_some_and(|(status, cseq)| status < 300 && cseq == ack.cseq())
                && legs.get(s.leg).is_some_and(|l| l.call_id == ack.call_id() && Some(&*l.local_tag) == ack.to_tag())
        };
        let found = self.servers.iter().position(|s| s.method == Method::Invite && (s.branch == branch || of_2xx(s)));
        let Some(at) = found else { return };
        self.servers[at].repeat = None;
        if self.servers[at].invite_final.is_some_and(|(status, _)| status >= 300) {
            return;
        }
        let leg = self.servers[at].leg;
        if let Some(l) = self.legs.get_mut(leg) {
            l.acked = true;
            l.remote_sdp = body_of(ack).or(l.remote_sdp.take());
        }
    }

    fn on_cancel(&mut self, now: u64, from: SocketAddr, request: &Message, branch: String) {
        let invite = self.servers.iter().find(|s| s.branch == branch && s.method == Method::Invite).map(|s| s.leg);
        let Some(leg) = invite else {
            self.respond(now, usize::MAX, branch, from, request, 481);
            return;
        };
        self.respond(now, leg, branch, from, request, 200);
        if self.legs.get(leg).is_some_and(|l| l.state <= LegState::Ringing) {
            self.legs[leg].state = LegState::Ended;
            self.legs[leg].cancelled = true;
            self.answer_invite(now, leg, 487);
        }
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
