//! What faults did: each kind is counted where it takes effect, so that a run can tell a fault that was survived from
//! one that never happened.

use std::collections::BTreeMap;

use super::Crash;
use super::link::Lost;
use super::trace::{Event, Fate, Gone};
use crate::base::Time;

macro_rules! effects {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One kind of effect.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Effect {
            $($(#[$doc])* $name,)*
        }

        impl Effect {
            /// All of them, with what a person calls them.
            pub const ALL: &[(Self, &'static str)] = &[$((Self::$name, $text),)*];
        }
    };
}

effects! {
    /// Datagrams lost to noise.
    Noise = "datagrams lost to noise",
    /// Datagrams that found a full queue.
    Queue = "datagrams that found a full queue",
    /// Datagrams longer than their link takes.
    Mtu = "datagrams longer than the MTU",
    /// Datagrams sent into a link that is down.
    BlackHole = "datagrams sent into a link that is down",
    /// Datagrams that a translator did not let through.
    Nat = "datagrams stopped by a translator",
    /// Datagrams to a node that is down.
    Down = "datagrams to a node that is down",
    /// Datagrams that overtake an earlier one.
    Reordered = "datagrams that overtake others",
    /// Datagrams that arrive twice.
    Duplicated = "datagrams that arrive twice",
    /// Datagrams with a bit flipped.
    Flipped = "datagrams with a bit flipped",
    /// Datagrams marked "congestion experienced".
    Marked = "datagrams marked by a queue",
    /// Trains of several datagrams that a node was handed.
    Coalesced = "trains that arrive as one",
    /// Messages between the shards of a node.
    Crossed = "messages from shard to shard",
    /// Further lanes of a session that began.
    Lane = "further lanes of sessions",
    /// Datagrams that came to another shard's port than their session's.
    Passed = "datagrams passed from shard to shard",
    /// Datagrams that no node sent.
    MadeUp = "datagrams that no node sent",
    /// Mappings that a translator forgot.
    Rebound = "mappings that a translator forgot",
    /// First flights refused because of a wrong clock.
    Skewed = "first flights refused for a wrong clock",
    /// Processes that died.
    ProcessDied = "processes that died",
    /// Nodes that were told to stop, and said goodbye.
    Stopped = "nodes that were told to stop",
    /// Messages between shards that found no room.
    CrossLost = "messages between shards that were lost",
    /// Power losses.
    PowerLost = "power losses",
    /// Pages that a power loss left torn between old and new.
    PageTorn = "pages torn by a power loss",
    /// Pages that a power loss left as they were before.
    PageLost = "pages that a power loss left old",
    /// Changes of names that a power loss undid.
    NameLost = "names undone by a power loss",
    /// Writes of files that found a full disk.
    DiskFull = "file writes that found a full disk",
    /// Writes of the store that found a full disk.
    StoreFull = "store writes that found a full disk",
    /// Writes of the store that found its limit.
    StoreLimit = "store writes above its limit",
    /// Reads that found a slice damaged.
    Damaged = "reads that found a damaged slice",
    /// Damaged chunks that were put again, and replaced.
    Repaired = "damaged chunks replaced by another put",
    /// Wrong bytes served as if they were right.
    Lie = "reads that served wrong bytes",
    /// Nodes that were told of wrong bytes, and whose they were.
    Blamed = "nodes told of another's wrong bytes",
    /// Reads that failed.
    Unreadable = "reads that failed",
    /// Gets that a person gave up.
    Cancelled = "gets given up by their user",
    /// Reference texts that were refused for a flipped bit.
    BadText = "damaged reference texts refused",
    /// Gets of references that were damaged below their checksum, and refused.
    BadReference = "gets of forged references refused",
    /// Gets of hostile trees, refused.
    Trap = "gets of hostile trees refused",
}

/// How often each happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects(BTreeMap<Effect, u64>);

impl Effects {
    /// So many more.
    pub fn add(&mut self, effect: Effect, count: u64) {
        *self.0.entry(effect).or_default() += count;
    }

    /// How many.
    pub fn of(&self, effect: Effect) -> u64 {
        self.0.get(&effect).copied().unwrap_or(0)
    }

    /// All of another count.
    pub fn add_all(&mut self, other: &Self) {
        other.0.iter().for_each(|(effect, count)| self.add(*effect, *count));
    }
}

/// Counts what the network and crashes do, from the events of a trace.
#[derive(Default)]
pub struct Observer {
    /// The counts.
    pub effects: Effects,
    /// The latest arrival on each link so far.
    latest: BTreeMap<(usize, usize), Time>,
}

impl Observer {
    /// Something happened.
    pub(super) fn note(&mut self, event: &Event<'_>) {
        let effects = &mut self.effects;
        match *event {
            Event::Sent { from, to, fate, .. } => match fate {
                Fate::Lost(why) => effects.gone(why),
                Fate::Arrives { at, flip, copy, marked } => {
                    effects.add(Effect::Flipped, flip.is_some().into());
                    effects.add(Effect::Duplicated, copy.is_some().into());
                    effects.add(Effect::Marked, marked.into());
                    let latest = self.latest.entry((from, to.unwrap_or(from))).or_insert(at);
                    effects.add(Effect::Reordered, (at < *latest).into());
                    *latest = at.max(*latest);
                }
            },
            Event::Vanished { why, .. } => effects.gone(why),
            Event::Arrived { datagrams, .. } => effects.add(Effect::Coalesced, (datagrams > 1).into()),
            Event::Cross(.., what) => {
                effects.add(Effect::Crossed, 1);
                effects.add(Effect::Lane, (what == "lane seated").into());
                effects.add(Effect::Passed, matches!(what, "datagram" | "send").into());
            }
            Event::Injected { .. } => effects.add(Effect::MadeUp, 1),
            Event::Rebound(_, mappings) => effects.add(Effect::Rebound, mappings as u64),
            Event::Crash(_, Crash::Process) => effects.add(Effect::ProcessDied, 1),
            Event::Crash(_, Crash::Power) => effects.add(Effect::PowerLost, 1),
            _ => {}
        }
    }
}

impl Effects {
    fn gone(&mut self, why: Gone) {
        let effect = match why {
            Gone::Link(Lost::Down) => Effect::BlackHole,
            Gone::Link(Lost::Mtu) => Effect::Mtu,
            Gone::Link(Lost::Queue) => Effect::Queue,
            Gone::Link(Lost::Noise) => Effect::Noise,
            Gone::Nat(_) => Effect::Nat,
            Gone::Down => Effect::Down,
            // An address that nobody has is no fault of the network's.
            Gone::NoRoute => return,
        };
        self.add(effect, 1);
    }
}
