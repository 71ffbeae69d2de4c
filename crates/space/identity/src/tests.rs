//! A registrar and two connectors in one process: enrolment, authentication, revocation, addresses.

use std::time::Duration;

use bytes::Bytes;
use huitong_ids::NodeId;
use huitong_ledger::{Redaction, witness_name_of};
use huitong_proof::cbor::Map;
use huitong_proof::{
    Anchor, ChannelHead, Clock as _, Digest, Draft, Envelope, Kind, Signing, Statement, Timestamp,
};
use rcgen::KeyPair;

use crate::documents::{EnrolmentRequest, Invite, Revocation, RootEntry, RootList, StatusList};
use crate::peer::{SignedDocument, TrustUpdate};
use crate::testing::{TestNetwork, cosigner, network};
use crate::{
    AuthenticationError, Directory, InviteRequest, JoinRequest, NodeKeys, NodeState, Role, ServiceError,
    Sources, certificate, credential_of, enrolment_request, members, prove_for, workers,
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
            detail: copied(&genuine, &[]),
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

/// The detail of an enrolment with some of its byte strings replaced.
fn copied(statement: &Statement, changes: &[(u64, &[u8])]) -> Map {
    let mut detail = statement.detail("enrolment").unwrap();
    let mut bytes = |key, name| match changes.iter().find(|(changed, _)| *changed == key) {
        Some((_, bytes)) => detail.bytes(key, name).map(|_| bytes.to_vec()).unwrap(),
        None => detail.bytes(key, name).unwrap(),
    };
    let map = Map::new()
        .bytes(1, &bytes(1, "csr"))
        .bytes(2, &bytes(2, "statement_key"))
        .bytes(3, &bytes(3, "log_key"))
        .bytes(4, &bytes(4, "log_key_proof"))
        .bytes(6, &bytes(6, "token"))
        .bytes(7, &bytes(7, "witness_key"))
        .bytes(8, &bytes(8, "witness_key_proof"));
    map.text(5, detail.text(5, "domain").unwrap())
}

/// A genuine request with other words in its statement, signed with the right statement key.
fn resigned(
    net: &TestNetwork,
    keys: &NodeKeys,
    sent: &EnrolmentRequest,
    changes: &[(u64, &[u8])],
) -> EnrolmentRequest {
    let space = net.registrar.ledger.space();
    let genuine = Envelope::decode(sent.statement.clone()).unwrap().trusted(space).unwrap();
    let draft = Draft {
        kind: Kind::Enrolment,
        audience: genuine.body().audience.clone(),
        subject: genuine.body().subject,
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail: copied(&genuine, changes),
    };
    let signing = Signing {
        key: keys.statement(),
        space,
        issuer: &keys.statement().verifying_key().thumbprint().to_string(),
        channel: ChannelHead::START,
        anchor: Anchor::none(),
        time: net.clock.now(),
        salt: [0; 16],
    };
    let statement = Statement::sign(draft, signing).unwrap().bytes().clone();
    EnrolmentRequest { statement, ..sent.clone() }
}

#[tokio::test]
async fn an_enrolment_proves_possession_of_log_and_witness_key() {
    let (dir, net) = space().await;
    let invite = net.registry.invite(invite_request("91350100M000100Y43")).await.unwrap();
    let request = JoinRequest { invite, domain: "mill.example".to_owned() };
    let key = |name: &str| NodeKeys::load_or_create(&dir.path().join(name), &*sources(&net).entropy).unwrap();
    let (own, other) = (key("own"), key("other"));
    let sent = enrolment_request(&own, &request, &sources(&net)).unwrap();
    let space = net.registrar.ledger.space();
    let genuine = Envelope::decode(sent.statement.clone()).unwrap().trusted(space).unwrap();
    let (log, witness) = (own.log().verifying_key(), own.witness().verifying_key());
    let stranger = other.witness().verifying_key();
    let mut detail = genuine.detail("enrolment").unwrap();
    let log_proof = detail.bytes(4, "log_key_proof").unwrap();
    let witness_proof = detail.bytes(8, "witness_key_proof").unwrap();
    for (field, key_at, key, proof_at, proof) in [
        ("witness_key", 7, stranger.as_bytes(), 8, &witness_proof),
        ("witness_key", 7, log.as_bytes(), 8, &log_proof),
        ("witness_key", 7, witness.as_bytes(), 8, &log_proof),
        ("log_key", 3, witness.as_bytes(), 4, &witness_proof),
        ("log_key", 3, stranger.as_bytes(), 4, &log_proof),
    ] {
        let changed = resigned(&net, &own, &sent, &[(key_at, key), (proof_at, proof)]);
        let error = net.registry.enrol(changed).await.unwrap_err();
        assert!(
            matches!(error, ServiceError::Invalid { field: ref found, .. } if found == field),
            "{key_at}: {error}"
        );
    }
    net.registry.enrol(resigned(&net, &own, &sent, &[])).await.unwrap();
}

#[tokio::test]
async fn one_key_is_not_two() {
    let (dir, net) = space().await;
    let invite = net.registry.invite(invite_request("91350100M000100Y43")).await.unwrap();
    let request = JoinRequest { invite, domain: "mill.example".to_owned() };
    for (number, (from, to)) in
        [("log.key", "witness.key"), ("statement.key", "witness.key"), ("statement.key", "log.key")]
            .into_iter()
            .enumerate()
    {
        let home = dir.path().join(format!("twins-{number}"));
        NodeKeys::load_or_create(&home, &*sources(&net).entropy).unwrap();
        std::fs::remove_file(home.join(to)).unwrap();
        std::fs::copy(home.join(from), home.join(to)).unwrap();
        let twins = NodeKeys::load_or_create(&home, &*sources(&net).entropy).unwrap();
        let sent = enrolment_request(&twins, &request, &sources(&net)).unwrap();
        let error = net.registry.enrol(sent).await.unwrap_err();
        assert!(
            matches!(error, ServiceError::Invalid { ref field, .. } if field == "enrolment"),
            "{from} as {to}: {error}"
        );
    }
}

#[tokio::test]
async fn credentials_name_witness_keys_and_everybody_knows_the_registrars() {
    let (dir, net) = space().await;
    for (name, node) in
        [("registrar", &net.registrar), ("provider", &net.provider), ("consumer", &net.consumer)]
    {
        let credential = node.membership.credential();
        assert_eq!(cosigner(dir.path(), name, node).verifier(), &credential.witness);
        assert_eq!(credential.witness.name(), witness_name_of(credential.node.as_str()));
        assert_ne!(credential.witness.key(), credential.log.key());
    }
    let registrar = net.registrar.membership.credential();
    for (node, knows) in [(&net.registrar, 3), (&net.provider, 2), (&net.consumer, 2)] {
        let view = node.ledger.store().view();
        let all = [&net.registrar, &net.provider, &net.consumer];
        let known = all.map(|other| credential_of(&view, &node.ledger, other.membership.node()).unwrap());
        assert_eq!(known.iter().flatten().count(), knows, "a connector knows itself and its registrar");
        let (found, statement) = known[0].clone().unwrap();
        assert_eq!(&found, registrar);
        assert_eq!(&statement, net.registrar.membership.credential_statement());
    }
}

#[tokio::test]
async fn members_come_in_pages_without_the_registrar() {
    let (_dir, net) = space().await;
    let ledger = &net.registrar.ledger;
    let view = ledger.store().view();
    let mut expected = vec![net.provider.membership.node().clone(), net.consumer.membership.node().clone()];
    expected.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    for limit in 1..4 {
        let mut found: Vec<NodeId> = Vec::new();
        loop {
            let page = members(&view, ledger, found.last(), limit).unwrap();
            found.extend(page.iter().map(|member| member.credential.node.clone()));
            if page.len() < limit {
                break;
            }
        }
        assert_eq!(found, expected, "{limit} at a time");
    }
    net.registry.revoke(net.provider.membership.node(), "key lost").await.unwrap();
    let view = ledger.store().view();
    let states = members(&view, ledger, None, 10).unwrap();
    assert_eq!(states.iter().filter(|member| member.state == NodeState::Active).count(), 1);
    let other = &net.provider.ledger;
    assert!(members(&other.store().view(), other, None, 10).unwrap().is_empty());
}

#[tokio::test]
async fn a_root_entry_carries_its_own_registrars_credential_only() {
    let (_dir, net) = space().await;
    let genuine = net.registrar.standing.directory.roots();
    let entry = &genuine.entries[0];
    let space = &genuine.space;
    entry.verify_credential(space).unwrap();
    let other = net.provider.membership.credential_statement().bytes().clone();
    let mut last_flipped = entry.credential.to_vec();
    *last_flipped.last_mut().unwrap() ^= 1;
    for credential in [other, last_flipped.into(), Bytes::new()] {
        RootEntry { credential, ..entry.clone() }.verify_credential(space).unwrap_err();
    }
    for changed in [
        RootEntry { name: "Another".to_owned(), ..entry.clone() },
        RootEntry { node: net.provider.membership.node().clone(), ..entry.clone() },
        RootEntry { entity: net.provider.membership.credential().entity.clone(), ..entry.clone() },
        RootEntry { log: net.provider.membership.credential().log.clone(), ..entry.clone() },
    ] {
        changed.verify_credential(space).unwrap_err();
    }
    assert_eq!(RootList::decode(&genuine.encode()).unwrap(), genuine);
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

#[tokio::test]
async fn only_parties_get_proofs_and_also_of_what_was_removed() {
    let (_dir, net) = space().await;
    let ledger = net.registrar.ledger.clone();
    let credential = net.provider.membership.credential_statement().digest();
    let prove = async |caller, digest| prove_for(caller, &net.registrar.ledger, vec![digest], 0).await;
    for removed in [false, true] {
        if removed {
            let (ledger, store) = (ledger.clone(), ledger.store().clone());
            let index = ledger.index_of(&store.view(), &credential).unwrap().unwrap();
            let redaction = Redaction {
                digest: credential,
                who: "data protection officer".to_owned(),
                why: "case 7".to_owned(),
                statement: Digest::ZERO,
            };
            let redacted = store.transact("test", move |tx| ledger.redact(tx, index, &redaction));
            redacted.await.unwrap();
        }
        let proofs = prove(&net.provider.caller, credential).await.unwrap();
        assert_eq!(proofs.inclusion[0].digest, credential, "{removed}");
        for digest in [credential, Digest::sha256(b"nothing")] {
            let error = prove(&net.consumer.caller, digest).await.unwrap_err();
            assert!(matches!(error, ServiceError::NotFound { .. }), "{removed}: {error}");
        }
    }
    let error = net.registry.locate(net.provider.membership.node()).unwrap_err();
    assert!(matches!(error, ServiceError::Redacted { ref who, .. } if who.contains("officer")), "{error}");
}

#[tokio::test]
async fn a_node_in_safe_mode_says_so_and_goes_on_reading() {
    let (_dir, net) = space().await;
    let ledger = &net.provider.ledger;
    ledger.stop_signing("restored from a backup").unwrap();
    let error = crate::report_address(&net.provider.standing, "node.example:1").await.unwrap_err();
    assert!(matches!(error, ServiceError::SafeMode { ref reason } if reason.contains("restored")), "{error}");
    let view = ledger.store().view();
    assert!(credential_of(&view, ledger, net.registrar.membership.node()).unwrap().is_some());
}
