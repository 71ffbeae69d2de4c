//! Fields of messages as the types of the house; an error names the field.

use std::time::Duration;

use bytes::Bytes;
use huitong_identity::{PeerError, ServiceError};
use huitong_ids::{ContractId, DataId, IdError, NodeId};
use huitong_proof::Digest;

/// A SHA-256 digest in a message.
pub(crate) const DIGEST_BYTES: usize = 32;

/// Exactly `N` bytes.
pub(crate) fn fixed<const N: usize>(field: &str, bytes: &[u8]) -> Result<[u8; N], ServiceError> {
    bytes
        .try_into()
        .map_err(|_| ServiceError::invalid(field, format!("expected {N} bytes, found {}", bytes.len())))
}

/// A SHA-256 digest, 32 bytes.
pub(crate) fn digest(field: &str, bytes: &[u8]) -> Result<Digest, ServiceError> {
    Ok(Digest::from_bytes(fixed(field, bytes)?))
}

/// SHA-256 digests, 32 bytes each; an error names the index too.
pub(crate) fn digests(field: &str, values: &[Bytes]) -> Result<Vec<Digest>, ServiceError> {
    let values = values.iter().enumerate();
    values.map(|(index, value)| digest(&format!("{field}[{index}]"), value)).collect()
}

/// SHA-256 digests end to end in one field.
pub(crate) fn digests_end_to_end(field: &str, bytes: &[u8]) -> Result<Vec<Digest>, ServiceError> {
    let (digests, rest) = bytes.as_chunks::<DIGEST_BYTES>();
    if !rest.is_empty() {
        let expected = format!("expected a multiple of {DIGEST_BYTES} bytes, found {}", bytes.len());
        return Err(ServiceError::invalid(field, expected));
    }
    Ok(digests.iter().copied().map(Digest::from_bytes).collect())
}

/// A SHA-256 digest as people write it, 64 hexadecimal digits.
pub(crate) fn digest_text(field: &str, text: &str) -> Result<Digest, ServiceError> {
    text.parse::<Digest>().map_err(|error| ServiceError::invalid(field, error))
}

/// A digest as messages carry it.
pub(crate) fn bytes_of(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}

/// A node id, 32 characters.
pub(crate) fn node_id(field: &str, text: &str) -> Result<NodeId, ServiceError> {
    identifier(field, NodeId::parse(text))
}

/// A product or resource id, 32 to 65 characters.
pub(crate) fn data_id(field: &str, text: &str) -> Result<DataId, ServiceError> {
    identifier(field, DataId::parse(text))
}

/// A contract id, 47 characters.
pub(crate) fn contract_id(field: &str, text: &str) -> Result<ContractId, ServiceError> {
    identifier(field, ContractId::parse(text))
}

/// At most `limit` bytes.
pub(crate) fn bounded(field: &str, length: usize, limit: usize) -> Result<(), ServiceError> {
    at_most(field, length, limit, "bytes")
}

/// At most `limit` values.
pub(crate) fn count(field: &str, length: usize, limit: usize) -> Result<(), ServiceError> {
    at_most(field, length, limit, "values")
}

/// How many there are, as messages say it.
pub(crate) fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What does not parse in an answer is the other node's fault.
pub(crate) fn broken(error: ServiceError) -> PeerError {
    PeerError::Broken(error.to_string())
}

fn at_most(field: &str, length: usize, limit: usize, unit: &str) -> Result<(), ServiceError> {
    if length <= limit {
        return Ok(());
    }
    Err(ServiceError::invalid(field, format!("expected at most {limit} {unit}, found {length}")))
}

fn identifier<T>(field: &str, parsed: Result<T, IdError>) -> Result<T, ServiceError> {
    parsed.map_err(|error| ServiceError::invalid(field, error))
}
