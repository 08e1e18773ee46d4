//! What happens on streams: requests of peers to the serving side, answers to the fetch.

use super::peer::Role;
use super::{
    CHUNK_CHANNEL, Clock, HELLO_CHANNEL, INTENT_CHANNEL, INTRODUCE_CHANNEL, KEEP_CHANNEL, MEET_CHANNEL, Node,
    OVERLAY_CHANNEL, RESERVE_CHANNEL, World,
};
use crate::base::StreamId;
use crate::limits::{HELLO_MS_MAX, MESSAGE_SIZE_MAX};
use crate::service::PeerId;
use crate::service::fetch::{self, Fetch};
use crate::service::serve::Act;
use crate::stream::{Connection, Event as StreamEvent, ReadState, RecvMode, SourceId};

/// Stream error: no service has this channel (docs/protocol/channels.md).
const NO_SUCH_SERVICE: u64 = 1;
/// Stream error: the answer is not wanted any more.
pub(super) const NOT_WANTED: u64 = 2;
/// Stream error: the stored bytes could not be read.
const UNREADABLE: u64 = 3;
/// Stream error: the request did not come in time (docs/protocol/fetch.md).
pub(super) const TOO_SLOW: u64 = 4;

impl Node {
    pub(super) fn stream_events(&mut self, clock: Clock, id: PeerId, world: &mut impl World) {
        let mut text = Vec::new();
        while let Some(event) = self.peers.get_mut(&id).and_then(|peer| peer.connection.poll_event()) {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            match event {
                StreamEvent::Opened { stream, channel } if channel == CHUNK_CHANNEL => {
                    peer.streams.insert(stream, Role::Serving);
                    let stranger = peer.trust.is_none();
                    if stranger && !std::mem::replace(&mut peer.asks, true) {
                        self.know(clock.now, id);
                    }
                    self.serve.opened(clock.now, id, stream, stranger, &mut self.acts);
                }
                StreamEvent::Opened { stream, channel } if channel == HELLO_CHANNEL => {
                    self.expect_message(clock.now, id, stream, HELLO_MS_MAX, Role::Meeting);
                }
                StreamEvent::Opened { stream, channel } if channel == RESERVE_CHANNEL => {
                    if !self.begin_request(clock, id, stream)
                        && let Some(peer) = self.peers.get_mut(&id)
                    {
                        peer.refuse(stream, NOT_WANTED);
                    }
                }
                StreamEvent::Opened { stream, channel } if channel == INTRODUCE_CHANNEL => {
                    if !self.begin_telling(clock, id, stream)
                        && let Some(peer) = self.peers.get_mut(&id)
                    {
                        peer.refuse(stream, NOT_WANTED);
                    }
                }
                StreamEvent::Opened { stream, channel } if channel == KEEP_CHANNEL && self.keep.is_on() => {
                    self.keep_opened(clock, id, stream);
                }
                StreamEvent::Opened { stream, .. } => {
                    peer.refuse(stream, NO_SUCH_SERVICE);
                }
                StreamEvent::Readable(stream) => {
                    text.clear();
                    let role = peer.streams.get(&stream).copied();
                    let state = peer.connection.read(stream, &mut text, MESSAGE_SIZE_MAX);
                    let finished = state == ReadState::Finished;
                    match role {
                        Some(Role::Serving) => {
                            self.serve.data(id, stream, &text, finished, world, &mut self.acts);
                        }
                        Some(Role::Keeping) => {
                            let acts = &mut self.keep_acts;
                            self.keep.offer(clock.now, (id, stream), &text, finished, world, acts);
                        }
                        Some(Role::Giving) => self.hear_answer(clock, id, stream, &text, finished),
                        Some(Role::Meeting(_)) => self.hear_hello(clock, id, stream, &text, finished),
                        Some(Role::Asked(_)) => self.hear_request(clock, id, stream, &text, finished),
                        Some(Role::Asking) => self.hear_promise(clock, id, stream, &text, finished),
                        Some(Role::Told(_)) => {
                            self.hear_introductions(clock, id, stream, &text, finished);
                        }
                        Some(Role::Introducing | Role::Telling) if finished => {
                            peer.streams.remove(&stream);
                        }
                        Some(Role::Introducing | Role::Telling | Role::Fetching) | None => {}
                    }
                }
                StreamEvent::Finished { stream, .. } | StreamEvent::Reset { stream, .. } => {
                    match peer.streams.get(&stream) {
                        Some(Role::Fetching) => {
                            peer.streams.remove(&stream);
                            self.fetch.finished(id, stream);
                        }
                        // It takes its request back: a stream that stays half open would never be over.
                        Some(Role::Serving) if matches!(event, StreamEvent::Reset { .. }) => {
                            peer.streams.remove(&stream);
                            peer.connection.reset(stream, NOT_WANTED);
                            self.serve.ended(id, stream);
                        }
                        Some(Role::Keeping) if matches!(event, StreamEvent::Reset { .. }) => {
                            peer.streams.remove(&stream);
                            peer.connection.reset(stream, NOT_WANTED);
                            self.keep.ended(id, stream);
                        }
                        Some(Role::Keeping) => self.keep.finished(id, stream),
                        Some(Role::Giving) if matches!(event, StreamEvent::Reset { .. }) => {
                            peer.streams.remove(&stream);
                            peer.connection.reset(stream, NOT_WANTED);
                            self.push.ended(clock.now, id, stream);
                        }
                        Some(Role::Meeting(_) | Role::Asked(_) | Role::Told(_))
                            if matches!(event, StreamEvent::Reset { .. }) =>
                        {
                            peer.forget_message(stream);
                            peer.connection.reset(stream, NOT_WANTED);
                            self.message_ended(id, stream);
                        }
                        Some(Role::Telling) if matches!(event, StreamEvent::Reset { .. }) => {
                            peer.streams.remove(&stream);
                            self.told_in_vain(id);
                        }
                        Some(Role::Introducing | Role::Asking)
                            if matches!(event, StreamEvent::Reset { .. }) =>
                        {
                            peer.streams.remove(&stream);
                        }
                        Some(
                            Role::Serving
                            | Role::Giving
                            | Role::Introducing
                            | Role::Meeting(_)
                            | Role::Telling
                            | Role::Told(_)
                            | Role::Asking
                            | Role::Asked(_),
                        )
                        | None => {}
                    }
                }
                StreamEvent::Acked(stream)
                | StreamEvent::Stopped { stream, .. }
                | StreamEvent::SourceFailed(stream) => {
                    match peer.streams.get(&stream) {
                        Some(Role::Serving) => {
                            peer.streams.remove(&stream);
                            self.serve.ended(id, stream);
                        }
                        Some(Role::Keeping) => {
                            peer.streams.remove(&stream);
                            self.keep.ended(id, stream);
                        }
                        // That the keeper has it all is not its last word.
                        Some(Role::Giving) if !matches!(event, StreamEvent::Acked(_)) => {
                            peer.streams.remove(&stream);
                            peer.connection.stop(stream, NOT_WANTED);
                            self.push.ended(clock.now, id, stream);
                        }
                        _ => {}
                    }
                }
                StreamEvent::StreamsAvailable => self.fetch.more_streams(id),
                StreamEvent::Datagram { channel, bytes } if channel == OVERLAY_CHANNEL => {
                    self.overlay_datagram(clock, id, &bytes);
                }
                StreamEvent::Datagram { channel, bytes } if channel == MEET_CHANNEL => {
                    self.meet_datagram(clock, id, &bytes, world);
                }
                StreamEvent::Datagram { channel, bytes } if channel == INTENT_CHANNEL => {
                    self.intent_datagram(clock, id, &bytes);
                }
                StreamEvent::Writable(_) | StreamEvent::Datagram { .. } | StreamEvent::MtuChanged(_) => {}
            }
        }
    }

    pub(super) fn apply_acts(&mut self) {
        for act in std::mem::take(&mut self.acts) {
            let (Act::Write(id, ..)
            | Act::Attach(id, ..)
            | Act::Finish(id, _)
            | Act::Reset(id, _)
            | Act::Abandon(id, _)) = act;
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let connection = &mut peer.connection;
            let refused = match act {
                Act::Write(_, stream, bytes) => {
                    (connection.write(stream, &bytes) != Ok(bytes.len())).then_some(stream)
                }
                Act::Attach(_, stream, source, len) => {
                    connection.attach(stream, SourceId(source.0), len).is_err().then_some(stream)
                }
                Act::Finish(_, stream) => {
                    connection.finish(stream);
                    None
                }
                Act::Reset(_, stream) => {
                    connection.reset(stream, UNREADABLE);
                    peer.streams.remove(&stream);
                    None
                }
                Act::Abandon(_, stream) => {
                    connection.stop(stream, TOO_SLOW);
                    connection.reset(stream, TOO_SLOW);
                    peer.streams.remove(&stream);
                    None
                }
            };
            if let Some(stream) = refused {
                // The peer gave the stream up meanwhile.
                self.serve.ended(id, stream);
            }
            self.touch(id);
        }
    }
}

/// Opens a stream for a request and writes it; `None` (and the request is taken back) when the peer gives no
/// stream now.
pub(super) fn send_request(
    connection: &mut Connection,
    fetch: &mut Fetch,
    outgoing: fetch::Outgoing,
) -> Option<StreamId> {
    let stream = match connection.open(CHUNK_CHANNEL, RecvMode::Sink) {
        Ok(stream) => stream,
        Err(_) => {
            fetch.no_stream(outgoing);
            return None;
        }
    };
    let request = outgoing.request.emit();
    connection.set_window(stream, outgoing.reply_len);
    let written = connection.write(stream, &request);
    debug_assert!(written == Ok(request.len()), "a new stream takes a request");
    connection.finish(stream);
    fetch.started(outgoing, stream);
    Some(stream)
}
