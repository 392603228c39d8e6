//! What a phone sends of its own: INVITE, CANCEL, requests within its calls.

use super::*;

impl Phone {
    pub(super) fn dial(&mut self, now: u64, call: usize) {
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
            began_at: now,
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
    pub(super) fn fail_over(&mut self, now: u64, leg: usize) -> bool {
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

    pub(super) fn start_client(&mut self, now: u64, leg: usize, branch: String, draft: &Draft, dest: SocketAddr) {
        let bytes = draft.encode().expect("a phone writes well");
        self.start_bytes(now, leg, branch, bytes, dest);
    }

    pub(super) fn start_bytes(&mut self, now: u64, leg: usize, branch: String, bytes: Bytes, dest: SocketAddr) {
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

    pub(super) fn cancel(&mut self, now: u64, leg: usize) {
        self.legs[leg].cancelled = true;
        self.cancel_invites(now, leg);
    }

    /// Cancels what is open of the first INVITE, by whatever ways it went.
    pub(super) fn cancel_invites(&mut self, now: u64, leg: usize) {
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
    pub(super) fn in_dialog(&self, leg: usize, method: &Method, cseq: u32, branch: &str) -> (Draft, SocketAddr) {
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

    pub(super) fn hang_up(&mut self, now: u64, leg: usize) {
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

    /// The BYE of a dialog that is not the call's, once more.
    pub(super) fn bye_again(&mut self, now: u64, tx: usize) {
        let (leg, request) = (self.clients[tx].leg, Message::parse(self.clients[tx].bytes.clone()).expect("ours"));
        let branch = self.branch();
        let l = &mut self.legs[leg];
        l.bye_tries += 1;
        let (tag, uri) = (request.to_tag().map(str::to_owned), request.request_uri().expect("a request").to_owned());
        let own = (std::mem::replace(&mut l.remote_tag, tag), std::mem::replace(&mut l.target, uri));
        let (draft, dest) = self.in_dialog(leg, &Method::Bye, request.cseq() + 1, &branch);
        self.start_client(now, leg, branch, &draft, dest);
        (self.legs[leg].remote_tag, self.legs[leg].target) = own;
    }

    pub(super) fn mid(&mut self, now: u64, leg: usize, what: Mid) {
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
}
