//! What a simulated cloud is like: the part that is fixed when it starts, and the part that can be turned while it runs.
//!
//! A setting says how the cloud behaves towards everybody; what goes wrong for one call is a fault ([`super::faults`]).

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{subnet::Cidr, wait::Wait};

/// How the cloud starts. Every flag is also an environment variable.
#[derive(Args, Clone)]
pub struct Settings {
    /// Address and port of all services; port 0 takes a free one.
    #[arg(long, env = "OPENSTACK_SIMULATOR_LISTEN", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,

    /// Writes a clouds.yaml there, with the clouds `simulator` and `simulator-application-credential`.
    #[arg(long, env = "OPENSTACK_SIMULATOR_CLOUDS_YAML", value_name = "FILE")]
    pub clouds_yaml: Option<PathBuf>,

    /// URL that the catalogue, links and the clouds.yaml name instead of the listen address (a proxy in front). The
    /// second line of the output is where it listens all the same.
    #[arg(long, env = "OPENSTACK_SIMULATOR_ADVERTISE_URL", value_name = "URL")]
    pub advertise_url: Option<String>,

    /// Serve HTTPS with this certificate chain (PEM).
    #[arg(long, env = "OPENSTACK_SIMULATOR_TLS_CERTIFICATE", value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,

    /// Private key of the certificate (PEM).
    #[arg(long, env = "OPENSTACK_SIMULATOR_TLS_KEY", value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,

    /// Region of every endpoint.
    #[arg(long, env = "OPENSTACK_SIMULATOR_REGION", default_value = "RegionOne")]
    pub region: String,

    /// Password of the user `simulator` of project `simulator`, and the secret of its application credential.
    #[arg(long, env = "OPENSTACK_SIMULATOR_PASSWORD", default_value = "simulator", hide_env_values = true)]
    pub password: String,

    /// A text that a cloud may say and nobody may repeat: each answer has it in a header, each refusal also in its body.
    #[arg(long, env = "OPENSTACK_SIMULATOR_CANARY", value_name = "TEXT")]
    pub canary: Option<String>,

    /// Fixed addresses of the servers, one each; a part of 127.0.0.0/8 needs no set-up.
    #[arg(long, env = "OPENSTACK_SIMULATOR_SERVER_NETWORK", default_value = "127.21.0.0/16")]
    pub server_network: Cidr,

    /// Floating addresses.
    #[arg(long, env = "OPENSTACK_SIMULATOR_FLOATING_NETWORK", default_value = "127.121.0.0/16")]
    pub floating_network: Cidr,

    /// SSH port of all servers; 0 takes one that is free on this machine (see GET /simulator/state).
    #[arg(long, env = "OPENSTACK_SIMULATOR_SSH_PORT", default_value_t = 0)]
    pub ssh_port: u16,

    /// Let who logs in to a server run commands, ON THIS MACHINE as the user that runs the simulator: in a folder of
    /// their own for each server, which is HOME, with nothing but PATH, HOME, USER, LANG and SIMULATOR_SERVER_ID in the
    /// environment. Nothing else keeps them apart from the machine.
    #[arg(long, env = "OPENSTACK_SIMULATOR_RUN_COMMANDS")]
    pub run_commands: bool,

    /// Zones that servers can be in.
    #[arg(long, env = "OPENSTACK_SIMULATOR_AVAILABILITY_ZONES", default_value = "nova", value_delimiter = ',')]
    pub availability_zones: Vec<String>,

    /// POST of a server to ACTIVE; 0s makes it ACTIVE before the answer.
    #[arg(long, env = "OPENSTACK_SIMULATOR_BOOT_TIME", default_value = "2s")]
    pub boot_time: Wait,

    /// DELETE of a server to 404; 0s makes it gone before the answer.
    #[arg(long, env = "OPENSTACK_SIMULATOR_DELETE_TIME", default_value = "1s")]
    pub delete_time: Wait,

    /// ACTIVE to the SSH port answering.
    #[arg(long, env = "OPENSTACK_SIMULATOR_SSH_DELAY", default_value = "0s")]
    pub ssh_delay: Wait,

    /// Quota of instances; -1 is no limit.
    #[arg(long, env = "OPENSTACK_SIMULATOR_MAX_SERVERS", default_value_t = 100, allow_negative_numbers = true)]
    pub max_servers: i64,

    /// Quota of cores; -1 is no limit.
    #[arg(long, env = "OPENSTACK_SIMULATOR_MAX_CORES", default_value_t = -1, allow_negative_numbers = true)]
    pub max_cores: i64,

    /// Quota of RAM in MiB; -1 is no limit.
    #[arg(long, env = "OPENSTACK_SIMULATOR_MAX_RAM", default_value_t = -1, allow_negative_numbers = true)]
    pub max_ram: i64,
}

impl Default for Settings {
    /// What the program does without flags, so that a test that embeds the cloud sees the same one.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            clouds_yaml: None,
            advertise_url: None,
            tls_certificate: None,
            tls_key: None,
            region: "RegionOne".to_owned(),
            password: "simulator".to_owned(),
            canary: None,
            server_network: Cidr::SERVERS,
            floating_network: Cidr::FLOATING,
            ssh_port: 0,
            run_commands: false,
            availability_zones: vec!["nova".to_owned()],
            boot_time: Wait::seconds(2),
            delete_time: Wait::seconds(1),
            ssh_delay: Wait::default(),
            max_servers: 100,
            max_cores: -1,
            max_ram: -1,
        }
    }
}

/// What `POST /simulator/settings` can change while the cloud runs; the names in JSON are these in camelCase.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Tunable {
    pub boot_time: Wait,
    pub delete_time: Wait,
    pub ssh_delay: Wait,
    /// A stop's time until SHUTOFF, while the guest shuts down.
    pub stop_time: Wait,
    /// A snapshot's time in `queued`, and again in `saving`.
    pub snapshot_time: Wait,
    pub max_servers: i64,
    pub max_cores: i64,
    pub max_ram: i64,
    pub max_ports: i64,
    pub max_floating_ips: i64,
    pub max_key_pairs: i64,
    pub token_life: Wait,
    /// Seconds that the cloud's clock is ahead (or, negative, behind), `Date` header included.
    pub clock_skew_seconds: i64,
    /// How long a deleted server stays visible to `changes-since`.
    pub keep_deleted: Wait,
    /// Nova's `max_limit`: servers on one page at most.
    pub page_limit: usize,
    /// Highest minor version of Nova's 2.x; 0 means a Nova without microversions.
    pub max_microversion: u16,
    pub min_microversion: u16,
    /// `reclaim_instance_interval` is set: DELETE makes a server SOFT_DELETED.
    pub soft_delete: bool,
    /// Catalogue URLs to answer with instead of the right ones, by service type.
    pub catalog_urls: BTreeMap<String, String>,
    /// Interfaces of every service in the catalogue.
    pub catalog_interfaces: Vec<String>,
}

impl Tunable {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            boot_time: settings.boot_time,
            delete_time: settings.delete_time,
            ssh_delay: settings.ssh_delay,
            stop_time: Wait::default(),
            snapshot_time: Wait::seconds(1),
            max_servers: settings.max_servers,
            max_cores: settings.max_cores,
            max_ram: settings.max_ram,
            max_ports: -1,
            max_floating_ips: -1,
            max_key_pairs: 100,
            token_life: Wait::seconds(3600),
            clock_skew_seconds: 0,
            keep_deleted: Wait::seconds(3600),
            page_limit: 1000,
            max_microversion: 96,
            min_microversion: 1,
            soft_delete: false,
            catalog_urls: BTreeMap::new(),
            catalog_interfaces: ["public", "internal", "admin"].map(str::to_owned).to_vec(),
        }
    }
}
