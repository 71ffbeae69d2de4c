//! New versions of a product: one identifier, a certificate for each version, and nothing in between.

use super::support::{Trouble, World};
use crate::{AssetCertificate, CatalogPeer, PublicationState, Publish, SecurityLevel};
use huitong_identity::{Delivery, PeerError, ServiceError};
use huitong_ids::DataId;
use huitong_proof::{Clock, Digest, WantedDigests};

/// A request for a version of `product` with content that no other number has.
fn version(world: &World, n: u8, product: &DataId) -> Publish {
    Publish { renews: Some(product.clone()), ..world.request(n, "name", "intro") }
}

#[tokio::test]
async fn a_new_version_keeps_the_identifiers_and_gets_certificates_of_its_own() {
    let world = World::new().await;
    let first = world.listed(world.request(1, "name", "intro")).await;
    let product = first.product.clone().unwrap();
    let request = Publish { price: "2 元".to_owned(), ..version(&world, 2, &product) };
    let second = world.listed(request.clone()).await;
    assert_eq!((second.product.as_ref(), &second.resource), (Some(&product), &first.resource));
    assert_ne!(second.root, first.root);

    let newest = world.shelf.product(&product).unwrap().unwrap();
    assert_eq!((newest.version, newest.listing.version, newest.source.root), (2, 2, second.root));
    assert_eq!(AssetCertificate::from_statement(&newest.certificate).unwrap().version, 2);
    // The version before is still there for who has agreed on it.
    let before = world.shelf.version(&product, &first.root).unwrap().unwrap();
    assert_eq!((before.version, before.source.root), (1, first.root));
    let same = world.shelf.version(&product, &second.root).unwrap().unwrap();
    assert_eq!(same.version, 2);
    assert!(
        world.shelf.version(&product, &huitong_proof::Content::of_bytes(b"no").root()).unwrap().is_none()
    );

    // The catalog shows the newest one, once.
    let found = world.registry.search("name", 0, 10).unwrap();
    assert_eq!((found.total, found.hits[0].size), (1, second.size));
    let resolved = world.registry.resolve(&product).unwrap();
    assert_eq!(resolved.certificate.digest(), newest.certificate.digest());

    let third = world.listed(version(&world, 3, &product)).await;
    assert_eq!(world.shelf.product(&product).unwrap().unwrap().version, 3);
    assert_eq!(world.shelf.version(&product, &third.root).unwrap().unwrap().listing.version, 3);
    // The same request again is the same publication still.
    assert_eq!(world.shelf.publish(request, |_| {}).await.unwrap(), second);
}

#[tokio::test]
async fn a_new_version_is_on_offer_once_it_is_listed() {
    let world = World::new().await;
    let first = world.listed(world.request(1, "name", "intro")).await;
    let product = first.product.clone().unwrap();
    world.shelf.publish(version(&world, 2, &product), |_| {}).await.unwrap();
    for (state, number) in [
        (PublicationState::RegisteringProduct, 1),
        (PublicationState::Listing, 1),
        (PublicationState::Listed, 2),
    ] {
        world.deliver().await.unwrap();
        assert_eq!(world.publication(&[2; 16]).state, state);
        assert_eq!(world.shelf.product(&product).unwrap().unwrap().version, number, "{state:?}");
        // Certificate and listing that the registrar shows are of one version.
        let resolved = world.registry.resolve(&product).unwrap();
        let certified = AssetCertificate::from_statement(&resolved.certificate).unwrap();
        assert_eq!(certified.version, number, "{state:?}");
        assert_eq!(resolved.listing.body().reference, resolved.certificate.digest(), "{state:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_overtaken_while_it_was_read_is_refused() {
    let world = World::new().await;
    let first = world.listed(world.request(1, "name", "intro")).await;
    let product = first.product.clone().unwrap();
    let (reading, begun) = std::sync::mpsc::channel();
    let (go_on, overtaken) = std::sync::mpsc::channel::<()>();
    let (shelf, slow) = (world.shelf.clone(), version(&world, 2, &product));
    let slow = tokio::spawn(async move {
        let progress = move |_| {
            let _ = reading.send(());
            let _ = overtaken.recv();
        };
        shelf.publish(slow, progress).await
    });
    tokio::task::spawn_blocking(move || begun.recv().unwrap()).await.unwrap();
    world.listed(version(&world, 3, &product)).await;
    drop(go_on);
    // What it kept of the version that it was made from may be outdated.
    let outcome = slow.await.unwrap();
    assert!(
        matches!(&outcome, Err(ServiceError::Conflict { reason }) if reason.contains("again")),
        "{outcome:?}"
    );
    assert_eq!(world.shelf.product(&product).unwrap().unwrap().version, 2);
}

#[tokio::test]
async fn a_new_version_keeps_what_is_not_said_anew() {
    let world = World::new().await;
    let mut request = world.request(1, "name", "intro");
    (request.price, request.series, request.window_bytes) = ("1 元".to_owned(), true, 2 << 20);
    request.classification.security_level = SecurityLevel::Sensitive;
    let first = world.listed(request.clone()).await;
    let product = first.product.clone().unwrap();
    let file = world.file("next.csv", b"next");
    let bare = Publish {
        renews: first.product.clone(),
        window_bytes: 0,
        ..Publish::new([2; 16], file, "", "", b"")
    };
    world.listed(bare).await;
    let (next, policy) = (world.shelf.product(&product).unwrap().unwrap(), request.policy);
    assert_eq!((next.record.name.as_str(), next.record.intro.as_str()), ("name", "intro"));
    assert_eq!(next.record.security_level, SecurityLevel::Sensitive);
    assert_eq!((next.listing.policy, next.listing.price.as_str()), (policy, "1 元"));
    assert_eq!((next.listing.window_bytes, next.listing.series), (2 << 20, true));
}

#[tokio::test]
async fn only_one_version_is_under_way_and_it_must_be_another_content() {
    let world = World::new().await;
    let first = world.listed(world.request(1, "name", "intro")).await;
    let product = first.product.clone().unwrap();
    let conflict = async |request| {
        let outcome = world.shelf.publish(request, |_| {}).await;
        assert!(matches!(outcome, Err(ServiceError::Conflict { .. })), "{outcome:?}");
    };
    let same = version(&world, 2, &product);
    std::fs::copy(first.place.to_string(), &same.file).unwrap();
    conflict(same).await;

    world.shelf.publish(version(&world, 3, &product), |_| {}).await.unwrap();
    conflict(version(&world, 4, &product)).await;
    for _ in 0..3 {
        world.deliver().await.unwrap();
    }
    world.shelf.publish(version(&world, 4, &product), |_| {}).await.unwrap();

    let unknown: DataId = "691440300708461136T44031BH95JZYV".parse().unwrap();
    let outcome = world.shelf.publish(version(&world, 6, &unknown), |_| {}).await;
    assert!(matches!(outcome, Err(ServiceError::NotFound { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_version_that_fails_leaves_the_one_before_on_offer() {
    let world = World::new().await;
    let first = world.listed(world.request(1, "name", "intro")).await;
    let product = first.product.clone().unwrap();
    let refused = || {
        let (code, reason) = ("catalog.policy".to_owned(), "no".to_owned());
        Trouble::Before(PeerError::Refused { code, reason, statement: None })
    };
    // At each of its three steps.
    for (n, step) in (2_u8..).zip([0, 1, 2]) {
        world.shelf.publish(version(&world, n, &product), |_| {}).await.unwrap();
        for _ in 0..step {
            world.deliver().await.unwrap();
        }
        world.in_trouble([refused()]);
        let pending = world.waiting().pop().unwrap();
        assert!(matches!(world.shelf.deliver(&pending, &world.peer).await, Err(Delivery::Dead(_))));
        assert_eq!(world.publication(&[n; 16]).state, PublicationState::Failed);
        // What was refused is buried by the node's worker.
        let row = pending.id;
        let store = world.net.provider.ledger.store();
        store
            .transact("test.settle", move |tx| {
                huitong_store::outbox::settle(tx, row)?;
                Ok::<_, ServiceError>(())
            })
            .await
            .unwrap();
        let offered = world.shelf.product(&product).unwrap().unwrap();
        assert_eq!((offered.version, offered.source.root), (1, first.root), "step {step}");
        let resolved = world.peer.resolve(world.net.registrar.membership.node(), &product).await.unwrap();
        let found = resolved.verify(&product, &world.net.consumer.standing.directory, world.net.clock.now());
        assert_eq!(found.unwrap().version, 1, "step {step}");
    }
    // And the next one goes through; the registrar has counted the versions that it certified.
    let next = world.listed(version(&world, 9, &product)).await;
    let offered = world.shelf.product(&product).unwrap().unwrap();
    assert_eq!((offered.version, offered.listing.version, offered.source.root), (3, 2, next.root));
}

#[tokio::test]
async fn hashes_are_computed_when_they_are_asked_for() {
    let world = World::new().await;
    let mut request = world.request(1, "name", "intro");
    request.digests = WantedDigests { sha256: true, sm3: true };
    let published = world.listed(request.clone()).await;
    assert_eq!(published.digests.sha256, Some(Digest::sha256(b"content of 1")));
    let record = world.shelf.product(&published.product.unwrap()).unwrap().unwrap().record;
    assert_eq!(record.digests, published.digests);
    assert!(record.digests.sm3.is_some());

    let directory = world.dir.path().join("many");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("one"), b"1").unwrap();
    let many = Publish { id: [2; 16], file: directory, ..request };
    let outcome = world.shelf.publish(many, |_| {}).await;
    assert!(matches!(outcome, Err(ServiceError::Invalid { field, .. }) if field == "digests"));
}
