//! Chains of hops under a virtual clock, with everything that goes wrong between them.

mod chain;
mod hostile;
mod kept;
mod life;
mod net;
