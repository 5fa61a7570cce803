//! The `openstack` command: at its own prompt, which saves the second and a half that each start of it takes, and as a
//! process for one command, which ends with a status.

use std::process::Output;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::cloud::{self, Cloud, PATIENCE};
use super::support::within;

/// Tags of servers came with 2.26; nothing here is newer than 2.90.
const VERSION: (&str, &str) = ("OS_COMPUTE_API_VERSION", "2.90");

fn openstack(cloud: &Cloud) -> Command {
    let mut command = cloud.command(&cloud::in_venv("openstack"));
    command.env(VERSION.0, VERSION.1);
    command
}

/// One `openstack --os-cloud CLOUD COMMAND...` to its end.
pub async fn run(cloud: &Cloud, args: &[&str]) -> Output {
    let mut command = openstack(cloud);
    command.args(["--os-cloud", cloud.name()]).args(args);
    within(PATIENCE, "one command", command.output()).await.unwrap()
}

/// A command of its own that must end with status 1 and these words.
pub async fn fails(cloud: &Cloud, args: &[&str], words: &str) {
    let output = run(cloud, args).await;
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{args:?}: {errors}");
    assert!(errors.contains(words), "{args:?}: {errors}");
}

/// An `openstack` that takes one command after the other.
pub struct Prompt {
    process: Child,
    input: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
}

impl Prompt {
    pub fn open(cloud: &Cloud) -> Self {
        // The prompt takes arguments of the program for its first commands, so the cloud's name is not among them.
        let mut command = openstack(cloud);
        command.env("OS_CLOUD", cloud.name()).stdin(std::process::Stdio::piped());
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        let errors = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, input, said, errors }
    }

    /// Gives a command that says nothing when it succeeds; if it fails, the next one shows it.
    pub async fn tell(&mut self, command: &str) {
        self.input.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    /// What a command answers, which must be without a complaint.
    pub async fn ask(&mut self, command: &str) -> Value {
        self.tell(&format!("{command} -f json")).await;
        within(PATIENCE, command, self.answer(command)).await
    }

    async fn answer(&mut self, command: &str) -> Value {
        let mut text = String::new();
        loop {
            tokio::select! {
                line = self.said.next_line() => {
                    text += &line.unwrap().unwrap_or_else(|| panic!("{command}: the program ended:\n{text}"));
                    if let Ok(value) = serde_json::from_str(&text) {
                        return value;
                    }
                }
                line = self.errors.next_line() => {
                    let line = line.unwrap().unwrap_or_default();
                    assert!(line.is_empty(), "{command}, or a command before it: {line}");
                }
            }
        }
    }

    /// A command that must fail, with these words.
    pub async fn refused(&mut self, command: &str, words: &str) {
        self.tell(command).await;
        let complaint = async {
            loop {
                let line = self.errors.next_line().await.unwrap();
                let line = line.unwrap_or_else(|| panic!("{command}: the program ended"));
                if !line.is_empty() {
                    return line;
                }
            }
        };
        let complaint = within(PATIENCE, command, complaint).await;
        assert!(complaint.contains(words), "{command}: {complaint}");
    }

    /// All commands are done, and had nothing more to say.
    pub async fn end(self) {
        let Self { mut process, input, mut said, mut errors } = self;
        drop(input);
        for lines in
            [within(PATIENCE, "its end", rest(&mut said)).await, within(PATIENCE, "its end", rest(&mut errors)).await]
        {
            assert_eq!(lines, "");
        }
        within(PATIENCE, "its end", process.wait()).await.unwrap();
    }
}

async fn rest(lines: &mut Lines<impl tokio::io::AsyncBufRead + Unpin>) -> String {
    let mut text = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        text += &line;
    }
    text
}
