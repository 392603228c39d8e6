//! Who is believed in SIP over TLS, from both ends of a handshake.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, date_time_ymd};
use rustls::{ClientConfig, ServerConfig};

use super::pem::provider;
use super::tests::{Authority, Dir, handshake, sip};
use super::{ClientAuth, ClientAuths, PemPaths, SipNames, SipTls};

/// Both realms ask the same.
fn both(auth: ClientAuth) -> ClientAuths {
    ClientAuths { external: auth, core: auth }
}

fn server(paths: &PemPaths, auth: ClientAuth) -> Arc<ServerConfig> {
    sip(paths, both(auth)).core
}

fn client(paths: &PemPaths) -> Arc<ClientConfig> {
    sip(paths, both(ClientAuth::None)).client
}

/// A client that has no certificate.
fn bare(paths: &PemPaths) -> Arc<ClientConfig> {
    let roots = super::Pems::load(paths).unwrap().roots();
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// What a server with a certificate of ours is told by a client that wants `name`.
async fn asked(names: &[&str], uris: &[&str], wanted: &str) -> Result<(), String> {
    let (dir, ca) = (Dir::new(), Authority::new());
    let far = ca.issue(&dir.0, "far", names, uris);
    handshake(server(&far, ClientAuth::None), client(&far), wanted).await.map(drop)
}

#[tokio::test]
async fn the_name_that_was_asked_for_is_in_the_certificate() {
    assert!(asked(&["gw.example.net"], &[], "gw.example.net").await.is_ok());
    assert!(asked(&["127.0.0.1"], &[], "127.0.0.1").await.is_ok());
    // RFC 5922 §7.1: the SIP domain as URI, whatever the host is called.
    assert!(asked(&["host7.example.org"], &["sip:example.net"], "example.net").await.is_ok());
    assert!(asked(&["host7.example.org"], &["sip:example.net"], "host7.example.org").await.is_ok());
    for (names, uris, wanted) in [
        (&["gw.example.net"][..], &[][..], "other.example.net"),
        (&["gw.example.net"], &[], "example.net"),
        (&["127.0.0.1"], &[], "127.0.0.2"),
        (&["gw.example.net"], &[], "127.0.0.1"),
        // §7.2: no wildcards.
        (&["*.example.net"], &[], "gw.example.net"),
        // §7.1: a person's address, and another scheme, are no SIP domain.
        (&["x"], &["sip:alice@example.net"], "example.net"),
        (&["x"], &["sips:example.net"], "example.net"),
    ] {
        let error = asked(names, uris, wanted).await.unwrap_err();
        assert!(error.contains("certificate") || error.contains("alert"), "{names:?} {uris:?} {wanted}: {error}");
    }
}

#[tokio::test]
async fn the_common_name_counts_for_nothing() {
    let (dir, ca) = (Dir::new(), Authority::new());
    let far = ca.issue_with(&dir.0, "far", &[], &[], |p| {
        p.distinguished_name.push(rcgen::DnType::CommonName, "gw.example.net");
    });
    assert!(handshake(server(&far, ClientAuth::None), client(&far), "gw.example.net").await.is_err());
}

#[tokio::test]
async fn an_unknown_authority_and_a_wrong_date_are_refused() {
    let (dir, ours, theirs) = (Dir::new(), Authority::new(), Authority::new());
    let near = ours.issue(&dir.0, "near", &["sbc.test"], &[]);
    let far = theirs.issue(&dir.0, "far", &["gw.test"], &[]);
    assert!(handshake(server(&far, ClientAuth::None), client(&near), "gw.test").await.is_err());
    // One file with both authorities: believed.
    let both: Vec<u8> = [&near.ca, &far.ca].iter().flat_map(|p| std::fs::read(p).unwrap()).collect();
    std::fs::write(&near.ca, both).unwrap();
    assert!(handshake(server(&far, ClientAuth::None), client(&near), "gw.test").await.is_ok());
    let old = |p: &mut CertificateParams| p.not_after = date_time_ymd(2020, 1, 1);
    let expired = theirs.issue_with(&dir.0, "old", &["gw.test"], &[], old);
    assert!(handshake(server(&expired, ClientAuth::None), client(&near), "gw.test").await.is_err());
    let early = |p: &mut CertificateParams| p.not_before = date_time_ymd(4000, 1, 1);
    let not_yet = theirs.issue_with(&dir.0, "new", &["gw.test"], &[], early);
    assert!(handshake(server(&not_yet, ClientAuth::None), client(&near), "gw.test").await.is_err());
}

#[tokio::test]
async fn a_chain_goes_through_its_intermediate() {
    let (dir, root) = (Dir::new(), Authority::new());
    let middle = root.subordinate();
    let leaf = middle.issue(&dir.0, "leaf", &["gw.test"], &[]);
    let near = root.issue(&dir.0, "near", &["sbc.test"], &[]);
    assert!(handshake(server(&leaf, ClientAuth::None), client(&near), "gw.test").await.is_err());
    let chain: Vec<u8> = [std::fs::read(&leaf.cert).unwrap(), std::fs::read(&leaf.ca).unwrap()].concat();
    std::fs::write(&leaf.cert, chain).unwrap();
    assert!(handshake(server(&leaf, ClientAuth::None), client(&near), "gw.test").await.is_ok());
}

#[tokio::test]
async fn clients_are_asked_as_the_realm_says() {
    let (dir, ca) = (Dir::new(), Authority::new());
    let own = ca.issue(&dir.0, "own", &["sbc.test"], &[]);
    let known = client(&ca.issue(&dir.0, "gw", &["gw.test"], &["sip:example.net"]));
    let stranger = {
        let paths = Authority::new().issue(&dir.0, "stranger", &["gw.test"], &[]);
        std::fs::copy(&own.ca, &paths.ca).unwrap();
        client(&paths)
    };
    let shown = |auth, client: &Arc<ClientConfig>| handshake(server(&own, auth), Arc::clone(client), "sbc.test");
    // Not asked: nothing is shown, and a stranger is as good as anybody.
    assert_eq!(shown(ClientAuth::None, &known).await.unwrap().0, None);
    assert_eq!(shown(ClientAuth::None, &stranger).await.unwrap().0, None);
    // Asked: believed or refused, and who has none goes on.
    let seen = shown(ClientAuth::Request, &known).await.unwrap().0.unwrap();
    assert_eq!(SipNames::of(&seen).domains().collect::<Vec<_>>(), ["example.net", "gw.test"]);
    assert!(shown(ClientAuth::Request, &stranger).await.is_err());
    assert_eq!(shown(ClientAuth::Request, &bare(&own)).await.unwrap().0, None);
    // Needed.
    assert!(shown(ClientAuth::Require, &known).await.unwrap().0.is_some());
    assert!(shown(ClientAuth::Require, &stranger).await.is_err());
    assert!(shown(ClientAuth::Require, &bare(&own)).await.is_err());
}

#[tokio::test]
async fn each_realm_asks_for_itself() {
    let (dir, ca) = (Dir::new(), Authority::new());
    let own = ca.issue(&dir.0, "own", &["sbc.test"], &[]);
    let configs = sip(&own, ClientAuths { external: ClientAuth::None, core: ClientAuth::Require });
    let phone = bare(&own);
    assert!(handshake(configs.external, Arc::clone(&phone), "sbc.test").await.is_ok());
    // Nor does the session of the one open the other.
    assert!(handshake(configs.core, phone, "sbc.test").await.is_err());
}

#[tokio::test]
async fn a_client_with_a_servers_certificate_is_believed_and_one_for_mail_is_not() {
    let (dir, ca) = (Dir::new(), Authority::new());
    let own = ca.issue(&dir.0, "own", &["sbc.test"], &[]);
    for (usage, good) in [
        (ExtendedKeyUsagePurpose::ServerAuth, true),
        (ExtendedKeyUsagePurpose::ClientAuth, true),
        (ExtendedKeyUsagePurpose::EmailProtection, false),
    ] {
        let paths = ca.issue_with(&dir.0, "gw", &["gw.test"], &[], |p| p.extended_key_usages = vec![usage.clone()]);
        let done = handshake(server(&own, ClientAuth::Require), client(&paths), "sbc.test").await;
        assert_eq!(done.is_ok(), good, "{usage:?}: {done:?}");
    }
}

#[tokio::test]
async fn certificate_and_authorities_are_swapped_together() {
    let (dir, ca, other) = (Dir::new(), Authority::new(), Authority::new());
    let first = ca.issue(&dir.0, "a", &["sbc.test"], &[]);
    let tls = SipTls::new(sip(&first, both(ClientAuth::Require)));
    let (old, new) = (client(&ca.issue(&dir.0, "b", &["gw.test"], &[])), other.issue(&dir.0, "c", &["gw.test"], &[]));
    let before = handshake(Arc::clone(&tls.current().core), Arc::clone(&old), "sbc.test").await.unwrap().1;
    let second = other.issue(&dir.0, "d", &["sbc.test"], &[]);
    tls.swap(sip(&second, both(ClientAuth::Require)));
    let after = handshake(Arc::clone(&tls.current().core), client(&new), "sbc.test").await.unwrap().1;
    assert_ne!(before, after);
    // The old authority is not believed any more, also not by a session of before.
    assert!(handshake(Arc::clone(&tls.current().core), old, "sbc.test").await.is_err());
}

impl Authority {
    /// One that this one has made.
    fn subordinate(&self) -> Authority {
        self.signed(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))
    }
}
