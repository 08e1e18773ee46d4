//! What people are given that was damaged or made up: references with a flipped bit, hostile trees. The model: a
//! damaged text is refused where it is read; everything else is asked for, and must end with a line that says what is
//! wrong, once friends could be asked; nothing is restored but what is honest in it.

use super::plan::Lure;
use super::{Action, World, model};
use crate::base::fileop::JobId;
use crate::node::Command;
use crate::service::get::GetRequest;
use crate::sim::effects::Effect;
use crate::sim::traps::Trap;
use crate::sim::trees::Tree;
use crate::wire::reference::{Blob, Reference, parse_with_path};

/// Job numbers of lures have this bit, those of gets do not.
pub(super) const LURES: u64 = 1 << 63;

#[derive(Default)]
pub(super) struct Luring {
    pub reference: Option<Reference>,
    /// What may come of it at most.
    pub honest: Tree,
    pub job: Option<JobId>,
    pub ends: u64,
    pub starts_healed: u64,
    pub is_over: bool,
}

/// Where a lure would be restored.
pub(super) fn root(lure: usize) -> String {
    format!("/lure-{lure}")
}

impl World {
    /// A person does with a lure what one does with a reference.
    pub(super) fn lure(&mut self, number: usize) {
        let node = self.plan.lures[number].node;
        let lure = &self.lures[number];
        if lure.is_over || lure.job.is_some() {
            return;
        }
        if !self.net.nodes[node].is_up() {
            return self.soon(2000, Action::Lure(number));
        }
        if lure.reference.is_none() && !self.bait(number) {
            return;
        }
        let lure = &mut self.lures[number];
        let Some(reference) = lure.reference.clone() else { return };
        let job = JobId(LURES | (number as u64) << 32 | (lure.ends + 1));
        lure.job = Some(job);
        lure.starts_healed += u64::from(self.healed.is_some());
        let root = root(number);
        let inside = Vec::new();
        let request =
            GetRequest { job, reference, inside, root, rename: None, merge: false, overwrite: false };
        self.net.command(node, Command::Get(request));
    }

    /// Makes the reference; false when there is nothing to get.
    fn bait(&mut self, number: usize) -> bool {
        let planned = &self.plan.lures[number];
        let put = &self.puts[planned.put];
        let Some(imported) = &put.done else {
            self.soon(2000, Action::Lure(number));
            return false;
        };
        let reference = imported.reference.clone();
        match planned.lure {
            Lure::Text(random) => {
                let text = reference.to_string();
                let mut bytes = text.clone().into_bytes();
                // A byte that is still ASCII: what is not text is no argument of a command.
                bytes[(random >> 3) as usize % text.len()] ^= 1 << (random % 7);
                self.lures[number].is_over = true;
                match parse_with_path(&String::from_utf8(bytes).expect("ASCII")) {
                    Err(why) if model::is_clear(&why.to_string()) => self.effects.add(Effect::BadText, 1),
                    Err(why) => self.fail(format!("lure {number}: refused with {:?}", why.to_string())),
                    // The other case of a letter is no damage.
                    Ok((read, path)) if read == reference && path.is_empty() => {}
                    Ok(_) => self.fail(format!("lure {number}: a damaged reference was read as another")),
                }
                false
            }
            Lure::Forged(random) => {
                let mut blob = reference.root.emit();
                blob[(random >> 3) as usize % Blob::LEN] ^= 1 << (random % 8);
                let forged = Blob::parse(&blob).map(|root| Reference { root }.to_string());
                let lure = &mut self.lures[number];
                match forged.map(|text| text.parse::<Reference>()) {
                    Ok(Ok(reference)) => lure.reference = Some(reference),
                    _ => {
                        lure.is_over = true;
                        self.effects.add(Effect::BadText, 1);
                    }
                }
                self.lures[number].reference.is_some()
            }
            Lure::Tree(lie) => {
                let node = self.plan.puts[planned.put].node;
                let trap = Trap::new(lie, &mut self.rng);
                let store = &mut self.net.nodes[node].world.store;
                trap.chunks.iter().for_each(|(id, bytes)| store.insert(*id, bytes.clone()));
                self.pristine.extend(trap.chunks);
                let lure = &mut self.lures[number];
                (lure.reference, lure.honest) = (Some(trap.reference), trap.honest);
                true
            }
        }
    }

    /// A get of a lure ended.
    pub(super) fn lured(&mut self, number: usize, job: JobId, result: Result<(), String>) {
        let lure = &mut self.lures[number];
        if lure.job != Some(job) {
            return;
        }
        lure.job = None;
        lure.ends += 1;
        let planned = &self.plan.lures[number];
        let (node, server) = (planned.node, self.plan.puts[planned.put].node);
        let effect = match planned.lure {
            Lure::Tree(_) => Effect::Trap,
            _ => Effect::BadReference,
        };
        match result {
            Ok(()) => self.fail(format!("lure {number}, {:?}, is said to be complete", planned.lure)),
            Err(why) if !model::is_clear(&why) => self.fail(format!("lure {number} ended with {why:?}")),
            // Who could not ask anybody may ask again; a server that lies says nothing about the lure.
            Err(why) if model::is_for_want_of_friends(&why) && self.serves(server, node) => {
                self.soon(3000, Action::Lure(number));
            }
            Err(why) => {
                self.lures[number].is_over = true;
                // Of a server that lies, or is out of reach, anything else may be said.
                let says_it = self.serves(server, node) && !model::is_for_want_of_friends(&why);
                self.effects.add(effect, says_it.into());
            }
        }
        self.check(node);
    }

    /// The crash of a node ends what it had asked for.
    pub(super) fn lures_crashed(&mut self, node: usize, lasts: std::time::Duration) {
        for number in 0..self.lures.len() {
            let lure = &mut self.lures[number];
            if self.plan.lures[number].node == node && lure.job.take().is_some() {
                lure.ends += 1;
                self.later(lasts, Action::Lure(number));
            }
        }
    }

    /// What is wrong below a lure's root, if anything.
    pub(super) fn check_lure(&self, number: usize) -> Option<String> {
        let files = &self.net.nodes[self.plan.lures[number].node].files;
        let what = model::wrong(files, &root(number), &self.lures[number].honest)?;
        Some(format!("lure {number}, {:?}: a wrong entry is in place: {what}", self.plan.lures[number].lure))
    }
}
