//! Where a peer waits, by what it has to send and what its buckets hold. Every step is O(1).

use super::peer::{DATA, DRY, DUE, FLOOR_DRY, NO_RING, OWED, RESERVE_DRY, SPECIAL};
use super::shaper::Shaper;
use super::types::Class;
use crate::base::Time;
use crate::base::budget::Short;
use crate::limits::CONTROL_WIRE_MIN;

impl Shaper {
    /// Puts a peer where it belongs, by what it has to send and what its buckets hold.
    #[inline]
    pub(super) fn place(&mut self, now: Time, index: u32) {
        let hot = &mut self.peers[index as usize];
        if hot.waiting == 0 {
            return self.leave_all(index);
        }
        hot.cap.fill(now);
        let open = hot.cap.is_ready(hot.flags & DRY != 0);
        if open {
            hot.flags &= !DRY
        } else {
            hot.flags |= DRY
        }
        let (waiting, special) = (hot.waiting, hot.flags & SPECIAL != 0);
        let mut wake = if open { None } else { hot.cap.ready_at() };

        let controls = waiting & !DATA != 0;
        if controls && hot.cap.holds(CONTROL_WIRE_MIN) {
            if !self.controls.linked(index) {
                self.controls.push(&mut self.control, index);
            }
        } else {
            if controls {
                wake = earlier(wake, hot.cap.holds_at(CONTROL_WIRE_MIN));
            }
            self.leave_control(index);
        }
        // Control alone waits in the ring too: there it is served when it exceeds its share.
        if open {
            self.enter_ring(index);
        } else {
            self.leave_ring(index);
        }
        let mut short = Short { cap: !open, ..Short::default() };
        if special {
            let owed =
                if open { self.place_special(now, index, &mut short) } else { self.leave_urgent(index) };
            wake = earlier(wake, owed);
        }
        match wake {
            Some(at) => self.wheel.set(index, at),
            None => self.wheel.cancel(index),
        }
        // Where it borrows, no time brings anything.
        if wake.is_none() && short.is_any() {
            self.note_short(index, short);
        }
    }

    /// Calendar, floors, or neither; and when it is owed again.
    fn place_special(&mut self, now: Time, index: u32, short: &mut Short) -> Option<Time> {
        let (hot, extra) = (&mut self.peers[index as usize], &mut self.extra[index as usize]);
        let realtime = hot.waiting & Class::Realtime.bit() != 0 && !extra.reserve.is_nothing();
        let mut wake = None;
        let mut wanted = 0;
        if realtime {
            extra.reserve.fill(now);
            if extra.reserve.is_ready(hot.flags & RESERVE_DRY != 0) {
                hot.flags &= !RESERVE_DRY;
                wanted = DUE;
            } else {
                hot.flags |= RESERVE_DRY;
                short.reserve = true;
                wake = extra.reserve.ready_at();
            }
        }
        if wanted == 0 && hot.waiting & DATA != 0 && !extra.floor.is_nothing() {
            extra.floor.fill(now);
            if extra.floor.is_ready(hot.flags & FLOOR_DRY != 0) {
                hot.flags &= !FLOOR_DRY;
                wanted = OWED;
            } else {
                hot.flags |= FLOOR_DRY;
                short.floor = true;
                wake = earlier(wake, extra.floor.ready_at());
            }
        }
        if hot.flags & (DUE | OWED) != wanted {
            let deadline = extra.reservation.map_or(now, |promise| now + promise.delay);
            self.leave_urgent(index);
            match wanted {
                DUE => self.calendar.insert(&mut self.urgent, index, now, deadline),
                OWED => self.urgent.push(&mut self.floors, index),
                _ => {}
            }
            self.peers[index as usize].flags |= wanted;
        }
        wake
    }

    #[inline]
    fn enter_ring(&mut self, index: u32) {
        let hot = &mut self.peers[index as usize];
        let class = class_of(hot.waiting);
        let ring = match class {
            Class::Friend => 0,
            Class::Background => 2,
            Class::Market => 1,
            Class::Control | Class::Realtime => hot.base - Class::Friend as u8,
        };
        if hot.ring != ring {
            if hot.ring != NO_RING {
                self.share.remove(&mut self.rings[usize::from(hot.ring)], index);
                self.ring_weights[usize::from(hot.ring)] -= u32::from(hot.weight);
            }
            hot.ring = ring;
            self.share.push(&mut self.rings[usize::from(ring)], index);
            self.ring_weights[usize::from(ring)] += u32::from(hot.weight);
        }
    }

    #[inline]
    pub(super) fn leave_ring(&mut self, index: u32) {
        let hot = &mut self.peers[index as usize];
        if hot.ring != NO_RING {
            self.share.remove(&mut self.rings[usize::from(hot.ring)], index);
            self.ring_weights[usize::from(hot.ring)] -= u32::from(hot.weight);
            hot.ring = NO_RING;
        }
    }

    fn leave_urgent(&mut self, index: u32) -> Option<Time> {
        let hot = &mut self.peers[index as usize];
        if hot.flags & DUE != 0 {
            self.calendar.remove(&mut self.urgent, index);
        } else if hot.flags & OWED != 0 {
            self.urgent.remove(&mut self.floors, index);
        }
        hot.flags &= !(DUE | OWED);
        None
    }

    #[inline]
    fn leave_control(&mut self, index: u32) {
        if self.controls.linked(index) {
            self.controls.remove(&mut self.control, index);
        }
    }

    pub(super) fn leave_all(&mut self, index: u32) {
        self.leave_ring(index);
        self.leave_urgent(index);
        self.leave_control(index);
        self.wheel.cancel(index);
    }
}

/// The most urgent class in which something waits; control alone is control.
#[inline]
pub(super) fn class_of(waiting: u8) -> Class {
    match (waiting & DATA).trailing_zeros() {
        1 => Class::Realtime,
        2 => Class::Friend,
        3 => Class::Market,
        4 => Class::Background,
        _ => Class::Control,
    }
}

fn earlier(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    [a, b].into_iter().flatten().min()
}
