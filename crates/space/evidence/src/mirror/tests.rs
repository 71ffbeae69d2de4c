//! Mirrors of real ledgers, small and large, true and false.

use std::time::Duration;

use huitong_ledger::leaf_hash;
use huitong_proof::{Draft, Kind};

use super::*;
use crate::MIRROR_INCOMPLETE;
use crate::monitor::fixture::{Bent, Ways, open};
use crate::tests::{PROVIDER, REGISTRAR, Space, all_leaves};

/// Logs that many entries at the provider, and has them signed and cosigned by the registrar.
async fn grow(space: &Space, entries: u64) {
    let (ledger, audience) = (space.node(PROVIDER).ledger().clone(), space.ids[REGISTRAR].to_string());
    let issue = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
        for _ in 0..entries {
            ledger.issue(
                tx,
                Draft {
                    kind: Kind::Usage,
                    audience: audience.clone(),
                    subject: [3; 16],
                    agreement: Digest::ZERO,
                    reference: Digest::ZERO,
                    detail: Map::new(),
                },
            )?;
        }
        Ok(())
    };
    space.node(PROVIDER).ledger().store().transact("test", issue).await.unwrap();
    space.finish(PROVIDER).await;
}

async fn mirror(space: &Space, peer: &Bent, kept: u64) -> Mirroring {
    let node = space.node(REGISTRAR);
    let outcomes = node.mirror_once(peer, kept).await.unwrap();
    outcomes.into_iter().find(|(log, _)| log.node == space.ids[PROVIDER]).unwrap().1
}

/// Everything that is mirrored, and that exactly the newest hashes are.
fn check(space: &Space, start: u64) {
    let (registrar, provider) = (space.node(REGISTRAR), space.node(PROVIDER));
    let origin = provider.ledger().origin();
    let all = all_leaves(&provider);
    let mirrored = leaves(&registrar, origin, start, usize::MAX).unwrap();
    assert_eq!(mirrored, all[start as usize..]);
    for (from, limit) in [(start, 1), (start + 1, 300), (all.len() as u64 - 1, 9), (all.len() as u64, 9)] {
        let expected: Vec<Digest> = all[from as usize..].iter().take(limit).copied().collect();
        assert_eq!(leaves(&registrar, origin, from, limit).unwrap(), expected, "{limit} from {from}");
    }
    if let Some(before) = start.checked_sub(1) {
        assert!(matches!(leaves(&registrar, origin, before, 1), Err(ServiceError::NotFound { .. })));
    }
    let files = std::fs::read_dir(directory(&registrar, origin)).unwrap().count() as u64;
    assert_eq!(files, (all.len() as u64).div_ceil(WIDTH) - start / WIDTH);
}

#[tokio::test]
async fn follows_a_ledger_and_asks_for_new_leaves_only() {
    let space = Space::new().await;
    let peer = Bent::new(&space, REGISTRAR, PROVIDER);
    let origin = space.node(PROVIDER).ledger().origin().to_owned();
    assert!(matches!(leaves(&space.node(REGISTRAR), &origin, 0, 1), Err(ServiceError::NotFound { .. })));
    for entries in [1, 3, 250, 1, 1, 255, 512, 700] {
        grow(&space, entries).await;
        let size = all_leaves(&space.node(PROVIDER)).len() as u64;
        assert_eq!(mirror(&space, &peer, MIRRORED_LEAVES).await, Mirroring::Complete { size });
        assert_eq!(peer.asked("leaves"), 1);
        assert_eq!(mirror(&space, &peer, MIRRORED_LEAVES).await, Mirroring::Complete { size });
        assert_eq!(peer.asked("leaves"), 0);
        check(&space, 0);
    }
    // Over the interface for other nodes, too.
    let served = space.node(REGISTRAR).leaves(&space.caller(PROVIDER), &origin, 5, 10).unwrap();
    assert_eq!(served, all_leaves(&space.node(PROVIDER))[5..15]);
}

#[tokio::test]
async fn keeps_the_newest_only() {
    let space = Space::new().await;
    let peer = Bent::new(&space, REGISTRAR, PROVIDER);
    grow(&space, 500).await;
    mirror(&space, &peer, 600).await;
    check(&space, 0);
    grow(&space, 400).await;
    let size = all_leaves(&space.node(PROVIDER)).len() as u64;
    mirror(&space, &peer, 600).await;
    check(&space, (size - 600).div_ceil(256) * 256);
    grow(&space, 500).await;
    mirror(&space, &peer, 600).await;
    check(&space, (size + 500 - 600).div_ceil(256) * 256);
    peer.asked("leaves");

    // More at once than is kept: what would not stay is not fetched.
    grow(&space, 2_000).await;
    mirror(&space, &peer, 600).await;
    let size = all_leaves(&space.node(PROVIDER)).len() as u64;
    check(&space, (size - 600).div_ceil(256) * 256);
    assert_eq!((peer.asked("leaves"), peer.asked("consistency")), (1, 1));
    // Both edges are right: it goes on.
    grow(&space, 77).await;
    assert_eq!(mirror(&space, &peer, 600).await, Mirroring::Complete { size: size + 77 });
}

#[tokio::test]
async fn false_hashes_never_count() {
    let space = Space::new().await;
    let peer = Bent::new(&space, REGISTRAR, PROVIDER);
    grow(&space, 300).await;
    mirror(&space, &peer, MIRRORED_LEAVES).await;
    let before = all_leaves(&space.node(PROVIDER));
    grow(&space, 300).await;
    peer.bend(Ways { leaves_from: Some((before.len() as u64 + 90, leaf_hash(b"other"))), ..Ways::default() });
    assert!(matches!(mirror(&space, &peer, MIRRORED_LEAVES).await, Mirroring::Wrong { .. }));
    let origin = space.node(PROVIDER).ledger().origin().to_owned();
    assert_eq!(leaves(&space.node(REGISTRAR), &origin, 0, usize::MAX).unwrap(), before);
    peer.asked("leaves");
    assert_eq!(space.node(REGISTRAR).mirror_once(&peer, MIRRORED_LEAVES).await.unwrap(), []);
    assert_eq!(peer.asked("leaves"), 0, "it has had its chance until the monitor comes by");
    space.node(REGISTRAR).monitor_once(&peer).await.unwrap();
    let provider = space.ids[PROVIDER].to_string();
    assert_eq!(open(&space.node(REGISTRAR)), [(MIRROR_INCOMPLETE.to_owned(), provider)]);
    peer.bend(Ways::default());
    space.node(REGISTRAR).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(REGISTRAR)), []);
    check(&space, 0);
}

#[tokio::test]
async fn a_ledger_that_gives_no_hashes_is_told_after_a_while() {
    let space = Space::new().await;
    let peer = Bent::new(&space, REGISTRAR, PROVIDER);
    grow(&space, 10).await;
    peer.bend(Ways { down: true, ..Ways::default() });
    assert!(matches!(mirror(&space, &peer, MIRRORED_LEAVES).await, Mirroring::Unavailable { .. }));
    peer.bend(Ways { withholds_leaves: true, ..Ways::default() });
    space.node(REGISTRAR).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(REGISTRAR)), []);
    space.clock.advance(Duration::from_secs(3_601));
    space.node(REGISTRAR).monitor_once(&peer).await.unwrap();
    let provider = space.ids[PROVIDER].to_string();
    assert_eq!(open(&space.node(REGISTRAR)), [(MIRROR_INCOMPLETE.to_owned(), provider)]);
    peer.bend(Ways::default());
    space.node(REGISTRAR).monitor_once(&peer).await.unwrap();
    assert_eq!(open(&space.node(REGISTRAR)), []);
}

#[tokio::test]
async fn lost_files_are_fetched_again() {
    let mut space = Space::new().await;
    grow(&space, 600).await;
    let peer = Bent::new(&space, REGISTRAR, PROVIDER);
    mirror(&space, &peer, MIRRORED_LEAVES).await;
    let place = directory(&space.node(REGISTRAR), space.node(PROVIDER).ledger().origin());
    let settings = space.node(REGISTRAR).settings().clone();
    drop(peer);
    space.stop(REGISTRAR).await;
    space.start(REGISTRAR, settings);
    check(&space, 0);

    // As after a restore: the rows are there, the files are not.
    std::fs::remove_dir_all(&place).unwrap();
    let origin = space.node(PROVIDER).ledger().origin().to_owned();
    assert!(matches!(leaves(&space.node(REGISTRAR), &origin, 0, 1), Err(ServiceError::NotFound { .. })));
    let peer = Bent::new(&space, REGISTRAR, PROVIDER);
    mirror(&space, &peer, MIRRORED_LEAVES).await;
    check(&space, 0);
    // Cut short by a power failure that the disk did not keep its word in.
    std::fs::write(file(&place, 2), [0; 40]).unwrap();
    grow(&space, 1).await;
    mirror(&space, &peer, MIRRORED_LEAVES).await;
    check(&space, 0);
}
