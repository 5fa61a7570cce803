//! The keys that logins are made with: made here, or read from the text of a Secret.
//!
//! A private key is never shown, by no form of output, and no error repeats a part of one.

use std::fmt;
use std::sync::Arc;

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{self, PublicKey};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use super::rsa::RsaKey;

/// Why a text is no private key that can be used; what to write instead.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// Something else.
    #[error(
        "this is no private key: write the whole file, from -----BEGIN OPENSSH PRIVATE KEY----- to -----END OPENSSH \
         PRIVATE KEY-----"
    )]
    NoKey,
    /// The other half.
    #[error("this is the public key: write the private one, the file without .pub")]
    Public,
    /// Nobody is there to type the passphrase.
    #[error(
        "the private key has a passphrase, which nobody can type here: write a key without one \
         (ssh-keygen -p -N '' -f FILE takes it off)"
    )]
    Protected,
    /// A type, or a size, that is not served.
    #[error(
        "the private key is not of a kind that can be used: write an ed25519 key (ssh-keygen -t ed25519), an ECDSA key, \
         or an RSA key of 2048 to 4096 bits with the usual exponent 65537"
    )]
    Unusable,
    /// It begins like a key and does not go on like one.
    #[error("the private key is damaged: write the whole file as ssh-keygen made it, line by line")]
    Damaged,
}

/// What a user proves who it is with. Shows only its type.
#[derive(Clone)]
pub struct PrivateKey(pub(super) Kind);

#[derive(Clone)]
pub(super) enum Kind {
    /// ed25519 or ECDSA.
    Plain(Arc<keys::PrivateKey>),
    Rsa(RsaKey),
}

impl PrivateKey {
    /// Its public half, as a key pair in a cloud and `authorized_keys` take it: `type base64`.
    pub fn public_text(&self) -> String {
        let public = PublicKey::new(self.public().key_data().clone(), "");
        // What was read or made can be written.
        public.to_openssh().unwrap_or_default()
    }

    fn public(&self) -> &PublicKey {
        match &self.0 {
            Kind::Plain(key) => key.public_key(),
            Kind::Rsa(key) => key.public(),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public().algorithm())
    }
}

/// A key that was made here, for one build.
#[derive(Clone)]
pub struct Key {
    private: SecretString,
    public: String,
    key: PrivateKey,
}

impl Key {
    /// The private half as OpenSSH writes it to a file; for a Secret, and nothing else.
    pub fn private_text(&self) -> &str {
        self.private.expose_secret()
    }

    /// The public half, `type base64`.
    pub fn public_text(&self) -> &str {
        &self.public
    }

    /// The private half, to log in with.
    pub fn private_key(&self) -> &PrivateKey {
        &self.key
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.public)
    }
}

/// Makes an ed25519 key.
pub fn make_key() -> Key {
    let key = keys::PrivateKey::from(Ed25519Keypair::random(&mut keys::key::safe_rng()));
    // An ed25519 key can always be written; if not, whoever reads it back is told that there is none.
    let text = key.to_openssh(LineEnding::LF).map(|text| text.to_string()).unwrap_or_default();
    let key = PrivateKey(Kind::Plain(Arc::new(key)));
    Key { private: SecretString::from(text), public: key.public_text(), key }
}

/// Reads a private key: OpenSSH's own format, PKCS#8, PKCS#1 (`RSA PRIVATE KEY`) or SEC 1 (`EC PRIVATE KEY`), in PEM.
pub fn parse_private_key(text: &str) -> Result<PrivateKey, KeyError> {
    // A block in YAML may be indented.
    let text: Zeroizing<String> = Zeroizing::new(text.lines().flat_map(|line| [line.trim(), "\n"]).collect());
    let label = label(&text)?;
    let der = || PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError::Damaged);
    match label {
        "ENCRYPTED PRIVATE KEY" => Err(KeyError::Protected),
        _ if text.contains("Proc-Type: 4,ENCRYPTED") => Err(KeyError::Protected),
        "RSA PRIVATE KEY" => rsa(&der()?),
        "PRIVATE KEY" => plain(&text).or_else(|_| rsa(&der()?)),
        "EC PRIVATE KEY" | "OPENSSH PRIVATE KEY" => plain(&text),
        _ => Err(KeyError::Unusable),
    }
}

/// What the text says that it is.
fn label(text: &str) -> Result<&str, KeyError> {
    let begins = text.lines().find_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    match begins {
        Some(label) if label.ends_with("PRIVATE KEY") => Ok(label),
        Some(label) if label.ends_with("PUBLIC KEY") => Err(KeyError::Public),
        None if text.starts_with("ssh-") || text.starts_with("ecdsa-") => Err(KeyError::Public),
        Some(_) | None => Err(KeyError::NoKey),
    }
}

fn plain(text: &str) -> Result<PrivateKey, KeyError> {
    let key = keys::decode_secret_key(text, None).map_err(|error| match error {
        keys::Error::KeyIsEncrypted => KeyError::Protected,
        keys::Error::UnknownAlgorithm(_) | keys::Error::UnsupportedKeyType { .. } => KeyError::Unusable,
        _ => KeyError::Damaged,
    })?;
    match key.key_data() {
        KeypairData::Ed25519(_) | KeypairData::Ecdsa(_) => Ok(PrivateKey(Kind::Plain(Arc::new(key)))),
        KeypairData::Rsa(pair) => {
            RsaKey::from_openssh(pair).map(|key| PrivateKey(Kind::Rsa(key))).ok_or(KeyError::Unusable)
        }
        _ => Err(KeyError::Unusable),
    }
}

fn rsa(der: &PrivateKeyDer<'_>) -> Result<PrivateKey, KeyError> {
    RsaKey::from_der(der).map(|key| PrivateKey(Kind::Rsa(key))).ok_or(KeyError::Unusable)
}

#[cfg(test)]
mod tests;
