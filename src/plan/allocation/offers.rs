//! Which offer of a pool stands for a provider: found once, asked for every node.

use super::world::World;

/// For each pool and provider, the pool's offer there.
pub(super) struct Offers {
    providers: usize,
    at: Vec<Option<usize>>,
}

impl Offers {
    /// Notes the first offer of each pool for each provider; offers of providers that are not there are left out.
    pub(super) fn of(world: &World) -> Self {
        let providers = world.providers.len();
        let mut at = vec![None; providers.saturating_mul(world.pools.len())];
        for (pool, row) in world.pools.iter().zip(at.chunks_mut(providers.max(1))) {
            for (index, offer) in pool.offers.iter().enumerate() {
                if let Some(cell @ None) = row.get_mut(offer.provider) {
                    *cell = Some(index);
                }
            }
        }
        Self { providers, at }
    }

    /// The index of the pool's offer for the provider.
    pub(super) fn get(&self, pool: usize, provider: usize) -> Option<usize> {
        if provider >= self.providers {
            return None;
        }
        self.at.get(pool.checked_mul(self.providers)?.checked_add(provider)?).copied().flatten()
    }
}
