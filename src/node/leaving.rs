//! This node leaves (docs/protocol/intents.md §3): its peers hear when, long work is not begun any more, and what it provides and
//! too few others have is given to keepers, the most asked for first, in the time that there is.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::command::{HandoverSnapshot, LeavingSnapshot};
use super::{Clock, Node, World};
use crate::base::fileop::JobId;
use crate::base::{ChunkId, ReadFault, StoredChunk, Time};
use crate::limits::{
    HANDOVER_LIST_MS, HANDOVER_MAX, HANDOVER_OPEN_MAX, HOSTS_WANTED_USUAL, INTENT_TURN_MS, PUSH_COPIES_MIN,
    REGION_NODES,
};
use crate::service::PeerId;
use crate::service::push::Placed;
use crate::session::OverlayCross;

/// The job under whose number a leaving node gives chunks away; no other has it.
pub(super) const HANDOVER: JobId = JobId(u64::MAX);

/// A chunk that is being handed over.
enum Open {
    /// Its slices are made resident, one after another.
    Warming {
        stored: StoredChunk,
        slice: u32,
        /// Whether the disk was asked for the slice.
        waits: bool,
    },
    /// Keepers are looked for; so many bytes.
    Given(u32),
}

/// What a leaving node gives away.
#[derive(Default)]
pub(super) struct Handover {
    /// When it is listed again what has too few hosts; `None` while the node does not leave.
    list_at: Option<Time>,
    queue: VecDeque<ChunkId>,
    /// What was begun, with how many other hosts were known then; at most [`HANDOVER_MAX`].
    begun: BTreeMap<ChunkId, u8>,
    open: BTreeMap<ChunkId, Open>,
    retry_at: Option<Time>,
    given: u64,
    given_bytes: u64,
    short: u64,
}

impl Handover {
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        [self.list_at, self.retry_at].into_iter().flatten().min()
    }

    /// A slice of a chunk is resident.
    pub(super) fn warmed(&mut self, handle: u64) {
        for open in self.open.values_mut() {
            if let Open::Warming { stored, waits, .. } = open
                && stored.handle == handle
            {
                *waits = false;
            }
        }
    }

    /// What came of a chunk.
    pub(super) fn placed(&mut self, placed: &Placed) {
        let Some(Open::Given(bytes)) = self.open.remove(&placed.chunk) else { return };
        let hosts = self.begun.get(&placed.chunk).copied().unwrap_or(0);
        match usize::from(placed.keepers) + usize::from(hosts) >= PUSH_COPIES_MIN {
            true => {
                self.given += 1;
                self.given_bytes += u64::from(bytes);
            }
            false => self.short += 1,
        }
    }

    /// There is room for the next.
    pub(super) fn go_on(&mut self, now: Time) {
        if !self.queue.is_empty() {
            self.retry_at = Some(now);
        }
    }

    fn snapshot(&self) -> HandoverSnapshot {
        HandoverSnapshot {
            given: self.given,
            given_bytes: self.given_bytes,
            short: self.short,
            left: (self.queue.len() + self.open.len()) as u64,
        }
    }
}

impl Node {
    /// A slice of the store is resident, for whoever waits for it.
    pub(super) fn warmed(&mut self, handle: u64, slice: u32, world: &mut impl World) {
        self.serve.warmed(handle, slice, world, &mut self.acts);
        self.meanings.handover.warmed(handle);
    }

    /// The operator says when this node leaves, or that it does not.
    pub(super) fn set_leaving(&mut self, clock: Clock, in_ms: Option<u64>) {
        let at = in_ms.map(|ms| clock.now + Duration::from_millis(ms));
        self.meanings.core.leave(clock.now, at);
        self.push.cancel(HANDOVER);
        let list_at = at.filter(|_| self.overlay.keeper.is_some()).map(|_| clock.now);
        self.meanings.handover = Handover { list_at, ..Handover::default() };
        let kept = self.keep.is_on();
        self.keep.pause(at.is_some());
        self.leaving_moved(clock);
        if kept != self.keep.is_on() {
            let all: Vec<PeerId> =
                self.peers.iter().filter(|(_, peer)| peer.lane == 0).map(|(id, _)| *id).collect();
            for id in all {
                self.say_hello(clock, id);
                self.touch(id);
            }
        }
    }

    /// The time of leaving is another, or there is none.
    pub(super) fn leaving_moved(&mut self, clock: Clock) {
        let left = self.meanings.core.own().leaves_at().map(|at| at.since(clock.now).as_secs());
        if let Some((keeper, at)) = self.overlay.core(clock) {
            let leaves_s =
                left.map(|left| at.unix_s().saturating_add(u32::try_from(left).unwrap_or(u32::MAX)));
            keeper.core.leave(at, leaves_s);
        }
        self.note_leaving_soon(clock);
    }

    /// Friends lead no circuit here any more, and theirs elsewhere, once this node leaves soon.
    pub(super) fn note_leaving_soon(&mut self, clock: Clock) {
        let soon = self.meanings.core.own().leaves_soon(clock.now);
        if std::mem::replace(&mut self.circuits.leaving, soon) != soon {
            self.circuits.news(clock.now);
            self.tell_near(clock, soon);
        }
    }

    /// Whoever is near to this node in the overlay names it to others, and is told although there may be no session with it now.
    fn tell_near(&mut self, clock: Clock, soon: bool) {
        let Some(keeper) = self.overlay.keeper.as_ref().filter(|_| soon) else { return };
        let near = keeper.core.nearest_staying(&keeper.core.own().id.0, REGION_NODES, clock.now);
        for contact in near.into_iter().map(|peer| peer.contact) {
            let (card, addresses) = (contact.card, contact.addresses().collect());
            let home = self.home_of(&card.key);
            self.overlay_cross(clock, home, OverlayCross::Call { card, addresses, answer: false });
        }
    }

    /// For how long something may be promised that asks for so many seconds.
    pub(super) fn promised_at_most(&self, now: Time, seconds: u32) -> u32 {
        let left = self.meanings.core.own().leaves_at().map(|at| at.since(now).as_secs());
        left.map_or(seconds, |left| seconds.min(u32::try_from(left).unwrap_or(u32::MAX)))
    }

    /// Hands over what is next.
    pub(super) fn go_on_handing_over(&mut self, clock: Clock, world: &mut impl World) {
        let now = clock.now;
        let soon_at = self.meanings.core.own().soon_at();
        if soon_at.is_some_and(|at| at <= now) != self.circuits.leaving {
            self.note_leaving_soon(clock);
        }
        let ends = self.meanings.core.own().leaves_at();
        if self.meanings.handover.list_at.is_none() || ends.is_none_or(|at| at <= now) {
            self.meanings.handover.list_at = None;
            self.meanings.handover.retry_at = None;
            return;
        }
        self.list_poor(now);
        let (own, keeper) = (&mut self.meanings.handover, &self.overlay.keeper);
        while own.open.len() < HANDOVER_OPEN_MAX
            && let Some(chunk) = own.queue.pop_front()
        {
            let health = keeper.as_ref().and_then(|keeper| keeper.core.health(&chunk));
            let Some(hosts) = health.map(|health| health.hosts).filter(|hosts| *hosts < HOSTS_WANTED_USUAL)
            else {
                continue;
            };
            own.begun.insert(chunk, hosts);
            // What the disk broke, or made room for others, is provided no more.
            if let Some(stored) = world.peek(&chunk) {
                own.open.insert(chunk, Open::Warming { stored, slice: 0, waits: false });
            }
        }
        self.warm_open(now, world);
    }

    /// Lists what too few other hosts have, as it is known by now.
    fn list_poor(&mut self, now: Time) {
        let own = &mut self.meanings.handover;
        if own.list_at.is_none_or(|at| at > now) {
            return;
        }
        own.list_at = Some(now + Duration::from_millis(HANDOVER_LIST_MS));
        let Some(keeper) = self.overlay.keeper.as_ref().filter(|_| own.queue.is_empty()) else { return };
        let room = HANDOVER_MAX.saturating_sub(own.begun.len());
        let poor = keeper.core.poor(HOSTS_WANTED_USUAL, HANDOVER_MAX);
        own.queue = poor.into_iter().filter(|chunk| !own.begun.contains_key(chunk)).take(room).collect();
    }

    /// Has what was begun read from the disk, and given away once it is there.
    fn warm_open(&mut self, now: Time, world: &mut impl World) {
        let own = &mut self.meanings.handover;
        own.retry_at = None;
        let mut gone = Vec::new();
        for (chunk, open) in &mut own.open {
            let Open::Warming { stored, slice, waits } = open else { continue };
            let slices = stored.len.div_ceil(crate::limits::SLICE_SIZE as u32);
            while !*waits && *slice < slices {
                match world.warm(stored.handle, *slice) {
                    Ok(true) => *slice += 1,
                    Ok(false) => *waits = true,
                    Err(ReadFault::Busy) => {
                        own.retry_at = Some(now + Duration::from_millis(INTENT_TURN_MS));
                        break;
                    }
                    Err(_) => {
                        gone.push(*chunk);
                        break;
                    }
                }
            }
            if *slice < slices {
                continue;
            }
            let hosts = own.begun.get(chunk).copied().unwrap_or(0);
            let copies = usize::from(HOSTS_WANTED_USUAL.saturating_sub(hosts).max(1));
            let len = stored.len;
            if self.push.push_stored(now, HANDOVER, *chunk, stored, copies) {
                *open = Open::Given(len);
            } else {
                own.retry_at = Some(now + Duration::from_millis(INTENT_TURN_MS));
            }
        }
        own.short += gone.len() as u64;
        gone.iter().for_each(|chunk| _ = own.open.remove(chunk));
    }

    /// Chunks that are being handed over.
    #[cfg(test)]
    pub(crate) fn handing_over(&self) -> usize {
        self.meanings.handover.open.len()
    }

    /// When this node leaves, as this shard knows.
    #[cfg(test)]
    pub(crate) fn leaves_at(&self) -> Option<Time> {
        self.meanings.core.own().leaves_at()
    }

    /// Whether others are led to a node of the overlay.
    #[cfg(test)]
    pub(crate) fn overlay_leads_to(&self, now: Time, id: &crate::base::NodeId) -> bool {
        let core = self.overlay.keeper.as_ref().map(|keeper| &keeper.core);
        core.is_some_and(|core| core.table().get(id).is_some() && !core.leaves_soon(id, now))
    }

    /// Of this shard's part in leaving.
    pub(super) fn leaving_snapshot(&self, now: Time) -> Option<LeavingSnapshot> {
        let at = self.meanings.core.own().leaves_at()?;
        let (guests, _) = self.circuits.onion.len();
        Some(LeavingSnapshot {
            in_ms: at.since(now).as_millis() as u64,
            untold: self.meanings.core.open() as u64,
            // Whoever was granted that it stays may ask for something yet.
            busy: self.serve.active() > 0
                || !self.get.is_idle()
                || self.inners.len() > 0
                || guests > 0
                || self.meanings.core.own().has_granted(),
            handover: self.meanings.handover.snapshot(),
        })
    }
}
