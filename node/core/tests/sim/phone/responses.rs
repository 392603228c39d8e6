//! What a phone makes of responses.

use super::*;

/// A node that is cut off cannot say whose a call is: a minute of it, at two seconds each.
const BYE_TRIES: u32 = 40;

impl Phone {
    pub(super) fn on_response(&mut self, now: u64, _from: SocketAddr, response: &Message) {
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
            Method::Bye if status == 503 && first && self.legs[leg].bye_tries < BYE_TRIES => {
                // Rule G: the node cannot say; Retry-After.
                let asked = Message::parse(self.clients[i].bytes.clone()).expect("ours");
                let of_the_call = asked.to_tag() == self.legs[leg].remote_tag.as_deref();
                self.acts.push((now + 2000 * MS, if of_the_call { Act::Bye(leg) } else { Act::ByeAgain(i) }));
            }
            _ => {}
        }
    }

    pub(super) fn on_provisional(&mut self, now: u64, i: usize, leg: usize, status: u16, response: &Message) {
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
    pub(super) fn on_reliable(&mut self, now: u64, leg: usize, response: &Message) {
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

    pub(super) fn on_2xx(&mut self, now: u64, i: usize, leg: usize, response: &Message) {
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

    pub(super) fn on_invite_failure(&mut self, now: u64, i: usize, leg: usize, first: bool, response: &Message) {
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
}
