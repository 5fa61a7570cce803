//! Which addresses the operator connects to on behalf of what people write: clouds (`auth_url` and what their catalogues name) and
//! image servers (`url`, and lists of checksums).
//!
//! It decides by the address that a connection would have, not by the name: whoever may write a Provider or a DiskImage must not
//! reach through the operator what only the operator reaches. Closed are loopback, link-local addresses (where clouds keep
//! the metadata of their machines), unspecified and multicast ones, the API server, and the networks that the installation
//! says are the cluster's own (`--cluster-network`); open again is what it says so of (`--allow-network`). A name is
//! resolved once for each connection, and what is closed is taken out of the answer, so that a name that changes its mind
//! leads nowhere else.
//!
//! It never restricts the connection to the API server, which is the installation's own, nor those to the login port of nodes,
//! where nothing but an SSH greeting is read. Behind a proxy (`HTTPS_PROXY`) names are the proxy's to resolve, and to
//! refuse: only addresses that are written as such are judged here. The proxy itself is judged as any other: one in the
//! cluster's networks must be opened.

use std::error::Error as StdError;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;

#[cfg(test)]
mod tests;

/// What an address must not be, or which name leads to nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} is not connected to: {1}; --allow-network opens networks")]
pub struct Closed(pub IpAddr, pub Why);

/// Why an address is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// 169.254.0.0/16, `fe80::/10`.
    LinkLocal,
    /// 0.0.0.0/8, `::`.
    Unspecified,
    /// 224.0.0.0/4, `ff00::/8`, and the broadcast address.
    Multicast,
    /// The API server, or a network of `--cluster-network`.
    Cluster,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "it is this machine's loopback",
            Self::LinkLocal => "it is link-local, where clouds keep the metadata of machines",
            Self::Unspecified => "it is no address of anybody",
            Self::Multicast => "it is a group of machines",
            Self::Cluster => "it is in the cluster",
        })
    }
}

/// The decision. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    networks: Arc<Networks>,
}

#[derive(Debug, Default)]
struct Networks {
    open: Vec<IpNet>,
    cluster: Vec<IpNet>,
}

impl Egress {
    /// Opens `open`, and closes `cluster` beside what is always closed. Where they overlap, open wins.
    #[must_use]
    pub fn new(open: Vec<IpNet>, cluster: Vec<IpNet>) -> Self {
        Self { networks: Arc::new(Networks { open, cluster }) }
    }

    /// What is opened, as the flag reads it.
    #[must_use]
    pub fn open(&self) -> String {
        listed(&self.networks.open)
    }

    /// What is closed as the cluster's, as the flag reads it.
    #[must_use]
    pub fn cluster(&self) -> String {
        listed(&self.networks.cluster)
    }

    /// Whether an address may be connected to.
    ///
    /// # Errors
    /// Why it may not.
    pub fn address(&self, address: IpAddr) -> Result<(), Closed> {
        let plain = plain(address);
        if self.networks.open.iter().any(|network| network.contains(&plain)) {
            return Ok(());
        }
        match self.why(plain) {
            Some(why) => Err(Closed(address, why)),
            None => Ok(()),
        }
    }

    /// Whether a URL may be asked for, as far as it has an address in it; a name is judged when it is resolved.
    ///
    /// # Errors
    /// Why it may not.
    pub fn url(&self, url: &Url) -> Result<(), Closed> {
        let host = url.host_str().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.parse().map_or(Ok(()), |address| self.address(address))
    }

    /// The resolver for an HTTP client: it passes on the addresses that are open.
    #[must_use]
    pub fn resolver(&self) -> Arc<dyn Resolve> {
        Arc::new(Resolver { egress: self.clone() })
    }

    fn why(&self, address: IpAddr) -> Option<Why> {
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let (nobody, everybody) = match address {
            IpAddr::V4(address) => (address.octets()[0] == 0, address.is_multicast() || address.is_broadcast()),
            IpAddr::V6(address) => (address.is_unspecified(), address.is_multicast()),
        };
        let cluster = self.networks.cluster.iter().any(|network| network.contains(&address));
        [
            (address.is_loopback(), Why::Loopback),
            (link_local, Why::LinkLocal),
            (nobody, Why::Unspecified),
            (everybody, Why::Multicast),
            (cluster, Why::Cluster),
        ]
        .into_iter()
        .find_map(|(is, why)| is.then_some(why))
    }

    /// What of a name's addresses is open; an error when all are closed.
    fn open_ones(&self, addresses: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, Closed> {
        let (mut open, mut closed) = (Vec::new(), None);
        for address in addresses {
            match self.address(address.ip()) {
                Ok(()) => open.push(address),
                Err(why) => closed = Some(why),
            }
        }
        match closed {
            Some(closed) if open.is_empty() => Err(closed),
            _ => Ok(open),
        }
    }
}

/// Reads a list with commas; an empty one is none, since an empty variable is as good as a missing one.
///
/// # Errors
/// What is no network, and how one is written.
pub fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| part.parse().map_err(|_| format!("{part:?} is no network: write 10.0.0.0/8 or fd00::/8")))
        .collect()
}

fn listed(networks: &[IpNet]) -> String {
    networks.iter().map(IpNet::to_string).collect::<Vec<_>>().join(",")
}

/// The address that is meant: IPv4 addresses can be written as IPv6 ones, mapped, as NAT64 maps them, or in 6to4.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    let octets = six.octets();
    let four = |at: usize| IpAddr::from([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    match six.segments() {
        _ if six.to_ipv4_mapped().is_some() => four(12),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => four(12),
        [0x2002, ..] => four(2),
        // The old "compatible" form; `::` and `::1` are not of it.
        [0, 0, 0, 0, 0, 0, ..] if six != Ipv6Addr::UNSPECIFIED && six != Ipv6Addr::LOCALHOST => four(12),
        _ => address,
    }
}

/// What an HTTP client's error says of a closed address.
pub fn closed(error: &reqwest::Error) -> Option<Closed> {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(found) = inner.downcast_ref::<Closed>() {
            return Some(*found);
        }
        source = inner.source();
    }
    None
}

struct Resolver {
    egress: Egress,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.egress.clone();
        Box::pin(async move {
            // The client puts the port in.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let open = egress.open_ones(found).map_err(Box::<dyn StdError + Send + Sync>::from)?;
            Ok::<Addrs, _>(Box::new(open.into_iter()))
        })
    }
}

#[cfg(test)]
impl Egress {
    /// Where tests have their servers is open.
    pub(crate) fn loopback() -> Self {
        Self::new(["127.0.0.0/8", "::1/128"].map(|network| network.parse().unwrap()).into(), Vec::new())
    }
}
