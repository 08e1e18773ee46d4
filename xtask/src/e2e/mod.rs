//! End to end.
pub struct Options;
impl Options { pub fn all(_: std::path::PathBuf) -> Options { Options } }
pub fn run(_: &Options) -> anyhow::Result<()> { Ok(()) }
pub fn command(_: crate::args::Args) -> anyhow::Result<()> { Ok(()) }
