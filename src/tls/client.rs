//! The encryption of a connection: whom to trust, and what to show of ourselves.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{self, CryptoProvider, ring},
    },
};

use super::Pem;

/// Trusts the system's authorities and those in `pem`; without `verify`, everybody.
pub(crate) fn connector(verify: bool, pem: &Pem) -> Result<TlsConnector, String> {
    Ok(TlsConnector::from(Arc::new(client_config(verify, pem)?)))
}

/// The same for those who connect by other means.
pub(crate) fn client_config(verify: bool, pem: &Pem) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = if verify {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for certificate in chain(pem.ca.as_deref().unwrap_or_default())? {
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        config.with_root_certificates(roots)
    } else {
        config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    };
    match &pem.identity {
        None => Ok(config.with_no_client_auth()),
        Some((certificates, key)) => {
            let key =
                PrivateKeyDer::from_pem_slice(key).map_err(|_| "no private key".to_owned())?;
            config
                .with_client_auth_cert(chain(certificates)?, key)
                .map_err(|error| error.to_string())
        }
    }
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>();
    all.map_err(|error| error.to_string())
}

/// Takes any certificate (`SMTP_VERIFY_SSL=false`), and still sees that the server has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
