//! How standby is shared out among providers: the allocator of 2014's nodepool, on plain numbers.
//!
//! Each label asks each of its providers in proportion to what is free there. Provider by provider, labels that got
//! nothing in the rounds before come first, longest wait first; then those with the fewest providers left; equals
//! share in proportion to what they ask. It hands out no more than is free, and knows nothing of sizes or caps:
//! the caller makes grants real, or not.

/// What one label wants.
#[derive(Clone, Debug)]
pub struct Label {
    /// How many nodes.
    pub amount: u32,
    /// Where they could be.
    pub places: Vec<Place>,
}

/// One provider that could serve a label.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Index of the provider.
    pub provider: usize,
    /// How many rounds in a row the label wanted nodes there and got none anywhere.
    pub wait: u32,
}

/// An answer: so many nodes of a label on a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Index of the provider.
    pub provider: usize,
    /// Index of the label.
    pub label: usize,
    /// How many, never 0.
    pub amount: u32,
}

/// One label at one provider, not yet answered.
struct Asking {
    label: usize,
    wait: u32,
}

/// A label in the course of a round.
struct Open {
    /// What it still wants.
    amount: f64,
    /// The providers that have not answered yet, and how much is asked of each.
    asks: Vec<(usize, f64)>,
}

impl Open {
    /// Shares what is still wanted among the providers that have not answered.
    fn share_out(&mut self, available: &[i64]) {
        let free = |provider: usize| available.get(provider).copied().unwrap_or(0) as f64;
        let total: f64 = self.asks.iter().map(|&(provider, _)| free(provider)).sum();
        for (provider, asked) in &mut self.asks {
            let ratio = if total > 0.0 { free(*provider) / total } else { 0.0 };
            *asked = ratio * self.amount;
        }
    }

    fn asked(&self, provider: usize) -> f64 {
        self.asks.iter().find(|(at, _)| *at == provider).map_or(0.0, |(_, asked)| *asked)
    }
}

/// Shares out what is free (`available`, by provider; below zero is none) among labels.
#[must_use]
pub fn distribute(available: &[i64], labels: &[Label]) -> Vec<Grant> {
    let mut round = Round::new(available, labels);
    let mut askings: Vec<Vec<Asking>> = available.iter().map(|_| Vec::new()).collect();
    for (label, wanted) in labels.iter().enumerate() {
        for place in &wanted.places {
            if let Some(askings) = askings.get_mut(place.provider) {
                askings.push(Asking { label, wait: place.wait });
            }
        }
    }
    for (provider, askings) in askings.into_iter().enumerate() {
        round.answer(provider, askings);
    }
    round.grants
}

struct Round {
    available: Vec<i64>,
    labels: Vec<Open>,
    grants: Vec<Grant>,
}

impl Round {
    fn new(available: &[i64], labels: &[Label]) -> Self {
        let available: Vec<i64> = available.iter().map(|&free| free.max(0)).collect();
        let mut labels: Vec<Open> = labels
            .iter()
            .map(|label| Open {
                amount: f64::from(label.amount),
                asks: label.places.iter().map(|place| (place.provider, 0.0)).collect(),
            })
            .collect();
        for label in &mut labels {
            label.share_out(&available);
        }
        Self { available, labels, grants: Vec::new() }
    }

    fn free(&self, provider: usize) -> i64 {
        self.available.get(provider).copied().unwrap_or(0)
    }

    fn asked(&self, label: usize, provider: usize) -> f64 {
        self.labels.get(label).map_or(0.0, |open| open.asked(provider))
    }

    /// All grants of one provider: waiters, then by how few others could serve.
    fn answer(&mut self, provider: usize, askings: Vec<Asking>) {
        let (mut waiters, others): (Vec<_>, Vec<_>) = askings.into_iter().partition(|asking| asking.wait > 0);
        waiters.sort_by_key(|waiter| std::cmp::Reverse(waiter.wait));
        let mut rest: Vec<usize> = others.into_iter().map(|asking| asking.label).collect();
        for waiter in waiters {
            if self.free(provider) > 0 {
                let asked = self.asked(waiter.label, provider).trunc() as i64;
                self.grant(provider, waiter.label, asked.min(self.free(provider)));
            } else {
                rest.push(waiter.label);
            }
        }
        let rank = |round: &Self, label: usize| round.labels.get(label).map_or(0, |open| open.asks.len());
        let mut ranked: Vec<(usize, usize)> = rest.into_iter().map(|label| (rank(self, label), label)).collect();
        ranked.sort_by_key(|&(rank, _)| rank);
        for level in ranked.chunk_by(|one, other| one.0 == other.0) {
            for (index, &(_, label)) in level.iter().enumerate() {
                let equals = level.get(index..).unwrap_or_default();
                let total: f64 = equals.iter().map(|&(_, label)| self.asked(label, provider)).sum();
                let asked = self.asked(label, provider);
                let ratio = if total > 0.0 { asked / total } else { 0.0 };
                // Halves go away from zero, as Python 2 rounded.
                let fair = (self.free(provider) as f64 * ratio).round() as i64;
                self.grant(provider, label, (asked.round() as i64).min(fair));
            }
        }
    }

    /// Notes an answer, and asks the label's other providers for what is still wanted.
    fn grant(&mut self, provider: usize, label: usize, amount: i64) {
        let amount = amount.clamp(0, self.free(provider));
        if let Some(free) = self.available.get_mut(provider) {
            *free -= amount;
        }
        let Some(open) = self.labels.get_mut(label) else { return };
        open.asks.retain(|&(at, _)| at != provider);
        open.amount -= amount as f64;
        open.share_out(&self.available);
        if let (Ok(amount), true) = (u32::try_from(amount), amount > 0) {
            self.grants.push(Grant { provider, label, amount });
        }
    }
}
