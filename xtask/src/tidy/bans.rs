//! Names that may not appear: in the pure cores everything that has effects, nowhere what is unfinished.

use super::layers::{PURE, module_of};
use super::paths::paths;
use super::{Finding, Tree, line_of, rust, source};

/// Paths whose beginning is banned in the pure cores, and why.
const EFFECTS: &[(&str, &str)] = &[
    ("std::fs", "files belong to io"),
    ("std::thread", "threads belong to shard"),
    ("std::process", "cores start nothing"),
    ("std::env", "cores know no environment"),
    ("std::io::stdin", "cores talk to nobody"),
    ("std::io::stdout", "cores talk to nobody"),
    ("std::io::stderr", "cores talk to nobody"),
    ("std::os", "the system belongs to sys and io"),
    ("std::future", "async belongs to the control thread"),
    ("tokio", "async belongs to the control thread"),
    ("tokio_uring", "async belongs to the control thread"),
    ("axum", "HTTP belongs to api"),
    ("hyper", "HTTP belongs to api"),
    ("io_uring", "the system belongs to sys"),
    ("libc", "the system belongs to sys"),
    ("nix", "the system belongs to sys and io"),
    ("lmdb", "the store belongs to io"),
    ("tornet", "say `crate`"),
];

/// Names that are banned in the pure cores wherever they stand, in their tests too.
const EFFECT_WORDS: &[(&str, &str)] = &[
    ("Instant", "cores take `now: Time`"),
    ("SystemTime", "cores take `wall: UnixMs`"),
    ("UdpSocket", "sockets belong to io"),
    ("TcpStream", "sockets belong to io"),
    ("TcpListener", "sockets belong to io"),
    ("UnixStream", "sockets belong to io"),
    ("async", "async belongs to the control thread"),
    ("OsRng", "randomness is an argument"),
    ("getrandom", "randomness is an argument"),
    ("println", "cores talk to nobody"),
    ("eprintln", "cores talk to nobody"),
];

/// Macros that may not be left anywhere.
const LEFTOVERS: &[&str] = &["todo", "unimplemented", "dbg"];

/// The rule.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in rust(tree, "") {
        let code = source::strip(text);
        for name in LEFTOVERS {
            for at in source::word_positions(&code, name) {
                if code[at + name.len()..].starts_with('!') {
                    findings.push(Finding::new(path, line_of(&code, at), format!("`{name}!` is left")));
                }
            }
        }
        if path.starts_with("src/") && PURE.contains(&module_of(path)[0].as_str()) {
            effects(path, &code, &mut findings);
        }
    }
    findings
}

fn effects(path: &str, code: &str, findings: &mut Vec<Finding>) {
    for used in paths(code) {
        let name = used.parts.join("::");
        let begins =
            |ban: &str| name == ban || name.strip_prefix(ban).is_some_and(|rest| rest.starts_with("::"));
        if let Some((ban, why)) = EFFECTS.iter().find(|(ban, _)| begins(ban)) {
            findings.push(Finding::new(
                path,
                line_of(code, used.at),
                format!("`{ban}` in a pure core: {why}"),
            ));
        }
    }
    for (word, why) in EFFECT_WORDS {
        for at in source::word_positions(code, word) {
            // A number with a name, which nobody can read from a clock: smoltcp is built without `std`.
            if code[..at].ends_with("smoltcp::time::") {
                continue;
            }
            findings.push(Finding::new(path, line_of(code, at), format!("`{word}` in a pure core: {why}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn effects_are_found_in_cores_however_they_are_written() {
        for bad in [
            "use std::fs;",
            "use std::{net::IpAddr, fs::File};",
            "fn f() { std::thread::spawn(g); }",
            "use std::time::{Duration, Instant};",
            "async fn f() {}",
            "use tokio;",
            "fn f() { let s = std::net::UdpSocket::bind(a); }",
            "#[cfg(test)] mod tests { fn f() { Instant::now(); } }",
            "fn f() { println!(\"x\"); }",
        ] {
            let found = check(&tree(&[("src/session/x.rs", bad)]));
            assert!(!found.is_empty(), "{bad}");
            let elsewhere = check(&tree(&[("src/io/x.rs", bad), ("xtask/src/x.rs", bad)]));
            assert_eq!(elsewhere, [], "{bad}");
        }
    }

    #[test]
    fn their_mention_is_no_use() {
        let good = "// std::fs\nuse std::net::SocketAddr;\nlet instant = \"Instant\"; fn asynchronous() {}\n\
                    use std::time::Duration; use std::fmt; let nix = 3; x.nix.y; use smoltcp::time::Instant as M;";
        assert_eq!(check(&tree(&[("src/node/x.rs", good)])), []);
    }

    #[test]
    fn nothing_is_left_unfinished() {
        for name in LEFTOVERS {
            let bad = format!("fn f() {{ {name}!() }}");
            assert_eq!(check(&tree(&[("src/cli/x.rs", bad.as_str())])).len(), 1);
            assert_eq!(check(&tree(&[("xtask/src/x.rs", bad.as_str())])).len(), 1);
        }
        assert_eq!(check(&tree(&[("src/cli/x.rs", "fn todo() { my_dbg!(x); todo != 1 }")])), []);
    }
}
