//! `get`: restores the tree below a reference into files.
//!
//! All running jobs of a shard. Each verified slice goes to every job that wants it. Drain in this order
//! after every call: [`Get::poll_want`] and [`Get::poll_abandoned`] into the fetch, [`Get::poll_op`] to the
//! file thread, [`Get::poll_ended`] to the asker.

mod assemble;
mod find;
mod job;
mod read;
mod restore;
mod tree;

use std::collections::BTreeMap;

use super::fetch::Target;
use crate::base::fileop::{FileDone, FileOp, JobId};
use crate::base::{NodeId, SliceBuf, SlicePool};
use crate::crypto::hash;
use crate::limits::{FILE_OPS_PER_JOB_MAX, GET_JOBS_MAX};
use crate::wire::reference::Reference;
use job::Job;

/// What to fetch and where to put it.
#[derive(Debug)]
pub struct GetRequest {
    /// The job's number, chosen by the asker.
    pub job: JobId,
    /// What.
    pub reference: Reference,
    /// Which part of it: path components below the root; empty for all of it.
    pub inside: Vec<Vec<u8>>,
    /// Absolute path of an existing or creatable directory that receives the result.
    pub root: String,
    /// The name that the fetched entry gets in `root`; `None` keeps its own. Several entries keep their own
    /// names and go into a directory of this name.
    pub rename: Option<Vec<u8>>,
    /// With `rename: None`: whether `root` stands for the fetched entry itself when that is a single
    /// directory, so that its contents are merged into `root` instead of going to `root/own-name`. A single
    /// file, and several entries, go inside `root` under their own names either way.
    pub merge: bool,
    /// Whether existing files are replaced.
    pub overwrite: bool,
}

impl GetRequest {
    /// The name of the journal: the same for the same content in the same place.
    fn journal_name(&self, root: &str, first: Option<&[u8]>) -> [u8; 16] {
        let reference = self.reference.to_string();
        let inside = self.inside.join(&b'/');
        let parts: [&[u8]; 7] =
            [reference.as_bytes(), b"/", &inside, b"\0", root.as_bytes(), b"\0", first.unwrap_or_default()];
        hash::blake3(&parts)[..16].try_into().expect("16 of 32 bytes")
    }
}

/// How far a job is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GetProgress {
    /// Files known so far.
    pub files_total: u64,
    /// Files restored.
    pub files_done: u64,
    /// Plaintext bytes known so far.
    pub bytes_total: u64,
    /// Plaintext bytes restored, resumed ones included.
    pub bytes_done: u64,
    /// Of those, bytes found in an earlier run's files and not fetched again.
    pub bytes_resumed: u64,
    /// Ciphertext bytes of slices received from peers for this job.
    pub bytes_fetched: u64,
    /// Whether the tree's directories have all been read (the totals are final).
    pub planned: bool,
    /// The final name of the entry that was written, once known.
    pub name: Vec<u8>,
    /// Peers that slices came from.
    pub sources: Vec<NodeId>,
    /// What it waits for before anything can be asked for: a circuit of its own.
    pub waits_for: Option<&'static str>,
}

/// All `get` jobs of one shard.
pub struct Get {
    records: SlicePool,
    jobs: BTreeMap<JobId, Job>,
}

impl Get {
    /// `records` gives the buffers of records that are gathered from several slices.
    pub fn new(records: SlicePool) -> Self {
        Self { records, jobs: BTreeMap::new() }
    }

    /// Starts a job; an error is one clear line.
    pub fn start(&mut self, request: GetRequest) -> Result<(), String> {
        if self.jobs.len() >= GET_JOBS_MAX {
            return Err(format!("{GET_JOBS_MAX} gets are running already; wait for one to end"));
        }
        let id = request.job;
        self.jobs.insert(id, Job::new(request, self.records.clone()));
        Ok(())
    }

    /// Gives a job up.
    pub fn cancel(&mut self, id: JobId, why: &str) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.cancel(why);
        }
    }

    /// Whether any job is running.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The running jobs and how far they are.
    pub fn progress(&self) -> impl Iterator<Item = (JobId, &GetProgress)> {
        self.jobs.iter().map(|(id, job)| (*id, &job.progress))
    }

    /// Whether any job still wants something of a chunk.
    pub fn wants_chunk(&self, chunk: &Target) -> bool {
        self.jobs.values().any(|job| job.wants_chunk(chunk))
    }

    /// A verified slice. Returns whether anybody wanted it.
    pub fn slice(
        &mut self,
        chunk: Target,
        index: u32,
        data: SliceBuf,
        len: usize,
        from: Option<NodeId>,
    ) -> bool {
        let mut wanting: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| job.wants_chunk(&chunk)).map(|(id, _)| *id).collect();
        let Some(last) = wanting.pop() else { return false };
        for id in wanting {
            // Jobs that share a chunk each need their own copy, since records are opened in place. A job
            // that finds no buffer asks for the slice again.
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            // Some stay for gathering records, without which no copy could ever be used.
            let spare = self.records.available() > FILE_OPS_PER_JOB_MAX;
            let Some(mut copy) = spare.then(|| self.records.lease()).flatten() else {
                job.want_again(&chunk, index);
                continue;
            };
            copy[..len].copy_from_slice(&data[..len]);
            from.into_iter().for_each(|from| job.came_from(from));
            job.slice(chunk, index, copy, len);
        }
        if let Some(job) = self.jobs.get_mut(&last) {
            from.into_iter().for_each(|from| job.came_from(from));
            job.slice(chunk, index, data, len);
        }
        true
    }

    /// Nobody who is connected has a chunk; `away` friends are not connected; whether the `network` was asked, too.
    pub fn unavailable(&mut self, chunk: &Target, away: usize, network: bool) {
        for job in self.jobs.values_mut().filter(|job| job.wants_chunk(chunk)) {
            job.unavailable(chunk, away, network);
        }
    }

    /// A file operation was done.
    pub fn file_done(&mut self, done: FileDone) {
        if let Some(job) = self.jobs.get_mut(&done.job) {
            job.file_done(done);
        }
        // The buffer that came back may be what another job waits for, and nothing else would wake that one.
        self.jobs.values_mut().filter(|job| job.is_starved()).for_each(Job::go_on);
    }

    /// The next slices to want, and which job wants them.
    pub fn poll_want(&mut self) -> Option<(JobId, Target, u16)> {
        let want = |(id, job): (&JobId, &mut Job)| job.poll_want().map(|(target, mask)| (*id, target, mask));
        self.jobs.iter_mut().find_map(want)
    }

    /// The next file operation.
    pub fn poll_op(&mut self) -> Option<FileOp> {
        self.jobs.iter_mut().find_map(|(id, job)| job.poll_op().map(|act| FileOp { job: *id, act }))
    }

    /// A job that ended: how far it came, how it ended, and the chunks it no longer wants.
    pub fn poll_ended(&mut self) -> Option<Ended> {
        let (id, result) =
            self.jobs.iter_mut().find_map(|(id, job)| job.ended().map(|result| (*id, result)))?;
        let job = self.jobs.remove(&id)?;
        Some(Ended { job: id, result, progress: job.progress })
    }

    /// Chunks that a job gave up since the last question: the fetch may forget those that nobody wants.
    pub fn poll_abandoned(&mut self) -> Option<Target> {
        self.jobs.values_mut().find_map(Job::poll_abandoned)
    }
}

/// How a job ended.
#[derive(Debug)]
pub struct Ended {
    /// Which.
    pub job: JobId,
    /// Complete, or why not.
    pub result: Result<(), String>,
    /// How far it came.
    pub progress: GetProgress,
}

#[cfg(test)]
mod tests;
