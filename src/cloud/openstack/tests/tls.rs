//! Certificates are verified, by the cloud's own authority where it has one.

use super::*;
use crate::cloud::{Cloud, ErrorClass};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use std::sync::Arc;

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A cloud with a certificate of this authority for a name.
    fn cloud(&self, name: &str) -> Fake {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let config = Arc::new(config);
        let wrap = move |tcp| -> Box<dyn fake::Stream> {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            Box::new(rustls::StreamOwned::new(session, tcp))
        };
        Fake::start_with("https", Arc::new(wrap), |_| None)
    }
}

async fn check(fake: &Fake, ca: Option<&str>) -> Result<(), CloudError> {
    OpenStack::new(config("https", fake, "", ca.map(str::as_bytes)), options()).unwrap().check().await
}

#[tokio::test]
async fn the_clouds_own_authority_is_trusted_and_no_other() {
    let authority = Authority::new();
    let fake = authority.cloud("127.0.0.1");
    check(&fake, Some(&authority.pem())).await.unwrap();
    for ca in [None, Some(Authority::new().pem())] {
        let error = check(&fake, ca.as_deref()).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Invalid, "{error}");
        assert!(error.message.contains("unknown authority") && error.message.contains("`cacert`"), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let error = check(&authority.cloud("elsewhere.example"), Some(&authority.pem())).await.unwrap_err();
    assert!(error.class == ErrorClass::Invalid && error.message.contains("another name"), "{error}");
}

#[tokio::test]
async fn https_to_a_port_without_tls_is_told() {
    let fake = Fake::start(|_| None);
    let error = check(&fake, None).await.unwrap_err();
    assert_ne!(error.class, ErrorClass::Unclear, "{error}");
    assert_clean(&error);
}
