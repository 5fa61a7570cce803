//! The page at the metrics port, in a real browser: Debian's Chromium, without a window, as a reader by day, by night and on a
//! phone sees it. `tests/page/look.cjs` looks, the tests here judge, and `axe` says whether everybody can read it.
//!
//! What each reader saw is left in `target/tmp/page`, as pictures and as JSON.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kube::ResourceExt;
use nodepool_operator::api::{DiskImage, NodeRequest, Pool, PoolNode, Provider};
use serde::Deserialize;
use serde_json::json;
use support::world::{IMAGE, SOON, given};
use support::{Killer, Namespace, Operator, Program, World, eventually};

/// One browser shows the page to three readers within this, on a machine where all other tests run too.
const LOOKED: Duration = Duration::from_secs(120);

/// What one reader saw.
#[derive(Deserialize)]
struct Seen {
    status: u16,
    headers: BTreeMap<String, String>,
    title: String,
    text: String,
    /// The cells of each row, by section.
    tables: BTreeMap<String, Vec<Vec<String>>>,
    /// `datetime`, `title` and text of each time.
    times: Vec<(String, String, String)>,
    elements: Vec<String>,
    background: String,
    /// By how many pixels the document is wider than the screen.
    sideways: i64,
    /// Everything the browser complained about.
    console: Vec<String>,
    requests: Vec<String>,
    dialogs: Vec<String>,
    /// What `axe` finds wrong, and which of its rules it found kept.
    violations: Vec<serde_json::Value>,
    passes: Vec<String>,
    /// After the link that asks for it: that link's words, and after how many seconds the page comes anew.
    refreshing: (String, Option<String>),
    /// Whether a script ran that was put into the document.
    taken: bool,
}

#[derive(Deserialize)]
struct Readers {
    light: Seen,
    dark: Seen,
    phone: Seen,
}

impl Readers {
    /// Lets each reader look at an operator's page.
    async fn of(operator: &Operator, name: &str) -> Self {
        let packages = tool("build");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page").join(name);
        let url = format!("{}/", operator.url().unwrap());
        let mut command = Command::new("node");
        command.arg(source("look.cjs")).arg(&url).arg(&directory).env("NODE_PATH", packages);
        let program = Program::start("look", command, Killer::default());
        let status = program.wait_exit(LOOKED).await;
        assert!(status.success(), "{status}:\n{}", program.log());
        let seen = std::fs::read(directory.join("seen.json")).unwrap();
        let readers: Self = serde_json::from_slice(&seen).unwrap();
        readers.each(|reader, seen| seen.is_harmless_and_readable(reader, &url));
        assert_ne!(readers.light.background, readers.dark.background, "dark is another scheme");
        readers
    }

    fn each(&self, judge: impl Fn(&str, &Seen)) {
        for (reader, seen) in [("light", &self.light), ("dark", &self.dark), ("phone", &self.phone)] {
            judge(reader, seen);
        }
    }
}

impl Seen {
    /// What holds of every page for every reader.
    fn is_harmless_and_readable(&self, reader: &str, url: &str) {
        assert_eq!(self.status, 200);
        assert_eq!(self.requests, [url, &format!("{url}?refresh")], "{reader}: a request to somewhere else");
        assert!(self.console.is_empty() && self.dialogs.is_empty(), "{reader}: {:?} {:?}", self.console, self.dialogs);
        assert!(self.violations.is_empty(), "{reader}: {:#?}", self.violations);
        for rule in ["color-contrast", "region", "document-title"] {
            assert!(self.passes.iter().any(|kept| kept == rule), "{reader}: axe did not look at {rule}");
        }
        assert!(self.sideways <= 0, "{reader}: {} pixels too wide", self.sideways);
        assert!(
            !self.elements.iter().any(|name| ["script", "img", "iframe"].contains(&name.as_str())),
            "{:?}",
            self.elements
        );
        assert!(!self.taken, "{reader}: a script ran");
        assert_eq!(self.headers["cache-control"], "no-store");
        assert_eq!(self.refreshing, ("Stop refreshing".to_owned(), Some("30".to_owned())));
        for (exact, shown, _) in &self.times {
            assert_eq!(exact.replace('T', " ").replace('Z', " UTC"), *shown);
        }
    }

    /// The cells of the one row of a section that starts with these.
    fn row(&self, section: &str, start: &[&str]) -> &[String] {
        let rows = &self.tables[section];
        let found = rows.iter().find(|row| row.iter().zip(start).all(|(cell, wanted)| cell == wanted));
        found.unwrap_or_else(|| panic!("{section}: no row {start:?} in {rows:#?}"))
    }
}

fn source(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page").join(name)
}

/// What a script of `tests/page` prints.
fn tool(name: &str) -> String {
    let output = Command::new(source(name)).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{name}: {}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Waits until the page tells of a moment after now.
async fn fresh(operator: &Operator) {
    let now = jiff::Timestamp::now();
    eventually(SOON, || async {
        let page = operator.get("/").await?.1;
        let told = page.split_once("datetime=\"").and_then(|(_, rest)| rest.split_once('"'));
        let told: jiff::Timestamp = told.ok_or("no time")?.0.parse().map_err(|error| format!("{error}"))?;
        if told > now { Ok(()) } else { Err(format!("as of {told}")) }
    })
    .await;
}

/// A name that somebody may give an image in a cloud.
const HOSTILE: &str = "</p><script>alert('taken')</script><img src=https://example.org/x onerror=alert(1)>";

/// Two clouds and one that is not there; two pools, a held node, a request that is served, one that waits.
async fn busy_world() -> World {
    let world = World::builder().cloud("cloud-a", 6).cloud("cloud-b", 4).start().await;
    world.pool("small", 3, json!({})).await;
    world.pool("large", 0, json!({"flavor": {"name": "large"}, "maxNodes": 1})).await;
    let idle = world.pool_ready("small", 3).await;
    let hold = json!({"spec": {"hold": {"reason": "the job hung"}}});
    world.patch::<PoolNode>(&idle[0].name_any(), hold).await;
    world.pool_ready("small", 3).await;
    world.request("unit-tests", &[("small", 2)], json!({})).await;
    world.fulfilled("unit-tests").await;
    world.request("benchmark-1", &[("large", 1)], json!({})).await;
    world.fulfilled("benchmark-1").await;
    world.request("benchmark-2", &[("large", 1)], json!({})).await;
    let secret = json!({"secretRef": {"name": "openstack-c"}});
    world.apply("Provider", "cloud-c", json!({"cloud": secret, "maxServers": 5})).await;
    let source = json!({"existing": {"name": HOSTILE}});
    let image = json!({"providers": ["cloud-a"], "source": source, "login": {"username": "debian"}});
    world.apply("DiskImage", "scribbled", image).await;

    world.reason::<Provider>("cloud-c", "Ready", "SecretNotFound").await;
    world.condition::<DiskImage>("scribbled", "UpToDate", "False").await;
    world.position("benchmark-2", 1).await;
    world.pool_ready("small", 3).await;
    eventually(SOON, || async {
        let mut used = 0;
        for name in ["cloud-a", "cloud-b"] {
            used += world.get::<Provider>(name).await.status.unwrap().servers.unwrap().used;
        }
        if used == 7 { Ok(()) } else { Err(format!("{used} slots")) }
    })
    .await;
    world
}

/// A cloud that works, as `kubectl get` shows it, and the image there.
fn shows_cloud(seen: &Seen, name: &str, provider: &Provider, image: &DiskImage) {
    let counts = provider.status.as_ref().unwrap().servers.unwrap();
    let slots = format!("{} of {}", counts.used, provider.spec.max_servers);
    let numbers = [counts.in_use, counts.ready, counts.building, counts.held, counts.deleting].map(|n| n.to_string());
    let row = seen.row("providers", &[name, "✓ Ready"]);
    assert_eq!((&row[2], &row[3..8], row[9].as_str()), (&slots, &numbers[..], "none"));
    assert!(row[8].ends_with(" ago"), "{row:?}");
    let row = seen.row("images", &[IMAGE, name, "✓ Available"]);
    let on = image.status.as_ref().unwrap().providers.iter().find(|on| on.name == name).unwrap();
    assert_eq!(Some(&row[3]), on.current.as_ref());
    let built = on.built_at.as_ref().unwrap().0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    assert!(seen.times.iter().any(|(exact, _, age)| *exact == built && *age == row[4]), "{row:?}, built at {built}");
    assert!(row[5].starts_with("in "), "{row:?}");
}

/// What needs a person, before all else.
fn shows_troubles(seen: &Seen) {
    let lost = &seen.tables["providers"][0];
    assert!(lost[1].starts_with("! SecretNotFound") && lost[1].contains("openstack-c"), "{lost:?}");
    assert_eq!((lost[0].as_str(), lost[2].as_str(), lost[8].as_str()), ("cloud-c", "0 of 5", "never"));
    let scribbled = &seen.tables["images"][0];
    assert!(scribbled[2].starts_with("! ImageNotFound the cloud has no active image named </p>"), "{scribbled:?}");
    assert_eq!((scribbled[0].as_str(), scribbled[3].as_str()), ("scribbled", "none"));
}

/// The pools, and who waits for them.
fn shows_demand(seen: &Seen) {
    let small = seen.row("pools", &["small", "✓ Available"]);
    assert_eq!(small[2..], ["3 of 3", "0", "2", "1", "0", "6", IMAGE].map(str::to_owned));
    let large = seen.row("pools", &["large"]);
    assert_eq!((large[2].as_str(), large[4].as_str(), large[7].as_str()), ("0 of 0", "1", "1 of 1"));
    let [waiting] = &seen.tables["requests"][..] else { panic!("{:?}", seen.tables["requests"]) };
    assert_eq!((&waiting[..2], waiting[3].as_str()), (&["benchmark-2".to_owned(), "1 × large".to_owned()][..], "1"));
    assert!(waiting[4].starts_with("WaitingForCapacity pool ") && waiting[4].contains("maxNodes is 1"), "{waiting:?}");
}

#[tokio::test]
async fn everything_is_seen_at_a_glance_and_nothing_else_happens() {
    let world = busy_world().await;
    fresh(&world.operator).await;
    let readers = Readers::of(&world.operator, "busy").await;

    let mut clouds = Vec::new();
    for name in ["cloud-a", "cloud-b"] {
        clouds.push((name, world.get::<Provider>(name).await, world.get::<DiskImage>(IMAGE).await));
    }
    readers.each(|reader, seen| {
        assert_eq!(seen.title, "2 need attention · nodepool", "{reader}");
        assert!(seen.text.contains("Slots taken 7 of 15") && seen.text.contains("Nodes ready 3 of 3"), "{}", seen.text);
        assert!(seen.text.contains(HOSTILE), "{reader}: a hostile text is not shown as it is: {}", seen.text);
        clouds.iter().for_each(|(name, provider, image)| shows_cloud(seen, name, provider, image));
        shows_troubles(seen);
        shows_demand(seen);
    });
    // Nothing of how to get into a node.
    let served = given(&world.get::<NodeRequest>("unit-tests").await);
    let addresses = world.nodes().await.into_iter().filter_map(|node| node.status?.address);
    for secret in served.into_iter().chain(addresses) {
        readers.each(|_, seen| assert!(!seen.text.contains(&secret), "{secret} is shown"));
    }
    assert_eq!(world.get::<Pool>("small").await.status.unwrap().ready, 3, "looking changed nothing");
}

#[tokio::test]
async fn an_empty_installation_says_what_comes_next() {
    let namespace = Namespace::new().await;
    let operator = Operator::start(&namespace).await;
    eventually(SOON, || async {
        let page = operator.get("/").await?.1;
        if page.contains("As of") { Ok(()) } else { Err(page) }
    })
    .await;
    let readers = Readers::of(&operator, "empty").await;
    readers.each(|reader, seen| {
        assert_eq!(seen.title, "nothing yet · nodepool", "{reader}");
        for words in [
            "No Provider yet. Put a clouds.yaml into a Secret",
            "No DiskImage yet.",
            "No Pool yet.",
            "No request waits.",
        ] {
            assert!(seen.text.contains(words), "{reader}: {words}: {}", seen.text);
        }
    });
}

#[tokio::test]
async fn a_replica_that_stands_by_names_the_one_that_acts() {
    let namespace = Namespace::new().await;
    let replica = |name: &str| Operator::for_namespace(&namespace).leader_election().env("HOSTNAME", name).start();
    let leader = replica("nodepool-operator-a");
    leader.ready(SOON).await;
    let standby = replica("nodepool-operator-b");
    standby.ready(SOON).await;
    let readers = Readers::of(&standby, "standby").await;
    readers.each(|reader, seen| {
        assert!(
            seen.text.contains("nodepool-operator-a acts, and its page shows everything."),
            "{reader}: {}",
            seen.text
        );
        assert_eq!(seen.title, "standby · nodepool");
    });
    leader.sigterm();
    eventually(SOON, || async {
        let page = standby.get("/").await?.1;
        if page.contains("No Provider yet.") { Ok(()) } else { Err(page) }
    })
    .await;
}
