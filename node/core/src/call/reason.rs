//! Why something ends, as a message says it (RFC 3326).

use crate::sip::{HeaderId, Message};

/// All that a message gives as its reason, in one value (RFC 3326 §2: a list).
pub(super) fn reasons(message: &Message) -> Option<String> {
    let all: Vec<&str> = message.all(HeaderId::Reason).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// The Q.850 cause that a message gives, for the record (RFC 3326 §2, RFC 6432).
pub(super) fn cause_of(message: &Message) -> Option<u8> {
    message.values(HeaderId::Reason).find_map(q850)
}

/// `Q.850;cause=16;text="..."`: the cause, 1 to 127.
fn q850(reason: &str) -> Option<u8> {
    let protocol = reason.split(';').next()?.trim();
    let cause = crate::sip::params(reason).get("cause")?.parse::<u8>().ok()?;
    (protocol.eq_ignore_ascii_case("Q.850") && (1..=127).contains(&cause)).then_some(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes() {
        for (reason, expected) in [
            ("Q.850;cause=16;text=\"Terminated\"", Some(16)),
            ("q.850 ; cause=31", Some(31)),
            ("SIP;cause=200;text=\"Call completed elsewhere\"", None),
            ("Q.850;cause=0", None),
            ("Q.850;cause=128", None),
            ("Q.850", None),
            ("Q.850;cause=x", None),
        ] {
            assert_eq!(q850(reason), expected, "{reason}");
        }
    }
}
