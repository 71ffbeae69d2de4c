use proptest::prelude::*;

use super::*;
use crate::note::{LogVerifier, MAX_SIGNATURES, Note, signature_line};
use crate::policy::QuorumPolicy;
use crate::witness_fixture::*;
use crate::{MAX_NOTE_BYTES, SignedCheckpoint};

// Made outside this workspace (Python, cryptography): seeds 7, 9 and 10 repeated 32 times.
const WITNESS: &str = "example/huitong-witness/1+077e55e9+BP0XJDhaoMdbZPt4zWAvodmR/ev3axPFjtcC6sg16fYY";
const OTHER: &str = "other/huitong-witness/1+38a8038b+BEOnLnFEAXYt9mtowm373yaCquyfJHTspGE+QkoPuv08";
const COSIGNED: &str = "example/huitong-log/1
1
iipcm3aIJ95alVLDigRMZpWcaPbS8htSYK9U0vh9uCc=

\u{2014} example/huitong-log/1 o0g0HZsavA1U7hm536ze40G207zmDohNndN6yvrHY5g/Yjuee/3DxPcWGxbVEeeEa2d2J5BjtsfhohTez7FpdcXh3Qg=
\u{2014} example/huitong-witness/1 \
B35V6QAAAABlU/EAgK38H5S/rZylI1ns2X6gkwvCUVfLu7KCwOZ1LTwVD1z5QtXsK5Syhpft1du2KfGVD6iGYWJG0/UfGeAfcRqFCw==
\u{2014} other/huitong-witness/1 \
OKgDiwAAAABlU/E898Na0OPcSaZrffi+o2FvH4YcxogqXt7+fvauZwqfoaOO5AVzj/b+AnYHwSQT5x957GnCX44q7He8m+kEHobzAg==
";

fn witness() -> WitnessVerifier {
    WITNESS.parse().unwrap()
}

fn parse(text: &str) -> Result<SignedCheckpoint, NoteError> {
    SignedCheckpoint::parse(text, &log_verifier())
}

#[test]
fn golden_cosignatures() {
    let bare = parse(COSIGNED).unwrap().with_log_signature_only();
    let first = Cosigner::new(witness_name_of("EXAMPLE"), SigningKey::from_seed(&[9; 32])).unwrap();
    let second = Cosigner::new("other/huitong-witness/1", SigningKey::from_seed(&[10; 32])).unwrap();
    assert_eq!((first.verifier().to_string(), second.verifier().to_string()), (WITNESS.into(), OTHER.into()));
    let lines = [
        second.cosign(bare.checkpoint(), Timestamp::from_millis(1_700_000_060_999)),
        first.cosign(bare.checkpoint(), seconds(1_700_000_000)),
    ];
    let made = bare.with_lines(&lines).unwrap();
    assert_eq!(made.text(), COSIGNED);
    for read in [parse(COSIGNED).unwrap(), SignedCheckpoint::stored(COSIGNED).unwrap()] {
        assert_eq!(read, made);
        assert_eq!(read.with_lines(&[]).unwrap(), made);
        assert_eq!(read.with_log_signature_only(), bare);
        assert_eq!(read.signature_lines().len(), 3);
        assert_eq!(read.signature_lines()[1..], [lines[1].clone(), lines[0].clone()]);
        let names = [witness(), OTHER.parse().unwrap()].map(|w| (w.name().to_owned(), w.key_id()));
        assert_eq!(read.cosigner_names(), names);
        let cosignature = Cosignature { name: witness().name().to_owned(), time: seconds(1_700_000_000) };
        assert_eq!(read.cosigned_by(&witness()), Ok(Some(cosignature)));
    }
    assert_eq!((bare.cosigner_names(), bare.cosigned_by(&witness())), (vec![], Ok(None)));
}

#[test]
fn a_stored_text_may_have_the_logs_line_anywhere() {
    let bare = parse(COSIGNED).unwrap().with_log_signature_only();
    let [log, first, second] = <[String; 3]>::try_from(parse(COSIGNED).unwrap().signature_lines()).unwrap();
    let text = format!("{}\n{first}\n{log}\n{second}\n", bare.checkpoint().body());
    let stored = SignedCheckpoint::stored(&text).unwrap();
    assert_eq!((stored.text(), stored.with_log_signature_only()), (text.as_str(), bare));
    assert_eq!(stored.with_lines(&[]).unwrap().text(), COSIGNED);
    let without = NoteError::Malformed { why: "it has no signature by its log" };
    assert_eq!(SignedCheckpoint::stored(&text.replace(&format!("{log}\n"), "")), Err(without));
}

#[test]
fn cosignatures_of_the_public_network_verify() {
    let log: LogVerifier = PUBLIC_LOG.parse().unwrap();
    let signed = SignedCheckpoint::parse(PUBLIC, &log).unwrap();
    for text in PUBLIC_WITNESSES {
        let witness: WitnessVerifier = text.parse().unwrap();
        assert_eq!(witness.to_string(), text);
        let cosignature = signed.cosigned_by(&witness).unwrap().unwrap();
        assert_eq!((cosignature.name.as_str(), cosignature.time), (witness.name(), seconds(PUBLIC_TIME)));
    }
    // The log's other line counts as one more that somebody else has to know.
    assert_eq!(signed.cosigner_names().len(), 5);
    let canonical = signed.with_lines(&[]).unwrap();
    assert_eq!(canonical.signature_lines()[0], signed.signature_lines()[1]);
    assert_eq!(SignedCheckpoint::parse(canonical.text(), &log).unwrap(), canonical);
}

#[test]
fn published_sigsum_vectors() {
    let mut seed = [0; 32];
    seed[0] = 17;
    let key = SigningKey::from_seed(&seed);
    let mut root = [0; 32];
    root[..3].copy_from_slice(&[28, 14, 71]);
    let root = huitong_proof::Digest::from_bytes(root);
    let checkpoint = |origin: &str| Checkpoint { origin: origin.to_owned(), size: 10, root };

    let cosigner = Cosigner::new("example.org/witness", key.clone()).unwrap();
    assert_eq!(
        cosigner.cosign(&checkpoint("example.org/log"), seconds(1234)),
        "\u{2014} example.org/witness \
         ys8uUAAAAAAAAATSftMzceM8zssdZ9jin9SjwIxzx9iADMf63VqirX2hafol9RsqNqbofIz0LVRqHXI2kpEBSki5RTXFtxz1vo9+Cg=="
    );
    let origin = "sigsum.org/v1/tree/e796172b92befd62d9dc67e41c2f5bc9d3100a3023b20b1ca40288dd1c679e69";
    assert_eq!(
        SignedCheckpoint::sign(checkpoint(origin), &key).signature_lines(),
        [format!(
            "\u{2014} {origin} \
             gJ2ho0n8F8olcerUF1FFdv235A/5as/coWrpLrtE7ovMeP5whgwouYExowG/lTznxu6OUGjjt5yJQ6bXtTcf718MqAQ="
        )]
    );
}

#[test]
fn key_texts_keep_logs_and_witnesses_apart() {
    for text in [WITNESS, OTHER] {
        for at in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] ^= 1;
            let flipped = String::from_utf8(bytes).unwrap();
            assert!(flipped.parse::<WitnessVerifier>().is_err(), "{flipped}");
        }
    }
    let of_type = |why| NoteError::KeyText { why };
    let refused = LOG_KEY.parse::<WitnessVerifier>().unwrap_err();
    assert_eq!(refused, of_type("the key is not of type 4, Ed25519 cosignature"));
    let refused = WITNESS.parse::<LogVerifier>().unwrap_err();
    assert_eq!(refused, of_type("the key is not of type 1, Ed25519"));
    // One key under two names, or for two uses, has different key ids.
    let (name, key) = (witness().name().to_owned(), witness().key().clone());
    assert_ne!(witness().key_id(), WitnessVerifier::new("x", key.clone()).unwrap().key_id());
    assert_ne!(witness().key_id(), LogVerifier::new(name, key.clone()).unwrap().key_id());
    for name in ["", "a b", "a+b", "a\nb", "\u{2003}"] {
        assert_eq!(WitnessVerifier::new(name, key.clone()), Err(NoteError::Name { name: name.to_owned() }));
        assert!(Cosigner::new(name, SigningKey::from_seed(&[1; 32])).is_err());
    }
}

/// What a cosigned note is once a bit of it was flipped.
#[derive(Debug, PartialEq)]
enum Fate {
    /// The note is refused: its form is broken.
    Malformed,
    /// The note is refused: no line under the log's key.
    Unsigned,
    /// The note is refused: the log's signature is false.
    LogFalse,
    /// The note stands; this witness's line is false, which refuses the note for whoever knows the witness.
    WitnessFalse,
    /// The note stands; the line is now somebody else's and counts for nobody.
    Ignored,
}

fn fate(text: &str) -> Fate {
    let signed = match parse(text) {
        Err(NoteError::Malformed { .. } | NoteError::SignatureLine { .. }) => return Fate::Malformed,
        Err(NoteError::NotSigned { .. }) => return Fate::Unsigned,
        Err(NoteError::BadSignature { .. }) => return Fate::LogFalse,
        Err(other) => panic!("{other}"),
        Ok(signed) => signed,
    };
    let known = vec![("a".to_owned(), witness(), None), ("b".to_owned(), OTHER.parse().unwrap(), None)];
    match QuorumPolicy::k_of(2, known).unwrap().evaluate(&signed) {
        Err(NoteError::BadSignature { .. }) => Fate::WitnessFalse,
        Err(other) => panic!("{other}"),
        Ok(quorum) => {
            assert_eq!((quorum.satisfied, quorum.missing.len()), (false, 1), "{text}");
            Fate::Ignored
        }
    }
}

#[test]
fn every_flipped_bit_of_a_cosigned_note_is_noticed_for_the_right_reason() {
    let body_end = COSIGNED.find("\n\n").unwrap() + 1;
    // Start of each line, of its name and of its base64.
    let mut lines = Vec::new();
    let mut start = body_end + 1;
    for line in COSIGNED[start..].split_inclusive('\n') {
        lines.push((start, start + "\u{2014} ".len(), start + line.rfind(' ').unwrap() + 1));
        start += line.len();
    }
    let mut met = std::collections::BTreeSet::new();
    for at in 0..COSIGNED.len() {
        for bit in 0..8 {
            let mut bytes = COSIGNED.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let fate = fate(&text);
            let expected: &[Fate] = match lines.iter().rposition(|(start, ..)| *start <= at) {
                None if at < body_end - 1 => &[Fate::LogFalse, Fate::Malformed],
                None => &[Fate::Malformed],
                Some(line) => {
                    let (_, name, base64) = lines[line];
                    let (other_key, false_line) = if line == 0 {
                        (Fate::Unsigned, Fate::LogFalse)
                    } else {
                        (Fate::Ignored, Fate::WitnessFalse)
                    };
                    match at {
                        _ if at < name => &[Fate::Malformed],
                        // Five characters are key id, the sixth is both, the rest time and signature.
                        _ if at < base64 + 5 => &[other_key, Fate::Malformed],
                        _ if at == base64 + 5 => &[other_key, false_line, Fate::Malformed],
                        _ => &[false_line, Fate::Malformed],
                    }
                }
            };
            assert!(
                expected.contains(&fate),
                "byte {at}, bit {bit}: {fate:?}, expected {expected:?}: {text}"
            );
            met.insert(format!("{fate:?}"));
        }
    }
    assert_eq!(met.len(), 5, "{met:?}");
    for end in (0..COSIGNED.len()).filter(|end| COSIGNED.is_char_boundary(*end)) {
        // Cut between two lines it is a shorter note.
        if lines.iter().skip(1).any(|(start, ..)| *start == end) {
            assert!(parse(&COSIGNED[..end]).is_ok());
        } else {
            assert!(parse(&COSIGNED[..end]).is_err(), "cut at {end}");
        }
    }
}

/// A line by the witness of seed 9 over any message, with any bytes before the signature.
fn line_over(message: &str, before: &[u8]) -> String {
    let mut blob = before.to_vec();
    blob.extend_from_slice(&SigningKey::from_seed(&[9; 32]).sign(message.as_bytes()));
    write_line(witness().name(), witness().key_id(), &blob)
}

#[test]
fn signatures_over_other_messages_are_no_cosignatures() {
    let bare = parse(COSIGNED).unwrap().with_log_signature_only();
    let body = bare.checkpoint().body();
    let time = 5_u64.to_be_bytes();
    let good = message(5, &body);
    let bad = NoteError::BadSignature { name: witness().name().to_owned() };
    let check = |line: String| bare.with_lines(&[line]).unwrap().cosigned_by(&witness());

    assert_eq!(check(line_over(&good, &time)).unwrap().unwrap().time, seconds(5));
    for (message, before) in [
        (good.clone(), 6_u64.to_be_bytes().to_vec()),
        (message(6, &body), time.to_vec()),
        (body.clone(), time.to_vec()),
        (body.clone(), Vec::new()),
        (good.trim_end().to_owned(), time.to_vec()),
        (good.replace("v1", "v2"), time.to_vec()),
        (good.replace("time 5", "time 05"), time.to_vec()),
        (good.replace("time 5", "time +5"), time.to_vec()),
        (format!("{good}extension\n"), time.to_vec()),
        (good.clone(), Vec::new()),
        (good.clone(), time[..7].to_vec()),
        (good.clone(), [&time[..], &[0]].concat()),
    ] {
        assert_eq!(check(line_over(&message, &before)), Err(bad.clone()), "{message:?} {before:?}");
    }
    // A log's signature made with a witness key is a line of another key.
    let as_log = signature_line(witness().name(), &SigningKey::from_seed(&[9; 32]), &body);
    assert_eq!(check(as_log), Ok(None));
}

#[test]
fn impossible_times_are_refused() {
    let bare = parse(COSIGNED).unwrap().with_log_signature_only();
    let last = Timestamp::MAX.millis() / 1000;
    let cosigned = |seconds: u64| {
        let line = line_over(&message(seconds, &bare.checkpoint().body()), &seconds.to_be_bytes());
        bare.with_lines(&[line]).unwrap().cosigned_by(&witness())
    };
    for impossible in [0, last + 1, u64::MAX / 1000, (1 << 63) - 1, 1 << 63, u64::MAX] {
        let refused = NoteError::CosignatureTime { name: witness().name().to_owned() };
        assert_eq!(cosigned(impossible), Err(refused), "{impossible}");
    }
    for possible in [1, last] {
        assert_eq!(cosigned(possible).unwrap().unwrap().time, seconds(possible));
    }

    let cosigner = Cosigner::new(witness().name(), SigningKey::from_seed(&[9; 32])).unwrap();
    for (clock, signed) in [(0, 1), (999, 1), (1_999, 1), (2_000, 2), (u64::MAX, last)] {
        let line = cosigner.cosign(bare.checkpoint(), Timestamp::from_millis(clock));
        let found = bare.with_lines(&[line]).unwrap().cosigned_by(&witness()).unwrap().unwrap();
        assert_eq!(found.time, seconds(signed), "clock {clock}");
    }
}

#[test]
fn one_false_line_among_good_ones_refuses_and_the_earliest_good_one_counts() {
    let text = |seconds: &[u64]| {
        let mut text = parse(COSIGNED).unwrap().with_log_signature_only().text().to_owned();
        let body = parse(COSIGNED).unwrap().checkpoint().body();
        for at in seconds {
            // Time 99 stands for a line that signs another time than it names.
            let line = line_over(&message(if *at == 99 { 98 } else { *at }, &body), &at.to_be_bytes());
            text.push_str(&format!("{line}\n"));
        }
        text
    };
    let check = |seconds: &[u64]| parse(&text(seconds)).unwrap().cosigned_by(&witness());
    assert_eq!(check(&[30, 20, 40]).unwrap().unwrap().time, seconds(20));
    for broken in [[99, 20], [20, 99]] {
        assert_eq!(check(&broken), Err(NoteError::BadSignature { name: witness().name().to_owned() }));
    }
    // Merging keeps one line for each key, the first.
    let merged = parse(&text(&[30, 20, 40])).unwrap().with_lines(&[]).unwrap();
    assert_eq!(merged.text(), text(&[30]));
    assert_eq!(merged.with_lines(&parse(&text(&[20])).unwrap().signature_lines()).unwrap(), merged);
}

#[test]
fn lines_are_merged_up_to_sixteen() {
    let history = History::new("entry", 3);
    let bare = history.signed(3);
    let fifteen = cosigned(&bare, 0..15);
    assert_eq!(fifteen.signature_lines().len(), MAX_SIGNATURES);
    assert_eq!(fifteen.signature_lines()[0], bare.signature_lines()[0]);
    assert!(parse(fifteen.text()).is_ok());
    // The lines of those that are there already cost nothing.
    assert_eq!(fifteen.with_lines(&fifteen.signature_lines()).unwrap(), fifteen);
    let sixteenth = cosigner(15).cosign(bare.checkpoint(), seconds(1));
    let refused = fifteen.with_lines(&[sixteenth]);
    assert_eq!(refused, Err(NoteError::TooManySignatures { found: 17, limit: 16 }));

    let long = write_line("x", [0; 4], &vec![0; MAX_NOTE_BYTES]);
    assert!(matches!(bare.with_lines(&[long]), Err(NoteError::TooLong { .. })));
    let good = cosigner(1).cosign(bare.checkpoint(), seconds(1));
    for malformed in [
        String::new(),
        format!("{good}\n"),
        format!("\n{good}"),
        format!("{good}\n{good}"),
        good.replace('\u{2014}', "-"),
    ] {
        let refused = bare.with_lines(&[good.clone(), malformed.clone()]);
        assert!(matches!(refused, Err(NoteError::SignatureLine { line: 2, .. })), "{malformed:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merging_gives_one_text_in_any_order(
        order in Just((0..12_u8).collect::<Vec<_>>()).prop_shuffle(),
        cut in 0..12_usize,
    ) {
        let bare = History::new("entry", 2).signed(2);
        let line = |number: &u8| cosigner(*number).cosign(bare.checkpoint(), seconds(9));
        let lines: Vec<String> = order.iter().map(line).collect();
        let (first, second) = lines.split_at(cut);
        let sorted: Vec<String> = (0..12).map(|number| line(&number)).collect();
        let merged = bare.with_lines(first).unwrap().with_lines(second).unwrap();
        prop_assert_eq!(&merged, &bare.with_lines(&sorted).unwrap());
        prop_assert_eq!(parse(merged.text()).unwrap(), merged.clone());
        for number in 0..12 {
            let found = merged.cosigned_by(cosigner(number).verifier()).unwrap().unwrap();
            prop_assert_eq!(found.time, seconds(9));
        }
    }

    #[test]
    fn readers_never_panic(text in "\\PC{0,200}", at in 0..COSIGNED.len(), cut in 0..40_usize) {
        let _ = text.parse::<WitnessVerifier>();
        let _ = parse(&text);
        let mut bytes = COSIGNED.as_bytes().to_vec();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, text.bytes());
        let spliced = String::from_utf8_lossy(&bytes);
        let _ = Note::split(&spliced, MAX_SIGNATURES);
        let _ = SignedCheckpoint::stored(&spliced);
        if let Ok(signed) = parse(&spliced) {
            let _ = signed.cosigned_by(&witness());
            let _ = signed.with_lines(&[text]);
        }
    }
}
