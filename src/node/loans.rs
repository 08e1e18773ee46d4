//! What a peer may, across its lanes (docs/shaping.md §5): its first lane, at its home, has the buckets; every other lane asks
//! there for what it has run out of, by a message between shards where it is on another one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Clock, Node};
use crate::base::budget::{Loan, Short};
use crate::base::{PublicKey, Time};
use crate::limits::{LOAN_AGAIN_MS, LOAN_PATIENCE_S, LOAN_PAUSE_US, SESSIONS_MAX};
use crate::service::PeerId;
use crate::session::Cross;

/// A shard, and what it knows a lane by.
type Lane = (u8, u64);

/// What was asked for, and when there will be some of it.
struct Wish {
    /// The peer's first lane, which has it.
    owner: PeerId,
    short: Short,
    down: u64,
    at: Time,
    /// Which of those that look at the same time is first: who has waited longest.
    turn: u64,
}

/// Of one shard: what its lanes ask for, and what lanes ask it for.
#[derive(Default)]
pub(super) struct Loans {
    /// Lanes of this shard that wait for an answer, and when they asked.
    asked: BTreeMap<PeerId, Time>,
    again: BTreeSet<(Time, PeerId)>,
    wishes: BTreeMap<Lane, Wish>,
    due: BTreeSet<(Time, u64, Lane)>,
    turn: u64,
    /// A lane was lent something that was not looked at yet, since then.
    news: Option<Time>,
}

impl Loans {
    /// When [`Node::lend_due`] has something to do.
    pub fn poll_timeout(&self) -> Option<Time> {
        let again = self.again.first().map(|(at, _)| *at);
        let due = self.due.first().map(|(at, ..)| *at);
        [due, again, self.news].into_iter().flatten().min()
    }

    /// A lane of this shard is gone: it asks for nothing, and nobody asks it.
    pub fn forget(&mut self, here: u8, id: PeerId) {
        self.answered(id);
        let of_it = self.wishes.iter().filter(|(lane, wish)| wish.owner == id || **lane == (here, id.0));
        let lanes: Vec<Lane> = of_it.map(|(lane, _)| *lane).collect();
        lanes.into_iter().for_each(|lane| _ = self.take(lane));
    }

    /// All lanes are looked at now.
    pub fn looked(&mut self) {
        self.news = None;
    }

    fn asks(&mut self, now: Time, id: PeerId) {
        self.answered(id);
        let again = now + Duration::from_millis(LOAN_AGAIN_MS);
        self.asked.insert(id, again);
        self.again.insert((again, id));
    }

    fn answered(&mut self, id: PeerId) {
        if let Some(at) = self.asked.remove(&id) {
            self.again.remove(&(at, id));
        }
    }

    fn wish(&mut self, lane: Lane, mut wish: Wish) {
        if let Some(before) = self.take(lane) {
            wish.short = wish.short.or(before.short);
            wish.turn = before.turn;
        }
        if self.wishes.len() < SESSIONS_MAX {
            self.due.insert((wish.at, wish.turn, lane));
            self.wishes.insert(lane, wish);
        }
    }

    fn take(&mut self, lane: Lane) -> Option<Wish> {
        let wish = self.wishes.remove(&lane)?;
        self.due.remove(&(wish.at, wish.turn, lane));
        Some(wish)
    }
}

impl Node {
    /// Asks a peer for nothing more before what it may be asked for lets it.
    pub(super) fn pause_asking(&mut self, clock: Clock, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        match peer.down.holds_at(1) {
            _ if peer.down.holds(1) => {}
            Some(at) => self.fetch.pause(id, Some(at)),
            // Nothing but what its first lane lends.
            None => {
                self.fetch.pause(id, Some(clock.now + Duration::from_secs(LOAN_PATIENCE_S)));
                self.ask_loan(clock, id, Short::default());
            }
        }
    }

    /// Asks for what lanes of this shard have run out of.
    pub(super) fn ask_loans(&mut self, clock: Clock) {
        while let Some((id, short)) = self.shaping.poll_short() {
            self.ask_loan(clock, id, short);
        }
    }

    /// Asks for one of them; what it may ask its peer for beside what it may send.
    pub(super) fn ask_loan(&mut self, clock: Clock, id: PeerId, short: Short) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (key, lane, down) = (peer.card.key, id.0, peer.down.debt());
        self.loans.asks(clock.now, id);
        match self.sessions.elsewhere(&key) {
            None => self.borrow(clock, self.shaping.budget.shard(), key, lane, short, down),
            Some(home) => {
                self.shaping.budget.tell(home, Cross::Borrow { peer: key, lane, short, down });
            }
        }
    }

    /// At home: a lane asks.
    pub(super) fn borrow(
        &mut self,
        clock: Clock,
        from: u8,
        peer: PublicKey,
        lane: u64,
        short: Short,
        down: u64,
    ) {
        let owner = self.sessions.current(&peer).and_then(|session| self.by_session.get(&session).copied());
        // Without a session it asks again, if it does not end.
        let Some(owner) = owner else { return };
        self.loans.turn += 1;
        let turn = self.loans.turn;
        self.loans.wish((from, lane), Wish { owner, short, down, at: clock.now, turn });
        self.lend_due(clock);
    }

    /// At home: lends what there is.
    pub(super) fn lend_due(&mut self, clock: Clock) {
        let now = clock.now;
        while let Some(&(at, _, lane)) = self.loans.due.first()
            && at <= now
        {
            let Some(mut wish) = self.loans.take(lane) else { continue };
            let Some(peer) = self.peers.get_mut(&wish.owner) else { continue };
            let loan = self.shaping.lend(now, peer.slot, wish.short);
            let mut lent = 0;
            if wish.down > 0 && peer.lends_at(now).is_some_and(|at| at <= now) {
                // A debt here as it was there: what was asked for is on its way.
                lent = wish.down;
                peer.down.take(now, lent);
                peer.lent = true;
            }
            if loan.is_none() && lent == 0 {
                let up = self.shaping.lend_at(now, peer.slot, wish.short);
                let down = if wish.down > 0 { peer.lends_at(now) } else { None };
                // With no limit left there is nothing to wait for.
                if let Some(at) = up.into_iter().chain(down).min() {
                    wish.at = at.max(now + Duration::from_micros(LOAN_PAUSE_US));
                    self.loans.wish(lane, wish);
                }
                continue;
            }
            let loan = loan.unwrap_or_default();
            match lane {
                (shard, lane) if shard == self.shaping.budget.shard() => self.lent(clock, lane, loan, lent),
                (shard, lane) => self.shaping.budget.tell(shard, Cross::Lent { lane, loan, down: lent }),
            }
        }
        while let Some(&(at, id)) = self.loans.again.first()
            && at <= now
        {
            self.loans.answered(id);
            self.lent(clock, id.0, Loan::default(), 0);
        }
    }

    /// A lane was lent something, or was not answered: then what it still lacks is asked for again.
    pub(super) fn lent(&mut self, clock: Clock, lane: u64, loan: Loan, down: u64) {
        let id = PeerId(lane);
        self.loans.answered(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        self.shaping.feed(clock.now, peer.slot, loan);
        peer.down.give_back(down);
        if !peer.down.holds(1) {
            self.ask_loan(clock, id, Short::default());
        } else if down > 0 {
            self.fetch.pause(id, None);
            self.touch(id);
            self.loans.news = Some(clock.now);
        }
    }
}
