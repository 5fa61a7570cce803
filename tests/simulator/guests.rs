//! Inside the servers: who is let in, what runs there, what stays, and what an image carries over.

use std::time::{Duration, Instant};

use nodepool_operator::builder::{
    setup::{self, Setup},
    shell::{Exit, Key, Loss, Shell, ShellError, make_key},
};
use serde_json::{Value, json};

use super::cloud::{Cloud, PATIENCE, handshake, wait_refused};

const FLAG: &str = "--run-commands";

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + PATIENCE
}

/// A cloud with a key pair, and its other half.
struct Site {
    cloud: Cloud,
    key: Key,
}

impl Site {
    async fn start(flags: &[&str]) -> Self {
        let cloud = Cloud::start(flags).await;
        let key = make_key();
        let body = json!({"keypair": {"name": "builder", "public_key": format!("{} somebody", key.public_text())}});
        assert_eq!(cloud.post("/compute/v2.1/os-keypairs", body).await.status, 201);
        Self { cloud, key }
    }

    /// Boots a server with the key pair; from this image, or the first.
    async fn server(&self, name: &str, image: Option<&str>) -> String {
        let mut body = self.cloud.boot_body(name).await;
        body["server"]["key_name"] = json!("builder");
        if let Some(image) = image {
            body["server"]["imageRef"] = json!(image);
        }
        let answer = self.cloud.post("/compute/v2.1/servers", body).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        answer.json()["server"]["id"].as_str().unwrap().to_owned()
    }

    async fn act(&self, id: &str, action: Value) {
        let answer = self.cloud.post(&format!("/compute/v2.1/servers/{id}/action"), action).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
    }

    async fn log_in(&self, id: &str, user: &str, key: &Key) -> Result<Shell, ShellError> {
        let address = self.cloud.ssh_address(id).await;
        let host_keys = [handshake(address).await.unwrap()];
        Shell::login(address, user, key.private_key(), &host_keys, soon()).await
    }

    async fn shell(&self, id: &str) -> Shell {
        self.log_in(id, "debian", &self.key).await.unwrap()
    }

    /// What a command prints on a server.
    async fn ask(&self, id: &str, command: &str) -> String {
        let (exit, lines) = run(&mut self.shell(id).await, command).await;
        assert!(exit.is_success(), "{command}: {exit:?} {lines:?}");
        lines.join("\n")
    }

    /// An image of a server, once it is active.
    async fn snapshot(&self, id: &str) -> String {
        let path = format!("/compute/v2.1/servers/{id}/action");
        let made = self.cloud.post(&path, json!({"createImage": {"name": "snapshot"}})).await;
        assert_eq!(made.status, 202, "{}", made.text);
        let image = made.json()["image_id"].as_str().unwrap().to_owned();
        self.cloud.poll(&format!("/image/v2/images/{image}"), |answer| answer.json()["status"] == "active").await;
        image
    }

    async fn inside(&self) -> (Value, Value) {
        let state = self.cloud.state().await;
        (state["folders"].clone(), state["commands"].clone())
    }

    async fn wait_inside(&self, folders: u64, commands: u64) {
        let wanted = (json!(folders), json!(commands));
        let start = Instant::now();
        while self.inside().await != wanted {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.inside().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn run(shell: &mut Shell, command: &str) -> (Exit, Vec<String>) {
    let mut lines = Vec::new();
    let exit = shell.run(command, None, soon(), |line| lines.push(line.to_owned())).await.unwrap();
    (exit, lines)
}

/// A command that runs until it is ended; what it tells when it has begun is its process.
struct Endless {
    process: u32,
    ended: tokio::task::JoinHandle<Result<Exit, ShellError>>,
}

impl Endless {
    async fn start(mut shell: Shell) -> Self {
        let (sender, mut process) = tokio::sync::mpsc::unbounded_channel();
        let ended = tokio::spawn(async move {
            let hear = move |line: &str| sender.send(line.parse().unwrap()).unwrap();
            shell.run("sh -c 'echo $$; exec sleep 1000' & wait", None, soon(), hear).await
        });
        Self { process: process.recv().await.unwrap(), ended }
    }

    /// Waits until both ends of it are gone.
    async fn ends(self) {
        // Its end may just be told before the connection is at one.
        let (killed, lost) = (Ok(Exit::Signal("KILL".to_owned())), Err(ShellError::Lost(Loss::Closed)));
        let ended = self.ended.await.unwrap();
        assert!(ended == killed || ended == lost, "{ended:?}");
        wait_ended(self.process).await;
    }
}

async fn wait_ended(process: u32) {
    let start = Instant::now();
    // A process that nobody has waited for yet is dead all the same.
    let runs = || std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while runs() {
        assert!(start.elapsed() < PATIENCE, "{process} still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn who_has_the_key_pair_of_a_server_is_let_in_as_anybody() {
    let site = Site::start(&[]).await;
    let (with, without) = (site.server("with", None).await, site.cloud.server("without").await);
    for user in ["root", "debian"] {
        site.log_in(&with, user, &site.key).await.unwrap();
    }
    let denied = ShellError::Denied { username: "root".to_owned() };
    assert_eq!(site.log_in(&with, "root", &make_key()).await.unwrap_err(), denied);
    assert_eq!(site.log_in(&without, "root", &site.key).await.unwrap_err(), denied);
    assert_eq!(site.cloud.delete("/compute/v2.1/os-keypairs/builder").await.status, 204);
    site.log_in(&with, "root", &site.key).await.unwrap();
}

#[tokio::test]
async fn nothing_runs_unless_the_simulator_was_told_so() {
    let site = Site::start(&[]).await;
    let id = site.server("s", None).await;
    let file = site.cloud.folder.join("file");
    let (exit, lines) = run(&mut site.shell(&id).await, &format!("touch {}", file.display())).await;
    assert_eq!(exit, Exit::Code(127));
    assert!(lines.len() == 1 && lines[0].contains(FLAG), "{lines:?}");
    assert!(!file.exists());
    assert_eq!(site.cloud.state().await["runsCommands"], false);
}

#[tokio::test]
async fn commands_run_in_a_folder_of_their_server() {
    let site = Site::start(&[FLAG]).await;
    let (one, other) = (site.server("one", None).await, site.server("other", None).await);
    assert_eq!(site.inside().await, (json!(0), json!(0)), "no folder before a command");
    let told = site.ask(&one, "echo $USER $SIMULATOR_SERVER_ID; [ \"$PWD\" = \"$HOME\" ] && ls -A; env | wc -l").await;
    // What a shell sets by itself (PWD, SHLVL, _) is there too.
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[0], format!("debian {one}"));
    assert!((5..=8).contains(&lines[1].parse().unwrap()), "{told}");
    assert_eq!(site.ask(&one, "echo mine > file; cat file").await, "mine");
    assert_eq!(site.ask(&one, "cat file").await, "mine");
    assert_eq!(site.ask(&other, "ls -A").await, "");
    let mut shell = site.shell(&one).await;
    assert_eq!(run(&mut shell, "echo no >&2; exit 7").await, (Exit::Code(7), vec!["no".to_owned()]));
    assert_eq!(run(&mut shell, "kill -9 $$").await.0, Exit::Signal("KILL".to_owned()));
    assert_eq!(site.inside().await, (json!(2), json!(0)));
    for id in [one, other] {
        site.cloud.delete(&format!("/compute/v2.1/servers/{id}")).await;
    }
    assert_eq!(site.inside().await, (json!(0), json!(0)));
    let left =
        std::fs::read_dir(&site.cloud.folder).unwrap().flat_map(|entry| std::fs::read_dir(entry.unwrap().path()));
    assert_eq!(left.flatten().count(), 0, "nothing stays on the disk either");
}

#[tokio::test]
async fn what_a_command_leaves_running_ends_with_it() {
    let site = Site::start(&[FLAG]).await;
    let id = site.server("s", None).await;
    let process = site.ask(&id, "sleep 1000 & echo $!").await.parse().unwrap();
    wait_ended(process).await;
}

#[tokio::test]
async fn a_command_is_told_to_end_and_ends_with_its_client() {
    let site = Site::start(&[FLAG]).await;
    let id = site.server("s", None).await;
    let mut shell = site.shell(&id).await;
    let mut lines = Vec::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
    let command = "trap 'echo told; exit' TERM; tail -f /dev/null & wait";
    let late = shell.run(command, None, deadline, |line| lines.push(line.to_owned())).await;
    assert!(matches!(late, Err(ShellError::TimedOut(_))), "{late:?}");
    assert_eq!(lines, ["told"]);
    let endless = Endless::start(site.shell(&id).await).await;
    site.wait_inside(1, 1).await;
    endless.ended.abort();
    wait_ended(endless.process).await;
    site.wait_inside(1, 0).await;
}

#[tokio::test]
async fn commands_end_when_their_server_is_deleted_stopped_or_started_again() {
    let site = Site::start(&[FLAG]).await;
    let id = site.server("s", None).await;
    site.ask(&id, "echo kept > file").await;

    let endless = Endless::start(site.shell(&id).await).await;
    site.act(&id, json!({"reboot": {"type": "HARD"}})).await;
    endless.ends().await;

    site.cloud.set(json!({"stopTime": "300ms"})).await;
    let endless = Endless::start(site.shell(&id).await).await;
    site.act(&id, json!({"os-stop": null})).await;
    let stopping = site.cloud.show(&id).await.json()["server"].clone();
    let expected = (&json!("ACTIVE"), &json!("powering-off"));
    assert_eq!((&stopping["status"], &stopping["OS-EXT-STS:task_state"]), expected);
    site.cloud.wait_for(&id, "SHUTOFF").await;
    wait_refused(site.cloud.ssh_address(&id).await).await;
    endless.ends().await;

    site.act(&id, json!({"os-start": null})).await;
    assert_eq!(site.ask(&id, "cat file").await, "kept", "a disk outlives a stop");
    let endless = Endless::start(site.shell(&id).await).await;
    site.cloud.delete(&format!("/compute/v2.1/servers/{id}")).await;
    endless.ends().await;
    assert_eq!(site.inside().await, (json!(0), json!(0)));
}

#[tokio::test]
async fn a_snapshot_carries_files_to_the_servers_booted_from_it() {
    let site = Site::start(&[FLAG]).await;
    let base = site.server("base", None).await;
    let wanted = Setup {
        scripts: [("prepare.sh".to_owned(), b"#!/bin/sh\nmkdir etc; echo \"$WHAT\" > etc/prepared\n".to_vec())].into(),
        setup: "cd .. && .nodepool-scripts/prepare.sh".to_owned(),
        env: [("WHAT".to_owned(), "it's done".to_owned())].into(),
        deadline: soon(),
    };
    setup::prepare(&mut site.shell(&base).await, &wanted, |_| {}).await.unwrap();
    site.act(&base, json!({"os-stop": null})).await;
    let image = site.snapshot(&base).await;
    site.cloud.delete(&format!("/compute/v2.1/servers/{base}")).await;
    assert_eq!(site.inside().await, (json!(1), json!(0)), "the image keeps what the server had");

    let (one, other) = (site.server("one", Some(&image)).await, site.server("other", Some(&image)).await);
    assert_eq!(site.ask(&one, "cat etc/prepared; echo changed > etc/prepared; ls -A").await, "it's done\netc");
    let again = site.snapshot(&other).await;
    for id in [&image, &again] {
        assert_eq!(site.cloud.get(&format!("/image/v2/images/{id}")).await.json()["status"], "active");
    }
    assert_eq!(site.cloud.delete(&format!("/image/v2/images/{image}")).await.status, 204);
    assert_eq!(site.ask(&other, "cat etc/prepared").await, "it's done", "a copy of its own, that outlives the image");
    let third = site.server("third", Some(&again)).await;
    assert_eq!(site.ask(&third, "cat etc/prepared").await, "it's done", "an image of an image, of a server never used");
    assert_eq!(site.cloud.delete(&format!("/simulator/images/{again}")).await.status, 204);
    site.cloud.delete("/simulator/servers").await;
    assert_eq!(site.inside().await, (json!(0), json!(0)));
}

#[tokio::test]
async fn an_image_that_breaks_ssh_has_servers_that_never_answer() {
    let site = Site::start(&[FLAG]).await;
    let base = site.server("base", None).await;
    site.ask(&base, "touch no-ssh").await;
    site.act(&base, json!({"reboot": {"type": "SOFT"}})).await;
    site.ask(&base, "true").await;
    let image = site.snapshot(&base).await;
    let broken = site.server("broken", Some(&image)).await;
    assert_eq!(site.cloud.show(&broken).await.json()["server"]["status"], "ACTIVE");
    let address = site.cloud.ssh_address(&broken).await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    site.act(&broken, json!({"reboot": {"type": "SOFT"}})).await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let body = json!({"name": "behind", "image": image});
    let behind = site.cloud.post("/simulator/servers", body).await.json()["id"].as_str().unwrap().to_owned();
    assert!(tokio::net::TcpStream::connect(site.cloud.ssh_address(&behind).await).await.is_err());
    site.ask(&base, "rm no-ssh").await;
    let mended = site.snapshot(&base).await;
    let whole = site.server("whole", Some(&mended)).await;
    site.ask(&whole, "true").await;
}

#[tokio::test]
async fn a_snapshot_that_comes_to_nothing_keeps_nothing() {
    let site = Site::start(&[FLAG]).await;
    let id = site.server("s", None).await;
    site.ask(&id, "touch file").await;
    let path = format!("/compute/v2.1/servers/{id}/action");
    site.cloud.fault(json!({"times": 1, "fault": {"type": "snapshot-fails", "after": "100ms"}})).await;
    site.cloud.post(&path, json!({"createImage": {"name": "fails"}})).await;
    site.wait_inside(1, 0).await;
    site.cloud.fault(json!({"times": 1, "fault": {"type": "image-stuck", "status": "saving"}})).await;
    let stuck = site.cloud.post(&path, json!({"createImage": {"name": "stuck"}})).await.json();
    site.wait_inside(2, 0).await;
    let stuck = format!("/image/v2/images/{}", stuck["image_id"].as_str().unwrap());
    assert_eq!(site.cloud.get(&stuck).await.json()["status"], "saving");
    assert_eq!(site.cloud.delete(&stuck).await.status, 204);
    assert_eq!(site.inside().await, (json!(1), json!(0)));
}

#[tokio::test]
async fn nothing_outlives_the_simulator() {
    for signal in ["TERM", "KILL"] {
        let mut site = Site::start(&[FLAG]).await;
        let id = site.server("s", None).await;
        let endless = Endless::start(site.shell(&id).await).await;
        site.cloud.end(signal);
        endless.ends().await;
        let left = std::fs::read_dir(&site.cloud.folder).unwrap();
        let names: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let kept = names.iter().any(|name| name.starts_with("openstack-simulator-"));
        assert_eq!(kept, signal == "KILL", "{names:?}: only what was killed outright leaves its folder");
    }
}

#[tokio::test]
async fn the_state_tells_nothing_secret() {
    let site = Site::start(&[FLAG]).await;
    let id = site.server("s", None).await;
    site.ask(&id, "echo secret > file").await;
    let state = site.cloud.state().await.to_string();
    let key = site.key.public_text().split_whitespace().nth(1).unwrap();
    let folder = site.cloud.folder.to_str().unwrap();
    assert!(!state.contains("secret") && !state.contains(key) && !state.contains(folder), "{state}");
}
