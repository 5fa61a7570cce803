//! Neutron: networks and security groups by name.
//!
//! An id is taken as it is. A name that fits nothing, or several things, is refused with a sentence: nothing is ever
//! guessed. What was found is remembered until a request that used it is refused.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use serde::Deserialize;

use super::OpenStack;
use super::call::Call;
use super::catalog::Service;
use super::client::{Ask, refused};
use super::paging::{Link, Page, page};
use crate::cloud::{CloudError, ErrorClass};

/// Names that were looked up, by the call that did it.
pub(super) type Names = HashMap<(Call, String), String>;

#[derive(Deserialize)]
struct Named {
    id: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct NetworksPage {
    networks: Vec<Named>,
    networks_links: Option<Vec<Link>>,
}

#[derive(Deserialize)]
struct GroupsPage {
    security_groups: Vec<Named>,
    security_groups_links: Option<Vec<Link>>,
}

page!(NetworksPage, Named, networks, networks_links);
page!(GroupsPage, Named, security_groups, security_groups_links);

impl OpenStack {
    /// The ids of networks, which others may share with us.
    pub(super) async fn network_ids(&self, networks: &[String]) -> Result<Vec<String>, CloudError> {
        let mut ids = Vec::with_capacity(networks.len());
        for network in networks {
            ids.push(self.network_id(network).await?);
        }
        Ok(ids)
    }

    pub(super) async fn network_id(&self, network: &str) -> Result<String, CloudError> {
        let ask = Ask::get(Call::ListNetworks, Service::Network, &["networks"]);
        self.id_of::<NetworksPage>(ask, "network", network, Vec::new()).await
    }

    /// The ids of security groups of our own project, as Nova finds them.
    pub(super) async fn security_group_ids(&self, groups: &[String]) -> Result<Vec<String>, CloudError> {
        let mut ids = Vec::with_capacity(groups.len());
        for group in groups {
            let project = self.client.login().await?.project_id.clone();
            let ask = Ask::get(Call::ListSecurityGroups, Service::Network, &["security-groups"]);
            ids.push(self.id_of::<GroupsPage>(ask, "security group", group, vec![("project_id", project)]).await?);
        }
        Ok(ids)
    }

    async fn id_of<P: Page<Item = Named>>(
        &self,
        ask: Ask<'_>,
        noun: &str,
        name: &str,
        mut query: Vec<(&'static str, String)>,
    ) -> Result<String, CloudError> {
        if uuid::Uuid::parse_str(name).is_ok() {
            return Ok(name.to_owned());
        }
        let call = ask.call;
        let key = (call, name.to_owned());
        if let Some(id) = self.names().get(&key) {
            return Ok(id.clone());
        }
        query.push(("name", name.to_owned()));
        let listed = self.client.list::<P, _>(ask.query(query), |named| named).await?;
        let found: Vec<Named> = listed.items.into_iter().filter(|named| named.name.as_deref() == Some(name)).collect();
        let invalid = |message| Err(refused(call, ErrorClass::Invalid, message));
        match found.as_slice() {
            [one] => {
                self.names().insert(key, one.id.clone());
                Ok(one.id.clone())
            }
            [] => invalid(format!("the cloud has no {noun} named {name}")),
            _ => invalid(format!("the cloud has several {noun}s named {name}: write the id of one")),
        }
    }

    /// Perhaps something was made anew under its old name.
    pub(super) fn forget_names(&self) {
        self.names().clear();
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
