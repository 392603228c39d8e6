//! Which services a domain offers, and which it prefers (NAPTR, RFC 3263 §4.1): a pure function over the records.

use sbc_core::io::Transport;

/// One NAPTR record, as far as SIP uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naptr {
    /// Lower first.
    pub order: u16,
    /// Lower first, within the same order.
    pub preference: u16,
    /// `s` for what leads to SRV, in either case.
    pub flags: String,
    /// `SIP+D2U` and the like, in either case.
    pub service: String,
    /// Empty, or a rewriting that SIP does not use.
    pub regexp: String,
    /// The name to ask SRV for.
    pub replacement: String,
}

/// The SRV names to ask for with the transport of each, best first. What we do not support is left out, and of the rest what
/// `secure` (a `sips:` URI) forbids. Records of a higher order stay in: when all before them are dead, they are what is left.
pub fn services(mut records: Vec<Naptr>, secure: bool) -> Vec<(String, Transport)> {
    records.sort_by_key(|r| (r.order, r.preference));
    let mut services = Vec::new();
    for record in records {
        let transport = match record.service.to_ascii_uppercase().as_str() {
            "SIPS+D2T" => Transport::Tls,
            "SIP+D2U" if !secure => Transport::Udp,
            "SIP+D2T" if !secure => Transport::Tcp,
            _ => continue,
        };
        let usable = record.flags.eq_ignore_ascii_case("s") && record.regexp.is_empty() && record.replacement != ".";
        let service = (record.replacement, transport);
        if usable && !services.contains(&service) {
            services.push(service);
        }
    }
    services
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naptr(order: u16, preference: u16, flags: &str, service: &str, replacement: &str) -> Naptr {
        let (flags, service, replacement) = (flags.into(), service.into(), replacement.into());
        Naptr { order, preference, flags, service, regexp: String::new(), replacement }
    }

    fn names(records: &[Naptr], secure: bool) -> String {
        services(records.to_vec(), secure).iter().map(|(name, t)| format!("{name}/{} ", t.via_token())).collect()
    }

    #[test]
    fn order_then_preference_and_only_what_we_speak() {
        // The example of RFC 3263 §4.1 and what may stand beside it.
        let rfc = [
            naptr(50, 50, "s", "SIPS+D2T", "tls."),
            naptr(90, 50, "s", "SIP+D2T", "tcp."),
            naptr(100, 50, "s", "SIP+D2U", "udp."),
        ];
        let table: &[(&[Naptr], bool, &str)] = &[
            (&rfc, false, "tls./TLS tcp./TCP udp./UDP "),
            (&rfc, true, "tls./TLS "),
            (&rfc[1..], true, ""),
            (&[], false, ""),
            (&[naptr(1, 20, "S", "sip+d2u", "b."), naptr(1, 10, "s", "SIP+D2T", "a.")], false, "a./TCP b./UDP "),
            (&[naptr(2, 1, "s", "SIP+D2U", "b."), naptr(1, 9, "s", "SIP+D2U", "a.")], false, "a./UDP b./UDP "),
            // SCTP, WebSocket, ENUM, terminal flags of other kinds, no service at all.
            (&[naptr(1, 1, "s", "SIP+D2S", "a."), naptr(1, 1, "s", "SIPS+D2W", "b.")], false, ""),
            (&[naptr(1, 1, "u", "SIP+D2U", "a."), naptr(1, 2, "", "SIP+D2T", "b."), naptr(1, 3, "s", "SIP+D2U", ".")], false, ""),
            (&[naptr(1, 1, "s", "SIP+D2U", "a."), naptr(1, 2, "s", "SIP+D2U", "a.")], false, "a./UDP "),
        ];
        for (records, secure, expected) in table {
            assert_eq!(names(records, *secure), *expected, "{records:?} secure {secure}");
        }
        let rewriting = Naptr { regexp: "!.*!sip:a@b!".into(), ..naptr(1, 1, "s", "SIP+D2U", "a.") };
        assert_eq!(names(&[rewriting], false), "");
    }
}
