//! The chart: what it renders of which values, what it refuses, that the API server accepts all of it, that the rights it gives
//! are enough and no more, that an upgrade and an uninstall keep what they must, and that alerts and dashboard name what is there.
//!
//! `helm`, `helm-docs` and `promtool` are built by `tests/helm/build`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

#[path = "chart/alerts.rs"]
mod alerts;
#[path = "chart/documents.rs"]
mod documents;
#[path = "chart/installation.rs"]
mod installation;
#[path = "chart/rendered.rs"]
mod rendered;
#[path = "chart/rights.rs"]
mod rights;
#[path = "chart/trust.rs"]
mod trust;
