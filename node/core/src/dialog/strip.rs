//! From and To values without their tag.

/// The value with its `tag` parameter left out and everything else as it was.
pub fn without_tag(value: &str) -> String {
    let value = value.trim();
    // Parameters of the header field begin after the closing angle bracket, or, with none, after the URI.
    let start = params_start(value);
    let (head, params) = value.split_at(start);
    let mut out = head.to_owned();
    for param in params.split(';').skip(1) {
        let name = param.split('=').next().unwrap_or("").trim();
        if !name.eq_ignore_ascii_case("tag") && !name.is_empty() {
            out.push(';');
            out.push_str(param.trim());
        }
    }
    out
}

fn params_start(value: &str) -> usize {
    let (mut quoted, mut escaped, mut angle) = (false, false, false);
    for (i, c) in value.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match c {
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => angle = true,
            '>' if !quoted => angle = false,
            ';' if !quoted && !angle => return i,
            _ => {}
        }
    }
    value.len()
}

#[cfg(test)]
mod tests {
    use super::without_tag;

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
        ] {
            assert_eq!(without_tag(from), to);
        }
    }
}
