//! The numbers of the services that peers have of each other (docs/protocol/channels.md).

use crate::base::ChannelId;

/// The channel of the chunk service (docs/protocol/channels.md).
pub const CHUNK_CHANNEL: ChannelId = ChannelId(1);
/// The channel on which nodes introduce themselves (docs/protocol/hello.md).
pub const HELLO_CHANNEL: ChannelId = ChannelId(2);
/// The channel on which peers ask for promises (docs/protocol/reserve.md).
pub const RESERVE_CHANNEL: ChannelId = ChannelId(3);
/// The channel of the overlay's datagrams (docs/protocol/overlay.md).
pub const OVERLAY_CHANNEL: ChannelId = ChannelId(4);
/// The channel on which chunks are given to be kept (docs/protocol/keep.md).
pub const KEEP_CHANNEL: ChannelId = ChannelId(5);
/// The channel by which nodes meet that do not reach each other (docs/protocol/nat.md).
pub const MEET_CHANNEL: ChannelId = ChannelId(6);
/// The channel on which nodes say what they mean to do (docs/protocol/intents.md).
pub const INTENT_CHANNEL: ChannelId = ChannelId(7);
/// The channel on which friends tell of other nodes (docs/protocol/introductions.md).
pub const INTRODUCE_CHANNEL: ChannelId = ChannelId(8);
