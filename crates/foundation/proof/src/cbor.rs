//! Strict deterministic CBOR (RFC 8949 section 4.2.1), the only form in which this node signs and reads facts.
//!
//! One value has one encoding: shortest integers, definite lengths, map keys ascending, text in NFC. Map keys are
//! unsigned integers. There are no floats, no tags and no null. The reader refuses what differs and repairs nothing.

use std::collections::BTreeMap;

use unicode_normalization::UnicodeNormalization as _;

mod fields;
mod map;

pub use fields::{FieldError, Fields};
pub use map::Map;

/// What strict CBOR can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An unsigned integer.
    Uint(u64),
    /// The negative integer -1-n.
    Negative(u64),
    /// A byte string.
    Bytes(Vec<u8>),
    /// Text; [`encode`] writes it in NFC.
    Text(String),
    /// A sequence.
    Array(Vec<Value>),
    /// Numbered fields.
    Map(BTreeMap<u64, Value>),
    /// True or false.
    Bool(bool),
}

impl Value {
    /// What to call this kind of value in a message.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Uint(_) => "unsigned integer",
            Self::Negative(_) => "negative integer",
            Self::Bytes(_) => "bytes",
            Self::Text(_) => "text",
            Self::Array(_) => "array",
            Self::Map(_) => "map",
            Self::Bool(_) => "boolean",
        }
    }
}

/// How much a reader accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Encoded bytes at most.
    pub bytes: usize,
    /// Arrays and maps inside one another at most; a lone integer has depth 0.
    pub depth: usize,
}

impl Limits {
    /// One signed statement: 16 KiB, depth 6.
    pub const STATEMENT: Self = Self { bytes: 16 << 10, depth: 6 };
    /// A document beside statements, such as an agreement: 1 MiB, depth 8.
    pub const DOCUMENT: Self = Self { bytes: 1 << 20, depth: 8 };
}

/// The one encoding of `value`. Text that is not in NFC is written in NFC, so that [`decode`] accepts whatever was
/// written here, within its limits.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write_value(&mut out, value);
    out
}

/// Reads exactly one value from exactly these bytes.
///
/// Memory follows the bytes that are there, never a length that is only declared.
///
/// # Errors
/// Anything that [`encode`] would not have written, or that exceeds `limits`.
pub fn decode(bytes: &[u8], limits: Limits) -> Result<Value, CborError> {
    if bytes.len() > limits.bytes {
        return Err(CborError::TooLarge { size: bytes.len(), limit: limits.bytes });
    }
    let mut reader = Reader { bytes, at: 0, depth: limits.depth };
    let value = reader.value(0)?;
    if reader.at != bytes.len() {
        return Err(CborError::Trailing { at: reader.at });
    }
    // Each rule is checked above; this holds even if one of those checks should be wrong.
    if encode(&value) != bytes {
        return Err(CborError::NotCanonical);
    }
    Ok(value)
}

/// Reads an array from exactly these bytes, item by item: a long one takes no more memory than its reader keeps.
///
/// # Errors
/// As [`decode`]; what is wrong with an item, or behind the last one, shows when the reader gets there.
pub fn items(bytes: &[u8], limits: Limits) -> Result<Items<'_>, CborError> {
    if bytes.len() > limits.bytes {
        return Err(CborError::TooLarge { size: bytes.len(), limit: limits.bytes });
    }
    let mut reader = Reader { bytes, at: 0, depth: limits.depth };
    let (major, left) = reader.head()?;
    if major != ARRAY {
        return Err(CborError::NotArray);
    }
    reader.check_remaining(0, left)?;
    Ok(Items { reader, left })
}

/// The items of an array; see [`items`]. Ends after the first error.
pub struct Items<'a> {
    reader: Reader<'a>,
    left: u64,
}

impl Items<'_> {
    /// How many items are declared and not read yet; no more than there are bytes.
    pub fn left(&self) -> u64 {
        self.left
    }

    fn read(&mut self) -> Result<Value, CborError> {
        let from = self.reader.at;
        let value = self.reader.value(1)?;
        if self.reader.bytes.get(from..self.reader.at) != Some(encode(&value).as_slice()) {
            return Err(CborError::NotCanonical);
        }
        if self.left == 1 && self.reader.at != self.reader.bytes.len() {
            return Err(CborError::Trailing { at: self.reader.at });
        }
        Ok(value)
    }
}

impl Iterator for Items<'_> {
    type Item = Result<Value, CborError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            // An empty array has no last item to look behind.
            let at = std::mem::replace(&mut self.reader.at, self.reader.bytes.len());
            return (at != self.reader.bytes.len()).then_some(Err(CborError::Trailing { at }));
        }
        let read = self.read();
        self.left = if read.is_ok() { self.left - 1 } else { 0 };
        if read.is_err() {
            self.reader.at = self.reader.bytes.len();
        }
        Some(read)
    }
}

/// Why bytes are not strict CBOR. Positions count bytes from the start of the decoded input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CborError {
    /// More bytes than allowed.
    #[error("{size} bytes are more than the {limit} allowed")]
    TooLarge {
        /// Bytes given.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The input ends inside a value, or a declared length exceeds what is left.
    #[error("byte {at}: more is declared than the input holds")]
    Truncated {
        /// Where the unfinished item starts.
        at: usize,
    },
    /// Something follows the value.
    #[error("byte {at}: bytes follow after the value")]
    Trailing {
        /// Where the surplus starts.
        at: usize,
    },
    /// An integer or length written longer than needed.
    #[error("byte {at}: integer or length not in its shortest form")]
    NotShortest {
        /// Where the item starts.
        at: usize,
    },
    /// An indefinite length.
    #[error("byte {at}: indefinite length")]
    Indefinite {
        /// Where the item starts.
        at: usize,
    },
    /// A tag, float, null or another simple value, or a reserved form.
    #[error("byte {at}: tag, float, null or reserved form")]
    Unsupported {
        /// Where the item starts.
        at: usize,
    },
    /// Too many arrays and maps inside one another.
    #[error("byte {at}: nested deeper than {limit}")]
    TooDeep {
        /// Where the surplus container starts.
        at: usize,
        /// Depth allowed.
        limit: usize,
    },
    /// A map key that is no unsigned integer.
    #[error("byte {at}: map key is not an unsigned integer")]
    KeyType {
        /// Where the key starts.
        at: usize,
    },
    /// A map key that does not follow in ascending order, or occurs twice.
    #[error("byte {at}: map key repeated or out of order")]
    KeyOrder {
        /// Where the key starts.
        at: usize,
    },
    /// Text that is not UTF-8.
    #[error("byte {at}: text is not UTF-8")]
    Utf8 {
        /// Where the text starts.
        at: usize,
    },
    /// Text that is not in Unicode normalization form C.
    #[error("byte {at}: text is not in normalization form C")]
    NotNormal {
        /// Where the text starts.
        at: usize,
    },
    /// Something else where an array is due.
    #[error("not an array")]
    NotArray,
    /// Encoding the value again gives other bytes.
    #[error("not the canonical encoding")]
    NotCanonical,
}

const UINT: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const SIMPLE: u8 = 7;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Uint(n) => write_head(out, UINT, *n),
        Value::Negative(n) => write_head(out, NEGATIVE, *n),
        Value::Bytes(bytes) => write_bytes(out, bytes),
        Value::Text(text) if unicode_normalization::is_nfc(text) => write_text(out, text),
        Value::Text(text) => write_text(out, &text.nfc().collect::<String>()),
        Value::Array(items) => {
            write_head(out, ARRAY, items.len() as u64);
            for item in items {
                write_value(out, item);
            }
        }
        Value::Map(entries) => write_map(out, entries),
        Value::Bool(flag) => out.push(if *flag { TRUE } else { FALSE }),
    }
}

fn write_map(out: &mut Vec<u8>, entries: &BTreeMap<u64, Value>) {
    write_head(out, MAP, entries.len() as u64);
    for (key, value) in entries {
        write_head(out, UINT, *key);
        write_value(out, value);
    }
}

pub(crate) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_head(out, BYTES, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    write_head(out, TEXT, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn write_array_head(out: &mut Vec<u8>, items: u64) {
    write_head(out, ARRAY, items);
}

fn write_head(out: &mut Vec<u8>, major: u8, n: u64) {
    let major = major << 5;
    if n < 24 {
        out.push(major | n as u8);
    } else if let Ok(n) = u8::try_from(n) {
        out.extend_from_slice(&[major | 24, n]);
    } else if let Ok(n) = u16::try_from(n) {
        out.push(major | 25);
        out.extend_from_slice(&n.to_be_bytes());
    } else if let Ok(n) = u32::try_from(n) {
        out.push(major | 26);
        out.extend_from_slice(&n.to_be_bytes());
    } else {
        out.push(major | 27);
        out.extend_from_slice(&n.to_be_bytes());
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, CborError> {
        let at = self.at;
        if let Some(&simple @ (TRUE | FALSE)) = self.bytes.get(at) {
            self.at += 1;
            return Ok(Value::Bool(simple == TRUE));
        }
        let (major, n) = self.head()?;
        if matches!(major, ARRAY | MAP) && depth >= self.depth {
            return Err(CborError::TooDeep { at, limit: self.depth });
        }
        match major {
            UINT => Ok(Value::Uint(n)),
            NEGATIVE => Ok(Value::Negative(n)),
            BYTES => Ok(Value::Bytes(self.take(at, n)?.to_vec())),
            TEXT => {
                let text = std::str::from_utf8(self.take(at, n)?).map_err(|_| CborError::Utf8 { at })?;
                if !unicode_normalization::is_nfc(text) {
                    return Err(CborError::NotNormal { at });
                }
                Ok(Value::Text(text.to_owned()))
            }
            ARRAY => self.array(at, n, depth + 1),
            MAP => self.map(at, n, depth + 1),
            _ => Err(CborError::Unsupported { at }),
        }
    }

    fn array(&mut self, at: usize, n: u64, depth: usize) -> Result<Value, CborError> {
        self.check_remaining(at, n)?;
        let mut items = Vec::new();
        for _ in 0..n {
            items.push(self.value(depth)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, at: usize, n: u64, depth: usize) -> Result<Value, CborError> {
        self.check_remaining(at, n.saturating_mul(2))?;
        let mut entries = BTreeMap::new();
        for _ in 0..n {
            let key_at = self.at;
            let (major, key) = self.head()?;
            if major != UINT {
                return Err(CborError::KeyType { at: key_at });
            }
            if entries.last_key_value().is_some_and(|(last, _)| key <= *last) {
                return Err(CborError::KeyOrder { at: key_at });
            }
            let value = self.value(depth)?;
            entries.insert(key, value);
        }
        Ok(Value::Map(entries))
    }

    /// The major type and the argument of the next item (RFC 8949 section 3).
    fn head(&mut self) -> Result<(u8, u64), CborError> {
        let at = self.at;
        let initial = *self.bytes.get(at).ok_or(CborError::Truncated { at })?;
        let (major, info) = (initial >> 5, initial & 0x1f);
        if major > MAP {
            // Floats among the simple values have arguments of their own that must not be read as lengths.
            return Err(if initial == SIMPLE << 5 | 31 {
                CborError::Indefinite { at }
            } else {
                CborError::Unsupported { at }
            });
        }
        self.at += 1;
        let width: u32 = match info {
            0..24 => return Ok((major, u64::from(info))),
            24..28 => 1 << (info - 24),
            28..31 => return Err(CborError::Unsupported { at }),
            _ => return Err(CborError::Indefinite { at }),
        };
        let argument = self.take(at, u64::from(width))?;
        let n = argument.iter().fold(0, |n: u64, byte| n << 8 | u64::from(*byte));
        let shortest = match width {
            1 => n >= 24,
            _ => n >> (4 * width) != 0,
        };
        if !shortest {
            return Err(CborError::NotShortest { at });
        }
        Ok((major, n))
    }

    fn take(&mut self, at: usize, n: u64) -> Result<&'a [u8], CborError> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        let taken = end.and_then(|end| Some((end, self.bytes.get(self.at..end)?)));
        let (end, bytes) = taken.ok_or(CborError::Truncated { at })?;
        self.at = end;
        Ok(bytes)
    }

    /// Every item takes at least one byte, so a count above what is left is refused before anything is built.
    fn check_remaining(&self, at: usize, items: u64) -> Result<(), CborError> {
        let left = self.bytes.len().saturating_sub(self.at) as u64;
        if items > left { Err(CborError::Truncated { at }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
