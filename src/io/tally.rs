//! Counters that one thread counts in plain fields and others read from a shared copy.

use std::sync::atomic::{AtomicU64, Ordering};

/// Defines a struct of `u64` counters, each with the help text that metrics show.
macro_rules! counters {
    ($(#[$meta:meta])* pub struct $name:ident { $($field:ident: $help:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default)]
        pub struct $name { $(#[doc = $help] pub $field: u64,)* }

        impl $name {
            /// Name and help of each counter, in the order of [`Self::values`].
            pub const ABOUT: &'static [(&'static str, &'static str)] = &[$((stringify!($field), $help),)*];

            /// Adds those of another.
            #[allow(dead_code, reason = "not every thread has several")]
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }

            /// The counters' values.
            pub fn values(&self) -> impl Iterator<Item = u64> + use<> {
                [$(self.$field,)*].into_iter()
            }
        }
    };
}

pub(crate) use counters;

/// A copy of a thread's counters, written by that thread once per turn and read by any.
#[derive(Debug)]
pub struct Tally {
    about: Vec<(&'static str, &'static str)>,
    values: Vec<AtomicU64>,
}

impl Tally {
    /// All zero.
    pub fn new(about: impl IntoIterator<Item = (&'static str, &'static str)>) -> Self {
        let about: Vec<_> = about.into_iter().collect();
        Self { values: about.iter().map(|_| AtomicU64::new(0)).collect(), about }
    }

    /// Copies the values, in the order of the names. Each is right by itself; together they may be of
    /// two turns, which no reader of metrics minds.
    pub fn store(&self, values: impl IntoIterator<Item = u64>) {
        for (shared, value) in self.values.iter().zip(values) {
            shared.store(value, Ordering::Relaxed);
        }
    }

    /// Name, help and value of each counter.
    pub fn read(&self) -> Vec<(&'static str, &'static str, u64)> {
        let pairs = self.about.iter().zip(&self.values);
        pairs.map(|((name, help), value)| (*name, *help, value.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    counters! {
        /// For the test.
        pub struct Two {
            first: "the first",
            second: "the second",
        }
    }

    #[test]
    fn copies_in_order() {
        let tally = Tally::new(Two::ABOUT.iter().copied());
        tally.store(Two { first: 1, second: 2 }.values());
        assert_eq!(tally.read(), vec![("first", "the first", 1), ("second", "the second", 2)]);
    }
}
