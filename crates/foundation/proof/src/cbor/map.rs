//! Building a map of numbered fields.

use std::collections::BTreeMap;

use super::{Value, write_map};
use crate::digest::Digest;

/// Builds a map field by field: `Map::new().text(1, "a").uint(2, 5).encode()`.
///
/// Fields may be given in any order. Giving one key twice is a programming error: debug builds stop, release builds
/// keep the later value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    entries: BTreeMap<u64, Value>,
}

impl Map {
    /// A map without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text.
    pub fn text(self, key: u64, text: impl Into<String>) -> Self {
        self.value(key, Value::Text(text.into()))
    }

    /// Adds an unsigned integer.
    pub fn uint(self, key: u64, n: u64) -> Self {
        self.value(key, Value::Uint(n))
    }

    /// Adds a byte string.
    pub fn bytes(self, key: u64, bytes: &[u8]) -> Self {
        self.value(key, Value::Bytes(bytes.to_vec()))
    }

    /// Adds a digest, as its 32 bytes.
    pub fn digest(self, key: u64, digest: &Digest) -> Self {
        self.bytes(key, digest.as_bytes())
    }

    /// Adds a boolean.
    pub fn boolean(self, key: u64, flag: bool) -> Self {
        self.value(key, Value::Bool(flag))
    }

    /// Adds an array.
    pub fn array(self, key: u64, items: Vec<Value>) -> Self {
        self.value(key, Value::Array(items))
    }

    /// Adds a map inside this one.
    pub fn map(self, key: u64, map: Map) -> Self {
        self.value(key, map.build())
    }

    /// Adds any value.
    pub fn value(mut self, key: u64, value: Value) -> Self {
        let previous = self.entries.insert(key, value);
        debug_assert!(previous.is_none(), "map key {key} given twice");
        self
    }

    /// Adds a text if there is one.
    pub fn maybe_text(self, key: u64, text: Option<&str>) -> Self {
        self.maybe(key, text, Self::text)
    }

    /// Adds an unsigned integer if there is one.
    pub fn maybe_uint(self, key: u64, n: Option<u64>) -> Self {
        self.maybe(key, n, Self::uint)
    }

    /// Adds a byte string if there is one.
    pub fn maybe_bytes(self, key: u64, bytes: Option<&[u8]>) -> Self {
        self.maybe(key, bytes, Self::bytes)
    }

    /// Adds a digest if there is one.
    pub fn maybe_digest(self, key: u64, digest: Option<&Digest>) -> Self {
        self.maybe(key, digest, Self::digest)
    }

    /// Adds an array if there is one.
    pub fn maybe_array(self, key: u64, items: Option<Vec<Value>>) -> Self {
        self.maybe(key, items, Self::array)
    }

    /// The map as a value.
    pub fn build(self) -> Value {
        Value::Map(self.entries)
    }

    /// The one encoding of the map.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_map(&mut out, &self.entries);
        out
    }

    fn maybe<T>(self, key: u64, given: Option<T>, add: impl FnOnce(Self, u64, T) -> Self) -> Self {
        match given {
            Some(value) => add(self, key, value),
            None => self,
        }
    }
}
