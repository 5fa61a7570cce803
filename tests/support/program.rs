//! A program started by a test: its output kept in a file, its end certain.
//!
//! Ends only what it started. A test process that is itself killed runs no destructors, so a small shell process (the
//! reaper) holds the list of running programs and ends them when the pipe to the test process closes.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::eventually;

/// Lines of a program's log that a failing test shows.
const SHOWN_LINES: usize = 200;

/// A running program; ended when dropped.
pub struct Program {
    name: String,
    killer: Killer,
    log: PathBuf,
}

/// Kills one program with SIGKILL, from anywhere: a hook of the [`Proxy`](super::Proxy) for one.
///
/// Made before the program, so that a hook can hold it before the program's first call.
#[derive(Clone, Default)]
pub struct Killer(Arc<Mutex<Option<Running>>>);

struct Running {
    child: Child,
    /// Set once it has ended: from then on its process id may be another's.
    status: Option<ExitStatus>,
}

impl Running {
    fn ended(&mut self, status: ExitStatus) {
        self.status = Some(status);
        reaper('-', self.child.id());
    }
}

impl Killer {
    /// Kills the program at once and waits until it is gone. Nothing happens when it has already ended.
    pub fn kill9(&self) {
        if let Some(running) = self.0.lock().unwrap().as_mut().filter(|running| running.status.is_none()) {
            running.child.kill().unwrap();
            let status = running.child.wait().unwrap();
            running.ended(status);
        }
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        let mut held = self.0.lock().unwrap();
        let running = held.as_mut()?;
        if running.status.is_none()
            && let Some(status) = running.child.try_wait().unwrap()
        {
            running.ended(status);
        }
        running.status
    }

    fn pid(&self) -> u32 {
        self.0.lock().unwrap().as_ref().expect("the program was started").child.id()
    }
}

impl Program {
    /// Starts `command`; both its outputs go to a file that a failing test prints.
    pub fn start(name: &str, mut command: Command, killer: Killer) -> Self {
        let (log, file) = new_log(name);
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        spawn(name, &mut command, &killer);
        Self { name: name.to_owned(), killer, log }
    }

    /// Starts `command` and waits for the first lines of its standard output; the rest goes to its log.
    pub fn start_and_read_lines<const N: usize>(name: &str, mut command: Command) -> (Self, [String; N]) {
        let (log, file) = new_log(name);
        let killer = Killer::default();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file.try_clone().unwrap());
        spawn(name, &mut command, &killer);
        let stdout = killer.0.lock().unwrap().as_mut().unwrap().child.stdout.take().unwrap();
        let program = Self { name: name.to_owned(), killer, log };
        let mut stdout = BufReader::new(stdout);
        let lines = std::array::from_fn(|_| {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            assert!(!line.is_empty(), "{name} ended without a word on its standard output:\n{}", program.log());
            line.trim_end().to_owned()
        });
        let mut rest = file;
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut rest));
        (program, lines)
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The file its output goes to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// A handle that kills it, for use elsewhere.
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.killer.pid()
    }

    /// Kills it outright, as the kernel's out-of-memory killer would, and waits until it is gone.
    pub fn kill9(&self) {
        self.killer.kill9();
    }

    /// Asks it to end, as the kubelet does.
    pub fn sigterm(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal by name; `STOP` and `CONT` make a process that hangs without being dead.
    pub fn signal(&self, signal: &str) {
        if self.exit_status().is_none() {
            Command::new("kill").args([format!("-{signal}"), self.pid().to_string()]).status().unwrap();
        }
    }

    /// How it ended, or `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.killer.exit_status()
    }

    /// Waits until it has ended.
    pub async fn wait_exit(&self, deadline: Duration) -> ExitStatus {
        eventually(deadline, || async { self.exit_status().ok_or_else(|| format!("{} still runs", self.name)) }).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.killer.kill9();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!(
                "--- {}: last {} of {} lines, all in {}",
                self.name,
                shown.len(),
                lines.len(),
                self.log.display()
            );
            eprintln!("{}", shown.join("\n"));
        } else {
            // Kept for failed tests only.
            let _ = std::fs::remove_file(&self.log);
        }
    }
}

fn new_log(name: &str) -> (PathBuf, File) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("logs");
    std::fs::create_dir_all(&directory).unwrap();
    let test = std::thread::current().name().unwrap_or("main").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let path = directory.join(format!("{test}-{name}-{}.log", uuid::Uuid::new_v4().simple()));
    let file = File::options().create_new(true).append(true).open(&path).unwrap();
    (path, file)
}

fn spawn(name: &str, command: &mut Command, killer: &Killer) {
    // Held while starting: a hook that wants to kill waits for the process to be there.
    let mut held = killer.0.lock().unwrap();
    assert!(held.is_none(), "this killer already has a program");
    let child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
    reaper('+', child.id());
    *held = Some(Running { child, status: None });
}

/// Adds (`+`) or removes (`-`) a process from what the reaper ends when this test process is gone.
fn reaper(sign: char, pid: u32) {
    static REAPER: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    const SCRIPT: &str = r#"trap '' INT TERM HUP
declare -A held
while read -r sign pid; do
  if [ "$sign" = + ]; then held[$pid]=1; else unset "held[$pid]"; fi
done
[ ${#held[@]} -eq 0 ] || kill -9 "${!held[@]}""#;
    let pipe = REAPER.get_or_init(|| {
        let mut command = Command::new("bash");
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Mutex::new(command.spawn().unwrap().stdin.take().unwrap())
    });
    let mut pipe = pipe.lock().unwrap();
    writeln!(pipe, "{sign} {pid}").unwrap();
}
