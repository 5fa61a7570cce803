//! What it costs to bring an image into a cloud: a large file from a URL, and one file to the real Glance by the operator's
//! uploader beside the command that people would type instead.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use crate::statistics::Runs;
use crate::support::openstack::{OpenStack, Project};
use crate::table::{Table, Target};
use crate::world::PATIENCE;
use crate::{Plan, passage, process};

/// The cloud of the clouds.yaml.
const CLOUD: &str = "lab";
const SIZE: u64 = 2 << 30;
/// How often a program's highest memory is read. The kernel keeps it: only what the last moments add is missed.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What one upload took.
struct Taken {
    seconds: f64,
    /// Resident memory at its highest, in MB of a million bytes.
    memory: f64,
}

/// One way to upload, in all its runs.
#[derive(Default)]
struct Way {
    seconds: Runs,
    memory: Runs,
}

impl Way {
    fn push(&mut self, taken: &Taken) {
        self.seconds.push(taken.seconds);
        self.memory.push(taken.memory);
    }
}

/// Must come first: the memory of this very process is measured, the server included.
pub async fn stream(table: &mut Table) {
    let passage = passage::ten_gib().await;
    let (grown, seconds) = (passage.grown as f64 / f64::from(1 << 20), passage.took.as_secs_f64());
    table.figure(
        "10 GiB from a URL to three clouds, digest verified: memory beyond the start",
        Target::AtMost(64.0),
        " MiB",
        &Runs::one(grown),
    );
    table.told("… time", Runs::one(seconds).shown(" s"));
}

/// The same file both ways, in turns, so that whatever else the machine does meets both.
pub async fn measure(plan: &Plan, table: &mut Table) {
    let lab = OpenStack::lent();
    let project = Project::log_in(CLOUD).await;
    let file = file();
    let [mut ours, mut theirs, mut ratios] = [Way::default(), Way::default(), Way::default()];
    for run in 0..plan.repeats {
        let by_operator = uploaded(&project, &format!("bench-operator-{run}"), by_operator(&file, run)).await;
        let by_command = uploaded(&project, &format!("bench-command-{run}"), by_command(&file, run)).await;
        ours.push(&by_operator);
        theirs.push(&by_command);
        ratios.push(&Taken {
            seconds: by_operator.seconds / by_command.seconds,
            memory: by_operator.memory / by_command.memory,
        });
    }
    std::fs::remove_file(&file).unwrap();
    drop(lab);
    let title = "upload of 2 GiB to a real Glance, operator ÷ `openstack image create`: wall time";
    table.figure(title, Target::AtMost(1.0), "", &ratios.seconds);
    table.told("… each", format!("{}; {}", ours.seconds.shown(" s"), theirs.seconds.shown(" s")));
    table.figure("… memory at most", Target::AtMost(1.0), "", &ratios.memory);
    table.told("… each", format!("{}; {}", ours.memory.shown(" MB"), theirs.memory.shown(" MB")));
}

/// Runs one upload, proves that the image is whole, and deletes it. Nothing of what came before is still to be written.
async fn uploaded(project: &Project, name: &str, mut command: Command) -> Taken {
    assert!(Command::new("sync").status().await.unwrap().success());
    let taken = taken(&mut command).await;
    let found = project.get("image", &format!("/images?name={name}")).await["images"].take();
    let image = &found[0];
    assert_eq!((&image["status"], &image["size"]), (&json!("active"), &json!(SIZE)), "{name}: {found}");
    let path = format!("/images/{}", image["id"].as_str().unwrap());
    assert_eq!(project.call(Method::DELETE, "image", &path, None).await.0, 204);
    eprintln!("  {name}: {:.1} s, {:.1} MB", taken.seconds, taken.memory);
    taken
}

async fn taken(command: &mut Command) -> Taken {
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let pid = child.id().unwrap();
    let mut memory = 0.0;
    loop {
        memory = process::highest(pid).unwrap_or(memory);
        if let Ok(ended) = timeout(LOOK_AGAIN, child.wait()).await {
            assert!(ended.unwrap().success(), "{command:?}");
            return Taken { seconds: started.elapsed().as_secs_f64(), memory };
        }
        assert!(started.elapsed() < PATIENCE, "{command:?} does not end");
    }
}

/// What the operator runs in the pod of a build.
fn by_operator(file: &Path, run: u32) -> Command {
    let targets = json!([{
        "provider": CLOUD, "cloudName": CLOUD, "cloudsDirectory": OpenStack::shared().folder(),
        "image": {
            "name": format!("bench-operator-{run}"), "owner": "bench", "record": uuid::Uuid::new_v4().to_string(),
            "provider": format!("bench/{CLOUD}"),
        },
    }]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodepool-operator"));
    command.args(["upload", "--format", "raw", "--log-filter", "warn", "--file"]).arg(file);
    command.arg("--targets").arg(targets.to_string()).arg("--result").arg(folder().join("upload-result"));
    command.args(["--allow-network", "127.0.0.0/8"]);
    command
}

/// What people type.
fn by_command(file: &Path, run: u32) -> Command {
    let mut command = Command::new(OpenStack::packages().join("bin/openstack"));
    command.args(["image", "create", "--disk-format", "raw", "--container-format", "bare", "--file"]).arg(file);
    command.arg(format!("bench-command-{run}"));
    command.env("OS_CLOUD", CLOUD).env("OS_CLIENT_CONFIG_FILE", OpenStack::shared().folder().join("clouds.yaml"));
    command
}

/// Two GiB on the disk, without holes, no two pieces the same.
fn file() -> PathBuf {
    let path = folder().join("upload-2gib.raw");
    let mut file = File::create(&path).unwrap();
    let mut piece = vec![7_u8; 1 << 20];
    for number in 0..SIZE / piece.len() as u64 {
        piece[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&piece).unwrap();
    }
    path
}

fn folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}
