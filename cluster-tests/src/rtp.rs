//! Hand-made RTP: where a description says that media go, and what of it is heard.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::message::Message;

/// How long a packet may take through a node.
const CROSSING: Duration = Duration::from_millis(200);

/// Where the description of a message says that audio goes.
///
/// # Panics
/// It has none.
pub fn media(message: &Message) -> SocketAddr {
    message.audio_target().unwrap_or_else(|| panic!("no audio in {:?}", message.text()))
}

/// A packet of 20 ms with this payload type.
pub fn packet(payload_type: u8, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, payload_type, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    packet[2..4].copy_from_slice(&sequence.to_be_bytes());
    packet.extend([0xd5; 160]);
    packet
}

/// How many of 50 packets from `from` to `to` come out unchanged at `there`.
///
/// # Panics
/// The kernel refuses one.
pub fn heard(from: &UdpSocket, to: SocketAddr, there: &UdpSocket, payload_type: u8) -> usize {
    there.set_read_timeout(Some(CROSSING)).expect("not zero");
    let mut buffer = [0; 2048];
    let crossed = |n: &u16| {
        let packet = packet(payload_type, *n);
        from.send_to(&packet, to).expect("loopback");
        there.recv_from(&mut buffer).is_ok_and(|(len, _)| buffer[..len] == packet)
    };
    (0..50).filter(crossed).count()
}
