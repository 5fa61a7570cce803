//! Servers prepared by real commands, in a home of their own.

use std::time::Duration;

use super::*;
use crate::builder::shell::make_key;
use crate::builder::sshd::{Sshd, Weather, Wire};

struct Bench {
    server: Sshd,
    shell: Shell,
    wire: Wire,
}

impl Bench {
    async fn new() -> Self {
        let key = make_key();
        let server = Sshd::start(key.public_text()).await;
        let wire = Wire::to(server.address).await;
        let shell =
            Shell::login(wire.address, "debian", key.private_key(), &server.host_keys, in_time()).await.unwrap();
        Self { server, shell, wire }
    }

    async fn prepare(&mut self, setup: &Setup) -> (Result<(), SetupError>, Vec<String>) {
        let mut lines = Vec::new();
        let result = prepare(&mut self.shell, setup, |line| lines.push(line.to_owned())).await;
        (result, lines)
    }

    fn home(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.server.home).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

fn in_time() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn setup(command: &str) -> Setup {
    Setup { scripts: BTreeMap::new(), setup: command.to_owned(), env: BTreeMap::new(), deadline: in_time() }
}

#[tokio::test]
async fn scripts_of_any_name_and_content_are_there_while_the_command_runs() {
    let mut bench = Bench::new().await;
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let mut wanted = setup("prepare.sh && cp -- * ../kept/ && ls -A");
    std::fs::create_dir(bench.server.home.join("kept")).unwrap();
    for (name, content) in [
        ("prepare.sh", &b"#!/bin/sh\necho \"prepared in $(basename \"$PWD\")\"\n"[..]),
        ("two words.sh", b"no newline"),
        ("-n it's $(odd) \\ \"ü\"*", b""),
        ("binary", &binary),
    ] {
        wanted.scripts.insert(name.to_owned(), content.to_vec());
    }
    let (result, mut lines) = bench.prepare(&wanted).await;
    result.unwrap();
    assert_eq!(lines.remove(0), "prepared in .nodepool-scripts");
    lines.sort_unstable();
    assert_eq!(lines, wanted.scripts.keys().cloned().collect::<Vec<_>>());
    for (name, content) in &wanted.scripts {
        let kept = std::fs::read(bench.server.home.join("kept").join(name)).unwrap();
        assert!(kept == *content, "{name}");
    }
    assert_eq!(bench.home(), ["kept"], "nothing of it stays");
}

#[tokio::test]
async fn what_an_earlier_attempt_left_is_gone() {
    let mut bench = Bench::new().await;
    let old = bench.server.home.join(FOLDER);
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("old.sh"), "").unwrap();
    let (result, lines) = bench.prepare(&setup("ls")).await;
    assert_eq!((result, lines), (Ok(()), Vec::new()));
}

#[tokio::test]
async fn values_arrive_as_they_are_and_are_seen_nowhere_else() {
    let mut bench = Bench::new().await;
    let hostile = "it's \"s3cr3t\"\nlines $(touch pwned) `touch pwned` \\ $HOME !x";
    let mut wanted = setup("printf '%s|' \"$SECRET\" > ../value; ps -ef > ../processes; ls -l ../.nodepool-setup");
    wanted.env.insert("SECRET".to_owned(), hostile.to_owned());
    wanted.env.insert("EMPTY".to_owned(), String::new());
    let (result, lines) = bench.prepare(&wanted).await;
    result.unwrap();
    assert!(lines[0].starts_with("-rw-------"), "only the user can read it: {lines:?}");
    assert_eq!(std::fs::read_to_string(bench.server.home.join("value")).unwrap(), format!("{hostile}|"));
    let processes = std::fs::read_to_string(bench.server.home.join("processes")).unwrap();
    assert!(processes.contains(WRAPPER) && !processes.contains("s3cr3t"), "{processes}");
    let commands = bench.server.seen.lock().unwrap().commands.join("\n");
    assert!(!commands.contains("s3cr3t") && !commands.contains("SECRET"), "{commands}");
    let shown = format!("{wanted:?}");
    assert!(shown.contains("SECRET") && !shown.contains("s3cr3t"), "{shown}");
    assert!(!bench.server.home.join("pwned").exists() && !std::path::Path::new("pwned").exists());
}

#[tokio::test]
async fn a_command_that_fails_keeps_its_code_and_last_words() {
    let mut bench = Bench::new().await;
    let (result, lines) = bench.prepare(&setup("for i in $(seq 1 30); do echo \"line $i\"; done; exit 7")).await;
    let expected: Vec<String> = (11..=30).map(|line| format!("line {line}")).collect();
    assert_eq!(result, Err(SetupError::Exited { code: 7, tail: expected.join("\n") }));
    assert_eq!(lines.len(), 30);
    assert_eq!(result.unwrap_err().to_string(), "setup ended with exit code 7");
    assert_eq!(bench.home(), [FOLDER, WRAPPER].map(str::to_owned), "for whoever looks into it");
    let (result, _) = bench.prepare(&setup("echo 'here\u{e4}' >&2; kill -9 $$")).await;
    assert_eq!(result, Err(SetupError::Killed { signal: "KILL".to_owned(), tail: "here\u{e4}".to_owned() }));
    let (result, _) = bench.prepare(&setup("no-such-command")).await;
    assert!(matches!(&result, Err(SetupError::Exited { code: 127, tail }) if tail.contains("no-such-command")));
}

#[tokio::test]
async fn a_command_that_never_ends_is_late() {
    let mut bench = Bench::new().await;
    let mut wanted = setup("echo waiting; printf 'no end'; sleep 60");
    wanted.deadline = Instant::now() + Duration::from_secs(4);
    let (result, _) = bench.prepare(&wanted).await;
    assert_eq!(result, Err(SetupError::TimedOut { tail: "waiting\nno end".to_owned() }));
}

#[tokio::test]
async fn a_connection_lost_in_the_middle_keeps_the_last_words() {
    let mut bench = Bench::new().await;
    let wire = &bench.wire;
    let result = prepare(&mut bench.shell, &setup("echo last; sleep 60"), |_| wire.turns(Weather::Cut)).await;
    let error = result.unwrap_err();
    assert!(matches!(&error, SetupError::Shell { error: ShellError::Lost(_), .. }), "{error:?}");
    assert_eq!(error.tail(), "last");
    assert!(!error.to_string().contains("last"), "{error}");
}

#[tokio::test]
async fn a_step_that_fails_says_which() {
    let mut bench = Bench::new().await;
    std::fs::remove_dir(&bench.server.home).unwrap();
    let (result, lines) = bench.prepare(&setup("echo never")).await;
    let error = result.unwrap_err();
    assert_eq!(error.to_string(), "cannot make a folder for the scripts on the server: exit code 1");
    assert!(error.tail().contains("mkdir") && lines.is_empty(), "{error:?}");
}

#[tokio::test]
async fn what_no_server_can_hold_is_refused_before_anything_is_sent() {
    let mut bench = Bench::new().await;
    let long = "x".repeat(256);
    for name in ["", ".", "..", "../up", "a/b", "/etc/passwd", "a\nb", "a\0b", &long] {
        let mut wanted = setup("true");
        wanted.scripts.insert(name.to_owned(), Vec::new());
        let (result, _) = bench.prepare(&wanted).await;
        assert!(
            matches!(&result, Err(SetupError::Invalid(what)) if what.contains("write a name")),
            "{name}: {result:?}"
        );
    }
    for (name, value) in [("", "x"), ("1A", "x"), ("A-B", "x"), ("A=B", "x"), ("A;true", "x"), ("A", "secret\0")] {
        let mut wanted = setup("true");
        wanted.env.insert(name.to_owned(), value.to_owned());
        let (result, _) = bench.prepare(&wanted).await;
        assert!(matches!(&result, Err(SetupError::Invalid(what)) if !what.contains("secret")), "{name}: {result:?}");
    }
    assert!(bench.server.seen.lock().unwrap().commands.is_empty());
}

#[test]
fn a_tail_is_cut_at_a_character() {
    let mut tail = Tail::default();
    (0..25).for_each(|_| tail.push(&"ä".repeat(200)));
    let text = tail.text();
    assert!(text.len() <= TAIL_BYTES && text.len() > TAIL_BYTES - 4, "{}", text.len());
    assert!(text.chars().all(|letter| letter == 'ä' || letter == '\n'));
    tail.push(&"x".repeat(8000));
    assert_eq!(tail.text(), "x".repeat(TAIL_BYTES));
}
