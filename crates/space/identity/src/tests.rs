//! A registrar and two connectors in one process: enrolment, authentication, revocation, addresses.

use std::time::Duration;

use huitong_proof::cbor::Map;
use huitong_proof::{
    Anchor, ChannelHead, Clock as _, Digest, Draft, Envelope, Kind, Signing, Statement, Timestamp,
};
use rcgen::KeyPair;

use crate::documents::{Invite, Revocation, StatusList};
use crate::peer::{SignedDocument, TrustUpdate};
use crate::testing::{TestNetwork, network};
use crate::{
    AuthenticationError, Directory, InviteRequest, JoinRequest, NodeKeys, Role, ServiceError, Sources,
    certificate, enrolment_request, workers,
};

async fn space() -> (tempfile::TempDir, TestNetwork) {
    let dir = tempfile::tempdir().unwrap();
    let network = network(dir.path()).await;
    (dir, network)
}

fn sources(net: &TestNetwork) -> Sources {
    let ledger = &net.registrar.ledger;
    Sources { clock: ledger.clock().clone(), entropy: ledger.entropy().clone() }
}

fn invite_request(entity: &str) -> InviteRequest {
    InviteRequest {
        entity: entity.to_owned(),
        name: "Example Mill".to_owned(),
        roles: vec![Role::Consumer],
        lifetime: Duration::from_secs(60),
        address: "localhost:1".to_owned(),
    }
}

#[tokio::test]
async fn an_enrolled_node_is_whom_its_certificate_says() {
    let (_dir, net) = space().await;
    let caller = &net.provider.caller;
    assert_eq!(caller.node(), net.provider.membership.node());
    assert_eq!(caller.node().as_str().len(), 32);
    assert_eq!(caller.name(), "Example Weather Bureau");
    assert!(caller.has(Role::Provider) && !caller.has(Role::Registrar));
    // The other connector believes it as well: the credential inside the certificate is enough.
    let now = net.consumer.ledger.clock().now();
    let seen =
        net.consumer.standing.directory.authenticate(net.provider.membership.certificate(), now).unwrap();
    assert_eq!(seen.credential(), caller.credential());
}

#[tokio::test]
async fn invites_read_back_and_damaged_ones_do_not() {
    let (_dir, net) = space().await;
    let invite = net.registry.invite(invite_request("91350100M000100Y43")).await.unwrap();
    let text = invite.to_text();
    assert_eq!(Invite::parse(&format!("  {text}\n")).unwrap(), invite);
    for bad in
        ["", "huitong-invite-1:", "huitong-invite-2:AAAA", &text[..text.len() - 4], &format!("{text}A")]
    {
        Invite::parse(bad).unwrap_err();
    }
}

#[tokio::test]
async fn an_organisation_with_a_wrong_check_digit_is_not_invited() {
    let (_dir, net) = space().await;
    let error = net.registry.invite(invite_request("91310105575958172F")).await.unwrap_err();
    assert!(matches!(error, ServiceError::Invalid { ref field, .. } if field == "entity"), "{error}");
}

#[tokio::test]
async fn the_same_enrolment_gives_the_same_node_and_another_key_is_refused() {
    let (dir, net) = space().await;
    let sources = sources(&net);
    let invite = net.registry.invite(invite_request("91350100M000100Y43")).await.unwrap();
    let request = JoinRequest { invite, domain: "mill.example".to_owned() };
    let keys = NodeKeys::load_or_create(&dir.path().join("mill"), &*sources.entropy).unwrap();
    let sent = enrolment_request(&keys, &request, &sources).unwrap();
    let first = net.registry.enrol(sent.clone()).await.unwrap();
    let again = net.registry.enrol(enrolment_request(&keys, &request, &sources).unwrap()).await.unwrap();
    assert_eq!(first.credential, again.credential);
    assert_eq!(first.certificate, again.certificate);
    let nodes = net.registry.nodes(10).unwrap().len();

    let thief = NodeKeys::load_or_create(&dir.path().join("thief"), &*sources.entropy).unwrap();
    let error = net.registry.enrol(enrolment_request(&thief, &request, &sources).unwrap()).await.unwrap_err();
    match error {
        ServiceError::Refused { refusal, statement: Some(_) } => {
            assert_eq!(refusal.code, "enrolment.invite.used")
        }
        other => panic!("expected a recorded refusal, got {other}"),
    }
    let mut unknown = sent;
    unknown.token = [9; 32];
    net.registry.enrol(unknown).await.unwrap_err();
    assert_eq!(net.registry.nodes(10).unwrap().len(), nodes);
}

#[tokio::test]
async fn an_expired_invite_admits_nobody() {
    let (dir, net) = space().await;
    let invite = net.registry.invite(invite_request("91350100M000100Y43")).await.unwrap();
    net.clock.advance(Duration::from_secs(61));
    let sources = sources(&net);
    let keys = NodeKeys::load_or_create(&dir.path().join("mill"), &*sources.entropy).unwrap();
    let request = JoinRequest { invite, domain: "mill.example".to_owned() };
    let error = net.registry.enrol(enrolment_request(&keys, &request, &sources).unwrap()).await.unwrap_err();
    assert!(
        matches!(error, ServiceError::Refused { ref refusal, .. } if refusal.code == "enrolment.invite.expired")
    );
}

#[tokio::test]
async fn parts_of_an_enrolment_cannot_be_exchanged() {
    let (dir, net) = space().await;
    let sources = sources(&net);
    let invite = net.registry.invite(invite_request("91350100M000100Y43")).await.unwrap();
    let request = JoinRequest { invite, domain: "mill.example".to_owned() };
    let one = NodeKeys::load_or_create(&dir.path().join("one"), &*sources.entropy).unwrap();
    let two = NodeKeys::load_or_create(&dir.path().join("two"), &*sources.entropy).unwrap();
    let of_one = enrolment_request(&one, &request, &sources).unwrap();
    let of_two = enrolment_request(&two, &request, &sources).unwrap();
    let mut other_csr = of_one.clone();
    other_csr.csr = of_two.csr.clone();
    let mut other_key = of_one.clone();
    other_key.statement_key = of_two.statement_key;
    let mut flipped_csr = of_one.clone();
    let last = flipped_csr.csr.len() - 1;
    flipped_csr.csr[last] ^= 1;
    for forged in [other_csr, other_key, flipped_csr] {
        let error = net.registry.enrol(forged).await.unwrap_err();
        assert!(matches!(error, ServiceError::Invalid { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_forged_unit_or_key_is_found_although_the_credential_is_genuine() {
    let (_dir, net) = space().await;
    let directory = &net.registrar.standing.directory;
    let now = net.registrar.ledger.clock().now();
    let victim = &net.provider.membership;
    // An attacker with a root of its own puts the victim's genuine credential into a certificate for its own key.
    let root_key = KeyPair::generate().unwrap();
    let root = certificate::self_signed_root(&root_key, "evil", victim.node(), now, 1).unwrap();
    let own_key = KeyPair::generate().unwrap();
    let stolen =
        certificate::issue(&root, &root_key, &own_key, victim.credential(), victim.credential_statement())
            .unwrap();
    assert_eq!(
        directory.authenticate(&stolen, now).unwrap_err(),
        AuthenticationError::Mismatch { field: "public key" }
    );
    let mut credential = victim.credential().clone();
    credential.node = net.consumer.membership.node().clone();
    let forged =
        certificate::issue(&root, &root_key, &own_key, &credential, victim.credential_statement()).unwrap();
    assert!(matches!(
        directory.authenticate(&forged, now).unwrap_err(),
        AuthenticationError::Mismatch { .. }
    ));
    // A certificate without any credential, and one that is no certificate.
    assert!(matches!(directory.authenticate(&root, now).unwrap_err(), AuthenticationError::Malformed(_)));
    assert!(matches!(directory.authenticate(b"junk", now).unwrap_err(), AuthenticationError::Malformed(_)));
}

#[tokio::test]
async fn a_revocation_reaches_a_follower_and_only_grows() {
    let (_dir, net) = space().await;
    let follower = &net.consumer.standing;
    let now = net.consumer.ledger.clock().now();
    let before = follower.directory.status().version;
    net.registry.revoke(net.provider.membership.node(), "key lost").await.unwrap();
    let again = net.registry.revoke(net.provider.membership.node(), "key lost").await.unwrap();
    assert_eq!(again.version, before + 1, "revoking twice changes nothing");
    let (update, _, version) = net.registry.trust_since(1, before).unwrap();
    assert_eq!(version, before + 1);
    let signed = update.status.clone().unwrap();
    workers::apply(follower, update).await.unwrap();
    let error = follower.directory.authenticate(net.provider.membership.certificate(), now).unwrap_err();
    assert!(
        matches!(error, AuthenticationError::Revoked { ref reason, .. } if reason == "key lost"),
        "{error}"
    );

    // The list cannot be altered, and an empty one of the same version does not pass.
    let empty = StatusList { version: before + 2, issued: now, revoked: Vec::new() };
    let forged = SignedDocument { statement: signed.statement, document: empty.encode().into() };
    let update = TrustUpdate { roots: None, status: Some(forged) };
    workers::apply(follower, update).await.unwrap_err();
    assert_eq!(follower.directory.status().version, before + 1);
}

#[tokio::test]
async fn lists_that_are_too_old_admit_nobody_but_the_registrar() {
    let (_dir, net) = space().await;
    let directory = &net.consumer.standing.directory;
    net.clock.advance(Duration::from_secs(301));
    let now = net.consumer.ledger.clock().now();
    let error = directory.authenticate(net.provider.membership.certificate(), now).unwrap_err();
    assert!(matches!(error, AuthenticationError::Stale { .. }), "{error}");
    directory.authenticate(net.registrar.membership.certificate(), now).unwrap();
    workers::apply(&net.consumer.standing, TrustUpdate::default()).await.unwrap();
    directory.authenticate(net.provider.membership.certificate(), now).unwrap();
}

#[tokio::test]
async fn a_credential_ends() {
    let (_dir, net) = space().await;
    net.clock.advance(Duration::from_secs(366 * 24 * 3600));
    let now = net.registrar.ledger.clock().now();
    let error = net
        .registrar
        .standing
        .directory
        .authenticate(net.provider.membership.certificate(), now)
        .unwrap_err();
    assert!(
        matches!(error, AuthenticationError::NotValidNow { .. } | AuthenticationError::Untrusted(_)),
        "{error}"
    );
}

#[tokio::test]
async fn an_expired_root_list_admits_nobody() {
    let (_dir, net) = space().await;
    let now = net.registrar.ledger.clock().now();
    let standing = &net.consumer.standing;
    let mut roots = standing.directory.roots();
    roots.expires = Timestamp::from_millis(now.millis() - 1);
    let expired = Directory::new(roots, standing.directory.status(), now, None);
    for error in [
        expired.authenticate(net.provider.membership.certificate(), now).unwrap_err(),
        expired.recheck(&net.provider.caller, now).unwrap_err(),
    ] {
        assert!(
            matches!(error, AuthenticationError::Untrusted(ref why) if why.contains("expired")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn every_byte_of_a_certificate_counts() {
    let (_dir, net) = space().await;
    let directory = &net.registrar.standing.directory;
    let now = net.registrar.ledger.clock().now();
    let genuine = net.provider.membership.certificate().to_vec();
    let statement = net.provider.membership.credential_statement().bytes().to_vec();
    let start = genuine.windows(statement.len()).position(|window| window == statement).unwrap();
    for position in start..start + statement.len() {
        let mut flipped = genuine.clone();
        flipped[position] ^= 1;
        directory.authenticate(&flipped, now).unwrap_err();
    }
    assert_ne!(Digest::sha256(&genuine), Digest::ZERO);
}

#[tokio::test]
async fn an_enrolment_cannot_speak_in_the_name_of_another_node() {
    let (dir, net) = space().await;
    let sources = sources(&net);
    let invite = net.registry.invite(invite_request("91350100M000100Y43")).await.unwrap();
    let keys = NodeKeys::load_or_create(&dir.path().join("mill"), &*sources.entropy).unwrap();
    let request = JoinRequest { invite, domain: "mill.example".to_owned() };
    let mut sent = enrolment_request(&keys, &request, &sources).unwrap();
    let genuine = Envelope::decode(sent.statement.clone()).unwrap();
    let genuine = genuine.verify(&keys.statement().verifying_key(), net.registrar.ledger.space()).unwrap();
    // The same words under the provider's name: they would stand on the provider's channel to the registrar, and the
    // provider's own next statement would look like a contradiction.
    let body = genuine.body();
    let framed = Statement::sign(
        Draft {
            kind: Kind::Enrolment,
            audience: body.audience.clone(),
            subject: body.subject,
            agreement: body.agreement,
            reference: body.reference,
            detail: copied(&genuine),
        },
        Signing {
            key: keys.statement(),
            space: net.registrar.ledger.space(),
            issuer: net.provider.membership.node().as_str(),
            channel: ChannelHead { seq: 7, prev: Digest::sha256(b"anything") },
            anchor: Anchor::none(),
            time: net.clock.now(),
            salt: [0; 16],
        },
    )
    .unwrap();
    sent.statement = framed.bytes().clone();
    let error = net.registry.enrol(sent).await.unwrap_err();
    assert!(
        matches!(error, ServiceError::Invalid { ref field, .. } if field == "statement.issuer"),
        "{error}"
    );
}

fn copied(statement: &Statement) -> Map {
    let mut detail = statement.detail("enrolment").unwrap();
    Map::new()
        .digest(1, &detail.digest(1, "csr").unwrap())
        .bytes(2, &detail.bytes(2, "statement_key").unwrap())
        .bytes(3, &detail.bytes(3, "log_key").unwrap())
        .bytes(4, &detail.bytes(4, "log_key_proof").unwrap())
        .text(5, detail.text(5, "domain").unwrap())
        .digest(6, &detail.digest(6, "token").unwrap())
}

#[tokio::test]
async fn a_clock_that_was_ahead_does_not_keep_old_lists_fresh() {
    let (_dir, net) = space().await;
    let directory = &net.consumer.standing.directory;
    let provider = net.provider.membership.certificate();
    let right = net.clock.now();
    net.clock.advance(Duration::from_secs(24 * 3600));
    workers::apply(&net.consumer.standing, TrustUpdate::default()).await.unwrap();
    // Set right again while the registrar is silent: how old the lists are is not known.
    net.clock.set(right);
    assert!(directory.is_stale(right));
    let error = directory.authenticate(provider, right).unwrap_err();
    assert!(matches!(error, AuthenticationError::Stale { .. }), "{error}");
    // And once more from the first word of the registrar on.
    workers::apply(&net.consumer.standing, TrustUpdate::default()).await.unwrap();
    directory.authenticate(provider, right).unwrap();
    net.clock.advance(Duration::from_secs(301));
    directory.authenticate(provider, net.clock.now()).unwrap_err();
}

#[tokio::test]
async fn a_revocation_list_never_grows_beyond_what_can_be_read() {
    let (_dir, net) = space().await;
    let registrar = &net.registrar.standing;
    let revoked = |count| {
        let at = net.clock.now();
        let entry =
            Revocation { node: net.consumer.membership.node().clone(), at, reason: "失".repeat(128) };
        StatusList { version: 2, issued: at, revoked: vec![entry; count] }
    };
    let longest = (0..).step_by(100).find(|count| revoked(*count).encode().len() > StatusList::MAX_BYTES);
    let longest = longest.unwrap();
    // Longer than a document of 1 MiB, and still read back.
    let kept = revoked(longest - 100);
    assert_eq!(StatusList::decode(&kept.encode()).unwrap(), kept);
    registrar.directory.replace_status(kept.clone());
    net.registry.revoke(net.provider.membership.node(), "key lost").await.unwrap();
    let (update, ..) = net.registry.trust_since(1, 1).unwrap();
    let signed = update.status.unwrap();
    assert_eq!(StatusList::decode(&signed.document).unwrap().revoked.len(), kept.revoked.len() + 1);

    registrar.directory.replace_status(revoked(longest));
    let error = net.registry.revoke(net.consumer.membership.node(), "key lost").await.unwrap_err();
    assert!(matches!(error, ServiceError::Conflict { .. }), "{error}");
}

#[tokio::test]
async fn a_node_with_two_addresses_under_one_number_is_on_record() {
    let (dir, net) = space().await;
    let ledger = &net.registrar.ledger;
    let keys = dir.path().join("provider/keys");
    let keys = NodeKeys::load_or_create(&keys, &**ledger.entropy()).unwrap();
    let report = |address: &str| {
        let draft = Draft {
            kind: Kind::Address,
            audience: ledger.node().to_owned(),
            subject: [1; 16],
            agreement: Digest::ZERO,
            reference: Digest::ZERO,
            detail: Map::new().text(1, address),
        };
        let signing = Signing {
            key: keys.statement(),
            space: ledger.space(),
            issuer: net.provider.membership.node().as_str(),
            channel: ChannelHead { seq: 9, prev: Digest::sha256(b"the one before") },
            anchor: Anchor::none(),
            time: net.clock.now(),
            salt: [0; 16],
        };
        Statement::sign(draft, signing).unwrap().bytes().clone()
    };
    let caller = &net.provider.caller;
    net.registry.report_address(caller, report("one.example:1")).await.unwrap();
    net.registry.report_address(caller, report("one.example:1")).await.unwrap();
    assert_eq!(ledger.evidence(&ledger.store().view(), 10).unwrap().len(), 0);
    let error = net.registry.report_address(caller, report("two.example:1")).await.unwrap_err();
    assert!(matches!(error, ServiceError::Conflict { .. }), "{error}");
    assert_eq!(ledger.evidence(&ledger.store().view(), 10).unwrap().len(), 1);
    assert_eq!(net.registry.locate(net.provider.membership.node()).unwrap().address, "one.example:1");
}
