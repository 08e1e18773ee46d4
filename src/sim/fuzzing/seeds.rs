//! What fuzzing starts from: messages of real traffic for the decoders, and scripts for the state machines.

pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    Vec::new()
}
