//! (tree)
