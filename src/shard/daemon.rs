//! The whole node behind its handles: store, files thread, shard, imports. Started once, by `run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam::channel::bounded;

use super::import::{Cancel, ImportProgress, ImportRequest, import};
use super::{ChunkStoreDriver, Cold, Core, Full, Handle, Settings, files_thread, start};
use crate::base::{ReadFault, Rng, Time, UnixMs};
use crate::crypto::{Identity, Suite};
use crate::io::clock::Clocks;
use crate::io::files::Files;
use crate::io::store::{Readers, Store, StoreConfig, StoreHandle, StoreReader, StoreStats};
use crate::limits::{CLOCK_SKEW_MS_MAX, FILE_OPS_MAX, IMPORTS_MAX};
use crate::node::{self, Clock, Command, Input, Node, Output, Report, World};
use crate::sys::affinity;
use crate::wire::reference::Reference;

impl Core for Node {
    fn handle<W: World>(&mut self, clock: Clock, input: Input, world: &mut W) {
        Node::handle(self, clock, input, world);
    }

    fn poll<W: World>(&mut self, clock: Clock, world: &mut W) -> Option<Output> {
        Node::poll(self, clock, world)
    }

    fn poll_timeout(&self) -> Option<Time> {
        Node::poll_timeout(self)
    }
}

impl ChunkStoreDriver for StoreReader {
    fn turn(&mut self) {
        StoreReader::park(self);
    }

    fn park(&mut self) {
        StoreReader::park(self);
    }

    fn take_cold(&mut self) -> Vec<Cold> {
        let cold = StoreReader::take_cold(self).into_iter();
        cold.map(|c| Cold { addr: c.address, len: c.len, handle: c.handle, slice: c.slice }).collect()
    }

    fn warmed(&mut self, cold: Cold, populated: Result<(), ReadFault>) {
        StoreReader::warmed(self, cold.handle, cold.slice, populated);
    }
}

/// What a daemon is made from.
pub struct DaemonConfig {
    /// The node's folder.
    pub dir: PathBuf,
    /// Who it is.
    pub identity: Arc<Identity>,
    /// The network's name.
    pub network: String,
    /// Work that every place must show, zero bits.
    pub place_floor_bits: u32,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Whether the shard stays on one core.
    pub pin: bool,
    /// Sizes of the store.
    pub store: StoreConfig,
}

/// How an import ended, or how far it is.
pub enum ImportEvent {
    /// Under way.
    Progress(ImportProgress),
    /// Durable.
    Done(Box<Reference>, ImportProgress),
    /// One clear line.
    Failed(String),
}

/// A running node.
pub struct Daemon {
    shard: Handle,
    readers: Readers,
    store_handle: StoreHandle,
    imports: Arc<AtomicUsize>,
    ending: Mutex<Option<Ending>>,
}

struct Ending {
    threads: Vec<JoinHandle<()>>,
    store: Store,
}

impl Daemon {
    /// Starts all threads. The caller holds the folder's lock until [`Self::join`] returns. `fatal` is called when one ends by itself; errors are one clear line.
    pub fn start(
        config: DaemonConfig,
        reports: Box<dyn FnMut(Report) + Send>,
        fatal: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Result<Self, String> {
        let store = Store::open(&config.dir, config.store).map_err(|error| error.to_string())?;
        let readers = store.readers();
        let (file_ops, ops) = bounded(FILE_OPS_MAX);
        let files = Files::new(config.dir.join("gets")).map_err(|error| error.to_string())?;
        let settings = Settings {
            index: 0,
            core: if config.pin { core_of(&config.listen) } else { None },
            report_local: config.listen.len() > 1,
            addresses: config.listen,
            clocks: Clocks::start(),
        };
        files.prune(settings.clocks.wall());
        let shard_readers = readers.clone();
        let (identity, network, place_floor_bits) =
            (config.identity, config.network, config.place_floor_bits);
        let make = move |around: super::Surroundings<'_>, rng: Rng| {
            let config = node::Config {
                identity,
                network: network.into_bytes(),
                place_floor_bits,
                suite: Suite::preferred(),
                home_port: around.addresses.first().map_or(0, SocketAddr::port),
                // A first flight that an earlier run has answered could still be fresh.
                refuse_early_until: UnixMs(around.clock.wall.0 + CLOCK_SKEW_MS_MAX),
            };
            (Node::new(config, rng, around.clock.now), shard_readers.reader())
        };
        let running = start(settings, file_ops, reports, make).map_err(|error| error.to_string())?;
        let shard = running.handle.clone();
        let threads = vec![
            spawn("files", {
                let (shard, mut files) = (shard.clone(), files);
                move || files_thread(&ops, &shard, |op| files.execute(op))
            })?,
            spawn("shard-watch", move || match running.thread.join() {
                Ok(Ok(_)) => {}
                Ok(Err(fault)) => fatal(&format!("the shard ended: {fault}")),
                Err(_) => fatal("the shard ended by a panic; its message is in the log"),
            })?,
        ];
        Ok(Self {
            shard,
            readers,
            store_handle: store.handle(),
            imports: Arc::default(),
            ending: Mutex::new(Some(Ending { threads, store })),
        })
    }

    /// Hands a command to the node.
    pub fn command(&self, command: Command) -> Result<(), Full> {
        if matches!(command, Command::Shutdown) {
            // The shard says goodbye for itself when it is told to stop.
            self.shard.stop();
            return Ok(());
        }
        self.shard.command(command)
    }

    /// Begins an import on a thread of its own; set the returned flag to give it up.
    pub fn import(
        &self,
        request: ImportRequest,
        mut tell: Box<dyn FnMut(ImportEvent) + Send>,
    ) -> Result<Cancel, Full> {
        let imports = Arc::clone(&self.imports);
        if imports.fetch_add(1, Ordering::Relaxed) >= IMPORTS_MAX {
            imports.fetch_sub(1, Ordering::Relaxed);
            return Err(Full);
        }
        let cancel: Cancel = Arc::new(AtomicBool::new(false));
        let (readers, store, cancelled) = (self.readers.clone(), self.store_handle.clone(), cancel.clone());
        let work = move || {
            let mut progress = |progress: &ImportProgress| tell(ImportEvent::Progress(*progress));
            let result = import(request, &readers, &store, &cancelled, &mut progress);
            imports.fetch_sub(1, Ordering::Relaxed);
            tell(match result {
                Ok((reference, progress)) => ImportEvent::Done(Box::new(reference), progress),
                Err(why) => ImportEvent::Failed(why),
            });
        };
        if spawn("import", work).is_err() {
            self.imports.fetch_sub(1, Ordering::Relaxed);
            return Err(Full);
        }
        Ok(cancel)
    }

    /// Counters of the loop.
    pub fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.shard.counters()
    }

    /// The store's numbers.
    pub fn store_stats(&self) -> StoreStats {
        self.readers.stats()
    }

    /// Waits until every thread has ended after [`Command::Shutdown`], and closes the store.
    pub fn join(&self) {
        let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Ending { threads, store }) = ending {
            for thread in threads {
                // A panic was told as fatal, or is in the log.
                let _ = thread.join();
            }
            drop(store);
        }
    }
}

/// The core of a shard: chosen by its port, among those that the process may use. Shards have ports in a row, so
/// they get cores of their own, and so do daemons of one host whose ports follow one another.
fn core_of(listen: &[SocketAddr]) -> Option<usize> {
    let allowed = affinity::allowed().ok().filter(|cores| !cores.is_empty())?;
    let port = listen.first().map_or(0, SocketAddr::port);
    Some(allowed[usize::from(port) % allowed.len()])
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    let cannot = |error: std::io::Error| format!("cannot start the thread {name}: {error}");
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(cannot)
}
