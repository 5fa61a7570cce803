//! What an upload needs of memory does not grow with the image, nor with the number of clouds.
//!
//! Alone in its program: what is measured is the whole process, the server included.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

#[path = "upload_memory/passage.rs"]
mod passage;

const LIMIT: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_gib_pass_through_less_than_64_mib() {
    let passage = passage::ten_gib().await;
    println!("{} MiB more, {:.1} s", passage.grown >> 20, passage.took.as_secs_f64());
    assert!(passage.grown < LIMIT, "{} MiB", passage.grown >> 20);
}
