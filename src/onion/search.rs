//! The search for a path: relays for places, one after another, going back where none fits.

use super::path::{Relay, are_near};
use crate::limits::PATH_STEPS_MAX;

/// A search under way.
pub(super) struct Search<'a> {
    /// All relays, those to be tried first in front.
    pub order: Vec<&'a Relay>,
    /// Of each place.
    pub chosen: Vec<Option<&'a Relay>>,
    /// How often one was tried.
    pub steps: usize,
}

impl<'a> Search<'a> {
    /// Fills these places, trying relays in their order; gives up after [`PATH_STEPS_MAX`] steps.
    pub fn fill(&mut self, places: &[usize], fits: &impl Fn(usize, &Relay) -> bool) -> bool {
        let Some((&place, rest)) = places.split_first() else { return true };
        for index in 0..self.order.len() {
            self.steps += 1;
            if self.steps > PATH_STEPS_MAX {
                return false;
            }
            let relay = self.order[index];
            if !fits(place, relay) || self.chosen.iter().flatten().any(|other| are_near(other, relay)) {
                continue;
            }
            self.chosen[place] = Some(relay);
            if self.fill(rest, fits) {
                return true;
            }
            self.chosen[place] = None;
        }
        false
    }
}
