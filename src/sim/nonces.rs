//! That no nonce is used twice: a node that began its randomness anew after a restart would disguise another first
//! flight under a nonce that it has used (docs/protocol/packet.md §4), and everything that it draws would come again.
//! No answer of a node tells; the wire does, to whoever knows the receiver's identity.

use std::collections::BTreeMap;

use crate::base::PublicKey;
use crate::crypto::identity::header_mask;
use crate::crypto::{MaskKey, hash};
use crate::limits::{CID_SIZE, DATAGRAM_MIN, HEADER_SIZE};
use crate::wire::handshake::{INIT, REPLY};
use crate::wire::packet::{split_sample, toggle_mask};

/// Under which key, and which nonce.
type Use = (PublicKey, [u8; 12]);

/// The nonces of all handshakes on the wire.
#[derive(Default)]
pub struct Nonces {
    masks: BTreeMap<PublicKey, MaskKey>,
    seen: BTreeMap<Use, [u8; 32]>,
    /// The first that came again around something else.
    reused: Option<String>,
}

impl Nonces {
    /// Looks at a datagram from `sender` to the node with this key. The same datagram may be sent again.
    pub fn sent(&mut self, sender: usize, receiver: PublicKey, datagram: &[u8]) {
        // No handshake is longer, so that bulk data costs nothing.
        if datagram.len() > DATAGRAM_MIN {
            return;
        }
        let Some((mut header, sample)) = split_sample(datagram) else { return };
        let mask = self.masks.entry(receiver).or_insert_with(|| header_mask(&receiver));
        toggle_mask(&mut header, &mask.mask(sample));
        let marker = u64::from_le_bytes(header[..CID_SIZE].try_into().expect("eight bytes"));
        let Some(rest) =
            datagram.get(HEADER_SIZE..HEADER_SIZE + 8).filter(|_| [INIT, REPLY].contains(&marker))
        else {
            return;
        };
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&header[CID_SIZE..]);
        nonce[4..].copy_from_slice(rest);
        let digest = hash::blake3(&[datagram]);
        let before = *self.seen.entry((receiver, nonce)).or_insert(digest);
        if before != digest && self.reused.is_none() {
            self.reused = Some(format!("node {sender} used the nonce {nonce:02x?} for two handshakes"));
        }
    }

    /// What was used twice, once.
    pub fn take_reused(&mut self) -> Option<String> {
        self.reused.take()
    }

    /// How many handshakes were looked at.
    pub fn handshakes(&self) -> usize {
        self.seen.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::base::Rng;
    use crate::sim::Crash;
    use crate::sim::link::LinkConfig;
    use crate::sim::net::Net;

    /// Two friends, the first of which starts once more; with randomness of its own, or with what it had before.
    fn restarted(again: bool) -> (usize, Option<String>) {
        let mut net = Net::new(1, 2, LinkConfig::clean(Duration::from_millis(5)));
        let rng = |life: u64| Rng::from_number(if again { 7 } else { life });
        net.befriend(0, &[1]);
        for life in 0..2 {
            net.crash(0, Crash::Process);
            net.start_with(0, rng(life));
            net.run_for(Duration::from_secs(5));
        }
        (net.nonces.handshakes(), net.nonces.take_reused())
    }

    #[test]
    fn randomness_that_begins_anew_is_seen_on_the_wire() {
        let (handshakes, reused) = restarted(false);
        assert!(handshakes >= 4 && reused.is_none(), "{handshakes} handshakes: {reused:?}");
        let (_, reused) = restarted(true);
        assert!(reused.expect("the same draws, another time").starts_with("node 0 used the nonce"));
    }
}
