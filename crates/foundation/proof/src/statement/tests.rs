use super::envelope::signed_structure;
use super::*;
use crate::cbor::{CborError, encode};
use crate::entropy::{SeededEntropy, random};
use crate::key::{KeyError, VerifyingKey};
use proptest::prelude::*;

/// A statement of every field, made by a separate implementation of RFC 8032, RFC 8949 and RFC 9052.
const GOLDEN: &str = concat!(
    "d2845893a40132045820cb39f0f6d246b033068073b728cf5b70a204cda3b1ccb17d8160d12dcd1a5ae30fa2017820393133",
    "31303030304d41314b3335583931543030303143303030303030303031027820303139326630633161326233376334643865",
    "39663030313132323333343435351078226170706c69636174696f6e2f687569746f6e672d73746174656d656e742b63626f",
    "72a0590190ae01010201030104782039313331303030304d41314b3335583931543030303143303030303030303031057820",
    "39313131303030304d413031414243443258303030314330303030303030303206500192f0c1a2b37c4d8e9f001122334455",
    "07582046a81739c6ee7c1d5ed084e7de843a7ed79435cd445513e4dd5c4e5ac395fb4b08070958206da0633528deaa0144e7",
    "b058315f0b753ec0b945163a72bf96a0d18180f9de0d0a582052367a6622b19f08825e915fad80c542ad4f4c34dbcebad9f5",
    "007994b3e392080b1b0000019b76daa87b0c50a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a50d83782e39313131303030306d6130",
    "3161626364327830303031633030303030303030322f687569746f6e672d6c6f672f31182a58204813494d137e1631bba301",
    "d5acab6e7bb7aa74ce1185d456565ef51d737677b20ea8016fe6b094e8b1a1e695b0e68daee99b86025820ed7002b439e9ac",
    "845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73031b000000010000000004140500061a040000000782820005",
    "82092008f55840c69588ddd384f860ae0ffb0ec7847065ca0927d49e4efd904b842a43d1695f22646359d56be57280387503",
    "23e0de25485390fa53eb8a979d63083e3951b60a05",
);
const GOLDEN_DIGEST: &str = "0389ba16de92f0e4f51538f8794d06464a92221b918b0b5ae2f4b0363c63e2fb";

const ISSUER: &str = "91310000MA1K35X91T0001C000000001";
const AUDIENCE: &str = "91110000MA01ABCD2X0001C000000002";

fn key() -> SigningKey {
    SigningKey::from_seed(&std::array::from_fn(|i| i as u8))
}

fn space() -> SpaceId {
    SpaceId::from_name("示范空间")
}

fn draft() -> Draft {
    let range = |start, end| Value::Array(vec![Value::Uint(start), end]);
    Draft {
        kind: Kind::Offer,
        audience: AUDIENCE.to_owned(),
        subject: hex::decode("0192f0c1a2b37c4d8e9f001122334455").unwrap().try_into().unwrap(),
        agreement: Digest::sha256(b"agreement"),
        reference: Digest::sha256(b"reference"),
        detail: Map::new()
            .text(1, "气象数据集")
            .digest(2, &Digest::sha256(b"content"))
            .uint(3, 1 << 32)
            .uint(4, 20)
            .uint(5, 0)
            .uint(6, 64 << 20)
            .array(7, vec![range(0, Value::Uint(5)), range(9, Value::Negative(0))])
            .boolean(8, true),
    }
}

fn signing<'a>(key: &'a SigningKey, space: &'a SpaceId) -> Signing<'a> {
    Signing {
        key,
        space,
        issuer: ISSUER,
        channel: ChannelHead { seq: 7, prev: Digest::sha256(b"previous") },
        anchor: Anchor {
            origin: "91110000ma01abcd2x0001c000000002/huitong-log/1".to_owned(),
            size: 42,
            root: Digest::sha256(b"root"),
        },
        time: Timestamp::from_millis(1_767_225_600_123),
        salt: [0xa5; 16],
    }
}

fn sample() -> Statement {
    Statement::sign(draft(), signing(&key(), &space())).unwrap()
}

fn verify(bytes: Vec<u8>) -> Result<Statement, StatementError> {
    Envelope::decode(bytes)?.verify(&key().verifying_key(), &space())
}

#[test]
fn golden_statement() {
    let statement = sample();
    assert_eq!(hex::encode(statement.bytes()), GOLDEN);
    assert_eq!(statement.digest().to_string(), GOLDEN_DIGEST);
    assert_eq!(statement.key_id(), key().verifying_key().thumbprint());

    let envelope = Envelope::decode(hex::decode(GOLDEN).unwrap()).unwrap();
    assert_eq!(envelope.key_id(), statement.key_id());
    assert_eq!(envelope.claimed_issuer(), ISSUER);
    let trusted = envelope.clone().trusted(&space()).unwrap();
    let verified = envelope.verify(&key().verifying_key(), &space()).unwrap();
    for read in [trusted, verified] {
        assert_eq!(read, statement);
        assert_eq!(read.body(), statement.body());
        assert_eq!(read.digest(), statement.digest());
    }
    let body = statement.body();
    assert_eq!((body.kind, body.suite, body.seq), (Kind::Offer, Suite::Intl, 7));
    assert_eq!((body.issuer.as_str(), body.audience.as_str()), (ISSUER, AUDIENCE));
    assert_eq!(body.time.to_string(), "2026-01-01T00:00:00.123Z");
    assert_eq!(body.anchor, signing(&key(), &space()).anchor);
    assert_eq!(body.detail, draft().detail.build());
    assert_eq!(statement.detail("offer").unwrap().text(1, "dataset").unwrap(), "气象数据集");
}

#[test]
fn every_altered_bit_is_refused() {
    let bytes = sample().bytes().to_vec();
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut altered = bytes.clone();
            altered[place] ^= 1 << bit;
            assert!(verify(altered).is_err(), "byte {place}, bit {bit}");
        }
    }
}

#[test]
fn cut_and_extended_bytes_are_refused() {
    let bytes = sample().bytes().to_vec();
    for end in 0..bytes.len() {
        assert!(verify(bytes[..end].to_vec()).is_err(), "{end}");
    }
    for extra in [0x00, 0xd2, 0xf4, 0xff] {
        assert!(verify([&bytes[..], &[extra]].concat()).is_err());
    }
    assert!(verify([bytes.clone(), bytes].concat()).is_err());
}

#[test]
fn another_key_or_space_is_refused() {
    let bytes = sample().bytes().clone();
    let other = SigningKey::generate(&SeededEntropy::new(1)).verifying_key();
    let envelope = Envelope::decode(bytes).unwrap();
    let (claimed, given) = (key().verifying_key().thumbprint(), other.thumbprint());
    let refused = envelope.clone().verify(&other, &space());
    assert_eq!(refused.unwrap_err(), StatementError::KeyId { claimed, given });
    let refused = envelope.clone().verify(&key().verifying_key(), &SpaceId::from_name("another"));
    assert_eq!(refused.unwrap_err(), StatementError::Signature { source: KeyError::Signature });
    // The same facts have another name in another space.
    let elsewhere = envelope.trusted(&SpaceId::from_name("another")).unwrap();
    assert_ne!(elsewhere.digest(), sample().digest());
}

/// The parts of a statement, to be changed and then signed with the right key: only the rules can refuse them.
struct Forgery {
    protected: Value,
    body: Value,
    protected_bytes: Option<Vec<u8>>,
    body_bytes: Option<Vec<u8>>,
    unprotected: Value,
}

impl Forgery {
    fn seal(self) -> Vec<u8> {
        let protected = self.protected_bytes.unwrap_or_else(|| encode(&self.protected));
        let payload = self.body_bytes.unwrap_or_else(|| encode(&self.body));
        let signature = key().sign(&signed_structure(&protected, &payload, &space())).to_vec();
        let items =
            [Value::Bytes(protected), self.unprotected, Value::Bytes(payload), Value::Bytes(signature)];
        [vec![0xd2], encode(&Value::Array(items.to_vec()))].concat()
    }
}

fn forge() -> Forgery {
    let golden = hex::decode(GOLDEN).unwrap();
    let Value::Array(items) = crate::cbor::decode(&golden[1..], Limits::STATEMENT).unwrap() else { panic!() };
    let [Value::Bytes(protected), unprotected, Value::Bytes(body), _] =
        <[Value; 4]>::try_from(items).unwrap()
    else {
        panic!()
    };
    let [protected, body] = [protected, body].map(|b| crate::cbor::decode(&b, Limits::STATEMENT).unwrap());
    Forgery { protected, body, protected_bytes: None, body_bytes: None, unprotected }
}

fn set(map: &mut Value, key: u64, value: Option<Value>) {
    let Value::Map(entries) = map else { panic!() };
    match value {
        Some(value) => entries.insert(key, value),
        None => entries.remove(&key),
    };
}

#[track_caller]
fn check_body(field: u64, value: Option<Value>, expect: &str) {
    let mut forgery = forge();
    set(&mut forgery.body, field, value);
    check_refused(forgery.seal(), expect);
}

#[track_caller]
fn check_header(field: u64, value: Option<Value>, expect: &str) {
    let mut forgery = forge();
    set(&mut forgery.protected, field, value);
    check_refused(forgery.seal(), expect);
}

#[track_caller]
fn check_refused(bytes: Vec<u8>, expect: &str) {
    let error = verify(bytes).unwrap_err().to_string();
    assert!(error.contains(expect), "{error:?} does not say {expect:?}");
}

#[test]
fn a_forgery_without_changes_is_the_statement() {
    assert_eq!(hex::encode(forge().seal()), GOLDEN);
}

#[test]
fn bodies_are_read_strictly() {
    let uint = |n| Some(Value::Uint(n));
    let bytes = |n| Some(Value::Bytes(vec![1; n]));
    for field in 1..=14 {
        check_body(field, None, &format!("({field}): missing"));
    }
    for unknown in [0, 15, 99, u64::MAX] {
        check_body(unknown, uint(0), &format!("statement: unknown field {unknown}"));
    }
    check_body(1, uint(2), "statement.version (1): 2 is unknown");
    for kind in [0, 15, 36, u64::MAX] {
        check_body(2, uint(kind), &format!("statement.kind (2): {kind} is unknown"));
    }
    for suite in [0, 2, 3] {
        check_body(3, uint(suite), &format!("statement.suite (3): {suite} is unknown"));
    }
    check_body(4, Some(Value::Text("other".to_owned())), "header names issuer");
    check_body(4, bytes(3), "statement.issuer (4): expected text, found bytes");
    check_body(5, uint(1), "statement.audience (5): expected text");
    check_body(6, bytes(15), "statement.subject (6): expected 16 bytes, found 15");
    check_body(6, bytes(16), "header names subject");
    check_body(7, bytes(31), "statement.agreement (7): expected 32 bytes, found 31");
    check_body(8, Some(Value::Negative(0)), "statement.seq (8): expected unsigned integer");
    check_body(8, uint(0), "statement.prev (9): must be zeros");
    check_body(9, bytes(33), "statement.prev (9): expected 32 bytes");
    check_body(10, bytes(0), "statement.reference (10): expected 32 bytes");
    check_body(11, uint(Timestamp::MAX.millis() + 1), "statement.time (11)");
    check_body(12, bytes(17), "statement.salt (12): expected 16 bytes");
    check_body(14, uint(1), "statement.detail (14): expected map, found unsigned integer");
    let (text, root) = (Value::Text("o".to_owned()), Value::Bytes(vec![0; 32]));
    for anchor in [
        vec![],
        vec![text.clone(), Value::Uint(1)],
        vec![text.clone(), Value::Uint(1), Value::Bytes(vec![0; 31])],
        vec![text.clone(), Value::Negative(1), root.clone()],
        vec![Value::Uint(1), text.clone(), root.clone()],
        vec![text, Value::Uint(1), root.clone(), root],
    ] {
        check_body(13, Some(Value::Array(anchor)), "statement.anchor (13)");
    }
    check_body(13, uint(1), "statement.anchor (13): expected array");
}

#[test]
fn headers_are_read_strictly() {
    for (field, name) in [(1, "algorithm"), (4, "key_id"), (15, "claims"), (16, "content_type")] {
        check_header(field, None, &format!("header.{name} ({field}): missing"));
    }
    check_header(2, Some(Value::Array(vec![Value::Uint(1)])), "header: unknown field 2");
    // -8 is the older EdDSA number, -7 is ES256.
    for n in [7, 6, 17, 19] {
        check_header(1, Some(Value::Negative(n)), "not Ed25519");
    }
    check_header(1, Some(Value::Uint(18)), "not Ed25519");
    check_header(4, Some(Value::Bytes(vec![0; 32])), "signed with key 0000");
    check_header(4, Some(Value::Bytes(vec![0; 31])), "header.key_id (4): expected 32 bytes");
    check_header(16, Some(Value::Text("application/cbor".to_owned())), "content type");
    let claims = || Map::new().text(1, ISSUER).text(2, "0192f0c1a2b37c4d8e9f001122334455");
    check_header(15, Some(claims().uint(4, 1).build()), "header.claims: unknown field 4");
    check_header(15, Some(Map::new().text(1, ISSUER).build()), "header.claims.subject (2): missing");
    check_header(15, Some(Map::new().text(1, "x").text(2, "y").build()), "header names issuer");
    let upper = Map::new().text(1, ISSUER).text(2, "0192F0C1A2B37C4D8E9F001122334455").build();
    check_header(15, Some(upper), "header names subject");
}

#[test]
fn envelopes_are_read_strictly() {
    let golden = hex::decode(GOLDEN).unwrap();
    check_refused(golden[1..].to_vec(), "tag 18 is missing");
    check_refused(vec![], "tag 18 is missing");
    check_refused([&[0xd1], &golden[1..]].concat(), "tag 18 is missing");
    check_refused([&[0xd8, 18], &golden[1..]].concat(), "tag 18 is missing");
    check_refused([&[0xd2], &golden[..]].concat(), "strict deterministic CBOR");
    check_refused(vec![0xd2, 0x00], "expected an array");
    check_refused(vec![0xd2, 0x80], "expected header, map, payload and signature");
    let mut forgery = forge();
    forgery.unprotected = Map::new().uint(4, 1).build();
    check_refused(forgery.seal(), "unprotected header must be empty");
    let mut forgery = forge();
    forgery.unprotected = Value::Array(vec![]);
    check_refused(forgery.seal(), "expected header, map");
    let untagged = |items: &[Value]| [vec![0xd2], encode(&Value::Array(items.to_vec()))].concat();
    let part = |n| Value::Bytes(vec![0; n]);
    check_refused(untagged(&[part(1), Map::new().build(), part(1), part(63)]), "64 bytes");
    check_refused(untagged(&[part(1), Map::new().build(), part(1), part(65)]), "64 bytes");
    check_refused(untagged(&[part(1), Map::new().build(), part(1)]), "expected header");
}

/// The signed bytes themselves break the encoding rules; the signature over them is good.
#[test]
fn signed_bytes_that_are_not_canonical_are_refused() {
    let body = encode(&forge().body);
    let check = |body_bytes: Vec<u8>, expect: CborError| {
        let mut forgery = forge();
        forgery.body_bytes = Some(body_bytes);
        let error = verify(forgery.seal()).unwrap_err();
        let source = FieldError::Malformed { what: "statement".to_owned(), source: expect };
        assert_eq!(error, StatementError::Field(source));
    };
    assert_eq!(body[..5], [0xae, 0x01, 0x01, 0x02, 0x01]);
    let rest = &body[5..];
    check([&[0xb8, 14, 1, 1, 2, 1], rest].concat(), CborError::NotShortest { at: 0 });
    check([&[0xbf, 1, 1, 2, 1], rest, &[0xff]].concat(), CborError::Indefinite { at: 0 });
    check([&[0xae, 1, 0x18, 1, 2, 1], rest].concat(), CborError::NotShortest { at: 2 });
    check([&[0xaf, 1, 1, 1, 1, 2, 1], rest].concat(), CborError::KeyOrder { at: 3 });
    check([&[0xae, 2, 1, 1, 1], rest].concat(), CborError::KeyOrder { at: 3 });
    check([&body[..], &[0]].concat(), CborError::Trailing { at: body.len() });
    check(body[..body.len() - 1].to_vec(), CborError::Truncated { at: body.len() - 1 });
    check([&[0xae, 1, 0xf9, 0x3c, 0x00, 2, 1], rest].concat(), CborError::Unsupported { at: 2 });
    check([&[0xae, 1, 0xc1, 1, 2, 1], rest].concat(), CborError::Unsupported { at: 2 });
    check([&[0xae, 1, 0xf6, 2, 1], rest].concat(), CborError::Unsupported { at: 2 });
    check([&[0xae, 1, 0x7b], &[0xff; 8][..], rest].concat(), CborError::Truncated { at: 2 });
    let bomb = [&[0xae, 1][..], &[0x81; 9000]].concat();
    check(bomb, CborError::TooDeep { at: 7, limit: 6 });

    let mut forgery = forge();
    let mut protected = encode(&forgery.protected);
    protected.push(0);
    forgery.protected_bytes = Some(protected);
    check_refused(forgery.seal(), "header: not strict deterministic CBOR");
}

#[test]
fn text_is_signed_and_accepted_in_nfc_only() {
    let mut plain = draft();
    plain.detail = Map::new().text(1, "caf\u{e9}");
    let mut combining = draft();
    combining.detail = Map::new().text(1, "cafe\u{301}");
    let [plain, combining] =
        [plain, combining].map(|d| Statement::sign(d, signing(&key(), &space())).unwrap());
    assert_eq!(plain, combining);

    let mut forgery = forge();
    set(&mut forgery.body, 14, Some(Map::new().text(1, "zzzz").build()));
    let body = encode(&forgery.body);
    let start = body.len() - 4;
    assert_eq!(&body[start..], b"zzzz");
    let body = [&body[..start], "xe\u{301}".as_bytes()].concat();
    forgery.body_bytes = Some(body);
    let error = verify(forgery.seal()).unwrap_err();
    assert!(matches!(
        error,
        StatementError::Field(FieldError::Malformed { source: CborError::NotNormal { .. }, .. })
    ));
}

#[test]
fn size_and_depth_hold_for_both_sides() {
    let with = |detail: Map| Statement::sign(Draft { detail, ..draft() }, signing(&key(), &space()));
    let overhead = with(Map::new().bytes(1, &[0; 8000])).unwrap().bytes().len() - 8000;
    let limit = Limits::STATEMENT.bytes;
    let fits = with(Map::new().bytes(1, &vec![0; limit - overhead])).unwrap();
    assert_eq!(fits.bytes().len(), limit);
    assert!(verify(fits.bytes().to_vec()).is_ok());
    let error = with(Map::new().bytes(1, &vec![0; limit - overhead + 1])).unwrap_err();
    assert_eq!(error, StatementError::Size { size: limit + 1, limit });
    let error = Envelope::decode(vec![0xd2; limit + 1]).unwrap_err();
    assert_eq!(error, StatementError::Size { size: limit + 1, limit });

    let nest = |depth| (0..depth).fold(Value::Uint(0), |value, _| Value::Array(vec![value]));
    // The body and its detail are two levels.
    assert!(with(Map::new().value(1, nest(4))).is_ok());
    assert!(with(Map::new().value(1, nest(5))).is_err());
}

#[test]
fn signing_refuses_what_readers_refuse() {
    let (key, space) = (key(), space());
    let sign = |with: Signing<'_>| Statement::sign(draft(), with).unwrap_err();
    assert_eq!(sign(Signing { issuer: "", ..signing(&key, &space) }), StatementError::NoIssuer);
    let channel = ChannelHead { seq: 0, prev: Digest::sha256(b"x") };
    assert_eq!(sign(Signing { channel, ..signing(&key, &space) }), StatementError::FirstHasPrevious);
    let time = Timestamp::from_millis(u64::MAX);
    assert_eq!(sign(Signing { time, ..signing(&key, &space) }), StatementError::Time { millis: u64::MAX });
}

#[test]
fn the_first_statement_before_any_checkpoint() {
    let (key, space) = (key(), space());
    let with = Signing { channel: ChannelHead::START, anchor: Anchor::none(), ..signing(&key, &space) };
    let statement = Statement::sign(draft(), with).unwrap();
    let body = verify(statement.bytes().to_vec()).unwrap().body().clone();
    assert_eq!((body.seq, body.prev), (0, Digest::ZERO));
    assert_eq!((body.anchor.origin.as_str(), body.anchor.size), ("", 0));
    assert_eq!(
        body.anchor.root.to_string(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
}

/// A checkpoint or any other text signed with the same key is no statement: the digest domain differs.
#[test]
fn signatures_over_other_things_do_not_count() {
    let golden = hex::decode(GOLDEN).unwrap();
    let body_end = golden.len() - 64;
    for other in [&golden[..], &encode(&forge().body), b"origin\n42\nroot\n"] {
        let altered = [&golden[..body_end], &key().sign(other)].concat();
        assert_eq!(verify(altered).unwrap_err(), StatementError::Signature { source: KeyError::Signature });
    }
}

#[test]
fn kinds_and_their_numbers() {
    let numbers: Vec<u64> = Kind::ALL.iter().map(|kind| kind.number()).collect();
    let expect: Vec<u64> = (1..=35).filter(|number| *number != 15).collect();
    assert_eq!(numbers, expect);
    for number in 0..100 {
        let kind = Kind::from_number(number);
        assert_eq!(kind.is_some(), expect.contains(&number));
        if let Some(kind) = kind {
            assert_eq!((kind.number(), kind as u64), (number, number));
            assert!(kind.name().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b' '));
        }
    }
    assert_eq!(Kind::ContractRequest.name(), "contract request");
    let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
}

#[test]
fn spaces_are_named_by_a_digest() {
    let space = SpaceId::from_name("示范空间");
    assert_eq!(space.to_string().parse(), Ok(space));
    assert_eq!(SpaceId::from_bytes(*space.as_bytes()), space);
    assert_ne!(SpaceId::from_name(""), SpaceId::from_name("\0"));
    assert_eq!(*SpaceId::from_name("a").as_bytes(), *Digest::sha256(b"huitong/space/v1\0a").as_bytes());
}

fn any_digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn signed_statements_verify_and_read_back(
        (seed, kind, issuer, audience) in
            (any::<u64>(), prop::sample::select(Kind::ALL), "\\PC{1,40}", "\\PC{0,40}"),
        (subject, agreement, reference) in (any::<[u8; 16]>(), any_digest(), any_digest()),
        (seq, prev, millis, size) in
            (1..u64::MAX, any_digest(), 0..=Timestamp::MAX.millis(), any::<u64>()),
        detail in prop::collection::btree_map(any::<u64>(), any::<u64>().prop_map(Value::Uint), 0..8),
    ) {
        let entropy = SeededEntropy::new(seed);
        let key = SigningKey::generate(&entropy);
        let space = SpaceId::from_bytes(random(&entropy));
        let map = detail.iter().fold(Map::new(), |map, (key, value)| map.value(*key, value.clone()));
        let draft = Draft { kind, audience, subject, agreement, reference, detail: map };
        let statement = Statement::sign(draft, Signing {
            key: &key,
            space: &space,
            issuer: &issuer,
            channel: ChannelHead { seq, prev },
            anchor: Anchor { origin: "origin".to_owned(), size, root: prev },
            time: Timestamp::from_millis(millis),
            salt: random(&entropy),
        }).unwrap();
        let envelope = Envelope::decode(statement.bytes().clone()).unwrap();
        let public = VerifyingKey::from_bytes(key.verifying_key().as_bytes()).unwrap();
        let read = envelope.verify(&public, &space).unwrap();
        prop_assert_eq!(read.body(), statement.body());
        prop_assert_eq!(read.digest(), statement.digest());
        let body = read.body();
        prop_assert_eq!((body.kind, body.subject, body.seq, body.time.millis()), (kind, subject, seq, millis));
        prop_assert_eq!((body.agreement, body.reference, body.prev), (agreement, reference, prev));
        prop_assert_eq!((body.anchor.size, &body.detail), (size, &Value::Map(detail)));
    }

    #[test]
    fn noise_is_refused_quietly(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(verify(bytes.clone()).is_err());
        prop_assert!(verify([&[0xd2, 0x84], &bytes[..]].concat()).is_err());
    }
}
