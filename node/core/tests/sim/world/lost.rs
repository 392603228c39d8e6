//! What is lost with a node: answers of calls of which nobody else could have heard.

use sbc_core::sip::Method;

use super::*;

/// A 2xx to a caller's INVITE, as a node sent it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// When it was sent first, µs.
    at: u64,
    /// The node was apart from then on, and died so.
    pub(crate) lost: bool,
}

impl World {
    /// A node has neither the log nor a peer.
    fn is_apart(&self, i: usize) -> bool {
        !self.has_quorum(i) && (0..self.nodes.len()).all(|j| j == i || !self.linked(i, j))
    }

    /// Since when each node is apart; after whatever changes that.
    pub(super) fn note_apart(&mut self) {
        for i in 0..self.nodes.len() {
            let since = self.nodes[i].apart_since.unwrap_or(self.now);
            self.nodes[i].apart_since = self.is_apart(i).then_some(since);
        }
    }

    /// What node `i` sends may be its answer to a caller.
    pub(super) fn note_answer(&mut self, i: usize, to: SocketAddr, bytes: &Bytes) {
        if self.phones[0].addr != to || !bytes.starts_with(b"SIP/2.0 200 ") {
            return;
        }
        let message = Message::parse(bytes.clone()).expect("all sent is well formed");
        if message.method() == &Method::Invite {
            let key = (message.call_id().to_owned(), i, self.nodes[i].life);
            self.answers.entry(key).or_insert(Answered { at: self.now, lost: false });
        }
    }

    /// Node `i` dies: what it answered while it was apart, and is still, nobody has heard of.
    pub(super) fn lose_answers(&mut self, i: usize) {
        let (life, since) = (self.nodes[i].life, self.nodes[i].apart_since);
        let Some(since) = since else { return };
        for ((_, node, of), answered) in &mut self.answers {
            answered.lost |= (*node, *of) == (i, life) && since <= answered.at;
        }
    }

    /// The call was answered by nodes that were apart from before their answer until their death, and by no other.
    pub(crate) fn is_answer_lost(&self, call_id: &str) -> bool {
        let mut of_call = self.answers.iter().filter(|((id, ..), _)| id == call_id).map(|(_, answered)| answered.lost).peekable();
        of_call.peek().is_some() && of_call.all(|lost| lost)
    }
}
