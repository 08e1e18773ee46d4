//! The mistakes: each is one that a careful person makes, changes a line or two, and compiles.

use anyhow::{Result, ensure};

/// Which tests are to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// The simulator or the fuzzers.
    Inner,
    /// Power loss of real daemons: it lies where the simulator has a model instead. Not counted.
    Crash,
}

/// A mistake to plant.
pub struct Mistake {
    /// For the command line.
    pub name: &'static str,
    /// What is wrong then.
    pub about: &'static str,
    /// Which tests are to find it.
    pub ring: Ring,
    /// Where it is planted.
    pub file: &'static str,
    /// Code that stands there once.
    pub right: &'static str,
    /// What stands there instead.
    pub wrong: &'static str,
}

impl Mistake {
    /// The file's text with the mistake in it.
    pub fn applied(&self, text: &str) -> Result<String> {
        let found = text.matches(self.right).count();
        let (name, file) = (self.name, self.file);
        ensure!(
            found == 1,
            "{name}: {file} has the code to change {found} times: follow it in plant/list.rs"
        );
        Ok(text.replacen(self.right, self.wrong, 1))
    }
}

/// All of them.
pub const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "early-done",
        about: "an acknowledgement before the sync: a get is done once its last file operation went out",
        ring: Ring::Inner,
        file: "src/service/get/job/mod.rs",
        right: "        self.end_sent |= matches!(op, FileAct::End { .. });",
        wrong: "        if matches!(op, FileAct::End { .. }) {\n            self.end_sent = true;\n            \
                self.phase = Phase::Ended;\n        }",
    },
    Mistake {
        name: "replay-window",
        about: "a replay window off by one: the last packet is accepted again",
        ring: Ring::Inner,
        file: "src/base/window.rs",
        right: "        if number >= self.next {\n            return true;",
        wrong: "        if number + 1 >= self.next {\n            return true;",
    },
    Mistake {
        name: "lost-wake-up",
        about: "of several requests that wait for one cold slice only the first is woken",
        ring: Ring::Inner,
        file: "src/service/serve.rs",
        right: "self.cold.remove(&(handle, slice)).unwrap_or_default() {",
        wrong: "self.cold.remove(&(handle, slice)).unwrap_or_default().into_iter().take(1) {",
    },
    Mistake {
        name: "timer-not-rearmed",
        about: "a peer's timer is not set again when it moves",
        ring: Ring::Inner,
        file: "src/node/send.rs",
        right: "            if let Some(new) = wanted {",
        wrong: "            if let (Some(new), None) = (wanted, peer.timer) {",
    },
    Mistake {
        name: "wrong-tree",
        about: "slices are verified against the tree that the peer sent, whatever its root",
        ring: Ring::Inner,
        file: "src/chunk/slices.rs",
        right: "        if merge_slices(bytes) != *root {\n            return Err(BadList::Root);\n        }\n        Ok(Self { chunk_len, root: *root,",
        wrong: "        Ok(Self { chunk_len, root: *root,",
    },
    Mistake {
        name: "nonce-after-restart",
        about: "randomness begins anew after a restart: keys, connection ids and nonces come again",
        ring: Ring::Inner,
        file: "src/node/mod.rs",
        right: "        let sessions = Sessions::new(config, rng.fork(), now);",
        wrong: "        let own = u64::from_le_bytes(config.identity.card().key.0[..8].try_into().unwrap());\n        \
                let _ = rng.fork();\n        let sessions = Sessions::new(config, Rng::from_number(own), now);",
    },
    Mistake {
        name: "journal-believed",
        about: "a resumed get believes its journal without looking at the file",
        ring: Ring::Inner,
        file: "src/service/get/job/files.rs",
        right: "            && tag == Some(checking.key.reseal_tag(record, &mut data[..len as usize]))",
        wrong: "            && tag.is_some()\n            && checking.key.reseal_tag(record, &mut data[..len as usize]).len() == 16",
    },
    Mistake {
        name: "bytes-twice",
        about: "stream bytes that came before are handed on again",
        ring: Ring::Inner,
        file: "src/stream/recv.rs",
        right: "                for new in self.received.gaps(offset..end) {",
        wrong: "                for new in [offset..end] {",
    },
    Mistake {
        name: "parent-folder",
        about: "a directory may name an entry `..`",
        ring: Ring::Inner,
        file: "src/wire/directory.rs",
        right: " && name != b\".\" && name != b\"..\" && harmless",
        wrong: " && name != b\".\" && harmless",
    },
    Mistake {
        name: "window-not-told",
        about: "the session's flow-control window that was told last is forgotten instead of the one granted",
        ring: Ring::Inner,
        file: "src/stream/transmit.rs",
        right: "                (self.granted.max, self.granted.max_due) = (max, false);",
        wrong: "                self.granted.max_due = false;",
    },
    Mistake {
        name: "no-amplification-limit",
        about: "more than three times what came is sent to an address that nobody has proved",
        ring: Ring::Inner,
        file: "src/session/path.rs",
        right: "            let earned = state.received.saturating_mul(AMPLIFICATION_MAX);",
        wrong: "            let earned = state.received.saturating_mul(AMPLIFICATION_MAX * AMPLIFICATION_MAX * 100);",
    },
    Mistake {
        name: "liar-forgiven",
        about: "a peer that sent wrong bytes is asked for the same slice again, and never another",
        ring: Ring::Inner,
        file: "src/service/fetch/mod.rs",
        right: "self.peers.update(peer, |state| state.lied = true);",
        wrong: "self.peers.update(peer, |state| state.misses = 0);",
    },
    Mistake {
        name: "commit-unsynced",
        about: "the store acknowledges a commit that no disk was asked to keep",
        ring: Ring::Crash,
        file: "src/io/store/database.rs",
        right: "        let mut flags = EnvironmentFlags::NO_TLS | EnvironmentFlags::NO_READAHEAD;",
        wrong: "        let mut flags = EnvironmentFlags::NO_TLS | EnvironmentFlags::NO_READAHEAD;\n        \
                flags |= EnvironmentFlags::NO_SYNC;",
    },
    Mistake {
        name: "output-unsynced",
        about: "many complete files get their names before their bytes are on the disk",
        ring: Ring::Crash,
        file: "src/io/files/place.rs",
        right: "        self.devices.values().try_for_each(syncfs)",
        wrong: "        self.devices.values().try_for_each(|fd| fstat(fd).map(drop))",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_has_its_place() {
        let mut names: Vec<&str> = MISTAKES.iter().map(|mistake| mistake.name).collect();
        for mistake in MISTAKES {
            let text = std::fs::read_to_string(crate::sh::root().join(mistake.file)).unwrap();
            assert_ne!(mistake.applied(&text).unwrap(), text, "{}", mistake.name);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MISTAKES.len(), "names are told apart");
    }
}
