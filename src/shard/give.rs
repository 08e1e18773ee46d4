//! One anonymous `put`: the tree becomes chunks in a store of its own, apart from what this node serves, and each chunk is
//! given to keepers by an inner node through a circuit (docs/protocol/keep.md §5). Then the store goes.
//!
//! ```text
//! import ─▶ DIR/anonymous/JOB/store ─▶ read ─▶ Command::Push ─▶ inner node ─▶ keepers
//!                                       ▲                         │
//!                                       └──── Report::Placed ◀────┘
//! ```

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::Full;
use super::import::{ImportProgress, ImportRequest, import};
use crate::base::fileop::JobId;
use crate::base::{ChunkId, ChunkRead, NewChunk, ReadFault};
use crate::io::store::{Readers, Store, StoreConfig, StoreReader};
use crate::limits::{
    CHUNK_SIZE_MAX, GIVE_CACHE, GIVE_COMMAND_MS, GIVE_SILENT_MS_MAX, PROVIDE_BATCH, PUSH_BYTES_MAX,
    PUSH_CHUNKS_MAX, PUSH_COPIES_MIN,
};
use crate::node::Command;
use crate::node::command::Placed;
use crate::wire::reference::Reference;

/// The folder below a node's own where anonymous puts have theirs.
pub const FOLDER: &str = "anonymous";

/// What happened to a job that gives.
#[derive(Debug)]
pub enum GiveNews {
    /// What came of a chunk.
    Placed(Placed),
    /// It cannot go on; one clear line.
    Failed(String),
}

/// How an anonymous `put` is done.
pub struct Give<'a> {
    /// Its job.
    pub job: JobId,
    /// The node's folder.
    pub dir: &'a Path,
    /// Bytes that its chunks may take at most.
    pub limit: u64,
    /// Whether the reference is given although some chunks have fewer than [`PUSH_COPIES_MIN`] keepers.
    pub force: bool,
    /// Begins the job's circuits and its inner node.
    pub begin: Command,
    /// Hands a command to the node.
    pub command: &'a dyn Fn(Command) -> Result<(), Full>,
    /// What the node says of the job.
    pub news: Receiver<GiveNews>,
    /// Set to give it up.
    pub cancelled: &'a AtomicBool,
}

/// How many keepers chunks have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    /// Chunks given so far.
    pub chunks: u64,
    /// The fewest keepers that any of them has.
    pub keepers_min: u8,
    /// Those with fewer than [`PUSH_COPIES_MIN`].
    pub short: u64,
}

impl Given {
    fn note(&mut self, keepers: u8) {
        self.keepers_min = if self.chunks == 0 { keepers } else { self.keepers_min.min(keepers) };
        self.chunks += 1;
        self.short += u64::from(usize::from(keepers) < PUSH_COPIES_MIN);
    }
}

/// Removes what anonymous puts of an earlier run have left: a daemon that was killed.
pub fn clean(dir: &Path) -> Result<(), String> {
    let path = dir.join(FOLDER);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("removing what an anonymous put left in {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A job's folder, removed with all that is in it.
struct Folder(PathBuf);

impl Folder {
    fn make(dir: &Path, job: JobId) -> Result<Self, String> {
        let above = dir.join(FOLDER);
        let path = above.join(job.0.to_string());
        // What an earlier job left there is not this one's to give.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(above);
        let made = made.and_then(|()| DirBuilder::new().mode(0o700).create(&path));
        made.map_err(|error| format!("making {}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(
                "what an anonymous put made stays in {} until the next start: {error}",
                self.0.display()
            );
        }
    }
}

/// Imports, gives, and removes what it made; an error is one clear line.
pub fn give(
    request: ImportRequest,
    mut give: Give<'_>,
    progress: &mut dyn FnMut(&ImportProgress, &Given),
) -> Result<(Reference, ImportProgress, Given), String> {
    // First, so that a put that will have no circuit says so before it has read everything.
    let begin = std::mem::replace(&mut give.begin, Command::Cancel(give.job));
    (give.command)(begin).map_err(|full| full.to_string())?;
    let mut giving = Giving { give, given: Given::default(), out: BTreeMap::new(), out_bytes: 0 };
    let result = giving.make_and_give(request, progress);
    // Its circuits are needed no more, however it ended.
    let ended = giving.end();
    let (reference, made) = result?;
    ended.map(|()| (reference, made, giving.given))
}

struct Giving<'a> {
    give: Give<'a>,
    given: Given,
    /// Chunks that the node has and has not told of, and their lengths.
    out: BTreeMap<ChunkId, usize>,
    out_bytes: usize,
}

impl Giving<'_> {
    fn make_and_give(
        &mut self,
        request: ImportRequest,
        progress: &mut dyn FnMut(&ImportProgress, &Given),
    ) -> Result<(Reference, ImportProgress), String> {
        let folder = Folder::make(self.give.dir, self.give.job)?;
        let config = StoreConfig { local_limit: self.give.limit, cache_limit: GIVE_CACHE };
        let store = Store::open(&folder.0, config).map_err(|error| error.to_string())?;
        let (readers, cancelled) = (store.readers(), self.give.cancelled);
        let mut failed = None;
        let mut imported = |now: &ImportProgress| {
            progress(now, &Given::default());
            if let Ok(GiveNews::Failed(why)) = self.give.news.try_recv() {
                failed = Some(why);
                cancelled.store(true, Ordering::Relaxed);
            }
        };
        let made = import(request, &readers, &store.handle(), cancelled, &mut imported);
        // It may have failed while the import was about to end well.
        let (reference, made) = match failed {
            Some(why) => return Err(why),
            None => made?,
        };
        self.run(&readers, &mut |given| progress(&made, given))?;
        // Before its folder.
        drop(store);
        Ok((reference, made))
    }

    fn run(&mut self, readers: &Readers, progress: &mut dyn FnMut(&Given)) -> Result<(), String> {
        let mut reader = readers.reader();
        let mut from = 0;
        loop {
            let found = readers.local_chunks(from, PROVIDE_BATCH).map_err(|error| error.to_string())?;
            let Some((last, _)) = found.last() else { break };
            from = last + 1;
            for (_, id) in found {
                while self.out.len() >= PUSH_CHUNKS_MAX || self.out_bytes + CHUNK_SIZE_MAX > PUSH_BYTES_MAX {
                    self.hear(progress)?;
                }
                self.check()?;
                let chunk = read(&mut reader, &id)?;
                self.out_bytes += chunk.bytes.len();
                self.out.insert(id, chunk.bytes.len());
                // A daemon whose inbox is full at four thousand commands has other troubles: the put ends.
                let push = Command::Push { job: self.give.job, chunk: Box::new(chunk), anonymous: true };
                (self.give.command)(push).map_err(|full| full.to_string())?;
            }
        }
        while !self.out.is_empty() {
            self.hear(progress)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        match self.give.cancelled.load(Ordering::Relaxed) {
            true => Err("cancelled; what keepers have by now they keep for as long as they have room".into()),
            false => Ok(()),
        }
    }

    /// Waits for what comes next.
    fn hear(&mut self, progress: &mut dyn FnMut(&Given)) -> Result<(), String> {
        const LOOK: Duration = Duration::from_millis(250);
        for _ in 0..GIVE_SILENT_MS_MAX / LOOK.as_millis() as u64 {
            self.check()?;
            match self.give.news.recv_timeout(LOOK) {
                Ok(GiveNews::Placed(placed)) => return self.placed(placed, progress),
                Ok(GiveNews::Failed(why)) => return Err(why),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("the node has ended".into()),
            }
        }
        Err("the node says nothing of what it gives away: see the daemon's log".into())
    }

    fn placed(&mut self, placed: Placed, progress: &mut dyn FnMut(&Given)) -> Result<(), String> {
        let Some(len) = self.out.remove(&placed.chunk) else { return Ok(()) };
        self.out_bytes -= len;
        self.given.note(placed.keepers);
        progress(&self.given);
        let chunk = placed.chunk;
        match usize::from(placed.keepers) {
            // A reference to what nobody has is worth nothing, whatever was meant.
            0 => Err(format!(
                "nobody who could be reached keeps chunk {chunk}, so nobody could ever get it: the network may be too \
                 small or too full; try again later"
            )),
            few if few < PUSH_COPIES_MIN && !self.give.force => Err(format!(
                "one node alone keeps chunk {chunk}, and {PUSH_COPIES_MIN} are to: the network may be too small or too \
                 full; --force prints the reference all the same"
            )),
            _ => Ok(()),
        }
    }

    /// Has the node end the job, waiting while it is busy.
    fn end(&self) -> Result<(), String> {
        for _ in 0..GIVE_COMMAND_MS {
            if (self.give.command)(Command::Cancel(self.give.job)).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(Full.to_string())
    }
}

/// A whole chunk of the job's own store. May wait for the disk: this is no shard's thread.
fn read(reader: &mut StoreReader, id: &ChunkId) -> Result<NewChunk, String> {
    reader.park();
    let failed = |fault: ReadFault| format!("reading chunk {id}, which was just written: {fault}");
    let stored = reader.find(id).ok_or(ReadFault::Gone).map_err(failed)?;
    let mut list = Vec::new();
    reader.slice_list(stored.handle, &mut list).map_err(failed)?;
    let mut bytes = vec![0; stored.len as usize];
    reader.read(stored.handle, 0, &mut bytes).map_err(failed)?;
    reader.park();
    Ok(NewChunk { id: *id, root: stored.root, bytes, list })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::tree::Unreadable;
    use crossbeam::channel::unbounded;
    use std::sync::Mutex;

    fn request(dir: &Path) -> ImportRequest {
        let input = dir.join("input");
        fs::write(&input, vec![7; 3 << 20]).expect("written");
        ImportRequest { paths: vec![input], salt: None, unreadable: Unreadable::Fail }
    }

    /// Gives to a node that says of each chunk what `keepers` does; what came, and the chunks that the node was given.
    fn run(
        force: bool,
        keepers: impl Fn(usize) -> Option<u8>,
    ) -> (Result<Given, String>, Vec<ChunkId>, bool) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (told, news) = unbounded();
        let chunks = Mutex::new(Vec::new());
        let ended = AtomicBool::new(false);
        let command = |command: Command| {
            match command {
                Command::Push { job, chunk, anonymous } => {
                    assert!(anonymous, "by nobody's name");
                    let mut chunks = chunks.lock().expect("unpoisoned");
                    let said = keepers(chunks.len());
                    chunks.push(chunk.id);
                    let _ = told.send(match said {
                        Some(keepers) => GiveNews::Placed(Placed { job, chunk: chunk.id, keepers }),
                        None => GiveNews::Failed("no circuit".into()),
                    });
                }
                Command::Cancel(_) => ended.store(true, Ordering::Relaxed),
                _ => {}
            }
            Ok(())
        };
        let request = request(dir.path());
        let one = Give {
            job: JobId(3),
            dir: dir.path(),
            limit: 64 << 20,
            force,
            begin: Command::Status { token: 0 },
            command: &command,
            news,
            cancelled: &AtomicBool::new(false),
        };
        let result = give(request, one, &mut |_, _| {});
        assert!(!dir.path().join(FOLDER).join("3").exists(), "what it made is gone");
        let ended = ended.load(Ordering::Relaxed);
        (result.map(|(.., given)| given), chunks.into_inner().expect("unpoisoned"), ended)
    }

    #[test]
    fn every_chunk_is_given_and_nothing_is_left() {
        let (given, chunks, ended) = run(false, |at| Some(if at == 1 { 2 } else { 4 }));
        let given = given.expect("given");
        assert!(chunks.len() >= 2 && given.chunks == chunks.len() as u64 && ended);
        assert_eq!((given.keepers_min, given.short), (2, 0));
    }

    #[test]
    fn a_chunk_with_too_few_keepers_ends_it_unless_that_is_meant() {
        let (given, _, ended) = run(false, |_| Some(1));
        assert!(given.expect_err("too few").contains("--force") && ended);
        let (given, ..) = run(false, |_| Some(0));
        assert!(given.expect_err("none").contains("nobody"));
        let (given, ..) = run(true, |at| Some(u8::from(at == 0)));
        assert!(given.expect_err("nobody has the second").contains("nobody"), "whatever is forced");
        let (given, chunks, _) = run(true, |_| Some(1));
        assert_eq!(given.expect("forced").short, chunks.len() as u64);
        let (given, _, ended) = run(true, |_| None);
        assert!(given.expect_err("failed") == "no circuit" && ended);
    }

    #[test]
    fn what_a_daemon_that_was_killed_left_is_removed() {
        let dir = tempfile::tempdir().expect("temporary folder");
        clean(dir.path()).expect("nothing is there");
        let left = Folder::make(dir.path(), JobId(1)).expect("made");
        fs::write(left.0.join("file"), "left").expect("written");
        std::mem::forget(left);
        clean(dir.path()).expect("removed");
        assert!(!dir.path().join(FOLDER).exists());
    }
}
