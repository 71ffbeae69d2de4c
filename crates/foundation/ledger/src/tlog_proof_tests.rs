use proptest::prelude::*;

use super::*;
use crate::policy::QuorumPolicy;
use crate::witness_fixture::*;
use crate::{Checkpoint, WitnessVerifier};

// Made outside this workspace (Python, cryptography): the log of seed 7, the witness of seed 9, entries one, two,
// three.
const GOLDEN: &str = "c2sp.org/tlog-proof@v1
extra aHVpdG9uZw==
index 1
0Nc2CrefWKseHj/mStd+LqC8B+NrX0btIiPt2SmN+ek=
Zx8UbF5HHooag6PCFM5LqQe486WIjRTMjNPOdbsS75Q=

example/huitong-log/1
3
Wqx3HImawpLnS/Gv4ubjAvi1WIOy0b8Ze0amvqbavKk=

\u{2014} example/huitong-log/1 o0g0HSFZ/EajWnIYsXn/MBYeSMJ2t9SDHBsbqiNskSzlqckZRWxq4i37xQ42jxoU6lEs5Ibz2jH5NgVhvMDpYmB4AA8=
\u{2014} example/huitong-witness/1 \
B35V6QAAAABlU/EA/lIVyUV0R++M+0yk9IJ596eSOXDGhRIyyG9I/9LdUH+bTwbHMqmDbfdtsChvKyiDsqY5p+QNTCUFXw0fHrodAg==
";
const WITNESS: &str = "example/huitong-witness/1+077e55e9+BP0XJDhaoMdbZPt4zWAvodmR/ev3axPFjtcC6sg16fYY";

#[test]
fn golden_proof() {
    let proof = TlogProof::parse(GOLDEN).unwrap();
    assert_eq!((proof.extra.as_slice(), proof.index, proof.path.len()), (&b"huitong"[..], 1, 2));
    assert_eq!(proof.to_text(), GOLDEN);
    let signed = proof.verify(b"two", &log_verifier()).unwrap();
    assert_eq!(signed.text(), proof.checkpoint);
    let witness: WitnessVerifier = WITNESS.parse().unwrap();
    let quorum = QuorumPolicy::single("w", witness).evaluate(&signed).unwrap();
    assert_eq!((quorum.satisfied, quorum.reached), (true, Some(seconds(1_700_000_000))));
    for other in [&b"one"[..], b"three", b"Two", b""] {
        let refused = TlogProofError::Inclusion(ProofError::WrongRoot { size: 3 });
        assert_eq!(proof.verify(other, &log_verifier()), Err(refused));
    }
}

/// An entry of a public log, from the tests of Project Oak; the checkpoint is signed by the log of these tests.
#[test]
fn published_path_verifies() {
    let path = [
        "fGRlLyuz+L9Jb8+uTSut/2aVc4z7fKFW+clvsb6xjEM=",
        "F6LautOHD5eppkWC0xn/lz00X5g2yLlZAkl2jCI/wdE=",
        "qH7OJxFNup+TDvJuohd2HphKVngfMeMzUK8QChEDcas=",
        "+Y3g758yXtPCRh/eqhLTA3bdcx+cCV1Uah0JdgB0YEs=",
        "vq8cJSjj8dPVmFBRUqDLlaMqW6aAYR2GKugVhgudXLs=",
        "J0z3X5qTb9WFC1gABhVFx0bW1rVZRL+DAoBL2e2h4G4=",
        "NmSbYg25xNFzTRerIsF3HbEMyTIDqW87AQd9ekzopE8=",
        "L8BZipjURnkctkjJtGJs+YyTXMssvNKA7+a8nV2JT/s=",
        "pva4RFzCejMkVMVmYc93As2lbk7WAyrw58TvrzEOjNc=",
    ];
    let root = read_hash("QYfrD7XAd4qUHbRBs4dDyDZwpZN4M/cccXr2G56pxkY=").unwrap();
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: 76_959, root };
    let signed = SignedCheckpoint::sign(checkpoint, &log_signing_key());
    let text = format!("c2sp.org/tlog-proof@v1\nindex 76958\n{}\n\n{}", path.join("\n"), signed.text());
    let proof = TlogProof::parse(&text).unwrap();
    assert_eq!(proof.to_text(), text);
    assert_eq!(proof.verify(b"hello tesseroak\n", &log_verifier()).unwrap(), signed);
    assert!(proof.verify(b"hello tesseroak", &log_verifier()).is_err());
}

#[test]
fn every_flipped_bit_is_refused_or_counts_for_nothing() {
    let witness: WitnessVerifier = WITNESS.parse().unwrap();
    let policy = QuorumPolicy::single("w", witness);
    let extra = GOLDEN.find("extra ").unwrap() + 6..GOLDEN.find("\nindex").unwrap();
    for at in 0..GOLDEN.len() {
        for bit in 0..8 {
            let mut bytes = GOLDEN.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let Ok(proof) = TlogProof::parse(&text) else { continue };
            assert_eq!(proof.to_text(), text, "one text for one proof");
            let Ok(signed) = proof.verify(b"two", &log_verifier()) else { continue };
            // Nothing vouches for the extra data; a witness's line may stop to be its line.
            let satisfied = policy.evaluate(&signed).is_ok_and(|quorum| quorum.satisfied);
            assert_eq!(satisfied, extra.contains(&at), "byte {at}, bit {bit}: {text}");
        }
    }
    for end in (0..GOLDEN.len()).filter(|end| GOLDEN.is_char_boundary(*end)) {
        // Without its last line it is still a proof, but the witness is gone.
        if let Ok(proof) = TlogProof::parse(&GOLDEN[..end]) {
            let signed = proof.verify(b"two", &log_verifier()).unwrap();
            assert!(!policy.evaluate(&signed).unwrap().satisfied, "cut at {end}");
        }
    }
}

#[test]
fn malformed_proofs_are_refused() {
    let rest = &GOLDEN[GOLDEN.find("\n\n").unwrap()..];
    let hash = "0Nc2CrefWKseHj/mStd+LqC8B+NrX0btIiPt2SmN+ek=";
    let header = "c2sp.org/tlog-proof@v1";
    let check = |head: &str, reason: &str| match TlogProof::parse(&format!("{head}{rest}")) {
        Err(refused @ TlogProofError::Malformed { .. }) => {
            assert!(refused.to_string().contains(reason), "{head:?}: {refused}");
        }
        other => panic!("{head:?}: {other:?}"),
    };
    let index = "plain decimal";
    let long = STANDARD.encode(vec![7; MAX_EXTRA_BYTES + 1]);
    check("", "first line");
    check("wrong-header\nindex 0", "first line");
    check(&format!(" {header}\nindex 0"), "first line");
    check(&format!("{header}\r\nindex 0"), "first line");
    check(header, index);
    check(&format!("{header}\nindex"), index);
    for number in ["", "notanumber", "-5", "+5", "05", "5 ", "0x5", "18446744073709551616"] {
        check(&format!("{header}\nindex {number}"), index);
    }
    check(&format!("{header}\nextra aHVpdG9uZw=="), index);
    check(&format!("{header}\nindex 0\nextra aHVpdG9uZw=="), "a hash");
    check(&format!("{header}\nextra aHVpdG9uZw==\nextra aHVpdG9uZw==\nindex 0"), index);
    for extra in ["!!notbase64!!", "aHVpdG9uZw", "aHVpdG9uZx=="] {
        check(&format!("{header}\nextra {extra}\nindex 0"), "extra data is not");
    }
    for extra in ["", &long] {
        check(&format!("{header}\nextra {extra}\nindex 0"), "empty or too long");
    }
    for line in
        ["!!notbase64!!", &hash[1..], &format!("{hash}{hash}"), &hash.replace("ek=", "el="), "index 1"]
    {
        check(&format!("{header}\nindex 0\n{line}"), "a hash");
    }
    check(&format!("{header}\nindex 0\n{}", [hash; 64].join("\n")), "more than 63");
    let most = format!("{header}\nindex 0\n{}{rest}", [hash; 63].join("\n"));
    assert_eq!(TlogProof::parse(&most).unwrap().path.len(), 63);
    let whole = |text: &str| TlogProof::parse(text).unwrap_err();
    assert!(whole(&format!("{header}\nindex 0\n{hash}\n")).to_string().contains("no empty line"));
    assert!(whole(&"x".repeat(MAX_TLOG_PROOF_BYTES + 1)).to_string().contains("too long"));
    assert!(matches!(whole(&format!("{header}\nindex 0\n\ncheckpoint\n")), TlogProofError::Checkpoint(_)));
    assert!(matches!(whole(&format!("{GOLDEN}\n")), TlogProofError::Checkpoint(_)));
}

#[test]
fn proofs_of_every_entry_verify_for_it_alone() {
    let history = History::new("entry", 33);
    for size in [1, 2, 3, 7, 8, 9, 33] {
        let signed = cosigned(&history.signed(size), [1, 2]);
        for index in 0..size {
            let made = TlogProof::new(index, history.inclusion(index, size), signed.text());
            let proof = TlogProof::parse(&made.to_text()).unwrap();
            assert_eq!(proof, made);
            let entry = |index: u64| format!("entry {index}").into_bytes();
            assert_eq!(proof.verify(&entry(index), &log_verifier()).unwrap(), signed);
            assert!(proof.verify(&entry(index + 1), &log_verifier()).is_err());
            for other in [index + 1, index.wrapping_sub(1), size, u64::MAX] {
                let moved = TlogProof { index: other, ..proof.clone() };
                assert!(
                    moved.verify(&entry(index), &log_verifier()).is_err(),
                    "{index} of {size} at {other}"
                );
            }
        }
        // Under another root, and under another key.
        let fork = history.forked(0, "other", 33).signed(size);
        let moved = TlogProof::new(0, history.inclusion(0, size), fork.text());
        assert_eq!(
            moved.verify(b"entry 0", &log_verifier()),
            Err(TlogProofError::Inclusion(ProofError::WrongRoot { size }))
        );
    }
    let proof = TlogProof::new(0, Vec::new(), history.signed(1).text());
    let other = LogVerifier::new(ORIGIN, cosigner(1).verifier().key().clone()).unwrap();
    assert!(matches!(
        proof.verify(b"entry 0", &other),
        Err(TlogProofError::Checkpoint(NoteError::NotSigned { .. }))
    ));
}

proptest! {
    #[test]
    fn reader_never_panics_and_reads_what_it_writes(
        text in "(c2sp.org/tlog-proof@v1\n)?(extra [A-Za-z0-9=]{0,8}\n)?(index [0-9]{0,21}\n)?[ -~\n]{0,80}",
        at in 0..GOLDEN.len(),
        cut in 0..60_usize,
    ) {
        let mut bytes = GOLDEN.as_bytes().to_vec();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, text.bytes());
        for text in [text, String::from_utf8_lossy(&bytes).into_owned()] {
            if let Ok(proof) = TlogProof::parse(&text) {
                prop_assert_eq!(proof.to_text(), text);
                let _ = proof.verify(b"two", &log_verifier());
            }
        }
    }
}
