//! A fuzzer's bytes read as a script.

use crate::base::Rng;
use crate::limits::{SESSION_WINDOW, STREAM_WINDOW};

/// A cursor over a target's bytes. Behind their end everything is zero, so that every input is a whole script.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// From the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether all bytes were read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.take(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// True or false.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// True once in so many.
    pub fn one_in(&mut self, many: u8) -> bool {
        self.byte().is_multiple_of(many)
    }

    /// The next two bytes.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next four bytes.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next eight bytes.
    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `below` (0 when that is 0), of as many bytes as it needs.
    pub fn below(&mut self, below: usize) -> usize {
        let value = match below {
            0..=1 => return 0,
            2..=256 => usize::from(self.byte()),
            257..=65_536 => usize::from(self.half()),
            _ => self.word() as usize,
        };
        value % below
    }

    /// One of several.
    pub fn pick<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len())]
    }

    /// A number of any size, most often a small one or one near a limit of ours.
    pub fn number(&mut self) -> u64 {
        match self.byte() % 8 {
            0 | 1 => u64::from(self.byte()),
            2 => u64::from(self.half()),
            3 => u64::from(self.word()),
            4 => self.long() >> 2,
            5 => STREAM_WINDOW.saturating_add_signed(i64::from(self.byte()) - 128),
            6 => SESSION_WINDOW.saturating_add_signed(i64::from(self.byte()) - 128),
            _ => ((1 << 62) - 1) - u64::from(self.byte()),
        }
    }

    /// Up to `len` bytes: fewer at the end.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// A length of at most `most`, and so many bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = self.below(most + 1);
        self.take(len)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// A generator of its own.
    pub fn rng(&mut self) -> Rng {
        Rng::from_number(self.long())
    }

    /// Changes `bytes` a little: flips, cuts, lengthens.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len().max(1));
            match self.byte() % 8 {
                0 => bytes.truncate(at),
                1 => {
                    let more = self.bytes(64);
                    bytes.extend_from_slice(more);
                }
                2 => {
                    let new = self.bytes(16);
                    bytes.iter_mut().skip(at).zip(new).for_each(|(byte, new)| *byte = *new);
                }
                kind => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << (kind - 2);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_to_the_end_and_then_zeros() {
        let mut input = Input::new(&[1, 2, 3, 4]);
        assert_eq!((input.byte(), input.below(2), input.half()), (1, 0, 0x0403));
        assert!(input.is_empty());
        assert_eq!((input.word(), input.number(), input.below(7), input.take(3)), (0, 0, 0, &[][..]));
    }

    #[test]
    fn a_mutation_follows_the_script() {
        let script = [0, 2, 3];
        let run = || {
            let mut bytes = vec![0; 8];
            Input::new(&script).mutate(&mut bytes);
            bytes
        };
        assert_eq!(run(), run());
        assert_eq!(run(), [0, 0, 2, 0, 0, 0, 0, 0]);
    }
}
