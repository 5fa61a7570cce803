//! The documents' story on the simulator; on real services it is told by `tests/real_cloud/images.rs`.

use serde_json::json;

use crate::precise::{PROVIDER, Place};
use crate::stage::port;
use crate::support::openstack::Project;
use crate::support::{Namespace, Operator, World};

fn start(namespace: &Namespace) -> Operator {
    Operator::for_namespace(namespace).start()
}

#[tokio::test]
async fn a_bad_devstack_precise_at_hpcloud_az2_is_undone_and_the_one_before_it_kept() {
    let mut world = World::builder().cloud(PROVIDER, 6).simulator_arg("--run-commands").start().await;
    let login = json!({"username": "debian", "port": port(&world).await});
    let cloud = &world.clouds[0];
    let project = Project::of(&cloud.clouds_yaml(), cloud.cloud_name()).await;
    Place { world: &mut world, project: &project, flavor: "small", login, start }.tell().await;
}
