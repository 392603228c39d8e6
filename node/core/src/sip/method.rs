//! SIP methods (RFC 3261 §7.1): an open set, since unknown ones are answered 405 or 501 by name, never refused as bad text.

/// A method. Names are case-sensitive (RFC 3261 §7.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// INVITE, RFC 3261 §13.
    Invite,
    /// ACK, RFC 3261 §13.
    Ack,
    /// BYE, RFC 3261 §15.
    Bye,
    /// CANCEL, RFC 3261 §9.
    Cancel,
    /// OPTIONS, RFC 3261 §11.
    Options,
    /// REGISTER, RFC 3261 §10.
    Register,
    /// PRACK, RFC 3262.
    Prack,
    /// UPDATE, RFC 3311.
    Update,
    /// INFO, RFC 6086.
    Info,
    /// MESSAGE, RFC 3428.
    Message,
    /// REFER, RFC 3515.
    Refer,
    /// NOTIFY, RFC 6665.
    Notify,
    /// SUBSCRIBE, RFC 6665.
    Subscribe,
    /// PUBLISH, RFC 3903.
    Publish,
    /// Any other token.
    Other(Box<str>),
}

impl Method {
    /// Longest method name taken; a longer one is nothing that any specification names.
    pub const MAX_LEN: usize = 64;

    /// Reads a method; `None` if the text is no token (RFC 3261 §25.1) or longer than [`Method::MAX_LEN`].
    pub fn parse(text: &str) -> Option<Method> {
        Some(match text {
            "INVITE" => Method::Invite,
            "ACK" => Method::Ack,
            "BYE" => Method::Bye,
            "CANCEL" => Method::Cancel,
            "OPTIONS" => Method::Options,
            "REGISTER" => Method::Register,
            "PRACK" => Method::Prack,
            "UPDATE" => Method::Update,
            "INFO" => Method::Info,
            "MESSAGE" => Method::Message,
            "REFER" => Method::Refer,
            "NOTIFY" => Method::Notify,
            "SUBSCRIBE" => Method::Subscribe,
            "PUBLISH" => Method::Publish,
            other if other.len() <= Method::MAX_LEN && super::text::is_token(other) => Method::Other(other.into()),
            _ => return None,
        })
    }

    /// The name as it goes on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Method::Other(name) => name,
            known => known.label(),
        }
    }

    /// The name for metrics: a closed set, "OTHER" for what we do not know.
    pub fn label(&self) -> &'static str {
        match self {
            Method::Invite => "INVITE",
            Method::Ack => "ACK",
            Method::Bye => "BYE",
            Method::Cancel => "CANCEL",
            Method::Options => "OPTIONS",
            Method::Register => "REGISTER",
            Method::Prack => "PRACK",
            Method::Update => "UPDATE",
            Method::Info => "INFO",
            Method::Message => "MESSAGE",
            Method::Refer => "REFER",
            Method::Notify => "NOTIFY",
            Method::Subscribe => "SUBSCRIBE",
            Method::Publish => "PUBLISH",
            Method::Other(_) => "OTHER",
        }
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_round_trip() {
        for name in "INVITE ACK BYE CANCEL OPTIONS REGISTER PRACK UPDATE INFO MESSAGE REFER NOTIFY SUBSCRIBE PUBLISH".split(' ') {
            let method = Method::parse(name).expect("known");
            assert_eq!((method.as_str(), method.label()), (name, name));
            assert!(!matches!(method, Method::Other(_)));
        }
    }

    #[test]
    fn names_are_case_sensitive_tokens() {
        let odd = "!interesting-Method0123456789_*+`.%indeed'~";
        assert_eq!(Method::parse(odd).map(|m| (m.as_str().to_owned(), m.label())), Some((odd.to_owned(), "OTHER")));
        assert_eq!(Method::parse("invite"), Some(Method::Other("invite".into())));
        for bad in ["", "IN VITE", "INVITE\r", "a/b", "<A>", "Ä", &"A".repeat(Method::MAX_LEN + 1)] {
            assert_eq!(Method::parse(bad), None, "{bad}");
        }
    }
}
