//! The servers of the project, and the indexes that keep every question cheap when there are ten thousand of them.
//!
//! A list since a moment costs what changed, a page costs its length, a look-up by exact name costs its hits. Holds
//! records only: when a server changes state, and what else that moves, is decided in [`super::lifecycle`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use axum::body::Bytes;
use jiff::Timestamp;

use super::nova::flavors::Flavor;

/// Where a server is in its life, as Nova names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Building,
    Active,
    Stopped,
    Error,
    SoftDeleted,
    Deleted,
}

impl State {
    pub(crate) fn status(self) -> &'static str {
        match self {
            Self::Building => "BUILD",
            Self::Active => "ACTIVE",
            Self::Stopped => "SHUTOFF",
            Self::Error => "ERROR",
            Self::SoftDeleted => "SOFT_DELETED",
            Self::Deleted => "DELETED",
        }
    }

    pub(crate) fn vm_state(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Active => "active",
            Self::Stopped => "stopped",
            Self::Error => "error",
            Self::SoftDeleted => "soft-delete",
            Self::Deleted => "deleted",
        }
    }

    pub(crate) fn power(self) -> u8 {
        match self {
            Self::Active => 1,
            Self::Stopped | Self::SoftDeleted => 4,
            Self::Building | Self::Error | Self::Deleted => 0,
        }
    }
}

/// How a boot ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BootEnd {
    Active,
    Never,
    Error { code: u16, message: String },
    Vanish,
}

/// What the SSH port of a server does once it is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SshMode {
    Answer,
    /// The port stays closed.
    Never,
    /// The port accepts and says nothing.
    Silent,
}

/// What a server will do; settled at its POST, faults included.
#[derive(Clone, Debug)]
pub(crate) struct BootPlan {
    pub after: Duration,
    pub end: BootEnd,
    pub ssh: SshMode,
    pub ssh_delay: Duration,
    /// Its port is made though the boot fails, and outlives it.
    pub leaves_port: bool,
}

/// What the owner is told of a failure.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub code: u16,
    pub message: String,
    pub created: Timestamp,
}

/// One network that a server was asked to be on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nic {
    pub network: String,
    pub port: Option<String>,
    pub fixed_ip: Option<Ipv4Addr>,
}

/// One address of a server, as Nova shows it.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub network: String,
    pub address: Ipv4Addr,
    pub mac: String,
    pub floating: bool,
}

/// One server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub id: String,
    pub seq: u64,
    pub name: String,
    pub state: State,
    pub task: Option<&'static str>,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub launched: Option<Timestamp>,
    pub terminated: Option<Timestamp>,
    pub flavor: Arc<Flavor>,
    pub image: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub tags: BTreeSet<String>,
    pub key_name: Option<String>,
    /// Of that key pair as it was at the boot, in OpenSSH's form.
    pub public_key: Option<Arc<str>>,
    pub zone: String,
    pub pinned_zone: Option<String>,
    pub config_drive: bool,
    /// Base64, as it was sent.
    pub user_data: Option<String>,
    pub description: Option<String>,
    pub locked: bool,
    pub security_groups: Vec<String>,
    pub nics: Vec<Nic>,
    pub addresses: Vec<Address>,
    pub failure: Option<Failure>,
    pub plan: BootPlan,
    /// Made over the admin API: somebody else's, in the eyes of a test.
    pub foreign: bool,
    /// Its ports stay when it is deleted.
    pub keeps_ports: bool,
    pub ssh_up: bool,
    /// The last rendering of its details, with the microversion it was made for.
    pub rendered: Option<(u16, Bytes)>,
}

/// All servers.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    records: BTreeMap<u64, Server>,
    ids: HashMap<String, u64>,
    live: BTreeSet<u64>,
    names: HashMap<String, BTreeSet<u64>>,
    changes: BTreeSet<(i64, u64)>,
    next: u64,
    pub usage: Usage,
}

/// What the servers that exist take of the quota, and the most that ever existed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub servers: i64,
    pub cores: i64,
    pub ram: i64,
    pub own: i64,
    pub highest: i64,
    pub highest_own: i64,
}

impl Servers {
    /// Takes a new record in, gives it its place in the order of creation, and returns that.
    pub(crate) fn insert(&mut self, mut server: Server) -> u64 {
        self.next += 1;
        let seq = self.next;
        server.seq = seq;
        self.ids.insert(server.id.clone(), seq);
        self.names.entry(server.name.clone()).or_default().insert(seq);
        self.changes.insert((server.updated.as_second(), seq));
        self.live.insert(seq);
        self.count(&server, 1);
        self.usage.highest = self.usage.highest.max(self.usage.servers);
        self.usage.highest_own = self.usage.highest_own.max(self.usage.own);
        self.records.insert(seq, server);
        seq
    }

    fn count(&mut self, server: &Server, sign: i64) {
        self.usage.servers += sign;
        self.usage.cores += sign * server.flavor.vcpus;
        self.usage.ram += sign * server.flavor.ram;
        self.usage.own += if server.foreign { 0 } else { sign };
    }

    pub(crate) fn get(&self, seq: u64) -> Option<&Server> {
        self.records.get(&seq)
    }

    /// The record by id, deleted ones included.
    pub(crate) fn find(&self, id: &str) -> Option<&Server> {
        self.ids.get(id).and_then(|seq| self.records.get(seq))
    }

    /// The server by id, when it still exists.
    pub(crate) fn existing(&self, id: &str) -> Option<&Server> {
        self.find(id).filter(|server| server.state != State::Deleted)
    }

    /// Changes a record, dated `now`, so that `changes-since` shows it.
    pub(crate) fn change<R>(&mut self, seq: u64, now: Timestamp, edit: impl FnOnce(&mut Server) -> R) -> Option<R> {
        let server = self.records.get_mut(&seq)?;
        self.changes.remove(&(server.updated.as_second(), seq));
        let old_name = server.name.clone();
        let result = edit(server);
        server.updated = now;
        server.rendered = None;
        self.changes.insert((now.as_second(), seq));
        if server.name != old_name {
            self.names.entry(server.name.clone()).or_default().insert(seq);
            self.unname(&old_name, seq);
        }
        Some(result)
    }

    /// Changes what is shown of a record without dating it: real clouds do not date a floating address either.
    pub(crate) fn retouch(&mut self, seq: u64, edit: impl FnOnce(&mut Server)) {
        if let Some(server) = self.records.get_mut(&seq) {
            edit(server);
            server.rendered = None;
        }
    }

    /// Keeps a rendering, to be used until the record changes.
    pub(crate) fn keep_rendering(&mut self, seq: u64, microversion: u16, body: Bytes) {
        if let Some(server) = self.records.get_mut(&seq) {
            server.rendered = Some((microversion, body));
        }
    }

    pub(crate) fn forget_renderings(&mut self) {
        self.records.values_mut().for_each(|server| server.rendered = None);
    }

    /// The server exists no more; its record stays until it is purged.
    pub(crate) fn retire(&mut self, seq: u64) {
        if self.live.remove(&seq)
            && let Some(server) = self.records.get(&seq).cloned()
        {
            self.count(&server, -1);
        }
    }

    /// Forgets a record altogether.
    pub(crate) fn purge(&mut self, seq: u64) {
        self.retire(seq);
        if let Some(server) = self.records.remove(&seq) {
            self.ids.remove(&server.id);
            self.changes.remove(&(server.updated.as_second(), seq));
            self.unname(&server.name, seq);
        }
    }

    fn unname(&mut self, name: &str, seq: u64) {
        if let Some(seqs) = self.names.get_mut(name) {
            seqs.remove(&seq);
            if seqs.is_empty() {
                self.names.remove(name);
            }
        }
    }

    /// Existing servers, newest first, from just after `before`.
    pub(crate) fn newest_first(&self, before: Option<u64>) -> impl Iterator<Item = &Server> {
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        self.live.range((Bound::Unbounded, end)).rev().filter_map(|seq| self.records.get(seq))
    }

    /// Records changed at or after a second, deleted ones included, newest first.
    pub(crate) fn changed_since(&self, second: i64) -> Vec<&Server> {
        let mut seqs: Vec<u64> = self.changes.range((second, 0)..).map(|(_, seq)| *seq).collect();
        seqs.sort_unstable_by(|a, b| b.cmp(a));
        seqs.into_iter().filter_map(|seq| self.records.get(&seq)).collect()
    }

    /// Existing servers of exactly this name, newest first.
    pub(crate) fn named(&self, name: &str) -> Vec<&Server> {
        let seqs = self.names.get(name).into_iter().flatten().rev();
        seqs.filter(|seq| self.live.contains(seq)).filter_map(|seq| self.records.get(seq)).collect()
    }

    /// Every record, oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Server> {
        self.records.values()
    }

    /// The highest counts start again from what exists now.
    pub(crate) fn reset_highest(&mut self) {
        self.usage.highest = self.usage.servers;
        self.usage.highest_own = self.usage.own;
    }
}
