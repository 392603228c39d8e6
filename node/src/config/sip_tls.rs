//! `[sip.tls]`: certificates of their own for SIP.

use std::path::{Path, PathBuf};

use super::reader::Section;

/// What a realm asks of those who connect by TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate.
    #[default]
    None,
    /// One is checked where it is shown.
    Request,
    /// No connection without.
    Require,
}

/// `[sip.tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipTlsSection {
    /// The chain that far ends of SIP see.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities that certificates of far ends may come from.
    pub ca: PathBuf,
    /// Of who connects to the anycast or unicast address.
    pub external: ClientAuth,
    /// Of who connects to the core-side address.
    pub core: ClientAuth,
}

/// The table of that name in `[sip]`. `Some(None)`: it is not there; `None`: it has faults.
pub(super) fn read(sip: &Section<'_>, base: &Path) -> Option<Option<SipTlsSection>> {
    let Some(s) = sip.section("tls") else { return (!sip.has("tls")).then_some(None) };
    let (cert, key, ca) = (s.required("cert"), s.required("key"), s.required("ca"));
    let words = [("none", ClientAuth::None), ("request", ClientAuth::Request), ("require", ClientAuth::Require)];
    let auth = s.section("client_auth");
    let of = |realm: &'static str| auth.as_ref().and_then(|a| a.word(realm, &words)).unwrap_or_default();
    let (external, core) = (of("external"), of("core"));
    let path = |p: &str| base.join(p);
    Some(Some(SipTlsSection { cert: path(cert?.value), key: path(key?.value), ca: path(ca?.value), external, core }))
}
