//! The SOCKS proxy and the device share a circuit: each gets what is its own.

use super::*;
use crate::limits::SOCKS_PORT_FIRST;
use crate::node::Command;
use crate::node::command::CircuitWant;

fn want_both(net: &mut Net, proxied: bool) {
    let routes = vec!["0.0.0.0/0".parse().expect("a network")];
    net.command(
        0,
        Command::Circuit(Some(CircuitWant {
            hops: 3,
            exit: None,
            force: true,
            routes,
            proxied,
            paths: 1,
            spread_packets: false,
        })),
    );
    net.run_for(Duration::from_secs(8));
}

/// A datagram from or to a local port.
fn with_port(source: IpAddr, destination: IpAddr, local: u16, is_answer: bool) -> Vec<u8> {
    let mut packet = datagram(source, destination, b"hello");
    let (header, len) = (ip::V4_HEADER, packet.len() - ip::V4_HEADER);
    put_half(&mut packet, header + if is_answer { 2 } else { 0 }, local);
    put_half(&mut packet, header + if is_answer { 0 } else { 2 }, 53);
    put_half(&mut packet, header + udp::CHECKSUM, 0);
    let sum = ip::pseudo(&packet, false, UDP, len).and(&packet[header..]).complement();
    put_half(&mut packet, header + udp::CHECKSUM, sum);
    packet
}

fn proxys(net: &mut Net) -> Vec<Vec<u8>> {
    std::mem::take(&mut net.nodes[0].proxied).into_iter().map(|(bytes, _)| bytes).collect()
}

#[test]
fn the_proxy_and_the_device_share_a_circuit() {
    for (seed, shards) in [(40, [1; 5]), (41, [2, 2, 3, 2, 2])] {
        let mut net = sharded(seed, &shards, LinkConfig::clean(millis(10)));
        want_both(&mut net, true);
        let far = FAR[0];
        for (local, is_proxys) in [(SOCKS_PORT_FIRST, true), (40_000, false)] {
            let packet = with_port(client(far), far, local, false);
            match is_proxys {
                true => net.proxy_sent(0, &packet),
                false => send(&mut net, 0, 0, &packet),
            }
            net.run_for(Duration::from_millis(300));
            let out = written(&mut net, 4);
            let [packet] = &out[..] else { panic!("seed {seed}: {} packets at the exit", out.len()) };
            let address = Ip::parse(packet).expect("a packet").source;
            send(&mut net, 4, 0, &with_port(far, address, local, true));
            net.run_for(Duration::from_millis(300));
            let (proxy, device) = (proxys(&mut net), written(&mut net, 0));
            assert_eq!((proxy.len(), device.len()), if is_proxys { (1, 0) } else { (0, 1) }, "seed {seed}");
            let back = proxy.first().or(device.first()).expect("one of them");
            let header = Ip::parse(back).expect("a packet");
            assert!(ip::is_summed(back, &header) && payload(back) == b"hello");
            assert_eq!((header.source, header.destination), (far, client(far)));
        }
        // Each keeps to its ports.
        let before = counter(&mut net, 0, "tunnel_dropped_not_allowed");
        net.proxy_sent(0, &with_port(client(far), far, 40_000, false));
        send(&mut net, 0, 0, &with_port(client(far), far, SOCKS_PORT_FIRST, false));
        net.run_for(Duration::from_millis(300));
        assert!(written(&mut net, 4).is_empty(), "seed {seed}");
        assert_eq!(counter(&mut net, 0, "tunnel_dropped_not_allowed"), before + 2);
        // What the exit refuses is said to whom it concerns.
        exit(&mut net, 4, &["9.9.9.0/24 80"]);
        net.proxy_sent(0, &with_port(client(far), far, SOCKS_PORT_FIRST + 1, false));
        net.run_for(Duration::from_millis(300));
        let said = proxys(&mut net);
        assert!(said.len() == 1 && said[0][ip::V4_HEADER] == 3, "seed {seed}: {} answers", said.len());
        assert!(written(&mut net, 0).is_empty());
        for node in &net.nodes {
            assert_eq!(node.world.free_buffers(), SEND_BUFFERS, "seed {seed}");
        }
    }
}

#[test]
fn without_a_proxy_all_ports_are_the_devices() {
    let mut net = sharded(42, &[1; 5], LinkConfig::clean(millis(10)));
    want_both(&mut net, false);
    let far = FAR[0];
    net.proxy_sent(0, &with_port(client(far), far, SOCKS_PORT_FIRST, false));
    net.run_for(Duration::from_millis(300));
    assert!(written(&mut net, 4).is_empty(), "nobody asked for a proxy");
    send(&mut net, 0, 0, &with_port(client(far), far, SOCKS_PORT_FIRST, false));
    net.run_for(Duration::from_millis(300));
    assert_eq!(written(&mut net, 4).len(), 1);
}
