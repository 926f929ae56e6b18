//! 256-bit digests as types of their own, so that a chunk key is never passed where a namespace digest belongs.

use std::fmt::{self, Write as _};

use crate::{Error, Result};

/// Defines a 32-byte digest type with hexadecimal text.
macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Parses 64 lower-case hexadecimal digits.
            ///
            /// # Errors
            /// [`Invalid`](crate::ErrorKind::Invalid) for any other text.
            pub fn from_hex(text: &str) -> Result<Self> {
                parse_hex(text).map(Self).ok_or_else(|| {
                    Error::invalid(format!(
                        concat!(stringify!($name), " {:?}: expected 64 lower-case hexadecimal digits"), text
                    ))
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Digit by digit: every object's path has two digests, and a formatter's call for each byte costs microseconds.
                let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
                digits.filter_map(|digit| char::from_digit(digit.into(), 16)).try_for_each(|c| f.write_char(c))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

digest_type!(
    /// Digest of everything besides tokens that determines KV bytes; see [`Namespace`](crate::Namespace).
    NamespaceDigest
);
digest_type!(
    /// Identity of a chunk: its namespace and the whole token prefix up to its end.
    ChunkKey
);
digest_type!(
    /// Digest over an object's identity and its section checksums: equal digests mean equal payloads.
    ContentDigest
);
digest_type!(
    /// Digest of an input that token ids do not determine, such as an image or prompt embeddings, or of weights.
    InputDigest
);

digest_type!(
    /// A link of LMCache's chain of chunk hashes; see [`lmcache`](crate::lmcache). Not a [`ChunkKey`].
    LmcacheHash
);

/// 64 lower-case hexadecimal digits as bytes.
fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(bytes)
}

/// Value of one digit; upper case is refused so that a name has one spelling.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_has_one_spelling() {
        let key = ChunkKey(std::array::from_fn(|i| u8::try_from(i * 7).unwrap()));
        let text = key.to_string();
        assert_eq!(ChunkKey::from_hex(&text).unwrap(), key);
        for bad in [
            text.to_uppercase(),
            text[1..].to_owned(),
            format!("{}g", &text[1..]),
            format!("é{}", &text[2..]),
        ] {
            assert!(ChunkKey::from_hex(&bad).is_err(), "{bad} was accepted");
        }
    }
}
