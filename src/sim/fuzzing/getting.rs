//! A `get` of a hostile tree: it ends, it writes only what it was asked to where it may, and its buffers come
//! back. A `get` of an honest tree restores it, whatever order things come in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Input;
use super::trees::{Chunks, Files, Forge, content, put};
use crate::base::fileop::{FileAct, FileDone, FileFault, FileOp, FileOutcome, JobId, JournalRecord};
use crate::base::{RangeSet, SlicePool};
use crate::chunk::SliceList;
use crate::limits::{DIRECTORY_DEPTH_MAX, FILE_OPS_PER_JOB_MAX, SLICE_SIZE, SYMLINK_MAX};
use crate::service::fetch::Target;
use crate::service::get::{Get, GetRequest};
use crate::wire::directory::name_is_valid;

const RECORDS: usize = 24;
const JOB: JobId = JobId(1);
const ROUNDS_MAX: usize = 20_000;

/// A file as the executor sees it.
struct Open {
    name: Vec<u8>,
    size: u64,
    written: RangeSet,
    bytes: Vec<u8>,
}

/// The executor of file operations: it keeps small files only, and checks all.
#[derive(Default)]
struct Executor {
    begun: bool,
    ended: bool,
    /// Depth of each directory.
    dirs: BTreeMap<u32, usize>,
    open: BTreeMap<u32, Open>,
    done: Files,
    names: BTreeSet<(u32, Vec<u8>)>,
    /// Whether an earlier run's journal is claimed to be there.
    resumed: bool,
}

impl Executor {
    fn enter(&mut self, parent: u32, name: &[u8]) {
        assert!(self.dirs.contains_key(&parent), "a directory that was made before");
        assert!(name_is_valid(name), "{name:?}");
        assert!(self.names.insert((parent, name.to_vec())), "each name once");
    }

    fn act(&mut self, act: FileAct, input: &mut Input<'_>) -> FileOutcome {
        assert!(!self.ended, "nothing behind the end");
        assert_eq!(self.begun, !matches!(act, FileAct::Begin { .. }), "it begins once");
        match act {
            FileAct::Begin { root, .. } => {
                assert!(root.starts_with('/'));
                (self.begun, self.dirs) = (true, BTreeMap::from([(0, 0)]));
                return FileOutcome::Began { resumed: self.resumed };
            }
            FileAct::Directory { dir, parent, name } => {
                self.enter(parent, &name);
                let depth = self.dirs[&parent] + 1;
                assert!(depth <= DIRECTORY_DEPTH_MAX + 1 && self.dirs.insert(dir, depth).is_none());
            }
            FileAct::Open { file, parent, name, size } => {
                self.enter(parent, &name);
                let bytes = vec![0; size.min(1 << 20) as usize];
                let open = Open { name, size, written: RangeSet::new(), bytes };
                assert!(self.open.insert(file, open).is_none());
                let count = if self.resumed { input.below(20) } else { 0 };
                let journal = (0..count)
                    .map(|_| JournalRecord { record: input.number().min(1 << 40), tag: [input.byte(); 16] })
                    .collect();
                return FileOutcome::Opened { file, journal };
            }
            FileAct::ReadBack { file, offset, mut into, len, record } => {
                let open = &self.open[&file];
                assert!(offset + u64::from(len) <= open.size && len as usize <= into.len());
                let short = input.one_in(4);
                let len = if short { len.saturating_sub(input.byte().into()) } else { len };
                into[..len as usize].fill(input.byte());
                return FileOutcome::Read { file, record, data: into, len };
            }
            FileAct::Write { file, offset, data, start, len, .. } => {
                let open = self.open.get_mut(&file).expect("open");
                let end = offset + u64::from(len);
                assert!(len > 0 && end <= open.size, "inside the file");
                assert_eq!(open.written.insert(offset..end), u64::from(len), "each byte once");
                let plain = &data[start as usize..(start + len) as usize];
                if let Some(place) = open.bytes.get_mut(offset as usize..end as usize) {
                    place.copy_from_slice(plain);
                }
                return FileOutcome::Written { len };
            }
            FileAct::Finish { file, mode, .. } => {
                let open = self.open.remove(&file).expect("open");
                assert!(mode <= 0o7777);
                assert!(self.resumed || open.written.covers(0..open.size), "complete");
                self.done.insert(open.name, open.bytes);
            }
            FileAct::Whole { parent, name, data, start, len, mode, .. } => {
                self.enter(parent, &name);
                assert!(mode <= 0o7777 && data.is_some() == (len > 0));
                let plain =
                    data.map_or_else(Vec::new, |data| data[start as usize..(start + len) as usize].to_vec());
                self.done.insert(name, plain);
                return FileOutcome::Written { len };
            }
            FileAct::Symlink { parent, name, target, .. } => {
                self.enter(parent, &name);
                assert!((1..=SYMLINK_MAX).contains(&target.len()));
            }
            FileAct::FinishDirectory { dir, mode, .. } => {
                assert!(mode <= 0o7777 && self.dirs.contains_key(&dir));
            }
            FileAct::End { complete } => {
                assert!(!complete || self.open.is_empty(), "nothing is left half done");
                self.ended = true;
            }
        }
        FileOutcome::Done
    }
}

/// Slices that were wanted and did not come.
type Wants = VecDeque<(Target, u32)>;

fn serve(get: &mut Get, chunks: &Chunks, pool: &SlicePool, target: Target, index: u32) {
    // The fetch verifies, so only a chunk that is what the target says brings anything.
    let chunk = chunks.get(&target.id).filter(|chunk| {
        chunk.len() == target.len as usize && *SliceList::from_chunk(chunk).root() == target.root
    });
    let Some(chunk) = chunk else { return get.unavailable(&target, 0, false) };
    let Some(slice) = chunk.chunks(SLICE_SIZE).nth(index as usize) else { return };
    let Some(mut data) = pool.lease() else { panic!("slices are given back") };
    data[..slice.len()].copy_from_slice(slice);
    get.slice(target, index, data, slice.len(), None);
}

/// Honest files, of names that a path can have.
fn honest_files(input: &mut Input<'_>) -> Files {
    let count = 1 + input.below(12) as u8;
    let mut file = |number: u8| {
        let len = match input.byte() % 8 {
            0 => 65_000 + usize::from(input.half()) % 2000,
            1 => 0,
            2 => usize::from(input.half()),
            _ => usize::from(input.byte()),
        };
        (vec![b'a' + number], content(input.byte(), len))
    };
    (0..count).map(&mut file).collect()
}

/// See the module.
pub fn get(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let honest = input.flag().then(|| honest_files(&mut input));
    let mut forge = Forge::default();
    let (reference, chunks) = match &honest {
        Some(files) => put(files),
        None => match forge.tree(&mut input) {
            Some(reference) => (reference, forge.chunks),
            None => return,
        },
    };
    let inside: Vec<Vec<u8>> = match input.byte() % 4 {
        0 => vec![b"top".to_vec()],
        1 => (0..1 + input.below(3)).map(|_| vec![b'a' + input.byte() % 12]).collect(),
        _ => Vec::new(),
    };
    let rename = (input.one_in(8)).then(|| b"other".to_vec());
    let (merge, overwrite) = (input.flag(), input.flag());
    let request = GetRequest {
        job: JOB,
        reference,
        inside: inside.clone(),
        root: "/out".into(),
        rename,
        merge,
        overwrite,
    };
    let records = SlicePool::new(RECORDS);
    let slices = SlicePool::new(4096);
    let mut get = Get::new(records.clone());
    get.start(request).expect("the first");
    let mut executor = Executor { resumed: input.one_in(4), ..Executor::default() };
    let (mut wants, mut ops): (Wants, VecDeque<FileOp>) = Default::default();
    // A disk that fails once fails on.
    let (mut troubled, mut failed, mut broken, mut ended) = (false, false, false, None);
    for round in 0.. {
        assert!(round < ROUNDS_MAX, "the job does not end: {:?}", get.progress().next());
        while let Some((_, target, mask)) = get.poll_want() {
            assert!(mask != 0 && target.slices() <= 16);
            for index in (0..16).filter(|index| mask >> index & 1 == 1) {
                if !wants.contains(&(target, index)) {
                    wants.push_back((target, index));
                }
            }
        }
        while get.poll_abandoned().is_some() {}
        while let Some(op) = get.poll_op() {
            ops.push_back(op);
        }
        // One slice may complete many records; each holds a buffer, and may finish its file.
        assert!(ops.len() <= FILE_OPS_PER_JOB_MAX + 2 * RECORDS + 1, "{} operations", ops.len());
        if let Some(end) = get.poll_ended() {
            assert!(ended.is_none());
            ended = Some(end);
        }
        let choice = input.byte();
        match choice % 8 {
            7 if choice >= 0xf0 => {
                troubled = true;
                get.cancel(JOB, "enough");
            }
            6 if choice >= 0xf0 => {
                troubled = true;
                if let Some((target, _)) = wants.front().copied() {
                    get.unavailable(&target, 0, false);
                }
            }
            0..=3 if !wants.is_empty() => {
                let at = input.below(wants.len());
                if let Some((target, index)) = wants.remove(at)
                    && get.wants_chunk(&target)
                {
                    serve(&mut get, &chunks, &slices, target, index);
                }
            }
            _ => {
                // Operations are answered in order.
                let Some(FileOp { job, act }) = ops.pop_front() else {
                    if wants.is_empty() {
                        break;
                    }
                    continue;
                };
                let may_fail = !matches!(act, FileAct::Begin { .. });
                let is_end = matches!(act, FileAct::End { .. });
                // There is one end, so it fails more often.
                broken |= may_fail && input.byte() >= if is_end { 0xe0 } else { 0xff };
                let result = if broken && may_fail {
                    (troubled, failed) = (true, true);
                    // A failed end is an end: the executor forgets the job.
                    executor.ended |= is_end;
                    Err(FileFault { message: "disk full".into(), retryable: true })
                } else {
                    Ok(executor.act(act, &mut input))
                };
                get.file_done(FileDone { job, result });
            }
        }
    }
    let ended = ended.or_else(|| get.poll_ended()).expect("a job that is given all it wants ends");
    assert_eq!(executor.ended, executor.begun, "what was begun is ended");
    assert!(!failed || ended.result.is_err(), "what could not be done is no success");
    drop(ops);
    assert_eq!((records.available(), slices.available()), (RECORDS, 4096), "all buffers came back");
    assert!(get.is_idle() && get.poll_want().is_none() && get.poll_op().is_none());
    if let Some(files) = honest
        && !troubled
        && inside.iter().all(|part| part == b"top")
        && !executor.resumed
    {
        assert_eq!(ended.result, Ok(()));
        assert!(executor.done == files, "restored as it was");
        assert_eq!(ended.progress.files_done, files.len() as u64);
    }
}
