//! The messages of a call, for people. No header values: who looks at a ladder need not see personal data.

use std::net::SocketAddr;

use crate::ids::NodeId;
use crate::io::{LadderEntry, Realm, ReturnPath};
use crate::sip::{Draft, HeaderId, Message};
use crate::time::UnixMs;

/// Messages kept for one call; a call with more keeps its first ones, which tell how it was set up, and its last.
const MAX_ENTRIES: usize = 200;

/// A message of a call that is filed in its ladder, or in the memory of it, at the end of the input in hand.
#[derive(Debug)]
pub struct Note {
    /// The call, by its serial.
    pub call: u64,
    at: UnixMs,
    inbound: bool,
    back: ReturnPath,
    summary: String,
    cseq: String,
}

impl Note {
    /// A message came in.
    pub fn received(call: u64, at: UnixMs, back: ReturnPath, message: &Message) -> Note {
        let (summary, cseq) = said(message);
        Note { call, at, inbound: true, back, summary, cseq }
    }

    /// A message went out.
    pub fn sent(call: u64, at: UnixMs, back: ReturnPath, draft: &Draft) -> Note {
        let (summary, cseq) = written(draft);
        Note { call, at, inbound: false, back, summary, cseq }
    }
}

fn said(message: &Message) -> (String, String) {
    let summary = match message.status() {
        Some(status) => format!("{status} {}", message.reason()),
        None => message.method().as_str().to_owned(),
    };
    (summary, format!("{} {}", message.cseq(), message.method().as_str()))
}

fn written(draft: &Draft) -> (String, String) {
    let summary = match (draft.status(), draft.method()) {
        (Some(status), _) => format!("{status} {}", crate::sip::reason_phrase(status)),
        (None, Some(method)) => method.as_str().to_owned(),
        (None, None) => String::new(),
    };
    (summary, draft.first(HeaderId::CSeq).unwrap_or_default().to_owned())
}

/// What a call sent and received.
#[derive(Debug, Default)]
pub struct Ladder {
    entries: Vec<LadderEntry>,
}

impl Ladder {
    /// A message came in.
    pub fn received(&mut self, at: UnixMs, realm: Realm, back: &ReturnPath, message: &Message) {
        let (summary, cseq) = said(message);
        self.push(at, true, realm, back, summary, cseq);
    }

    /// A message went out.
    pub fn sent(&mut self, at: UnixMs, realm: Realm, back: &ReturnPath, draft: &Draft) {
        let (summary, cseq) = written(draft);
        self.push(at, false, realm, back, summary, cseq);
    }

    /// Something that was noted where the call is not at hand.
    pub fn add(&mut self, note: Note) {
        let Note { at, inbound, back, summary, cseq, .. } = note;
        self.push(at, inbound, back.path.role.realm(), &back, summary, cseq);
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
