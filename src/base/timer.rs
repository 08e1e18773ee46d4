//! A fixed table of timers: every wake-up has a name.

use super::Time;

/// One deadline per kind. `N` is the number of kinds; a core names them with an enum that converts to
/// its index.
#[derive(Debug, Clone)]
pub struct TimerTable<const N: usize> {
    deadlines: [Option<Time>; N],
}

impl<const N: usize> Default for TimerTable<N> {
    fn default() -> Self {
        Self { deadlines: [None; N] }
    }
}

impl<const N: usize> TimerTable<N> {
    /// Sets or moves a timer.
    pub fn set(&mut self, timer: impl Into<usize>, at: Time) {
        self.deadlines[timer.into()] = Some(at);
    }

    /// Stops a timer.
    pub fn stop(&mut self, timer: impl Into<usize>) {
        self.deadlines[timer.into()] = None;
    }

    /// When a timer will fire.
    pub fn get(&self, timer: impl Into<usize>) -> Option<Time> {
        self.deadlines[timer.into()]
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Time> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Takes a timer that is due, stopping it; call until it returns false for every kind.
    pub fn expired(&mut self, timer: impl Into<usize>, now: Time) -> bool {
        let slot = &mut self.deadlines[timer.into()];
        let due = slot.is_some_and(|at| at <= now);
        if due {
            *slot = None;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_once_and_names_the_earliest() {
        let mut table = TimerTable::<3>::default();
        table.set(0usize, Time(30));
        table.set(2usize, Time(10));
        assert_eq!(table.next(), Some(Time(10)));
        assert!(!table.expired(0usize, Time(10)));
        assert!(table.expired(2usize, Time(10)) && !table.expired(2usize, Time(10)));
        table.stop(0usize);
        assert_eq!((table.get(0usize), table.next()), (None, None));
    }
}
