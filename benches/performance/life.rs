//! What one node costs: the calls to the cloud and the writes to Kubernetes, from its record to the end of its server.

use serde_json::json;

use crate::Plan;
use crate::account::{added, calls, listed, sum, writes};
use crate::statistics::Runs;
use crate::table::{Table, Target};
use crate::world::World;

/// Nodes that are made, used and destroyed; the cost of each is the same.
const LIVES: u32 = 200;
/// Nodes taken in a second.
const RATE: f64 = 20.0;

/// Every node of the pool is taken and released, and none replaced, so each counted write belongs to a whole life.
pub async fn measure(_plan: &Plan, table: &mut Table) {
    let world = World::start(LIVES).await;
    let client = world.namespace.client();
    let (calls_before, writes_before) = (calls(&world.cloud).await, writes(&client).await);
    world.scale(LIVES).await;
    world.pool(json!({"paused": true})).await;
    let made = world.request("life", RATE, LIVES).await;
    world.fulfilled(&made).await;
    world.release(0).await;
    let calls = added(&calls_before, &calls(&world.cloud).await);
    let writes = added(&writes_before, &writes(&client).await);
    let lives = f64::from(LIVES);
    let per_life = |count: f64| Runs::one(count / lives);
    let calls_counted = sum(&calls, |name| !name.starts_with("list-"));
    table.figure("cloud calls per node life, lists excluded", Target::AtMost(4.0), "", &per_life(calls_counted));
    table.told("… by name, each life", listed(&calls, lives));
    let nodes = sum(&writes, |resource| resource.starts_with("poolnodes"));
    table.figure("Kubernetes writes per node life (PoolNodes)", Target::AtMost(6.0), "", &per_life(nodes));
    table.told(
        "… by resource, each life; the NodeRequests' own creation and deletion are the user's",
        listed(&writes, lives),
    );
    world.clear().await;
}
