//! The definitions in `crds/` are what the types say, and hold what users and the API server count on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use kube::CustomResourceExt;
use nodepool_operator::api::{
    self, DiskImage, DiskImageSpec, FlavorSelector, NodeRequest, Pool, PoolNode, PoolSpec, Provider, ProviderImage,
    ProviderSpec, crds,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The schema of each kind, by kind.
fn schemas() -> BTreeMap<String, Value> {
    crds::all()
        .into_iter()
        .map(|crd| {
            let schema = crd.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
            (crd.spec.names.kind.clone(), serde_json::to_value(schema.unwrap()).unwrap())
        })
        .collect()
}

/// Calls `visit` for every schema below this one, with its path.
fn walk(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    if schema["items"].is_object() {
        walk(&format!("{path}[]"), &schema["items"], visit);
    }
    if schema["additionalProperties"].is_object() {
        walk(&format!("{path}{{}}"), &schema["additionalProperties"], visit);
    }
}

fn walk_all(mut visit: impl FnMut(&str, &Value)) {
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut visit);
    }
}

/// Conditions, metadata and pods are Kubernetes' own shapes.
fn is_foreign(path: &str) -> bool {
    path.contains(".conditions[]") || path.ends_with(".metadata") || path.contains(".template")
}

#[test]
fn committed_definitions_are_the_generated_ones() {
    let generated: BTreeMap<_, _> = crds::yaml_files().unwrap().into_iter().collect();
    let committed: BTreeMap<_, _> = fs::read_dir(root("crds"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
        .collect();
    let update = "run `make crds`";
    assert!(committed.keys().eq(generated.keys()), "crds/ has other files: {update}");
    for (name, yaml) in &generated {
        assert!(&committed[name] == yaml, "crds/{name} is out of date: {update}");
    }
}

#[test]
fn every_kind_is_namespaced_listed_and_has_a_status() {
    let crds = crds::all();
    assert_eq!(crds.len(), 6);
    for crd in crds {
        let version = &crd.spec.versions[0];
        let columns = version.additional_printer_columns.as_ref().unwrap();
        assert_eq!((crd.spec.group.as_str(), version.name.as_str()), (api::GROUP, api::VERSION));
        assert_eq!(crd.spec.scope, "Namespaced");
        assert_eq!(crd.spec.names.categories, Some(vec!["nodepool".to_string()]));
        assert!(version.subresources.as_ref().unwrap().status.is_some());
        assert_eq!(columns.last().unwrap().name, "Age");
    }
    let scale = Pool::crd().spec.versions[0].subresources.clone().unwrap().scale.unwrap();
    assert_eq!(scale.spec_replicas_path, ".spec.minReady");
    assert_eq!(scale.status_replicas_path, ".status.ready");
}

#[test]
fn every_field_is_documented() {
    walk_all(|path, schema| {
        let is_element = path.ends_with("[]") || path.ends_with("{}");
        let is_root_status = path.ends_with(".status") && path.matches('.').count() == 1;
        if !is_foreign(path) && !is_element && !is_root_status {
            assert!(schema["description"].as_str().is_some_and(|text| !text.is_empty()), "{path} says nothing");
        }
    });
}

#[test]
fn every_value_is_bounded() {
    walk_all(|path, schema| {
        if is_foreign(path) {
            return;
        }
        if schema["type"] == "string" && schema["enum"].is_null() && schema["format"] != "date-time" {
            assert!(schema["maxLength"].is_u64(), "{path} has no maxLength");
        }
        if schema["type"] == "array" {
            assert!(schema["maxItems"].is_u64(), "{path} has no maxItems");
        }
        if schema["additionalProperties"].is_object() {
            assert!(schema["maxProperties"].is_u64(), "{path} has no maxProperties");
        }
        if schema["type"] == "integer" && path.contains(".spec.") {
            let ruled = schema["x-kubernetes-validations"].to_string().contains("self <=");
            let any_after = path.ends_with(".version");
            assert!(schema["maximum"].is_number() || ruled || any_after, "{path} has no maximum");
            assert!(schema["minimum"].is_number() || ruled, "{path} has no minimum");
        }
    });
}

/// The API server warns about unsigned formats, and a nullable field would give rules two ways to find nothing.
#[test]
fn the_server_has_nothing_to_warn_about() {
    walk_all(|path, schema| {
        let format = schema["format"].as_str().unwrap_or("int32");
        assert!(["int32", "int64", "double", "date-time"].contains(&format), "{path} has format {format}");
        assert!(schema["nullable"].is_null(), "{path} is nullable");
    });
}

#[test]
fn every_rule_has_a_sentence() {
    let mut rules = 0;
    walk_all(|path, schema| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(message.len() > 20 && !message.contains('\n'), "{path}: {rule}");
            rules += 1;
        }
    });
    assert!(rules > 50, "only {rules} rules: the derive lost some");
}

#[test]
fn conditions_are_a_map_by_type() {
    for (kind, schema) in schemas() {
        let conditions = &schema["properties"]["status"]["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{kind}");
        assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]), "{kind}");
    }
}

#[test]
fn a_fresh_record_reads_as_being_in_its_first_state() {
    for (kind, state) in [("PoolNode", "Building"), ("ProviderImage", "Building"), ("NodeRequest", "Pending")] {
        let status = &schemas()[kind]["properties"]["status"];
        assert_eq!(status["default"], json!({}), "{kind}");
        assert_eq!(status["properties"]["state"]["default"], state, "{kind}");
    }
}

/// A spec built in code, one read from the least that users must write, and the schema agree about every default.
#[test]
fn defaults_in_code_are_the_schemas() {
    fn with_defaults(schema: &Value, value: &mut Value) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if value.get(name).is_none() && !property["default"].is_null() {
                value[name] = property["default"].clone();
            }
            match value.get_mut(name) {
                Some(Value::Array(items)) => {
                    items
                        .iter_mut()
                        .filter(|item| item.is_object())
                        .for_each(|item| with_defaults(&property["items"], item));
                }
                Some(object @ Value::Object(_)) => with_defaults(property, object),
                _ => {}
            }
        }
    }
    fn check<T: Serialize + DeserializeOwned>(kind: &str, least: Value, in_code: &T) {
        let mut by_server = least.clone();
        with_defaults(&schemas()[kind]["properties"]["spec"], &mut by_server);
        let read: T = serde_json::from_value(least).unwrap();
        assert_eq!(serde_json::to_value(in_code).unwrap(), by_server, "{kind}: built in code");
        assert_eq!(serde_json::to_value(read).unwrap(), by_server, "{kind}: read");
    }
    check(
        "Provider",
        json!({"cloud": {"secretRef": {"name": "openstack-a"}}, "maxServers": 5}),
        &ProviderSpec::new("openstack-a", 5),
    );
    check(
        "DiskImage",
        json!({"providers": ["a"], "source": {"existing": {"name": "debian-13"}}, "login": {"username": "debian"}}),
        &DiskImageSpec::existing("debian-13", "a", "debian"),
    );
    check(
        "Pool",
        json!({"image": "debian-13", "flavor": {"name": "small"}, "providers": [{"name": "a"}], "minReady": 3}),
        &PoolSpec::new("debian-13", FlavorSelector::named("small"), "a", 3),
    );
}

fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.split("\n---\n").map(|document| serde_yaml::from_str(document).unwrap()).collect()
}

fn reads_as_its_kind(document: &Value) {
    fn read<T: DeserializeOwned + Serialize>(document: &Value) {
        serde_json::from_value::<T>(document.clone()).unwrap_or_else(|error| panic!("{error}: {document}"));
    }
    match document["kind"].as_str().unwrap() {
        "Provider" => read::<Provider>(document),
        "DiskImage" => read::<DiskImage>(document),
        "ProviderImage" => read::<ProviderImage>(document),
        "Pool" => read::<Pool>(document),
        "PoolNode" => read::<PoolNode>(document),
        "NodeRequest" => read::<NodeRequest>(document),
        other => panic!("no kind of ours: {other}"),
    }
}

#[test]
fn samples_read_as_their_kinds() {
    let files: Vec<_> = ["deploy/samples", "deploy/samples/request", "deploy/samples/images", "deploy/samples/tenants"]
        .iter()
        .flat_map(|folder| fs::read_dir(root(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    let mut documents: Vec<_> = files.iter().flat_map(|path| documents(path)).collect();
    // Kubernetes' own kind.
    documents.retain(|document| document["kind"] != "ConfigMap");
    documents.iter().for_each(reads_as_its_kind);
    let kinds: BTreeSet<_> = documents.iter().map(|document| document["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["DiskImage", "NodeRequest", "Pool", "Provider"].into());
    let sources: BTreeSet<_> = documents
        .iter()
        .filter_map(|document| document["spec"]["source"].as_object())
        .flat_map(|source| source.keys().map(String::as_str))
        .collect();
    assert_eq!(sources, ["existing", "job", "snapshot", "url"].into());
}

#[test]
fn the_table_of_bad_input_is_well_formed() {
    let cases: Vec<Value> = serde_yaml::from_str(&fs::read_to_string(root("tests/bad_input.yaml")).unwrap()).unwrap();
    let names: BTreeSet<_> = cases.iter().map(|case| case["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    assert!(cases.len() >= 45);
    for case in &cases {
        assert!(case["refused"].as_str().is_some_and(|text| text.len() > 10), "{case}");
        assert!(case["manifest"]["kind"].is_string(), "{case}");
        case["before"].as_array().into_iter().flatten().for_each(reads_as_its_kind);
    }
}
