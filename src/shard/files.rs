//! The thread that carries file operations out, one after another.

use crossbeam::channel::Receiver;

use super::Handle;
use crate::base::fileop::{FileDone, FileOp};

/// Carries out operations until the shard is gone. One answer per operation, in order.
pub fn files_thread(
    operations: &Receiver<FileOp>,
    shard: &Handle,
    mut executor: impl FnMut(FileOp) -> FileDone + Send,
) {
    while let Ok(operation) = operations.recv() {
        shard.file_done(executor(operation));
    }
}
