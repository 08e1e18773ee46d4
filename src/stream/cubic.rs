//! CUBIC (RFC 9438) with HyStart++ (RFC 9406): the baseline controller.

use std::time::Duration;

use super::controller::{Acked, Controller, Signal, initial_window, minimum_window};
use crate::base::Time;
use crate::limits::CONGESTION_WINDOW_MAX;

/// RFC 9438 §4.1: segments per second cubed.
const C: f64 = 0.4;
/// RFC 9438 §4.6: what is kept of the window.
const BETA: f64 = 0.7;
/// RFC 9438 §4.3: growth of the Reno-friendly estimate, until it reaches the window before the event.
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// CUBIC's state for one path.
#[derive(Debug, Clone)]
pub struct Cubic {
    packet: f64,
    window: f64,
    ssthresh: f64,
    curve: Curve,
    hystart: HyStart,
    /// When the last event was answered: losses of earlier packets belong to it.
    event: Option<Time>,
    undo: Option<Undo>,
}

/// The cubic function since the last event.
#[derive(Debug, Clone, Copy, Default)]
struct Curve {
    /// Begin of this epoch; `None` until the first acknowledgement in congestion avoidance.
    epoch: Option<Time>,
    /// Window before the event, bytes.
    w_max: f64,
    /// Window at the event itself, bytes: where the Reno-friendly estimate slows no more.
    prior: f64,
    /// Seconds until the curve is back at `w_max`.
    k: f64,
    /// The Reno-friendly estimate, bytes.
    reno: f64,
    /// When the application last did not use the window; that time does not count for the curve.
    idle_since: Option<Time>,
}

#[derive(Debug, Clone, Copy)]
struct Undo {
    window: f64,
    ssthresh: f64,
    curve: Curve,
    event: Option<Time>,
}

impl Cubic {
    /// A new path whose full packets have `packet` bytes.
    pub fn new(packet: u64) -> Self {
        Self {
            packet: packet as f64,
            window: initial_window(packet) as f64,
            ssthresh: f64::INFINITY,
            curve: Curve::default(),
            hystart: HyStart::default(),
            event: None,
            undo: None,
        }
    }

    /// The window above which growth follows the curve, bytes; infinite before the first event.
    pub fn ssthresh(&self) -> f64 {
        self.ssthresh
    }

    fn minimum(&self) -> f64 {
        minimum_window(self.packet as u64) as f64
    }

    fn grow_along_curve(&mut self, acked: &Acked<'_>) {
        let (window, packet) = (self.window, self.packet);
        let curve = &mut self.curve;
        let begin = *curve.epoch.get_or_insert_with(|| {
            curve.k = if window < curve.w_max { ((curve.w_max - window) / packet / C).cbrt() } else { 0.0 };
            curve.w_max = curve.w_max.max(window);
            curve.reno = window;
            acked.now
        });
        if let Some(idle) = curve.idle_since.take() {
            curve.epoch = Some(begin + acked.now.since(idle.max(begin)));
        }
        let t = acked.now.since(curve.epoch.unwrap_or(begin)).as_secs_f64();
        let at = |t: f64| C * (t - curve.k).powi(3) * packet + curve.w_max;
        let bytes = acked.bytes as f64;
        let alpha = if curve.reno < curve.prior { ALPHA } else { 1.0 };
        curve.reno += alpha * packet * bytes / window;
        if at(t) < curve.reno {
            self.window = window.max(curve.reno);
        } else {
            let target = at(t + acked.rtt.smoothed().as_secs_f64()).clamp(window, 1.5 * window);
            self.window += (target - window) / window * bytes;
        }
    }
}

impl Controller for Cubic {
    fn on_acked(&mut self, acked: &Acked<'_>) {
        let slow_start = self.in_slow_start();
        if slow_start {
            self.hystart.on_acked(acked);
        }
        if self.event.is_some_and(|event| acked.sent <= event) {
            return;
        }
        if !acked.limited {
            self.curve.idle_since.get_or_insert(acked.now);
            return;
        }
        if slow_start {
            self.curve.idle_since = None;
            self.window += acked.bytes as f64 / self.hystart.divisor();
            if self.hystart.finished() {
                self.ssthresh = self.window;
            } else if self.window >= self.ssthresh {
                self.window = self.ssthresh;
            }
        } else {
            self.grow_along_curve(acked);
        }
        self.window = self.window.min(CONGESTION_WINDOW_MAX as f64);
    }

    fn on_congestion(&mut self, now: Time, sent: Time, signal: Signal) -> bool {
        let new = self.event.is_none_or(|event| sent > event);
        if new {
            let before =
                Undo { window: self.window, ssthresh: self.ssthresh, curve: self.curve, event: self.event };
            self.undo = (signal == Signal::Loss).then_some(before);
            // Fast convergence (RFC 9438 §4.7): a shrinking share is left to newer flows faster.
            let shrinking = self.window < self.curve.w_max;
            let w_max = if shrinking { self.window * (1.0 + BETA) / 2.0 } else { self.window };
            self.curve = Curve { w_max, prior: self.window, ..Curve::default() };
            self.ssthresh = (self.window * BETA).max(self.minimum());
            self.window = self.ssthresh;
            self.event = Some(now);
        }
        if signal == Signal::Persistent {
            // RFC 9002 §7.6.2: start over, up to the threshold that the event left.
            self.undo = None;
            self.window = self.minimum();
            self.curve.epoch = None;
            self.hystart = HyStart::default();
            self.event = None;
        }
        new
    }

    fn on_spurious(&mut self) {
        if let Some(undo) = self.undo.take()
            && undo.window > self.window
        {
            (self.window, self.ssthresh) = (undo.window, undo.ssthresh);
            (self.curve, self.event) = (undo.curve, undo.event);
        }
    }

    fn on_packet_size(&mut self, bytes: u64) {
        self.packet = bytes as f64;
        self.window = self.window.max(self.minimum());
    }

    fn window(&self) -> u64 {
        self.window as u64
    }

    fn in_slow_start(&self) -> bool {
        self.window < self.ssthresh
    }

    fn fresh(&self) -> Box<dyn Controller> {
        Box::new(Self::new(self.packet as u64))
    }
}

/// HyStart++: leaves slow start when the round trip grows, before the queue overflows.
#[derive(Debug, Clone, Copy, Default)]
struct HyStart {
    /// First packet number of the next round.
    round_end: u64,
    /// Smallest sample of the last round and of this one.
    last_min: Option<Duration>,
    current_min: Option<Duration>,
    samples: u32,
    /// Conservative slow start: the round trip that it began with and the rounds that it lasted.
    conservative: Option<(Duration, u32)>,
}

impl HyStart {
    const SAMPLES: u32 = 8;
    const THRESHOLD_MIN: Duration = Duration::from_millis(4);
    const THRESHOLD_MAX: Duration = Duration::from_millis(16);
    const CONSERVATIVE_DIVISOR: f64 = 4.0;
    const CONSERVATIVE_ROUNDS: u32 = 5;

    fn on_acked(&mut self, acked: &Acked<'_>) {
        if acked.largest >= self.round_end {
            self.round_end = acked.next;
            self.last_min = self.current_min.take().or(self.last_min);
            self.samples = 0;
            if let Some((_, rounds)) = &mut self.conservative {
                *rounds += 1;
            }
        }
        let Some(sample) = acked.sample else { return };
        let current = self.current_min.map_or(sample, |min| min.min(sample));
        self.current_min = Some(current);
        self.samples += 1;
        if self.samples < Self::SAMPLES {
            return;
        }
        match (self.conservative, self.last_min) {
            (Some((baseline, _)), _) if current < baseline => self.conservative = None,
            (None, Some(last)) => {
                let threshold = (last / 8).clamp(Self::THRESHOLD_MIN, Self::THRESHOLD_MAX);
                if current >= last + threshold {
                    self.conservative = Some((current, 0));
                }
            }
            _ => {}
        }
    }

    fn divisor(&self) -> f64 {
        if self.conservative.is_some() { Self::CONSERVATIVE_DIVISOR } else { 1.0 }
    }

    fn finished(&self) -> bool {
        self.conservative.is_some_and(|(_, rounds)| rounds >= Self::CONSERVATIVE_ROUNDS)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rtt::Rtt;
    use super::*;

    const PACKET: u64 = 1400;

    /// Acknowledges one whole window at a time, one round trip apart.
    struct Path {
        cubic: Cubic,
        rtt: Rtt,
        now: Time,
        number: u64,
    }

    impl Path {
        fn new(rtt_ms: u64) -> Self {
            let mut rtt = Rtt::new(None);
            rtt.update(Duration::from_millis(rtt_ms), Duration::ZERO);
            Self { cubic: Cubic::new(PACKET), rtt, now: Time::from_millis(1000), number: 0 }
        }

        fn round(&mut self, sample_ms: u64, limited: bool) {
            let (sent, window) = (self.now, self.cubic.window());
            let packets = (window / PACKET).max(1);
            let next = self.number + 2 * packets;
            self.now += Duration::from_millis(sample_ms);
            for _ in 0..packets {
                self.cubic.on_acked(&Acked {
                    now: self.now,
                    bytes: PACKET,
                    largest: self.number,
                    sent,
                    next,
                    limited,
                    sample: Some(Duration::from_millis(sample_ms)),
                    rtt: &self.rtt,
                    in_flight: window,
                });
                self.number += 1;
            }
        }

        fn lose(&mut self, signal: Signal) -> bool {
            self.now += Duration::from_millis(1);
            let sent = self.now;
            self.now += Duration::from_millis(1);
            self.cubic.on_congestion(self.now, sent, signal)
        }
    }

    #[test]
    fn slow_start_doubles_until_the_round_trip_grows() {
        let mut path = Path::new(40);
        let first = path.cubic.window();
        assert_eq!(first, 10 * PACKET);
        path.round(40, true);
        path.round(40, true);
        assert!((4 * first - PACKET..=4 * first).contains(&path.cubic.window()));
        let before = path.cubic.window();
        for _ in 0..8 {
            path.round(60, true);
        }
        assert!(!path.cubic.in_slow_start(), "HyStart++ ends slow start");
        assert!(path.cubic.window() < 8 * before, "conservatively");
    }

    #[test]
    fn a_passing_spike_resumes_slow_start() {
        let mut path = Path::new(40);
        path.round(40, true);
        path.round(40, true);
        path.round(60, true);
        assert!(path.cubic.hystart.conservative.is_some());
        path.round(41, true);
        assert!(path.cubic.hystart.conservative.is_none() && path.cubic.in_slow_start());
    }

    #[test]
    fn an_event_is_answered_once_and_the_curve_returns() {
        let mut path = Path::new(50);
        (0..5).for_each(|_| path.round(50, true));
        let before = path.cubic.window();
        assert!(path.lose(Signal::Loss));
        let reduced = path.cubic.window();
        assert!((reduced as f64 / before as f64 - BETA).abs() < 0.01);
        assert!(!path.cubic.on_congestion(path.now, path.now - Duration::from_millis(2), Signal::Loss));
        assert_eq!(path.cubic.window(), reduced);
        let mut rounds = 0;
        while path.cubic.window() < before {
            path.round(50, true);
            rounds += 1;
        }
        // K = cbrt(0.3 W / C) seconds: 320 packets take about 6.2 s.
        let k = (before as f64 / PACKET as f64 * 0.3 / C).cbrt();
        let seconds = f64::from(rounds) * 0.05;
        assert!((0.5 * k..1.2 * k).contains(&seconds), "{seconds} s for K = {k} s");
    }

    #[test]
    fn spurious_loss_is_undone_but_marks_are_not() {
        let mut path = Path::new(50);
        (0..4).for_each(|_| path.round(50, true));
        let before = path.cubic.window();
        path.lose(Signal::Loss);
        path.cubic.on_spurious();
        assert_eq!(path.cubic.window(), before);
        assert!(path.cubic.in_slow_start());
        path.lose(Signal::Marked);
        path.cubic.on_spurious();
        assert!(path.cubic.window() < before);
    }

    #[test]
    fn persistent_congestion_starts_over_and_never_below_two_packets() {
        let mut path = Path::new(50);
        (0..6).for_each(|_| path.round(50, true));
        path.lose(Signal::Persistent);
        assert_eq!(path.cubic.window(), 2 * PACKET);
        assert!(path.cubic.in_slow_start());
        for _ in 0..10 {
            path.lose(Signal::Loss);
        }
        assert_eq!(path.cubic.window(), 2 * PACKET);
    }

    #[test]
    fn an_idle_application_does_not_grow_the_window() {
        let mut path = Path::new(50);
        path.round(50, true);
        let before = path.cubic.window();
        (0..100).for_each(|_| path.round(50, false));
        assert_eq!(path.cubic.window(), before);
        path.lose(Signal::Loss);
        path.round(50, true);
        let reduced = path.cubic.window();
        (0..1000).for_each(|_| path.round(50, false));
        path.round(50, true);
        assert!(path.cubic.window() < reduced + 4 * PACKET, "idle time is no time on the curve");
    }
}
