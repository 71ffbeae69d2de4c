//! A witness that was restored: what it has cosigned since the backup it learns before it cosigns again.

use std::path::PathBuf;

use huitong_ledger::{AddCheckpoint, SignedCheckpoint, witnessed};

use super::{CONSUMER, Fault, Marked, PROVIDER, REGISTRAR, Space};

/// The registrar has cosigned the provider's ledger after its own backup, and the consumer has seen it.
async fn with_cosigned_since() -> (Space, PathBuf, PathBuf, SignedCheckpoint) {
    let mut space = Space::new().await;
    // What the members say first, so that the backup knows them.
    space.tell(PROVIDER, REGISTRAR).await;
    space.tell(CONSUMER, REGISTRAR).await;
    space.tell(PROVIDER, CONSUMER).await;
    space.finish(PROVIDER).await;
    let (registrar, provider) = (space.back_up(REGISTRAR).await, space.back_up(PROVIDER).await);
    space.tell(PROVIDER, CONSUMER).await;
    let signed = space.finish(PROVIDER).await;
    space.node(CONSUMER).monitor_once(&space.link(CONSUMER)).await.unwrap();
    (space, registrar, provider, signed)
}

async fn asked(space: &Space, signed: &SignedCheckpoint) -> u16 {
    let old = remembered(space).map_or(0, |known| known.checkpoint().size);
    let size = signed.checkpoint().size;
    let proof = if old == 0 || old == size {
        Vec::new()
    } else {
        space.node(PROVIDER).ledger().consistency(old, size).unwrap()
    };
    let body = AddCheckpoint { old, proof, note: signed.text().to_owned() }.to_text();
    space.node(REGISTRAR).add_checkpoint(&space.caller(PROVIDER), &body).await.unwrap().status()
}

fn remembered(space: &Space) -> Option<SignedCheckpoint> {
    let origin = space.node(PROVIDER).ledger().origin().to_owned();
    witnessed(&space.node(REGISTRAR).ledger().store().view(), &origin).unwrap()
}

#[tokio::test]
async fn it_cosigns_again_once_it_has_learned_what_it_cosigned() {
    let (mut space, backup, _, signed) = with_cosigned_since().await;
    space.put_back(REGISTRAR, &backup, Marked::Yes).await;
    let (registrar, link) = (space.node(REGISTRAR), space.link(REGISTRAR));
    assert_eq!(registrar.compare_once(&link).await.unwrap().safe_mode, None);
    assert!(remembered(&space).unwrap().checkpoint().size < signed.checkpoint().size);
    assert_eq!(asked(&space, &signed).await, 429);
    assert!(registrar.is_comparison_pending().unwrap());

    // Neither the ledger alone nor the others without it say enough.
    for silent in [PROVIDER, CONSUMER] {
        space.fault(silent, Some(Fault::Dead));
        registrar.compare_late(&link).await.unwrap();
        assert_eq!(asked(&space, &signed).await, 429);
        space.fault(silent, None);
    }
    registrar.compare_late(&link).await.unwrap();
    assert_eq!(remembered(&space).unwrap().checkpoint(), signed.checkpoint());
    assert!(!registrar.is_comparison_pending().unwrap());
    assert_eq!(asked(&space, &signed).await, 200);
}

#[tokio::test]
async fn it_cosigns_no_other_history() {
    for further in [1, 2, 5] {
        let (mut space, backup, old, signed) = with_cosigned_since().await;
        space.put_back(REGISTRAR, &backup, Marked::Yes).await;
        // The provider shows the restored witness another history than it has shown to the consumer.
        space.put_back(PROVIDER, &old, Marked::No).await;
        space.clock.advance(std::time::Duration::from_secs(1));
        for _ in 0..further {
            space.say(PROVIDER, CONSUMER).await;
        }
        let other = space.node(PROVIDER).ledger().checkpoint().await.unwrap();
        assert_ne!(other.checkpoint().root, signed.checkpoint().root);
        let (registrar, link) = (space.node(REGISTRAR), space.link(REGISTRAR));
        registrar.compare_once(&link).await.unwrap();
        for _ in 0..3 {
            registrar.compare_late(&link).await.unwrap();
            assert_eq!(asked(&space, &other).await, 429, "{further} further");
        }
        assert_eq!(registrar.safe_mode(), None);
        // Its operator answers for what he knows.
        registrar.resume_unconfirmed().await.unwrap();
        assert_eq!(asked(&space, &other).await, 200);
    }
}
