use huitong_proof::{Anchor, ChannelHead, Draft, Kind, Map, Signing, SigningKey, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::Checkpoint;
use crate::witness_fixture::*;

// Made outside this workspace (Python, cryptography): the log of seed 7, histories that differ in one entry.
const TWO_ROOTS: &str = "huitong/fork-proof/v1
form checkpoints
log example/huitong-log/1+a348341d+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs

example/huitong-log/1
1
iipcm3aIJ95alVLDigRMZpWcaPbS8htSYK9U0vh9uCc=

\u{2014} example/huitong-log/1 o0g0HZsavA1U7hm536ze40G207zmDohNndN6yvrHY5g/Yjuee/3DxPcWGxbVEeeEa2d2J5BjtsfhohTez7FpdcXh3Qg=

example/huitong-log/1
1
AQ9LWesgwsHXKd010ksOTI+qm01znoZmZno9ppX8Y6U=

\u{2014} example/huitong-log/1 o0g0HVS6UqyRaCSwfbqDIzCRG/TpZ1jhAfhqlbivHyYfoqFs9wuHHRtUzMrDcPm8GGXMPrVWrskiyMPa5iFjG80JJAk=
";
const TWO_ENTRIES: &str = "huitong/fork-proof/v1
form entry
log example/huitong-log/1+a348341d+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs
index 1
leaf a qxq38Hx8j+Dv9LpvqlPH5EEukaWZFT6KpOAb7s5beCU=
path a 0Nc2CrefWKseHj/mStd+LqC8B+NrX0btIiPt2SmN+ek=
path a Zx8UbF5HHooag6PCFM5LqQe486WIjRTMjNPOdbsS75Q=
leaf b yf08O0P6Q5sG+iXKD/hrLA+FZ4rdaYb18LqLBaCukuM=
path b 0Nc2CrefWKseHj/mStd+LqC8B+NrX0btIiPt2SmN+ek=
path b Fn6xZD9sPWKLwgCo+qZLMAqFlh0MMf5ytM55jhjCpmM=

example/huitong-log/1
3
Wqx3HImawpLnS/Gv4ubjAvi1WIOy0b8Ze0amvqbavKk=

\u{2014} example/huitong-log/1 o0g0HSFZ/EajWnIYsXn/MBYeSMJ2t9SDHBsbqiNskSzlqckZRWxq4i37xQ42jxoU6lEs5Ibz2jH5NgVhvMDpYmB4AA8=

example/huitong-log/1
4
uLYHpObdvQHyrF7itriFvOfy6R14i73bArK7hFTOq2s=

\u{2014} example/huitong-log/1 o0g0Hep6ZsyYoOVat0zbjGVfBq+kZVobHpOA3CkfS1J8mUXKQkJ6fSB71qgKZlWGgDPmgJ9SGDX8Iyq2XlYkmFwKygU=
";

fn key() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

fn space() -> SpaceId {
    SpaceId::from_name("test")
}

/// A statement of this issuer with that place on its channel; `number` tells statements apart.
fn statement(issuer: &str, audience: &str, channel: ChannelHead, number: u64) -> Statement {
    let draft = Draft {
        kind: Kind::Offer,
        audience: audience.to_owned(),
        subject: [5; 16],
        agreement: Digest::ZERO,
        reference: Digest::ZERO,
        detail: Map::new().uint(1, number),
    };
    let with = Signing {
        key: &key(),
        space: &space(),
        issuer,
        channel,
        anchor: Anchor::none(),
        time: Timestamp::from_millis(1_700_000_000_000),
        salt: [9; 16],
    };
    Statement::sign(draft, with).unwrap()
}

fn on_channel(seq: u64, prev: Digest, number: u64) -> Statement {
    statement("ISSUER", "AUDIENCE", ChannelHead { seq, prev }, number)
}

fn of_statements(a: &Statement, b: &Statement) -> Result<ForkProof, ForkProofError> {
    ForkProof::of_statements(key().verifying_key(), space(), a.bytes(), b.bytes())
}

fn two_statements() -> ForkProof {
    of_statements(&on_channel(4, Digest::ZERO, 1), &on_channel(4, Digest::ZERO, 2)).unwrap()
}

/// One proof of each form, with and without credential.
fn proofs() -> Vec<ForkProof> {
    let mut proofs =
        vec![ForkProof::parse(TWO_ROOTS).unwrap(), ForkProof::parse(TWO_ENTRIES).unwrap(), two_statements()];
    for proof in proofs.clone() {
        proofs.push(proof.with_credential(b"who this is".to_vec()));
    }
    proofs
}

fn leaf(history: &History, index: u64, size: u64) -> ProvenLeaf {
    ProvenLeaf { leaf: history.leaf(index), path: history.inclusion(index, size) }
}

#[test]
fn golden_proofs_verify_and_say_what_was_signed() {
    for (text, sentence) in [
        (
            TWO_ROOTS,
            "log example/huitong-log/1 signed two roots for size 1: \
             8a2a5c9b768827de5a9552c38a044c66959c68f6d2f21b5260af54d2f87db827 and \
             010f4b59eb20c2c1d729dd35d24b0e4c8faa9b4d739e8666667a3da695fc63a5",
        ),
        (
            TWO_ENTRIES,
            "log example/huitong-log/1 signed two histories: at index 1 size 3 holds the leaf \
             ab1ab7f07c7c8fe0eff4ba6faa53c7e4412e91a599153e8aa4e01beece5b7825, size 4 the leaf \
             c9fd3c3b43fa439b06fa25ca0ff86b2c0f85678add6986f5f0ba8b05a0ae92e3",
        ),
    ] {
        let proof = ForkProof::parse(text).unwrap();
        assert_eq!(proof.verify().as_deref(), Ok(sentence));
        assert_eq!(proof.to_text(), text);
        assert_eq!((proof.log(), proof.credential()), (Some(&log_verifier()), None));
    }
}

/// The encoding of statements is frozen elsewhere; here only what is around them.
#[test]
fn golden_statements() {
    let (a, b) = (on_channel(4, Digest::ZERO, 1), on_channel(4, Digest::ZERO, 2));
    let proof = two_statements();
    let sentence =
        format!("ISSUER signed two statements with number 4 to AUDIENCE: {} and {}", a.digest(), b.digest());
    assert_eq!(proof.verify(), Ok(sentence));
    assert_eq!(
        proof.to_text(),
        format!(
            "huitong/fork-proof/v1\nform statements\nkey iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=\n\
             space {}\nstatement a {}\nstatement b {}\n",
            space(),
            STANDARD.encode(a.bytes()),
            STANDARD.encode(b.bytes())
        )
    );
    assert_eq!(proof.log(), None);
}

#[test]
fn proofs_are_read_as_they_are_written() {
    for proof in proofs() {
        let text = proof.to_text();
        assert!(text.len() < MAX_FORK_PROOF_BYTES);
        let read = ForkProof::parse(&text).unwrap();
        assert_eq!(read, proof);
        assert_eq!(read.credential().is_some(), text.contains("\ncredential d2hvIHRoaXMgaXM=\n"));
        assert_eq!(read.verify().unwrap(), proof.verify().unwrap());
    }
}

#[test]
fn every_mutation_is_refused() {
    for proof in proofs().into_iter().take(3) {
        let text = proof.to_text();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] ^= 1 << bit;
                let Ok(flipped) = String::from_utf8(bytes) else { continue };
                let verified = ForkProof::parse(&flipped).and_then(|proof| proof.verify());
                assert!(verified.is_err(), "byte {at}, bit {bit}: {flipped}");
            }
        }
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            assert!(ForkProof::parse(&text[..end]).is_err(), "cut at {end}");
        }
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for at in 0..lines.len() {
            let without = [&lines[..at], &lines[at + 1..]].concat().concat();
            let twice = [&lines[..=at], &lines[at..]].concat().concat();
            let mut swapped = lines.clone();
            swapped.swap(at, (at + 1) % lines.len());
            let swapped = swapped.concat();
            for other in [without, twice, swapped].iter().filter(|other| **other != text) {
                let verified = ForkProof::parse(other).and_then(|proof| proof.verify());
                assert!(verified.is_err(), "line {at}: {other}");
            }
        }
    }
    // In the credential every change gives another credential, which the reader has to check anyway.
    let with = proofs().remove(3);
    let text = with.to_text().replace("d2hvIHRoaXMgaXM=", "d2hvIHRoaXMgaXQ=");
    let read = ForkProof::parse(&text).unwrap();
    assert_eq!(read.credential(), Some(&b"who this it"[..]));
}

#[test]
fn two_checkpoints_exclude_each_other_only_with_one_size_and_two_roots() {
    let history = History::new("entry", 9);
    let fork = history.forked(4, "other", 9);
    let of = |a: &SignedCheckpoint, b: &SignedCheckpoint| {
        ForkProof::of_checkpoints(log_verifier(), a.text(), b.text())
    };
    // Lines of witnesses are left out.
    let proof = of(&cosigned(&history.signed(9), [1, 2]), &fork.signed(9)).unwrap();
    assert_eq!(proof, of(&history.signed(9), &fork.signed(9)).unwrap());
    assert_eq!(proof.to_text().matches('\u{2014}').count(), 2);

    let none = |why| Err(ForkProofError::NoContradiction { why });
    assert_eq!(of(&history.signed(9), &history.signed(9)), none("the checkpoints have the same root"));
    assert_eq!(of(&history.signed(3), &fork.signed(3)), none("the checkpoints have the same root"));
    assert_eq!(of(&history.signed(9), &fork.signed(8)), none("the checkpoints have different sizes"));
    let stranger = SignedCheckpoint::sign(fork.checkpoint(9), &key());
    assert!(matches!(
        of(&history.signed(9), &stranger),
        Err(ForkProofError::Note(NoteError::NotSigned { .. }))
    ));
    let elsewhere = Checkpoint { origin: "other".to_owned(), ..fork.checkpoint(9) };
    let elsewhere = SignedCheckpoint::sign(elsewhere, &log_signing_key());
    assert!(matches!(of(&history.signed(9), &elsewhere), Err(ForkProofError::Note(_))));
    // A proof with a second line is not one that this format holds.
    let ForkProof::Checkpoints { log, b, .. } = proof else { panic!() };
    let cosigned = cosigned(&history.signed(9), [1]).text().to_owned();
    let proof = ForkProof::Checkpoints { log, a: cosigned, b, credential: None };
    assert!(proof.verify().is_err());
    assert!(ForkProof::parse(&proof.to_text()).and_then(|proof| proof.verify()).is_err());
}

#[test]
fn two_entries_exclude_each_other_at_one_index_under_any_two_sizes() {
    let history = History::new("entry", 20);
    let fork = history.forked(5, "other", 20);
    for (size_a, size_b) in [(6, 6), (6, 20), (20, 6), (9, 16), (8, 7)] {
        let (a, b) = (history.signed(size_a), fork.signed(size_b));
        for index in 0..size_a.min(size_b) {
            let (in_a, in_b) = (leaf(&history, index, size_a), leaf(&fork, index, size_b));
            let made = ForkProof::of_entry(log_verifier(), index, (a.text(), in_a), (b.text(), in_b));
            if index >= 5 {
                let made = made.unwrap();
                assert_eq!(ForkProof::parse(&made.to_text()), Ok(made));
            } else {
                let why = "both checkpoints hold the same entry at this index";
                assert_eq!(made, Err(ForkProofError::NoContradiction { why }));
            }
        }
    }
    let (a, b) = (history.signed(9), fork.signed(16));
    let (in_a, in_b) = (leaf(&history, 6, 9), leaf(&fork, 6, 16));
    let make = |index: u64, in_a: &ProvenLeaf, in_b: &ProvenLeaf| {
        let (a, b) = ((a.text(), in_a.clone()), (b.text(), in_b.clone()));
        ForkProof::of_entry(log_verifier(), index, a, b)
    };
    make(6, &in_a, &in_b).unwrap();
    let refused = |made: Result<ForkProof, ForkProofError>, which: char| {
        assert!(matches!(made, Err(ForkProofError::Inclusion { which: w, .. }) if w == which), "{made:?}");
    };
    refused(make(7, &in_a, &in_b), 'a');
    refused(make(9, &in_a, &in_b), 'a');
    refused(make(6, &in_b, &in_b), 'a');
    refused(make(6, &in_a, &in_a), 'b');
    refused(make(6, &ProvenLeaf { leaf: in_b.leaf, ..in_a.clone() }, &in_b), 'a');
    refused(make(6, &in_a, &ProvenLeaf { path: in_b.path[1..].to_vec(), ..in_b.clone() }), 'b');
}

#[test]
fn two_statements_exclude_each_other_with_one_number_or_a_broken_link() {
    let digest = |number: u8| Digest::sha256(&[number]);
    let first = on_channel(4, digest(1), 1);
    let follows = on_channel(5, first.digest(), 2);
    let broken = on_channel(5, digest(2), 3);
    let of_seq = |why| Err(ForkProofError::NoContradiction { why });

    for (a, b) in [(&first, &broken), (&broken, &first)] {
        let sentence = of_statements(a, b).unwrap().verify().unwrap();
        assert!(sentence.starts_with("ISSUER signed statement 5 although it does not follow"), "{sentence}");
    }
    assert_eq!(of_statements(&first, &first), of_seq("it is the same statement twice"));
    for (a, b) in [(&first, &follows), (&follows, &first)] {
        assert_eq!(of_statements(a, b), of_seq("the later statement names the earlier as its predecessor"));
    }
    let far = on_channel(6, digest(3), 4);
    assert_eq!(of_statements(&first, &far), of_seq("the statements are not neighbours on their channel"));
    let last = on_channel(u64::MAX, digest(3), 4);
    assert_eq!(of_statements(&last, &first), of_seq("the statements are not neighbours on their channel"));
    assert_eq!(of_statements(&last, &on_channel(u64::MAX, digest(3), 5)).map(|_| ()), Ok(()));
    let channel = ChannelHead { seq: 4, prev: digest(1) };
    for (issuer, audience) in [("ISSUER", "OTHER"), ("OTHER", "AUDIENCE")] {
        let other = statement(issuer, audience, channel, 9);
        assert_eq!(of_statements(&first, &other), of_seq("the statements are on different channels"));
    }

    let same = on_channel(4, digest(1), 9);
    let with =
        |key: VerifyingKey, space: SpaceId| ForkProof::of_statements(key, space, first.bytes(), same.bytes());
    with(key().verifying_key(), space()).unwrap();
    assert!(matches!(
        with(log_signing_key().verifying_key(), space()),
        Err(ForkProofError::Statement(StatementError::KeyId { .. }))
    ));
    assert!(matches!(
        with(key().verifying_key(), SpaceId::from_name("other")),
        Err(ForkProofError::Statement(StatementError::Signature { .. }))
    ));
}

#[test]
fn malformed_files_are_refused() {
    let statements = two_statements().to_text();
    let check = |text: String, reason: &str| {
        let refused = ForkProof::parse(&text).unwrap_err();
        assert!(refused.to_string().contains(reason), "{text}: {refused}");
    };
    check(String::new(), "newline");
    check("x".repeat(MAX_FORK_PROOF_BYTES + 1), "too long");
    check(TWO_ROOTS.replace("/v1\nform", "/v2\nform"), "first line");
    check(format!("\n{TWO_ROOTS}"), "first line");
    check(TWO_ROOTS.replace("form checkpoints", "form Checkpoints"), "form is unknown");
    check(TWO_ROOTS.replace("form checkpoints\n", ""), "names its form");
    check(TWO_ROOTS.replace("form checkpoints", "form statements"), "where none belong");
    check(TWO_ROOTS.replace("form checkpoints", "form entry"), "no index");
    check(statements.replace("form statements", "form checkpoints"), "where none belong");
    check(TWO_ENTRIES.replace("form entry", "form checkpoints"), "does not belong");
    check(TWO_ENTRIES.replace("index 1", "index 01"), "plain decimal");
    check(TWO_ENTRIES.replace("leaf b ", "leaf c "), "no leaf");
    check(TWO_ENTRIES.replace("path b Fn6", "path c Fn6"), "does not belong");
    let path = "path a 0Nc2CrefWKseHj/mStd+LqC8B+NrX0btIiPt2SmN+ek=\n";
    check(TWO_ENTRIES.replace(path, &path.repeat(63)), "more than 63");
    check(TWO_ROOTS.replace("log example", "log  example"), "not allowed");
    check(TWO_ROOTS.replace("+a348341d+", "+a348341e+"), "key id");
    check(format!("{TWO_ROOTS}\n"), "malformed");
    check(format!("{TWO_ROOTS}more\n\nmore\n"), "two checkpoints");
    check(TWO_ROOTS.trim_end().rsplit_once("\n\n").unwrap().0.to_owned() + "\n", "two checkpoints");
    check(statements.replace("\nstatement b", "\n\nstatement b"), "where none belong");
    check(format!("{statements}more\n"), "does not belong");
    check(statements.trim_end().to_owned(), "newline");
    check(statements.replace("key i", "key  i"), "key is not");
    check(statements.replace("key iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=", "key AQ=="), "32 bytes");
    check(
        statements.replace(
            "key iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=",
            &format!(
                "key {}",
                hash_text(&{
                    let mut identity = [0; 32];
                    identity[0] = 1;
                    Digest::from_bytes(identity)
                })
            ),
        ),
        "mixed order",
    );
    check(statements.replace(&space().to_string(), &space().to_string().to_uppercase()), "64 hex digits");
    check(statements.replace("statement a ", "statement a !"), "canonical base64");
    let credential = |bytes: usize| proofs().remove(2).with_credential(vec![1; bytes]).to_text();
    check(credential(0), "16 KiB");
    check(credential(MAX_STATEMENT_BYTES + 1), "16 KiB");
    assert!(ForkProof::parse(&credential(MAX_STATEMENT_BYTES)).is_ok());
}

proptest! {
    #[test]
    fn reader_never_panics_and_reads_what_it_writes(
        which in 0..6_usize,
        text in "(form|log|index|leaf a|path b|key|space|statement a|credential)? ?\\PC{0,40}\n?",
        at in any::<prop::sample::Index>(),
        cut in 0..60_usize,
    ) {
        let mut bytes = proofs()[which].to_text().into_bytes();
        let at = at.index(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, text.bytes());
        for text in [text, String::from_utf8_lossy(&bytes).into_owned()] {
            if let Ok(proof) = ForkProof::parse(&text) {
                prop_assert_eq!(proof.to_text(), text);
                let _ = proof.verify();
            }
        }
    }
}
