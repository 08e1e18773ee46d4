//! The client's side of the API on the node's unix socket.

use std::io;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::Failure;
use crate::config::{NodeDir, plain};
use crate::limits::API_ANSWER_MAX;

/// Runs a future on this thread.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(format!("cannot start: {}", plain(&error))))?.block_on(future)
}

/// What a command that needs the daemon says when there is none.
pub(super) fn not_running(dir: &NodeDir) -> Failure {
    let shown = dir.path().display();
    if !dir.identity().exists() && std::env::var_os("CREDENTIALS_DIRECTORY").is_none() {
        return Failure::new(format!("there is no node in {shown}: run `tornet --dir {shown} init` first"));
    }
    Failure::new(format!("no daemon is running in {shown}: start it with `tornet --dir {shown} run`"))
}

/// One request with one JSON answer; `None` when no daemon runs.
pub(super) fn ask(
    dir: &NodeDir,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Option<Value>, Failure> {
    block_on(ask_async(dir, method, path, body))
}

/// As [`ask`], where a runtime runs already.
pub(super) async fn ask_async(
    dir: &NodeDir,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Option<Value>, Failure> {
    let Some(response) = send(dir, method, path, body).await? else { return Ok(None) };
    let status = response.status();
    let mut lines = LineReader::new(response);
    // JSON answers of this API are one line.
    let value = lines.next().await?.unwrap_or(Value::Null);
    if status.is_success() { Ok(Some(value)) } else { Err(refused(status, &value)) }
}

/// A request with an answer of many lines, each handed to `each` until it returns a result.
pub(super) async fn follow<T>(
    dir: &NodeDir,
    path: &str,
    body: &Value,
    mut each: impl FnMut(&Value) -> Option<Result<T, Failure>>,
) -> Result<T, Failure> {
    let response = send(dir, Method::POST, path, Some(body)).await?.ok_or_else(|| not_running(dir))?;
    let status = response.status();
    let mut lines = LineReader::new(response);
    if !status.is_success() {
        let value = lines.next().await?.unwrap_or(Value::Null);
        return Err(refused(status, &value));
    }
    while let Some(value) = lines.next().await? {
        if let Some(why) = value["error"].as_str() {
            return Err(Failure::new(why));
        }
        if let Some(result) = each(&value) {
            return result;
        }
    }
    Err(Failure::new("the daemon ended before the job did: start it and run the same command again"))
}

fn refused(status: StatusCode, value: &Value) -> Failure {
    match value["error"].as_str() {
        Some(why) => Failure::new(why),
        None => {
            Failure::new(format!("the daemon answered {status}: is it of the same version as this command?"))
        }
    }
}

/// Connects and sends; `None` when no daemon listens.
async fn send(
    dir: &NodeDir,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Option<Response<Incoming>>, Failure> {
    let shown = dir.socket();
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(format!("cannot {what} the daemon at {}: {error}", shown.display()))
    };
    let connected = async {
        let (address, _folder) = dir.socket_address()?;
        UnixStream::connect(address).await
    };
    let stream = match connected.await {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
            io::ErrorKind::PermissionDenied => {
                let line = format!(
                    "{} belongs to another user: run this as the user that runs the daemon",
                    shown.display()
                );
                return Err(Failure::new(line));
            }
            _ => return Err(failed("reach", &plain(&error))),
        },
    };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed("speak to", &error))?;
    tokio::spawn(connection);
    let bytes = body.map(|value| value.to_string().into_bytes()).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "tornet")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(bytes)))
        .map_err(|error| failed("write to", &error))?;
    sender.send_request(request).await.map(Some).map_err(|error| failed("write to", &error))
}

/// Reads JSON line by line, each within [`API_ANSWER_MAX`].
struct LineReader {
    body: Incoming,
    pending: Vec<u8>,
    /// Bytes of `pending` that hold no line's end.
    searched: usize,
    ended: bool,
}

impl LineReader {
    fn new(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), pending: Vec::new(), searched: 0, ended: false }
    }

    async fn next(&mut self) -> Result<Option<Value>, Failure> {
        let broken =
            |what: &str| Failure::new(format!("the daemon's answer is broken ({what}): see its log"));
        loop {
            if let Some(at) = self.pending[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(self.searched + at + 1);
                let line = std::mem::replace(&mut self.pending, rest);
                self.searched = 0;
                return serde_json::from_slice(&line).map(Some).map_err(|_| broken("no JSON"));
            }
            self.searched = self.pending.len();
            if self.ended {
                return if self.pending.is_empty() { Ok(None) } else { Err(broken("cut off")) };
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    if self.pending.len() + data.len() > API_ANSWER_MAX {
                        return Err(broken("too long"));
                    }
                    self.pending.extend_from_slice(&data);
                }
                Some(Err(_)) => {
                    return Err(Failure::new("the daemon ended in the middle of its answer: see its log"));
                }
                None => self.ended = true,
            }
        }
    }
}

/// Percent-encodes a path segment.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A path as the API takes it: text, or bytes when it is not UTF-8.
pub(super) fn path_json(path: &std::ffi::OsStr) -> Value {
    match path.to_str() {
        Some(text) => Value::from(text),
        None => Value::from(path.as_encoded_bytes()),
    }
}
