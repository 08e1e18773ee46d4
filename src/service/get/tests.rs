use std::collections::BTreeMap;

use super::*;
use crate::base::fileop::{FileAct, FileFault, FileOutcome, FileTime};
use crate::base::{ChunkId, Rng};
use crate::chunk::PieceHash;
use crate::limits::{GET_LISTS_BYTES, PIECE_PLAIN_MAX, RECORD_BUFFERS, RECORD_PLAIN, SLICE_SIZE};
use crate::service::put::{Known, Put};
use crate::wire::locator::Locator;

struct Nothing;
impl Known for Nothing {
    fn find(&mut self, _: &PieceHash) -> Option<Locator> {
        None
    }
}

type Chunks = BTreeMap<ChunkId, Vec<u8>>;

/// Files below directories of one level: `directory/name` and the content.
fn put(files: &[(String, String, Vec<u8>)]) -> (Reference, Chunks) {
    let mut put = Put::new(None);
    let mut chunks = Chunks::new();
    for group in files.chunk_by(|a, b| a.0 == b.0) {
        put.begin_directory(group[0].0.as_bytes(), 0o755, FileTime::default()).unwrap();
        for (_, name, bytes) in group {
            put.begin_file(name.as_bytes(), 0o644, FileTime::default()).unwrap();
            bytes.chunks(PIECE_PLAIN_MAX).for_each(|piece| put.piece(piece, &mut Nothing).unwrap());
            put.end_file().unwrap();
        }
        put.end_directory();
    }
    loop {
        let done = put.finish(&mut Nothing).unwrap();
        while let Some(chunk) = put.poll_chunk() {
            chunks.insert(chunk.id, chunk.bytes.clone());
        }
        while put.poll_publication().is_some() {}
        if let Some(reference) = done {
            return (reference, chunks);
        }
    }
}

fn file(directory: &str, name: impl ToString, bytes: Vec<u8>) -> (String, String, Vec<u8>) {
    (directory.into(), name.to_string(), bytes)
}

fn request(job: u64, reference: &Reference, inside: &[&str]) -> GetRequest {
    GetRequest {
        job: JobId(job),
        reference: reference.clone(),
        inside: inside.iter().map(|part| part.as_bytes().to_vec()).collect(),
        root: "/out".into(),
        rename: None,
        merge: false,
        overwrite: false,
    }
}

/// Serves wants and answers operations until nothing moves; slices for which `serves` is false never come.
fn run(get: &mut Get, chunks: &Chunks, serves: impl Fn(&ChunkId, usize) -> bool) -> Vec<[u8; 16]> {
    let (pool, mut journals) = (SlicePool::new(4096), Vec::new());
    loop {
        let mut moved = false;
        // The fetch asks once for what several want.
        let mut wants = BTreeMap::new();
        while let Some((_, target, mask)) = get.poll_want() {
            *wants.entry(target).or_insert(0) |= mask;
        }
        for (target, mask) in wants {
            moved = true;
            for (index, slice) in chunks[&target.id].chunks(SLICE_SIZE).enumerate() {
                if mask >> index & 1 == 1 && serves(&target.id, index) {
                    let mut data = pool.lease().unwrap();
                    data[..slice.len()].copy_from_slice(slice);
                    get.slice(target, index as u32, data, slice.len(), None);
                }
            }
        }
        while let Some(FileOp { job, act }) = get.poll_op() {
            if let FileAct::Begin { journal, .. } = act {
                journals.push(journal);
            }
            get.file_done(FileDone { job, result: Ok(outcome(&act)) });
            moved = true;
        }
        if !moved {
            return journals;
        }
    }
}

fn outcome(act: &FileAct) -> FileOutcome {
    match *act {
        FileAct::Begin { .. } => FileOutcome::Began { resumed: false },
        FileAct::Open { file, .. } => FileOutcome::Opened { file, journal: Vec::new() },
        FileAct::Write { len, .. } | FileAct::Whole { len, .. } => FileOutcome::Written { len },
        _ => FileOutcome::Done,
    }
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::from_number(seed).fill(&mut bytes);
    bytes
}

#[test]
fn copies_of_a_file_that_crosses_a_slice_border_do_not_eat_each_others_buffers() {
    // Such sizes that the packer's gaps do not suffice, so some of the sixteen lie across a border.
    let contents: Vec<_> = (0..16).map(|n| bytes(n, 60_000)).collect();
    let files: Vec<_> = (0..1600).map(|n| file("d", format!("{n:04}"), contents[n % 16].clone())).collect();
    let (reference, chunks) = put(&files);
    let mut get = Get::new(SlicePool::new(64));
    get.start(request(1, &reference, &[])).unwrap();
    run(&mut get, &chunks, |_, _| true);
    let ended = get.poll_ended().expect("ended");
    assert_eq!((ended.result, ended.progress.files_done), (Ok(()), 1600));
}

#[test]
fn the_extent_lists_of_many_large_files_are_not_all_held_at_once() {
    let large = bytes(4, PIECE_PLAIN_MAX + 1);
    let files: Vec<_> = (0..600).map(|n| file("d", format!("{n:03}"), large.clone())).collect();
    let (reference, chunks) = put(&files);
    let mut most = 0;
    // A server that sends only so many slices: among them are the directories, and not the lists.
    for served in 0..8 {
        let mut get = Get::new(SlicePool::new(RECORD_BUFFERS));
        get.start(request(1, &reference, &[])).unwrap();
        let sent = std::cell::Cell::new(0);
        run(&mut get, &chunks, |_, _| sent.replace(sent.get() + 1) < served);
        most = most.max(get.jobs.values().next().map_or(0, Job::lists_read));
    }
    assert!(most > 0 && most <= GET_LISTS_BYTES as usize / RECORD_PLAIN + 1, "{most} lists are read at once");
    let mut get = Get::new(SlicePool::new(RECORD_BUFFERS));
    get.start(request(1, &reference, &[])).unwrap();
    run(&mut get, &chunks, |_, _| true);
    assert_eq!(get.poll_ended().expect("ended").result, Ok(()));
}

#[test]
fn what_lies_inside_a_reference_has_a_journal_of_its_own() {
    let (reference, chunks) = put(&[file("x", "f", bytes(5, 10)), file("y", "f", bytes(6, 10))]);
    let mut get = Get::new(SlicePool::new(64));
    get.start(request(1, &reference, &["x", "f"])).unwrap();
    get.start(request(2, &reference, &["y", "f"])).unwrap();
    let journals = run(&mut get, &chunks, |_, _| true);
    assert!(journals.len() == 2 && journals[0] != journals[1]);
}

/// Found by `cargo xtask crash kill-get`: a resumed get asked for the slice of each small file when that file's
/// journal had been read, and so for slices again that it had just had for others.
#[test]
fn a_resumed_get_fetches_a_slice_that_many_files_share_once() {
    let files: Vec<_> = (0..3000).map(|n| file("d", format!("{n:04}"), bytes(n, 700))).collect();
    let (reference, chunks) = put(&files);
    let mut get = Get::new(SlicePool::new(RECORD_BUFFERS));
    get.start(request(1, &reference, &[])).unwrap();
    let (pool, mut served) = (SlicePool::new(4096), BTreeMap::new());
    let mut began = false;
    // The disk answers a few operations while the peer serves all that was asked for.
    while get.poll_ended().is_none() {
        let mut wants = BTreeMap::new();
        while let Some((_, target, mask)) = get.poll_want() {
            *wants.entry(target).or_insert(0) |= mask;
        }
        for (target, mask) in wants {
            for (index, slice) in chunks[&target.id].chunks(SLICE_SIZE).enumerate() {
                if mask >> index & 1 == 1 {
                    // Directories, which are read before, lie in slices with files.
                    *served.entry((target.id, index)).or_insert(0) += usize::from(began);
                    let mut data = pool.lease().unwrap();
                    data[..slice.len()].copy_from_slice(slice);
                    get.slice(target, index as u32, data, slice.len(), None);
                }
            }
        }
        for _ in 0..5 {
            let Some(FileOp { job, act }) = get.poll_op() else { break };
            let outcome = match act {
                FileAct::Begin { .. } => FileOutcome::Began { resumed: true },
                FileAct::Open { file, .. } => FileOutcome::Opened { file, journal: Vec::new() },
                FileAct::Write { len, .. } | FileAct::Whole { len, .. } => FileOutcome::Written { len },
                _ => FileOutcome::Done,
            };
            began |= matches!(outcome, FileOutcome::Opened { .. });
            get.file_done(FileDone { job, result: Ok(outcome) });
        }
    }
    let most = served.values().max().copied().unwrap_or(0);
    assert!(served.len() > 20 && most <= 1, "a slice was fetched {most} times");
}

#[test]
fn two_jobs_that_share_buffers_both_end() {
    let files: Vec<_> = (0..2000).map(|n| file("d", format!("{n:04}"), bytes(n, 3_000))).collect();
    let (reference, chunks) = put(&files);
    let mut get = Get::new(SlicePool::new(300));
    (1..=3).for_each(|job| get.start(request(job, &reference, &[])).unwrap());
    run(&mut get, &chunks, |_, _| true);
    for _ in 0..3 {
        assert_eq!(get.poll_ended().expect("ended").result, Ok(()));
    }
}

#[test]
fn what_was_fetched_is_not_remembered_till_the_end() {
    let (reference, chunks) = put(&[file("d", "large", bytes(7, 9 * PIECE_PLAIN_MAX))]);
    let mut get = Get::new(SlicePool::new(64));
    get.start(request(1, &reference, &[])).unwrap();
    let last = std::cell::Cell::new(0);
    run(&mut get, &chunks, |_, _| last.replace(last.get() + 1) < 100);
    let purposes = get.jobs.values().next().expect("running").purposes();
    assert!(purposes < 6, "{purposes}");
}

#[test]
fn a_job_that_waits_for_buffers_of_another_is_woken() {
    let small = |from: u64| -> Vec<_> { (from..from + 50).map(|n| file("d", n, bytes(n, 500))).collect() };
    let ((one, mut chunks), (two, more)) = (put(&small(100)), put(&small(200)));
    chunks.extend(more);
    let mut get = Get::new(SlicePool::new(2));
    get.start(request(1, &one, &[])).unwrap();
    get.start(request(2, &two, &[])).unwrap();
    run(&mut get, &chunks, |_, _| true);
    for _ in 0..2 {
        assert_eq!(get.poll_ended().expect("ended").result, Ok(()));
    }
}

#[test]
fn several_entries_never_go_to_a_directory_of_another_name() {
    let (reference, chunks) = put(&[file("x", "f", bytes(5, 10)), file("y", "f", bytes(6, 10))]);
    let mut get = Get::new(SlicePool::new(64));
    get.start(GetRequest { rename: Some(vec![b'a', 255]), ..request(1, &reference, &[]) }).unwrap();
    assert!(run(&mut get, &chunks, |_, _| true).is_empty(), "nothing is made");
    assert!(get.poll_ended().expect("ended").result.is_err_and(|why| why.contains("UTF-8")));
}

/// A second end was once asked for behind the first, and what was complete was reported as cancelled.
#[test]
fn a_cancel_behind_the_end_comes_too_late() {
    let (reference, chunks) = put(&[file("d", "f", bytes(8, 10))]);
    let (mut get, pool) = (Get::new(SlicePool::new(64)), SlicePool::new(64));
    get.start(request(1, &reference, &[])).unwrap();
    loop {
        while let Some((_, target, mask)) = get.poll_want() {
            assert_eq!(mask, 1, "small pieces share a slice");
            let (slice, mut data) = (&chunks[&target.id], pool.lease().unwrap());
            data[..slice.len()].copy_from_slice(slice);
            get.slice(target, 0, data, slice.len(), None);
        }
        let FileOp { job, act } = get.poll_op().expect("it goes on");
        if matches!(act, FileAct::End { complete: true }) {
            break;
        }
        get.file_done(FileDone { job, result: Ok(outcome(&act)) });
    }
    get.cancel(JobId(1), "too late");
    assert!(get.poll_op().is_none() && get.poll_ended().is_none());
    get.file_done(FileDone { job: JobId(1), result: Ok(FileOutcome::Done) });
    assert_eq!(get.poll_ended().expect("ended").result, Ok(()));
}

/// The end, and with it the end of the journal, once went out before the last operations were answered.
#[test]
fn a_failure_of_the_last_operations_keeps_the_journal() {
    let (reference, chunks) = put(&[file("d", "f", bytes(9, 10))]);
    let (mut get, pool) = (Get::new(SlicePool::new(64)), SlicePool::new(64));
    get.start(request(1, &reference, &[])).unwrap();
    let mut ends = Vec::new();
    while ends.is_empty() {
        while let Some((_, target, _)) = get.poll_want() {
            let (slice, mut data) = (&chunks[&target.id], pool.lease().unwrap());
            data[..slice.len()].copy_from_slice(slice);
            get.slice(target, 0, data, slice.len(), None);
        }
        // A file thread that is behind: everything is taken before anything is answered.
        let ops: Vec<_> = std::iter::from_fn(|| get.poll_op()).collect();
        assert!(!ops.is_empty(), "it goes on");
        for FileOp { job, act } in ops {
            let result = match act {
                FileAct::FinishDirectory { .. } => Err(FileFault { message: "no".into(), retryable: true }),
                ref act => Ok(outcome(act)),
            };
            get.file_done(FileDone { job, result });
            if let FileAct::End { complete } = act {
                ends.push(complete);
            }
        }
    }
    assert_eq!((ends, get.poll_ended().expect("ended").result), (vec![false], Err("no".into())));
}

/// The end makes what was written durable: where that fails, nothing may be in place.
#[test]
fn an_end_that_fails_is_no_success() {
    let (reference, chunks) = put(&[file("d", "f", bytes(8, 10))]);
    let (mut get, pool) = (Get::new(SlicePool::new(64)), SlicePool::new(64));
    get.start(request(1, &reference, &[])).unwrap();
    loop {
        while let Some((_, target, _)) = get.poll_want() {
            let (slice, mut data) = (&chunks[&target.id], pool.lease().unwrap());
            data[..slice.len()].copy_from_slice(slice);
            get.slice(target, 0, data, slice.len(), None);
        }
        let FileOp { job, act } = get.poll_op().expect("it goes on");
        if matches!(act, FileAct::End { complete: true }) {
            break;
        }
        get.file_done(FileDone { job, result: Ok(outcome(&act)) });
    }
    let fault = FileFault { message: "the disk failed".into(), retryable: true };
    get.file_done(FileDone { job: JobId(1), result: Err(fault) });
    assert_eq!(get.poll_ended().expect("ended").result, Err("the disk failed".into()));
    assert!(get.poll_op().is_none() && get.is_idle());
}
