//! The identifier of a contract.

use crate::ascii::{Ascii, random_characters, text_traits};
use crate::calendar;
use crate::entity::EntityCode;
use crate::error::{Field, IdError};
use crate::foreign::Foreign;
use crate::kinds::NodeType;
use crate::segment::Segment;

/// TC609-6-2025-14 asks for a leading type character and does not give its value; 8 follows the data types 6 and 7.
const LEADING: char = '8';

/// The identifier of a contract, 47 characters (TC609-6-2025-14 B.3): `8` (local profile) + type of the minting node(1)
/// + its entity(18) + its segment(4) + time(14, YYYYMMDDHHMMSS, UTC) + random(8) + check(1).
///
/// The check character is MOD 37-2, extended to this length; it misses a swap of two characters exactly 36 apart.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct ContractId {
    text: Ascii<47>,
    minting: NodeType,
}

impl ContractId {
    /// Reads a contract id whose every part is in order.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let id = Self::read(text)?;
        id.text.verify(Field::ContractId)?;
        Ok(id)
    }

    /// Reads a contract id of another registry: well formed, the check character may fail. A registry that chose another
    /// leading character than `8` follows another profile, whose ids are refused.
    pub fn parse_foreign(text: &str) -> Result<Foreign<Self>, IdError> {
        let id = Self::read(text)?;
        let verified = id.text.verify(Field::ContractId);
        Ok(Foreign::receive(text, id, verified))
    }

    /// Makes a new id at a node of type `minting`, of `entity`, in `segment`. `time14` is the moment as YYYYMMDDHHMMSS
    /// in UTC. Fails only when that names no moment of the calendar.
    pub fn mint(
        minting: NodeType,
        entity: &EntityCode,
        segment: &Segment,
        time14: &str,
        random: [u8; 16],
    ) -> Result<Self, IdError> {
        let time = read_time(time14)?;
        let body = [LEADING as u8, minting.character() as u8]
            .into_iter()
            .chain(entity.bytes())
            .chain(segment.bytes())
            .chain(time.bytes())
            .chain(random_characters(random));
        Ok(Self { text: Ascii::seal(body), minting })
    }

    /// The 47 characters.
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }

    /// The kind of node that minted the id.
    pub fn minting(&self) -> NodeType {
        self.minting
    }

    /// The entity of the node that minted the id.
    pub fn entity(&self) -> EntityCode {
        EntityCode::from_checked(self.text.part::<2, 18>())
    }

    /// The region or industry of the node that minted the id.
    pub fn segment(&self) -> Segment {
        Segment::from_checked(self.text.part::<20, 4>())
    }

    /// The moment of minting, YYYYMMDDHHMMSS. Ours is UTC; another registry may have used its local time.
    pub fn time14(&self) -> String {
        self.text.part::<24, 14>().as_str().to_owned()
    }

    fn read(text: &str) -> Result<Self, IdError> {
        let field = Field::ContractId;
        let text = Ascii::<47>::read_sealed(text, field)?;
        let found = text.character::<0>();
        if found != LEADING {
            return Err(IdError::Character { field, position: 1, found, expected: "8" });
        }
        let found = text.character::<1>();
        let minting = NodeType::from_character(found).ok_or(IdError::Character {
            field,
            position: 2,
            found,
            expected: "a node type, 1 to 5",
        })?;
        EntityCode::parse(text.part::<2, 18>().as_str())?;
        Segment::parse(text.part::<20, 4>().as_str())?;
        read_time(text.part::<24, 14>().as_str())?;
        Ok(Self { text, minting })
    }
}

text_traits!(ContractId);

fn read_time(time14: &str) -> Result<Ascii<14>, IdError> {
    let time = Ascii::<14>::read_digits(time14, Field::ContractTime)?;
    if !calendar::is_moment(&time.bytes()) {
        return Err(IdError::NoSuchTime { found: time14.to_owned() });
    }
    Ok(time)
}
