//! The peers that were met, kept for the next start: a file in the node's folder, replaced as a whole.
//!
//! ```text
//! file   | "tnpr" | version 2 | zero 2 | count 4 | BLAKE3 of the network's name, 32 | entry … | BLAKE3 of all that, 32 |
//!                                                                                                little-endian
//! entry  0      48         66         84        88       92         96       100      102    104   108         116
//!        | card | address | address | first s | last s | answered | errors | since | zero | rtt µs | bandwidth |
//! address  | IPv6, or IPv4 as ::ffff:0:0/96: 16 | port 2 |                                   all zero: there is none
//! ```

use std::io::{self, Read};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::atomic;
use crate::crypto::IdentityCard;
use crate::crypto::hash::blake3;
use crate::limits::{CONTACT_ADDRESSES_MAX, PEERS_REMEMBERED_MAX};
use crate::overlay::peers::Known;
use crate::overlay::rtt::Rtt;
use crate::wire::overlay::Contact;

const MAGIC: &[u8; 4] = b"tnpr";
const VERSION: u16 = 2;
const NETWORK: std::ops::Range<usize> = 12..44;
const HEAD: usize = NETWORK.end;
const CHECK: usize = 32;
const ADDRESS: usize = 18;
const ENTRY: usize = IdentityCard::LEN + CONTACT_ADDRESSES_MAX * ADDRESS + 32;
const FILE_MAX: usize = HEAD + PEERS_REMEMBERED_MAX * ENTRY + CHECK;

/// What the file has; nothing when there is none, or when it is of another network (see [`save`]). An error says what is
/// wrong: [`io::ErrorKind::InvalidData`] or [`io::ErrorKind::FileTooLarge`] with the file, others with reading it.
pub fn load(path: &Path, network: &str) -> io::Result<Vec<Known>> {
    if is_of_another(path, network) {
        return Ok(Vec::new());
    }
    match atomic::read_bounded(path, FILE_MAX as u64) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(bytes) => parse(&bytes).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why)),
    }
}

/// Replaces the file; peers beyond [`PEERS_REMEMBERED_MAX`] are left out. One of another network is put aside first, as
/// `peers.other`.
pub fn save(path: &Path, network: &str, known: &[Known]) -> io::Result<()> {
    if is_of_another(path, network) {
        std::fs::rename(path, path.with_extension("other"))?;
    }
    atomic::replace(path, &emit(network, known), 0o600)
}

/// Whether there is a file, of this version, and its network is another.
fn is_of_another(path: &Path, network: &str) -> bool {
    let mut head = [0; HEAD];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    let ours = read.is_ok() && head.starts_with(MAGIC) && head[4..6] == VERSION.to_le_bytes();
    ours && head[NETWORK] != blake3(&[network.as_bytes()])
}

fn emit(network: &str, known: &[Known]) -> Vec<u8> {
    let known = &known[..known.len().min(PEERS_REMEMBERED_MAX)];
    let mut out = Vec::with_capacity(HEAD + known.len() * ENTRY + CHECK);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&(known.len() as u32).to_le_bytes());
    out.extend_from_slice(&blake3(&[network.as_bytes()]));
    for known in known {
        out.extend_from_slice(&known.contact.card.to_bytes());
        let mut addresses = known.contact.addresses();
        for _ in 0..CONTACT_ADDRESSES_MAX {
            let address = addresses.next();
            let ip = address.map_or(Ipv6Addr::UNSPECIFIED, |address| match address.ip() {
                std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                std::net::IpAddr::V6(ip) => ip,
            });
            out.extend_from_slice(&ip.octets());
            out.extend_from_slice(&address.map_or(0, |address| address.port()).to_le_bytes());
        }
        for word in [known.first_s, known.last_s, known.answered, known.errors] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&known.errors_since.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        let rtt = known.rtt.smoothed().map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX));
        out.extend_from_slice(&rtt.to_le_bytes());
        out.extend_from_slice(&known.bandwidth.to_le_bytes());
    }
    let check = blake3(&[&out]);
    out.extend_from_slice(&check);
    out
}

fn parse(bytes: &[u8]) -> Result<Vec<Known>, &'static str> {
    let (body, check) = bytes.split_at_checked(bytes.len().saturating_sub(CHECK)).ok_or("cut short")?;
    if body.len() < HEAD || !body.starts_with(MAGIC) {
        return Err("no list of peers");
    }
    if u16::from_le_bytes([body[4], body[5]]) != VERSION {
        return Err("of another version");
    }
    if blake3(&[body]) != check {
        return Err("damaged");
    }
    let count = u32::from_le_bytes([body[8], body[9], body[10], body[11]]) as usize;
    if count > PEERS_REMEMBERED_MAX || body.len() != HEAD + count * ENTRY {
        return Err("not as long as it says");
    }
    let (entries, _) = body[HEAD..].as_chunks::<ENTRY>();
    Ok(entries.iter().map(entry).collect())
}

fn entry(bytes: &[u8; ENTRY]) -> Known {
    let mut left = &bytes[..];
    let mut card = [0; IdentityCard::LEN];
    card.copy_from_slice(take(&mut left, IdentityCard::LEN));
    let addresses: [Option<SocketAddr>; CONTACT_ADDRESSES_MAX] = std::array::from_fn(|_| {
        let mut ip = [0; 16];
        ip.copy_from_slice(take(&mut left, 16));
        let port = number(&mut left, 2) as u16;
        (port != 0).then(|| SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port))
    });
    let contact = Contact::new(IdentityCard::from_bytes(&card), addresses.into_iter().flatten());
    let [first_s, last_s, answered, errors] = std::array::from_fn(|_| number(&mut left, 4) as u32);
    let errors_since = number(&mut left, 2) as u16;
    take(&mut left, 2);
    let mut rtt = Rtt::default();
    match number(&mut left, 4) {
        0 => {}
        micros => rtt.update(Duration::from_micros(micros)),
    }
    let bandwidth = number(&mut left, 8);
    Known { contact, first_s, last_s, answered, errors, errors_since, rtt, bandwidth }
}

fn take<'a>(left: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = left.split_at(count);
    *left = rest;
    taken
}

fn number(left: &mut &[u8], count: usize) -> u64 {
    take(left, count).iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PublicKey;
    use proptest::prelude::*;

    fn known(n: u8) -> Known {
        let card = IdentityCard { key: PublicKey([n; 32]), place_nonce: 7, rank_nonce: u64::from(n) };
        let addresses = [([192, 0, 2, n], 4600).into(), "[2001:db8::7]:4601".parse().expect("address")];
        let mut rtt = Rtt::default();
        rtt.update(Duration::from_micros(1000 + u64::from(n)));
        Known {
            contact: Contact::new(card, addresses.into_iter().take(usize::from(n % 3))),
            first_s: 1,
            last_s: 2 + u32::from(n),
            answered: 3,
            errors: 4,
            errors_since: 5,
            rtt,
            bandwidth: 6 << 40,
        }
    }

    #[test]
    fn what_is_saved_is_what_is_loaded() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("peers");
        let load = |path: &Path| load(path, "net");
        let save = |path: &Path, known: &[Known]| save(path, "net", known);
        assert_eq!(load(&path).expect("nothing yet"), []);
        let all: Vec<Known> = (0..9).map(known).collect();
        save(&path, &all).expect("saved");
        assert_eq!(load(&path).expect("loaded"), all);
        save(&path, &[]).expect("saved");
        assert_eq!(load(&path).expect("loaded"), []);
        let many: Vec<Known> = (0..PEERS_REMEMBERED_MAX + 3).map(|n| known(n as u8)).collect();
        save(&path, &many).expect("saved");
        assert_eq!(load(&path).expect("loaded").len(), PEERS_REMEMBERED_MAX);
        std::fs::write(&path, vec![0; FILE_MAX + 1]).expect("written");
        assert_eq!(load(&path).map_err(|error| error.kind()), Err(io::ErrorKind::FileTooLarge));
    }

    /// Found by review: after a change of name the old network's peers were called, and their file was overwritten.
    #[test]
    fn a_file_of_another_network_is_neither_used_nor_overwritten() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("peers");
        save(&path, "old", &[known(1)]).expect("saved");
        assert_eq!(load(&path, "new").expect("none of this network"), []);
        assert_eq!(load(&path, "old").expect("still there"), [known(1)]);
        save(&path, "new", &[known(2)]).expect("saved");
        assert_eq!(load(&path, "new").expect("loaded"), [known(2)]);
        assert_eq!(load(&path.with_extension("other"), "old").expect("put aside"), [known(1)]);
        save(&path, "new", &[known(3)]).expect("saved");
        assert_eq!(load(&path.with_extension("other"), "old").expect("left alone"), [known(1)]);
    }

    proptest! {
        #[test]
        fn any_damage_is_seen(at in 0usize..500, with in 1u8.., cut in 0usize..500) {
            let mut bytes = emit("net", &(0..3).map(known).collect::<Vec<_>>());
            prop_assert!(parse(&bytes[..cut.min(bytes.len() - 1)]).is_err());
            let at = at % bytes.len();
            bytes[at] ^= with;
            prop_assert!(parse(&bytes).is_err());
        }
    }
}
