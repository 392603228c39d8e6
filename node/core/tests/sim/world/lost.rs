//! What is lost with a node: answers of calls of which nobody else could have heard.

use sbc_core::sip::Method;

use super::*;

/// How long a node has the log before it has told all that waited: its lease comes with the next beat, then a proposal is committed.
const TOLD_AFTER: u64 = 2000 * MS;

/// A 2xx to a caller's INVITE, as a node sent it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// When it was sent first, µs.
    at: u64,
    /// The node had the log for long enough to tell it.
    told: bool,
    /// The node has not told the log, which it did not have for long enough, and died so.
    pub(crate) lost: bool,
}

impl World {
    /// A node has neither the log nor a peer.
    fn is_apart(&self, i: usize) -> bool {
        !self.has_quorum(i) && (0..self.nodes.len()).all(|j| j == i || !self.linked(i, j))
    }

    /// Since when each node is apart, and has the log; after whatever changes that.
    pub(super) fn note_apart(&mut self) {
        for i in 0..self.nodes.len() {
            let since = self.nodes[i].apart_since.unwrap_or(self.now);
            self.nodes[i].apart_since = self.is_apart(i).then_some(since);
            let since = self.nodes[i].log_since.unwrap_or(self.now);
            if !self.has_quorum(i) {
                self.note_told(i);
            }
            self.nodes[i].log_since = self.has_quorum(i).then_some(since);
        }
    }

    /// What node `i` has answered the log has heard of, where it had that for so long since.
    fn note_told(&mut self, i: usize) {
        let (life, now) = (self.nodes[i].life, self.now);
        let Some(since) = self.nodes[i].log_since else { return };
        let of_node = self.answers.iter_mut().filter(|((_, node, of), _)| (*node, *of) == (i, life));
        of_node.for_each(|(_, answered)| answered.told |= now - since.max(answered.at) >= TOLD_AFTER);
    }

    /// What node `i` sends may be its answer to a caller.
    pub(super) fn note_answer(&mut self, i: usize, to: SocketAddr, bytes: &Bytes) {
        if self.phones[0].addr != to || !bytes.starts_with(b"SIP/2.0 200 ") {
            return;
        }
        let message = Message::parse(bytes.clone()).expect("all sent is well formed");
        if message.method() == &Method::Invite {
            let key = (message.call_id().to_owned(), i, self.nodes[i].life);
            self.answers.entry(key).or_insert(Answered { at: self.now, told: false, lost: false });
        }
    }

    /// Node `i` dies: nobody has heard of what it answered while it was apart, and is still, or while it had not the log, and has it again
    /// for too short a time, or just before the log lost its quorum with it.
    pub(super) fn lose_answers(&mut self, i: usize) {
        self.note_told(i);
        let Node { life, apart_since, log_since, .. } = self.nodes[i];
        self.nodes[i].dead = true;
        let survivors_commit = (0..self.nodes.len()).any(|j| !self.nodes[j].dead && self.has_quorum(j));
        let (now, of_node) = (self.now, self.answers.iter_mut().filter(|((_, node, of), _)| (*node, *of) == (i, life)));
        for (_, answered) in of_node.filter(|(_, answered)| !answered.told) {
            let short = log_since.is_some_and(|since| !survivors_commit || since > answered.at || now - since < TOLD_AFTER);
            answered.lost |= short || apart_since.is_some_and(|since| since <= answered.at);
        }
    }

    /// The call was answered by nodes that could not tell anybody of it before their death, and by no other.
    pub(crate) fn is_answer_lost(&self, call_id: &str) -> bool {
        let mut of_call = self.answers.iter().filter(|((id, ..), _)| id == call_id).map(|(_, answered)| answered.lost).peekable();
        of_call.peek().is_some() && of_call.all(|lost| lost)
    }
}
