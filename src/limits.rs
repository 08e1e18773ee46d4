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
/// Chunks that a packer keeps open at once.
pub const PACK_OPEN_MAX: usize = 4;
/// Bytes of one chunk that a packer leaves empty, so that records cross no slice border.
pub const PACK_GAPS_MAX: usize = CHUNK_SIZE_MAX / 16;
/// Probes of a directory lookup that interpolate; then it bisects.
pub const LOOKUP_GUESSES_MAX: u32 = 8;

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
/// First flight at least, bytes of UDP payload: replies to it are never larger.
pub const HANDSHAKE_INIT_MIN: usize = 1000;
/// Wait before a first flight is tried again, milliseconds; doubles with each round of addresses.
pub const HANDSHAKE_RETRY_MS: u64 = 500;
/// The longest such wait, milliseconds.
pub const HANDSHAKE_RETRY_MS_MAX: u64 = 8_000;
/// Wait between first flights to different addresses of one peer, milliseconds.
pub const HANDSHAKE_ADDRESS_STEP_MS: u64 = 250;
/// A handshake without an answer is given up after this, milliseconds.
pub const HANDSHAKE_MS_MAX: u64 = 20_000;
/// First flights of one handshake whose answers are still accepted.
pub const HANDSHAKE_ATTEMPTS_KEPT: usize = 8;
/// Handshake datagrams that wait to be sent at most.
pub const HANDSHAKE_QUEUE_MAX: usize = 1024;
/// A new session in which nothing was heard from the other side ends after this, milliseconds.
pub const UNCONFIRMED_MS_MAX: u64 = 10_000;
/// Unconfirmed sessions of one peer at most; a further one replaces the oldest. As many as first flights whose answers are
/// accepted: who takes the first answer has taken a session that is still there.
pub const UNCONFIRMED_PER_PEER_MAX: usize = HANDSHAKE_ATTEMPTS_KEPT;
/// Unconfirmed sessions of a shard at most.
pub const UNCONFIRMED_MAX: usize = 8192;
/// Prefixes whose handshakes are counted at once, at most.
pub const PREFIXES_MAX: usize = 4096;
/// Ephemeral keys of first flights remembered per period of twice the clock skew, at most.
pub const EPHEMERALS_MAX: usize = 1 << 17;
/// Age at which the secret behind cookies changes, milliseconds; the one before stays good as long.
pub const COOKIE_ROTATION_MS: u64 = 120_000;
/// Handshakes that one datagram is tried against as a cookie, at most.
pub const COOKIE_TRIALS_MAX: usize = 8;
/// Address token at most, bytes.
pub const ADDRESS_TOKEN_SIZE_MAX: usize = 64;
/// Age of an address token at most, milliseconds.
pub const ADDRESS_TOKEN_AGE_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// Peers whose address tokens are kept at most.
pub const ADDRESS_TOKENS_MAX: usize = 4096;
/// Time for which a receiver still opens packets of the epoch before, milliseconds.
pub const EPOCH_GRACE_MS: u64 = 5_000;
/// Challenges sent to a new path before it is given up.
pub const PATH_TRIES_MAX: u8 = 3;
/// Wait for the answer to the first challenge, milliseconds; doubles with each.
pub const PATH_TRY_MS: u64 = 500;
/// A session that moved so often, with less than [`MOVES_MS`] between any two, no longer follows its peer at once.
pub const MOVES_MAX: u8 = 4;
/// Rest after which a session's moves are forgotten, milliseconds.
pub const MOVES_MS: u64 = 5_000;
/// Time for which nothing may have come by its own path until such a session follows, milliseconds.
pub const MOVES_DETOUR_MS: u64 = 1_500;
/// Answers to path challenges that wait to be sent at most.
pub const PATH_RESPONSES_MAX: usize = 256;
/// Wait before an initiator that has heard nothing in its new session pings again, milliseconds.
pub const CONFIRM_MS: u64 = 500;
/// Time for which a closed session still answers packets with its close, milliseconds.
pub const CLOSE_LINGER_MS: u64 = 3_000;
/// Such answers at most.
pub const CLOSE_REPEATS_MAX: u8 = 8;
/// Random padding of a control packet at most, bytes.
pub const CONTROL_PADDING_MAX: usize = 48;
/// Sessions whose timers one call handles at most; the rest is due at once again.
pub const TIMEOUTS_PER_CALL_MAX: usize = 1024;
/// Handshakes per second and shard of initiators that proved their address with a cookie.
pub const HANDSHAKES_PROVEN_PER_SECOND: u32 = 2000;
/// Cookies that a shard sends per second to all who ask; each prefix gets [`HANDSHAKES_PER_PREFIX_PER_SECOND`] at most.
/// When more ask, chance picks.
pub const COOKIES_FREE_PER_SECOND: u64 = 2000;
/// Of so many that ask, when more ask than that, one gets a cookie: its few microseconds are borne by all of them.
pub const COOKIE_ASKERS: u64 = 8;
/// Cookies that a shard sends per second at most, over time.
pub const COOKIES_PER_SECOND: u64 = 12_500;
/// Shards of a node at most: what a connection id names.
pub const SHARDS_MAX: u8 = 64;
/// Lanes that a peer may have open in one session, beside the first, at most.
pub const LANES_PER_SESSION_MAX: usize = SHARDS_MAX as usize;
/// As many of a peer that is not kept in touch with: it takes what it may ask of a session once more.
pub const LANES_UNASKED_MAX: usize = 4;
/// Wait for a shard to take a lane that the peer asks for, milliseconds.
pub const LANE_SEAT_MS: u64 = 1_000;
/// Tries to agree on a lane with the peer before it is given up.
pub const LANE_TRIES_MAX: u8 = 6;
/// Wait for the answer to a lane's opening, milliseconds; doubles with each try.
pub const LANE_RETRY_MS: u64 = 250;
/// The longest such wait, milliseconds.
pub const LANE_RETRY_MS_MAX: u64 = 1_000;
/// Wait of a shard before it tells the home again that it wants a lane, milliseconds.
pub const LANE_ASK_MS: u64 = 2_000;
/// Wait of a shard for a lane that another shard agrees on, milliseconds; longer than all those tries.
pub const LANE_WAIT_MS: u64 = 7_000;
/// Packets sent straight to where the peer's shard says it is, at most, while a lane goes by way of its home.
pub const LANE_KNOCKS_MAX: u8 = 9;
/// Wait before the second of them, milliseconds; doubles with each. The first may be lost, or come before the peer's
/// shard has its end: every packet until the next comes through crosses twice.
pub const LANE_KNOCK_MS: u64 = 10;
/// Time for which all packets of a lane must have come by way of its home before it goes back to that way,
/// milliseconds.
pub const LANE_DETOUR_MS: u64 = 3_000;
/// A lane without an authenticated packet ends after this, milliseconds.
pub const LANE_IDLE_MS_MAX: u64 = 30_000;
/// Messages from other shards that wait for a shard, or for its core, at most.
pub const CROSSINGS_MAX: usize = 1024;
/// Datagrams, or trains of them, that wait to be passed between two shards at most.
pub const PASSING_MAX: usize = 256;
/// Time for which a shard that has said its goodbyes stays for those of others, milliseconds.
pub const SHARD_LAST_MS: u64 = 50;
/// Wait before another shard's wish makes a friend be called at once again, milliseconds.
pub const HURRY_MS: u64 = 5_000;
/// Bytes that are sent on the strength of one address token before its holder was heard.
pub const ADDRESS_TOKEN_BYTES_MAX: u64 = 64 << 10;
/// Bytes that a shard sends so to one address per [`ADDRESS_TOKEN_PERIOD_MS`].
pub const ADDRESS_TOKEN_BYTES_PER_PERIOD: u64 = 256 << 10;
/// The period in which those are counted, milliseconds.
pub const ADDRESS_TOKEN_PERIOD_MS: u64 = 60_000;
/// Addresses for which those are counted at once, at most.
pub const ADDRESS_TOKEN_ADDRESSES_MAX: usize = 4096;
/// Packets of streams between two numbers that are left out, at most: an acknowledgement of one that was left
/// out gives its sender away (RFC 9000 §21.4).
pub const NUMBERS_BETWEEN_SKIPS_MAX: u64 = 1024;
/// Period in which those who ask for a cookie are counted, milliseconds.
pub const COOKIE_WINDOW_MS: u64 = 100;
/// Buckets that all prefixes which ask for a cookie share; a power of two.
pub const COOKIE_BUCKETS: usize = 16_384;

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
/// Bytes that one stream of a peer may hold unread: requests are shorter, and strangers open streams too.
pub const STREAM_UNREAD_MAX: u64 = 2048;
/// Ranges in one acknowledgement at most.
pub const ACK_RANGES_MAX: usize = 32;
/// Events that wait in one connection at most.
pub const CONNECTION_EVENTS_MAX: usize = 4096;
/// Unreliable datagrams waiting to be sent per session at most.
pub const DATAGRAM_QUEUE_MAX: usize = 256;
/// Pieces (buffered runs and sources) that wait for sending or acknowledgement on one stream at most.
pub const STREAM_SEGMENTS_MAX: usize = 4096;
/// Bytes that one stream sends before the next one has its turn: about one train.
pub const STREAM_QUANTUM: u64 = 65_536;
/// Packets of one session that are remembered until acknowledged or forgotten, at most.
pub const SENT_PACKETS_MAX: usize = 65_536;
/// Congestion window of one session at most, bytes.
pub const CONGESTION_WINDOW_MAX: u64 = 64 << 20;
/// Time that an acknowledgement may be held back, microseconds.
pub const ACK_DELAY_US_MAX: u64 = 10_000;
/// Packets by which the network may reorder before loss is presumed, at most (it starts at 3 and adapts).
pub const REORDER_PACKETS_MAX: u64 = 256;
/// Packets of acknowledgements alone that are remembered at once, at most.
pub const SENT_QUIET_MAX: usize = 4096;

// ---- control messages --------------------------------------------------------------------------

/// One protobuf control message at most, bytes.
pub const MESSAGE_SIZE_MAX: usize = 64 << 10;
/// A node's introduction at most, bytes.
pub const HELLO_SIZE_MAX: usize = 2048;
/// The name that a node gives its program, characters at most.
pub const HELLO_AGENT_MAX: usize = 64;
/// Services that a node says it offers, at most.
pub const HELLO_SERVICES_MAX: usize = 64;
/// When a peer that asks too much may ask again, milliseconds.
pub const BUSY_RETRY_MS: u32 = 200;
/// Chunk requests that one session serves at once.
pub const REQUESTS_PER_SESSION_MAX: usize = 128;
/// Time that a peer has to send a whole chunk request, milliseconds.
pub const REQUEST_MS_MAX: u64 = 10_000;
/// Time that a peer has to send a whole introduction, milliseconds.
pub const HELLO_MS_MAX: u64 = 10_000;

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
pub const SUBMISSION_QUEUE: u32 = 1024;
/// Commands from other threads that wait for a shard at most.
pub const SHARD_INBOX_MAX: usize = 4096;
/// Addresses that a shard listens at, at most: one UDP socket each.
pub const SHARD_SOCKETS_MAX: usize = 8;
/// Sends in flight at once: one per send buffer, and the rest for trains that go out datagram by datagram.
pub const SEND_SLOTS: usize = 128;
/// Room that `recvmsg` is given for the sender's address, bytes.
pub const RECEIVE_NAME_SIZE: usize = 32;
/// Room that `recvmsg` is given for control messages (segment size, ECN, local address), bytes.
pub const RECEIVE_CONTROL_SIZE: usize = 128;
/// Trains from this size on are sent without a copy where the device allows, bytes.
pub const ZERO_COPY_SIZE_MIN: usize = 10_000;
/// Trains that the kernel had to copy after all before a socket may stop trying.
pub const ZERO_COPY_COPIED_MIN: u32 = 8;
/// It stops when more than one in so many was copied.
pub const ZERO_COPY_COPIED_SHARE: u32 = 8;
/// Receive buffers that lie in the kernel's ring at first; it grows to all of them when it runs dry.
pub const RECEIVE_LENT_MIN: usize = 64;
/// Kernel memory that a socket may hold for received datagrams, bytes (when permitted).
pub const SOCKET_RECEIVE_BUFFER: usize = 16 << 20;
/// Kernel memory that a socket may hold for datagrams not yet on the wire, bytes (when permitted).
pub const SOCKET_SEND_BUFFER: usize = 8 << 20;
/// What is read from and written to TUN devices starts with a header of so many bytes (virtio-net's, the short form).
pub const TUN_HEADER_SIZE: usize = 10;
/// Receive buffers of a shard for its TUN queues; a power of two (provided-buffer ring).
pub const TUN_BUFFERS: usize = 64;
/// Of those, how many lie in the kernel's ring at first; it grows to all of them when it runs dry.
pub const TUN_LENT_MIN: usize = 16;
/// TUN queues of a shard at most: one per device.
pub const SHARD_TUNS_MAX: usize = 4;
/// Writes to TUN devices in flight at once, per shard and device.
pub const TUN_WRITES_MAX: usize = 128;
/// Packets that wait to be written to one TUN queue at most; what comes beyond is dropped and counted.
pub const TUN_WRITE_QUEUE_MAX: usize = 4096;
/// Free send buffers without which no packet of a TUN device is taken on: what one superpacket may need.
pub const TUN_SEND_RESERVE: usize = 4;
/// Changes of its device that wait for a shard at most.
pub const DEVICE_CHANGES_MAX: usize = 8;
/// Wait for the shards to close a device's queues, milliseconds.
pub const DEVICE_CLOSE_MS_MAX: u64 = 2_000;
/// Packets that the kernel keeps for us in a TUN queue before it drops (`txqueuelen`; its own default is 500).
pub const TUN_QUEUE_PACKETS: u32 = 1000;
/// A tunnel's MTU at least, bytes (RFC 8200 §5: IPv6 asks it of every link).
pub const TUNNEL_MTU_MIN: usize = 1280;
/// Addresses of one tunnel's device at most, and as many routes into it.
pub const HOST_PREFIXES_MAX: usize = 1024;
/// Name of a network device at most, bytes (IFNAMSIZ − 1).
pub const DEVICE_NAME_MAX: usize = 15;
/// Cold slices that a shard has faulted in at once.
pub const WARM_IN_FLIGHT_MAX: usize = 64;
/// Completions handled in one turn of a shard, before it looks at what there is to send.
pub const COMPLETIONS_PER_TURN: usize = 64;
/// Commands and answers of other threads handled in one turn, each.
pub const INBOX_PER_TURN: usize = 64;
/// Outputs carried out in one turn.
pub const OUTPUTS_PER_TURN: usize = 256;
/// A shard without work looks for some at most so many microseconds before it sleeps.
pub const BUSY_POLL_US_MAX: u32 = 1_000_000;
/// The shortest and the longest duration that latency histograms tell from others, nanoseconds.
pub const LATENCY_NS_MIN: u64 = 64;
/// The longest.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// A copy of them is left for readers at most every so many milliseconds.
pub const LATENCY_SHOWN_MS: u64 = 250;
/// Of the trains of one turn behind the first, one in so many is timed, so that the clock costs nothing.
pub const LATENCY_SAMPLE: u64 = 8;
/// Pause before a deadline that was reported and is still overdue is reported again, microseconds.
pub const OVERDUE_PAUSE_US: u64 = 500;
/// Pause before a socket whose receive failed twice in a row is asked again, milliseconds.
pub const RECEIVE_PAUSE_MS: u64 = 10;
/// Time that a stopping shard spends on what there is left to send, milliseconds.
pub const SHARD_STOP_MS: u64 = 200;
/// Pause before a busy port is tried again, milliseconds.
pub const BIND_PAUSE_MS: u64 = 20;
/// Tries before a busy port is believed to be another program's: the kernel takes an io_uring apart, and
/// lets go of its sockets, some time *after* the process that had it is gone.
pub const BIND_TRIES: u32 = 150;

// ---- tunnels (docs/protocol/tunnel.md) ---------------------------------------------------------

/// Prefixes that the tunnels of a node allow in all, at most.
pub const TUNNEL_PREFIXES_MAX: usize = 4096;
/// Tunnels of a node at most: one per friend.
pub const TUNNELS_MAX: usize = 1024;
/// Addresses, allowed prefixes and routes of one tunnel at most, each.
pub const TUNNEL_LISTED_MAX: usize = 64;
/// Segments that one superpacket is cut into at most: 64 KiB of the smallest that TCP makes.
pub const SUPERPACKET_SEGMENTS_MAX: usize = 2048;
/// Flows of which a superpacket is being put together at once, at most; each holds a send buffer.
pub const COALESCING_MAX: usize = 8;
/// Packets that wait for a send buffer to be written to the TUN device in, at most.
pub const TUNNEL_WRITES_MAX: usize = 1024;
/// Packets that wait for a session with the friend whom they are for, at most, and per friend.
pub const TUNNEL_WAITING_MAX: usize = 32;
/// For so long, milliseconds: an application has repeated itself by then.
pub const TUNNEL_WAIT_MS_MAX: u64 = 3_000;
/// One packet that waits at most, bytes.
pub const TUNNEL_WAITING_SIZE_MAX: usize = 2048;
/// Trains of tunnel packets that are made and not handed over, at most; the send buffers bound them first.
pub const TUNNEL_TRAINS_MAX: usize = SEND_BUFFERS;
/// MTU of a tunnel's device unless the operator chooses another, bytes: what 1,500 carry with IPv6 outside.
pub const TUNNEL_MTU: usize = 1420;
/// The largest: what a datagram of ours carries.
pub const TUNNEL_MTU_MAX: usize = DATAGRAM_MAX - PACKET_OVERHEAD;
/// Name servers of the tunnels at most.
pub const TUNNEL_DNS_MAX: usize = 8;

// ---- fetching ----------------------------------------------------------------------------------

/// Slice buffers of a shard: what fetches may have in flight, on its way to verification and to files.
pub const SLICE_BUFFERS: usize = 768;
/// Slices that one peer is asked for ahead, at most.
pub const SLICES_AHEAD_PER_PEER: usize = 256;
/// Jobs (`get`) of a daemon at once.
pub const GET_JOBS_MAX: usize = 64;
/// File operations waiting for the file thread at most.
pub const FILE_OPS_MAX: usize = 1024;
/// File operations of one job that are made and not answered, from which on no further slice is cut: the last one
/// may bring as many more as there are records in it and buffers for them.
pub const FILE_OPS_PER_JOB_MAX: usize = 256;
/// Buffers for records that cannot stay in their slice, per shard: one per file operation of a busy job,
/// and one per slice in flight for records that lie across two.
pub const RECORD_BUFFERS: usize = SLICE_BUFFERS + FILE_OPS_PER_JOB_MAX;
/// Plaintext bytes that one job wants ahead of what is written, at most.
pub const GET_AHEAD_BYTES: usize = SLICE_BUFFERS * SLICE_SIZE;
/// Extent lists that the files of one job hold at once, at most (one larger one is held alone), bytes.
pub const GET_LISTS_BYTES: u64 = 16 << 20;
/// Files of one job in progress at most: enough for all small files of the chunks in flight.
pub const FILES_PER_JOB_MAX: usize = 1 << 16;
/// Bytes of directories that one job reads at once, at most (one larger directory is read alone).
pub const PLAN_AHEAD_BYTES: usize = 64 << 20;
/// One directory at most, bytes.
pub const DIRECTORY_SIZE_MAX: usize = 512 << 20;
/// A request to a peer that brings nothing for so long is asked of another, milliseconds.
pub const FETCH_STALL_MS: u64 = 8_000;
/// So is one that brings no whole slice for so long, milliseconds.
pub const FETCH_SLICE_MS_MAX: u64 = 40_000;
/// Peers that a job's progress names at most.
pub const SOURCES_SHOWN_MAX: usize = 64;
/// How often a running job reports, milliseconds.
pub const PROGRESS_MS: u64 = 200;
/// File descriptors of outputs that the file thread keeps open at once.
pub const FILES_OPEN_MAX: usize = 256;
/// Records of an interrupted `get` that its journal brings back at most (40 bytes of memory each).
pub const JOURNAL_RECORDS_MAX: usize = 8 << 20;
/// Days after which the journal of a `get` that nobody went on with is removed, at a start.
pub const JOURNAL_DAYS_MAX: u64 = 30;
/// Names in the folder of journals that a start looks at, at most.
pub const JOURNALS_PRUNED_MAX: usize = 65_536;
/// Complete files of one job that wait under temporary names to be made durable together, at most.
pub const PLACE_BATCH_FILES: usize = 1024;
/// Their content is made durable once it comes to so much, bytes.
pub const PLACE_BATCH_BYTES: u64 = 64 << 20;
/// Files or directories up to which each is made durable by itself; beyond it, their whole file system is.
pub const SYNC_EACH_MAX: usize = 8;

// ---- store (docs/protocol/store.md) ------------------------------------------------------------

/// Bytes of chunk bodies that one group commit gathers at most.
pub const COMMIT_BYTES_MAX: usize = 32 << 20;
/// Time a durable write waits for company at most, milliseconds.
pub const COMMIT_DELAY_MS: u64 = 5;
/// Pieces and chunks that one import has between reading and the store, at most.
pub const IMPORT_AHEAD: usize = 32;
/// Threads that seal and hash for one import at most.
pub const IMPORT_WORKERS_MAX: usize = 8;
/// Imports of a daemon at once.
pub const IMPORTS_MAX: usize = 4;
/// Publications that go to the store together.
pub const PUBLISH_BATCH: usize = 256;
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
/// Datagrams that a shard looks ahead, so that what is needed to open them is on its way to the cache.
pub const EXPECTED_MAX: usize = 16;
/// Sessions below which nothing is expected: what they need lies in a core's second-level cache, some 2 KiB each.
pub const EXPECTED_SESSIONS_MIN: usize = 256;
/// Slices that one reader remembers where they lie, about 100 bytes each; a power of two.
pub const STORE_RECENT_MAX: usize = 4096;
/// Cold slices that one reader has being faulted in at once; beyond it, requests wait. Prefetching takes half.
pub const STORE_COLD_MAX: usize = 1024;
/// Of those, the ones that strangers have, a quarter: the rest is for friends.
pub const STRANGER_COLD_MAX: usize = STORE_COLD_MAX / 4;
/// Keys of the store's small tables (peers, meta) at most, bytes.
pub const STORE_KEY_MAX: usize = 128;
/// Values of the store's small tables at most, bytes.
pub const STORE_VALUE_MAX: usize = 64 << 10;
/// Pages of a database file that are looked at before it is mapped, at most (256 MiB).
pub const STORE_WALK_PAGES_MAX: usize = 65_536;
/// Damaged chunks of the local store that are remembered until they are put again, at most.
pub const STORE_DAMAGED_MAX: usize = 65_536;

// ---- onion circuits (docs/protocol/onion.md) ---------------------------------------------------

/// What a layer adds to a cell, bytes: tag and sequence.
pub const LAYER_OVERHEAD: usize = TAG_SIZE + 8;
/// Layers of a circuit at most: its hops and its imaginary ones.
pub const LAYERS_MAX: usize = 5;
/// Imaginary layers of a circuit at most.
pub const IMAGINARY_LAYERS_MAX: usize = 2;
/// A circuit's number on one link, bytes.
pub const CIRCUIT_NUMBER_SIZE: usize = 4;
/// What the innermost record begins with, bytes: kind and length.
pub const INNER_HEADER_SIZE: usize = 3;
/// Bytes that a large cell carries at most: the inner MTU.
pub const CELL_INNER_LARGE: usize = 1296;
/// Bytes that a small cell carries at most: an acknowledgement of TCP with all its options, a DNS question, a ping.
pub const CELL_INNER_SMALL: usize = 128;
/// Sealed datagram of a large cell, bytes of UDP payload: 1500 − 40 (IPv6) − 8.
pub const CELL_DATAGRAM_LARGE: usize = 1452;
/// Sealed datagram of a small cell, bytes of UDP payload.
pub const CELL_DATAGRAM_SMALL: usize = 284;
/// Circuits through a shard at most, those of its own aside.
pub const CIRCUITS_MAX: usize = 1 << 14;
/// Circuits that one neighbour may have through a shard at most.
pub const CIRCUITS_PER_LINK_MAX: usize = 1 << 12;
/// Circuits of a shard's own at most.
pub const CIRCUITS_OWN_MAX: usize = 256;
/// Memory of an idle circuit at a relay at most, bytes.
pub const CIRCUIT_MEMORY_MAX: usize = 3 << 10;
/// Builds that a shard takes per second, over time.
pub const BUILDS_PER_SECOND: u64 = 200;
/// Builds that a shard takes at once.
pub const BUILDS_BURST: u64 = 400;
/// Builds that one neighbour may ask a shard for per second, over time.
pub const BUILDS_PER_LINK_PER_SECOND: u64 = 20;
/// Builds that one neighbour may ask a shard for at once.
pub const BUILDS_PER_LINK_BURST: u64 = 100;
/// Answers to cells of circuits that are not known, per neighbour and second.
pub const ENDS_PER_LINK_PER_SECOND: u64 = 10;
/// Circuits whose building a relay has under way at most.
pub const BUILDS_OPEN_MAX: usize = 1024;
/// Time that a relay waits for the answer of the hops behind it, milliseconds.
pub const BUILD_RELAY_MS_MAX: u64 = 10_000;
/// Time that an origin waits for the answer of its whole path, milliseconds.
pub const BUILD_MS_MAX: u64 = 6_000;
/// Age at which a relay changes its onion key, milliseconds; the one before stays good as long.
pub const ONION_KEY_MS: u64 = 60 * 60 * 1000;
/// Builds remembered per onion key at most (about 20 bytes of memory each): nothing is built twice.
pub const BUILDS_REMEMBERED_MAX: usize = 3 << 19;
/// Cells that one hop's key seals before the epoch changes, at least.
pub const CELL_EPOCH_CELLS_MIN: u64 = 1 << 21;
/// Cells added to that, at most: by how many is drawn per hop, so that its hops do not change together.
pub const CELL_EPOCH_CELLS_JITTER: u64 = 1 << 21;
/// Age of one hop's key at which the epoch changes, at least, milliseconds.
pub const CELL_EPOCH_MS_MIN: u64 = 8 * 60 * 1000;
/// Milliseconds added to that, at most.
pub const CELL_EPOCH_MS_JITTER: u64 = 4 * 60 * 1000;
/// Time for which cells of the epoch before are still opened, milliseconds.
pub const CELL_GRACE_MS: u64 = 10_000;
/// Age of a circuit at most, milliseconds.
pub const CIRCUIT_MS_MAX: u64 = 60 * 60 * 1000;
/// Age at which an origin has another circuit built in place of one, at least, milliseconds.
pub const CIRCUIT_REBUILD_MS_MIN: u64 = 8 * 60 * 1000;
/// Milliseconds added to that, at most.
pub const CIRCUIT_REBUILD_MS_JITTER: u64 = 4 * 60 * 1000;
/// Time for which a circuit that was replaced still takes what is on its way, milliseconds.
pub const CIRCUIT_DRAIN_MS: u64 = 5_000;
/// A relay ends a circuit on which nothing came from the origin for so long, milliseconds.
pub const CIRCUIT_IDLE_MS_MAX: u64 = 120_000;
/// Silence after which an origin sends a cell of padding, at least, milliseconds.
pub const CIRCUIT_PADDING_MS_MIN: u64 = 20_000;
/// Milliseconds added to that, at most.
pub const CIRCUIT_PADDING_MS_JITTER: u64 = 20_000;
/// Cells of padding that either end sends when a circuit begins, at most (and at least one).
pub const SETUP_PADDING_MAX: u64 = 4;
/// The time over which they are spread, milliseconds.
pub const SETUP_PADDING_MS: u64 = 400;
/// Paths that are tried for one circuit before it is given up.
pub const PATH_ATTEMPTS_MAX: u32 = 8;
/// First wait after a path that came to nothing, milliseconds; doubles with each.
pub const PATH_RETRY_MS: u64 = 250;
/// Steps of one search for a path at most.
pub const PATH_STEPS_MAX: usize = 4096;
/// Relays among which a path is chosen at most.
pub const RELAYS_KNOWN_MAX: usize = 4096;
/// Friends' words of one relay that are kept, about 200 bytes each: those that are worth most.
pub const RELAY_WORDS_MAX: usize = 4;
/// Friends that must be possible first hops, unless the operator says otherwise.
pub const ENTRIES_MIN: usize = 2;
/// Relays whose failures are remembered at most.
pub const BLAMED_MAX: usize = 1024;
/// Half-life of a failure that is held against a relay, milliseconds.
pub const BLAME_HALF_LIFE_MS: u64 = 10 * 60 * 1000;
/// Building, answering and ending messages that wait to be sent at most.
pub const CIRCUIT_MESSAGES_MAX: usize = 1024;
/// Events of circuits that wait at most; beyond it, no further build is taken.
pub const CIRCUIT_EVENTS_MAX: usize = 4096;
/// Relays that a node tells each friend of, at most, itself among them.
pub const RELAYS_TOLD_MAX: usize = 16;
/// Wait before friends are told of news of relays, milliseconds: more may follow.
pub const RELAYS_TELL_MS: u64 = 2_000;
/// Circuits that wait for a session with their next hop at most.
pub const CIRCUIT_CALLS_MAX: usize = 64;
/// How often sessions that were made for circuits are looked at, milliseconds.
pub const CIRCUIT_SWEEP_MS: u64 = 30_000;
/// For how long a person waits for a circuit.
pub const CIRCUIT_WAIT_MS_MAX: u64 = 15_000;
/// Circuits that are built beside one another for one purpose, at most.
pub const CIRCUITS_BESIDE_MAX: usize = 5;
/// Circuits of one purpose that were replaced, and may still bring what was on its way, at most.
pub const CIRCUITS_BEFORE_MAX: usize = 4;
/// Jobs that have circuits of their own at most.
pub const JOBS_ANONYMOUS_MAX: usize = 4;
/// UDP payload of a node in a circuit at most, bytes: with IPv6's headers it is what a large cell carries.
pub const ANONYMOUS_DATAGRAM_MAX: usize = CELL_INNER_LARGE - 40 - 8;
/// Nodes by which an anonymous job enters the network, at most.
pub const ANONYMOUS_ENTRIES_MAX: usize = 8;
/// Of them, those that must have answered before it begins, if there are so many.
pub const ANONYMOUS_ENTERED_MIN: usize = 3;
/// For how long the others are waited for once one has, milliseconds.
pub const ANONYMOUS_ENTER_MS: u64 = 2_000;
/// A circuit through which nobody of the network answers for so long is given up, and its exit, milliseconds.
pub const ANONYMOUS_SILENT_MS: u64 = 8_000;
/// The same when the exit says that it lets nothing out to them, milliseconds.
pub const ANONYMOUS_PROHIBITED_MS: u64 = 1_500;
/// A reason why there is no circuit that holds for so long ends the job, milliseconds: one may just have been told of
/// relays.
pub const ANONYMOUS_STUCK_MS: u64 = 3_000;
/// The same of a node with several shards, whose friends give it lanes to the one with the circuits first, milliseconds.
pub const ANONYMOUS_STUCK_LANES_MS: u64 = 9_000;
/// Exits that an anonymous job tries at most.
pub const ANONYMOUS_EXITS_MAX: usize = 4;
/// How far the clock that an anonymous job shows may be from ours, milliseconds.
pub const ANONYMOUS_SKEW_MS_MAX: u64 = 4_000;
/// Trains of the jobs in circuits that are made before those that are there leave.
pub const ANONYMOUS_TRAINS_MAX: usize = 16;
/// Circuits that one tunnel may have at once.
pub const PATHS_MAX: usize = 4;
/// Circuits of one guest of an exit that are known as one set, those that are being replaced among them.
pub const SET_CIRCUITS_MAX: usize = 2 * PATHS_MAX + 2;
/// Flows of one guest that are remembered at most.
pub const SET_FLOWS_MAX: usize = 4096;
/// For how long a flow is remembered that says nothing, milliseconds.
pub const SET_FLOW_MS: u64 = 60_000;
/// A circuit of several that answers nothing for so long is not used while another answers, milliseconds; two round trips
/// at least.
pub const PATH_DOUBT_MS: u64 = 100;
/// Where several circuits are, the exit hears something after so long on each by which something comes, milliseconds.
pub const PATH_SAYS_MS: u64 = 140;
/// A packet that came before those sent earlier by other circuits waits for them no longer than this, milliseconds.
pub const REORDER_MS_MAX: u64 = 100;
/// What is given to any difference between circuits, milliseconds.
pub const REORDER_MS_MIN: u64 = 5;
/// Packets that wait so at most, of one set.
pub const REORDER_HELD_MAX: usize = 256;
/// A sequence that is so far from the next one is another beginning.
pub const REORDER_AHEAD_MAX: u64 = 1024;
/// Marks of what is under way on one circuit, at most.
pub const SPREAD_MARKS_MAX: usize = 256;
/// Packets between two of them.
pub const SPREAD_MARK_PACKETS: u32 = 8;
/// Packets that wait so on one shard at most.
pub const REORDER_ALL_MAX: usize = 8_192;
/// A packet's sequence among those that are spread over several circuits, bytes.
pub const SEQUENCE_SIZE: usize = 4;
/// The longest packet that is sent so, bytes.
pub const SPREAD_INNER_MAX: usize = CELL_INNER_LARGE - SEQUENCE_SIZE;
/// What is said of a circuit by which packets come that are spread one by one, bytes.
pub const SEVERAL_SIZE: usize = 8;
/// Who gets packets that are spread one by one says so after so long at the earliest, milliseconds.
pub const SPREAD_REPORT_MS: u64 = 20;
/// What a circuit carries is looked at after so long at the earliest, milliseconds.
pub const SPREAD_RATE_MS: u64 = 100;
/// What it is taken to carry before anything is known, bytes per second.
pub const SPREAD_RATE_USUAL: u64 = 1_250_000;
/// For how long each of the first two is waited for before another is begun; each next one waits twice as long.
pub const BUILD_PATIENCE_MS: u64 = 500;
/// Paths to the exit that a circuit had that come to nothing before another exit is taken.
pub const PINNED_ATTEMPTS_MAX: u32 = 4;
/// A circuit in use on which nothing comes for so long is asked whether it lives.
pub const ALIVE_PING_MS: u64 = 200;
/// The longest pause between two such questions.
pub const ALIVE_PING_MS_MAX: u64 = 2_000;
/// A circuit that answers nothing for so long (or four of its round trips) is dead.
pub const ALIVE_MS_MAX: u64 = 800;
/// A circuit is in use for so long after its last packet.
pub const ALIVE_USED_MS: u64 = 15_000;
/// A circuit that ends here from which nothing came for so long may be dead: packets for it are kept, too.
pub const HELD_AFTER_MS: u64 = 300;
/// For how long they are.
pub const HELD_MS_MAX: u64 = 3_000;
/// So many per shard, at most.
pub const HELD_PACKETS_MAX: usize = 256;
/// None is longer, bytes.
pub const HELD_SIZE_MAX: usize = 2048;
/// Addresses that an exit has given out, at most.
pub const EXIT_LEASES_MAX: usize = 1 << 14;
/// Of those, the circuits that come by one neighbour have at most the whole divided by this,
pub const EXIT_SHARES: usize = 4;
/// or so many where the pools are small.
pub const EXIT_SHARE_MIN: usize = 16;
/// For how long an address waits for the origin that had it, milliseconds.
pub const EXIT_LEASE_MS: u64 = 10 * 60 * 1000;
/// What an exit with a rate lets through at once, bytes, however low the rate.
pub const EXIT_BURST_MIN: u64 = 64 << 10;
/// Draws for an address before one is looked for in order.
pub const EXIT_TRIES_MAX: usize = 256;
/// Rules and pools of an exit, at most.
pub const EXIT_RULES_MAX: usize = 256;
/// Networks that go through a circuit, at most.
pub const ONION_ROUTES_MAX: usize = 64;

/// Local ports of the SOCKS proxy's own flows through the node's circuit: below those that Linux gives out by itself
/// (`net.ipv4.ip_local_port_range` begins at 32,768), so that both ends of it share the circuit.
pub const SOCKS_PORT_FIRST: u16 = 16_384;
/// The last of them.
pub const SOCKS_PORT_LAST: u16 = 32_767;
/// Applications' connections to the proxy at once; others wait in the kernel's backlog.
pub const SOCKS_CLIENTS_MAX: usize = 512;
/// UDP associations among them.
pub const SOCKS_ASSOCIATIONS_MAX: usize = 64;
/// The longest name that is asked for, bytes (RFC 1035 §2.3.4), and the longest of its labels.
pub const SOCKS_NAME_MAX: usize = 253;
/// The longest label of a name, bytes.
pub const SOCKS_LABEL_MAX: usize = 63;
/// Bytes that an application may send before its request is answered: what is above them waits in the kernel.
pub const SOCKS_EARLY_MAX: usize = 4096;
/// What every connection can hold at least of what came for its application, bytes.
pub const SOCKS_RECEIVE_MIN: usize = 64 << 10;
/// At most, while there are few.
pub const SOCKS_RECEIVE_MAX: usize = 4 << 20;
/// Of that, what it can hold of what its application sent: 1 / so many.
pub const SOCKS_SEND_SHARE: usize = 2;
/// Bytes of all connections' buffers.
pub const SOCKS_BUFFERS_MAX: usize = 128 << 20;
/// A new connection gets 1 / so many of what the least of all others leaves.
pub const SOCKS_BUFFER_SHARE: usize = 16;
/// Bytes that pass one connection, each way, before the next has its turn.
pub const SOCKS_TURN_BYTES: usize = 1 << 20;
/// An application makes its request within this, milliseconds.
pub const SOCKS_HANDSHAKE_MS_MAX: u64 = 10_000;
/// One address answers within this, milliseconds.
pub const SOCKS_CONNECT_MS_MAX: u64 = 20_000;
/// Addresses of one name that are tried.
pub const SOCKS_ADDRESSES_MAX: usize = 4;
/// A connection over which nothing moves ends after this, milliseconds.
pub const SOCKS_IDLE_MS_MAX: u64 = 2 * 60 * 60 * 1000;
/// The same when one side has said its last, or does not take what is there for it.
pub const SOCKS_STUCK_MS_MAX: u64 = 10 * 60 * 1000;
/// An association without datagrams ends after this, milliseconds.
pub const SOCKS_UDP_IDLE_MS_MAX: u64 = 10 * 60 * 1000;
/// An ended connection still answers for this, milliseconds.
pub const SOCKS_LINGER_MS: u64 = 1_000;
/// Ended connections that still answer.
pub const SOCKS_LINGERING_MAX: usize = 256;
/// A question to a resolver is asked again after this, milliseconds.
pub const SOCKS_QUESTION_MS: u64 = 2_000;
/// How often it is asked.
pub const SOCKS_QUESTIONS_MAX: u32 = 3;
/// Resolvers that are asked in turn.
pub const SOCKS_RESOLVERS_MAX: usize = 4;
/// Names that are asked for at once.
pub const SOCKS_LOOKUPS_MAX: usize = 256;
/// Names whose addresses are remembered.
pub const SOCKS_NAMES_MAX: usize = 1024;
/// For how long at most, seconds.
pub const SOCKS_NAME_S_MAX: u32 = 300;
/// Addresses of one name that are remembered.
pub const SOCKS_NAME_ADDRESSES_MAX: usize = 8;
/// Datagrams of one association that wait for a name.
pub const SOCKS_DATAGRAMS_WAITING_MAX: usize = 16;
/// Datagrams of one association that are taken before others have their turn.
pub const SOCKS_DATAGRAMS_PER_TURN: usize = 32;
/// Of each of the kernel's tables of sockets, bytes that are read to see whose one is: about 30,000 sockets.
pub const SOCKS_SOCKETS_BYTES_MAX: u64 = 4 << 20;
/// Pause between two looks for one association, milliseconds.
pub const SOCKS_OWNER_MS: u64 = 10;
/// Events that the proxy takes from the kernel at once.
pub const SOCKS_EVENTS_MAX: usize = 256;
/// The proxy accepts again after this when it could not, milliseconds.
pub const SOCKS_ACCEPT_PAUSE_MS: u64 = 100;
/// Packets that wait between a shard and the proxy, each way.
pub const PIPE_PACKETS_MAX: usize = 1024;
/// Their bytes, each way.
pub const PIPE_BYTES_MAX: usize = 16 << 20;
/// Packets that either side takes from it at once.
pub const PIPE_PACKETS_PER_TURN: usize = 128;
/// How often the shards of a node tell one another again what concerns circuits: onion keys.
pub const CIRCUIT_SHARE_MS: u64 = 10_000;
/// How often the shard with the node's own circuit looks for friends that it has no lane to.
pub const CIRCUIT_ENTRIES_MS: u64 = 2_000;
/// Cells that wait in a shard at most, all circuits together: 2 KiB each.
pub const CELLS_WAITING_MAX: usize = 16_384;

// ---- the network of friends --------------------------------------------------------------------

/// First and longest wait before a friend who did not answer is called again, milliseconds.
pub const FRIEND_RETRY_MS_MIN: u64 = 500;
/// Longest wait.
pub const FRIEND_RETRY_MS_MAX: u64 = 30_000;
/// A `get` gives up when no friend is connected for so long, milliseconds.
pub const GET_LONELY_MS_MAX: u64 = 15_000;
/// A `get` gives up when connected friends have sent no slice for so long, milliseconds.
pub const GET_STARVED_MS_MAX: u64 = 120_000;
/// What none of the connected friends has is waited for, while others are being called, for so long at most,
/// milliseconds.
pub const GET_OTHERS_MS_MAX: u64 = 15_000;
/// A friend that sent wrong bytes is not asked for so long, milliseconds.
pub const LIAR_MS: u64 = 600_000;
/// Friends of a node at most.
pub const FRIENDS_MAX: usize = 4096;

// ---- introductions (docs/protocol/introductions.md) --------------------------------------------

/// Nodes that a node tells a friend of, at most, itself among them.
pub const INTRODUCTIONS_TOLD_MAX: usize = 64;
/// A message of introductions at most, bytes.
pub const INTRODUCTIONS_SIZE_MAX: usize = 2 + INTRODUCTIONS_TOLD_MAX * 158;
/// Introductions that a shard keeps of what all friends told, about 250 bytes each; each friend has the same share.
pub const INTRODUCTIONS_KNOWN_MAX: usize = 4096;
/// Hands that an introduction goes beyond the node's friends, at most.
pub const INTRODUCTION_HANDS_MAX: u8 = 2;
/// For how long an introduction holds, seconds; it is signed anew when half of that is over.
pub const INTRODUCTION_S: u32 = 6 * 3600;
/// Clocks may differ by so much, seconds: what holds for longer than [`INTRODUCTION_S`] and this is nobody's word.
pub const INTRODUCTION_SKEW_S: u32 = 3600;
/// Of 100 that a friend asserts of another, so much counts; and so for each further hand.
pub const TRUST_PER_HAND: u8 = 75;
/// Wait before friends are told of news, milliseconds: more may follow.
pub const INTRODUCTIONS_TELL_MS: u64 = 2_000;
/// A friend is told once in so long, seconds, on average: who changes all the time makes nobody else busy.
pub const INTRODUCTIONS_TELL_EACH_S: u32 = 60;
/// See [`INTRODUCTIONS_TELL_EACH_S`]: so often at once.
pub const INTRODUCTIONS_TELL_BURST: u32 = 4;
/// What is no news but a later date is told once in so long, milliseconds; and shards tell each other what they may have missed.
pub const INTRODUCTIONS_AGAIN_MS: u64 = 15 * 60 * 1000;
/// Time that a friend has to send a whole message, milliseconds.
pub const INTRODUCTIONS_MS_MAX: u64 = 10_000;
/// Messages that a friend may send, per second and at once.
pub const INTRODUCTIONS_PER_SECOND: u32 = 1;
/// See [`INTRODUCTIONS_PER_SECOND`].
pub const INTRODUCTIONS_BURST: u32 = 4;
/// Offered nodes with which a node keeps sessions, at most.
pub const ACQUAINTANCES_MAX: usize = 64;
/// Calls to acquaintances that a shard begins, per second; at once [`ACQUAINTANCES_MAX`]. Made-up ones, always others, are no more.
pub const ACQUAINTANCE_CALLS_PER_SECOND: u32 = 1;
/// Offers that are shown at most.
pub const OFFERS_SHOWN_MAX: usize = 256;
/// Addresses kept for one peer at most.
pub const ADDRESSES_PER_PEER_MAX: usize = 8;

// ---- bridges (docs/protocol/bridge.md) ---------------------------------------------------------

/// A bridge's URL at most, bytes.
pub const BRIDGE_URL_MAX: usize = 255;
/// The path in it at least and at most, bytes with its slash: what is shorter is guessed.
pub const BRIDGE_PATH_MIN: usize = 9;
/// See [`BRIDGE_PATH_MIN`].
pub const BRIDGE_PATH_MAX: usize = 128;
/// Connections that a bridge has at once at most, those that are not guests yet, or never will be, among them.
pub const BRIDGE_CONNECTIONS_MAX: usize = 512;
/// Those of one source: an IPv4 address, an IPv6 /56.
pub const BRIDGE_CONNECTIONS_PER_SOURCE_MAX: usize = 32;
/// Of all, those that are not guests yet; beyond, the eldest of them makes room.
pub const BRIDGE_STRANGERS_MAX: usize = 128;
/// Connections for which a bridge begins TLS, in a second and at once: one costs a millisecond of the thread that carries everything.
pub const BRIDGE_GREETINGS_PER_SECOND: u32 = 50;
/// See [`BRIDGE_GREETINGS_PER_SECOND`].
pub const BRIDGE_GREETINGS_BURST: u32 = 50;
/// The same of one source.
pub const BRIDGE_GREETINGS_PER_SOURCE_PER_SECOND: u32 = 4;
/// See [`BRIDGE_GREETINGS_PER_SOURCE_PER_SECOND`].
pub const BRIDGE_GREETINGS_PER_SOURCE_BURST: u32 = 16;
/// Sources of which it is remembered when they came.
pub const BRIDGE_SOURCES_MAX: usize = 1024;
/// Pages that are asked for by one connection, at most.
pub const BRIDGE_QUESTIONS_MAX: usize = 32;
/// Time for TLS and the question of HTTP together, milliseconds; who is no guest by then is not waited for.
pub const BRIDGE_GREETING_MS_MAX: u64 = 15_000;
/// What a question of HTTP may be at most, bytes.
pub const BRIDGE_REQUEST_MAX: usize = 16 << 10;
/// Datagrams that wait in one direction of a bridge at most: for TCP to drain, or for a connection.
pub const BRIDGE_QUEUE_MAX: usize = 512;
/// Bytes of datagrams that wait in all connections of bridges together, beyond [`BRIDGE_BATCH_MAX`] datagrams of each.
pub const BRIDGE_WAITING_BYTES_MAX: u64 = 32 << 20;
/// Time that a datagram waits for TCP to drain before it is dropped, milliseconds: so the queue is a short one at any rate.
pub const BRIDGE_QUEUE_MS_MAX: u64 = 150;
/// Datagrams that are written before the connection is flushed, at most: a train.
pub const BRIDGE_BATCH_MAX: usize = 64;
/// What the kernel is given of one connection before it has sent what it has, bytes.
pub const BRIDGE_UNSENT_BYTES: u32 = 128 << 10;
/// After so long each side asks the other whether it is there, milliseconds: proxies close what says nothing for a minute.
pub const BRIDGE_PING_MS: u64 = 20_000;
/// A connection on which nothing was heard for so long has ended, milliseconds.
pub const BRIDGE_SILENT_MS_MAX: u64 = 50_000;
/// One that carried no datagram for so long is closed by who called, milliseconds.
pub const BRIDGE_IDLE_MS_MAX: u64 = 120_000;
/// And by who was called, milliseconds.
pub const BRIDGE_GUEST_IDLE_MS_MAX: u64 = 300_000;
/// Time to reach a bridge: its name, TCP, TLS and HTTP, milliseconds.
pub const BRIDGE_CONNECT_MS_MAX: u64 = 15_000;
/// Between two tries, milliseconds; it doubles up to the next.
pub const BRIDGE_RETRY_MS_MIN: u64 = 500;
/// See [`BRIDGE_RETRY_MS_MIN`].
pub const BRIDGE_RETRY_MS_MAX: u64 = 30_000;
/// Addresses that are tried of a bridge's name, at most.
pub const BRIDGE_ADDRESSES_MAX: usize = 4;
/// It is looked for another certificate so often at most, milliseconds.
pub const BRIDGE_CERTIFICATE_MS: u64 = 60_000;
/// Certificates and key, bytes.
pub const BRIDGE_PEM_MAX: u64 = 256 << 10;

// ---- translators (docs/protocol/nat.md) --------------------------------------------------------

/// Addresses at which a node says it may be reached, to one that it meets, at most.
pub const MEETING_PLACES_MAX: usize = 8;
/// Addresses that one session tries to get off a relayed path at once at most: those that were told, and those that the peer
/// was heard at.
pub const PUNCHED_MAX: usize = MEETING_PLACES_MAX + 4;
/// When challenges go to all of them in a round, milliseconds from its begin.
pub const PUNCH_AT_MS: [u64; 7] = [0, 20, 60, 150, 400, 900, 2000];
/// Shortest time between two challenges to one of them beside a round, milliseconds.
pub const PUNCH_AGAIN_MS: u64 = 100;
/// Pauses between rounds, milliseconds; the last one is repeated.
pub const PUNCH_ROUNDS_MS: [u64; 6] = [3_000, 10_000, 30_000, 60_000, 120_000, 300_000];
/// A session with another path goes back to a relayed one when it said something and heard nothing for so long,
/// milliseconds.
pub const DIRECT_SILENT_MS: u64 = 5_000;
/// And follows its peer there when nothing came but that way for so long, milliseconds.
pub const RELAYED_DETOUR_MS: u64 = 1_500;
/// One carried datagram, or half of one, at most, bytes.
pub const CARRIED_MAX: usize = DATAGRAM_MAX;
/// Pairs for which a shard carries at most, each direction counted.
pub const PAIRS_MAX: usize = 2048;
/// Of those, of one peer.
pub const PAIRS_PER_PEER_MAX: usize = 64;
/// A pair for which nothing was carried for so long is forgotten, milliseconds.
pub const PAIR_IDLE_MS: u64 = 120_000;
/// Bytes a second that are carried for one pair, each direction, when either is a friend; and at once.
pub const CARRY_FRIEND_PER_SECOND: u32 = 2 << 20;
/// At once.
pub const CARRY_FRIEND_BURST: u32 = 1 << 20;
/// The same between strangers.
pub const CARRY_STRANGER_PER_SECOND: u32 = 128 << 10;
/// At once.
pub const CARRY_STRANGER_BURST: u32 = 256 << 10;
/// Of all strangers together, a shard.
pub const CARRY_STRANGERS_PER_SECOND: u32 = 1 << 20;
/// At once.
pub const CARRY_STRANGERS_BURST: u32 = 2 << 20;
/// The same of a pair for a node that is no relay: enough to meet by.
pub const CARRY_MEETING_PER_SECOND: u32 = 2 << 10;
/// At once.
pub const CARRY_MEETING_BURST: u32 = 64 << 10;
/// Messages of channel 6 of one peer, carried datagrams aside, a second.
pub const MEETING_PER_SECOND: u32 = 20;
/// At once.
pub const MEETING_BURST: u32 = 100;
/// Carried datagrams that one relay brings a second: what it could carry for a friend, in small ones.
pub const CARRIED_PER_SECOND: u32 = 20_000;
/// At once.
pub const CARRIED_BURST: u32 = 20_000;
/// Ways that a shard knows at most.
pub const WAYS_MAX: usize = 1024;
/// Of those, by one relay.
pub const WAYS_PER_RELAY_MAX: usize = 256;
/// A way that nothing came or went for so long is forgotten when room is needed, milliseconds.
pub const WAY_IDLE_MS: u64 = 60_000;
/// Nodes to which a shard wants a way at most.
pub const WANTED_WAYS_MAX: usize = 256;
/// A handshake that was not answered for so long is helped along, milliseconds.
pub const WAY_PATIENCE_MS: u64 = 700;
/// And again after so long, milliseconds.
pub const WAY_AGAIN_MS: u64 = 2_000;
/// Whom one shard asks for a way at most.
pub const WAY_ASKED_MAX: usize = 8;
/// Nodes near to another that are asked for a way to it at most.
pub const WAY_NEAR_MAX: usize = 4;
/// Ways that one handshake tries at most.
pub const WAYS_PER_CALL_MAX: usize = 4;
/// Questions for a way without an answer at most, per shard.
pub const WAY_QUESTIONS_MAX: usize = 512;
/// A question for a way is not answered any more after this, milliseconds.
pub const WAY_QUESTION_MS_MAX: u64 = 5_000;
/// How often a node behind a translator says to those who hold a session for it that it is there, milliseconds: less than
/// the half minute for which the worst translators remember.
pub const HOLD_MS: u64 = 15_000;
/// For so long a peer that is called to be asked for a way is waited for, milliseconds.
pub const WAY_ASKS_MS_MAX: u64 = 30_000;
/// Rounds that one peer may have this node begin at once.
pub const ROUNDS_BURST: u32 = 8;
/// And one more after so long, seconds.
pub const ROUND_COST: u32 = 3;
/// Rounds that all strangers may have a shard begin, a second.
pub const STRANGERS_ROUNDS_PER_SECOND: u32 = 20;
/// And at once.
pub const STRANGERS_ROUNDS_BURST: u32 = 100;
/// How often a shard tells those that it meets what is new of where it is, a second.
pub const TELLINGS_PER_SECOND: u32 = 1;
/// And at once.
pub const TELLINGS_BURST: u32 = 6;
/// Nodes near to it that hold one.
pub const HOLDERS: usize = 3;

/// Servers of STUN that a node asks at most.
pub const STUN_SERVERS_MAX: usize = 8;
/// First wait for the answer of one, milliseconds; doubles with each (RFC 8489 §6.2.1).
pub const STUN_RETRY_MS: u64 = 500;
/// Questions in a row without an answer.
pub const STUN_TRIES_MAX: u32 = 5;
/// How often each is asked, milliseconds.
pub const STUN_AGAIN_MS: u64 = 300_000;
/// How often names of servers are looked up again, milliseconds.
pub const STUN_LOOKUP_MS: u64 = 3_600_000;
/// A port is mapped for so long, seconds.
pub const MAPPING_LIFETIME_S: u32 = 3_600;
/// And asked for again after this, milliseconds.
pub const MAPPING_AGAIN_MS: u64 = 1_200_000;
/// What a router may take to answer, milliseconds.
pub const MAPPING_WAIT_MS: u64 = 3_000;
/// What mapping one port may take, by all three protocols one after the other, milliseconds: a router that takes the connection
/// and says nothing would hold everything else that is done about addresses.
pub const MAPPING_ALL_MS: u64 = 30_000;
const _: () = assert!(2 * MAPPING_AGAIN_MS < MAPPING_LIFETIME_S as u64 * 1000);
/// Strangers' questions of STUN that a shard answers a second.
pub const STUN_ANSWERS_PER_SECOND: u32 = 200;
/// At once.
pub const STUN_ANSWERS_BURST: u32 = 400;

const _: () = assert!(HOLD_MS < OVERLAY_IDLE_MS && HOLD_MS < KEEPALIVE_MS);
const _: () =
    assert!(WAY_PATIENCE_MS + WAY_AGAIN_MS < OVERLAY_CALL_MS_MAX && OVERLAY_CALL_MS_MAX < HANDSHAKE_MS_MAX);
const _: () = assert!(PUNCH_AT_MS[PUNCH_AT_MS.len() - 1] < PUNCH_ROUNDS_MS[0]);
const _: () = assert!(CARRY_FRIEND_PER_SECOND as usize / DATAGRAM_MIN < CARRIED_PER_SECOND as usize);

// ---- the overlay (docs/protocol/overlay.md) ----------------------------------------------------

/// One message of the overlay at most, bytes: with its frame it fits in one packet of [`DATAGRAM_MIN`].
pub const OVERLAY_MESSAGE_MAX: usize = 1152;
/// Addresses of one contact at most: one of each family.
pub const CONTACT_ADDRESSES_MAX: usize = 2;
/// Contacts in one answer at most.
pub const ANSWER_CONTACTS_MAX: usize = 8;
/// Records in one answer at most.
pub const ANSWER_RECORDS_MAX: usize = 4;
/// Contacts of one answer that name one IPv4 /24 or IPv6 /48, as a table has them at most.
pub const ANSWER_PER_SITE_MAX: usize = TABLE_PER_SITE_MAX;
/// Chunks in one announcement at most: so many signatures fit.
pub const ANNOUNCED_CHUNKS_MAX: usize = 12;
/// Contacts of one bucket at most.
pub const BUCKET_CONTACTS_MAX: usize = 16;
/// Of those, so many that are there longest are not displaced by better ones.
pub const BUCKET_OLDEST_KEPT: usize = 8;
/// Contacts that wait beside a full bucket at most.
pub const BUCKET_SPARES_MAX: usize = 8;
/// Contacts of one bucket that share an IPv4 /24 or an IPv6 /48 at most.
pub const BUCKET_PER_SITE_MAX: usize = 1;
/// Contacts of one bucket that share an IPv4 /16 or an IPv6 /32 at most.
pub const BUCKET_PER_NETWORK_MAX: usize = 2;
/// Contacts of a table that share an IPv4 /24 or an IPv6 /48 at most.
pub const TABLE_PER_SITE_MAX: usize = 3;
/// Contacts of a table that share an IPv4 /16 or an IPv6 /32 at most.
pub const TABLE_PER_NETWORK_MAX: usize = 10;
/// Exchanges in a row that a contact of a table leaves unanswered before it goes.
pub const CONTACT_FAILURES_MAX: u8 = 2;
/// A contact of which nothing was heard for so long is probed, milliseconds.
pub const CONTACT_QUIET_MS: u64 = 8 * 60 * 1000;
/// How often a node looks for whom to probe, milliseconds.
pub const PROBE_TURN_MS: u64 = 2_000;
/// Probes under way at most, per node.
pub const PROBES_MAX: usize = 8;
/// Peers heard of that wait to be probed at most.
pub const CANDIDATES_MAX: usize = 128;
/// Of those, told by one peer at most.
pub const CANDIDATES_PER_SOURCE_MAX: usize = 8;
/// Of those, in one IPv4 /24 or IPv6 /48 at most by one peer's word.
pub const CANDIDATES_PER_SITE_MAX: usize = 2;
/// Handshakes that one peer's word may cost an address from which nothing answers, in [`AIM_MS`].
pub const AIMS_PER_TELLER_MAX: usize = 2;
/// Handshakes that everybody's word may cost such an address, in that time.
pub const AIMS_PER_ADDRESS_MAX: usize = 6;
/// The same for an IPv4 /24 or IPv6 /48.
pub const AIMS_PER_SITE_MAX: usize = 24;
/// For so long an attempt that was not answered counts, milliseconds.
pub const AIM_MS: u64 = 10 * 60 * 1000;
/// Such attempts that are remembered at most.
pub const AIMS_MAX: usize = 4096;
/// Records that others brought and whose providers have not answered yet, at most.
pub const UNPROVEN_RECORDS_MAX: usize = 64;
/// A bucket in which nothing was looked up for so long is looked at, milliseconds.
pub const BUCKET_REFRESH_MS: u64 = 30 * 60 * 1000;
/// A node looks for those around it so often, milliseconds.
pub const NEIGHBOURS_MS: u64 = 10 * 60 * 1000;
/// And so soon after it entered, milliseconds; twice as long each time.
pub const ENTERED_MS: u64 = 2_000;
/// A published chunk that nobody could be told of is tried again after so long, milliseconds.
pub const REPUBLISH_RETRY_MS: u64 = 5_000;
/// When nobody kept its record, milliseconds.
pub const REFUSED_RETRY_MS: u64 = 60_000;
/// For so long after it entered, or found a part of the network again, a node is in a hurry, milliseconds.
pub const HASTE_MS: u64 = 90_000;
/// How often it then looks for whom to probe, milliseconds.
pub const HASTE_TURN_MS: u64 = 500;
/// Pause between two parts of the network that are found again, milliseconds.
pub const REGAINED_MS: u64 = 10_000;
/// A peer that was lost is tried again so often, one at a time, milliseconds.
pub const LOST_TURN_MS: u64 = 20_000;
/// Peers that are remembered at most.
pub const PEERS_REMEMBERED_MAX: usize = 4096;
/// A peer of which nothing was heard for so long is forgotten, seconds: 30 days.
pub const PEER_AGE_S_MAX: u32 = 30 * 24 * 3600;
/// Wait for an answer at least, milliseconds, before another peer is asked beside.
pub const ANSWER_MS_MIN: u64 = 60;
/// Such a wait where nothing is known of round trips, milliseconds.
pub const ANSWER_MS_USUAL: u64 = 500;
/// Such a wait at most, milliseconds.
pub const ANSWER_MS_MAX: u64 = 1_500;
/// An answer that comes later is none, milliseconds.
pub const EXCHANGE_MS_MAX: u64 = 4_000;
/// Exchanges under way at most, per node.
pub const EXCHANGES_MAX: usize = 1024;
/// Exchanges that one peer may begin per second, over time.
pub const REQUESTS_PER_PEER_PER_SECOND: u32 = 50;
/// Exchanges that one peer may begin at once.
pub const REQUESTS_PER_PEER_BURST: u32 = 200;
/// Peers whose requests are counted at once, at most.
pub const REQUESTERS_MAX: usize = 4096;
/// Refusals that a node says per second, over time: whoever asks too much hears no more than those.
pub const REFUSALS_PER_SECOND: u32 = 100;
/// And at once.
pub const REFUSALS_BURST: u32 = 200;
/// Signatures of announced records that a node verifies per second, over time.
pub const VERIFIED_PER_SECOND: u32 = 2_000;
/// And at once, those who are known; others half of it.
pub const VERIFIED_BURST: u32 = 4_000;
/// Lookups under way at most, per node.
pub const LOOKUPS_MAX: usize = 256;
/// How often a node counts those around a random place to learn how many there are, milliseconds.
pub const SURVEY_MS: u64 = 5 * 60 * 1000;
/// The same until it knows something, milliseconds.
pub const SURVEY_HASTE_MS: u64 = 5_000;
/// Of those, delegated by one peer at most.
pub const DELEGATED_PER_PEER_MAX: usize = 4;
/// Of those, delegated at most.
pub const DELEGATED_MAX: usize = 64;
/// Of those, by peers whose standing does not pay for them.
pub const DELEGATED_FREE_MAX: usize = 8;
/// What a delegated lookup costs its asker, bytes contributed or msat paid: the traffic that it makes, as the seeds
/// estimate it.
pub const DELEGATED_PRICE: u64 = 40 << 10;
/// Peers that a delegated lookup asks at most.
pub const DELEGATED_ASKED_MAX: usize = 64;
/// A peer that does not pay may delegate once in so long, milliseconds.
pub const DELEGATED_FREE_MS: u64 = 60_000;
/// Peers whose accounts the overlay knows at most.
pub const STANDINGS_MAX: usize = 4096;
/// Exchanges that delegated lookups leave to the node's own ones.
pub const EXCHANGES_OWN: usize = EXCHANGES_MAX / 2;
/// A lookup ends after so long, milliseconds.
pub const LOOKUP_MS_MAX: u64 = 30_000;
/// Disjoint paths of a lookup at most.
pub const LOOKUP_PATHS_MAX: usize = 8;
/// Candidates that one path of a lookup keeps at most, those nearest the key.
pub const PATH_CANDIDATES_MAX: usize = 128;
/// Peers that one lookup asks at most.
pub const LOOKUP_ASKED_MAX: usize = 320;
/// Records that one lookup gathers at most beside the first of each who answers.
pub const LOOKUP_RECORDS_MAX: usize = 96;
/// Nodes that a key's region has on average: those that keep its records.
pub const REGION_NODES: usize = 20;
/// Nodes of a region that a record is given to, or that are asked, at most.
pub const REGION_NODES_MAX: usize = 256;
/// Answers of a region that say that a key was looked for in vain before a lookup believes them.
pub const NOT_FOUND_VOTES_MIN: usize = 8;
/// What each of them must have counted at least.
pub const NOT_FOUND_COUNT_MIN: u16 = 3;
/// Life of a record at most, seconds.
pub const RECORD_S_MAX: u32 = 2 * 3600;
/// Clocks may differ by so much, seconds.
pub const CLOCK_GRACE_S: u32 = 600;
/// Records that are handed to a new keeper in one message at most.
pub const HANDED_RECORDS_MAX: usize = 8;
/// Chunks that are looked at for it at most.
pub const HANDED_LOOKED_MAX: usize = 1024;
/// Neighbours that a new keeper collects from.
pub const COLLECTED_FROM: usize = 3;
/// Others that it turns to when one of them does not answer, at most.
pub const COLLECTED_IN_VAIN_MAX: usize = 5;
/// Pause between two questions to one of them, milliseconds.
pub const COLLECT_PAUSE_MS: u64 = 200;
/// Pause between two times that all that is provided is announced again, since keepers may have begun anew, milliseconds.
pub const ANNOUNCE_ANEW_MS: u64 = 60_000;
/// Chunks that are announced so at most: who provides more waits for its hour, and newcomers collect meanwhile.
pub const ANNOUNCED_ANEW_MAX: usize = 4096;
/// Records that it takes a look at, of all of them, at most.
pub const COLLECTED_MAX: usize = RECORDS_MAX;
/// Questions that each of those counts as, for who answers.
pub const COLLECT_PRICE: u32 = 4;
/// Records of one key that a node keeps at most.
pub const RECORDS_PER_KEY_MAX: usize = 16;
/// Of those, so many that were renewed are displaced by nobody.
pub const RECORDS_RENEWED_KEPT: usize = 12;
/// Of those, so many that came first are not displaced by rank.
pub const RECORDS_FIRST_KEPT: usize = 8;
/// Of those, brought from one IPv4 /24 or IPv6 /48 at most.
pub const RECORDS_PER_KEY_SITE_MAX: usize = 2;
/// Of those, brought from one IPv4 /16 or IPv6 /32 at most.
pub const RECORDS_PER_KEY_NETWORK_MAX: usize = 4;
/// Records of one provider that a node keeps at most.
pub const RECORDS_PER_PROVIDER_MAX: usize = 16_384;
/// Records that a node keeps at most.
pub const RECORDS_MAX: usize = 1 << 16;
/// Keys whose queries a node counts at most.
pub const COUNTED_KEYS_MAX: usize = 4096;
/// Half-life of those counts, seconds.
pub const COUNT_HALF_LIFE_S: u64 = 600;
/// Announcements for one key that a node takes per minute from others than its providers (Coral's β).
pub const ANNOUNCED_PER_MINUTE_MAX: u32 = 12;
/// Chunks that a node publishes at most.
pub const PUBLISHED_MAX: usize = 1 << 20;
/// A published chunk is looked after so often, milliseconds.
pub const REPUBLISH_MS: u64 = 3_600_000;
/// Hosts that a published chunk is to have, unless told otherwise.
pub const HOSTS_WANTED_USUAL: u8 = 3;
/// Chunks of the same region that are due within so long are announced together, milliseconds.
pub const REPUBLISH_TOGETHER_MS: u64 = REPUBLISH_MS / 4;
/// Regions whose published chunks are looked after at once, at most.
pub const CHECKS_MAX: usize = 32;
/// The nodes of such a region are used for so long, milliseconds, before they are looked for again.
pub const CHECK_MS_MAX: u64 = 60_000;
/// Announcements sent per second at most, over time.
pub const ANNOUNCEMENTS_PER_SECOND: u64 = 512;
/// And at once.
pub const ANNOUNCEMENTS_BURST: u64 = 128;
/// Announcements that wait for an answer at most.
pub const ANNOUNCEMENTS_OPEN_MAX: usize = EXCHANGES_MAX / 2;
/// How often more of them are sent, milliseconds.
pub const ANNOUNCE_TURN_MS: u64 = 50;
/// Published chunks that are looked through for the next region at once, at most.
pub const DUE_LOOKED_MAX: usize = 4096;
/// Effects that wait to be taken from the overlay at most.
pub const OVERLAY_EFFECTS_MAX: usize = 4096;
/// Of a network's name, in front of every message of the overlay, bytes.
pub const OVERLAY_TAG_SIZE: usize = 4;
/// Sessions with strangers that a node keeps open for the overlay at most, of each direction.
pub const OVERLAY_SESSIONS_MAX: usize = 512;
/// One that the overlay has not used for so long is closed, milliseconds.
pub const OVERLAY_IDLE_MS: u64 = 30_000;
/// How often they are looked at, milliseconds.
pub const OVERLAY_SWEEP_MS: u64 = 5_000;
/// Handshakes for the overlay at once, per shard.
pub const OVERLAY_CALLS_MAX: usize = 256;
/// Of those, left to what a caller waits for: tables and publishing do without.
pub const OVERLAY_CALLS_OWN: usize = OVERLAY_CALLS_MAX / 4;
/// Sessions that strangers began and that have nothing to do with the overlay at most, per node: beyond them one that nothing
/// needs is closed, of those the one that came or was needed longest ago, so that friends find room among [`SESSIONS_MAX`].
pub const STRANGERS_MAX: usize = 1 << 14;
/// Messages of the overlay that one session brings per second, over time.
pub const OVERLAY_MESSAGES_PER_SECOND: u32 = 4 * REQUESTS_PER_PEER_PER_SECOND;
/// And at once.
pub const OVERLAY_MESSAGES_BURST: u32 = 4 * REQUESTS_PER_PEER_BURST;
/// Messages that wait for one of them at most.
pub const OVERLAY_QUEUED_MAX: usize = 8;
/// A handshake for the overlay is given up after so long, milliseconds.
pub const OVERLAY_CALL_MS_MAX: u64 = 6_000;
/// A node that knows fewer others enters again.
pub const OVERLAY_ENTERED_MIN: usize = 4;
/// Pause before it does, milliseconds; twice as long each time, up to the second.
pub const OVERLAY_ENTER_MS_MIN: u64 = 2_000;
/// The longest.
pub const OVERLAY_ENTER_MS_MAX: u64 = 60_000;
/// Saved peers that are called at once to enter.
pub const OVERLAY_ENTER_SAVED: usize = 8;
/// Networks that must see a node at an address before it is believed.
pub const OVERLAY_WITNESSES_MIN: usize = 2;
/// Networks whose word on that is remembered at most.
pub const OVERLAY_SEEN_MAX: usize = 64;
/// And for how long, milliseconds.
pub const OVERLAY_SEEN_MS_MAX: u64 = 2 * 60 * 60 * 1000;
/// How often a daemon looks whether its host has other addresses, milliseconds.
pub const OWN_ADDRESSES_MS: u64 = 10_000;
/// Nodes by which a network may be entered, in the configuration, at most.
pub const BOOTSTRAP_MAX: usize = 64;
/// Chunks that one shard has looked up at once.
pub const FINDS_MAX: usize = 4;
/// How often in a row one chunk is looked up for nothing before it is given up.
pub const FINDS_PER_CHUNK_MAX: u8 = 3;
/// Pause between two lookups of one chunk, milliseconds.
pub const FIND_AGAIN_MS: u64 = 3_000;
/// Chunks of which a shard remembers that they were looked up, at most.
pub const FINDS_REMEMBERED_MAX: usize = 1024;
/// A lookup of which nothing was heard for so long is over, milliseconds.
pub const FIND_MS_MAX: u64 = LOOKUP_MS_MAX + 5_000;
/// Providers with a session that a shard fetches from at once, friends aside.
pub const PROVIDERS_MAX: usize = 16;
/// Providers that are called at once, those aside that were silent for [`PROVIDER_SILENT_MS`].
pub const PROVIDER_CALLS_MAX: usize = 4;
/// Those and the silent ones.
pub const PROVIDER_CALLS_OPEN_MAX: usize = 32;
/// A provider that was called and is silent for so long does not keep others from being called, milliseconds.
pub const PROVIDER_SILENT_MS: u64 = 1_500;
/// Providers that wait to be called at most.
pub const PROVIDERS_WAITING_MAX: usize = 64;
/// A provider that was called and of which nothing was heard for so long is not there, milliseconds.
pub const PROVIDER_CALL_MS_MAX: u64 = 10_000;
/// And is not called again for so long, milliseconds.
pub const PROVIDER_AGAIN_MS: u64 = 20_000;
/// A provider that gave nothing for so long makes room for another, milliseconds.
pub const PROVIDER_IDLE_MS: u64 = 10_000;
/// While the network is asked for it, what nobody here has is waited for so long at most, milliseconds.
pub const GET_NETWORK_MS_MAX: u64 = 90_000;
/// Requests for chunks of one stranger at once.
pub const REQUESTS_PER_STRANGER_MAX: usize = 32;
/// Requests for chunks of all strangers of a shard at once.
pub const STRANGER_REQUESTS_MAX: usize = 1024;
/// Chunks that are named at once to be provided.
pub const PROVIDE_BATCH: usize = 256;
/// How often the store is looked through for chunks that are not provided yet, milliseconds.
pub const PROVIDE_MS: u64 = 1_000;
/// And that often although nothing seems to have changed, milliseconds.
pub const PROVIDE_MS_MAX: u64 = 60_000;
/// Peers that are told at once to be saved.
pub const PEERS_BATCH: usize = 256;
/// Peers whose gifts are counted.
pub const GIVERS_MAX: usize = 1024;
/// How often the peers that were met are saved, milliseconds.
pub const PEERS_SAVE_MS: u64 = 60_000;
/// For the first time, milliseconds.
pub const PEERS_SAVE_MS_FIRST: u64 = 10_000;

// ---- keeping chunks for others (docs/protocol/keep.md) -----------------------------------------

/// Chunks that a node receives at once to keep them, at most; shards have equal parts.
pub const KEEP_BODIES_MAX: usize = 32;
/// Of those, for strangers.
pub const KEEP_BODIES_STRANGERS: usize = 24;
/// Of those, for one guest: a friend, or strangers of one network.
pub const KEEP_BODIES_PER_GUEST_MAX: usize = 4;
/// And on one session.
pub const KEEP_BODIES_PER_SESSION_MAX: usize = 2;
/// Offers of one session that are not whole, or are being answered, at most.
pub const KEEP_OFFERS_PER_SESSION_MAX: usize = 8;
/// Offers of all sessions of a shard that are not whole, at most.
pub const KEEP_OFFERS_MAX: usize = 1024;
/// Time that a chunk has to come as a whole, milliseconds.
pub const KEEP_BODY_MS_MAX: u64 = 60_000;
/// When whoever offers too much may offer again, milliseconds.
pub const KEEP_RETRY_MS: u32 = 1_000;
/// Strangers of one network may give so much per second over time, KiB.
pub const KEEP_NETWORK_KIB_PER_SECOND: u32 = 512;
/// And at once, KiB.
pub const KEEP_NETWORK_KIB_BURST: u32 = 64 << 10;
/// All strangers together per second over time, KiB.
pub const KEEP_STRANGERS_KIB_PER_SECOND: u32 = 2 << 10;
/// And at once, KiB.
pub const KEEP_STRANGERS_KIB_BURST: u32 = 256 << 10;
/// A friend may give so many times what a network of strangers may.
pub const KEEP_FRIEND_TIMES: u32 = 8;
/// The part of the cache that strangers of one network may fill in a day.
pub const KEEP_NETWORK_SHARE: u64 = 16;
/// And all strangers together.
pub const KEEP_STRANGERS_SHARE: u64 = 2;
/// Guests that are remembered at most.
pub const KEEP_GUESTS_MAX: usize = 4096;
/// Nodes that are to keep each chunk that is given away.
pub const PUSH_COPIES: usize = 4;
/// So many are enough where there are no more, and are looked for again where there are fewer.
pub const PUSH_COPIES_MIN: usize = 2;
/// Nodes that one chunk is offered to at once.
pub const PUSH_OFFERS_MAX: usize = 2;
/// Chunks of a node that wait to be kept by others at once.
pub const PUSH_CHUNKS_MAX: usize = 64;
/// Their bytes.
pub const PUSH_BYTES_MAX: usize = 4 << 20;
/// Lookups for them at once.
pub const PUSH_LOOKUPS_OPEN_MAX: usize = FINDS_MAX;
/// How often keepers are looked for, for one chunk.
pub const PUSH_LOOKUPS_MAX: u8 = 4;
/// Pause between two of those, milliseconds.
pub const PUSH_AGAIN_MS: u64 = FIND_AGAIN_MS;
/// Nodes that may be asked to keep one chunk at most, the nearest.
pub const PUSH_CANDIDATES_MAX: usize = 32;
/// How often one node is asked to keep one chunk, when it is busy.
pub const PUSH_TRIES_MAX: u8 = 5;
/// A keeper that is called and of which nothing is heard for so long is not there, milliseconds.
pub const PUSH_CALL_MS_MAX: u64 = PROVIDER_CALL_MS_MAX;
/// An offer that is not answered for so long is taken back, milliseconds.
pub const PUSH_ANSWER_MS_MAX: u64 = 15_000;
/// Keepers of which is remembered whether they are there.
pub const PUSH_KEEPERS_MAX: usize = 1024;
/// One chunk may take so long, milliseconds.
pub const PUSH_CHUNK_MS_MAX: u64 = 180_000;

/// Cache of the store that an anonymous put has of its own, bytes: it is not used.
pub const GIVE_CACHE: u64 = 1 << 20;
/// An anonymous put of which its node says nothing for so long is given up, milliseconds.
pub const GIVE_SILENT_MS_MAX: u64 = 2 * PUSH_CHUNK_MS_MAX;
/// A node that takes no command for so long is given up, milliseconds.
pub const GIVE_COMMAND_MS: u64 = 5_000;

const _: () = assert!(KEEP_BODIES_STRANGERS < KEEP_BODIES_MAX, "friends find room");
const _: () = assert!(PUSH_COPIES_MIN <= PUSH_COPIES);
const _: () = assert!(PUSH_BYTES_MAX >= 2 * CHUNK_SIZE_MAX, "while one is sent, the next is looked up");

// ---- intents (docs/protocol/intents.md) ---------------------------------------------------------

/// How far ahead a node may say what it means to do, seconds (30 days).
pub const INTENT_S_MAX: u32 = 30 * 86_400;
/// For how long a peer may be asked to stay, and may grant it, seconds (a day).
pub const STAY_S_MAX: u32 = 86_400;
/// A node that leaves within so long leaves soon: others make do without it from then on, milliseconds.
pub const LEAVING_SOON_MS: u64 = 300_000;
/// The ways through one that leaves are given up once in so long at most, whatever it says, milliseconds.
pub const PARTED_MS: u64 = 30_000;
/// A grant has a node stay for so much longer at least, seconds: each is told to everybody.
pub const GRANT_S_MIN: u64 = 30;
/// Who is heard so long after it meant to leave has come back, milliseconds.
pub const LEFT_MS: u64 = 30_000;
/// Pauses before something that was not answered is said again, milliseconds; after the last it is left.
pub const INTENT_AGAIN_MS: [u64; 9] = [500, 500, 1_000, 1_000, 2_000, 3_000, 5_000, 8_000, 10_000];
/// Messages of channel 7 of one peer, a second.
pub const INTENTS_PER_SECOND: u32 = 2;
/// At once.
pub const INTENTS_BURST: u32 = 30;
/// Strangers of which is remembered that they leave, by one shard and by the overlay's core.
pub const LEAVERS_MAX: usize = 4096;
/// Messages that one look at what is to be said hands out at most.
pub const INTENTS_SAID_MAX: usize = 64;
/// Pause between two such looks, and between two at what leaving peers are needed for, milliseconds.
pub const INTENT_TURN_MS: u64 = 500;
/// What a friend that leaves is asked for beyond what a `get` seems to need, milliseconds.
pub const STAY_SPARE_MS: u64 = 10_000;
/// Chunks that a leaving node has listed to be handed over, the most asked for.
pub const HANDOVER_MAX: usize = 1 << 16;
/// Of those, so many are given away at once.
pub const HANDOVER_OPEN_MAX: usize = 16;
/// Pause after which a leaving node lists again what has too few hosts, milliseconds.
pub const HANDOVER_LIST_MS: u64 = 10_000;
/// With more published chunks than this a leaving node does not announce all of them anew.
pub const HANDOVER_ANNOUNCED_MAX: usize = 1 << 16;

/// How often the daemon looks whether its time to leave has come, milliseconds.
pub const LEAVE_LOOK_MS: u64 = 500;
/// A node that may leave before its time stays for so long at least, milliseconds: what was put just now is provided, and listed.
pub const LEAVE_EARLY_MS: u64 = 5_000;

const _: () = assert!(LEAVE_EARLY_MS > 2 * PROVIDE_MS);
const _: () = assert!(HANDOVER_OPEN_MAX <= PUSH_CHUNKS_MAX && STAY_S_MAX <= INTENT_S_MAX);
const _: () = assert!(HANDOVER_ANNOUNCED_MAX as u64 / ANNOUNCEMENTS_PER_SECOND < LEAVING_SOON_MS / 1000);

// ---- the shaper (docs/shaping.md) --------------------------------------------------------------

/// Peers that one shard shapes at most: its sessions, and those that are being set up.
pub const SHAPED_PEERS_MAX: usize = SESSIONS_MAX;
/// What IP and UDP add to a datagram at most, bytes (IPv6).
pub const IP_HEADER_MAX: u64 = 48;
/// One datagram on the wire at most, bytes: what a sender must be allowed at once.
pub const WIRE_PACKET_MAX: u64 = DATAGRAM_MAX as u64 + IP_HEADER_MAX;
/// One train on the wire at most, bytes.
pub const WIRE_TRAIN_MAX: u64 = TRAIN_SIZE_MAX as u64 + IP_HEADER_MAX * TRAIN_SEGMENTS_MAX as u64;
/// A control packet needs so much at least, bytes on the wire.
pub const CONTROL_WIRE_MIN: u64 = 256;
/// Any configured rate at least, bits per second: a full packet every 12 s.
pub const RATE_BITS_MIN: u64 = 1_000;
/// Any configured rate at most, bits per second.
pub const RATE_BITS_MAX: u64 = 1_000_000_000_000;
/// A bucket's burst at most, bytes.
pub const BURST_BYTES_MAX: u64 = 64 << 20;
/// A bucket that ran empty is used again once its rate has given so much time, microseconds: wake-ups of one peer stay
/// below 500 per second.
pub const SHAPE_QUANTUM_US: u64 = 2_000;
/// The same of a peer's cap: longer, since each train costs the kernel what several packets do. A window of 100 ms is off by
/// 4 % at most.
pub const SHAPE_CAP_QUANTUM_US: u64 = 4_000;
/// The same for the node as a whole, microseconds: what a control packet waits for at most.
pub const SHAPE_NODE_QUANTUM_US: u64 = 500;
/// What an idle bucket saves up unless told otherwise, microseconds of its rate.
pub const SHAPE_BURST_US: u64 = 4_000;
/// The same of a peer's cap: a shard that stood still for less has lost nothing of anybody's second.
pub const SHAPE_CAP_BURST_US: u64 = 6_000;
/// What a turn of a shard may take, microseconds: what was decided at its begin and what is decided after it may leave
/// together, and shall be no more than the burst even so.
pub const SHAPE_TURN_US: u64 = 250;
/// Shards ask for their part of the node's rate, and get it, once in so long, microseconds.
pub const EXCHANGE_US: u64 = 1_000;
/// A lane that asked its peer's first one for what it may send, and heard nothing, asks again after so long, ms.
pub const LOAN_AGAIN_MS: u64 = 1_000;
/// A peer of which a lane has to wait for what another lends it is not asked for anything for so long, s, unless it comes.
pub const LOAN_PATIENCE_S: u64 = 3_600;
/// Who cannot lend looks again after so long at the earliest, microseconds.
pub const LOAN_PAUSE_US: u64 = 65;
/// Tokens for control that an idle shard keeps, bytes: an acknowledgement waits for nobody.
pub const LEASE_CONTROL_KEPT: u64 = 2 * WIRE_PACKET_MAX;
/// What one request asks for at most under a limit of what comes, microseconds of its rate; a slice at least.
pub const DOWN_REQUEST_US: u64 = 20_000;
/// Times of the day with rates of their own at most.
pub const LIMIT_WINDOWS_MAX: usize = 32;
/// Peers with limits of their own at most.
pub const LIMITED_PEERS_MAX: usize = 4096;
/// The effective rates are looked at again after so long, milliseconds: a schedule counts in minutes.
pub const LIMITS_REVIEW_MS: u64 = 15_000;
/// Weight of a peer at most; the usual one is [`WEIGHT_USUAL`].
pub const WEIGHT_MAX: u16 = 100;
/// Weight of a peer about which nothing is known.
pub const WEIGHT_USUAL: u16 = 10;
/// Share of the node's rate that control packets may take before others, thousandths.
pub const CONTROL_SHARE_MILLI_MAX: u64 = 30;
/// Share of the node's rate that reservations and floors may take before others, thousandths: the rest is nobody's own.
pub const URGENT_SHARE_MILLI_MAX: u64 = 950;
/// Share of the node's rate that reservations may promise, thousandths.
pub const RESERVED_SHARE_MILLI_MAX: u64 = 800;
/// Delay that a reservation may ask for, microseconds.
pub const RESERVED_DELAY_US_MIN: u64 = 1_000;
/// Delay of a reservation that asks for none, microseconds.
pub const RESERVED_DELAY_US_USUAL: u64 = 20_000;
/// Delay that a reservation may ask for at most, microseconds: the deadlines' calendar reaches a little further.
pub const RESERVED_DELAY_US_MAX: u64 = 250_000;
/// The line's rate is looked at again after so long, milliseconds, where it is measured.
pub const LINE_ROUND_MS: u64 = 100;
/// A wait on the way that is none yet, microseconds: below it the rate is raised.
pub const LINE_LOW_US: u64 = 5_000;
/// A wait that must drain, microseconds.
pub const LINE_HIGH_US: u64 = 20_000;
/// One part in so many of the rate is the largest raise.
pub const LINE_STEP_MAX: u64 = 8;
/// A measured rate at least, bits per second.
pub const LINE_RATE_MIN: u64 = 64_000;
/// Promises that friends may have asked for on one shard at most.
pub const PROMISES_MAX: usize = 1024;
/// A promise that a friend asks for lasts at most so long, seconds: a week.
pub const RESERVED_S_MAX: u32 = 604_800;
/// Time that a peer has to send a whole request for a promise, milliseconds.
pub const RESERVE_MS_MAX: u64 = 10_000;
/// Share of the node's rate that friends may have promised to them by asking, thousandths, unless told otherwise: what
/// the operator's own promises leave of [`URGENT_SHARE_MILLI_MAX`].
pub const ASKED_SHARE_MILLI_USUAL: u64 = URGENT_SHARE_MILLI_MAX - RESERVED_SHARE_MILLI_MAX;
/// Packets that wait in the queues of one shard at most (tunnels and cells; streams have none).
pub const SHAPED_PACKETS_MAX: usize = 16_384;
/// Packets of one queue at most.
pub const SHAPED_PACKETS_PER_QUEUE_MAX: u16 = 1_024;
/// Wait that a queue may keep up before packets are dropped, microseconds (CoDel's target).
pub const CODEL_TARGET_US: u64 = 5_000;
/// For how long it may, microseconds (CoDel's interval).
pub const CODEL_INTERVAL_US: u64 = 100_000;

// ---- configuration, API and command line -------------------------------------------------------

/// `tornet.toml` at most, bytes: room for [`FRIENDS_MAX`] friends.
pub const CONFIG_SIZE_MAX: u64 = 8 << 20;
/// A key file at most, bytes.
pub const KEY_FILE_SIZE_MAX: u64 = 4096;
/// A friend's or the network's name at most, bytes.
pub const LABEL_MAX: usize = 64;
/// Local addresses that a node listens on at most.
pub const LISTEN_ADDRESSES_MAX: usize = SHARD_SOCKETS_MAX;
/// Connections that the API serves at once, on the unix socket and on TCP each.
pub const API_CONNECTIONS_MAX: usize = 64;
/// Body of an API request at most, bytes.
pub const API_BODY_MAX: usize = 1 << 20;
/// Header section of an API request at most, bytes.
pub const API_HEADER_MAX: usize = 16 << 10;
/// Time to send the header section of an API request, milliseconds.
pub const API_HEADER_MS_MAX: u64 = 10_000;
/// Time to send the body of an API request, milliseconds.
pub const API_BODY_MS_MAX: u64 = 30_000;
/// Time that the node is given to answer a question of the API, milliseconds.
pub const API_ANSWER_MS_MAX: u64 = 5_000;
/// Questions to the node that wait for an answer at once, at most.
pub const API_QUESTIONS_MAX: usize = 256;
/// Progress lines of a job at most every so many milliseconds.
pub const API_PROGRESS_MS: u64 = 100;
/// Progress lines that wait for a slow client at most.
pub const API_LINES_MAX: usize = 8;
/// Paths of one `put` at most.
pub const PUT_PATHS_MAX: usize = 4096;
/// Jobs (`put`) of a daemon at once.
pub const PUT_JOBS_MAX: usize = 4;
/// Peers that have metrics of their own at most.
pub const METRICS_PEERS_MAX: usize = 1024;
/// A response that the command line reads at most, bytes (one line of a stream, or a whole answer).
pub const API_ANSWER_MAX: usize = 16 << 20;
/// Time that open API connections are given when the daemon stops, milliseconds.
pub const API_DRAIN_MS_MAX: u64 = 2_000;

// ---- the link emulator (docs/testing/lab.md) ---------------------------------------------------

/// Packets that are on the way through one emulator at most: half a second at 1.5 Gbit/s.
pub const EMULATOR_PACKETS_MAX: usize = 65_536;
/// One such packet at most, bytes; more than any device that the lab makes hands over.
pub const EMULATOR_PACKET_SIZE_MAX: usize = 2048;

const _: () = {
    assert!(PIECE_PLAIN_MAX + CHUNK_SLICES_MAX * TAG_SIZE == CHUNK_SIZE_MAX);
    assert!(RECORD_PLAIN + 16 == 16 * 4096, "a full record fills an LMDB run of 16 pages");
    assert!(BUFFER_SIZE >= BUFFER_HEAD_ROOM + TRAIN_SIZE_MAX + BUFFER_TAIL_ROOM);
    assert!(BUFFER_SIZE.is_multiple_of(4096));
    assert!(RECEIVE_BUFFERS.is_power_of_two());
    assert!(
        COMPLETION_QUEUE as usize
            >= 2 * (RECEIVE_BUFFERS + SEND_BUFFERS + TUN_BUFFERS) + SHARD_TUNS_MAX * TUN_WRITES_MAX + 1024
    );
    assert!(TRAIN_SEGMENTS_MAX * DATAGRAM_MIN > TRAIN_SIZE_MAX || TRAIN_SEGMENTS_MAX <= 64);
    assert!(EARLY_DATA_MAX + 400 <= DATAGRAM_MIN);
    assert!(STREAM_WINDOW as usize >= CHUNK_SIZE_MAX + 16 + 32 * CHUNK_SLICES_MAX);
    assert!(SLICES_AHEAD_PER_PEER <= SLICE_BUFFERS);
    assert!(SLICES_AHEAD_PER_PEER * SLICE_SIZE <= SESSION_WINDOW as usize);
    assert!(
        STREAM_UNREAD_MAX as usize > DATAGRAM_MAX,
        "whatever one packet brings is heard, if only to refuse it"
    );
    assert!(REPLAY_WINDOW.is_multiple_of(64));
    assert!(GET_OTHERS_MS_MAX > HANDSHAKE_RETRY_MS_MAX * 5 / 4, "who is being called is called once more");
    assert!(COOKIE_BUCKETS.is_power_of_two() && 1000 % COOKIE_WINDOW_MS == 0);
    assert!(
        COOKIE_BUCKETS as u64 * HANDSHAKES_PER_PREFIX_PER_SECOND as u64 > COOKIE_ASKERS * COOKIES_PER_SECOND,
        "a flood from everywhere meets the limit for all before that for its prefixes"
    );
    assert!(16 + RECEIVE_NAME_SIZE + RECEIVE_CONTROL_SIZE <= BUFFER_HEAD_ROOM);
    assert!((16 + RECEIVE_NAME_SIZE + RECEIVE_CONTROL_SIZE).is_multiple_of(8));
    assert!(TUNNEL_MTU >= TUNNEL_MTU_MIN && TUNNEL_MTU <= TUNNEL_MTU_MAX);
    assert!(TUNNEL_MTU + PACKET_OVERHEAD + 40 + 8 <= 1500, "fits with IPv6 outside");
    assert!(TUNNEL_WAITING_SIZE_MAX >= TUNNEL_MTU_MAX && COALESCING_MAX < SEND_BUFFERS / 2);
    assert!(BUFFER_SIZE - BUFFER_HEAD_ROOM >= 65_535 + 40, "a superpacket fits in a buffer");
    assert!(RECEIVE_LENT_MIN <= RECEIVE_BUFFERS && SEND_BUFFERS <= SEND_SLOTS);
    assert!(
        SEND_SLOTS + 2 * WARM_IN_FLIGHT_MAX + 2 * SHARD_SOCKETS_MAX + SHARD_TUNS_MAX * (TUN_WRITES_MAX + 2)
            < SUBMISSION_QUEUE as usize
    );
    assert!(TUN_BUFFERS.is_power_of_two() && TUN_LENT_MIN <= TUN_BUFFERS);
    assert!(TUN_HEADER_SIZE <= HEADER_SIZE, "an opened packet has room for it where its masked header was");
    assert!(CONGESTION_WINDOW_MAX >= SESSION_WINDOW);
    assert!(REORDER_PACKETS_MAX < REPLAY_WINDOW);
    assert!(HANDSHAKE_INIT_MIN < DATAGRAM_MIN);
    assert!(EPOCH_PACKETS_MAX < 1 << 28, "the truncated number covers more than an epoch");
    assert!(UNCONFIRMED_MS_MAX < HANDSHAKE_MS_MAX && UNCONFIRMED_MS_MAX < SESSION_IDLE_MS_MAX);
    assert!(KEEPALIVE_MS * 2 < SESSION_IDLE_MS_MAX);
    assert!(LANE_TRIES_MAX as u64 * LANE_RETRY_MS_MAX < LANE_WAIT_MS && LANE_WAIT_MS < LANE_IDLE_MS_MAX);
    assert!(SHARDS_MAX.is_power_of_two());
    assert!(HANDSHAKES_OUT_MAX + UNCONFIRMED_MAX < SESSIONS_MAX && SESSIONS_MAX.is_power_of_two());
    assert!(STORE_RUN == RECORD_PLAIN && SLICE_SIZE - STORE_RUN == 16);
    assert!(48 + CHUNK_SLICES_MAX * (32 + 16) <= INDEX_RECORD_MAX, "a full chunk's record stays in its page");
    assert!(
        RESERVED_DELAY_US_MAX * 1000 < 4096 << 16,
        "the deadlines' calendar reaches beyond every deadline"
    );
    assert!(CONTROL_SHARE_MILLI_MAX + URGENT_SHARE_MILLI_MAX < 1000, "something is left for everybody");
    assert!(RESERVED_SHARE_MILLI_MAX < URGENT_SHARE_MILLI_MAX);
    assert!(LINE_LOW_US < LINE_HIGH_US && LINE_RATE_MIN >= RATE_BITS_MIN);
    assert!(SHAPE_BURST_US >= 2 * SHAPE_QUANTUM_US && SHAPE_QUANTUM_US >= SHAPE_NODE_QUANTUM_US);
    assert!(BURST_BYTES_MAX < (1 << 62) / 8_000_000_000, "a bucket's level fits in 63 bits twice");
    assert!(BURST_BYTES_MAX >= RATE_BITS_MAX / 8 / 1_000_000 * 64, "64 µs of the highest rate");
    assert!(WIRE_TRAIN_MAX < u32::MAX as u64 && SHAPED_PACKETS_MAX < u32::MAX as usize);
    assert!(STORE_HANDLES_MAX.is_power_of_two() && STORE_RECENT_MAX.is_power_of_two());
    assert!(
        CELL_DATAGRAM_LARGE
            == PACKET_OVERHEAD
                + CIRCUIT_NUMBER_SIZE
                + INNER_HEADER_SIZE
                + CELL_INNER_LARGE
                + LAYERS_MAX * LAYER_OVERHEAD
    );
    assert!(
        CELL_DATAGRAM_SMALL
            == PACKET_OVERHEAD
                + CIRCUIT_NUMBER_SIZE
                + INNER_HEADER_SIZE
                + CELL_INNER_SMALL
                + LAYERS_MAX * LAYER_OVERHEAD
    );
    assert!(CELL_DATAGRAM_LARGE <= DATAGRAM_MAX && CELL_DATAGRAM_SMALL <= DATAGRAM_MIN);
    assert!(
        OVERLAY_MESSAGE_MAX + PACKET_OVERHEAD + 22 <= DATAGRAM_MIN,
        "a message and its frame are one packet"
    );
    assert!(BUCKET_OLDEST_KEPT < BUCKET_CONTACTS_MAX && REGION_NODES_MAX < LOOKUP_ASKED_MAX);
    assert!(ANSWER_MS_MAX < EXCHANGE_MS_MAX && EXCHANGE_MS_MAX < LOOKUP_MS_MAX);
    assert!(RECORD_S_MAX as u64 * 1000 >= 2 * REPUBLISH_MS, "one check may fail");
    assert!(DELEGATED_MAX + CHECKS_MAX < LOOKUPS_MAX && DELEGATED_FREE_MAX < DELEGATED_MAX);
    assert!(DELEGATED_ASKED_MAX < LOOKUP_ASKED_MAX && EXCHANGES_OWN < EXCHANGES_MAX);
    assert!(
        5 + 4 + 87 + 1 + ANNOUNCED_CHUNKS_MAX * (20 + 64) <= OVERLAY_MESSAGE_MAX,
        "an announcement of many chunks is one packet"
    );
    assert!(RECORDS_FIRST_KEPT < RECORDS_RENEWED_KEPT && RECORDS_RENEWED_KEPT < RECORDS_PER_KEY_MAX);
    assert!(RECORDS_PER_KEY_SITE_MAX < RECORDS_PER_KEY_NETWORK_MAX && RECORDS_PER_PROVIDER_MAX < RECORDS_MAX);
    assert!(ANNOUNCEMENTS_OPEN_MAX + REGION_NODES_MAX < EXCHANGES_MAX);
    assert!(REPUBLISH_MS + REPUBLISH_TOGETHER_MS < RECORD_S_MAX as u64 * 1000);
    assert!(OVERLAY_TAG_SIZE + OVERLAY_MESSAGE_MAX + PACKET_OVERHEAD + 22 <= DATAGRAM_MIN);
    assert!(OVERLAY_CALLS_MAX < HANDSHAKES_OUT_MAX && FINDS_MAX * SHARDS_MAX as usize <= LOOKUPS_MAX);
    assert!(OVERLAY_CALLS_OWN < OVERLAY_CALLS_MAX && EXCHANGE_MS_MAX < OVERLAY_IDLE_MS);
    assert!(
        STRANGERS_MAX + 2 * OVERLAY_SESSIONS_MAX + UNCONFIRMED_MAX < SESSIONS_MAX / 2,
        "friends find room"
    );
    assert!(VERIFIED_BURST / 2 > ANNOUNCED_CHUNKS_MAX as u32);
    assert!(OVERLAY_CALL_MS_MAX < HANDSHAKE_MS_MAX && OVERLAY_IDLE_MS < SESSION_IDLE_MS_MAX);
    assert!(REQUESTS_PER_STRANGER_MAX < REQUESTS_PER_SESSION_MAX);
    assert!(GET_NETWORK_MS_MAX > 2 * FIND_MS_MAX && GET_NETWORK_MS_MAX < GET_STARVED_MS_MAX);
    assert!(RELAYS_TOLD_MAX * 105 + HELLO_SERVICES_MAX * 4 + HELLO_AGENT_MAX + 16 <= HELLO_SIZE_MAX);
    assert!(HELLO_SIZE_MAX as u64 <= STREAM_UNREAD_MAX);
    assert!(INTRODUCTIONS_SIZE_MAX <= MESSAGE_SIZE_MAX && INTRODUCTIONS_TOLD_MAX <= u8::MAX as usize);
    assert!(INTRODUCTIONS_KNOWN_MAX >= FRIENDS_MAX, "every friend at least tells of itself");
    assert!(INTRODUCTIONS_AGAIN_MS * 4 < INTRODUCTION_S as u64 * 1000 / 2, "a later date comes in time");
    assert!(SPREAD_INNER_MAX >= 1280, "IPv6 passes");
    assert!(CELL_EPOCH_CELLS_MIN + CELL_EPOCH_CELLS_JITTER <= EPOCH_PACKETS_MAX);
    assert!(
        BUILDS_PER_SECOND * 2 * ONION_KEY_MS / 1000 + BUILDS_BURST <= BUILDS_REMEMBERED_MAX as u64,
        "no onion key's time is long enough to fill its memory of builds"
    );
    assert!(BUILD_MS_MAX < BUILD_RELAY_MS_MAX && CIRCUIT_DRAIN_MS < BUILD_RELAY_MS_MAX);
    assert!(CIRCUIT_REBUILD_MS_MIN + CIRCUIT_REBUILD_MS_JITTER + BUILD_MS_MAX < CIRCUIT_MS_MAX);
    assert!(CIRCUIT_PADDING_MS_MIN + CIRCUIT_PADDING_MS_JITTER < CIRCUIT_IDLE_MS_MAX / 2);
    assert!(
        ANONYMOUS_STUCK_LANES_MS > 2 * CIRCUIT_ENTRIES_MS && ANONYMOUS_STUCK_LANES_MS < CIRCUIT_WAIT_MS_MAX
    );
    assert!(ANONYMOUS_DATAGRAM_MAX >= DATAGRAM_MIN && ANONYMOUS_DATAGRAM_MAX <= DATAGRAM_MAX);
    assert!(ANONYMOUS_SKEW_MS_MAX * 2 < CLOCK_SKEW_MS_MAX && ANONYMOUS_TRAINS_MAX < TUNNEL_TRAINS_MAX);
    assert!(
        (PATHS_MAX + JOBS_ANONYMOUS_MAX) * (1 + CIRCUITS_BEFORE_MAX + CIRCUITS_BESIDE_MAX)
            <= CIRCUITS_OWN_MAX
    );
    assert!(REORDER_AHEAD_MAX < REPLAY_WINDOW && REORDER_HELD_MAX as u64 <= REORDER_AHEAD_MAX);
    assert!(2 * PATH_SAYS_MS <= HELD_AFTER_MS, "who gets something is no silent one");
    assert!(CIRCUITS_PER_LINK_MAX < CIRCUITS_MAX && CIRCUITS_MAX.is_power_of_two());
    assert!(HELD_MS_MAX < EXIT_LEASE_MS && EXIT_SHARE_MIN <= EXIT_LEASES_MAX / EXIT_SHARES);
    assert!(SOCKS_PORT_FIRST > 1024 && SOCKS_PORT_LAST < 32_768 && SOCKS_NAME_MAX < 256);
    assert!(
        SOCKS_CLIENTS_MAX * (SOCKS_RECEIVE_MIN + SOCKS_RECEIVE_MIN / SOCKS_SEND_SHARE)
            <= SOCKS_BUFFERS_MAX / 2,
        "everybody has the least, and half is left for those who come first"
    );
    assert!(
        (SOCKS_PORT_LAST - SOCKS_PORT_FIRST) as usize
            > 4 * (SOCKS_CLIENTS_MAX + SOCKS_LINGERING_MAX + 2 * SOCKS_LOOKUPS_MAX),
        "a port drawn at random is free"
    );
    assert!(BRIDGE_PATH_MAX < BRIDGE_URL_MAX && BRIDGE_URL_MAX <= u8::MAX as usize);
    assert!(BRIDGE_SILENT_MS_MAX > 2 * BRIDGE_PING_MS && BRIDGE_IDLE_MS_MAX < BRIDGE_GUEST_IDLE_MS_MAX);
    assert!(BRIDGE_STRANGERS_MAX < BRIDGE_CONNECTIONS_MAX, "strangers leave room for guests");
    assert!(
        BRIDGE_SOURCES_MAX as u32
            > BRIDGE_GREETINGS_BURST
                + BRIDGE_GREETINGS_PER_SECOND * BRIDGE_GREETINGS_PER_SOURCE_BURST
                    / BRIDGE_GREETINGS_PER_SOURCE_PER_SECOND,
        "nobody is forgotten whose bucket is not full"
    );
    assert!(BRIDGE_PING_MS < 60_000 && BRIDGE_QUEUE_MAX >= 2 * TRAIN_SEGMENTS_MAX);
    assert!(SOCKS_LINGER_MS < SOCKS_STUCK_MS_MAX && SOCKS_STUCK_MS_MAX < SOCKS_IDLE_MS_MAX);
    assert!(
        LIAR_MS > GET_LONELY_MS_MAX
            && GET_STARVED_MS_MAX > FETCH_SLICE_MS_MAX
            && FETCH_SLICE_MS_MAX > FETCH_STALL_MS
    );
};
