//! The function node's catalog, spoken to directly: registration, listing, search, resolution.

use super::support::{POLICY, World};
use crate::{
    AssetKind, CatalogPeer, Classification, DeliveryForm, FileName, ListingNotice, ListingRecord, MAX_PAGE,
    MIN_WINDOW_BYTES, ProductRecord, Registration, ResourceRecord, SearchPage,
};
use bytes::Bytes;
use huitong_identity::testing::TestNode;
use huitong_identity::{NodeKeys, ServiceError};
use huitong_ids::{DataId, NodeId};
use huitong_proof::cbor::Map;
use huitong_proof::{
    Anchor, ChannelHead, Content, Digest, Draft, FileDigests, Kind, SeededEntropy, Signing, Statement,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn resource(node: &TestNode) -> ResourceRecord {
    let class = Classification::default();
    ResourceRecord {
        name: "name".to_owned(),
        summary: String::new(),
        holder: node.caller.entity().clone(),
        holder_name: node.caller.name().to_owned(),
        ownership: class.ownership,
        origin: class.origin,
        format: class.format,
        update_frequency: class.update_frequency,
        security_level: class.security_level,
        grade: class.grade,
        personal_information: class.personal_information,
        size: 7,
        root: Content::of_bytes(b"content").root(),
        digests: FileDigests::default(),
        legacy_code: None,
    }
}

fn product(node: &TestNode, resource: &DataId) -> ProductRecord {
    let class = Classification::default();
    ProductRecord {
        name: "name".to_owned(),
        intro: String::new(),
        delivery_form: DeliveryForm::Dataset,
        provider_entity: node.caller.entity().clone(),
        provider: node.membership.node().clone(),
        derived_from: vec![resource.clone()],
        size: 7,
        root: Content::of_bytes(b"content").root(),
        update_frequency: class.update_frequency,
        security_level: class.security_level,
        grade: class.grade,
        personal_information: class.personal_information,
        file_name: FileName::parse("name.csv").unwrap(),
        files: None,
        digests: FileDigests::default(),
    }
}

fn listing(node: &TestNode, product: &DataId) -> ListingRecord {
    ListingRecord {
        product: product.clone(),
        provider: node.membership.node().clone(),
        name: "name".to_owned(),
        intro: String::new(),
        policy: POLICY.to_vec(),
        price: String::new(),
        version: 1,
        window_bytes: MIN_WINDOW_BYTES,
        series: false,
    }
}

async fn sign(node: &TestNode, audience: &NodeId, kind: Kind, subject: [u8; 16], detail: Map) -> Statement {
    let (ledger, audience) = (node.ledger.clone(), audience.to_string());
    let draft = Draft { kind, audience, subject, agreement: Digest::ZERO, reference: Digest::ZERO, detail };
    let signed = node.ledger.store().transact("test.sign", move |tx| ledger.issue(tx, draft));
    signed.await.map_err(|error| format!("{error:?}")).unwrap()
}

async fn registration(world: &World, node: &TestNode, n: u8, kind: AssetKind, record: &[u8]) -> Bytes {
    let detail = Registration { kind, record: Digest::sha256(record), renews: None }.to_detail();
    let registrar = world.net.registrar.membership.node();
    sign(node, registrar, Kind::Registration, [n; 16], detail).await.bytes().clone()
}

async fn register(
    world: &World,
    node: &TestNode,
    n: u8,
    kind: AssetKind,
    record: Vec<u8>,
) -> Result<DataId, ServiceError> {
    let statement = registration(world, node, n, kind, &record).await;
    let certificate = world.registry.register(&node.caller, statement, record.into()).await?;
    Ok(crate::AssetCertificate::from_statement(&certificate).unwrap().id)
}

/// Hands in a record as a new version of what stands under that id.
async fn renew(
    world: &World,
    node: &TestNode,
    n: u8,
    renews: &DataId,
    record: Vec<u8>,
) -> Result<crate::AssetCertificate, ServiceError> {
    let (kind, record_digest) = (AssetKind::Resource, Digest::sha256(&record));
    let detail = Registration { kind, record: record_digest, renews: Some(renews.clone()) }.to_detail();
    let registrar = world.net.registrar.membership.node();
    let statement = sign(node, registrar, Kind::Registration, [n; 16], detail).await.bytes().clone();
    let certificate = world.registry.register(&node.caller, statement, record.into()).await?;
    Ok(crate::AssetCertificate::from_statement(&certificate).unwrap())
}

#[tokio::test]
async fn a_version_is_its_owners_to_make() {
    let world = World::new().await;
    let node = &world.net.provider;
    let record = resource(node).encode().unwrap();
    let id = register(&world, node, 1, AssetKind::Resource, record.clone()).await.unwrap();
    let second = renew(&world, node, 2, &id, record.clone()).await.unwrap();
    assert_eq!((&second.id, second.version), (&id, 2));
    assert_eq!(renew(&world, node, 3, &id, record.clone()).await.unwrap().version, 3);

    let stranger = &world.net.consumer;
    let theirs = resource(stranger).encode().unwrap();
    let refused = renew(&world, stranger, 4, &id, theirs.clone()).await;
    assert_eq!(code(refused), "catalog.renews");
    let unknown: DataId = "791440300708461136T44031BH95JZY9".parse().unwrap();
    assert_eq!(code(renew(&world, stranger, 5, &unknown, theirs).await), "catalog.renews");
    // A product is no resource.
    let product = registered_product(&world, node, 6).await;
    let outcome = renew(&world, node, 7, &product, record).await;
    assert!(matches!(outcome, Err(ServiceError::Invalid { field, .. }) if field == "registration.renews"));
}

async fn registered_product(world: &World, node: &TestNode, n: u8) -> DataId {
    let resource =
        register(world, node, n, AssetKind::Resource, resource(node).encode().unwrap()).await.unwrap();
    let record = product(node, &resource).encode().unwrap();
    register(world, node, n, AssetKind::Product, record).await.unwrap()
}

fn notice(listing: &ListingRecord, record: &[u8]) -> ListingNotice {
    ListingNotice {
        product: listing.product.clone(),
        record: Digest::sha256(record),
        version: listing.version,
        policy: listing.policy_digest(),
    }
}

async fn list(world: &World, node: &TestNode, listing: &ListingRecord) -> Result<(), ServiceError> {
    let record = listing.encode().unwrap();
    let registrar = world.net.registrar.membership.node();
    let detail = notice(listing, &record).to_detail();
    let statement = sign(node, registrar, Kind::Listing, [1; 16], detail).await;
    world.registry.list(&node.caller, statement.bytes().clone(), record.into()).await
}

fn code<T: std::fmt::Debug>(outcome: Result<T, ServiceError>) -> String {
    match outcome {
        Err(ServiceError::Refused { refusal, statement }) => {
            assert_eq!(statement.map(|statement| statement.kind()), Some(Kind::Refusal));
            refusal.code
        }
        other => panic!("not refused: {other:?}"),
    }
}

fn field<T: std::fmt::Debug>(outcome: Result<T, ServiceError>) -> String {
    match outcome {
        Err(ServiceError::Invalid { field, .. }) => field,
        other => panic!("not invalid: {other:?}"),
    }
}

#[tokio::test]
async fn registration_is_idempotent_and_recorded() {
    let world = World::new().await;
    let node = &world.net.provider;
    let ledger = &world.net.registrar.ledger;
    let record = resource(node).encode().unwrap();
    let statement = registration(&world, node, 1, AssetKind::Resource, &record).await;
    let first =
        world.registry.register(&node.caller, statement.clone(), record.clone().into()).await.unwrap();
    let size = ledger.size(&ledger.store().view()).unwrap();
    let again = world.registry.register(&node.caller, statement, record.clone().into()).await.unwrap();
    assert_eq!(first.bytes(), again.bytes());
    assert_eq!(ledger.size(&ledger.store().view()).unwrap(), size);
    // Another statement for the same publication does not make a second asset.
    let refused = register(&world, node, 1, AssetKind::Resource, record).await;
    assert_eq!(code(refused), "catalog.registered");
}

#[tokio::test]
async fn refusals_are_repeated_word_for_word() {
    let world = World::new().await;
    let node = &world.net.provider;
    let mut wrong = resource(node);
    wrong.holder = world.net.consumer.caller.entity().clone();
    let record = wrong.encode().unwrap();
    let statement = registration(&world, node, 1, AssetKind::Resource, &record).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        match world.registry.register(&node.caller, statement.clone(), record.clone().into()).await {
            Err(ServiceError::Refused { refusal, statement: Some(statement) }) => {
                assert_eq!(refusal.code, "catalog.holder");
                answers.push((refusal, statement.bytes().clone()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers[0], answers[1]);
    let corrected = resource(node).encode().unwrap();
    register(&world, node, 1, AssetKind::Resource, corrected).await.unwrap();
}

#[tokio::test]
async fn what_is_registered_must_be_ones_own() {
    let world = World::new().await;
    let (node, other) = (&world.net.provider, &world.net.consumer);
    let ours =
        register(&world, node, 1, AssetKind::Resource, resource(node).encode().unwrap()).await.unwrap();
    let theirs =
        register(&world, other, 1, AssetKind::Resource, resource(other).encode().unwrap()).await.unwrap();
    let mut runs = 1;
    let mut check = async |record: ProductRecord, expected: &str| {
        runs += 1;
        let refused = register(&world, node, runs, AssetKind::Product, record.encode().unwrap()).await;
        assert_eq!(code(refused), expected);
    };
    check(product(node, &theirs), "catalog.derived").await;
    check(
        ProductRecord { derived_from: vec![ours.clone(), theirs.clone()], ..product(node, &ours) },
        "catalog.derived",
    )
    .await;
    check(
        ProductRecord { provider: other.membership.node().clone(), ..product(node, &ours) },
        "catalog.provider",
    )
    .await;
    check(product(other, &ours), "catalog.holder").await;
}

#[tokio::test]
async fn statements_and_records_must_fit_together() {
    let world = World::new().await;
    let node = &world.net.provider;
    let record = resource(node).encode().unwrap();
    let registrar = world.net.registrar.membership.node();
    let statement = registration(&world, node, 1, AssetKind::Resource, &record).await;
    let call = async |statement: Bytes, record: &[u8]| {
        world.registry.register(&node.caller, statement, Bytes::copy_from_slice(record)).await
    };
    assert_eq!(field(call(statement.clone(), b"another record").await), "record");
    assert_eq!(field(call(statement.clone(), &vec![0; 40_000]).await), "record");
    let as_product = registration(&world, node, 1, AssetKind::Product, &record).await;
    assert!(call(as_product, &record).await.is_err());
    let detail =
        Registration { kind: AssetKind::Resource, record: Digest::sha256(&record), renews: None }.to_detail();
    let elsewhere =
        sign(node, world.net.consumer.membership.node(), Kind::Registration, [1; 16], detail).await;
    assert_eq!(field(call(elsewhere.bytes().clone(), &record).await), "statement.audience");
    let detail =
        Registration { kind: AssetKind::Resource, record: Digest::sha256(&record), renews: None }.to_detail();
    let another_kind = sign(node, registrar, Kind::Address, [1; 16], detail).await;
    assert_eq!(field(call(another_kind.bytes().clone(), &record).await), "statement.kind");
    let detail = Map::new().text(1, "service").digest(2, &Digest::sha256(&record));
    let another_asset = sign(node, registrar, Kind::Registration, [1; 16], detail).await;
    assert_eq!(field(call(another_asset.bytes().clone(), &record).await), "statement.kind");
    // Somebody else's statement, handed in under our own name.
    let foreign = registration(&world, &world.net.consumer, 1, AssetKind::Resource, &record).await;
    assert!(call(foreign, &record).await.is_err());
    // A node without the role of a provider.
    let outsider = &world.net.registrar;
    let outcome = world.registry.register(&outsider.caller, statement.clone(), record.clone().into()).await;
    assert!(matches!(outcome, Err(ServiceError::Forbidden { .. })));
    call(statement, &record).await.unwrap();
}

/// A provider that was restored from an old backup, or that lies, signs two things under one number.
#[tokio::test]
async fn two_statements_under_one_number_are_kept_as_evidence() {
    let world = World::new().await;
    let node = &world.net.provider;
    let ledger = &world.net.registrar.ledger;
    let record = resource(node).encode().unwrap();
    let first = registration(&world, node, 1, AssetKind::Resource, &record).await;
    let honest = world.registry.register(&node.caller, first, record.clone().into()).await.unwrap();
    let first = ledger.statement(&ledger.store().view(), &honest.body().reference).unwrap().unwrap();
    let keys =
        NodeKeys::load_or_create(&world.dir.path().join("provider/keys"), &SeededEntropy::new(9)).unwrap();
    let draft = Draft {
        kind: Kind::Registration,
        audience: first.body().audience.clone(),
        subject: [2; 16],
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail: Registration { kind: AssetKind::Resource, record: Digest::sha256(&record), renews: None }
            .to_detail(),
    };
    let signing = Signing {
        key: keys.statement(),
        space: ledger.space(),
        issuer: node.ledger.node(),
        channel: ChannelHead { seq: first.body().seq, prev: first.body().prev },
        anchor: Anchor::none(),
        time: first.body().time,
        salt: [0; 16],
    };
    let second = Statement::sign(draft, signing).unwrap();
    let before = ledger.size(&ledger.store().view()).unwrap();
    let outcome = world.registry.register(&node.caller, second.bytes().clone(), record.into()).await;
    assert!(matches!(outcome, Err(ServiceError::Conflict { .. })), "{outcome:?}");
    let view = ledger.store().view();
    assert_eq!(ledger.size(&view).unwrap(), before, "nothing else was written");
    assert_eq!(ledger.evidence(&view, 10).unwrap().len(), 1);
}

#[tokio::test]
async fn listings_count_their_versions() {
    let world = World::new().await;
    let node = &world.net.provider;
    let product = registered_product(&world, node, 1).await;
    let first = listing(node, &product);
    let second = ListingRecord { version: 2, name: "renamed".to_owned(), ..first.clone() };
    assert_eq!(code(list(&world, node, &second).await), "catalog.version");
    list(&world, node, &first).await.unwrap();
    list(&world, node, &first).await.unwrap();
    let changed = ListingRecord { price: "more".to_owned(), ..first.clone() };
    assert_eq!(code(list(&world, node, &changed).await), "catalog.version");
    let without_policy = ListingRecord { policy: b"{}".to_vec(), ..second.clone() };
    assert_eq!(code(list(&world, node, &without_policy).await), "catalog.policy");
    assert_eq!(world.registry.search("renamed", 0, 10).unwrap().total, 0);
    list(&world, node, &second).await.unwrap();
    assert_eq!(code(list(&world, node, &first).await), "catalog.version");
    let hits = world.registry.search("", 0, 10).unwrap();
    assert_eq!((hits.total, hits.hits[0].name.as_str()), (1, "renamed"));
    assert_eq!(world.registry.resolve(&product).unwrap().listing_record, second.encode().unwrap());
}

#[tokio::test]
async fn a_repeated_listing_gets_the_same_answer() {
    let world = World::new().await;
    let node = &world.net.provider;
    let product = registered_product(&world, node, 1).await;
    let registrar = world.net.registrar.membership.node();
    for (version, expected) in [(7, Some("catalog.version")), (1, None)] {
        let listing = ListingRecord { version, ..listing(node, &product) };
        let record = listing.encode().unwrap();
        let detail = notice(&listing, &record).to_detail();
        let statement = sign(node, registrar, Kind::Listing, [1; 16], detail).await;
        let ledger = &world.net.registrar.ledger;
        let mut sizes = Vec::new();
        for _ in 0..2 {
            let record = Bytes::from(record.clone());
            let outcome = world.registry.list(&node.caller, statement.bytes().clone(), record).await;
            match expected {
                Some(expected) => assert_eq!(code(outcome), expected),
                None => outcome.unwrap(),
            }
            sizes.push(ledger.size(&ledger.store().view()).unwrap());
        }
        assert_eq!(sizes[0], sizes[1]);
    }
}

#[tokio::test]
async fn only_the_owner_lists_a_product() {
    let world = World::new().await;
    let (node, other) = (&world.net.provider, &world.net.consumer);
    let product = registered_product(&world, node, 1).await;
    let stolen = ListingRecord { provider: other.membership.node().clone(), ..listing(node, &product) };
    assert_eq!(code(list(&world, other, &stolen).await), "catalog.provider");
    assert_eq!(code(list(&world, node, &stolen).await), "catalog.provider");
    let segment = product.segment();
    let unknown = DataId::mint(product.data_type(), &product.entity(), &segment, [9; 16], None).unwrap();
    assert_eq!(code(list(&world, node, &listing(node, &unknown)).await), "catalog.product");
    assert!(matches!(world.registry.resolve(&product), Err(ServiceError::NotFound { .. })));
    assert!(matches!(world.registry.resolve(&unknown), Err(ServiceError::NotFound { .. })));
}

#[tokio::test]
async fn a_listing_statement_must_say_what_its_record_says() {
    let world = World::new().await;
    let node = &world.net.provider;
    let registrar = world.net.registrar.membership.node();
    let product = registered_product(&world, node, 1).await;
    let other = registered_product(&world, node, 2).await;
    let listing = listing(node, &product);
    let record = listing.encode().unwrap();
    let good = notice(&listing, &record);
    let check = async |said: ListingNotice, expected: &str| {
        let statement = sign(node, registrar, Kind::Listing, [1; 16], said.to_detail()).await;
        let record = Bytes::from(record.clone());
        let outcome = world.registry.list(&node.caller, statement.bytes().clone(), record).await;
        assert_eq!(field(outcome), expected);
    };
    check(ListingNotice { record: Digest::ZERO, ..good.clone() }, "record").await;
    check(ListingNotice { product: other, ..good.clone() }, "listing.product").await;
    check(ListingNotice { version: 2, ..good.clone() }, "listing.version").await;
    check(ListingNotice { policy: Digest::ZERO, ..good.clone() }, "listing.policy").await;
}

#[tokio::test]
async fn search_finds_pages_of_the_newest_first() {
    let world = World::new().await;
    for (n, name, intro) in [
        (1, "Rain in Shenzhen", "hourly, 气象"),
        (2, "Rain in Beijing", "daily"),
        (3, "Snow in Beijing", "hourly"),
    ] {
        world.listed(world.request(n, name, intro)).await;
    }
    let check = |keywords: &str, offset: u64, limit: u64, total: u64, expected: &[&str]| {
        let SearchPage { total: found, hits } = world.registry.search(keywords, offset, limit).unwrap();
        let names: Vec<&str> = hits.iter().map(|hit| hit.name.as_str()).collect();
        assert_eq!((found, names.as_slice()), (total, expected), "{keywords:?} from {offset}");
    };
    check("", 0, 10, 3, &["Snow in Beijing", "Rain in Beijing", "Rain in Shenzhen"]);
    check("", 1, 1, 3, &["Rain in Beijing"]);
    check("", 3, 10, 3, &[]);
    check("", u64::MAX, MAX_PAGE, 3, &[]);
    check("rain", 0, 10, 2, &["Rain in Beijing", "Rain in Shenzhen"]);
    check("RAIN hour", 0, 10, 1, &["Rain in Shenzhen"]);
    check("气", 0, 10, 1, &["Rain in Shenzhen"]);
    check("rain snow", 0, 10, 0, &[]);
    assert_eq!(field(world.registry.search(&"字".repeat(129), 0, 10)), "keywords");
    assert!(world.registry.search(&"字".repeat(128), 0, 10).is_ok());
    assert_eq!(field(world.registry.search("", 0, 0)), "limit");
    assert_eq!(field(world.registry.search("", 0, MAX_PAGE + 1)), "limit");
    // A change makes an older listing the newest.
    let node = &world.net.provider;
    let oldest = world.publication(&[1; 16]).product.unwrap();
    let mut changed = world.shelf.product(&oldest).unwrap().unwrap().listing;
    (changed.version, changed.name) = (2, "Fog in Shenzhen".to_owned());
    list(&world, node, &changed).await.unwrap();
    check("", 0, 10, 3, &["Fog in Shenzhen", "Snow in Beijing", "Rain in Beijing"]);
    check("rain", 0, 10, 1, &["Rain in Beijing"]);
    let hit = world.registry.search("fog", 0, 1).unwrap().hits.remove(0);
    assert_eq!((&hit.product, &hit.provider), (&oldest, node.membership.node()));
    assert_eq!((hit.provider_name.as_str(), hit.size), (node.caller.name(), 12));
}

/// Against a list of what was listed: same names, same order, same totals, for random words and pages.
#[tokio::test]
async fn search_agrees_with_a_naive_model() {
    let world = World::new().await;
    let node = &world.net.provider;
    let names = ["ab", "Ba c", "abc", "C", "ca B", "bb", "a a", "cab"];
    for (n, name) in (1_u8..).zip(names) {
        let product = registered_product(&world, node, n).await;
        let listing = ListingRecord { name: name.to_owned(), ..listing(node, &product) };
        list(&world, node, &listing).await.unwrap();
    }
    let registry = world.registry.clone();
    TestRunner::default()
        .run(&("[abcA ]{0,4}", 0_u64..10, 1_u64..10), |(keywords, offset, limit)| {
            let matching: Vec<&str> = names
                .iter()
                .rev()
                .copied()
                .filter(|name| {
                    let name = name.to_lowercase();
                    keywords.to_lowercase().split(' ').all(|term| name.contains(term))
                })
                .collect();
            let page = registry.search(&keywords, offset, limit).unwrap();
            let expected: Vec<&str> =
                matching.iter().copied().skip(offset as usize).take(limit as usize).collect();
            let found: Vec<&str> = page.hits.iter().map(|hit| hit.name.as_str()).collect();
            prop_assert_eq!(page.total, matching.len() as u64);
            prop_assert_eq!(found, expected);
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn a_consumer_believes_only_what_is_signed() {
    let world = World::new().await;
    let publication = world.listed(world.request(1, "Rain", "hourly")).await;
    let other = world.listed(world.request(2, "Snow", "hourly")).await;
    let (product, other) = (publication.product.unwrap(), other.product.unwrap());
    let registrar = world.net.registrar.membership.node();
    let good = world.peer.resolve(registrar, &product).await.unwrap();
    let wrong = world.peer.resolve(registrar, &other).await.unwrap();
    let directory = &world.net.consumer.standing.directory;
    let now = world.net.consumer.ledger.clock().now();

    let verified = good.verify(&product, directory, now).unwrap();
    assert_eq!(verified.listing.name, "Rain");
    assert_eq!(&verified.provider, world.net.provider.membership.credential());
    assert_eq!((verified.record.root, verified.record.size), (publication.root, publication.size));
    assert_eq!(verified.policy.document(), POLICY);

    let check = |name: &str, alter: &dyn Fn(&mut crate::Resolved)| {
        let mut resolved = good.clone();
        alter(&mut resolved);
        assert!(resolved.verify(&product, directory, now).is_err(), "{name}");
    };
    check("another product's record", &|r| r.product_record = wrong.product_record.clone());
    check("another product's certificate", &|r| r.certificate = wrong.certificate.clone());
    check("another product's listing record", &|r| r.listing_record = wrong.listing_record.clone());
    check("another product's listing", &|r| r.listing = wrong.listing.clone());
    check("another node as provider", &|r| r.provider = world.net.consumer.membership.node().clone());
    check("another node's credential", &|r| {
        r.credential = world.net.consumer.membership.credential_statement().bytes().clone();
    });
    check("a listing for a certificate", &|r| r.certificate = good.listing.clone());
    check("all of another product", &|r| *r = wrong.clone());
    for field in 0..5 {
        for position in [0, 40, 100, 150] {
            check(&format!("field {field}, byte {position}"), &|r| {
                let bytes = [
                    &mut r.product_record,
                    &mut r.certificate,
                    &mut r.listing_record,
                    &mut r.listing,
                    &mut r.credential,
                ];
                let mut altered = bytes[field].to_vec();
                let position = position % altered.len();
                altered[position] ^= 1;
                *bytes.into_iter().nth(field).unwrap() = altered.into();
            });
        }
    }
    let expired = world
        .net
        .provider
        .membership
        .credential()
        .not_after
        .saturating_add(std::time::Duration::from_millis(1));
    assert!(good.verify(&product, directory, expired).is_err());
    assert!(good.verify(&other, directory, now).is_err());
}

#[tokio::test]
async fn a_revoked_provider_is_not_believed() {
    let world = World::new().await;
    let product = world.listed(world.request(1, "Rain", "hourly")).await.product.unwrap();
    let registrar = world.net.registrar.membership.node();
    let resolved = world.peer.resolve(registrar, &product).await.unwrap();
    let directory = &world.net.registrar.standing.directory;
    let now = world.net.registrar.ledger.clock().now();
    resolved.verify(&product, directory, now).unwrap();
    world.net.registry.revoke(world.net.provider.membership.node(), "left the space").await.unwrap();
    assert!(matches!(resolved.verify(&product, directory, now), Err(ServiceError::Forbidden { .. })));
}
