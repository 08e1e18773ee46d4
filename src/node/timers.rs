//! When a node wants to be woken, what it does then, and which gets it gives up.

use std::time::Duration;

use super::{Clock, Node, Report};
use crate::base::Time;
use crate::base::fileop::JobId;
use crate::limits::{GET_LONELY_MS_MAX, GET_NETWORK_MS_MAX, GET_STARVED_MS_MAX, PROGRESS_MS};

impl Node {
    /// When [`super::Input::Tick`] is wanted.
    pub fn poll_timeout(&self) -> Option<Time> {
        let lonely = self.lonely_since.map(|since| since + Duration::from_millis(GET_LONELY_MS_MAX));
        let first = self.timers.first().map(|(at, _)| *at);
        let others = [
            self.sessions.poll_timeout(),
            self.shaping.poll_timeout(),
            self.loans.poll_timeout(),
            self.friends.poll_timeout(),
            self.introducing.poll_timeout(),
            self.fetch.poll_timeout(),
            self.serve.poll_timeout(),
            self.keep.poll_timeout(),
            self.push.poll_timeout(),
            self.circuits.poll_timeout(),
            self.overlay.poll_timeout(),
            self.inners.poll_timeout(),
            self.punch.poll_timeout(),
            self.stun.poll_timeout(),
            self.meanings.poll_timeout(),
            self.meetings.first().map(|(until, ..)| *until),
            self.next_progress,
            lonely,
        ];
        others.into_iter().flatten().chain(first).min()
    }

    pub(super) fn handle_timeout(&mut self, clock: Clock) {
        let now = clock.now;
        if self.sessions.poll_timeout().is_some_and(|at| at <= now) {
            self.sessions.handle_timeout(now, clock.wall);
        }
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.remove(&(at, id));
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.timer = None;
                peer.connection.handle_timeout(now);
            }
            self.touch(id);
        }
        self.shaping.handle_timeout(now);
        self.lend_due(clock);
        // Who was lent something is looked at with the rest, after this.
        self.loans.looked();
        self.end_promises(now);
        self.measure_line(now);
        self.fetch.handle_timeout(now);
        self.serve.handle_timeout(now, &mut self.acts);
        self.keep.handle_timeout(now, &mut self.keep_acts);
        self.end_slow_meetings(now);
        self.watch_gets(now);
    }

    /// Reports progress, and gives up jobs that find nobody to ask.
    /// Friends that are connected, and answer without ever sending what is wanted, do not keep a `get` for ever.
    fn watch_food(&mut self, now: Time) {
        let slices = self.fetch.counters().slices;
        if slices != self.fed.0 || self.fetch.is_idle() {
            self.fed = (slices, now);
        }
        if now.since(self.fed.1) >= Duration::from_millis(GET_STARVED_MS_MAX) {
            self.fed = (slices, now);
            let why = "the connected friends have sent nothing that is wanted for minutes; \
                       run the same get again to resume";
            let jobs: Vec<JobId> = self.get.progress().map(|(id, _)| id).collect();
            jobs.into_iter().for_each(|job| self.get.cancel(job, why));
        }
    }

    fn watch_gets(&mut self, now: Time) {
        if self.get.is_idle() {
            (self.lonely_since, self.next_progress) = (None, None);
            self.fed.1 = now;
            return;
        }
        if self.next_progress.is_some_and(|at| at <= now) {
            self.next_progress = Some(now + Duration::from_millis(PROGRESS_MS));
            let progress = self.get.progress().map(|(id, progress)| Report::Progress(id, progress.clone()));
            self.reports.extend(progress);
        }
        if self.fetch.peers() > 0 {
            self.lonely_since = None;
            return self.watch_food(now);
        }
        let since = *self.lonely_since.get_or_insert(now);
        let network = self.overlay.is_on();
        let busy =
            self.overlay.finding.is_busy() && now.since(since) < Duration::from_millis(GET_NETWORK_MS_MAX);
        if now.since(since) >= Duration::from_millis(GET_LONELY_MS_MAX) && !busy {
            let friends = self.friends.len();
            let why = match self.liars.len() {
                0 if network && friends == 0 => {
                    "the network names nobody who answers and has it; run the same get \
                     again to resume"
                        .to_owned()
                }
                0 if network => format!(
                    "no friend answers ({friends} known), and the network names nobody else who answers and has it; \
                     run the same get again to resume"
                ),
                0 => format!(
                    "no friend answers ({friends} known); check that they run and can be reached \
                     (tornet status), then run the same get again to resume"
                ),
                liars => format!(
                    "{liars} of this node's {friends} friends sent wrong bytes and no other answers; \
                     the log names them; connect a friend that has it and run the same get again to resume"
                ),
            };
            let jobs: Vec<JobId> = self.get.progress().map(|(id, _)| id).collect();
            jobs.into_iter().for_each(|job| self.get.cancel(job, &why));
            self.lonely_since = None;
        }
    }
}
