//! The link emulator: TUN devices in network namespaces, and between each two of them a link of the
//! simulator's model (`tornet::sim::link`), for kernels without netem. docs/testing/lab.md says what it can
//! and cannot do; `cargo xtask lab` starts it.
#![allow(clippy::disallowed_methods, reason = "a driver at the edge: it reads the clock and keeps a thread")]

mod control;
mod device;
mod report;

use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use tornet::base::{Rng, Time};
use tornet::io::clock::Clocks;
use tornet::sim::emulator::Emulator;
use tornet::sim::link::LinkConfig;

use control::Way;
use device::{Device, Place};
use report::Report;

/// Packets read from one device before the others have their turn.
const BATCH: usize = 32;
/// Signals and control lines are looked at this often while there is no pause.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Bytes of a control line at most.
const LINE_MAX: usize = 4096;

/// Links between network namespaces that delay, lose, reorder, repeat and damage what crosses them.
///
/// Prints `ready` once its devices are there. Control lines (`a>b loss=5%`, `a-b down`, `stats`) come on stdin;
/// each is answered on stdout, lastly by `ok` or `error: …`. SIGUSR1 prints the counts to stderr; SIGTERM and
/// SIGINT do and end it.
#[derive(Parser)]
struct Options {
    /// The ends of a link: NAME@NAMESPACE/DEVICE,NAME@NAMESPACE/DEVICE
    #[arg(required = true, value_parser = parse_link)]
    links: Vec<(Place, Place)>,
    /// What happens to which packet follows from it and from when they come
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Microseconds before a packet is due in which we no longer sleep but spin
    #[arg(long, default_value_t = 20)]
    spin: u64,
}

fn parse_link(text: &str) -> Result<(Place, Place)> {
    let (a, b) = text.split_once(',').context("two ends are wanted, joined by a comma")?;
    let (a, b): (Place, Place) = (a.parse()?, b.parse()?);
    ensure!(a.name != b.name, "both ends have one name");
    Ok((a, b))
}

fn main() -> Result<()> {
    let options = Options::parse();
    // Without it the kernel adds up to 50 µs to every sleep.
    nix::sys::prctl::set_timerslack(1).context("timer slack")?;
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
        mask.add(signal);
    }
    mask.thread_block().context("blocking signals")?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;

    let mut driver = Driver::new(&options)?;
    let mut stdout = std::io::stdout();
    // A reader that went away is no reason to end.
    let _ = stdout.write_all(b"ready\n").and_then(|()| stdout.flush());
    driver.run(&signals)?;
    eprint!("{}", driver.report.show(&driver.emulator, &driver.ways));
    Ok(())
}

struct Driver {
    emulator: Emulator,
    report: Report,
    clocks: Clocks,
    /// Number `n` is where direction `n`'s packets come from; they go to number `n ^ 1`.
    devices: Vec<Device>,
    ways: Vec<Way>,
    spin: Duration,
    /// What of a control line has come.
    line: Vec<u8>,
    /// Whether more may come.
    listens: bool,
}

impl Driver {
    fn new(options: &Options) -> Result<Self> {
        let (mut devices, mut ways) = (Vec::new(), Vec::new());
        for (a, b) in &options.links {
            for (from, to) in [(a, b), (b, a)] {
                devices.push(Device::make(from)?);
                let way = Way { from: from.name.clone(), to: to.name.clone() };
                ensure!(!ways.contains(&way), "{way}: two links between the same ends");
                ways.push(way);
            }
        }
        let clean = ways.iter().map(|_| LinkConfig::clean(Duration::ZERO));
        Ok(Self {
            emulator: Emulator::new(clean, Rng::from_number(options.seed)),
            report: Report::new(ways.len()),
            clocks: Clocks::start(),
            devices,
            ways,
            spin: Duration::from_micros(options.spin),
            line: Vec::new(),
            listens: true,
        })
    }

    /// Until a signal asks to end.
    fn run(&mut self, signals: &SignalFd) -> Result<()> {
        let mut looked = Time::ZERO;
        loop {
            self.deliver();
            let busy = self.collect()?;
            let now = self.clocks.now();
            let pause = match self.emulator.next() {
                _ if busy => Duration::ZERO,
                Some(next) => next.since(now).saturating_sub(self.spin),
                None => Duration::MAX,
            };
            if (!pause.is_zero() || now.since(looked) >= LOOK_EVERY) && self.look(pause, signals)? {
                return Ok(());
            }
            if pause.is_zero() && now.since(looked) < LOOK_EVERY {
                std::hint::spin_loop();
            } else {
                looked = self.clocks.now();
            }
        }
    }

    /// Hands out everything whose time has come.
    fn deliver(&mut self) {
        let (clocks, devices, report) = (self.clocks, &self.devices, &mut self.report);
        while self.emulator.depart(clocks.now(), |packet| {
            let accepted = devices[packet.direction ^ 1].write(packet.bytes);
            report.left(packet.direction, packet.at, clocks.now(), accepted);
        }) {}
    }

    /// Takes in a batch from each device; whether there may be more.
    fn collect(&mut self) -> Result<bool> {
        let mut busy = false;
        for (direction, device) in self.devices.iter().enumerate() {
            let mut count = 0;
            while count < BATCH {
                let Some(len) = device.read(self.emulator.room())? else { break };
                self.emulator.arrived(direction, self.clocks.now(), len);
                count += 1;
            }
            busy |= count == BATCH;
        }
        Ok(busy)
    }

    /// Sleeps at most so long for packets, signals and control lines; whether to end.
    fn look(&mut self, pause: Duration, signals: &SignalFd) -> Result<bool> {
        let stdin = std::io::stdin();
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.devices.iter().map(|device| PollFd::new(device.as_fd(), PollFlags::POLLIN)));
        if self.listens {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        let timeout = (pause < Duration::MAX).then(|| TimeSpec::from_duration(pause));
        match ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("ppoll"),
        }
        let ready = |fd: &PollFd| fd.revents().is_some_and(|events| !events.is_empty());
        let (signalled, said) = (ready(&fds[0]), self.listens && fds.last().is_some_and(ready));
        drop(fds);
        if said {
            self.listen()?;
        }
        if signalled {
            while let Some(info) = signals.read_signal()? {
                if info.ssi_signo.cast_signed() != Signal::SIGUSR1 as i32 {
                    return Ok(true);
                }
                eprint!("{}", self.report.show(&self.emulator, &self.ways));
            }
        }
        Ok(false)
    }

    /// There is something on stdin, or its end.
    fn listen(&mut self) -> Result<()> {
        let mut bytes = [0; LINE_MAX];
        let count = nix::unistd::read(std::io::stdin(), &mut bytes).context("stdin")?;
        self.listens = count > 0;
        let mut stdout = std::io::stdout().lock();
        for &byte in &bytes[..count] {
            if byte != b'\n' {
                if self.line.len() == LINE_MAX {
                    bail!("a control line of more than {LINE_MAX} bytes");
                }
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.line);
            let answer = control::answer(&line, &mut self.emulator, &self.ways, &self.report);
            let _ = stdout.write_all(answer.as_bytes()).and_then(|()| stdout.flush());
            self.line.clear();
        }
        Ok(())
    }
}
