//! What is inside the simulated servers: the files of each, and the commands that run there.
//!
//! Commands run on this machine, as the user that runs the simulator, and only when it was started for that. A server has
//! a folder from its first command on; an image that is made of it keeps a copy, and a server that is booted from that
//! image starts with one. No command outlives its server or the simulator, and no folder either.

mod folder;

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

use self::folder::Folder;

/// At the top of an image's folder: its servers never answer SSH.
const BREAKS_SSH: &str = "no-ssh";

/// Where commands are looked for when the simulator itself does not know.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a command (`$1`), and ends it and all that it started when the simulator (`$0`) is gone without a farewell.
const WATCHED: &str = r#"
(while kill -0 "$0" 2>/dev/null; do sleep 1; done; kill -KILL 0) </dev/null >/dev/null 2>&1 &
exec sh -c "$1""#;

/// The guests that have files.
#[derive(Clone)]
pub(crate) struct Guests(Arc<Shared>);

struct Shared {
    runs_commands: bool,
    root: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The simulator is going.
    ended: bool,
    images: HashMap<String, Arc<Folder>>,
    servers: HashMap<String, Guest>,
}

#[derive(Default)]
struct Guest {
    /// What its image came with, until it has a copy.
    base: Option<Arc<Folder>>,
    folder: Option<Folder>,
    /// The process groups of the commands that run.
    groups: BTreeSet<u32>,
}

/// What became of a server's files in an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub files: bool,
    pub breaks_ssh: bool,
}

/// Folders and running commands, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub folders: usize,
    pub commands: usize,
}

impl Guests {
    pub(crate) fn new(runs_commands: bool) -> Self {
        let root = std::env::temp_dir().join(format!("openstack-simulator-{}", Uuid::new_v4()));
        Self(Arc::new(Shared { runs_commands, root, inner: Mutex::default() }))
    }

    pub(crate) fn run_commands(&self) -> bool {
        self.0.runs_commands
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self) -> Count {
        let inner = self.lock();
        let own = inner.servers.values().filter(|guest| guest.folder.is_some()).count();
        Count {
            folders: own + inner.images.len(),
            commands: inner.servers.values().map(|guest| guest.groups.len()).sum(),
        }
    }

    /// The server starts with what this image holds.
    pub(crate) fn provide(&self, server: &str, image: &str) {
        let mut inner = self.lock();
        if let Some(folder) = inner.images.get(image).cloned() {
            inner.servers.entry(server.to_owned()).or_default().base = Some(folder);
        }
    }

    /// The image holds what the server has now.
    pub(crate) fn keep(&self, server: &str, image: &str) -> Kept {
        let mut inner = self.lock();
        let folder = match inner.servers.get(server) {
            Some(Guest { folder: Some(own), .. }) => match own.copy(self.0.root.join(format!("image-{image}"))) {
                Ok(copy) => Arc::new(copy),
                Err(error) => {
                    tracing::error!("cannot keep the files of server {server} in image {image}: {error}");
                    return Kept::default();
                }
            },
            Some(Guest { base: Some(base), .. }) => base.clone(),
            _ => return Kept::default(),
        };
        let breaks_ssh = folder.path().join(BREAKS_SSH).symlink_metadata().is_ok();
        inner.images.insert(image.to_owned(), folder);
        Kept { files: true, breaks_ssh }
    }

    /// The image is gone; servers that were booted from it keep what they have of it.
    pub(crate) fn forget_image(&self, image: &str) {
        self.lock().images.remove(image);
    }

    /// The server was switched off: nothing runs there any more.
    pub(crate) fn halt(&self, server: &str) {
        if let Some(guest) = self.lock().servers.get(server) {
            signal("KILL", &guest.groups);
        }
    }

    /// The server is gone, with all that was in it.
    pub(crate) fn wipe(&self, server: &str) {
        let mut inner = self.lock();
        if let Some(guest) = inner.servers.remove(server) {
            signal("KILL", &guest.groups);
        }
    }

    /// Starts a command in the server's folder, unless the server `is_off` by now.
    pub(crate) fn start(
        &self,
        server: &str,
        user: &str,
        command: &OsStr,
        is_off: impl Fn() -> bool,
    ) -> io::Result<tokio::process::Child> {
        let mut inner = self.lock();
        if inner.ended || is_off() {
            return Err(io::Error::other("the server is off"));
        }
        let guest = inner.servers.entry(server.to_owned()).or_default();
        if guest.folder.is_none() {
            let path = self.0.root.join(format!("server-{server}"));
            guest.folder = Some(match &guest.base {
                Some(base) => base.copy(path)?,
                None => Folder::make(path)?,
            });
            guest.base = None;
        }
        let home = guest.folder.as_ref().map_or(Path::new("/"), Folder::path);
        let child = process(server, user, command, home).spawn()?;
        guest.groups.extend(child.id());
        Ok(child)
    }

    /// Sends a signal to a command and all that it started.
    pub(crate) fn signal(&self, server: &str, group: u32, name: &str) {
        if self.lock().servers.get(server).is_some_and(|guest| guest.groups.contains(&group)) {
            signal(name, &BTreeSet::from([group]));
        }
    }

    /// The command has ended, and what it left behind ends now: later its group's number may be another's.
    pub(crate) fn finish(&self, server: &str, group: u32) {
        signal("KILL", &BTreeSet::from([group]));
        if let Some(guest) = self.lock().servers.get_mut(server) {
            guest.groups.remove(&group);
        }
    }

    /// Ends everything, for good.
    pub(crate) fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        inner.servers.values().for_each(|guest| signal("KILL", &guest.groups));
        inner.servers.clear();
        inner.images.clear();
        folder::remove(&self.0.root);
    }
}

fn process(server: &str, user: &str, command: &OsStr, home: &Path) -> tokio::process::Command {
    let inherited = |name: &str, default: &str| std::env::var_os(name).unwrap_or_else(|| default.into());
    let mut process = tokio::process::Command::new("/bin/sh");
    process
        .args(["-c", WATCHED, &std::process::id().to_string()])
        .arg(command)
        .current_dir(home)
        .env_clear()
        .env("PATH", inherited("PATH", PATH))
        .env("LANG", inherited("LANG", "C.UTF-8"))
        .env("HOME", home)
        .env("USER", user)
        .env("SIMULATOR_SERVER_ID", server)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    process
}

/// Sends a signal to all processes of these groups.
fn signal(name: &str, groups: &BTreeSet<u32>) {
    if groups.is_empty() {
        return;
    }
    let mut kill = std::process::Command::new("/bin/sh");
    kill.args(["-c", r#"kill -s "$0" -- "$@""#, name]).args(groups.iter().map(|group| format!("-{group}")));
    // A group that is gone already is no failure.
    if let Err(error) = kill.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status() {
        tracing::error!("cannot end the commands of a server: {error}");
    }
}
