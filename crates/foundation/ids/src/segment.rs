//! The region or industry of the function node that assigned a code.

use crate::ascii::{Ascii, text_traits};
use crate::error::{Field, IdError};
use crate::tables::{self, Entry};

/// Four digits (NDI-TR-2025-04 section 4.2): the first four of a region of GB/T 2260-2007 (province and city; the
/// county is cut off), or `00` and the two digits of a major class of GB/T 4754-2017.
///
/// The province and the class must exist; the city digits are not looked up, because cities change and provinces do not.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Segment(Ascii<4>);

impl Segment {
    /// Reads four digits that name a region or an industry.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let segment = Self(Ascii::read_digits(text, Field::Segment)?);
        if segment.entry().is_none() {
            return Err(IdError::UnknownSegment { found: text.to_owned() });
        }
        Ok(segment)
    }

    /// The four digits.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The four digits of the region, unless this is an industry.
    pub fn region(&self) -> Option<&str> {
        if self.industry().is_some() { None } else { Some(self.as_str()) }
    }

    /// The two digits of the industry's major class, unless this is a region.
    pub fn industry(&self) -> Option<&str> {
        self.as_str().strip_prefix("00")
    }

    /// The segment in words: `广东省 (Guangdong), 4403`. An industry is named by its section, the lettered level
    /// above the major class: `建筑业 (Construction), 0047`.
    pub fn describe(&self) -> String {
        match self.entry() {
            Some(entry) => format!("{} ({}), {self}", entry.chinese, entry.english),
            None => self.to_string(),
        }
    }

    pub(crate) fn from_checked(text: Ascii<4>) -> Self {
        Self(text)
    }

    pub(crate) fn bytes(&self) -> [u8; 4] {
        self.0.bytes()
    }

    fn entry(&self) -> Option<&'static Entry> {
        match self.industry() {
            Some(class) => tables::industry_section(class),
            None => tables::PROVINCES.find(self.0.part::<0, 2>().as_str()),
        }
    }
}

text_traits!(Segment);
