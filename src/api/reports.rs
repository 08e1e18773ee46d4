//! The way back from the node: its reports reach whoever waits for them.
//!
//! Shards call [`Reports::deliver`] from their own threads; it never waits. Progress is a value, not a
//! queue: a slow reader sees the latest, and nothing piles up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{oneshot, watch};

use crate::base::fileop::JobId;
use crate::limits::{API_QUESTIONS_MAX, GET_JOBS_MAX};
use crate::node::command::{GetProgress, Known, Report, Snapshot};

/// Where a `get` stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// Under way.
    Running(GetProgress),
    /// Complete.
    Done(GetProgress),
    /// Over; one clear line.
    Failed(String),
}

/// The router. Clones share everything.
#[derive(Clone, Default)]
pub struct Reports {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    fatal: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct Waiting {
    jobs: BTreeMap<JobId, watch::Sender<JobState>>,
    questions: BTreeMap<u64, oneshot::Sender<Box<Snapshot>>>,
    /// Whoever asked for peers that were met; one at a time asks.
    peers: Option<oneshot::Sender<Vec<Known>>>,
    next_token: u64,
}

/// The reports of one job, until dropped.
pub struct JobReports {
    job: JobId,
    reports: Reports,
    state: watch::Receiver<JobState>,
}

/// A question to the node that waits for its answer, until dropped.
pub struct Question {
    token: u64,
    reports: Reports,
    answer: Option<oneshot::Receiver<Box<Snapshot>>>,
}

impl Reports {
    /// A router that nobody waits at.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands a report to whoever waits for it; drops it when nobody does. Never blocks for long.
    pub fn deliver(&self, report: Report) {
        let waiting = self.waiting();
        let tell = |job: &JobId, state: JobState| {
            if let Some(listener) = waiting.jobs.get(job) {
                listener.send_replace(state);
            }
        };
        match report {
            Report::Progress(job, progress) => tell(&job, JobState::Running(progress)),
            Report::Done(job, progress) => tell(&job, JobState::Done(progress)),
            Report::Failed(job, why) => tell(&job, JobState::Failed(why)),
            // For the thread that gives, which hears of it before.
            Report::Placed(_) => {}
            Report::Warning(line) => tracing::warn!("{line}"),
            Report::Peers(known) => {
                let mut waiting = waiting;
                if let Some(asker) = waiting.peers.take() {
                    let _ = asker.send(known);
                }
            }
            Report::Status(token, snapshot) => {
                let mut waiting = waiting;
                if let Some(asker) = waiting.questions.remove(&token) {
                    // An asker that has gone since is no loss.
                    let _ = asker.send(snapshot);
                }
            }
        }
    }

    /// A thread of the node ended by itself: every job fails, and the daemon ends with this line.
    pub fn fatal(&self, why: &str) {
        for listener in self.waiting().jobs.values() {
            listener.send_replace(JobState::Failed(why.to_owned()));
        }
        self.shared.fatal.send_replace(Some(why.to_owned()));
    }

    /// Returns when [`Self::fatal`] was called, with its line.
    pub async fn failure(&self) -> String {
        let mut fatal = self.shared.fatal.subscribe();
        let why = fatal.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        match why {
            Some(why) => why,
            // The sender lives as long as this router: never.
            None => std::future::pending().await,
        }
    }

    /// Subscribes to a job before it is begun; `None` when too many jobs are.
    pub fn job(&self, job: JobId) -> Option<JobReports> {
        let mut waiting = self.waiting();
        if waiting.jobs.len() >= GET_JOBS_MAX {
            return None;
        }
        let (sender, state) = watch::channel(JobState::Running(GetProgress::default()));
        waiting.jobs.insert(job, sender);
        Some(JobReports { job, reports: self.clone(), state })
    }

    /// Prepares to hear of peers that were met, instead of whoever asked before.
    pub fn peers(&self) -> oneshot::Receiver<Vec<Known>> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().peers = Some(sender);
        receiver
    }

    /// Prepares a question; `None` when too many wait for answers.
    pub fn question(&self) -> Option<Question> {
        let mut waiting = self.waiting();
        if waiting.questions.len() >= API_QUESTIONS_MAX {
            return None;
        }
        waiting.next_token += 1;
        let token = waiting.next_token;
        let (sender, answer) = oneshot::channel();
        waiting.questions.insert(token, sender);
        Some(Question { token, reports: self.clone(), answer: Some(answer) })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        super::lock(&self.shared.waiting)
    }
}

impl JobReports {
    /// The latest state; waits for one that was not seen yet.
    pub async fn next(&mut self) -> JobState {
        match self.state.changed().await {
            Ok(()) => self.state.borrow_and_update().clone(),
            Err(_) => JobState::Failed("the node has ended".to_owned()),
        }
    }
}

impl Drop for JobReports {
    fn drop(&mut self) {
        self.reports.waiting().jobs.remove(&self.job);
    }
}

impl Question {
    /// The number for [`crate::node::command::Command::Status`].
    pub fn token(&self) -> u64 {
        self.token
    }

    /// The answer; `None` when there will be none.
    pub async fn answer(mut self) -> Option<Box<Snapshot>> {
        self.answer.take()?.await.ok()
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.reports.waiting().questions.remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
    }

    #[test]
    fn a_slow_reader_sees_the_latest_and_the_end() {
        let reports = Reports::new();
        let mut job = reports.job(JobId(1)).expect("room");
        for bytes_done in 1..=1000 {
            reports.deliver(Report::Progress(JobId(1), GetProgress { bytes_done, ..Default::default() }));
        }
        reports.deliver(Report::Done(JobId(2), GetProgress::default()));
        let state = block_on(job.next());
        assert_eq!(state, JobState::Running(GetProgress { bytes_done: 1000, ..Default::default() }));
        reports.deliver(Report::Failed(JobId(1), "no".into()));
        assert_eq!(block_on(job.next()), JobState::Failed("no".into()));
    }

    #[test]
    fn whoever_leaves_is_forgotten_and_bounds_hold() {
        let reports = Reports::new();
        let jobs: Vec<_> = (0..GET_JOBS_MAX as u64).map(|n| reports.job(JobId(n)).expect("room")).collect();
        assert!(reports.job(JobId(999)).is_none());
        drop(jobs);
        assert!(reports.job(JobId(999)).is_some());
        let questions: Vec<_> = (0..API_QUESTIONS_MAX).map(|_| reports.question().expect("room")).collect();
        assert!(reports.question().is_none());
        drop(questions);
        let question = reports.question().expect("room");
        reports.deliver(Report::Status(question.token(), Box::default()));
        assert!(block_on(question.answer()).is_some());
        assert!(reports.waiting().questions.is_empty() && reports.waiting().jobs.is_empty());
    }

    #[test]
    fn a_dead_shard_fails_its_jobs() {
        let reports = Reports::new();
        let mut job = reports.job(JobId(1)).expect("room");
        reports.fatal("shard 0 ended");
        assert_eq!(block_on(job.next()), JobState::Failed("shard 0 ended".into()));
        assert_eq!(block_on(reports.failure()), "shard 0 ended");
    }
}
