use std::collections::BTreeMap;
use std::sync::Arc;

use huitong_proof::{Clock, ManualClock, SigningKey};
use huitong_store::Store;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::note::{signature_line, write_line};
use crate::witness_fixture::*;

/// A witness with a store in a directory of its own.
struct Witness {
    store: Store,
    clock: ManualClock,
    directory: TempDir,
}

impl Witness {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(seconds(5_000));
        let store = open(&directory, &clock);
        Self { store, clock, directory }
    }

    async fn restart(self) -> Self {
        let Self { store, clock, directory } = self;
        store.close().await;
        let store = open(&directory, &clock);
        Self { store, clock, directory }
    }

    async fn add(&self, request: AddCheckpoint, log: LogVerifier) -> Result<String, WitnessRefusal> {
        let now = self.clock.now();
        let answer = self
            .store
            .transact("test", move |tx| add_checkpoint(tx, &request, &log, &cosigner(0), now))
            .await;
        answer.unwrap()
    }

    /// Asks for a cosignature of the test log's `size`, from `old`.
    async fn ask(&self, history: &History, old: u64, size: u64) -> Result<String, WitnessRefusal> {
        self.add(request(history, old, size), log_verifier()).await
    }

    fn size(&self) -> u64 {
        self.newest().map_or(0, |newest| newest.checkpoint().size)
    }

    fn newest(&self) -> Option<SignedCheckpoint> {
        witnessed(&self.store.view(), ORIGIN).unwrap()
    }

    fn evidence(&self) -> Vec<Evidence> {
        Evidence::all(&self.store.view(), 100).unwrap()
    }
}

fn open(directory: &TempDir, clock: &ManualClock) -> Store {
    let time = clock.clone();
    Store::open(directory.path(), Arc::new(move || Clock::now(&time).millis())).unwrap()
}

fn request(history: &History, old: u64, size: u64) -> AddCheckpoint {
    AddCheckpoint { old, proof: history.consistency(old, size), note: history.signed(size).text().to_owned() }
}

fn status(answer: &Result<String, WitnessRefusal>) -> u16 {
    answer.as_ref().map_or_else(WitnessRefusal::http_status, |_| 200)
}

// The example of C2SP tlog-witness.
const EXAMPLE: &str = "old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u{2014} example.com/behind-the-sofa \
Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
\u{2014} example.com/behind-the-sofa \
opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
";

#[test]
fn published_request_is_read() {
    let request = AddCheckpoint::parse(EXAMPLE).unwrap();
    assert_eq!((request.old, request.proof.len()), (20_852_014, 4));
    assert_eq!(request.origin(), "example.com/behind-the-sofa");
    assert_eq!(request.to_text(), EXAMPLE);
    let none = AddCheckpoint { old: 0, proof: Vec::new(), note: request.note };
    assert_eq!(none.to_text(), format!("old 0\n\n{}", none.note));
    assert_eq!(AddCheckpoint::parse(&none.to_text()), Ok(none));
}

#[test]
fn malformed_requests_are_refused() {
    let check = |text: &str, reason: &str| match AddCheckpoint::parse(text) {
        Err(refused @ WitnessRefusal::Malformed { .. }) => {
            assert!(refused.to_string().contains(reason), "{text:?}: {refused}");
            assert_eq!(refused.http_status(), 400);
        }
        other => panic!("{text:?}: {other:?}"),
    };
    let hash = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=";
    for text in ["", "\n", "old 0", "old 0\n", "old 0\nnote\n", &format!("old 1\n{hash}\nnote\n")] {
        check(text, "no empty line");
    }
    for old in [
        "",
        "old",
        "old ",
        "old  1",
        "old 01",
        "old +1",
        "old -1",
        "old 0x1",
        "old 1 ",
        "old 1\r",
        "old 18446744073709551616",
        "new 1",
        "Old 1",
        " old 1",
        "old 1\tx",
        hash,
    ] {
        check(&format!("{old}\n\nnote\n"), "plain decimal size");
    }
    for line in [
        "x",
        &hash[1..],
        &format!("{hash} "),
        &format!("{hash}="),
        &hash.replace("kaw=", "kax="),
        &format!("{hash}\r"),
        &format!("{hash}{hash}"),
        &hash.replace('=', ""),
    ] {
        check(&format!("old 1\n{line}\n\nnote\n"), "canonical base64");
    }
    let lines = |count: usize| format!("old 1\n{}\nnote\n", format!("{hash}\n").repeat(count));
    assert_eq!(AddCheckpoint::parse(&lines(63)).unwrap().proof.len(), 63);
    check(&lines(64), "more than 63");
    check(&format!("old 1\n\n{}", "x".repeat(MAX_ADD_CHECKPOINT_BYTES)), "too long");
}

#[test]
fn answers_have_the_forms_of_the_specification() {
    let why = || "because".to_owned();
    for (refusal, status, body) in [
        (WitnessRefusal::Malformed { why: why() }, 400, "because"),
        (WitnessRefusal::OldAboveNew, 400, "larger"),
        (WitnessRefusal::NotSigned { why: why() }, 403, "because"),
        (WitnessRefusal::UnknownOrigin, 404, "does not know"),
        (WitnessRefusal::NotConsistent { why: why() }, 422, "because"),
        (WitnessRefusal::Rate { retry_after: Duration::from_millis(1500) }, 429, "1500 ms"),
    ] {
        assert_eq!(refusal.http_status(), status);
        assert_eq!(refusal.content_type(), "text/plain; charset=utf-8");
        assert!(refusal.http_body().contains(body) && refusal.http_body().ends_with('\n'), "{refusal}");
    }
    for (size, body) in [(0, "0\n"), (50, "50\n"), (u64::MAX, "18446744073709551615\n")] {
        let conflict = WitnessRefusal::Conflict { size };
        assert_eq!((conflict.http_status(), conflict.content_type()), (409, "text/x.tlog.size"));
        assert_eq!(conflict.http_body(), body);
    }
}

// Requests from the tests of the witness of the Go ecosystem (litewitness): log key, then in order old size, size,
// root, proof, signature (hex), and the status that is expected.
const SIGSUM_KEY: &str = "sigsum.org/v1/tree/4d6d8825a6bb689d459628312889dfbb0bcd41b5211d9e1ce768b0ff0309e562+\
    5202289b+Af/cLU2Y5BJNP+r3iMDC+av9eWCD0fBJVDfzAux5zxAP";
const SIZE_1: (u64, &str, &str) = (
    1,
    "2a00000000000000000000000000000000000000000000000000000000000000",
    "b7cf653aa9c565a1ca359db81bd3bc656ab2890c6ea4c0aec42295e80aa05049423505026434f987923ccdf07d440c152cd59e736e5914d8ada8d7a4d51b2106",
);
const SIZE_3: (u64, &str, &str) = (
    3,
    "45c088d4d939e9971298811f227d1295eaad57bbafae55cd71c171e7de48c25d",
    "655bb4871d15bc05032d67eece88900c4863a27f190393b99176391577f5def971b023d9a418c3226b7b7ea47b33686d9b3849451dadc6b07c007c595af1ea0a",
);
const SIZE_5: (u64, &str, &str) = (
    5,
    "42bb57ad06420afa4882c4a63ac6a1ec77480b330b2f20dfc53a0caa5f564e36",
    "0fc43899968b48b5150b0e8fe7ad07b17c21c7056a6fe381deb0cd19ece103d59b2119b5dbe5d54d8a1262ce67f01245c5898b4b56f747495804a17a2eec0f0c",
);
const HASH_1: &str = "2a01000000000000000000000000000000000000000000000000000000000000";
const HASH_2: &str = "2a02000000000000000000000000000000000000000000000000000000000000";
const HASH_3: &str = "2a03000000000000000000000000000000000000000000000000000000000000";
const HASH_4: &str = "2a04000000000000000000000000000000000000000000000000000000000000";

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn published_requests_get_the_published_statuses() {
    let log: LogVerifier = SIGSUM_KEY.parse().unwrap();
    let witness = Witness::new();
    let check = async |old: u64, (size, root, signature): (u64, &str, &str), proof: &[&str]| {
        let checkpoint = Checkpoint { origin: log.name().to_owned(), size, root: root.parse().unwrap() };
        let line = write_line(log.name(), log.key_id(), &unhex(signature));
        let note = format!("{}\n{line}\n", checkpoint.body());
        let proof = proof.iter().map(|hash| hash.parse().unwrap()).collect();
        let sent = AddCheckpoint { old, proof, note };
        let request = AddCheckpoint::parse(&sent.to_text()).unwrap();
        assert_eq!(request, sent);
        witness.add(request, log.clone()).await
    };
    assert_eq!(status(&check(0, SIZE_1, &[]).await), 200);
    let false_signature = SIZE_3.2.replace("ea0a", "ea0b");
    let falsely_signed = (SIZE_3.0, SIZE_3.1, false_signature.as_str());
    assert_eq!(status(&check(1, falsely_signed, &[HASH_1, HASH_2]).await), 403);
    assert_eq!(status(&check(1, SIZE_3, &[]).await), 422);
    let other = HASH_2.replace("00000000", "00000001");
    assert_eq!(status(&check(1, SIZE_3, &[HASH_1, &other]).await), 422);
    assert_eq!(status(&check(1, SIZE_3, &[HASH_1, HASH_2]).await), 200);
    let inner = "f9f50357e93def4078237b8aaea24ce1a3f5965a0f64ff26bebd99e30470d8b2";
    let stale = check(1, SIZE_5, &[HASH_1, inner, HASH_4]).await;
    assert_eq!(stale, Err(WitnessRefusal::Conflict { size: 3 }));
    let left = "c2088815d65f60dbfa594d4e96504ab169cb6084bf0c132ab7c521fd2e0eba41";
    assert_eq!(status(&check(3, SIZE_5, &[HASH_2, HASH_3, left, HASH_4]).await), 200);
    assert_eq!(witnessed(&witness.store.view(), log.name()).unwrap().unwrap().checkpoint().size, 5);
    assert_eq!(witness.evidence(), []);
}

#[tokio::test]
async fn a_growing_log_is_cosigned_and_remembered() {
    let history = History::new("entry", 40);
    let mut witness = Witness::new();
    assert_eq!(witness.newest(), None);
    let mut old = 0;
    for size in [0, 0, 1, 3, 3, 8, 32, 33, 40] {
        witness.clock.advance(Duration::from_secs(10));
        let line = witness.ask(&history, old, size).await.unwrap();
        let newest = witness.newest().unwrap();
        // The log's line first, then this witness's; nothing else.
        assert_eq!(newest.signature_lines(), [history.signed(size).signature_lines()[0].clone(), line]);
        assert_eq!(*newest.checkpoint(), history.checkpoint(size));
        assert_eq!(SignedCheckpoint::parse(newest.text(), &log_verifier()).unwrap(), newest);
        let cosignature = newest.cosigned_by(cosigner(0).verifier()).unwrap().unwrap();
        assert_eq!(cosignature.time, witness.clock.now());
        old = size;
        witness = witness.restart().await;
        assert_eq!(witness.newest(), Some(newest));
    }
}

#[tokio::test]
async fn the_same_checkpoint_gets_a_fresh_cosignature_that_is_never_dated_back() {
    let history = History::new("entry", 5);
    let witness = Witness::new();
    let time = |line: String| {
        let signed = history.signed(5).with_lines(&[line]).unwrap();
        signed.cosigned_by(cosigner(0).verifier()).unwrap().unwrap().time
    };
    assert_eq!(time(witness.ask(&history, 0, 5).await.unwrap()), seconds(5_000));
    witness.clock.advance(Duration::from_millis(7_500));
    assert_eq!(time(witness.ask(&history, 5, 5).await.unwrap()), seconds(5_007));
    witness.clock.set(seconds(100));
    assert_eq!(time(witness.ask(&history, 5, 5).await.unwrap()), seconds(5_007));
    let with_proof = AddCheckpoint { proof: vec![history.leaf(0)], ..request(&history, 5, 5) };
    assert_eq!(status(&witness.add(with_proof, log_verifier()).await), 422);
}

#[tokio::test]
async fn every_refusal_has_its_status_and_changes_nothing() {
    let history = History::new("entry", 20);
    let fork = history.forked(8, "other", 20);
    let witness = Witness::new();
    let good = request(&history, 10, 15);
    let sign =
        |checkpoint: Checkpoint| SignedCheckpoint::sign(checkpoint, &log_signing_key()).text().to_owned();
    let with_note = |note: String| AddCheckpoint { note, ..good.clone() };
    let body = history.checkpoint(15).body();
    let stranger = SigningKey::from_seed(&[99; 32]);
    let own_line = history.signed(15).signature_lines()[0].clone();
    let false_line = signature_line(ORIGIN, &log_signing_key(), "something else\n");
    let refused = |_: u64| WitnessRefusal::Conflict { size: 10 };
    // A request, the status, and a part of the reason.
    let table: Vec<(&str, AddCheckpoint, u16, &str)> = vec![
        ("other origin", with_note(good.note.replace(ORIGIN, "other")), 404, ""),
        ("empty note", with_note(String::new()), 404, ""),
        (
            "stranger's signature",
            with_note(format!("{body}\n{}\n", signature_line(ORIGIN, &stranger, &body))),
            403,
            "no signature",
        ),
        (
            "cosignature instead",
            with_note(format!("{body}\n{}\n", cosigner(1).cosign(&history.checkpoint(15), seconds(9)))),
            403,
            "no signature",
        ),
        ("false signature", with_note(format!("{body}\n{false_line}\n")), 403, "does not verify"),
        (
            "a false one beside a good one",
            with_note(format!("{body}\n{own_line}\n{false_line}\n")),
            403,
            "does not verify",
        ),
        (
            "body changed under the signature",
            with_note(good.note.replace("\n15\n", "\n16\n")),
            403,
            "does not verify",
        ),
        ("no signature line", with_note(format!("{body}\n")), 400, "malformed"),
        ("broken signature line", with_note(format!("{body}\n{own_line}x\n")), 400, "base64"),
        (
            "extension line",
            with_note(format!(
                "{body}more\n\n{}\n",
                signature_line(ORIGIN, &log_signing_key(), &format!("{body}more\n"))
            )),
            400,
            "three lines",
        ),
        (
            "17 lines",
            with_note(format!("{body}\n{}", format!("{own_line}\n").repeat(17))),
            400,
            "17 signature lines",
        ),
        ("old above new", request(&history, 16, 15), 400, "larger"),
        (
            "old above new comes before a conflict",
            AddCheckpoint { old: 4, ..request(&history, 0, 3) },
            400,
            "larger",
        ),
        ("old below", request(&history, 9, 15), 409, "size 10"),
        ("old above", request(&history, 11, 15), 409, "size 10"),
        ("old 0", request(&history, 0, 15), 409, "size 10"),
        ("a smaller checkpoint", request(&history, 5, 9), 409, "size 10"),
        (
            "conflict comes before the proof",
            AddCheckpoint { proof: Vec::new(), ..request(&history, 9, 15) },
            409,
            "size 10",
        ),
        ("size 0 of a log that has entries", request(&history, 0, 0), 409, "size 10"),
        ("no proof", AddCheckpoint { proof: Vec::new(), ..good.clone() }, 422, "0 hashes"),
        ("proof cut", AddCheckpoint { proof: good.proof[1..].to_vec(), ..good.clone() }, 422, "are needed"),
        (
            "proof with one more",
            AddCheckpoint { proof: [good.proof.clone(), vec![history.leaf(0)]].concat(), ..good.clone() },
            422,
            "are needed",
        ),
        (
            "proof swapped",
            AddCheckpoint { proof: good.proof.iter().rev().copied().collect(), ..good.clone() },
            422,
            "lead to the root",
        ),
        (
            "proof of another size",
            AddCheckpoint { proof: history.consistency(10, 16), ..good.clone() },
            422,
            "",
        ),
        ("another history", request(&fork, 10, 15), 422, "lead to the root"),
        ("another history, size as cosigned", request(&fork, 10, 10), 422, "lead to the root"),
        (
            "same checkpoint with a proof",
            AddCheckpoint { proof: good.proof.clone(), ..request(&history, 10, 10) },
            422,
            "0 are needed",
        ),
    ];
    witness.ask(&history, 0, 10).await.unwrap();
    let before = witness.newest();
    for (case, request, expected, reason) in table {
        let answer = witness.add(request, log_verifier()).await;
        let refusal = answer.clone().unwrap_err();
        assert_eq!(status(&answer), expected, "{case}: {refusal}");
        assert!(refusal.to_string().contains(reason), "{case}: {refusal}");
        assert_eq!(witness.newest(), before, "{case}");
    }
    assert_eq!(witness.ask(&history, 9, 12).await, Err(refused(10)));
    assert_eq!(status(&witness.add(good, log_verifier()).await), 200);

    // Before the first cosignature, and after one of the empty log.
    let fresh = Witness::new();
    for round in 0..2 {
        let with_proof = AddCheckpoint { proof: vec![history.leaf(0)], ..request(&history, 0, 7) };
        let not_empty = Checkpoint { root: history.leaf(0), ..history.checkpoint(0) };
        let false_empty = AddCheckpoint { old: 0, proof: Vec::new(), note: sign(not_empty) };
        for (request, expected) in [
            (with_proof, 422),
            (false_empty, 422),
            (request(&history, 3, 7), 409),
            (request(&history, 1, 0), 400),
        ] {
            assert_eq!(status(&fresh.add(request, log_verifier()).await), expected, "round {round}");
            assert_eq!(fresh.size(), 0);
        }
        fresh.ask(&history, 0, 0).await.unwrap();
    }
    assert_eq!(status(&fresh.ask(&history, 0, 7).await), 200);
}

#[tokio::test]
async fn two_roots_at_one_size_are_kept_as_evidence_whatever_the_answer() {
    let history = History::new("entry", 20);
    let witness = Witness::new();
    witness.ask(&history, 0, 10).await.unwrap();
    // A false path proves nothing against the log: anybody can send one.
    let fork = history.forked(8, "other", 20);
    assert_eq!(status(&witness.ask(&fork, 10, 15).await), 422);
    assert_eq!(witness.evidence(), []);

    let evidence = |fork: &History, size: u64| Evidence::Checkpoints {
        kept: history.signed(size).text().to_owned(),
        refused: fork.signed(size).text().to_owned(),
    };
    // Also where the answer is a conflict, and in whatever company the log's line comes.
    let note = cosigned(&fork.signed(10), [3, 4]).text().to_owned();
    let contradiction = AddCheckpoint { old: 3, proof: Vec::new(), note };
    assert_eq!(status(&witness.add(contradiction, log_verifier()).await), 409);
    assert_eq!(witness.evidence(), [evidence(&fork, 10)]);
    // Once for each size: a log that says a thousand things does not fill the disk.
    for number in 0..5 {
        let another = history.forked(8, &format!("other {number}"), 20);
        assert_eq!(status(&witness.ask(&another, 10, 10).await), 422);
    }
    assert_eq!(witness.evidence(), [evidence(&fork, 10)]);
    witness.ask(&history, 10, 15).await.unwrap();
    assert_eq!(status(&witness.ask(&fork, 15, 15).await), 422);
    let kept = witness.evidence();
    assert!(kept.len() == 2 && kept.contains(&evidence(&fork, 15)), "{kept:?}");
    for kept in kept {
        let Evidence::Checkpoints { kept, refused } = kept else { panic!("{kept:?}") };
        crate::ForkProof::of_checkpoints(log_verifier(), &kept, &refused).unwrap();
    }
}

#[tokio::test]
async fn logs_are_witnessed_apart() {
    let history = History::new("entry", 9);
    let witness = Witness::new();
    let key = SigningKey::from_seed(&[8; 32]);
    let other = LogVerifier::new("other", key.verifying_key()).unwrap();
    let checkpoint = Checkpoint { origin: "other".to_owned(), ..history.checkpoint(4) };
    let note = SignedCheckpoint::sign(checkpoint, &key).text().to_owned();
    witness.ask(&history, 0, 9).await.unwrap();
    let request = AddCheckpoint { old: 0, proof: Vec::new(), note };
    assert_eq!(status(&witness.add(request.clone(), log_verifier()).await), 404);
    witness.add(request, other).await.unwrap();
    assert_eq!(witness.size(), 9);
    assert_eq!(witnessed(&witness.store.view(), "other").unwrap().unwrap().checkpoint().size, 4);
    assert_eq!(witnessed(&witness.store.view(), "oth").unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_requests_in_flight_never_roll_the_witness_back() {
    let honest = Arc::new(History::new("entry", 64));
    let fork = Arc::new(honest.forked(3, "other", 64));
    let witness = Arc::new(Witness::new());
    // Both histories are the log's own signatures; they agree up to size 3.
    let requests: Vec<_> = (0..1_000_u64)
        .map(|n| {
            let history = if n % 3 == 0 { &fork } else { &honest };
            // The log grows as they come in, with some disorder; nobody knows what the others achieve meanwhile.
            let size = n * 60 / 1_000 + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 5;
            request(history, size.saturating_sub(n % 4), size)
        })
        .collect();

    let tasks: Vec<_> = requests
        .into_iter()
        .map(|mut request| {
            let (witness, honest, fork) = (witness.clone(), honest.clone(), fork.clone());
            tokio::spawn(async move {
                let mut log = Vec::new();
                // Submitters start again from the size in a 409.
                for _ in 0..4 {
                    let sent = request.clone();
                    let (before, answer, after) = witness
                        .store
                        .transact("test", move |tx| -> Result<_, LedgerError> {
                            let size = |tx: &Tx<'_>| {
                                Ok::<_, LedgerError>(
                                    witnessed(tx, ORIGIN)?.map_or(0, |w| w.checkpoint().size),
                                )
                            };
                            let before = size(tx)?;
                            let answer =
                                add_checkpoint(tx, &sent, &log_verifier(), &cosigner(0), seconds(1))?;
                            Ok((before, answer, size(tx)?))
                        })
                        .await
                        .unwrap();
                    log.push((before, request.note.clone(), answer.clone(), after));
                    let Err(WitnessRefusal::Conflict { size: from }) = answer else { break };
                    let size = SignedCheckpoint::stored(&request.note).unwrap().checkpoint().size;
                    let history = if request.note == honest.signed(size).text() { &honest } else { &fork };
                    if from > size {
                        break;
                    }
                    request = self::request(history, from, size);
                }
                log
            })
        })
        .collect();

    let mut roots: BTreeMap<u64, String> = BTreeMap::new();
    let (mut cosigned, mut refused) = (0, 0);
    let mut steps = Vec::new();
    for task in tasks {
        for (before, note, answer, after) in task.await.unwrap() {
            let offered = SignedCheckpoint::parse(&note, &log_verifier()).unwrap();
            let Checkpoint { size, root, .. } = *offered.checkpoint();
            match answer {
                Ok(line) => {
                    cosigned += 1;
                    assert_eq!(after, size);
                    let signed = offered.with_lines(&[line]).unwrap();
                    assert!(signed.cosigned_by(cosigner(0).verifier()).unwrap().is_some());
                    let same = roots.entry(size).or_insert_with(|| root.to_string());
                    assert_eq!(*same, root.to_string(), "two roots cosigned at size {size}");
                }
                Err(_) => {
                    refused += 1;
                    assert_eq!(before, after);
                }
            }
            assert!(before <= after, "rolled back from {before} to {after}");
            steps.push((before, after));
        }
    }
    assert!(cosigned > 20 && refused > 200, "{cosigned} cosigned, {refused} refused");
    // The sizes form one chain from 0 to the newest: nobody saw a size that another transaction had replaced.
    let mut reached = 0;
    steps.sort_unstable();
    for (before, after) in steps.into_iter().filter(|(before, after)| before != after) {
        assert_eq!(before, reached);
        reached = after;
    }
    assert_eq!(witness.size(), reached);
    // Every root that was cosigned belongs to one history.
    let all_of = |history: &History| {
        roots.iter().all(|(size, root)| *root == history.checkpoint(*size).root.to_string())
    };
    assert!(all_of(&honest) || all_of(&fork), "{roots:?}");
}

/// One step of a submitter: which history, from where to where, and whether the proof is the right one.
fn step() -> impl Strategy<Value = (bool, u64, u64, bool)> {
    (any::<bool>(), 0..12_u64, 0..12_u64, prop::bool::weighted(0.8))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Against a model that keeps the leaves: a witness cosigns exactly what extends what it cosigned before.
    #[test]
    fn a_witness_cosigns_exactly_what_extends_its_checkpoint(steps in prop::collection::vec(step(), 1..40)) {
        let histories = {
            let honest = History::new("entry", 12);
            let fork = honest.forked(5, "other", 12);
            [honest, fork]
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let witness = Witness::new();
            let mut held: Option<(usize, u64)> = None;
            for (forked, old, size, right) in steps {
                let which = usize::from(forked);
                let mut request = request(&histories[which], old, size);
                if !right {
                    request.proof.push(histories[0].leaf(0));
                }
                let answer = witness.add(request, log_verifier()).await;
                let held_size = held.map_or(0, |(_, size)| size);
                let extends = held.is_none_or(|(of, at)| of == which || at <= 5);
                let expected = match () {
                    () if old > size => 400,
                    () if old != held_size => 409,
                    () if !right || !extends => 422,
                    () => 200,
                };
                prop_assert_eq!(status(&answer), expected, "{} to {} after {:?}", old, size, held);
                if expected == 200 {
                    held = Some((which, size));
                }
                let held_now = witness.newest().map(|newest| newest.checkpoint().clone());
                prop_assert_eq!(held_now, held.map(|(of, size)| histories[of].checkpoint(size)));
            }
            Ok(())
        })?;
    }

    #[test]
    fn request_reader_never_panics_and_reads_what_it_writes(
        text in "(old [0-9]{0,22}\n)?[ -~\n]{0,120}",
        at in 0..EXAMPLE.len(),
        cut in 0..60_usize,
    ) {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, text.bytes());
        for text in [text, String::from_utf8_lossy(&bytes).into_owned()] {
            if let Ok(request) = AddCheckpoint::parse(&text) {
                prop_assert_eq!(request.to_text(), text);
            }
        }
    }
}
