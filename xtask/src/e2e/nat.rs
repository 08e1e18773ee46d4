//! Two friends behind address translators of every kind, and a friend of both outside: they reach each other straight
//! where that can be, and through that friend where not.

mod neighbours;
mod servers;
mod six;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::lab::node::PROMPT;
use crate::lab::{Description, Host, Lab, Node, files, scratch};
use crate::stop;

pub const CASES: &[Case] = &[
    Case {
        name: "nat",
        about: "translators of every kind before both: straight, or through a friend",
        run: matrix,
    },
    Case {
        name: "nat-moves",
        about: "a translator forgets in mid-life; one that turns nothing round",
        run: moves,
    },
    Case {
        name: "nat-servers",
        about: "miniupnpd maps a port, coturn says where one is seen",
        run: servers::run,
    },
    Case {
        name: "nat-neighbours",
        about: "two behind one translator that keeps them apart: by its outside, where it turns round",
        run: neighbours::run,
    },
    Case {
        name: "nat-six",
        about: "translators that never let the two meet, and IPv6 behind firewalls beside them",
        run: six::run,
    },
];

/// A link outside, one way.
const DELAY_MS: f64 = 10.0;
/// What the two may take to have a session, and to get off the way: daemons, a handshake that is not answered, rounds.
const LIMIT: Duration = Duration::from_secs(25);
/// Those that stay on the way are looked at for so long.
const STAYS: Duration = Duration::from_secs(6);
const PORT: u16 = 4001;

/// How a translator behaves, by rules of nftables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    FullCone,
    Restricted,
    PortRestricted,
    Symmetric,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::FullCone, Kind::Restricted, Kind::PortRestricted, Kind::Symmetric];

    /// Whether two such can meet.
    fn meets(self, other: Kind) -> bool {
        let blind =
            |one, other| one == Kind::Symmetric && matches!(other, Kind::Symmetric | Kind::PortRestricted);
        !blind(self, other) && !blind(other, self)
    }

    /// Rules for a translator whose outside is `out`, before the host `inside`.
    fn rules(self, out: &str, inside: &str) -> String {
        let masquerade = match self {
            Kind::Symmetric => "masquerade fully-random",
            Kind::FullCone | Kind::Restricted | Kind::PortRestricted => "masquerade",
        };
        let lets_in = match self {
            Kind::FullCone => format!("iifname {out} udp dport {PORT} dnat to {inside}:{PORT}"),
            Kind::Restricted => {
                format!("iifname {out} udp dport {PORT} ip saddr @sent dnat to {inside}:{PORT}")
            }
            Kind::PortRestricted | Kind::Symmetric => String::new(),
        };
        let chain = |name: &str, what: &str, hook: &str, priority: i32, rule: &str| {
            let rule = if rule.is_empty() {
                String::new()
            } else {
                format!("add rule ip translator {name} {rule};")
            };
            format!(
                "add chain ip translator {name} {{ type {what} hook {hook} priority {priority}; }};{rule}"
            )
        };
        [
            "add table ip translator;".to_string(),
            "add set ip translator sent { type ipv4_addr; flags dynamic,timeout; timeout 2m; };".to_string(),
            chain("out", "filter", "forward", 0, &format!("oifname {out} update @sent {{ ip daddr }}")),
            // What nobody asked for is not the router's either: taken in, it would keep the port from whoever sends there next.
            chain("own", "filter", "input", 0, &format!("iifname {out} meta l4proto udp drop")),
            chain("before", "nat", "prerouting", -100, &lets_in),
            chain("after", "nat", "postrouting", 100, &format!("oifname {out} {masquerade}")),
        ]
        .concat()
    }
}

/// Hosts `a` and `b` behind translators `na` and `nb`, and `c`, which forwards between these.
struct World {
    lab: Lab,
    a: Node,
    b: Node,
    c: Node,
}

fn host(lab: &Lab, name: &str) -> Result<Host> {
    lab.hosts().iter().find(|host| host.name == name).cloned().with_context(|| format!("no host {name}"))
}

fn on(lab: &Lab, name: &str, words: &[&str]) -> Result<String> {
    crate::sh::read(host(lab, name)?.command(words[0]).args(&words[1..]))
}

/// Whether the lines outside take time: then what takes how many round trips is measured, too. Without the emulator
/// (`TORNET_E2E_LINKS=veth`) they take none.
fn delayed() -> bool {
    std::env::var_os("TORNET_E2E_LINKS").is_none_or(|links| links != "veth")
}

/// A lab with its routes; `inside` are further hosts behind `na`.
fn world(inside: &[&str]) -> Result<Lab> {
    let mut text = format!("hosts a na c nb b {}\nveth a-na\nveth b-nb\n", inside.join(" "));
    for one in inside {
        text.push_str(&format!("veth {one}-na\n"));
    }
    for one in ["na", "nb"] {
        let slow = format!("link {one}-c delay={DELAY_MS}ms\n");
        text.push_str(&if delayed() { slow } else { format!("veth {one}-c\n") });
    }
    let lab = Lab::described(Description::parse(&text)?, &scratch())?;
    for name in ["na", "nb", "c"] {
        on(&lab, name, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
    }
    let c = host(&lab, "c")?.address.to_string();
    for (name, translator) in
        [("a", "na"), ("b", "nb")].into_iter().chain(inside.iter().map(|one| (*one, "na")))
    {
        let by = host(&lab, translator)?.address.to_string();
        on(&lab, name, &["ip", "route", "add", "default", "via", &by, "dev", &format!("to-{translator}")])?;
    }
    for name in ["na", "nb"] {
        on(&lab, name, &["ip", "route", "add", "default", "via", &c, "dev", "to-c"])?;
    }
    Ok(lab)
}

fn translate(lab: &Lab, translator: &str, kind: Kind) -> Result<()> {
    let inside = host(lab, translator.trim_start_matches('n'))?.address.to_string();
    on(lab, translator, &["nft", &kind.rules("to-c", &inside)]).map(drop)
}

fn node(lab: &Lab, name: &str, binary: &Path) -> Result<Node> {
    let node = Node::new(lab, &host(lab, name)?, name, binary, PORT, lab.dir().join(name));
    node.init()?;
    // Friends alone: nobody else helps.
    node.run(&["config", "set", "overlay.enabled", "false"], PROMPT)?;
    Ok(node)
}

/// All three run, and both know the third; then each other.
fn start(lab: Lab, binary: &Path) -> Result<World> {
    let (mut a, mut b, mut c) =
        (node(&lab, "a", binary)?, node(&lab, "b", binary)?, node(&lab, "c", binary)?);
    for one in [&mut c, &mut a, &mut b] {
        one.start()?;
    }
    for one in [&a, &b] {
        one.befriend(&c)?;
        c.befriend(one)?;
    }
    for one in [&a, &b] {
        one.meets(&c)?;
    }
    a.befriend(&b)?;
    b.befriend(&a)?;
    Ok(World { lab, a, b, c })
}

/// A node on host `a2`, behind the same translator as `a`: a friend of `a` and of `c`.
fn neighbour(world: &World, binary: &Path) -> Result<Node> {
    let mut a2 = node(&world.lab, "a2", binary)?;
    a2.start()?;
    for other in [&world.c, &world.a] {
        a2.befriend(other)?;
        other.befriend(&a2)?;
    }
    Ok(a2)
}

/// What a node says of another.
fn seen(node: &Node, other: &Node) -> Result<Value> {
    let (status, key) = (node.status()?, other.status()?["key"].clone());
    let peers = status["peers"].as_array().context("status --json has no peers")?;
    Ok(peers.iter().find(|entry| entry["key"] == key).cloned().unwrap_or_default())
}

/// How the two see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Straight,
    Relayed,
    No,
}

fn reach(one: &Node, other: &Node) -> Result<Reach> {
    let both = [seen(one, other)?, seen(other, one)?];
    if !both.iter().all(|entry| entry["connected"] == true) {
        return Ok(Reach::No);
    }
    let relayed = both.iter().any(|entry| entry["relayed"] == true);
    Ok(if relayed { Reach::Relayed } else { Reach::Straight })
}

/// Waits for the best that is wanted of two nodes, and says what came of it.
fn settles(one: &Node, other: &Node, wanted: Reach) -> Result<Reach> {
    let mut last = Reach::No;
    stop::until(LIMIT, || {
        last = reach(one, other)?;
        Ok(last == wanted)
    })?;
    if wanted == Reach::Relayed && last == wanted {
        let _ = stop::until(STAYS, || {
            last = reach(one, other)?;
            Ok(last != wanted)
        })?;
    }
    Ok(last)
}

/// A file passes from one to the other.
fn passes(lab: &Lab, from: &Node, to: &Node, name: &str) -> Result<()> {
    let input = lab.dir().join(format!("{name}.in"));
    files::random(&input, 256 << 10)?;
    let (_, reference) = from.put(&input)?;
    let out = lab.dir().join(format!("{name}.out"));
    to.get(&reference, &out)?;
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    Ok(())
}

/// Round trips through the friend that the way off it took, as the one that was quicker measured it.
fn trips(one: &Node, other: &Node) -> Result<Option<f64>> {
    let took = [seen(one, other)?, seen(other, one)?];
    let least = took.iter().filter_map(|entry| entry["straight_after_us"].as_f64()).min_by(f64::total_cmp);
    Ok(least.map(|us| us / 1000.0 / (4.0 * DELAY_MS)))
}

/// The cells that CI runs; the simulator has them all, and so has this case with `NAT_ALL=1`.
const OFTEN: [(Kind, Kind); 6] = [
    (Kind::FullCone, Kind::FullCone),
    (Kind::FullCone, Kind::Symmetric),
    (Kind::Restricted, Kind::Symmetric),
    (Kind::PortRestricted, Kind::PortRestricted),
    (Kind::PortRestricted, Kind::Symmetric),
    (Kind::Symmetric, Kind::Symmetric),
];

fn matrix(_: &mut Lab, binary: &Path) -> Result<()> {
    let (mut wrong, all) = (Vec::new(), std::env::var_os("NAT_ALL").is_some());
    for (at, one) in Kind::ALL.into_iter().enumerate() {
        for other in Kind::ALL.into_iter().skip(at) {
            stop::check()?;
            if !all && !OFTEN.contains(&(one, other)) {
                continue;
            }
            let lab = world(&[])?;
            translate(&lab, "na", one)?;
            translate(&lab, "nb", other)?;
            let world = start(lab, binary)?;
            let began = Instant::now();
            let wanted = if one.meets(other) { Reach::Straight } else { Reach::Relayed };
            let got = settles(&world.a, &world.b, wanted)?;
            let (took, trips) = (began.elapsed().as_secs_f64(), trips(&world.a, &world.b)?);
            let trips = trips.filter(|_| delayed());
            let shown = trips
                .map_or(String::new(), |trips| format!(", straight {trips:.1} round trips after the way"));
            println!("        {one:?} and {other:?}: {got:?}{shown} ({took:.1} s in all)");
            if got != wanted {
                wrong.push(format!("{one:?} and {other:?}: {got:?}, not {wanted:?}"));
            } else if trips.is_some_and(|trips| trips > 3.0) {
                wrong.push(format!("{one:?} and {other:?}: straight only after {trips:?} round trips"));
            }
            passes(&world.lab, &world.b, &world.a, "cell")
                .with_context(|| format!("{one:?} and {other:?}"))?;
            let nat = world.a.status()?["nat"].clone();
            ensure!(nat["seen_at"].as_array().is_some_and(|seen| !seen.is_empty()), "seen nowhere: {nat}");
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn moves(_: &mut Lab, binary: &Path) -> Result<()> {
    let lab = world(&["a2"])?;
    translate(&lab, "na", Kind::PortRestricted)?;
    translate(&lab, "nb", Kind::PortRestricted)?;
    let world = start(lab, binary)?;
    let (lab, a, b) = (&world.lab, &world.a, &world.b);
    ensure!(settles(a, b, Reach::Straight)? == Reach::Straight, "never straight");
    rebinds(lab)?;
    passes(lab, b, a, "rebound").context("after both translators forgot")?;
    let got = settles(a, b, Reach::Straight)?;
    ensure!(got == Reach::Straight, "{got:?} after both translators forgot");
    println!("        both translators forgot, and gave other ports: straight again");

    // A neighbour behind the same translator, which keeps the two apart and turns nothing round.
    let apart = "add table ip apart;
        add chain ip apart between { type filter hook forward priority -1; };
        add rule ip apart between iifname to-a oifname to-a2 drop;
        add rule ip apart between iifname to-a2 oifname to-a drop;";
    on(lab, "na", &["nft", apart])?;
    let a2 = neighbour(&world, binary)?;
    let got = settles(a, &a2, Reach::Relayed)?;
    ensure!(got == Reach::Relayed, "{got:?}, kept apart from a neighbour");
    passes(lab, a, &a2, "apart")?;
    println!("        neighbours that are kept apart: through their friend");
    on(lab, "na", &["nft", "delete", "table", "ip", "apart"])?;
    let got = settles(a, &a2, Reach::Straight)?;
    ensure!(got == Reach::Straight, "{got:?}, no longer kept apart from a neighbour");
    println!("        and no longer: straight");
    Ok(())
}

/// Both translators lose what they remember, and give other ports from then on.
fn rebinds(lab: &Lab) -> Result<()> {
    for name in ["na", "nb"] {
        let inside = host(lab, name.trim_start_matches('n'))?.address;
        let rule = format!(
            "add rule ip translator after oifname to-c ip saddr {inside} meta l4proto udp masquerade to :20000;
             add rule ip translator after oifname to-c masquerade;"
        );
        on(lab, name, &["nft", "flush", "chain", "ip", "translator", "after"])?;
        on(lab, name, &["nft", &rule])?;
        on(lab, name, &["conntrack", "-F"])?;
    }
    Ok(())
}
