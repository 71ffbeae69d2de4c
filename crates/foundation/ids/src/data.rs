//! The identifier of a data product or data resource.

use crate::ascii::text_traits;
use crate::checks;
use crate::core32::Core32;
use crate::entity::EntityCode;
use crate::error::{Field, IdError};
use crate::foreign::Foreign;
use crate::kinds::DataType;
use crate::segment::Segment;

const BULLET: char = '\u{2022}';

/// The identifier of a product or resource (NDI-TR-2025-04 section 4.3): 32 characters laid out as a
/// [`NodeId`](crate::NodeId), then optionally `•` (U+2022) and an extension of 1 to 32 characters that carries the code
/// of an older system.
///
/// 32 or 34 to 65 characters, at most [`DataId::MAXIMUM_BYTES`]. The national text leaves the extension's alphabet
/// open; here it is printable ASCII without space. The check character does not cover it.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct DataId {
    core: Core32,
    text: Box<str>,
    data_type: DataType,
}

impl DataId {
    /// The longest data id: 32 characters, `•` (3 bytes), 32 characters.
    pub const MAXIMUM_BYTES: usize = 67;

    /// Reads a data id whose every part is in order.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let id = Self::read(text)?;
        id.core.verify(Field::DataId)?;
        Ok(id)
    }

    /// Reads a data id of another registry: well formed, the check character may fail.
    pub fn parse_foreign(text: &str) -> Result<Foreign<Self>, IdError> {
        let id = Self::read(text)?;
        let verified = id.core.verify(Field::DataId);
        Ok(Foreign::receive(text, id, verified))
    }

    /// Makes a new id for data of `entity`, assigned by the function node of `segment`. The random bytes separate
    /// repeated applications; they need not be secret. Fails only when the extension is malformed.
    pub fn mint(
        data_type: DataType,
        entity: &EntityCode,
        segment: &Segment,
        random: [u8; 16],
        extension: Option<&str>,
    ) -> Result<Self, IdError> {
        let core = Core32::mint(data_type.character(), entity, segment, random);
        let text = match extension {
            None => core.as_str().to_owned(),
            Some(extension) => {
                check_extension(extension)?;
                format!("{}{BULLET}{extension}", core.as_str())
            }
        };
        Ok(Self { core, text: text.into_boxed_str(), data_type })
    }

    /// The whole identifier, with `•` and extension if it has one. Percent-encode it in URLs.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this names a product or a resource.
    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// The entity that holds the data.
    pub fn entity(&self) -> EntityCode {
        self.core.entity()
    }

    /// The region or industry of the function node that assigned the id.
    pub fn segment(&self) -> Segment {
        self.core.segment()
    }

    /// The 32 characters before the extension.
    pub fn core(&self) -> &str {
        self.core.as_str()
    }

    /// What follows `•`, 1 to 32 characters.
    pub fn extension(&self) -> Option<&str> {
        self.text.split_once(BULLET).map(|(_, extension)| extension)
    }

    fn read(text: &str) -> Result<Self, IdError> {
        let field = Field::DataId;
        if text.len() > Self::MAXIMUM_BYTES {
            return Err(IdError::Length { field, bytes: text.len() });
        }
        let core = match text.split_once(BULLET) {
            None => Core32::read(text, field)?,
            Some((core, extension)) => {
                let core = Core32::read(core, field)?;
                check_extension(extension)?;
                core
            }
        };
        let found = core.kind();
        let data_type = DataType::from_character(found).ok_or(IdError::Character {
            field,
            position: 1,
            found,
            expected: "a data type, 6 or 7",
        })?;
        Ok(Self { core, text: text.into(), data_type })
    }
}

text_traits!(DataId);

/// An older system may well have used identity numbers as codes; they stay inside just as they do as entity codes.
fn check_extension(extension: &str) -> Result<(), IdError> {
    let field = Field::Extension;
    if !(1..=32).contains(&extension.len()) {
        return Err(IdError::Length { field, bytes: extension.len() });
    }
    if let Some((index, found)) = extension.chars().enumerate().find(|(_, found)| !found.is_ascii_graphic()) {
        let expected = "printable ASCII without space";
        return Err(IdError::Character { field, position: index + 1, found, expected });
    }
    if checks::is_citizen_id(extension) {
        return Err(IdError::CitizenId { field });
    }
    Ok(())
}
