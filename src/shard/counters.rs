//! What a shard counts, beside what its sockets do.

use crate::io::tally::counters;

counters! {
    /// What the loop did.
    pub struct LoopCounters {
        shard_turns: "turns of the loop",
        shard_turns_cut: "turns that ended at a bound with work left, so that receiving, commands and sending take turns",
        shard_enters: "system calls: times the loop entered the kernel",
        shard_polls: "turns without work after which the loop looked again at once, as shards.busy_poll_us wants it",
        shard_parks: "times the loop had nothing left to do but wait for the kernel",
        shard_wakes: "times another thread woke the loop",
        shard_completions: "io_uring completions handled",
        shard_completion_overflows: "turns that found the completion queue overflowed",
        shard_ticks: "deadlines reported to the core",
        shard_overdue: "waits that were stretched because a deadline stayed overdue after it was reported",
        shard_commands: "commands taken from other threads",
        shard_file_ops: "file operations handed to the files thread",
        shard_file_answers: "answers of the files thread",
        shard_file_waits: "turns that ended early because the files thread had too much to do",
        shard_crossings_in: "messages taken from other shards",
        shard_crossings_out: "messages left for other shards",
        shard_crossings_lost: "messages to other shards that found their queue full",
        shard_reports: "reports handed to the control thread",
        shard_warm_requests: "cold slices faulted in through io_uring",
        shard_warm_failures: "cold slices that could not be faulted in",
        shard_send_buffers_refused: "requests for a send buffer while all were in flight",
        shard_receive_buffers_lent: "receive buffers that the kernel is lent at most, now",
    }
}
