//! What is to be done about a job, by how long it has been waiting for what.

use std::time::Duration;

use super::{Job, Phase, Verdict};
use crate::base::Time;
use crate::limits::{
    ANONYMOUS_ENTER_MS, ANONYMOUS_ENTERED_MIN, ANONYMOUS_PROHIBITED_MS, ANONYMOUS_SILENT_MS,
    CIRCUIT_WAIT_MS_MAX,
};

impl Job {
    pub(super) fn look(&mut self, now: Time, why: Option<String>) -> Verdict {
        if self.is_over {
            return Verdict::End;
        }
        let passed = |since: Time, ms: u64| now.since(since) >= Duration::from_millis(ms);
        match &mut self.phase {
            Phase::Building { since, stuck, patience } => {
                let believed = match &why {
                    Some(_) => now.since(*stuck.get_or_insert(now)) >= *patience,
                    None => {
                        *stuck = None;
                        false
                    }
                };
                if !believed && !passed(*since, CIRCUIT_WAIT_MS_MAX) {
                    return Verdict::Wait;
                }
                // An exit of our own choice that cannot be reached is one more to be left out.
                if !self.pinned && self.want.exit.is_some() {
                    self.refused.extend(self.want.exit);
                    return Verdict::OtherExit { prohibited: false };
                }
                // The words are the tunnel's, whose --force is another flag of a get.
                let why = why.map(|why| why.replace("--force", "--one-friend"));
                let why = why.unwrap_or_else(|| "the relays do not answer; try again, or see the log".into());
                Verdict::Fail(format!("no circuit: {why}"))
            }
            Phase::Entering { since, met } => {
                let contacts = self.inner.contacts();
                if contacts > 0 {
                    let enough = contacts >= ANONYMOUS_ENTERED_MIN.min(self.rules.bootstrap.len());
                    let waited = passed(*met.get_or_insert(now), ANONYMOUS_ENTER_MS);
                    return if enough || waited { Verdict::Begin } else { Verdict::Wait };
                }
                let prohibited = self.inner.is_shut_in(&self.rules.bootstrap);
                let patience = if prohibited { ANONYMOUS_PROHIBITED_MS } else { ANONYMOUS_SILENT_MS };
                match passed(*since, patience) {
                    true => Verdict::OtherExit { prohibited },
                    false => Verdict::Wait,
                }
            }
            Phase::Getting => Verdict::Wait,
        }
    }
}
