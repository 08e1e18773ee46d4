//! Plays a recording's steps onto a disk, up to any moment. Pure.

use super::disk::Disk;
use super::record::{Effect, Step};

/// A disk that plays steps, up to any moment.
pub struct Player<'a> {
    steps: &'a [Step],
    /// Steps in the order in which they end, of those that make something durable.
    syncs: Vec<&'a Step>,
    next: usize,
    next_sync: usize,
    /// The disk as it is at the moment that was played to.
    pub disk: Disk,
}

impl<'a> Player<'a> {
    /// Before the first step.
    pub fn new(steps: &'a [Step]) -> Player<'a> {
        let mut syncs: Vec<&Step> = steps.iter().filter(|step| step.is_sync()).collect();
        syncs.sort_by_key(|step| step.end);
        Player { steps, syncs, next: 0, next_sync: 0, disk: Disk::new() }
    }

    /// Plays until just after line `moment`: changes that have begun may show, syncs that came back count.
    pub fn play(&mut self, moment: usize) {
        loop {
            let begin = self.steps.get(self.next).map_or(usize::MAX, |step| step.begin);
            let end = self.syncs.get(self.next_sync).map_or(usize::MAX, |step| step.end);
            if begin <= end && begin <= moment && self.next < self.steps.len() {
                let step = &self.steps[self.next];
                self.next += 1;
                match &step.effect {
                    Effect::Create(node) => drop(self.disk.create(node.clone())),
                    Effect::Change(inode, change, _) => self.disk.change(*inode, step.end, change.clone()),
                    Effect::Sync(_) | Effect::SyncData(_) | Effect::SyncAll | Effect::Said(_) => {}
                }
            } else if end < begin && end <= moment {
                let step = self.syncs[self.next_sync];
                self.next_sync += 1;
                match &step.effect {
                    Effect::Sync(inode) => self.disk.sync(*inode, step.begin),
                    Effect::SyncData(inode) => self.disk.sync_data(*inode, step.begin),
                    Effect::SyncAll => self.disk.sync_all(step.begin),
                    Effect::Change(inode, ..) => self.disk.sync_one(*inode, step.end),
                    Effect::Create(_) | Effect::Said(_) => {}
                }
            } else {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::{Body, Policy};
    use super::super::record::tests::{PLAIN, steps};
    use super::super::rng::Rng;
    use super::*;

    #[test]
    fn the_player_keeps_what_was_synced_by_then() {
        let steps = steps(PLAIN).unwrap();
        let lengths = |moment| {
            let mut player = Player::new(&steps);
            player.play(moment);
            let found = player.disk.cut(Policy::Lose, &mut Rng::new(1, "", 0));
            found
                .iter()
                .map(|node| if let Body::File(len, _) = node.body { len } else { 0 })
                .collect::<Vec<_>>()
        };
        assert_eq!(lengths(5), [0, 0, 0]);
        assert_eq!(lengths(6), [0, 0, 1], "one byte with O_DSYNC");
        assert_eq!(lengths(7), [0, 0, 6]);
        let mut player = Player::new(&steps);
        (0..20).for_each(|moment| player.play(moment));
        assert_eq!(player.disk.cut(Policy::Lose, &mut Rng::new(1, "", 0)).len(), 4);
    }
}
