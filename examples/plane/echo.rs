//! Round trips of a machine that has nothing else to do: one datagram there and back, a pause, the next.

use std::net::{SocketAddr, UdpSocket};
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tornet::base::{Memory, Path, Place, Time};
use tornet::io::clock::Clocks;
use tornet::io::entropy;
use tornet::io::udp::Udp;
use tornet::limits::DATAGRAM_MAX;
use tornet::node::{Clock, Input, Output, Train, World};
use tornet::session::{PacketKind, Received};
use tornet::shard::Core;
use tornet::sys::affinity;
use tornet::sys::ring::{Completion, Ring};

use super::link::{self, Link};
use super::{End, Fallible, Plan};

/// Long enough for everybody to sleep again.
const PAUSE: Duration = Duration::from_millis(1);

/// What answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A ring, a socket and nothing else.
    Bare,
    /// A shard with a session, which sleeps when it has nothing to do, or looks for so long first.
    Shard(Duration),
}

pub fn run(kind: Kind, end: End, plan: &Plan) -> Fallible<()> {
    match (end, kind) {
        (End::To(address), _) => ask(kind, end, address, plan),
        (End::At(address), Kind::Bare) => {
            let core = plan.core;
            Builder::new().name("bare".into()).spawn(move || {
                let ended = answer(address, core);
                eprintln!("echo: {ended:?}");
                std::process::exit(1);
            })?;
            idle(plan.seconds)
        }
        (End::At(_), Kind::Shard(busy)) => {
            let _running = link::run_polling(end, plan, busy, move |clock, rng| Echo {
                link: Link::new(end, clock, rng),
                due: None,
            })?;
            idle(plan.seconds)
        }
    }
}

fn cpu() -> Fallible<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6)
}

/// What it costs to wait for nobody; then answers until it is killed.
fn idle(seconds: u64) -> Fallible<()> {
    sleep(Duration::from_millis(200));
    let before = cpu()?;
    sleep(Duration::from_secs(seconds));
    println!("{}", serde_json::json!({ "part": "idle", "cpu": cpu()? - before, "seconds": seconds }));
    println!("ready");
    sleep(Duration::from_secs(3600));
    Ok(())
}

/// The least that could answer.
fn answer(address: SocketAddr, core: usize) -> Fallible<()> {
    affinity::pin_to(core)?;
    let mut ring = Ring::new()?;
    let mut udp = Udp::bind(&[address], false)?;
    loop {
        while let Some(completion) = ring.completion() {
            match completion {
                Completion::Received { socket, result, buffer, more } => {
                    let received = udp.received(&mut ring, socket, result, buffer, more, Time::ZERO);
                    let Some(mut train) = received else { continue };
                    let bytes = ring.buffers().bytes(train.place).to_vec();
                    ring.buffers().release(train.place.buf);
                    let buf = ring.buffers().alloc().ok_or("no buffer")?;
                    train.place = Place { len: bytes.len() as u32, ..Place::room(buf) };
                    ring.buffers().bytes_mut(train.place).copy_from_slice(&bytes);
                    udp.send(&mut ring, train);
                }
                Completion::Sent { slot, result, held } => _ = udp.sent(&mut ring, slot, result, held),
                Completion::Released { slot, copied } => _ = udp.released(&mut ring, slot, copied),
                _ => {}
            }
        }
        udp.rearm(&mut ring, Time::ZERO);
        udp.flush(&mut ring);
        ring.enter(Some(Duration::MAX))?;
    }
}

/// Sends back what came.
struct Echo {
    link: Link,
    due: Option<(Path, Vec<u8>)>,
}

impl Core for Echo {
    fn handle<W: World>(&mut self, clock: Clock, input: Input, world: &mut W) {
        let Input::Train(train) = input else { return };
        let datagram = world.bytes_mut(train.place);
        let received = self.link.sessions.handle_datagram(clock.now, clock.wall, train.path, datagram);
        if let Received::Packet { .. } = received {
            self.due = Some((train.path, datagram.to_vec()));
        }
    }

    fn poll<W: World>(&mut self, clock: Clock, world: &mut W) -> Option<Output> {
        if let Some(output) = self.link.poll(clock, world) {
            return Some(output);
        }
        let ((path, bytes), key) = (self.due.take()?, self.link.key?);
        let place = Place { len: bytes.len() as u32, ..Place::room(world.alloc()?) };
        let packet = world.bytes_mut(place);
        packet.copy_from_slice(&bytes);
        self.link.sessions.seal(clock.now, key, PacketKind::Datagram, packet).ok()?;
        Some(Output::Train(Train { path, place, segment: place.len, ecn: 0 }))
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.link.sessions.poll_timeout()
    }
}

/// Asks again and again through a plain socket, and prints how long it took.
fn ask(kind: Kind, end: End, address: SocketAddr, plan: &Plan) -> Fallible<()> {
    affinity::pin_to(plan.core)?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let clocks = Clocks::start();
    let clock = || Clock { now: clocks.now(), wall: clocks.wall() };
    let path = Path { local: socket.local_addr()?, remote: address };
    let mut link = Link::new(end, clock(), entropy::rng()?);
    let mut buf = [7u8; DATAGRAM_MAX];
    let until = Instant::now() + Duration::from_secs(10);
    while kind != Kind::Bare && link.key.is_none() {
        while let Some((_, len)) = link.sessions.poll_transmit(clock().now, clock().wall, &mut buf) {
            socket.send(&buf[..len])?;
        }
        if let Ok(len) = socket.recv(&mut buf) {
            link.sessions.handle_datagram(clock().now, clock().wall, path, &mut buf[..len]);
        }
        link.hear();
        if Instant::now() > until {
            return Err("no session".into());
        }
    }
    // Who asks never sleeps while it waits: on a virtual machine waking it costs more than all the rest, and whether it
    // is asleep already when the answer comes would decide what is measured.
    socket.set_nonblocking(true)?;
    let patience = Duration::from_millis(100);
    let (mut times, end) = (Vec::new(), Instant::now() + Duration::from_secs(plan.seconds));
    while Instant::now() < end {
        sleep(PAUSE);
        // Tells that the session has begun, at first.
        while let Some((_, len)) = link.sessions.poll_transmit(clock().now, clock().wall, &mut buf) {
            socket.send(&buf[..len])?;
        }
        let began = Instant::now();
        if let Some(key) = link.key {
            link.sessions.seal(clock().now, key, PacketKind::Datagram, &mut buf[..plan.size])?;
        }
        socket.send(&buf[..plan.size])?;
        while began.elapsed() < patience {
            let Ok(len) = socket.recv(&mut buf) else { continue };
            if link.key.is_none() {
                times.push(began.elapsed().as_nanos() as u64);
                break;
            }
            let received = link.sessions.handle_datagram(clock().now, clock().wall, path, &mut buf[..len]);
            if let Received::Packet { .. } = received {
                times.push(began.elapsed().as_nanos() as u64);
                break;
            }
        }
    }
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).map(|ns| *ns as f64 / 1e3);
    println!(
        "{}",
        serde_json::json!({ "part": "echo", "count": times.len(), "p50_us": at(0.5), "p99_us": at(0.99) })
    );
    Ok(())
}
