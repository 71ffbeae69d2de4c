//! Text of a fixed number of characters, held without an allocation.

use crate::checks;
use crate::error::{Field, IdError};

/// Exactly `N` characters, each a digit, an upper-case letter or (as a check character) `*`.
#[derive(Clone, Copy, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub(crate) struct Ascii<const N: usize>([u8; N]);

impl<const N: usize> Ascii<N> {
    /// Reads digits and upper-case letters. The length is compared before any character is looked at.
    pub(crate) fn read(text: &str, field: Field) -> Result<Self, IdError> {
        Self::read_where(text, field, "a digit or an upper-case letter", |_, byte| is_digit_or_upper(byte))
    }

    /// As [`Ascii::read`]; the last character is a MOD 37-2 check character and may also be `*`.
    pub(crate) fn read_sealed(text: &str, field: Field) -> Result<Self, IdError> {
        Self::read_where(
            text,
            field,
            "a digit or an upper-case letter (or * at the end)",
            |position, byte| is_digit_or_upper(byte) || (byte == b'*' && position == N),
        )
    }

    /// Reads digits only.
    pub(crate) fn read_digits(text: &str, field: Field) -> Result<Self, IdError> {
        Self::read_where(text, field, "a digit", |_, byte| byte.is_ascii_digit())
    }

    fn read_where(
        text: &str,
        field: Field,
        expected: &'static str,
        allowed: impl Fn(usize, u8) -> bool,
    ) -> Result<Self, IdError> {
        let bytes: [u8; N] =
            text.as_bytes().try_into().map_err(|_| IdError::Length { field, bytes: text.len() })?;
        let refused =
            text.chars().enumerate().map(|(index, found)| (index + 1, found)).find(|&(position, found)| {
                !u8::try_from(found).is_ok_and(|byte| byte.is_ascii() && allowed(position, byte))
            });
        match refused {
            Some((position, found)) => Err(IdError::Character { field, position, found, expected }),
            None => Ok(Self(bytes)),
        }
    }

    /// Lays out `N - 1` characters and closes them with their MOD 37-2 check character.
    pub(crate) fn seal(body: impl Iterator<Item = u8>) -> Self {
        let mut bytes = [b'0'; N];
        if let Some((check, places)) = bytes.split_last_mut() {
            for (place, byte) in places.iter_mut().zip(body) {
                *place = byte;
            }
            *check = checks::mod37_2_byte(places);
        }
        Self(bytes)
    }

    /// Compares the last character with the MOD 37-2 check character of the others.
    pub(crate) fn verify(&self, field: Field) -> Result<(), IdError> {
        let Some((&found, body)) = self.0.split_last() else { return Ok(()) };
        let expected = checks::mod37_2_byte(body);
        if found == expected {
            return Ok(());
        }
        Err(IdError::Check { field, found: char::from(found), expected: char::from(expected) })
    }

    /// `LENGTH` characters starting at index `FROM`; a range outside the text does not compile.
    #[expect(clippy::indexing_slicing, reason = "the constant assertion bounds every index")]
    pub(crate) fn part<const FROM: usize, const LENGTH: usize>(&self) -> Ascii<LENGTH> {
        const { assert!(FROM + LENGTH <= N) };
        Ascii(std::array::from_fn(|index| self.0[FROM + index]))
    }

    /// The character at index `AT`; an index outside the text does not compile.
    #[expect(clippy::indexing_slicing, reason = "the constant assertion bounds the index")]
    pub(crate) fn character<const AT: usize>(&self) -> char {
        const { assert!(AT < N) };
        char::from(self.0[AT])
    }

    pub(crate) fn bytes(&self) -> [u8; N] {
        self.0
    }

    #[expect(clippy::expect_used, reason = "every constructor admits ASCII only, which is UTF-8")]
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only ASCII is admitted")
    }
}

/// Eight characters of 0-9A-Z from 16 random bytes. 2^128 is so much larger than 36^8 that the bias of the remainder
/// cannot be observed.
pub(crate) fn random_characters(random: [u8; 16]) -> [u8; 8] {
    let mut rest = u128::from_be_bytes(random);
    std::array::from_fn(|_| {
        let value = (rest % 36) as u8;
        rest /= 36;
        if value < 10 { b'0' + value } else { b'A' + (value - 10) }
    })
}

fn is_digit_or_upper(byte: u8) -> bool {
    byte.is_ascii_digit() || byte.is_ascii_uppercase()
}

/// Gives a name its text faces: `Display` and `Debug` print the text itself, `FromStr` is `parse`.
macro_rules! text_traits {
    ($name:ty) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.pad(self.as_str())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::error::IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }
    };
}
pub(crate) use text_traits;
