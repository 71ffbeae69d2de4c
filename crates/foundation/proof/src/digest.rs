//! SHA-256 digests (FIPS 180-4), the 32 bytes by which statements and documents are named.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A hash of 32 bytes, SHA-256 unless its place says otherwise. Written as 64 lower-case hexadecimal digits, and read in exactly that form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// All zeros: "no statement", for example before the first of a channel.
    pub const ZERO: Self = Self([0; 32]);

    /// The digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of the parts laid end to end. Nothing marks where a part ends: callers separate them.
    pub fn sha256_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// Takes exactly 32 bytes as a digest, else `None`.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Takes 32 bytes as a digest.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for Digest {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        read_hex(text).map(Self)
    }
}

/// The text is not 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 lower-case hexadecimal digits (0-9, a-f)")]
pub struct HexError;

pub(crate) fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [0; 64];
    hex::encode_to_slice(bytes, &mut text).map_err(|_| fmt::Error)?;
    f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

pub(crate) fn read_hex(text: &str) -> Result<[u8; 32], HexError> {
    // One digest has one text: upper case would let two different texts name the same thing.
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(HexError);
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| HexError)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(input: &[u8], expect: &str) {
        let digest = Digest::sha256(input);
        assert_eq!(digest.to_string(), expect);
        assert_eq!(format!("{digest:?}"), expect);
        assert_eq!(expect.parse(), Ok(digest));
        let (left, right) = input.split_at(input.len() / 2);
        assert_eq!(Digest::sha256_parts(&[left, b"", right]), digest);
    }

    #[test]
    fn published_vectors() {
        check(b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        check(b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        check(
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        );
    }

    #[test]
    fn refuses_other_texts_and_lengths() {
        let good = Digest::sha256(b"abc").to_string();
        for bad in [
            String::new(),
            good[1..].to_owned(),
            format!("{good}0"),
            format!(" {}", &good[1..]),
            good.to_uppercase(),
            good.replace('b', "g"),
            good.replace('b', "é"),
        ] {
            assert_eq!(bad.parse::<Digest>(), Err(HexError), "{bad}");
        }
        assert_eq!(Digest::from_slice(&[0; 32]), Some(Digest::ZERO));
        assert_eq!(Digest::from_slice(&[0; 31]), None);
        assert_eq!(Digest::from_slice(&[0; 33]), None);
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: [u8; 32]) {
            let digest = Digest::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
            prop_assert_eq!(Digest::from_slice(digest.as_bytes()), Some(digest));
        }
    }
}
