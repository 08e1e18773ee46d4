//! Base32 (RFC 4648 §6) in lower case without padding: what references and invitations are printed in,
//! since it survives being read aloud, double-clicked and typed.

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Why a text is not base32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotBase32 {
    /// A character outside the alphabet.
    Character(char),
    /// No whole number of bytes has this many digits, or the spare bits are not zero.
    Length,
}

/// Writes `bytes` as text.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut held, mut bits) = (0u32, 0u32);
    for &byte in bytes {
        held = (held << 8) | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(ALPHABET[(held >> bits) as usize & 31] as char);
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        out.push(ALPHABET[(held << (5 - bits)) as usize & 31] as char);
    }
    out
}

/// Reads text of either case; every byte string has exactly one encoding (but for case).
pub fn decode(text: &str) -> Result<Vec<u8>, NotBase32> {
    let mut out = Vec::with_capacity(text.len() * 5 / 8);
    let (mut held, mut bits) = (0u32, 0u32);
    for c in text.chars() {
        let digit = match c {
            'a'..='z' => c as u32 - 'a' as u32,
            'A'..='Z' => c as u32 - 'A' as u32,
            '2'..='7' => c as u32 - '2' as u32 + 26,
            _ => return Err(NotBase32::Character(c)),
        };
        held = (held << 5) | digit;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    if bits >= 5 || held != 0 { Err(NotBase32::Length) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_answers() {
        for (plain, text) in
            [("", ""), ("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foobar", "mzxw6ytboi")]
        {
            assert_eq!(encode(plain.as_bytes()), text);
            assert_eq!(decode(&text.to_uppercase()), Ok(plain.as_bytes().to_vec()));
        }
        assert_eq!(decode("m"), Err(NotBase32::Length));
        assert_eq!(decode("mz"), Err(NotBase32::Length));
        assert_eq!(decode("m1"), Err(NotBase32::Character('1')));
        assert_eq!(decode("é"), Err(NotBase32::Character('é')));
    }

    proptest! {
        #[test]
        fn round_trips(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[a-z2-7]{0,20}") {
            prop_assert_eq!(decode(&encode(&bytes)), Ok(bytes));
            if let Ok(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
