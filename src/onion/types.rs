//! What the core of circuits is told and what it tells.

use std::ops::Range;

use super::table::CircuitKey;
use crate::base::PublicKey;
use crate::wire::build::{NextHop, REQUEST_SIZE, Status};
use crate::wire::cell::{EndWhy, Inner};

/// A session with a neighbour (or one lane of it), as the caller numbers them. Never used again after it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What came of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as it lies there now, to this neighbour.
    Forward {
        /// Which.
        link: LinkId,
    },
    /// A circuit ends here, and this is what it brought.
    Content {
        /// Which circuit.
        circuit: CircuitKey,
        /// What it is; never [`Inner::Padding`].
        kind: Inner,
        /// Where it lies in the cell, opened.
        content: Range<usize>,
    },
    /// Dealt with; there may be events and messages to send.
    Handled,
    /// Of no use. Nothing else changed, but for [`DropCause::Forged`], which ended its circuit.
    Dropped(DropCause),
}

/// Why a cell was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropCause {
    /// Of a circuit that there is not (any more).
    Unknown,
    /// It came before: a cell, or a request.
    Duplicate,
    /// Behind its window, of an epoch that is over, or of a circuit that is not ready for it.
    Late,
    /// Failed authentication; the circuit is ended.
    Forged,
    /// A request that was not made for this relay's keys.
    Foreign,
    /// A request beyond a bound or a rate.
    Busy,
    /// Authentic, and not what it should be; the circuit is ended.
    Malformed,
}

/// What the caller should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request came, and the onion keys are another shard's: its [`super::Onion::agree`] says what
    /// [`super::Onion::agreed`] wants to know.
    Open {
        /// Which circuit.
        circuit: CircuitKey,
        /// The request, sealed.
        request: Box<[u8; REQUEST_SIZE]>,
    },
    /// A circuit shall be led on. Answer with [`super::Onion::extend`] or [`super::Onion::refuse`].
    Relay {
        /// Which.
        circuit: CircuitKey,
        /// To whom.
        next: NextHop,
    },
    /// A circuit shall end here. Answer with [`super::Onion::accept`] or [`super::Onion::refuse`].
    End {
        /// Which.
        circuit: CircuitKey,
        /// The same for all circuits that shall keep one address.
        resume: [u8; 32],
    },
    /// A circuit of ours is open.
    Opened {
        /// Which.
        circuit: CircuitKey,
    },
    /// A circuit of ours is old enough that another should be built in its place.
    Aging {
        /// Which.
        circuit: CircuitKey,
    },
    /// A circuit of ours, or one that ended here, is over (or was never built). Its key is dead.
    Ended {
        /// Which.
        circuit: CircuitKey,
        /// Why.
        why: EndedWhy,
    },
}

/// Why a circuit is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndedWhy {
    /// The caller closed it.
    #[error("closed here")]
    Local,
    /// A neighbour ended it.
    #[error("ended by the neighbour ({0:?})")]
    Neighbour(EndWhy),
    /// The session with the neighbour is over.
    #[error("the neighbour is gone")]
    Lost,
    /// No answer came in time.
    #[error("no answer from the path")]
    NoAnswer,
    /// A hop refused.
    #[error("hop {hop} refused ({status:?})")]
    Refused {
        /// Which, from 0.
        hop: usize,
        /// What it said.
        status: Status,
    },
    /// A layer did not open.
    #[error("the layer of hop {hop} is not what it sealed")]
    Forged {
        /// Which, from 0.
        hop: usize,
    },
    /// It brought something that nobody sends.
    #[error("malformed content")]
    Malformed,
    /// Nothing came for too long, or its time is over.
    #[error("its time is over")]
    Expired,
}

/// One hop of a path, as the origin knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HopInfo {
    /// Who and where.
    pub hop: NextHop,
    /// Its onion key.
    pub onion: super::OnionKey,
}

/// A path, chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The session with the first hop.
    pub link: LinkId,
    /// 1 to [`crate::limits::LAYERS_MAX`] hops, the exit last.
    pub hops: Vec<HopInfo>,
    /// Layers beyond those of the hops.
    pub imaginary: u8,
    /// What the exit knows an address by.
    pub resume: [u8; 32],
}

impl Route {
    /// The hops' keys.
    pub fn keys(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.hops.iter().map(|hop| hop.hop.card.key)
    }
}

/// Why no circuit was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// No hop, or more layers than there may be.
    #[error("a path has 1 to 5 layers")]
    Length,
    /// A relay's onion key is no key.
    #[error("a relay's onion key is unusable")]
    BadKey,
    /// There is no session with the first hop.
    #[error("the first hop is not connected")]
    NoLink,
    /// [`crate::limits::CIRCUITS_OWN_MAX`] is reached.
    #[error("too many circuits")]
    Full,
}

/// Why nothing was sealed. The cell is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No such circuit, or it is not open, or it is being closed.
    #[error("no such circuit")]
    Unknown,
    /// More content than its cell carries, or a cell of no class.
    #[error("content longer than its cell")]
    Length,
}

/// What happened so far, each a monotonic count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Cells passed on from origins.
    pub forward: u64,
    /// Cells passed on to origins.
    pub backward: u64,
    /// Cells that ended here with content.
    pub delivered: u64,
    /// Cells sealed here as origin or end.
    pub sealed: u64,
    /// Cells of padding received.
    pub padding: u64,
    /// Dropped: of no circuit.
    pub unknown: u64,
    /// Dropped: there before.
    pub duplicates: u64,
    /// Dropped: too late, or too early.
    pub late: u64,
    /// Failed authentication.
    pub forged: u64,
    /// Dropped: requests for other keys.
    pub foreign: u64,
    /// Dropped: requests beyond a bound.
    pub busy: u64,
    /// Dropped: authentic and malformed.
    pub malformed: u64,
    /// Requests taken.
    pub asked: u64,
    /// Circuits that became relaying here.
    pub relayed: u64,
    /// Circuits that ended here.
    pub accepted: u64,
    /// Requests refused.
    pub refused: u64,
    /// Circuits begun here.
    pub begun: u64,
    /// Circuits of ours that opened.
    pub opened: u64,
    /// Circuits over, of any kind.
    pub ended: u64,
}

impl Counters {
    pub(super) fn drop(&mut self, cause: DropCause) {
        *match cause {
            DropCause::Unknown => &mut self.unknown,
            DropCause::Duplicate => &mut self.duplicates,
            DropCause::Late => &mut self.late,
            DropCause::Forged => &mut self.forged,
            DropCause::Foreign => &mut self.foreign,
            DropCause::Busy => &mut self.busy,
            DropCause::Malformed => &mut self.malformed,
        } += 1;
    }
}
