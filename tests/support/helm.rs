//! `helm` and its neighbours, as a person runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

use super::line_of;

/// The chart's directory.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/nodepool-operator")
}

/// One of the programs that `tests/helm/build` makes.
pub fn program(name: &str) -> Command {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/helm/build");
    Command::new(BIN.get_or_init(|| line_of(Command::new(script)).into()).join(name))
}

/// A file of a test's own.
pub fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chart-{}-{name}", std::process::id()))
}

/// Its standard output; what it said on its standard error when it failed.
pub fn told(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// `helm template` with these values, for a release `nodepool-operator` in `ci`, in the order in which helm installs.
pub fn render(values: &str) -> Result<Vec<Value>, String> {
    render_as("nodepool-operator", "ci", values)
}

/// `helm template` of a release of this name in this namespace.
pub fn render_as(release: &str, namespace: &str, values: &str) -> Result<Vec<Value>, String> {
    let file = scratch(&format!("{}.yaml", uuid::Uuid::new_v4()));
    std::fs::write(&file, values).unwrap();
    let mut helm = program("helm");
    helm.args(["template", release]).arg(chart()).args(["--namespace", namespace, "--values"]).arg(&file);
    let text = told(&helm.output().unwrap())?;
    std::fs::remove_file(file).unwrap();
    let documents: Vec<Value> = serde_yaml::from_multiple(&text).unwrap();
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// The one object of this kind and name.
pub fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    let mut found = objects.iter().filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let first = found.next();
    assert!(found.next().is_none(), "two of {kind} {name}");
    first
}
