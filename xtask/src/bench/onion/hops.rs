//! What a hop adds to an idle round trip: a circuit of three hops beside one of two, and as many bare forwarders of datagrams.

use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::bench::report::median;
use crate::bench::tunnel::ping;
use crate::lab::{Host, Lab, Node, node};
use crate::stop;

/// Where forwarders and the last host listen.
const PORT: u16 = 4600;
/// As many bytes as a ping has.
const SIZE: usize = 64;
/// Between two echoes: nothing is warm from the last.
const PAUSE: Duration = Duration::from_millis(5);
/// Figures of which the median counts.
const ROUNDS: usize = 3;

/// Round trips in microseconds, by the number of hops or forwarders: two and three.
pub struct Hops {
    circuit: [f64; 2],
    bare: [f64; 2],
}

impl Hops {
    /// For programs.
    pub fn json(&self) -> Value {
        json!({ "circuit_2_3": self.circuit, "bare_2_3": self.bare })
    }
}

impl fmt::Display for Hops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [own, bare] = [self.circuit, self.bare].map(|[two, three]| three - two);
        write!(
            f,
            "\nidle round trip by 2 and 3 hops {:.0} and {:.0} us, by as many bare forwarders {:.0} and {:.0}: a hop adds {own:.0} us, a \
             forwarder {bare:.0} ({:.2})",
            self.circuit[0],
            self.circuit[1],
            self.bare[0],
            self.bare[1],
            own / bare
        )
    }
}

/// Measures both in turn. There is no circuit at the end.
pub fn compare(lab: &Lab, nodes: &[Node], echoes: u64) -> Result<Hops> {
    let hosts = lab.hosts();
    let to = hosts[4].address;
    // The exit's rules let out what names no ports; that includes echo requests.
    let mut figures = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    echo(&hosts[4], 0, None)?;
    // o - r1 - x - w, and o - r1 - r2 - x - w, on ports of their own.
    let ways = [vec![&hosts[1], &hosts[3]], vec![&hosts[1], &hosts[2], &hosts[3]]];
    for (index, way) in ways.iter().enumerate() {
        let mut next = SocketAddr::from((to, PORT));
        for host in way.iter().rev() {
            echo(host, 1 + index as u16, Some(next))?;
            next = SocketAddr::from((host.address, PORT + 1 + index as u16));
        }
    }
    for _ in 0..ROUNDS {
        for (index, hops) in ["2", "3"].into_iter().enumerate() {
            let words = ["tunnel", "up", "--hops", hops, "--force"];
            let up =
                stop::until(node::PROMPT, || Ok(nodes[0].attempt(&words, node::PATIENT)?.status.success()))?;
            ensure!(up, "no circuit of {hops} hops");
            ping::answers(lab, to)?;
            figures[0][index].push(median(ping::round_trips(lab, to, echoes)?.into_iter()));
            // Else the kernel would lead these datagrams into the circuit, too.
            nodes[0].run(&["tunnel", "down"], node::PROMPT)?;
            let first = SocketAddr::from((hosts[1].address, PORT + 1 + index as u16));
            figures[1][index].push(median(bare(&hosts[0], first, echoes)?.into_iter()));
        }
    }
    let [circuit, bare] = figures.map(|both| both.map(|rounds| median(rounds.into_iter())));
    Ok(Hops { circuit, bare })
}

/// Sends what comes on to the next, and what comes from there back; the last says everything back itself.
fn echo(host: &Host, offset: u16, next: Option<SocketAddr>) -> Result<()> {
    let own = SocketAddr::from((host.address, PORT + offset));
    let socket = host.within(move || Ok(UdpSocket::bind(own)?))?;
    std::thread::spawn(move || {
        let (mut bytes, mut asker) = ([0; 2048], None);
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let to = match next {
                None => Some(from),
                Some(next) if from == next => asker,
                Some(next) => {
                    asker = Some(from);
                    Some(next)
                }
            };
            if let Some(to) = to {
                let _ = socket.send_to(&bytes[..len], to);
            }
        }
    });
    Ok(())
}

/// Round trips of datagrams, microseconds.
fn bare(host: &Host, first: SocketAddr, count: u64) -> Result<Vec<f64>> {
    let socket = host.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (mut bytes, mut times) = ([7; SIZE], Vec::new());
    for _ in 0..count {
        let began = Instant::now();
        socket.send_to(&bytes, first)?;
        socket.recv_from(&mut bytes).context("a bare forwarder does not answer")?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
        std::thread::sleep(PAUSE);
    }
    Ok(times)
}
