//! One connection: datagrams of the node into messages of WebSocket, and messages into datagrams. Both ends do the same.
//!
//! TCP delivers everything in the end, however late; a link does not. So what waits here is dropped when there is too much of
//! it, or when it waited too long, and the sessions see a link that is full.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::queue::{Waiting, Waits};
use super::stats::Stats;
use crate::limits::{
    BRIDGE_BATCH_MAX, BRIDGE_PING_MS, BRIDGE_QUEUE_MS_MAX, BRIDGE_SILENT_MS_MAX, DATAGRAM_MAX,
};

/// Longer messages are no datagram of anybody's.
const MESSAGE_MAX: usize = 2048;
/// What one connection gathers before it is written.
const WRITE_BUFFER: usize = 32 << 10;
const _: () = assert!(DATAGRAM_MAX <= MESSAGE_MAX && MESSAGE_MAX < WRITE_BUFFER);

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The other side closed it, or it broke.
    Closed,
    /// Nothing was heard for too long.
    Silent,
    /// It carried nothing for so long that it is not worth keeping.
    Idle,
    /// Nobody is left who could send anything.
    Over,
}

/// What WebSocket may hold and be sent.
pub(super) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
        .read_buffer_size(64 << 10)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(4 * WRITE_BUFFER)
}

/// Moves datagrams until the connection ends; `deliver` hands one to the node. What waited for the connection since before it
/// was there may be older than what waits for TCP.
pub(super) async fn pump<S, D>(
    socket: WebSocketStream<S>,
    waits: &mut Waits,
    deliver: D,
    idle: Duration,
    stats: &Stats,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Fn(&[u8]),
{
    let began = Instant::now();
    // Milliseconds since then.
    let (heard, used) = (AtomicU64::new(0), AtomicU64::new(0));
    let now = || began.elapsed().as_millis() as u64;
    let (mut sink, mut stream) = socket.split();
    let out = async {
        let mut batch = Vec::with_capacity(BRIDGE_BATCH_MAX);
        let mut ping = tokio::time::interval(Duration::from_millis(BRIDGE_PING_MS));
        ping.reset();
        loop {
            let sent = tokio::select! {
                more = waits.take(&mut batch) => {
                    if !more {
                        return End::Over;
                    }
                    used.store(now(), Ordering::Relaxed);
                    send(&mut sink, &mut batch, began, stats).await.is_ok()
                }
                _ = ping.tick() => sink.send(Message::Ping(Bytes::new())).await.is_ok(),
            };
            if !sent {
                return End::Closed;
            }
        }
    };
    let inward = async {
        while let Some(Ok(message)) = stream.next().await {
            heard.store(now(), Ordering::Relaxed);
            match message {
                Message::Binary(bytes) if bytes.len() <= DATAGRAM_MAX => {
                    used.store(now(), Ordering::Relaxed);
                    Stats::add(&stats.received_datagrams, 1);
                    Stats::add(&stats.received_bytes, bytes.len() as u64);
                    deliver(&bytes);
                }
                Message::Ping(_) | Message::Pong(_) => {}
                _ => break,
            }
        }
        End::Closed
    };
    let look = async {
        // Apart from what is sent, which may be stuck.
        let mut every = tokio::time::interval(Duration::from_millis(BRIDGE_PING_MS / 4));
        loop {
            every.tick().await;
            if now() - heard.load(Ordering::Relaxed) > BRIDGE_SILENT_MS_MAX {
                return End::Silent;
            }
            if now() - used.load(Ordering::Relaxed) > idle.as_millis() as u64 {
                return End::Idle;
            }
        }
    };
    let end = tokio::select! {
        end = out => end,
        end = inward => end,
        end = look => end,
    };
    if let (Ok(mut socket), End::Idle) = (sink.reunite(stream), &end) {
        // As long as that takes, if the other side listens.
        let _ = tokio::time::timeout(Duration::from_secs(1), socket.close(None)).await;
    }
    end
}

/// Writes what waits and is not too old.
async fn send<K>(
    sink: &mut K,
    batch: &mut Vec<Waiting>,
    began: Instant,
    stats: &Stats,
) -> Result<(), K::Error>
where
    K: futures_util::Sink<Message> + Unpin,
{
    for waiting in batch.drain(..) {
        let limit = Duration::from_millis(BRIDGE_QUEUE_MS_MAX);
        if Instant::now().duration_since(waiting.since.max(began)) > limit {
            Stats::add(&stats.dropped_datagrams, 1);
            continue;
        }
        Stats::add(&stats.sent_datagrams, 1);
        Stats::add(&stats.sent_bytes, waiting.bytes.len() as u64);
        sink.feed(Message::Binary(waiting.bytes)).await?;
    }
    sink.flush().await
}
