//! The shared view of one cloud's servers: one list serves all nodes (rule 12).
//!
//! Decides what is known of which server from the lists it is given: ours are kept whole, others' only as what they
//! cost. It never takes absence from a list for proof that a server is gone; only a DELETED record, or a GET that was
//! answered with "not found" and is reported here, is. It asks nobody: [`super::poller`] does.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Resources, Server, ServerList, ServerStatus};

/// How many servers proven gone are remembered. A record whose server was gone longer ago asks for it by id.
const MOST_GONE: usize = 8192;

/// What one cloud's servers look like through one Provider.
#[derive(Debug)]
pub struct View {
    owner: String,
    provider: String,
    ours: HashMap<Box<str>, Entry>,
    /// Ours by name; several only when something went wrong, or somebody copies names.
    names: HashMap<Box<str>, Vec<Arc<Server>>>,
    foreign: HashMap<Box<str>, Stranger>,
    used: Foreign,
    gone: Gone,
    /// Others' deleted servers come again with every overlap, by then unknown.
    others_gone: Gone,
    /// Counts full lists, so that each entry knows whether it was in the last one.
    fulls: u32,
    last_full_at: Option<Timestamp>,
    last_list_at: Option<Timestamp>,
    /// By our own clock: when the question was sent.
    asked: Option<Instant>,
    full_asked: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    server: Arc<Server>,
    full: u32,
}

#[derive(Clone, Copy, Debug)]
struct Stranger {
    resources: Option<Resources>,
    full: u32,
}

/// What servers that are not ours take of the project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// All of them, and the cores and memory of those whose list told.
    pub resources: Resources,
    /// How many did not tell their size.
    pub unpriced: i64,
}

/// What changed between two lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Ids of ours that are new, different, or no longer listed.
    pub changed: Vec<String>,
    /// Ids that are proven gone now and were not before.
    pub gone: Vec<String>,
    /// Whether what others use changed.
    pub foreign: bool,
}

impl Delta {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty() && !self.foreign
    }
}

/// What a name leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum ByName {
    /// No server of ours is known by that name; that proves nothing.
    Unknown,
    /// Exactly one.
    One(Arc<Server>),
    /// Several: none may be adopted.
    Several(Vec<Arc<Server>>),
}

/// Ids proven gone, the oldest forgotten first.
#[derive(Debug, Default)]
struct Gone {
    ids: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Gone {
    fn has(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Whether it is news.
    fn add(&mut self, id: &str) -> bool {
        if self.has(id) {
            return false;
        }
        if self.order.len() >= MOST_GONE
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        let id: Arc<str> = id.into();
        self.order.push_back(id.clone());
        self.ids.insert(id)
    }
}

impl View {
    /// An empty view: nothing is known yet. Ours is what carries this owner and this provider (`namespace/name`).
    #[must_use]
    pub fn new(owner: impl Into<String>, provider: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            provider: provider.into(),
            ours: HashMap::default(),
            names: HashMap::default(),
            foreign: HashMap::default(),
            used: Foreign::default(),
            gone: Gone::default(),
            others_gone: Gone::default(),
            fulls: 0,
            last_full_at: None,
            last_list_at: None,
            asked: None,
            full_asked: None,
        }
    }

    /// A complete list of the project's servers. What is not in it is no longer shown, and nothing more than that.
    pub fn apply_full(&mut self, list: ServerList) -> Delta {
        self.fulls = self.fulls.wrapping_add(1);
        self.last_full_at = Some(list.taken_at);
        let mut delta = self.apply(list);
        let full = self.fulls;
        let absent: Vec<Box<str>> =
            self.ours.iter().filter(|(_, entry)| entry.full != full).map(|(id, _)| id.clone()).collect();
        for id in absent {
            self.drop_ours(&id);
            delta.changed.push(id.into_string());
        }
        let before = self.foreign.len();
        self.foreign.retain(|_, stranger| stranger.full == full);
        if self.foreign.len() != before {
            self.recount();
            delta.foreign = true;
        }
        self.shrink();
        delta
    }

    /// Servers that changed, deleted ones included. Nothing follows from what is not in it.
    pub fn apply_changes(&mut self, list: ServerList) -> Delta {
        // Not in a full list: an entry keeps the mark of the full list it was in, a new one has none.
        self.apply_with(list, None)
    }

    /// A GET by id was answered with "not found": the server is gone.
    pub fn prove_gone(&mut self, id: &str) {
        self.drop_ours(id);
        self.drop_foreign(id);
        self.gone.add(id);
    }

    /// One server of ours.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Server>> {
        self.ours.get(id).map(|entry| &entry.server)
    }

    /// Ours by name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> ByName {
        match self.names.get(name).map(Vec::as_slice) {
            None | Some([]) => ByName::Unknown,
            Some([one]) => ByName::One(one.clone()),
            Some(several) => ByName::Several(several.to_vec()),
        }
    }

    /// All of ours, in no order.
    pub fn ours(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.ours.values().map(|entry| &entry.server)
    }

    /// The ids of all servers of the project that are shown, whosever they are.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.ours.keys().chain(self.foreign.keys()).map(AsRef::as_ref)
    }

    /// What others use.
    #[must_use]
    pub fn foreign(&self) -> Foreign {
        self.used
    }

    /// Whether a server is proven gone. `false` proves nothing.
    #[must_use]
    pub fn is_gone(&self, id: &str) -> bool {
        self.gone.has(id)
    }

    /// When the last complete list was taken, by the cloud's clock; `None` before the first.
    #[must_use]
    pub fn last_full_at(&self) -> Option<Timestamp> {
        self.last_full_at
    }

    /// When the last answered question was sent, by our own clock: what existed before then was asked about.
    #[must_use]
    pub const fn asked(&self) -> Option<Instant> {
        self.asked
    }

    /// When the last answered question for a complete list was sent, by our own clock.
    #[must_use]
    pub const fn full_asked(&self) -> Option<Instant> {
        self.full_asked
    }

    /// A question sent at that instant was answered completely.
    pub fn answered(&mut self, asked: Instant, full: bool) {
        self.asked = Some(asked);
        if full {
            self.full_asked = Some(asked);
        }
    }

    /// Whether the last complete list had this server. `false` proves nothing: cells that are down are left out.
    #[must_use]
    pub fn seen_in_last_full(&self, id: &str) -> bool {
        let full = self.ours.get(id).map(|entry| entry.full).or_else(|| self.foreign.get(id).map(|other| other.full));
        self.fulls > 0 && full == Some(self.fulls)
    }

    /// From when on changes must be asked for, by the cloud's clock. Overlapping what was seen costs little; the clocks
    /// of a cloud's machines differ.
    #[must_use]
    pub fn changes_since(&self, overlap: Duration) -> Option<Timestamp> {
        let at = self.last_list_at?;
        Some(at.checked_sub(overlap).unwrap_or(at))
    }

    fn apply(&mut self, list: ServerList) -> Delta {
        self.apply_with(list, Some(self.fulls))
    }

    fn apply_with(&mut self, list: ServerList, full: Option<u32>) -> Delta {
        self.last_list_at = Some(list.taken_at);
        let mut delta = Delta::default();
        let used = self.used;
        for server in list.servers {
            self.take(server, full, &mut delta);
        }
        delta.foreign = self.used != used;
        delta
    }

    fn take(&mut self, mut server: Server, full: Option<u32>, delta: &mut Delta) {
        if self.is_gone(&server.id) {
            // Proven once is proven: an answer from an older copy of the cloud's data brings nothing back.
            return;
        }
        if server.status == ServerStatus::Unknown {
            server = self.remembered(server);
        }
        let full = full.unwrap_or_else(|| self.mark(&server.id));
        match server.status {
            ServerStatus::Deleted => self.take_deleted(&server, delta),
            _ if self.is_ours(&server) => self.take_ours(server, full, delta),
            _ => self.take_foreign(server, full, delta),
        }
    }

    /// A cell that is down tells an id and no more: what was known before stands, but for the status.
    fn remembered(&self, bare: Server) -> Server {
        match self.ours.get(bare.id.as_str()) {
            Some(entry) => Server { status: ServerStatus::Unknown, ..Server::clone(&entry.server) },
            None => bare,
        }
    }

    /// The full list an entry was in last; a new entry was in none.
    fn mark(&self, id: &str) -> u32 {
        let ours = self.ours.get(id).map(|entry| entry.full);
        ours.or_else(|| self.foreign.get(id).map(|other| other.full)).unwrap_or(self.fulls.wrapping_sub(1))
    }

    fn is_ours(&self, server: &Server) -> bool {
        let mark = server.ownership.as_ref();
        mark.is_some_and(|mark| mark.owner == self.owner && mark.provider == self.provider)
    }

    /// Deleted servers lose their metadata in some clouds: whoever was not known as a stranger may have been ours.
    fn take_deleted(&mut self, server: &Server, delta: &mut Delta) {
        let theirs = self.drop_foreign(&server.id) || (server.ownership.is_some() && !self.is_ours(server));
        let ours = self.drop_ours(&server.id) || self.is_ours(server);
        if theirs && !ours {
            self.others_gone.add(&server.id);
        } else if (ours || !self.others_gone.has(&server.id)) && self.gone.add(&server.id) {
            delta.gone.push(server.id.clone());
        }
    }

    fn take_ours(&mut self, server: Server, full: u32, delta: &mut Delta) {
        self.drop_foreign(&server.id);
        if let Some(entry) = self.ours.get_mut(server.id.as_str()) {
            entry.full = full;
            if *entry.server == server {
                return;
            }
        }
        delta.changed.push(server.id.clone());
        self.drop_ours(&server.id);
        let server = Arc::new(server);
        self.names.entry(server.name.as_str().into()).or_insert_with(|| Vec::with_capacity(1)).push(server.clone());
        self.ours.insert(server.id.as_str().into(), Entry { server, full });
    }

    fn take_foreign(&mut self, server: Server, full: u32, delta: &mut Delta) {
        if self.drop_ours(&server.id) {
            delta.changed.push(server.id.clone());
        }
        let known = self.foreign.get(server.id.as_str()).copied();
        let resources = server.resources.or(known.and_then(|known| known.resources));
        if let Some(known) = known {
            self.used.subtract(known.resources);
        }
        self.used.add(resources);
        self.foreign.insert(server.id.into_boxed_str(), Stranger { resources, full });
    }

    fn drop_ours(&mut self, id: &str) -> bool {
        let Some(entry) = self.ours.remove(id) else { return false };
        let name = entry.server.name.as_str();
        if let Some(named) = self.names.get_mut(name) {
            named.retain(|server| server.id != id);
            if named.is_empty() {
                self.names.remove(name);
            }
        }
        true
    }

    fn drop_foreign(&mut self, id: &str) -> bool {
        let Some(stranger) = self.foreign.remove(id) else { return false };
        self.used.subtract(stranger.resources);
        true
    }

    fn recount(&mut self) {
        self.used = Foreign::default();
        for stranger in self.foreign.values() {
            self.used.add(stranger.resources);
        }
    }

    /// After a peak the maps are larger than what they hold for ever.
    fn shrink(&mut self) {
        self.ours.shrink_to(self.ours.len() * 2);
        self.names.shrink_to(self.names.len() * 2);
        self.foreign.shrink_to(self.foreign.len() * 2);
    }
}

impl Foreign {
    fn add(&mut self, resources: Option<Resources>) {
        self.count(resources, 1);
    }

    fn subtract(&mut self, resources: Option<Resources>) {
        self.count(resources, -1);
    }

    fn count(&mut self, resources: Option<Resources>, sign: i64) {
        self.resources.instances += sign;
        match resources {
            Some(each) => {
                self.resources.cores += sign * each.cores;
                self.resources.ram_mib += sign * each.ram_mib;
            }
            None => self.unpriced += sign,
        }
    }
}

#[cfg(test)]
mod tests;
