//! Small grammar shared by header values: tokens, quoted strings, lists and parameters (RFC 3261 §25.1).

/// Whether the text is a token: one or more of alphanum and ``-.!%*_+`'~``.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte)
}

/// Trims linear white space.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Position of the first octet for which `wanted` is true, outside quoted strings (with their escapes) and, if `angles`,
/// outside `<...>`. A string or bracket that never closes swallows the rest.
pub(crate) fn find_outside(text: &str, angles: bool, wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let mut quoted = false;
    let mut angle = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        if escaped {
            escaped = false;
        } else if quoted {
            match byte {
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
        } else if angle {
            angle = byte != b'>';
        } else if wanted(byte) {
            return Some(at);
        } else if byte == b'"' {
            quoted = true;
        } else if angles && byte == b'<' {
            angle = true;
        }
    }
    None
}

/// Whether a quoted string begins in the text that does not end in it: what is appended would be swallowed.
pub(crate) fn ends_quoted(text: &str) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    quoted
}

/// Splits a header value at its commas, leaving those in quoted strings and in `<...>` alone. Elements are trimmed and empty
/// ones left out.
pub fn split_list(value: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        loop {
            let text = rest?;
            let (element, tail) = match find_outside(text, true, |byte| byte == b',') {
                Some(at) => (&text[..at], Some(&text[at + 1..])),
                None => (text, None),
            };
            rest = tail;
            let element = trim(element);
            if !element.is_empty() {
                return Some(element);
            }
        }
    })
}

/// Whether an element of a list is missing, or is nothing but parameters.
pub(crate) fn has_hole(value: &str) -> bool {
    let mut rest = Some(value);
    while let Some(text) = rest {
        let (element, tail) = match find_outside(text, true, |byte| byte == b',') {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        rest = tail;
        if matches!(trim(element).as_bytes().first(), None | Some(b';')) {
            return true;
        }
    }
    false
}

/// The parameters of a header value, in order: name, and value as received (a quoted string with its quotes) where there is one.
#[derive(Clone, Debug)]
pub struct Params<'a> {
    rest: &'a str,
}

/// Reads `;name=value;name...` with white space anywhere between; what stands before the first `;` is skipped.
pub fn params(text: &str) -> Params<'_> {
    match find_outside(text, true, |byte| byte == b';') {
        Some(at) => Params { rest: &text[at + 1..] },
        None => Params { rest: "" },
    }
}

impl<'a> Params<'a> {
    /// The value of the first parameter of that name (any case): "" if it has none, quoted strings without their quotes.
    pub fn get(mut self, name: &str) -> Option<&'a str> {
        self.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| strip_quotes(value.unwrap_or("")))
    }
}

impl<'a> Iterator for Params<'a> {
    type Item = (&'a str, Option<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let (element, rest) = match find_outside(self.rest, false, |byte| byte == b';') {
                Some(at) => (&self.rest[..at], &self.rest[at + 1..]),
                None => (self.rest, ""),
            };
            self.rest = rest;
            let (name, value) = match element.split_once('=') {
                Some((name, value)) => (trim(name), Some(trim(value))),
                None => (trim(element), None),
            };
            if !name.is_empty() {
                return Some((name, value));
            }
        }
        None
    }
}

pub(crate) fn strip_quotes(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

/// The text of a quoted string: quotes off, escapes resolved. Anything else is returned as it is.
pub fn unquote(value: &str) -> String {
    let inner = strip_quotes(value);
    if inner.len() == value.len() || !inner.contains('\\') {
        return inner.to_owned();
    }
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => text.extend(chars.next()),
            other => text.push(other),
        }
    }
    text
}

/// Writes a quoted string (RFC 3261 §25.1 quoted-string).
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        if matches!(char, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(char);
    }
    quoted.push('"');
    quoted
}

/// A part of a text, kept as offsets. Texts here are below 64 KiB by [`limits`](super::limits), checked where spans are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    /// Of `start..end`; positions beyond 4 GiB, which no limit allows, make an empty span.
    pub(crate) fn new(start: usize, end: usize) -> Span {
        match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) => Span { start, end },
            _ => Span::default(),
        }
    }

    /// Of `part`, which must be a slice of `whole`.
    pub(crate) fn within(whole: &str, part: &str) -> Span {
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        Span::new(start, start + part.len())
    }

    pub(crate) fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(crate) fn of(self, text: &str) -> &str {
        text.get(self.range()).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_split_outside_quotes_and_brackets() {
        let split = |value| split_list(value).collect::<Vec<_>>();
        assert_eq!(split("a, b ,c"), ["a", "b", "c"]);
        assert_eq!(split(" ,, a,"), ["a"]);
        assert_eq!(split("\"x, \\\" y\" <sip:a,b@c;x=\">;q=1, <sip:d>"), ["\"x, \\\" y\" <sip:a,b@c;x=\">;q=1", "<sip:d>"]);
        assert_eq!(split("\"never, closed"), ["\"never, closed"]);
        assert_eq!(split(""), Vec::<&str>::new());
    }

    #[test]
    fn parameters_with_white_space_and_quotes() {
        let value = "<sip:a;lr@b;not=this>  ;\ttag = x1 ; flag;q=\"a;b=\\\"c\"; ;n=1=2";
        let found: Vec<_> = params(value).collect();
        assert_eq!(found, [("tag", Some("x1")), ("flag", None), ("q", Some("\"a;b=\\\"c\"")), ("n", Some("1=2"))]);
        assert_eq!(params(value).get("TAG"), Some("x1"));
        assert_eq!(params(value).get("flag"), Some(""));
        assert_eq!(params(value).get("q"), Some("a;b=\\\"c"));
        assert_eq!(params(value).get("not"), None);
    }

    #[test]
    fn quoting_round_trips() {
        for text in ["", "plain", "a \"b\" \\ c", "\\", "ünï"] {
            assert_eq!(unquote(&quote(text)), text);
        }
        assert_eq!(unquote("\"open"), "\"open");
        assert_eq!(unquote("\""), "\"");
    }

    #[test]
    fn spans_of_slices() {
        let whole = "abc;tag=x";
        assert_eq!(Span::within(whole, &whole[4..7]).of(whole), "tag");
        assert_eq!(Span::new(5, 50).of(whole), "");
    }
}
