//! Texts that people paste: references and invitations, and the base32 that they are made of.

use crate::crypto::hash::blake3;
use crate::limits::{ADDRESSES_PER_PEER_MAX, BRIDGE_URL_MAX, DIRECTORY_DEPTH_MAX};
use crate::wire::base32::{decode, encode};
use crate::wire::bridge::{BridgeUrl, check_path};
use crate::wire::directory::name_is_valid;
use crate::wire::invite::{self, Invite};
use crate::wire::reference::{self, Blob, Reference, parse_with_path};

/// Text to bytes and back; bytes to text and back.
pub fn base32(bytes: &[u8]) {
    assert_eq!(decode(&encode(bytes)).as_deref(), Ok(bytes));
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(plain) = decode(text)
    {
        assert_eq!(encode(&plain), text.to_ascii_lowercase(), "one encoding, but for case");
    }
}

/// What `body` looks like when somebody wrote its checksum.
fn with_checksum(prefix: &str, label: &[u8], body: &[u8]) -> String {
    let sum = blake3(&[label, body]);
    format!("{prefix}{}", encode(&[body, &sum[..4]].concat()))
}

fn one_line(error: &impl std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains(['\n', '\r', '\u{1b}']), "{text:?}");
}

/// The text, the text with a path, and the blob inside.
pub fn reference(bytes: &[u8]) {
    if let Ok(blob) = Blob::parse(bytes) {
        assert_eq!(blob.emit(), bytes[..Blob::LEN]);
    }
    let made = with_checksum(reference::PREFIX, b"tornet reference checksum v1\0", bytes);
    for text in [std::str::from_utf8(bytes).unwrap_or_default(), &made] {
        match text.parse::<Reference>() {
            Ok(reference) => {
                assert!(reference.root.top.is_some() && reference.root.size > 0);
                let again = reference.to_string();
                assert_eq!(again, text.trim().to_ascii_lowercase());
                assert_eq!(format!("{reference:?}"), "Reference(secret)");
            }
            Err(error) => one_line(&error),
        }
    }
    // The first half as a path behind a good reference, so that the checksum is no wall.
    let tail = String::from_utf8_lossy(&bytes[bytes.len() / 2..]).into_owned();
    let good = with_checksum(
        reference::PREFIX,
        b"tornet reference checksum v1\0",
        &bytes[..bytes.len().min(reference::LEN - reference::CHECKSUM_LEN)],
    );
    for text in [format!("{good}/{tail}"), tail] {
        match parse_with_path(&text) {
            Ok((reference, names)) => {
                assert!(text.trim().to_ascii_lowercase().starts_with(&reference.to_string()));
                assert!(names.len() <= DIRECTORY_DEPTH_MAX + 1);
                assert!(names.iter().all(|name| name_is_valid(name)));
            }
            Err(error) => one_line(&error),
        }
    }
}

/// A URL, and the pieces of one in their places.
pub fn bridge(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let (host, path) = text.split_once('|').unwrap_or((text, "a-secret-path"));
    for text in [text.to_owned(), format!("wss://{host}/{path}"), format!("ws://{host}/a-secret-path")] {
        match text.parse::<BridgeUrl>() {
            Ok(url) => {
                assert!(url.to_string().len() <= BRIDGE_URL_MAX && check_path(url.path()).is_ok());
                assert_eq!(url.to_string().parse(), Ok(url));
            }
            Err(error) => one_line(&error),
        }
    }
}

/// The text, and any bytes with a right checksum.
pub fn invite(bytes: &[u8]) {
    let made = with_checksum(invite::PREFIX, b"tornet invitation checksum v1\0", bytes);
    for text in [std::str::from_utf8(bytes).unwrap_or_default(), &made] {
        match text.parse::<Invite>() {
            Ok(invite) => {
                assert!(invite.addresses.len() <= ADDRESSES_PER_PEER_MAX);
                assert_eq!(invite.to_string(), text.trim().to_ascii_lowercase());
                assert_eq!(invite.to_string().parse(), Ok(invite));
            }
            Err(error) => one_line(&error),
        }
    }
}
