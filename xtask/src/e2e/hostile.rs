//! A short flood of hostile datagrams: nobody is answered, nothing grows, and a friend gets its file beside
//! it. What it costs is `cargo xtask bench hostile`'s business, since this ring measures no time.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Case;
use crate::bench::hostile::{self, Plan};
use crate::lab::Lab;

pub const CASES: &[Case] = &[Case {
    name: "flood",
    about: "100,000 hostile datagrams per second: no answer, no growth, and a transfer beside them is right",
    run: flood,
}];

fn flood(lab: &mut Lab, binary: &Path) -> Result<()> {
    let plan = Plan { rate: 100_000, flood: Duration::from_secs(1), rounds: 1, file: 32 << 20, judge: false };
    hostile::run(lab, binary, &plan)
}
