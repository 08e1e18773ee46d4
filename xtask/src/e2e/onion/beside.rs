//! Circuits beside what else a host has: tunnels to friends, and IPv6.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::asking::{Count, Service, hears, hears_nothing};
use super::{MARKER, Scene, Tap, WEB, counter, serve, serve_at};
use crate::e2e::Case;
use crate::e2e::tunnel::{id_of, on};
use crate::lab::{Lab, Process, node};
use crate::stop;

pub const CASES: &[Case] = &[
    Case {
        name: "onion-beside-tunnel",
        about: "a tunnel to a friend and a circuit at once: each lives without the other, and nothing leaks",
        run: beside_tunnel,
    },
    Case {
        name: "onion-ipv6",
        about: "curl -6 through three hops, to an exit that has addresses of IPv6",
        run: ipv6,
    },
];

const ASKED: u16 = 9100;
/// Where the friend answers: at its address in the tunnel, and behind it.
const FRIEND: [(Ipv4Addr, u16); 2] =
    [(Ipv4Addr::new(10, 9, 0, 2), ASKED), (Ipv4Addr::new(10, 20, 0, 1), ASKED + 1)];

/// An origin with a friend, r1, at the other end of a tunnel.
struct Both {
    scene: Scene,
    services: [Service; 2],
    /// What reached r1 in the clear.
    to_friend: Count,
    to_web: Count,
}

impl Both {
    fn downloads(&self, limit: &str) -> Result<bool> {
        Ok(self.scene.curl(&["--max-time", limit], node::PATIENT)?.status.success())
    }

    fn download_comes(&self, when: &str) -> Result<()> {
        let comes = stop::until(node::PATIENT, || self.downloads("20"))?;
        ensure!(comes, "{when}: the circuit carries nothing: {}", self.scene.listed()?);
        Ok(())
    }

    /// The tunnel carries, both to the friend and to what is behind it.
    fn tunnel_carries(&self) -> Result<()> {
        FRIEND.iter().try_for_each(|to| hears(&self.scene.origin().host, (*to).into(), "r1"))
    }

    fn tunnel_is_silent(&self, when: &str) -> Result<()> {
        FRIEND.iter().zip(&self.services).try_for_each(|(to, service)| {
            hears_nothing(&self.scene.origin().host, (*to).into(), service, when)
        })
    }

    fn tunnel_up(&self) -> Result<()> {
        let (origin, friend) = (self.scene.origin(), &self.scene.nodes[1]);
        let [own, other] = [id_of(origin)?, id_of(friend)?];
        let route = ["--addr", "10.9.0.1/24", "--route", "10.20.0.0/24"];
        origin.run(&[&["tunnel", "up", "--peer", &other][..], &route].concat(), node::PROMPT)?;
        friend.run(&["tunnel", "up", "--peer", &own, "--addr", "10.9.0.2/24"], node::PROMPT)?;
        self.tunnel_carries()
    }

    fn leaks(&self) -> Result<[u64; 2]> {
        Ok([self.to_friend.packets(&self.scene.lab)?, self.to_web.packets(&self.scene.lab)?])
    }
}

fn beside_tunnel(_: &mut Lab, binary: &Path) -> Result<()> {
    let scene = Scene::new(binary, 1)?;
    let lab = &scene.lab;
    let [o, r, w] = [0, 1, 5].map(|n| lab.hosts()[n].clone());
    serve(&w, 6_000_000, Duration::from_millis(8))?;
    scene.open(&format!("{}/32 {WEB}", scene.web))?;
    on(lab, &r, &["ip", "address", "add", &format!("{}/32", FRIEND[1].0), "dev", "lo"])?;
    let (behind, port) = FRIEND[1];
    let services = [Service::start(&r, Ipv4Addr::UNSPECIFIED, ASKED)?, Service::start(&r, behind, port)?];
    // Whatever finds no other way goes to r1 in the clear, where it is seen, and answered if it is for r1.
    on(lab, &o, &["ip", "route", "add", "default", "via", &r.address.to_string(), "dev", "to-r1"])?;
    let seen = |name: &str, of: &str| {
        Count::start(lab, &r, name, "prerouting", &format!("iifname \"to-o\" ip daddr {of}"))
    };
    let (to_friend, to_web) = (seen("friend", "{ 10.9.0.0/24, 10.20.0.0/24 }")?, seen("web", &scene.web)?);
    let mut both = Both { scene, services, to_friend, to_web };
    hears(&o, FRIEND[1].into(), "r1")?;
    ensure!(!both.downloads("2")?, "the server is no secret");
    ensure!(both.leaks()?.iter().all(|seen| *seen > 0), "what goes in the clear is not seen");

    both.scene.origin().run(&["config", "set", "tunnel.kill_switch", "true"], node::PROMPT)?;
    both.tunnel_up()?;
    both.scene.up("3")?;
    let before = both.leaks()?;
    // At the same time.
    let url = both.scene.url();
    let mut command = o.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "-o", "/dev/null", &url]);
    let mut curl = Process::start("curl", both.scene.lab.dir(), &mut command)?;
    let sent = |name| counter(both.scene.origin(), name);
    let (inside, through) = (sent("tunnel_sent_packets")?, sent("circuit_received_packets")?);
    ensure!(
        stop::until(node::PROMPT, || Ok(sent("circuit_received_packets")? > through + 50))?,
        "nothing comes"
    );
    both.tunnel_carries()?;
    ensure!(!curl.ended()?, "the download ended too soon to have been beside anything: {}", curl.stderr());
    ensure!(curl.wait(node::PATIENT)?.success(), "{}", curl.stderr());
    ensure!(sent("tunnel_sent_packets")? > inside, "what was for the friend went another way");

    // The circuit has no end any more: the tunnel carries on, and nothing for the circuit goes in the clear.
    both.scene.nodes[4].kill();
    ensure!(!both.downloads("4")?, "a download without an exit");
    both.tunnel_carries()?;
    both.scene.nodes[4].start()?;
    both.download_comes("the exit is there again")?;
    // The friend is away: the circuit goes another way, and nothing for the friend goes in the clear or into the circuit.
    both.scene.nodes[1].kill();
    let refused = counter(both.scene.exit(), "exit_refused")?;
    both.tunnel_is_silent("the friend is away")?;
    both.download_comes("the friend is away")?;
    ensure!(counter(both.scene.exit(), "exit_refused")? == refused, "the exit saw what is a friend's");
    both.scene.nodes[1].start()?;
    both.tunnel_carries()?;
    ensure!(both.leaks()? == before, "in the clear: {:?}, before: {before:?}", both.leaks()?);

    // Taken down and brought up again, one beside the other, in either order.
    let friend = id_of(&both.scene.nodes[1])?;
    both.scene.origin().run(&["tunnel", "down", "--peer", &friend], node::PROMPT)?;
    both.download_comes("without the tunnel")?;
    both.tunnel_is_silent("the tunnel is down, and a circuit takes all the rest")?;
    // Regression: with the circuit's address there first, packets to what is behind the friend left from it, which the
    // friend does not take.
    both.tunnel_up()?;
    both.download_comes("with the tunnel beside it")?;
    ensure!(both.leaks()? == before, "in the clear: {:?}, before: {before:?}", both.leaks()?);
    both.scene.origin().run(&["tunnel", "down", "--circuit"], node::PROMPT)?;
    both.tunnel_carries()?;
    ensure!(!both.downloads("2")? && both.leaks()?[1] > before[1], "the circuit's switch is still there");
    both.scene.nodes[1].kill();
    both.tunnel_is_silent("the circuit is down and the friend away")?;
    ensure!(both.leaks()?[0] == before[0], "the tunnel's switch went with the circuit");
    Ok(())
}

/// A server's address of the global network, and the exit's network with it.
const FAR: Ipv6Addr = Ipv6Addr::new(0x2600, 0x77, 0, 0, 0, 0, 0, 6);
const NEAR: [&str; 2] = ["fd77::5", "fd77::6"];

fn ipv6(_: &mut Lab, binary: &Path) -> Result<()> {
    let scene = Scene::new(binary, 1)?;
    let lab = &scene.lab;
    let [o, x, w] = [0, 4, 5].map(|n| lab.hosts()[n].clone());
    let [here, there] = NEAR.map(|address| format!("{address}/64"));
    on(lab, &x, &["ip", "address", "add", &here, "dev", "to-w", "nodad"])?;
    on(lab, &w, &["ip", "address", "add", &there, "dev", "to-x", "nodad"])?;
    on(lab, &w, &["ip", "address", "add", &format!("{FAR}/128"), "dev", "lo", "nodad"])?;
    on(lab, &x, &["ip", "route", "add", &format!("{FAR}/128"), "via", NEAR[1], "dev", "to-w"])?;
    let bytes = 1_000_000;
    serve_at(&w, FAR.into(), bytes, Duration::ZERO)?;
    let near = SocketAddr::new(NEAR[1].parse()?, ASKED);
    let service = Service::at_each(&w, ASKED, &[FAR.into(), near.ip()])?;
    hears(&x, near, "w")?;
    let url = format!("http://[{FAR}]:{WEB}/");
    let fetch = |limit: &str| scene.curl_at(&url, &["-6", "--max-time", limit], node::PATIENT);
    ensure!(!fetch("2")?.status.success(), "the server is no secret");
    scene.exit().run(&["config", "set", "exit.pool", "10.117.0.0/16, fd75::/64"], node::PROMPT)?;
    scene.open("::/0")?;
    let taps = [1, 2, 3].map(|n| Tap::start(&lab.hosts()[n]));
    scene.up("3")?;
    let got = fetch("60")?;
    ensure!(got.status.success(), "{}", got.stderr);
    ensure!(got.stdout.len() as u64 == bytes, "{} of {bytes} bytes", got.stdout.len());
    ensure!(got.stdout.lines().all(|line| MARKER.starts_with(line)), "altered");
    for (n, tap) in (1..).zip(taps) {
        if counter(&scene.nodes[n], "circuit_cells_backward")? > 50 {
            tap?.read_nothing(&scene.nodes[n].name)?;
        }
    }
    // The world, and not the exit's own network.
    hears(&o, SocketAddr::new(FAR.into(), ASKED), "w")?;
    hears_nothing(&o, near, &service, "the exit's own network")?;
    ensure!(counter(scene.exit(), "tun_write_refused")? == 0, "the kernel refused what the exit wrote");
    Ok(())
}
