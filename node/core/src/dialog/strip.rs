//! From and To values without their tag.

use crate::sip::name_addr::{is_quoted_string, split};
use crate::sip::{is_token, params, quote};

/// The value with its `tag` parameter left out and everything else as it was.
pub fn without_tag(value: &str) -> String {
    let value = value.trim();
    // Parameters of the header field begin behind the closing angle bracket, or, with none, behind the URI.
    let Some(parts) = split(value) else { return value.to_owned() };
    let mut out = value[..value.len() - parts.params.len()].to_owned();
    for (name, param) in params(parts.params) {
        if !name.eq_ignore_ascii_case("tag") {
            out.push(';');
            out.push_str(name);
            if let Some(param) = param {
                out.push('=');
                out.push_str(param);
            }
        }
    }
    out
}

/// The same, fit to be sent: a display name that is neither tokens nor a quoted string gets its quotes, and white space within the
/// angle brackets goes (RFC 3261 §25.1; RFC 4475 §3.1.2.14, §3.1.2.15). A strict far end would refuse the call for what we let pass.
pub fn fit_to_send(value: &str) -> String {
    let value = without_tag(value).trim_end().to_owned();
    let Some(parts) = split(&value).filter(|parts| parts.angled) else { return value };
    let named = is_quoted_string(parts.display) || parts.display.split([' ', '\t']).all(|word| word.is_empty() || is_token(word));
    if named && value.contains(&format!("<{}>", parts.uri)) {
        return value;
    }
    let name = if named { parts.display.to_owned() } else { quote(parts.display) };
    let space = if name.is_empty() { "" } else { " " };
    format!("{name}{space}<{}>{}", parts.uri, parts.params)
}

#[cfg(test)]
mod tests {
    use super::{fit_to_send, without_tag};

    #[test]
    fn what_is_sent_is_well_formed() {
        for (from, to) in [
            ("<sip:a@b>;tag=1", "<sip:a@b>"),
            ("A. Caller<sip:a@b>;tag=1;x=y", "A. Caller<sip:a@b>;x=y"),
            ("\"a, b\"  <sip:a@b>", "\"a, b\"  <sip:a@b>"),
            ("Bell, A <sip:a@b> ;tag=1;x", "\"Bell, A\" <sip:a@b>;x"),
            ("J\u{f6}rg <sip:a@b>", "\"J\u{f6}rg\" <sip:a@b>"),
            ("A \"B\" C <sip:a@b>", "\"A \\\"B\\\" C\" <sip:a@b>"),
            ("\"W, T\" < sip:a@b\t>;tag=1", "\"W, T\" <sip:a@b>"),
            ("< sip:a@b>", "<sip:a@b>"),
            ("\"T\"\t<sip:a@b>\t;\ttag\t=\t1", "\"T\"\t<sip:a@b>"),
            ("sip:a@b;tag=1;x", "sip:a@b;x"),
            ("\"open <sip:a@b>", "\"open <sip:a@b>"),
        ] {
            assert_eq!(fit_to_send(from), to);
        }
    }

    #[test]
    fn only_the_tag_goes() {
        for (from, to) in [
            ("<sip:a@b>;tag=1", "<sip:a@b>"),
            ("<sip:a@b;tag=no>;x=1;tag=2;y", "<sip:a@b;tag=no>;x=1;y"),
            ("\"A;tag=z\" <sip:a@b> ;TAG=1", "\"A;tag=z\" <sip:a@b> "),
            ("sip:a@b;tag=1", "sip:a@b"),
            ("sip:a@b", "sip:a@b"),
            ("\"q\\\";tag=1\" <sip:a@b>", "\"q\\\";tag=1\" <sip:a@b>"),
            ("", ""),
            ("Bell; A <sip:a@b>;tag=1", "Bell; A <sip:a@b>"),
            ("<sip:a@b>;x=\"1;tag=2\";tag=3", "<sip:a@b>;x=\"1;tag=2\""),
        ] {
            assert_eq!(without_tag(from), to);
        }
    }
}
