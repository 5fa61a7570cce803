//! RSA keys, which sign with SHA-2 and through the TLS library's own implementation.
//!
//! The one RSA implementation that SSH brings has an open advisory (RUSTSEC-2023-0071) and is not built in; ring, which
//! TLS rests on, signs without it. What ring needs and OpenSSH does not write down is worked out here. Never verifies.

use std::sync::Arc;

use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_encoding::Encode;
use russh::keys::ssh_key::Mpint;
use russh::keys::ssh_key::private::RsaKeypair;
use russh::keys::ssh_key::public::{KeyData, RsaPublicKey};
use russh::keys::{HashAlg, PublicKey};
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer};
use rustls::sign::SigningKey;
use secrecy::zeroize::Zeroizing;

/// An RSA key of 2048 to 4096 bits.
#[derive(Clone)]
pub(super) struct RsaKey {
    signing: Arc<dyn SigningKey>,
    public: PublicKey,
}

impl RsaKey {
    /// From PKCS#1 or PKCS#8; `None` when it is no RSA key, or one that ring does not take.
    pub(super) fn from_der(der: &PrivateKeyDer<'_>) -> Option<Self> {
        let signing = any_supported_type(der).ok()?;
        let public = public_key(&signing.public_key()?)?;
        Some(Self { signing, public })
    }

    /// From what OpenSSH writes, which leaves out the two exponents that make signing fast.
    pub(super) fn from_openssh(pair: &RsaKeypair) -> Option<Self> {
        let (public, private) = (pair.public(), pair.private());
        let number = |number: &Mpint| number.as_positive_bytes().map(|bytes| Zeroizing::new(bytes.to_vec()));
        let (d, p, q) = (number(private.d())?, number(private.p())?, number(private.q())?);
        let (short_p, short_q) = (remainder(&d, &less_one(&p)?), remainder(&d, &less_one(&q)?));
        let (n, e, inverse) = (number(public.n())?, number(public.e())?, number(private.iqmp())?);
        let mut numbers = Zeroizing::new(integer(&[0]));
        for number in [n, e, d, p, q, short_p, short_q, inverse] {
            numbers.extend_from_slice(&Zeroizing::new(integer(&number)));
        }
        let der = Zeroizing::new(tagged(SEQUENCE, &numbers));
        Self::from_der(&PrivatePkcs1KeyDer::from(der.as_slice()).into())
    }

    pub(super) fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, hash: HashAlg, message: &[u8]) -> Option<(&'static str, Vec<u8>)> {
        let (name, scheme) = match hash {
            HashAlg::Sha256 => ("rsa-sha2-256", SignatureScheme::RSA_PKCS1_SHA256),
            HashAlg::Sha512 => ("rsa-sha2-512", SignatureScheme::RSA_PKCS1_SHA512),
            _ => return None,
        };
        Some((name, self.signing.choose_scheme(&[scheme])?.sign(message).ok()?))
    }
}

/// The key cannot sign this, or nobody waits for it.
#[derive(Debug)]
pub(super) struct Unsigned;

impl From<russh::SendError> for Unsigned {
    fn from(_: russh::SendError) -> Self {
        Self
    }
}

impl russh::Signer for RsaKey {
    type Error = Unsigned;

    /// What is to be signed, followed by the signature as RFC 8332 writes it.
    async fn auth_sign(
        &mut self,
        _key: &AgentIdentity,
        hash: Option<HashAlg>,
        mut message: Vec<u8>,
    ) -> Result<Vec<u8>, Unsigned> {
        let (name, signature) = hash.and_then(|hash| self.sign(hash, &message)).ok_or(Unsigned)?;
        let mut blob = Vec::new();
        name.encode(&mut blob).map_err(|_| Unsigned)?;
        signature.encode(&mut blob).map_err(|_| Unsigned)?;
        blob.encode(&mut message).map_err(|_| Unsigned)?;
        Ok(message)
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// The key in a SubjectPublicKeyInfo, as SSH writes it.
fn public_key(mut info: &[u8]) -> Option<PublicKey> {
    let mut info = value(&mut info, SEQUENCE)?;
    value(&mut info, SEQUENCE)?;
    let mut key = value(&mut info, BIT_STRING)?.strip_prefix(&[0])?;
    let mut key = value(&mut key, SEQUENCE)?;
    let mut number = || Some(Mpint::from_positive_bytes(value(&mut key, INTEGER)?));
    let (n, e) = (number()?, number()?);
    Some(PublicKey::new(KeyData::Rsa(RsaPublicKey::new(e, n).ok()?), ""))
}

/// The next value of DER, which must have this tag.
fn value<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&[found, length], mut after) = rest.split_first_chunk()?;
    let length = match length {
        ..=0x7f => usize::from(length),
        0x81 | 0x82 => {
            let (digits, tail) = after.split_at_checked(usize::from(length - 0x80))?;
            after = tail;
            digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit))
        }
        _ => return None,
    };
    let (value, after) = after.split_at_checked(length)?;
    *rest = after;
    (found == tag).then_some(value)
}

/// A value in DER. None here is longer than 64 KiB.
fn tagged(tag: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
    let length = match (high, low) {
        (0, 0..0x80) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag][..], &length, value].concat()
}

/// A positive number in DER, from its big-endian digits.
fn integer(digits: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if digits.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    tagged(INTEGER, &Zeroizing::new([sign, digits].concat()))
}

/// One less than an odd number.
fn less_one(number: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut less = Zeroizing::new(number.to_vec());
    let last = less.last_mut().filter(|last| **last % 2 == 1)?;
    *last -= 1;
    Some(less)
}

/// What is left of a number divided by another, both big-endian; bit by bit, once in the life of a key.
fn remainder(number: &[u8], divisor: &[u8]) -> Zeroizing<Vec<u8>> {
    let divisor = Zeroizing::new([&[0][..], divisor].concat());
    let mut left = Zeroizing::new(vec![0; divisor.len()]);
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
        let mut carry = bit;
        for digit in left.iter_mut().rev() {
            let shifted = *digit << 1 | carry;
            carry = *digit >> 7;
            *digit = shifted;
        }
        if left.as_slice() >= divisor.as_slice() {
            subtract(&mut left, &divisor);
        }
    }
    let zeros = left.iter().take_while(|digit| **digit == 0).count();
    Zeroizing::new(left[zeros..].to_vec())
}

/// Takes a number off one that is no smaller and as long.
fn subtract(number: &mut [u8], less: &[u8]) {
    let mut borrow = false;
    for (digit, less) in number.iter_mut().zip(less).rev() {
        let (first, below) = digit.overflowing_sub(*less);
        let (second, further) = first.overflowing_sub(u8::from(borrow));
        *digit = second;
        borrow = below || further;
    }
}

#[cfg(test)]
mod tests;
