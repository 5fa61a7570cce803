//! How servers and snapshots come, change and go: the transitions of the world, with the time passed in.
//!
//! An event that falls due for a server which meanwhile went another way does nothing. Never answers a request.

use std::{net::Ipv4Addr, time::Duration};

use jiff::Timestamp;

use super::{
    glance::images::{Image, ImageStatus},
    servers::{BootEnd, Failure, Server, SshMode, State},
    world::{Effect, Event, World},
};

/// The task of a server that shuts down.
const POWERING_OFF: &str = "powering-off";

impl World {
    /// Does what was due at `at`.
    pub(super) fn happen(&mut self, event: Event, at: Timestamp) {
        match event {
            Event::BootEnds(seq) => self.end_boot(seq, at),
            Event::SshStarts(seq) => self.start_ssh(seq),
            Event::StopEnds(seq) => self.end_stop(seq, at),
            Event::DeleteEnds(seq) => self.end_delete(seq, at),
            Event::DeleteFails(seq, message) => self.fail_delete(seq, message, at),
            Event::Purge(seq) => self.compute.servers.purge(seq),
            Event::SnapshotSaves { server, image } => self.save_snapshot(server, image, at),
            Event::SnapshotEnds { server, image } => {
                self.images.finish_snapshot(&image, at);
                self.clear_task(server, at);
            }
            Event::SnapshotFails { server, image } => {
                self.remove_image(&image);
                self.clear_task(server, at);
            }
        }
    }

    /// Takes a new server in and sets its boot going.
    pub(crate) fn launch(&mut self, mut server: Server, now: Timestamp) -> u64 {
        let (after, ends) = (server.plan.after, server.plan.end != BootEnd::Never);
        if let Some(image) = server.image.as_deref().and_then(|id| self.images.get(id)).filter(|image| image.kept.files)
        {
            if image.kept.breaks_ssh {
                server.plan.ssh = SshMode::Never;
            }
            let (server, image) = (server.id.clone(), image.id.clone());
            self.effect(Effect::Provide { server, image });
        }
        let seq = self.compute.servers.insert(server);
        if ends {
            self.after(after, now, Event::BootEnds(seq));
        }
        seq
    }

    fn end_boot(&mut self, seq: u64, at: Timestamp) {
        let Some(server) = self.compute.servers.get(seq) else { return };
        if server.state != State::Building || server.task == Some("deleting") {
            return;
        }
        let plan = server.plan.clone();
        match plan.end {
            BootEnd::Never => {}
            BootEnd::Vanish => {
                let server = server.id.clone();
                self.effect(Effect::Wipe { server });
                self.compute.servers.purge(seq);
            }
            BootEnd::Error { code, message } => {
                let id = server.id.clone();
                if plan.leaves_port {
                    let _made = self.plug(seq);
                    self.compute.servers.retouch(seq, |server| server.keeps_ports = true);
                } else {
                    // Ports that were made before it are free again.
                    self.network.unplug(&id);
                }
                self.fail(seq, code, message.replace("{id}", &id), at);
            }
            BootEnd::Active => match self.plug(seq) {
                Ok(()) => {
                    self.compute.servers.change(seq, at, |server| {
                        server.state = State::Active;
                        server.task = None;
                        server.launched = Some(at);
                    });
                    self.after(plan.ssh_delay, at, Event::SshStarts(seq));
                }
                Err(message) => self.fail(seq, 500, message, at),
            },
        }
    }

    /// Gives a server its ports and addresses.
    fn plug(&mut self, seq: u64) -> Result<(), String> {
        let Some(server) = self.compute.servers.get(seq) else { return Ok(()) };
        let (id, zone, groups) = (server.id.clone(), server.zone.clone(), server.security_groups.clone());
        let mut addresses = Vec::new();
        for nic in server.nics.clone() {
            // A port that went meanwhile is no longer missed: the server comes without its address.
            if nic.port.as_deref().is_some_and(|port| self.network.find("ports", port).is_none()) {
                continue;
            }
            addresses.push(self.network.plug(&id, &zone, &groups, &nic)?);
        }
        self.compute.servers.retouch(seq, |server| server.addresses = addresses);
        Ok(())
    }

    /// The server ends in ERROR, for the reason given.
    pub(crate) fn fail(&mut self, seq: u64, code: u16, message: String, at: Timestamp) {
        self.compute.servers.change(seq, at, |server| {
            server.state = State::Error;
            server.task = None;
            server.failure = Some(Failure { code, message, created: at });
        });
    }

    fn start_ssh(&mut self, seq: u64) {
        let Some(server) = self.compute.servers.get(seq) else { return };
        if server.state != State::Active || server.task == Some("deleting") || server.plan.ssh == SshMode::Never {
            return;
        }
        let (id, mode, key) = (server.id.clone(), server.plan.ssh, server.public_key.clone());
        let addresses: Vec<Ipv4Addr> = server.addresses.iter().map(|address| address.address).collect();
        self.compute.servers.retouch(seq, |server| server.ssh_up = true);
        for address in addresses {
            self.effect(Effect::Listen { address, server: id.clone(), mode, key: key.clone() });
        }
    }

    fn stop_ssh(&mut self, seq: u64) {
        let Some(server) = self.compute.servers.get(seq) else { return };
        let addresses: Vec<Ipv4Addr> = server.addresses.iter().map(|address| address.address).collect();
        let (was_up, id) = (server.ssh_up, server.id.clone());
        self.compute.servers.retouch(seq, |server| server.ssh_up = false);
        if was_up {
            addresses.into_iter().for_each(|address| self.effect(Effect::Unlisten { address }));
            self.effect(Effect::Halt { server: id });
        }
    }

    /// Opens or closes the SSH port anew, as the server's plan now says.
    pub(crate) fn restart_ssh(&mut self, seq: u64) {
        self.stop_ssh(seq);
        self.start_ssh(seq);
    }

    pub(crate) fn is_building(&self, seq: u64) -> bool {
        self.compute.servers.get(seq).is_some_and(|server| server.state == State::Building)
    }

    /// Sets a shutdown of the guest going.
    pub(crate) fn begin_stop(&mut self, seq: u64, now: Timestamp) {
        self.compute.servers.change(seq, now, |server| server.task = Some(POWERING_OFF));
        self.after(self.tunable.stop_time.0, now, Event::StopEnds(seq));
    }

    fn end_stop(&mut self, seq: u64, at: Timestamp) {
        if self.compute.servers.get(seq).is_some_and(|server| server.task == Some(POWERING_OFF)) {
            self.clear_task(seq, at);
            self.stop(seq, at);
        }
    }

    /// Shuts the guest down at once; its addresses stay.
    pub(crate) fn stop(&mut self, seq: u64, now: Timestamp) {
        self.stop_ssh(seq);
        self.compute.servers.change(seq, now, |server| server.state = State::Stopped);
    }

    /// Starts the guest, or starts it again.
    pub(crate) fn start(&mut self, seq: u64, now: Timestamp) {
        self.stop_ssh(seq);
        self.compute.servers.change(seq, now, |server| {
            server.state = State::Active;
            server.failure = None;
        });
        self.after(self.tunable.ssh_delay.0, now, Event::SshStarts(seq));
    }

    /// Sets a deletion going.
    pub(crate) fn begin_delete(&mut self, seq: u64, after: Duration, now: Timestamp) {
        self.compute.servers.change(seq, now, |server| server.task = Some("deleting"));
        self.after(after, now, Event::DeleteEnds(seq));
    }

    /// Sets a deletion going that will fail on its host.
    pub(crate) fn begin_failing_delete(&mut self, seq: u64, after: Duration, message: String, now: Timestamp) {
        self.compute.servers.change(seq, now, |server| server.task = Some("deleting"));
        self.after(after, now, Event::DeleteFails(seq, message));
    }

    fn fail_delete(&mut self, seq: u64, message: String, at: Timestamp) {
        if self.compute.servers.get(seq).is_some_and(|server| server.state != State::Deleted) {
            self.fail(seq, 400, format!("Failed to terminate instance: {message}"), at);
        }
    }

    /// DELETE where deleted servers are kept for a while.
    pub(crate) fn soft_delete(&mut self, seq: u64, now: Timestamp) {
        self.stop_ssh(seq);
        self.compute.servers.change(seq, now, |server| {
            server.state = State::SoftDeleted;
            server.task = None;
        });
    }

    fn end_delete(&mut self, seq: u64, at: Timestamp) {
        let Some(server) = self.compute.servers.get(seq).filter(|server| server.state != State::Deleted) else {
            return;
        };
        let (id, keeps_ports) = (server.id.clone(), server.keeps_ports);
        self.stop_ssh(seq);
        if !keeps_ports {
            self.network.unplug(&id);
        }
        self.compute.servers.change(seq, at, |server| {
            server.state = State::Deleted;
            server.task = None;
            server.terminated = Some(at);
            server.addresses.clear();
        });
        self.compute.servers.retire(seq);
        self.effect(Effect::Wipe { server: id });
        self.after(self.tunable.keep_deleted.0, at, Event::Purge(seq));
    }

    /// A floating address came to a server, or left it.
    pub(crate) fn refloat(&mut self, server_id: &str, mode: Float) {
        let Some(server) = self.compute.servers.existing(server_id) else { return };
        let (seq, up, ssh, key) = (server.seq, server.ssh_up, server.plan.ssh, server.public_key.clone());
        match mode {
            Float::Comes(address) => {
                let listen = Effect::Listen { address: address.address, server: server_id.to_owned(), mode: ssh, key };
                self.compute.servers.retouch(seq, |server| server.addresses.push(address));
                if up {
                    self.effect(listen);
                }
            }
            Float::Leaves(address) => {
                self.compute.servers.retouch(seq, |server| server.addresses.retain(|held| held.address != address));
                if up {
                    self.effect(Effect::Unlisten { address });
                }
            }
        }
    }

    /// Sets a snapshot going: `queued`, then `saving`, then `active`, as long as nothing is planned to stop it.
    pub(crate) fn begin_snapshot(&mut self, seq: u64, image: String, fate: SnapshotFate, now: Timestamp) {
        if let Some(server) = self.compute.servers.get(seq).map(|server| server.id.clone()) {
            self.effect(Effect::Keep { server, image: image.clone() });
        }
        self.compute.servers.change(seq, now, |server| server.task = Some("image_snapshot_pending"));
        match fate {
            SnapshotFate::Saves => {
                let wait = self.tunable.snapshot_time.0;
                self.after(wait, now, Event::SnapshotSaves { server: seq, image });
            }
            SnapshotFate::Fails(after) => self.after(after, now, Event::SnapshotFails { server: seq, image }),
            SnapshotFate::Sticks(status) => {
                self.images.stick(&image, status, now);
                self.clear_task(seq, now);
            }
        }
    }

    /// Forgets an image, and what it kept.
    pub(crate) fn remove_image(&mut self, id: &str) -> Option<Image> {
        let image = self.images.remove(id)?;
        if image.kept.files {
            self.effect(Effect::Forget { image: image.id.clone() });
        }
        Some(image)
    }

    fn save_snapshot(&mut self, server: u64, image: String, at: Timestamp) {
        self.images.set_status(&image, ImageStatus::Saving, at);
        self.compute.servers.change(server, at, |server| {
            if server.task == Some("image_snapshot_pending") {
                server.task = Some("image_pending_upload");
            }
        });
        let wait = self.tunable.snapshot_time.0;
        self.after(wait, at, Event::SnapshotEnds { server, image });
    }

    fn clear_task(&mut self, seq: u64, at: Timestamp) {
        self.compute.servers.change(seq, at, |server| {
            if server.task != Some("deleting") {
                server.task = None;
            }
        });
    }
}

/// What happens to a floating address of a server.
pub(crate) enum Float {
    Comes(super::servers::Address),
    Leaves(Ipv4Addr),
}

/// How a snapshot ends.
pub(crate) enum SnapshotFate {
    Saves,
    Fails(Duration),
    Sticks(ImageStatus),
}
