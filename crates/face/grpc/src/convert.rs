//! Fields of messages as the types of the house; an error names the field.

use huitong_identity::{PeerError, ServiceError};
use huitong_ids::{ContractId, DataId, IdError, NodeId};
use huitong_proof::Digest;

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
    if length <= limit {
        return Ok(());
    }
    Err(ServiceError::invalid(field, format!("expected at most {limit} bytes, found {length}")))
}

/// What does not parse in an answer is the other node's fault.
pub(crate) fn broken(error: ServiceError) -> PeerError {
    PeerError::Broken(error.to_string())
}

fn identifier<T>(field: &str, parsed: Result<T, IdError>) -> Result<T, ServiceError> {
    parsed.map_err(|error| ServiceError::invalid(field, error))
}
