//! In a network namespace of the test's own, asked with iproute2 what the kernel makes of it.

use std::net::UdpSocket;
use std::process::Command;

use nix::sys::socket::{setsockopt, sockopt::BindToDevice, sockopt::Mark};

use super::namespace::in_namespace;
use super::*;
use crate::io::tun::{Queue, open};

const NAME: &str = "tornet-test";
const OTHER: &str = "tornet-other";

fn command(program: &str, words: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(words).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

fn ip(words: &str) -> String {
    let (good, said) = command("ip", &words.split_whitespace().collect::<Vec<_>>());
    assert!(good, "ip {words}: {said}");
    said
}

/// A host with a way to the Internet and a local network.
fn host() {
    for words in [
        "link set lo up",
        "link add wan0 type veth peer name wan0-far",
        "link add lan0 type veth peer name lan0-far",
        // Link-local addresses come when they come, with routes of their own, in the middle of a test.
        "link set wan0 addrgenmode none",
        "link set wan0-far addrgenmode none",
        "link set lan0 addrgenmode none",
        "link set lan0-far addrgenmode none",
        "link set wan0 arp off",
        "link set lan0 arp off",
        "link set wan0-far up",
        "link set lan0-far up",
        "address add 192.0.2.2/24 dev wan0",
        "address add 10.1.0.1/16 dev lan0",
        "address add 2001:db8::2/64 dev wan0 nodad",
        "link set wan0 up",
        "link set lan0 up",
        "route add default via 192.0.2.1",
        "-6 route add default via 2001:db8::1",
    ] {
        ip(words);
    }
}

/// Closes a device's queues, and waits until it is gone: a child that another test's thread forks meanwhile holds them, too,
/// until it becomes its program.
fn close(queues: Vec<Queue>) {
    drop(queues);
    let mut netlink = Netlink::open().expect("opens");
    let (_never, tick) = std::sync::mpsc::channel::<()>();
    for _ in 0..1000 {
        if find(&mut netlink, NAME).expect("is asked").is_none() {
            return;
        }
        let _ = tick.recv_timeout(std::time::Duration::from_millis(10));
    }
    panic!("{NAME} stays");
}

fn plan(routes: &[&str]) -> Plan {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a prefix")).collect();
    Plan {
        device: NAME.to_owned(),
        mtu: 1380,
        addresses: parse(&["10.99.0.1/24", "fd99::1/64"]),
        routes: parse(routes),
        dns: Vec::new(),
        ports: vec![4001],
        kill_switch: false,
        exit: Vec::new(),
        sources: Vec::new(),
        quiet: Vec::new(),
    }
}

/// Through which device a packet would go, or what else would become of it.
fn way(to: &str) -> String {
    let (good, said) = command("ip", &[&["route", "get"], &to.split(' ').collect::<Vec<_>>()[..]].concat());
    if !good || said.starts_with("unreachable") {
        return "unreachable".to_owned();
    }
    let mut words = said.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// Counts the UDP packets that leave by a device, at its far end.
fn watch(device: &str) {
    let script = format!(
        "table netdev watch-{device} {{\nchain far {{\ntype filter hook ingress device {device}-far priority 0\n\
         meta l4proto udp counter\n}}\n}}\n"
    );
    let (good, said) = command("nft", &[&script]);
    assert!(good, "{said}");
}

fn left_by(device: &str) -> u64 {
    let (_, said) = command("nft", &["list", "table", "netdev", &format!("watch-{device}")]);
    let count = said.split_once("counter packets ").and_then(|(_, rest)| rest.split_whitespace().next());
    count.unwrap_or_else(|| panic!("{said}")).parse().expect("a number")
}

/// Waits until so many have left; more fail.
fn have_left(device: &str, count: u64) {
    for _ in 0..1000 {
        if left_by(device) >= count {
            break;
        }
    }
    assert_eq!(left_by(device), count, "of {device}");
}

fn has_nft() -> bool {
    let has = ["nft", "/usr/sbin/nft"].iter().any(|nft| Command::new(nft).arg("-v").output().is_ok());
    if !has {
        eprintln!("SKIPPED: the kill switch needs nft: install the package nftables");
    }
    has
}

#[test]
fn the_device_becomes_what_the_plan_says_and_the_host_what_it_was() {
    in_namespace(|| {
        host();
        let before = (ip("rule"), ip("-6 rule"), ip("route show table all"));
        let _queue = open(NAME, 1).expect("opened");
        let applied = apply(&plan(&["10.0.0.0/8", "fd00::/8"])).expect("applied");
        let again = apply(&plan(&["10.0.0.0/8", "fd00::/8"])).expect("once more");
        assert!(applied.was_down && !again.was_down);
        let shown = ip(&format!("address show {NAME}"));
        for part in ["mtu 1380", ",UP,", "inet 10.99.0.1/24", "inet6 fd99::1/64", "qlen 1000"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains("fe80:"), "no link-local address: {shown}");
        assert_eq!(way("10.99.0.9"), NAME);
        assert_eq!(way("fd12::1"), NAME);
        assert_eq!(
            ip("rule").matches("tornet").count() + ip("rule").matches("proto 116").count(),
            2,
            "{}",
            ip("rule")
        );
        applied.undo().expect("undone");
        assert!(!clean(NAME).expect("looked"), "nothing is left");
        assert_eq!((ip("rule"), ip("-6 rule"), ip("route show table all")), before);
        drop(again);
    });
}

#[test]
fn the_longest_prefix_wins_wherever_it_lies_and_marked_packets_never_enter() {
    in_namespace(|| {
        host();
        let _queue = open(NAME, 1).expect("opened");
        let applied =
            apply(&plan(&["0.0.0.0/0", "10.0.0.0/8", "10.1.7.0/24", "192.0.2.77/32"])).expect("applied");
        let marked = format!("mark {MARK:#x}");
        for (to, through) in [
            ("8.8.8.8", NAME),
            ("10.2.0.1", NAME),
            ("10.1.7.1", NAME),   // inside the local network, and longer than it
            ("10.1.8.1", "lan0"), // longer than 10.0.0.0/8
            ("192.0.2.9", "wan0"),
            ("192.0.2.77", NAME),
            ("2001:db9::1", "wan0"),
        ] {
            assert_eq!(way(to), through, "{to}\n{}", ip("rule"));
            let own = if to.starts_with("10.1.") { "lan0" } else { "wan0" };
            assert_eq!(way(&format!("{to} {marked}")), own, "{to} of ours");
        }
        // Fewer routes: the rest goes.
        let _ = apply(&plan(&["10.0.0.0/8"])).expect("applied");
        for (to, through) in [("8.8.8.8", "wan0"), ("10.2.0.1", NAME), ("10.1.7.1", "lan0")] {
            assert_eq!(way(to), through, "{to}\n{}", ip("rule"));
        }
        applied.undo().expect("undone");
        assert_eq!(way("10.2.0.1"), "wan0");
    });
}

/// Regression: all routes but a circuit's left from the address that the device had first.
#[test]
fn each_route_has_the_source_that_it_is_to_have() {
    in_namespace(|| {
        host();
        let _queue = open(NAME, 1).expect("opened");
        let first = Plan { addresses: vec!["10.116.111.114/32".parse().unwrap()], ..plan(&["0.0.0.0/0"]) };
        let _ = apply(&first).expect("applied");
        let sources =
            [("10.20.0.0/24", "10.9.0.1"), ("10.30.0.0/24", "10.8.0.1"), ("0.0.0.0/0", "10.116.111.114")];
        let addresses = ["10.116.111.114/32", "10.8.0.1/24", "10.9.0.1/24"];
        let both = Plan {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            sources: sources.iter().map(|(to, from)| (to.parse().unwrap(), from.parse().unwrap())).collect(),
            ..plan(&sources.map(|(route, _)| route))
        };
        let applied = apply(&both).expect("applied");
        for (to, from) in [
            ("10.20.0.1", "10.9.0.1"),
            ("10.30.0.1", "10.8.0.1"),
            ("8.8.8.8", "10.116.111.114"),
            ("10.9.0.2", "10.9.0.1"),
        ] {
            let shown = ip(&format!("route get {to}"));
            assert!(shown.contains(&format!("src {from} ")), "{to}: {shown}");
        }
        applied.undo().expect("undone");
    });
}

#[test]
fn one_tunnel_does_not_clean_anothers() {
    in_namespace(|| {
        host();
        let _queues = [open(NAME, 1).expect("opened"), open(OTHER, 1).expect("opened")];
        let other = Plan {
            device: OTHER.to_owned(),
            addresses: vec!["10.98.0.1/24".parse().unwrap()],
            ..plan(&["172.16.0.0/12"])
        };
        let applied = apply(&plan(&["172.17.0.0/16", "10.0.0.0/12"])).expect("applied");
        let _ = apply(&other).expect("applied");
        assert_eq!((way("172.17.0.1").as_str(), way("172.18.0.1").as_str()), (NAME, OTHER));
        applied.undo().expect("undone");
        assert_eq!((way("172.17.0.1").as_str(), way("10.2.0.1").as_str()), (OTHER, "wan0"));
        assert!(clean(OTHER).expect("cleaned"));
        assert_eq!(way("172.17.0.1"), "wan0");
    });
}

#[test]
fn what_a_running_daemon_has_is_not_abandoned() {
    in_namespace(|| {
        host();
        let queue = open(NAME, 1).expect("opened");
        let _ = apply(&plan(&["10.0.0.0/8"])).expect("applied");
        assert!(!clean_abandoned(NAME).expect("looked"));
        assert_eq!(way("10.2.0.1"), NAME);
        close(queue);
        assert!(clean_abandoned(NAME).expect("cleaned"), "the rules were left");
        assert_eq!(way("10.2.0.1"), "wan0");
    });
}

#[test]
fn the_kill_switch_holds_when_the_device_is_gone_until_it_is_cleaned() {
    in_namespace(|| {
        if !has_nft() {
            return;
        }
        host();
        let queue = open(NAME, 1).expect("opened");
        let plan = Plan { kill_switch: true, ..plan(&["0.0.0.0/0"]) };
        let _ = apply(&plan).expect("applied");
        let _ = apply(&plan).expect("once more");
        assert_eq!(way("8.8.8.8"), NAME);
        // What kill -9 leaves.
        close(queue);
        for (to, through) in
            [("8.8.8.8", "unreachable"), ("2001:db9::1", "unreachable"), ("10.1.0.9", "lan0")]
        {
            assert_eq!(way(to), through, "{to}");
        }
        watch("wan0");
        let plain = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert!(plain.send_to(b"leak", "8.8.8.8:9").is_err());
        // Routing lets this one out.
        let bound = UdpSocket::bind("0.0.0.0:0").unwrap();
        setsockopt(&bound, BindToDevice, &"wan0".into()).unwrap();
        let _ = bound.send_to(b"leak", "8.8.8.8:9");
        let bound6 = UdpSocket::bind("[::]:0").unwrap();
        setsockopt(&bound6, BindToDevice, &"wan0".into()).unwrap();
        let _ = bound6.send_to(b"leak", "[2001:db9::1]:9");
        have_left("wan0", 0);
        let own = UdpSocket::bind("0.0.0.0:0").unwrap();
        setsockopt(&own, Mark, &MARK).unwrap();
        own.send_to(b"what carries the tunnel", "8.8.8.8:9").expect("ours may leave");
        have_left("wan0", 1);
        // The next start finds it; a tunnel that comes up again never opens it in between.
        let _queue = open(NAME, 1).expect("opened");
        let _ = apply(&plan).expect("applied over what was left");
        assert_eq!(way("8.8.8.8"), NAME);
        assert!(clean(NAME).expect("cleaned"));
        assert!(!clean(NAME).expect("looked"));
        assert_eq!((way("8.8.8.8").as_str(), way("2001:db9::1").as_str()), ("wan0", "wan0"));
        let nft = command("nft", &["list", "tables"]);
        assert!(!nft.1.contains("tornet"), "{nft:?}");
        bound.send_to(b"free again", "8.8.8.8:9").expect("sent");
        have_left("wan0", 2);
    });
}

/// What carries the tunnel comes in by a device that its source is not routed to, where all of it is routed into the
/// tunnel: a strict check of reverse paths would drop it.
#[test]
fn answers_to_our_packets_pass_a_strict_check_of_reverse_paths() {
    in_namespace(|| {
        if !has_nft() {
            return;
        }
        host();
        // The peer, in a namespace of its own behind wan0.
        const NEAR: &str = "192.0.2.2:4001";
        ip("link set wan0 arp on");
        let (send, ready) = std::sync::mpsc::channel();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let peer = std::thread::Builder::new()
            .spawn(move || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
                send.send(nix::unistd::gettid().to_string()).expect("heard");
                gone.recv().expect("told");
                ip("address add 192.0.2.1/24 dev wan0-far");
                ip("link set wan0-far up");
                ip("address add 203.0.113.7/32 dev wan0-far");
                // As a router would, whose packets these are in life.
                std::fs::write("/proc/sys/net/ipv4/conf/all/arp_announce", "2").expect("set");
                let socket = UdpSocket::bind("203.0.113.7:4001").expect("bound");
                for _ in 0..100 {
                    let _ = socket.send_to(b"from afar", NEAR);
                    let mut bytes = [0; 20];
                    socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).expect("set");
                    if socket.recv(&mut bytes).is_ok() {
                        return true;
                    }
                }
                false
            })
            .expect("a thread");
        let thread = ready.recv().expect("the peer's thread");
        ip(&format!("link set wan0-far netns /proc/{thread}/ns/net"));
        go.send(()).expect("heard");
        for conf in ["all", "wan0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{conf}/rp_filter"), "1").expect("set");
        }
        let _queue = open(NAME, 1).expect("opened");
        let _ = apply(&Plan { kill_switch: true, ..plan(&["0.0.0.0/0"]) }).expect("applied");
        let own = UdpSocket::bind(NEAR).expect("bound");
        setsockopt(&own, Mark, &MARK).expect("marked");
        own.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("set");
        let mut bytes = [0; 20];
        let (len, from) = own.recv_from(&mut bytes).expect("it is not dropped");
        assert_eq!((&bytes[..len], from.to_string().as_str()), (&b"from afar"[..], "203.0.113.7:4001"));
        own.send_to(b"answer", from).expect("sent");
        assert!(peer.join().expect("the peer is content"), "the answer did not come");
    });
}

#[test]
fn names_are_asked_for_through_the_tunnel_only() {
    in_namespace(|| {
        if !has_nft() {
            return;
        }
        host();
        let _queue = open(NAME, 1).expect("opened");
        // As `apply` would with a server, whose file is this machine's.
        let plan =
            Plan { kill_switch: true, dns: vec!["10.99.0.53".parse().unwrap()], ..plan(&["0.0.0.0/0"]) };
        let connected = routes::connected(&mut Netlink::open().unwrap(), 0).expect("listed");
        assert!(connected.contains(&"10.1.0.0/16".parse().unwrap()), "{connected:?}");
        switch::install(&plan, &connected).expect("installed");
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        watch("lan0");
        assert!(
            socket.send_to(b"who is example.org", "10.1.0.53:53").is_err(),
            "the local resolver is not asked"
        );
        socket.send_to(b"print this", "10.1.0.53:631").expect("the local network is there");
        have_left("lan0", 1);
        assert!(switch::remove(NAME).expect("removed"));
    });
}

#[test]
fn what_is_wrong_is_said_before_anything_is_changed() {
    in_namespace(|| {
        assert!(matches!(apply(&plan(&[])), Err(NetError::NoDevice(_))));
        let _queue = open(NAME, 1).expect("opened");
        assert!(matches!(apply(&Plan { mtu: 1279, ..plan(&[]) }), Err(NetError::Mtu)));
        let many = vec!["10.0.0.0/8".parse().unwrap(); HOST_PREFIXES_MAX + 1];
        assert!(matches!(apply(&Plan { routes: many, ..plan(&[]) }), Err(NetError::TooMany)));
        assert!(!ip("address show").contains("10.99.0.1"));
    });
}
