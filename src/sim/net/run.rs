//! The loop: one event at a time, and what each does to a node. A shard here does what `shard::driver` does.

use std::time::Duration;

use super::node::up_to;
use super::queue::{Event, Host};
use super::{Net, Notice};
use crate::base::fileop::FileOp;
use crate::base::{Rng, Time};
use crate::limits::{FILE_OPS_MAX, OVERDUE_PAUSE_US};
use crate::node::{Cross, Input, Output, Report};
use crate::sim::effects::Effect;
use crate::sim::trace::{Event as Traced, describe};

impl Net {
    /// Lets one thing happen; false when nothing does until the deadline, which is the time then.
    pub(super) fn step(&mut self, deadline: Time) -> bool {
        let Some((at, event)) = self.queue.pop(deadline) else {
            self.now = self.now.max(deadline);
            return false;
        };
        self.now = at;
        self.turn();
        match event {
            Event::Arrival(flight) => self.arrive(*flight),
            Event::Timer(host) if self.is_alive(host) => self.timer(host),
            Event::FileTurn(host) if self.is_alive(host) => self.file_turn(host),
            Event::FileAnswer(host) if self.is_alive(host) => self.file_answer(host),
            Event::Warmed(host, handle, slice) if self.is_alive(host) => {
                let node = host.node as usize;
                self.trace.note(self.now, Traced::Warmed(node, handle, slice));
                self.input(node, host.shard, Input::Warmed { handle, slice });
            }
            Event::Kept(host, number, chunk) if self.is_alive(host) => {
                let node = host.node as usize;
                let kept = self.nodes[node].world.store.keep_copy(chunk.id, chunk.bytes);
                self.input(node, host.shard, Input::Kept { number, kept });
            }
            Event::Cross(host, from, cross) if self.is_alive(host) => {
                self.input(host.node as usize, host.shard, Input::Cross { from, cross: *cross });
            }
            Event::BufferBack(host) if self.is_alive(host) => {
                self.trace.note(self.now, Traced::BufferBack(host.node as usize));
                self.drain(host.node as usize, host.shard);
            }
            Event::Call(host, token) if host.is_none_or(|host| self.is_alive(host)) => {
                let node = host.map(|host| host.node as usize);
                self.trace.note(self.now, Traced::Call(node, token));
                self.notices.push_back(Notice::Call { node, token });
            }
            // Meant for a life that is over.
            _ => {}
        }
        true
    }

    fn is_alive(&self, host: Host) -> bool {
        self.nodes[host.node as usize].life == host.life
    }

    /// Something happens to a shard.
    pub(super) fn input(&mut self, node: usize, shard: u8, input: Input) {
        let sim = &mut self.nodes[node];
        let clock = sim.clock(self.now);
        let Some(running) = sim.shards.get_mut(usize::from(shard)) else { return };
        running.core.handle(clock, input, &mut sim.world);
        self.drain(node, shard);
    }

    /// Carries out what a shard wants, then sees when it wants to be woken.
    pub(super) fn drain(&mut self, node: usize, shard: u8) {
        let clock = self.nodes[node].clock(self.now);
        self.nodes[node].world.buffers.reclaim(self.now);
        loop {
            self.turn();
            let sim = &mut self.nodes[node];
            let Some(running) = sim.shards.get_mut(usize::from(shard)) else { return };
            if let Some(held) = running.thread.held.take() {
                if !self.file(node, shard, held) {
                    break;
                }
                continue;
            }
            match running.core.poll(clock, &mut sim.world) {
                None => break,
                Some(Output::Train(train)) => self.send(node, shard, train),
                Some(Output::Tun(packet)) => self.tun_written(node, packet),
                Some(Output::Proxied(packet)) => self.proxied(node, packet),
                Some(Output::File(operation)) => _ = self.file(node, shard, operation),
                Some(Output::Keep(number, chunk)) => {
                    let sim = &self.nodes[node];
                    let at = self.now + up_to(&mut self.rng, sim.delays.file);
                    self.queue.push(at, Event::Kept(sim.host(node, shard), number, Box::new(chunk)));
                }
                Some(Output::Cross(to, cross)) => self.cross(node, shard, to, cross),
                Some(Output::Report(report)) => self.report(node, report),
            }
        }
        let host = self.nodes[node].host(node, shard);
        let sim = &mut self.nodes[node];
        for (handle, slice) in sim.world.store.take_faulted() {
            self.trace.note(self.now, Traced::Cold(node, handle, slice));
            let at = self.now + up_to(&mut self.rng, sim.delays.warm);
            self.queue.push_ordered(at, turn(&mut self.rng), Event::Warmed(host, handle, slice));
        }
        if let Some(at) = sim.world.buffers.take_refused() {
            self.queue.push(at, Event::BufferBack(host));
        }
        self.arm(host);
    }

    fn report(&mut self, node: usize, report: Report) {
        let what = match &report {
            Report::Progress(job, _) => format!("progress of job {}", job.0),
            Report::Done(job, progress) => format!("job {} done, {} B", job.0, progress.bytes_done),
            Report::Placed(placed) => format!("{} is kept by {}", placed.chunk, placed.keepers),
            Report::Failed(job, why) => format!("job {} failed: {why}", job.0),
            Report::Warning(why) => format!("warning: {why}"),
            Report::Status(token, _) => format!("status {token}"),
            Report::Peers(known) => format!("{} peers", known.len()),
        };
        self.trace.note(self.now, Traced::Report(node, &what));
        let sim = &mut self.nodes[node];
        match report {
            Report::Progress(job, progress) => {
                sim.progress.insert(job, progress);
            }
            report => {
                self.notices.push_back(Notice::Report { node, index: sim.reports.len() });
                sim.reports.push(report);
            }
        }
    }

    /// Puts an event for the shard's deadline in the queue unless one for as early a time is there: a deadline
    /// that moved to later is noticed when the old one comes.
    fn arm(&mut self, host: Host) {
        let Some(shard) = self.nodes[host.node as usize].shards.get_mut(usize::from(host.shard)) else {
            return;
        };
        let Some(mut at) = shard.core.poll_timeout() else { return };
        if at <= self.now {
            // Reported and still there: the core waits for something else. Never spin on it.
            let reported = shard.ticked.is_some_and(|ticked| at <= ticked);
            at = if reported { self.now + Duration::from_micros(OVERDUE_PAUSE_US) } else { self.now };
        }
        if shard.armed.is_none_or(|armed| at < armed) {
            shard.armed = Some(at);
            self.queue.push(at, Event::Timer(host));
        }
    }

    fn timer(&mut self, host: Host) {
        let node = host.node as usize;
        let shard = &mut self.nodes[node].shards[usize::from(host.shard)];
        if shard.armed != Some(self.now) {
            return;
        }
        shard.armed = None;
        shard.ticked = shard.core.poll_timeout().filter(|at| *at <= self.now);
        if shard.ticked.is_some() {
            if self.rng.chance(self.drop_timers) {
                return;
            }
            self.trace.note(self.now, Traced::Timer(node));
            self.input(node, host.shard, Input::Tick);
        } else {
            self.arm(host);
        }
    }

    /// One shard says something to another of its node.
    fn cross(&mut self, node: usize, from: u8, to: u8, cross: Cross) {
        self.trace.note(self.now, Traced::Cross(node, from, to, cross.name()));
        if self.lose_crossings > 0.0 && self.rng.chance(self.lose_crossings) {
            self.trace.observer.effects.add(Effect::CrossLost, 1);
            return;
        }
        let (host, most) = (self.nodes[node].host(node, to), self.nodes[node].delays.cross);
        let at = self.now + up_to(&mut self.rng, most);
        self.queue.push_ordered(at, turn(&mut self.rng), Event::Cross(host, from, Box::new(cross)));
    }

    /// Gives an operation to the shard's files thread, or holds it until there is room; false then.
    fn file(&mut self, node: usize, shard: u8, operation: FileOp) -> bool {
        let sim = &mut self.nodes[node];
        let host = sim.host(node, shard);
        let Some(running) = sim.shards.get_mut(usize::from(shard)) else { return false };
        if running.thread.out() == FILE_OPS_MAX {
            running.thread.held = Some(operation);
            return false;
        }
        let what = format!("job {}: {}", operation.job.0, describe(&operation.act));
        self.trace.note(self.now, Traced::FileOp(node, &what));
        running.thread.waiting.push_back(operation);
        if running.thread.waiting.len() == 1 {
            self.next_file_turn(host);
        }
        true
    }

    fn next_file_turn(&mut self, host: Host) {
        let most = self.nodes[host.node as usize].delays.file;
        let at = self.now + up_to(&mut self.rng, most);
        self.queue.push_ordered(at, turn(&mut self.rng), Event::FileTurn(host));
    }

    /// The files thread does one thing.
    fn file_turn(&mut self, host: Host) {
        let sim = &mut self.nodes[host.node as usize];
        let Some(shard) = sim.shards.get_mut(usize::from(host.shard)) else { return };
        let Some(operation) = shard.thread.waiting.pop_front() else { return };
        let done = sim.files.execute(operation);
        let what = match &done.result {
            Ok(_) => format!("job {}", done.job.0),
            Err(fault) => format!("job {}: {fault}", done.job.0),
        };
        self.trace.note(self.now, Traced::FileDone(host.node as usize, &what));
        shard.thread.answers.push_back(done);
        let (more, most) = (!shard.thread.waiting.is_empty(), sim.delays.answer);
        // Answers come in the order of their operations, whichever of these events is first.
        let at = self.now + up_to(&mut self.rng, most);
        self.queue.push_ordered(at, turn(&mut self.rng), Event::FileAnswer(host));
        if more {
            self.next_file_turn(host);
        }
    }

    fn file_answer(&mut self, host: Host) {
        let shard = self.nodes[host.node as usize].shards.get_mut(usize::from(host.shard));
        if let Some(done) = shard.and_then(|shard| shard.thread.answers.pop_front()) {
            self.input(host.node as usize, host.shard, Input::FileDone(done));
        }
    }
}

/// The place of an answer among others that are due at the same time; after whatever the network brings then.
fn turn(rng: &mut Rng) -> u32 {
    1 + rng.below(u64::from(u32::MAX)) as u32
}
