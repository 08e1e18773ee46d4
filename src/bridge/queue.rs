//! What waits to leave by one connection: bounded by number, by age while something comes, and by bytes of all connections.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Bytes;

use super::stats::Stats;
use crate::limits::{BRIDGE_BATCH_MAX, BRIDGE_QUEUE_MAX, BRIDGE_QUEUE_MS_MAX, BRIDGE_WAITING_BYTES_MAX};

/// A datagram that waits to leave, since when.
pub(super) struct Waiting {
    pub(super) bytes: Bytes,
    pub(super) since: Instant,
}

/// Where datagrams are put.
pub(super) struct Queue(Arc<Shared>);

/// The other end of it.
pub(super) struct Waits(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    news: Notify,
    stats: Arc<Stats>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Nobody takes anything out any more, or puts anything in.
    gone: bool,
    over: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self, state: &mut State) -> Option<Waiting> {
        let first = state.waiting.pop_front()?;
        self.stats.waiting_bytes.fetch_sub(first.bytes.len() as u64, Ordering::Relaxed);
        Some(first)
    }
}

impl Queue {
    pub(super) fn new(stats: &Arc<Stats>) -> (Self, Waits) {
        let (state, news) = (Mutex::default(), Notify::new());
        let shared = Arc::new(Shared { state, news, stats: stats.clone() });
        (Self(shared.clone()), Waits(shared))
    }

    /// Takes a datagram, or drops it where too much waits. What nobody took in time makes room. False when nobody takes them any
    /// more.
    pub(super) fn push(&self, bytes: &[u8]) -> bool {
        self.push_at(Instant::now(), bytes)
    }

    fn push_at(&self, now: Instant, bytes: &[u8]) -> bool {
        let (shared, stats) = (&*self.0, &self.0.stats);
        let mut state = shared.state();
        if state.gone {
            return false;
        }
        let limit = Duration::from_millis(BRIDGE_QUEUE_MS_MAX);
        while state.waiting.front().is_some_and(|eldest| now.duration_since(eldest.since) > limit) {
            shared.pop(&mut state);
            Stats::add(&stats.dropped_datagrams, 1);
        }
        let count = state.waiting.len();
        // Those who take nothing leave the others a train each.
        let crowded = stats.waiting_bytes.load(Ordering::Relaxed) >= BRIDGE_WAITING_BYTES_MAX;
        if count >= BRIDGE_QUEUE_MAX || crowded && count >= BRIDGE_BATCH_MAX {
            Stats::add(&stats.dropped_datagrams, 1);
            return true;
        }
        Stats::add(&stats.waiting_bytes, bytes.len() as u64);
        state.waiting.push_back(Waiting { bytes: Bytes::copy_from_slice(bytes), since: now });
        drop(state);
        shared.news.notify_one();
        true
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.state().over = true;
        self.0.news.notify_one();
    }
}

impl Waits {
    /// Waits until something does, which stays there; false when nobody is left who could send anything.
    pub(super) async fn any(&mut self) -> bool {
        loop {
            let (empty, over) = {
                let state = self.0.state();
                (state.waiting.is_empty(), state.over)
            };
            match (empty, over) {
                (false, _) => return true,
                (true, true) => return false,
                (true, false) => self.0.news.notified().await,
            }
        }
    }

    /// Loses the next.
    pub(super) async fn lose(&mut self) -> bool {
        self.any().await && self.0.pop(&mut self.0.state()).is_some()
    }

    /// The next ones; false when there will be none.
    pub(super) async fn take(&mut self, batch: &mut Vec<Waiting>) -> bool {
        let more = self.any().await;
        let mut state = self.0.state();
        batch.extend(std::iter::from_fn(|| self.0.pop(&mut state)).take(BRIDGE_BATCH_MAX));
        more
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.gone = true;
        while self.0.pop(&mut state).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(counter: &std::sync::atomic::AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Behind a guest that reads nothing 512 datagrams waited, however old, for as long as it was there.
    #[test]
    fn what_nobody_takes_in_time_makes_room() {
        let stats = Arc::default();
        let (queue, waits) = Queue::new(&stats);
        let start = Instant::now();
        for number in 0..2000 {
            // One in 10 ms: so many are no older than 150 ms.
            assert!(queue.push_at(start + Duration::from_millis(10 * number), &[7; 100]));
            assert!(queue.0.state().waiting.len() <= 16);
        }
        assert_eq!((count(&stats.waiting_bytes), count(&stats.dropped_datagrams)), (1600, 2000 - 16));
        for _ in 0..2 * BRIDGE_QUEUE_MAX {
            assert!(queue.push_at(start + Duration::from_secs(60), &[7; 100]));
        }
        assert_eq!(queue.0.state().waiting.len(), BRIDGE_QUEUE_MAX);
        drop(waits);
        assert!(!queue.push(b"x"));
        assert_eq!(count(&stats.waiting_bytes), 0);
    }

    #[test]
    fn where_all_of_them_hold_much_each_has_a_train() {
        let stats: Arc<Stats> = Arc::default();
        let now = Instant::now();
        let mut queues = Vec::new();
        for _ in 0..512 {
            let (queue, waits) = Queue::new(&stats);
            (0..BRIDGE_QUEUE_MAX).for_each(|_| assert!(queue.push_at(now, &[7; 1472])));
            queues.push((queue, waits));
        }
        let most = BRIDGE_WAITING_BYTES_MAX + 512 * 1472 * BRIDGE_BATCH_MAX as u64;
        assert!(count(&stats.waiting_bytes) <= most, "{}", count(&stats.waiting_bytes));
        assert!(queues.iter().all(|(queue, _)| queue.0.state().waiting.len() >= BRIDGE_BATCH_MAX));
        drop(queues);
        assert_eq!(count(&stats.waiting_bytes), 0);
    }

    #[test]
    fn what_waits_is_taken_in_order_and_the_end_is_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let (queue, mut waits) = Queue::new(&Arc::default());
            let taker = tokio::spawn(async move {
                let (mut batch, mut taken) = (Vec::new(), Vec::new());
                while waits.take(&mut batch).await {
                    taken.extend(batch.drain(..).map(|waiting| waiting.bytes));
                }
                taken
            });
            for number in 0..10u8 {
                assert!(queue.push(&[number]));
                tokio::task::yield_now().await;
            }
            drop(queue);
            let taken = taker.await.expect("ended");
            assert_eq!(taken.concat(), (0..10).collect::<Vec<u8>>());
        });
    }
}
