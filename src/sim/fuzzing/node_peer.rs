//! A whole node and an authenticated peer that sends anything: frames, answers to its requests, requests, odd
//! introductions, and datagrams that are none.

use std::time::Duration;

use super::Input;
use super::endpoint::{Endpoint, NETWORK, address, identity, introductions, wall};
use super::stream_peer;
use super::trees::{Files, content, put};
use crate::base::fileop::{FileDone, JobId};
use crate::base::{ChannelId, ChunkId, Memory, Path, Place, StreamId, Time, UnixMs};
use crate::crypto::Suite;
use crate::limits::{BUFFER_HEAD_ROOM, SEND_BUFFERS};
use crate::node::command::Friend;
use crate::node::{
    CHUNK_CHANNEL, Clock, Command, Config, HELLO_CHANNEL, INTRODUCE_CHANNEL, Input as NodeInput, Node,
    Output, Report, Train,
};
use crate::service::get::GetRequest;
use crate::session::{PacketKind, Received, SessionKey};
use crate::sim::buffers::RECEIVE_BUFFER;
use crate::sim::files::{Node as Entry, SimFiles};
use crate::sim::world::SimWorld;
use crate::wire::chunkmsg::SliceRequest;
use crate::wire::frame::{Frame, StreamHeader, Writer, frames};
use crate::wire::hello::Hello;
use crate::wire::reference::Reference;

const STEPS_MAX: usize = 80;
/// Datagrams in sessions that are remembered.
const SAID_MAX: usize = 16;
/// What a node has to do after one thing happened, at most.
const OUTPUTS_MAX: usize = 5000;

/// The node, what is around it, and its peer.
pub(super) struct Scene {
    pub(super) node: Node,
    world: SimWorld,
    files: SimFiles,
    done: Vec<FileDone>,
    pub(super) reports: Vec<Report>,
    pub(super) hostile: Endpoint,
    key: Option<SessionKey>,
    pub(super) now: Time,
    pub(super) at: std::net::SocketAddr,
    /// Requests of the node: stream and what it asks.
    asked: Vec<(StreamId, SliceRequest)>,
    heard: u64,
    tree: Files,
    reference: Reference,
    /// Chunks of the tree, which the node may not have.
    pub(super) chunks: super::trees::Chunks,
    next_job: u64,
    /// With the overlay on, chunks that the node keeps for others: offered to the store and not answered.
    pub(super) keeping: Option<Vec<(u64, ChunkId)>>,
    /// Datagrams that the node sent in its sessions, the last ones: channel and content.
    pub(super) said: std::collections::VecDeque<(ChannelId, Vec<u8>)>,
    /// Payloads of both sides, when somebody wants to keep them.
    pub(super) heard_payloads: Option<Vec<Vec<u8>>>,
}

impl Scene {
    pub(super) fn new(input: &mut Input<'_>) -> Self {
        let now = Time::from_millis(60_000);
        let mut rng = input.rng();
        let hostile = Endpoint::new(2, 2, Suite::Aes256Gcm, 0, rng.fork(), now);
        let config = Config {
            identity: identity(1),
            network: NETWORK.to_vec(),
            place_floor_bits: 0,
            suite: Suite::Aes256Gcm,
            home_port: 0,
            only_friends: false,
            refuse_early_until: UnixMs(0),
            shard: (0, 1),
        };
        let mut world = SimWorld::default();
        world.store.cold = input.flag();
        let tree = Files::from([(b"a".to_vec(), content(1, 300)), (b"b".to_vec(), content(2, 70_000))]);
        let (reference, chunks) = put(&tree);
        if input.flag() {
            chunks.iter().for_each(|(id, bytes)| world.store.insert(*id, bytes.clone()));
        }
        Self {
            node: Node::new(config, rng.fork(), now),
            world,
            files: SimFiles::default(),
            done: Vec::new(),
            reports: Vec::new(),
            hostile,
            key: None,
            now,
            at: address(1),
            asked: Vec::new(),
            heard: 0,
            tree,
            reference,
            chunks,
            next_job: 1,
            keeping: None,
            said: std::collections::VecDeque::new(),
            heard_payloads: None,
        }
    }

    pub(super) fn clock(&self) -> Clock {
        Clock { now: self.now, wall: wall(self.now) }
    }

    pub(super) fn input(&mut self, input: NodeInput) {
        let clock = self.clock();
        self.node.handle(clock, input, &mut self.world);
        self.drain();
    }

    fn drain(&mut self) {
        let clock = self.clock();
        for _ in 0..OUTPUTS_MAX {
            let Some(output) = self.node.poll(clock, &mut self.world) else {
                return assert_eq!(self.world.free_buffers(), SEND_BUFFERS, "no buffer leaks");
            };
            match output {
                Output::Train(train) => self.sent(train),
                Output::Tun(packet) | Output::Proxied(packet) => self.world.free(packet.place.buf),
                Output::Keep(number, chunk) => match &mut self.keeping {
                    Some(keeping) => keeping.push((number, chunk.id)),
                    None => panic!("{chunk:?} is kept for somebody, and the overlay is off"),
                },
                Output::File(op) => self.done.push(self.files.execute(op)),
                Output::Report(report) => self.reports.push(report),
                Output::Cross(to, cross) => panic!("{cross:?} for shard {to}: there is one"),
            }
        }
        panic!("the node does not come to rest");
    }

    fn sent(&mut self, train: Train) {
        let bytes = self.world.bytes(train.place).to_vec();
        self.world.free(train.place.buf);
        assert!(train.segment > 0 && train.place.len > 0);
        if train.path.remote != self.hostile.address {
            return;
        }
        for datagram in bytes.chunks(train.segment as usize) {
            let received = self.hostile.receive(self.now, self.at, datagram);
            if let Received::Packet { session, payload, number, kind: PacketKind::Stream } = received {
                self.key = Some(session);
                self.heard = self.heard.max(number);
                let payload = self.hostile.opened[payload].to_vec();
                self.keep(&payload);
                for frame in frames(&payload) {
                    let frame = match frame.expect("a node sends frames") {
                        Frame::Stream(frame) => frame,
                        Frame::Datagram { channel, bytes } => {
                            self.said.push_back((channel, bytes.to_vec()));
                            self.said.drain(..self.said.len().saturating_sub(SAID_MAX));
                            continue;
                        }
                        _ => continue,
                    };
                    if frame.channel == Some(CHUNK_CHANNEL)
                        && let Ok(Some(request)) = SliceRequest::parse(frame.bytes)
                        && !self.asked.iter().any(|(stream, _)| *stream == frame.stream)
                    {
                        self.asked.push((frame.stream, request));
                    }
                }
            }
        }
        if let Some(key) = self.hostile.established.last() {
            self.key = Some(*key);
        }
    }

    fn deliver(&mut self, from: std::net::SocketAddr, datagram: &[u8], segment: usize) {
        if datagram.is_empty() {
            return;
        }
        let len = datagram.len() as u32;
        let place = Place { buf: RECEIVE_BUFFER, offset: BUFFER_HEAD_ROOM as u32, len };
        self.world.buffers.begin_receive();
        self.world.bytes_mut(place).copy_from_slice(datagram);
        let path = Path { local: self.at, remote: from };
        let train = NodeInput::Train(Train { path, place, segment: segment as u32, ecn: 0 });
        self.node.handle(self.clock(), train, &mut self.world);
        self.world.buffers.end_receive();
        self.drain();
    }

    fn keep(&mut self, payload: &[u8]) {
        if let Some(kept) = &mut self.heard_payloads {
            kept.push(payload.to_vec());
        }
    }

    /// What the hostile side's sessions have to say goes to the node.
    pub(super) fn exchange(&mut self) {
        for _ in 0..8 {
            let sent = std::mem::take(&mut self.hostile.sent);
            if sent.is_empty() {
                return;
            }
            for (_, datagram) in sent {
                self.deliver(self.hostile.address, &datagram, datagram.len());
            }
        }
    }

    pub(super) fn say(&mut self, input: &mut Input<'_>, payload: &[u8]) {
        let Some(key) = self.key else { return };
        let kind = if input.one_in(32) { PacketKind::Datagram } else { PacketKind::Stream };
        if let Some((_, packet)) = self.hostile.sealed(self.now, key, kind, payload) {
            let from = if input.one_in(32) { address(9) } else { self.hostile.address };
            self.deliver(from, &packet, packet.len());
        }
    }

    /// An answer to what the node asked, in order or not, honest or not.
    fn answer(&mut self, input: &mut Input<'_>) {
        let Some(&(stream, request)) = self.asked.get(input.below(self.asked.len().max(1))) else { return };
        let Some(chunk) = self.chunks.get(&request.chunk) else { return };
        let list = crate::chunk::SliceList::from_chunk(chunk);
        let (status, chunk_len) = (crate::wire::chunkmsg::Status::Ok, chunk.len() as u32);
        let (asked_list, mask) = (request.list, request.mask);
        let head =
            crate::wire::chunkmsg::ReplyHead { status, list: asked_list, mask, chunk_len, retry_ms: 0 };
        let mut bytes = head.emit().to_vec();
        if asked_list {
            bytes.extend_from_slice(list.as_bytes());
        }
        let slices = chunk.chunks(crate::limits::SLICE_SIZE).enumerate();
        slices
            .filter(|(index, _)| mask >> index & 1 == 1)
            .for_each(|(_, slice)| bytes.extend_from_slice(slice));
        if input.one_in(4) {
            input.mutate(&mut bytes);
        }
        let len = bytes.len();
        let skip = if input.one_in(8) { input.below(len.max(1)) } else { 0 };
        for (index, part) in bytes.chunks(1200).enumerate().skip(skip / 1200) {
            let offset = index as u64 * 1200;
            let fin = offset as usize + part.len() == len;
            let payload = stream_payload(stream, None, offset, fin, part);
            let Some(key) = self.key else { return };
            self.keep(&payload);
            if let Some((_, packet)) = self.hostile.sealed(self.now, key, PacketKind::Stream, &payload) {
                self.deliver(self.hostile.address, &packet, packet.len());
            }
        }
    }

    pub(super) fn step(&mut self, input: &mut Input<'_>) {
        match input.below(12) {
            0..=2 => {
                let payload = stream_peer::frames(input, 8, self.heard);
                self.say(input, &payload);
            }
            3 => self.answer(input),
            4 => {
                // Requests for what is there, or is not.
                let at = input.below(self.chunks.len());
                let mut chunk = *self.chunks.keys().nth(at).expect("there");
                chunk.0[0] ^= u8::from(input.one_in(8));
                let request = SliceRequest { chunk, mask: input.half(), list: input.flag() };
                // Streams that this side opens: even ones when it called, else odd.
                let stream = StreamId(u64::from(input.byte() % 32));
                let payload = stream_payload(stream, Some(CHUNK_CHANNEL), 0, input.flag(), &request.emit());
                self.say(input, &payload);
            }
            5 => {
                let (version, kind) = (input.word(), input.byte());
                let services = vec![ChannelId(1 + u16::from(kind % 2)), INTRODUCE_CHANNEL];
                let hello = Hello { version, agent: "x".into(), services, relays: Vec::new() };
                // Some tell of others, too.
                let tells = kind % 8 == 7;
                let channel = if tells { INTRODUCE_CHANNEL } else { HELLO_CHANNEL };
                let mut bytes = if tells { introductions(self.now, kind >> 3) } else { hello.emit() };
                if input.flag() {
                    input.mutate(&mut bytes);
                }
                let stream = StreamId(u64::from(input.byte() % 32));
                let payload = stream_payload(stream, Some(channel), 0, true, &bytes);
                self.say(input, &payload);
            }
            6 => {
                let mut train = input.bytes(400).to_vec();
                let segment = 1 + input.below(400);
                train.truncate(2000);
                let from = address(20 + input.byte() % 4);
                self.deliver(from, &train, segment);
            }
            7 => {
                let early = input.bytes(60);
                let node = identity(1);
                let key = self.hostile.connect(self.now, &node, &[self.at], early);
                self.key = self.key.or(key);
                self.exchange();
            }
            8 => self.command(input),
            9 => {
                let done = std::mem::take(&mut self.done);
                done.into_iter().for_each(|done| self.input(NodeInput::FileDone(done)));
                for (handle, slice) in self.world.store.take_faulted() {
                    self.input(NodeInput::Warmed { handle, slice });
                }
            }
            10 => self.exchange(),
            _ => {
                let timer = self.node.poll_timeout();
                self.now = super::endpoint::later(self.now, input.byte(), input.half(), timer);
                self.tick();
            }
        }
    }

    fn tick(&mut self) {
        self.hostile.tick(self.now);
        for _ in 0..64 {
            self.input(NodeInput::Tick);
            if self.node.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
        }
        panic!("a timer that does not move: {:?} at {:?}", self.node.poll_timeout(), self.now);
    }

    fn command(&mut self, input: &mut Input<'_>) {
        let command = match input.below(6) {
            0 => Command::Friends(Vec::new()),
            1 | 2 => {
                let card = *self.hostile.identity.card();
                Command::Friends(vec![Friend {
                    card,
                    addresses: vec![self.hostile.address],
                    bridge: None,
                    trust: 50,
                    introduce: true,
                }])
            }
            3 | 4 if self.next_job < 4 => {
                self.next_job += 1;
                Command::Get(GetRequest {
                    job: JobId(self.next_job),
                    reference: self.reference.clone(),
                    inside: if input.flag() { Vec::new() } else { vec![b"top".to_vec(), b"b".to_vec()] },
                    root: "/out".into(),
                    rename: None,
                    merge: false,
                    overwrite: true,
                })
            }
            _ if input.flag() => Command::Status { token: 1 },
            _ => Command::Cancel(JobId(input.byte() as u64 % 5)),
        };
        self.input(NodeInput::Command(command));
        self.exchange();
    }

    /// Whatever is finished is right.
    pub(super) fn check(&self) {
        for (path, entry) in self.files.below(b"/out") {
            let Entry::File(bytes, ..) = entry else { continue };
            let Some(name) = path.rsplit(|byte| *byte == b'/').next() else { continue };
            let shown = String::from_utf8_lossy(path);
            assert!(self.tree.get(name) == Some(&bytes), "{shown} is wrong");
        }
    }
}

fn stream_payload(
    stream: StreamId,
    channel: Option<ChannelId>,
    offset: u64,
    fin: bool,
    bytes: &[u8],
) -> Vec<u8> {
    let mut room = [0; stream_peer::ROOM];
    let mut out = Writer::new(&mut room);
    let bytes = &bytes[..bytes.len().min(1300)];
    out.stream(&StreamHeader { stream, channel, offset, fin }, Some(bytes.len())).expect("room");
    out.take(bytes.len()).expect("room").copy_from_slice(bytes);
    let len = out.written();
    room[..len].to_vec()
}

/// See the module.
pub fn peer(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut scene = Scene::new(&mut input);
    scene.begin(&mut input);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        scene.step(&mut input);
        scene.check();
    }
    scene.end();
}

impl Scene {
    /// Who calls whom.
    pub(super) fn begin(&mut self, input: &mut Input<'_>) {
        if input.flag() {
            let node = identity(1);
            self.key = self.hostile.connect(self.now, &node, &[self.at], b"");
        } else {
            let card = *self.hostile.identity.card();
            let friend = Friend {
                card,
                addresses: vec![self.hostile.address],
                bridge: None,
                trust: 50,
                introduce: true,
            };
            self.input(NodeInput::Command(Command::Friends(vec![friend])));
        }
        self.exchange();
    }

    /// Left alone, the node gives up what it cannot have, and comes to rest.
    pub(super) fn end(&mut self) {
        let jobs = self.next_job;
        self.hostile.sent.clear();
        for _ in 0..3000 {
            let done = std::mem::take(&mut self.done);
            done.into_iter().for_each(|done| self.input(NodeInput::FileDone(done)));
            for (handle, slice) in self.world.store.take_faulted() {
                self.input(NodeInput::Warmed { handle, slice });
            }
            if self.ended() >= jobs - 1 {
                break;
            }
            let next = self.node.poll_timeout().expect("a running job has a timer");
            self.now = self.now.max(next).max(self.now + Duration::from_millis(50));
            self.tick();
            self.hostile.sent.clear();
        }
        self.check();
        assert_eq!(self.ended(), jobs - 1, "every job ends");
    }

    fn ended(&self) -> u64 {
        let is_end = |report: &&Report| matches!(report, Report::Done(..) | Report::Failed(..));
        self.reports.iter().filter(is_end).count() as u64
    }
}

/// The payloads of an honest transfer in both directions.
pub(super) fn transfer() -> Vec<Vec<u8>> {
    let mut zeros = Input::new(&[0; 8]);
    let mut scene = Scene::new(&mut zeros);
    scene.heard_payloads = Some(Vec::new());
    let card = *scene.hostile.identity.card();
    let friend =
        Friend { card, addresses: vec![scene.hostile.address], bridge: None, trust: 50, introduce: true };
    scene.input(NodeInput::Command(Command::Friends(vec![friend])));
    scene.exchange();
    // It gets a tree …
    scene.command(&mut Input::new(&[3, 0]));
    for _ in 0..40 {
        for at in 0..scene.asked.len() {
            scene.answer(&mut Input::new(&[at as u8, 1, 1]));
        }
        scene.asked.clear();
        let done = std::mem::take(&mut scene.done);
        done.into_iter().for_each(|done| scene.input(NodeInput::FileDone(done)));
        scene.now += Duration::from_millis(30);
        scene.tick();
        scene.exchange();
    }
    // … and serves it.
    let chunks: Vec<_> = scene.chunks.iter().map(|(id, bytes)| (*id, bytes.clone())).collect();
    for (number, (chunk, bytes)) in chunks.into_iter().enumerate() {
        scene.world.store.insert(chunk, bytes);
        let request = SliceRequest { chunk, mask: 1, list: true }.emit();
        let stream = StreamId(2 * (10 + number as u64) + 1);
        let payload = stream_payload(stream, Some(CHUNK_CHANNEL), 0, true, &request);
        scene.keep(&payload);
        scene.say(&mut Input::new(&[1, 1]), &payload);
    }
    scene.heard_payloads.take().unwrap_or_default()
}

#[cfg(test)]
mod tests;
