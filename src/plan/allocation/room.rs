//! What still fits: slots, servers, cores and memory of providers, caps of pools and offers, gates.
//!
//! Every node record counts, whatever its state, until its server is proven gone. Limits that were lowered below what
//! is there leave no room, and never make anything go. What a waiting request still needs is promised to it: nobody
//! behind it can use that, so that small demands never starve a big one (rule 6).

use super::offers::Offers;
use super::reasons;
use super::world::{Blocked, Gate, NodeState, Offer, Pool, Provider, Resources, Template, World};

/// More than any limit, and far from overflow.
const UNLIMITED: i64 = i64::MAX / 4;

/// More steps than that help nobody; the next pass goes on. It bounds a plan whatever the limits say.
const MOST_CREATES: u32 = 10_000;

/// An amount of room; below zero where limits were lowered or more is promised than there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    servers: i64,
    cores: i64,
    ram_mib: i64,
}

impl Left {
    /// How many nodes of this cost fit. None where a limit is already exceeded, even one that the node does not use.
    pub(super) fn times(self, cost: Resources) -> i64 {
        let fit = |left: i64, each: i64| match (left, each) {
            (left, _) if left < 0 => 0,
            (_, each) if each <= 0 => UNLIMITED,
            (left, each) => left / each,
        };
        self.servers.max(0).min(fit(self.cores, cost.cores)).min(fit(self.ram_mib, cost.ram_mib))
    }

    /// What is left after `count` more nodes of this cost.
    pub(super) fn minus(self, cost: Resources, count: i64) -> Self {
        Self {
            servers: self.servers.saturating_sub(count),
            cores: self.cores.saturating_sub(cost.cores.max(0).saturating_mul(count)),
            ram_mib: self.ram_mib.saturating_sub(cost.ram_mib.max(0).saturating_mul(count)),
        }
    }

    /// What the going of one node of this cost sets free.
    pub(super) fn freed_by(cost: Resources) -> Self {
        Self { servers: 0, cores: 0, ram_mib: 0 }.minus(cost, -1)
    }

    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            servers: self.servers.saturating_add(other.servers),
            cores: self.cores.saturating_add(other.cores),
            ram_mib: self.ram_mib.saturating_add(other.ram_mib),
        }
    }

    /// Whether nothing is exceeded.
    pub(super) fn is_enough(self) -> bool {
        self.servers >= 0 && self.cores >= 0 && self.ram_mib >= 0
    }

    /// Whether more of this helps where a node of cost `need` does not fit.
    pub(super) fn is_helped(self, freed: Self, need: Resources) -> bool {
        let after = self.minus(need, 1);
        let helps = |after: i64, freed: i64| after < 0 && freed > 0;
        helps(after.servers, freed.servers) || helps(after.cores, freed.cores) || helps(after.ram_mib, freed.ram_mib)
    }
}

/// The free slots of a provider, lowest first. Sorted only when one is asked for.
struct Slots {
    used: Vec<u32>,
    sorted: bool,
    seen: usize,
    next: u32,
    end: u32,
}

impl Slots {
    fn take(&mut self) -> Option<u32> {
        if !self.sorted {
            self.used.sort_unstable();
            self.sorted = true;
        }
        while let Some(&used) = self.used.get(self.seen) {
            if used > self.next {
                break;
            }
            if used == self.next {
                self.next = self.next.checked_add(1)?;
            }
            self.seen += 1;
        }
        let slot = self.next;
        if slot >= self.end {
            return None;
        }
        self.next = slot.checked_add(1)?;
        Some(slot)
    }
}

/// The books of one provider.
struct ProviderRoom {
    nodes: i64,
    left: Left,
    promised: Left,
    in_flight: u32,
    slots: Slots,
}

/// The books of a cap on nodes.
#[derive(Clone, Default)]
struct Cap {
    nodes: i64,
    promised: i64,
    in_flight: u32,
}

impl Cap {
    fn left(&self, most: Option<u32>) -> i64 {
        most.map_or(UNLIMITED, |most| i64::from(most) - self.nodes - self.promised)
    }
}

/// All books of one pass.
pub(super) struct Room<'w> {
    world: &'w World,
    providers: Vec<ProviderRoom>,
    pools: Vec<Cap>,
    offers: Vec<Vec<Cap>>,
    creates_left: u32,
}

/// Why one more node is not launched at an offer.
#[derive(Clone, Copy)]
pub(super) enum Why<'w> {
    /// The pool is paused.
    PoolPaused(&'w Pool),
    /// The pool is being deleted.
    PoolDeleting(&'w Pool),
    /// The provider is being deleted.
    ProviderDeleting(&'w Provider),
    /// The offer names no provider of this world.
    Nowhere(&'w Pool),
    /// A gate or a template says so.
    Told(&'w Blocked),
    /// A gate lets one launch through at a time, and one is under way.
    Probing(&'w Blocked),
    /// `maxNodes` of the pool.
    PoolFull(&'w Pool, i64),
    /// `maxNodes` of the pool for one provider.
    OfferFull(&'w Pool, &'w Provider, i64),
    /// `maxServers` of the provider.
    NoServers(&'w Provider, i64),
    /// What the cloud grants the project.
    NoInstances(&'w Provider, i64),
    /// Cores or memory; the words and figures for it.
    NoResources(&'w Provider, &'static str, i64, i64),
    /// Room is there, for those ahead in the queue.
    Promised(&'w Provider),
    /// This plan is long enough.
    NextPass,
}

impl Why<'_> {
    /// Whether waiting is enough, with nobody's doing.
    pub(super) fn passes_with_time(&self) -> bool {
        match self {
            Why::PoolPaused(_) | Why::PoolDeleting(_) | Why::ProviderDeleting(_) | Why::Nowhere(_) => false,
            Why::Told(blocked) | Why::Probing(blocked) => reasons::passes_with_time(blocked.reason),
            _ => true,
        }
    }

    /// What people are told.
    pub(super) fn blocked(&self) -> Blocked {
        let (reason, message) = match self {
            Why::PoolPaused(pool) => (reasons::PAUSED, format!("pool {} is paused", pool.name)),
            Why::PoolDeleting(pool) => (reasons::DRAINING, format!("pool {} is being deleted", pool.name)),
            Why::ProviderDeleting(provider) => {
                (reasons::DRAINING, format!("provider {} is being deleted", provider.name))
            }
            Why::Nowhere(pool) => {
                (reasons::NO_PROVIDER, format!("pool {} names a provider that does not exist", pool.name))
            }
            Why::Told(blocked) | Why::Probing(blocked) => return (*blocked).clone(),
            Why::PoolFull(pool, nodes) => {
                let most = pool.max_nodes.unwrap_or_default();
                (reasons::AT_CAPACITY, format!("pool {} has {nodes} nodes; maxNodes is {most}", pool.name))
            }
            Why::OfferFull(pool, provider, nodes) => (
                reasons::AT_CAPACITY,
                format!("pool {} has {nodes} nodes on provider {}, its maxNodes there", pool.name, provider.name),
            ),
            Why::NoServers(provider, nodes) => (
                reasons::AT_CAPACITY,
                format!("provider {} has {nodes} servers; maxServers is {}", provider.name, provider.max_servers),
            ),
            Why::NoInstances(provider, nodes) => (
                reasons::AT_CAPACITY,
                format!(
                    "provider {} has {nodes} servers; its cloud grants us {}",
                    provider.name,
                    provider.max_instances.unwrap_or_default().max(0)
                ),
            ),
            Why::NoResources(provider, what, left, need) => (
                reasons::AT_CAPACITY,
                format!("provider {} has {} {what} left; a node needs {need}", provider.name, left.max(&0)),
            ),
            Why::Promised(provider) => (
                reasons::AT_CAPACITY,
                format!("what is free on provider {} is kept for requests ahead in the queue", provider.name),
            ),
            Why::NextPass => (reasons::AT_CAPACITY, "many launches are under way".to_owned()),
        };
        Blocked { reason, message }
    }
}

impl<'w> Room<'w> {
    /// Opens the books of a world.
    pub(super) fn of(world: &'w World, offers: &Offers) -> Self {
        let mut room = Self {
            world,
            providers: world.providers.iter().map(ProviderRoom::of).collect(),
            pools: vec![Cap::default(); world.pools.len()],
            offers: world.pools.iter().map(|pool| vec![Cap::default(); pool.offers.len()]).collect(),
            creates_left: MOST_CREATES,
        };
        for node in &world.nodes {
            let comes = matches!(node.state, NodeState::Creating | NodeState::Building);
            if let Some(books) = room.providers.get_mut(node.provider) {
                books.slots.used.push(node.slot);
                books.enter(node.resources, comes);
            }
            if let Some(pool) = node.pool {
                let offer = offers.get(pool, node.provider);
                room.count(pool, offer, comes);
            }
        }
        room
    }

    fn count(&mut self, pool: usize, offer: Option<usize>, comes: bool) {
        let of_offer = offer.and_then(|offer| self.offers.get_mut(pool).and_then(|offers| offers.get_mut(offer)));
        for cap in self.pools.get_mut(pool).into_iter().chain(of_offer) {
            cap.nodes = cap.nodes.saturating_add(1);
            cap.in_flight = cap.in_flight.saturating_add(u32::from(comes));
        }
    }

    fn parts(&self, pool: usize, offer: usize) -> Option<(&'w Pool, &'w Offer, &'w Provider, &ProviderRoom)> {
        let world = self.world;
        let pool = world.pools.get(pool)?;
        let offer = pool.offers.get(offer)?;
        Some((pool, offer, world.providers.get(offer.provider)?, self.providers.get(offer.provider)?))
    }

    /// What one node of the offer costs, if that is known.
    pub(super) fn cost(&self, pool: usize, offer: usize) -> Option<Resources> {
        let template: &Template = self.world.pools.get(pool)?.offers.get(offer)?.template.as_ref().ok()?;
        Some(template.resources)
    }

    /// What is left of a provider that is not promised.
    pub(super) fn open(&self, provider: usize) -> Left {
        self.providers.get(provider).map_or(Left { servers: 0, cores: 0, ram_mib: 0 }, ProviderRoom::open)
    }

    /// The free part of a provider, as a fraction: servers that could still be launched, of how many.
    pub(super) fn share(&self, provider: usize) -> (i64, i64) {
        let most = self.world.providers.get(provider).map_or(0, |provider| i64::from(provider.max_servers));
        (self.open(provider).servers.max(0), most.max(1))
    }

    /// What forbids launching at an offer, however much room there is.
    pub(super) fn obstacle(&self, pool: usize, offer: usize) -> Option<Why<'w>> {
        let Some((pool, offer, provider, _)) = self.parts(pool, offer) else {
            return self.world.pools.get(pool).map(Why::Nowhere).or(Some(Why::NextPass));
        };
        if pool.draining {
            return Some(Why::PoolDeleting(pool));
        }
        if provider.draining {
            return Some(Why::ProviderDeleting(provider));
        }
        if pool.paused {
            return Some(Why::PoolPaused(pool));
        }
        for gate in [&provider.gate, &offer.gate] {
            if let Gate::Closed(blocked) = gate {
                return Some(Why::Told(blocked));
            }
        }
        offer.template.as_ref().err().map(Why::Told)
    }

    /// How many more nodes the pool may have, anywhere.
    pub(super) fn pool_allows(&self, pool: usize) -> i64 {
        let most = self.world.pools.get(pool).and_then(|pool| pool.max_nodes);
        self.pools.get(pool).map_or(0, |cap| cap.left(most))
    }

    /// How many more nodes the offer itself allows: its own cap and its own gate.
    pub(super) fn offer_allows(&self, pool: usize, offer: usize) -> i64 {
        let Some((_, found, ..)) = self.parts(pool, offer) else { return 0 };
        let Some(cap) = self.offers.get(pool).and_then(|offers| offers.get(offer)) else { return 0 };
        cap.left(found.max_nodes).min(through(&found.gate, cap.in_flight)).max(0)
    }

    /// How many more nodes of the offer's cost the provider itself allows: its room and its gate.
    pub(super) fn provider_allows(&self, pool: usize, offer: usize) -> i64 {
        let Some((_, _, provider, books)) = self.parts(pool, offer) else { return 0 };
        let cost = self.cost(pool, offer).unwrap_or_default();
        books.open().times(cost).min(through(&provider.gate, books.in_flight))
    }

    /// How many launches the provider's gate lets through now.
    pub(super) fn gate_allows(&self, provider: usize) -> i64 {
        match (self.world.providers.get(provider), self.providers.get(provider)) {
            (Some(provider), Some(books)) => through(&provider.gate, books.in_flight),
            _ => 0,
        }
    }

    /// How many more nodes fit at an offer.
    pub(super) fn times(&self, pool: usize, offer: usize) -> i64 {
        if self.obstacle(pool, offer).is_some() {
            return 0;
        }
        self.pool_allows(pool)
            .min(self.offer_allows(pool, offer))
            .min(self.provider_allows(pool, offer))
            .min(i64::from(self.creates_left))
            .max(0)
    }

    /// Why no more node fits at an offer; nothing if one does.
    pub(super) fn why_not(&self, pool: usize, offer: usize) -> Option<Why<'w>> {
        if let Some(obstacle) = self.obstacle(pool, offer) {
            return Some(obstacle);
        }
        if self.times(pool, offer) > 0 {
            return None;
        }
        let (found, place, provider, books) = self.parts(pool, offer)?;
        let of_pool = self.pools.get(pool)?;
        let of_offer = self.offers.get(pool)?.get(offer)?;
        for (gate, in_flight) in [(&provider.gate, books.in_flight), (&place.gate, of_offer.in_flight)] {
            if let (Gate::Probe(blocked), 1..) = (gate, in_flight) {
                return Some(Why::Probing(blocked));
            }
        }
        if of_pool.left(found.max_nodes) <= 0 {
            return Some(Why::PoolFull(found, of_pool.nodes));
        }
        if of_offer.left(place.max_nodes) <= 0 {
            return Some(Why::OfferFull(found, provider, of_offer.nodes));
        }
        Some(books.why_not(provider, self.cost(pool, offer).unwrap_or_default()))
    }

    /// Takes the lowest free slot for one node of an offer, if one fits.
    pub(super) fn take(&mut self, pool: usize, offer: usize) -> Option<(usize, u32)> {
        if self.times(pool, offer) <= 0 {
            return None;
        }
        let cost = self.cost(pool, offer)?;
        let provider = self.world.pools.get(pool)?.offers.get(offer)?.provider;
        let books = self.providers.get_mut(provider)?;
        let slot = books.slots.take()?;
        books.enter(cost, true);
        self.count(pool, Some(offer), true);
        self.creates_left = self.creates_left.saturating_sub(1);
        Some((provider, slot))
    }

    /// Keeps room of an offer's provider, and of its cap there, from all who ask later.
    pub(super) fn promise_offer(&mut self, pool: usize, offer: usize, count: u32) {
        let cost = self.cost(pool, offer).unwrap_or_default();
        let provider = self.world.pools.get(pool).and_then(|pool| pool.offers.get(offer)).map(|offer| offer.provider);
        if let Some(books) = provider.and_then(|provider| self.providers.get_mut(provider)) {
            books.promised = books.promised.minus(cost, i64::from(count));
        }
        if let Some(cap) = self.offers.get_mut(pool).and_then(|offers| offers.get_mut(offer)) {
            cap.promised = cap.promised.saturating_add(i64::from(count));
        }
    }

    /// Keeps places under a pool's cap from all who ask later.
    pub(super) fn promise_pool(&mut self, pool: usize, count: u32) {
        if let Some(cap) = self.pools.get_mut(pool) {
            cap.promised = cap.promised.saturating_add(i64::from(count));
        }
    }
}

/// How many launches a gate lets through.
fn through(gate: &Gate, in_flight: u32) -> i64 {
    match gate {
        Gate::Open => UNLIMITED,
        Gate::Probe(_) => i64::from(in_flight == 0),
        Gate::Closed(_) => 0,
    }
}

impl ProviderRoom {
    fn of(provider: &Provider) -> Self {
        let servers = i64::from(provider.max_servers).min(provider.max_instances.unwrap_or(UNLIMITED));
        Self {
            nodes: 0,
            left: Left {
                servers,
                cores: provider.max_cores.unwrap_or(UNLIMITED),
                ram_mib: provider.max_ram_mib.unwrap_or(UNLIMITED),
            },
            promised: Left { servers: 0, cores: 0, ram_mib: 0 },
            in_flight: 0,
            slots: Slots { used: Vec::new(), sorted: false, seen: 0, next: 0, end: provider.max_servers },
        }
    }

    fn enter(&mut self, cost: Resources, comes: bool) {
        self.nodes = self.nodes.saturating_add(1);
        self.left = self.left.minus(cost, 1);
        self.in_flight = self.in_flight.saturating_add(u32::from(comes));
    }

    fn open(&self) -> Left {
        self.left.plus(self.promised)
    }

    fn why_not<'w>(&self, provider: &'w Provider, cost: Resources) -> Why<'w> {
        if self.left.servers <= 0 {
            return match provider.max_instances {
                Some(most) if most < i64::from(provider.max_servers) => Why::NoInstances(provider, self.nodes),
                _ => Why::NoServers(provider, self.nodes),
            };
        }
        let lacks = |left: i64, need: i64| left < 0 || left < need;
        if lacks(self.left.cores, cost.cores) {
            return Why::NoResources(provider, "cores", self.left.cores, cost.cores);
        }
        if lacks(self.left.ram_mib, cost.ram_mib) {
            return Why::NoResources(provider, "MiB of memory", self.left.ram_mib, cost.ram_mib);
        }
        if self.open().times(cost) <= 0 { Why::Promised(provider) } else { Why::NextPass }
    }
}
