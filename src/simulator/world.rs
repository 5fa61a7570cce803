//! Everything the simulated cloud holds, and the passing of time in it.
//!
//! Time comes in from outside: [`World::advance`] does whatever is due, in order, and nothing else here looks at a
//! clock. What must happen outside (a port opened or closed) is left as [`Effect`]s for the caller to carry out.

use std::{collections::BTreeMap, mem, net::Ipv4Addr, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{
    calls::CallLog,
    faults::Faults,
    glance::images::Images,
    keystone::identity::Identity,
    neutron::Network,
    nova::Compute,
    servers::SshMode,
    settings::{Settings, Tunable},
    ssh,
};

/// What is due at some time. Servers are named by their sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    BootEnds(u64),
    SshStarts(u64),
    StopEnds(u64),
    DeleteEnds(u64),
    DeleteFails(u64, String),
    Purge(u64),
    SnapshotSaves { server: u64, image: String },
    SnapshotEnds { server: u64, image: String },
    SnapshotFails { server: u64, image: String },
}

/// What the world asks of the machine it runs on.
#[derive(Debug)]
pub(crate) enum Effect {
    /// `key` is the public key that lets in.
    Listen {
        address: Ipv4Addr,
        server: String,
        mode: SshMode,
        key: Option<Arc<str>>,
    },
    Unlisten {
        address: Ipv4Addr,
    },
    /// The server's disk begins as what the image kept of another's.
    Provide {
        server: String,
        image: String,
    },
    /// The image keeps what is on the server's disk.
    Keep {
        server: String,
        image: String,
    },
    /// Nothing runs on the server any more.
    Halt {
        server: String,
    },
    /// The server's disk is gone.
    Wipe {
        server: String,
    },
    /// The image is gone.
    Forget {
        image: String,
    },
}

/// The parts of the settings that never change, in the forms that answers need.
#[derive(Clone)]
pub(crate) struct Fixed {
    pub base: String,
    pub region: String,
    pub password: String,
    pub canary: Option<String>,
    pub zones: Vec<String>,
    pub ssh_port: u16,
    /// What the servers' host keys follow from.
    pub ssh_secret: [u8; 32],
    pub started: Timestamp,
}

/// The cloud.
pub(crate) struct World {
    pub fixed: Fixed,
    pub tunable: Tunable,
    pub identity: Identity,
    pub compute: Compute,
    pub images: Images,
    pub network: Network,
    pub faults: Faults,
    pub calls: CallLog,
    timers: BTreeMap<(Timestamp, u64), Event>,
    timer_seq: u64,
    effects: Vec<Effect>,
}

impl World {
    pub(crate) fn new(settings: &Settings, base: String, ssh_port: u16, ssh_secret: [u8; 32], now: Timestamp) -> Self {
        let fixed = Fixed {
            base,
            region: settings.region.clone(),
            password: settings.password.clone(),
            canary: settings.canary.clone(),
            zones: settings.availability_zones.clone(),
            ssh_port,
            ssh_secret,
            started: now,
        };
        Self {
            identity: Identity::new(&fixed),
            compute: Compute::new(),
            images: Images::new(now),
            network: Network::new(settings.server_network, settings.floating_network),
            faults: Faults::default(),
            calls: CallLog::default(),
            tunable: Tunable::new(settings),
            fixed,
            timers: BTreeMap::new(),
            timer_seq: 0,
            effects: Vec::new(),
        }
    }

    /// Does all that is due by `now`, in the order in which it falls due.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        while let Some(entry) = self.timers.first_entry() {
            let due = entry.key().0;
            if due > now {
                break;
            }
            let event = entry.remove();
            self.happen(event, due);
        }
    }

    /// When the next thing is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first_key_value().map(|((due, _), _)| *due)
    }

    /// Lets something happen after a while; at once when the while is nothing.
    pub(crate) fn after(&mut self, wait: Duration, now: Timestamp, event: Event) {
        if wait.is_zero() {
            return self.happen(event, now);
        }
        let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
        let due = now.checked_add(wait).unwrap_or(Timestamp::MAX);
        self.timer_seq += 1;
        self.timers.insert((due, self.timer_seq), event);
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        mem::take(&mut self.effects)
    }

    /// A moment as the cloud's own clock tells it.
    pub(crate) fn cloud_time(&self, at: Timestamp) -> Timestamp {
        at.checked_add(SignedDuration::from_secs(self.tunable.clock_skew_seconds)).unwrap_or(at)
    }

    /// A moment as Nova and Glance write it: seconds, `Z`.
    pub(crate) fn stamp(&self, at: Timestamp) -> String {
        self.cloud_time(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// A moment as Nova writes it where it shows microseconds and no zone.
    pub(crate) fn long_stamp(&self, at: Timestamp) -> String {
        self.cloud_time(at).strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string()
    }

    /// The public host keys of a server, as it prints them on its console.
    pub(crate) fn host_keys(&self, server: &str) -> Vec<String> {
        ssh::host_keys(server, self.fixed.ssh_secret)
    }

    pub(crate) fn url(&self, rest: &str) -> String {
        format!("{}{rest}", self.fixed.base)
    }
}
