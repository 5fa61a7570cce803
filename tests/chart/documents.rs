//! What is written twice says the same: definitions, versions, README.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::helm::{chart, program, render, told};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn names(directory: &Path) -> BTreeSet<String> {
    std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

/// Whether two documents say the same; Helm writes 0.0 as 0.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
        }
        _ => one == other,
    }
}

#[test]
fn the_definitions_are_those_of_crds() {
    let (of_chart, of_crds) = (chart().join("files/crds"), root().join("crds"));
    assert_eq!(names(&of_chart), names(&of_crds));
    let rendered = render("").unwrap();
    for name in names(&of_crds) {
        let text = std::fs::read_to_string(of_crds.join(&name)).unwrap();
        assert_eq!(text, std::fs::read_to_string(of_chart.join(&name)).unwrap(), "{name}: run `make crds`");
        let wanted: Value = serde_yaml::from_str(&text).unwrap();
        let found = rendered.iter().find(|object| {
            object["kind"] == "CustomResourceDefinition" && object["metadata"]["name"] == wanted["metadata"]["name"]
        });
        let found = found.unwrap_or_else(|| panic!("{name} is not rendered"));
        assert!(same(&found["spec"], &wanted["spec"]), "{name}: rendered otherwise than it is written");
        assert_eq!(found["metadata"]["annotations"]["helm.sh/resource-policy"], "keep", "{name}");
    }
    let none = |values: &str| render(values).unwrap().iter().all(|object| object["kind"] != "CustomResourceDefinition");
    assert!(none("crds: {install: false}"));
    let swept = render("crds: {keep: false}").unwrap();
    assert!(swept.iter().all(|object| object["metadata"]["annotations"]["helm.sh/resource-policy"].is_null()));
}

#[test]
fn chart_operator_and_image_have_one_version() {
    let text = std::fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    let chart: Value = serde_yaml::from_str(&text).unwrap();
    for key in ["version", "appVersion"] {
        assert_eq!(chart[key], env!("CARGO_PKG_VERSION"), "{key} of Chart.yaml");
    }
}

#[test]
fn the_readme_is_made_of_the_values() {
    let mut docs = program("helm-docs");
    docs.arg("--dry-run").arg("--chart-search-root").arg(chart()).arg("--chart-to-generate").arg(chart());
    docs.args(["--log-level", "error", "--sort-values-order", "file"]);
    let wanted = told(&docs.output().unwrap()).unwrap();
    let found = std::fs::read_to_string(chart().join("README.md")).unwrap();
    assert_eq!(wanted.trim_end(), found.trim_end(), "run `make chart`");
    assert!(!wanted.contains("| string |  |") && !wanted.contains("|  |\n"), "a value without a word about it");
}

#[test]
fn helm_lints_it_and_packages_it() {
    let mut lint = program("helm");
    let output = lint.args(["lint", "--strict"]).arg(chart()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let target = crate::support::helm::scratch("package");
    let mut package = program("helm");
    let said = told(&package.arg("package").arg(chart()).arg("--destination").arg(&target).output().unwrap()).unwrap();
    let archive = target.join(format!("nodepool-operator-{}.tgz", env!("CARGO_PKG_VERSION")));
    assert!(said.contains(archive.to_str().unwrap()), "{said}");
    let listed = told(&Command::new("tar").arg("-tzf").arg(&archive).output().unwrap()).unwrap();
    assert!(listed.contains("nodepool-operator/files/crds/pools.yaml"), "{listed}");
    assert!(!listed.contains("gotmpl"), "{listed}");
    std::fs::remove_dir_all(target).unwrap();
}
