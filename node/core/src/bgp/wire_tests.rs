//! What is written here reads the same in a reader that is not ours, and what that one writes reads the same here; and no octets end the
//! process.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use rustbgpd_wire::{
    Afi, AsPathSegment, Capability, LargeCommunity, Message as Theirs, OpenMessage, Origin, PathAttribute, Safi,
};

use super::message::{self, Message, Open, Reader};
use super::notification::Notification;
use super::pair_tests::{config, ms, net, read, route};
use super::update::Writer;
use super::{Output, Peer, Route, Side};

const WRITER: Writer = Writer {
    asn: 65_001,
    four_octet_as: true,
    next_hop4: Some(Ipv4Addr::new(198, 51, 100, 2)),
    next_hop6: Some(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
};

fn attributes(octets: &[u8], four: bool) -> (Vec<IpNet>, Vec<IpNet>, Vec<PathAttribute>) {
    let Theirs::Update(update) = read(octets) else { panic!("no UPDATE") };
    let parsed = update.parse(four, false, &[]).unwrap();
    let of = |entries: &[rustbgpd_wire::Ipv4NlriEntry]| {
        entries.iter().map(|e| net(&rustbgpd_wire::Prefix::V4(e.prefix))).collect::<Vec<_>>()
    };
    let (mut announced, mut withdrawn) = (of(&parsed.announced), of(&parsed.withdrawn));
    let mut rest = Vec::new();
    for attribute in parsed.attributes {
        match attribute {
            PathAttribute::MpReachNlri(mp) => {
                assert_eq!((mp.afi, mp.safi), (Afi::Ipv6, Safi::Unicast));
                assert_eq!(Some(mp.next_hop), WRITER.next_hop6.map(IpAddr::V6));
                announced.extend(mp.announced.iter().map(|e| net(&e.prefix)));
            }
            PathAttribute::MpUnreachNlri(mp) => withdrawn.extend(mp.withdrawn.iter().map(|e| net(&e.prefix))),
            other => rest.push(other),
        }
    }
    (announced, withdrawn, rest)
}

#[test]
fn an_announcement_reads_as_it_was_meant() {
    for prefix in
        ["198.18.112.112/32", "198.18.112.0/21", "128.0.0.0/1", "0.0.0.0/0", "2001:db8:a::53/128", "2001:db8::/33", "::/0"]
    {
        for (prepend, large) in [(0, vec![]), (3, vec![[65_001, 1, 2]])] {
            let communities = vec![0xfde9_0064, 0xffff_ff01];
            let r = Route { prepend, communities: communities.clone(), large_communities: large.clone(), ..route(prefix) };
            let (announced, withdrawn, rest) = attributes(&WRITER.announce(&r).unwrap(), true);
            assert_eq!((announced, withdrawn), (vec![r.prefix], vec![]));
            let path = vec![65_001; usize::from(prepend) + 1];
            let mut expected = vec![PathAttribute::Origin(Origin::Igp)];
            let segments = vec![AsPathSegment::AsSequence(path)];
            expected.push(PathAttribute::AsPath(rustbgpd_wire::AsPath { segments }));
            if r.prefix.addr().is_ipv4() {
                expected.push(PathAttribute::NextHop(WRITER.next_hop4.unwrap()));
            }
            expected.push(PathAttribute::Communities(communities));
            if !large.is_empty() {
                let large = LargeCommunity { global_admin: 65_001, local_data1: 1, local_data2: 2 };
                expected.push(PathAttribute::LargeCommunities(vec![large]));
            }
            assert_eq!(rest, expected, "{prefix}");
            let (announced, withdrawn, rest) = attributes(&WRITER.withdraw(&r.prefix), true);
            assert_eq!((announced, withdrawn, rest), (vec![], vec![r.prefix], vec![]));
        }
    }
}

#[test]
fn the_longest_announcement_fits_into_a_message() {
    let longest = Route {
        prepend: u8::MAX,
        communities: (0..32).collect(),
        large_communities: (0..32).map(|n| [n, n, n]).collect(),
        ..route("2001:db8:a::53/128")
    };
    let octets = Writer { asn: 4_200_000_000, four_octet_as: false, ..WRITER }.announce(&longest).unwrap();
    assert!(octets.len() < message::MESSAGE_MAX / 2, "{}", octets.len());
    let octets = WRITER.announce(&longest).unwrap();
    let (_, _, rest) = attributes(&octets, true);
    let path = rest.iter().find_map(|a| if let PathAttribute::AsPath(p) = a { Some(p.segments.clone()) } else { None });
    assert_eq!(path.unwrap(), [AsPathSegment::AsSequence(vec![65_001; 11])]);
    assert!(rest.iter().any(|a| matches!(a, PathAttribute::LargeCommunities(all) if all.len() == 32)));
}

#[test]
fn an_old_speaker_gets_two_octets_and_as4_path() {
    let old = |asn| Writer { asn, four_octet_as: false, ..WRITER };
    let octets = old(65_001).announce(&route("198.18.112.112/32")).unwrap();
    assert!(!octets.windows(3).any(|w| w == [0xc0, 17, 6]), "AS4_PATH only where it is needed");
    let octets = old(4_200_000_000).announce(&route("198.18.112.112/32")).unwrap();
    assert!(octets.windows(7).any(|w| w == [0x40, 2, 4, 2, 1, 0x5b, 0xa0]), "AS_TRANS in AS_PATH");
    let mut as4 = vec![0xc0, 17, 6, 2, 1];
    as4.extend_from_slice(&4_200_000_000u32.to_be_bytes());
    assert!(octets.windows(9).any(|w| w == as4));
}

#[test]
fn without_a_next_hop_of_its_family_nothing_is_written() {
    let none = Writer { next_hop4: None, next_hop6: None, ..WRITER };
    assert_eq!(none.announce(&route("198.18.112.112/32")), None);
    assert_eq!(none.announce(&route("2001:db8:a::53/128")), None);
}

#[test]
fn our_open_has_two_families_and_no_graceful_restart() {
    for asn in [65_001, 4_200_000_000] {
        let Theirs::Open(open) = read(&message::open(asn, 3, [10, 0, 0, 1].into())) else { panic!("no OPEN") };
        assert_eq!(open.my_as, u16::try_from(asn).unwrap_or(23_456));
        assert_eq!((open.hold_time, open.bgp_identifier), (3, Ipv4Addr::new(10, 0, 0, 1)));
        let family = |afi| Capability::MultiProtocol { afi, safi: Safi::Unicast };
        let four = Capability::FourOctetAs { asn };
        assert_eq!(open.capabilities, [family(Afi::Ipv4), family(Afi::Ipv6), Capability::RouteRefresh, four]);
    }
    let Theirs::Notification(n) = read(&message::notification(&Notification::shutdown("drain"))) else {
        panic!("no NOTIFICATION")
    };
    assert_eq!((n.code.as_u8(), n.subcode, &n.data[..]), (6, 2, &b"\x05drain"[..]));
    assert_eq!(read(&message::keepalive()), Theirs::Keepalive);
}

fn next(octets: &[u8]) -> Result<Option<Message>, Notification> {
    let mut reader = Reader::default();
    reader.push(octets);
    reader.next()
}

#[test]
fn their_open_reads_as_it_was_meant() {
    let four = Capability::FourOctetAs { asn: 4_200_000_000 };
    let v6 = Capability::MultiProtocol { afi: Afi::Ipv6, safi: Safi::Unicast };
    let long = Capability::Unknown { code: 200, data: vec![7; 250].into() };
    for (capabilities, asn, ipv4, ipv6) in [
        (vec![], 23_456, true, false),
        (vec![four.clone(), Capability::RouteRefresh, Capability::ExtendedMessage], 4_200_000_000, true, false),
        (vec![v6.clone(), four.clone()], 4_200_000_000, false, true),
        // Over 255 octets: RFC 9072.
        (vec![long, four, v6], 4_200_000_000, false, true),
    ] {
        let mut octets = bytes::BytesMut::new();
        let four_octet_as = asn > 65_535;
        let theirs = OpenMessage { version: 4, my_as: 23_456, hold_time: 90, bgp_identifier: [10, 0, 0, 2].into(), capabilities };
        theirs.encode(&mut octets).unwrap();
        let open = Open { asn, hold_time: 90, identifier: [10, 0, 0, 2].into(), ipv4, ipv6, four_octet_as };
        assert_eq!(next(&octets), Ok(Some(Message::Open(open))));
    }
}

/// Octets that are nearly right, and octets that are nothing: they end in a message, a NOTIFICATION or a wait, and what waits is bounded.
#[test]
fn no_octets_end_the_process() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut any = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % u64::try_from(below).unwrap()).unwrap()
    };
    let whole = [
        message::open(65_000, 9, [10, 0, 0, 2].into()),
        message::keepalive(),
        message::update(&[0; 30]),
        message::notification(&Notification::shutdown("bye")),
        WRITER.announce(&route("198.18.112.112/32")).unwrap(),
        vec![0xff; 64],
    ];
    for _ in 0..20_000 {
        let mut peer = Peer::new(config(0), 1);
        peer.handle_routes(&[route("198.18.112.112/32")]);
        peer.handle_start(ms(0));
        peer.handle_connected(Side::Outgoing, [10, 0, 0, 1].into(), ms(0));
        for message in 0..any(5) {
            let mut octets = if message < 2 && any(3) > 0 { whole[message].clone() } else { whole[any(6)].clone() };
            for _ in 0..any(4) {
                let at = any(octets.len());
                match any(4) {
                    0 => octets.truncate(at.max(1)),
                    1 => octets.insert(at, u8::try_from(any(256)).unwrap()),
                    // Lengths and types are where it hurts.
                    2 => octets[(16 + any(14)).min(at)] = u8::try_from(any(256)).unwrap(),
                    _ => octets[at] = u8::try_from(any(256)).unwrap(),
                }
            }
            peer.handle_octets(Side::Outgoing, &octets, ms(1));
        }
        let mut sent = 0;
        while let Some(output) = peer.poll_output() {
            if let Output::Send(_, octets) = output {
                read(&octets);
                sent += 1;
            }
        }
        assert!(sent <= 8, "a router's octets do not multiply");
    }
}
