//! Numbers that are emergency calls, one by one and by range, and which service they reach.

/// Some numbers and the emergency service behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberRange {
    /// Its name.
    pub name: Box<str>,
    /// Which numbers.
    pub numbers: Numbers,
    /// The service, without `urn:service:`, for example "sos.fire".
    pub service: Box<str>,
}

/// Which numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// All that begin so.
    Prefix(Box<str>),
    /// From the first to the last, of the same length.
    Span(Box<str>, Box<str>),
}

impl Numbers {
    /// Whether a number, without separators and leading `+`, is one of them.
    pub fn contain(&self, number: &str) -> bool {
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        match self {
            Numbers::Prefix(prefix) => digits && number.starts_with(&**prefix),
            // Of the same length, digits compare as numbers do.
            Numbers::Span(first, last) => digits && number.len() == first.len() && (&**first..=&**last).contains(&number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let span = Numbers::Span("110".into(), "119".into());
        let prefix = Numbers::Prefix("9911".into());
        for (number, in_span, in_prefix) in [
            ("110", true, false),
            ("115", true, false),
            ("119", true, false),
            ("120", false, false),
            ("1100", false, false),
            ("11", false, false),
            ("11a", false, false),
            ("", false, false),
            ("9911", false, true),
            ("99117", false, true),
            ("991x", false, false),
            ("9911x", false, false),
        ] {
            assert_eq!((span.contain(number), prefix.contain(number)), (in_span, in_prefix), "{number}");
        }
    }
}
