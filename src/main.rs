//! The operator's program: arguments and start-up only.
//!
//! It decides who may act (by the lease) and when the process ends; all else is decided in the rooms of the library.
//!
//! Exit codes: 0 after a requested end, 1 when it cannot start or go on, 2 for wrong arguments, 3 when leadership was
//! lost (a supervisor should simply start it again).

use std::env;
use std::error::Error;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use ipnet::IpNet;
use jiff::Timestamp;
use nodepool_operator::api;
use nodepool_operator::builder::SourceError;
use nodepool_operator::builder::fetch::{Fetcher, Redirects};
use nodepool_operator::builder::job::{self, JobTarget, Order};
use nodepool_operator::cloud::poller::PollSettings;
use nodepool_operator::controllers::overview::{self, Board, View};
use nodepool_operator::controllers::{self, Setup};
use nodepool_operator::egress::{self, Egress};
use nodepool_operator::ops::events::Events;
use nodepool_operator::ops::heartbeats::{Heartbeats, Readiness};
use nodepool_operator::ops::http::{Page, Server, Shown};
use nodepool_operator::ops::kubernetes;
use nodepool_operator::ops::lease::{Election, LastHolder, LeaderGuard, Lost};
use nodepool_operator::ops::metrics::Metrics;
use nodepool_operator::ops::probe::{self, ProbeError};
use nodepool_operator::ops::shutdown;
use nodepool_operator::ops::telemetry::{self, LogFormat};
use thiserror::Error;
use tokio::task::JoinError;
use tokio::time::timeout;
use tracing::{error, info, warn};
use uuid::Uuid;

const NAME: &str = "nodepool-operator";
const USER_AGENT: &str = concat!("nodepool-operator/", env!("CARGO_PKG_VERSION"));
/// How long controllers may finish what they do after a request to end. With the release of the lease and a standby's
/// next look it stays below the two seconds a hand-over may take.
const DRAIN: Duration = Duration::from_millis(700);
/// The exit code that means: another replica leads.
const LEADERSHIP_LOST: u8 = 3;

/// Keeps pools of fresh OpenStack servers ready for a CI system.
#[derive(Parser)]
#[command(name = NAME, version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the operator against the cluster of KUBECONFIG or of the pod it runs in.
    Run(RunOptions),
    /// Uploads a file that a build left to several clouds: what the operator runs in the pods of a DiskImage's job.
    Upload(UploadOptions),
    /// Asks a probe, such as another replica's /readyz, and fails unless it says that all is well: for `helm test`.
    Probe {
        /// A name or an address.
        #[arg(long)]
        host: String,
        /// Its metrics port.
        #[arg(long)]
        port: u16,
        /// Which probe.
        #[arg(long, default_value = "/readyz")]
        path: String,
    },
    /// Writes the definitions of all kinds, one file each.
    Crds {
        /// The directory to write to; made when missing.
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
    },
}

#[derive(Args)]
struct RunOptions {
    /// Where the operator itself lives: its lease is there. Default: the pod's namespace, or the kubeconfig's.
    #[arg(long, env = "NODEPOOL_NAMESPACE")]
    namespace: Option<String>,
    /// Serves only this namespace; may be given several times or as a list with commas. Default: all namespaces.
    #[arg(long = "watch-namespace", env = "NODEPOOL_WATCH_NAMESPACE", value_name = "NAMESPACE", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// Acts only while holding the lease, so that several replicas can run. Turn it off for a single process.
    #[arg(
        long,
        env = "NODEPOOL_LEADER_ELECT",
        action = ArgAction::Set,
        num_args = 0..=1,
        default_value_t = true,
        default_missing_value = "true"
    )]
    leader_elect: bool,
    /// The lease's name; different for each installation in one namespace.
    #[arg(long, env = "NODEPOOL_LEASE_NAME", default_value = NAME)]
    lease_name: String,
    /// Where /, /metrics, /livez and /readyz are served; with port 0 the chosen address is printed first.
    #[arg(long, env = "NODEPOOL_METRICS_ADDRESS", value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8080")]
    metrics_address: SocketAddr,
    /// How often each cloud's servers are listed completely, and leaks looked for; changes are listed more often.
    #[arg(long, env = "NODEPOOL_FULL_LIST_INTERVAL", value_name = "DURATION", default_value = "10m")]
    full_list_interval: api::Duration,
    /// How long a boot request that was not answered is searched for at least: longer than any proxy keeps one alive.
    #[arg(long, env = "NODEPOOL_SETTLE_TIME", value_name = "DURATION", default_value = "10m")]
    settle_time: api::Duration,
    /// How many versions of images may be made and uploaded at once, in all Providers.
    #[arg(long, env = "NODEPOOL_BUILDS", value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    builds: u32,
    /// How many versions of images may be made and uploaded at once on one Provider.
    #[arg(long, env = "NODEPOOL_BUILDS_PER_PROVIDER", value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    builds_per_provider: u32,
    /// The container image that uploads what the pod of a DiskImage's source `job` leaves: the operator's own.
    #[arg(long, env = "NODEPOOL_UPLOADER_IMAGE", value_name = "IMAGE", default_value = concat!("nodepool-operator:", env!("CARGO_PKG_VERSION")))]
    uploader_image: String,
    /// Which redirects of servers of images are followed.
    #[arg(long, env = "NODEPOOL_IMAGE_REDIRECTS", value_enum, default_value_t)]
    image_redirects: Redirects,
    #[command(flatten)]
    egress: EgressOptions,
    #[command(flatten)]
    log: LogOptions,
}

#[derive(Args)]
struct EgressOptions {
    /// Networks where clouds and servers of images may be although they are loopback, link-local or the cluster's.
    #[arg(long = "allow-network", env = "NODEPOOL_ALLOW_NETWORK", value_name = "CIDR", value_parser = Networks::read)]
    open: Vec<Networks>,
    /// The cluster's networks, of Pods, Services and Nodes: no cloud and no server of images may be there.
    #[arg(long = "cluster-network", env = "NODEPOOL_CLUSTER_NETWORK", value_name = "CIDR", value_parser = Networks::read)]
    cluster: Vec<Networks>,
}

/// One value on the command line, many networks in it.
#[derive(Clone)]
struct Networks(Vec<IpNet>);

impl Networks {
    fn read(text: &str) -> Result<Self, String> {
        egress::networks(text).map(Self)
    }
}

impl EgressOptions {
    /// The API server's address is the cluster's, whatever else is.
    fn egress(&self) -> Egress {
        let all = |given: &[Networks]| given.iter().flat_map(|networks| networks.0.clone()).collect::<Vec<_>>();
        let api = env::var("KUBERNETES_SERVICE_HOST").ok().and_then(|host| host.parse::<IpAddr>().ok());
        let mut cluster = all(&self.cluster);
        cluster.extend(api.map(IpNet::from));
        Egress::new(all(&self.open), cluster)
    }
}

#[derive(Args)]
struct UploadOptions {
    /// The file that is the image.
    #[arg(long, env = "NODEPOOL_FILE")]
    file: PathBuf,
    /// The disk's format, such as qcow2 or raw.
    #[arg(long, env = "NODEPOOL_FORMAT", value_parser = job::disk_format)]
    format: &'static str,
    /// Where it goes: a JSON list that the operator writes.
    #[arg(long, env = "NODEPOOL_TARGETS", value_name = "JSON", value_parser = Targets::read)]
    targets: Targets,
    /// Where a JSON list of image ids and failures is written.
    #[arg(long, env = "NODEPOOL_RESULT", value_name = "FILE", default_value = job::RESULT_PATH)]
    result: PathBuf,
    /// How long an image may take to become active after its last byte.
    #[arg(long, env = "NODEPOOL_ACTIVE_TIMEOUT", value_name = "DURATION", default_value = "30m")]
    active_timeout: api::Duration,
    #[command(flatten)]
    egress: EgressOptions,
    #[command(flatten)]
    log: LogOptions,
}

/// One value on the command line, many in it.
#[derive(Clone)]
struct Targets(Vec<JobTarget>);

impl Targets {
    fn read(json: &str) -> Result<Self, String> {
        job::targets(json).map(Self)
    }
}

#[derive(Args)]
struct LogOptions {
    /// How log lines are written.
    #[arg(long, env = "NODEPOOL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Which log lines are written, such as `info,kube_client=debug`.
    #[arg(long, env = "NODEPOOL_LOG_FILTER", default_value = telemetry::DEFAULT_FILTER)]
    log_filter: String,
}

/// Why the program ends in another way than asked.
#[derive(Debug, Error)]
enum Failure {
    #[error("cannot set up TLS")]
    Tls,
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Connect(#[from] kubernetes::ConnectError),
    #[error("cannot fetch images: {0}")]
    Fetch(#[from] SourceError),
    #[error("cannot serve metrics on {0}: {1}")]
    Serve(SocketAddr, #[source] io::Error),
    #[error("leadership lost: {0}")]
    Lost(#[from] Lost),
    #[error("controllers failed: {0}")]
    Controllers(Box<dyn Error + Send + Sync>),
    #[error("{0}: {1}")]
    Probe(String, #[source] ProbeError),
    #[error("cannot describe the kinds: {0}")]
    Crds(Box<dyn Error + Send + Sync>),
    #[error("cannot write {0}: {1}")]
    Write(PathBuf, #[source] io::Error),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Lost(_) => ExitCode::from(LEADERSHIP_LOST),
            _ => ExitCode::FAILURE,
        }
    }
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(options) => start(&options.log, run(&options)),
        Command::Upload(options) => start(&options.log, upload(&options)),
        Command::Probe { host, port, path } => to_the_end(probe(probe::url(&host, port, &path))),
        Command::Crds { output } => write_crds(&output).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("{NAME}: {failure}");
        failure.exit_code()
    })
}

fn write_crds(directory: &Path) -> Result<(), Failure> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| Failure::Write(path, error)
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    for (name, yaml) in api::crds::yaml_files().map_err(|error| Failure::Crds(error.into()))? {
        let path = directory.join(name);
        fs::write(&path, yaml).map_err(failed(&path))?;
    }
    Ok(())
}

/// Sets up the logs; from then on the reason of every end is a log line.
fn start(log: &LogOptions, work: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    telemetry::install(log.log_format, &log.log_filter)?;
    Ok(to_the_end(work).unwrap_or_else(|failure| {
        error!(%failure, "leaving");
        failure.exit_code()
    }))
}

/// Everything that must stand before the first connection; then works to the end.
fn to_the_end(work: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    // Two TLS implementations in one program would make the choice ambiguous: it is made here, once.
    rustls::crypto::ring::default_provider().install_default().map_err(|_| Failure::Tls)?;
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::Runtime)?;
    let outcome = runtime.block_on(work);
    // Whatever still runs must not outlive the decision to leave, least of all after the lease was lost.
    runtime.shutdown_background();
    outcome
}

async fn probe(url: String) -> Result<ExitCode, Failure> {
    match probe::ask(&url).await {
        Ok(()) => println!("{url}: ok"),
        Err(error) => return Err(Failure::Probe(url, error)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn upload(options: &UploadOptions) -> Result<ExitCode, Failure> {
    let shutdown = shutdown::install().map_err(Failure::Signals)?;
    let order = Order {
        file: options.file.clone(),
        format: options.format,
        targets: options.targets.0.clone(),
        result: options.result.clone(),
        active_within: options.active_timeout.as_std(),
        egress: options.egress.egress(),
    };
    Ok(if job::run(&order, shutdown).await { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(options: &RunOptions) -> Result<ExitCode, Failure> {
    let shutdown = shutdown::install().map_err(Failure::Signals)?;
    let (client, cluster_namespace) = kubernetes::connect(USER_AGENT).await?;
    let namespace = options.namespace.clone().unwrap_or(cluster_namespace);
    let identity = identity();
    let metrics = Metrics::new("nodepool");
    let election =
        options.leader_elect.then(|| Election::new(client.clone(), &namespace, &options.lease_name, &identity));
    let guard = election.as_ref().map_or_else(LeaderGuard::always, Election::guard);
    let last_holder = election.as_ref().map(Election::last_holder).unwrap_or_default();
    let (events, event_writer) = Events::new(client.clone(), NAME, &identity, &metrics);
    let egress = options.egress.egress();
    let setup = Setup {
        client,
        namespace,
        identity,
        watch_namespaces: options.watch_namespaces.clone(),
        guard,
        metrics: controllers::metrics::Metrics::register(&metrics),
        overview: Board::default(),
        heartbeats: Heartbeats::new(),
        readiness: Readiness::new(),
        events,
        settle_time: options.settle_time.as_std(),
        builds_per_provider: options.builds_per_provider,
        builds: options.builds,
        uploader_image: options.uploader_image.clone(),
        fetcher: Fetcher::new(egress.clone(), options.image_redirects)?,
        egress,
        polling: PollSettings { full: options.full_list_interval.as_std(), ..PollSettings::default() },
        shutdown: shutdown.clone(),
    };
    // The gates of readiness must stand before anybody can ask.
    let first = if election.is_some() { "leader election" } else { controllers::RECORDS_LISTED };
    let standing_by = setup.readiness.gate(first);
    serve(options, &setup, metrics, page(&setup, last_holder)).await?;
    tokio::spawn(event_writer.run(shutdown));
    info!(version = env!("CARGO_PKG_VERSION"), namespace = setup.namespace, identity = setup.identity, "started");
    match election {
        Some(election) => lead(election, setup, || standing_by.open()).await,
        None => act(setup).await,
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Unique also among restarts of one pod: two candidates with one identity would both lead.
fn identity() -> String {
    let host = env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    format!("{}_{}", host.as_deref().unwrap_or(NAME), Uuid::new_v4().simple())
}

/// The pod that has an identity: what people can look for.
fn host_of(identity: String) -> String {
    identity.rsplit_once('_').map_or_else(|| identity.clone(), |(host, _)| host.to_owned())
}

/// What `/` shows of this replica.
fn page(setup: &Setup, last_holder: LastHolder) -> Page {
    let (guard, board, heartbeats) = (setup.guard.clone(), setup.overview.clone(), setup.heartbeats.clone());
    Page::new(overview::STYLE, move |refreshing| {
        let view = match board.newest() {
            _ if !guard.is_current() => View::Standby { leader: last_holder.identity().map(host_of) },
            None => View::Starting,
            Some(overview) => {
                View::Facts { overview, silent: heartbeats.stale().iter().map(ToString::to_string).collect() }
            }
        };
        overview::render(&view, Timestamp::now(), refreshing)
    })
}

async fn serve(options: &RunOptions, setup: &Setup, metrics: Metrics, page: Page) -> Result<(), Failure> {
    metrics.register_leader(setup.guard.clone());
    metrics.register_heartbeats(setup.heartbeats.clone());
    let shown = Shown { metrics, heartbeats: setup.heartbeats.clone(), readiness: setup.readiness.clone(), page };
    let asked = options.metrics_address;
    let server = Server::bind(asked, shown).await.map_err(|error| Failure::Serve(asked, error))?;
    if asked.port() == 0 {
        println!("http://{}", server.address());
    }
    info!(address = %server.address(), "serving metrics and probes");
    let stop = setup.shutdown.clone();
    tokio::spawn(async move {
        if let Err(error) = server.run(stop).await {
            error!(%error, "metrics and probes are gone");
        }
    });
    Ok(())
}

/// Runs the controllers while this replica holds the lease.
async fn lead(election: Election, setup: Setup, standing_by: impl FnOnce()) -> Result<(), Failure> {
    let (shutdown, guard) = (setup.shutdown.clone(), setup.guard.clone());
    let mut leadership = tokio::select! {
        leadership = election.acquire(standing_by) => leadership,
        () = shutdown.cancelled() => return Ok(()),
    };
    // A task of its own: however busy the controllers are, the lease is renewed in time.
    let mut work = tokio::spawn(act(setup));
    let outcome = tokio::select! {
        outcome = &mut work => joined(outcome),
        lost = leadership.hold() => return Err(lost.into()),
        () = shutdown.cancelled() => {
            guard.revoke();
            timeout(DRAIN, work).await.map_or_else(
                |_| {
                    warn!("controllers did not finish in time");
                    Ok(())
                },
                joined,
            )
        }
    };
    leadership.release().await;
    outcome
}

async fn act(setup: Setup) -> Result<(), Failure> {
    controllers::run(setup).await.map_err(Failure::Controllers)
}

fn joined(outcome: Result<Result<(), Failure>, JoinError>) -> Result<(), Failure> {
    outcome.unwrap_or_else(|panicked| Err(Failure::Controllers(panicked.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> RunOptions {
        match Arguments::try_parse_from([&[NAME, "run"], arguments].concat()).unwrap().command {
            Command::Run(options) => options,
            Command::Upload(_) | Command::Probe { .. } | Command::Crds { .. } => unreachable!("the subcommand is run"),
        }
    }

    #[test]
    fn defaults_suit_a_deployment() {
        let options = options(&[]);
        assert!(options.leader_elect && options.watch_namespaces.is_empty() && options.namespace.is_none());
        assert_eq!(options.metrics_address.to_string(), "0.0.0.0:8080");
    }

    #[test]
    fn election_can_be_turned_off_and_namespaces_listed() {
        let options = options(&["--leader-elect=false", "--watch-namespace", "a,b", "--watch-namespace=c"]);
        assert!(!options.leader_elect);
        assert_eq!(options.watch_namespaces, ["a", "b", "c"]);
        assert!(self::options(&["--leader-elect"]).leader_elect);
    }

    #[test]
    fn identities_differ() {
        assert_ne!(identity(), identity());
    }

    #[test]
    fn lost_leadership_has_its_own_exit_code() {
        assert_eq!(Failure::from(Lost::Deleted).exit_code(), ExitCode::from(LEADERSHIP_LOST));
        assert_eq!(Failure::Tls.exit_code(), ExitCode::FAILURE);
    }

    #[test]
    fn every_option_is_also_an_environment_variable() {
        use clap::CommandFactory;
        let command = Arguments::command();
        let arguments = |name| command.find_subcommand(name).unwrap().get_arguments();
        for argument in arguments("run").chain(arguments("upload")).filter(|argument| argument.get_id() != "help") {
            let long = argument.get_long().unwrap().replace('-', "_").to_uppercase();
            assert_eq!(argument.get_env().unwrap(), format!("NODEPOOL_{long}").as_str());
        }
    }

    #[test]
    fn wrong_targets_are_told_before_anything_is_done() {
        let read = |format: &str, targets: &str| {
            let arguments = [NAME, "upload", "--file=/f", "--format", format, "--targets", targets];
            Arguments::try_parse_from(arguments).map(drop).map_err(|error| error.to_string())
        };
        assert!(read("qcow2", "[{}]").unwrap_err().contains("missing field `provider`"));
        assert!(read("zip", "[]").unwrap_err().contains("write one of qcow2"));
    }
}
