//! What a phone makes of requests, as the called side and within calls.

use super::*;

impl Phone {
    pub(super) fn on_request(&mut self, now: u64, from: SocketAddr, request: &Message) {
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

    pub(super) fn on_prack(&mut self, now: u64, leg: usize, branch: String, from: SocketAddr, request: &Message) {
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
    pub(super) fn rings_reliably(&self, leg: usize, request: &Message) -> Option<bool> {
        let may = |id| request.values(id).any(|v| v == "100rel");
        let plan = self.plans.get(self.legs.get(leg)?.call)?;
        let sdp = plan.psap_rel.filter(|_| may(HeaderId::Supported) || may(HeaderId::Require))?;
        Some(sdp && !request.body().is_empty())
    }

    pub(super) fn on_reinvite(&mut self, now: u64, leg: usize, branch: String, from: SocketAddr, request: &Message) {
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

    pub(super) fn on_new_call(&mut self, now: u64, from: SocketAddr, request: &Message, branch: String) {
        let same = |l: &Leg| l.call_id == request.call_id() && l.remote_tag.as_deref() == request.from_tag();
        if self.legs.iter().any(same) {
            // RFC 3261 §8.2.2.2: by another way.
            self.merged.push((call_of(request.from()), now));
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
            began_at: now,
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
    pub(super) fn ring_elsewhere(&mut self, leg: usize) {
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

    pub(super) fn answer_invite(&mut self, now: u64, leg: usize, status: u16) {
        let Some(request) = self.legs[leg].invite.clone() else { return };
        let back = self.legs[leg].invite_back.expect("with the INVITE");
        let branch = request.top_via().branch().unwrap_or_default().to_owned();
        self.respond(now, leg, branch, back, &request, status);
    }

    pub(super) fn respond(&mut self, now: u64, leg: usize, branch: String, back: SocketAddr, request: &Message, status: u16) {
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

    pub(super) fn on_ack(&mut self, branch: &str, ack: &Message) {
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

    pub(super) fn on_cancel(&mut self, now: u64, from: SocketAddr, request: &Message, branch: String) {
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
