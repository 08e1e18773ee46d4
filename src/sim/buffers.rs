//! Packet buffers of simulated nodes: each has as many as a shard, and their memory comes from one pool, so that
//! a thousand nodes at rest hold none.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::base::{BufId, Place, Time};
use crate::limits::{BUFFER_SIZE, SEND_BUFFERS};

/// The buffer that received datagrams are handed in with.
pub const RECEIVE_BUFFER: BufId = BufId(0);

/// Memory that the nodes of one world share. Cloning shares it.
#[derive(Clone, Default)]
pub struct Pool(Rc<RefCell<Vec<Box<[u8]>>>>);

impl Pool {
    fn take(&self) -> Box<[u8]> {
        let idle = self.0.borrow_mut().pop();
        idle.unwrap_or_else(|| vec![0; BUFFER_SIZE].into_boxed_slice())
    }

    /// Takes memory back.
    pub fn give(&self, memory: Box<[u8]>) {
        self.0.borrow_mut().push(memory);
    }
}

/// The buffers of one node. Those that were sent stay taken until their time is over.
pub struct Buffers {
    pool: Pool,
    /// Memory by number, of those in use.
    memory: Vec<Option<Box<[u8]>>>,
    free: Vec<BufId>,
    /// Sent, and with the device until then; in order.
    sending: VecDeque<(Time, BufId)>,
    refused: bool,
}

impl Buffers {
    /// All free.
    pub fn new(pool: Pool) -> Self {
        let memory = (0..=SEND_BUFFERS).map(|_| None).collect();
        let free = (1..=SEND_BUFFERS as u32).rev().map(BufId).collect();
        Self { pool, memory, free, sending: VecDeque::new(), refused: false }
    }

    /// How many can be had, now or once the device has sent what it has: all of them, when nothing leaks.
    pub fn free_count(&self) -> usize {
        self.free.len() + self.sending.len()
    }

    /// The memory of a buffer in use.
    pub fn bytes(&self, place: Place) -> &[u8] {
        &self.memory[place.buf.0 as usize].as_deref().expect("in use")[range(place)]
    }

    /// The memory of a buffer in use, to change.
    pub fn bytes_mut(&mut self, place: Place) -> &mut [u8] {
        &mut self.memory[place.buf.0 as usize].as_deref_mut().expect("in use")[range(place)]
    }

    /// The memory of two buffers in use.
    pub fn pair(&mut self, from: Place, to: Place) -> (&[u8], &mut [u8]) {
        let at = [from.buf.0 as usize, to.buf.0 as usize];
        let [from_memory, to_memory] = self.memory.get_disjoint_mut(at).expect("different buffers");
        let from = &from_memory.as_deref().expect("in use")[range(from)];
        (from, &mut to_memory.as_deref_mut().expect("in use")[range(to)])
    }

    /// A free one; remembers when there was none.
    pub fn alloc(&mut self) -> Option<BufId> {
        let buf = self.free.pop();
        self.refused |= buf.is_none();
        let buf = buf?;
        self.memory[buf.0 as usize] = Some(self.pool.take());
        Some(buf)
    }

    /// One is given back unsent.
    pub fn free(&mut self, buf: BufId) {
        let memory = self.take(buf);
        self.pool.give(memory);
        self.free.push(buf);
    }

    /// One is handed to the device, which has it until then. Its memory is the caller's, to give to the pool.
    pub fn send(&mut self, buf: BufId, until: Time) -> Box<[u8]> {
        self.sending.push_back((until, buf));
        self.take(buf)
    }

    fn take(&mut self, buf: BufId) -> Box<[u8]> {
        self.memory[buf.0 as usize].take().expect("a buffer is given back once")
    }

    /// Takes back what the device has sent by now.
    pub fn reclaim(&mut self, now: Time) {
        while let Some(&(until, buf)) = self.sending.front()
            && until <= now
        {
            self.sending.pop_front();
            self.free.push(buf);
        }
    }

    /// When the last of those that the device has comes back.
    pub fn sent_at(&self) -> Option<Time> {
        self.sending.back().map(|(at, _)| *at)
    }

    /// Whether somebody was refused since this was last asked, and when the next one comes back.
    pub fn take_refused(&mut self) -> Option<Time> {
        let refused = std::mem::take(&mut self.refused);
        self.sending.front().filter(|_| refused).map(|(at, _)| *at)
    }

    /// Gives the receive buffer memory, until [`Self::end_receive`].
    pub fn begin_receive(&mut self) {
        self.memory[RECEIVE_BUFFER.0 as usize] = Some(self.pool.take());
    }

    /// The driver has the receive buffer again.
    pub fn end_receive(&mut self) {
        let memory = self.take(RECEIVE_BUFFER);
        self.pool.give(memory);
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new(Pool::default())
    }
}

fn range(place: Place) -> std::ops::Range<usize> {
    place.offset as usize..(place.offset + place.len) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_comes_back_in_time_and_a_refusal_names_it() {
        let pool = Pool::default();
        let mut buffers = Buffers::new(pool.clone());
        let all: Vec<BufId> = std::iter::from_fn(|| buffers.alloc()).collect();
        assert_eq!(all.len(), SEND_BUFFERS);
        assert_eq!(buffers.take_refused(), None, "nothing is on its way back");
        for (buf, at) in all.iter().zip(1..) {
            pool.give(buffers.send(*buf, Time(at)));
        }
        assert_eq!(buffers.alloc(), None);
        assert_eq!((buffers.take_refused(), buffers.take_refused()), (Some(Time(1)), None));
        buffers.reclaim(Time(1));
        assert!(buffers.alloc().is_some() && buffers.alloc().is_none());
        buffers.reclaim(Time(SEND_BUFFERS as u64));
        assert_eq!(buffers.free_count(), SEND_BUFFERS - 1);
        assert_eq!(pool.0.borrow().len(), SEND_BUFFERS - 1, "memory is where it is needed");
    }
}
