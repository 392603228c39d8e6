//! The ways that a request may go, as they were found for it; `call/ways.rs` finds them.

use std::collections::VecDeque;

use crate::io::ReturnPath;

/// One way that a request may go.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where, by which node.
    pub back: ReturnPath,
    /// The name that the far end's certificate must bear, for a new TLS connection.
    pub tls_name: Option<Box<str>>,
}

impl Way {
    /// True for a connection that is there already: others failed or not, its end is all that its failure tells.
    pub fn is_connection(&self) -> bool {
        self.back.path.flow.is_some()
    }
}

/// The ways that a request may go, the best one first.
#[derive(Clone, Debug, Default)]
pub struct Ways {
    next: VecDeque<Way>,
    /// TCP was put before UDP, for its size: once is enough.
    by_tcp: bool,
}

impl Ways {
    /// One only.
    pub fn one(way: Way) -> Ways {
        [way].into_iter().collect()
    }

    /// True when none is left.
    pub fn is_empty(&self) -> bool {
        self.next.is_empty()
    }

    /// A last one.
    pub fn push_back(&mut self, way: Way) {
        self.next.push_back(way);
    }

    /// One to be taken first, before all others.
    pub fn push_front(&mut self, way: Way) {
        self.next.push_front(way);
    }

    /// Takes the best one.
    pub fn take(&mut self) -> Option<Way> {
        self.next.pop_front()
    }

    /// True when TCP was put before UDP.
    pub fn has_tcp_first(&self) -> bool {
        self.by_tcp
    }

    /// TCP goes in the place of this one, which is the next after that.
    pub fn put_tcp_first(&mut self, way: Way) {
        self.by_tcp = true;
        self.next.push_front(way);
    }
}

impl FromIterator<Way> for Ways {
    fn from_iter<I: IntoIterator<Item = Way>>(ways: I) -> Ways {
        Ways { next: ways.into_iter().collect(), by_tcp: false }
    }
}
