//! The 32 characters that node and data identifiers share.

use crate::ascii::{Ascii, random_characters};
use crate::entity::EntityCode;
use crate::error::{Field, IdError};
use crate::segment::Segment;

/// type(1) + entity(18) + segment(4) + random(8) + check(1). The type character is the business of whoever holds this.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub(crate) struct Core32(Ascii<32>);

impl Core32 {
    /// Reads a well-formed core; the check character is not compared, see [`Core32::verify`].
    pub(crate) fn read(text: &str, field: Field) -> Result<Self, IdError> {
        let core = Self(Ascii::read_sealed(text, field)?);
        EntityCode::parse(core.0.part::<1, 18>().as_str())?;
        Segment::parse(core.0.part::<19, 4>().as_str())?;
        Ok(core)
    }

    pub(crate) fn mint(kind: char, entity: &EntityCode, segment: &Segment, random: [u8; 16]) -> Self {
        let body = [kind as u8].into_iter().chain(entity.bytes()).chain(segment.bytes());
        Self(Ascii::seal(body.chain(random_characters(random))))
    }

    pub(crate) fn verify(&self, field: Field) -> Result<(), IdError> {
        self.0.verify(field)
    }

    pub(crate) fn kind(&self) -> char {
        self.0.character::<0>()
    }

    pub(crate) fn entity(&self) -> EntityCode {
        EntityCode::from_checked(self.0.part::<1, 18>())
    }

    pub(crate) fn segment(&self) -> Segment {
        Segment::from_checked(self.0.part::<19, 4>())
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }
}
