//! The line's rate, measured where the operator does not say it (docs/shaping.md §6). Each shard says what arrived of what it
//! sent, and the first, which hands the node's rate out, follows the line and says its rate.

use std::time::Duration;

use super::Node;
use super::budget::OWNER;
use super::shaping::Shaping;
use crate::base::Time;
use crate::base::budget::Round;
use crate::limits::{LINE_ROUND_MS, SHARDS_MAX};
use crate::session::Cross;
use crate::shape::Line;

/// What other shards said counts for so many rounds.
const FRESH: u64 = 3;

/// One shard's part in it.
pub(super) struct Measured {
    /// The first shard's.
    line: Line,
    /// What the line carries, as the first shard says; `None` while nothing ever waited.
    rate: Option<u64>,
    /// When a round is over.
    next: Time,
    /// Bytes that had been sent then.
    sent: u64,
    /// What other shards said last, and when.
    heard: [Option<(Time, Round)>; SHARDS_MAX as usize],
}

impl Measured {
    /// Begins to measure; `sent` bytes had left before.
    pub(super) fn new(now: Time, sent: u64) -> Self {
        let next = now + Duration::from_millis(LINE_ROUND_MS);
        Self { line: Line::new(now), rate: None, next, sent, heard: [None; SHARDS_MAX as usize] }
    }

    /// When a round is over.
    pub(super) fn poll_timeout(&self) -> Time {
        self.next
    }

    /// What the line carries, bits per second.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// What all shards did, with this one's `own`. A shard of which no word came just now goes on as it did.
    fn together(&self, now: Time, own: Round) -> Round {
        let fresh = Duration::from_millis(FRESH * LINE_ROUND_MS);
        let others = self.heard.iter().flatten().filter(|(at, _)| now.since(*at) <= fresh);
        others.fold(own, |all, (_, one)| Round {
            sent: all.sent.saturating_add(one.sent),
            arrived: all.arrived.saturating_add(one.arrived),
            streams: all.streams.saturating_add(one.streams),
            wait: all.wait.into_iter().chain(one.wait).min(),
        })
    }
}

impl Shaping {
    /// What this shard did since it was last asked; tunnels and circuits are counted with what is known of streams.
    fn line_round(&mut self, now: Time, round: Round) -> Option<Round> {
        let sent = self.sent();
        let line = self.line.as_mut()?;
        line.next = now + Duration::from_millis(LINE_ROUND_MS);
        let new = sent - std::mem::replace(&mut line.sent, sent);
        // Tunnels and circuits are not acknowledged: of what they sent as much arrived as of streams. Where those are the
        // lesser part by far they say nothing.
        let other = u128::from(new.saturating_sub(round.streams));
        let like = other * u128::from(round.arrived.min(round.streams)) / u128::from(round.streams.max(1));
        let tells = round.streams >= new / 10;
        // Where they say nothing another shard's streams may: what is not known to be lost has arrived.
        let arrived = round.arrived.saturating_add(if tells { like } else { other } as u64);
        let wait = round.wait.filter(|_| tells);
        Some(Round { sent: new, arrived, wait, ..round })
    }

    /// Another rate holds from now on; whether it does.
    fn line_rate(&mut self, now: Time, rate: Option<u64>) -> bool {
        let Some(line) = &mut self.line else { return false };
        line.rate = rate;
        let up = self.up_with(rate);
        if up == self.promises.up {
            return false;
        }
        self.set_up(now, up);
        true
    }
}

impl Node {
    /// What arrived before it is measured says nothing of the line.
    pub(super) fn begin_line(&mut self) {
        for peer in self.peers.values_mut() {
            let stats = peer.connection.stats();
            (peer.arrived, peer.sent_seen) = (stats.arrived_bytes(), stats.sent_bytes);
        }
    }

    /// Looks at what arrived, and how long it took.
    pub(super) fn measure_line(&mut self, now: Time) {
        if self.shaping.line_at().is_none_or(|at| at > now) {
            return;
        }
        let mut round = Round::default();
        for peer in self.peers.values_mut() {
            let stats = peer.connection.stats();
            let arrived = stats.arrived_bytes();
            let new = arrived.saturating_sub(std::mem::replace(&mut peer.arrived, arrived));
            round.arrived += new;
            round.streams +=
                stats.sent_bytes.saturating_sub(std::mem::replace(&mut peer.sent_seen, stats.sent_bytes));
            if new > 0 && stats.in_flight > 0 {
                let wait = stats.rtt.min(stats.rtt_latest).saturating_sub(stats.rtt_min);
                round.wait = Some(round.wait.map_or(wait, |least| least.min(wait)));
            }
        }
        let Some(own) = self.shaping.line_round(now, round) else { return };
        let (shard, shards) = (self.shaping.budget.shard(), self.shaping.budget.shards());
        if shard != OWNER {
            return self.shaping.budget.tell(OWNER, Cross::Line(own));
        }
        let Some(measured) = &mut self.shaping.line else { return };
        let all = measured.together(now, own);
        measured.line.round(now, all);
        let rate = measured.line.rate();
        // Said each time: what is lost is said again.
        (1..shards).for_each(|other| self.shaping.budget.tell(other, Cross::LineRate(rate)));
        self.follow_line(now, rate);
    }

    /// Another shard says what arrived of what it sent.
    pub(super) fn line_heard(&mut self, now: Time, from: u8, round: Round) {
        let heard = self.shaping.line.as_mut().and_then(|line| line.heard.get_mut(usize::from(from)));
        if let Some(heard) = heard {
            *heard = Some((now, round));
        }
    }

    /// What the line carries now.
    pub(super) fn follow_line(&mut self, now: Time, rate: Option<u64>) {
        if self.shaping.line_rate(now, rate) {
            // What was promised may be more than it carries now.
            self.know_promised(now);
        }
    }
}
