//! Two `Sessions` under a virtual clock.

mod handshake;
mod hostile;
mod life;
mod pair;
mod roaming;
