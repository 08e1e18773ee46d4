//! Two behind one translator, which keeps them apart inside: they meet by its outside where it turns round what is sent
//! there from inside (a hairpin, RFC 4787 §6), and through a friend where it does not.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Kind, PORT, Reach, host, neighbour, on, passes, settles, start, translate, world};
use crate::lab::Lab;

pub fn run(_: &mut Lab, binary: &Path) -> Result<()> {
    let lab = world(&["a2"])?;
    translate(&lab, "na", Kind::PortRestricted)?;
    translate(&lab, "nb", Kind::PortRestricted)?;
    // What one says to the other's own address does not pass; what the translator turned round does.
    let apart = "add table ip apart;
        add chain ip apart between { type filter hook forward priority -1; };
        add rule ip apart between ct status dnat accept;
        add rule ip apart between iifname to-a oifname to-a2 drop;
        add rule ip apart between iifname to-a2 oifname to-a drop;";
    on(&lab, "na", &["nft", apart])?;
    let world = start(lab, binary)?;
    let (lab, a) = (&world.lab, &world.a);
    let a2 = neighbour(&world, binary)?;
    let got = settles(a, &a2, Reach::Relayed)?;
    ensure!(got == Reach::Relayed, "{got:?}, kept apart by what turns nothing round");
    passes(lab, a, &a2, "kept-apart")?;
    println!("        a translator that keeps neighbours apart and turns nothing round: {got:?}");

    // Two have the same port inside, so each outside has another: the first keeps its own.
    let (outside, first) = (host(lab, "na")?.address, host(lab, "a")?.address);
    let turned = format!(
        "add rule ip translator before iifname {{ to-a, to-a2 }} ip daddr {outside} udp dport {PORT} dnat to {first}:{PORT};
         add rule ip translator after ct status dnat ip saddr {{ {first}, {second} }} masquerade;",
        second = host(lab, "a2")?.address
    );
    on(lab, "na", &["nft", &turned])?;
    // What it decided of packets before holds for as long as they come.
    on(lab, "na", &["conntrack", "-F"])?;
    // The next round may be as far away as the last ones took.
    let mut got = Reach::Relayed;
    for _ in 0..3 {
        if got != Reach::Straight {
            got = settles(a, &a2, Reach::Straight)?;
        }
    }
    let counted = on(lab, "na", &["conntrack", "-L", "-p", "udp", "--orig-dst", &outside.to_string()])
        .context("what the translator remembers")?;
    ensure!(got == Reach::Straight, "{got:?}, by what is turned round: {counted}");
    ensure!(counted.contains(&format!("dport={PORT}")), "nothing was turned round: {counted}");
    passes(lab, a, &a2, "turned-round")?;
    println!("        and one that turns round what is sent to its outside: {got:?}");
    Ok(())
}
