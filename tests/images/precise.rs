//! The documents' story of a bad image, with their words and numbers, told of any cloud.
//!
//! Image `devstack-precise` at provider `hpcloud-az2` has two versions that are ready, 1394417686 and 1394514268. The newer
//! one is bad and is deleted: the older one is current again and used for the next node, the next build comes at its time,
//! and after it the older one is still kept as the next most recent.
//!
//! A version is numbered by the time at which it begins, so the operator would not number one so today. It builds one
//! itself, and ends; then records as it wrote that one, with images in the cloud that carry the marks it gave, stand there
//! with these numbers, and the next operator finds them as it finds whatever an earlier one left.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, ToSpan, Unit, tz::TimeZone};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use nodepool_operator::api::{DiskImage, FINALIZER_IMAGE, ImageState, PoolNode, ProviderImage};
use serde_json::{Value, json};

use super::support::openstack::Project;
use super::support::versions::{built, current, image_id, states, status};
use super::support::{Namespace, Operator, World, eventually};

/// The Provider's name.
pub const PROVIDER: &str = "hpcloud-az2";
const IMAGE: &str = "devstack-precise";
const OLDER: i64 = 1_394_417_686;
const NEWER: i64 = 1_394_514_268;

/// Where the story is told.
pub struct Place<'a> {
    /// A world whose one Provider is [`PROVIDER`].
    pub world: &'a mut World,
    /// The Provider's project in the cloud.
    pub project: &'a Project,
    /// The flavor of all servers.
    pub flavor: &'a str,
    /// User and port of all servers.
    pub login: Value,
    /// Starts an operator such as the world has.
    pub start: fn(&Namespace) -> Operator,
}

impl Place<'_> {
    /// Tells the story; at its end the pool and the image are still there.
    pub async fn tell(mut self) {
        let (older, newer) = self.two_versions().await;
        let world = &*self.world;
        let pool = json!({"image": IMAGE, "flavor": {"name": self.flavor}});
        world.pool("precise", 1, pool).await;
        let node = world.pool_ready("precise", 1).await.remove(0);
        assert_eq!(node.spec.image_id, image_id(&newer), "nodes boot from the newer one");
        self.listed(&older, &newer).await;

        let next = status(world, IMAGE).await["nextBuildTime"].clone();
        let said = world.namespace.kubectl().run(&["delete", "providerimage", &newer.name_any()]).await;
        assert!(said.success, "{}", said.stderr);
        current(world, IMAGE, &older).await;
        world.namespace.kubectl().scale("pool/precise", 2).await;
        self.nodes_boot_from(&older, 2).await;
        self.cloud_has(&[&older]).await;
        let seen = status(world, IMAGE).await;
        assert_eq!((&seen["nextBuildTime"], &seen["previous"]), (&next, &Value::Null), "not before its time");

        let run = self.schedule_next_run().await;
        self.begins(run).await;
        let versions = states(world, IMAGE, &[ImageState::Ready, ImageState::Ready]).await;
        let built = &versions[1];
        assert_eq!(versions[0].name_any(), older.name_any());
        assert!(built.spec.version >= run.as_second(), "begun at {}, before {run}", built.spec.version);
        current(world, IMAGE, built).await;
        assert_eq!(status(world, IMAGE).await["previous"], json!(older.name_any()), "the next most recent is kept");
        self.nodes_boot_from(built, 2).await;
        self.cloud_has(&[&older, built]).await;
    }

    /// The two versions as an operator that is gone left them.
    async fn two_versions(&mut self) -> (ProviderImage, ProviderImage) {
        let source = json!({"snapshot": {
            "baseImage": {"name": "debian-13"}, "flavor": {"name": self.flavor},
            "login": {"username": self.login["username"]}, "setup": "echo built",
        }});
        let spec = json!({
            "providers": [PROVIDER], "source": source, "login": self.login,
            "refresh": {"schedule": "0 0 1 1 *", "jitter": "0s"},
        });
        self.world.apply("DiskImage", IMAGE, spec).await;
        let model = states(self.world, IMAGE, &[ImageState::Ready]).await.remove(0);
        self.world.operator.kill9();
        let older = self.leave(&model, OLDER).await;
        let newer = self.leave(&model, NEWER).await;
        self.world.delete::<ProviderImage>(&model.name_any()).await;
        self.world.operator = (self.start)(&self.world.namespace);
        self.world.operator.ready(self.world.patience()).await;
        self.world.gone::<ProviderImage>(&model.name_any()).await;
        current(self.world, IMAGE, &newer).await;
        assert_eq!(status(self.world, IMAGE).await["previous"], json!(older.name_any()));
        self.cloud_has(&[&older, &newer]).await;
        (older, newer)
    }

    /// Leaves a version of this number, with its image, as the model was left.
    async fn leave(&self, model: &ProviderImage, number: i64) -> ProviderImage {
        let renumbered = |text: &str| text.replace(&model.spec.version.to_string(), &number.to_string());
        let mut record = ProviderImage::new(&renumbered(&model.name_any()), model.spec.clone());
        record.spec.version = number;
        record.metadata.finalizers = Some(vec![FINALIZER_IMAGE.to_owned()]);
        let labels = model.labels().iter().map(|(key, value)| (key.clone(), renumbered(value)));
        record.metadata.labels = Some(labels.collect());
        let api = self.world.namespace.api::<ProviderImage>();
        let record = api.create(&PostParams::default(), &record).await.unwrap();

        let image = self.images().await.into_iter().find(|image| image["id"] == json!(image_id(model))).unwrap();
        assert_eq!(image["nodepool_record"], json!(model.uid()), "{image}");
        let wanted = json!({
            "name": format!("{IMAGE}-{number}"), "disk_format": "raw", "container_format": "bare",
            "visibility": "private", "nodepool_owner": image["nodepool_owner"],
            "nodepool_provider": image["nodepool_provider"], "nodepool_record": record.uid(),
        });
        let id = self.project.make_image(wanted, vec![7; 65_536]).await;
        let mut status = json!(model.status);
        status["imageID"] = json!(id);
        status["hostname"] = json!(format!("{IMAGE}-{number}.template.{PROVIDER}"));
        status["current"] = json!(false);
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(&record.name_any(), &PatchParams::default(), &patch).await.unwrap()
    }

    /// `nodepool image-list`: both are ready, the newer one is current.
    async fn listed(&self, older: &ProviderImage, newer: &ProviderImage) {
        let row = |version: &ProviderImage, current: bool| {
            let (name, number, id) = (version.name_any(), version.spec.version, image_id(version));
            format!("{name} {PROVIDER} {IMAGE} {number} {id} Ready {current}")
        };
        let wanted = [row(older, false), row(newer, true)];
        eventually(self.world.patience(), || async {
            let said = self.world.namespace.kubectl().run(&["get", "providerimages"]).await.ok()?;
            let plain: Vec<String> =
                said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            let there = wanted.iter().all(|row| plain.iter().any(|line| line.starts_with(row)));
            if there { Ok(()) } else { Err(format!("{wanted:#?} not in\n{said}")) }
        })
        .await;
    }

    /// Gives the image a schedule whose next run is near, and waits until it is shown.
    async fn schedule_next_run(&self) -> Timestamp {
        // A run that is only just to come would be over before the operator has heard of it.
        let soon = Timestamp::now() + SignedDuration::from_secs(5);
        let run = soon.to_zoned(TimeZone::UTC).round(Unit::Minute).unwrap();
        let run = if run.timestamp() < soon { &run + 1.minute() } else { run };
        let schedule = format!("{} {} * * *", run.minute(), run.hour());
        self.world.patch::<DiskImage>(IMAGE, json!({"spec": {"refresh": {"schedule": schedule}}})).await;
        let run = run.timestamp();
        eventually(self.world.patience(), || async {
            let seen = status(self.world, IMAGE).await;
            // It may have begun by the time it is looked at.
            let began = seen["lastBuildTime"].as_str().is_some_and(|at| at.parse::<Timestamp>().unwrap() >= run);
            if began || seen["nextBuildTime"] == json!(run) { Ok(()) } else { Err(format!("not {run}: {seen}")) }
        })
        .await;
        run
    }

    /// Waits until the build of this run has begun. The run may be a minute away, which is no part of how long a build takes.
    async fn begins(&self, run: Timestamp) {
        let away = Duration::try_from(run.duration_since(Timestamp::now())).unwrap_or_default();
        eventually(away + self.world.patience(), || async {
            let seen = status(self.world, IMAGE).await;
            let began = seen["lastBuildTime"].as_str().is_some_and(|at| at.parse::<Timestamp>().unwrap() >= run);
            if began { Ok(()) } else { Err(format!("not begun at {run}: {seen}")) }
        })
        .await;
    }

    /// Waits until the pool has so many nodes, all of this version.
    async fn nodes_boot_from(&self, version: &ProviderImage, count: usize) {
        eventually(built(self.world), || async {
            let mut nodes: Vec<PoolNode> = self.world.ready_nodes("precise").await;
            let ready = nodes.len();
            nodes.retain(|node| node.spec.provider_image == Some(version.name_any()));
            let all = nodes.len() == count && ready == count;
            if all { Ok(()) } else { Err(format!("{} of {ready} nodes are of {}", nodes.len(), version.name_any())) }
        })
        .await;
    }

    /// Waits until the cloud has exactly the images of these versions.
    async fn cloud_has(&self, versions: &[&ProviderImage]) {
        let mut wanted: Vec<String> = versions.iter().map(|version| image_id(version)).collect();
        wanted.sort_unstable();
        eventually(self.world.patience(), || async {
            let images = self.images().await;
            let mut found: Vec<String> = images.iter().map(|image| image["id"].as_str().unwrap().to_owned()).collect();
            found.sort_unstable();
            if found == wanted { Ok(()) } else { Err(format!("images {found:?}, not {wanted:?}")) }
        })
        .await;
    }

    async fn images(&self) -> Vec<Value> {
        self.project.images_of(&format!("{}/{PROVIDER}", self.world.namespace.name())).await
    }
}
