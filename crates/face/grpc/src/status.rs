//! The one map between what services answer and gRPC statuses, in both directions.

use std::error::Error as _;
use std::fmt::Write as _;

use bytes::Bytes;
use huitong_identity::{AuthenticationError, PeerError, ServiceError};
use huitong_proof::{Entropy, random};
use prost::Message as _;
use tonic::{Code, Status};

use crate::proto::error::ErrorDetail;

/// A status travels in HTTP/2 header fields, which are bounded; the whole reason is in the signed refusal.
const MAX_REASON_CHARACTERS: usize = 512;

const SAFE_MODE_STEP: &str = "run `huitong ledger recover` on this node, or `huitong ledger compare` once its witnesses \
                              can be reached";

/// Turns a service's answer into a status with an [`ErrorDetail`].
///
/// What went wrong inside this node goes to the log under a random correlation id, and only the id to the caller.
pub fn to_status(error: ServiceError, entropy: &dyn Entropy) -> Status {
    match error {
        ServiceError::Refused { refusal, statement } => detailed(
            Code::FailedPrecondition,
            ErrorDetail {
                code: refusal.code,
                reason: refusal.reason,
                next_step: refusal.next_step,
                statement: statement.map(|statement| statement.bytes().clone()).unwrap_or_default(),
            },
        ),
        ServiceError::NotFound { what } => {
            plain(Code::NotFound, "request.unknown", format!("{what} is not known to this node"))
        }
        ServiceError::Invalid { field, reason } => {
            plain(Code::InvalidArgument, "request.invalid", format!("{field}: {reason}"))
        }
        ServiceError::Forbidden { reason } => plain(Code::PermissionDenied, "request.forbidden", reason),
        ServiceError::Conflict { reason } => plain(Code::Aborted, "request.conflict", reason),
        ServiceError::Busy { reason } => plain(Code::ResourceExhausted, "request.busy", reason),
        // A caller that asks again later may be served: for its outbox this is like a node that is down.
        ServiceError::SafeMode { reason } => detailed(
            Code::Unavailable,
            ErrorDetail {
                code: "ledger.safe_mode".to_owned(),
                reason: format!("this node does not sign it now (safe mode): {reason}"),
                next_step: SAFE_MODE_STEP.to_owned(),
                statement: Bytes::new(),
            },
        ),
        redacted @ ServiceError::Redacted { .. } => detailed(
            Code::NotFound,
            ErrorDetail {
                code: "ledger.redacted".to_owned(),
                reason: redacted.to_string(),
                next_step: "its hash is kept and can still be proven".to_owned(),
                statement: Bytes::new(),
            },
        ),
        ServiceError::Peer(PeerError::Unavailable(reason)) => {
            plain(Code::Unavailable, "peer.unavailable", reason)
        }
        ServiceError::Peer(PeerError::Refused { code, reason, statement }) => detailed(
            Code::FailedPrecondition,
            ErrorDetail { code, reason, next_step: String::new(), statement: statement.unwrap_or_default() },
        ),
        ServiceError::Peer(PeerError::Broken(reason)) => plain(Code::DataLoss, "peer.broken", reason),
        ServiceError::Store(error) => {
            let id = correlation_id(entropy);
            tracing::error!(correlation = %id, %error, "the store failed under a request");
            let reason = format!("this node's storage takes no changes now; its log says why under {id}");
            plain(Code::Unavailable, "node.storage", reason)
        }
        ServiceError::Internal(detail) => {
            let id = correlation_id(entropy);
            tracing::error!(correlation = %id, error = %detail, "a request failed inside this node");
            plain(
                Code::Internal,
                "node.internal",
                format!("internal error; the node's log has it under {id}"),
            )
        }
    }
}

/// The same for another node, which hears only what is its business.
///
/// Why a node signs nothing names its witnesses and the nodes it deals with.
pub(crate) fn to_peer_status(error: ServiceError, entropy: &dyn Entropy) -> Status {
    match error {
        ServiceError::SafeMode { .. } => detailed(
            Code::Unavailable,
            ErrorDetail {
                code: "ledger.safe_mode".to_owned(),
                reason: "this node does not sign it now (safe mode)".to_owned(),
                next_step: "try again later; its operator is told what to do".to_owned(),
                statement: Bytes::new(),
            },
        ),
        other => to_status(other, entropy),
    }
}

/// Turns another node's status into what the services understand.
///
/// A status without [`ErrorDetail`] was not written by a service but by a transport on the way.
pub fn to_peer_error(status: &Status) -> PeerError {
    let detail = error_detail(status);
    match status.code() {
        Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::NotFound
        | Code::InvalidArgument
        | Code::Unauthenticated
        | Code::AlreadyExists
        | Code::Aborted
        | Code::OutOfRange => {
            let ErrorDetail { code, reason, next_step: _, statement } =
                detail.unwrap_or_else(|| ErrorDetail {
                    code: "peer.refused".to_owned(),
                    reason: describe(status),
                    ..ErrorDetail::default()
                });
            let statement = (!statement.is_empty()).then_some(statement);
            PeerError::Refused { code, reason, statement }
        }
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::ResourceExhausted
        | Code::Unknown => PeerError::Unavailable(describe(status)),
        // HTTP/2 breaks off connections with codes that map to INTERNAL; our own INTERNAL says so in its details.
        Code::Internal if detail.is_none() => PeerError::Unavailable(describe(status)),
        Code::Internal | Code::Unimplemented | Code::DataLoss | Code::Ok => {
            PeerError::Broken(format!("{:?}: {}", status.code(), describe(status)))
        }
    }
}

/// The [`ErrorDetail`] of a status that a node of this kind sent.
pub fn error_detail(status: &Status) -> Option<ErrorDetail> {
    if status.details().is_empty() {
        return None;
    }
    ErrorDetail::decode(status.details()).ok().filter(|detail| !detail.code.is_empty())
}

/// Whether the status comes from the way to the other node rather than from the node itself.
pub(crate) fn is_transport_failure(status: &Status) -> bool {
    error_detail(status).is_none() && matches!(to_peer_error(status), PeerError::Unavailable(_))
}

/// Why an authenticated caller does not count any more. Our own staleness is not the caller's fault.
pub(crate) fn not_authenticated(error: &AuthenticationError) -> Status {
    let (code, name) = match error {
        AuthenticationError::Stale { .. } => (Code::Unavailable, "node.stale"),
        AuthenticationError::Revoked { .. } => (Code::Unauthenticated, "identity.revoked"),
        AuthenticationError::NotValidNow { .. } => (Code::Unauthenticated, "identity.expired"),
        AuthenticationError::Malformed(_)
        | AuthenticationError::Untrusted(_)
        | AuthenticationError::Mismatch { .. } => (Code::Unauthenticated, "identity.untrusted"),
    };
    plain(code, name, error.to_string())
}

/// A call that reached a service without an authenticated connection.
pub(crate) fn unauthenticated() -> Status {
    plain(
        Code::Unauthenticated,
        "identity.missing",
        "this service takes calls over mutual TLS only; connect with the node's certificate".to_owned(),
    )
}

/// The operator asked a node for what it is not made to do.
pub(crate) fn not_this_node(is: &str, instead: &str) -> Status {
    detailed(
        Code::FailedPrecondition,
        ErrorDetail {
            code: "node.role".to_owned(),
            reason: format!("this node is a {is}; run this on a {instead}"),
            next_step: format!("run this on a {instead}"),
            statement: Bytes::new(),
        },
    )
}

/// The status's message with the causes behind it, none of them twice.
pub(crate) fn describe(status: &Status) -> String {
    let mut text = if status.message().is_empty() {
        status.code().description().to_owned()
    } else {
        status.message().to_owned()
    };
    let mut cause = status.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            let _ = write!(text, ": {words}");
        }
        cause = error.source();
    }
    text
}

fn plain(code: Code, name: &str, reason: String) -> Status {
    detailed(code, ErrorDetail { code: name.to_owned(), reason, ..ErrorDetail::default() })
}

fn detailed(code: Code, mut detail: ErrorDetail) -> Status {
    if let Some((end, _)) = detail.reason.char_indices().nth(MAX_REASON_CHARACTERS) {
        detail.reason.truncate(end);
        detail.reason.push('…');
    }
    Status::with_details(code, detail.reason.clone(), detail.encode_to_vec().into())
}

fn correlation_id(entropy: &dyn Entropy) -> String {
    format!("{:016x}", u64::from_be_bytes(random(entropy)))
}
