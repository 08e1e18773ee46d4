//! The applications of a soak: each runs until its time is over, and counts what it met.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::servers::{NAMES, PAGE, PAGES, SHELL, VIDEO};
use crate::lab::{Host, Process};
use crate::stop;

/// A frame of the video, UDP payload.
pub const FRAME: usize = 1200;
/// 2.4 Mbit/s.
pub const FRAMES_PER_SECOND: u32 = 250;
/// How long whoever asks waits before that counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// A connection that is silent for so long is given up.
const DEAD: Duration = Duration::from_secs(20);

/// Which application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// curl, HTTP/1.1, a connection for each page.
    Pages,
    /// curl, HTTP/2.
    Pages2,
    /// One connection, as ssh's: a few bytes there and back, five times a second.
    Shell,
    /// Questions over UDP.
    Names,
    /// ping.
    Ping,
    /// A steady stream of datagrams.
    Video,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] = [Kind::Pages, Kind::Pages2, Kind::Shell, Kind::Names, Kind::Ping, Kind::Video];

    fn name(self) -> &'static str {
        match self {
            Kind::Pages => "curl, HTTP/1.1",
            Kind::Pages2 => "curl, HTTP/2",
            Kind::Shell => "one TCP connection",
            Kind::Names => "names over UDP",
            Kind::Ping => "ping",
            Kind::Video => "UDP stream, 2.4 Mbit/s",
        }
    }

    /// Whether it has a transport that repeats what is lost, so that nothing may be.
    fn is_reliable(self) -> bool {
        matches!(self, Kind::Pages | Kind::Pages2 | Kind::Shell)
    }
}

/// What one application met.
#[derive(Debug, Clone)]
pub struct Tally {
    way: &'static str,
    kind: Kind,
    tries: u64,
    /// Of those.
    failed: u64,
    /// What the first failure said.
    why: Option<String>,
    /// Of answers; of the video, between two frames. Milliseconds.
    times: Vec<f64>,
    bytes: u64,
}

impl Tally {
    fn new(way: &'static str, kind: Kind) -> Self {
        Self { way, kind, tries: 0, failed: 0, why: None, times: Vec::new(), bytes: 0 }
    }

    fn note(&mut self, since: Instant, bytes: Result<usize>) {
        self.tries += 1;
        match bytes {
            Ok(bytes) => {
                self.bytes += bytes as u64;
                self.times.push(since.elapsed().as_secs_f64() * 1000.0);
            }
            Err(why) => {
                self.failed += 1;
                self.why.get_or_insert(format!("{why:#}"));
            }
        }
    }

    fn time(&self, share: f64) -> f64 {
        let mut times = self.times.clone();
        times.sort_by(f64::total_cmp);
        let at = (times.len().saturating_sub(1) as f64 * share).round() as usize;
        times.get(at).copied().unwrap_or(f64::NAN)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let [p50, p99, worst] = [0.5, 0.99, 1.0].map(|share| self.time(share));
        json!({
            "by": self.way, "application": self.kind.name(), "tries": self.tries, "failed": self.failed,
            "first_failure": self.why, "p50_ms": p50, "p99_ms": p99, "worst_ms": worst, "bytes": self.bytes,
        })
    }

    /// What is wrong with it.
    pub fn fault(&self, lost_max: f64, wait_max: Duration) -> Option<String> {
        let named = |what: String| Some(format!("{} by {}: {what}", self.kind.name(), self.way));
        if self.times.is_empty() {
            return named(format!("nothing came ({:?})", self.why));
        }
        let lost = self.failed as f64 / self.tries as f64;
        if lost > if self.kind.is_reliable() { 0.0 } else { lost_max } {
            return named(format!("{} of {} lost, the first: {:?}", self.failed, self.tries, self.why));
        }
        let worst = self.time(1.0);
        if self.kind == Kind::Shell && worst > wait_max.as_secs_f64() * 1000.0 {
            return named(format!("an answer took {worst:.0} ms"));
        }
        None
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, worst] = [0.5, 0.99, 1.0].map(|share| self.time(share));
        let mb = self.bytes as f64 / 1e6;
        let (way, name) = (self.way, self.kind.name());
        write!(
            f,
            "| {way} | {name} | {} | {} | {p50:.1} | {p99:.1} | {worst:.0} | {mb:.0} |",
            self.tries, self.failed
        )
    }
}

/// A running application.
pub struct Flow {
    thread: JoinHandle<Result<Tally>>,
}

impl Flow {
    /// Starts one on a host, towards the servers at an address.
    pub fn start(
        kind: Kind,
        way: &'static str,
        host: &Host,
        to: Ipv4Addr,
        dir: &Path,
        length: Duration,
    ) -> Result<Flow> {
        let user = User {
            host: host.clone(),
            to,
            dir: dir.to_owned(),
            label: format!("{way}-{kind:?}"),
            until: Instant::now() + length,
            tally: Tally::new(way, kind),
        };
        let thread = std::thread::Builder::new().name(user.label.clone()).spawn(move || user.run())?;
        Ok(Flow { thread })
    }

    /// Waits for its end.
    pub fn end(self) -> Result<Tally> {
        self.thread.join().map_err(|_| anyhow::anyhow!("an application of the soak panicked"))?
    }
}

struct User {
    host: Host,
    to: Ipv4Addr,
    dir: PathBuf,
    label: String,
    until: Instant,
    tally: Tally,
}

impl User {
    fn run(mut self) -> Result<Tally> {
        match self.tally.kind {
            Kind::Pages => self.pages(PAGES[0], "--http1.1"),
            Kind::Pages2 => self.pages(PAGES[1], "--http2-prior-knowledge"),
            Kind::Shell => self.shell(),
            Kind::Names => self.names(),
            Kind::Ping => self.ping(),
            Kind::Video => self.video(),
        }?;
        Ok(self.tally)
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.until && !stop::requested()
    }

    /// Does something at a steady pace.
    fn every(&mut self, pause: Duration, mut act: impl FnMut(&Self) -> Result<usize>) {
        while self.goes_on() {
            let since = Instant::now();
            let done = act(self);
            self.tally.note(since, done);
            std::thread::sleep(pause.saturating_sub(since.elapsed()));
        }
    }

    fn pages(&mut self, port: u16, version: &str) -> Result<()> {
        let url = format!("http://{}:{port}/page", self.to);
        self.every(Duration::from_secs(2), |user| {
            let mut command = user.host.command("curl");
            command.args(["--silent", "--show-error", "--fail", "--max-time", "20", version, &url]);
            command.args(["--output", "/dev/null", "--write-out", "%{size_download}"]);
            let done = Process::finish(&user.label, &user.dir, &mut command, Duration::from_secs(30))?;
            ensure!(done.status.success(), "{}", done.stderr.trim());
            let bytes: usize = done.stdout.trim().parse().with_context(|| done.stdout.clone())?;
            ensure!(bytes == PAGE, "{bytes} of {PAGE} bytes");
            Ok(bytes)
        });
        Ok(())
    }

    fn connect(&self) -> Result<TcpStream> {
        let to = (self.to, SHELL);
        let stream = self.host.within(move || Ok(TcpStream::connect(to)?))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEAD))?;
        Ok(stream)
    }

    fn shell(&mut self) -> Result<()> {
        let (mut stream, mut number) = (None, 0u64);
        self.every(Duration::from_millis(200), |user| {
            // It is one connection for all the time; another after a failure, which counts.
            let mut one = match stream.take() {
                Some(one) => one,
                None => user.connect()?,
            };
            number += 1;
            let mut answer = [0; 64];
            let mut words = [0x41; 64];
            words[..8].copy_from_slice(&number.to_le_bytes());
            one.write_all(&words)?;
            one.read_exact(&mut answer)?;
            ensure!(answer == words, "another answer");
            stream = Some(one);
            Ok(2 * words.len())
        });
        Ok(())
    }

    fn socket(&self, port: u16) -> Result<UdpSocket> {
        let to = (self.to, port);
        let socket = self.host.within(move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            Ok(socket)
        })?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    fn names(&mut self) -> Result<()> {
        let (socket, mut number) = (self.socket(NAMES)?, 0u16);
        self.every(Duration::from_millis(300), |_| {
            number = number.wrapping_add(1);
            let [high, low] = number.to_be_bytes();
            let head = [high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            let question = [&head[..], b"\x04soak\x04test\x00\x00\x01\x00\x01"].concat();
            socket.send(&question)?;
            let mut answer = [0; 512];
            loop {
                let len = socket.recv(&mut answer).context("no answer")?;
                // What comes late answers a question that is lost already.
                if len > question.len() && answer[..2] == question[..2] {
                    return Ok(question.len() + len);
                }
            }
        });
        Ok(())
    }

    /// Round trips as ping prints them; what it does not print was lost.
    fn ping(&mut self) -> Result<()> {
        let mut command = self.host.command("ping");
        command.args(["-n", "-i", "0.5", "-W", "2", &self.to.to_string()]);
        let mut ping = Process::start(&self.label, &self.dir, &mut command)?;
        while self.goes_on() && !ping.ended()? {
            std::thread::sleep(Duration::from_millis(100));
        }
        ping.signal(nix::sys::signal::Signal::SIGINT)?;
        // How it ends says what was lost, which the text says, too.
        let _ = ping.wait(Duration::from_secs(5))?;
        let text = ping.stdout();
        let time = |line: &str| line.split_once(" time=")?.1.split_once(' ')?.0.parse::<f64>().ok();
        self.tally.times = text.lines().filter_map(time).collect();
        let sent = text.lines().find_map(|line| line.split_once(" packets transmitted")?.0.parse().ok());
        self.tally.tries = sent.with_context(|| format!("ping says {text:?}"))?;
        self.tally.failed = self.tally.tries.saturating_sub(self.tally.times.len() as u64);
        self.tally.bytes = 2 * 64 * self.tally.times.len() as u64;
        Ok(())
    }

    fn video(&mut self) -> Result<()> {
        let socket = self.socket(VIDEO)?;
        let (mut asked, mut last, mut first, mut highest) = (None::<Instant>, None::<Instant>, None, 0);
        let mut frame = [0; FRAME];
        while self.goes_on() {
            if asked.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
                socket.send(b"more")?;
                asked = Some(Instant::now());
            }
            let Ok(FRAME) = socket.recv(&mut frame) else { continue };
            let number = u64::from_le_bytes(frame[..8].try_into().expect("eight bytes"));
            first.get_or_insert(number);
            highest = number.max(highest);
            self.tally.bytes += FRAME as u64;
            self.tally.times.extend(last.map(|last| last.elapsed().as_secs_f64() * 1000.0));
            last = Some(Instant::now());
        }
        let first = first.context("no frame came")?;
        self.tally.tries = highest + 1 - first;
        let came = self.tally.bytes / FRAME as u64;
        self.tally.failed = self.tally.tries.saturating_sub(came);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(kind: Kind, tries: u64, failed: u64, worst: f64) -> Tally {
        Tally { tries, failed, times: vec![1.0, worst, 2.0], ..Tally::new("tunnel", kind) }
    }

    #[test]
    fn what_may_be_lost_and_what_not() {
        let fault = |tally: Tally| tally.fault(0.001, Duration::from_secs(3)).is_some();
        assert!(!fault(tally(Kind::Video, 10_000, 10, 9e9)) && fault(tally(Kind::Video, 10_000, 11, 1.0)));
        assert!(!fault(tally(Kind::Pages, 10_000, 0, 9e9)) && fault(tally(Kind::Pages, 10_000, 1, 1.0)));
        assert!(
            !fault(tally(Kind::Shell, 10_000, 0, 2999.0)) && fault(tally(Kind::Shell, 10_000, 0, 3001.0))
        );
        assert!(fault(Tally::new("circuit", Kind::Ping)), "nothing at all");
    }

    #[test]
    fn times_are_quantiles() {
        let tally = tally(Kind::Ping, 3, 0, 9.0);
        assert_eq!([0.5, 0.99, 1.0].map(|share| tally.time(share)), [2.0, 9.0, 9.0]);
        assert!(tally.to_string().contains("| 3 | 0 | 2.0 | 9.0 | 9 |"), "{tally}");
    }
}
