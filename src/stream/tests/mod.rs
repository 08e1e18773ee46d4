//! Two connections and the link between them, under a virtual clock.

mod behaviour;
mod hostile;
mod model;
mod pair;
mod transfer;
