//! The code of an entity: an organisation, a person, or anything else that was assigned one.

use crate::ascii::{Ascii, text_traits};
use crate::checks::{self, UscAlphabet};
use crate::error::{Field, IdError};

/// The 18-character code of an entity (主体), NDI-TR-2025-04 section 4.1: digits and upper-case letters.
///
/// A citizen identity number is never an entity code. A text that meets GB 11643 and GB 32100 alike is read as an
/// organisation only when it begins with 9, the register of enterprises, where a personal number is next to impossible;
/// in any other register the person is protected and the text is refused.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct EntityCode(Ascii<18>);

/// What an [`EntityCode`] stands for, as far as the code itself tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum EntityKind {
    /// A legal person or other organisation: a unified social credit code (GB 32100-2015) with both checks in order.
    Organisation,
    /// A natural person under the local profile: `P` and 17 characters that do not reveal the identity number.
    Person,
    /// Anything else: a device, a smart agent, or an entity of another registry.
    Assigned,
}

impl EntityCode {
    /// Reads any entity code: `[0-9A-Z]{18}` that is not a citizen identity number.
    ///
    /// No check character is demanded, because assigned codes have none; see [`EntityCode::parse_organisation`].
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let code = Self(Ascii::read(text, Field::EntityCode)?);
        let is_enterprise = text.starts_with('9') && code.check_organisation().is_ok();
        if checks::is_citizen_id(text) && !is_enterprise {
            return Err(IdError::CitizenId { field: Field::EntityCode });
        }
        Ok(code)
    }

    /// Reads a unified social credit code: alphabet, region digits and check character of GB 32100-2015, and the check
    /// character of the organisation code inside (GB 11714-1997).
    pub fn parse_organisation(text: &str) -> Result<Self, IdError> {
        let code = Self::parse(text)?;
        code.check_organisation()?;
        Ok(code)
    }

    /// What the code stands for.
    pub fn kind(&self) -> EntityKind {
        if self.0.character::<0>() == 'P' {
            return EntityKind::Person;
        }
        match self.check_organisation() {
            Ok(()) => EntityKind::Organisation,
            Err(_) => EntityKind::Assigned,
        }
    }

    /// The 18 characters.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) fn from_checked(text: Ascii<18>) -> Self {
        Self(text)
    }

    pub(crate) fn bytes(&self) -> [u8; 18] {
        self.0.bytes()
    }

    fn check_organisation(&self) -> Result<(), IdError> {
        let field = Field::EntityCode;
        for (index, byte) in self.bytes().into_iter().enumerate() {
            let position = index + 1;
            let found = char::from(byte);
            let refuse = |expected| Err(IdError::Character { field, position, found, expected });
            match position {
                1 if byte == b'P' => {
                    return refuse("a registration department of GB 32100; P marks a person");
                }
                3..=8 if !byte.is_ascii_digit() => return refuse("a digit of the administrative region"),
                _ if UscAlphabet::position(byte).is_none() => {
                    return refuse("a character of GB 32100, which has no I, O, S, V or Z");
                }
                _ => {}
            }
        }
        let inner = self.0.part::<8, 8>();
        compare(Field::OrganisationCode, self.0.character::<16>(), checks::organisation(inner.as_str()))?;
        let body = self.0.part::<0, 17>();
        compare(field, self.0.character::<17>(), checks::uscc(body.as_str()))
    }
}

text_traits!(EntityCode);

fn compare(field: Field, found: char, computed: Option<char>) -> Result<(), IdError> {
    match computed {
        Some(expected) if expected != found => Err(IdError::Check { field, found, expected }),
        _ => Ok(()),
    }
}
