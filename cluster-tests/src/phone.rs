//! A phone on a UDP socket, driven by hand.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use crate::ladder::{Step, Witness};
use crate::message::{Message, heard, unique, via};

/// How long an answer may take on loopback when the machine is busy.
pub const ANSWER: Duration = Duration::from_secs(5);
/// Largest datagram.
const MAX_DATAGRAM: usize = 65_535;

/// A message and where it came from.
pub type Received = (Message, SocketAddr);

/// A socket with what has arrived on it and was not asked for yet.
#[derive(Debug)]
pub struct Phone {
    socket: UdpSocket,
    at: SocketAddr,
    backlog: VecDeque<Received>,
    wire: RefCell<Vec<Step>>,
    pings: Cell<usize>,
    checks: bool,
}

impl Phone {
    /// At a fixed address (the PSAP's), or with port 0 at a free one.
    ///
    /// # Panics
    /// The address is taken.
    pub fn bind(at: impl ToSocketAddrs + std::fmt::Debug) -> Phone {
        let socket = UdpSocket::bind(&at).unwrap_or_else(|e| panic!("cannot bind {at:?}: {e}"));
        let at = socket.local_addr().expect("a bound socket has an address");
        Phone { socket, at, backlog: VecDeque::new(), wire: RefCell::default(), pings: Cell::new(0), checks: true }
    }

    /// The same, for a test whose callers say what nobody should: some of it crosses as they said it, and is no fault of the cluster.
    #[must_use]
    pub fn hearing_anything(self) -> Phone {
        Phone { checks: false, ..self }
    }

    /// Its address.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// Sends a message.
    pub fn send(&self, message: &Message, to: SocketAddr) {
        self.note(true, message);
        self.send_raw(&message.bytes(), to);
    }

    fn note(&self, ours: bool, message: &Message) {
        let step = Step::new(ours, &message.start, message.header("CSeq"), message.header("Call-ID"));
        self.wire.borrow_mut().push(step);
    }

    /// Sends octets.
    ///
    /// # Panics
    /// The kernel refuses.
    pub fn send_raw(&self, bytes: &[u8], to: SocketAddr) {
        // ECONNREFUSED tells of an earlier packet to a port where nobody was; this one has still gone out on the second try.
        if self.socket.send_to(bytes, to).is_err() {
            self.socket.send_to(bytes, to).unwrap_or_else(|e| panic!("cannot send to {to}: {e}"));
        }
    }

    fn hear(&self, bytes: &[u8]) -> Option<Message> {
        if self.checks { heard(bytes) } else { Message::parse(bytes) }
    }

    fn receive(&self, end: Instant) -> Option<Received> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let left = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())?;
            self.socket.set_read_timeout(Some(left)).expect("the duration is not zero");
            let Ok((n, from)) = self.socket.recv_from(&mut buffer) else { continue };
            if &buffer[..n] == b"\r\n\r\n" {
                self.pings.set(self.pings.get() + 1);
            } else if let Some(message) = self.hear(&buffer[..n]) {
                self.note(false, &message);
                return Some((message, from));
            }
        }
    }

    /// The first message, arrived or to come within `limit`, that is wanted; others are kept for later.
    pub fn wait(&mut self, limit: Duration, wanted: impl Fn(&Message) -> bool) -> Option<Received> {
        if let Some(i) = self.backlog.iter().position(|(m, _)| wanted(m)) {
            return self.backlog.remove(i);
        }
        let end = Instant::now() + limit;
        loop {
            let received = self.receive(end)?;
            if wanted(&received.0) {
                return Some(received);
            }
            self.backlog.push_back(received);
        }
    }

    /// As [`Phone::wait`], for what must come.
    ///
    /// # Panics
    /// It does not, with what came instead.
    #[track_caller]
    pub fn expect(&mut self, what: &str, wanted: impl Fn(&Message) -> bool) -> Received {
        match self.wait(ANSWER, wanted) {
            Some(received) => received,
            None => panic!(
                "{}: no {what} within {ANSWER:?}; arrived instead: {:#?}",
                self.at,
                self.backlog.iter().map(|(m, from)| (from, &m.start, m.header("CSeq"))).collect::<Vec<_>>()
            ),
        }
    }

    /// The response with this status to a request with this CSeq method.
    ///
    /// # Panics
    /// It does not come.
    #[track_caller]
    pub fn expect_response(&mut self, status: u16, method: &str) -> Received {
        self.expect(&format!("{status} to {method}"), |m| m.status() == status && m.cseq().1 == method)
    }

    /// The final response to a request, whatever it is.
    ///
    /// # Panics
    /// It does not come.
    #[track_caller]
    pub fn expect_final(&mut self, request: &Message) -> Received {
        let (call_id, cseq) = (request.header("Call-ID").to_owned(), request.header("CSeq").to_owned());
        self.expect(&format!("final answer to {cseq}"), |m| {
            m.status() >= 200 && m.header("CSeq") == cseq && m.header("Call-ID") == call_id
        })
    }

    /// The next request with this method.
    ///
    /// # Panics
    /// It does not come.
    #[track_caller]
    pub fn expect_request(&mut self, method: &str) -> Received {
        self.expect(method, |m| m.method() == method)
    }

    /// Waits until it has been pinged so often in all (two CRLFs, RFC 5626 §3.5.1).
    ///
    /// # Panics
    /// It is not, within `limit`.
    #[track_caller]
    pub fn pinged(&mut self, times: usize, limit: Duration) {
        let end = Instant::now() + limit;
        while self.pings.get() < times {
            assert!(Instant::now() < end, "{}: {} keep-alives of {times}", self.at, self.pings.get());
            if let Some(received) = self.receive(Instant::now() + Duration::from_millis(50)) {
                self.backlog.push_back(received);
            }
        }
    }

    /// Has an OPTIONS answered at this address of a node. It serves one message after the other: all that it got there before was
    /// served, and what it sent here before has arrived.
    ///
    /// # Panics
    /// It is not answered with 200.
    #[track_caller]
    pub fn ping(&mut self, node: SocketAddr) {
        let options = self.alone("OPTIONS", node);
        self.send(&options, node);
        assert_eq!(self.expect_final(&options).0.status(), 200);
    }

    /// A request to the node itself, outside of any dialog.
    pub fn alone(&self, method: &str, node: SocketAddr) -> Message {
        let at = self.at;
        Message::request(method, &format!("sip:{node}"))
            .with("Via", &via(at, "UDP"))
            .with("Max-Forwards", "70")
            .with("From", &format!("<sip:ping@{at}>;tag=p"))
            .with("To", &format!("<sip:{node}>"))
            .with("Call-ID", &unique("ping"))
            .with("CSeq", &format!("1 {method}"))
    }

    /// Forgets all that this node has sent here until now.
    #[track_caller]
    pub fn settle(&mut self, node: SocketAddr) {
        self.ping(node);
        self.backlog.clear();
    }

    /// True when a response to this request is here.
    pub fn is_answered(&mut self, request: &Message) -> bool {
        let call_id = request.header("Call-ID");
        self.wait(Duration::from_millis(1), |m| m.status() > 0 && m.header("Call-ID") == call_id).is_some()
    }

    /// The final response to this INVITE; a refusal is acknowledged.
    ///
    /// # Panics
    /// None comes.
    #[track_caller]
    pub fn final_of(&mut self, invite: &Message) -> Message {
        let (response, from) = self.expect_final(invite);
        if response.status() >= 300 {
            self.send(&invite.ack_of(&response), from);
        }
        response
    }

    /// Answers the INVITE of this caller (the URI of its From, which crosses) with a refusal and hears the ACK. Returns the INVITE.
    ///
    /// # Panics
    /// Neither comes.
    #[track_caller]
    pub fn turn_away(&mut self, caller: &str, status: u16, fields: &[(&str, &str)]) -> Message {
        let ours = |m: &Message| m.method() == "INVITE" && m.uri("From") == caller;
        let (invite, from) = self.expect(&format!("INVITE of {caller}"), ours);
        let mut response = invite.response(status, "Refused", "away");
        for (name, value) in fields {
            response = response.with(name, value);
        }
        self.send(&response, from);
        let call_id = invite.header("Call-ID").to_owned();
        self.expect("the ACK", |m| m.method() == "ACK" && m.header("Call-ID") == call_id);
        invite
    }

    /// All that is wanted and arrives during `span` or has arrived before; the rest is kept.
    pub fn gather(&mut self, span: Duration, wanted: impl Fn(&Message) -> bool) -> Vec<Received> {
        let end = Instant::now() + span;
        while let Some(received) = self.receive(end) {
            self.backlog.push_back(received);
        }
        let (found, rest) = self.backlog.drain(..).partition(|(m, _)| wanted(m));
        self.backlog = rest;
        found.into()
    }
}

impl Witness for Phone {
    fn ip(&self) -> IpAddr {
        self.at.ip()
    }

    fn wire(&mut self, call_id: &str) -> Vec<Step> {
        while let Some(received) = self.receive(Instant::now() + Duration::from_millis(1)) {
            self.backlog.push_back(received);
        }
        self.wire.borrow().iter().filter(|s| s.call_id == call_id).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phones_hear_each_other_and_keep_what_was_not_asked_for() {
        let (mut a, b) = (Phone::bind("127.0.0.1:0"), Phone::bind("127.0.0.1:0"));
        b.send(&b.alone("OPTIONS", a.at()), a.at());
        b.send(&b.alone("BYE", a.at()).replace("CSeq", "2 BYE"), a.at());
        assert_eq!(a.expect_request("BYE").1, b.at());
        assert_eq!(a.expect_request("OPTIONS").0.cseq().0, 1);
        assert!(a.gather(Duration::from_millis(20), |_| true).is_empty());
    }

    /// What a phone hears passes the check of [`heard`]: from a cluster this would be a fault.
    #[test]
    #[should_panic(expected = "rsip reads something else in what a cluster sent: Content-Length is not 0")]
    fn a_phone_that_hears_what_nobody_should_send_says_so() {
        let (mut a, b) = (Phone::bind("127.0.0.1:0"), Phone::bind("127.0.0.1:0"));
        let wrong = String::from_utf8(b.alone("OPTIONS", a.at()).bytes()).expect("it is text").replace("Length: 0", "Length: 7");
        b.send_raw(wrong.as_bytes(), a.at());
        a.expect_request("OPTIONS");
    }
}
