//! The TUN device of a simulated node: what an application hands over, and what it gets.

use super::Net;
use crate::base::{Memory, Offload, Place, TunPacket};
use crate::limits::BUFFER_HEAD_ROOM;
use crate::node::Input;
use crate::sim::buffers::RECEIVE_BUFFER;

impl Net {
    /// A packet or superpacket that the kernel hands to the queue of one of a node's shards.
    pub fn tun_read(&mut self, node: usize, shard: u8, bytes: &[u8], offload: Offload) {
        let sim = &mut self.nodes[node];
        let place = Place { buf: RECEIVE_BUFFER, offset: BUFFER_HEAD_ROOM as u32, len: bytes.len() as u32 };
        sim.world.buffers.begin_receive();
        sim.world.bytes_mut(place).copy_from_slice(bytes);
        let clock = sim.clock(self.now);
        if let Some(running) = sim.shards.get_mut(usize::from(shard)) {
            running.core.handle(clock, Input::Tun(TunPacket { place, offload }), &mut sim.world);
        }
        sim.world.buffers.end_receive();
        self.drain(node, shard);
    }

    /// A packet that a node's SOCKS proxy hands to its first shard.
    pub fn proxy_sent(&mut self, node: usize, bytes: &[u8]) {
        let sim = &mut self.nodes[node];
        let clock = sim.clock(self.now);
        if let Some(running) = sim.shards.first_mut() {
            let input = Input::Proxied { offload: Offload::default(), bytes: bytes.into() };
            running.core.handle(clock, input, &mut sim.world);
        }
        self.drain(node, 0);
    }

    /// A node that is a hostile exit sends a packet into every circuit that ends at one of its shards.
    #[cfg(test)]
    pub fn inject_as_exit(&mut self, node: usize, shard: u8, bytes: &[u8]) {
        let sim = &mut self.nodes[node];
        let clock = sim.clock(self.now);
        if let Some(running) = sim.shards.get_mut(usize::from(shard)) {
            running.core.inject(clock, bytes, &mut sim.world);
        }
        self.drain(node, shard);
    }

    /// Whether a node's overlay said anything of a chunk under the node's own identity.
    #[cfg(test)]
    pub fn said_of(&self, node: usize, chunk: &crate::base::ChunkId) -> bool {
        self.nodes[node].shards.iter().any(|shard| shard.core.said_of(chunk))
    }

    /// A node wrote to its device.
    pub(super) fn tun_written(&mut self, node: usize, packet: TunPacket) {
        let left = self.leave_exit(node, &packet);
        let sim = &mut self.nodes[node];
        if left {
            return sim.world.free(packet.place.buf);
        }
        sim.tun_written.push((sim.world.bytes(packet.place).to_vec(), packet.offload));
        sim.world.free(packet.place.buf);
    }

    /// A node handed a packet to its SOCKS proxy.
    pub(super) fn proxied(&mut self, node: usize, packet: TunPacket) {
        let sim = &mut self.nodes[node];
        sim.proxied.push((sim.world.bytes(packet.place).to_vec(), packet.offload));
        sim.world.free(packet.place.buf);
    }
}
