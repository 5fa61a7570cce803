//! The real `kubectl`, so that tests see exactly what a person sees.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::io::AsyncWriteExt;

/// `kubectl` with a kubeconfig and a namespace.
#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: String,
}

/// What one `kubectl` said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Whether its exit status was 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error: warnings, and why it failed.
    pub stderr: String,
}

impl Said {
    /// Its standard output, or its standard error when it failed.
    pub fn ok(self) -> Result<String, String> {
        if self.success { Ok(self.stdout) } else { Err(self.stderr) }
    }
}

impl Kubectl {
    pub(super) fn new(program: PathBuf, kubeconfig: PathBuf, namespace: &str) -> Self {
        Self { program, kubeconfig, namespace: namespace.to_owned() }
    }

    /// The command to add arguments to, for callers outside async code.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--namespace").arg(&self.namespace);
        command.arg("--cache-dir").arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubectl-cache"));
        command
    }

    /// Runs `kubectl` with these arguments.
    pub async fn run(&self, args: &[&str]) -> Said {
        self.run_with_input(args, "").await
    }

    /// Runs `kubectl` with these arguments and this standard input.
    pub async fn run_with_input(&self, args: &[&str], input: &str) -> Said {
        let mut command = tokio::process::Command::from(self.command());
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A kubectl that fails early reads no input: its own words tell more than a broken pipe.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        Said {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// `kubectl apply -f -`, and whether it was taken.
    pub async fn try_apply(&self, yaml: &str) -> Said {
        self.run_with_input(&["apply", "-f", "-"], yaml).await
    }

    /// `kubectl apply -f -` of what must be taken.
    pub async fn apply(&self, yaml: &str) {
        let said = self.try_apply(yaml).await;
        assert!(said.success, "kubectl apply: {}\n{yaml}", said.stderr);
    }

    /// `kubectl apply` of one object given as JSON.
    pub async fn apply_json(&self, object: &Value) {
        self.apply(&object.to_string()).await;
    }

    /// Runs `kubectl` with `--output json`; the error is what it said.
    pub async fn json(&self, args: &[&str]) -> Result<Value, String> {
        let said = self.run(&[args, &["--output", "json"]].concat()).await.ok()?;
        serde_json::from_str(&said).map_err(|error| format!("not JSON: {error}: {said}"))
    }

    /// `kubectl wait --for=CONDITION RESOURCE`, up to a number of seconds.
    pub async fn wait(&self, condition: &str, resource: &str, seconds: u32) -> Said {
        self.run(&["wait", &format!("--for={condition}"), resource, &format!("--timeout={seconds}s")]).await
    }

    /// `kubectl scale RESOURCE --replicas=N`, which must be taken.
    pub async fn scale(&self, resource: &str, replicas: u32) {
        let said = self.run(&["scale", resource, &format!("--replicas={replicas}")]).await;
        assert!(said.success, "kubectl scale {resource}: {}", said.stderr);
    }

    /// `kubectl delete RESOURCE` without waiting for its end.
    pub async fn delete(&self, resource: &str) {
        let said = self.run(&["delete", resource, "--wait=false"]).await;
        assert!(said.success, "kubectl delete {resource}: {}", said.stderr);
    }
}
