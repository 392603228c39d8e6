//! NOTIFICATION messages: why a session ends, by code and subcode (RFC 4271 §4.5, RFC 4486, RFC 6608, RFC 9003, RFC 9384).

use std::fmt;

/// Octets of words that a shutdown communication may have here. RFC 8203 allows 128, RFC 9003 255: the shorter is read by both.
pub const SHUTDOWN_WORDS_MAX: usize = 128;

/// Message Header Error (RFC 4271 §6.1).
pub(super) const HEADER: u8 = 1;
/// OPEN Message Error (RFC 4271 §6.2).
pub(super) const OPEN: u8 = 2;
/// Hold Timer Expired (RFC 4271 §6.5).
const HOLD_TIMER: u8 = 4;
/// Finite State Machine Error (RFC 4271 §6.6).
const FSM: u8 = 5;
/// Cease (RFC 4271 §6.7).
const CEASE: u8 = 6;

/// Cease, Administrative Shutdown (RFC 4486 §4).
const SHUTDOWN: u8 = 2;
/// Cease, Connection Collision Resolution (RFC 4486 §4).
const COLLISION: u8 = 7;
/// Cease, BFD Down (RFC 9384 §3).
const BFD_DOWN: u8 = 10;

/// OPEN Message Error, Unsupported Version Number.
pub(super) const VERSION: u8 = 1;

/// What a NOTIFICATION says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// What follows them.
    pub data: Vec<u8>,
}

impl Notification {
    fn new(code: u8, subcode: u8) -> Notification {
        Notification { code, subcode, data: Vec::new() }
    }

    /// RFC 4271 §6.1: 1 not synchronized, 2 bad length, 3 bad type.
    pub(super) fn header(subcode: u8, data: &[u8]) -> Notification {
        Notification { data: data.to_vec(), ..Notification::new(HEADER, subcode) }
    }

    /// RFC 4271 §6.2: 0 malformed, 1 version, 2 peer AS, 3 identifier, 4 optional parameter, 6 hold time.
    pub(super) fn open(subcode: u8, data: &[u8]) -> Notification {
        Notification { data: data.to_vec(), ..Notification::new(OPEN, subcode) }
    }

    /// RFC 4271 §6.5.
    pub(super) fn hold_timer_expired() -> Notification {
        Notification::new(HOLD_TIMER, 0)
    }

    /// RFC 6608 §4: 1 in OpenSent, 2 in OpenConfirm, 3 in Established.
    pub(super) fn fsm(subcode: u8) -> Notification {
        Notification::new(FSM, subcode)
    }

    /// RFC 4271 §6.8.
    pub(super) fn collision() -> Notification {
        Notification::new(CEASE, COLLISION)
    }

    /// RFC 9384: BFD has seen that the path is down.
    pub fn bfd_down() -> Notification {
        Notification::new(CEASE, BFD_DOWN)
    }

    /// An operator's end of the session, with words for the router's operator (RFC 8203 §2, RFC 9003 §2); words that are too long are cut.
    pub fn shutdown(words: &str) -> Notification {
        let mut end = words.len().min(SHUTDOWN_WORDS_MAX);
        while !words.is_char_boundary(end) {
            end -= 1;
        }
        let words = &words.as_bytes()[..end];
        let mut data = vec![u8::try_from(words.len()).expect("at most SHUTDOWN_WORDS_MAX")];
        data.extend_from_slice(words);
        Notification { data, ..Notification::new(CEASE, SHUTDOWN) }
    }

    /// True for OPEN Message Error, Unsupported Version Number: event 24.
    pub(super) fn is_version(&self) -> bool {
        (self.code, self.subcode) == (OPEN, VERSION)
    }

    /// The words of a shutdown communication (subcodes 2 and 4), control characters replaced; `None` where there are none or they are no
    /// UTF-8.
    pub fn words(&self) -> Option<String> {
        if self.code != CEASE || !matches!(self.subcode, 2 | 4) {
            return None;
        }
        let (length, rest) = self.data.split_first()?;
        let words = std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
        (!words.is_empty()).then(|| words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }

    fn names(&self) -> (&'static str, &'static str) {
        let code = match self.code {
            HEADER => "Message Header Error",
            OPEN => "OPEN Message Error",
            3 => "UPDATE Message Error",
            HOLD_TIMER => "Hold Timer Expired",
            FSM => "Finite State Machine Error",
            CEASE => "Cease",
            7 => "ROUTE-REFRESH Message Error",
            _ => "unknown error",
        };
        let subcode = match (self.code, self.subcode) {
            (HEADER, 1) => "Connection Not Synchronized",
            (HEADER, 2) => "Bad Message Length",
            (HEADER, 3) => "Bad Message Type",
            (OPEN, 1) => "Unsupported Version Number",
            (OPEN, 2) => "Bad Peer AS",
            (OPEN, 3) => "Bad BGP Identifier",
            (OPEN, 4) => "Unsupported Optional Parameter",
            (OPEN, 6) => "Unacceptable Hold Time",
            (OPEN, 7) => "Unsupported Capability",
            (FSM, 1) => "in OpenSent",
            (FSM, 2) => "in OpenConfirm",
            (FSM, 3) => "in Established",
            (CEASE, 1) => "Maximum Number of Prefixes Reached",
            (CEASE, SHUTDOWN) => "Administrative Shutdown",
            (CEASE, 3) => "Peer De-configured",
            (CEASE, 4) => "Administrative Reset",
            (CEASE, 5) => "Connection Rejected",
            (CEASE, 6) => "Other Configuration Change",
            (CEASE, COLLISION) => "Connection Collision Resolution",
            (CEASE, 8) => "Out of Resources",
            (CEASE, BFD_DOWN) => "BFD Down",
            _ => "",
        };
        (code, subcode)
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, subcode) = self.names();
        write!(f, "{code}")?;
        match (subcode, self.subcode) {
            ("", 0) => {}
            ("", n) => write!(f, ", subcode {n}")?,
            (name, _) => write!(f, ", {name}")?,
        }
        self.words().map_or(Ok(()), |words| write!(f, ": {words}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_shutdown_come_back_and_long_ones_are_cut_at_a_character() {
        let n = Notification::shutdown("drain of node-a");
        assert_eq!(n.words().as_deref(), Some("drain of node-a"));
        assert_eq!(n.to_string(), "Cease, Administrative Shutdown: drain of node-a");
        let n = Notification::shutdown(&"ö".repeat(100));
        assert_eq!(n.words(), Some("ö".repeat(64)));
        let n = Notification::shutdown(&format!("x{}", "ö".repeat(100)));
        assert_eq!(n.data.len(), 128, "the half character is left out");
        assert_eq!(Notification::shutdown("").words(), None);
    }

    #[test]
    fn words_that_are_no_text_are_not_shown() {
        for data in [vec![], vec![5, b'a'], vec![2, 0xff, 0xfe]] {
            assert_eq!(Notification { data, ..Notification::shutdown("") }.words(), None);
        }
        let n = Notification { data: vec![3, b'a', 27, b'b'], ..Notification::shutdown("") };
        assert_eq!(n.words().as_deref(), Some("a b"), "an escape sequence of a far end reaches no terminal");
        assert_eq!(Notification { code: 9, subcode: 4, data: vec![] }.to_string(), "unknown error, subcode 4");
    }
}
