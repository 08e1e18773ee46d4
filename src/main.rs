//! The `tornet` command.
fn main() {}
