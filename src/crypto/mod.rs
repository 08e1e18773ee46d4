//! Cryptography: thin, typed wrappers around kept crates. No primitive is written here.
//!
//! Secrets are zeroized when dropped and have no `Debug`. Integrity of content rests on BLAKE3,
//! confidentiality on `ring`'s AEADs, addresses on SHA-1 (`docs/decisions/0002`).

pub mod aead;
pub mod dh;
pub mod hash;
pub mod identity;
pub mod kdf;
pub mod mask;
pub mod rank;

pub use aead::{AeadKey, Forged, Suite};
pub use identity::{Identity, IdentityCard};
pub use kdf::Secret;
pub use mask::MaskKey;
