//! `cargo xtask lab check`: does the emulator do what it is asked, and how much of it? Measured with ping,
//! iperf3 and datagrams of our own, none of which know of it.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::node::PATIENT;
use super::{Description, Lab, Process, scratch};
use crate::stop;

/// One thing asked for, and what was measured.
pub struct Row {
    what: &'static str,
    asked: String,
    measured: String,
    /// Whether it is near enough.
    holds: bool,
}

impl Row {
    /// Whether it is near enough.
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// As a line of the table.
    pub fn show(&self) -> String {
        let verdict = if self.holds { "" } else { "   NOT AS ASKED" };
        format!("{:<10} {:<32} {}{verdict}", self.what, self.asked, self.measured)
    }
}

/// Bytes of a probe's payload.
const PROBE_SIZE: usize = 256;
const PROBE_PORT: u16 = 7777;
/// Between two probes: far more than the emulator needs.
const PROBE_EVERY: Duration = Duration::from_micros(300);
/// After which no further probe is expected.
const PROBE_SILENCE: Duration = Duration::from_millis(700);
/// Headers of a probe and of iperf3's datagrams, bytes.
const HEADERS: u64 = 28;
/// Standard deviations by which a share may be off: by chance one run in a hundred thousand.
const SIGMAS: f64 = 4.5;

/// Asks something of the link and measures it.
type Measure = fn(&Lab) -> Result<Row>;

/// Everything that a link can be asked for.
const ALL: &[Measure] = &[delay, jitter, rate, loss, bursts, reorder, duplicate, corrupt, mtu, cut];

/// The command.
pub fn command() -> Result<()> {
    let lab = Lab::described(Description::emulated("clean"), &scratch())?;
    println!("{:<10} {:<32} measured", "what", "asked, from a to b");
    let rows = model(&lab, ALL, |row| println!("{}", row.show()))?;
    println!("\nlimits of the emulator on this machine");
    limits()?;
    ensure!(rows.iter().all(|row| row.holds), "the emulator does not do what it is asked");
    Ok(())
}

/// Asks one thing after another of the link from `a` to `b`, and measures; each row goes to `tell` at once.
fn model(lab: &Lab, measures: &[Measure], mut tell: impl FnMut(&Row)) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for measure in measures {
        stop::check()?;
        lab.link("a", "b")?.set("clean")?;
        let row = measure(lab)?;
        tell(&row);
        rows.push(row);
    }
    Ok(rows)
}

fn delay(lab: &Lab) -> Result<Row> {
    lab.link("a", "b")?.set("delay=20ms")?;
    let times = Times::of(ping(lab, 300, "0.005")?)?;
    let (asked, median) = (40.0, times.quantile(0.5));
    Ok(Row {
        what: "delay",
        asked: "delay=20ms, both ways".into(),
        measured: format!("round trip p50 {median:.2} ms, p99 {:.2} ms", times.quantile(0.99)),
        holds: median >= asked && median <= asked * 1.05 + 1.0,
    })
}

fn jitter(lab: &Lab) -> Result<Row> {
    lab.link("a", "b")?.set_one_way("delay=20ms,jitter=10ms")?;
    // Further apart than the jitter, so that none waits for the one before.
    let times = Times::of(ping(lab, 250, "0.012")?)?;
    let (low, middle, high) = (times.quantile(0.02), times.quantile(0.5), times.quantile(0.98));
    Ok(Row {
        what: "jitter",
        asked: "delay=20ms,jitter=10ms, one way".into(),
        measured: format!("round trip p2 {low:.2} ms, p50 {middle:.2} ms, p98 {high:.2} ms"),
        holds: (20.0..22.5).contains(&low) && (23.0..28.0).contains(&middle) && (28.0..33.0).contains(&high),
    })
}

fn rate(lab: &Lab) -> Result<Row> {
    const ASKED: f64 = 50e6;
    // A queue that outlasts the pauses of a sender that shares its core.
    lab.link("a", "b")?.set_one_way("rate=50mbit,queue=512k")?;
    let flow = udp(lab, "60M", 1472, 4)?;
    let measured = flow.bits_per_second();
    Ok(Row {
        what: "rate",
        asked: "rate=50mbit, of 60 Mbit/s".into(),
        measured: format!("{:.2} Mbit/s, {:.1} % lost", measured / 1e6, flow.lost_share() * 100.0),
        holds: (measured / ASKED - 1.0).abs() < 0.05,
    })
}

/// A count that is a share of others by chance; `spread` times as far off as if each went by itself.
pub fn share(what: &'static str, text: &str, share: f64, count: u64, of: u64, spread: f64) -> Row {
    let expected = of as f64 * share;
    let most = SIGMAS * spread * (expected * (1.0 - share)).sqrt() + 1.0;
    Row {
        what,
        asked: text.into(),
        measured: format!("{count} of {of}, {expected:.0} ± {most:.0} expected"),
        holds: of > 0 && (count as f64 - expected).abs() <= most,
    }
}

fn loss(lab: &Lab) -> Result<Row> {
    lab.link("a", "b")?.set_one_way("loss=5%")?;
    let seen = probe(lab, 6000, PROBE_SIZE)?;
    Ok(share("loss", "loss=5%", 0.05, seen.lost, seen.sent, 1.0))
}

fn bursts(lab: &Lab) -> Result<Row> {
    lab.link("a", "b")?.set_one_way("bursts=1%/20%/0/80%")?;
    let seen = probe(lab, 6000, PROBE_SIZE)?;
    // Losses of one burst go together: the sum spreads (1 + r) / (1 - r) times as far, where r is how much of the
    // state is left after a step, 1 - 1 % - 20 %.
    let spread = (1.79f64 / 0.21).sqrt();
    let mut row = share("bursts", "bursts=1%/20%/0/80%", 0.01 * 0.8 / 0.21, seen.lost, seen.sent, spread);
    let runs = seen.lost as f64 / seen.runs.max(1) as f64;
    row.measured += &format!(", {runs:.1} in a row");
    row.holds &= runs > 1.5;
    Ok(row)
}

fn reorder(lab: &Lab) -> Result<Row> {
    lab.link("a", "b")?.set_one_way("delay=5ms,reorder=10%/20ms")?;
    let seen = probe(lab, 3000, PROBE_SIZE)?;
    let mut row = share("reorder", "reorder=10%/20ms", 0.1, seen.late, seen.sent, 1.0);
    // Those that were held back by less than the distance to the next are not seen.
    row.holds = seen.late > 200 && seen.late < 360 && seen.lost == 0;
    Ok(row)
}

fn duplicate(lab: &Lab) -> Result<Row> {
    lab.link("a", "b")?.set_one_way("duplicate=5%")?;
    let seen = probe(lab, 3000, PROBE_SIZE)?;
    Ok(share("duplicate", "duplicate=5%", 0.05, seen.twice, seen.sent, 1.0))
}

fn corrupt(lab: &Lab) -> Result<Row> {
    lab.link("a", "b")?.set_one_way("corrupt=5%")?;
    let seen = probe(lab, 3000, PROBE_SIZE)?;
    let mut row = share("corrupt", "corrupt=5%", 0.05, seen.damaged, seen.sent, 1.0);
    row.measured += &format!(", {} lost", seen.lost);
    // What the kernel drops for its checksum would be missing.
    row.holds &= seen.lost == 0;
    Ok(row)
}

fn mtu(lab: &Lab) -> Result<Row> {
    lab.link("a", "b")?.set_one_way("mtu=1280")?;
    let fits = probe(lab, 50, 1280 - HEADERS as usize)?;
    let too_long = probe(lab, 50, 1281 - HEADERS as usize)?;
    Ok(Row {
        what: "mtu",
        asked: "mtu=1280".into(),
        measured: format!("{} of 50 of 1280 bytes, {} of 50 of 1281", 50 - fits.lost, 50 - too_long.lost),
        holds: fits.lost == 0 && too_long.lost == 50,
    })
}

fn cut(lab: &Lab) -> Result<Row> {
    lab.link("a", "b")?.set_one_way("down")?;
    let cut = probe(lab, 50, PROBE_SIZE)?;
    lab.link("a", "b")?.set_one_way("up")?;
    let healed = probe(lab, 50, PROBE_SIZE)?;
    Ok(Row {
        what: "cut",
        asked: "down, then up".into(),
        measured: format!("{} of 50, then {} of 50", 50 - cut.lost, 50 - healed.lost),
        holds: cut.lost == 50 && healed.lost == 0,
    })
}

/// How much the emulator can do, and what it costs. Nothing of this can be right or wrong.
fn limits() -> Result<()> {
    const SECONDS: u64 = 5;
    // Lateness is counted from the emulator's start: each has its own.
    let fresh = |text: &str| Lab::described(Description::emulated(text), &scratch());
    let loads = [
        ("datagrams of 1472", Some((1472, "0")), "clean"),
        ("datagrams of 16", Some((16, "0")), "clean"),
        ("200 Mbit/s, 20 ms", Some((1472, "200M")), "delay=20ms"),
        ("idle, 20 ms", None, "delay=20ms"),
        ("idle", None, "clean"),
    ];
    for (name, load, text) in loads {
        stop::check()?;
        let lab = fresh(text)?;
        let before = lab.emulator()?.cpu_seconds()?;
        // The load on a thread of the lab's own, with the pings beside it.
        let (flow, times) = std::thread::scope(|scope| -> Result<_> {
            let flow = load.map(|(length, rate)| {
                scope.spawn({
                    let lab = &lab;
                    move || udp(lab, rate, length, SECONDS)
                })
            });
            let count = (SECONDS - 1) * 100;
            let times = Times::of(ping(&lab, count as u32, "0.010")?)?;
            let flow =
                flow.map(|thread| thread.join().map_err(|_| anyhow::anyhow!("iperf3's thread panicked")));
            Ok((flow.transpose()?.transpose()?, times))
        })?;
        let cpu = lab.emulator()?.cpu_seconds()? - before;
        let stats = lab.link("a", "b")?.stats()?;
        let packets = stats.get("received")? + lab.link("b", "a")?.stats()?.get("received")?;
        println!(
            "{name}: round trip p50 {:.2} ms, p99 {:.2} ms; left late p50 {} µs, p99 {} µs, max {} µs",
            times.quantile(0.5),
            times.quantile(0.99),
            stats.get("late_p50_us")?,
            stats.get("late_p99_us")?,
            stats.get("late_max_us")?
        );
        if let Some(flow) = flow {
            let per_second = |packets: u64| packets as f64 / flow.seconds;
            println!(
                "    {:.0} of {:.0} packets/s, {:.2} Gbit/s through it; {:.2} µs of CPU per packet",
                per_second(flow.packets - flow.lost),
                per_second(flow.packets),
                flow.bits_per_second() / 1e9,
                cpu * 1e6 / packets
            );
        } else {
            println!("    {:.1} % of a core at 100 pings per second", cpu * 100.0 / (SECONDS - 1) as f64);
        }
    }
    stop::check()?;
    let lab = fresh("clean")?;
    let bits = tcp(&lab, SECONDS)?;
    println!("one TCP stream: {:.2} Gbit/s", bits / 1e9);
    Ok(())
}

/// Round trips in milliseconds, sorted.
pub struct Times(Vec<f64>);

impl Times {
    fn of(mut times: Vec<f64>) -> Result<Times> {
        ensure!(!times.is_empty(), "no ping was answered");
        times.sort_by(f64::total_cmp);
        Ok(Times(times))
    }

    fn quantile(&self, share: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * share).round() as usize]
    }
}

/// Pings `b` from `a`; the round trips of those that were answered, milliseconds.
pub fn ping(lab: &Lab, count: u32, every: &str) -> Result<Vec<f64>> {
    let mut command = lab.a().command("ping");
    command.args(["-n", "-c", &count.to_string(), "-i", every, "-W", "2", &lab.b().address.to_string()]);
    let done = Process::finish("ping", lab.dir(), &mut command, PATIENT)?;
    // One that lost an answer ends with 1.
    ensure!(done.status.code().is_some_and(|code| code <= 1), "ping: {}\n{}", done.status, done.stderr);
    Ok(done.stdout.lines().filter_map(round_trip).collect())
}

/// `64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=40.1 ms` → 40.1
fn round_trip(line: &str) -> Option<f64> {
    line.split_once(" time=")?.1.split_whitespace().next()?.parse().ok()
}

/// Datagrams of iperf3 that were sent for a while.
struct Flow {
    packets: u64,
    lost: u64,
    length: u64,
    seconds: f64,
}

impl Flow {
    fn bits_per_second(&self) -> f64 {
        (self.packets - self.lost) as f64 * ((self.length + HEADERS) * 8) as f64 / self.seconds
    }

    fn lost_share(&self) -> f64 {
        self.lost as f64 / self.packets.max(1) as f64
    }
}

/// Datagrams of `length` bytes from `a` to `b`, at `rate` (0 is as fast as can be).
fn udp(lab: &Lab, rate: &str, length: u64, seconds: u64) -> Result<Flow> {
    let sum = iperf3(lab, seconds, &["-u", "-b", rate, "-l", &length.to_string()])?;
    let number = |name: &str| sum[name].as_u64().with_context(|| format!("iperf3 without {name}: {sum}"));
    let seconds = sum["seconds"].as_f64().context("iperf3 without seconds")?;
    let packets = number("packets")?;
    // Out of order it may count more lost than there were.
    Ok(Flow { packets, lost: number("lost_packets")?.min(packets), length, seconds })
}

fn tcp(lab: &Lab, seconds: u64) -> Result<f64> {
    iperf3(lab, seconds, &[])?["bits_per_second"].as_f64().context("iperf3 without a rate")
}

/// What iperf3's receiver saw.
fn iperf3(lab: &Lab, seconds: u64, words: &[&str]) -> Result<Value> {
    let _server = Process::start("iperf3-server", lab.dir(), lab.b().command("iperf3").args(["-s", "-1"]))?;
    let (there, time) = (lab.b().address.to_string(), seconds.to_string());
    let mut answer = Value::Null;
    let done = stop::until(PATIENT, || {
        let mut command = lab.a().command("iperf3");
        command.args(["-J", "-c", &there, "-t", &time]).args(words);
        let done = Process::finish("iperf3", lab.dir(), &mut command, PATIENT)?;
        answer = serde_json::from_str(&done.stdout).context("iperf3's answer")?;
        // The server takes a moment to listen.
        let refused = answer["error"].as_str().is_some_and(|error| error.contains("refused"));
        ensure!(refused || done.status.success(), "iperf3: {}", answer["error"]);
        Ok(!refused)
    })?;
    ensure!(done, "iperf3's server never listened");
    Ok(answer["end"]["sum_received"].clone())
}

/// What became of numbered datagrams.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    sent: u64,
    lost: u64,
    /// Losses in a row count as one run.
    runs: u64,
    /// Came after one that was sent later.
    late: u64,
    /// Came a second time.
    twice: u64,
    /// Came with other content than was sent.
    damaged: u64,
}

/// Sends `count` datagrams of `length` bytes from `a` to `b`.
fn probe(lab: &Lab, count: u64, length: usize) -> Result<Seen> {
    let address = lab.b().address;
    let receiver = lab.b().within(move || Ok(UdpSocket::bind((address, PROBE_PORT))?))?;
    receiver.set_read_timeout(Some(PROBE_SILENCE))?;
    let listening = std::thread::spawn(move || -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match receiver.recv(&mut buffer) {
                Ok(length) => all.push(buffer[..length].to_vec()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(all);
                }
                Err(error) => return Err(error.into()),
            }
        }
    });
    lab.a().within(move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for number in 0..count {
            socket.send_to(&datagram(number, length), (address, PROBE_PORT))?;
            std::thread::sleep(PROBE_EVERY);
        }
        Ok(())
    })?;
    let arrived = listening.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    Ok(judge(count, length, &arrived))
}

/// The number, again and again: one bit of it may flip without its being mistaken for another.
fn datagram(number: u64, length: usize) -> Vec<u8> {
    number.to_be_bytes().into_iter().cycle().take(length).collect()
}

fn judge(sent: u64, length: usize, arrived: &[Vec<u8>]) -> Seen {
    let mut seen = Seen { sent, ..Seen::default() };
    let mut there = BTreeSet::new();
    for bytes in arrived {
        let word =
            |at: usize| bytes.get(at..at + 8).map(|word| u64::from_be_bytes(word.try_into().expect("eight")));
        // Of three copies at most one is damaged.
        let copies = [word(0), word(8), word(16)];
        let Some(number) =
            copies.into_iter().flatten().find(|one| copies.iter().filter(|c| **c == Some(*one)).count() > 1)
        else {
            continue;
        };
        seen.damaged += u64::from(*bytes != datagram(number, length));
        seen.late += u64::from(there.last().is_some_and(|last| number < *last));
        seen.twice += u64::from(!there.insert(number));
    }
    seen.lost = sent - there.len() as u64;
    seen.runs =
        (0..sent).filter(|n| !there.contains(n) && (*n == 0 || there.contains(&(n - 1)))).count() as u64;
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_read_and_a_quantile_is_one_of_the_values() {
        assert_eq!(round_trip("64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=40.1 ms"), Some(40.1));
        assert_eq!(round_trip("64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=7 ms (DUP!)"), Some(7.0));
        assert_eq!(round_trip("rtt min/avg/max/mdev = 0.029/0.038/0.057/0.013 ms"), None);
        let times = Times::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!([0.0, 0.5, 1.0].map(|share| times.quantile(share)), [1.0, 2.0, 3.0]);
        assert!(Times::of(Vec::new()).is_err());
    }

    #[test]
    fn what_happened_to_datagrams_is_told_apart() {
        let mut arrived: Vec<Vec<u8>> = [0, 2, 1, 5, 5, 6].map(|number| datagram(number, 30)).to_vec();
        arrived[5][3] ^= 4;
        let seen = judge(10, 30, &arrived);
        assert_eq!(seen, Seen { sent: 10, lost: 5, runs: 2, late: 1, twice: 1, damaged: 1 });
    }

    #[test]
    fn a_share_is_held_to_its_chance() {
        assert!(share("", "", 0.05, 300, 6000, 1.0).holds);
        assert!(share("", "", 0.05, 370, 6000, 1.0).holds);
        assert!(!share("", "", 0.05, 390, 6000, 1.0).holds);
        assert!(!share("", "", 0.05, 200, 6000, 1.0).holds);
        assert!(!share("", "", 0.05, 0, 0, 1.0).holds);
    }
}
