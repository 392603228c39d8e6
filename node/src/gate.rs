//! Who may connect to a port that is for few: the cluster's members, operators, a scraper. Anybody can open a connection and say nothing;
//! nobody may keep the others out by it.
//!
//! What is kept true: a connection that has not shown who it is never makes another wait: where there are too many, the oldest goes, first
//! of the source that has too many; what comes from a member's address goes for none but that member's own.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sbc_core::policy::Prefix;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// After a failed accept (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of all who are no members.
    pub all: usize,
    /// Of one source: an IPv4 address or an IPv6 /64. Of a member's too, each for itself.
    pub source: usize,
}

/// Counts connections of one kind. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate {
    limits: Limits,
    members: Arc<[IpAddr]>,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    /// The oldest first.
    places: VecDeque<Place>,
}

#[derive(Debug)]
struct Place {
    id: u64,
    source: Prefix,
    member: bool,
    gone: Arc<Notify>,
}

/// A place at the gate; dropped: free.
#[derive(Debug)]
pub struct Seat {
    id: u64,
    gone: Arc<Notify>,
    inside: Arc<Mutex<Inside>>,
}

fn lock(inside: &Mutex<Inside>) -> MutexGuard<'_, Inside> {
    // Nothing in here panics half-way.
    inside.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    /// `members`: addresses of the cluster's own nodes.
    pub fn new(limits: Limits, members: &[IpAddr]) -> Gate {
        let members = members.iter().map(IpAddr::to_canonical).collect();
        Gate { limits, members, inside: Arc::default() }
    }

    /// The next connection. Where the kernel hands none over, for there are no descriptors left, `failed` is told, the oldest goes that is no
    /// member's, and it is tried again.
    pub async fn next(&self, listener: &TcpListener, failed: impl Fn()) -> (TcpStream, SocketAddr) {
        loop {
            match listener.accept().await {
                Ok(connection) => return connection,
                Err(error) => {
                    tracing::debug!(%error, "no connection accepted");
                    failed();
                    self.relieve();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Lets one in that has not shown who it is. The one that has been there for longest may have to go for it: its [`Seat::evicted`] returns.
    pub fn enter(&self, from: IpAddr) -> Seat {
        let mut inside = lock(&self.inside);
        let (source, member) = self.class(from);
        if inside.of(source) >= self.limits.source {
            inside.evict(|p| p.source == source);
        } else if !member && inside.strangers() >= self.limits.all {
            inside.evict(|p| !p.member);
        }
        self.seat(&mut inside, source, member)
    }

    /// Lets one in that has shown who it is, and will stay: nobody goes for it. `None`: there are too many. A `known` member always gets in.
    pub fn admit(&self, from: IpAddr, known: bool) -> Option<Seat> {
        let mut inside = lock(&self.inside);
        let (source, _) = self.class(from);
        let full = inside.strangers() >= self.limits.all || inside.strangers_of(source) >= self.limits.source;
        (known || !full).then(|| self.seat(&mut inside, source, known))
    }

    /// Sends the oldest away that is no member's: there are no descriptors left.
    fn relieve(&self) {
        lock(&self.inside).evict(|p| !p.member);
    }

    fn class(&self, from: IpAddr) -> (Prefix, bool) {
        (Prefix::of_source(from), self.members.contains(&from.to_canonical()))
    }

    fn seat(&self, inside: &mut Inside, source: Prefix, member: bool) -> Seat {
        let (id, gone) = (inside.next, Arc::new(Notify::new()));
        inside.next += 1;
        inside.places.push_back(Place { id, source, member, gone: Arc::clone(&gone) });
        Seat { id, gone, inside: Arc::clone(&self.inside) }
    }
}

impl Inside {
    fn of(&self, source: Prefix) -> usize {
        self.places.iter().filter(|p| p.source == source).count()
    }

    fn strangers_of(&self, source: Prefix) -> usize {
        self.places.iter().filter(|p| p.source == source && !p.member).count()
    }

    fn strangers(&self) -> usize {
        self.places.iter().filter(|p| !p.member).count()
    }

    fn evict(&mut self, which: impl Fn(&Place) -> bool) {
        if let Some(place) = self.places.iter().position(which).and_then(|at| self.places.remove(at)) {
            place.gone.notify_one();
        }
    }
}

impl Seat {
    /// Returns when it has to go for another.
    pub async fn evicted(&self) {
        self.gone.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.inside).places.retain(|p| p.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    async fn is_evicted(seat: &Seat) -> bool {
        tokio::time::timeout(Duration::from_millis(1), seat.evicted()).await.is_ok()
    }

    fn gate() -> Gate {
        Gate::new(Limits { all: 3, source: 2 }, &[ip("198.18.2.1"), ip("2001:db8::1")])
    }

    #[tokio::test]
    async fn the_oldest_of_the_source_that_has_too_many_goes_first() {
        let gate = gate();
        let other = gate.enter(ip("198.18.10.1"));
        let first = gate.enter(ip("198.18.10.2"));
        let second = gate.enter(ip("198.18.10.2"));
        let third = gate.enter(ip("198.18.10.2"));
        assert!(is_evicted(&first).await);
        assert!(!is_evicted(&other).await && !is_evicted(&second).await && !is_evicted(&third).await);
        let fourth = gate.enter(ip("198.18.10.3"));
        assert!(is_evicted(&other).await, "the oldest of all");
        assert!(!is_evicted(&fourth).await);
    }

    #[tokio::test]
    async fn a_connection_that_is_not_handed_over_is_told_and_costs_a_strangers_place() {
        let gate = gate();
        let (member, stranger) = (gate.enter(ip("198.18.2.1")), gate.enter(ip("198.18.10.1")));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        drop(tokio::join!(gate.next(&listener, || panic!("nothing failed")), TcpStream::connect(at)));
        assert!(!is_evicted(&stranger).await);
        // A listener that is shut hands nothing over (EINVAL), as one without descriptors does.
        let same = std::os::fd::AsFd::as_fd(&listener).try_clone_to_owned().unwrap();
        std::net::TcpStream::from(same).shutdown(std::net::Shutdown::Both).unwrap();
        let failed = AtomicU32::new(0);
        let never = gate.next(&listener, || _ = failed.fetch_add(1, Ordering::Relaxed));
        assert!(tokio::time::timeout(ACCEPT_PAUSE * 5 / 2, never).await.is_err());
        assert!((2..=3).contains(&failed.load(Ordering::Relaxed)), "tried again, after a pause");
        assert!(is_evicted(&stranger).await && !is_evicted(&member).await);
    }

    #[tokio::test]
    async fn nobody_goes_for_a_stranger_but_a_stranger() {
        let gate = gate();
        let members = [gate.enter(ip("198.18.2.1")), gate.enter(ip("198.18.2.1")), gate.enter(ip("2001:db8::1"))];
        let strangers: Vec<Seat> = (0..100).map(|n| gate.enter(ip(&format!("198.18.10.{n}")))).collect();
        for seat in &members {
            assert!(!is_evicted(seat).await);
        }
        let mut left = 0;
        for seat in &strangers {
            left += usize::from(!is_evicted(seat).await);
        }
        assert_eq!(left, 3);
        // A member that opens too many loses its own.
        let again = gate.enter(ip("::ffff:198.18.2.1"));
        assert!(is_evicted(&members[0]).await && !is_evicted(&members[1]).await && !is_evicted(&again).await);
    }

    #[tokio::test]
    async fn an_ipv6_host_is_one_source() {
        let gate = gate();
        let first = gate.enter(ip("2001:db8:1::1"));
        let _more = [gate.enter(ip("2001:db8:1::2")), gate.enter(ip("2001:db8:1::3"))];
        assert!(is_evicted(&first).await);
    }

    #[tokio::test]
    async fn who_has_shown_who_it_is_stays() {
        let gate = gate();
        let kept = gate.admit(ip("198.18.10.1"), false).unwrap();
        let _second = gate.admit(ip("198.18.10.1"), false).unwrap();
        assert!(gate.admit(ip("198.18.10.1"), false).is_none(), "two of one source");
        let third = gate.admit(ip("198.18.10.2"), false).unwrap();
        assert!(gate.admit(ip("198.18.10.3"), false).is_none(), "three in all");
        let _node = gate.admit(ip("198.18.10.1"), true).expect("a member has a place");
        drop(third);
        assert!(gate.admit(ip("198.18.10.3"), false).is_some(), "a place is free again");
        assert!(!is_evicted(&kept).await);
        gate.relieve();
        assert!(is_evicted(&kept).await, "but where there are no descriptors");
    }
}
