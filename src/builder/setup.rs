//! Nodepool's way to prepare a server: its scripts are copied there, a command is run among them, and they are removed.
//!
//! Works with a POSIX shell, as any user, without a terminal. The values of the environment reach the server in a file
//! that only the user can read: they appear in no list of processes and in no error. Everything is below the user's
//! home, where no rights are needed and nothing of the image is overwritten. Never decides whether a build goes on.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use thiserror::Error;
use tokio::time::Instant;

use super::shell::{Exit, Shell, ShellError};

/// Where the scripts are while the command runs, below the user's home.
const FOLDER: &str = ".nodepool-scripts";

/// What runs the command, beside them: a script may have any name.
const WRAPPER: &str = ".nodepool-setup";

/// Lines of output that an error keeps.
const TAIL_LINES: usize = 20;

/// Bytes of output that an error keeps.
const TAIL_BYTES: usize = 4096;

/// How a server is prepared. Shows names only.
#[derive(Clone)]
pub struct Setup {
    /// Files of any content by name; no name is a path.
    pub scripts: BTreeMap<String, Vec<u8>>,
    /// The command, run by `sh` in the scripts' folder, which is the last of its `PATH`.
    pub setup: String,
    /// What the command has in its environment besides what a login brings.
    pub env: BTreeMap<String, String>,
    /// When all of it must be done.
    pub deadline: Instant,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scripts, env) = (self.scripts.keys(), self.env.keys());
        write!(f, "Setup {{ scripts: {:?}, env: {:?} }}", scripts.collect::<Vec<_>>(), env.collect::<Vec<_>>())
    }
}

/// Why a server is not prepared. What its output said last is [`SetupError::tail`], which no message repeats.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SetupError {
    /// A script or a variable cannot be had on any server.
    #[error("{0}")]
    Invalid(String),
    /// A step before or after the command failed: no space left, most likely.
    #[error("cannot {step} on the server: {exit}")]
    Unprepared {
        /// What was tried.
        step: String,
        /// How it ended: `exit code 1`, `signal KILL`.
        exit: String,
        /// The last lines of its output.
        tail: String,
    },
    /// The command ended with another exit code than 0.
    #[error("setup ended with exit code {code}")]
    Exited {
        /// The exit code.
        code: u32,
        /// The last lines of its output.
        tail: String,
    },
    /// The command was killed.
    #[error("setup was killed by signal {signal}")]
    Killed {
        /// The signal's name, without `SIG`.
        signal: String,
        /// The last lines of its output.
        tail: String,
    },
    /// The deadline passed.
    #[error("setup did not end in time")]
    TimedOut {
        /// The last lines of its output.
        tail: String,
    },
    /// The connection failed.
    #[error("{error}")]
    Shell {
        /// How.
        error: ShellError,
        /// The last lines of its output.
        tail: String,
    },
}

impl SetupError {
    /// The last lines of what the server wrote: 20 at most, 4096 bytes at most. They are the script's own words.
    pub fn tail(&self) -> &str {
        match self {
            SetupError::Invalid(_) => "",
            SetupError::Unprepared { tail, .. }
            | SetupError::Exited { tail, .. }
            | SetupError::Killed { tail, .. }
            | SetupError::TimedOut { tail }
            | SetupError::Shell { tail, .. } => tail,
        }
    }
}

/// Copies the scripts, runs the command and gives its output to `on_line`, line by line; then removes what it copied
/// and has the server write everything to its disk. What is checked first is checked before anything is sent.
pub async fn prepare(shell: &mut Shell, setup: &Setup, on_line: impl FnMut(&str) + Send) -> Result<(), SetupError> {
    check(setup)?;
    let home = format!("\"$HOME\"/{FOLDER} \"$HOME\"/{WRAPPER}");
    let fresh = format!("umask 022 && rm -rf {home} && mkdir \"$HOME\"/{FOLDER}");
    step(shell, setup, "make a folder for the scripts", &fresh, None).await?;
    for (name, content) in &setup.scripts {
        let path = format!("\"$HOME\"/{FOLDER}/{}", quoted(name));
        let copy = format!("cat > {path} && chmod 0755 {path}");
        step(shell, setup, &format!("copy the script {name}"), &copy, Some(content)).await?;
    }
    let wrap = format!("umask 077 && cat > \"$HOME\"/{WRAPPER}");
    step(shell, setup, "write the environment", &wrap, Some(wrapper(setup).as_bytes())).await?;
    run(shell, setup, on_line).await?;
    // A command that became root may have left there what only root can remove.
    let clean = format!("(rm -rf {home} 2>/dev/null || sudo -n rm -rf {home}) && sync");
    step(shell, setup, "remove the scripts", &clean, None).await
}

async fn run(shell: &mut Shell, setup: &Setup, mut on_line: impl FnMut(&str) + Send) -> Result<(), SetupError> {
    let mut tail = Tail::default();
    let command = script(&format!("exec sh \"$HOME\"/{WRAPPER}"));
    let both = |line: &str| {
        tail.push(line);
        on_line(line);
    };
    match shell.run(&command, None, setup.deadline, both).await {
        Ok(Exit::Code(0)) => Ok(()),
        Ok(Exit::Code(code)) => Err(SetupError::Exited { code, tail: tail.text() }),
        Ok(Exit::Signal(signal)) => Err(SetupError::Killed { signal, tail: tail.text() }),
        Err(error) => Err(failed(error, &tail)),
    }
}

/// One step around the command.
async fn step(
    shell: &mut Shell,
    setup: &Setup,
    what: &str,
    commands: &str,
    stdin: Option<&[u8]>,
) -> Result<(), SetupError> {
    let mut tail = Tail::default();
    let stdin = stdin.map(Bytes::copy_from_slice);
    let exit = match shell.run(&script(commands), stdin, setup.deadline, |line| tail.push(line)).await {
        Ok(Exit::Code(0)) => return Ok(()),
        Ok(Exit::Code(code)) => format!("exit code {code}"),
        Ok(Exit::Signal(signal)) => format!("signal {signal}"),
        Err(error) => return Err(failed(error, &tail)),
    };
    Err(SetupError::Unprepared { step: what.to_owned(), exit, tail: tail.text() })
}

fn failed(error: ShellError, tail: &Tail) -> SetupError {
    match error {
        ShellError::TimedOut(_) => SetupError::TimedOut { tail: tail.text() },
        error => SetupError::Shell { error, tail: tail.text() },
    }
}

/// Commands for `sh`, whatever the user's own shell is, and in its place: how they end is how it ends.
fn script(commands: &str) -> String {
    format!("exec sh -c {}", quoted(commands))
}

/// The text as one word of a shell, which expands nothing in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What runs the command: it ends as the command ends.
fn wrapper(setup: &Setup) -> String {
    let exports: String = setup.env.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect();
    format!("cd \"$HOME\"/{FOLDER} || exit\nexport PATH=\"$PATH:$PWD\"\n{exports}{}\n", setup.setup)
}

fn check(setup: &Setup) -> Result<(), SetupError> {
    for name in setup.scripts.keys() {
        let is_path = name.is_empty() || name == "." || name == ".." || name.contains('/');
        if is_path || name.len() > 255 || name.chars().any(char::is_control) {
            let message = format!(
                "{name:?} cannot be the name of a script: write a name of at most 255 bytes, without / and control \
                 characters"
            );
            return Err(SetupError::Invalid(message));
        }
    }
    for (name, value) in &setup.env {
        let mut letters = name.chars();
        let first = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
        if !first || !letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            let message =
                format!("{name:?} cannot be the name of a variable: write letters, digits and _, no digit first");
            return Err(SetupError::Invalid(message));
        }
        if value.contains('\0') {
            return Err(SetupError::Invalid(format!(
                "the value of {name} has a NUL in it, which no variable can hold"
            )));
        }
    }
    Ok(())
}

/// The last lines of an output.
#[derive(Default)]
struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    fn text(&self) -> String {
        let lines: Vec<&str> = self.0.iter().map(String::as_str).collect();
        let text = lines.join("\n");
        text[text.ceil_char_boundary(text.len().saturating_sub(TAIL_BYTES))..].to_owned()
    }
}

#[cfg(test)]
mod tests;
