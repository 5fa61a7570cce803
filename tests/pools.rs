//! Pools: how they fill, are used up and refilled, shrink, pause and follow what their template says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

use serde_json::json;
use support::World;

#[tokio::test]
async fn a_pool_fills_over_two_providers_and_both_get_a_share() {
    let world = World::builder().cloud("a", 4).cloud("b", 4).start().await;
    world.pool("small", 4, json!({})).await;
    let nodes = world.pool_ready("small", 4).await;
    for provider in ["a", "b"] {
        assert_eq!(nodes.iter().filter(|node| node.spec.provider == provider).count(), 2, "{provider}");
    }
    world.assert_one_server_per_record().await;
    assert_eq!((world.highest(0).await, world.highest(1).await), (2, 2));
    world.delete::<nodepool_operator::api::Pool>("small").await;
    world.empty().await;
}
