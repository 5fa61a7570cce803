//! Nova: key pairs of the credentials' user.
//!
//! Made twice is made once: one that is there under the name is read and its key compared, so that a lost answer leaves
//! no question. Only public keys come here; a private one is never asked for.

use serde::Deserialize;
use serde_json::json;

use super::OpenStack;
use super::call::Call;
use super::catalog::Service;
use super::client::{Ask, checked, gone, nothing};
use super::paging::{Link, page};
use crate::cloud::{CloudError, ErrorClass};

#[derive(Deserialize)]
struct KeyPairsPage {
    keypairs: Vec<OneKeyPair>,
    keypairs_links: Option<Vec<Link>>,
}

#[derive(Deserialize)]
struct OneKeyPair {
    keypair: WireKeyPair,
}

#[derive(Deserialize)]
struct WireKeyPair {
    name: String,
    public_key: Option<String>,
}

page!(KeyPairsPage, OneKeyPair, keypairs, keypairs_links);

impl OpenStack {
    /// The oldest API takes a public key as the newest does, and knows of no other type than SSH's.
    pub(super) async fn make_key_pair(&self, name: &str, public_key: &str) -> Result<(), CloudError> {
        let name = checked(Call::CreateKeyPair, name)?;
        let body = json!({"keypair": {"name": name, "public_key": public_key}});
        let ask = Ask::post(Call::CreateKeyPair, Service::Compute, &["os-keypairs"], &body);
        match self.client.ask(ask, nothing).await {
            Err(error) if error.class == ErrorClass::Conflict => match self.public_key(name).await {
                Ok(Some(held)) if is_same_key(&held, public_key) => Ok(()),
                // Gone again, or another one: what Nova said of it stands.
                Ok(_) => Err(error),
                Err(unread) if unread.class == ErrorClass::NotFound => Err(error),
                Err(unread) => Err(unread),
            },
            outcome => outcome,
        }
    }

    async fn public_key(&self, name: &str) -> Result<Option<String>, CloudError> {
        let ask_path = ["os-keypairs", name];
        let ask = Ask::get(Call::GetKeyPair, Service::Compute, &ask_path);
        Ok(self.client.ask(ask, |answer| answer.json::<OneKeyPair>()).await?.keypair.public_key)
    }

    pub(super) async fn remove_key_pair(&self, name: &str) -> Result<(), CloudError> {
        let path = ["os-keypairs", checked(Call::DeleteKeyPair, name)?];
        gone(self.client.ask(Ask::delete(Call::DeleteKeyPair, Service::Compute, &path), nothing).await)
    }

    pub(super) async fn key_pair_names(&self) -> Result<Vec<String>, CloudError> {
        let ask = Ask::get(Call::ListKeyPairs, Service::Compute, &["os-keypairs"]);
        Ok(self.client.list::<KeyPairsPage, _>(ask, |one| one.keypair.name).await?.items)
    }
}

/// Whatever the comment behind them says.
fn is_same_key(one: &str, other: &str) -> bool {
    one.split_whitespace().take(2).eq(other.split_whitespace().take(2))
}
