//! The mistakes: what is written, what is said about it, and what mends it.

use nodepool_operator::plan::allocation::reasons::{AT_CAPACITY, NO_COMMON_PROVIDER};
use serde_json::{Value, json};

use crate::{PASSWORD, Row, Scene, USER_DATA, WRONG, merged, ours, secret};

pub fn clouds(auth_url: &str, password: &str, rest: &str) -> Value {
    json!({"clouds.yaml": format!(
        "clouds:\n  simulator:\n    auth:\n      auth_url: {auth_url}\n      username: simulator\n      password: \
         {password}\n      project_name: simulator\n      user_domain_name: Default\n      project_domain_name: \
         Default\n{rest}"
    )})
}

/// A Provider whose Secret is wrong, and the Secret that mends it.
fn wrong_secret(scene: &Scene, name: &'static str, data: Option<Value>, reason: &'static str, says: &str) -> Row {
    let id = name.replace(' ', "-");
    let mut mistake = vec![scene.provider(&id, &id, json!({}))];
    mistake.splice(0..0, data.map(|data| secret(&id, data)));
    let good = secret(&id, clouds(scene.simulator.url(), PASSWORD, ""));
    Row {
        name,
        before: Vec::new(),
        mistake,
        told: ("Provider", id.clone(), "Ready"),
        reason,
        says: says.to_owned(),
        correction: vec![good],
        healed: ("Provider", id, "Ready"),
    }
}

pub fn wrong_secrets(scene: &Scene) -> Vec<Row> {
    let url = scene.simulator.url();
    let good = clouds(url, PASSWORD, "");
    let wrong = |name, data, reason, says| wrong_secret(scene, name, data, reason, says);
    let yaml = |text: &str| Some(json!({"clouds.yaml": text}));
    vec![
        wrong(
            "secret is missing",
            None,
            "SecretNotFound",
            "create the Secret secret-is-missing with the key clouds.yaml",
        ),
        wrong(
            "secret has another key",
            Some(json!({"config": "x"})),
            "SecretInvalid",
            "add the key clouds.yaml to the Secret secret-has-another-key",
        ),
        wrong(
            "secret is no yaml",
            yaml(&format!("clouds:\n  simulator:\n    auth: {{password: {WRONG}\n  x")),
            "SecretInvalid",
            "clouds.yaml cannot be read (line",
        ),
        wrong(
            "secret has no auth",
            yaml("clouds: {simulator: {region_name: RegionOne}}"),
            "SecretInvalid",
            "add an `auth` section to the cloud simulator",
        ),
        wrong(
            "secret has no auth url",
            yaml(&format!("clouds: {{simulator: {{auth: {{username: x, password: {WRONG}, project_name: x}}}}}}")),
            "SecretInvalid",
            "`auth.auth_url` is missing",
        ),
        wrong("password is wrong", Some(clouds(url, WRONG, "")), "AuthenticationFailed", "correct them in clouds.yaml"),
        wrong(
            "application credential is wrong",
            yaml(&format!(
                "clouds: {{simulator: {{auth_type: v3applicationcredential, auth: {{auth_url: '{url}', \
                 application_credential_id: nobody, application_credential_secret: {WRONG}}}}}}}"
            )),
            "AuthenticationFailed",
            "correct them in clouds.yaml",
        ),
        wrong(
            "cloud is away",
            Some(clouds("http://127.0.0.1:1/identity/v3", PASSWORD, "")),
            "CloudUnreachable",
            "127.0.0.1 refuses the connection",
        ),
        wrong(
            "auth url is not keystone",
            Some(clouds(&url.replace("/identity", "/simulator"), PASSWORD, "")),
            "InvalidConfiguration",
            "no Keystone v3 answers at `auth_url`: correct it in clouds.yaml",
        ),
        wrong(
            "authority is no certificate",
            Some(merged(good.clone(), json!({"cacert": "not a certificate"}))),
            "SecretInvalid",
            "`cacert` must hold PEM certificates",
        ),
        wrong(
            "certificates are not to be verified",
            Some(clouds(url, PASSWORD, "    verify: false\n")),
            "SecretInvalid",
            "put the cloud's CA under the key `cacert` of the Secret",
        ),
        wrong(
            "secret names an unknown interface",
            Some(clouds(url, PASSWORD, "    interface: outside\n")),
            "SecretInvalid",
            "`interface` must be public, internal or admin",
        ),
    ]
}

pub fn wrong_providers(scene: &Scene) -> Vec<Row> {
    let wrong = |name: &'static str, rest: Value, reason, says: &str, right: Value| {
        let id = name.replace(' ', "-");
        Row {
            name,
            before: Vec::new(),
            mistake: vec![scene.provider(&id, "good", rest)],
            told: ("Provider", id.clone(), "Ready"),
            reason,
            says: says.to_owned(),
            correction: vec![scene.provider(&id, "good", right)],
            healed: ("Provider", id, "Ready"),
        }
    };
    vec![
        wrong(
            "cloud name is unknown",
            json!({"cloud": {"secretRef": {"name": "good"}, "cloudName": "typo"}}),
            "SecretInvalid",
            "clouds.yaml has no cloud named typo; set spec.cloud.cloudName to one of: simulator",
            json!({}),
        ),
        wrong(
            "region is unknown",
            json!({"region": "RegionTwo"}),
            "EndpointNotFound",
            "in region RegionTwo; set region to one of: RegionOne",
            json!({"region": "RegionOne"}),
        ),
        wrong(
            "interface is not offered",
            json!({"interface": "admin"}),
            "EndpointNotFound",
            "no admin endpoint; set interface to one of: internal, public",
            json!({"interface": "internal"}),
        ),
    ]
}

/// A pool on a Provider of its own that launches nothing, and the Provider that mends it.
pub fn idle_pools(scene: &Scene) -> Vec<Row> {
    let wrong = |name: &'static str, rest: Value, reason, says: &str| {
        let id = name.replace(' ', "-");
        let image = scene.image(&id, &id, json!({}));
        let pool = scene.pool(&id, &id, json!({"image": id}));
        Row {
            name,
            before: Vec::new(),
            mistake: vec![scene.provider(&id, "good", rest), image, pool],
            told: ("Pool", id.clone(), "Available"),
            reason,
            says: says.to_owned(),
            correction: vec![scene.provider(&id, "good", json!({}))],
            healed: ("Pool", id, "Available"),
        }
    };
    vec![
        wrong("provider may have no servers", json!({"maxServers": 0}), AT_CAPACITY, "maxServers is 0"),
        wrong("provider is paused", json!({"paused": true}), "Paused", "is paused"),
        wrong(
            "provider is unusable",
            json!({"region": "RegionTwo"}),
            "ProviderNotReady",
            "set region to one of: RegionOne",
        ),
    ]
}

/// A pool on the good Provider that is wrong by itself.
pub fn wrong_pools(scene: &Scene) -> Vec<Row> {
    let wrong = |name: &'static str, rest: Value, reason, says: &str, correction: Option<Value>| {
        let id = name.replace(' ', "-");
        Row {
            name,
            before: Vec::new(),
            mistake: vec![scene.pool(&id, "good", rest)],
            told: ("Pool", id.clone(), "Available"),
            reason,
            says: says.to_owned(),
            correction: vec![correction.unwrap_or_else(|| scene.pool(&id, "good", json!({})))],
            healed: ("Pool", id, "Available"),
        }
    };
    vec![
        wrong(
            "image is missing",
            json!({"image": "nowhere"}),
            "DiskImageNotFound",
            "create the DiskImage nowhere, or correct spec.image",
            None,
        ),
        wrong(
            "image is for others",
            json!({"image": "others"}),
            "ImageNotReady",
            "add good to spec.providers of the DiskImage others",
            None,
        ),
        wrong(
            "pool provider is missing",
            json!({"providers": [{"name": "nowhere"}]}),
            "ProviderNotFound",
            "create the Provider nowhere, or correct spec.providers",
            None,
        ),
        wrong(
            "flavor is unknown",
            json!({"flavor": {"name": "vast"}}),
            "FlavorNotFound",
            "no flavor named vast; correct spec.flavor: it has nano, tiny, small, medium, large, huge",
            None,
        ),
        wrong(
            "memory is too much",
            json!({"flavor": {"minRam": "900Ti"}}),
            "FlavorNotFound",
            "no flavor with at least 900Ti of memory; correct spec.flavor: it has nano, tiny, small, medium, large, huge",
            None,
        ),
        wrong(
            "flavor filter fits nothing",
            json!({"flavor": {"minRam": "1Gi", "nameFilter": "gpu"}}),
            "FlavorNotFound",
            "no flavor with gpu in its name",
            None,
        ),
        wrong("pool is paused", json!({"paused": true}), "Paused", "while paused is true", None),
    ]
}

/// Pools whose boots are refused: the first failure is told at once, and soon that launches mostly fail.
pub fn refused_boots(scene: &Scene) -> Vec<Row> {
    let wrong = |name: &'static str, rest: Value, says: &str| {
        let id = name.replace(' ', "-");
        let image = scene.image(&id, &id, json!({}));
        let pool = scene.pool(&id, &id, json!({"image": id}));
        let healed = ("Pool", id.clone(), "Available");
        Row {
            name,
            before: vec![scene.provider(&id, "good", rest), image],
            mistake: vec![pool],
            told: ("Pool", id.clone(), "Available"),
            reason: "LaunchesFailing",
            says: says.to_owned(),
            correction: vec![scene.provider(&id, "good", json!({}))],
            healed,
        }
    };
    let user_data = |name: &'static str, wrong: Option<Value>, says: &str| {
        let id = name.replace(' ', "-");
        let mut mistake = vec![scene.pool(&id, "good", json!({"userDataSecretRef": {"name": id}}))];
        mistake.splice(0..0, wrong.map(|data| secret(&id, data)));
        Row {
            name,
            before: Vec::new(),
            mistake,
            told: ("Pool", id.clone(), "Available"),
            reason: "LaunchesFailing",
            says: says.to_owned(),
            correction: vec![secret(&id, json!({"userData": USER_DATA}))],
            healed: ("Pool", id, "LaunchHealthy"),
        }
    };
    vec![
        wrong(
            "network is unknown",
            json!({"networks": ["nowhere"]}),
            "named nowhere; correct networks of the Provider",
        ),
        wrong("key pair is unknown", json!({"keyPair": "nobody"}), "correct keyPair of the Provider"),
        wrong(
            "security group is unknown",
            json!({"securityGroups": ["strangers"]}),
            "Unable to find security_group with name or id 'strangers'",
        ),
        wrong("zone is unknown", json!({"availabilityZones": ["moon"]}), "correct availabilityZones of the Provider"),
        user_data("user data is missing", None, "create the Secret user-data-is-missing with the key userData"),
        user_data(
            "user data has another key",
            Some(json!({"other": USER_DATA})),
            "add the key userData to the Secret user-data-has-another-key",
        ),
    ]
}

pub fn wrong_images(scene: &Scene) -> Vec<Row> {
    let wrong = |name: &'static str, condition, provider: &str, rest: Value, reason, says: &str| {
        let id = name.replace(' ', "-");
        Row {
            name,
            before: Vec::new(),
            mistake: vec![scene.image(&id, provider, rest)],
            told: ("DiskImage", id.clone(), condition),
            reason,
            says: says.to_owned(),
            correction: vec![scene.image(&id, "good", json!({}))],
            healed: ("DiskImage", id, condition),
        }
    };
    let source = |name, source: Value, reason, says: &str| {
        wrong(name, "Available", "good", json!({"source": source}), reason, says)
    };
    let existing = |name, selector: Value, says: &str| {
        wrong(name, "Available", "good", json!({"source": {"existing": selector}}), "ImageNotFound", says)
    };
    let snapshot = |base: &str, login: Value| {
        let login = merged(json!({"username": "debian"}), login);
        json!({"snapshot": {
            "baseImage": {"name": base}, "flavor": {"name": "small"}, "login": login, "setup": "true",
        }})
    };
    let key = |name: &str, key: &str| json!({"privateKeySecretRef": {"name": name, "key": key}});
    let absent = json!({"url": {
        "url": format!("{}/absent.qcow2", scene.simulator.base()), "checksum": {"value": "0".repeat(64)}, "format": "qcow2",
    }});
    let job = json!({"job": {
        "template": {"spec": {"containers": [{"name": "build", "image": 7}]}}, "output": "/x/image.qcow2", "format": "qcow2",
    }});
    let refresh = |name, refresh: Value, says: &str| {
        wrong(name, "UpToDate", "good", json!({"refresh": refresh}), "InvalidConfiguration", says)
    };
    vec![
        wrong(
            "image provider is missing",
            "Available",
            "nowhere",
            json!({}),
            "ProviderNotFound",
            "create the Provider nowhere, or correct spec.providers",
        ),
        existing(
            "image name is unknown",
            json!({"name": "debian-99"}),
            "no active image named debian-99; correct spec.source.existing",
        ),
        existing(
            "image id is unknown",
            json!({"id": "11111111-2222-3333-4444-555555555555"}),
            "no active image with the id 11111111-2222-3333-4444-555555555555; correct spec.source.existing",
        ),
        source(
            "base image is unknown",
            snapshot("debian-99", json!({})),
            "ImageNotFound",
            "no active image named debian-99; correct spec.source.snapshot.baseImage",
        ),
        source(
            "login key is in no secret",
            snapshot("debian-13", key("absent", "id")),
            "BuildFailed",
            "create the Secret absent with the key id",
        ),
        source(
            "login key has another name",
            snapshot("debian-13", key("good", "id")),
            "BuildFailed",
            "add the key id to the Secret good",
        ),
        source(
            "login key is none",
            snapshot("debian-13", key("good", "clouds.yaml")),
            "BuildFailed",
            "the key clouds.yaml of the Secret good",
        ),
        source("file is not there", absent, "BuildFailed", "404"),
        source("pod template is none", job, "BuildFailed", "pod template"),
        refresh(
            "schedule never comes",
            json!({"schedule": "0 0 31 2 *"}),
            "never comes; check the day of month against the month",
        ),
        refresh("time zone is unknown", json!({"timeZone": "Mars/Olympus"}), "write a name of the IANA list"),
    ]
}

pub fn waiting_requests(scene: &Scene) -> Vec<Row> {
    let nodes = |pools: &[&str]| -> Value {
        pools.iter().map(|pool| json!({"name": format!("of-{pool}"), "pool": pool})).collect()
    };
    let wrong = |name: &'static str, before: Vec<Value>, pools: &[&str], reason, says: &str, correction: Value| {
        let id = name.replace(' ', "-");
        let request = ours("NodeRequest", &id, json!({"nodes": nodes(pools)}));
        Row {
            name,
            before,
            mistake: vec![request],
            told: ("NodeRequest", id.clone(), "Fulfilled"),
            reason,
            says: says.to_owned(),
            correction: vec![correction],
            healed: ("NodeRequest", id, "Fulfilled"),
        }
    };
    let none = json!({"minReady": 0});
    let apart = [scene.provider("apart", "good", json!({})), scene.image("apart", "apart", json!({}))];
    let alone = scene.pool("alone", "apart", json!({"minReady": 0, "image": "apart"}));
    let both = json!({"minReady": 0, "image": "both", "providers": [{"name": "apart"}, {"name": "good"}]});
    let image = scene.image("both", "apart", json!({"providers": ["apart", "good"]}));
    vec![
        wrong(
            "requested pool is missing",
            Vec::new(),
            &["later"],
            "PoolNotFound",
            "create the Pool later",
            scene.pool("later", "good", none.clone()),
        ),
        wrong(
            "requested pools share no provider",
            apart.into_iter().chain([image, alone, scene.pool("here", "good", none)]).collect(),
            &["alone", "here"],
            NO_COMMON_PROVIDER,
            "set spread: true or choose pools of one provider",
            scene.pool("alone", "apart", both),
        ),
    ]
}
