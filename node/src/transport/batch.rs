//! Datagrams read many at a time, each with the time at which the kernel had it.
//!
//! What waits in the socket while this node is busy, or paused, is as old as it is: by its age the load is judged, and an INVITE whose
//! caller has given up is told from a new one. The kernel stamps by the wall clock (SO_TIMESTAMPNS), which may be set in between; so no
//! datagram is taken for older than the last look at the socket that found it empty, nor for younger than it can be.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, recvmmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

/// One datagram of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram<'a> {
    /// Its octets.
    pub(super) payload: &'a [u8],
    /// Its sender.
    pub(super) from: SocketAddr,
    /// When the kernel had it.
    pub(super) at: Instant,
}

/// Has the kernel stamp what comes in, and hold `buffer` octets of it whatever its limit for others, where this process may ask for
/// that. Best effort: a socket without stamps has datagrams that are new when they are read.
pub(super) fn prepare(socket: &impl AsFd, buffer: usize) {
    let _ = setsockopt(socket, sockopt::RcvBufForce, &buffer);
    let _ = setsockopt(socket, sockopt::ReceiveTimestampns, &true);
}

/// Room for a batch, and what was read into it last.
pub(super) struct Batch {
    storage: Vec<u8>,
    size: usize,
    read: Vec<(Range<usize>, SocketAddr, Instant)>,
    receipts: Receipts,
}

impl Batch {
    /// For so many datagrams of at most `size` octets.
    pub(super) fn new(count: usize, size: usize) -> Batch {
        let receipts = Receipts { empty: Instant::now() };
        Batch { storage: vec![0; count * size], size, read: Vec::with_capacity(count), receipts }
    }

    /// Reads what is there, and says how many; never waits (`WouldBlock`).
    pub(super) fn read(&mut self, socket: &(impl AsFd + AsRawFd)) -> io::Result<usize> {
        self.read.clear();
        let asked = Instant::now();
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = self.storage.chunks_mut(self.size).map(|c| [IoSliceMut::new(c)]).collect();
        let count = slices.len();
        // Made anew: the kernel writes into it how much of it was used, and reads that as its limit.
        let mut headers: MultiHeaders<SockaddrStorage> = MultiHeaders::preallocate(count, Some(nix::cmsg_space!(TimeSpec)));
        let result = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None);
        let (now, unix) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let messages = match result {
            Ok(messages) => messages,
            Err(error) => {
                if error == nix::errno::Errno::EAGAIN {
                    self.receipts.empty = asked;
                }
                return Err(error.into());
            }
        };
        let mut seen = 0;
        for (n, message) in messages.enumerate() {
            seen += 1;
            let Some(from) = sender(&message) else { continue };
            let start = n * self.size;
            let at = self.receipts.at(stamp(&message), now, unix);
            self.read.push((start..start + message.bytes.min(self.size), from, at));
        }
        if seen < count {
            self.receipts.empty = asked;
        }
        Ok(seen)
    }

    /// What was read last, in the order in which it came.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let storage = &self.storage;
        self.read.iter().map(move |(octets, from, at)| Datagram { payload: &storage[octets.clone()], from: *from, at: *at })
    }
}

fn sender(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Option<SocketAddr> {
    let address = message.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
}

/// The kernel's time of receipt, since the Unix epoch.
fn stamp(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Option<Duration> {
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
        _ => None,
    })
}

/// From the kernel's wall clock to the monotonic one.
struct Receipts {
    /// The last moment of which it is known that nothing waited.
    empty: Instant,
}

impl Receipts {
    fn at(&self, stamp: Option<Duration>, now: Instant, unix: Duration) -> Instant {
        let age = stamp.map_or(Duration::ZERO, |stamp| unix.saturating_sub(stamp));
        now.checked_sub(age).unwrap_or(self.empty).max(self.empty).min(now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn an_age_is_no_more_than_it_can_be() {
        let empty = Instant::now();
        let (now, unix) = (empty + Duration::from_secs(10), Duration::from_secs(1_000_000));
        let receipts = Receipts { empty };
        let age = |stamp: Option<u64>| now.duration_since(receipts.at(stamp.map(Duration::from_millis), now, unix)).as_millis();
        for (what, stamp, expected) in [
            ("read at once", Some(1_000_000_000), 0),
            ("it waited", Some(999_993_000), 7000),
            ("it waited as long as it can have", Some(999_990_000), 10_000),
            ("the wall clock was set on meanwhile", Some(996_400_000), 10_000),
            ("the wall clock was set back meanwhile", Some(1_003_600_000), 0),
            ("no stamp", None, 0),
            ("from before the epoch", Some(0), 10_000),
        ] {
            assert_eq!(age(stamp), expected, "{what}");
        }
    }

    #[test]
    fn what_waited_in_the_socket_is_as_old_as_it_is() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback is free");
        socket.set_nonblocking(true).expect("it is a socket");
        prepare(&socket, 1 << 20);
        let to = socket.local_addr().expect("it is bound");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("loopback is free");
        let mut batch = Batch::new(4, 2000);
        assert!(batch.read(&socket).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock));
        // The kernel turns stamps on a moment after they are asked for: until then it stamps when it is read.
        let wait = Duration::from_millis(30);
        for round in 0..100 {
            let sent = Instant::now();
            sender.send_to(b"old", to).expect("loopback takes it");
            std::thread::sleep(wait);
            sender.send_to(b"new", to).expect("loopback takes it");
            batch.read(&socket).expect("both are there");
            let read: Vec<_> = batch.datagrams().collect();
            assert_eq!(read.iter().map(|d| d.payload).collect::<Vec<_>>(), [b"old", b"new"]);
            assert!(read.iter().all(|d| d.from == sender.local_addr().expect("it is bound")));
            assert!(read.iter().all(|d| d.at >= sent && d.at <= Instant::now()));
            if read[1].at.duration_since(read[0].at) >= wait / 2 {
                return;
            }
            assert!(round < 99, "no time of receipt");
        }
    }
}
