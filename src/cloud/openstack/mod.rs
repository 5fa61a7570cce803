//! OpenStack behind the port: Keystone v3, Nova, Glance and Neutron over HTTP.
//!
//! This room turns calls into requests and whatever happens to them into answers or classed errors. It decides what a
//! refusal means and when a request may leave, never what is to be done about it. It starts no tasks: dropping an
//! [`OpenStack`] ends everything, and a changed Secret or Provider means a new one.

mod call;
mod catalog;
mod client;
mod compute;
mod config;
mod discovery;
mod fault;
mod fence;
mod image;
mod key_pair;
mod limiter;
mod names;
mod network;
mod ownership;
mod paging;
mod server;
mod services;
mod session;
mod transport;
mod upload;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use secrecy::SecretString;

pub use config::{CloudConfig, ConfigError, Interface};
pub use transport::CallObserver;

use super::{
    BootRequest, Cloud, CloudError, Flavor, Image, ImageBytes, ImageSelector, Limits, NetworkPart, NewImage, Ownership,
    Passage, Server, ServerList, ServerQuery, Silence,
};
use crate::egress::Egress;
use client::Client;
use config::Credentials;
use names::Names;
use ownership::Identity;
use transport::Transport;

/// What a Provider adds to its entry in clouds.yaml.
#[derive(Clone)]
pub struct Options {
    /// The most requests a second, retries and logins included; a second's worth may leave at once.
    pub requests_per_second: f64,
    /// Wins over clouds.yaml.
    pub region: Option<String>,
    /// Wins over clouds.yaml.
    pub interface: Option<Interface>,
    /// `namespace/name` of the Provider.
    pub provider_key: String,
    /// The installation.
    pub owner: String,
    /// Is told of every exchange.
    pub observer: Option<Arc<dyn CallObserver>>,
    /// Where the cloud, and what its catalogue names, may be.
    pub egress: Egress,
}

/// One project in one region of an OpenStack cloud.
pub struct OpenStack {
    client: Client,
    identity: Identity,
    /// What must never be shown, even when a fault quotes it.
    secret: SecretString,
    /// Names of networks and security groups and their ids, until a boot is refused.
    names: Mutex<Names>,
}

impl OpenStack {
    /// Prepares everything and sends nothing.
    ///
    /// # Errors
    /// A sentence that says what to write, when the options or the CA cannot be used.
    pub fn new(mut config: CloudConfig, options: Options) -> Result<Self, ConfigError> {
        if let Some(region) = options.region {
            config.region = Some(region);
        }
        if let Some(interface) = options.interface {
            config.interface = interface;
        }
        let secret = match &config.credentials {
            Credentials::Password { password, .. } => password.clone(),
            Credentials::ApplicationCredential { secret, .. } => secret.clone(),
        };
        let transport = Transport::new(
            config.ca_pem.as_deref(),
            options.requests_per_second,
            options.observer,
            vec![secret.clone()],
            options.egress,
        )?;
        Ok(Self {
            client: Client::new(config, transport),
            identity: Identity { owner: options.owner, provider: options.provider_key },
            secret,
            names: Mutex::default(),
        })
    }

    fn secrets(&self) -> [&SecretString; 1] {
        [&self.secret]
    }
}

#[async_trait]
impl Cloud for OpenStack {
    async fn check(&self) -> Result<(), CloudError> {
        self.client.check_catalog().await?;
        self.client.compute_api().await?;
        // Reading the limits proves that Nova accepts the token, not only that Keystone gives one.
        self.project_limits().await.map(drop)
    }

    async fn list_servers(&self, query: ServerQuery) -> Result<ServerList, CloudError> {
        self.servers(query).await
    }

    async fn get_server(&self, id: &str) -> Result<Server, CloudError> {
        self.server(id).await
    }

    async fn create_server(&self, request: &BootRequest) -> Result<String, CloudError> {
        self.boot(request).await
    }

    async fn delete_server(&self, id: &str) -> Result<(), CloudError> {
        self.delete(id).await
    }

    async fn force_delete_server(&self, id: &str) -> Result<(), CloudError> {
        self.force_delete(id).await
    }

    async fn console_tail(&self, id: &str, lines: u32) -> Result<String, CloudError> {
        self.console(id, lines).await
    }

    async fn flavors(&self) -> Result<Vec<Flavor>, CloudError> {
        self.all_flavors().await
    }

    async fn images(&self, selector: &ImageSelector) -> Result<Vec<Image>, CloudError> {
        self.find_images(selector).await
    }

    async fn create_image(&self, image: &NewImage) -> Result<String, CloudError> {
        self.make_image(image).await
    }

    async fn upload_image(&self, id: &str, bytes: ImageBytes) -> Result<(), CloudError> {
        self.send_image(id, bytes).await
    }

    async fn get_image(&self, id: &str) -> Result<Image, CloudError> {
        self.image(id).await
    }

    async fn images_of(&self, owner: &str) -> Result<Vec<Image>, CloudError> {
        self.marked_images(owner).await
    }

    async fn delete_image(&self, id: &str) -> Result<(), CloudError> {
        self.remove_image(id).await
    }

    async fn snapshot_server(&self, server_id: &str, image: &NewImage) -> Result<String, CloudError> {
        self.snapshot(server_id, image).await
    }

    async fn stop_server(&self, id: &str) -> Result<(), CloudError> {
        self.stop(id).await
    }

    async fn create_key_pair(&self, name: &str, public_key: &str) -> Result<(), CloudError> {
        self.make_key_pair(name, public_key).await
    }

    async fn delete_key_pair(&self, name: &str) -> Result<(), CloudError> {
        self.remove_key_pair(name).await
    }

    async fn key_pairs(&self) -> Result<Vec<String>, CloudError> {
        self.key_pair_names().await
    }

    async fn limits(&self) -> Result<Limits, CloudError> {
        self.project_limits().await
    }

    async fn floating_ips(&self) -> Result<Vec<NetworkPart>, CloudError> {
        self.all_floating_ips().await
    }

    async fn attach_floating_ip(
        &self,
        network: &str,
        server_id: &str,
        ownership: &Ownership,
    ) -> Result<IpAddr, CloudError> {
        self.give_floating_ip(network, server_id, ownership).await
    }

    async fn delete_floating_ip(&self, id: &str) -> Result<(), CloudError> {
        self.remove_floating_ip(id).await
    }

    async fn create_port(&self, request: &BootRequest) -> Result<String, CloudError> {
        self.make_port(request).await
    }

    async fn close_port(&self, name: &str, ownership: &Ownership) -> Result<Passage, CloudError> {
        self.close(name, ownership).await
    }

    async fn ports_made(&self, name: &str, ownership: &Ownership) -> Result<Vec<NetworkPart>, CloudError> {
        self.own_ports(name, ownership).await
    }

    async fn ports(&self, owner: &str) -> Result<Vec<NetworkPart>, CloudError> {
        self.marked_ports(owner).await
    }

    async fn ports_of(&self, server_ids: &[String]) -> Result<Vec<NetworkPart>, CloudError> {
        self.linked_ports(server_ids).await
    }

    async fn delete_port(&self, id: &str) -> Result<(), CloudError> {
        self.remove_port(id).await
    }

    async fn silent_services(&self) -> Vec<Silence> {
        self.client.silent_services().await
    }
}
