//! Which Providers and Pools a namespace may use now, and which object a name in another one means.
//!
//! Asked wherever something is about to be used, with the labels of the namespaces as their watch tells them; never
//! decides itself: [`crate::plan::tenancy`] does. An object that does not exist and one that is closed are the same to
//! who asks: whether a name is taken elsewhere is not theirs to know.

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;

use super::index::{Change, Key};
use super::{Engine, Mark};
use crate::api::allowed_namespaces::AllowedNamespaces;
use crate::api::node_request::NodeSet;
use crate::api::pool::PoolProvider;
use crate::api::{LABEL_POOL, LABEL_POOL_NAMESPACE, PoolNode};
use crate::plan::tenancy::{self as plan, Access};

/// A namespace's labels changed: what it may use follows.
pub fn changed(engine: &mut Engine, change: &Change<Namespace>) {
    if let Change::Updated(now, Some(before)) = change
        && before.labels() == now.labels()
    {
        return;
    }
    engine.mark(Mark::Allocation);
    let pools: Vec<Key> = engine.pools.iter().map(|(key, _)| key.clone()).collect();
    pools.into_iter().for_each(|pool| super::pool::mark_later(engine, pool));
}

/// The Provider that a Pool names.
#[must_use]
pub fn provider(pool: &Key, offer: &PoolProvider) -> Key {
    elsewhere(pool, offer.namespace.as_deref(), &offer.name)
}

/// The Pool that a request names.
#[must_use]
pub fn pool(request: &Key, set: &NodeSet) -> Key {
    elsewhere(request, set.pool_namespace.as_deref(), &set.pool)
}

/// The Pool that a node was booted for.
#[must_use]
pub fn pool_of(node: &PoolNode) -> Option<Key> {
    let pool = node.spec.pool.as_deref()?;
    Some(elsewhere(&Key::of(node), node.spec.pool_namespace.as_deref(), pool))
}

fn elsewhere(from: &Key, namespace: Option<&str>, name: &str) -> Key {
    namespace.map_or_else(|| from.sibling(name), |namespace| Key::new(namespace, name))
}

/// The namespace of something, if it is not that of what refers to it.
#[must_use]
pub fn foreign(of: &Key, from: &Key) -> Option<String> {
    (of.namespace != from.namespace).then(|| of.namespace.to_string())
}

/// The Pool's name as a node's labels and figures tell it: with its namespace, when that is not the node's.
#[must_use]
pub fn pool_label(node: &PoolNode) -> String {
    match (&node.spec.pool_namespace, &node.spec.pool) {
        (Some(namespace), Some(pool)) => format!("{namespace}/{pool}"),
        (_, pool) => pool.clone().unwrap_or_default(),
    }
}

/// Selects the nodes of a Pool in its own namespace: those there of other namespaces' Pools of this name are not its.
#[must_use]
pub fn selector(pool: &Key) -> String {
    format!("{LABEL_POOL}={},!{LABEL_POOL_NAMESPACE}", pool.name)
}

/// Whether a Pool may use a Provider; one that is not there is denied.
#[must_use]
pub fn of_provider(engine: &Engine, pool: &Key, provider: &Key) -> Access {
    let record = engine.providers.get(provider);
    record.map_or(Access::Denied, |record| of(engine, provider, record.spec.allowed_namespaces.as_ref(), pool))
}

/// Whether a request may use a Pool; one that is not there is denied.
#[must_use]
pub fn of_pool(engine: &Engine, request: &Key, pool: &Key) -> Access {
    let record = engine.pools.get(pool);
    record.map_or(Access::Denied, |record| of(engine, pool, record.spec.allowed_namespaces.as_ref(), request))
}

fn of(engine: &Engine, used: &Key, allowed: Option<&AllowedNamespaces>, user: &Key) -> Access {
    let namespace = engine.namespaces.get(&Key::new("", &user.namespace));
    plan::access(&used.namespace, allowed, &user.namespace, namespace.map(|namespace| namespace.labels()))
}

/// What to do about a Provider that a Pool cannot use.
#[must_use]
pub fn no_provider(pool: &Key, provider: &Key) -> String {
    if pool.namespace == provider.namespace {
        return format!("create the Provider {}, or correct spec.providers", provider.name);
    }
    format!(
        "there is no Provider {provider} that Pools of {} may use: correct spec.providers, or ask for its \
         spec.allowedNamespaces",
        pool.namespace
    )
}

/// What to do about a Pool that a request cannot use.
#[must_use]
pub fn no_pool(request: &Key, pool: &Key) -> String {
    if request.namespace == pool.namespace {
        return format!(
            "create the Pool {}, or delete this NodeRequest and create one that names another Pool",
            pool.name
        );
    }
    format!(
        "there is no Pool {pool} that NodeRequests of {} may use: delete this NodeRequest and create one that names \
         another Pool, or ask for its spec.allowedNamespaces",
        request.namespace
    )
}
