//! One row of the table: a mixture of hostile datagrams, what it cost, and whether that may be.

use anyhow::{Result, ensure};

use super::Plan;

/// The victim's CPU time per datagram may be so many times a bare receiver's …
const RATIO_MAX: f64 = 1.5;
/// … and this more for what is shaped like a handshake, nanoseconds.
const HANDSHAKE_NS_MAX: f64 = 1000.0;
/// Of what the attacker sent, so much has to have been taken by the victim, or nothing was shown: on a busy machine,
/// and where the figures are judged.
const TAKEN_MIN: f64 = 0.2;
const TAKEN_MIN_JUDGED: f64 = 0.9;
/// The same for what the attacker sent, of what it was to send.
const SENT_MIN: f64 = 0.1;
const SENT_MIN_JUDGED: f64 = 0.9;
/// Answers to those who know the identity, per second of a flood: twice what was measured with 512 sources
/// (docs/testing/hostile.md). The protocol's own bound (session.md §4: 500 handshakes and 12,500 cookies) is wider, since
/// cookies are drawn by chance among all who ask.
const ANSWERS_PER_SECOND_MAX: f64 = 4_300.0;

/// What one mixture cost.
pub struct Row {
    pub name: String,
    pub seconds: f64,
    pub bare: Cost,
    pub victim: Cost,
    pub answers: u64,
    /// First flights that the victim took for what they are.
    pub handshakes: u64,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    pub sent: u64,
    pub taken: u64,
    pub lost: u64,
    pub ns: f64,
}

impl Cost {
    pub fn each(&self) -> f64 {
        self.ns / self.taken.max(1) as f64
    }

    /// Of what was sent, what was taken.
    pub fn share(&self) -> f64 {
        self.taken as f64 / self.sent.max(1) as f64
    }
}

impl Row {
    pub fn print(&self) {
        println!(
            "{:<28} {:>8.0} {:>8.0} {:>6.2} {:>9.0} {:>9.0} {:>6.2} {:>9} {:>8} {:>8} {:>10}",
            self.name,
            self.victim.sent as f64 / self.seconds,
            self.victim.taken as f64 / self.seconds,
            self.victim.share(),
            self.bare.each(),
            self.victim.each(),
            self.victim.each() / self.bare.each(),
            self.bare.lost,
            self.victim.lost,
            self.answers,
            self.handshakes
        );
    }

    pub fn judge(&self, shaped: bool, knowing: bool, plan: &Plan, faults: &mut Vec<String>) -> Result<()> {
        // Silence and bounds hold on any machine; how long things take only on a quiet one.
        if knowing {
            let most = self.answers_max(plan);
            ensure!(self.answers as f64 <= most, "{}: {} answers, not {most:.0}", self.name, self.answers);
            // Else the silence towards strangers could be that of a counter that counts nothing.
            ensure!(self.answers > 0, "{}: void: nobody was answered", self.name);
            ensure!(self.handshakes > 0, "{}: void: no handshake without a fault was taken", self.name);
        } else {
            ensure!(self.answers == 0, "{}: strangers were answered {} times", self.name, self.answers);
        }
        self.void(plan)?;
        self.costs(shaped, plan, faults);
        Ok(())
    }

    /// The most answers that may leave: those of each second, also of one that was cut.
    pub fn answers_max(&self, plan: &Plan) -> f64 {
        ANSWERS_PER_SECOND_MAX * (self.seconds + f64::from(plan.rounds))
    }

    /// An error when too little was sent or taken for the row to mean anything.
    pub fn void(&self, plan: &Plan) -> Result<()> {
        let (sent_min, taken_min) =
            if plan.judge { (SENT_MIN_JUDGED, TAKEN_MIN_JUDGED) } else { (SENT_MIN, TAKEN_MIN) };
        let asked = plan.rate as f64 * self.seconds;
        for (whose, cost) in [("the bare receiver", &self.bare), ("the victim", &self.victim)] {
            let (sent, share, name) = (cost.sent as f64 / asked, cost.share(), &self.name);
            ensure!(
                sent >= sent_min && share >= taken_min,
                "{name}: void: {sent:.2} of the datagrams were sent (at least {sent_min}) and {whose} took {share:.2} \
                 of those (at least {taken_min}): is the machine busy?"
            );
        }
        Ok(())
    }

    pub fn costs(&self, shaped: bool, plan: &Plan, faults: &mut Vec<String>) {
        let allowed = RATIO_MAX * self.bare.each() + if shaped { HANDSHAKE_NS_MAX } else { 0.0 };
        if plan.judge && self.victim.each() > allowed {
            faults.push(format!(
                "{}: {:.0} ns per datagram, not {allowed:.0}",
                self.name,
                self.victim.each()
            ));
        }
    }
}
