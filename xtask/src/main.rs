//! One door to everything a contributor does.
fn main() {}
