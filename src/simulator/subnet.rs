//! Addresses of a simulated network: which are free, which are taken.
//!
//! Hands out addresses round robin, so that an address rests as long as possible before another server gets it.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr, str::FromStr};

/// An IPv4 network, such as `127.21.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

/// What to write instead of a network that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a network: write an IPv4 network such as 127.21.0.0/16, with a prefix of 8 to 30")]
pub struct NotANetwork(String);

impl Cidr {
    pub(crate) const SERVERS: Self = Self { base: 0x7f15_0000, prefix: 16 };
    pub(crate) const FLOATING: Self = Self { base: 0x7f79_0000, prefix: 16 };

    fn size(self) -> u32 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The address that real networks give to their router; no server gets it.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// First and last address that can be handed out.
    pub(crate) fn pool(self) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::from(self.base + 2), Ipv4Addr::from(self.base + self.size() - 2))
    }
}

impl FromStr for Cidr {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let refuse = || NotANetwork(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(refuse)?;
        let base = u32::from(address.parse::<Ipv4Addr>().map_err(|_| refuse())?);
        let prefix: u8 = prefix.parse().map_err(|_| refuse())?;
        let network = Self { base, prefix };
        if !(8..=30).contains(&prefix) || base % network.size() != 0 {
            return Err(refuse());
        }
        Ok(network)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

/// The taken addresses of one network.
#[derive(Debug)]
pub(crate) struct Addresses {
    pub cidr: Cidr,
    used: BTreeSet<Ipv4Addr>,
    last: u32,
}

impl Addresses {
    pub(crate) fn new(cidr: Cidr) -> Self {
        Self { cidr, used: BTreeSet::new(), last: u32::from(cidr.gateway()) }
    }

    /// The next free address, or none when all are taken.
    pub(crate) fn take(&mut self) -> Option<Ipv4Addr> {
        let (first, end) = self.cidr.pool();
        let (first, end) = (u32::from(first), u32::from(end));
        let free = (self.last + 1..=end)
            .chain(first..=self.last.min(end))
            .find(|candidate| !self.used.contains(&Ipv4Addr::from(*candidate)))?;
        self.last = free;
        self.used.insert(Ipv4Addr::from(free));
        Some(Ipv4Addr::from(free))
    }

    /// Takes this very address; false when it is not of this network or taken.
    pub(crate) fn take_exactly(&mut self, address: Ipv4Addr) -> bool {
        let (first, last) = self.cidr.pool();
        (first..=last).contains(&address) && self.used.insert(address)
    }

    pub(crate) fn give_back(&mut self, address: Ipv4Addr) {
        self.used.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_each_address_once_and_the_oldest_first() {
        let mut addresses = Addresses::new("10.0.0.0/29".parse().unwrap());
        let all: Vec<_> = std::iter::from_fn(|| addresses.take()).collect();
        assert_eq!(all.len(), 5);
        addresses.give_back(all[3]);
        addresses.give_back(all[1]);
        assert_eq!(addresses.take(), Some(all[1]));
        assert!(addresses.take_exactly(all[3]));
        assert!(!addresses.take_exactly(all[3]));
        assert_eq!(addresses.take(), None);
    }

    #[test]
    fn the_constants_are_the_defaults_of_the_flags() {
        assert_eq!(Cidr::SERVERS.to_string(), "127.21.0.0/16");
        assert_eq!(Cidr::FLOATING.to_string(), "127.121.0.0/16");
        assert!("127.21.0.1/16".parse::<Cidr>().is_err());
    }
}
