//! Header field names: the ones the core knows by id, with their compact forms (RFC 3261 §7.3.3 and the IANA registry).

/// A header field name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HeaderId {
    /// Via.
    Via,
    /// From.
    From,
    /// To.
    To,
    /// Call-ID.
    CallId,
    /// CSeq.
    CSeq,
    /// Contact.
    Contact,
    /// Max-Forwards.
    MaxForwards,
    /// Route.
    Route,
    /// Record-Route.
    RecordRoute,
    /// Content-Length.
    ContentLength,
    /// Content-Type.
    ContentType,
    /// Content-Encoding.
    ContentEncoding,
    /// Content-Disposition.
    ContentDisposition,
    /// Require.
    Require,
    /// Proxy-Require.
    ProxyRequire,
    /// Supported.
    Supported,
    /// Unsupported.
    Unsupported,
    /// Allow.
    Allow,
    /// Accept.
    Accept,
    /// Retry-After.
    RetryAfter,
    /// Reason.
    Reason,
    /// Expires.
    Expires,
    /// Min-Expires.
    MinExpires,
    /// Session-Expires.
    SessionExpires,
    /// Min-SE.
    MinSe,
    /// RAck.
    RAck,
    /// RSeq.
    RSeq,
    /// Refer-To.
    ReferTo,
    /// Referred-By.
    ReferredBy,
    /// Replaces.
    Replaces,
    /// Event.
    Event,
    /// Subscription-State.
    SubscriptionState,
    /// P-Asserted-Identity.
    PAssertedIdentity,
    /// P-Preferred-Identity.
    PPreferredIdentity,
    /// Privacy.
    Privacy,
    /// Geolocation.
    Geolocation,
    /// Geolocation-Routing.
    GeolocationRouting,
    /// Call-Info.
    CallInfo,
    /// Resource-Priority.
    ResourcePriority,
    /// Authorization.
    Authorization,
    /// Proxy-Authorization.
    ProxyAuthorization,
    /// WWW-Authenticate.
    WwwAuthenticate,
    /// Proxy-Authenticate.
    ProxyAuthenticate,
    /// Warning.
    Warning,
    /// User-Agent.
    UserAgent,
    /// Server.
    Server,
    /// Date.
    Date,
    /// Timestamp.
    Timestamp,
    /// Alert-Info.
    AlertInfo,
    /// Subject.
    Subject,
    /// History-Info.
    HistoryInfo,
    /// Session-ID.
    SessionId,
    /// Identity.
    Identity,
    /// Path.
    Path,
    /// Max-Breadth.
    MaxBreadth,
    /// MIME-Version.
    MimeVersion,
    /// Any other name; the text is beside it.
    Other,
}

/// Canonical names, shortest first: [`HeaderId::from_name`] looks only at those of the right length.
const NAMES: [(HeaderId, &str); 56] = [
    (HeaderId::To, "To"),
    (HeaderId::Via, "Via"),
    (HeaderId::From, "From"),
    (HeaderId::CSeq, "CSeq"),
    (HeaderId::RAck, "RAck"),
    (HeaderId::RSeq, "RSeq"),
    (HeaderId::Date, "Date"),
    (HeaderId::Path, "Path"),
    (HeaderId::Route, "Route"),
    (HeaderId::Allow, "Allow"),
    (HeaderId::Event, "Event"),
    (HeaderId::Accept, "Accept"),
    (HeaderId::Reason, "Reason"),
    (HeaderId::MinSe, "Min-SE"),
    (HeaderId::Server, "Server"),
    (HeaderId::CallId, "Call-ID"),
    (HeaderId::Contact, "Contact"),
    (HeaderId::Require, "Require"),
    (HeaderId::Expires, "Expires"),
    (HeaderId::Privacy, "Privacy"),
    (HeaderId::Warning, "Warning"),
    (HeaderId::Subject, "Subject"),
    (HeaderId::ReferTo, "Refer-To"),
    (HeaderId::Replaces, "Replaces"),
    (HeaderId::Identity, "Identity"),
    (HeaderId::Supported, "Supported"),
    (HeaderId::CallInfo, "Call-Info"),
    (HeaderId::Timestamp, "Timestamp"),
    (HeaderId::UserAgent, "User-Agent"),
    (HeaderId::AlertInfo, "Alert-Info"),
    (HeaderId::SessionId, "Session-ID"),
    (HeaderId::Unsupported, "Unsupported"),
    (HeaderId::RetryAfter, "Retry-After"),
    (HeaderId::MinExpires, "Min-Expires"),
    (HeaderId::ReferredBy, "Referred-By"),
    (HeaderId::Geolocation, "Geolocation"),
    (HeaderId::MaxBreadth, "Max-Breadth"),
    (HeaderId::MaxForwards, "Max-Forwards"),
    (HeaderId::RecordRoute, "Record-Route"),
    (HeaderId::ContentType, "Content-Type"),
    (HeaderId::HistoryInfo, "History-Info"),
    (HeaderId::MimeVersion, "MIME-Version"),
    (HeaderId::ProxyRequire, "Proxy-Require"),
    (HeaderId::Authorization, "Authorization"),
    (HeaderId::ContentLength, "Content-Length"),
    (HeaderId::SessionExpires, "Session-Expires"),
    (HeaderId::ContentEncoding, "Content-Encoding"),
    (HeaderId::WwwAuthenticate, "WWW-Authenticate"),
    (HeaderId::ResourcePriority, "Resource-Priority"),
    (HeaderId::SubscriptionState, "Subscription-State"),
    (HeaderId::ProxyAuthenticate, "Proxy-Authenticate"),
    (HeaderId::ContentDisposition, "Content-Disposition"),
    (HeaderId::PAssertedIdentity, "P-Asserted-Identity"),
    (HeaderId::GeolocationRouting, "Geolocation-Routing"),
    (HeaderId::ProxyAuthorization, "Proxy-Authorization"),
    (HeaderId::PPreferredIdentity, "P-Preferred-Identity"),
];
/// Longest canonical name.
const LONGEST: usize = NAMES[NAMES.len() - 1].1.len();
/// Where in [`NAMES`] the names of each length start.
const STARTS: [usize; LONGEST + 2] = starts();

const fn starts() -> [usize; LONGEST + 2] {
    let mut starts = [NAMES.len(); LONGEST + 2];
    let mut length = 0;
    while length <= LONGEST {
        let mut at = 0;
        while at < NAMES.len() && NAMES[at].1.len() < length {
            at += 1;
        }
        starts[length] = at;
        length += 1;
    }
    starts
}

impl HeaderId {
    /// Reads a name in any case, long or compact; [`HeaderId::Other`] if unknown.
    pub fn from_name(name: &str) -> HeaderId {
        let length = name.len();
        if length == 1 {
            return compact(name.as_bytes()[0]);
        }
        if length > LONGEST {
            return HeaderId::Other;
        }
        let candidates = &NAMES[STARTS[length]..STARTS[length + 1]];
        candidates.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map_or(HeaderId::Other, |(id, _)| *id)
    }

    /// The name we write; empty for [`HeaderId::Other`].
    pub const fn name(self) -> &'static str {
        match self {
            HeaderId::Via => "Via",
            HeaderId::From => "From",
            HeaderId::To => "To",
            HeaderId::CallId => "Call-ID",
            HeaderId::CSeq => "CSeq",
            HeaderId::Contact => "Contact",
            HeaderId::MaxForwards => "Max-Forwards",
            HeaderId::Route => "Route",
            HeaderId::RecordRoute => "Record-Route",
            HeaderId::ContentLength => "Content-Length",
            HeaderId::ContentType => "Content-Type",
            HeaderId::ContentEncoding => "Content-Encoding",
            HeaderId::ContentDisposition => "Content-Disposition",
            HeaderId::Require => "Require",
            HeaderId::ProxyRequire => "Proxy-Require",
            HeaderId::Supported => "Supported",
            HeaderId::Unsupported => "Unsupported",
            HeaderId::Allow => "Allow",
            HeaderId::Accept => "Accept",
            HeaderId::RetryAfter => "Retry-After",
            HeaderId::Reason => "Reason",
            HeaderId::Expires => "Expires",
            HeaderId::MinExpires => "Min-Expires",
            HeaderId::SessionExpires => "Session-Expires",
            HeaderId::MinSe => "Min-SE",
            HeaderId::RAck => "RAck",
            HeaderId::RSeq => "RSeq",
            HeaderId::ReferTo => "Refer-To",
            HeaderId::ReferredBy => "Referred-By",
            HeaderId::Replaces => "Replaces",
            HeaderId::Event => "Event",
            HeaderId::SubscriptionState => "Subscription-State",
            HeaderId::PAssertedIdentity => "P-Asserted-Identity",
            HeaderId::PPreferredIdentity => "P-Preferred-Identity",
            HeaderId::Privacy => "Privacy",
            HeaderId::Geolocation => "Geolocation",
            HeaderId::GeolocationRouting => "Geolocation-Routing",
            HeaderId::CallInfo => "Call-Info",
            HeaderId::ResourcePriority => "Resource-Priority",
            HeaderId::Authorization => "Authorization",
            HeaderId::ProxyAuthorization => "Proxy-Authorization",
            HeaderId::WwwAuthenticate => "WWW-Authenticate",
            HeaderId::ProxyAuthenticate => "Proxy-Authenticate",
            HeaderId::Warning => "Warning",
            HeaderId::UserAgent => "User-Agent",
            HeaderId::Server => "Server",
            HeaderId::Date => "Date",
            HeaderId::Timestamp => "Timestamp",
            HeaderId::AlertInfo => "Alert-Info",
            HeaderId::Subject => "Subject",
            HeaderId::HistoryInfo => "History-Info",
            HeaderId::SessionId => "Session-ID",
            HeaderId::Identity => "Identity",
            HeaderId::Path => "Path",
            HeaderId::MaxBreadth => "Max-Breadth",
            HeaderId::MimeVersion => "MIME-Version",
            HeaderId::Other => "",
        }
    }

    /// Whether the value is a comma-separated list (RFC 3261 §7.3.1), so that [`Message::values`](super::Message::values) splits it.
    pub const fn is_list(self) -> bool {
        use HeaderId::*;
        matches!(
            self,
            Via | Contact
                | Route
                | RecordRoute
                | ContentEncoding
                | Require
                | ProxyRequire
                | Supported
                | Unsupported
                | Allow
                | Accept
                | Reason
                | PAssertedIdentity
                | PPreferredIdentity
                | Geolocation
                | CallInfo
                | ResourcePriority
                | Warning
                | AlertInfo
                | HistoryInfo
                | Identity
                | Path
        )
    }

    /// Whether a message has at most one field of this name; a second one makes it ambiguous and is refused (RFC 3261 §7.3.1).
    pub const fn is_single(self) -> bool {
        use HeaderId::*;
        matches!(self, From | To | CallId | CSeq | MaxForwards | ContentLength | ContentType)
    }
}

/// Compact forms: RFC 3261 §7.3.3, RFC 4028, 3515, 3892, 6665, 8224.
fn compact(letter: u8) -> HeaderId {
    match letter.to_ascii_lowercase() {
        b'v' => HeaderId::Via,
        b'f' => HeaderId::From,
        b't' => HeaderId::To,
        b'i' => HeaderId::CallId,
        b'm' => HeaderId::Contact,
        b'l' => HeaderId::ContentLength,
        b'c' => HeaderId::ContentType,
        b'e' => HeaderId::ContentEncoding,
        b'k' => HeaderId::Supported,
        b's' => HeaderId::Subject,
        b'x' => HeaderId::SessionExpires,
        b'r' => HeaderId::ReferTo,
        b'b' => HeaderId::ReferredBy,
        b'o' => HeaderId::Event,
        b'y' => HeaderId::Identity,
        _ => HeaderId::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        for (id, name) in NAMES {
            assert_eq!(id.name(), name);
            for form in [name.to_owned(), name.to_lowercase(), name.to_uppercase()] {
                assert_eq!(HeaderId::from_name(&form), id, "{form}");
            }
            assert_eq!(HeaderId::from_name(&format!("{name}x")), HeaderId::Other);
        }
        assert!(NAMES.windows(2).all(|pair| pair[0].1.len() <= pair[1].1.len()));
    }

    #[test]
    fn compact_forms() {
        for (short, id) in
            [("v", HeaderId::Via), ("I", HeaderId::CallId), ("l", HeaderId::ContentLength), ("K", HeaderId::Supported)]
        {
            assert_eq!(HeaderId::from_name(short), id);
        }
        for other in ["", "z", "X-Via", &"a".repeat(5000), "é"] {
            assert_eq!(HeaderId::from_name(other), HeaderId::Other);
        }
    }
}
