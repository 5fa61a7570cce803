//! Who may ask: the one user, its application credentials, and the tokens that were given out.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::simulator::world::Fixed;

/// Name of the user, of its project, and of its first application credential.
pub(crate) const NAME: &str = "simulator";

/// An application credential.
#[derive(Clone)]
pub(crate) struct ApplicationCredential {
    pub id: String,
    pub name: String,
    pub secret: String,
    pub expires: Option<Timestamp>,
}

/// What a token stands for.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub issued: Timestamp,
    pub expires: Timestamp,
    pub scoped: bool,
    pub method: &'static str,
    pub credential: Option<String>,
}

/// The one user and project, and what was given to them.
pub(crate) struct Identity {
    pub project: String,
    pub user: String,
    pub password: String,
    pub credentials: BTreeMap<String, ApplicationCredential>,
    tokens: HashMap<String, Token>,
}

/// An id that is the same in every run, so that what is seeded can be named in a test.
pub(crate) fn seeded_id(what: &str) -> Uuid {
    let digest: [u8; 32] = Sha256::digest(what.as_bytes()).into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

impl Identity {
    pub(crate) fn new(fixed: &Fixed) -> Self {
        let credential = ApplicationCredential {
            id: seeded_id("application-credential").simple().to_string(),
            name: NAME.to_owned(),
            secret: fixed.password.clone(),
            expires: None,
        };
        Self {
            project: seeded_id("project").simple().to_string(),
            user: seeded_id("user").simple().to_string(),
            password: fixed.password.clone(),
            credentials: BTreeMap::from([(credential.id.clone(), credential)]),
            tokens: HashMap::new(),
        }
    }

    pub(crate) fn issue(&mut self, token: Token) -> String {
        // Tokens that are long past only cost memory.
        let horizon = token.issued;
        self.tokens.retain(|_, held| held.expires > horizon);
        let id = format!("gAAAAAB{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        self.tokens.insert(id.clone(), token);
        id
    }

    /// The token, when it is still good.
    pub(crate) fn token(&self, id: &str, now: Timestamp) -> Option<&Token> {
        let token = self.tokens.get(id).filter(|token| token.expires > now)?;
        let good = token.credential.as_ref().is_none_or(|id| self.credential(id, now).is_some());
        good.then_some(token)
    }

    pub(crate) fn revoke(&mut self, id: &str) {
        self.tokens.remove(id);
    }

    /// Every token that was given out stops working now; their number.
    pub(crate) fn revoke_all(&mut self) -> usize {
        let count = self.tokens.len();
        self.tokens.clear();
        count
    }

    pub(crate) fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// The application credential, when it has not expired.
    pub(crate) fn credential(&self, id: &str, now: Timestamp) -> Option<&ApplicationCredential> {
        self.credentials.get(id).filter(|credential| credential.expires.is_none_or(|expires| expires > now))
    }
}
