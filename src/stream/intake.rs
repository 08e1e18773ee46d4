//! Received payloads: frames in, stream bytes and events out.

use super::connection::Connection;
use super::recv::{Change, Refusal};
use super::table::Queue;
use super::{Event, RecvMode, Sink, Violation};
use crate::base::{ChannelId, StreamId, Time};
use crate::wire::frame::{Frame, Stream, frames};

/// ECN code point of a packet that met congestion.
const ECN_CE: u8 = 3;

impl Connection {
    /// Takes the payload of an authentic packet that was not seen before. `ecn` is the code point of its IP
    /// header, 0 to 3. An error closes the session.
    pub fn handle_payload(
        &mut self,
        now: Time,
        number: u64,
        ecn: u8,
        payload: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), Violation> {
        if self.received.contains(number) {
            return Ok(());
        }
        self.stats.received_packets += 1;
        self.stats.received_bytes += payload.len() as u64;
        let mut eliciting = false;
        for frame in frames(payload) {
            let frame = frame.map_err(Violation::malformed)?;
            eliciting |= frame.is_ack_eliciting();
            match self.on_frame(now, frame, sink) {
                Ok(()) => {}
                // Every frame can be taken twice: the packet counts as lost and its content comes again.
                Err(Refusal::Later) => return Ok(()),
                Err(Refusal::Violation(violation)) => return Err(violation),
            }
        }
        let rtt = self.rtt.sampled().then(|| self.rtt.smoothed());
        self.received.on_packet(now, number, eliciting, ecn == ECN_CE, rtt);
        Ok(())
    }

    /// A packet of another kind arrived in the same number space: it is acknowledged with the others.
    pub fn on_other_packet_received(&mut self, now: Time, number: u64) {
        if !self.received.contains(number) {
            self.received.on_packet(now, number, false, false, None);
        }
    }

    /// All packets of one batch were handed in. Optional, but spares acknowledgements: their number adapts
    /// here.
    pub fn end_of_batch(&mut self, now: Time) {
        let rtt = self.rtt.sampled().then(|| self.rtt.smoothed());
        self.received.end_of_batch(now, rtt);
    }

    #[inline]
    fn on_frame(&mut self, now: Time, frame: Frame<'_>, sink: &mut impl Sink) -> Result<(), Refusal> {
        match frame {
            Frame::Stream(frame) => return self.on_stream(&frame, sink),
            Frame::Ack(ack) => self.on_ack(now, &ack)?,
            Frame::Ping => {}
            Frame::Reset { stream, code, final_size } => self.on_reset(stream, code, final_size)?,
            Frame::Stop { stream, code } => self.on_stop(stream, code)?,
            Frame::MaxData(max) => {
                if max > self.allowed.max {
                    self.allowed.max = max;
                    self.fresh_blocked = false;
                }
            }
            Frame::MaxStreamData { stream, max } => {
                if self.find(stream)?
                    && let Some(found) = self.streams.get(stream.0)
                    && found.send.on_max(max)
                {
                    self.wake(stream.0);
                }
            }
            Frame::MaxStreams(max) => {
                if max > self.allowed.streams {
                    self.allowed.streams = max;
                    if std::mem::take(&mut self.allowed.refused) {
                        self.event(Event::StreamsAvailable);
                    }
                }
            }
            Frame::Datagram { channel, bytes } => {
                if self.is_crowded() {
                    self.stats.dropped_datagrams += 1;
                } else {
                    self.event(Event::Datagram { channel, bytes: bytes.to_vec() });
                }
            }
        }
        Ok(())
    }

    /// Whether a stream exists; false when it is over. One that was never opened is a violation: until
    /// the peer knows that we know a stream, every packet about it opens it first.
    fn find(&mut self, stream: StreamId) -> Result<bool, Violation> {
        if self.streams.get(stream.0).is_some() {
            return Ok(true);
        }
        let index = stream.0 >> 1;
        let ours = stream.by_initiator() == self.config.initiator;
        let existed = if ours { index < self.allowed.opened } else { self.granted.seen.contains(index) };
        if existed { Ok(false) } else { Err(Violation::STREAM_STATE) }
    }

    /// Like [`Self::find`], but opens a stream whose channel the frame names.
    #[inline]
    fn find_or_open(&mut self, stream: StreamId, channel: Option<ChannelId>) -> Result<bool, Refusal> {
        let Some(channel) = channel else { return Ok(self.find(stream)?) };
        if self.streams.get(stream.0).is_some() {
            return Ok(true);
        }
        let index = stream.0 >> 1;
        if stream.by_initiator() == self.config.initiator || self.granted.seen.contains(index) {
            return Ok(self.find(stream)?);
        }
        if index >= self.granted.streams {
            return Err(Violation::STREAMS_LIMIT.into());
        }
        if self.is_crowded() {
            return Err(Refusal::Later);
        }
        self.granted.seen.insert(index..index + 1);
        self.streams.insert(stream, channel, RecvMode::Ordered, true);
        if let Some(found) = self.streams.get(stream.0) {
            found.recv.keep_at_most(self.config.unread_max);
        }
        self.event(Event::Opened { stream, channel });
        Ok(true)
    }

    #[inline]
    fn on_stream(&mut self, frame: &Stream<'_>, sink: &mut impl Sink) -> Result<(), Refusal> {
        let Stream { stream, channel, offset, fin, bytes } = *frame;
        if !self.find_or_open(stream, channel)? {
            return Ok(());
        }
        let room = self.granted.max - self.granted.received;
        let Some(found) = self.streams.get(stream.0) else { return Ok(()) };
        let change = found.recv.on_data(stream, offset, bytes, fin, room, sink)?;
        if change.finished || change.readable || change.credited > 0 || found.recv.is_done() {
            self.settle(stream, change);
        } else {
            self.granted.received += change.counted;
        }
        Ok(())
    }

    fn on_reset(&mut self, stream: StreamId, code: u64, final_size: u64) -> Result<(), Violation> {
        if !self.find(stream)? {
            return Ok(());
        }
        let room = self.granted.max - self.granted.received;
        let Some(found) = self.streams.get(stream.0) else { return Ok(()) };
        let (change, news) = found.recv.on_reset(code, final_size, room)?;
        if news {
            self.event(Event::Reset { stream, code });
        }
        self.settle(stream, change);
        Ok(())
    }

    fn on_stop(&mut self, stream: StreamId, code: u64) -> Result<(), Violation> {
        if !self.find(stream)? {
            return Ok(());
        }
        let Some(found) = self.streams.get(stream.0) else { return Ok(()) };
        if found.send.reset(code) {
            found.reset_due = true;
            self.streams.enqueue(Queue::Control, stream.0);
            self.event(Event::Stopped { stream, code });
        }
        self.settle(stream, Change::default());
        Ok(())
    }
}
