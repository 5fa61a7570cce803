//! Logins and commands against an SSH server in this process, over lines that break.

use std::net::Ipv4Addr;

use russh::keys::PrivateKey as SshKey;
use russh::keys::key::safe_rng;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;
use crate::builder::sshd::{Manner, P256, Sshd, Weather, Wire, eventually};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Somebody who loses patience quickly.
const HASTY: Patience = Patience {
    connect: Duration::from_secs(20),
    ask: Duration::from_secs(1),
    output: Duration::from_millis(300),
    end: Duration::from_secs(10),
};

struct Bench {
    server: Sshd,
    key: Key,
}

impl Bench {
    async fn new() -> Self {
        let key = make_key();
        Self { server: Sshd::start(key.public_text()).await, key }
    }

    async fn shell_at(&self, address: SocketAddr) -> Shell {
        let (key, host_keys) = (self.key.private_key(), &self.server.host_keys);
        Shell::login_with(HASTY, address, "debian", key, host_keys, soon()).await.unwrap()
    }

    async fn shell(&self) -> Shell {
        self.shell_at(self.server.address).await
    }
}

async fn run(shell: &mut Shell, command: &str, stdin: Option<&[u8]>) -> (Exit, Vec<String>) {
    let mut lines = Vec::new();
    let stdin = stdin.map(Bytes::copy_from_slice);
    let exit = shell.run(command, stdin, soon(), |line| lines.push(line.to_owned())).await.unwrap();
    (exit, lines)
}

#[tokio::test]
async fn commands_run_one_after_another_and_tell_how_they_ended() {
    let bench = Bench::new().await;
    let mut shell = bench.shell().await;
    let (exit, mut lines) = run(&mut shell, "echo out; echo err >&2; printf 'no end'", None).await;
    lines.sort_unstable();
    assert_eq!((exit, lines), (Exit::Code(0), vec!["err".to_owned(), "no end".to_owned(), "out".to_owned()]));
    let (exit, lines) = run(&mut shell, "exit 7", None).await;
    assert_eq!((exit, lines), (Exit::Code(7), Vec::new()));
    let (exit, _) = run(&mut shell, "kill -9 $$", None).await;
    assert_eq!(exit, Exit::Signal("KILL".to_owned()));
    assert!(!exit.is_success());
    shell.close().await;
    bench.server.sees(|seen| seen.ended == 1).await;
    assert_eq!(bench.server.seen.lock().unwrap().logins, ["debian"]);
}

#[tokio::test]
async fn input_arrives_byte_for_byte_and_ends() {
    let bench = Bench::new().await;
    let mut shell = bench.shell().await;
    let bytes: Vec<u8> = (0..3 << 20).map(|at: usize| (at % 251) as u8).collect();
    let (exit, _) = run(&mut shell, "cat > file", Some(&bytes)).await;
    assert!(exit.is_success());
    assert!(std::fs::read(bench.server.root.join("file")).unwrap() == bytes);
    let (exit, lines) = run(&mut shell, "cat; echo nothing", None).await;
    assert_eq!((exit, lines), (Exit::Code(0), vec!["nothing".to_owned()]));
    let (exit, _) = run(&mut shell, "exit 3", Some(&bytes)).await;
    assert_eq!(exit, Exit::Code(3), "a command that does not read its input still ends");
}

#[tokio::test]
async fn ten_mebibytes_of_output_pass_while_input_waits() {
    let bench = Bench::new().await;
    let mut shell = bench.shell().await;
    let (mut lines, mut bytes) = (0, 0);
    let count = |line: &str| {
        lines += 1;
        bytes += line.len() + 1;
    };
    let input = Bytes::from(vec![b'x'; 3 << 20]);
    let command = "yes 'a line of output, and more of it' | head -c 10485760; cat > /dev/null";
    let length = "a line of output, and more of it\n".len();
    assert_eq!(shell.run(command, Some(input), soon(), count).await, Ok(Exit::Code(0)));
    assert_eq!((lines, bytes), (10_485_760_usize.div_ceil(length), 10_485_760 + 1), "the last line has no end");
}

#[tokio::test]
async fn a_command_that_never_ends_is_ended_at_its_deadline() {
    let bench = Bench::new().await;
    let mut shell = bench.shell().await;
    let mut lines = Vec::new();
    let command = "trap 'echo told; exit 1' TERM; echo begun; tail -f /dev/null & wait";
    let deadline = Instant::now() + Duration::from_secs(2);
    let result = shell.run(command, None, deadline, |line| lines.push(line.to_owned())).await;
    assert_eq!(result, Err(ShellError::TimedOut(Late::Command)));
    assert_eq!(lines, ["begun", "told"], "what it says to the signal is heard");
    assert!(matches!(bench.server.seen.lock().unwrap().signals[..], [Sig::TERM]));
    bench.server.sees(|seen| seen.ended == 1).await;
    let after = shell.run("true", None, soon(), |_| {}).await;
    assert_eq!(after, Err(ShellError::Lost(Loss::Over)));
}

#[tokio::test]
async fn output_that_others_hold_open_is_not_waited_for() {
    let bench = Bench::new().await;
    let mut shell = bench.shell().await;
    let (exit, lines) = run(&mut shell, "sleep 60 & echo done", None).await;
    assert_eq!((exit, lines), (Exit::Code(0), vec!["done".to_owned()]));
    assert_eq!(run(&mut shell, "echo next", None).await.1, ["next"]);
}

#[tokio::test]
async fn another_host_key_is_refused_before_anything_is_said() {
    let bench = Bench::new().await;
    let other = [SshKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap().public_key().to_openssh().unwrap()];
    let login = Shell::login(bench.server.address, "debian", bench.key.private_key(), &other, soon());
    assert_eq!(login.await.unwrap_err(), ShellError::HostKeyChanged);
    let p384 = Algorithm::Ecdsa { curve: russh::keys::EcdsaCurve::NistP384 };
    let not_offered = [SshKey::random(&mut safe_rng(), p384).unwrap().public_key().to_openssh().unwrap()];
    let login = Shell::login(bench.server.address, "debian", bench.key.private_key(), &not_offered, soon());
    assert_eq!(login.await.unwrap_err(), ShellError::HostKeyChanged);
    let login = Shell::login(bench.server.address, "debian", bench.key.private_key(), &[], soon());
    assert_eq!(login.await.unwrap_err(), ShellError::HostKeyChanged);
    assert!(bench.server.seen.lock().unwrap().logins.is_empty());
}

#[tokio::test]
async fn one_recorded_host_key_of_several_is_enough() {
    let bench = Bench::new().await;
    let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQE=".to_owned();
    let recorded = [rsa, bench.server.host_keys[1].clone()];
    assert!(recorded[1].starts_with(P256.as_str()));
    let key = bench.key.private_key();
    Shell::login(bench.server.address, "debian", key, &recorded, soon()).await.unwrap();
    let login = Shell::login(bench.server.address, "debian", key, &recorded[..1], soon()).await;
    assert_eq!(login.unwrap_err(), ShellError::HostKeyUnusable);
}

#[tokio::test]
async fn a_refused_key_names_the_user_and_what_to_check() {
    let bench = Bench::new().await;
    let other = make_key();
    let login = Shell::login(bench.server.address, "ubuntu", other.private_key(), &bench.server.host_keys, soon());
    let error = login.await.unwrap_err();
    assert_eq!(error, ShellError::Denied { username: "ubuntu".to_owned() });
    assert!(!error.is_transient());
    assert!(error.to_string().contains("let ubuntu in") && error.to_string().contains("authorized_keys"), "{error}");
}

#[tokio::test]
async fn a_server_that_leaves_during_the_login_refused_nobody() {
    let key = make_key();
    let server = Sshd::with(key.public_text(), Manner::Leaves).await;
    let login = Shell::login(server.address, "debian", key.private_key(), &server.host_keys, soon());
    let error = login.await.unwrap_err();
    assert_eq!(error, ShellError::Lost(Loss::Closed));
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_server_that_runs_nothing_says_so() {
    let key = make_key();
    let server = Sshd::with(key.public_text(), Manner::Refuses).await;
    let mut shell = Shell::login(server.address, "debian", key.private_key(), &server.host_keys, soon()).await.unwrap();
    let refused = shell.run("true", None, soon(), |_| {}).await;
    assert_eq!(refused, Err(ShellError::Refused { username: "debian".to_owned() }));
}

#[tokio::test]
async fn a_connection_that_is_cut_in_the_middle_is_lost() {
    let bench = Bench::new().await;
    let wire = Wire::to(bench.server.address).await;
    let mut shell = bench.shell_at(wire.address).await;
    let mut lines = Vec::new();
    let hear = |line: &str| {
        lines.push(line.to_owned());
        wire.turns(Weather::Cut);
    };
    let result = shell.run("echo begun; sleep 60", None, soon(), hear).await;
    assert_eq!(result, Err(ShellError::Lost(Loss::Closed)));
    assert_eq!(lines, ["begun"]);
}

#[tokio::test]
async fn a_server_that_vanishes_is_noticed() {
    let bench = Bench::new().await;
    let wire = Wire::to(bench.server.address).await;
    let mut shell = bench.shell_at(wire.address).await;
    let result = shell.run("echo begun; sleep 60", None, soon(), |_| wire.turns(Weather::Frozen)).await;
    assert_eq!(result, Err(ShellError::Lost(Loss::Silent)));
    assert!(result.unwrap_err().to_string().contains("no longer answers"));
    assert!(PATIENCE.ask * (UNANSWERED + 1) + PATIENCE.ask / 2 < Duration::from_secs(60));
}

#[tokio::test]
async fn a_server_that_is_silent_and_there_is_not_lost() {
    let bench = Bench::new().await;
    let mut shell = bench.shell().await;
    let (exit, lines) = run(&mut shell, "sleep 5; echo woken", None).await;
    assert_eq!((exit, lines), (Exit::Code(0), vec!["woken".to_owned()]));
}

#[tokio::test]
async fn what_is_no_ssh_server_cannot_be_reached() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let key = make_key();
    let known = [key.public_text().to_owned()];
    let login = Shell::login(address, "debian", key.private_key(), &known, soon());
    let (login, ()) = tokio::join!(login, async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-busy\r\n").await.unwrap();
    });
    let error = login.unwrap_err();
    assert!(matches!(error, ShellError::Unreachable(ProbeError::Handshake(_))), "{error:?}");
    let silent =
        Shell::login(address, "debian", key.private_key(), &known, Instant::now() + Duration::from_millis(200));
    let error = silent.await.unwrap_err();
    assert_eq!(error, ShellError::Unreachable(ProbeError::Handshake(HandshakeFault::TimedOut)));
    drop(listener);
    let error = Shell::login(address, "debian", key.private_key(), &known, soon()).await.unwrap_err();
    assert_eq!(error, ShellError::Unreachable(ProbeError::Refused));
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_dropped_shell_hangs_up() {
    let bench = Bench::new().await;
    let shell = bench.shell().await;
    assert!(format!("{shell:?}").contains("debian"));
    drop(shell);
    eventually(|| bench.server.seen.lock().unwrap().ended == 1).await;
}
