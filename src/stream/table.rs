//! The streams of one connection: slots that are reused, found by id, and the queues of those that want
//! something.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use super::RecvMode;
use super::recv::RecvHalf;
use super::send::SendHalf;
use crate::base::{ChannelId, StreamId};

/// One stream.
#[derive(Debug)]
pub struct Stream {
    /// Its id.
    pub id: StreamId,
    /// Its service.
    pub channel: ChannelId,
    /// Whether the peer is known to know it; until then frames carry the channel.
    pub known: bool,
    /// Whether a frame must go out even without bytes, so that the peer hears of it.
    pub announce: bool,
    /// Bytes from here.
    pub send: SendHalf,
    /// Bytes from there.
    pub recv: RecvHalf,
    /// Served before others.
    pub urgent: bool,
    /// STOP that the peer does not know of: its code.
    pub stop: Option<u64>,
    /// RESET must go out.
    pub reset_due: bool,
    /// STOP must go out.
    pub stop_due: bool,
    /// MAX_STREAM_DATA must go out.
    pub window_due: bool,
    /// A `Readable` event waits.
    pub readable_told: bool,
    /// A `Writable` event waits or was taken, and no write was refused since.
    pub writable_told: bool,
    queued: [bool; 3],
}

impl Stream {
    fn new(id: StreamId, channel: ChannelId, mode: RecvMode, known: bool) -> Self {
        Self {
            id,
            channel,
            known,
            announce: !known,
            send: SendHalf::new(),
            recv: RecvHalf::new(mode),
            urgent: false,
            stop: None,
            reset_due: false,
            stop_due: false,
            window_due: false,
            readable_told: false,
            writable_told: false,
            queued: [false; 3],
        }
    }

    /// Whether nothing is left to do in either direction.
    pub fn is_done(&self) -> bool {
        self.send.is_done() && self.recv.is_done()
    }

    /// Whether it has bytes, an end or itself to tell the peer of.
    pub fn has_pending(&self) -> bool {
        self.announce || self.send.has_pending()
    }
}

/// What a stream waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Control frames.
    Control,
    /// Bytes to send again.
    Again,
    /// Bytes to send.
    Fresh,
}

/// Ids are small consecutive numbers under flow control: spreading them is enough.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Table {
    slots: Vec<Option<Box<Stream>>>,
    free: Vec<u32>,
    index: HashMap<u64, u32, BuildHasherDefault<IdHasher>>,
    /// The slot found last: trains and acknowledgements name the same stream again and again.
    last: Option<(u64, u32)>,
    control: VecDeque<u64>,
    again: VecDeque<u64>,
    urgent: VecDeque<u64>,
    fresh: VecDeque<u64>,
}

impl Table {
    /// Number of streams.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Adds a stream.
    pub fn insert(&mut self, id: StreamId, channel: ChannelId, mode: RecvMode, known: bool) {
        let stream = Some(Box::new(Stream::new(id, channel, mode, known)));
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = stream;
                slot
            }
            None => {
                self.slots.push(stream);
                self.slots.len() as u32 - 1
            }
        };
        self.index.insert(id.0, slot);
    }

    /// Finds a stream.
    #[inline]
    pub fn get(&mut self, id: u64) -> Option<&mut Stream> {
        let slot = match self.last {
            Some((last, slot)) if last == id => slot,
            _ => {
                let slot = *self.index.get(&id)?;
                self.last = Some((id, slot));
                slot
            }
        };
        self.slots[slot as usize].as_deref_mut()
    }

    /// Forgets a stream.
    pub fn remove(&mut self, id: u64) {
        if let Some(slot) = self.index.remove(&id) {
            self.slots[slot as usize] = None;
            self.free.push(slot);
            self.last = None;
        }
    }

    fn queue(&mut self, queue: Queue, urgent: bool) -> &mut VecDeque<u64> {
        match queue {
            Queue::Control => &mut self.control,
            Queue::Again => &mut self.again,
            Queue::Fresh if urgent => &mut self.urgent,
            Queue::Fresh => &mut self.fresh,
        }
    }

    /// Lets a stream wait in a queue, once.
    pub fn enqueue(&mut self, queue: Queue, id: u64) {
        let Some(stream) = self.get(id) else { return };
        if std::mem::replace(&mut stream.queued[queue as usize], true) {
            return;
        }
        let urgent = stream.urgent;
        self.queue(queue, urgent).push_back(id);
    }

    /// Takes the first of the control queue.
    pub fn pop_control(&mut self) -> Option<u64> {
        while let Some(id) = self.control.pop_front() {
            if let Some(stream) = self.get(id) {
                stream.queued[Queue::Control as usize] = false;
                return Some(id);
            }
        }
        None
    }

    /// The stream whose bytes go next: retransmissions first, then urgent streams, then the others in turn.
    pub fn front(&mut self) -> Option<(Queue, u64)> {
        loop {
            let (queue, urgent) = match () {
                _ if !self.again.is_empty() => (Queue::Again, false),
                _ if !self.urgent.is_empty() => (Queue::Fresh, true),
                _ => (Queue::Fresh, false),
            };
            let id = *self.queue(queue, urgent).front()?;
            match self.get(id) {
                Some(_) => return Some((queue, id)),
                None => _ = self.queue(queue, urgent).pop_front(),
            }
        }
    }

    /// The front stream has nothing more for this queue.
    pub fn pop_front(&mut self, queue: Queue) {
        let urgent = !self.urgent.is_empty();
        if let Some(id) = self.queue(queue, urgent).pop_front()
            && let Some(stream) = self.get(id)
        {
            stream.queued[queue as usize] = false;
        }
    }

    /// The front stream of the fresh queue had its turn.
    pub fn rotate(&mut self) {
        let urgent = !self.urgent.is_empty();
        let queue = self.queue(Queue::Fresh, urgent);
        if queue.len() > 1 {
            queue.rotate_left(1);
        }
    }

    /// Streams that wait to send bytes for the first time.
    pub fn waiting(&self) -> usize {
        self.urgent.len() + self.fresh.len()
    }

    /// Whether the stream whose bytes go next really has some: it may have lost them to an acknowledgement.
    pub fn front_has_pending(&mut self) -> bool {
        self.front().and_then(|(_, id)| self.get(id)).is_some_and(|stream| stream.has_pending())
    }

    /// Whether control frames wait.
    pub fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Whether bytes wait to be sent again.
    pub fn has_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// Makes a stream urgent, wherever it waits.
    pub fn prioritise(&mut self, id: u64) {
        let Some(stream) = self.get(id) else { return };
        if !std::mem::replace(&mut stream.urgent, true) && stream.queued[Queue::Fresh as usize] {
            self.fresh.retain(|waiting| *waiting != id);
            self.urgent.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reuses_slots_and_keeps_each_queue_in_order() {
        let mut table = Table::default();
        let add = |table: &mut Table, id| table.insert(StreamId(id), ChannelId(1), RecvMode::Ordered, false);
        (0..4).for_each(|id| add(&mut table, id));
        for id in [2, 0, 2, 1] {
            table.enqueue(Queue::Fresh, id);
        }
        assert_eq!((table.front(), table.waiting()), (Some((Queue::Fresh, 2)), 3));
        table.rotate();
        assert_eq!(table.front(), Some((Queue::Fresh, 0)));
        table.prioritise(1);
        assert_eq!(table.front(), Some((Queue::Fresh, 1)));
        table.enqueue(Queue::Again, 3);
        assert_eq!(table.front(), Some((Queue::Again, 3)));
        table.remove(3);
        assert_eq!(table.front(), Some((Queue::Fresh, 1)), "a forgotten stream leaves its queues");
        table.pop_front(Queue::Fresh);
        table.enqueue(Queue::Control, 0);
        table.remove(0);
        assert_eq!((table.front(), table.pop_control()), (Some((Queue::Fresh, 2)), None));
        add(&mut table, 9);
        assert_eq!((table.slots.len(), table.len()), (4, 3));
        assert!(table.get(9).is_some() && table.get(0).is_none());
    }
}
