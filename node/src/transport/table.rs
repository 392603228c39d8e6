//! The connections that exist, and how to find one for a message. Bookkeeping only: no socket is touched here.
//!
//! Kept true: an entry stays from admission until its task ends, so the limits count what really exists; an entry that is
//! closing is found by nobody.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use sbc_core::ids::FlowId;
use sbc_core::io::{AddressRole, Transmit, Transport};
use sbc_core::policy::Prefix;
use tokio::sync::{mpsc, oneshot};

/// A message on its way to a connection.
#[derive(Debug)]
pub(crate) struct Queued {
    /// The message.
    pub(crate) transmit: Transmit,
    /// It was moved from a broken connection once: it is not moved again.
    pub(crate) moved: bool,
}

/// What makes an opened connection the right one for another message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OpenKey {
    /// TCP or TLS.
    pub(crate) transport: Transport,
    /// Our address.
    pub(crate) local: IpAddr,
    /// The far end.
    pub(crate) remote: SocketAddr,
    /// The name that its certificate was checked for.
    pub(crate) tls_name: Option<Box<str>>,
}

/// What makes an accepted connection the right one for a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AcceptKey {
    /// TCP or TLS.
    pub(crate) transport: Transport,
    /// Our address.
    pub(crate) local: IpAddr,
    /// The far end, with the port it connected from.
    pub(crate) remote: SocketAddr,
}

#[derive(Debug)]
enum Origin {
    Accepted(AcceptKey),
    Opened(OpenKey),
}

#[derive(Debug)]
struct Entry {
    /// `None`: closing.
    queue: Option<mpsc::Sender<Queued>>,
    reset: Option<oneshot::Sender<()>>,
    role: AddressRole,
    origin: Origin,
}

/// What the task of a connection holds: the other ends of its entry.
#[derive(Debug)]
pub(crate) struct FlowEnds {
    /// Its id.
    pub(crate) id: FlowId,
    /// Messages to write; ends when the connection is to be closed.
    pub(crate) queue: mpsc::Receiver<Queued>,
    /// Fires when the connection is to be reset.
    pub(crate) reset: oneshot::Receiver<()>,
}

/// Why a connection is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too many in all.
    Total,
    /// Too many from this source.
    Source,
}

/// What became of a message for a connection.
#[derive(Debug)]
pub(crate) enum Queueing {
    /// The connection will write it.
    Done,
    /// Its queue is full.
    Full,
    /// No such connection, or it is closing: the message back.
    Gone(Queued),
}

/// All connections of this node.
#[derive(Debug, Default)]
pub(crate) struct FlowTable {
    last_id: u64,
    entries: HashMap<FlowId, Entry>,
    opened: HashMap<OpenKey, FlowId>,
    accepted: HashMap<AcceptKey, FlowId>,
    /// Accepted ones that exist, by source.
    sources: HashMap<IpAddr, usize>,
    /// Accepted ones in the middle of a message, by source.
    half_open: HashMap<IpAddr, usize>,
    accepted_count: usize,
}

fn source_of(ip: IpAddr) -> IpAddr {
    Prefix::of_source(ip).addr
}

/// One more of a source, up to `most`; false: it has as many.
fn count_up(counts: &mut HashMap<IpAddr, usize>, source: IpAddr, most: usize) -> bool {
    if counts.get(&source).copied().unwrap_or(0) >= most {
        return false;
    }
    *counts.entry(source).or_insert(0) += 1;
    true
}

fn count_down(counts: &mut HashMap<IpAddr, usize>, source: IpAddr) {
    if let Some(n) = counts.get_mut(&source) {
        *n -= 1;
        if *n == 0 {
            counts.remove(&source);
        }
    }
}

impl FlowTable {
    /// Enters an accepted connection, or says which limit it would break.
    pub(crate) fn admit(&mut self, role: AddressRole, key: AcceptKey, limits: &super::Limits) -> Result<FlowEnds, Refusal> {
        if self.accepted_count >= limits.flows {
            return Err(Refusal::Total);
        }
        if !count_up(&mut self.sources, source_of(key.remote.ip()), limits.flows_per_source) {
            return Err(Refusal::Source);
        }
        self.accepted_count += 1;
        let ends = self.insert(role, Origin::Accepted(key), limits.write_queue);
        self.accepted.insert(key, ends.id);
        Ok(ends)
    }

    /// Enters a connection that is about to be opened, or says which limit it would break: one of their own, so that nobody who connects
    /// to us keeps us from the called side.
    pub(crate) fn open(&mut self, role: AddressRole, key: OpenKey, limits: &super::Limits) -> Result<FlowEnds, Refusal> {
        if self.entries.len() - self.accepted_count >= limits.flows_opened {
            return Err(Refusal::Total);
        }
        let ends = self.insert(role, Origin::Opened(key.clone()), limits.write_queue);
        self.opened.insert(key, ends.id);
        Ok(ends)
    }

    fn insert(&mut self, role: AddressRole, origin: Origin, capacity: usize) -> FlowEnds {
        self.last_id += 1;
        let id = FlowId(self.last_id);
        let (tx, queue) = mpsc::channel(capacity.max(1));
        let (reset_tx, reset) = oneshot::channel();
        self.entries.insert(id, Entry { queue: Some(tx), reset: Some(reset_tx), role, origin });
        FlowEnds { id, queue, reset }
    }

    /// The opened connection for a key.
    pub(crate) fn find_opened(&self, key: &OpenKey) -> Option<FlowId> {
        self.opened.get(key).copied()
    }

    /// The accepted connection for a key.
    pub(crate) fn find_accepted(&self, key: &AcceptKey) -> Option<FlowId> {
        self.accepted.get(key).copied()
    }

    /// A connection by its id, where it is one by this transport to this far end: ids begin again when a node starts, and another
    /// node may remember one of an earlier start.
    pub(crate) fn find(&self, id: FlowId, transport: Transport, remote: SocketAddr) -> Option<FlowId> {
        let ends = match &self.entries.get(&id)?.origin {
            Origin::Accepted(key) => (key.transport, key.remote),
            Origin::Opened(key) => (key.transport, key.remote),
        };
        (ends == (transport, remote)).then_some(id)
    }

    /// Queues a message on a connection.
    pub(crate) fn queue(&self, id: FlowId, message: Queued) -> Queueing {
        let Some(queue) = self.entries.get(&id).and_then(|e| e.queue.as_ref()) else { return Queueing::Gone(message) };
        match queue.try_send(message) {
            Ok(()) => Queueing::Done,
            Err(mpsc::error::TrySendError::Full(_)) => Queueing::Full,
            Err(mpsc::error::TrySendError::Closed(back)) => Queueing::Gone(back),
        }
    }

    /// Lets a connection write what is queued, and then close.
    pub(crate) fn close(&mut self, id: FlowId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.queue = None;
        }
        self.unindex(id);
    }

    /// Resets all connections on addresses of `role`.
    pub(crate) fn reset_role(&mut self, role: AddressRole) {
        let ids: Vec<FlowId> = self.entries.iter().filter(|(_, e)| e.role == role).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(reset) = self.entries.get_mut(&id).and_then(|e| e.reset.take()) {
                // The task may have ended by itself.
                let _ = reset.send(());
            }
            self.close(id);
        }
    }

    /// Removes a connection whose socket is closed. From here on nothing is queued on it.
    pub(crate) fn finish(&mut self, id: FlowId) {
        self.unindex(id);
        let Some(entry) = self.entries.remove(&id) else { return };
        if let Origin::Accepted(key) = entry.origin {
            self.accepted_count -= 1;
            count_down(&mut self.sources, source_of(key.remote.ip()));
        }
    }

    /// A source has begun a message on one more connection; false: it has begun as many as it may.
    pub(crate) fn begin_message(&mut self, remote: IpAddr, limits: &super::Limits) -> bool {
        count_up(&mut self.half_open, source_of(remote), limits.half_open_per_source)
    }

    /// What was begun is whole, or its connection is gone.
    pub(crate) fn end_message(&mut self, remote: IpAddr) {
        count_down(&mut self.half_open, source_of(remote));
    }

    /// All ids.
    pub(crate) fn ids(&self) -> Vec<FlowId> {
        self.entries.keys().copied().collect()
    }

    fn unindex(&mut self, id: FlowId) {
        match self.entries.get(&id).map(|e| &e.origin) {
            Some(Origin::Accepted(key)) if self.accepted.get(key) == Some(&id) => {
                self.accepted.remove(&key.clone());
            }
            Some(Origin::Opened(key)) if self.opened.get(key) == Some(&id) => {
                self.opened.remove(&key.clone());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::*;

    fn key(port: u16) -> AcceptKey {
        AcceptKey {
            transport: Transport::Tcp,
            local: "127.0.0.1".parse().unwrap(),
            remote: SocketAddr::new("127.0.0.2".parse().unwrap(), port),
        }
    }

    #[test]
    fn one_ipv6_network_is_one_source_and_ours_are_not_counted_with_theirs() {
        let limits = Limits { flows: 2, flows_per_source: 1, flows_opened: 1, ..Limits::default() };
        let mut t = FlowTable::default();
        let from = |ip: &str| AcceptKey { remote: SocketAddr::new(ip.parse().unwrap(), 1), ..key(1) };
        let a = t.admit(AddressRole::Anycast, from("2001:db8:0:1::1"), &limits).unwrap();
        assert_eq!(t.admit(AddressRole::Anycast, from("2001:db8:0:1:ffff::2"), &limits).unwrap_err(), Refusal::Source);
        t.admit(AddressRole::Anycast, from("2001:db8:0:2::1"), &limits).unwrap();
        assert_eq!(t.admit(AddressRole::Anycast, from("127.0.0.9"), &limits).unwrap_err(), Refusal::Total);
        let open = |port| OpenKey { transport: Transport::Tcp, local: key(1).local, remote: key(port).remote, tls_name: None };
        t.open(AddressRole::Core, open(5060), &limits).expect("those who connect to us do not keep us from connecting");
        assert_eq!(t.open(AddressRole::Core, open(5062), &limits).unwrap_err(), Refusal::Total);
        t.finish(a.id);
        t.admit(AddressRole::Anycast, from("::ffff:127.0.0.9"), &limits).unwrap();
    }

    #[test]
    fn limits_count_until_the_task_has_ended() {
        let limits = Limits { flows: 3, flows_per_source: 2, flows_opened: 1, ..Limits::default() };
        let mut t = FlowTable::default();
        let a = t.admit(AddressRole::Anycast, key(1), &limits).unwrap();
        let _b = t.admit(AddressRole::Unicast, key(2), &limits).unwrap();
        assert_eq!(t.admit(AddressRole::Unicast, key(3), &limits).unwrap_err(), Refusal::Source);
        t.close(a.id);
        assert_eq!(t.find_accepted(&key(1)), None, "closing: found by nobody");
        assert_eq!(t.admit(AddressRole::Unicast, key(3), &limits).unwrap_err(), Refusal::Source);
        t.finish(a.id);
        let c = t.admit(AddressRole::Unicast, key(3), &limits).unwrap();
        assert_ne!(c.id, a.id, "ids are not reused");
        let open = OpenKey { transport: Transport::Tcp, local: key(1).local, remote: key(9).remote, tls_name: None };
        let o = t.open(AddressRole::Unicast, open.clone(), &limits).unwrap();
        assert_eq!(t.find_opened(&open), Some(o.id));
        assert_eq!(t.open(AddressRole::Unicast, open, &limits).unwrap_err(), Refusal::Total);
    }

    #[test]
    fn an_id_counts_only_with_its_far_end() {
        let mut t = FlowTable::default();
        let a = t.admit(AddressRole::Anycast, key(1), &Limits::default()).unwrap();
        assert_eq!(t.find(a.id, Transport::Tcp, key(1).remote), Some(a.id));
        assert_eq!(t.find(a.id, Transport::Tcp, key(2).remote), None, "another customer's");
        assert_eq!(t.find(a.id, Transport::Tls, key(1).remote), None);
        assert_eq!(t.find(FlowId(99), Transport::Tcp, key(1).remote), None);
    }

    #[test]
    fn reset_is_for_one_role() {
        let limits = Limits::default();
        let mut t = FlowTable::default();
        let mut a = t.admit(AddressRole::Anycast, key(1), &limits).unwrap();
        let mut b = t.admit(AddressRole::Unicast, key(2), &limits).unwrap();
        t.reset_role(AddressRole::Anycast);
        assert!(a.reset.try_recv().is_ok());
        assert!(b.reset.try_recv().is_err());
    }

    #[test]
    fn an_old_entry_does_not_unindex_its_successor() {
        let limits = Limits::default();
        let mut t = FlowTable::default();
        let a = t.admit(AddressRole::Anycast, key(1), &limits).unwrap();
        let b = t.admit(AddressRole::Anycast, key(1), &limits).unwrap();
        t.finish(a.id);
        assert_eq!(t.find_accepted(&key(1)), Some(b.id));
    }
}
