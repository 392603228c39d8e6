//! Times, causes and parties, as people read them.

use prost_types::Timestamp;
use sbc_proto::v1;

/// UTC with milliseconds, or nothing.
pub(crate) fn time(at: Option<&Timestamp>) -> String {
    at.map(|t| Timestamp { seconds: t.seconds, nanos: t.nanos / 1_000_000 * 1_000_000 }.to_string()).unwrap_or_default()
}

/// Seconds between two times with one decimal, or nothing.
pub(crate) fn span(from: Option<&Timestamp>, to: Option<&Timestamp>) -> String {
    let (Some(from), Some(to)) = (from, to) else { return String::new() };
    let ms = (to.seconds - from.seconds).saturating_mul(1000) + i64::from((to.nanos - from.nanos) / 1_000_000);
    format!("{}.{} s", ms.max(0) / 1000, ms.max(0) % 1000 / 100)
}

/// `CALL_STATE_RINGING` as `ringing`.
pub(crate) fn enum_name(value: &str, prefix: &str) -> String {
    value.strip_prefix(prefix).unwrap_or(value).to_ascii_lowercase().replace('_', "-")
}

/// Who hung up and why.
pub(crate) fn cause(cause: Option<&v1::Cause>) -> String {
    let Some(cause) = cause else { return String::new() };
    let origin = enum_name(cause.origin().as_str_name(), "CAUSE_ORIGIN_");
    let q850 = if cause.q850 == 0 { String::new() } else { format!("Q.850 {}", cause.q850) };
    [cause.sip_status.to_string(), cause.reason.clone(), q850, format!("({origin})")]
        .into_iter()
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A party with its display name.
pub(crate) fn party(display: &str, uri: &str) -> String {
    if display.is_empty() { uri.to_owned() } else { format!("{display} <{uri}>") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, ms: i32) -> Timestamp {
        Timestamp { seconds, nanos: ms * 1_000_000 + 7 }
    }

    #[test]
    fn times() {
        assert_eq!(time(Some(&at(1, 20))), "1970-01-01T00:00:01.020Z");
        assert_eq!(time(None), "");
        assert_eq!(span(Some(&at(1, 900)), Some(&at(3, 100))), "1.2 s");
        assert_eq!(span(Some(&at(3, 0)), Some(&at(1, 0))), "0.0 s");
    }

    #[test]
    fn causes() {
        let c = v1::Cause { origin: v1::CauseOrigin::Caller.into(), sip_status: 200, reason: "BYE".into(), q850: 0 };
        assert_eq!(cause(Some(&c)), "200 BYE (caller)");
        assert_eq!(cause(Some(&v1::Cause { q850: 16, ..c })), "200 BYE Q.850 16 (caller)");
    }
}
