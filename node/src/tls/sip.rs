//! SIP over TLS: what connections are accepted and opened with, and how that is swapped while they run.
//!
//! TLS 1.2 (RFC 3261's peers are old) and 1.3. No early data: a request that can be replayed is not for a server that dials. A
//! session is resumed only where a phone without a certificate comes back to us: a far end that has to prove itself does so on
//! each connection, by the authorities and the date of now.

use std::sync::{Arc, RwLock};

use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, StoresServerSessions};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

use super::pem::{Pems, TlsError, provider};
use super::verify::{SipClientVerifier, SipServerVerifier};

/// TLS versions.
const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Sessions kept for phones that come back; TLS 1.3 takes two a connection. A kilobyte each at the most.
const SESSIONS: usize = 4096;

/// What SIP over TLS asks of those who connect to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate: phones have none.
    #[default]
    None,
    /// A certificate is asked for, and checked where one is shown; who has none goes on.
    Request,
    /// Without a certificate of an authority in the file there is no connection.
    Require,
}

/// The same for each realm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientAuths {
    /// Anycast and unicast address.
    pub external: ClientAuth,
    /// Core-side address.
    pub core: ClientAuth,
}

/// One generation of configurations, all from the same files.
pub struct SipConfigs {
    /// For connections that come to the external addresses.
    pub external: Arc<ServerConfig>,
    /// For those that come to the core-side address.
    pub core: Arc<ServerConfig>,
    /// For connections that we open, on either side.
    pub client: Arc<ClientConfig>,
}

impl SipConfigs {
    /// Builds all of them, or says what is wrong with the files.
    pub fn build(pems: &Pems, auths: ClientAuths) -> Result<SipConfigs, TlsError> {
        Ok(SipConfigs {
            external: Arc::new(server(pems, auths.external)?),
            core: Arc::new(server(pems, auths.core)?),
            client: Arc::new(client(pems)?),
        })
    }
}

/// The generation in use. A connection lives on with the one that it began with.
pub struct SipTls(RwLock<Arc<SipConfigs>>);

impl SipTls {
    /// Starts with these.
    pub fn new(first: SipConfigs) -> Arc<SipTls> {
        Arc::new(SipTls(RwLock::new(Arc::new(first))))
    }

    /// Handshakes that begin from now on use these; sessions of before are not resumed.
    pub fn swap(&self, next: SipConfigs) {
        *self.0.write().expect("no panic while held") = Arc::new(next);
    }

    /// Those in use.
    pub fn current(&self) -> Arc<SipConfigs> {
        Arc::clone(&self.0.read().expect("no panic while held"))
    }
}

fn server(pems: &Pems, auth: ClientAuth) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(|e| TlsError::content(&pems.paths.cert, e))?;
    let builder = match auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Request | ClientAuth::Require => {
            builder.with_client_cert_verifier(SipClientVerifier::new(pems, auth == ClientAuth::Require)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pems.certified())));
    config.session_storage = match auth {
        ClientAuth::None => ServerSessionMemoryCache::new(SESSIONS),
        ClientAuth::Request | ClientAuth::Require => {
            let none: Arc<dyn StoresServerSessions> = Arc::new(NoServerSessionStorage {});
            none
        }
    };
    Ok(config)
}

/// The far end's certificate must come from the CA file and bear the name that the send asks for
/// ([`Transmit::tls_name`](sbc_core::io::Transmit::tls_name)), or its IP address. Ours is shown where it is asked for.
fn client(pems: &Pems) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(|e| TlsError::content(&pems.paths.cert, e))?
        // What is dangerous about a verifier of one's own: it could leave out the chain. This one does not.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SipServerVerifier::new(pems)))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pems.certified())));
    config.resumption = Resumption::disabled();
    Ok(config)
}
