//! What was left behind in a cloud: which servers, floating IPs, ports, images and key pairs carry our owner and a record
//! that is no more.
//!
//! The cloud is listed before the records are read, so that nothing new looks abandoned. Only what carries our owner is
//! ever deleted (rule 10), after two sightings in two passes and a minimum age, a few in a window (rule 11). A list
//! that failed, is incomplete or makes no sense deletes nothing: of all accidents in this trade, a sweep after an empty
//! answer was the worst.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cloud::Ownership;

/// The fewest deletions that a window allows, however small the fleet.
const BUDGET_FLOOR: u32 = 5;
/// The part of the fleet that may be deleted in a window, in percent.
const BUDGET_PERCENT: u32 = 5;

/// What kind of thing was left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A server.
    Server,
    /// A floating IP. Before ports: it is released first.
    FloatingIp,
    /// A port.
    Port,
    /// An image.
    Image,
    /// A key pair.
    KeyPair,
}

impl Kind {
    /// All there are, in the order in which they go.
    const ALL: [Self; 5] = [Self::Server, Self::FloatingIp, Self::Port, Self::Image, Self::KeyPair];
}

/// A thing in the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    /// The cloud's id.
    pub id: String,
    /// Who made it and for which record, if it says so.
    pub ownership: Option<Ownership>,
    /// When the cloud says it was made.
    pub created: Option<Timestamp>,
    /// The server of a port, the port of a floating IP.
    pub attached_to: Option<String>,
}

/// What one pass of the collector sees of one provider.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Our own time.
    pub now: Timestamp,
    /// The cloud's own time when it was listed; ages of things are told by its clock.
    pub listed_at: Timestamp,
    /// This installation.
    pub owner: String,
    /// `namespace/name` of the provider whose cloud this is.
    pub provider: String,
    /// All providers there are: what carries one of them is left to it, for they may share a project.
    pub providers: BTreeSet<String>,
    /// All servers of the project; `None` when the list failed or is incomplete.
    pub servers: Option<Vec<Thing>>,
    /// The ports that carry our owner; `None` when the list failed or is incomplete.
    pub ports: Option<Vec<Thing>>,
    /// The floating IPs of the project; `None` when the list failed or is incomplete.
    pub floating_ips: Option<Vec<Thing>>,
    /// The images that carry our owner; `None` when the list failed or is incomplete.
    pub images: Option<Vec<Thing>>,
    /// The key pairs that carry our owner in their names, without those whose record is known elsewhere: they belong to a
    /// user, whom others may share. `None` when the list failed or is incomplete.
    pub key_pairs: Option<Vec<Thing>>,
    /// The uids of all live records, read after the cloud was listed; `None` when that failed.
    pub records: Option<BTreeSet<String>>,
    /// What was seen in earlier passes.
    pub sightings: Sightings,
    /// What the cloud refused to delete when it was asked last: it stands behind all that may go.
    pub refused: BTreeSet<(Kind, String)>,
    /// When things were deleted by earlier passes.
    pub deletions: Vec<Timestamp>,
    /// How many servers we run, everywhere: what the budget is a part of.
    pub fleet: u32,
    /// How old a thing must be.
    pub minimum_age: Duration,
    /// The length of the window that the budget holds for.
    pub window: Duration,
}

/// What earlier passes saw, by kind and id.
pub type Sightings = BTreeMap<(Kind, String), Sighting>;

/// How often something was seen without its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// The record that is no more.
    pub record: String,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// In how many passes.
    pub count: u32,
}

/// Something to delete.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    /// What it is.
    pub kind: Kind,
    /// The cloud's id.
    pub id: String,
    /// The record that is no more; compared with the thing once more before it is deleted.
    pub record: String,
}

/// The answer to one sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What to remember for the next pass.
    pub sightings: Sightings,
    /// What to delete now.
    pub delete: Vec<Leak>,
    /// How many more are due, and wait for the next window.
    pub held_back: usize,
    /// Why nothing is deleted although something may be due: a sentence for people.
    pub frozen: Option<String>,
}

/// Answers one sweep.
#[must_use]
pub fn find_leaks(sweep: &Sweep) -> Findings {
    let Some(records) = &sweep.records else {
        return freeze(sweep, "the records could not be read; nothing is collected until they can".to_owned());
    };
    let budget = budget(sweep.fleet);
    let ours = sweep.count_ours();
    if records.is_empty() && ours > budget as usize {
        let sentence = format!(
            "no record exists, but {} holds {ours} things of ours; delete them by hand if the records were lost",
            sweep.provider
        );
        return freeze(sweep, sentence);
    }
    let mut findings = Findings::default();
    let mut due = Vec::new();
    for kind in Kind::ALL {
        let Some(things) = sweep.list(kind) else {
            findings.sightings.extend(sweep.seen_before(kind));
            continue;
        };
        for thing in things {
            let Some(record) = sweep.lost_record(kind, thing, records) else { continue };
            let sighting = sweep.sight(kind, thing, record);
            if sweep.is_due(thing, &sighting) {
                let leak = Leak { kind, id: thing.id.clone(), record: record.to_owned() };
                let refused = sweep.refused.contains(&(kind, thing.id.clone()));
                due.push((refused, kind, sighting.first_seen, leak));
            }
            findings.sightings.insert((kind, thing.id.clone()), sighting);
        }
    }
    due.sort();
    due.dedup();
    let allowed = (budget as usize).saturating_sub(sweep.spent());
    findings.held_back = due.len().saturating_sub(allowed);
    findings.delete = due.into_iter().take(allowed).map(|(.., leak)| leak).collect();
    findings
}

/// How many deletions a window allows for a fleet of so many servers.
#[must_use]
pub fn budget(fleet: u32) -> u32 {
    (u64::from(fleet) * u64::from(BUDGET_PERCENT) / 100).try_into().unwrap_or(u32::MAX).max(BUDGET_FLOOR)
}

/// Remembers what is known, learns nothing, deletes nothing.
fn freeze(sweep: &Sweep, sentence: String) -> Findings {
    Findings { sightings: sweep.sightings.clone(), frozen: Some(sentence), ..Findings::default() }
}

impl Sweep {
    fn list(&self, kind: Kind) -> Option<&[Thing]> {
        let list = match kind {
            Kind::Server => &self.servers,
            Kind::FloatingIp => &self.floating_ips,
            Kind::Port => &self.ports,
            Kind::Image => &self.images,
            Kind::KeyPair => &self.key_pairs,
        };
        list.as_deref()
    }

    fn seen_before(&self, kind: Kind) -> impl Iterator<Item = ((Kind, String), Sighting)> {
        self.sightings.iter().filter(move |((seen, _), _)| *seen == kind).map(|(key, seen)| (key.clone(), seen.clone()))
    }

    fn count_ours(&self) -> usize {
        Kind::ALL
            .into_iter()
            .filter_map(|kind| self.list(kind))
            .flatten()
            .filter(|thing| self.our_record(thing).is_some())
            .count()
    }

    /// The record of a thing that is ours to collect: our owner, and no other provider's.
    fn our_record<'t>(&self, thing: &'t Thing) -> Option<&'t str> {
        let made = thing.ownership.as_ref()?;
        let complete = !self.owner.is_empty() && !made.record.is_empty() && !thing.id.is_empty();
        let here = made.provider == self.provider || !self.providers.contains(&made.provider);
        (complete && made.owner == self.owner && here).then_some(made.record.as_str())
    }

    /// The record of a thing that nothing stands for any more.
    fn lost_record<'t>(&self, kind: Kind, thing: &'t Thing, records: &BTreeSet<String>) -> Option<&'t str> {
        let record = self.our_record(thing).filter(|record| !records.contains(*record))?;
        let loose = match (kind, &thing.attached_to) {
            (Kind::Server | Kind::Image | Kind::KeyPair, _) | (_, None) => true,
            (Kind::Port, Some(server)) => self.is_server_gone(server),
            (Kind::FloatingIp, Some(port)) => self.is_port_dead(port),
        };
        loose.then_some(record)
    }

    /// Only a complete list that is not empty can say that a server is not there. A server that is there keeps its
    /// parts, whosever it is: when it goes, they are seen again.
    fn is_server_gone(&self, server: &str) -> bool {
        self.servers
            .as_ref()
            .is_some_and(|servers| !servers.is_empty() && servers.iter().all(|known| known.id != server))
    }

    /// A port is known to be dead when it is one of ours and its server is gone. Of one that is not listed, nothing is
    /// known: the list holds only our own.
    fn is_port_dead(&self, port: &str) -> bool {
        let known = self.ports.iter().flatten().find(|known| known.id == port);
        known.is_some_and(|known| {
            self.our_record(known).is_some()
                && known.attached_to.as_deref().is_none_or(|server| self.is_server_gone(server))
        })
    }

    /// One more sighting; the first, if the thing now names another record.
    fn sight(&self, kind: Kind, thing: &Thing, record: &str) -> Sighting {
        let before = self.sightings.get(&(kind, thing.id.clone())).filter(|before| before.record == record);
        Sighting {
            record: record.to_owned(),
            first_seen: before.map_or(self.now, |before| before.first_seen),
            count: before.map_or(0, |before| before.count).saturating_add(1),
        }
    }

    /// Seen twice, in passes of different times, and old enough.
    fn is_due(&self, thing: &Thing, sighting: &Sighting) -> bool {
        let is_old = |since: Timestamp, now: Timestamp| {
            since.checked_add(self.minimum_age).is_ok_and(|age_reached| age_reached <= now)
        };
        let old = match thing.created {
            Some(created) => is_old(created, self.listed_at),
            None => is_old(sighting.first_seen, self.now),
        };
        old && sighting.count >= 2 && sighting.first_seen < self.now
    }

    /// How many deletions of this window are behind us; those of a future that a clock once told count as well.
    fn spent(&self) -> usize {
        let start = self.now.checked_sub(self.window).unwrap_or(Timestamp::MIN);
        self.deletions.iter().filter(|&&at| at > start).count()
    }
}

#[cfg(test)]
mod tests;
