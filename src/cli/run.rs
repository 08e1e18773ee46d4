//! `run`: the daemon, from its lock to its end.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, reload};

use super::{Failure, node, print};
use crate::api::{self, Api, Backend, Reports};
use crate::config::{NodeDir, Usage, plain};

type SetLog = Box<dyn Fn(&str) + Send + Sync>;

pub(super) fn run(dir: &NodeDir) -> Result<(), Failure> {
    // Everything that can be wrong is found before anything is started. The lock comes after the first
    // look, so that a folder that is no node's stays untouched.
    let identity = Arc::new(dir.load_identity()?);
    dir.load_config()?;
    let _lock = dir.lock()?;
    let file = dir.load_config()?;
    let config = file.config();
    let set_log = start_log(&config.log)?;
    raise_descriptor_limit();
    let (unix, _socket) = listen_unix(dir)?;
    let tcp = config.api.map(listen_tcp).transpose()?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(|error| {
        let hint = "io_uring is needed, see kernel.io_uring_disabled in docs/operating.md";
        Failure::new(format!("cannot start the control thread: {} ({hint})", plain(&error)))
    })?;
    let reports = Reports::new();
    let card = *identity.card();
    let backend = node::start(config, identity, dir, reports.clone()).map_err(Failure::new)?;
    let usage = Usage::load(&dir.usage()).unwrap_or_else(|error| {
        let (path, aside) = (dir.usage(), dir.usage().with_extension("bad"));
        let kept = std::fs::rename(&path, &aside).is_ok();
        let kept = if kept { format!("; it is {} now", aside.display()) } else { String::new() };
        tracing::warn!("what was sent this month counts from nothing: {}: {error}{kept}", path.display());
        Usage::new(&path)
    });
    let api = Api::new(backend.clone(), reports.clone(), card, &file, usage, set_log);
    runtime.block_on(control(api, backend, reports, unix, tcp, dir.peers()))
}

/// The control thread's life.
async fn control(
    api: Arc<Api>,
    backend: Arc<dyn Backend>,
    reports: Reports,
    unix: StdUnixListener,
    tcp: Option<std::net::TcpListener>,
    peers: PathBuf,
) -> Result<(), Failure> {
    let cannot = |what: &str, error: &io::Error| Failure::new(format!("cannot {what}: {}", plain(error)));
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| cannot("wait for signals", &e))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| cannot("wait for signals", &e))?;
    let unix = UnixListener::from_std(unix).map_err(|e| cannot("serve the API", &e))?;
    let tcp = tcp.map(TcpListener::from_std).transpose().map_err(|e| cannot("serve the API", &e))?;
    let served = tokio::spawn(api::serve(api.clone(), unix, tcp));

    let begun = async {
        api.tell_intents().await.map_err(|error| Failure::new(error.line))?;
        api.tell_relay().await.map_err(|error| Failure::new(error.line))?;
        api.tell_introductions().await.map_err(|error| Failure::new(error.line))?;
        api.tell_overlay().await.map_err(|error| Failure::new(error.line))?;
        let known = api.load_peers(&peers);
        api.restore_peers(&known).await.map_err(|error| Failure::new(error.line))?;
        api.tell_friends().await.map_err(|error| Failure::new(error.line))?;
        api.start_tunnels().await;
        api.tell_limits().await.map_err(|error| Failure::new(error.line))?;
        // The first answer shows that the node lives.
        api.snapshot().await.map_err(|error| Failure::new(error.line))
    };
    let mut outcome = tokio::select! {
        begun = begun => begun.map(|_| ()),
        why = reports.failure() => Err(Failure::new(why)),
    };
    if outcome.is_ok() {
        // Nobody may be reading: neither of the two is worth ending for.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        let _ = print("ready");
        let watchdog = tokio::spawn(feed_watchdog(api.clone()));
        let schedule = api.clone();
        let schedule = tokio::spawn(async move { schedule.follow_limits().await });
        let (network, path) = (api.clone(), peers.clone());
        let network = tokio::spawn(async move { network.follow_overlay(path).await });
        let nat = api.clone();
        let nat = tokio::spawn(async move { nat.follow_nat().await });
        outcome = tokio::select! {
            () = either(&mut terminate, &mut interrupt) => Ok(()),
            () = api.left() => Ok(()),
            why = reports.failure() => Err(Failure::new(why)),
        };
        watchdog.abort();
        schedule.abort();
        network.abort();
        nat.abort();
        let _ = nat.await;
        api.end_mappings().await;
        api.save_peers(&peers).await;
    }

    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    tracing::info!("stopping");
    api.stop();
    let failed = outcome.is_err();
    let ended = async {
        let _ = served.await;
        // Before the shards end: the host's settings are undone while the device is still there.
        // A daemon that fails leaves the kill switch where it is, as one that is killed does.
        let host = backend.clone();
        let proxy = backend.clone();
        let _ = tokio::task::spawn_blocking(move || proxy.socks(None)).await;
        if !failed && let Ok(Err(why)) = tokio::task::spawn_blocking(move || host.tunnel(None)).await {
            tracing::warn!("taking the tunnels down: {why}");
        }
        let _ = api.shut_down().await;
        let _ = tokio::task::spawn_blocking(move || backend.join()).await;
        api.count_usage(true).await;
    };
    tokio::select! {
        () = ended => outcome,
        () = either(&mut terminate, &mut interrupt) => {
            super::tell("tornet: told to stop twice: ending at once");
            std::process::exit(1)
        }
    }
}

async fn either(a: &mut Signal, b: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
    }
}

/// Tells systemd that the node still answers, twice per interval that it asks for.
async fn feed_watchdog(api: Arc<Api>) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    loop {
        if api.snapshot().await.is_ok() {
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(interval / 2).await;
    }
}

/// Logs to stderr; returns what changes the filter while the daemon runs.
fn start_log(filter: &str) -> Result<SetLog, Failure> {
    let bad = |_| Failure::new("log: not a log filter");
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(filter).map_err(bad)?);
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false);
    let subscriber = tracing_subscriber::registry().with(filter);
    // The journal stamps lines itself.
    let started = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => subscriber.with(lines.without_time()).try_init(),
        None => subscriber.with(lines).try_init(),
    };
    started.map_err(|_| Failure::new("the log is running already"))?;
    Ok(Box::new(move |text| {
        if let Ok(filter) = EnvFilter::try_new(text) {
            let _ = handle.reload(filter);
        }
    }))
}

/// Files of running jobs and sockets of peers count against the soft limit; the hard one is ours to use.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

/// Takes the socket's file away when the daemon ends.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The unix socket, open to this user only. The caller holds the folder's lock, so a socket that is
/// there is a dead daemon's.
fn listen_unix(dir: &NodeDir) -> Result<(StdUnixListener, SocketFile), Failure> {
    let path = dir.socket();
    let failed =
        |error: io::Error| Failure::new(format!("cannot listen on {}: {}", path.display(), plain(&error)));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let (address, _folder) = dir.socket_address().map_err(failed)?;
    // Private from its first moment; no other thread runs yet that could mind the mask.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = StdUnixListener::bind(address);
    umask(before);
    let listener = bound.map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((listener, SocketFile(path)))
}

fn listen_tcp(address: SocketAddr) -> Result<std::net::TcpListener, Failure> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => Failure::new(format!(
            "api = \"{address}\" is in use by another program: choose another with `tornet config set api ADDR`"
        )),
        _ => Failure::new(format!("cannot listen on api = \"{address}\": {}", plain(&error))),
    };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Identity;
    use crate::node::command::{Command, Report};
    use std::os::unix::fs::PermissionsExt;

    /// A node that only counts what it is told.
    struct Silent {
        reports: Reports,
        told: std::sync::Mutex<Vec<&'static str>>,
    }

    impl Backend for Silent {
        fn command(&self, command: Command) -> Result<(), api::Busy> {
            let mut told = self.told.lock().expect("unpoisoned");
            match command {
                Command::Friends(_) => told.push("friends"),
                Command::Status { token } => self.reports.deliver(Report::Status(token, Box::default())),
                Command::Shutdown => told.push("shutdown"),
                Command::Get(_)
                | Command::Anonymous(_)
                | Command::Push { .. }
                | Command::Cancel(_)
                | Command::Tunnels(_)
                | Command::Relay(_)
                | Command::Introductions(_)
                | Command::Limits(_)
                | Command::Exit(_)
                | Command::Overlay(_)
                | Command::Nat(_)
                | Command::Intents(_)
                | Command::Leave(_)
                | Command::Online(_)
                | Command::AskStay { .. }
                | Command::Provide(_)
                | Command::Restore(_)
                | Command::Peers { .. }
                | Command::Circuit(_) => {}
            }
            Ok(())
        }
        fn put(
            &self,
            _: api::PutRequest,
            _: Box<dyn FnMut(api::PutEvent) + Send>,
        ) -> Result<api::PutHandle, api::Busy> {
            Err(api::Busy)
        }
        fn local_chunks(&self, _: u64, _: usize) -> Result<Vec<(u64, crate::base::ChunkId)>, String> {
            Ok(Vec::new())
        }
        fn kept_chunks(&self, _: u64, _: usize) -> Result<Vec<(u64, crate::base::ChunkId)>, String> {
            Ok(Vec::new())
        }
        fn tunnel(&self, _: Option<api::TunnelPlan>) -> Result<(), String> {
            Ok(())
        }
        fn socks(&self, _: Option<api::SocksPlan>) -> Result<(), String> {
            Ok(())
        }
        fn socks_state(&self) -> Option<api::SocksState> {
            None
        }
        fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
            Vec::new()
        }
        fn latencies(&self) -> Vec<crate::io::latency::Latencies> {
            Vec::new()
        }
        fn store_stats(&self) -> api::StoreStats {
            api::StoreStats::default()
        }
        fn join(&self) {
            self.told.lock().expect("unpoisoned").push("joined");
        }
    }

    #[test]
    fn a_node_that_ends_by_itself_ends_the_daemon_in_order() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let dir = NodeDir::choose(Some(temporary.path())).expect("a folder");
        std::fs::write(dir.config(), "").expect("written");
        let file = crate::config::ConfigFile::load(&dir.config()).expect("loaded");
        let (unix, _socket) = listen_unix(&dir).expect("bound");
        let reports = Reports::new();
        let node = Arc::new(Silent { reports: reports.clone(), told: std::sync::Mutex::default() });
        let card = *Identity::new(crate::crypto::Secret::from_bytes([1; 32]), 0, 0).card();
        let api =
            Api::new(node.clone(), reports.clone(), card, &file, Usage::new(&dir.usage()), Box::new(|_| {}));
        let runtime = tokio_uring::Runtime::new(&tokio_uring::builder()).expect("io_uring");
        let ended = runtime.block_on(async {
            let daemon = tokio::spawn(control(api, node.clone(), reports.clone(), unix, None, dir.peers()));
            let asked = super::super::client::ask_async(&dir, hyper::Method::GET, "/v1/status", None).await;
            assert!(asked.is_ok_and(|status| status.is_some_and(|status| status["peers"].is_array())));
            reports.fatal("shard 0 ended: out of memory");
            daemon.await.expect("no panic")
        });
        assert_eq!(ended, Err(Failure::new("shard 0 ended: out of memory")));
        assert_eq!(*node.told.lock().expect("unpoisoned"), ["friends", "shutdown", "joined"]);
    }

    #[test]
    fn the_socket_is_private_and_replaces_a_dead_one() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        // Longer than a socket address holds.
        let deep = temporary.path().join("d".repeat(120));
        std::fs::create_dir(&deep).expect("made");
        let dir = NodeDir::choose(Some(&deep)).expect("a folder");
        let (first, file) = listen_unix(&dir).expect("bound");
        drop(first);
        std::mem::forget(file);
        assert!(dir.socket().exists(), "as a killed daemon leaves it");
        let (_second, file) = listen_unix(&dir).expect("replaced");
        let mode = std::fs::metadata(dir.socket()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(file);
        assert!(!dir.socket().exists());
    }

    #[test]
    fn a_busy_api_port_is_said_so() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = taken.local_addr().expect("bound");
        let error = listen_tcp(address).expect_err("busy");
        assert!(error.line.contains("in use") && error.line.contains("config set api"), "{}", error.line);
    }

    #[test]
    fn a_folder_without_an_identity_is_sent_to_init() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let dir = NodeDir::choose(Some(temporary.path())).expect("a folder");
        let error = run(&dir).expect_err("no node");
        assert!(error.line.contains("init"), "{}", error.line);
        assert_eq!(std::fs::read_dir(temporary.path()).expect("there").count(), 0, "untouched");
    }
}
