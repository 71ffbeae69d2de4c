//! The map between errors and statuses, there and back.

use bytes::Bytes;
use huitong_identity::{PeerError, Refusal, ServiceError, refuse};
use huitong_proof::{Digest, SeededEntropy};
use huitong_store::StoreError;
use prost::Message as _;
use tonic::{Code, Status};

use super::Space;
use crate::proto::error::ErrorDetail;
use crate::status::to_peer_status;
use crate::{error_detail, to_peer_error, to_status};

/// What the other side understands.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Unavailable,
    Refused(&'static str),
    Broken,
}

#[track_caller]
fn check(error: ServiceError, code: Code, name: &'static str, heard: Heard) {
    let status = to_status(error.clone(), &SeededEntropy::new(1));
    assert_eq!(status.code(), code, "{error:?}");
    assert_eq!(error_detail(&status).unwrap().code, name, "{error:?}");
    assert!(!status.message().is_empty(), "{error:?}");
    let understood = match to_peer_error(&status) {
        PeerError::Unavailable(_) => Heard::Unavailable,
        PeerError::Refused { code, statement: None, .. } if code == name => Heard::Refused(name),
        PeerError::Broken(_) => Heard::Broken,
        other => panic!("{other:?}"),
    };
    assert_eq!(understood, heard, "{error:?}");
}

#[test]
fn every_service_error_has_its_status_and_comes_back() {
    let text = || "why".to_owned();
    let refused = |code: &str| ServiceError::Refused {
        refusal: Refusal::new(code, "why", "what next"),
        statement: None,
    };
    let peer_refused =
        PeerError::Refused { code: "policy.count".to_owned(), reason: text(), statement: None };
    use Heard::{Broken, Refused, Unavailable};
    check(
        refused("policy.permission[0].count"),
        Code::FailedPrecondition,
        "policy.permission[0].count",
        Refused("policy.permission[0].count"),
    );
    check(
        ServiceError::NotFound { what: text() },
        Code::NotFound,
        "request.unknown",
        Refused("request.unknown"),
    );
    check(
        ServiceError::invalid("id", "why"),
        Code::InvalidArgument,
        "request.invalid",
        Refused("request.invalid"),
    );
    check(
        ServiceError::Forbidden { reason: text() },
        Code::PermissionDenied,
        "request.forbidden",
        Refused("request.forbidden"),
    );
    check(
        ServiceError::Conflict { reason: text() },
        Code::Aborted,
        "request.conflict",
        Refused("request.conflict"),
    );
    check(ServiceError::SafeMode { reason: text() }, Code::Unavailable, "ledger.safe_mode", Unavailable);
    check(
        ServiceError::Redacted { what: text(), who: text(), why: text() },
        Code::NotFound,
        "ledger.redacted",
        Refused("ledger.redacted"),
    );
    check(ServiceError::Busy { reason: text() }, Code::ResourceExhausted, "request.busy", Unavailable);
    check(PeerError::Unavailable(text()).into(), Code::Unavailable, "peer.unavailable", Unavailable);
    check(peer_refused.into(), Code::FailedPrecondition, "policy.count", Refused("policy.count"));
    check(PeerError::Broken(text()).into(), Code::DataLoss, "peer.broken", Broken);
    check(StoreError::Closed.into(), Code::Unavailable, "node.storage", Unavailable);
    check(ServiceError::Internal(text()), Code::Internal, "node.internal", Broken);
}

#[test]
fn statuses_of_the_transport_mean_try_again_and_foreign_refusals_are_refusals() {
    for code in [
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::Cancelled,
        Code::ResourceExhausted,
        Code::Unknown,
        Code::Internal,
    ] {
        let error = to_peer_error(&Status::new(code, "connection reset"));
        assert!(matches!(error, PeerError::Unavailable(_)), "{code:?}: {error:?}");
    }
    for code in [Code::PermissionDenied, Code::Unauthenticated, Code::AlreadyExists, Code::OutOfRange] {
        let error = to_peer_error(&Status::new(code, "no"));
        assert!(matches!(error, PeerError::Refused { .. }), "{code:?}: {error:?}");
    }
    for code in [Code::Unimplemented, Code::DataLoss] {
        let error = to_peer_error(&Status::new(code, "what"));
        assert!(matches!(error, PeerError::Broken(_)), "{code:?}: {error:?}");
    }
}

#[test]
fn internal_detail_stays_here() {
    let status = to_status(ServiceError::Internal("row 7 of table x".to_owned()), &SeededEntropy::new(1));
    let told = format!("{} {:?}", status.message(), error_detail(&status));
    assert!(!told.contains("row 7"), "{told}");
    let other = to_status(ServiceError::Internal("row 7".to_owned()), &SeededEntropy::new(2));
    assert_ne!(status.message(), other.message(), "each failure has its own correlation id");
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let reason = "数".repeat(10_000);
    let status = to_status(ServiceError::Forbidden { reason }, &SeededEntropy::new(1));
    let told = error_detail(&status).unwrap().reason;
    assert_eq!(told.chars().count(), 513);
    assert!(told.ends_with("数…"));
}

#[test]
fn details_of_others_are_not_ours() {
    let empty = ErrorDetail { reason: "no code".to_owned(), ..ErrorDetail::default() }.encode_to_vec();
    for details in [Bytes::from_static(b"\xff\xff\xff"), Bytes::new(), empty.into()] {
        let status = Status::with_details(Code::FailedPrecondition, "no", details);
        assert_eq!(error_detail(&status), None);
    }
}

#[tokio::test]
async fn a_signed_refusal_travels_with_its_status() {
    let space = Space::new().await;
    let ledger = space.provider.node.ledger.clone();
    let audience = space.consumer.id().to_string();
    let refusal = Refusal::new("contract.party", "为什么".repeat(200), "what next");
    let (signing, told) = (ledger.clone(), refusal.clone());
    let statement = ledger
        .store()
        .transact("test.refuse", move |tx| {
            refuse(tx, &signing, &audience, [1; 16], Digest::ZERO, Digest::ZERO, &told, "test")
        })
        .await
        .unwrap();
    let error = ServiceError::Refused { refusal, statement: Some(statement.clone()) };
    match to_peer_error(&to_status(error, &SeededEntropy::new(1))) {
        PeerError::Refused { code, statement: Some(bytes), .. } => {
            assert_eq!((code.as_str(), &bytes), ("contract.party", statement.bytes()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_removed_a_statement_and_why_is_told() {
    let redacted = |who: &str| ServiceError::Redacted {
        what: "entry 7".to_owned(),
        who: who.to_owned(),
        why: "court order 17".to_owned(),
    };
    let status = to_status(redacted("the officer"), &SeededEntropy::new(1));
    for words in ["entry 7", "the officer", "court order 17"] {
        assert!(status.message().contains(words), "{status:?}");
    }
    assert!(!error_detail(&status).unwrap().next_step.is_empty());
    // What is lost was removed by nobody.
    let lost = to_status(redacted(""), &SeededEntropy::new(1));
    assert!(!lost.message().contains("removed by"), "{lost:?}");
}

#[test]
fn why_a_node_signs_nothing_is_told_to_its_operator_only() {
    let error = ServiceError::SafeMode { reason: "node X shows statement 7 to node Y".to_owned() };
    let operator = to_status(error.clone(), &SeededEntropy::new(1));
    assert!(operator.message().contains("node X"), "{operator:?}");
    assert!(error_detail(&operator).unwrap().next_step.contains("huitong ledger recover"));
    let peer = to_peer_status(error, &SeededEntropy::new(1));
    let told = format!("{} {:?}", peer.message(), error_detail(&peer));
    assert!(!told.contains("node X") && !told.contains("node Y"), "{told}");
    assert_eq!(
        (peer.code(), error_detail(&peer).unwrap().code.as_str()),
        (Code::Unavailable, "ledger.safe_mode")
    );
}
