//! What is behind an exit: its host forwards what the exit lets out under an address of the host's own, and brings back what
//! is sent to that (`io::netconf::exit`, and the kernel's NAT).

use std::net::{IpAddr, SocketAddr};

use super::Net;
use super::path::Route;
use crate::base::{Offload, Segmentation, TunPacket};
use crate::sim::nat::{Nat, NatConfig};
use crate::sim::trace::{Event as Traced, Fate, Gone};
use crate::tunnel::{Cut, datagrams, readdress};
use crate::wire::ip::Ip;

impl Net {
    /// What a node lets out of circuits reaches the other nodes, from an address that is neither its own nor the circuits'.
    pub fn open_outside(&mut self, node: usize) -> IpAddr {
        let external = IpAddr::from([100, 96, (node >> 8) as u8, node as u8]);
        let nat = Nat::new(external, NatConfig::cone(), self.rng.fork());
        self.outside.insert(node, nat);
        self.outside_of.insert(external, node);
        external
    }

    /// A packet or superpacket left an exit: its datagrams go to whom they name. What is no UDP, or for nobody, is lost.
    pub(super) fn leave_exit(&mut self, node: usize, packet: &TunPacket) -> bool {
        let Some(nat) = self.outside.get_mut(&node) else { return false };
        let sim = &self.nodes[node];
        let bytes = sim.world.buffers.bytes(packet.place).to_vec();
        let Ok(header) = Ip::parse(&bytes) else { return true };
        let Ok(cut) = Cut::new(&bytes, &header, &packet.offload) else { return true };
        let mut out = Vec::new();
        for index in 0..cut.count() {
            let mut one = vec![0; cut.size(index)];
            cut.write(&bytes, index, &mut one);
            let Some((ip, datagram)) =
                Ip::parse(&one).ok().and_then(|ip| Some((ip, datagrams::unwrap(&one, &ip)?)))
            else {
                continue;
            };
            let target = SocketAddr::new(ip.destination, datagram.to);
            if let Ok(source) = nat.outbound(self.now, datagram.from, target) {
                out.push((source, target, one[datagram.payload].to_vec()));
            }
        }
        for (source, target, payload) in out {
            let to = self.hosts.get(&target).map(|(to, _)| *to);
            let fate = match to {
                Some(to) => self.pass(node, &Route { to, source }, target, &payload, 0),
                None => Fate::Lost(Gone::NoRoute),
            };
            self.trace.note(self.now, Traced::Sent { from: node, to, len: payload.len(), fate });
        }
        true
    }

    /// The exit whose host has an address.
    pub(super) fn exit_of(&self, address: IpAddr) -> Option<usize> {
        self.outside_of.get(&address).copied()
    }

    /// A datagram came to an exit's host, for the circuit that has the port.
    pub(super) fn enter_exit(&mut self, node: usize, source: SocketAddr, target: SocketAddr, payload: &[u8]) {
        let Some(nat) = self.outside.get_mut(&node) else { return };
        let Ok(to) = nat.inbound(self.now, target.port(), source) else { return };
        let mut packet = vec![0; datagrams::headers(to)];
        packet.extend_from_slice(payload);
        let Some((header, _)) = datagrams::wrap(&mut packet, payload.len(), source, to) else { return };
        readdress::complete(&mut packet, &header);
        let whole = Offload { kind: Segmentation::None, ..Offload::default() };
        self.tun_read(node, 0, &packet, whole);
    }
}
