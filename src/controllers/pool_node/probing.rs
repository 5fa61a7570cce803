//! Asks a node's machine whether it answers: again and again until it does or its time is over; later, now and then.
//!
//! Machines that do not answer must not keep others from being asked (rule 13): each Provider has places of its own for
//! open connections, a place is held for one attempt, and what costs processor time begins when a machine speaks.
//! Never decides what an answer means for the node: [`crate::plan::node`] does.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::super::{Engine, Mark};
use super::act::{AGAIN, with};
use super::{Key, report, rested};
use crate::api::pool::Probe as ProbeKind;
use crate::api::{NodeState, PoolNode};
use crate::cloud::probe::{self, ProbeError};
use crate::plan::node::Probe;

/// Connections of one Provider's probes at once: each is an open file.
const CONNECTIONS: usize = 256;
/// Key exchanges at once, of all Providers: more would only share the same processors.
const EXCHANGES: usize = 32;
/// Re-checks of an idle node that must fail in a row before it is replaced: a lost packet is no lost node.
const RECHECK_ATTEMPTS: u32 = 3;
/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// First and longest pause between two attempts at a machine that boots.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Who may probe now.
#[derive(Debug)]
pub struct Places {
    connections: HashMap<Key, Arc<Semaphore>>,
    exchanges: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self { connections: HashMap::new(), exchanges: Arc::new(Semaphore::new(EXCHANGES)) }
    }
}

impl Places {
    fn of(&mut self, provider: Key) -> Shared {
        let connections = self.connections.entry(provider).or_insert_with(|| Arc::new(Semaphore::new(CONNECTIONS)));
        Shared { connections: Arc::clone(connections), exchanges: Arc::clone(&self.exchanges) }
    }
}

/// What one probe shares with others.
struct Shared {
    connections: Arc<Semaphore>,
    exchanges: Arc<Semaphore>,
}

/// One machine that is asked.
struct Target {
    kind: ProbeKind,
    address: SocketAddr,
    shared: Shared,
}

/// Probes without blocking other steps: a probing node can still be held or condemned.
pub fn start(engine: &mut Engine, node: &Arc<PoolNode>, uid: &str) {
    let Some(address) = report::address(engine, node, uid) else { return };
    let Ok(port) = u16::try_from(node.spec.port) else { return };
    let provider = Key::of(&**node).sibling(&node.spec.provider);
    let known = engine.runtime.get(uid).map(|runtime| runtime.host_keys.clone()).unwrap_or_default();
    let recheck = node.state() == NodeState::Ready;
    let timeout = engine.providers.get(&provider).map_or(super::UNKNOWN_BOOT_TIMEOUT, |p| p.spec.boot_timeout.as_std());
    let shared = engine.probes.of(provider);
    let target = Target { kind: node.spec.probe, address: SocketAddr::new(address, port), shared };
    with(engine, uid, |runtime| runtime.probe = Probe::Running);
    let uid = uid.to_owned();
    engine.spawn(async move {
        let answer = if recheck { target.again(&known).await } else { target.until(timeout).await };
        move |engine: &mut Engine| probed(engine, &uid, recheck, answer)
    });
}

impl Target {
    /// Tries until the machine answers or the time is over; what it answers is its host keys.
    async fn until(&self, timeout: Duration) -> Result<Vec<String>, ProbeError> {
        let deadline = Instant::now() + timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = self.attempt(deadline).await;
            match answer {
                Err(error) if Instant::now() + pause >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(pause).await,
                answer => return answer,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(&self, deadline: Instant) -> Result<Vec<String>, ProbeError> {
        let _place = self.shared.connections.acquire().await;
        let until = deadline.min(Instant::now() + PATIENCE);
        match self.kind {
            // On the heap: as many wait for their turn as there are nodes that boot.
            ProbeKind::Ssh => Box::pin(probe::probe_ssh(self.address, until, &self.shared.exchanges)).await,
            ProbeKind::Tcp => probe::probe_tcp(self.address, until).await.map(|()| Vec::new()),
            ProbeKind::None => Ok(Vec::new()),
        }
    }

    /// Whether it still answers, and with a host key that is known.
    async fn again(&self, known: &[String]) -> Result<Vec<String>, ProbeError> {
        let mut attempt = 1;
        loop {
            match self.recheck(known).await {
                Ok(()) => return Ok(known.to_vec()),
                Err(error) if attempt >= RECHECK_ATTEMPTS => return Err(error),
                Err(_) => tokio::time::sleep(AGAIN * attempt).await,
            }
            attempt += 1;
        }
    }

    async fn recheck(&self, known: &[String]) -> Result<(), ProbeError> {
        let _place = self.shared.connections.acquire().await;
        let until = Instant::now() + PATIENCE;
        match self.kind {
            ProbeKind::Ssh => Box::pin(probe::recheck_ssh(self.address, known, until, &self.shared.exchanges)).await,
            ProbeKind::Tcp => probe::probe_tcp(self.address, until).await,
            ProbeKind::None => Ok(()),
        }
    }
}

fn probed(engine: &mut Engine, uid: &str, recheck: bool, answer: Result<Vec<String>, ProbeError>) {
    let recheck_at = next_recheck(engine, uid);
    with(engine, uid, |runtime| match answer {
        Ok(keys) => {
            runtime.host_keys = keys;
            runtime.probe = Probe::Answered;
            runtime.recheck = recheck_at;
        }
        Err(error) => {
            tracing::info!(node = %runtime.key, %error, "no answer to the readiness probe");
            runtime.probe = if recheck { Probe::Lost } else { rested(Probe::Idle) };
        }
    });
    engine.mark(Mark::Node(uid.to_owned()));
}

fn next_recheck(engine: &Engine, uid: &str) -> Option<Timestamp> {
    let node = engine.nodes.get(&engine.runtime.get(uid)?.key)?;
    let every = super::pool_of(engine, node)?.spec.readiness.recheck.as_std();
    (!every.is_zero() && node.spec.probe != ProbeKind::None).then_some(())?;
    engine.now.checked_add(SignedDuration::try_from(every).ok()?).ok()
}
