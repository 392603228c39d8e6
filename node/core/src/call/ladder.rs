//! The messages of a call, for people. No header values: who looks at a ladder need not see personal data.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::ids::LocalId;
use crate::io::{LadderEntry, Realm, ReturnPath};
use crate::sip::{Draft, HeaderId, Message, readable};
use crate::time::UnixMs;

/// Messages kept for one call; a call with more keeps its first ones, which tell how it was set up, and its last.
const MAX_ENTRIES: usize = 200;

/// A message of a call that is filed in its ladder, or in the memory of it, at the end of the input in hand.
#[derive(Debug)]
pub struct Note {
    /// The call, by its serial.
    pub call: LocalId,
    at: UnixMs,
    inbound: bool,
    back: ReturnPath,
    what: LadderLine,
}

/// What a message says of itself, and by which it is known again; 0: it is ours.
#[derive(Debug)]
struct LadderLine {
    summary: String,
    cseq: String,
    digest: u64,
}

impl Note {
    /// A message came in.
    pub fn received(call: LocalId, at: UnixMs, back: ReturnPath, message: &Message) -> Note {
        Note { call, at, inbound: true, back, what: said(message) }
    }

    /// A message went out.
    pub fn sent(call: LocalId, at: UnixMs, back: ReturnPath, draft: &Draft) -> Note {
        Note { call, at, inbound: false, back, what: written(draft) }
    }
}

fn said(message: &Message) -> LadderLine {
    let summary = match message.status() {
        Some(status) => format!("{status} {}", readable(message.reason())),
        None => message.method().as_str().to_owned(),
    };
    let mut hasher = DefaultHasher::new();
    message.raw().hash(&mut hasher);
    LadderLine { summary, cseq: format!("{} {}", message.cseq(), message.method().as_str()), digest: hasher.finish().max(1) }
}

fn written(draft: &Draft) -> LadderLine {
    let summary = match (draft.status(), draft.method()) {
        (Some(status), _) => format!("{status} {}", crate::sip::reason_phrase(status)),
        (None, Some(method)) => method.as_str().to_owned(),
        (None, None) => String::new(),
    };
    LadderLine { summary, cseq: draft.first(HeaderId::CSeq).unwrap_or_default().to_owned(), digest: 0 }
}

/// What a call sent and received.
#[derive(Debug, Default)]
pub struct Ladder {
    entries: Vec<LadderEntry>,
    /// Of the messages that came in, as many as there are entries at the most.
    digests: Vec<u64>,
    dropped: u32,
}

impl Ladder {
    /// A message came in.
    pub fn received(&mut self, at: UnixMs, realm: Realm, back: &ReturnPath, message: &Message) {
        self.push(at, true, realm, back, said(message));
    }

    /// A message went out.
    pub fn sent(&mut self, at: UnixMs, realm: Realm, back: &ReturnPath, draft: &Draft) {
        self.push(at, false, realm, back, written(draft));
    }

    /// Something that was noted where the call is not at hand.
    pub fn add(&mut self, note: Note) {
        let Note { at, inbound, back, what, .. } = note;
        self.push(at, inbound, back.path.role.realm(), &back, what);
    }

    /// All of it, oldest first.
    pub fn entries(&self) -> &[LadderEntry] {
        &self.entries
    }

    /// How many messages there were besides, between its first and its last ones.
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    fn push(&mut self, at: UnixMs, inbound: bool, realm: Realm, back: &ReturnPath, what: LadderLine) {
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.remove(MAX_ENTRIES / 2);
            self.dropped = self.dropped.saturating_add(1);
        }
        let LadderLine { summary, cseq, digest } = what;
        let repeated = inbound && self.digests.contains(&digest);
        if inbound && !repeated && self.digests.len() < MAX_ENTRIES {
            self.digests.push(digest);
        }
        let ReturnPath { ingress: through, path, .. } = *back;
        let (local, remote, transport) = (path.local, path.remote, path.transport);
        let (summary, cseq) = (summary.into(), cseq.into());
        self.entries.push(LadderEntry { at, inbound, realm, transport, local, remote, through, summary, cseq, repeated });
    }
}
