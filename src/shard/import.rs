//! One `put`: the tree is walked and read on this thread, pieces are hashed and sealed and chunks are
//! hashed on workers, and chunks go to the store as they close. The reference comes after the commit that
//! makes the last of them durable.
//!
//! ```text
//! walk, read ─▶ jobs ─▶ workers (prepare, hash) ─▶ results ─▶ in the walk's order ─▶ service::put ─▶ store
//! ```
//! At most [`IMPORT_AHEAD`] pieces and chunks are between the two ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use crate::base::ChunkId;
use crate::base::fileop::FileTime;
use crate::chunk::{ClosedChunk, Domain, NewChunk, PieceHash};
use crate::crypto::Secret;
use crate::io::store::{self, Ack, Readers, StoreError, StoreHandle, StoreReader};
use crate::io::tree::{Event, Unreadable, Walk};
use crate::limits::{IMPORT_AHEAD, IMPORT_WORKERS_MAX, PIECE_PLAIN_MAX, PUBLISH_BATCH};
use crate::service::put::{Known, Prepared, Put, PutStats, prepare};
use crate::wire::locator::Locator;
use crate::wire::reference::Reference;

/// What to publish, and how.
pub struct ImportRequest {
    /// Absolute paths of files and directories.
    pub paths: Vec<PathBuf>,
    /// The salt of private content.
    pub salt: Option<Secret>,
    /// What to do about what may not be read.
    pub unreadable: Unreadable,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportProgress {
    /// What the tree and its chunks came to so far.
    pub stats: PutStats,
    /// Plaintext bytes of pieces that lay in chunks already.
    pub bytes_reused: u64,
    /// Of the chunks made, those that were stored already, by an interrupted put perhaps.
    pub chunks_there: u64,
    /// Their ciphertext, bytes.
    pub bytes_there: u64,
    /// Chunks stored before that the new tree uses.
    pub chunks_reused: u64,
    /// Entries left out.
    pub skipped: u64,
    /// Whether the walk is over.
    pub walked: bool,
}

/// Imports; `progress` is called after each chunk and now and then between. An error is one clear line.
pub fn import(
    request: ImportRequest,
    readers: &Readers,
    store: &StoreHandle,
    cancelled: &AtomicBool,
    progress: &mut dyn FnMut(&ImportProgress),
) -> Result<(Reference, ImportProgress), String> {
    let walk = Walk::new(request.paths, request.unreadable).map_err(|error| error.to_string())?;
    let put = Put::new(request.salt.as_ref());
    let workers = Workers::start(request.salt.as_ref(), readers).map_err(|e| e.to_string())?;
    let (acks_to, acks) = unbounded();
    let mut import = Import {
        put,
        workers,
        store,
        known: Publications::new(readers),
        actions: VecDeque::new(),
        prepared: BTreeMap::new(),
        next: 0,
        in_flight: 0,
        publications: Vec::new(),
        acks_to,
        acks,
        unacked: 0,
        cancelled,
        progress,
        state: ImportProgress::default(),
    };
    let result = import.run(walk);
    // What is stored by now is remembered, however it ended: the next put of the same finds it.
    import.publish();
    result.map(|reference| (reference, import.state))
}

/// The publisher's database, as one thread reads it.
struct Publications {
    reader: StoreReader,
    /// The chunks of what was found.
    chunks: BTreeSet<ChunkId>,
}

impl Publications {
    fn new(readers: &Readers) -> Self {
        Self { reader: readers.reader(), chunks: BTreeSet::new() }
    }
}

impl Known for Publications {
    fn find(&mut self, piece: &PieceHash) -> Option<Locator> {
        // A snapshot of its own for each look, so that none is held while this thread waits. A database
        // that cannot be read knows nothing; the writer will say why.
        self.reader.park();
        let found = self.reader.publication(&piece.0).ok().flatten();
        self.reader.park();
        if let Some(locator) = &found {
            self.chunks.insert(locator.chunk);
        }
        found
    }
}

/// What workers do.
enum Work {
    Prepare(u64, Vec<u8>),
    Hash(ClosedChunk),
}

/// What comes of it.
enum Outcome {
    Prepared(u64, Prepared, u64),
    Hashed(NewChunk),
}

struct Workers {
    work: Option<Sender<Work>>,
    results: Receiver<Outcome>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn start(salt: Option<&Secret>, readers: &Readers) -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from).min(IMPORT_WORKERS_MAX);
        let (work, jobs) = bounded::<Work>(IMPORT_AHEAD);
        let (results_to, results) = bounded(IMPORT_AHEAD);
        let spawn = |index: usize| {
            let (jobs, results, readers) = (jobs.clone(), results_to.clone(), readers.clone());
            let domain = Domain::new(salt);
            thread::Builder::new().name(format!("import-{index}")).spawn(move || {
                let mut known = Publications::new(&readers);
                for job in jobs {
                    let result = match job {
                        Work::Prepare(number, plain) => {
                            let prepared = prepare(&plain, &domain, &mut known);
                            Outcome::Prepared(number, prepared, plain.len() as u64)
                        }
                        Work::Hash(chunk) => Outcome::Hashed(chunk.hash()),
                    };
                    if results.send(result).is_err() {
                        return;
                    }
                }
            })
        };
        let threads = (0..count).map(spawn).collect::<io::Result<_>>()?;
        Ok(Self { work: Some(work), results, threads })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.work = None;
        // Workers may wait with a result; nobody wants it now.
        while self.results.recv().is_ok() {}
        self.threads.drain(..).for_each(|thread| {
            let _ = thread.join();
        });
    }
}

/// Steps of the walk that wait for pieces before them.
enum Action {
    BeginDirectory(Vec<u8>, u16, FileTime),
    EndDirectory,
    BeginFile(Vec<u8>, u16, FileTime),
    Piece(u64),
    EndFile,
    Symlink(Vec<u8>, Vec<u8>, FileTime),
}

struct Import<'a> {
    put: Put,
    workers: Workers,
    store: &'a StoreHandle,
    known: Publications,
    actions: VecDeque<Action>,
    prepared: BTreeMap<u64, Prepared>,
    next: u64,
    in_flight: usize,
    publications: Vec<([u8; 32], Locator)>,
    acks_to: Sender<(u64, Result<store::Stored, StoreError>)>,
    acks: Receiver<(u64, Result<store::Stored, StoreError>)>,
    unacked: usize,
    cancelled: &'a AtomicBool,
    progress: &'a mut dyn FnMut(&ImportProgress),
    state: ImportProgress,
}

impl Import<'_> {
    fn run(&mut self, walk: Walk) -> Result<Reference, String> {
        for event in walk {
            self.walked(event.map_err(|error| error.to_string())?)?;
        }
        self.finish()
    }

    fn walked(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::EnterDir { name, mode, mtime } => {
                self.actions.push_back(Action::BeginDirectory(name, mode as u16, mtime));
            }
            Event::LeaveDir => self.actions.push_back(Action::EndDirectory),
            Event::Symlink { name, target, mtime } => {
                self.actions.push_back(Action::Symlink(name, target, mtime));
            }
            Event::File { name, mode, mtime, size, file } => {
                self.actions.push_back(Action::BeginFile(name.clone(), mode as u16, mtime));
                self.read(&name, file, size)?;
                self.actions.push_back(Action::EndFile);
            }
            Event::Skipped { path, why } => {
                tracing::warn!("left out {}: {why}", path.display());
                self.state.skipped += 1;
            }
        }
        self.advance()
    }

    /// Reads a file in pieces, each once: what is hashed is what is sealed, whatever others write meanwhile.
    fn read(&mut self, name: &[u8], file: File, size: u64) -> Result<(), String> {
        let mut file = file.take(u64::MAX);
        loop {
            // One byte more than expected shows the end of a file that fits, without another read.
            let expected = usize::try_from(size.saturating_add(1)).unwrap_or(usize::MAX);
            let mut plain = Vec::with_capacity(expected.min(PIECE_PLAIN_MAX));
            file.set_limit(PIECE_PLAIN_MAX as u64);
            file.read_to_end(&mut plain).map_err(|error| {
                format!("{}: {error}; put again once it can be read", String::from_utf8_lossy(name))
            })?;
            if plain.is_empty() {
                return Ok(());
            }
            let last = plain.len() < PIECE_PLAIN_MAX;
            let number = self.next;
            self.next += 1;
            self.work(Work::Prepare(number, plain))?;
            self.actions.push_back(Action::Piece(number));
            if last {
                return Ok(());
            }
            self.advance()?;
        }
    }

    /// Hands work out, taking results while there is too much under way.
    fn work(&mut self, work: Work) -> Result<(), String> {
        while self.in_flight >= IMPORT_AHEAD {
            self.take_result()?;
        }
        self.in_flight += 1;
        let sender = self.workers.work.as_ref().expect("open until dropped");
        sender.send(work).map_err(|_| "the import's workers ended".to_string())
    }

    fn take_result(&mut self) -> Result<(), String> {
        let result = self.workers.results.recv().map_err(|_| "the import's workers ended".to_string())?;
        self.in_flight -= 1;
        match result {
            Outcome::Prepared(number, prepared, len) => {
                if let Prepared::Known(_, locator) = &prepared {
                    self.state.bytes_reused += len;
                    self.known.chunks.insert(locator.chunk);
                }
                self.prepared.insert(number, prepared);
            }
            Outcome::Hashed(chunk) => {
                self.put.hashed(&chunk);
                self.store_chunk(chunk);
                self.report();
            }
        }
        Ok(())
    }

    fn report(&mut self) {
        self.state.stats = self.put.stats();
        self.state.chunks_reused = self.known.chunks.len() as u64;
        (self.progress)(&self.state);
    }

    fn store_chunk(&mut self, chunk: NewChunk) {
        let acks = self.acks_to.clone();
        let len = chunk.bytes.len() as u64;
        let ack = Ack::new(move |result| {
            // An import that was given up does not listen any more.
            let _ = acks.send((len, result));
        });
        let list = chunk.slices.as_bytes().to_vec();
        let root = *chunk.slices.root();
        self.unacked += 1;
        self.store.put_local(store::NewChunk { id: chunk.id, root, bytes: chunk.bytes, list }, ack);
    }

    /// Takes the walk's steps as far as their pieces are prepared, and moves chunks and publications on.
    fn advance(&mut self) -> Result<(), String> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err("cancelled; what was stored stays, and the next put of the same finds it".into());
        }
        while let Some(action) = self.actions.front() {
            if let Action::Piece(number) = action {
                let Some(prepared) = self.prepared.remove(number) else { break };
                self.put.prepared(prepared).map_err(|error| error.to_string())?;
                self.actions.pop_front();
            } else if let Some(action) = self.actions.pop_front() {
                self.act(action).map_err(|error| error.to_string())?;
            }
            self.move_on()?;
        }
        self.move_on()?;
        while let Ok((len, result)) = self.acks.try_recv() {
            self.acked(len, result)?;
        }
        // Entries without content wait in no queue but this one; it is bounded like the pieces.
        if self.actions.len() > ACTIONS_MAX && self.in_flight > 0 {
            self.take_result()?;
            return self.advance();
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<(), crate::service::put::PutError> {
        match action {
            Action::BeginDirectory(name, mode, mtime) => self.put.begin_directory(&name, mode, mtime)?,
            Action::EndDirectory => self.put.end_directory(),
            Action::BeginFile(name, mode, mtime) => self.put.begin_file(&name, mode, mtime)?,
            Action::EndFile => {
                self.put.end_file()?;
                if self.put.stats().files.is_multiple_of(REPORT_EVERY) {
                    self.report();
                }
            }
            Action::Symlink(name, target, mtime) => self.put.symlink(&name, &target, mtime)?,
            Action::Piece(_) => unreachable!("pieces are taken by number"),
        }
        Ok(())
    }

    /// Closed chunks to the workers, publications to the store behind the chunks that they name.
    fn move_on(&mut self) -> Result<(), String> {
        while let Some(chunk) = self.put.poll_closed() {
            self.work(Work::Hash(chunk))?;
        }
        while let Some((hash, locator)) = self.put.poll_publication() {
            self.publications.push((hash.0, locator));
        }
        if self.publications.len() >= PUBLISH_BATCH {
            self.publish();
        }
        Ok(())
    }

    /// The store does what it is given in order, so a publication is never durable before its chunk.
    fn publish(&mut self) {
        if self.publications.is_empty() {
            return;
        }
        let acks = self.acks_to.clone();
        let ack = Ack::new(move |result| {
            let _ = acks.send((0, result));
        });
        self.unacked += 1;
        self.store.publish(std::mem::take(&mut self.publications), ack);
    }

    /// A chunk of `len` bytes was stored, or (`len` 0) publications were.
    fn acked(&mut self, len: u64, result: Result<store::Stored, StoreError>) -> Result<(), String> {
        self.unacked -= 1;
        if result.map_err(|error| error.to_string())? == store::Stored::AlreadyThere && len > 0 {
            self.state.chunks_there += 1;
            self.state.bytes_there += len;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), String> {
        self.advance()?;
        while self.in_flight > 0 {
            self.take_result()?;
            self.advance()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Reference, String> {
        self.drain()?;
        self.state.walked = true;
        let reference = loop {
            let done = self.put.finish(&mut self.known).map_err(|error| error.to_string())?;
            self.drain()?;
            if let Some(reference) = done {
                break reference;
            }
        };
        self.publish();
        while self.unacked > 0 {
            let (len, result) = self.acks.recv().map_err(|_| "the store ended".to_string())?;
            self.acked(len, result)?;
        }
        self.report();
        Ok(reference)
    }
}

/// Steps of the walk that wait for pieces before them, at most.
const ACTIONS_MAX: usize = 4 * IMPORT_AHEAD;
/// Files between two reports.
const REPORT_EVERY: u64 = 256;

/// Whether and how an import can be stopped from another thread.
pub type Cancel = Arc<AtomicBool>;
