//! The whole node behind its handles: store, shards, their files threads, imports. Started once, by `run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::bounded;
use nix::net::if_::if_nametoindex;

use super::give::{self, Give, Given, give};
use super::group::{Group, HomeOf};
use super::import::{Cancel, ImportProgress, ImportRequest, import};
use super::{ChunkStoreDriver, Cold, Core, Full, Handle, Pipe, Settings, files_thread, start};
use crate::base::fileop::JobId;
use crate::base::{ChunkId, Kept, NewChunk, ReadFault, Rng, Time, UnixMs};
use crate::crypto::{Identity, Suite};
use crate::io::clock::Clocks;
use crate::io::files::Files;
use crate::io::latency::Latencies;
use crate::io::netconf::{self, Applied, Plan};
use crate::io::store::{Ack, Readers, Store, StoreConfig, StoreHandle, StoreReader, StoreStats};
use crate::io::tun;
use crate::limits::{CLOCK_SKEW_MS_MAX, DEVICE_CLOSE_MS_MAX, FILE_OPS_MAX, IMPORTS_MAX, SHARDS_MAX};
use crate::node::{self, Clock, Command, Input, Node, Output, Report, World};
use crate::session::Homes;
use crate::sys::affinity;
use crate::wire::reference::Reference;

impl Core for Node {
    fn handle<W: World>(&mut self, clock: Clock, input: Input, world: &mut W) {
        Node::handle(self, clock, input, world);
    }

    fn expect<'a>(&self, datagrams: impl Iterator<Item = &'a [u8]>) {
        Node::expect(self, datagrams);
    }

    fn poll<W: World>(&mut self, clock: Clock, world: &mut W) -> Option<Output> {
        Node::poll(self, clock, world)
    }

    fn poll_timeout(&self) -> Option<Time> {
        Node::poll_timeout(self)
    }

    fn take_round_trip(&mut self) -> Option<Duration> {
        Node::take_round_trip(self)
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

    fn keep(&mut self, number: u64, chunk: NewChunk, shard: Handle) {
        let told = shard.clone();
        let ack = Ack::new(move |result| {
            let kept = result.map_or_else(
                |error| {
                    tracing::warn!(%error, "a chunk is not kept for others");
                    Kept::Failed
                },
                |_| Kept::Done,
            );
            told.kept(number, kept);
        });
        if let Err(ack) = self.try_put_cache(chunk, ack) {
            // Nobody but the shard is to be told, and it is told here.
            ack.forget();
            shard.kept(number, Kept::Busy);
        }
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
    /// Whether nobody is heard until the node was told of its friends.
    pub only_friends: bool,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// How many shards: 1 to [`crate::limits::SHARDS_MAX`].
    pub shards: u8,
    /// Whether each shard stays on one core.
    pub pin: bool,
    /// For how long a shard without work looks for some before it sleeps.
    pub busy_poll: Duration,
    /// Sizes of the store.
    pub store: StoreConfig,
}

/// How an import ended, or how far it is.
pub enum ImportEvent {
    /// Under way.
    Progress(ImportProgress),
    /// Of an anonymous put: imported, and given so far.
    Giving(ImportProgress, Given),
    /// Given, and with how many keepers.
    Given(Box<Reference>, ImportProgress, Given),
    /// Durable.
    Done(Box<Reference>, ImportProgress),
    /// One clear line.
    Failed(String),
}

/// A running node.
pub struct Daemon {
    shards: Group,
    readers: Readers,
    clocks: Clocks,
    store_handle: StoreHandle,
    imports: Arc<AtomicUsize>,
    /// The node's folder, and what published chunks may take, bytes.
    dir: PathBuf,
    local_limit: u64,
    device: Mutex<Option<Device>>,
    ending: Mutex<Option<Ending>>,
}

/// The tunnels' network device, and what leads to it.
struct Device {
    name: String,
    applied: Applied,
}

struct Ending {
    threads: Vec<JoinHandle<()>>,
    store: Store,
}

impl Daemon {
    /// Starts all threads. The caller holds the folder's lock until [`Self::join`] returns. `fatal` is called when one ends by itself; errors are one clear line.
    pub fn start(
        config: DaemonConfig,
        reports: Arc<dyn Fn(Report) + Send + Sync>,
        fatal: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Result<Self, String> {
        if let Err(why) = give::clean(&config.dir) {
            tracing::warn!("{why}");
        }
        let store = Store::open(&config.dir, config.store).map_err(|error| error.to_string())?;
        let readers = store.readers();
        let handles = (0..config.shards.max(1)).map(|_| Handle::new()).collect::<Result<Vec<_>, _>>();
        let handles = handles.map_err(|error| format!("starting a shard: {error}"))?;
        let clocks = Clocks::start();
        let group = Group::new(handles.clone(), home_of(&config.identity, handles.len()));
        let mut starting = Self {
            shards: group,
            readers,
            clocks,
            store_handle: store.handle(),
            imports: Arc::default(),
            dir: config.dir.clone(),
            local_limit: config.store.local_limit,
            device: Mutex::new(None),
            ending: Mutex::new(None),
        };
        let mut threads = Vec::new();
        for index in 0..handles.len() {
            match starting.shard(index, &config, &handles, clocks, &reports, &fatal) {
                Ok(two) => threads.extend(two),
                Err(why) => {
                    handles.iter().for_each(Handle::stop);
                    threads.into_iter().for_each(|thread: JoinHandle<()>| _ = thread.join());
                    return Err(why);
                }
            }
        }
        starting.ending = Mutex::new(Some(Ending { threads, store }));
        Ok(starting)
    }

    /// Starts one shard, its files thread, and the thread that waits for its end.
    fn shard(
        &self,
        index: usize,
        config: &DaemonConfig,
        handles: &[Handle],
        clocks: Clocks,
        reports: &Arc<dyn Fn(Report) + Send + Sync>,
        fatal: &Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Result<[JoinHandle<()>; 2], String> {
        let (file_ops, ops) = bounded(FILE_OPS_MAX);
        let mut files = Files::new(config.dir.join("gets")).map_err(|error| error.to_string())?;
        if index == 0 {
            files.prune(clocks.wall());
        }
        // Shard i of a fixed port has the i-th port from there on.
        let port_of = |port: u16| if port == 0 { Some(0) } else { port.checked_add(index as u16) };
        let with_port = |at: &SocketAddr| port_of(at.port()).map(|port| SocketAddr::new(at.ip(), port));
        let listen: Option<Vec<_>> = config.listen.iter().map(with_port).collect();
        let listen = listen.ok_or("the ports of the shards go beyond 65535: choose a lower port")?;
        let settings = Settings {
            index,
            core: if config.pin { core_of(&listen, index) } else { None },
            report_local: listen.len() > 1,
            addresses: listen,
            busy_poll: config.busy_poll,
            clocks,
            shards: handles.to_vec(),
        };
        let shard_readers = self.readers.clone();
        let (identity, network) = (Arc::clone(&config.identity), config.network.clone());
        let (place_floor_bits, count) = (config.place_floor_bits, handles.len());
        let only_friends = config.only_friends;
        let make = move |around: super::Surroundings<'_>, rng: Rng| {
            let config = node::Config {
                identity,
                network: network.into_bytes(),
                place_floor_bits,
                suite: Suite::preferred(),
                home_port: around.addresses.first().map_or(0, SocketAddr::port),
                // A first flight that an earlier run has answered could still be fresh.
                refuse_early_until: UnixMs(around.clock.wall.0 + CLOCK_SKEW_MS_MAX),
                shard: (index as u8, count as u8),
                only_friends,
            };
            (Node::new(config, rng, around.clock.now), shard_readers.reader())
        };
        let (group, reports, fatal) = (self.shards.clone(), Arc::clone(reports), Arc::clone(fatal));
        let tell = move |report| {
            if let Some(report) = group.report(report) {
                reports(report);
            }
        };
        let running = start(settings, file_ops, Box::new(tell), make).map_err(|error| error.to_string())?;
        let handle = running.handle.clone();
        Ok([
            spawn(&format!("files-{index}"), move || files_thread(&ops, &handle, |op| files.execute(op)))?,
            spawn("shard-watch", move || match running.thread.join() {
                Ok(Ok(_)) => {}
                Ok(Err(fault)) => fatal(&format!("shard {index} ended: {fault}")),
                Err(_) => fatal(&format!("shard {index} ended by a panic; its message is in the log")),
            })?,
        ])
    }

    /// Hands a command to the node.
    pub fn command(&self, command: Command) -> Result<(), Full> {
        self.shards.command(command)
    }

    /// Begins an import on a thread of its own; set the returned flag to give it up.
    pub fn import(
        &self,
        request: ImportRequest,
        mut tell: Box<dyn FnMut(ImportEvent) + Send>,
    ) -> Result<Cancel, Full> {
        let (readers, store) = (self.readers.clone(), self.store_handle.clone());
        self.on_import_thread(move |cancelled, imported| {
            let mut progress = |progress: &ImportProgress| tell(ImportEvent::Progress(*progress));
            let result = import(request, &readers, &store, cancelled, &mut progress);
            drop(imported);
            tell(match result {
                Ok((reference, progress)) => ImportEvent::Done(Box::new(reference), progress),
                Err(why) => ImportEvent::Failed(why),
            });
        })
    }

    /// Does something on a thread of its own, of which there are [`IMPORTS_MAX`] at once. It is given what says that it is to give
    /// up, and the place that it has, to be dropped before anybody hears that it is done.
    fn on_import_thread(
        &self,
        work: impl FnOnce(&AtomicBool, Importing) + Send + 'static,
    ) -> Result<Cancel, Full> {
        let place = Importing::begin(&self.imports)?;
        let cancel: Cancel = Arc::new(AtomicBool::new(false));
        let cancelled = cancel.clone();
        spawn("import", move || work(&cancelled, place)).map_err(|_| Full)?;
        Ok(cancel)
    }

    /// Begins an anonymous put on a thread of its own: the tree is imported into a store apart and given to keepers by the inner
    /// node that `begin` makes for `job`. Set the returned flag to give it up.
    pub fn give(
        &self,
        job: JobId,
        request: ImportRequest,
        begin: Command,
        force: bool,
        mut tell: Box<dyn FnMut(ImportEvent) + Send>,
    ) -> Result<Cancel, Full> {
        let group = self.shards.clone();
        let (dir, limit) = (self.dir.clone(), self.local_limit);
        self.on_import_thread(move |cancelled, imported| {
            let command = |command| group.command(command);
            let news = group.giver(job);
            let one = Give { job, dir: &dir, limit, force, begin, command: &command, news, cancelled };
            let mut progress = |made: &ImportProgress, given: &Given| {
                tell(match given.chunks {
                    0 => ImportEvent::Progress(*made),
                    _ => ImportEvent::Giving(*made, *given),
                });
            };
            let result = give(request, one, &mut progress);
            drop(imported);
            group.gave(job);
            tell(match result {
                Ok((reference, made, given)) => ImportEvent::Given(Box::new(reference), made, given),
                Err(why) => ImportEvent::Failed(why),
            });
        })
    }

    /// Makes the host's device and what leads to it as the plan says; `None` takes it away. Blocks until the kernel and
    /// the shards have followed. An error is one clear line; nothing is left behind then.
    pub fn tunnel(&self, plan: Option<&Plan>) -> Result<(), String> {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(plan) = plan else { return self.take_down(&mut device) };
        if device.as_ref().is_some_and(|device| device.name != plan.device) {
            self.take_down(&mut device)?;
        }
        if device.as_ref().is_some_and(|device| if_nametoindex(device.name.as_str()).is_err()) {
            // Somebody deleted it, and with it what was undone otherwise.
            let _ = self.take_down(&mut device);
        }
        let fresh = device.is_none();
        if fresh {
            let shards = self.shards.shards();
            let queues = tun::open(&plan.device, shards.len()).map_err(|error| error.to_string())?;
            for (shard, queue) in shards.iter().zip(queues) {
                shard.device(Some(queue)).map_err(|error| error.to_string())?;
            }
        }
        match netconf::apply(plan) {
            Ok(applied) => {
                // What the device was before is what it was before the first of the plans.
                let _ = device.get_or_insert(Device { name: plan.device.clone(), applied });
                Ok(())
            }
            Err(error) => {
                if fresh {
                    // A kill switch that is there is there to stay.
                    if !plan.kill_switch {
                        let _ = netconf::clean(&plan.device);
                    }
                    self.close_queues();
                }
                Err(error.to_string())
            }
        }
    }

    fn take_down(&self, device: &mut Option<Device>) -> Result<(), String> {
        let Some(Device { applied, .. }) = device.take() else { return Ok(()) };
        let undone = applied.undo().map_err(|error| error.to_string());
        self.close_queues();
        undone
    }

    /// The device goes with its last queue: waits until the shards have closed theirs.
    fn close_queues(&self) {
        let shards = self.shards.shards();
        let refused = shards.iter().filter(|shard| shard.device(None).is_err()).count();
        for _ in 0..DEVICE_CLOSE_MS_MAX {
            if shards.iter().all(|shard| shard.devices_open() == 0) {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        tracing::warn!(refused, "the shards have not closed the tunnels' device in time");
    }

    /// A pipe to the shard that has the node's own circuit, which uses it from now on.
    pub fn pipe(&self) -> Result<Arc<Pipe>, String> {
        let first = &self.shards.shards()[0];
        let pipe = Pipe::new(first.clone()).map_err(|error| format!("starting the SOCKS proxy: {error}"))?;
        let pipe = Arc::new(pipe);
        first.pipe(Some(pipe.clone())).map_err(|error| error.to_string())?;
        Ok(pipe)
    }

    /// Has the shard forget its pipe.
    pub fn close_pipe(&self) {
        if self.shards.shards()[0].pipe(None).is_err() {
            tracing::warn!("the shard keeps the SOCKS proxy's queues: it is busy");
        }
    }

    /// The daemon's clocks.
    pub fn clocks(&self) -> Clocks {
        self.clocks
    }

    /// Counters of the loops, summed.
    pub fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.shards.counters()
    }

    /// How long things took, shard by shard.
    pub fn latencies(&self) -> Vec<Latencies> {
        self.shards.latencies()
    }

    /// Published chunks from a place in their order on, each with its place.
    pub fn local_chunks(&self, from: u64, most: usize) -> Result<Vec<(u64, ChunkId)>, String> {
        self.readers.local_chunks(from, most).map_err(|error| error.to_string())
    }

    /// Chunks kept for others from a place in their order on, likewise.
    pub fn kept_chunks(&self, from: u64, most: usize) -> Result<Vec<(u64, ChunkId)>, String> {
        self.readers.kept_chunks(from, most).map_err(|error| error.to_string())
    }

    /// The store's numbers.
    pub fn store_stats(&self) -> StoreStats {
        self.readers.stats()
    }

    /// Waits until every thread has ended after [`Command::Shutdown`], and closes the store.
    pub fn join(&self) {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Device { applied, .. }) = device.take()
            && let Err(error) = applied.undo()
        {
            tracing::warn!("taking the tunnels down: {error}");
        }
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
fn core_of(listen: &[SocketAddr], index: usize) -> Option<usize> {
    let allowed = affinity::allowed().ok().filter(|cores| !cores.is_empty())?;
    let port = listen.first().map_or(0, SocketAddr::port);
    let number = if port == 0 { index } else { usize::from(port) };
    Some(allowed[number % allowed.len()])
}

/// Which of `count` shards is a peer's home.
fn home_of(identity: &Identity, count: usize) -> HomeOf {
    let homes = Homes::new(identity, count.try_into().unwrap_or(SHARDS_MAX));
    Box::new(move |peer| homes.of(peer))
}

/// One of the [`IMPORTS_MAX`] places of imports, until it is dropped.
struct Importing(Arc<AtomicUsize>);

impl Importing {
    fn begin(under_way: &Arc<AtomicUsize>) -> Result<Self, Full> {
        let place = Self(Arc::clone(under_way));
        if under_way.fetch_add(1, Ordering::Relaxed) >= IMPORTS_MAX {
            return Err(Full);
        }
        Ok(place)
    }
}

impl Drop for Importing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    let cannot = |error: std::io::Error| format!("cannot start the thread {name}: {error}");
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(cannot)
}
