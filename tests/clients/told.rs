//! What a program that uses a client library says of its steps: a line of JSON each.
//!
//! `{"step": "show", "said": …}`, or `{"step": "missing", "refused": {"kind": …, "status": 404, "words": …}}`.

use std::collections::VecDeque;

use serde_json::{Value, json};
use tokio::process::Command;

use super::cloud::{self, Cloud, PATIENCE, PUBLIC_KEY};
use super::support::within;

/// Which library.
#[derive(Clone, Copy, Debug)]
pub enum Library {
    Sdk,
    Gophercloud,
}

impl Library {
    fn program(self, cloud: &Cloud) -> Command {
        match self {
            Self::Sdk => {
                let mut command = cloud.command(&cloud::in_venv("python"));
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/sdk.py"));
                command
            }
            Self::Gophercloud => cloud.command(&cloud::gophercloud()),
        }
    }

    /// What the library makes of an answer with this status.
    fn kind(self, status: u16) -> &'static str {
        match (self, status) {
            (Self::Sdk, 400) => "BadRequestException",
            (Self::Sdk, 403) => "ForbiddenException",
            (Self::Sdk, 404) => "NotFoundException",
            (Self::Sdk, 409) => "ConflictException",
            (Self::Sdk, _) => "HttpException",
            (Self::Gophercloud, _) => "gophercloud.ErrUnexpectedResponseCode",
        }
    }
}

/// The steps of one run that were not asked for yet.
pub struct Told {
    library: Library,
    steps: VecDeque<Value>,
}

impl Told {
    /// Runs the steps of a subject to their end.
    pub async fn by(library: Library, subject: &str, cloud: &Cloud) -> Self {
        let given = json!({"publicKey": PUBLIC_KEY, "image": cloud.image_file().0});
        let mut command = library.program(cloud);
        command.args([subject, &given.to_string()]).env("OS_CLOUD", cloud.name());
        let output = within(PATIENCE, subject, command.output()).await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{library:?} {subject}: {}\n{said}{errors}", output.status);
        Self { library, steps: said.lines().map(|line| serde_json::from_str(line).unwrap()).collect() }
    }

    fn next(&mut self, step: &str) -> Value {
        let next = self.steps.pop_front().unwrap_or_else(|| panic!("no step {step} after the last one"));
        assert_eq!(next["step"], step, "{next}");
        next
    }

    /// What the next step said.
    pub fn said(&mut self, step: &str) -> Value {
        self.next(step).get_mut("said").unwrap_or_else(|| panic!("{step} was refused")).take()
    }

    /// The next step was refused with this status, by these words among others.
    pub fn refused(&mut self, step: &str, status: u16, words: &str) {
        let refused = &self.next(step)["refused"];
        assert_eq!(
            (&refused["status"], &refused["kind"]),
            (&json!(status), &json!(self.library.kind(status))),
            "{step}"
        );
        assert!(refused["words"].as_str().unwrap().contains(words), "{step}: {words}: {refused}");
    }

    /// Nothing was said that nobody asked for.
    pub fn end(self) {
        assert!(self.steps.is_empty(), "{:?}", self.steps);
    }
}
