//! BFD Control packets as octets (RFC 5880 §4.1). No authentication: on one hop the TTL of 255 stands for it (RFC 5881 §5).

use std::time::Duration;

/// Octets of a packet without authentication.
pub const PACKET_LEN: usize = 24;

/// bfd.SessionState, with the number that it has in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// An operator's.
    AdminDown,
    /// Not there, or not yet.
    Down,
    /// The far end is heard and does not hear.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    /// Its name in the RFC.
    pub fn as_str(self) -> &'static str {
        match self {
            State::AdminDown => "AdminDown",
            State::Down => "Down",
            State::Init => "Init",
            State::Up => "Up",
        }
    }

    fn number(self) -> u8 {
        match self {
            State::AdminDown => 0,
            State::Down => 1,
            State::Init => 2,
            State::Up => 3,
        }
    }
}

/// Why the last session went down (RFC 5880 §4.1), as far as it is said here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Diagnostic {
    /// 0.
    #[default]
    None,
    /// 1: nothing was heard for the detection time.
    DetectionTimeExpired,
    /// 3: the far end said so.
    NeighborSignaledDown,
    /// 4: what serves at this node has stopped taking its turns.
    ForwardingPlaneReset,
    /// 7.
    AdministrativelyDown,
    /// Another number of the far end's.
    Other(u8),
}

impl Diagnostic {
    fn number(self) -> u8 {
        match self {
            Diagnostic::None => 0,
            Diagnostic::DetectionTimeExpired => 1,
            Diagnostic::NeighborSignaledDown => 3,
            Diagnostic::ForwardingPlaneReset => 4,
            Diagnostic::AdministrativelyDown => 7,
            Diagnostic::Other(n) => n & 31,
        }
    }

    fn of(number: u8) -> Diagnostic {
        match number {
            0 => Diagnostic::None,
            1 => Diagnostic::DetectionTimeExpired,
            3 => Diagnostic::NeighborSignaledDown,
            4 => Diagnostic::ForwardingPlaneReset,
            7 => Diagnostic::AdministrativelyDown,
            n => Diagnostic::Other(n),
        }
    }
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Of its sender.
    pub state: State,
    /// Of its sender.
    pub diagnostic: Diagnostic,
    /// An answer with `is_final` is asked for.
    pub poll: bool,
    /// The answer to a poll.
    pub is_final: bool,
    /// The sender is in demand mode.
    pub demand: bool,
    /// Packets that may be missed, and one more; not zero.
    pub detect_mult: u8,
    /// The sender's; not zero.
    pub my_discriminator: u32,
    /// The receiver's, as far as its sender knows it; else zero.
    pub your_discriminator: u32,
    /// The sender would send no more often, microseconds in the packet.
    pub desired_min_tx: Duration,
    /// The sender takes no more; zero: none.
    pub required_min_rx: Duration,
}

impl Packet {
    /// As it is sent. Echo packets are not taken.
    pub fn to_octets(self) -> [u8; PACKET_LEN] {
        let mut out = [0; PACKET_LEN];
        out[0] = 1 << 5 | self.diagnostic.number();
        out[1] = self.state.number() << 6 | u8::from(self.poll) << 5 | u8::from(self.is_final) << 4 | u8::from(self.demand) << 1;
        out[2] = self.detect_mult;
        out[3] = 24;
        out[4..8].copy_from_slice(&self.my_discriminator.to_be_bytes());
        out[8..12].copy_from_slice(&self.your_discriminator.to_be_bytes());
        out[12..16].copy_from_slice(&micros(self.desired_min_tx).to_be_bytes());
        out[16..20].copy_from_slice(&micros(self.required_min_rx).to_be_bytes());
        out
    }

    /// As it came; `None`: to be discarded (RFC 5880 §6.8.6, what can be told without the session).
    pub fn read(octets: &[u8]) -> Option<Packet> {
        let (head, _) = octets.split_first_chunk::<PACKET_LEN>()?;
        let [first, flags, detect_mult, length, ..] = *head;
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (authenticated, multipoint) = (flags & 4 != 0, flags & 1 != 0);
        let length = usize::from(length);
        let wrong = first >> 5 != 1 || length < PACKET_LEN || length > octets.len() || authenticated || multipoint;
        let packet = Packet {
            state: match flags >> 6 {
                0 => State::AdminDown,
                1 => State::Down,
                2 => State::Init,
                _ => State::Up,
            },
            diagnostic: Diagnostic::of(first & 31),
            poll: flags & 32 != 0,
            is_final: flags & 16 != 0,
            demand: flags & 2 != 0,
            detect_mult,
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_min_tx: Duration::from_micros(word(12).into()),
            required_min_rx: Duration::from_micros(word(16).into()),
        };
        let nobody = packet.your_discriminator == 0 && packet.state > State::Down;
        (!wrong && !nobody && detect_mult != 0 && packet.my_discriminator != 0).then_some(packet)
    }
}

fn micros(of: Duration) -> u32 {
    u32::try_from(of.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Packet = Packet {
        state: State::Init,
        diagnostic: Diagnostic::NeighborSignaledDown,
        poll: true,
        is_final: false,
        demand: false,
        detect_mult: 3,
        my_discriminator: 0x0102_0304,
        your_discriminator: 0x0506_0708,
        desired_min_tx: Duration::from_millis(50),
        required_min_rx: Duration::from_millis(60),
    };

    #[test]
    fn a_packet_is_what_the_rfc_draws() {
        let octets = GOOD.to_octets();
        assert_eq!(octets[..4], [0b001_00011, 0b10_100000, 3, 24]);
        assert_eq!(octets[4..12], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(octets[12..24], [0, 0, 0xc3, 0x50, 0, 0, 0xea, 0x60, 0, 0, 0, 0]);
        for state in [State::AdminDown, State::Down, State::Init, State::Up] {
            for n in 0..32 {
                let (poll, is_final, demand) = (n & 1 == 0, n & 2 == 0, n & 4 == 0);
                let packet = Packet { state, diagnostic: Diagnostic::of(n), poll, is_final, demand, ..GOOD };
                assert_eq!(Packet::read(&packet.to_octets()), Some(packet));
            }
        }
    }

    #[test]
    fn what_is_to_be_discarded_is() {
        let changed = |at: usize, to: u8| {
            let mut octets = GOOD.to_octets();
            octets[at] = to;
            Packet::read(&octets)
        };
        assert_eq!(changed(0, 0b010_00000), None, "version 2");
        assert_eq!(changed(1, 0b10_000100), None, "authentication");
        assert_eq!(changed(1, 0b10_000001), None, "multipoint");
        assert_eq!(changed(2, 0), None, "no detect multiplier");
        assert_eq!((changed(3, 23), changed(3, 25)), (None, None), "length");
        let from_nobody = Packet { my_discriminator: 0, ..GOOD };
        assert_eq!(Packet::read(&from_nobody.to_octets()), None);
        for (state, taken) in [(State::AdminDown, true), (State::Down, true), (State::Init, false), (State::Up, false)] {
            let to_nobody = Packet { your_discriminator: 0, state, ..GOOD };
            assert_eq!(Packet::read(&to_nobody.to_octets()).is_some(), taken, "{state:?}");
        }
        for n in 0..PACKET_LEN {
            assert_eq!(Packet::read(&GOOD.to_octets()[..n]), None);
        }
        let mut longer = GOOD.to_octets().to_vec();
        longer.push(7);
        assert_eq!(Packet::read(&longer), Some(GOOD), "what follows the length is padding");
    }
}
