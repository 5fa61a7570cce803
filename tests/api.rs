//! The definitions in `crds/` are what the types say, and hold what users and the API server count on.
//!
//! `UPDATE_CRDS=1 cargo test --test api` writes them anew.

use std::{collections::BTreeMap, fs, path::Path};

use nodepool_operator::api::{crds, rules};
use serde_json::Value;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crds")
}

#[test]
fn committed_definitions_are_the_generated_ones() {
    let generated: BTreeMap<_, _> = crds::yaml_files().unwrap().into_iter().collect();
    if std::env::var_os("UPDATE_CRDS").is_some() {
        fs::create_dir_all(folder()).unwrap();
        for (name, yaml) in &generated {
            fs::write(folder().join(name), yaml).unwrap();
        }
    }
    let committed: BTreeMap<_, _> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
        .collect();
    assert_eq!(
        committed.keys().collect::<Vec<_>>(),
        generated.keys().collect::<Vec<_>>(),
        "crds/ has other files: run `UPDATE_CRDS=1 cargo test --test api`"
    );
    for (name, yaml) in &generated {
        assert!(&committed[name] == yaml, "crds/{name} is out of date: run `UPDATE_CRDS=1 cargo test --test api`");
    }
}
