//! Identifiers, units, time, places, bounded containers and seeded randomness: the words that every
//! other module speaks. Imports nothing but [`crate::limits`].

pub mod bridge;
pub mod budget;
pub mod content;
pub mod fileop;
pub mod id;
pub mod pace;
pub mod place;
pub mod prefix;
pub mod queue;
pub mod ranges;
pub mod rng;
pub mod slicebuf;
pub mod time;
pub mod timer;
pub mod tun;
pub mod units;
pub mod way;
pub mod window;

pub use content::{ChunkRead, Kept, NewChunk, NoChunks, ReadFault, StoredChunk};
pub use id::{ChannelId, ChunkId, NodeId, PublicKey, StreamId};
pub use pace::Budget;
pub use place::{BufId, Memory, Path, Place};
pub use prefix::{NotAPrefix, Prefix};
pub use queue::Bounded;
pub use ranges::RangeSet;
pub use rng::Rng;
pub use slicebuf::{SliceBuf, SlicePool};
pub use time::{Time, UnixMs};
pub use tun::{Offload, Segmentation, TunPacket};
pub use way::Way;
pub use window::Window;
