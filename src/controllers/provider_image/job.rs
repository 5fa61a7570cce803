//! Source `job`: a pod leaves a file, and a container of the operator's own image in the same pod uploads it.
//!
//! The Job is made once for all versions that begin together, under a name that follows from the image and the version
//! number; whoever leads reads its pod's last words. So a build outlives the process that began it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::super::Engine;
use super::super::index::Key;
use super::super::provider::Connection;
use super::super::setup::Setup;
use super::Work;
use super::upload::{format_name, image_to_make, not_connected, spawn};
use super::work::{News, Work as Making, fault, tell};
use crate::api::conditions::reason;
use crate::api::disk_image::JobSource;
use crate::api::provider_image::ImageFault;
use crate::api::{DiskImage, ImageState, LABEL_DISK_IMAGE, Provider, ProviderImage};
use crate::builder::job::{JobImage, JobResult, JobTarget};
use crate::cloud::{Cloud, ImageStatus, Ownership};

/// How often the pod is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The deadline of one call to the API server.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a finished Job stays for people to look at, in seconds.
const STAYS: i64 = 3600;
/// How the names begin that no builder may have.
const RESERVED: &str = "nodepool-";
/// The container that uploads, and the volume that both sides share.
const UPLOADER: &str = "nodepool-upload";
const OUTPUT: &str = "nodepool-output";

/// The name of the Job: the same for all versions that begin together.
fn job_name(version: &ProviderImage) -> String {
    format!("{}-{}", version.spec.disk_image, version.spec.version)
}

/// Makes the Job for these versions of one image, and waits for what it says of each.
pub fn start(engine: &mut Engine, image: &DiskImage, versions: &[Arc<ProviderImage>]) {
    let Some(job) = versions.first().and_then(|first| job(engine, image, first, versions)) else {
        for version in versions {
            let fault = not_connected(&version.spec.provider);
            tell(engine, &Key::of(&**version), &version.uid().unwrap_or_default(), News::Failed(fault));
        }
        return;
    };
    let client = engine.setup.client.clone();
    let namespace = image.namespace().unwrap_or_default();
    let members: Vec<(Key, Option<String>)> =
        versions.iter().map(|version| (Key::of(&**version), version.uid())).collect();
    let reserved = image.spec.source.job.as_ref().and_then(|source| reserved(&source.template));
    engine.spawn(async move {
        let api: Api<Job> = Api::namespaced(client, &namespace);
        let refusal = match serde_json::from_value::<Job>(job) {
            _ if let Some(message) = reserved => Some(fault(reason::INVALID_CONFIGURATION, message)),
            // What is wrong may be a value that nobody else is to see (rule 16).
            Err(_) => Some(fault(
                reason::INVALID_CONFIGURATION,
                "spec.source.job.template is no pod template; kubectl explain pod.spec tells what it may have",
            )),
            Ok(job) => match timeout(DEADLINE, api.create(&PostParams::default(), &job)).await {
                Ok(Ok(_)) => None,
                Ok(Err(kube::Error::Api(status))) if status.reason == "AlreadyExists" => None,
                Ok(Err(kube::Error::Api(status))) if status.code < 500 => Some(refused_by_kubernetes(&status)),
                // It may be there: whoever waits for it finds out.
                Ok(Err(_)) | Err(_) => None,
            },
        };
        move |engine: &mut Engine| {
            for (key, uid) in members {
                let (Some(uid), Some(version)) = (uid, engine.provider_images.get(&key).cloned()) else { continue };
                match refusal.clone() {
                    Some(refusal) => tell(engine, &key, &uid, News::Failed(refusal)),
                    None => wait_for(engine, &key, &version),
                }
            }
        }
    });
}

/// The API server's message may quote values of the template: only the fields that it names are told (rule 16).
fn refused_by_kubernetes(status: &kube::core::Status) -> ImageFault {
    let fields: Vec<String> =
        status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.field.clone()).collect();
    let which = if fields.is_empty() { status.reason.clone() } else { fields.join(", ") };
    fault(reason::INVALID_CONFIGURATION, format!("the API server refuses the Job of spec.source.job.template: {which}"))
}

/// Takes over a version whose Job another process had made: only its pod knows how far it is.
pub(super) fn resume(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>) {
    let image = engine.disk_images.get(&key.sibling(&version.spec.disk_image));
    let by_job = image.is_some_and(|image| image.spec.source.job.is_some());
    let Some(uid) = version.uid().filter(|_| by_job && version.state() == ImageState::Building) else { return };
    if version.metadata.deletion_timestamp.is_some() || engine.memory.works.works.contains_key(&uid) {
        return;
    }
    engine.memory.works.begin(uid, Making::new(Work::Running));
    wait_for(engine, key, version);
}

fn wait_for(engine: &mut Engine, key: &Key, version: &Arc<ProviderImage>) {
    let Some(uid) = version.uid() else { return };
    let client = engine.setup.client.clone();
    let (report, of) = (engine.sender(), (key.clone(), uid.clone()));
    let (name, provider, namespace) = (job_name(version), version.spec.provider.clone(), key.namespace.to_string());
    let connection = engine.connections.get(&key.sibling(&provider));
    let cloud = connection.map(|connection| (Connection::cloud(connection), connection.ownership(&uid)));
    spawn(engine, key, &uid, async move {
        let id = match outcome(&client, &namespace, &name, &provider).await {
            Said::Made(id) => id,
            Said::Failed(fault) => return Err(fault),
            // Its words are lost; what it did may not be.
            Said::Nothing(fault) => match cloud {
                Some((cloud, ownership)) => uploaded(&*cloud, &ownership).await.ok_or(fault)?,
                None => return Err(fault),
            },
        };
        let (key, uid) = of;
        report(Box::new(move |engine: &mut Engine| tell(engine, &key, &uid, News::Image(id))));
        Ok(())
    });
}

/// The image of a version that the uploader completed.
async fn uploaded(cloud: &dyn Cloud, ownership: &Ownership) -> Option<String> {
    let images = cloud.images_of(&ownership.owner).await.ok()?;
    let ours = images.into_iter().find(|image| {
        image.status == ImageStatus::Active
            && image.ownership.as_ref().is_some_and(|mark| mark.record == ownership.record)
    });
    ours.map(|image| image.id)
}

/// What became of an upload.
enum Said {
    /// The image is there.
    Made(String),
    /// It is not.
    Failed(ImageFault),
    /// Nobody tells.
    Nothing(ImageFault),
}

/// Waits for what the uploader says of one provider. What cannot be read now is read again: the version's own deadline
/// ends it.
async fn outcome(client: &Client, namespace: &str, name: &str, provider: &str) -> Said {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
    loop {
        // The Job first: what its pod said before the Job ended is there when it has ended.
        let job = timeout(DEADLINE, jobs.get_opt(name)).await;
        if let Ok(Ok(pods)) = timeout(DEADLINE, pods.list(&params)).await
            && let Some(said) = pods.items.iter().find_map(last_words)
        {
            return read(&said, provider);
        }
        match job {
            Ok(Ok(None)) => {
                return Said::Nothing(fault(reason::INTERRUPTED, format!("the Job {name} is not there any more")));
            }
            Ok(Ok(Some(job))) if is(&job, "Failed") => {
                let message = format!("the Job {name} failed; see kubectl logs job/{name} --all-containers");
                return Said::Failed(fault(reason::BUILD_FAILED, message));
            }
            Ok(Ok(Some(job))) if is(&job, "Complete") => {
                let message = format!("the pod of the Job {name} is gone, and nobody knows what it did");
                return Said::Nothing(fault(reason::INTERRUPTED, message));
            }
            _ => sleep(LOOK_AGAIN).await,
        }
    }
}

/// What the uploader left, once it has ended.
fn last_words(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let uploader = statuses.iter().find(|status| status.name == UPLOADER)?;
    uploader.state.as_ref()?.terminated.as_ref()?.message.clone()
}

fn is(job: &Job, condition: &str) -> bool {
    let conditions = job.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.into_iter().any(|told| told.type_ == condition && told.status == "True")
}

fn read(said: &str, provider: &str) -> Said {
    // It has room for few words: the last of many providers may be missing.
    let results: Vec<JobResult> = serde_json::from_str(said).unwrap_or_default();
    let ours = results.into_iter().find_map(|result| match result {
        JobResult::Made { provider: of, image_id } if of == provider => Some(Said::Made(image_id)),
        JobResult::Failed { provider: of, error, reason } if of == provider => {
            Some(Said::Failed(fault(&reason, error)))
        }
        JobResult::Made { .. } | JobResult::Failed { .. } => None,
    });
    let silent = format!("the uploader says nothing of the Provider {provider}; see the log of its container");
    ours.unwrap_or_else(|| Said::Nothing(fault(reason::UPLOAD_FAILED, silent)))
}

/// Ends the Job of a version that is given up, unless another one is still made by it.
pub(super) fn end(engine: &Engine, version: &ProviderImage) {
    let key = Key::of(version);
    let image = engine.disk_images.get(&key.sibling(&version.spec.disk_image));
    let others = engine.provider_images.iter().any(|(other, record)| {
        *other != key
            && other.namespace == key.namespace
            && record.spec.disk_image == version.spec.disk_image
            && record.spec.version == version.spec.version
            && record.in_flight()
    });
    if others || version.status.as_ref().is_some_and(|status| status.image_id.is_some()) {
        return;
    }
    if image.is_some_and(|image| image.spec.source.job.is_none()) {
        return;
    }
    let jobs: Api<Job> = Api::namespaced(engine.setup.client.clone(), &key.namespace);
    let name = job_name(version);
    engine.spawn(async move {
        // It ends by itself at its own deadline; this is to spare the work.
        if let Ok(Err(error)) = timeout(DEADLINE, jobs.delete(&name, &DeleteParams::background())).await {
            tracing::debug!(job = name, %error, "job not deleted");
        }
        |_: &mut Engine| {}
    });
}

/// The Job: what the user's pod does first, then the upload.
fn job(engine: &Engine, image: &DiskImage, first: &ProviderImage, versions: &[Arc<ProviderImage>]) -> Option<Value> {
    let source = image.spec.source.job.as_ref()?;
    let mut targets = Vec::new();
    let mut secrets = Vec::new();
    for version in versions {
        let key = Key::of(&**version);
        let provider = engine.providers.get(&key.sibling(&version.spec.provider))?;
        targets.push(target(engine, image, version, provider, secrets.len())?);
        secrets.push(provider.spec.cloud.secret_ref.name.clone());
    }
    Some(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(first),
            "namespace": image.namespace(),
            "labels": { LABEL_DISK_IMAGE: image.name_any() },
            "ownerReferences": [image.controller_owner_ref(&())],
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": image.spec.build_timeout.as_std().as_secs(),
            "ttlSecondsAfterFinished": STAYS,
            "template": template(source, &engine.setup, &targets, &secrets),
        },
    }))
}

fn target(
    engine: &Engine,
    image: &DiskImage,
    version: &ProviderImage,
    provider: &Provider,
    number: usize,
) -> Option<JobTarget> {
    let connection = engine.connections.get(&Key::of(provider))?;
    let made = image_to_make(image, version, connection.ownership(&version.uid()?), "");
    Some(JobTarget {
        provider: version.spec.provider.clone(),
        cloud_name: provider.spec.cloud.cloud_name.clone(),
        clouds_directory: directory(number).into(),
        region: provider.spec.region.clone(),
        interface: Some(provider.spec.interface.as_str().to_owned()),
        image: JobImage {
            name: made.name,
            owner: made.ownership.owner,
            record: made.ownership.record,
            provider: made.ownership.provider,
            properties: made.properties,
        },
    })
}

fn directory(number: usize) -> String {
    format!("/etc/nodepool/clouds/{number}")
}

/// The user's containers run first, one after another, as init containers; the uploader sees the file and the Secrets,
/// which they do not.
fn template(source: &JobSource, setup: &Setup, targets: &[JobTarget], secrets: &[String]) -> Value {
    let mut template = source.template.clone();
    let (folder, _) = source.output.rsplit_once('/').unwrap_or_default();
    let folder = if folder.is_empty() { "/" } else { folder };
    let taken = |value: &mut Value| match value.take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    let spec = &mut template["spec"];
    let mut builders = taken(&mut spec["initContainers"]);
    builders.extend(taken(&mut spec["containers"]));
    let own = builders.iter().find_map(|builder| mounted(builder, folder));
    let volume = own.clone().unwrap_or_else(|| OUTPUT.to_owned());
    let mut volumes = taken(&mut spec["volumes"]);
    if own.is_none() {
        volumes.push(json!({ "name": OUTPUT, "emptyDir": {} }));
        for builder in &mut builders {
            let mut mounts = taken(&mut builder["volumeMounts"]);
            mounts.push(json!({ "name": OUTPUT, "mountPath": folder }));
            builder["volumeMounts"] = json!(mounts);
        }
    }
    let mut mounts = vec![json!({ "name": volume, "mountPath": folder, "readOnly": true })];
    for (number, secret) in secrets.iter().enumerate() {
        let name = format!("nodepool-cloud-{number}");
        volumes.push(json!({ "name": name, "secret": { "secretName": secret } }));
        mounts.push(json!({ "name": name, "mountPath": directory(number), "readOnly": true }));
    }
    spec["initContainers"] = json!(builders);
    spec["volumes"] = json!(volumes);
    spec["restartPolicy"] = json!("Never");
    spec["containers"] = json!([{
        "name": UPLOADER,
        "image": setup.uploader_image,
        "args": ["upload", "--file", source.output, "--format", format_name(source.format)],
        "env": [
            { "name": "NODEPOOL_TARGETS", "value": json!(targets).to_string() },
            { "name": "NODEPOOL_ALLOW_NETWORK", "value": setup.egress.open() },
            { "name": "NODEPOOL_CLUSTER_NETWORK", "value": setup.egress.cluster() },
        ],
        "volumeMounts": mounts,
        // It needs no more than the strictest namespace grants; the builders beside it may need what theirs grants.
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true, "runAsUser": 65532,
            "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
        },
    }]);
    template
}

/// What of a pod template would let a builder at the credentials that only the uploader has.
fn reserved(template: &Value) -> Option<String> {
    let spec = &template["spec"];
    let is_ours = |object: &&Value| object["name"].as_str().is_some_and(|name| name.starts_with(RESERVED));
    let named = ["volumes", "initContainers", "containers", "ephemeralContainers"].into_iter().find_map(|list| {
        let name = spec[list].as_array()?.iter().find(is_ours)?["name"].as_str()?;
        Some(format!(
            "spec.source.job.template.spec.{list} has {name}: names that begin with {RESERVED} are the operator's"
        ))
    });
    let mounts = ["initContainers", "containers"].into_iter().find_map(|list| {
        let mounts =
            spec[list].as_array()?.iter().filter_map(|container| container["volumeMounts"].as_array()).flatten();
        let name = mounts.into_iter().find(is_ours)?["name"].as_str()?;
        Some(format!("a container of spec.source.job.template mounts {name}, which is the operator's"))
    });
    // A container that restarts always is still there when the uploader runs, and sees its files through its process.
    let shared = ["shareProcessNamespace", "hostPID"]
        .into_iter()
        .find(|field| spec[field] == json!(true))
        .map(|field| format!("spec.source.job.template.spec.{field} lets builders into the uploader: take it out"));
    named.or(mounts).or(shared)
}

/// The volume that a container has at this folder.
fn mounted(container: &Value, folder: &str) -> Option<String> {
    let mounts = container.get("volumeMounts")?.as_array()?;
    let mount =
        mounts.iter().find(|mount| mount["mountPath"].as_str().map(|at| at.trim_end_matches('/')) == Some(folder))?;
    mount["name"].as_str().map(str::to_owned)
}
