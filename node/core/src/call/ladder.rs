//! The messages of a call, for people. No header values: who looks at a ladder need not see personal data.

use std::net::SocketAddr;

use crate::ids::NodeId;
use crate::io::{LadderEntry, Realm, ReturnPath};
use crate::sip::{Draft, HeaderId, Message};
use crate::time::UnixMs;

/// Messages kept for one call; a call with more keeps its first ones, which tell how it was set up, and its last.
const MAX_ENTRIES: usize = 200;

/// What a call sent and received.
#[derive(Debug, Default)]
pub struct Ladder {
    entries: Vec<LadderEntry>,
}

impl Ladder {
    /// A message came in.
    pub fn received(&mut self, at: UnixMs, realm: Realm, back: &ReturnPath, message: &Message) {
        let summary = match message.status() {
            Some(status) => format!("{status} {}", message.reason()),
            None => message.method().as_str().to_owned(),
        };
        let cseq = format!("{} {}", message.cseq(), message.method().as_str());
        self.push(at, true, realm, back, summary, cseq);
    }

    /// A message went out.
    pub fn sent(&mut self, at: UnixMs, realm: Realm, back: &ReturnPath, draft: &Draft) {
        let summary = match (draft.status(), draft.method()) {
            (Some(status), _) => format!("{status} {}", crate::sip::reason_phrase(status)),
            (None, Some(method)) => method.as_str().to_owned(),
            (None, None) => String::new(),
        };
        let cseq = draft.first(HeaderId::CSeq).unwrap_or_default().to_owned();
        self.push(at, false, realm, back, summary, cseq);
    }

    /// All of it, oldest first.
    pub fn entries(&self) -> &[LadderEntry] {
        &self.entries
    }

    fn push(&mut self, at: UnixMs, inbound: bool, realm: Realm, back: &ReturnPath, summary: String, cseq: String) {
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.remove(MAX_ENTRIES / 2);
        }
        let (local, remote): (SocketAddr, SocketAddr) = (back.path.local, back.path.remote);
        let through: Option<NodeId> = back.ingress;
        self.entries.push(LadderEntry { at, inbound, realm, local, remote, through, summary: summary.into(), cseq: cseq.into() });
    }
}
