//! Is it RTP, is it RTCP: the checks that keep garbage out of the core network.

use sbc_core::io::Carries;

/// Which port of a pair a packet came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    /// The even port.
    Rtp,
    /// The odd port.
    Rtcp,
}

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketKind {
    /// RFC 3550 §5.1.
    Rtp,
    /// RFC 3550 §6.1.
    Rtcp,
    /// Something that is none of ours to read, on that port of its stream.
    Opaque(Channel),
}

/// Judges `packet` by what its sender said that it sends, by the port it came to and by whether its sender multiplexes (RFC 5761).
/// `None`: it does not belong there (STUN, DTLS, T.38 and the like have another version than RTP in the first two bits).
pub(super) fn classify(carries: Carries, channel: Channel, mux: bool, packet: &[u8]) -> Option<PacketKind> {
    match (carries, packet.first()) {
        (Carries::Datagrams, _) => return (channel == Channel::Rtp).then_some(PacketKind::Opaque(channel)),
        // RFC 7983 §7: STUN, DTLS, TURN's channels.
        (Carries::DtlsRtp, Some(0..=3 | 20..=79)) => return Some(PacketKind::Opaque(channel)),
        (Carries::Rtp | Carries::DtlsRtp, _) => {}
    }
    match channel {
        // RFC 5761 §4: payload types 64-95 with the marker bit are RTCP packet types 192-223.
        Channel::Rtp if mux && is_rtcp(packet) => Some(PacketKind::Rtcp),
        Channel::Rtp => is_rtp(packet).then_some(PacketKind::Rtp),
        Channel::Rtcp => is_rtcp(packet).then_some(PacketKind::Rtcp),
    }
}

/// RFC 3550 §5.1 and Appendix A.1: version 2, and room for the header that its bits announce.
fn is_rtp(packet: &[u8]) -> bool {
    const FIXED_HEADER: usize = 12;
    let Some(&first) = packet.first() else { return false };
    let csrcs = usize::from(first & 0x0f);
    let extension = first & 0x10 != 0;
    first >> 6 == 2 && packet.len() >= FIXED_HEADER + 4 * csrcs + if extension { 4 } else { 0 }
}

/// RFC 3550 §6.4 and Appendix A.2: version 2, a packet type of RTCP, and the first packet's length within the datagram.
/// Those fields stay in the clear under SRTCP.
fn is_rtcp(packet: &[u8]) -> bool {
    let [first, kind, l1, l2, ..] = *packet else { return false };
    let length = 4 * (usize::from(u16::from_be_bytes([l1, l2])) + 1);
    first >> 6 == 2 && (192..=223).contains(&kind) && length <= packet.len() && packet.len() >= 8
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTP: [u8; 14] = [0x80, 0, 0, 1, 0, 0, 0, 160, 1, 2, 3, 4, 0xff, 0xff];
    const RR: [u8; 8] = [0x80, 201, 0, 1, 1, 2, 3, 4];

    #[test]
    fn table() {
        use Channel::{Rtcp as Odd, Rtp as Even};
        let with = |mut p: [u8; 14], i: usize, v: u8| {
            p[i] = v;
            p
        };
        let stun = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let long_rr = [0x80, 201, 0, 9, 1, 2, 3, 4];
        for (channel, mux, packet, want) in [
            (Even, false, &RTP[..], Some(PacketKind::Rtp)),
            (Even, true, &RTP[..], Some(PacketKind::Rtp)),
            (Even, false, &RTP[..12], Some(PacketKind::Rtp)),
            (Even, false, &RTP[..11], None),
            (Even, false, &with(RTP, 0, 0x81), None), // one CSRC announced, none there
            (Even, false, &with(RTP, 0, 0x90), None), // extension announced, none there
            (Even, false, &with(RTP, 0, 0x40), None), // version 1
            (Even, false, &stun[..], None),
            (Even, false, &[], None),
            (Even, true, &RR[..], Some(PacketKind::Rtcp)),
            (Even, false, &RR[..], None), // too short for RTP
            (Odd, false, &RR[..], Some(PacketKind::Rtcp)),
            (Odd, true, &RR[..], Some(PacketKind::Rtcp)),
            (Odd, false, &RTP[..], None),
            (Odd, false, &long_rr[..], None),
            (Odd, false, &RR[..4], None),
            (Odd, false, &stun[..], None),
            (Odd, false, &[], None),
        ] {
            assert_eq!(classify(Carries::Rtp, channel, mux, packet), want, "{channel:?} mux {mux} {packet:02x?}");
            // What DTLS-SRTP adds is never RTP.
            let other = classify(Carries::DtlsRtp, channel, mux, packet);
            assert!(other == want || (want.is_none() && other == Some(PacketKind::Opaque(channel))), "{packet:02x?}");
            let datagram = (channel == Even).then_some(PacketKind::Opaque(Even));
            assert_eq!(classify(Carries::Datagrams, channel, mux, packet), datagram);
        }
    }

    /// RFC 7983 §7.
    #[test]
    fn by_the_first_octet() {
        for first in 0..=255 {
            let packet = [[first].as_slice(), &RR[1..]].concat();
            let want = match first {
                0..=3 | 20..=63 | 64..=79 => Some(PacketKind::Opaque(Channel::Rtcp)),
                128..=191 => Some(PacketKind::Rtcp),
                _ => None,
            };
            assert_eq!(classify(Carries::DtlsRtp, Channel::Rtcp, false, &packet), want, "{first}");
        }
        assert_eq!(classify(Carries::DtlsRtp, Channel::Rtp, false, &[]), None);
    }
}
