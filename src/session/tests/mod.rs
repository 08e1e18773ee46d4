//! Two `Sessions` under a virtual clock.

mod door;
mod handshake;
mod hostile;
mod life;
mod pair;
mod roaming;
