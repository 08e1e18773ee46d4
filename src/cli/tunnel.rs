//! `tunnel`: with the daemon when it runs, on `tornet.toml` itself when it does not.

use hyper::Method;
use serde_json::{Value, json};

use super::client::{ask, segment};
use super::friend::offline;
use super::show::table;
use super::{Failure, args, print, tell};
use crate::api::circuits::{circuit_json, settings};
use crate::api::tunnels::{entry, named, tunnel_json};
use crate::base::units::show_size;
use crate::config::NodeDir;

pub(super) fn tunnel(dir: &NodeDir, command: args::Tunnel) -> Result<(), Failure> {
    match command {
        args::Tunnel::Up { hops: Some(hops), paths, spread, addr, route, exit, force, socks, .. } => {
            if !addr.is_empty() {
                tell("--addr is not used with --hops: the address is one of the exit's");
            }
            up_circuit(
                dir,
                (hops, paths, spread == "packet"),
                &route,
                exit.as_deref(),
                force,
                socks.as_deref(),
            )
        }
        args::Tunnel::Up { peer, addr, allow, route, .. } => {
            up(dir, &peer.unwrap_or_default(), &addr, &allow, &route)
        }
        args::Tunnel::Down { peer, circuit } => down(dir, peer.as_deref(), circuit),
        args::Tunnel::List { json } => list(dir, json),
    }
}

fn up(dir: &NodeDir, peer: &str, addr: &[String], allow: &[String], route: &[String]) -> Result<(), Failure> {
    let body = json!({ "peer": peer, "addr": addr, "allow": allow, "route": route });
    let (tunnel, state) = match ask(dir, Method::POST, "/v1/tunnels", Some(&body))? {
        Some(answer) => {
            let device = answer["device"].as_str().unwrap_or_default().to_owned();
            (answer["tunnel"].clone(), format!("is up on {device}"))
        }
        None => offline(dir, |file| {
            let tunnel = entry(file.config(), peer, addr, allow, route)?;
            file.add_tunnel(&tunnel)?;
            let json = tunnel_json(&tunnel, file.config());
            Ok((json, "is saved; no daemon runs now, and it comes up when one does".to_owned()))
        })?,
    };
    let (peer, addr) = (text(&tunnel, "peer"), list_of(&tunnel, "addr"));
    tell(format!("the tunnel to {peer} {state}: {addr} here, {} there", list_of(&tunnel, "allow")));
    Ok(())
}

fn up_circuit(
    dir: &NodeDir,
    (hops, paths, packets): (u8, u8, bool),
    route: &[String],
    exit: Option<&str>,
    force: bool,
    socks: Option<&str>,
) -> Result<(), Failure> {
    let body = json!({ "hops": hops, "paths": paths, "spread_packets": packets, "route": route, "exit": exit, "force": force, "socks": socks });
    let (circuit, state) = match ask(dir, Method::POST, "/v1/circuit", Some(&body))? {
        Some(answer) => {
            let device = answer["device"].as_str().map(|device| format!(" on {device}"));
            (answer["circuit"].clone(), format!("is up{}", device.unwrap_or_default()))
        }
        None => offline(dir, |file| {
            let wanted = settings(file.config(), (hops, paths, packets), route, exit, force, socks)?;
            let changes: Vec<_> = wanted.iter().map(|(name, text)| (*name, Some(text.as_str()))).collect();
            file.set(&changes)?;
            let state = "is saved; no daemon runs now, and it comes up when one does";
            Ok((circuit_json(file.config(), None), state.to_owned()))
        })?,
    };
    let path = list_of(&circuit, "path").replace(' ', " > ");
    let by = if path.is_empty() { String::new() } else { format!(", by way of {path}") };
    let mut through = vec![list_of(&circuit, "route")];
    through.retain(|route| !route.is_empty());
    if let Some(socks) = circuit["socks"].as_str() {
        through.push(format!("what applications bring to the SOCKS5 proxy at {socks}"));
    }
    tell(format!("the circuit of {hops} hops {state}: {} goes through it{by}", through.join(", and ")));
    if paths > 1 {
        tell(format!(
            "{paths} such circuits are wanted, with no relay on two of them but the exit: tornet tunnel list shows each"
        ));
    }
    let config = dir.load_config()?;
    if circuit["socks"].is_string()
        && config.config().socks_dns.is_empty()
        && config.config().tunnel_dns.is_empty()
    {
        tell(
            "the proxy refuses names until it knows whom to ask for them: tornet config set socks.dns 9.9.9.9, then tunnel up again",
        );
    }
    Ok(())
}

fn down(dir: &NodeDir, peer: Option<&str>, alone: bool) -> Result<(), Failure> {
    let path = match peer {
        Some(who) => format!("/v1/tunnels/{}", segment(who)),
        None => if alone { "/v1/circuit" } else { "/v1/tunnels" }.to_owned(),
    };
    let (removed, circuit) = match ask(dir, Method::DELETE, &path, None)? {
        Some(answer) if alone => (Vec::new(), answer["removed"] == true),
        Some(answer) => {
            (answer["removed"].as_array().cloned().unwrap_or_default(), answer["circuit"] == true)
        }
        None => offline(dir, |file| {
            let named = peer.map(|who| named(file.config(), who)).transpose()?;
            let config = file.config().clone();
            let removed = if alone { Vec::new() } else { file.remove_tunnels(named.as_ref())? };
            let circuit = peer.is_none() && config.onion_hops > 0;
            if circuit {
                file.set(&[("onion.hops", None)])?;
            }
            let removed: Vec<Value> = removed.iter().map(|tunnel| tunnel_json(tunnel, &config)).collect();
            Ok((removed, circuit))
        })?,
    };
    if circuit {
        tell("the circuit is down");
    }
    if removed.is_empty() && !circuit {
        tell(if alone { "there was no circuit" } else { "there was no tunnel" });
    }
    removed.iter().for_each(|tunnel| tell(format!("the tunnel to {} is down", text(tunnel, "peer"))));
    Ok(())
}

fn list(dir: &NodeDir, as_json: bool) -> Result<(), Failure> {
    let answer = match ask(dir, Method::GET, "/v1/tunnels", None)? {
        Some(answer) => answer,
        None => {
            let file = dir.load_config()?;
            let config = file.config();
            let tunnels: Vec<Value> = config.tunnels.iter().map(|one| tunnel_json(one, config)).collect();
            let circuit = circuit_json(config, None);
            json!({ "device": config.tunnel_device, "circuit": circuit, "tunnels": tunnels })
        }
    };
    if as_json {
        return print(answer);
    }
    let amount = |tunnel: &Value, field: &str| tunnel[field].as_u64().map_or("-".to_owned(), show_size);
    let row = |tunnel: &Value| {
        vec![
            text(tunnel, "peer"),
            list_of(tunnel, "addr"),
            list_of(tunnel, "allow"),
            if tunnel["connected"] == true { "yes" } else { "no" }.to_owned(),
            amount(tunnel, "sent_bytes"),
            amount(tunnel, "received_bytes"),
        ]
    };
    let mut rows: Vec<Vec<String>> = answer["tunnels"].as_array().into_iter().flatten().map(row).collect();
    let circuit = &answer["circuit"];
    if !circuit.is_null() {
        let path = list_of(circuit, "path").replace(' ', " > ");
        rows.push(vec![
            format!("{} hops", circuit["hops"]),
            if path.is_empty() { circuit["why"].as_str().unwrap_or("-").to_owned() } else { path },
            [list_of(circuit, "route"), circuit["socks"].as_str().unwrap_or_default().to_owned()]
                .join(" ")
                .trim()
                .to_owned(),
            if circuit["open"] == true { "yes" } else { "no" }.to_owned(),
            amount(circuit, "sent_bytes"),
            amount(circuit, "received_bytes"),
        ]);
        let paths = circuit["paths"].as_array().filter(|paths| paths.len() > 1);
        for (number, path) in (1..).zip(paths.into_iter().flatten()) {
            let by = list_of(path, "path").replace(' ', " > ");
            rows.push(vec![
                format!("  path {number}"),
                if by.is_empty() { path["why"].as_str().unwrap_or("-").to_owned() } else { by },
                format!("{:.1} ms", path["rtt_us"].as_u64().unwrap_or(0) as f64 / 1000.0),
                if path["open"] == true { "yes" } else { "no" }.to_owned(),
                amount(path, "sent_bytes"),
                amount(path, "received_bytes"),
            ]);
        }
    }
    print(
        table(&["FRIEND", "ADDRESS", "ALLOWED", "CONNECTED", "SENT", "RECEIVED"], &[4, 5], &rows).trim_end(),
    )
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().or(value["key"].as_str()).unwrap_or_default().to_owned()
}

fn list_of(value: &Value, field: &str) -> String {
    let list: Vec<&str> = value[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    list.join(" ")
}
