//! Why a name was refused.

use std::fmt;

/// Why a text is not the name it was taken for. No variant carries more than fourteen characters of the refused
/// text: it may be long, and it may be personal data.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdError {
    /// The text is too short or too long.
    #[error("{field} is {bytes} bytes long, expected {}; check that it was copied whole", .field.shape())]
    Length {
        /// The part that has the wrong length.
        field: Field,
        /// Length found, in bytes of UTF-8.
        bytes: usize,
    },
    /// A character is not allowed where it stands.
    #[error("{field} has {found:?} as character {position}, expected {expected}")]
    Character {
        /// The part that holds the character.
        field: Field,
        /// Place within that part, counted in characters from 1.
        position: usize,
        /// The character found.
        found: char,
        /// What may stand there.
        expected: &'static str,
    },
    /// The check character does not belong to the characters before it.
    #[error(
        "{field} ends in check character {found}, expected {expected}; compare it with the original, one character is likely mistyped"
    )]
    Check {
        /// The part whose check failed.
        field: Field,
        /// The check character found.
        found: char,
        /// The check character computed from the rest.
        expected: char,
    },
    /// The text is a citizen identity number (GB 11643-1999), which must not leave the node.
    #[error(
        "{field} is a citizen identity number, expected a pseudonymous code; register the person to obtain a P code"
    )]
    CitizenId {
        /// The part that holds the number.
        field: Field,
    },
    /// Four digits that are neither a region nor an industry.
    #[error(
        "segment {found} names no region or industry, expected a province of GB/T 2260 and two digits, or 00 and a class 01 to 97 of GB/T 4754; ask the function node which segment it serves"
    )]
    UnknownSegment {
        /// The four digits found.
        found: String,
    },
    /// Fourteen digits that name no moment of the calendar.
    #[error("contract time {found} is not a moment of the calendar, expected YYYYMMDDHHMMSS in UTC")]
    NoSuchTime {
        /// The fourteen digits found.
        found: String,
    },
}

/// The part of a name that an [`IdError`] speaks of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Field {
    /// The code of an entity, 18 characters.
    EntityCode,
    /// The organisation code inside a unified social credit code, with its own check character (GB 11714-1997).
    OrganisationCode,
    /// The region or industry of the assigning function node, 4 digits.
    Segment,
    /// The identifier of a node or connector, 32 characters.
    NodeId,
    /// The identifier of a product or resource, 32 characters and perhaps an extension.
    DataId,
    /// What follows `•` in the identifier of a product or resource.
    Extension,
    /// The identifier of a contract, 47 characters.
    ContractId,
    /// The moment inside the identifier of a contract, 14 digits.
    ContractTime,
}

impl Field {
    fn shape(self) -> &'static str {
        match self {
            Self::EntityCode => "18 characters",
            Self::OrganisationCode => "9 characters",
            Self::Segment => "4 digits",
            Self::NodeId => "32 characters",
            Self::DataId => "32 characters, or 34 to 65 (at most 67 bytes) with an extension",
            Self::Extension => "1 to 32 characters",
            Self::ContractId => "47 characters",
            Self::ContractTime => "14 digits",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::EntityCode => "entity code",
            Self::OrganisationCode => "organisation code",
            Self::Segment => "segment",
            Self::NodeId => "node id",
            Self::DataId => "data id",
            Self::Extension => "data id extension",
            Self::ContractId => "contract id",
            Self::ContractTime => "contract time",
        })
    }
}
