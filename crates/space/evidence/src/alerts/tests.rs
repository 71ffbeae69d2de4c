//! When alerts are made, counted, ended and silent.

use std::sync::Arc;

use huitong_store::Store;

use super::*;

struct Desk {
    store: Store,
    _dir: tempfile::TempDir,
}

const ALL: [&str; 2] = [CHANNEL_GAP, STATEMENT_NOT_LOGGED];

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Arc::new(|| 0)).unwrap();
        Self { store, _dir: dir }
    }

    /// One round in which these were found, as code and subject.
    async fn round(
        &self,
        now: u64,
        node: &str,
        examined: &[&'static str],
        found: &[(&'static str, &str)],
    ) -> Settled {
        let found = found.iter().map(|(code, subject)| Condition::new(code, *subject, "text"));
        let (node, examined, found) = (node.to_owned(), examined.to_vec(), found.collect());
        let round = move |tx: &mut Tx<'_>| settle(tx, Timestamp::from_millis(now), &node, &examined, found);
        self.store.transact("test", round).await.unwrap()
    }

    /// Subject, count, and whether it is resolved, of every alert.
    fn alerts(&self) -> Vec<(String, u64, bool)> {
        let alerts = every(&self.store.view()).unwrap();
        alerts.into_iter().map(|alert| (alert.subject, alert.count, alert.resolved.is_some())).collect()
    }
}

#[tokio::test]
async fn a_condition_is_one_alert_from_its_beginning_to_its_end() {
    let desk = Desk::new();
    let row = |subject: &str, count, resolved| (subject.to_owned(), count, resolved);
    let settled = |raised, ended| Settled { raised, ended };
    assert_eq!(desk.round(1, "n", &ALL, &[(CHANNEL_GAP, "a")]).await, settled(1, 0));
    assert_eq!(desk.round(2, "n", &ALL, &[(CHANNEL_GAP, "a"), (CHANNEL_GAP, "b")]).await, settled(1, 0));
    assert_eq!(desk.alerts(), [row("a", 2, false), row("b", 1, false)]);
    // Another node, another code, and a round that looked at something else, do not touch it.
    assert_eq!(desk.round(3, "o", &ALL, &[]).await, settled(0, 0));
    assert_eq!(
        desk.round(4, "n", &[STATEMENT_NOT_LOGGED], &[(STATEMENT_NOT_LOGGED, "a")]).await,
        settled(1, 0)
    );
    assert_eq!(desk.round(5, "n", &ALL, &[(CHANNEL_GAP, "b")]).await, settled(0, 2));
    assert_eq!(desk.alerts(), [row("a", 2, true), row("b", 2, false), row("a", 1, true)]);
    // What comes back is a new alert.
    assert_eq!(desk.round(6, "n", &ALL, &[(CHANNEL_GAP, "a")]).await, settled(1, 1));
    assert_eq!(desk.alerts().pop(), Some(row("a", 1, false)));

    let first = &every(&desk.store.view()).unwrap()[0];
    assert_eq!((first.id, first.first_seen.millis(), first.last_seen.millis()), (1, 1, 2));
    assert_eq!(first.resolved, Some(Timestamp::from_millis(5)));
}

#[tokio::test]
async fn what_a_person_has_resolved_is_silent_until_it_begins_anew() {
    let desk = Desk::new();
    desk.round(1, "n", &ALL, &[(CHANNEL_GAP, "a")]).await;
    let resolve = |tx: &mut Tx<'_>| {
        let mut alert = load(tx, 1)?.unwrap();
        alert.resolved = Some(Timestamp::from_millis(2));
        alert.put(tx)
    };
    desk.store.transact("test", resolve).await.unwrap();
    let silent = desk.round(3, "n", &ALL, &[(CHANNEL_GAP, "a")]).await;
    assert_eq!(silent, Settled::default());
    assert_eq!(desk.alerts(), [("a".to_owned(), 2, true)]);
    assert_eq!(desk.round(4, "n", &ALL, &[]).await, Settled::default(), "it was resolved before");
    assert_eq!(desk.round(5, "n", &ALL, &[(CHANNEL_GAP, "a")]).await.raised, 1);
}

#[tokio::test]
async fn many_of_one_kind_are_told_as_many() {
    let desk = Desk::new();
    let subjects: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    let found: Vec<_> = subjects.iter().map(|subject| (CHANNEL_GAP, subject.as_str())).collect();
    assert_eq!(desk.round(1, "n", &ALL, &found).await.raised, MAX_OF_CODE);
    let last = every(&desk.store.view()).unwrap().pop().unwrap();
    assert_eq!((last.subject.as_str(), last.text.as_str()), (MANY, "the same of 25 more"));
    assert_eq!(desk.round(2, "n", &ALL, &[]).await.ended, MAX_OF_CODE);
}

#[tokio::test]
async fn the_oldest_resolved_ones_make_room_and_a_fork_is_always_told() {
    let desk = Desk::new();
    let half = MAX_KEPT / 2;
    let all = |code: Option<&'static str>, examined: Vec<&'static str>| {
        move |tx: &mut Tx<'_>| -> Result<usize, ServiceError> {
            let mut raised = 0;
            for n in 0..half {
                let found = code.map(|code| Condition::new(code, "", "text")).into_iter().collect();
                raised += settle(tx, Timestamp::from_millis(n), &n.to_string(), &examined, found)?.raised;
            }
            Ok(raised)
        }
    };
    desk.store.transact("test", all(Some(CHANNEL_GAP), vec![])).await.unwrap();
    desk.store.transact("test", all(None, vec![CHANNEL_GAP])).await.unwrap();
    desk.store.transact("test", all(Some(STATEMENT_NOT_LOGGED), vec![])).await.unwrap();
    assert_eq!(desk.alerts().len() as u64, MAX_KEPT);
    let raised = desk.store.transact("test", all(Some(CHANNEL_GAP), vec![])).await.unwrap();
    assert_eq!(raised as u64, half);
    let alerts = every(&desk.store.view()).unwrap();
    assert_eq!(alerts.iter().filter(|alert| alert.resolved.is_none()).count() as u64, MAX_KEPT);
    assert_eq!(desk.round(1, "z", &ALL, &[(CHANNEL_GAP, "")]).await.raised, 0, "nothing may make room");
    assert_eq!(desk.round(1, "z", &[], &[(LEDGER_FORKED, "")]).await.raised, 1);
    assert_eq!(every(&desk.store.view()).unwrap().last().unwrap().code, LEDGER_FORKED);
}
