//! Several circuits at once between real daemons: what they carry together, what a flow does when its circuit ends.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Scene, WEB, serve, serve_on};
use crate::e2e::Case;
use crate::lab::{Lab, Process, node};
use crate::stop;

pub const CASES: &[Case] = &[Case {
    name: "multipath",
    about: "two circuits at once: one download has more than one path's rate, flows use both, a relay dies and they go on",
    run,
}];

const SLOW: u16 = 8100;
const BYTES: u64 = 8_000_000;

/// Brings circuits of two hops up, and waits until all of them are open.
fn up(scene: &Scene, paths: &str, spread: &str) -> Result<()> {
    scene.up_with("2", &["--paths", paths, "--spread", spread])?;
    all_open(scene)
}

fn all_open(scene: &Scene) -> Result<()> {
    let open = stop::until(node::PROMPT, || {
        let listed = scene.listed()?;
        let paths = listed["circuit"]["paths"].as_array().context("paths in tunnel list --json")?;
        Ok(paths.iter().all(|path| path["open"] == true))
    })?;
    ensure!(open, "not all are open: {}", scene.listed()?);
    Ok(())
}

/// What came by each path so far, bytes.
fn received(scene: &Scene) -> Result<Vec<u64>> {
    let listed = scene.listed()?;
    let paths = listed["circuit"]["paths"].as_array().context("paths")?;
    Ok(paths.iter().map(|path| path["received_bytes"].as_u64().unwrap_or(0)).collect())
}

fn download(scene: &Scene) -> Result<Duration> {
    let began = Instant::now();
    let got = scene.curl(&["-o", "/dev/null"], node::PATIENT)?;
    ensure!(got.status.success(), "a download: {}", got.stderr);
    Ok(began.elapsed())
}

fn run(_: &mut Lab, binary: &Path) -> Result<()> {
    let mut scene = Scene::new(binary, 1)?;
    let web = scene.lab.hosts()[5].clone();
    serve(&web, BYTES, Duration::ZERO)?;
    serve_on(&web, web.address.into(), SLOW, 12_000_000, Duration::from_millis(8))?;
    scene.open(&format!("{}/32 {WEB}-{SLOW}", scene.web))?;
    for relay in &scene.nodes[1..4] {
        relay.run(&["limit", "set", "--up", "20mbit"], node::PROMPT)?;
    }
    up(&scene, "1", "flow")?;
    let one = download(&scene)?;
    up(&scene, "2", "packet")?;
    let two = download(&scene)?;
    let gain = one.as_secs_f64() / two.as_secs_f64();
    println!("        one path {one:.2?}, two {two:.2?}: {gain:.2} times");
    let both = received(&scene)?;
    ensure!(both.iter().all(|bytes| *bytes > BYTES / 5), "one path has nearly all: {both:?}");
    ensure!(gain > 1.5, "two paths carry {gain:.2} times what one does");

    up(&scene, "2", "flow")?;
    let mut command = scene.origin().host.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--parallel", "--parallel-max", "8"]);
    (0..8).for_each(|_| _ = command.args(["-o", "/dev/null", &scene.url()]));
    let before = received(&scene)?;
    let got = Process::finish("curl-8", scene.lab.dir(), &mut command, node::PATIENT)?;
    ensure!(got.status.success(), "eight downloads: {}", got.stderr);
    let after = received(&scene)?;
    ensure!(
        before.iter().zip(&after).all(|(a, b)| b - a > BYTES / 2),
        "flows use both: {before:?} {after:?}"
    );

    // One relay is killed while eight flows are under way: those on the other path do not notice, and all end well.
    let folder = scene.lab.dir().to_owned();
    let mut command = scene.origin().host.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--parallel", "--parallel-max", "4"]);
    let files: Vec<_> = (0..4).map(|n| folder.join(format!("got{n}"))).collect();
    let slow = format!("http://{}:{SLOW}/", scene.web);
    files.iter().for_each(|file| _ = command.arg("-o").arg(file).arg(&slow));
    let mut curl = Process::start("curl-4", scene.lab.dir(), &mut command)?;
    let sizes =
        || files.iter().map(|file| std::fs::metadata(file).map_or(0, |file| file.len())).collect::<Vec<_>>();
    ensure!(
        stop::until(node::PROMPT, || Ok(sizes().iter().all(|size| *size > 1 << 19)))?,
        "nothing comes: {:?}",
        sizes()
    );
    let listed = scene.listed()?;
    let first = listed["circuit"]["paths"][0]["path"][0].as_str().context("a path")?.to_owned();
    let is = |n: &usize| {
        let status = scene.nodes[*n].status().unwrap_or_default();
        ["key", "node_id"].iter().any(|key| status[*key].as_str().is_some_and(|text| first.contains(text)))
    };
    let victim = (1..4).find(is).with_context(|| format!("{first} is none of the relays"))?;
    scene.nodes[victim].kill();
    let (mut last, mut since, mut longest) = (sizes(), vec![Instant::now(); 4], [Duration::ZERO; 4]);
    let done = stop::until(node::PATIENT, || {
        let now = sizes();
        for n in 0..4 {
            if now[n] != last[n] || now[n] == 12_000_000 {
                since[n] = Instant::now();
            }
            longest[n] = longest[n].max(since[n].elapsed());
        }
        last = now;
        curl.ended()
    })?;
    ensure!(done && curl.wait(node::PROMPT)?.success(), "a download ended: {}", curl.stderr());
    ensure!(sizes().iter().all(|size| *size == 12_000_000), "{:?}", sizes());
    println!("        nothing came for {longest:?}");
    ensure!(longest.iter().all(|gap| *gap < Duration::from_secs(3)), "nothing came for {longest:?}");
    Ok(())
}
