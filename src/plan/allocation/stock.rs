//! The idle nodes: which are there for whom, and who has reserved them in this pass.
//!
//! A reservation lives in one plan only. It is found again in the next pass because the order is the same. Nodes whose
//! pool or provider is going away are strays: nobody gets them.

use jiff::Timestamp;

use super::offers::Offers;
use super::world::{Node, NodeState, World};

/// What this pass has done with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// Nothing.
    Free,
    /// Set aside for the request of this rank.
    Reserved(u32),
    /// Claimed or condemned.
    Removed,
}

/// Whose a node is, as one request sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClaimOn {
    /// Nobody has set it aside.
    Nobodys,
    /// A request further behind has.
    Later,
    /// The request itself has.
    Own,
}

/// Idle nodes of one pool on one provider, the one to take next in front.
#[derive(Default)]
pub(super) struct Queue {
    nodes: Vec<usize>,
    next: usize,
}

impl Queue {
    /// Those that nobody has taken.
    pub(super) fn rest(&self) -> &[usize] {
        self.nodes.get(self.next..).unwrap_or_default()
    }

    /// How many nobody has taken.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.rest().len()).unwrap_or(u32::MAX)
    }

    fn pop(&mut self) -> Option<usize> {
        let node = self.nodes.get(self.next).copied()?;
        self.next += 1;
        Some(node)
    }
}

/// The idle nodes of one pool on one provider.
#[derive(Default)]
pub(super) struct Shelf {
    /// Ready ones.
    pub(super) ready: Queue,
    /// Those that will be ready: building, then those whose creation is not answered yet.
    pub(super) coming: Queue,
}

/// All idle nodes.
pub(super) struct Stock {
    shelves: Vec<Vec<Shelf>>,
    strays: Vec<usize>,
    holds: Vec<Hold>,
    leaving_by_provider: Vec<u32>,
    leaving_by_pool: Vec<u32>,
    kept: Vec<u32>,
    nowhere: Shelf,
}

impl Stock {
    /// Sorts the nodes of a world onto their shelves.
    pub(super) fn of(world: &World, offers: &Offers) -> Self {
        let mut stock = Self {
            shelves: world.pools.iter().map(|pool| pool.offers.iter().map(|_| Shelf::default()).collect()).collect(),
            strays: Vec::new(),
            holds: vec![Hold::Free; world.nodes.len()],
            leaving_by_provider: vec![0; world.providers.len()],
            leaving_by_pool: vec![0; world.pools.len()],
            kept: vec![0; world.pools.len()],
            nowhere: Shelf::default(),
        };
        for (index, node) in world.nodes.iter().enumerate() {
            match node.state {
                NodeState::Leaving => stock.note_leaving(world, index),
                NodeState::Creating | NodeState::Building | NodeState::Ready => stock.put(world, offers, index, node),
                NodeState::Kept => stock.keep(world, index, node),
                NodeState::Claimed | NodeState::Held => {}
            }
        }
        stock.sort(world);
        stock
    }

    /// Only what is known to go takes it along.
    fn keep(&mut self, world: &World, index: usize, node: &Node) {
        if is_going(world, node) {
            self.strays.push(index);
        } else if let Some(kept) = node.pool.and_then(|pool| self.kept.get_mut(pool)) {
            *kept = kept.saturating_add(1);
        }
    }

    fn put(&mut self, world: &World, offers: &Offers, index: usize, node: &Node) {
        // Of a pool or a provider that is not in the world there is no offer.
        let shelf = node.pool.filter(|_| !is_going(world, node)).and_then(|pool| {
            let offer = offers.get(pool, node.provider)?;
            self.shelves.get_mut(pool)?.get_mut(offer)
        });
        match shelf {
            Some(shelf) if node.state == NodeState::Ready => shelf.ready.nodes.push(index),
            Some(shelf) => shelf.coming.nodes.push(index),
            None => self.strays.push(index),
        }
    }

    /// Where outdated nodes are being replaced anyway, new ones are handed out first; else the oldest, or they would
    /// never be used up.
    fn sort(&mut self, world: &World) {
        for (pool, shelves) in world.pools.iter().zip(&mut self.shelves) {
            for (offer, shelf) in pool.offers.iter().zip(shelves) {
                let current = offer.template.as_ref().ok().map(|template| &*template.hash);
                shelf.ready.nodes.sort_by_cached_key(|&index| {
                    let node = world.nodes.get(index);
                    let outdated = pool.rolling && node.is_some_and(|node| is_outdated(node, current));
                    (outdated, node.map(idle_since))
                });
                shelf.coming.nodes.sort_by_cached_key(|&index| {
                    let node = world.nodes.get(index);
                    (node.is_none_or(|node| node.state == NodeState::Creating), node.map(|node| node.created))
                });
            }
        }
    }

    /// The idle nodes at an offer.
    pub(super) fn shelf(&self, pool: usize, offer: usize) -> &Shelf {
        self.shelves.get(pool).and_then(|shelves| shelves.get(offer)).unwrap_or(&self.nowhere)
    }

    /// All idle nodes of a pool, by offer.
    pub(super) fn of_pool(&self, pool: usize) -> &[Shelf] {
        self.shelves.get(pool).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many nodes of a pool nobody has taken: ready, building and being created.
    pub(super) fn free(&self, pool: usize) -> u32 {
        self.of_pool(pool)
            .iter()
            .fold(0, |sum: u32, shelf| sum.saturating_add(shelf.ready.len()).saturating_add(shelf.coming.len()))
    }

    /// What counts for `minReady`: what is free, and what is kept while nobody can tell.
    pub(super) fn standing(&self, pool: usize) -> u32 {
        self.free(pool).saturating_add(self.kept.get(pool).copied().unwrap_or(0))
    }

    /// Idle nodes whose pool or provider is going away or gone.
    pub(super) fn strays(&self) -> &[usize] {
        &self.strays
    }

    /// Takes the next ready node of an offer off its shelf.
    pub(super) fn take_ready(&mut self, pool: usize, offer: usize) -> Option<usize> {
        self.shelves.get_mut(pool)?.get_mut(offer)?.ready.pop()
    }

    /// Sets aside up to `count` nodes of an offer for the request of this rank, ready ones first, and says how many.
    pub(super) fn reserve(&mut self, pool: usize, offer: usize, count: u32, rank: u32) -> u32 {
        let Some(shelf) = self.shelves.get_mut(pool).and_then(|shelves| shelves.get_mut(offer)) else { return 0 };
        let mut reserved = 0;
        while reserved < count {
            let Some(node) = shelf.ready.pop().or_else(|| shelf.coming.pop()) else { break };
            if let Some(hold) = self.holds.get_mut(node) {
                *hold = Hold::Reserved(rank);
            }
            reserved += 1;
        }
        reserved
    }

    /// How readily a node makes way for the request of this rank: it is nobody's, a later request's, or its own.
    /// Nothing that is ahead of it makes way.
    pub(super) fn claim_on(&self, node: usize, rank: u32) -> Option<ClaimOn> {
        match self.holds.get(node)? {
            Hold::Free => Some(ClaimOn::Nobodys),
            Hold::Reserved(by) if *by > rank => Some(ClaimOn::Later),
            Hold::Reserved(by) if *by == rank => Some(ClaimOn::Own),
            Hold::Reserved(_) | Hold::Removed => None,
        }
    }

    /// Notes that a step of this pass uses the node.
    pub(super) fn remove(&mut self, node: usize) {
        if let Some(hold) = self.holds.get_mut(node) {
            *hold = Hold::Removed;
        }
    }

    /// Whether a step of this pass uses the node.
    pub(super) fn is_removed(&self, node: usize) -> bool {
        self.holds.get(node).is_none_or(|hold| *hold == Hold::Removed)
    }

    /// Notes that a node is on its way out.
    pub(super) fn note_leaving(&mut self, world: &World, node: usize) {
        let Some(node) = world.nodes.get(node) else { return };
        if let Some(count) = self.leaving_by_provider.get_mut(node.provider) {
            *count = count.saturating_add(1);
        }
        if let Some(count) = node.pool.and_then(|pool| self.leaving_by_pool.get_mut(pool)) {
            *count = count.saturating_add(1);
        }
    }

    /// Whether some node of the provider is on its way out.
    pub(super) fn is_leaving_provider(&self, provider: usize) -> bool {
        self.leaving_by_provider.get(provider).is_some_and(|&count| count > 0)
    }

    /// Whether some node of the pool is on its way out.
    pub(super) fn is_leaving_pool(&self, pool: usize) -> bool {
        self.leaving_by_pool.get(pool).is_some_and(|&count| count > 0)
    }
}

/// Whether a node's pool or provider is going away.
fn is_going(world: &World, node: &Node) -> bool {
    world.providers.get(node.provider).is_some_and(|provider| provider.draining)
        || node.pool.and_then(|pool| world.pools.get(pool)).is_some_and(|pool| pool.draining)
}

/// Whether a node was made from something else than what its pool boots now. Not known, not outdated.
pub(super) fn is_outdated(node: &Node, current: Option<&str>) -> bool {
    current.is_some_and(|hash| *hash != *node.hash)
}

/// Since when a node stands idle.
pub(super) fn idle_since(node: &Node) -> Timestamp {
    node.ready_since.unwrap_or(node.created)
}
