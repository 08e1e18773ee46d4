//! Applications without rights: the SOCKS proxy into a circuit, run by an ordinary user.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::asking::Count;
use super::proxying::{
    PROXY, To, answer_names, code, connect, count_to_the_end, counted, echo, exchange, reset,
};
use super::{Scene, WEB, counter, outlives_middle, serve, serve_on};
use crate::e2e::{Case, one_line};
use crate::lab::{Finished, Lab, Node, Process, node};
use crate::{sh, stop};

pub const CASES: &[Case] = &[
    Case {
        name: "socks",
        about: "a daemon without rights leads curl, datagrams and a hundred connections at once through three hops",
        run,
    },
    Case {
        name: "socks-beside",
        about: "the proxy and a device use one circuit at once, and what is wrong is refused in one line",
        run: beside,
    },
];

/// An ordinary user, without capabilities for good.
const NOBODY: &str = "65534";
const NAME: &str = "web.test";
const SLOW: u16 = 8100;
const COUNTING: u16 = 8101;
const RESETTING: u16 = 8102;
const ECHO: u16 = 8103;
const CLOSED: u16 = 8104;
/// What the exit lets out, beside names: all of these.
const OPEN: &str = "8080-8200";
const TOGETHER: usize = 100;

/// The scene with servers, and the origin's daemon as nobody in particular.
fn scene(binary: &Path, bytes: u64) -> Result<Scene> {
    let mut scene = Scene::new(binary, 1)?;
    let web = scene.lab.hosts()[5].clone();
    serve(&web, bytes, Duration::ZERO)?;
    answer_names(&web, NAME, web.address)?;
    echo(&web, ECHO)?;
    count_to_the_end(&web, COUNTING)?;
    reset(&web, RESETTING)?;
    scene.open(&format!("{0}/32 {OPEN},{0}/32 53", scene.web))?;
    scene.origin().run(&["config", "set", "socks.dns", &scene.web], node::PROMPT)?;
    demote(&mut scene.nodes[0])?;
    Ok(scene)
}

/// Starts a node's daemon anew, as an ordinary user.
fn demote(daemon: &mut Node) -> Result<()> {
    daemon.stop(Signal::SIGTERM)?;
    // The way to its folder, and nothing else on it.
    for above in daemon.dir.ancestors().skip(1).take(2) {
        sh::words("chmod", &["a+x", node::text(above)?])?;
    }
    sh::words("chown", &["-R", &format!("{NOBODY}:{NOBODY}"), node::text(&daemon.dir)?])?;
    let words = "--clear-groups --bounding-set -all --inh-caps -all --ambient-caps -all --no-new-privs --pdeathsig KILL";
    let user = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY];
    let through: Vec<String> = user.into_iter().chain(words.split(' ')).map(String::from).collect();
    daemon.start_through(&through)?;
    let pid = daemon.daemon()?.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let none = |field: &str| {
        status.lines().any(|l| l.starts_with(field) && l.trim_end().ends_with("0000000000000000"))
    };
    ensure!(none("CapEff:") && none("CapPrm:") && none("CapBnd:"), "it has rights:\n{status}");
    Ok(())
}

fn up(scene: &Scene, more: &[&str]) -> Result<String> {
    scene.up_with("3", &[&["--socks", "127.0.0.1:1080"], more].concat())
}

/// curl by the proxy, which finds the name, too.
fn curl(scene: &Scene, url: &str, more: &[&str]) -> Result<Finished> {
    let proxy = ["--socks5-hostname", "127.0.0.1:1080"];
    scene.curl_at(url, &[&proxy[..], more].concat(), node::PATIENT)
}

fn run(_: &mut Lab, binary: &Path) -> Result<()> {
    let bytes = 3_000_000;
    let mut scene = scene(binary, bytes)?;
    let web = scene.lab.hosts()[5].clone();
    let origin = scene.lab.hosts()[0].clone();
    serve_on(&web, web.address.into(), SLOW, 12_000_000, Duration::from_millis(8))?;
    // What the origin's kernel itself sends: nothing to the server, no question, no connection but to itself.
    let leaks = [
        ("toweb", format!("ip daddr {}", scene.web)),
        ("names", "udp dport 53".to_owned()),
        ("streams", "oifname != \"lo\" ip protocol tcp".to_owned()),
    ];
    let leaks: Vec<Count> = leaks
        .iter()
        .map(|(name, matching)| Count::start(&scene.lab, &origin, name, "output", matching))
        .collect::<Result<_>>()?;
    let said = up(&scene, &[])?;
    ensure!(said.contains("127.0.0.1:1080"), "{said}");
    let mut links = origin.command("ip");
    links.args(["-o", "link"]);
    let links = Process::finish("links", scene.lab.dir(), &mut links, node::PROMPT)?.stdout;
    ensure!(!links.contains("tornet0"), "a device:\n{links}");

    // By name and by address.
    for host in [NAME, &scene.web] {
        let got = curl(&scene, &format!("http://{host}:{WEB}/"), &[])?;
        ensure!(got.status.success(), "{host}: {}", got.stderr);
        ensure!(got.stdout.len() as u64 == bytes, "{host}: {} of {bytes} bytes", got.stdout.len());
    }
    // What cannot be is said with its code.
    let there = To::Address(web.address);
    for (command, to, port, wanted, what) in [
        (1, &there, CLOSED, 5, "a closed port"),
        (1, &there, 22, 2, "what the exit does not let out"),
        (1, &To::Name("no.such.name.test"), WEB, 4, "no such name"),
        (1, &To::Address([127, 0, 0, 1].into()), WEB, 2, "this host"),
        (2, &there, WEB, 7, "BIND"),
    ] {
        let began = Instant::now();
        let said = code(&origin, command, to, port)?;
        ensure!(said == wanted, "{what}: the proxy says {said}, not {wanted}");
        ensure!(began.elapsed() < Duration::from_secs(5), "{what}: said after {:?}", began.elapsed());
    }
    // Datagrams, by name and by address.
    for to in [&there, &To::Name(NAME)] {
        let (answer, header) = exchange(&origin, to, ECHO, b"say it back")?;
        ensure!(answer == b"say it back", "the echo says {answer:?}");
        ensure!(header[4..8] == web.address.octets() && header[8..] == ECHO.to_be_bytes(), "{header:?}");
    }
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x04test\x00\x00\x01\x00\x01";
    let (answer, _) = exchange(&origin, &there, 53, question)?;
    ensure!(answer.ends_with(&web.address.octets()), "DNS by the proxy: {answer:?}");

    // Halves close one by one; a reset is one on the other side.
    counted(connect(&origin, &there, COUNTING)?, 2_000_000)?;
    let mut stream = connect(&origin, &there, RESETTING)?;
    stream.write_all(b"x")?;
    let broken = stream.read(&mut [0; 1]);
    ensure!(broken.as_ref().is_err_and(|e| e.raw_os_error() == Some(104)), "no reset, but {broken:?}");

    together(&scene)?;
    relay_dies(&mut scene)?;

    let status = scene.origin().status()?;
    let socks = &status["socks"];
    ensure!(socks["listen"] == "127.0.0.1:1080" && socks["connected"].as_u64() > Some(100), "{socks}");
    ensure!(socks["received_bytes"].as_u64() > Some(18_000_000), "{socks}");
    let words = scene.origin().run(&["status"], node::PROMPT)?.stdout;
    ensure!(words.contains("socks: 127.0.0.1:1080"), "{words}");
    for name in ["socks_connected", "socks_refused", "socks_questions", "socks_received_datagrams"] {
        ensure!(counter(scene.origin(), name)? > 0, "{name}: {}", status["counters"]);
    }
    for count in &leaks {
        let packets = count.packets(&scene.lab)?;
        ensure!(packets == 0, "{packets} packets left by the host's own interfaces");
    }

    // The proxy ends with its circuit, and a connection with the proxy.
    let mut open = connect(&origin, &there, COUNTING)?;
    scene.origin().run(&["tunnel", "down"], node::PROMPT)?;
    ensure!(open.read(&mut [0; 1]).map_or(true, |len| len == 0), "a connection lives on");
    let listening = origin.within(|| Ok(TcpStream::connect(SocketAddr::from(PROXY)).is_ok()))?;
    ensure!(!listening, "it still listens");
    ensure!(scene.origin().status()?["socks"].is_null(), "it is still there");
    // It comes back with the daemon.
    up(&scene, &[])?;
    demote(&mut scene.nodes[0])?;
    let back = stop::until(node::PROMPT, || {
        Ok(curl(&scene, &format!("http://{NAME}:{WEB}/"), &["--max-time", "5"])?.status.success())
    })?;
    ensure!(back, "the proxy did not come back: {}", scene.listed()?);
    scene.nodes[0].stop(Signal::SIGTERM)
}

/// Many connections at once, each with an end of its own.
fn together(scene: &Scene) -> Result<()> {
    let (origin, web) = (scene.lab.hosts()[0].clone(), scene.lab.hosts()[5].address);
    let threads: Vec<_> = (0..TOGETHER)
        .map(|n| {
            let origin = origin.clone();
            std::thread::spawn(move || -> Result<()> {
                let stream = connect(&origin, &To::Address(web), COUNTING)?;
                counted(stream, 20_000 + 1000 * n)
            })
        })
        .collect();
    for (n, thread) in threads.into_iter().enumerate() {
        let done = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        done.with_context(|| format!("connection {n} of {TOGETHER} at once"))?;
    }
    Ok(())
}

/// A relay dies in a download, which goes on in the same connection.
fn relay_dies(scene: &mut Scene) -> Result<()> {
    let to = scene.lab.dir().join("got");
    let mut command = scene.origin().host.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--socks5-hostname", "127.0.0.1:1080"]);
    command.arg(format!("http://{NAME}:{SLOW}/")).arg("-o").arg(&to);
    let (victim, _) = outlives_middle(scene, &mut command, &to, 12_000_000)?;
    scene.nodes[victim].start()
}

fn beside(_: &mut Lab, binary: &Path) -> Result<()> {
    let scene = Scene::new(binary, 1)?;
    let web = scene.lab.hosts()[5].clone();
    let (bytes, route) = (500_000, format!("{}/32", scene.web));
    serve(&web, bytes, Duration::ZERO)?;
    scene.open(&route)?;
    up(&scene, &["--route", &route])?;
    let whole = |got: Finished, how: &str| {
        ensure!(got.status.success(), "{how}: {}", got.stderr);
        ensure!(got.stdout.len() as u64 == bytes, "{how}: {} of {bytes} bytes", got.stdout.len());
        Ok(())
    };
    for _ in 0..3 {
        whole(scene.curl(&[], node::PATIENT)?, "by the device")?;
        whole(curl(&scene, &scene.url(), &[])?, "by the proxy")?;
    }
    // A name without a resolver.
    let origin = &scene.lab.hosts()[0];
    ensure!(code(origin, 1, &To::Name(NAME), WEB)? == 1, "nobody is asked");
    // What is wrong changes nothing.
    let _busy = origin.within(|| Ok(std::net::TcpListener::bind("127.0.0.1:1081")?))?;
    for (at, hint) in
        [("127.0.0.1:1081", "in use"), ("0.0.0.0:1082", "socks.public"), ("1080", "127.0.0.1:1080")]
    {
        let done = scene.origin().attempt(&["tunnel", "up", "--hops", "2", "--socks", at], node::PATIENT)?;
        let line = one_line(&done)?;
        ensure!(line.contains(hint), "{at}: {line}");
        let back = stop::until(node::PROMPT, || {
            Ok(curl(&scene, &scene.url(), &["--max-time", "5"])?.status.success())
        })?;
        ensure!(back, "{at}: the proxy is not as it was");
    }
    scene.origin().run(&["tunnel", "down"], node::PROMPT)?;
    super::assert_clean(&scene.lab, origin)
}
