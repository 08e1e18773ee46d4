//! Every bound in the program, in one place, checked against the others at compile time.
//!
//! Units come last in a name (`_MS`, `_BYTES` where it would be unclear). Sizes without a unit are
//! bytes or counts, as the comment says.

// ---- content (docs/protocol/content.md) --------------------------------------------------------

/// One slice of a chunk's ciphertext, bytes: the unit of verification and of transfer.
pub const SLICE_SIZE: usize = 65_536;
/// Authentication tag of one sealed record, bytes (AES-256-GCM).
pub const TAG_SIZE: usize = 16;
/// Plaintext of one full sealed record, bytes; 16 pages of an LMDB overflow run less its header.
pub const RECORD_PLAIN: usize = SLICE_SIZE - TAG_SIZE;
/// Slices of a full chunk.
pub const CHUNK_SLICES_MAX: usize = 16;
/// A chunk's ciphertext at most, bytes (1 MiB).
pub const CHUNK_SIZE_MAX: usize = CHUNK_SLICES_MAX * SLICE_SIZE;
/// Plaintext of one piece at most, bytes: what seals to a full chunk.
pub const PIECE_PLAIN_MAX: usize = CHUNK_SLICES_MAX * RECORD_PLAIN;
/// Levels of extent lists above a file's pieces at most (three reach far beyond 2⁶⁰ bytes).
pub const EXTENT_DEPTH_MAX: u8 = 3;
/// One name in a directory at most, bytes (Linux NAME_MAX).
pub const NAME_MAX: usize = 255;
/// A symlink's target at most, bytes (Linux PATH_MAX − 1).
pub const SYMLINK_MAX: usize = 4095;
/// Nesting of directories at most, for `put` and `get` alike.
pub const DIRECTORY_DEPTH_MAX: usize = 128;
/// Entries of one directory at most.
pub const DIRECTORY_ENTRIES_MAX: usize = 4 << 20;
/// Entries that one `get` plans at most (about 200 bytes of memory each); larger trees by parts.
pub const GET_ENTRIES_MAX: usize = 2 << 20;

// ---- packets (docs/protocol/packet.md) ---------------------------------------------------------

/// UDP payload that every path must carry, bytes (IPv6 minimum MTU 1280 − 40 − 8).
pub const DATAGRAM_MIN: usize = 1232;
/// UDP payload that path-MTU discovery asks for at most, bytes (1500 − 20 − 8).
pub const DATAGRAM_MAX: usize = 1472;
/// Connection id, bytes.
pub const CID_SIZE: usize = 8;
/// Packet number on the wire, bytes.
pub const NUMBER_SIZE: usize = 4;
/// Masked header: connection id and packet number.
pub const HEADER_SIZE: usize = CID_SIZE + NUMBER_SIZE;
/// What a sealed packet adds to its content, bytes: header, type and tag.
pub const PACKET_OVERHEAD: usize = HEADER_SIZE + 1 + TAG_SIZE;
/// Packets that one key may seal before the epoch must change (RFC 9001 §6.6 allows 2²³ of the largest).
pub const EPOCH_PACKETS_MAX: u64 = 1 << 23;
/// Age of a key at most, milliseconds.
pub const EPOCH_AGE_MS_MAX: u64 = 10 * 60 * 1000;
/// Replay window, packets.
pub const REPLAY_WINDOW: u64 = 2048;

// ---- sessions (docs/protocol/session.md) -------------------------------------------------------

/// Established sessions of a shard at most.
pub const SESSIONS_MAX: usize = 1 << 18;
/// Handshakes that we started and that are not finished, at most.
pub const HANDSHAKES_OUT_MAX: usize = 1024;
/// Handshakes per second and shard above which initiators must prove their address with a cookie.
pub const HANDSHAKES_FREE_PER_SECOND: u32 = 500;
/// Handshakes per second accepted from one prefix (/24 or /56), burst included.
pub const HANDSHAKES_PER_PREFIX_PER_SECOND: u32 = 50;
/// A session without an authenticated packet ends after this, milliseconds.
pub const SESSION_IDLE_MS_MAX: u64 = 60_000;
/// Silence after which a keepalive goes out where one is wanted, milliseconds.
pub const KEEPALIVE_MS: u64 = 20_000;
/// Difference between clocks that a first flight may show, milliseconds.
pub const CLOCK_SKEW_MS_MAX: u64 = 30_000;
/// Bytes sent to an unvalidated path for each byte received from it.
pub const AMPLIFICATION_MAX: u64 = 3;
/// First-flight request at most, bytes: what fits in one datagram beside the handshake.
pub const EARLY_DATA_MAX: usize = 768;
/// Close reason text at most, bytes.
pub const CLOSE_REASON_MAX: usize = 256;

// ---- streams (docs/protocol/stream.md) ---------------------------------------------------------

/// Streams of one session that a peer may have open at once.
pub const STREAMS_PER_SESSION_MAX: u64 = 256;
/// Receive window of one stream, bytes.
pub const STREAM_WINDOW: u64 = 2 << 20;
/// Receive window of one session, bytes.
pub const SESSION_WINDOW: u64 = 32 << 20;
/// Bytes that an ordered stream buffers for sending at most.
pub const STREAM_SEND_BUFFER: usize = 256 << 10;
/// Disjoint ranges of received bytes that one stream keeps at most.
pub const STREAM_RANGES_MAX: usize = 256;
/// Ranges in one acknowledgement at most.
pub const ACK_RANGES_MAX: usize = 32;
/// Events that wait in one connection at most.
pub const CONNECTION_EVENTS_MAX: usize = 4096;
/// Unreliable datagrams waiting to be sent per session at most.
pub const DATAGRAM_QUEUE_MAX: usize = 256;

// ---- control messages --------------------------------------------------------------------------

/// One protobuf control message at most, bytes.
pub const MESSAGE_SIZE_MAX: usize = 64 << 10;
/// Chunk requests that one session serves at once.
pub const REQUESTS_PER_SESSION_MAX: usize = 128;

// ---- buffers and the shard ---------------------------------------------------------------------

/// Room before a packet's bytes, for headers that grow in place and `recvmsg`'s own.
pub const BUFFER_HEAD_ROOM: usize = 384;
/// Room behind a packet's bytes.
pub const BUFFER_TAIL_ROOM: usize = 64;
/// Bytes that one train (GSO or GRO) carries at most: the UDP length field's limit.
pub const TRAIN_SIZE_MAX: usize = 65_507;
/// One packet buffer: head room, a whole train, tail room, in whole pages.
pub const BUFFER_SIZE: usize = 69_632;
/// Segments of one GSO train at most (UDP_MAX_SEGMENTS of kernel 6.x is 128; 64 works everywhere).
pub const TRAIN_SEGMENTS_MAX: usize = 64;
/// Receive buffers of a shard; a power of two (provided-buffer ring).
pub const RECEIVE_BUFFERS: usize = 256;
/// Send buffers of a shard.
pub const SEND_BUFFERS: usize = 64;
/// Completion queue of a shard, entries.
pub const COMPLETION_QUEUE: u32 = 4096;
/// Submission queue of a shard, entries.
pub const SUBMISSION_QUEUE: u32 = 512;
/// Commands from other threads that wait for a shard at most.
pub const SHARD_INBOX_MAX: usize = 4096;

// ---- fetching ----------------------------------------------------------------------------------

/// Slice buffers of a shard: what fetches may have in flight, on its way to verification and to files.
pub const SLICE_BUFFERS: usize = 768;
/// Slices that one peer is asked for ahead, at most.
pub const SLICES_AHEAD_PER_PEER: usize = 256;
/// Jobs (`get`) of a daemon at once.
pub const GET_JOBS_MAX: usize = 64;
/// File operations waiting for the file thread at most.
pub const FILE_OPS_MAX: usize = 1024;
/// File descriptors of outputs that the file thread keeps open at once.
pub const FILES_OPEN_MAX: usize = 256;
/// Records of an interrupted `get` that its journal brings back at most (40 bytes of memory each).
pub const JOURNAL_RECORDS_MAX: usize = 8 << 20;

// ---- store (docs/protocol/store.md) ------------------------------------------------------------

/// Bytes of chunk bodies that one group commit gathers at most.
pub const COMMIT_BYTES_MAX: usize = 32 << 20;
/// Time a durable write waits for company at most, milliseconds.
pub const COMMIT_DELAY_MS: u64 = 5;
/// Chunks waiting for the store writer at most.
pub const STORE_QUEUE_MAX: usize = 64;
/// Bytes of one slice that lie in a run of pages of their own: 16 pages less LMDB's 16-byte header.
pub const STORE_RUN: usize = 16 * 4096 - 16;
/// An index record at most, bytes: what LMDB keeps two of in one page.
pub const INDEX_RECORD_MAX: usize = 1984;
/// Snapshots of one database that can be held at once (one per shard, import and API request).
pub const STORE_READERS_MAX: u32 = 512;
/// Chunks that one reader remembers having checked; a power of two.
pub const STORE_HANDLES_MAX: usize = 8192;
/// Cold slices that one reader has being faulted in at once; beyond it, reading waits for the disk.
pub const STORE_COLD_MAX: usize = 1024;
/// Keys of the store's small tables (peers, meta) at most, bytes.
pub const STORE_KEY_MAX: usize = 128;
/// Values of the store's small tables at most, bytes.
pub const STORE_VALUE_MAX: usize = 64 << 10;

// ---- the network of friends --------------------------------------------------------------------

/// Friends of a node at most.
pub const FRIENDS_MAX: usize = 4096;
/// Addresses kept for one peer at most.
pub const ADDRESSES_PER_PEER_MAX: usize = 8;

const _: () = {
    assert!(PIECE_PLAIN_MAX + CHUNK_SLICES_MAX * TAG_SIZE == CHUNK_SIZE_MAX);
    assert!(RECORD_PLAIN + 16 == 16 * 4096, "a full record fills an LMDB run of 16 pages");
    assert!(BUFFER_SIZE >= BUFFER_HEAD_ROOM + TRAIN_SIZE_MAX + BUFFER_TAIL_ROOM);
    assert!(BUFFER_SIZE.is_multiple_of(4096));
    assert!(RECEIVE_BUFFERS.is_power_of_two());
    assert!(COMPLETION_QUEUE as usize >= 2 * (RECEIVE_BUFFERS + SEND_BUFFERS) + 1024);
    assert!(TRAIN_SEGMENTS_MAX * DATAGRAM_MIN > TRAIN_SIZE_MAX || TRAIN_SEGMENTS_MAX <= 64);
    assert!(EARLY_DATA_MAX + 400 <= DATAGRAM_MIN);
    assert!(STREAM_WINDOW as usize >= CHUNK_SIZE_MAX + 16 + 32 * CHUNK_SLICES_MAX);
    assert!(SLICES_AHEAD_PER_PEER <= SLICE_BUFFERS);
    assert!(SLICES_AHEAD_PER_PEER * SLICE_SIZE <= SESSION_WINDOW as usize);
    assert!(REPLAY_WINDOW.is_multiple_of(64));
    assert!(STORE_RUN == RECORD_PLAIN && SLICE_SIZE - STORE_RUN == 16);
    assert!(48 + CHUNK_SLICES_MAX * (32 + 16) <= INDEX_RECORD_MAX, "a full chunk's record stays in its page");
    assert!(STORE_HANDLES_MAX.is_power_of_two());
};
