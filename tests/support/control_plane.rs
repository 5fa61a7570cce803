//! The real Kubernetes API that the tests use: etcd, kube-apiserver, kube-controller-manager.
//!
//! `make test` starts one and passes its kubeconfig in `KUBECONFIG_FOR_TESTS`. Without it (a plain `cargo test`) each
//! test program starts one of its own and takes it down at its end, however it ends.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use kube::config::{KubeConfigOptions, Kubeconfig};

use super::Kubectl;

/// Names the kubeconfig of a control plane that is already there, and that nobody here may stop.
const GIVEN: &str = "KUBECONFIG_FOR_TESTS";

/// One kube-apiserver with our resource definitions.
pub struct ControlPlane {
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    /// Closed by the kernel when this process ends, which is what stops a control plane of our own.
    _pipe: Option<ChildStdin>,
}

impl ControlPlane {
    /// The control plane of this run, started if there is none yet. Blocks until it answers.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ControlPlane> = OnceLock::new();
        SHARED.get_or_init(|| {
            let plane = Self::of(match std::env::var_os(GIVEN) {
                Some(path) => (PathBuf::from(path), None),
                None => hold("control-plane"),
            });
            plane.apply_definitions();
            plane
        })
    }

    /// The one that `KUBECONFIG_FOR_TESTS` names, as it is, without our definitions.
    pub fn given() -> Self {
        let path = std::env::var_os(GIVEN).unwrap_or_else(|| panic!("{GIVEN} names no kubeconfig"));
        Self::of((path.into(), None))
    }

    /// Another one, that ends with this process: for tests that change what all would share, such as definitions.
    pub fn alone() -> Self {
        Self::of(hold("control-plane-alone"))
    }

    fn of((kubeconfig, pipe): (PathBuf, Option<ChildStdin>)) -> Self {
        install_crypto_provider();
        let kubectl = PathBuf::from(line_of(Command::new(script("build")))).join("kubectl");
        Self { kubeconfig, kubectl, _pipe: pipe }
    }

    /// The kubeconfig of its administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Its parsed kubeconfig: address, authority and the administrator's certificate.
    pub fn parsed_kubeconfig(&self) -> Kubeconfig {
        Kubeconfig::read_from(&self.kubeconfig).unwrap()
    }

    /// `kubectl` as its administrator, in the namespace given.
    pub fn kubectl(&self, namespace: &str) -> Kubectl {
        Kubectl::new(self.kubectl.clone(), self.kubeconfig.clone(), namespace)
    }

    /// A client as its administrator. It belongs to the calling test's runtime, so every test makes its own.
    pub async fn client(&self) -> kube::Client {
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(self.parsed_kubeconfig(), &options).await.unwrap();
        kube::Client::try_from(config).unwrap()
    }

    fn apply_definitions(&self) {
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        let filled = std::fs::read_dir(&crds).is_ok_and(|mut files| {
            files.any(|file| file.unwrap().path().extension().is_some_and(|extension| extension == "yaml"))
        });
        if !filled {
            return;
        }
        let kubectl = self.kubectl("default");
        for args in [&["apply", "--server-side", "--force-conflicts"][..], &["wait", "--for=condition=Established"]] {
            let output = kubectl.command().args(args).arg("-f").arg(&crds).output().unwrap();
            assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Both this process's TLS clients, kube's and reqwest's, take the process-wide provider: exactly one must be chosen.
pub fn install_crypto_provider() {
    // An error says that another test of this process was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Starts a control plane that lives as long as the pipe to it.
#[allow(clippy::zombie_processes, reason = "it ends after this process, which could not wait for it")]
fn hold(name: &str) -> (PathBuf, Option<ChildStdin>) {
    let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let mut command = Command::new(script("hold"));
    let mut child = command.arg(state).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "the control plane did not start: its words are above");
    (PathBuf::from(line.trim_end()), child.stdin.take())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes").join(name)
}

/// Runs a script that prints one line, and returns it. What it says meanwhile is shown.
pub fn line_of(mut command: Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?} failed: its words are above");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
