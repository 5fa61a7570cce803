//! The state of one pass: the world, what is left of its room and its idle nodes, and the steps decided so far.
//!
//! Every step is taken through here, so that no node and no slot is ever used twice.

use super::offers::Offers;
use super::room::Room;
use super::stock::Stock;
use super::world::{Condemnation, NodeState, Step, World};

/// One pass over one world.
pub(super) struct Pass<'w> {
    pub(super) world: &'w World,
    pub(super) offers: Offers,
    pub(super) room: Room<'w>,
    pub(super) stock: Stock,
    pub(super) steps: Vec<Step>,
    /// By pool: nodes that requests wait for without setting any aside. They are no surplus, but anybody may have them.
    pub(super) awaited: Vec<u32>,
}

impl<'w> Pass<'w> {
    /// Counts everything once.
    pub(super) fn new(world: &'w World) -> Self {
        let offers = Offers::of(world);
        let room = Room::of(world, &offers);
        let stock = Stock::of(world, &offers);
        Self { world, offers, room, stock, steps: Vec::new(), awaited: vec![0; world.pools.len()] }
    }

    /// Creates one node of the pool at one of its offers, if that fits.
    pub(super) fn create(&mut self, pool: usize, offer: usize) -> bool {
        let Some((provider, slot)) = self.room.take(pool, offer) else { return false };
        self.steps.push(Step::Create { provider, slot, pool });
        true
    }

    /// Notes that so many nodes of a pool are waited for, and not set aside.
    pub(super) fn await_nodes(&mut self, pool: usize, count: u32) {
        if let Some(awaited) = self.awaited.get_mut(pool) {
            *awaited = awaited.saturating_add(count);
        }
    }

    /// Gives a ready node to a request.
    pub(super) fn claim(&mut self, node: usize, request: usize, entry: usize) {
        self.stock.remove(node);
        self.steps.push(Step::Claim { node, request, entry });
    }

    /// Destroys a node, once, and only one that is idle and was not given away in this pass.
    pub(super) fn condemn(&mut self, node: usize, why: Condemnation) -> bool {
        let idle = self
            .world
            .nodes
            .get(node)
            .is_some_and(|found| matches!(found.state, NodeState::Ready | NodeState::Building | NodeState::Kept));
        if !idle || self.stock.is_removed(node) {
            return false;
        }
        self.stock.remove(node);
        self.stock.note_leaving(self.world, node);
        self.steps.push(Step::Condemn { node, why });
        true
    }
}
