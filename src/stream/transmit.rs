//! One packet at a time: what goes into its payload, and whether it may leave.
//!
//! Full packets of a train have equal sizes: a packet is filled to the last byte while anything waits, so a
//! shorter one means that nothing does.

use super::connection::Connection;
use super::sent::FrameRef;
use super::table::Queue;
use super::{Event, PacketMeta, SOURCE_FAULT, SourceRead};
use crate::base::{StreamId, Time};
use crate::limits::{SENT_PACKETS_MAX, SENT_QUIET_MAX, STREAM_QUANTUM};
use crate::wire::frame::{StreamHeader, Writer};

/// Streams' frames start only where so many bytes are left; less is padded away.
const STREAM_ROOM_MIN: usize = 32;
/// Every so many acknowledgements in a row, a PING asks the peer to acknowledge them, so that their
/// ranges can be forgotten.
const QUIET_RUN_MAX: u32 = 32;

/// What a connection would send now, if it were let.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Nothing.
    Nothing,
    /// An acknowledgement and nothing else.
    Acknowledgement,
    /// Packets that count in flight; window and pacer let them.
    Data,
}

/// Whether packets may leave that count in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    Paced,
    Window,
}

/// What came of one stream's turn.
enum Turn {
    /// A frame was written.
    Wrote,
    /// It has nothing for this queue.
    Nothing,
    /// The session's limit keeps it back.
    Limited,
}

impl Connection {
    /// Writes the payload of one packet, which leaves now as `number`, into `room`. `None`: nothing may
    /// or must leave now, and the number was not used. `room` should have [`Self::packet_size`] less the
    /// overhead; where it has more, up to `mtu_max` less the overhead, probes of the path MTU fit.
    pub fn poll_payload(
        &mut self,
        now: Time,
        number: u64,
        room: &mut [u8],
        sources: &mut impl SourceRead,
    ) -> Option<PacketMeta> {
        self.payload(now, number, room, sources, false)
    }

    /// As [`Self::poll_payload`], but an acknowledgement alone, if one is due: whatever else waits is held by the caller,
    /// who may give less room.
    pub fn poll_acknowledgement(&mut self, now: Time, number: u64, room: &mut [u8]) -> Option<PacketMeta> {
        self.payload(now, number, room, &mut (), true)
    }

    /// What [`Self::poll_payload`] would write now. Where it is less than there is to send, the connection knows what
    /// keeps it back and when that ends.
    pub fn wants(&mut self, now: Time) -> Wants {
        let (gate, probing) = (self.gate(now), self.recovery.probes > 0);
        let data = self.has_data() || probing;
        let probe = gate == Gate::Open && self.rtt.sampled() && self.mtu.wanted().is_some();
        if probing || gate == Gate::Open && data || probe {
            return Wants::Data;
        }
        self.kept_back(now, data, gate);
        if self.is_ack_due(now) { Wants::Acknowledgement } else { Wants::Nothing }
    }

    fn is_ack_due(&self, now: Time) -> bool {
        self.received.due(now) && self.sent.len() < 2 * SENT_PACKETS_MAX
    }

    fn kept_back(&mut self, now: Time, wants: bool, gate: Gate) {
        self.recovery.note_limit(now, wants && gate == Gate::Window);
        self.paced_until = if wants && gate == Gate::Paced { self.pacer.next(now) } else { None };
    }

    fn payload(
        &mut self,
        now: Time,
        number: u64,
        room: &mut [u8],
        sources: &mut impl SourceRead,
        held: bool,
    ) -> Option<PacketMeta> {
        let gate = self.gate(now);
        if gate == Gate::Open
            && !held
            && let Some(meta) = self.poll_probe(now, number, room)
        {
            return Some(meta);
        }
        let ack_due = self.is_ack_due(now);
        let probing = self.recovery.probes > 0 && !held;
        let may = (gate == Gate::Open || probing) && !held;
        let wants = self.has_data() || probing;
        if !(ack_due || may && wants) {
            self.kept_back(now, wants, gate);
            return None;
        }
        let full = if self.recovery.suspects_black_hole() {
            (self.mtu.min() - self.config.overhead) as usize
        } else {
            self.payload_max()
        };
        let cap = full.min(room.len());
        let mut out = Writer::new(&mut room[..cap]);
        let told = if ack_due || self.received.untold() { self.received.write(now, &mut out) } else { None };
        if let Some(largest) = told {
            self.sent.stage(FrameRef::Ack { largest });
        }
        let before = out.written();
        if may && wants {
            self.write_frames(&mut out, sources);
        }
        if out.written() == before
            && (probing || (told.is_some() && self.recovery.quiet_run >= QUIET_RUN_MAX))
        {
            out.ping();
        }
        let eliciting = out.written() > before;
        if !eliciting && !ack_due {
            self.sent.unstage();
            self.paced_until = None;
            return None;
        }
        let len = out.written();
        if told.is_some() {
            self.received.on_sent();
        }
        self.recovery.quiet_run = if eliciting { 0 } else { self.recovery.quiet_run + 1 };
        self.commit(now, number, len, eliciting, false);
        Some(PacketMeta { len, probe: false, ack_eliciting: eliciting })
    }

    /// UDP payload that window and pacer let leave now, bytes; 0 when less than a full packet. Only a hint
    /// for the size of a train: acknowledgements leave whatever it says.
    pub fn send_allowance(&self, now: Time) -> usize {
        let probes = u64::from(self.recovery.probes) * u64::from(self.mtu.current());
        let allowed = match self.gate(now) {
            Gate::Open => self.controller.window() - self.sent.in_flight(),
            Gate::Paced | Gate::Window => 0,
        };
        usize::try_from(allowed.min(self.pacer.allowance(now)).max(probes)).unwrap_or(usize::MAX)
    }

    fn commit(&mut self, now: Time, number: u64, len: usize, eliciting: bool, probe: bool) {
        let size = (len + self.config.overhead as usize) as u64;
        self.sent.commit(now, number, size as u32, eliciting, probe);
        self.stats.sent_packets += 1;
        self.stats.sent_bytes += size;
        if eliciting {
            self.recovery.last_eliciting = now;
            self.recovery.probes = self.recovery.probes.saturating_sub(1);
            self.pacer.on_sent(now, size);
            if self.window_is_full() {
                self.recovery.note_limit(now, true);
            }
        } else if self.sent.quiet() > SENT_QUIET_MAX {
            self.forget_quiet(now);
        }
    }

    fn window_is_full(&self) -> bool {
        self.sent.in_flight() + u64::from(self.mtu.current()) > self.controller.window()
    }

    pub(super) fn gate(&self, now: Time) -> Gate {
        // With nothing in flight no acknowledgement would come to open it again.
        let remembers_too_many = self.sent.len() >= SENT_PACKETS_MAX && self.sent.eliciting() > 0;
        if self.window_is_full() || remembers_too_many {
            Gate::Window
        } else if self.pacer.allowance(now) == 0 {
            Gate::Paced
        } else {
            Gate::Open
        }
    }

    /// Whether anything but an acknowledgement wants to leave.
    pub(super) fn has_data(&self) -> bool {
        self.streams.has_again()
            || self.streams.has_control()
            || self.granted.max_due
            || self.granted.streams_due
            || self.ping_due
            || !self.datagrams.is_empty()
            || (!self.fresh_blocked && self.streams.waiting() > 0)
    }

    /// A probe of the path MTU, when one is wanted and this poll begins a turn: it would cut a train.
    fn poll_probe(&mut self, now: Time, number: u64, room: &mut [u8]) -> Option<PacketMeta> {
        if !self.rtt.sampled() || now == self.recovery.last_eliciting || self.recovery.probes > 0 {
            return None;
        }
        let size = self.mtu.wanted()?;
        let len = (size - self.config.overhead) as usize;
        if room.len() < len || self.sent.in_flight() + u64::from(size) > self.controller.window() {
            return None;
        }
        let mut out = Writer::new(&mut room[..len]);
        out.ping()?;
        out.padding(len - 1)?;
        self.mtu.on_probe(number);
        self.commit(now, number, len, true, true);
        Some(PacketMeta { len, probe: true, ack_eliciting: true })
    }

    fn write_frames(&mut self, out: &mut Writer<'_>, sources: &mut impl SourceRead) {
        if self.granted.max_due || self.granted.streams_due {
            self.write_credit(out);
        }
        if self.streams.has_control() {
            self.write_control(out);
        }
        while let Some((channel, bytes)) = self.datagrams.front() {
            if out.datagram(*channel, bytes).is_some() {
                self.datagrams.pop();
            } else if bytes.len() > self.datagram_max() {
                // The path shrank since it was queued.
                self.stats.dropped_datagrams += 1;
                self.datagrams.pop();
            } else {
                break;
            }
        }
        self.write_streams(out, sources);
        if std::mem::take(&mut self.ping_due) {
            out.ping();
        }
    }

    fn write_credit(&mut self, out: &mut Writer<'_>) {
        if self.granted.max_due {
            let max = self.granted.consumed + self.config.session_window;
            if out.max_data(max).is_some() {
                (self.granted.max, self.granted.max_due) = (max, false);
                self.sent.stage(FrameRef::SessionWindow);
            }
        }
        if self.granted.streams_due {
            let max = self.granted.closed + crate::limits::STREAMS_PER_SESSION_MAX;
            if out.max_streams(max).is_some() {
                (self.granted.streams, self.granted.streams_due) = (max, false);
                self.sent.stage(FrameRef::StreamCredit);
            }
        }
    }

    fn write_control(&mut self, out: &mut Writer<'_>) {
        while out.room() >= 2 * STREAM_ROOM_MIN {
            let Some(id) = self.streams.pop_control() else { return };
            let Some(stream) = self.streams.get(id) else { continue };
            let name = stream.id;
            if !stream.known {
                let header =
                    StreamHeader { stream: name, channel: Some(stream.channel), offset: 0, fin: false };
                if out.stream(&header, Some(0)).is_some() {
                    stream.announce = false;
                    self.sent.stage(FrameRef::Stream { id, start: 0, len: 0, fin: false, open: true });
                }
            }
            if std::mem::take(&mut stream.reset_due)
                && let Some((code, final_size)) = stream.send.unsettled_reset()
                && out.reset(name, code, final_size).is_some()
            {
                self.sent.stage(FrameRef::Reset { id });
            }
            if std::mem::take(&mut stream.stop_due)
                && stream.recv.is_stopped()
                && let Some(code) = stream.stop
                && out.stop(name, code).is_some()
            {
                self.sent.stage(FrameRef::Stop { id });
            }
            if std::mem::take(&mut stream.window_due)
                && let Some(max) = stream.recv.announce()
                && out.max_stream_data(name, max).is_some()
            {
                self.sent.stage(FrameRef::StreamWindow { id });
            }
        }
    }

    #[inline]
    fn write_streams(&mut self, out: &mut Writer<'_>, sources: &mut impl SourceRead) {
        let mut limited = 0;
        while out.room() >= STREAM_ROOM_MIN {
            let Some((queue, id)) = self.streams.front() else { return };
            if queue == Queue::Fresh && self.fresh_blocked {
                return;
            }
            match self.write_stream(out, id, queue, sources) {
                Turn::Wrote => {}
                Turn::Nothing => {
                    self.streams.pop_front(queue);
                    match queue {
                        // What is left of it, such as its end alone, waits with the others.
                        Queue::Again => self.wake(id),
                        _ => self.turn = STREAM_QUANTUM,
                    }
                }
                Turn::Limited => {
                    limited += 1;
                    if limited >= self.streams.waiting() {
                        self.fresh_blocked = true;
                        return;
                    }
                    self.streams.rotate();
                }
            }
        }
        // Nothing more fits. While something waits the packet must be as long as its neighbours.
        let more = self.streams.has_again() || (!self.fresh_blocked && self.streams.waiting() > 0);
        if more && self.streams.front_has_pending() {
            out.padding(out.room());
        }
    }

    /// One STREAM frame of one stream.
    #[inline]
    fn write_stream(
        &mut self,
        out: &mut Writer<'_>,
        id: u64,
        queue: Queue,
        sources: &mut impl SourceRead,
    ) -> Turn {
        let credit = self.allowed.max - self.allowed.sent;
        let Some(stream) = self.streams.get(id) else { return Turn::Nothing };
        if queue == Queue::Again && !stream.send.has_lost() {
            return Turn::Nothing;
        }
        let mut header = StreamHeader {
            stream: stream.id,
            channel: (!stream.known).then_some(stream.channel),
            offset: stream.send.next_offset(),
            fin: false,
        };
        let room = out.room() - header.size(None);
        let piece = match stream.send.piece(room, credit) {
            Some(piece) => piece,
            None if stream.announce => stream.send.nothing(),
            None if stream.send.has_pending() => return Turn::Limited,
            None => return Turn::Nothing,
        };
        (header.offset, header.fin) = (piece.range.start, piece.fin);
        let start = out.written();
        let len = (piece.range.end - piece.range.start) as usize;
        // A frame that ends with the packet needs no length. Where the length would just not fit, PADDING
        // before it fills the packet.
        let explicit = if header.size(Some(len)) + len <= out.room() { Some(len) } else { None };
        let slack = out.room().saturating_sub(header.size(None) + len);
        let explicit = if slack == 0 { None } else { explicit };
        if explicit.is_none() && slack > 0 {
            out.padding(slack);
        }
        let bytes = out.stream(&header, explicit).and_then(|()| out.take(len));
        let Some(bytes) = bytes else { return Turn::Nothing };
        if stream.send.read(piece.range.clone(), bytes, sources).is_err() {
            out.rewind(start);
            self.source_failed(StreamId(id));
            return Turn::Nothing;
        }
        let open = header.channel.is_some();
        stream.announce = false;
        let new = stream.send.on_sent(&piece);
        self.allowed.sent += new;
        if piece.again {
            self.stats.resent_bytes += len as u64;
        }
        let carried =
            FrameRef::Stream { id, start: piece.range.start, len: len as u32, fin: piece.fin, open };
        let pending = stream.has_pending();
        self.sent.stage(carried);
        if queue == Queue::Fresh {
            if !pending {
                self.streams.pop_front(queue);
                self.turn = STREAM_QUANTUM;
            } else if self.turn <= len as u64 {
                self.streams.rotate();
                self.turn = STREAM_QUANTUM;
            } else {
                self.turn -= len as u64;
            }
        }
        Turn::Wrote
    }

    fn source_failed(&mut self, stream: StreamId) {
        self.reset(stream, SOURCE_FAULT);
        self.event(Event::SourceFailed(stream));
    }
}
