//! What happened, twice: as a running hash, by which two runs are told apart, and on request as one line per event
//! for a person.
//!
//! The hash takes in every event, whether it is shown or not, and the bytes of everything that is sent. Times are
//! seconds of the virtual clock.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use super::Crash;
use super::effects::Observer;
use super::link::Lost;
use super::nat::{Blocked, NatConfig};
use crate::base::Time;
use crate::base::fileop::FileAct;

/// What became of a datagram at its sender's end of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It will arrive.
    Arrives {
        /// When.
        at: Time,
        /// With which bit flipped.
        flip: Option<usize>,
        /// When its copy arrives, if it was duplicated.
        copy: Option<Time>,
        /// Whether the link marked it: congestion experienced.
        marked: bool,
    },
    /// It will not.
    Lost(Gone),
}

/// Why a datagram was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gone {
    /// The link.
    Link(Lost),
    /// An address translator.
    Nat(Blocked),
    /// Nobody has that address, or it cannot be reached from there.
    NoRoute,
    /// Whoever has it is down.
    Down,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link(Lost::Down) => "link down",
            Self::Link(Lost::Mtu) => "longer than the MTU",
            Self::Link(Lost::Queue) => "queue",
            Self::Link(Lost::Noise) => "noise",
            Self::Nat(Blocked::Unmapped) => "NAT: no mapping",
            Self::Nat(Blocked::Filtered) => "NAT: filtered",
            Self::Nat(Blocked::Full) => "NAT: table full",
            Self::Nat(Blocked::Hairpin) => "NAT: no hairpin",
            Self::NoRoute => "nobody there",
            Self::Down => "node down",
        })
    }
}

/// One event. Nodes are numbered as in [`super::net::Net::nodes`].
#[derive(Debug, Clone, Copy, Hash)]
pub enum Event<'a> {
    /// A node hands a train to its device.
    Train {
        /// Who.
        from: usize,
        /// Where to.
        target: SocketAddr,
        /// All its bytes.
        bytes: &'a [u8],
        /// Size of each datagram but the last, bytes.
        segment: u32,
        /// ECN code point.
        ecn: u8,
    },
    /// A datagram goes out.
    Sent {
        /// Who sent it.
        from: usize,
        /// To whom, when anybody has that address.
        to: Option<usize>,
        /// Its length, bytes.
        len: usize,
        /// What becomes of it.
        fate: Fate,
    },
    /// Datagrams reach a node together.
    Arrived {
        /// From whom.
        from: usize,
        /// The node.
        to: usize,
        /// Where they seem to come from.
        source: SocketAddr,
        /// How many.
        datagrams: usize,
        /// All their bytes.
        len: usize,
        /// ECN code point.
        ecn: u8,
    },
    /// A datagram that no node sent reaches a node.
    Injected {
        /// The node.
        to: usize,
        /// Where it seems to come from.
        source: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// A datagram is lost at the far end of its link.
    Vanished {
        /// Who sent it.
        from: usize,
        /// To whom.
        to: usize,
        /// Its length, bytes.
        len: usize,
        /// Why.
        why: Gone,
    },
    /// A deadline of a node has come.
    Timer(usize),
    /// Send buffers that a node waited for came back.
    BufferBack(usize),
    /// A node is asked.
    Command(usize, &'a str),
    /// A node tells.
    Report(usize, &'a str),
    /// A node asks its files thread.
    FileOp(usize, &'a str),
    /// The files thread has done it.
    FileDone(usize, &'a str),
    /// A slice is to be faulted in.
    Cold(usize, u64, u32),
    /// It is resident.
    Warmed(usize, u64, u32),
    /// One shard of a node says something to another.
    Cross(usize, u8, u8, &'a str),
    /// A node is taken down.
    Crash(usize, Crash),
    /// A node comes up.
    Start(usize),
    /// A node has another address.
    Moved(usize, SocketAddr),
    /// A node's wall clock is off by so many milliseconds from now on.
    Clock(usize, i64),
    /// A link is another from now on.
    Link(usize, usize, &'a str),
    /// A translator stands before a node from now on.
    Nat(usize, NatConfig),
    /// The translator before a node has forgotten its mappings, so many.
    Rebound(usize, usize),
    /// The caller's own time has come.
    Call(Option<usize>, u64),
    /// Something that the caller wants remembered.
    Note(Option<usize>, &'a str),
}

impl Event<'_> {
    /// The nodes that it is about.
    fn nodes(&self) -> [Option<usize>; 2] {
        match *self {
            Self::Train { from, .. } => [Some(from), None],
            Self::Sent { from, to, .. } => [Some(from), to],
            Self::Injected { to, .. } => [Some(to), None],
            Self::Arrived { from, to, .. } | Self::Vanished { from, to, .. } | Self::Link(from, to, _) => {
                [Some(from), Some(to)]
            }
            Self::Timer(node)
            | Self::BufferBack(node)
            | Self::Command(node, _)
            | Self::Report(node, _)
            | Self::FileOp(node, _)
            | Self::FileDone(node, _)
            | Self::Cold(node, ..)
            | Self::Warmed(node, ..)
            | Self::Cross(node, ..)
            | Self::Crash(node, _)
            | Self::Start(node)
            | Self::Moved(node, _)
            | Self::Clock(node, _)
            | Self::Nat(node, _)
            | Self::Rebound(node, _) => [Some(node), None],
            Self::Call(node, _) | Self::Note(node, _) => [node, None],
        }
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Train { from, target, bytes, segment, ecn } => {
                let count = bytes.len().div_ceil(segment.max(1) as usize);
                write!(f, "n{from} sends {count} × {segment} B, {} B in all, to {target}", bytes.len())?;
                write!(f, "{}", ecn_name(ecn))
            }
            Self::Sent { from, to, len, fate } => {
                match to {
                    Some(to) => write!(f, "n{from}→n{to} {len} B ")?,
                    None => write!(f, "n{from}→? {len} B ")?,
                }
                match fate {
                    Fate::Lost(why) => write!(f, "lost: {why}"),
                    Fate::Arrives { at, flip, copy, marked } => {
                        write!(f, "arrives {}", Seconds(at))?;
                        flip.map_or(Ok(()), |bit| write!(f, ", bit {bit} flipped"))?;
                        copy.map_or(Ok(()), |at| write!(f, ", again {}", Seconds(at)))?;
                        f.write_str(if marked { ", marked" } else { "" })
                    }
                }
            }
            Self::Arrived { from, to, source, datagrams, len, ecn } => {
                write!(f, "n{from}→n{to} ")?;
                if datagrams > 1 {
                    write!(f, "{datagrams} datagrams, ")?;
                }
                write!(f, "{len} B arrived from {source}{}", ecn_name(ecn))
            }
            Self::Injected { to, source, bytes } => {
                write!(f, "→n{to} {} B arrived from {source}, made up", bytes.len())
            }
            Self::Vanished { from, to, len, why } => {
                write!(f, "n{from}→n{to} {len} B lost at the end: {why}")
            }
            Self::Timer(node) => write!(f, "n{node} timer"),
            Self::BufferBack(node) => write!(f, "n{node} send buffer back"),
            Self::Command(node, what) => write!(f, "n{node} command: {what}"),
            Self::Report(node, what) => write!(f, "n{node} report: {what}"),
            Self::FileOp(node, what) => write!(f, "n{node} file: {what}"),
            Self::FileDone(node, what) => write!(f, "n{node} file done: {what}"),
            Self::Cold(node, handle, slice) => write!(f, "n{node} chunk {handle} slice {slice} is cold"),
            Self::Warmed(node, handle, slice) => {
                write!(f, "n{node} chunk {handle} slice {slice} is resident")
            }
            Self::Cross(node, from, to, what) => write!(f, "n{node} shard {from} to shard {to}: {what}"),
            Self::Crash(node, Crash::Process) => write!(f, "n{node} process dies"),
            Self::Crash(node, Crash::Power) => write!(f, "n{node} power fails"),
            Self::Start(node) => write!(f, "n{node} starts"),
            Self::Moved(node, address) => write!(f, "n{node} is at {address}"),
            Self::Clock(node, skew) => write!(f, "n{node} wall clock off by {skew} ms"),
            Self::Link(from, to, what) => write!(f, "n{from}→n{to} link: {what}"),
            Self::Nat(node, config) => write!(f, "n{node} behind {config:?}"),
            Self::Rebound(node, count) => write!(f, "n{node} NAT has forgotten its {count} mappings"),
            Self::Call(Some(node), token) => write!(f, "n{node} call {token}"),
            Self::Call(None, token) => write!(f, "call {token}"),
            Self::Note(Some(node), what) => write!(f, "n{node} {what}"),
            Self::Note(None, what) => f.write_str(what),
        }
    }
}

fn ecn_name(ecn: u8) -> &'static str {
    match ecn & 3 {
        0 => "",
        1 => ", ECT(1)",
        2 => ", ECT(0)",
        _ => ", CE",
    }
}

/// A time as a person reads it: seconds, to the microsecond.
pub struct Seconds(pub Time);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.0 / 1_000_000_000, self.0.0 % 1_000_000_000 / 1000)
    }
}

/// Where lines go.
pub type Sink = Box<dyn FnMut(&str)>;

/// The record of a run.
#[derive(Default)]
pub struct Trace {
    /// What faults did.
    pub observer: Observer,
    fold: Fold,
    events: u64,
    sink: Option<Sink>,
    only: BTreeSet<usize>,
    tail: Option<VecDeque<String>>,
}

/// Lines of [`Trace::tail`].
const TAIL: usize = 60;

impl Trace {
    /// From now on, a line per event goes to `sink`; of all nodes, or of those in `only` when there are any.
    pub fn show(&mut self, only: impl IntoIterator<Item = usize>, sink: Sink) {
        self.only = only.into_iter().collect();
        self.sink = Some(sink);
    }

    /// No lines any more.
    pub fn hide(&mut self) {
        self.sink = None;
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hash of everything so far, in hexadecimal. Means something only to the same build of the program.
    pub fn hash(&self) -> String {
        let mut hasher = self.fold.hasher.clone();
        hasher.update(&self.fold.waiting);
        hasher.finalize().to_hex().to_string()
    }

    /// Keeps the last lines from now on, whether they are shown or not, for whoever is about to give up.
    pub fn keep_tail(&mut self) {
        self.tail.get_or_insert_default();
    }

    /// The last lines, as far as they were kept.
    pub fn tail(&self) -> String {
        self.tail.iter().flatten().map(|line| format!("\n  {line}")).collect()
    }

    /// Something happens.
    pub fn note(&mut self, now: Time, event: Event<'_>) {
        self.events += 1;
        now.hash(&mut self.fold);
        event.hash(&mut self.fold);
        self.fold.settle();
        self.observer.note(&event);
        if let Some(tail) = &mut self.tail {
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(format!("{} {event}", Seconds(now)));
        }
        if let Some(sink) = &mut self.sink
            && (self.only.is_empty() || event.nodes().iter().flatten().any(|node| self.only.contains(node)))
        {
            sink(&format!("{} {event}", Seconds(now)));
        }
    }
}

/// Gathers what derived [`Hash`] implementations write, and folds it in larger pieces: BLAKE3 is several times
/// faster on these.
#[derive(Default)]
struct Fold {
    hasher: blake3::Hasher,
    waiting: Vec<u8>,
}

/// Bytes that are folded together.
const FOLD_SIZE: usize = 64 << 10;

impl Fold {
    fn settle(&mut self) {
        if self.waiting.len() >= FOLD_SIZE {
            self.hasher.update(&self.waiting);
            self.waiting.clear();
        }
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("only BLAKE3's result is asked for")
    }
}

/// A file operation in a few words.
pub fn describe(act: &FileAct) -> String {
    let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    match act {
        FileAct::Begin { root, .. } => format!("begin {root}"),
        FileAct::Directory { dir, parent, name: n } => format!("directory {dir} {:?} in {parent}", name(n)),
        FileAct::Open { file, parent, name: n, size } => {
            format!("open {file} {:?} in {parent}, {size} B", name(n))
        }
        FileAct::ReadBack { file, offset, len, .. } => format!("read {file} at {offset}, {len} B"),
        FileAct::Write { file, offset, len, .. } => format!("write {file} at {offset}, {len} B"),
        FileAct::Finish { file, .. } => format!("finish {file}"),
        FileAct::Whole { parent, name: n, len, .. } => format!("whole {:?} in {parent}, {len} B", name(n)),
        FileAct::Symlink { parent, name: n, .. } => format!("symlink {:?} in {parent}", name(n)),
        FileAct::FinishDirectory { dir, .. } => format!("finish directory {dir}"),
        FileAct::End { complete } => format!("end, {}", if *complete { "complete" } else { "incomplete" }),
    }
}
