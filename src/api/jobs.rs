//! `put` and `get`: long answers, one JSON object per line, that end in `done` or `error`. Whoever hangs
//! up gives the job up.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::circuits::{check_hops, exit_key};
use super::error::ApiError;
use super::reports::{JobReports, JobState};
use super::routes::body;
use super::status::{get_json, put_json};
use super::{AnonymousPut, Api, PutEvent, PutHandle, PutProgress, PutRequest, lock, stopped};
use crate::base::fileop::JobId;
use crate::crypto::rank::PLACE_FLOOR_BITS;
use crate::crypto::{Identity, Secret};
use crate::io::entropy::{self, NoEntropy};
use crate::limits::{API_LINES_MAX, API_PROGRESS_MS, GET_JOBS_MAX, NAME_MAX, PUT_JOBS_MAX, PUT_PATHS_MAX};
use crate::node::command::{Anonymous, Command, GetRequest, Work};
use crate::wire::reference;

const STOPPING: &str = "the daemon is stopping: run the same command again once it is back";

/// A path or name as text, or as an array of bytes when it is not UTF-8.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Bytes(Vec<u8>),
}

impl Name {
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    paths: Vec<Name>,
    #[serde(default)]
    salt: bool,
    #[serde(default)]
    skip_unreadable: bool,
    /// Given to keepers through circuits of the job's own, of so many hops.
    hops: Option<u8>,
    /// Their exit: a friend's name, the beginning of its node id or key, or any exit's key.
    exit: Option<String>,
    /// Whether one possible first hop will do.
    #[serde(default)]
    one_friend: bool,
    /// Whether the reference is told although some chunks have too few keepers.
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Get {
    reference: String,
    root: String,
    rename: Option<Name>,
    #[serde(default)]
    merge: bool,
    #[serde(default)]
    overwrite: bool,
    /// Through circuits of the job's own, of so many hops.
    hops: Option<u8>,
    /// Their exit: a friend's name, the beginning of its node id or key, or any exit's key.
    exit: Option<String>,
    /// Whether one possible first hop will do.
    #[serde(default)]
    force: bool,
}

/// What a running job says next.
enum News {
    Progress(Value),
    End(Value),
}

/// A running job. Dropping it gives it up.
trait Job: Send + 'static {
    /// Waits for news; may be dropped while it waits.
    fn next(&mut self) -> impl Future<Output = News> + Send;
}

pub(super) async fn put(State(api): State<Arc<Api>>, request: Body) -> Result<Response, ApiError> {
    let put: Put = body(request).await?;
    api.refuse_while_leaving().await?;
    let paths: Vec<PathBuf> =
        put.paths.into_iter().map(|path| PathBuf::from(OsString::from_vec(path.into_bytes()))).collect();
    if paths.is_empty() || paths.len() > PUT_PATHS_MAX {
        return Err(ApiError::bad(format!("put takes 1 to {PUT_PATHS_MAX} paths")));
    }
    if let Some(path) = paths.iter().find(|path| !is_plain_absolute(path)) {
        return Err(ApiError::bad(format!("{} is not an absolute path", path.display())));
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = paths.iter().find(|path| !names.insert(path.file_name())) {
        let name = twice.file_name().unwrap_or_default().display();
        return Err(ApiError::bad(format!(
            "two of the paths are named {name}: put them one at a time, or a directory of both"
        )));
    }
    let circuit = match put.hops {
        None if put.exit.is_some() || put.one_friend || put.force => {
            return Err(ApiError::bad("exit, one_friend and force are for puts with hops"));
        }
        None => None,
        Some(hops) => {
            check_hops(hops)?;
            let exit = put.exit.map(|text| exit_key(&api.config(), &text)).transpose()?;
            Some((hops, exit, passing_identity().await?))
        }
    };
    // Counted before it begins, so that two requests cannot both take the last place.
    let running = PutEntry::enter(&api)?;
    let job = JobId(running.id);
    let anonymous = circuit.map(|(hops, exit, identity)| {
        let begin = Anonymous { work: Work::Give(job), identity, hops, exit, force: put.one_friend };
        AnonymousPut { job, begin, force: put.force }
    });
    let (sender, events) = watch::channel(PutEvent::Progress(PutProgress::default()));
    let request = PutRequest { paths, salt: put.salt, skip_unreadable: put.skip_unreadable, anonymous };
    let progress = Box::new(move |event: PutEvent| {
        sender.send_replace(event);
    });
    let handle = api.backend.put(request, progress).map_err(|_| ApiError::busy())?;
    let id = running.id;
    Ok(stream(&api, id, PutJob { running, events, _handle: handle }))
}

pub(super) async fn get(State(api): State<Arc<Api>>, request: Body) -> Result<Response, ApiError> {
    let get: Get = body(request).await?;
    api.refuse_while_leaving().await?;
    let (reference, inside) =
        reference::parse_with_path(&get.reference).map_err(|bad| ApiError::bad(bad.to_string()))?;
    if !is_plain_absolute(get.root.as_ref()) {
        return Err(ApiError::bad(format!("{} is not an absolute path", get.root)));
    }
    let rename = get.rename.map(Name::into_bytes);
    if rename.as_ref().is_some_and(|name| !is_plain_name(name)) {
        return Err(ApiError::bad("rename must be a single name, not a path"));
    }
    if get.merge && rename.is_some() {
        return Err(ApiError::bad("merge and rename exclude each other"));
    }
    let circuit = match get.hops {
        None if get.exit.is_some() || get.force => {
            return Err(ApiError::bad("exit and force are for gets with hops"));
        }
        None => None,
        Some(hops) => {
            check_hops(hops)?;
            let exit = get.exit.map(|text| exit_key(&api.config(), &text)).transpose()?;
            Some((hops, exit, passing_identity().await?))
        }
    };
    let job = JobId(api.next_job());
    let full = || {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, format!("{GET_JOBS_MAX} gets are running: wait for one"))
    };
    let reports = api.reports.job(job).ok_or_else(full)?;
    let request = GetRequest {
        job,
        reference,
        inside,
        root: get.root,
        rename,
        merge: get.merge,
        overwrite: get.overwrite,
    };
    let command = match circuit {
        None => Command::Get(request),
        Some((hops, exit, identity)) => {
            let work = Work::Get(request);
            Command::Anonymous(Box::new(Anonymous { work, identity, hops, exit, force: get.force }))
        }
    };
    api.backend.command(command).map_err(|_| ApiError::busy())?;
    Ok(stream(&api, job.0, GetJob { running: GetEntry { api: api.clone(), job, ended: false }, reports }))
}

/// An identity for one job, which shows no more work than the network asks of everybody.
async fn passing_identity() -> Result<Arc<Identity>, ApiError> {
    let made = tokio::task::spawn_blocking(|| {
        let mut rng = entropy::rng()?;
        let seed = Secret::from_bytes(rng.bytes());
        Ok::<_, NoEntropy>(Identity::passing(seed, rng.next_u64(), PLACE_FLOOR_BITS))
    });
    match made.await {
        Ok(Ok(identity)) => Ok(Arc::new(identity)),
        Ok(Err(error)) => Err(ApiError::internal(error.to_string())),
        Err(_) => Err(ApiError::internal("no identity could be made for the job")),
    }
}

fn is_plain_absolute(path: &std::path::Path) -> bool {
    path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0)
}

fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| matches!(b, 0 | b'/'))
}

struct PutJob {
    running: PutEntry,
    events: watch::Receiver<PutEvent>,
    /// Gives the import up when dropped.
    _handle: PutHandle,
}

impl Job for PutJob {
    async fn next(&mut self) -> News {
        let gone = self.events.changed().await.is_err();
        let event = self.events.borrow_and_update().clone();
        match event {
            PutEvent::Progress(_) if gone => {
                News::End(json!({ "error": "the import ended unexpectedly: see the daemon's log" }))
            }
            PutEvent::Progress(progress) => {
                self.running.update(progress);
                News::Progress(json!({ "progress": put_json(&progress) }))
            }
            PutEvent::Done { reference, stats } => {
                let mut done = put_json(&stats);
                done["reference"] = json!(reference);
                News::End(json!({ "done": done }))
            }
            PutEvent::Failed(why) => News::End(json!({ "error": why })),
        }
    }
}

struct GetJob {
    running: GetEntry,
    reports: JobReports,
}

impl Job for GetJob {
    async fn next(&mut self) -> News {
        match self.reports.next().await {
            JobState::Running(progress) => News::Progress(json!({ "progress": get_json(&progress) })),
            JobState::Done(progress) => {
                self.running.ended = true;
                News::End(json!({ "done": get_json(&progress) }))
            }
            JobState::Failed(why) => {
                self.running.ended = true;
                News::End(json!({ "error": why }))
            }
        }
    }
}

/// A `put` in the table of running jobs.
struct PutEntry {
    api: Arc<Api>,
    id: u64,
}

impl PutEntry {
    fn enter(api: &Arc<Api>) -> Result<Self, ApiError> {
        let mut puts = lock(&api.puts);
        if puts.len() >= PUT_JOBS_MAX {
            let line = format!("{PUT_JOBS_MAX} puts are running: wait for one");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, line));
        }
        let id = api.next_job();
        puts.insert(id, PutProgress::default());
        Ok(Self { api: api.clone(), id })
    }

    fn update(&self, progress: PutProgress) {
        lock(&self.api.puts).insert(self.id, progress);
    }
}

impl Drop for PutEntry {
    fn drop(&mut self) {
        lock(&self.api.puts).remove(&self.id);
    }
}

/// A `get` that is cancelled unless it has ended.
struct GetEntry {
    api: Arc<Api>,
    job: JobId,
    ended: bool,
}

impl Drop for GetEntry {
    fn drop(&mut self) {
        if self.ended || self.api.backend.command(Command::Cancel(self.job)).is_ok() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (api, job) = (self.api.clone(), self.job);
        runtime.spawn(async move {
            if api.command(|| Command::Cancel(job)).await.is_err() {
                tracing::warn!(job = job.0, "the node is too busy to cancel a job");
            }
        });
    }
}

/// Answers with the job's news, line by line, until its end, the client's or the daemon's.
fn stream(api: &Arc<Api>, id: u64, mut job: impl Job) -> Response {
    let (lines, receiver) = mpsc::channel(API_LINES_MAX);
    let mut stopping = api.stopping();
    tokio::spawn(async move {
        let _ = lines.send(line(&json!({ "job": id }))).await;
        // Progress goes out now and then, the end at once.
        let pause = Duration::from_millis(API_PROGRESS_MS);
        let mut not_before = Instant::now();
        let mut held = None;
        loop {
            let next = tokio::select! {
                () = lines.closed() => return,
                () = stopped(&mut stopping) => News::End(json!({ "error": STOPPING })),
                next = job.next() => next,
                () = sleep_until(not_before), if held.is_some() => News::Progress(held.take().unwrap_or_default()),
            };
            match next {
                News::Progress(value) if Instant::now() < not_before => held = Some(value),
                News::Progress(value) => {
                    not_before = Instant::now() + pause;
                    if lines.send(line(&value)).await.is_err() {
                        return;
                    }
                }
                News::End(value) => {
                    // A client that has gone does not hear it.
                    let _ = lines.send(line(&value)).await;
                    return;
                }
            }
        }
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    ([(header::CONTENT_TYPE, kind)], Body::new(Lines(receiver))).into_response()
}

fn line(value: &Value) -> Bytes {
    Bytes::from(value.to_string() + "\n")
}

/// A response body made of lines as they come. The server drops it when the client has gone.
struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
