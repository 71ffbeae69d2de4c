use super::*;
use crate::merkle::leaf_hash;

const ORIGIN: &str = "example/huitong-log/1";
const KEY: &str = "example/huitong-log/1+a348341d+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs";
// Made with OpenSSL: the signature and both hashes come from outside this workspace.
const GOLDEN: &str = "example/huitong-log/1\n1\niipcm3aIJ95alVLDigRMZpWcaPbS8htSYK9U0vh9uCc=\n\n\
    \u{2014} example/huitong-log/1 \
    o0g0HZsavA1U7hm536ze40G207zmDohNndN6yvrHY5g/Yjuee/3DxPcWGxbVEeeEa2d2J5BjtsfhohTez7FpdcXh3Qg=\n";

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn verifier() -> LogVerifier {
    KEY.parse().unwrap()
}

fn signature() -> &'static str {
    GOLDEN.rsplit("\n\n").next().unwrap()
}

/// Signs any text, so that the refusals below are not refusals of the signature.
fn signed(body: &str) -> String {
    format!("{body}\n{}\n", signature_line(ORIGIN, &key(), body))
}

#[test]
fn golden_checkpoint() {
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: 1, root: leaf_hash(b"hello") };
    let made = SignedCheckpoint::sign(checkpoint.clone(), &key());
    assert_eq!(made.text(), GOLDEN);
    assert_eq!(LogVerifier::new(ORIGIN, key().verifying_key()).unwrap().to_string(), KEY);
    for read in [
        SignedCheckpoint::parse(GOLDEN, &verifier()).unwrap(),
        SignedCheckpoint::parse_exact(GOLDEN, &verifier()).unwrap(),
        SignedCheckpoint::stored(GOLDEN).unwrap(),
        made.with_log_signature_only(),
    ] {
        assert_eq!(read, made);
        assert_eq!(*read.checkpoint(), checkpoint);
    }
}

#[test]
fn every_changed_byte_is_refused() {
    for at in 0..GOLDEN.len() {
        for bit in 0..8 {
            let mut bytes = GOLDEN.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(SignedCheckpoint::parse(&text, &verifier()).is_err(), "byte {at}, bit {bit}: {text}");
            }
        }
    }
    for end in (0..GOLDEN.len()).filter(|end| GOLDEN.is_char_boundary(*end)) {
        assert!(SignedCheckpoint::parse(&GOLDEN[..end], &verifier()).is_err(), "cut at {end}");
    }
}

#[test]
fn malformed_bodies_are_refused_though_signed() {
    let root = "iipcm3aIJ95alVLDigRMZpWcaPbS8htSYK9U0vh9uCc=";
    let long = "o".repeat(MAX_NAME_BYTES + 1);
    let bodies = [
        String::new(),
        "\n".to_owned(),
        format!("{ORIGIN}\n1\n"),
        format!("{ORIGIN}\n1\n{root}\nextension\n"),
        format!("{ORIGIN}\n1\n{root}\n\n"),
        format!("\n1\n{root}\n"),
        format!("{long}\n1\n{root}\n"),
        format!("{ORIGIN}\n\n{root}\n"),
        format!("{ORIGIN}\n01\n{root}\n"),
        format!("{ORIGIN}\n+1\n{root}\n"),
        format!("{ORIGIN}\n-1\n{root}\n"),
        format!("{ORIGIN}\n1 \n{root}\n"),
        format!("{ORIGIN}\n0x1\n{root}\n"),
        format!("{ORIGIN}\n18446744073709551616\n{root}\n"),
        format!("{ORIGIN}\n1\n{}\n", root.trim_end_matches('=')),
        // The last character before the padding carries two bits that must be zero.
        format!("{ORIGIN}\n1\n{}\n", root.replace("Cc=", "Cd=")),
        format!("{ORIGIN}\n1\n{}\n", root.replace('/', "_").replace("iip", "_ip")),
        format!("{ORIGIN}\n1\nAAAA\n"),
        format!("{ORIGIN}\n1\n{root}{root}\n"),
    ];
    for body in bodies {
        let refused = SignedCheckpoint::parse(&signed(&body), &verifier());
        assert!(matches!(refused, Err(NoteError::Malformed { .. })), "{body:?}: {refused:?}");
    }
    assert!(SignedCheckpoint::parse(&signed(&format!("{ORIGIN}\n1\n{root}\n")), &verifier()).is_ok());

    let refused = SignedCheckpoint::parse(&signed(&format!("other\n1\n{root}\n")), &verifier());
    assert_eq!(
        refused,
        Err(NoteError::OtherOrigin { found: "other".to_owned(), expected: ORIGIN.to_owned() })
    );
    for control in ["\r", "\t", "\0"] {
        let refused =
            SignedCheckpoint::parse(&signed(&format!("{ORIGIN}{control}\n1\n{root}\n")), &verifier());
        assert_eq!(refused, Err(NoteError::Malformed { why: "it has a control character" }));
    }
}

#[test]
fn malformed_signature_lines_are_refused() {
    let body = GOLDEN.split("\n\n").next().unwrap();
    let blob = signature().trim_end().rsplit(' ').next().unwrap();
    let lines = [
        String::new(),
        "\n".to_owned(),
        signature().trim_end().to_owned(),
        format!("- {ORIGIN} {blob}\n"),
        format!("\u{2014}{ORIGIN} {blob}\n"),
        format!("\u{2014} {ORIGIN}\n"),
        format!("\u{2014}  {blob}\n"),
        format!("\u{2014} a+b {blob}\n{}", signature()),
        format!("\u{2014} a\u{a0}b {blob}\n{}", signature()),
        format!("\u{2014} {ORIGIN}  {blob}\n"),
        format!("\u{2014} {ORIGIN} {blob} \n"),
        format!("\u{2014} {ORIGIN} {}\n", blob.trim_end_matches('=')),
        format!("\u{2014} {ORIGIN} AAAAAA==\n"),
        format!("\u{2014} {ORIGIN} \n"),
        format!("{}\n", signature()),
        format!("{}comment\n", signature()),
    ];
    for lines in lines {
        let text = format!("{body}\n\n{lines}");
        let refused = SignedCheckpoint::parse(&text, &verifier()).unwrap_err();
        assert!(
            matches!(refused, NoteError::Malformed { .. } | NoteError::SignatureLine { .. }),
            "{lines:?}: {refused}"
        );
    }
}

#[test]
fn lines_of_others_are_passed_over_and_false_lines_refused() {
    let body = GOLDEN.split("\n\n").next().unwrap();
    let other = SigningKey::from_seed(&[8; 32]);
    let body_text = format!("{body}\n");
    let witness = format!("{}\n", signature_line("witness", &other, &body_text));
    // The log's name with another key id is an unknown key, whatever it signed.
    let same_name = format!("{}\n", signature_line(ORIGIN, &other, "something else\n"));
    // The log's name and key id over another text is a false signature.
    let false_line = format!("{}\n", signature_line(ORIGIN, &key(), "something else\n"));
    let with = |lines: &[&str]| format!("{body_text}\n{}", lines.concat());
    let parse = |text: &str| SignedCheckpoint::parse(text, &verifier());

    for lines in
        [[&witness, signature()], [signature(), &witness], [&same_name, signature()], [signature(); 2]]
    {
        let text = with(&lines);
        let read = parse(&text).unwrap();
        assert_eq!(read.text(), text);
        assert_eq!(read.with_log_signature_only().text(), GOLDEN);
        let exact = SignedCheckpoint::parse_exact(&text, &verifier());
        assert_eq!(exact, Err(NoteError::TooManySignatures { found: 2, limit: 1 }));
    }
    let bad = NoteError::BadSignature { name: ORIGIN.to_owned() };
    assert_eq!(parse(&with(&[signature(), &false_line])), Err(bad.clone()));
    assert_eq!(parse(&with(&[&false_line, signature()])), Err(bad));
    let unsigned = NoteError::NotSigned { name: ORIGIN.to_owned(), key_id: "a348341d".to_owned() };
    assert_eq!(parse(&with(&[&witness, &same_name])), Err(unsigned.clone()));
    assert_eq!(SignedCheckpoint::parse_exact(&with(&[&witness]), &verifier()), Err(unsigned));

    let mut lines = vec![witness.as_str(); MAX_SIGNATURES - 1];
    lines.push(signature());
    assert!(parse(&with(&lines)).is_ok());
    lines.push(&witness);
    assert_eq!(parse(&with(&lines)), Err(NoteError::TooManySignatures { found: 17, limit: 16 }));
    let huge = "x".repeat(crate::note::MAX_NOTE_BYTES + 1);
    assert_eq!(parse(&huge), Err(NoteError::TooLong { found: huge.len() }));
}
