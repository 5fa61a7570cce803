//! Several tenants on one installation: what a namespace may use of another one, by whose leave, and what each of the
//! chart's roles may do where. People are impersonated by the real `kubectl`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

#[path = "tenancy/roles.rs"]
mod roles;
#[path = "tenancy/selector.rs"]
mod selector;
#[path = "tenancy/tenant.rs"]
mod tenant;
#[path = "tenancy/use_of_pools.rs"]
mod use_of_pools;
#[path = "tenancy/use_of_providers.rs"]
mod use_of_providers;
