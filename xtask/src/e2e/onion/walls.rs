//! What stands between circuits and the hosts at their ends, against a real kernel. Each wall is taken down at the end of its
//! case: what was not reached before must be reached then, so that nothing passes because nothing works.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::asking::{Count, Service, hears, hears_nothing, icmp, lead_on, nft, packet, send_raw, transport};
use super::{Scene, WEB, counter, serve};
use crate::e2e::Case;
use crate::e2e::tunnel::on;
use crate::lab::{Host, Lab, Process, node};
use crate::stop;

pub const CASES: &[Case] = &[
    Case {
        name: "onion-hostile-exit",
        about: "an exit reaches nothing at the origin or behind it, and hears nothing, while downloads work",
        run: hostile_exit,
    },
    Case {
        name: "onion-exit-walls",
        about: "a circuit reaches neither the exit's host nor the networks that it is in, unless they are named",
        run: exit_walls,
    },
    Case {
        name: "onion-exit-forwards",
        about: "a port that the exit's host leads into its private network leads no circuit there",
        run: exit_forwards,
    },
];

/// The origin's own address in a circuit.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 116, 111, 114);
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// What the operator of an exit has beside the device.
const TABLE: &str = "inet tornet_exit_tornet0";

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    (address, port).into()
}

fn downloads(scene: &Scene) -> Result<()> {
    let got = scene.curl(&[], node::PATIENT)?;
    ensure!(got.status.success(), "a download of the origin's own: {}", got.stderr);
    Ok(())
}

fn pings(scene: &Scene, from: &Host, to: Ipv4Addr) -> Result<bool> {
    let mut command = from.command("ping");
    command.args(["-n", "-q", "-c", "1", "-W", "2", &to.to_string()]);
    Ok(Process::finish("ping", scene.lab.dir(), &mut command, node::PROMPT)?.status.success())
}

fn hostile_exit(_: &mut Lab, binary: &Path) -> Result<()> {
    let scene = Scene::with(binary, 1, "hosts b\nveth o-b\n")?;
    let lab = &scene.lab;
    let [o, r, x, w, b] = [0, 1, 4, 5, 6].map(|n| lab.hosts()[n].clone());
    serve(&w, 100_000, Duration::ZERO)?;
    // The origin serves its neighbours, and leads a port to a host behind it, as for a container.
    let every = Service::start(&o, ANY, 9000)?;
    let behind = Service::start(&b, ANY, 9002)?;
    on(lab, &b, &["ip", "route", "add", "default", "via", &o.address.to_string(), "dev", "to-o"])?;
    lead_on(lab, &o, &format!("meta l4proto {{ tcp, udp }} th dport 9003 dnat to {}:9002;", b.address))?;
    scene.open("10.77.0.0/16, 10.117.0.0/16")?;
    scene.up("3")?;
    let own = Service::start(&o, CLIENT, 9001)?;

    let seen = "set those { type ipv4_addr; flags dynamic; }; chain look { type filter hook prerouting priority raw; \
                iifname \"tornet0\" ip saddr 10.117.0.0/16 add @those { ip saddr }; }";
    nft(lab, &x, &format!("table ip guests {{ {seen}; }}"))?;
    downloads(&scene)?;
    let shown = on(lab, &x, &["nft", "list", "set", "ip", "guests", "those"])?;
    let guest = shown.split_once("elements = { ").and_then(|(_, rest)| rest.split([' ', ',']).next());
    let guest: Ipv4Addr = guest.and_then(|text| text.parse().ok()).with_context(|| shown.clone())?;

    // Whom the origin means to serve is served, the circuit notwithstanding.
    hears(&r, at(o.address, 9000), "o")?;
    hears(&r, at(o.address, 9003), "b")?;
    hears(&o, at(CLIENT, 9001), "o")?;
    // The exit takes its own walls down: it, and whoever is behind it, asks the origin by the circuit's address.
    ["forward", "input", "own"].iter().try_for_each(|chain| flush(&scene, chain))?;
    on(lab, &w, &["ip", "route", "add", "10.117.0.0/16", "via", &x.address.to_string(), "dev", "to-x"])?;
    let (to, port) = (w.address, WEB);
    let mut quiet = o.within(move || Ok(TcpStream::connect((to, port))?))?;
    let local = quiet.local_addr()?.port();
    let way = || on(lab, &o, &["ip", "route", "get", &w.address.to_string()]);
    let before = way()?;
    let came = Count::start(lab, &o, "came", "prerouting", "iifname \"tornet0\"")?;
    let went = Count::start(lab, &o, "went", "postrouting", "oifname \"tornet0\"")?;
    for from in [&x, &w] {
        for (port, service) in [(9000, &every), (9001, &own), (9003, &behind), (9, &every)] {
            hears_nothing(from, at(guest, port), service, "an exit asks the origin")?;
        }
        ensure!(!pings(&scene, from, guest)?, "{} is told that the origin is there", from.name);
    }
    // In the name of a server that the origin talks to: answers to nothing, and news of another way there.
    let [asked, there] = [(w.address, WEB), (guest, 9000)];
    let flow = &transport((guest, local), asked, Some(0x10))[..28];
    let gateway = x.address.octets();
    let unasked = vec![
        transport(asked, there, Some(0x02)),
        transport(asked, there, Some(0x12)),
        transport(asked, there, Some(0x04)),
        transport(asked, there, None),
        packet(w.address, guest, 1, &icmp(8, 0, [0; 4], b"ping")),
        packet(w.address, guest, 1, &icmp(5, 1, gateway, flow)),
        packet(
            w.address,
            guest,
            1,
            &icmp(5, 1, gateway, &transport((guest, 4000), (w.address, 53), None)[..28]),
        ),
        packet(w.address, guest, 1, &icmp(17, 0, [0; 4], &[0; 4])),
        packet(w.address, guest, 47, &[0; 8]),
    ];
    // Each of two hosts: four connections, tried at least once, as many datagrams, and a ping.
    let least = unasked.len() as u64 + 2 * (4 + 4 + 1);
    let reached = || [&every, &own, &behind].map(Service::asked);
    let asked_before = reached();
    send_raw(&x, "tornet0", unasked)?;
    let mut packets = 0;
    let all = stop::until(node::PROMPT, || {
        packets = came.packets(lab)?;
        Ok(packets >= least)
    })?;
    ensure!(all, "only {packets} of {least} packets reached the origin's host");
    let answers = went.packets(lab)?;
    ensure!(answers == 0, "the origin said something: {answers} packets");
    ensure!(reached() == asked_before, "what nobody asked for was taken for a question");
    ensure!(way()? == before, "the exit changed the origin's way to a server: {}", way()?);
    // What the origin began goes on: the flow that was told of another way, and downloads.
    quiet.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    quiet.set_read_timeout(Some(node::PROMPT))?;
    let mut page = Vec::new();
    quiet.read_to_end(&mut page)?;
    ensure!(page.len() > 100_000, "{} bytes", page.len());
    downloads(&scene)?;

    // Without the wall all of that would have been answered.
    on(lab, &o, &["nft", "delete", "table", "inet", "tornet_guard_tornet0"])?;
    for from in [&x, &w] {
        hears(from, at(guest, 9000), "o")?;
        hears(from, at(guest, 9001), "o")?;
        hears(from, at(guest, 9003), "b")?;
        // The daemon of the exit lets no answer to a ping out; that it was given shows at the origin.
        let answers = went.packets(lab)?;
        pings(&scene, from, guest)?;
        ensure!(went.packets(lab)? > answers, "the origin answers no ping of {}", from.name);
    }
    Ok(())
}

/// What the exit's host is in, beside the lab's own links: a public network with w, and w's address beyond it.
const PUBLIC: [Ipv4Addr; 2] = [Ipv4Addr::new(11, 22, 33, 1), Ipv4Addr::new(11, 22, 33, 2)];
const FAR: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);

/// A scene whose exit has a public address and a private host p behind it.
fn town(binary: &Path) -> Result<Scene> {
    let scene = Scene::with(binary, 1, "hosts p\nveth x-p\n")?;
    let lab = &scene.lab;
    let [x, w] = [4, 5].map(|n| lab.hosts()[n].clone());
    let [near, there] = PUBLIC.map(|address| format!("{address}/24"));
    on(lab, &x, &["ip", "address", "add", &near, "dev", "to-w"])?;
    on(lab, &w, &["ip", "address", "add", &there, "dev", "to-x"])?;
    on(lab, &w, &["ip", "address", "add", &format!("{FAR}/32"), "dev", "lo"])?;
    on(lab, &x, &["ip", "route", "add", &FAR.to_string(), "via", &w.address.to_string(), "dev", "to-w"])?;
    Ok(scene)
}

fn flush(scene: &Scene, chain: &str) -> Result<()> {
    nft(&scene.lab, &scene.lab.hosts()[4], &format!("flush chain {TABLE} {chain}")).map(drop)
}

fn exit_walls(_: &mut Lab, binary: &Path) -> Result<()> {
    let scene = town(binary)?;
    let lab = &scene.lab;
    let [o, x, w, p] = [0, 4, 5, 6].map(|n| lab.hosts()[n].clone());
    let of_w = Service::at_each(&w, 9100, &[w.address, PUBLIC[1], FAR].map(IpAddr::V4))?;
    let of_w2 = Service::at_each(&w, 9101, &[w.address.into()])?;
    let of_p = Service::start(&p, ANY, 9100)?;
    let named = format!("{}/32 9100", w.address);
    scene.open(&format!("0.0.0.0/0, {named}"))?;
    scene.up("3")?;
    let pool = Ipv4Addr::new(10, 117, 0, 1);
    let own = [x.address, PUBLIC[0], pool, Ipv4Addr::LOCALHOST].map(IpAddr::V4);
    let of_x = Service::at_each(&x, 9100, &own)?;
    // All of these answer whoever is meant to ask.
    for (host, to, name) in [
        (&w, at(PUBLIC[0], 9100), "x"),
        (&w, at(x.address, 9100), "x"),
        (&p, at(x.address, 9100), "x"),
        (&x, at(PUBLIC[1], 9100), "w"),
        (&x, at(w.address, 9101), "w"),
        (&x, at(p.address, 9100), "p"),
        (&x, at(Ipv4Addr::LOCALHOST, 9100), "x"),
        (&x, at(pool, 9100), "x"),
    ] {
        hears(host, to, name)?;
    }
    // The world, and what is named.
    hears(&o, at(FAR, 9100), "w")?;
    hears(&o, at(w.address, 9100), "w")?;
    let walls = || -> Result<()> {
        for (to, service, why) in [
            (at(x.address, 9100), &of_x, "the exit's own private address"),
            (at(PUBLIC[0], 9100), &of_x, "the exit's own public address"),
            (at(pool, 9100), &of_x, "the exit's own address of the device"),
            (at(PUBLIC[1], 9100), &of_w, "a public network that the exit is in"),
        ] {
            hears_nothing(&o, to, service, why)?;
        }
        Ok(())
    };
    walls()?;
    hears_nothing(&o, at(w.address, 9101), &of_w2, "another port of what is named")?;
    hears_nothing(&o, at(p.address, 9100), &of_p, "a private network behind the exit")?;
    // No application asks for the exit's loopback; who writes packets itself can.
    let loopback = |flags| transport((CLIENT, 4000), (Ipv4Addr::LOCALHOST, 9100), flags);
    let (refused, asked) = (counter(scene.exit(), "exit_refused")?, of_x.asked());
    send_raw(&o, "tornet0", vec![loopback(Some(0x02)), loopback(None)])?;
    let said = stop::until(node::PROMPT, || Ok(counter(scene.exit(), "exit_refused")? >= refused + 2))?;
    ensure!(said, "what was for the exit's loopback did not come to it");
    // Also when the operator names them: an exit lets out, and not in.
    let names = ["127.0.0.0/8", "10.77.0.0/16", "10.117.0.0/16", "11.22.33.0/24"];
    scene.open(&format!("0.0.0.0/0, {}", names.join(", ")))?;
    hears(&o, at(p.address, 9100), "p")?;
    walls()?;
    let out = counter(scene.exit(), "exit_out_packets")?;
    send_raw(&o, "tornet0", vec![loopback(Some(0x02)), loopback(None)])?;
    let left = stop::until(node::PROMPT, || Ok(counter(scene.exit(), "exit_out_packets")? >= out + 2))?;
    ensure!(left, "what was for a loopback that is named was not handed to the kernel");
    hears(&o, at(FAR, 9100), "w")?;
    ensure!(of_x.asked() == asked, "the exit's loopback was reached");

    // Without the walls all of that would have been reached.
    ["own", "input", "forward"].iter().try_for_each(|chain| flush(&scene, chain))?;
    for (to, name) in [
        (at(x.address, 9100), "x"),
        (at(PUBLIC[0], 9100), "x"),
        (at(pool, 9100), "x"),
        (at(PUBLIC[1], 9100), "w"),
    ] {
        hears(&o, to, name)?;
    }
    Ok(())
}

fn exit_forwards(_: &mut Lab, binary: &Path) -> Result<()> {
    let scene = town(binary)?;
    let lab = &scene.lab;
    let [o, x, w, p] = [0, 4, 5, 6].map(|n| lab.hosts()[n].clone());
    let private = Service::start(&p, ANY, 9100)?;
    let public = Service::at_each(&w, 9100, &[FAR.into()])?;
    on(lab, &p, &["ip", "route", "add", "default", "via", &x.address.to_string(), "dev", "to-x"])?;
    // The operator leads a port of the public address to p; another one carelessly, whatever address it is of.
    let both = "meta l4proto { tcp, udp } th dport";
    let led = format!(
        "ip daddr {} {both} 8443 dnat to {p}:9100; {both} 8444 dnat to {p}:9100;",
        PUBLIC[0],
        p = p.address
    );
    lead_on(lab, &x, &led)?;
    scene.open("0.0.0.0/0")?;
    scene.up("3")?;
    let [careful, careless] = [at(PUBLIC[0], 8443), at(FAR, 8444)];
    hears(&w, careful, "p")?;
    hears(&w, at(PUBLIC[0], 8444), "p")?;
    hears(&o, at(FAR, 9100), "w")?;
    hears_nothing(&o, careful, &private, "a port that is led on")?;
    hears_nothing(&o, careless, &private, "a port that is led on for every address")?;
    // Both walls hold alone: the one for the host's own addresses, and the one for whatever was led elsewhere.
    flush(&scene, "forward")?;
    hears_nothing(&o, careful, &private, "a port that is led on, behind one wall")?;
    hears(&o, careless, "p")?;
    flush(&scene, "own")?;
    hears(&o, careful, "p")?;
    ensure!(public.asked() > 0);
    Ok(())
}
