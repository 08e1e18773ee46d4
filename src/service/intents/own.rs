//! What this node itself means to do, whom it tells, and how much longer it may be had to stay.

use std::time::Duration;

use super::{ABOUT, Intents};
use crate::base::Time;
use crate::limits::{GRANT_S_MIN, LEAVING_SOON_MS};
use crate::service::PeerId;
use crate::wire::intent::{Verdict, What};

/// What friends may have this node do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How much longer than it meant to they may have it stay, all together; nothing: never.
    pub grant_max: Duration,
    /// The least trust of who may.
    pub grant_trust: u8,
}

impl Default for Rules {
    fn default() -> Self {
        Self { grant_max: Duration::from_secs(600), grant_trust: 50 }
    }
}

/// A time that was said, and the one that was meant before anybody asked.
#[derive(Debug, Clone, Copy)]
struct End {
    at: Time,
    meant: Time,
}

/// What this node means to do.
#[derive(Debug, Default)]
pub struct Own {
    rules: Rules,
    online: Option<End>,
    leave: Option<End>,
    moved: Option<Time>,
}

impl Own {
    /// When it leaves.
    pub fn leaves_at(&self) -> Option<Time> {
        self.leave.map(|leave| leave.at)
    }

    /// Whether it leaves, at whatever time.
    pub fn is_leaving(&self) -> bool {
        self.leave.is_some()
    }

    /// Whether somebody was granted that it leaves later than it meant to.
    pub fn has_granted(&self) -> bool {
        self.leave.is_some_and(|leave| leave.at > leave.meant)
    }

    /// Whether it leaves soon.
    pub fn leaves_soon(&self, now: Time) -> bool {
        self.soon_at().is_some_and(|at| at <= now)
    }

    /// From when on it leaves soon.
    pub fn soon_at(&self) -> Option<Time> {
        self.leaves_at().map(|at| at - Duration::from_millis(LEAVING_SOON_MS))
    }

    /// Until when it means to stay.
    pub fn stays_until(&self) -> Option<Time> {
        self.online.map(|online| online.at)
    }

    /// Whether it will be there until then, for somebody of this trust; and what is said with that.
    pub(super) fn judge(&mut self, now: Time, trust: u8, until: Time) -> (Verdict, Option<Time>) {
        let Own { rules, online, leave, moved } = self;
        let Some(end) = leave.as_mut().or(online.as_mut()) else {
            // It does not mean to go.
            return (Verdict::Granted, None);
        };
        // Said again, it comes to about the same.
        if until <= end.at + ABOUT {
            return (Verdict::Granted, Some(end.at));
        }
        let latest = end.meant + rules.grant_max;
        match () {
            () if trust < rules.grant_trust || rules.grant_max.is_zero() => (Verdict::Refused, None),
            // Whoever asks for all of it has counted in whole seconds.
            () if until <= latest + ABOUT => {
                let least = end.at + Duration::from_secs(GRANT_S_MIN);
                end.at = until.max(least).min(latest).max(end.at);
                *moved = Some(end.at);
                (Verdict::Granted, Some(end.at))
            }
            () if latest > now => (Verdict::Less, Some(latest)),
            () => (Verdict::Refused, None),
        }
    }

    /// The time to which somebody moved it since this was last asked.
    pub(super) fn take_moved(&mut self) -> Option<Time> {
        self.moved.take()
    }
}

impl Intents {
    /// What friends may have this node do from now on.
    pub fn set_rules(&mut self, rules: Rules) {
        self.own.rules = rules;
    }

    /// It leaves then, or does not leave.
    pub fn leave(&mut self, now: Time, at: Option<Time>) {
        if at.is_none() && self.own.leave.is_none() {
            return;
        }
        self.own.leave = at.map(|at| End { at, meant: at });
        self.tells_strangers = self.own.leaves_soon(now);
        self.tell_all(now);
    }

    /// It means to stay until then, or says nothing of it.
    pub fn online(&mut self, now: Time, until: Option<Time>) {
        let before = self.own.online.take();
        self.own.online = until.map(|until| End { at: until, meant: until });
        if (before.is_some() || until.is_some()) && self.own.leave.is_none() {
            self.tell_all(now);
        }
    }

    /// Another shard granted a friend that this node stays until then; whether that is news. What is later than anything that
    /// could be granted is of an earlier plan to leave.
    pub fn moved(&mut self, now: Time, at: Time) -> bool {
        let latest = |leave: &End| leave.meant + self.own.rules.grant_max + ABOUT;
        let is_news = self.own.leave.as_ref().is_some_and(|leave| leave.at < at && at <= latest(leave));
        if is_news && let Some(leave) = self.own.leave.as_mut() {
            leave.at = at;
            self.tells_strangers = self.own.leaves_soon(now);
            self.tell_all(now);
        }
        is_news
    }

    pub(super) fn tell_all(&mut self, now: Time) {
        let all: Vec<PeerId> = self.talks.keys().copied().collect();
        all.into_iter().for_each(|peer| self.tell(now, peer));
    }

    /// Tells a peer what this node means to do, if there is something to be said to it.
    pub(super) fn tell(&mut self, now: Time, peer: PeerId) {
        let Some(talk) = self.talks.get_mut(&peer).filter(|talk| talk.offers) else { return };
        let is_friend = talk.trust.is_some();
        if let Some(leave) = self.own.leave {
            // Strangers need not know before it matters to them.
            if is_friend || self.tells_strangers || talk.told {
                talk.told = true;
                self.say(now, (peer, false), What::Leaving, Some(leave.at));
            }
            return;
        }
        let until = self.own.online.map(|online| online.at).filter(|until| *until > now && is_friend);
        if std::mem::replace(&mut talk.told, until.is_some()) || until.is_some() {
            self.say(now, (peer, false), What::Online, until);
        }
    }
}
