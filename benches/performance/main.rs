//! The figures of `docs/performance.md`, measured: the operator as it is shipped, a real kube-apiserver, a simulated
//! cloud whose servers boot at once. `make bench` builds all of it in release and prints the table.
//!
//! Every figure is taken from outside: what a watch of the API server shows, what the cloud logged, what the kernel
//! counts. The operator is never asked. A figure that misses its target is printed as missed; nothing here fails for it.
//!
//! `make bench BENCH=life,large` runs some parts only, `BENCH_NODES=200` makes everything smaller. The parts: `stream` (a
//! large file from a URL), `pool` (fill, memory, a stable world, takes, requests, restart), `life` (calls and writes), `large`
//! (memory at ten times), `upload` (a file to the real Glance, which is there for this part only).

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on panics"
)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod account;
mod board;
mod life;
mod machine;
#[path = "../../tests/upload_memory/passage.rs"]
mod passage;
mod pool;
mod process;
mod statistics;
mod table;
mod upload;
mod world;

use table::Table;

/// What is measured, and how much of it.
pub struct Plan {
    /// The usual pool.
    pub nodes: u32,
    /// The large one.
    pub large: u32,
    /// How often what takes seconds is repeated.
    pub repeats: u32,
    parts: Vec<String>,
}

impl Plan {
    fn from_environment() -> Self {
        let number = |name: &str, default| std::env::var(name).ok().map_or(default, |text| text.parse().unwrap());
        let parts = std::env::var("BENCH").unwrap_or_default();
        Self {
            nodes: number("BENCH_NODES", 1000),
            large: number("BENCH_LARGE", 10_000),
            repeats: number("BENCH_REPEATS", 3),
            parts: parts.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        }
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let plan = Plan::from_environment();
    let mut table = Table::new();
    eprintln!("{}", machine::described());
    if plan.wants("stream") {
        upload::stream(&mut table).await;
    }
    if plan.wants("pool") {
        pool::measure(&plan, &mut table).await;
    }
    if plan.wants("life") {
        life::measure(&plan, &mut table).await;
    }
    if plan.wants("large") {
        pool::measure_large(&plan, &mut table).await;
    }
    if plan.wants("upload") {
        upload::measure(&plan, &mut table).await;
    }
    println!("\n{}\n\n{table}", machine::described());
}
