//! BGP messages as octets: what is read from a router, and all that is written but UPDATE (RFC 4271 §4).
//!
//! Little is read: the header of each message, OPEN and NOTIFICATION. An UPDATE is counted by its length and dropped unread, since nothing
//! is imported; so no attribute of any route can reach a parser of ours.

use std::net::Ipv4Addr;

use super::notification::Notification;

/// Marker, length, type.
pub(super) const HEADER_LEN: usize = 19;
/// RFC 4271 §4.1; Extended Messages (RFC 8654) are not negotiated.
pub(super) const MESSAGE_MAX: usize = 4096;
/// What a two-octet field says for an AS that needs four (RFC 6793 §4.2.1).
pub(super) const AS_TRANS: u16 = 23_456;

const OPEN: u8 = 1;
pub(super) const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
/// RFC 2918 §3.
const ROUTE_REFRESH: u8 = 5;

/// Optional parameter: capabilities (RFC 5492 §4).
const PARAM_CAPABILITIES: u8 = 2;
/// Optional parameter that announces the long form (RFC 9072 §2).
const PARAM_EXTENDED: u8 = 255;
/// RFC 4760 §8.
const CAP_MULTIPROTOCOL: u8 = 1;
/// RFC 2918 §2.
const CAP_ROUTE_REFRESH: u8 = 2;
/// RFC 6793 §3.
const CAP_FOUR_OCTET_AS: u8 = 65;

/// An address family, unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4,
    /// AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    pub(super) fn afi(self) -> u8 {
        match self {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        }
    }

    fn of(afi: u16, safi: u8) -> Option<Family> {
        match (afi, safi) {
            (1, 1) => Some(Family::Ipv4),
            (2, 1) => Some(Family::Ipv6),
            _ => None,
        }
    }
}

/// An OPEN, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Four octets, from the capability where it is there.
    pub asn: u32,
    /// Seconds, as proposed.
    pub hold_time: u16,
    /// BGP Identifier.
    pub identifier: Ipv4Addr,
    /// It takes IPv4 unicast: by capability, or by having no capability of any family (RFC 4760 §8).
    pub ipv4: bool,
    /// It takes IPv6 unicast.
    pub ipv6: bool,
    /// It has the four-octet AS capability.
    pub four_octet_as: bool,
}

/// A message of the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Open(Open),
    /// Unread.
    Update,
    Notification(Notification),
    Keepalive,
    /// A family is to be sent again; `None`: one that is not ours.
    RouteRefresh(Option<Family>),
}

fn header(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER_LEN + body.len()).expect("a message of ours is short");
    let mut out = vec![0xff; 16];
    out.extend_from_slice(&length.to_be_bytes());
    out.push(kind);
    out.extend_from_slice(body);
    out
}

/// A whole UPDATE around its body.
pub(super) fn update(body: &[u8]) -> Vec<u8> {
    header(UPDATE, body)
}

/// A KEEPALIVE (RFC 4271 §4.4).
pub(super) fn keepalive() -> Vec<u8> {
    header(KEEPALIVE, &[])
}

/// A NOTIFICATION (RFC 4271 §4.5).
pub(super) fn notification(n: &Notification) -> Vec<u8> {
    let mut body = vec![n.code, n.subcode];
    body.extend_from_slice(&n.data);
    header(NOTIFICATION, &body)
}

/// An OPEN with our capabilities: both families, route refresh and four-octet AS; no graceful restart, for a dead node is to lose its
/// routes at once (RFC 4271 §4.2, RFC 5492).
pub(super) fn open(asn: u32, hold_time: u16, identifier: Ipv4Addr) -> Vec<u8> {
    let mut caps = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        caps.extend_from_slice(&[CAP_MULTIPROTOCOL, 4, 0, family.afi(), 0, 1]);
    }
    caps.extend_from_slice(&[CAP_ROUTE_REFRESH, 0, CAP_FOUR_OCTET_AS, 4]);
    caps.extend_from_slice(&asn.to_be_bytes());
    let length = u8::try_from(caps.len()).expect("four short capabilities");
    let mut body = vec![4];
    body.extend_from_slice(&u16::try_from(asn).unwrap_or(AS_TRANS).to_be_bytes());
    body.extend_from_slice(&hold_time.to_be_bytes());
    body.extend_from_slice(&identifier.octets());
    body.extend_from_slice(&[length + 2, PARAM_CAPABILITIES, length]);
    body.extend_from_slice(&caps);
    header(OPEN, &body)
}

/// Cuts a stream into messages. Holds at most one message that is not complete.
#[derive(Debug, Default)]
pub(super) struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    /// Octets as they came.
    pub(super) fn push(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// The next whole message; `Ok(None)`: more octets are needed. An error ends the session with that NOTIFICATION, and nothing is read
    /// after it.
    pub(super) fn next(&mut self) -> Result<Option<Message>, Notification> {
        let Some((head, _)) = self.buffer.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        // RFC 4271 §6.1.
        if head[..16] != [0xff; 16] {
            return Err(Notification::header(1, &[]));
        }
        let stated = [head[16], head[17]];
        let (length, kind) = (usize::from(u16::from_be_bytes(stated)), head[18]);
        let allowed = match kind {
            OPEN => 29..=MESSAGE_MAX,
            UPDATE => 23..=MESSAGE_MAX,
            NOTIFICATION => 21..=MESSAGE_MAX,
            KEEPALIVE => HEADER_LEN..=HEADER_LEN,
            ROUTE_REFRESH => 23..=MESSAGE_MAX,
            _ => return Err(Notification::header(3, &[kind])),
        };
        if !allowed.contains(&length) {
            return Err(Notification::header(2, &stated));
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        let message = body(kind, &self.buffer[HEADER_LEN..length]);
        self.buffer.drain(..length);
        message.map(Some)
    }
}

fn body(kind: u8, body: &[u8]) -> Result<Message, Notification> {
    Ok(match (kind, body) {
        (OPEN, body) => Message::Open(read_open(body)?),
        (UPDATE, _) => Message::Update,
        (NOTIFICATION, [code, subcode, data @ ..]) => {
            Message::Notification(Notification { code: *code, subcode: *subcode, data: data.to_vec() })
        }
        (ROUTE_REFRESH, [a, b, _, safi, ..]) => Message::RouteRefresh(Family::of(u16::from_be_bytes([*a, *b]), *safi)),
        _ => Message::Keepalive,
    })
}

/// RFC 4271 §4.2 and §6.2. Whether the AS is the one that is expected, the session says.
fn read_open(body: &[u8]) -> Result<Open, Notification> {
    let malformed = || Notification::open(0, &[]);
    let Some((fixed, rest)) = body.split_first_chunk::<10>() else { return Err(malformed()) };
    let [version, as_high, as_low, hold_high, hold_low, a, b, c, d, length] = *fixed;
    if version != 4 {
        // The largest version that we speak.
        return Err(Notification::open(super::notification::VERSION, &[0, 4]));
    }
    let hold_time = u16::from_be_bytes([hold_high, hold_low]);
    let identifier = Ipv4Addr::new(a, b, c, d);
    if identifier.is_unspecified() {
        return Err(Notification::open(3, &[]));
    }
    // RFC 4271 §6.2 rejects 1 and 2. Zero would be a session in which nobody notices a death.
    if hold_time < 3 {
        return Err(Notification::open(6, &[]));
    }
    let mut open = Open {
        asn: u32::from(u16::from_be_bytes([as_high, as_low])),
        hold_time,
        identifier,
        ipv4: false,
        ipv6: false,
        four_octet_as: false,
    };
    // RFC 9072 §2: the long form has its own length, and lengths of two octets.
    let (long, parameters) = match rest {
        [PARAM_EXTENDED, high, low, parameters @ ..] if length != 0 => {
            (true, (usize::from(u16::from_be_bytes([*high, *low])) == parameters.len()).then_some(parameters))
        }
        parameters => (false, (usize::from(length) == parameters.len()).then_some(parameters)),
    };
    let mut families = false;
    let mut parameters = parameters.ok_or_else(malformed)?;
    while !parameters.is_empty() {
        let (kind, value, left) = take_parameter(parameters, long).ok_or_else(malformed)?;
        if kind != PARAM_CAPABILITIES {
            return Err(Notification::open(4, &[]));
        }
        read_capabilities(value, &mut open, &mut families).ok_or_else(malformed)?;
        parameters = left;
    }
    open.ipv4 |= !families;
    if open.asn == 0 {
        return Err(Notification::open(2, &[]));
    }
    Ok(open)
}

fn take_parameter(octets: &[u8], long: bool) -> Option<(u8, &[u8], &[u8])> {
    let (kind, rest) = octets.split_first()?;
    let (length, rest) = if long {
        let (length, rest) = rest.split_first_chunk::<2>()?;
        (usize::from(u16::from_be_bytes(*length)), rest)
    } else {
        let (length, rest) = rest.split_first()?;
        (usize::from(*length), rest)
    };
    let (value, left) = rest.split_at_checked(length)?;
    Some((*kind, value, left))
}

/// RFC 5492 §4: what is not known is passed over. `None`: malformed.
fn read_capabilities(mut octets: &[u8], open: &mut Open, families: &mut bool) -> Option<()> {
    while !octets.is_empty() {
        let (kind, value, left) = take_parameter(octets, false)?;
        match (kind, value) {
            (CAP_MULTIPROTOCOL, [a, b, _, safi]) => {
                *families = true;
                match Family::of(u16::from_be_bytes([*a, *b]), *safi) {
                    Some(Family::Ipv4) => open.ipv4 = true,
                    Some(Family::Ipv6) => open.ipv6 = true,
                    None => {}
                }
            }
            (CAP_FOUR_OCTET_AS, [a, b, c, d]) => {
                open.four_octet_as = true;
                open.asn = u32::from_be_bytes([*a, *b, *c, *d]);
            }
            (CAP_MULTIPROTOCOL | CAP_FOUR_OCTET_AS, _) => return None,
            _ => {}
        }
        octets = left;
    }
    Some(())
}
