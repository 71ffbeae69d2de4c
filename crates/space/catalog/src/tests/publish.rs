//! Publishing: from a file to a listed product, through everything that can go wrong on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::support::{POLICY, Trouble, World};
use crate::{AssetCertificate, AssetKind, Grade, MIN_WINDOW_BYTES, PublicationState, Publish, SecurityLevel};
use bytes::Bytes;
use huitong_identity::{Delivery, PeerError, ServiceError};
use huitong_ids::DataType;
use huitong_proof::{Content, Kind};

#[tokio::test]
async fn a_file_becomes_a_listed_product() {
    let world = World::new().await;
    let content = vec![7_u8; 3 * 1024 * 1024 + 5];
    let mut request = world.request(1, "气象数据", "Hourly rain");
    std::fs::write(&request.file, &content).unwrap();
    request.price = "100 元".to_owned();
    request.classification.security_level = SecurityLevel::Sensitive;
    request.classification.legacy_code = Some("OLD-17".to_owned());
    let read = Arc::new(AtomicU64::new(0));
    let heard = Arc::clone(&read);
    let begun = world
        .shelf
        .publish(request.clone(), move |bytes| heard.store(bytes, Ordering::SeqCst))
        .await
        .unwrap();
    assert_eq!(read.load(Ordering::SeqCst), content.len() as u64);
    assert_eq!(begun.state, PublicationState::RegisteringResource);
    assert_eq!(begun.root, Content::of_bytes(&content).root());
    assert_eq!(begun.size, content.len() as u64);
    assert_eq!(begun.file_name.as_str(), "file-1.csv");

    let publication = world.listed(request.clone()).await;
    let resource = publication.resource.clone().unwrap();
    let product = publication.product.clone().unwrap();
    assert_eq!(resource.data_type(), DataType::Resource);
    assert_eq!(resource.extension(), Some("OLD-17"));
    assert_eq!(product.data_type(), DataType::Product);
    assert_eq!(&product.entity(), world.net.provider.caller.entity());
    assert_eq!(product.segment(), world.net.registrar.membership.node().segment());

    let offered = world.shelf.product(&product).unwrap().unwrap();
    assert_eq!(offered.record.derived_from, std::slice::from_ref(&resource));
    assert_eq!(offered.record.security_level, SecurityLevel::Sensitive);
    assert_eq!(&offered.record.provider, world.net.provider.membership.node());
    assert_eq!(offered.listing.policy, POLICY);
    assert_eq!(offered.listing.price, "100 元");
    assert_eq!(offered.listing.version, 1);
    let certified = AssetCertificate::from_statement(&offered.certificate).unwrap();
    assert_eq!((&certified.id, certified.kind), (&product, AssetKind::Product));
    assert_eq!((certified.root, certified.size), (publication.root, publication.size));
    let tree = world.shelf.content(&offered).unwrap();
    assert_eq!((tree.root(), tree.groups()), (publication.root, 4));
    tree.verify_group(3, &[&content[3 * 1024 * 1024..]]).unwrap();
    assert_eq!(world.shelf.open(&offered, &tree).unwrap().files.len(), 1);
    assert!(world.shelf.product(&resource).unwrap().is_none());

    // The same request again is the same publication; anything else under this id is a conflict.
    assert_eq!(world.shelf.publish(request.clone(), |_| {}).await.unwrap(), publication);
    assert!(world.waiting().is_empty());
    let other = Publish { price: "1 元".to_owned(), ..request };
    assert!(matches!(world.shelf.publish(other, |_| {}).await, Err(ServiceError::Conflict { .. })));

    // Both ledgers hold both sides' statements about it.
    for ledger in [&world.net.provider.ledger, &world.net.registrar.ledger] {
        let about = ledger.about(&ledger.store().view(), &publication.id, 10).unwrap();
        let kinds: Vec<Kind> = about.iter().map(|statement| statement.kind()).collect();
        assert_eq!(
            kinds,
            [
                Kind::Registration,
                Kind::AssetCertificate,
                Kind::Registration,
                Kind::AssetCertificate,
                Kind::Listing
            ]
        );
    }
}

#[tokio::test]
async fn two_callers_with_one_request_make_one_publication() {
    let world = World::new().await;
    let request = world.request(1, "name", "");
    let (first, second) =
        tokio::join!(world.shelf.publish(request.clone(), |_| {}), world.shelf.publish(request, |_| {}));
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(world.waiting().len(), 1);
}

#[tokio::test]
async fn a_lost_answer_changes_nothing_but_the_time_it_takes() {
    let world = World::new().await;
    let request = world.request(1, "name", "intro");
    let id = request.id;
    world.shelf.publish(request, |_| {}).await.unwrap();
    let busy = || PeerError::Unavailable("restarting".to_owned());
    let broken = || PeerError::Broken("half an answer".to_owned());
    world.in_trouble([
        Trouble::Before(busy()),
        Trouble::After(busy()),
        Trouble::After(broken()),
        Trouble::Nothing,
    ]);
    for _ in 0..3 {
        assert!(matches!(world.deliver().await, Err(Delivery::Retry(_))));
        assert_eq!(world.publication(&id).state, PublicationState::RegisteringResource);
    }
    assert_eq!(world.deliver().await, Ok(()));
    world.in_trouble([Trouble::After(busy()), Trouble::Nothing, Trouble::After(busy())]);
    assert!(matches!(world.deliver().await, Err(Delivery::Retry(_))));
    assert_eq!(world.deliver().await, Ok(()));
    let listing = world.waiting().remove(0);
    assert!(matches!(world.deliver().await, Err(Delivery::Retry(_))));
    assert_eq!(world.deliver().await, Ok(()));
    assert_eq!(world.publication(&id).state, PublicationState::Listed);
    assert_eq!(world.registry.search("", 0, 10).unwrap().total, 1);
    let ledger = &world.net.registrar.ledger;
    assert_eq!(ledger.about(&ledger.store().view(), &id, 20).unwrap().len(), 5);

    // A message that was answered already is put away without asking anybody.
    world.in_trouble([Trouble::Before(busy())]);
    assert_eq!(world.shelf.deliver(&listing, &world.peer).await, Ok(()));
    assert_eq!(world.publication(&id).state, PublicationState::Listed);
}

#[tokio::test]
async fn a_product_is_on_offer_as_soon_as_others_may_see_it() {
    let world = World::new().await;
    let request = world.request(1, "name", "intro");
    world.shelf.publish(request, |_| {}).await.unwrap();
    world.deliver().await.unwrap();
    world.deliver().await.unwrap();
    world.in_trouble([Trouble::After(PeerError::Unavailable("cut".to_owned()))]);
    assert!(world.deliver().await.is_err());
    let seen = world.registry.search("name", 0, 1).unwrap().hits.remove(0);
    assert!(world.shelf.product(&seen.product).unwrap().is_some());
}

#[tokio::test]
async fn a_refusal_ends_the_publication_and_keeps_the_signed_reason() {
    let world = World::new().await;
    let mut request = world.request(1, "name", "intro");
    request.classification.grade = Grade::Core;
    let id = request.id;
    world.shelf.publish(request.clone(), |_| {}).await.unwrap();
    let Err(Delivery::Dead(reason)) = world.deliver().await else { panic!("core data was taken") };
    assert!(reason.starts_with("catalog.grade: "), "{reason}");
    let failed = world.publication(&id);
    assert_eq!(failed.state, PublicationState::Failed);
    let recorded = failed.reason.clone().unwrap();
    assert_eq!(recorded.code, "catalog.grade");
    assert!(recorded.next_step.contains("43697"), "the registrar's own next step: {}", recorded.next_step);
    let ledger = &world.net.provider.ledger;
    let about = ledger.about(&ledger.store().view(), &id, 10).unwrap();
    assert_eq!(about.last().map(|statement| statement.kind()), Some(Kind::Refusal));
    // Asking again tells the same, and starts nothing.
    assert_eq!(world.shelf.publish(request, |_| {}).await.unwrap(), failed);
    assert_eq!(world.shelf.publications(None, 10).unwrap(), [failed]);
}

#[tokio::test]
async fn an_unsigned_refusal_ends_it_too() {
    let world = World::new().await;
    let request = world.request(1, "name", "intro");
    let id = request.id;
    world.shelf.publish(request, |_| {}).await.unwrap();
    let refused = |statement| PeerError::Refused {
        code: "unknown.code".to_owned(),
        reason: "because".to_owned(),
        statement,
    };
    world.in_trouble([Trouble::Before(refused(Some(Bytes::from_static(b"not a statement"))))]);
    assert_eq!(world.deliver().await, Err(Delivery::Dead("unknown.code: because".to_owned())));
    assert_eq!(world.publication(&id).reason.unwrap().code, "unknown.code");
}

#[tokio::test]
async fn only_the_right_certificate_counts() {
    let world = World::new().await;
    let earlier = world.listed(world.request(1, "first", "")).await;
    let ledger = &world.net.provider.ledger;
    let statements = ledger.about(&ledger.store().view(), &earlier.id, 10).unwrap();
    let ours = world.net.provider.membership.credential_statement().bytes().clone();
    let mut altered = statements[1].bytes().to_vec();
    *altered.last_mut().unwrap() ^= 1;
    let answers = [
        Bytes::from_static(b""),
        // Another certificate of the same registrar to us.
        statements[1].bytes().clone(),
        // A statement that we signed ourselves.
        statements[0].bytes().clone(),
        ours,
        Bytes::from(altered),
    ];
    for (n, answer) in (2_u8..).zip(answers) {
        let request = world.request(n, "name", "");
        world.shelf.publish(request, |_| {}).await.unwrap();
        world.in_trouble([Trouble::Answer(answer)]);
        let pending = world.waiting().pop().unwrap();
        let outcome = world.shelf.deliver(&pending, &world.peer).await;
        assert!(matches!(outcome, Err(Delivery::Dead(_))), "answer {n}: {outcome:?}");
        let failed = world.publication(&[n; 16]);
        assert_eq!(failed.state, PublicationState::Failed);
        assert_eq!(failed.reason.unwrap().code, "catalog.certificate", "answer {n}");
        assert_eq!(failed.resource, None);
    }
}

#[tokio::test]
async fn wrong_requests_are_told_apart_before_the_file_is_read() {
    let world = World::new().await;
    let good = || world.request(9, "name", "intro");
    let check = async |request: Publish, field: &str| {
        let outcome = world.shelf.publish(request, |_| panic!("the file was read")).await;
        match outcome {
            Err(ServiceError::Invalid { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    };
    check(Publish { policy: b"{}".to_vec(), ..good() }, "policy").await;
    check(Publish { policy: b"not json".to_vec(), ..good() }, "policy").await;
    check(Publish { name: String::new(), ..good() }, "resource.name").await;
    check(Publish { name: "n".repeat(129), ..good() }, "resource.name").await;
    check(Publish { intro: "n".repeat(1025), ..good() }, "resource.abstract").await;
    check(Publish { price: "n".repeat(129), ..good() }, "listing.price").await;
    check(Publish { window_bytes: MIN_WINDOW_BYTES - 1, ..good() }, "listing.window_bytes").await;
    let empty = world.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    check(Publish { file: empty, ..good() }, "file").await;
    check(Publish { file: world.dir.path().join("absent.csv"), ..good() }, "file").await;
    check(Publish { file: "/".into(), ..good() }, "file").await;
    let mut legacy = good();
    legacy.classification.legacy_code = Some("two words".to_owned());
    check(legacy, "resource.legacy_code").await;
    assert!(world.shelf.publications(None, 10).unwrap().is_empty());
    assert!(world.waiting().is_empty());
}

#[tokio::test]
async fn names_are_kept_in_one_unicode_form() {
    let world = World::new().await;
    // The request spells e with a combining accent; the record carries the composed letter.
    let file = world.file("cafe\u{301}.csv", b"data");
    let publication = world.listed(Publish::new([1; 16], file, "Cafe\u{301}", "", POLICY)).await;
    assert_eq!(publication.name, "Caf\u{e9}");
    assert_eq!(publication.file_name.as_str(), "caf\u{e9}.csv");
    assert_eq!(world.registry.search("CAFE\u{301}", 0, 10).unwrap().total, 1);
}

#[tokio::test]
async fn a_changed_file_and_a_damaged_tree_are_noticed() {
    let world = World::new().await;
    let file = world.file("large.csv", &vec![7; 2 << 20]);
    let publication = world.listed(Publish::new([1; 16], file.clone(), "name", "intro", POLICY)).await;
    let offered = world.shelf.product(&publication.product.unwrap()).unwrap().unwrap();
    let content = world.shelf.content(&offered).unwrap();
    let opened = world.shelf.open(&offered, &content).unwrap();
    std::fs::write(&file, vec![8; 2 << 20]).unwrap();
    assert!(matches!(world.shelf.open(&offered, &content), Err(ServiceError::Conflict { .. })));
    assert!(matches!(opened.files[0].check_unchanged(), Err(ServiceError::Conflict { .. })));
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(world.shelf.open(&offered, &content), Err(ServiceError::Invalid { .. })));
    assert!(matches!(opened.files[0].check_unchanged(), Err(ServiceError::Invalid { .. })));
    let leaves = world.dir.path().join("trees").join(format!("{}.leaves", publication.root));
    std::fs::write(&leaves, [0; 64]).unwrap();
    assert!(world.shelf.content(&offered).is_err());
    std::fs::remove_file(&leaves).unwrap();
    assert!(world.shelf.content(&offered).is_err());
}

#[tokio::test]
async fn a_directory_becomes_a_dataset() {
    let world = World::new().await;
    let home = world.dir.path().join("Weather 2026");
    std::fs::create_dir_all(home.join("rain/daily")).unwrap();
    std::fs::write(home.join("rain/daily/1.csv"), b"1").unwrap();
    std::fs::write(home.join("rain/2.csv"), vec![2; (1 << 20) + 1]).unwrap();
    std::fs::write(home.join("README"), b"").unwrap();
    let read = Arc::new(AtomicU64::new(0));
    let heard = Arc::clone(&read);
    let request = Publish::new([1; 16], home.clone(), "Weather", "", POLICY);
    let progress = move |bytes| heard.store(bytes, Ordering::SeqCst);
    let begun = world.shelf.publish(request.clone(), progress).await.unwrap();
    assert_eq!((begun.files, begun.size, begun.file_name.as_str()), (Some(3), (1 << 20) + 2, "Weather 2026"));
    assert_eq!(read.load(Ordering::SeqCst), begun.size);

    let publication = world.listed(request).await;
    let offered = world.shelf.product(&publication.product.unwrap()).unwrap().unwrap();
    assert_eq!(offered.record.files, Some(3));
    let content = world.shelf.content(&offered).unwrap();
    let entries = content.manifest().unwrap().entries();
    let paths: Vec<_> = entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, ["README", "rain/2.csv", "rain/daily/1.csv"]);
    assert_eq!((content.root(), content.groups()), (publication.root, 3));
    assert_eq!(world.shelf.open(&offered, &content).unwrap().files.len(), 3);

    // What the manifest does not name is nobody's business; what it names must stay.
    std::fs::write(home.join("new"), b"new").unwrap();
    assert!(world.shelf.open(&offered, &content).is_ok());
    let one = home.join("rain/daily/1.csv");
    std::fs::write(&one, b"12").unwrap();
    assert!(matches!(world.shelf.open(&offered, &content), Err(ServiceError::Conflict { .. })));
    std::fs::remove_file(&one).unwrap();
    assert!(matches!(world.shelf.open(&offered, &content), Err(ServiceError::Invalid { .. })));
    std::os::unix::fs::symlink(home.join("README"), &one).unwrap();
    assert!(matches!(world.shelf.open(&offered, &content), Err(ServiceError::Invalid { .. })));
    let manifest = world.dir.path().join("trees").join(format!("{}.manifest", publication.root));
    let other = huitong_proof::Manifest::new(entries[1..].to_vec()).unwrap();
    std::fs::write(&manifest, other.encoded()).unwrap();
    assert!(world.shelf.content(&offered).is_err());
}

#[tokio::test]
async fn a_directory_with_anything_but_files_is_refused() {
    let world = World::new().await;
    let refuse = async |name: &str, make: &dyn Fn(&std::path::Path)| {
        let home = world.dir.path().join(name);
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("good"), b"good").unwrap();
        make(&home);
        let refused = world.shelf.publish(Publish::new([1; 16], home, "name", "", POLICY), |_| {}).await;
        match refused {
            Err(ServiceError::Invalid { field, reason }) if field == "file" => reason,
            other => panic!("{name}: {other:?}"),
        }
    };
    let reason =
        refuse("link", &|home| std::os::unix::fs::symlink("/etc/hostname", home.join("bad")).unwrap());
    assert!(reason.await.contains("link/bad: a dataset holds regular files"));
    let reason = refuse("socket", &|home| {
        std::os::unix::net::UnixListener::bind(home.join("bad")).unwrap();
    });
    assert!(reason.await.contains("socket/bad"));
    let reason = refuse("text", &|home| {
        use std::os::unix::ffi::OsStrExt as _;
        std::fs::write(home.join(std::ffi::OsStr::from_bytes(b"b\xff")), b"").unwrap();
    });
    assert!(reason.await.contains("must be UTF-8"));
    let reason = refuse("case", &|home| std::fs::write(home.join("GOOD"), b"").unwrap());
    assert!(reason.await.contains("where file names ignore case"));
    assert!(world.shelf.publications(None, 10).unwrap().is_empty());
}

#[tokio::test]
async fn an_empty_file_can_be_published() {
    let world = World::new().await;
    let file = world.file("empty.csv", b"");
    let publication = world.listed(Publish::new([1; 16], file, "Empty", "", POLICY)).await;
    let offered = world.shelf.product(&publication.product.unwrap()).unwrap().unwrap();
    assert_eq!((publication.size, world.shelf.content(&offered).unwrap().groups()), (0, 0));
}

#[tokio::test]
async fn publications_are_listed_in_pages() {
    let world = World::new().await;
    for n in [3_u8, 1, 2] {
        world.shelf.publish(world.request(n, &format!("name {n}"), ""), |_| {}).await.unwrap();
    }
    let ids = |page: Vec<crate::Publication>| page.iter().map(|entry| entry.id[0]).collect::<Vec<_>>();
    assert_eq!(ids(world.shelf.publications(None, 2).unwrap()), [1, 2]);
    assert_eq!(ids(world.shelf.publications(Some(&[2; 16]), 2).unwrap()), [3]);
    assert_eq!(world.shelf.publication(&[9; 16]).unwrap(), None);
}
