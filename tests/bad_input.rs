//! Bad input is refused by `kubectl apply` with a sentence that says what to write instead (rule 15).
//!
//! The cases are data: `tests/bad_input.yaml`. What admission cannot know is told by `tests/conditions.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

use std::path::{Path, PathBuf};

use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{Kubectl, Namespace, Said};

/// Calls of kubectl at once: they mostly wait for the API server.
const AT_ONCE: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    before: Vec<Value>,
    manifest: Value,
    refused: String,
}

/// Applies as a person would; a status goes to its subresource, as only the operator could.
async fn apply(kubectl: &Kubectl, manifest: &Value) -> Said {
    let mut object = manifest.clone();
    let status = object.as_object_mut().unwrap().remove("status");
    let said = kubectl.try_apply(&object.to_string()).await;
    let (true, Some(status)) = (said.success, status) else { return said };
    let status = json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": object["metadata"], "status": status,
    });
    let args = ["apply", "--server-side", "--force-conflicts", "--subresource=status", "-f", "-"];
    kubectl.run_with_input(&args, &status.to_string()).await
}

/// What went otherwise than the case says.
async fn complaint(kubectl: &Kubectl, case: Case) -> Option<String> {
    for manifest in &case.before {
        let said = apply(kubectl, manifest).await;
        if !said.success {
            return Some(format!("{}: not prepared: {}", case.name, said.stderr));
        }
    }
    let said = apply(kubectl, &case.manifest).await;
    if said.success {
        return Some(format!("{}: accepted", case.name));
    }
    (!said.stderr.contains(&case.refused))
        .then(|| format!("{}: refused with\n  {}\nnot with\n  {}", case.name, said.stderr, case.refused))
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_what_to_write_instead() {
    let table = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_input.yaml")).unwrap();
    let cases: Vec<Case> = serde_yaml::from_str(&table).unwrap();
    let count = cases.len();
    assert!(count >= 80, "the table was cut: {count} cases are left");
    let namespace = Namespace::new().await;
    let kubectl = namespace.kubectl();
    // One call fills the cache of what the server offers, so that the others do not all ask for it.
    assert!(kubectl.run(&["get", "nodepool"]).await.success);
    let complaints = stream::iter(cases).map(|case| complaint(&kubectl, case)).buffer_unordered(AT_ONCE);
    let complaints: Vec<String> = complaints.filter_map(std::future::ready).collect().await;
    assert!(complaints.is_empty(), "{} of {count}:\n{}", complaints.len(), complaints.join("\n"));
    println!("{count} cases of bad input were refused");
}

/// All files below `deploy/samples` that end so.
fn samples(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.flat_map(|path| if path.is_dir() { samples(&path) } else { vec![path] }).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files
}

#[tokio::test]
async fn the_samples_are_accepted() {
    let namespace = Namespace::new().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = samples(&root.join("deploy/samples"));
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let said = namespace.kubectl().run(&["apply", "--dry-run=server", "-f", file.to_str().unwrap()]).await;
        assert!(said.success && said.stderr.is_empty(), "{}: {}", file.display(), said.stderr);
    }
}

/// A DiskImage's pod template is looked at by Kubernetes only when its Job is made.
#[tokio::test]
async fn the_pod_of_a_sample_is_accepted_in_a_job() {
    let namespace = Namespace::new().await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/samples/images/job.yaml");
    let args = ["create", "--dry-run=server", "-o", "json", "-f", file.to_str().unwrap()];
    let said = namespace.kubectl().run(&args).await;
    assert!(said.success, "{}", said.stderr);
    let mut objects = serde_json::Deserializer::from_str(&said.stdout).into_iter::<Value>().map(Result::unwrap);
    let image = objects.find(|object| object["kind"] == "DiskImage").unwrap();
    let mut template = image["spec"]["source"]["job"]["template"].clone();
    template["spec"]["restartPolicy"] = json!("Never");
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sample"}, "spec": {"template": template},
    });
    let said = namespace.kubectl().run_with_input(&["create", "--dry-run=server", "-f", "-"], &job.to_string()).await;
    assert!(said.success && said.stderr.is_empty(), "{}", said.stderr);
}

/// Every manifest of the documentation, as a reader would paste it.
fn examples(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.filter(|block| block.starts_with("apiVersion:"))
}

#[tokio::test]
async fn the_examples_of_the_documentation_are_accepted() {
    let namespace = Namespace::new().await;
    let kubectl = namespace.kubectl();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(root.join("docs")).unwrap().map(|file| file.unwrap().path()).collect();
    files.push(root.join("README.md"));
    let mut seen = 0;
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
        for example in examples(&std::fs::read_to_string(file).unwrap()) {
            let said = kubectl.run_with_input(&["apply", "--dry-run=server", "-f", "-"], example).await;
            assert!(said.success, "{}: {}\n{example}", file.display(), said.stderr);
            seen += 1;
        }
    }
    assert!(seen >= 7, "only {seen} examples were found");
}
