//! Signatures, checked by the verifier that TLS uses.

use russh::Signer;
use russh::keys::ssh_key::private::KeypairData;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use super::*;

const OPENSSH: &str = include_str!("../key/samples/rsa");
const PKCS1: &str = include_str!("../key/samples/rsa-pem");

fn from_openssh() -> RsaKey {
    let key = russh::keys::PrivateKey::from_openssh(OPENSSH).unwrap();
    let KeypairData::Rsa(pair) = key.key_data() else { panic!("the sample is RSA") };
    RsaKey::from_openssh(pair).unwrap()
}

/// Whether the TLS library takes this for the key's signature.
fn verifies(key: &RsaKey, scheme: SignatureScheme, message: &[u8], signature: &[u8]) -> bool {
    let info: SubjectPublicKeyInfoDer<'_> = key.signing.public_key().unwrap();
    let mut info: &[u8] = info.as_ref();
    let mut info = value(&mut info, SEQUENCE).unwrap();
    value(&mut info, SEQUENCE).unwrap();
    let public = value(&mut info, BIT_STRING).unwrap().strip_prefix(&[0]).unwrap();
    let algorithms = default_provider().signature_verification_algorithms;
    let (_, algorithms) = algorithms.mapping.iter().find(|(known, _)| *known == scheme).unwrap();
    algorithms.iter().any(|algorithm| algorithm.verify_signature(public, message, signature).is_ok())
}

#[tokio::test]
async fn signs_with_sha2_as_rfc_8332_writes_it() {
    for (hash, name, scheme) in [
        (HashAlg::Sha512, "rsa-sha2-512", SignatureScheme::RSA_PKCS1_SHA512),
        (HashAlg::Sha256, "rsa-sha2-256", SignatureScheme::RSA_PKCS1_SHA256),
    ] {
        let mut key = from_openssh();
        let identity = AgentIdentity::from(key.public().clone());
        let signed = key.auth_sign(&identity, Some(hash), b"message".to_vec()).await.unwrap();
        let rest = signed.strip_prefix(b"message").unwrap();
        let (length, blob) = rest.split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_be_bytes(*length) as usize, blob.len());
        let (length, rest) = blob.split_first_chunk::<4>().unwrap();
        let (told, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        assert_eq!(told, name.as_bytes());
        let (length, signature) = rest.split_first_chunk::<4>().unwrap();
        assert_eq!((u32::from_be_bytes(*length), signature.len()), (256, 256));
        assert!(verifies(&key, scheme, b"message", signature));
        assert!(!verifies(&key, scheme, b"massage", signature));
    }
}

#[tokio::test]
async fn never_signs_with_sha1() {
    let mut key = from_openssh();
    let identity = AgentIdentity::from(key.public().clone());
    assert!(key.auth_sign(&identity, None, b"message".to_vec()).await.is_err());
}

#[test]
fn both_formats_are_one_key() {
    let der = PrivateKeyDer::from_pem_slice(PKCS1.as_bytes()).unwrap();
    assert_eq!(RsaKey::from_der(&der).unwrap().public(), from_openssh().public());
}

#[test]
fn other_keys_are_none() {
    let der = PrivateKeyDer::from_pem_slice(include_bytes!("../key/samples/ecdsa-pkcs8")).unwrap();
    assert!(RsaKey::from_der(&der).is_none());
}

#[test]
fn divides() {
    for (number, divisor) in [(0_u64, 7_u64), (6, 7), (7, 7), (u64::MAX, 255), (u64::MAX, u64::MAX - 1), (1 << 63, 3)] {
        let left = remainder(&number.to_be_bytes(), &divisor.to_be_bytes());
        let left = left.iter().fold(0, |sum, digit| sum << 8 | u64::from(*digit));
        assert_eq!(left, number % divisor, "{number} % {divisor}");
    }
    assert_eq!(*less_one(&[1, 1]).unwrap(), [1, 0]);
    assert!(less_one(&[1, 2]).is_none() && less_one(&[]).is_none());
}
