//! What a node shows of itself.

use super::budget::OWNER;
use super::circuits::FIRST;
use super::command::{IntentSnapshot, OverlaySnapshot, PeerSnapshot, ShapedSnapshot, Snapshot};
use super::friends::Standing;
use super::peer::{Meeting, Peer};
use super::purposes::{Purpose, PurposeId};
use super::{Clock, Node};
use crate::base::Time;

/// Totals of a node that no part of it counts itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) trains_in: u64,
    pub(super) datagrams_in: u64,
    pub(super) bytes_in: u64,
    pub(super) trains_out: u64,
    pub(super) datagrams_out: u64,
    pub(super) bytes_out: u64,
    pub(super) crossings_in: u64,
    pub(super) crossings_out: u64,
    pub(super) crossings_lost: u64,
    pub(super) violations: u64,
    pub(super) gets_done: u64,
    pub(super) gets_failed: u64,
}

impl Node {
    /// The node's state now.
    pub(super) fn snapshot(&self, clock: Clock) -> Snapshot {
        let now = clock.now;
        let mut peers: Vec<PeerSnapshot> = self
            .peers
            .values()
            .map(|peer| {
                let stats = peer.connection.stats();
                let path = self.sessions.path(peer.session);
                PeerSnapshot {
                    node: peer.node,
                    key: peer.card.key,
                    lane: peer.lane,
                    rank: peer.card.rank(),
                    trust: peer.trust,
                    introduced: self.introducing.acquaintances.trust(&peer.card.key),
                    address: path.filter(|path| !path.is_relayed()).map(|path| path.remote),
                    relayed: path.is_some_and(|path| path.is_relayed()),
                    bridged: path.is_some_and(|path| path.is_bridged()),
                    relayed_by: path.and_then(|path| self.relay_on(&path)),
                    straight_after_us: peer.straight_after.map(|took| took.as_micros() as u64),
                    connected: true,
                    rtt_us: stats.rtt.as_micros() as u64,
                    sent_bytes: peer.sent_bytes,
                    received_bytes: peer.received_bytes,
                    lost_packets: stats.lost_packets,
                    window: stats.window,
                    mtu: stats.mtu,
                    agent: match &peer.hello {
                        Meeting::Met(hello) => hello.agent.clone(),
                        Meeting::Listening(_) => String::new(),
                    },
                    shaped: self.shaped(now, peer),
                    intent: self.meanings.snapshot(now, &peer.card.key),
                }
            })
            .collect();
        for (friend, standing) in self.friends.iter() {
            if !matches!(standing, Standing::Here(_)) && self.friends.is_home(&friend.card.key) {
                peers.push(PeerSnapshot {
                    node: friend.card.node_id(),
                    key: friend.card.key,
                    lane: 0,
                    rank: friend.card.rank(),
                    trust: Some(friend.trust),
                    introduced: None,
                    address: friend.addresses.first().copied(),
                    relayed: false,
                    bridged: false,
                    relayed_by: None,
                    straight_after_us: None,
                    connected: false,
                    rtt_us: 0,
                    sent_bytes: 0,
                    received_bytes: 0,
                    lost_packets: 0,
                    window: 0,
                    mtu: 0,
                    agent: String::new(),
                    shaped: ShapedSnapshot::default(),
                    // What it said before it went is about a time that is over.
                    intent: IntentSnapshot::default(),
                });
            }
        }
        let jobs = self.get.progress().map(|(id, progress)| (id, progress.clone()));
        let jobs = jobs.chain(self.inners.progress()).collect();
        let overlay = self.overlay.snapshot();
        let introductions = (self.overlay.shard.0 == FIRST).then(|| self.introduction_snapshot(clock.wall));
        let offered = introductions.as_ref().map_or([0; 3], |own| [own.once, own.twice, own.acquaintances]);
        Snapshot {
            peers,
            counters: self.counters(),
            gauges: self.gauges(overlay.unwrap_or_default(), offered),
            jobs,
            tunnels: self.tunnels.snapshot(),
            circuit: self.circuits.purposes.get(PurposeId::Tunnel).map(Purpose::snapshot),
            job_circuits: self.circuits.purposes.job_snapshots(),
            overlay,
            introductions,
            leaving: self.leaving_snapshot(now),
            online_s: self
                .meanings
                .core
                .own()
                .stays_until()
                .map(|until| until.since(now).as_secs())
                .filter(|s| *s > 0),
            seen_at: self.seen_at(),
            one_port_for_all: self.is_mapping_endpoint_independent(),
            classes: self.shaping.classes(),
        }
    }

    fn shaped(&self, now: Time, peer: &Peer) -> ShapedSnapshot {
        let shaped = self.shaping.snapshot(now, peer);
        let (queued_bytes, waited, figures) = self.waiting.figures(now, peer.slot);
        ShapedSnapshot {
            queued_bytes,
            delay_us: shaped.delay_us.max(waited.as_micros() as u64),
            queue_dropped: figures.late + figures.full,
            queue_marked: figures.marked,
            ..shaped
        }
    }

    fn gauges(&self, overlay: OverlaySnapshot, offered: [u64; 3]) -> Vec<(&'static str, &'static str, f64)> {
        let connected = self.peers.values().filter(|peer| peer.lane == 0 && peer.trust.is_some()).count();
        let sessions = self.peers.values().filter(|peer| peer.lane == 0).count();
        vec![
            ("sessions", "Established sessions", sessions as f64),
            ("lanes", "Further lanes of sessions", (self.peers.len() - sessions) as f64),
            ("friends", "Friends configured", self.friends.home_len() as f64),
            ("friends_connected", "Friends with a session", connected as f64),
            ("introduced_once", "Friends' friends that are offered", offered[0] as f64),
            ("introduced_twice", "Nodes one hand farther that are offered", offered[1] as f64),
            ("acquaintances", "Offered nodes with which sessions are to be kept", offered[2] as f64),
            (
                "acquaintances_connected",
                "Of those, the ones with a session",
                self.introducing.acquaintances.here().count() as f64,
            ),
            (
                "line_bits_per_second",
                "What this node may send, configured or measured; 0 without a limit",
                // It is the node's, and gauges of shards are added up.
                self.shaping.rate().filter(|_| self.shaping.budget.shard() == OWNER).unwrap_or(0) as f64,
            ),
            (
                "sessions_relayed",
                "Sessions whose packets go through another peer",
                self.punch.meetings.len() as f64,
            ),
            ("overlay_contacts", "Contacts in the overlay's table", overlay.contacts as f64),
            ("overlay_nodes", "Nodes of the network, estimated", overlay.nodes as f64),
            ("overlay_peers", "Peers that are remembered", overlay.peers as f64),
            ("overlay_lookups_running", "Lookups under way", overlay.lookups as f64),
            ("overlay_records", "Providers' records kept for others", overlay.records as f64),
            ("overlay_provided", "Chunks provided", overlay.provided as f64),
            (
                "overlay_announced",
                "Of those, the ones of which others keep a record",
                overlay.announced as f64,
            ),
            (
                "overlay_sessions",
                "Sessions and handshakes that the overlay uses",
                self.overlay.links.len() as f64,
            ),
            ("requests_serving", "Chunk requests being answered", self.serve.active() as f64),
            ("gets_running", "Gets under way", (self.get.progress().count() + self.inners.len()) as f64),
        ]
    }

    #[rustfmt::skip]
    fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let Counters { crossings_in, crossings_out, crossings_lost, trains_in, datagrams_in, bytes_in, trains_out, datagrams_out, bytes_out, violations, gets_done, gets_failed } = self.counters;
        let session = self.sessions.counters();
        let serve = self.serve.counters();
        let fetch = self.fetch.counters();
        let (keep, push) = (self.keep.counters(), self.push.counters());
        let (tunnel, joined) = (self.tunnels.counters, self.tunnels.joined());
        let waited = self.waiting.stats();
        let (overlay, core) = (self.overlay.counters, self.overlay.core_counters());
        let (punch, told) = (self.punch.counters, self.introducing.counters);
        let intents = self.meanings.core.counters();
        let (cells, onion) = (self.circuits.counters, *self.circuits.onion.counters());
        vec![
            ("node_trains_received", "Trains of datagrams handed in", trains_in),
            ("node_datagrams_received", "Datagrams handed in", datagrams_in),
            ("node_bytes_received", "UDP payload bytes handed in", bytes_in),
            ("node_trains_sent", "Trains of datagrams handed out", trains_out),
            ("node_datagrams_sent", "Datagrams handed out", datagrams_out),
            ("node_bytes_sent", "UDP payload bytes handed out", bytes_out),
            ("node_crossings_received", "Messages taken from other shards", crossings_in),
            ("node_crossings_sent", "Messages left for other shards", crossings_out),
            ("node_crossings_lost", "Messages to other shards that found no room", crossings_lost + session.crossings_lost),
            ("stream_violations", "Sessions closed because the peer broke the stream protocol", violations),
            ("session_strangers", "Datagrams that named no session and were no handshake", session.strangers),
            ("session_forged", "Datagrams that failed authentication", session.forged),
            ("session_replayed", "Packets and first flights seen before", session.replayed),
            ("session_malformed", "Authentic messages that were not what they should be", session.malformed),
            ("session_skewed", "First flights whose clock was too far from ours", session.skewed),
            ("session_refused", "First flights whose card was refused", session.refused),
            ("session_uninvited", "First flights of strangers that got no answer, only friends being wanted", session.uninvited),
            ("session_rate_limited", "First flights above a rate limit", session.rate_limited),
            ("session_full", "First flights or answers that found a table full", session.full),
            ("session_late", "Handshake datagrams that came too late", session.late),
            ("session_cookies_sent", "Cookies sent to initiators under load", session.cookies_sent),
            ("session_cookies_received", "Cookies received", session.cookies_received),
            ("session_handshakes_started", "Handshakes started", session.handshakes_started),
            ("session_inits_sent", "First flights sent, retries included", session.inits_sent),
            ("session_handshakes_out", "Handshakes completed as initiator", session.handshakes_out),
            ("session_handshakes_in", "First flights answered as responder", session.handshakes_in),
            ("session_confirmed", "Sessions that their initiator confirmed", session.confirmed),
            ("session_handshakes_failed", "Handshakes of ours that failed", session.handshakes_failed),
            ("session_early_accepted", "Requests taken from first flights", session.early_accepted),
            ("session_early_refused", "Requests in first flights refused", session.early_refused),
            ("session_rekeys_sent", "Key epochs begun for sending", session.rekeys_sent),
            ("session_rekeys_received", "Key epochs of peers followed", session.rekeys_received),
            ("session_roams", "Changes of a peer's address followed", session.roams),
            ("session_paths_validated", "New paths validated", session.paths_validated),
            ("session_paths_failed", "New paths given up", session.paths_failed),
            ("session_closed", "Sessions closed for any reason", session.closed),
            ("session_lanes_opened", "Further lanes asked of peers and got", session.lanes_opened),
            ("session_lanes_accepted", "Further lanes that peers asked for and got", session.lanes_accepted),
            ("queue_packets", "Packets of tunnels and circuits that waited for leave", waited.packets),
            ("queue_late", "Of those, dropped because their queue stood for too long", waited.late),
            ("queue_marked", "Of those, marked instead, where their sender listens to that", waited.marked),
            ("queue_full", "Of those, dropped for want of room", waited.full),
            ("serve_requests", "Chunk requests answered from the store", serve.served),
            ("serve_slices", "Slices sent", serve.slices),
            ("serve_bytes", "Ciphertext bytes of slices sent", serve.bytes),
            ("serve_not_found", "Requests for chunks that are not stored here", serve.not_found),
            ("serve_busy", "Requests turned away", serve.busy),
            ("serve_malformed", "Requests that were no requests", serve.malformed),
            ("serve_late", "Requests that did not come in time", serve.late),
            ("serve_damaged", "Requests that met damaged storage", serve.damaged),
            ("serve_cold", "Slices faulted in before they were sent", serve.cold),
            ("fetch_requests", "Chunk requests sent to peers", fetch.requests),
            ("fetch_slices", "Slices received and verified", fetch.slices),
            ("fetch_bytes", "Ciphertext bytes of slices received and verified", fetch.bytes),
            ("fetch_not_found", "Answers that said not found", fetch.not_found),
            ("fetch_liars", "Answers that failed verification", fetch.liars),
            ("fetch_stalled", "Requests given up because nothing came", fetch.stalled),
            ("circuit_cells_received", "Cells received", cells.received),
            ("circuit_cells_sent", "Cells sent, passed on ones among them", cells.sent),
            ("circuit_cells_forward", "Cells passed on from origins", onion.forward),
            ("circuit_cells_backward", "Cells passed on to origins", onion.backward),
            ("circuit_cells_forged", "Cells that failed authentication", onion.forged),
            ("circuit_cells_dropped", "Cells of no circuit, late or seen before", onion.unknown + onion.late + onion.duplicates),
            ("circuit_cells_lost", "Cells for which there was no session, budget or buffer", cells.no_session + cells.no_budget + cells.no_buffer),
            ("circuit_cells_unwanted", "Contents of cells that were for nobody", cells.unwanted),
            ("circuit_builds_asked", "Requests for circuits taken", onion.asked),
            ("circuit_builds_refused", "Requests for circuits refused", onion.refused),
            ("circuit_builds_busy", "Requests for circuits beyond a bound", onion.busy),
            ("circuit_builds_foreign", "Requests for circuits that were for other keys", onion.foreign),
            ("circuits_relayed", "Circuits led on", onion.relayed),
            ("circuits_accepted", "Circuits that ended here", onion.accepted),
            ("circuits_begun", "Circuits of our own begun", onion.begun),
            ("circuits_opened", "Circuits of our own that opened", onion.opened),
            ("circuit_pings", "Pings of circuits answered", cells.pings),
            ("circuit_pongs", "Answers to pings of circuits", cells.pongs),
            ("circuit_silent", "Circuits of our own given up because nothing came through", cells.dead),
            ("circuit_sent_packets", "IP packets sent through circuits of our own", cells.sent_packets),
            ("circuit_received_packets", "IP packets that came through circuits of our own", cells.received_packets),
            ("circuit_dropped_no_circuit", "IP packets for a circuit while none was open", cells.no_circuit),
            ("exit_out_packets", "IP packets let out for circuits", cells.exit_out),
            ("exit_back_packets", "IP packets and superpackets that came back for circuits", cells.exit_back),
            ("exit_refused", "IP packets of circuits that the exit's rules forbid", cells.exit_refused),
            ("exit_over_rate", "IP packets above the exit's rate", cells.exit_over_rate),
            ("exit_strays", "IP packets for addresses of no circuit", cells.exit_strays),
            ("tunnel_reads", "Packets and superpackets taken from the TUN device", tunnel.reads),
            ("tunnel_sent_packets", "IP packets sent through tunnels", tunnel.sent_packets),
            ("tunnel_sent_bytes", "Their bytes", tunnel.sent_bytes),
            ("tunnel_received_packets", "IP packets received through tunnels", tunnel.received_packets),
            ("tunnel_received_bytes", "Their bytes", tunnel.received_bytes),
            ("tunnel_writes", "Packets and superpackets given to the TUN device", tunnel.writes),
            ("tunnel_joined", "Received packets that were joined to the one before", joined.joined),
            ("tunnel_superpackets", "Superpackets put together", joined.superpackets),
            ("tunnel_waited", "Packets that waited for a session", tunnel.waited),
            ("tunnel_dropped_no_tunnel", "Packets for or from nobody with a tunnel", tunnel.no_tunnel),
            ("tunnel_dropped_malformed", "Packets that were no IP packets", tunnel.malformed),
            ("tunnel_dropped_unfit", "Packets of the device that could not be cut", tunnel.unfit),
            ("tunnel_dropped_away", "Packets for friends without a session", tunnel.away),
            ("tunnel_dropped_too_big", "Packets longer than the path carries", tunnel.too_big),
            ("tunnel_dropped_no_budget", "Packets to a path that was not validated yet", tunnel.no_budget),
            ("tunnel_dropped_no_buffer", "Packets that found no buffer", tunnel.no_buffer + joined.no_buffer),
            ("tunnel_dropped_not_allowed", "Packets from addresses that are not allowed for their sender", tunnel.not_allowed),
            ("tunnel_dropped_unmarkable", "Packets whose congestion mark they could not carry", tunnel.unmarkable),
            ("serve_refused", "Requests of strangers where they are not served", serve.refused),
            ("serve_strangers", "Requests of strangers taken", serve.strangers),
            ("overlay_received", "Messages of the overlay received", overlay.received),
            ("overlay_sent", "Messages of the overlay sent", overlay.sent),
            ("overlay_foreign", "Messages of another network's overlay", overlay.foreign),
            ("overlay_flooded", "Messages of the overlay dropped, their session having brought too many", overlay.flooded),
            ("overlay_unsent", "Messages of the overlay for which there was no session or room", overlay.unsent),
            ("overlay_calls", "Sessions begun for the overlay", overlay.calls),
            ("overlay_calls_failed", "Of those, the ones that did not come about", overlay.calls_failed),
            ("overlay_sessions_closed", "Sessions that only the overlay had used, closed", overlay.closed),
            ("overlay_lookups", "Lookups begun for gets", overlay.lookups),
            ("overlay_lookups_found", "Of those, the ones that named a provider", overlay.lookups_found),
            ("overlay_lookups_vain", "Of those, the ones that named none", overlay.lookups_vain),
            ("overlay_providers", "Providers that lookups named", overlay.providers),
            ("overlay_served", "Questions of others answered", core.served),
            ("overlay_refused", "Questions of others refused, their askers having asked too much", core.refused),
            ("overlay_stray", "Answers that belonged to no question", core.stray),
            ("overlay_unfit", "Records whose signature or time was wrong", core.unfit),
            ("overlay_dropped", "Effects of the overlay's core that found no room", core.dropped),
            ("keep_chunks", "Chunks that others gave to be kept", keep.kept),
            ("keep_bytes", "Their bytes", keep.bytes),
            ("keep_here", "Offers of chunks that were here already", keep.here),
            ("keep_busy", "Offers told to come again later", keep.busy),
            ("keep_refused", "Offers refused", keep.refused),
            ("keep_wrong", "Chunks that were not what was offered", keep.wrong),
            ("keep_late", "Chunks and offers that did not come in time, or brought too much", keep.late),
            ("keep_malformed", "Offers that were none", keep.malformed),
            ("push_chunks", "Chunks of this node that others keep", push.placed),
            ("push_vain", "Chunks that nobody would keep", push.vain),
            ("push_offers", "Offers made", push.offers),
            ("push_kept", "Of those, accepted and kept", push.kept),
            ("push_bytes", "Bytes of chunks sent to be kept", push.bytes),
            ("nat_ways_asked", "Questions to peers for a way to a node that is not reached", punch.asked),
            ("nat_ways_found", "Of those, the ones that were answered with one", punch.found),
            ("nat_rounds", "Rounds of trying to get a session off a relayed path", punch.rounds),
            ("nat_punched", "Sessions that got off a relayed path", session.punched),
            ("nat_relayed_again", "Sessions that went back to a relayed path, their peers being silent", session.relayed_again),
            ("nat_relayed_sent", "Datagrams sent through another peer", punch.relayed_out),
            ("nat_relayed_received", "Datagrams that came through another peer", punch.relayed_in),
            ("nat_relayed_lost", "Of those, the ones that found no room or no way", punch.relayed_lost),
            ("nat_carried", "Datagrams carried between two peers", punch.carried),
            ("nat_carried_bytes", "Their bytes", punch.carried_bytes),
            ("nat_carried_lost", "Datagrams between two peers that were too many", punch.carried_lost),
            ("stun_asked", "Questions to servers of STUN", self.stun.counters.asked),
            ("stun_answered", "Of those, the ones that were answered", self.stun.counters.answered),
            ("stun_given", "Questions of strangers answered", self.stun.counters.given),
            ("stun_refused", "Questions of strangers that were too many", self.stun.counters.refused),
            ("intents_said", "Messages of what this node means to do, asks and answers", intents.said),
            ("intents_heard", "Messages of what peers mean to do, ask and answer", intents.heard),
            ("intents_flooded", "Of those, the ones that were too many", intents.flooded),
            ("intents_silent", "What was said to peers and never answered", intents.silent),
            ("intents_granted", "Questions of friends to stay that were granted", intents.granted),
            ("intents_refused", "Questions of friends to stay that were not", intents.refused),
            ("intents_asked", "Friends that leave, asked to stay by gets", self.meanings.asks),
            ("nat_flooded", "Messages about ways that were too many", punch.flooded),
            ("introductions_sent", "Messages to friends of other nodes", told.sent),
            ("introductions_received", "Messages of friends of other nodes", told.received),
            ("introductions_forged", "Of what friends told, what is nobody's word", told.forged),
            ("introductions_lost", "Of what friends told, what found no room", told.lost),
            ("introductions_flooded", "Messages of friends of other nodes that were too many", told.flooded),
            ("introductions_calls", "Handshakes begun with nodes that friends told of", told.calls),
            ("introductions_calls_vain", "Of those, the ones that did not come about", told.calls_vain),
            ("gets_done", "Gets completed", gets_done),
            ("gets_failed", "Gets that failed", gets_failed),
        ]
    }
}
