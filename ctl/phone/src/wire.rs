//! From octets to a message, by rsip; and whether what a message says is what rsip has read in it.
//!
//! What rsip cannot read ([`Beyond`]) is kept from it and put back behind it: it gets another method or URI of the same place, long names,
//! whole lines, and never a body. What it is not given, nobody has read but this file.

use rsip::SipMessage;
use rsip::headers::ToTypedHeader;
use rsip::headers::untyped::{self, UntypedHeader};
use rsip::message::HasHeaders;

use crate::beyond::{self, Beyond, Parts};
use crate::message::Message;

/// Header fields of one message: more are an attack, and a phone needs some twenty.
const MAX_FIELDS: usize = 256;
/// What rsip is given in place of a URI, a method or a name that are beyond it.
const URI: &str = "sip:beyond.invalid";
const METHOD: &str = "OPTIONS";
const NAME: &str = "X-Beyond";

/// A message cut into lines, and no more.
struct Lines<'a> {
    start: String,
    /// Long names, whole values, as they stand.
    fields: Vec<(String, String)>,
    body: &'a [u8],
    beyond: Vec<Beyond>,
}

impl<'a> Lines<'a> {
    fn of(bytes: &'a [u8]) -> Option<Lines<'a>> {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let mut all = Lines { start: lines.next()?.to_owned(), fields: Vec::new(), body: &bytes[end + 4..], beyond: Vec::new() };
        if head.contains('\u{fffd}') {
            all.beyond.push(Beyond::NotText);
        }
        for line in lines {
            if line.starts_with([' ', '\t']) {
                let (_, value) = all.fields.last_mut()?;
                if !value.is_empty() {
                    value.push(' ');
                }
                value.push_str(line.trim());
                all.beyond.push(Beyond::Folded);
                continue;
            }
            let (name, value) = line.split_once(':')?;
            let name = match beyond::long_form(name.trim()) {
                Some(long) => {
                    all.beyond.push(Beyond::Compact);
                    long
                }
                None => name,
            };
            all.beyond.extend(beyond::name(name));
            all.fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        (all.fields.len() <= MAX_FIELDS).then_some(all)
    }

    /// Method and URI of a request.
    fn request(&self) -> Option<(&str, &str)> {
        let (method, rest) = self.start.strip_suffix(" SIP/2.0")?.split_once(' ')?;
        (!rest.contains(char::is_whitespace)).then_some((method, rest))
    }

    /// What rsip reads in what it is given of it; `None`: it refuses that.
    fn read(&self) -> Option<SipMessage> {
        let mut text = match self.request() {
            Some((method, uri)) => {
                let method = if beyond::method(method).is_none() { method } else { METHOD };
                let uri = if beyond::uri(uri).is_none() { uri } else { URI };
                format!("{method} {uri} SIP/2.0\r\n")
            }
            None => {
                // rsip takes no empty reason, and has its own for each code that it knows.
                let (code, _) = self.start.strip_prefix("SIP/2.0 ").map(|s| s.split_once(' ').unwrap_or((s, "")))?;
                format!("SIP/2.0 {code} Reason\r\n")
            }
        };
        for (name, value) in &self.fields {
            let name = if beyond::name(name).is_none() { name } else { NAME };
            text += &format!("{name}: {value}\r\n");
        }
        SipMessage::try_from(text + "\r\n").ok()
    }

    fn length(&self) -> Option<Result<usize, ()>> {
        let (_, value) = self.fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("Content-Length"))?;
        Some(value.parse().map_err(drop))
    }
}

/// Reads one message. `None`: it is none, or less of it is here than its Content-Length says (RFC 3261 §18.3).
pub(crate) fn read(bytes: &[u8]) -> Option<Message> {
    let lines = Lines::of(bytes)?;
    let read = lines.read()?;
    let mut body = lines.body;
    if let Some(length) = lines.length() {
        body = body.get(..length.ok()?)?;
    }
    let fields = read.headers().iter().map(beyond::field).zip(&lines.fields);
    let named = fields.map(|((name, value), (own, _))| (if name == NAME { own.clone() } else { name }, value));
    let headers = named.filter(|(name, _)| !name.eq_ignore_ascii_case("Content-Length")).collect();
    Some(Message { start: lines.start, headers, body: body.to_vec() })
}

/// Whether rsip reads in a message what stands there: method, Request-URI or status, all header fields, the values of those that make the
/// transaction and the dialog in their parts, and the body. Gives what was beyond rsip, and so was not compared.
///
/// # Errors
/// What it read otherwise, for people.
pub fn reads_back(bytes: &[u8]) -> Result<Vec<Beyond>, String> {
    let lines = Lines::of(bytes).ok_or("this is not a head of lines with a colon")?;
    let read = lines.read().ok_or("rsip refuses it")?;
    let mut beyond = lines.beyond.clone();
    match (lines.request(), &read) {
        (Some((method, uri)), SipMessage::Request(request)) => {
            same("method", method, &request.method.to_string(), beyond::method(method), &mut beyond)?;
            same("Request-URI", &canonical_uri(uri), &request.uri.to_string(), beyond::uri(uri), &mut beyond)?;
            same_uri(uri, &request.uri)?;
        }
        (None, SipMessage::Response(response)) => {
            let code = lines.start.split(' ').nth(1).unwrap_or_default();
            same("status", code, &response.status_code.code().to_string(), None, &mut beyond)?;
        }
        _ => return Err(format!("{:?} is no start line", lines.start)),
    }
    let fields: Vec<(String, String)> = read.headers().iter().map(beyond::field).collect();
    if fields.len() != lines.fields.len() {
        return Err(format!("{} header fields of {}", fields.len(), lines.fields.len()));
    }
    for ((name, value), (read_name, read_value)) in lines.fields.iter().zip(&fields) {
        if beyond::name(name).is_none() && !name.eq_ignore_ascii_case(read_name) || value != read_value {
            return Err(format!("{read_name}: {read_value:?} for {name}: {value:?}"));
        }
        values(name, value, &mut beyond)?;
    }
    for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
        if !lines.fields.iter().any(|(n, v)| n.eq_ignore_ascii_case(name) && !v.is_empty()) {
            return Err(format!("no {name}"));
        }
    }
    match lines.length() {
        Some(Ok(length)) if length == lines.body.len() => {}
        Some(_) => return Err(format!("Content-Length is not {}", lines.body.len())),
        None => {}
    }
    let whole = [b"OPTIONS sip:h SIP/2.0\r\nSubject: x\r\n\r\n", lines.body].concat();
    if SipMessage::try_from(whole.as_slice()).map_err(|e| e.to_string())?.body() != lines.body {
        return Err("another body".to_owned());
    }
    beyond.sort_unstable();
    beyond.dedup();
    Ok(beyond)
}

/// The values of a header field in rsip's types.
fn values(name: &str, value: &str, beyond: &mut Vec<Beyond>) -> Result<(), String> {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    let refused = |e: rsip::Error| format!("{name}: {value}: {e}");
    if is("CSeq") {
        let method = value.split_once(' ').map_or("", |(_, method)| method);
        if let Some(reason) = beyond::method(method) {
            beyond.push(reason);
            return Ok(());
        }
        let read = untyped::CSeq::new(value).typed().map_err(refused)?;
        // Leading zeros are nothing.
        let digits = value.bytes().take_while(|b| *b == b'0').count();
        let zeros = if value[digits..].starts_with(' ') { digits.saturating_sub(1) } else { digits };
        return same(name, &value[zeros..], &read.to_string(), None, beyond);
    }
    if is("Via") {
        return beyond::list(value).try_for_each(|value| {
            if let Some(reason) = beyond::via(value) {
                beyond.push(reason);
                return Ok(());
            }
            let read = untyped::Via::new(value).typed().map_err(refused)?;
            same(name, &canonical_parameters(value), &read.to_string(), None, beyond)
        });
    }
    // One address; a comma is one of a display name.
    let single = is("From") || is("To");
    if !single && !["Contact", "Route", "Record-Route"].iter().any(|known| is(known)) || value == "*" {
        return Ok(());
    }
    let addresses = if single { vec![value] } else { beyond::list(value).collect() };
    addresses.into_iter().try_for_each(|value| {
        if let Some(reason) = beyond::address(value) {
            beyond.push(reason);
            return Ok(());
        }
        let parts = Parts::of(value).ok_or_else(|| format!("{name}: {value:?} is cut off"))?;
        // One shape for all five.
        let read = untyped::Contact::new(value).typed().map_err(refused)?;
        let display = if parts.display.is_empty() { String::new() } else { format!("{} ", parts.display) };
        let whole = format!("{display}<{}>{}", canonical_uri(parts.uri), canonical_parameters(parts.parameters));
        same(name, &whole, &read.to_string(), None, beyond)?;
        same_uri(parts.uri, &read.uri)
    })
}

fn same(what: &str, stands: &str, read: &str, reason: Option<Beyond>, beyond: &mut Vec<Beyond>) -> Result<(), String> {
    match reason {
        Some(reason) => beyond.push(reason),
        None if stands == read => {}
        None => return Err(format!("{what}: {stands:?} is read as {read:?}")),
    }
    Ok(())
}

/// The parts of a URI, which rsip would write the same where it takes one for another.
fn same_uri(stands: &str, read: &rsip::Uri) -> Result<(), String> {
    if beyond::uri(stands).is_some() {
        return Ok(());
    }
    let rest = stands.split_once(':').map_or("", |(_, rest)| rest);
    let rest = rest.split(';').next().unwrap_or_default();
    let (user, host) = rest.split_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
    let (host, port) = host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
    let port_read = read.port().map(ToString::to_string);
    if user != read.user() || host != read.host().to_string() || port != port_read.as_deref() || host.is_empty() {
        return Err(format!("{stands}: user {:?}, host {}, port {port_read:?}", read.user(), read.host()));
    }
    Ok(())
}

/// As rsip writes it: transports and methods in capitals.
fn canonical_parameters(text: &str) -> String {
    let upper = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if ["transport", "method"].iter().any(|known| name.eq_ignore_ascii_case(known)) => {
            format!("{}={}", name.to_ascii_lowercase(), value.to_ascii_uppercase())
        }
        _ => parameter.to_owned(),
    };
    text.split(';').map(upper).collect::<Vec<_>>().join(";")
}

fn canonical_uri(uri: &str) -> String {
    canonical_parameters(uri)
}
