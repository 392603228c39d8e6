//! Sockets toward routers: TCP with MD5 signatures (RFC 2385) and GTSM (RFC 5082), UDP for BFD with the TTL of RFC 5881 §5.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SetSockOpt, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Octets of a TCP MD5 key (TCP_MD5SIG_MAXKEYLEN of Linux).
pub const MD5_KEY_MAX: usize = 80;

/// RFC 5881 §4.
pub(super) const BFD_PORT: u16 = 3784;

/// RFC 5082 §3: what a packet that crossed no router has.
const TTL_MAX: u8 = 255;

/// What is said must be acknowledged within this time, or the connection ends (RFC 5482): one that a router has forgotten, and whose resets
/// do not get through (GTSM drops them), would be waited for four minutes otherwise.
const UNHEARD_MAX: Duration = Duration::from_secs(10);

/// Internetwork control, as routers mark it (CS6).
const CONTROL: u32 = 0xc0;

mod option {
    //! Options that nix does not have, made by its macros: the call, and what is unsafe in it, is theirs.

    use nix::{setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// A packet with a lower TTL is dropped by the kernel.
        MinTtl,
        SetOnly,
        libc::IPPROTO_IP,
        libc::IP_MINTTL,
        usize
    );
    sockopt_impl!(
        /// The same for IPv6.
        MinHopCount,
        SetOnly,
        libc::IPPROTO_IPV6,
        libc::IPV6_MINHOPCOUNT,
        usize
    );
    sockopt_impl!(
        /// A key for one far end. The value is the kernel's `struct tcp_md5sig`, octet by octet.
        Md5Sig,
        SetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_MD5SIG,
        std::ffi::OsString,
        nix::sys::socket::sockopt::SetOsString
    );
}

/// What makes a connection to a router acceptable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Protection {
    /// RFC 2385: the key of both.
    pub(super) md5: Option<Vec<u8>>,
    /// RFC 5082: only from the next hop.
    pub(super) gtsm: bool,
}

fn set<O: SetSockOpt>(socket: &Socket, option: O, value: &O::Val) -> io::Result<()> {
    setsockopt(socket, option, value).map_err(io::Error::from)
}

/// `struct tcp_md5sig` of linux/tcp.h: the far end's address in a `sockaddr_storage`, flags, prefix length, key length, interface, key.
fn md5sig(far: IpAddr, key: &[u8]) -> Vec<u8> {
    const STORAGE: usize = 128;
    let mut out = vec![0; STORAGE + 8 + MD5_KEY_MAX];
    match far {
        IpAddr::V4(ip) => {
            out[..2].copy_from_slice(&family(libc::AF_INET));
            out[4..8].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out[..2].copy_from_slice(&family(libc::AF_INET6));
            out[8..24].copy_from_slice(&ip.octets());
        }
    }
    let length = u16::try_from(key.len().min(MD5_KEY_MAX)).expect("at most 80");
    out[STORAGE + 2..STORAGE + 4].copy_from_slice(&length.to_ne_bytes());
    out[STORAGE + 8..STORAGE + 8 + usize::from(length)].copy_from_slice(&key[..usize::from(length)]);
    out
}

fn family(of: libc::c_int) -> [u8; 2] {
    u16::try_from(of).expect("a small number").to_ne_bytes()
}

fn protect(socket: &Socket, far: IpAddr, protection: &Protection) -> io::Result<()> {
    if let Some(key) = &protection.md5 {
        set(socket, option::Md5Sig, &OsString::from_vec(md5sig(far, key)))?;
    }
    socket.set_tcp_user_timeout(Some(UNHEARD_MAX))?;
    // Sent with 255 in any case: a router without GTSM does not mind, and one with it takes nothing less.
    if far.is_ipv4() {
        socket.set_ttl_v4(TTL_MAX.into())?;
        socket.set_tos_v4(CONTROL)?;
    } else {
        socket.set_unicast_hops_v6(TTL_MAX.into())?;
        socket.set_tclass_v6(CONTROL)?;
    }
    if protection.gtsm {
        match far {
            IpAddr::V4(_) => set(socket, option::MinTtl, &TTL_MAX.into())?,
            IpAddr::V6(_) => set(socket, option::MinHopCount, &TTL_MAX.into())?,
        }
    }
    Ok(())
}

/// Begins a connection; it stands, or has failed, when the stream becomes writable.
pub(super) fn dial(local: Option<IpAddr>, far: SocketAddr, protection: &Protection) -> io::Result<mio::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(far), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    protect(&socket, far.ip(), protection)?;
    if let Some(local) = local {
        socket.bind(&SockAddr::from(SocketAddr::new(local, 0)))?;
    }
    match socket.connect(&SockAddr::from(far)) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(e) => return Err(e),
    }
    Ok(mio::net::TcpStream::from_std(socket.into()))
}

/// Takes connections of these routers. Those without a key get no signature asked.
pub(super) fn listen(local: SocketAddr, routers: &[(IpAddr, Protection)]) -> io::Result<mio::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    for (router, protection) in routers.iter().filter(|(ip, _)| ip.is_ipv4() == local.is_ipv4()) {
        // GTSM is set on each connection: the listener serves routers with and without it.
        protect(&socket, *router, &Protection { gtsm: false, ..protection.clone() })?;
    }
    socket.bind(&SockAddr::from(local))?;
    socket.listen(16)?;
    Ok(mio::net::TcpListener::from_std(socket.into()))
}

/// GTSM and the rest for a connection that was accepted; its key it has from the listener.
pub(super) fn accepted(stream: &mio::net::TcpStream, far: IpAddr, protection: &Protection) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    protect(&socket, far, &Protection { md5: None, ..protection.clone() })
}

/// Where BFD packets of all routers of a family come to.
pub(super) fn bfd_receiver(ipv4: bool, port: u16) -> io::Result<mio::net::UdpSocket> {
    let (domain, any) =
        if ipv4 { (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)) } else { (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)) };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if ipv4 {
        set(&socket, sockopt::Ipv4RecvTtl, &true)?;
    } else {
        socket.set_only_v6(true)?;
        set(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    }
    socket.bind(&SockAddr::from(SocketAddr::new(any, port)))?;
    Ok(mio::net::UdpSocket::from_std(socket.into()))
}

/// The next BFD packet that crossed no router: its sender, and how long it is. `Ok(None)`: one that is to be discarded.
pub(super) fn receive(socket: &mio::net::UdpSocket, buffer: &mut [u8]) -> io::Result<Option<(IpAddr, usize)>> {
    let mut control = nix::cmsg_space!(libc::c_int);
    let mut iov = [io::IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut iov, Some(&mut control), flags).map_err(io::Error::from)?;
    let length = message.bytes;
    let mut ttl = None;
    for control in message.cmsgs().map_err(io::Error::from)? {
        match control {
            ControlMessageOwned::Ipv4Ttl(n) | ControlMessageOwned::Ipv6HopLimit(n) => ttl = Some(n),
            _ => {}
        }
    }
    let from = message.address.and_then(|a| {
        let v4 = a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| a.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    Ok(from.filter(|_| ttl == Some(TTL_MAX.into())).map(|ip| (ip, length)))
}

/// From where BFD packets go to one router: a port of RFC 5881 §4, of no other session; `start`: where to begin to look for it.
pub(super) fn bfd_sender(local: Option<IpAddr>, far: IpAddr, start: u16) -> io::Result<std::net::UdpSocket> {
    const FIRST: u16 = 49_152;
    /// Tries before it is given up: other programs have a few of these ports.
    const TRIES: u16 = 64;
    let any = if far.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for n in 0..TRIES {
        let port = FIRST + start.wrapping_add(n) % (u16::MAX - FIRST);
        let socket = Socket::new(Domain::for_address(SocketAddr::new(far, BFD_PORT)), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if far.is_ipv4() {
            socket.set_ttl_v4(TTL_MAX.into())?;
            socket.set_tos_v4(CONTROL)?;
        } else {
            socket.set_unicast_hops_v6(TTL_MAX.into())?;
            socket.set_tclass_v6(CONTROL)?;
        }
        match socket.bind(&SockAddr::from(SocketAddr::new(local.unwrap_or(any), port))) {
            Ok(()) => {
                // The address is chosen by the route; a route that is not there yet is no fault: each packet looks again.
                return Ok(socket.into());
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn connected(listener_has: &Protection, dialler_has: &Protection) -> Option<(mio::net::TcpStream, mio::net::TcpStream)> {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let listener = listen(SocketAddr::new(local, 0), &[(local, listener_has.clone())]).unwrap();
        let stream = dial(None, listener.local_addr().unwrap(), dialler_has).unwrap();
        let end = std::time::Instant::now() + Duration::from_millis(500);
        while std::time::Instant::now() < end {
            match listener.accept() {
                Ok((taken, from)) => {
                    accepted(&taken, from.ip(), listener_has).unwrap();
                    return Some((stream, taken));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        None
    }

    fn passes((mut from, mut to): (mio::net::TcpStream, mio::net::TcpStream)) -> bool {
        let end = std::time::Instant::now() + Duration::from_secs(5);
        let mut octet = [0];
        while std::time::Instant::now() < end {
            let _ = from.write(&[7]);
            match to.read(&mut octet) {
                Ok(1) => return octet == [7],
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        false
    }

    #[test]
    fn a_connection_needs_the_same_key_at_both_ends() {
        let key = |k: &str| Protection { md5: Some(k.as_bytes().to_vec()), gtsm: true };
        let none = Protection { md5: None, gtsm: true };
        assert!(passes(connected(&key("one"), &key("one")).expect("the same key")));
        assert!(passes(connected(&none, &none).expect("no key")));
        assert!(connected(&key("one"), &key("two")).is_none(), "another key");
        assert!(connected(&key("one"), &none).is_none(), "no signature");
        let longest = "k".repeat(MD5_KEY_MAX);
        assert!(passes(connected(&key(&longest), &key(&longest)).expect("the longest key")));
        assert!(connected(&key(&longest), &key(&longest[1..])).is_none(), "all of its octets count");
    }

    #[test]
    fn a_packet_that_crossed_a_router_is_discarded() {
        for local in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let receiver = bfd_receiver(local.is_ipv4(), 0).unwrap();
            let to = SocketAddr::new(local, receiver.local_addr().unwrap().port());
            let good = bfd_sender(Some(local), local, 5).unwrap();
            let far = std::net::UdpSocket::bind((local, 0)).unwrap();
            far.send_to(b"far", to).unwrap();
            good.send_to(b"near", to).unwrap();
            let (mut buffer, mut seen) = ([0; 64], Vec::new());
            let end = std::time::Instant::now() + Duration::from_secs(5);
            while seen.len() < 2 && std::time::Instant::now() < end {
                match receive(&receiver, &mut buffer) {
                    Ok(packet) => seen.push(packet.map(|(from, n)| (from, buffer[..n].to_vec()))),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
            assert_eq!(seen, [None, Some((local, b"near".to_vec()))]);
            assert!(good.local_addr().unwrap().port() >= 49_152);
        }
    }
}
