//! Reading a map field by field, with errors that name the field.

use std::collections::BTreeMap;

use super::{CborError, Limits, Value, decode};
use crate::digest::Digest;

/// A decoded map whose fields are taken out one by one; [`Fields::finish`] then refuses what nobody asked for.
///
/// Each `maybe_` method gives `None` for an absent field and an error for one of the wrong type. Taking a field a
/// second time finds it missing.
#[derive(Debug)]
#[must_use = "call finish to refuse unknown fields"]
pub struct Fields {
    what: String,
    entries: BTreeMap<u64, Value>,
}

impl Fields {
    /// Decodes strict CBOR that must be a map. `what` names it in errors, for example `offer`.
    ///
    /// # Errors
    /// [`FieldError::Malformed`], [`FieldError::NotMap`].
    pub fn decode(bytes: &[u8], limits: Limits, what: &'static str) -> Result<Self, FieldError> {
        let value = decode(bytes, limits)
            .map_err(|source| FieldError::Malformed { what: what.to_owned(), source })?;
        Self::from_value(value, what)
    }

    /// Takes a value that must be a map.
    ///
    /// # Errors
    /// [`FieldError::NotMap`].
    pub fn from_value(value: Value, what: &'static str) -> Result<Self, FieldError> {
        match value {
            Value::Map(entries) => Ok(Self { what: what.to_owned(), entries }),
            other => Err(FieldError::NotMap { what: what.to_owned(), found: other.type_name() }),
        }
    }

    /// Takes a text.
    pub fn text(&mut self, key: u64, name: &'static str) -> Result<String, FieldError> {
        let found = self.maybe_text(key, name)?;
        self.require(key, name, found)
    }

    /// Takes an unsigned integer.
    pub fn uint(&mut self, key: u64, name: &'static str) -> Result<u64, FieldError> {
        let found = self.maybe_uint(key, name)?;
        self.require(key, name, found)
    }

    /// Takes a byte string.
    pub fn bytes(&mut self, key: u64, name: &'static str) -> Result<Vec<u8>, FieldError> {
        let found = self.maybe_bytes(key, name)?;
        self.require(key, name, found)
    }

    /// Takes a byte string of exactly 32 bytes.
    pub fn digest(&mut self, key: u64, name: &'static str) -> Result<Digest, FieldError> {
        self.fixed(key, name).map(Digest::from_bytes)
    }

    /// Takes a byte string of exactly `N` bytes.
    pub fn fixed<const N: usize>(&mut self, key: u64, name: &'static str) -> Result<[u8; N], FieldError> {
        let found = self.maybe_fixed(key, name)?;
        self.require(key, name, found)
    }

    /// Takes a boolean.
    pub fn boolean(&mut self, key: u64, name: &'static str) -> Result<bool, FieldError> {
        let found = self.maybe(key, name, "boolean", |value| match value {
            Value::Bool(flag) => Ok(flag),
            other => Err(other),
        })?;
        self.require(key, name, found)
    }

    /// Takes an array.
    pub fn array(&mut self, key: u64, name: &'static str) -> Result<Vec<Value>, FieldError> {
        let found = self.maybe(key, name, "array", |value| match value {
            Value::Array(items) => Ok(items),
            other => Err(other),
        })?;
        self.require(key, name, found)
    }

    /// Takes a value of any type.
    pub fn value(&mut self, key: u64, name: &'static str) -> Result<Value, FieldError> {
        let found = self.entries.remove(&key);
        self.require(key, name, found)
    }

    /// Takes a map inside this one; errors about its fields carry both names, as in `offer.price.amount (1)`.
    pub fn fields(&mut self, key: u64, name: &'static str) -> Result<Fields, FieldError> {
        let found = self.maybe(key, name, "map", |value| match value {
            Value::Map(entries) => Ok(entries),
            other => Err(other),
        })?;
        let entries = self.require(key, name, found)?;
        Ok(Fields { what: self.path(name), entries })
    }

    /// Takes a text if present.
    pub fn maybe_text(&mut self, key: u64, name: &'static str) -> Result<Option<String>, FieldError> {
        self.maybe(key, name, "text", |value| match value {
            Value::Text(text) => Ok(text),
            other => Err(other),
        })
    }

    /// Takes an unsigned integer if present.
    pub fn maybe_uint(&mut self, key: u64, name: &'static str) -> Result<Option<u64>, FieldError> {
        self.maybe(key, name, "unsigned integer", |value| match value {
            Value::Uint(n) => Ok(n),
            other => Err(other),
        })
    }

    /// Takes a byte string if present.
    pub fn maybe_bytes(&mut self, key: u64, name: &'static str) -> Result<Option<Vec<u8>>, FieldError> {
        self.maybe(key, name, "bytes", |value| match value {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(other),
        })
    }

    /// Takes a byte string of exactly 32 bytes if present.
    pub fn maybe_digest(&mut self, key: u64, name: &'static str) -> Result<Option<Digest>, FieldError> {
        Ok(self.maybe_fixed(key, name)?.map(Digest::from_bytes))
    }

    /// Takes a value of any type if present.
    pub fn maybe_value(&mut self, key: u64, _name: &'static str) -> Result<Option<Value>, FieldError> {
        Ok(self.entries.remove(&key))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`FieldError::Unknown`] when a field is left that was not taken.
    pub fn finish(self) -> Result<(), FieldError> {
        match self.entries.into_keys().next() {
            Some(key) => Err(FieldError::Unknown { what: self.what, key }),
            None => Ok(()),
        }
    }

    fn maybe_fixed<const N: usize>(
        &mut self,
        key: u64,
        name: &'static str,
    ) -> Result<Option<[u8; N]>, FieldError> {
        let Some(bytes) = self.maybe_bytes(key, name)? else { return Ok(None) };
        let found = bytes.len();
        let fixed = bytes.try_into();
        fixed.map(Some).map_err(|_| FieldError::Length { path: self.path(name), key, expected: N, found })
    }

    fn maybe<T>(
        &mut self,
        key: u64,
        name: &'static str,
        expected: &'static str,
        read: impl FnOnce(Value) -> Result<T, Value>,
    ) -> Result<Option<T>, FieldError> {
        let Some(value) = self.entries.remove(&key) else { return Ok(None) };
        read(value).map(Some).map_err(|other| FieldError::Type {
            path: self.path(name),
            key,
            expected,
            found: other.type_name(),
        })
    }

    fn require<T>(&self, key: u64, name: &'static str, found: Option<T>) -> Result<T, FieldError> {
        found.ok_or_else(|| FieldError::Missing { path: self.path(name), key })
    }

    fn path(&self, name: &'static str) -> String {
        format!("{}.{name}", self.what)
    }
}

/// What is wrong with a map, naming the field as `what.name (key)`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// The bytes are not strict CBOR.
    #[error("{what}: not strict deterministic CBOR")]
    Malformed {
        /// What was read.
        what: String,
        /// Where and why.
        source: CborError,
    },
    /// Not a map.
    #[error("{what}: expected map, found {found}")]
    NotMap {
        /// What was read.
        what: String,
        /// The type found.
        found: &'static str,
    },
    /// A required field is absent.
    #[error("{path} ({key}): missing")]
    Missing {
        /// The field.
        path: String,
        /// Its key.
        key: u64,
    },
    /// A field of another type.
    #[error("{path} ({key}): expected {expected}, found {found}")]
    Type {
        /// The field.
        path: String,
        /// Its key.
        key: u64,
        /// The type it should have.
        expected: &'static str,
        /// The type it has.
        found: &'static str,
    },
    /// A byte string of another length.
    #[error("{path} ({key}): expected {expected} bytes, found {found}")]
    Length {
        /// The field.
        path: String,
        /// Its key.
        key: u64,
        /// Bytes it should have.
        expected: usize,
        /// Bytes it has.
        found: usize,
    },
    /// A field that this reader does not know.
    #[error("{what}: unknown field {key}")]
    Unknown {
        /// What was read.
        what: String,
        /// The key of the field.
        key: u64,
    },
}
