//! One direction of a link: a rate with a queue before it, a delay, and everything that goes wrong on the way.
//!
//! The model never sees bytes. It is told when and how long a datagram is, and answers when it arrives, how
//! often and with which bit flipped, or why it does not. So the simulator and the emulator for real processes
//! share it.

use std::time::Duration;

use crate::base::{Rng, Time};

/// How datagrams get lost on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Noise {
    /// Each by itself with this probability.
    Independent(f64),
    /// In bursts: the two-state Markov chain of Gilbert and Elliott, one step per datagram.
    Bursts {
        /// Probability of leaving the good state.
        enter: f64,
        /// Probability of leaving the bad state.
        leave: f64,
        /// Probability of loss in the good state.
        good: f64,
        /// Probability of loss in the bad state.
        bad: f64,
    },
}

impl Noise {
    /// Share of datagrams lost in the long run.
    pub fn mean(&self) -> f64 {
        match *self {
            Self::Independent(loss) => loss,
            Self::Bursts { enter, leave, good, bad } if enter + leave > 0.0 => {
                (leave * good + enter * bad) / (enter + leave)
            }
            Self::Bursts { good, .. } => good,
        }
    }
}

/// What a link does to datagrams in one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkConfig {
    /// Whether anything passes.
    pub up: bool,
    /// Bits per second; `None` is unlimited.
    pub rate: Option<u64>,
    /// Bytes that wait for the wire at most; what does not fit is lost. Without a rate nothing waits.
    pub queue: usize,
    /// Bytes that each datagram occupies on the wire beside its own.
    pub overhead: usize,
    /// Time on the wire.
    pub delay: Duration,
    /// Up to so much more, at random, without overtaking.
    pub jitter: Duration,
    /// Probability that a datagram is held back by up to `reorder_by`, while others pass it.
    pub reorder: f64,
    /// How long one is held back at most.
    pub reorder_by: Duration,
    /// Losses on the wire.
    pub noise: Noise,
    /// Probability of delivering it twice.
    pub duplicate: f64,
    /// Probability of flipping one bit.
    pub corrupt: f64,
    /// Longest datagram that passes, bytes; longer ones vanish without a word.
    pub mtu: usize,
    /// A datagram that finds more bytes than this waiting is marked "congestion experienced" (RFC 3168), if its
    /// sender can take the hint.
    pub mark_above: Option<usize>,
}

/// IPv4 and UDP headers, bytes: what a datagram's payload lies in.
pub const UDP_OVERHEAD: usize = 28;
/// UDP payload of an Ethernet frame of 1500 bytes.
pub const ETHERNET_PAYLOAD: usize = 1472;

impl LinkConfig {
    /// A clean link with a delay, for UDP payloads.
    pub fn clean(delay: Duration) -> Self {
        Self {
            up: true,
            rate: None,
            queue: 4 << 20,
            overhead: UDP_OVERHEAD,
            delay,
            jitter: Duration::ZERO,
            reorder: 0.0,
            reorder_by: Duration::ZERO,
            noise: Noise::Independent(0.0),
            duplicate: 0.0,
            corrupt: 0.0,
            mtu: ETHERNET_PAYLOAD,
            mark_above: None,
        }
    }
}

/// A datagram at the far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When.
    pub at: Time,
    /// Which bit was flipped on the way, counted from the first byte's lowest.
    pub flip: Option<usize>,
}

impl Arrival {
    /// Flips that bit.
    pub fn damage(&self, datagram: &mut [u8]) {
        if let Some(bit) = self.flip
            && let Some(byte) = datagram.get_mut(bit / 8)
        {
            *byte ^= 1 << (bit % 8);
        }
    }
}

/// A datagram that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    /// The datagram.
    pub arrival: Arrival,
    /// Its copy, if it was duplicated.
    pub copy: Option<Arrival>,
    /// Whether it met so long a queue that an ECN-capable one is marked.
    pub marked: bool,
}

/// Why a datagram did not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lost {
    /// The link is down.
    Down,
    /// Longer than the link takes.
    Mtu,
    /// The queue was full.
    Queue,
    /// Noise.
    Noise,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Link {
    /// May be changed at any time.
    pub config: LinkConfig,
    /// When the wire will have taken what waits for it.
    busy_until: Time,
    /// Arrival of the last datagram that was not held back.
    last_arrival: Time,
    /// Whether the noise is in its bad state.
    bad: bool,
    rng: Rng,
}

impl Link {
    /// An idle link.
    pub fn new(config: LinkConfig, rng: Rng) -> Self {
        Self { config, busy_until: Time::ZERO, last_arrival: Time::ZERO, bad: false, rng }
    }

    /// A datagram of `len` bytes is sent.
    pub fn pass(&mut self, now: Time, len: usize) -> Result<Passage, Lost> {
        if !self.config.up {
            return Err(Lost::Down);
        }
        if len > self.config.mtu {
            return Err(Lost::Mtu);
        }
        let marked = self.config.mark_above.is_some_and(|above| self.waiting(now) > above);
        let sent = self.transmit(now, len)?;
        if self.is_noise() {
            return Err(Lost::Noise);
        }
        let arrival = self.arrive(sent, len);
        let copy = self.rng.chance(self.config.duplicate).then(|| self.arrive(sent, len));
        Ok(Passage { arrival, copy, marked })
    }

    /// Bytes that wait for the wire.
    pub fn waiting(&self, now: Time) -> usize {
        let rate = self.config.rate.unwrap_or(0) as f64;
        (self.busy_until.since(now).as_secs_f64() * rate / 8.0) as usize
    }

    /// When the wire has taken it.
    fn transmit(&mut self, now: Time, len: usize) -> Result<Time, Lost> {
        let Some(rate) = self.config.rate else { return Ok(now) };
        let size = len + self.config.overhead;
        if self.busy_until > now && self.waiting(now) + size > self.config.queue {
            return Err(Lost::Queue);
        }
        let time = Duration::from_nanos(size as u64 * 8_000_000_000 / rate.max(1));
        self.busy_until = self.busy_until.max(now) + time;
        Ok(self.busy_until)
    }

    fn is_noise(&mut self) -> bool {
        match self.config.noise {
            Noise::Independent(loss) => self.rng.chance(loss),
            Noise::Bursts { enter, leave, good, bad } => {
                let turn = self.rng.chance(if self.bad { leave } else { enter });
                self.bad ^= turn;
                self.rng.chance(if self.bad { bad } else { good })
            }
        }
    }

    fn arrive(&mut self, sent: Time, len: usize) -> Arrival {
        let at = sent + self.config.delay + self.up_to(self.config.jitter);
        let held_back = self.rng.chance(self.config.reorder);
        let at = if held_back {
            at + self.up_to(self.config.reorder_by)
        } else {
            self.last_arrival = self.last_arrival.max(at);
            self.last_arrival
        };
        let flip = (len > 0 && self.rng.chance(self.config.corrupt))
            .then(|| self.rng.below(8 * len as u64) as usize);
        Arrival { at, flip }
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.below(most.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(config: LinkConfig) -> Link {
        Link::new(config, Rng::from_number(7))
    }

    fn clean() -> LinkConfig {
        LinkConfig::clean(Duration::from_millis(10))
    }

    /// Sends `count` datagrams of 1000 bytes, one per `every`.
    fn run(link: &mut Link, count: u64, every: Duration) -> Vec<Result<Passage, Lost>> {
        let start = Time::from_millis(1_000);
        (0..count).map(|i| link.pass(start + every * i as u32, 1000)).collect()
    }

    #[test]
    fn a_clean_link_only_delays() {
        let passed = link(clean()).pass(Time::from_millis(5), 1472).unwrap();
        assert_eq!(passed.arrival, Arrival { at: Time::from_millis(15), flip: None });
        assert_eq!(passed.copy, None);
        assert_eq!(link(clean()).pass(Time::ZERO, 1473), Err(Lost::Mtu));
        assert_eq!(link(LinkConfig { up: false, ..clean() }).pass(Time::ZERO, 1), Err(Lost::Down));
    }

    #[test]
    fn the_rate_spaces_datagrams_and_the_queue_has_an_end() {
        // 1028 bytes at 8.224 Mbit/s take a millisecond.
        let config = LinkConfig { rate: Some(8_224_000), queue: 10_280, ..clean() };
        let passed = run(&mut link(config), 20, Duration::ZERO);
        for (number, passage) in passed.iter().take(10).enumerate() {
            let at = passage.unwrap().arrival.at;
            assert_eq!(at, Time::from_millis(1_000 + 1 + number as u64 + 10));
        }
        assert!(passed[11..].iter().all(|passage| *passage == Err(Lost::Queue)));
    }

    #[test]
    fn a_long_queue_marks() {
        let config = LinkConfig { rate: Some(8_224_000), mark_above: Some(5_000), ..clean() };
        let passed = run(&mut link(config), 20, Duration::ZERO);
        let marked: Vec<bool> = passed.iter().map(|passage| passage.unwrap().marked).collect();
        let first = marked.iter().position(|marked| *marked);
        assert_eq!(first, Some(5), "the first that finds five others before it");
        assert!(marked[5..].iter().all(|marked| *marked));
    }

    #[test]
    fn jitter_does_not_overtake_and_reordering_does() {
        let jitter = LinkConfig { jitter: Duration::from_millis(50), ..clean() };
        let arrivals = |config| -> Vec<Time> {
            let passed = run(&mut link(config), 500, Duration::from_millis(1));
            passed.iter().map(|passage| passage.unwrap().arrival.at).collect()
        };
        let times = arrivals(jitter);
        assert!(times.is_sorted() && times[499] > Time::from_millis(1_500 + 10));
        let reorder = LinkConfig { reorder: 0.2, reorder_by: Duration::from_millis(20), ..clean() };
        assert!(!arrivals(reorder).is_sorted());
    }

    #[test]
    fn losses_copies_and_flips_are_as_frequent_as_asked() {
        let config = LinkConfig { noise: Noise::Independent(0.1), duplicate: 0.2, corrupt: 0.3, ..clean() };
        let passed = run(&mut link(config), 20_000, Duration::from_micros(10));
        let there: Vec<&Passage> = passed.iter().flatten().collect();
        let near = |count: usize, of: usize, share: f64| (count as f64 / of as f64 - share).abs() < 0.02;
        assert!(near(passed.len() - there.len(), passed.len(), 0.1));
        assert!(near(there.iter().filter(|p| p.copy.is_some()).count(), there.len(), 0.2));
        assert!(near(there.iter().filter(|p| p.arrival.flip.is_some()).count(), there.len(), 0.3));
        assert!(there.iter().all(|p| p.arrival.flip.is_none_or(|bit| bit < 8000)));
    }

    #[test]
    fn bursts_lose_in_runs_with_the_mean_that_they_state() {
        let noise = Noise::Bursts { enter: 0.01, leave: 0.2, good: 0.0, bad: 0.8 };
        let passed = run(&mut link(LinkConfig { noise, ..clean() }), 100_000, Duration::from_micros(10));
        let lost: Vec<bool> = passed.iter().map(Result::is_err).collect();
        let count = lost.iter().filter(|lost| **lost).count();
        let mean = count as f64 / lost.len() as f64;
        assert!((mean - noise.mean()).abs() < 0.006, "{mean} for {}", noise.mean());
        let after_a_loss = lost.windows(2).filter(|pair| pair[0] && pair[1]).count() as f64 / count as f64;
        assert!(after_a_loss > 0.5, "independent losses would give {mean}, not {after_a_loss}");
    }

    #[test]
    fn a_flip_changes_one_bit() {
        let mut bytes = [0u8; 4];
        Arrival { at: Time::ZERO, flip: Some(17) }.damage(&mut bytes);
        assert_eq!(bytes, [0, 0, 2, 0]);
        Arrival { at: Time::ZERO, flip: Some(99) }.damage(&mut bytes);
        assert_eq!(bytes, [0, 0, 2, 0]);
    }
}
