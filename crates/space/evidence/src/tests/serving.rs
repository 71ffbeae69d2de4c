//! What a node answers others, and to whom.

use std::time::Duration;

use huitong_identity::ServiceError;
use huitong_ledger::{AddCheckpoint, EntryState, SignedCheckpoint, leaf_hash, verify_inclusion};
use huitong_proof::Digest;
use huitong_proof::Statement;

use super::{CONSUMER, PROVIDER, REGISTRAR, Space, all_leaves, size};
use crate::{ChannelSide, Evidence, MAX_LEAVES, MAX_STATEMENTS, WitnessAnswer};

fn index_of(node: &Evidence, statement: &Statement) -> u64 {
    let view = node.ledger().store().view();
    node.ledger().index_of(&view, &statement.digest()).unwrap().unwrap()
}

fn not_found<T: std::fmt::Debug>(answer: Result<T, ServiceError>) -> String {
    match answer {
        Err(ServiceError::NotFound { what }) => what,
        other => panic!("{other:?}"),
    }
}

async fn signed(node: &Evidence) -> SignedCheckpoint {
    node.ledger().checkpoint().await.unwrap()
}

/// The request that the node would send from size `old`.
fn request(node: &Evidence, signed: &SignedCheckpoint, old: u64) -> AddCheckpoint {
    let size = signed.checkpoint().size;
    let proof =
        if old == 0 || old >= size { Vec::new() } else { node.ledger().consistency(old, size).unwrap() };
    AddCheckpoint { old, proof, note: signed.text().to_owned() }
}

#[tokio::test]
async fn an_entry_is_shown_to_its_parties_and_regulators_only() {
    let space = Space::with_connectors(1).await;
    let provider = space.node(PROVIDER);
    let statement = space.tell(PROVIDER, CONSUMER).await;
    let index = index_of(&provider, &statement);
    let size = signed(&provider).await.checkpoint().size;

    for place in [REGISTRAR, PROVIDER, CONSUMER] {
        let caller = space.caller(place);
        assert_eq!(provider.entry(&caller, index).unwrap(), EntryState::Present(statement.bytes().to_vec()));
        let included = provider.inclusion(&caller, &statement.digest(), size).unwrap();
        assert_eq!((included.index, included.leaf), (index, leaf_hash(statement.bytes())));
        let root = provider.ledger().root_at(size).unwrap();
        verify_inclusion(&included.leaf, index, size, &included.path, &root).unwrap();
        assert!(provider.may_read(&caller, index..index + 1).unwrap());
    }

    // For everybody else it is as if it did not exist, in the very same words.
    let stranger = space.caller(3);
    let beyond = size + 7;
    let hidden = not_found(provider.entry(&stranger, index));
    assert_eq!(
        hidden.replace(&index.to_string(), "N"),
        not_found(provider.entry(&stranger, beyond)).replace(&beyond.to_string(), "N")
    );
    let nobody = Digest::sha256(b"nothing");
    let hidden = not_found(provider.inclusion(&stranger, &statement.digest(), size));
    let absent = not_found(provider.inclusion(&stranger, &nobody, size));
    assert_eq!(
        hidden.replace(&statement.digest().to_string(), "D"),
        absent.replace(&nobody.to_string(), "D")
    );
    assert!(!provider.may_read(&stranger, index..index + 1).unwrap());
    assert!(
        !provider.may_read(&space.caller(CONSUMER), 0..size).unwrap(),
        "entries of others are among them"
    );
    assert!(provider.may_read(&space.caller(REGISTRAR), 0..size).unwrap());

    // Unless the operator names it as a regulator.
    space.set(PROVIDER, |settings| settings.regulators = vec![space.ids[3].clone()]);
    let provider = space.node(PROVIDER);
    assert!(provider.entry(&stranger, index).is_ok());
    assert!(provider.may_read(&stranger, 0..size).unwrap());
}

#[tokio::test]
async fn proofs_are_of_signed_sizes_only() {
    let space = Space::new().await;
    let provider = space.node(PROVIDER);
    let caller = space.caller(CONSUMER);
    let first = space.tell(PROVIDER, CONSUMER).await;
    let old = signed(&provider).await.checkpoint().clone();
    for _ in 0..5 {
        space.tell(PROVIDER, CONSUMER).await;
    }
    let unsigned = super::size(&provider);
    let field = |answer: Result<_, ServiceError>| match answer {
        Err(ServiceError::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let consistency = |old, new| provider.consistency(&caller, old, new).map(|_: Vec<Digest>| ());
    assert_eq!(field(consistency(old.size, unsigned)), "new_size");
    let inclusion = |size| provider.inclusion(&caller, &first.digest(), size).map(|_| ());
    assert_eq!(field(inclusion(unsigned)), "size");

    let new = signed(&provider).await.checkpoint().clone();
    let path = provider.consistency(&caller, old.size, new.size).unwrap();
    huitong_ledger::verify_consistency(old.size, &old.root, new.size, &new.root, &path).unwrap();
    assert_eq!(provider.consistency(&caller, new.size, new.size).unwrap(), []);
    for (old, new, name) in [
        (0, new.size, "old_size"),
        (new.size + 1, new.size, "old_size"),
        (1, u64::MAX, "new_size"),
        (0, 0, "new_size"),
    ] {
        assert_eq!(field(consistency(old, new)), name);
    }
    assert_eq!(field(inclusion(0)), "size");
    assert_eq!(field(inclusion(index_of(&provider, &first))), "size");
}

#[tokio::test]
async fn leaves_come_in_bounded_pages() {
    let space = Space::new().await;
    let provider = space.node(PROVIDER);
    for _ in 0..20 {
        space.say(PROVIDER, CONSUMER).await;
    }
    signed(&provider).await;
    let (caller, leaves) = (space.caller(CONSUMER), all_leaves(&provider));
    space.say(PROVIDER, CONSUMER).await; // under no checkpoint yet: nobody's business
    for origin in ["", provider.ledger().origin()] {
        assert_eq!(provider.leaves(&caller, origin, 0, usize::MAX).unwrap(), leaves);
        assert_eq!(provider.leaves(&caller, origin, 3, 4).unwrap(), leaves[3..7]);
        assert_eq!(provider.leaves(&caller, origin, leaves.len() as u64, 4).unwrap(), []);
        assert_eq!(provider.leaves(&caller, origin, u64::MAX, MAX_LEAVES).unwrap(), []);
    }
    assert!(matches!(
        provider.leaves(&caller, "elsewhere/huitong-log/1", 0, 1),
        Err(ServiceError::NotFound { .. })
    ));
}

#[tokio::test]
async fn channels_show_the_newest_statements_of_both_sides() {
    let space = Space::new().await;
    let consumer = space.node(CONSUMER);
    let caller = space.caller(PROVIDER);
    assert_eq!(consumer.channel(&caller).unwrap(), Default::default());

    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(space.tell(PROVIDER, CONSUMER).await);
    }
    let answer = space.tell(CONSUMER, PROVIDER).await;
    let channel = consumer.channel(&caller).unwrap();
    assert_eq!(channel.from_caller.as_ref(), Some(told[4].bytes()));
    assert_eq!(channel.to_caller.as_ref(), Some(answer.bytes()));

    let bytes = |statements: &[Statement]| statements.iter().map(|s| s.bytes().clone()).collect::<Vec<_>>();
    let page = |side, from, limit| consumer.statements(&caller, side, from, limit).unwrap();
    assert_eq!(page(ChannelSide::FromCaller, 0, MAX_STATEMENTS), bytes(&told));
    assert_eq!(page(ChannelSide::FromCaller, 2, 2), bytes(&told[2..4]));
    assert_eq!(page(ChannelSide::FromCaller, 5, 10), bytes(&[]));
    assert_eq!(page(ChannelSide::FromCaller, u64::MAX, usize::MAX), bytes(&[]));
    assert_eq!(page(ChannelSide::ToCaller, 0, usize::MAX), bytes(&[answer]));
    // Another caller sees its own channels only.
    let other = consumer.statements(&space.caller(REGISTRAR), ChannelSide::FromCaller, 0, 300).unwrap();
    let told = bytes(&told);
    assert!(other.iter().all(|statement| !told.contains(statement)));
}

#[tokio::test]
async fn a_witness_cosigns_configured_ledgers_only() {
    let space = Space::new().await;
    let provider = space.node(PROVIDER);
    let checkpoint = signed(&provider).await;
    let body = request(&provider, &checkpoint, 0).to_text();
    let caller = space.caller(PROVIDER);
    let status = async |witness: usize, body: &str| {
        space.node(witness).add_checkpoint(&caller, body).await.unwrap().status()
    };

    assert_eq!(status(CONSUMER, &body).await, 404);
    let foreign = body.replace(&provider.ledger().origin()[..4], "abcd");
    assert_eq!(status(REGISTRAR, &foreign).await, 404);
    assert_eq!(status(PROVIDER, &body).await, 404, "nobody witnesses itself");
    assert_eq!(status(REGISTRAR, "old x\n").await, 400);
    let size = checkpoint.checkpoint().size;
    let altered = body.replace(&format!("\n{size}\n"), &format!("\n{}\n", size + 1));
    assert_eq!(status(REGISTRAR, &altered).await, 403);
    assert_eq!(status(REGISTRAR, &body.replace("old 0", &format!("old {}", size + 1))).await, 400);
    assert_eq!(status(REGISTRAR, &body.replace("old 0", "old 1")).await, 409);
    assert_eq!(status(REGISTRAR, &body).await, 200);
    assert_eq!(status(REGISTRAR, &body.replace("old 0", &format!("old {size}"))).await, 200);
    let conflict = space.node(REGISTRAR).add_checkpoint(&caller, &body).await.unwrap();
    assert_eq!(conflict, WitnessAnswer::Conflict { size });
    assert_eq!(conflict.body(), format!("{size}\n"));

    space.say(PROVIDER, CONSUMER).await;
    let next = signed(&provider).await;
    let wrong = AddCheckpoint { proof: vec![Digest::ZERO], ..request(&provider, &next, size) };
    assert_eq!(status(REGISTRAR, &wrong.to_text()).await, 422);
    assert_eq!(status(REGISTRAR, &request(&provider, &next, size).to_text()).await, 200);

    space.set(CONSUMER, |settings| settings.witness_for = vec![space.ids[PROVIDER].clone()]);
    assert_eq!(status(CONSUMER, &body).await, 200);
    space.registry.as_ref().unwrap().revoke(&space.ids[PROVIDER], "test").await.unwrap();
    assert_eq!(status(REGISTRAR, &request(&provider, &next, size).to_text()).await, 404);
}

#[tokio::test]
async fn a_witness_answers_after_its_state_is_durable_and_shows_it() {
    let mut space = Space::new().await;
    let provider = space.node(PROVIDER);
    let checkpoint = space.finish(PROVIDER).await;
    let settings = space.node(REGISTRAR).settings().clone();
    let origin = provider.ledger().origin().to_owned();
    // The registrar service of the fixture shares the ledger, so a clean copy is opened instead of the node itself.
    let shown = |node: &Evidence, caller| node.witnessed(caller, &origin).unwrap();
    let caller = space.caller(CONSUMER);
    let text = shown(&space.node(REGISTRAR), &caller).unwrap();
    let log = provider.ledger().log_verifier();
    let parsed = SignedCheckpoint::parse(&text, &log).unwrap();
    assert_eq!(parsed.checkpoint(), checkpoint.checkpoint());
    let witness = space.caller(REGISTRAR).credential().witness.clone();
    assert!(parsed.cosigned_by(&witness).unwrap().is_some());
    assert_eq!(shown(&space.node(CONSUMER), &caller), None);

    let hash = Digest::sha256(origin.as_bytes());
    assert_eq!(space.node(REGISTRAR).witnessed_under(&hash).unwrap(), Some(text));
    assert_eq!(space.node(REGISTRAR).witnessed_under(&Digest::ZERO).unwrap(), None);
    assert_eq!(space.node(CONSUMER).witnessed_under(&hash).unwrap(), None);

    // A connector as witness, stopped and started.
    space.set(CONSUMER, |settings| settings.witness_for = vec![space.ids[PROVIDER].clone()]);
    let policy = space.policy(1, &[CONSUMER]);
    space.set(PROVIDER, |settings| settings.policy = Some(policy));
    space.finish(PROVIDER).await;
    let settings = crate::EvidenceSettings { witness_for: vec![space.ids[PROVIDER].clone()], ..settings };
    space.stop(CONSUMER).await;
    space.start(CONSUMER, settings);
    assert!(shown(&space.node(CONSUMER), &caller).is_some());
    assert!(space.node(CONSUMER).witnessed_under(&hash).unwrap().is_some());
}

#[tokio::test]
async fn over_plain_http_the_signature_is_the_caller() {
    let space = Space::new().await;
    let provider = space.node(PROVIDER);
    let checkpoint = signed(&provider).await;
    let registrar = space.node(REGISTRAR);
    let answer = registrar.add_checkpoint_signed(&request(&provider, &checkpoint, 0)).await.unwrap();
    assert_eq!(answer.status(), 200);
    // A connector knows the key of a node only once that node has called it.
    space.set(CONSUMER, |settings| settings.witness_for = vec![space.ids[PROVIDER].clone()]);
    let consumer = space.node(CONSUMER);
    let body = request(&provider, &checkpoint, 0);
    assert_eq!(consumer.add_checkpoint_signed(&body).await.unwrap().status(), 404);
    let called = consumer.add_checkpoint(&space.caller(PROVIDER), &body.to_text()).await.unwrap();
    assert_eq!(called.status(), 200);
    let size = checkpoint.checkpoint().size;
    let again = request(&provider, &checkpoint, size);
    assert_eq!(consumer.add_checkpoint_signed(&again).await.unwrap().status(), 200);
}

#[tokio::test]
async fn only_the_ledger_itself_can_use_up_its_rate() {
    let space = Space::new().await;
    let (provider, registrar) = (space.node(PROVIDER), space.node(REGISTRAR));
    let caller = space.caller(CONSUMER);
    let mut old = 0;
    let mut last = signed(&provider).await;
    // Anybody may repeat what it has seen: the answer is the same line, and costs no token and no write.
    let first = request(&provider, &last, 0);
    registrar.add_checkpoint_signed(&first).await.unwrap();
    let again = request(&provider, &last, last.checkpoint().size);
    let commits = registrar.ledger().store().commits();
    let line = registrar.add_checkpoint(&caller, &again.to_text()).await.unwrap();
    let before = *commits.borrow();
    for _ in 0..100 {
        assert_eq!(registrar.add_checkpoint(&caller, &again.to_text()).await.unwrap(), line);
        let conflict = registrar.add_checkpoint(&caller, &first.to_text()).await.unwrap();
        assert_eq!(conflict.status(), 409);
    }
    assert_eq!(*commits.borrow(), before);
    // Nor does a newer checkpoint, seen elsewhere and sent with a false proof, or with a false old size.
    space.say(PROVIDER, CONSUMER).await;
    let newer = signed(&provider).await;
    let size = last.checkpoint().size;
    for number in 0..100 {
        let (note, old, proof, status) = match number % 4 {
            0 => (&newer, size, vec![Digest::ZERO], 422),
            1 => (&newer, size, Vec::new(), 422),
            2 => (&last, size, vec![Digest::ZERO], 422),
            _ => (&newer, u64::MAX, Vec::new(), 400),
        };
        let false_one = AddCheckpoint { old, proof, note: note.text().to_owned() };
        assert_eq!(registrar.add_checkpoint(&caller, &false_one.to_text()).await.unwrap().status(), status);
    }
    assert_eq!(*commits.borrow(), before);
    // Nor does the first checkpoint of another ledger, with a proof where none belongs.
    let first = signed(&space.node(CONSUMER)).await;
    let false_one = AddCheckpoint { old: 0, proof: vec![Digest::ZERO], note: first.text().to_owned() };
    for _ in 0..100 {
        let answer = registrar.add_checkpoint(&space.caller(PROVIDER), &false_one.to_text()).await.unwrap();
        assert_eq!(answer.status(), 422);
    }
    let true_one = AddCheckpoint { old: 0, proof: Vec::new(), note: first.text().to_owned() };
    let answer = registrar.add_checkpoint(&caller, &true_one.to_text()).await.unwrap();
    assert_eq!(answer.status(), 200);
    // A minute later the cosignature is a fresh one.
    space.clock.advance(Duration::from_secs(61));
    assert_ne!(registrar.add_checkpoint(&caller, &again.to_text()).await.unwrap(), line);

    let mut statuses = Vec::new();
    for _ in 0..40 {
        let request = request(&provider, &last, old);
        let answer = registrar.add_checkpoint_signed(&request).await.unwrap();
        statuses.push(answer.status());
        if answer.status() == 429 {
            break;
        }
        old = last.checkpoint().size;
        space.say(PROVIDER, CONSUMER).await;
        last = signed(&provider).await;
    }
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
    assert!(statuses.len() > 25, "{statuses:?}");
    space.clock.advance(Duration::from_secs(1));
    let later = registrar.add_checkpoint_signed(&request(&provider, &last, old)).await.unwrap();
    assert_eq!(later.status(), 200);
}

#[tokio::test]
async fn a_witness_that_stops_signing_meanwhile_cosigns_nothing() {
    let space = Space::new().await;
    let (provider, registrar) = (space.node(PROVIDER), space.node(REGISTRAR));
    let request = request(&provider, &signed(&provider).await, 0);
    // The writer is busy when the request comes, and the gate closes before it has its turn.
    let (release, busy) = std::sync::mpsc::channel::<()>();
    let store = registrar.ledger().store().clone();
    let mut holding = std::pin::pin!(store.transact("test", move |_| -> Result<(), ServiceError> {
        busy.recv().unwrap();
        Ok(())
    }));
    let mut asking = std::pin::pin!(registrar.add_checkpoint_signed(&request));
    std::future::poll_fn(|cx| {
        assert!(holding.as_mut().poll(cx).is_pending() && asking.as_mut().poll(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    registrar.ledger().stop_signing("in a test").unwrap();
    release.send(()).unwrap();
    holding.await.unwrap();
    assert_eq!(asking.await.unwrap().status(), 429);
}

#[tokio::test]
async fn many_requests_at_once_roll_no_witness_back() {
    let space = Space::new().await;
    let (provider, registrar) = (space.node(PROVIDER), space.node(REGISTRAR));
    let mut checkpoints = Vec::new();
    for _ in 0..8 {
        space.say(PROVIDER, CONSUMER).await;
        checkpoints.push(signed(&provider).await);
    }
    let mut requests = Vec::new();
    for new in &checkpoints {
        for old in std::iter::once(0).chain(checkpoints.iter().map(|old| old.checkpoint().size)) {
            requests.push(request(&provider, new, old));
        }
    }
    let answers = requests.iter().cycle().take(400).map(|request| {
        let registrar = registrar.clone();
        let request = request.clone();
        async move { (request.clone(), registrar.add_checkpoint_signed(&request).await.unwrap()) }
    });
    let mut largest = 0;
    for (request, answer) in futures_util::future::join_all(answers).await {
        if answer.status() == 200 {
            let text = SignedCheckpoint::parse(&request.note, &provider.ledger().log_verifier()).unwrap();
            largest = largest.max(text.checkpoint().size);
        }
    }
    let stored = registrar.witnessed(&space.caller(CONSUMER), provider.ledger().origin()).unwrap().unwrap();
    let stored = SignedCheckpoint::parse(&stored, &provider.ledger().log_verifier()).unwrap();
    assert_eq!(stored.checkpoint().size, largest);
    assert!(largest > 0 && largest <= size(&provider));
}
