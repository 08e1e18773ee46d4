//! The shards of a node, seen from its other threads as one: which shard a command goes to, and one answer made of
//! those of all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::give::GiveNews;
use super::{Full, Handle};
use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::base::PublicKey;
use crate::base::fileop::JobId;
use crate::io::latency::Latencies;
use crate::limits::API_QUESTIONS_MAX;
use crate::node::command::{Friend, NatRules, Snapshot};
use crate::node::{Command, Report};

/// Says which shard is a peer's home.
pub(super) type HomeOf = Box<dyn Fn(&PublicKey) -> u8 + Send + Sync>;

/// All shards of a node.
#[derive(Clone)]
pub(super) struct Group(Arc<Inner>);

struct Inner {
    shards: Vec<Handle>,
    home_of: HomeOf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where each running `get` runs.
    jobs: BTreeMap<JobId, usize>,
    /// Who hears of what each job gives away. A job has at most so many chunks out, and so many words of them wait.
    givers: BTreeMap<JobId, Sender<GiveNews>>,
    /// The home of the friend that the configuration names first.
    first_home: usize,
    /// Questions that not every shard has answered: how many have not, and what the others said.
    asked: BTreeMap<u64, (usize, Snapshot)>,
}

impl Group {
    pub(super) fn new(shards: Vec<Handle>, home_of: HomeOf) -> Self {
        Self(Arc::new(Inner { shards, home_of, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a job that gives chunks away hear of them, and not the control thread, until it is [`Self::gave`].
    pub(super) fn giver(&self, job: JobId) -> Receiver<GiveNews> {
        let (sender, news) = unbounded();
        self.state().givers.insert(job, sender);
        news
    }

    /// A job gives nothing away any more.
    pub(super) fn gave(&self, job: JobId) {
        let mut state = self.state();
        state.givers.remove(&job);
        state.jobs.remove(&job);
    }

    /// Hands a command to whom it concerns.
    pub(super) fn command(&self, command: Command) -> Result<(), Full> {
        let shards = &self.0.shards;
        match command {
            // The shards say goodbye for themselves when they are told to stop.
            Command::Shutdown => shards.iter().for_each(Handle::stop),
            Command::Friends(friends) => self.friends(&friends)?,
            Command::Tunnels(tunnels) => {
                for shard in shards {
                    shard.command(Command::Tunnels(tunnels.clone()))?;
                }
            }
            Command::Introductions(rules) => {
                for shard in shards {
                    shard.command(Command::Introductions(rules.clone()))?;
                }
            }
            Command::Relay(rules) => {
                for shard in shards {
                    shard.command(Command::Relay(rules))?;
                }
            }
            Command::Exit(rules) => {
                for shard in shards {
                    shard.command(Command::Exit(rules.clone()))?;
                }
            }
            // The first keeps it; the others hear what they are to hand it.
            Command::Circuit(want) => {
                for shard in shards {
                    shard.command(Command::Circuit(want.clone()))?;
                }
            }
            Command::Get(request) => {
                let (mut state, job) = (self.state(), request.job);
                let shard = self.roomiest(&state);
                shards[shard].command(Command::Get(request))?;
                state.jobs.insert(job, shard);
            }
            // Circuits of this node's own are the first's.
            Command::Anonymous(anonymous) => {
                let (mut state, job) = (self.state(), anonymous.job());
                let first = shards.first().ok_or(Full)?;
                first.command(Command::Anonymous(anonymous))?;
                state.jobs.insert(job, 0);
            }
            Command::Limits(limits) => {
                for shard in shards {
                    shard.command(Command::Limits(limits.clone()))?;
                }
            }
            Command::Overlay(rules) => {
                for shard in shards {
                    shard.command(Command::Overlay(rules.clone()))?;
                }
            }
            Command::Intents(rules) => {
                for shard in shards {
                    shard.command(Command::Intents(rules))?;
                }
            }
            Command::Leave(in_ms) => {
                for shard in shards {
                    shard.command(Command::Leave(in_ms))?;
                }
            }
            Command::Online(for_s) => {
                for shard in shards {
                    shard.command(Command::Online(for_s))?;
                }
            }
            Command::AskStay { peer, more_s } => {
                let home = shards.get(usize::from((self.0.home_of)(&peer))).ok_or(Full)?;
                home.command(Command::AskStay { peer, more_s })?;
            }
            // Each has a port of its own, and was mapped apart.
            Command::Nat(rules) => {
                for (index, shard) in shards.iter().enumerate() {
                    let mapped = rules.mapped.iter().skip(index).step_by(shards.len()).copied().collect();
                    shard.command(Command::Nat(NatRules { mapped, ..rules.clone() }))?;
                }
            }
            // The overlay's core is on the first.
            Command::Provide(_) | Command::Restore(_) | Command::Peers { .. } | Command::Push { .. } => {
                shards.first().map_or(Ok(()), |shard| shard.command(command))?;
            }
            Command::Cancel(job) => {
                let shard = self.state().jobs.get(&job).copied();
                if let Some(shard) = shard {
                    shards[shard].command(Command::Cancel(job))?;
                }
            }
            Command::Status { token } => {
                let mut state = self.state();
                // Whoever asked may have stopped waiting for a shard that does not answer.
                while state.asked.len() >= API_QUESTIONS_MAX {
                    state.asked.pop_first();
                }
                for shard in shards {
                    shard.command(Command::Status { token })?;
                }
                state.asked.insert(token, (shards.len(), Snapshot::default()));
            }
        }
        Ok(())
    }

    fn friends(&self, friends: &[Friend]) -> Result<(), Full> {
        self.state().first_home =
            friends.first().map_or(0, |friend| usize::from((self.0.home_of)(&friend.card.key)));
        for shard in &self.0.shards {
            shard.command(Command::Friends(friends.to_vec()))?;
        }
        Ok(())
    }

    /// The shard with the fewest gets. Among equals, the home of the first friend and those after it: there one `get`
    /// needs no further lane.
    fn roomiest(&self, state: &State) -> usize {
        let count = self.0.shards.len();
        let load = |shard: usize| state.jobs.values().filter(|at| **at == shard).count();
        (0..count).map(|step| (state.first_home + step) % count).min_by_key(|shard| load(*shard)).unwrap_or(0)
    }

    /// Takes a report of a shard; what the control thread shall hear of it.
    pub(super) fn report(&self, report: Report) -> Option<Report> {
        match report {
            Report::Status(token, snapshot) => {
                let mut state = self.state();
                let (left, all) = state.asked.get_mut(&token)?;
                all.add(*snapshot);
                *left -= 1;
                if *left > 0 {
                    return None;
                }
                let (_, mut all) = state.asked.remove(&token)?;
                all.join_lanes();
                Some(Report::Status(token, Box::new(all)))
            }
            Report::Placed(placed) => {
                if let Some(giver) = self.state().givers.get(&placed.job) {
                    let _ = giver.send(GiveNews::Placed(placed));
                }
                None
            }
            Report::Done(job, _) | Report::Failed(job, _) => {
                let mut state = self.state();
                state.jobs.remove(&job);
                let Some(giver) = state.givers.get(&job) else { return Some(report) };
                if let Report::Failed(_, why) = report {
                    let _ = giver.send(GiveNews::Failed(why));
                }
                None
            }
            Report::Progress(job, _) if self.state().givers.contains_key(&job) => None,
            Report::Progress(..) | Report::Warning(_) | Report::Peers(_) => Some(report),
        }
    }

    /// All shards.
    pub(super) fn shards(&self) -> &[Handle] {
        &self.0.shards
    }

    /// How long things took in each.
    pub(super) fn latencies(&self) -> Vec<Latencies> {
        self.0.shards.iter().map(Handle::latencies).collect()
    }

    /// Name, help and sum of each counter of the loops.
    pub(super) fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut all = self.0.shards.iter().map(Handle::counters);
        let first = all.next().unwrap_or_default();
        all.fold(first, |mut sum, one| {
            sum.iter_mut().zip(one).for_each(|(sum, one)| sum.2 += one.2);
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::NodeId;
    use crate::node::command::PeerSnapshot;

    fn peer(key: u8, lane: u16, bytes: u64) -> PeerSnapshot {
        PeerSnapshot {
            node: NodeId([key; 20]),
            key: PublicKey([key; 32]),
            lane,
            rank: 0,
            trust: None,
            introduced: None,
            address: None,
            relayed: false,
            bridged: false,
            relayed_by: None,
            straight_after_us: None,
            connected: true,
            rtt_us: 1 + u64::from(lane),
            sent_bytes: bytes,
            received_bytes: 10 * bytes,
            lost_packets: 1,
            window: 100,
            mtu: 1200,
            agent: String::new(),
            shaped: crate::node::command::ShapedSnapshot::default(),
            intent: crate::node::command::IntentSnapshot::default(),
        }
    }

    #[test]
    fn who_gives_hears_of_its_chunks_and_nobody_else_does() {
        let group = Group::new(vec![Handle::new().expect("an eventfd")], Box::new(|_| 0));
        let (own, other) = (JobId(1), JobId(2));
        let news = group.giver(own);
        let chunk = crate::base::ChunkId([1; 20]);
        let placed = |job| Report::Placed(crate::node::command::Placed { job, chunk, keepers: 3 });
        assert!(group.report(placed(own)).is_none() && group.report(placed(other)).is_none());
        assert!(matches!(news.try_recv(), Ok(GiveNews::Placed(placed)) if placed.job == own));
        assert!(news.try_recv().is_err());
        assert!(group.report(Report::Failed(own, "no circuit".into())).is_none());
        assert!(matches!(news.try_recv(), Ok(GiveNews::Failed(why)) if why == "no circuit"));
        group.gave(own);
        assert!(group.report(Report::Failed(own, "late".into())).is_some());
    }

    #[test]
    fn one_answer_is_made_of_all_and_a_peer_of_its_lanes() {
        let shards: Vec<_> = (0..2).map(|_| Handle::new().expect("an eventfd")).collect();
        let group = Group::new(shards, Box::new(|key| key.0[0] % 2));
        group.command(Command::Status { token: 7 }).expect("room");
        let of = |peers, value| Snapshot { peers, counters: vec![("a", "", value)], ..Snapshot::default() };
        let first = of(vec![peer(1, 3, 5), peer(2, 0, 1)], 4);
        assert!(group.report(Report::Status(7, Box::new(first))).is_none());
        let second = of(vec![peer(1, 0, 7)], 6);
        let Some(Report::Status(7, all)) = group.report(Report::Status(7, Box::new(second))) else {
            panic!("the last answer completes it");
        };
        assert_eq!(all.counters, [("a", "", 10)]);
        let seen: Vec<_> = all.peers.iter().map(|p| (p.key.0[0], p.lane, p.sent_bytes, p.rtt_us)).collect();
        assert_eq!(seen, [(1, 0, 12, 1), (2, 0, 1, 2 - 1)]);
        assert!(group.report(Report::Status(7, Box::default())).is_none(), "nobody asks any more");
    }
}
