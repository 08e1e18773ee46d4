//! A first-in-first-out queue that cannot grow past its bound.

use std::collections::VecDeque;

/// A queue of at most a fixed number of items. It allocates as it fills, never past the bound.
#[derive(Debug)]
pub struct Bounded<T> {
    items: VecDeque<T>,
    bound: usize,
}

impl<T> Bounded<T> {
    /// An empty queue that holds at most `bound` items.
    pub fn new(bound: usize) -> Self {
        Self { items: VecDeque::new(), bound }
    }

    /// Adds at the back, or gives the item back when the queue is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.items.len() >= self.bound {
            return Err(item);
        }
        self.items.push_back(item);
        Ok(())
    }

    /// Takes from the front.
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    /// Looks at the front.
    pub fn front(&self) -> Option<&T> {
        self.items.front()
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many more items fit.
    pub fn room(&self) -> usize {
        self.bound - self.items.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_past_its_bound_and_keeps_order() {
        let mut queue = Bounded::new(2);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Ok(()));
        assert_eq!(queue.push(3), Err(3));
        assert_eq!(queue.room(), 0);
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(1), Some(2), None));
    }
}
