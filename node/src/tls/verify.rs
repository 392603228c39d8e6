//! Whether a far end may be believed: the chain by webpki, the name by SIP's rules ([`SipNames`]).

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::names::SipNames;
use super::pem::{Pems, TlsError, provider};

/// Chain of a server of SIP: up to an authority of the file, in date, for servers. No revocation lists.
#[derive(Debug)]
struct Chain {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Chain {
    fn of(pems: &Pems) -> Chain {
        Chain { roots: pems.roots(), algorithms: provider().signature_verification_algorithms }
    }

    fn verify(&self, cert: &CertificateDer<'_>, others: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(cert)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, others, now, self.algorithms.all)
    }
}

/// What a connection that we open asks of its far end.
#[derive(Debug)]
pub(super) struct SipServerVerifier(Chain);

impl SipServerVerifier {
    pub(super) fn new(pems: &Pems) -> SipServerVerifier {
        SipServerVerifier(Chain::of(pems))
    }
}

impl ServerCertVerifier for SipServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let names = SipNames::of(end_entity);
        if let Err(error) = self.0.verify(end_entity, intermediates, now) {
            // The connection's line has the reason; only here is what the certificate says of itself.
            tracing::info!(wanted = %server_name.to_str(), names = ?names.shown(), %error, "the far end's certificate is not believed");
            return Err(error);
        }
        if names.bears(server_name) {
            return Ok(ServerCertVerified::assertion());
        }
        let (expected, presented) = (server_name.to_owned(), names.shown());
        Err(CertificateError::NotValidForNameContext { expected, presented }.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

/// What a connection that we accept asks of its far end, where it asks.
///
/// A SIP element opens and accepts connections with one certificate, and public authorities issue none for clients any more:
/// one that is for servers only will do.
#[derive(Debug)]
pub(super) struct SipClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    chain: Chain,
}

impl SipClientVerifier {
    /// `mandatory`: a far end without a certificate is refused.
    pub(super) fn new(pems: &Pems, mandatory: bool) -> Result<Arc<SipClientVerifier>, TlsError> {
        let builder = WebPkiClientVerifier::builder_with_provider(pems.roots(), provider());
        let builder = if mandatory { builder } else { builder.allow_unauthenticated() };
        let inner = builder.build().map_err(|e| TlsError::content(&pems.paths.ca, e))?;
        Ok(Arc::new(SipClientVerifier { inner, chain: Chain::of(pems) }))
    }
}

impl ClientCertVerifier for SipClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let as_client = self.inner.verify_client_cert(end_entity, intermediates, now);
        let verified = as_client.or_else(|error| match self.chain.verify(end_entity, intermediates, now) {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(_) => Err(error),
        });
        if let Err(error) = &verified {
            let names = SipNames::of(end_entity).shown();
            tracing::info!(?names, %error, "a client's certificate is not believed");
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
