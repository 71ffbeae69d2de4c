use super::*;
use crate::digest::Digest;
use proptest::prelude::*;

const WIDE: Limits = Limits { bytes: 1 << 16, depth: 16 };

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn map(entries: impl IntoIterator<Item = (u64, Value)>) -> Value {
    Value::Map(entries.into_iter().collect())
}

#[track_caller]
fn check(encoded: &str, value: Value) {
    let bytes = hex::decode(encoded).unwrap();
    assert_eq!(decode(&bytes, WIDE), Ok(value.clone()), "{encoded}");
    assert_eq!(hex::encode(encode(&value)), encoded);
}

#[track_caller]
fn check_refused(encoded: &str, expect: CborError) {
    assert_eq!(decode(&hex::decode(encoded).unwrap(), WIDE), Err(expect), "{encoded}");
}

/// RFC 8949 appendix A, as far as the profile goes.
#[test]
fn published_examples() {
    for (encoded, n) in [
        ("00", 0),
        ("01", 1),
        ("0a", 10),
        ("17", 23),
        ("1818", 24),
        ("1819", 25),
        ("1864", 100),
        ("1903e8", 1000),
        ("1a000f4240", 1_000_000),
        ("1b000000e8d4a51000", 1_000_000_000_000),
        ("1bffffffffffffffff", u64::MAX),
    ] {
        check(encoded, Value::Uint(n));
    }
    for (encoded, n) in
        [("20", 0), ("29", 9), ("3863", 99), ("3903e7", 999), ("3bffffffffffffffff", u64::MAX)]
    {
        check(encoded, Value::Negative(n));
    }
    check("f4", Value::Bool(false));
    check("f5", Value::Bool(true));
    check("40", Value::Bytes(vec![]));
    check("4401020304", Value::Bytes(vec![1, 2, 3, 4]));
    check("60", text(""));
    check("6449455446", text("IETF"));
    check("62225c", text("\"\\"));
    check("62c3bc", text("ü"));
    check("63e6b0b4", text("水"));
    check("64f0908591", text("\u{10151}"));
    check("80", Value::Array(vec![]));
    check("83010203", Value::Array(vec![Value::Uint(1), Value::Uint(2), Value::Uint(3)]));
    let pair = |a, b| Value::Array(vec![Value::Uint(a), Value::Uint(b)]);
    check("8301820203820405", Value::Array(vec![Value::Uint(1), pair(2, 3), pair(4, 5)]));
    check("a0", map([]));
    check("a201020304", map([(1, Value::Uint(2)), (3, Value::Uint(4))]));
    // Where a head grows, and where the order of keys crosses a head.
    check("18ff", Value::Uint(255));
    check("190100", Value::Uint(256));
    check("19ffff", Value::Uint(65_535));
    check("1a00010000", Value::Uint(65_536));
    check("1affffffff", Value::Uint(u64::from(u32::MAX)));
    check("1b0000000100000000", Value::Uint(1 << 32));
    check("a217f41818f5", map([(23, Value::Bool(false)), (24, Value::Bool(true))]));
}

#[test]
fn longer_heads_are_refused() {
    for major in [0x00, 0x20, 0x40, 0x60, 0x80, 0xa0_u8] {
        for argument in [
            "1800",
            "1817",
            "190000",
            "1900ff",
            "1a00000000",
            "1a0000ffff",
            "1b0000000000000000",
            "1b00000000ffffffff",
        ] {
            let mut bytes = hex::decode(argument).unwrap();
            bytes[0] |= major;
            assert_eq!(decode(&bytes, WIDE), Err(CborError::NotShortest { at: 0 }), "{major:02x} {argument}");
        }
    }
    check_refused("a1180105", CborError::NotShortest { at: 1 });
}

#[test]
fn other_forms_are_refused() {
    let unsupported = CborError::Unsupported { at: 0 };
    for bad in [
        "f6",
        "f7",
        "f0",
        "f3",
        "f8ff",
        "f818",
        "f814",
        "f90000",
        "fa47c35000",
        "fb3ff199999999999a", // simple, float
        "c074",
        "d28440a04040",
        "d81800",
        "c101", // tags
        "1c",
        "1d",
        "1e",
        "5c",
        "7d",
        "9e",
        "bc",
        "fc",
        "fe", // reserved
    ] {
        check_refused(bad, unsupported);
    }
    for bad in ["5fff", "7fff", "9fff", "bfff", "1f", "3f", "ff", "5f420102ff", "9f01ff", "bf0102ff"] {
        check_refused(bad, CborError::Indefinite { at: 0 });
    }
    check_refused("81ff", CborError::Indefinite { at: 1 });
    check_refused("8201f6", CborError::Unsupported { at: 2 });
    check_refused("0000", CborError::Trailing { at: 1 });
    check_refused("8000", CborError::Trailing { at: 1 });
}

#[test]
fn maps_have_ascending_unsigned_keys() {
    check_refused("a201000100", CborError::KeyOrder { at: 3 });
    check_refused("a202000100", CborError::KeyOrder { at: 3 });
    check_refused("a21818001700", CborError::KeyOrder { at: 4 });
    for key in ["20", "40", "6161", "80", "a0"] {
        check_refused(&format!("a1{key}00"), CborError::KeyType { at: 1 });
    }
    for key in ["f4", "f5", "f6", "c001", "f90000"] {
        check_refused(&format!("a1{key}00"), CborError::Unsupported { at: 1 });
    }
}

#[test]
fn text_is_utf8_in_nfc() {
    check_refused("61ff", CborError::Utf8 { at: 0 });
    check_refused("62c328", CborError::Utf8 { at: 0 });
    check_refused("63eda080", CborError::Utf8 { at: 0 }); // a surrogate
    check_refused("62c080", CborError::Utf8 { at: 0 }); // overlong
    check_refused("6365cc81", CborError::NotNormal { at: 0 }); // e + combining acute
    check_refused("63e284ab", CborError::NotNormal { at: 0 }); // angstrom sign
    check_refused("8163efa480", CborError::NotNormal { at: 1 }); // compatibility ideograph U+F900
    check("62c3a9", text("é"));
    // The writer normalizes, so that a node can always read what it wrote.
    assert_eq!(hex::encode(encode(&text("e\u{301}"))), "62c3a9");
    assert_eq!(hex::encode(Map::new().text(1, "e\u{301}").encode()), "a10162c3a9");
}

#[test]
fn short_inputs_and_huge_lengths_are_refused_at_once() {
    check_refused("", CborError::Truncated { at: 0 });
    for huge in [
        "18",
        "19ff",
        "1b00",
        "41",
        "4200",
        "61",
        "81",
        "8201",
        "a1",
        "a101", // short
        "5bffffffffffffffff",
        "7bffffffffffffffff",
        "9bffffffffffffffff",
        "bbffffffffffffffff",
        "5b7fffffffffffffff",
        "9b7fffffffffffffff",
        "bb8000000000000000",
        "9affffffff",
        "baffffffff",
        "5affffffff",
    ] {
        check_refused(huge, CborError::Truncated { at: 0 });
    }
    check_refused("8301", CborError::Truncated { at: 0 });
    check_refused("82015bffffffffffffffff", CborError::Truncated { at: 2 });
    check_refused("820118", CborError::Truncated { at: 2 });
    check_refused("a2010203", CborError::Truncated { at: 0 });
}

#[test]
fn limits_hold_at_their_edge() {
    let nested = |depth: usize| [vec![0x81; depth], vec![0x00]].concat();
    let limits = Limits { bytes: 100, depth: 6 };
    assert!(decode(&nested(6), limits).is_ok());
    assert_eq!(decode(&nested(7), limits), Err(CborError::TooDeep { at: 6, limit: 6 }));
    assert_eq!(decode(&nested(99), limits), Err(CborError::TooDeep { at: 6, limit: 6 }));
    let maps = |depth: usize| [[0xa1, 0x01].repeat(depth), vec![0xa0]].concat();
    assert!(decode(&maps(5), limits).is_ok());
    assert_eq!(decode(&maps(6), limits), Err(CborError::TooDeep { at: 12, limit: 6 }));
    assert!(decode(&[0x00], Limits { bytes: 1, depth: 0 }).is_ok());
    assert_eq!(decode(&[0x80], Limits { bytes: 1, depth: 0 }), Err(CborError::TooDeep { at: 0, limit: 0 }));

    let long = encode(&Value::Bytes(vec![0; 98]));
    assert_eq!(long.len(), 100);
    assert!(decode(&long, limits).is_ok());
    assert_eq!(
        decode(&encode(&Value::Bytes(vec![0; 99])), limits),
        Err(CborError::TooLarge { size: 101, limit: 100 })
    );
    // A bomb of the largest document is refused without using the stack.
    assert_eq!(decode(&vec![0x81; 1 << 20], Limits::DOCUMENT), Err(CborError::TooDeep { at: 8, limit: 8 }));
}

/// An encoder written from the text of RFC 8949 section 3 alone: tries every head width, keeps the first that fits.
fn naive_encode(value: &Value) -> Vec<u8> {
    fn head(major: u8, n: u64) -> Vec<u8> {
        if n <= 23 {
            return vec![major * 32 + n as u8];
        }
        let widths = [(24, 1), (25, 2), (26, 4), (27, 8)];
        let (info, width) = widths.into_iter().find(|(_, w)| u128::from(n) < 1 << (8 * w)).unwrap();
        let digits = (0..width).rev().map(|place| (n >> (8 * place)) as u8);
        std::iter::once(major * 32 + info).chain(digits).collect()
    }
    match value {
        Value::Uint(n) => head(0, *n),
        Value::Negative(n) => head(1, *n),
        Value::Bytes(bytes) => [head(2, bytes.len() as u64), bytes.clone()].concat(),
        Value::Text(text) => [head(3, text.len() as u64), text.clone().into_bytes()].concat(),
        Value::Array(items) => {
            items.iter().fold(head(4, items.len() as u64), |out, item| [out, naive_encode(item)].concat())
        }
        Value::Map(entries) => entries.iter().fold(head(5, entries.len() as u64), |out, (key, value)| {
            [out, head(0, *key), naive_encode(value)].concat()
        }),
        Value::Bool(flag) => vec![if *flag { 0xf5 } else { 0xf4 }],
    }
}

fn any_uint() -> impl Strategy<Value = u64> {
    prop_oneof![0..30_u64, 200..300_u64, 65_000..66_000_u64, any::<u32>().prop_map(u64::from), any::<u64>()]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any_uint().prop_map(Value::Uint),
        any_uint().prop_map(Value::Negative),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Bytes),
        "\\PC{0,40}".prop_map(|text| Value::Text(text.nfc().collect())),
        any::<bool>().prop_map(Value::Bool),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..30).prop_map(Value::Array),
            prop::collection::btree_map(any_uint(), inner, 0..6).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn values_round_trip_in_one_encoding(value in any_value()) {
        let limits = Limits { bytes: 1 << 22, depth: 16 };
        let bytes = encode(&value);
        prop_assert_eq!(&bytes, &naive_encode(&value));
        prop_assert_eq!(decode(&bytes, limits), Ok(value));
    }

    #[test]
    fn what_is_accepted_is_canonical(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
        if let Ok(value) = decode(&bytes, WIDE) {
            prop_assert_eq!(naive_encode(&value), bytes);
        }
    }

    #[test]
    fn altered_encodings_are_refused_or_another_value(value in any_value(), place: prop::sample::Index, bit in 0..8) {
        let limits = Limits { bytes: 1 << 22, depth: 16 };
        let mut bytes = encode(&value);
        let place = place.index(bytes.len());
        bytes[place] ^= 1_u8 << bit;
        if let Ok(other) = decode(&bytes, limits) {
            prop_assert_ne!(&other, &value);
            prop_assert_eq!(naive_encode(&other), bytes);
        }
    }

    #[test]
    fn prefixes_are_refused(value in any_value(), cut: prop::sample::Index) {
        let bytes = encode(&value);
        let limits = Limits { bytes: 1 << 22, depth: 16 };
        prop_assert!(decode(&bytes[..cut.index(bytes.len())], limits).is_err());
    }
}

fn sample() -> Map {
    Map::new()
        .text(1, "a")
        .uint(2, 5)
        .bytes(3, b"xyz")
        .digest(4, &Digest::ZERO)
        .boolean(5, true)
        .array(6, vec![Value::Uint(1)])
        .map(7, Map::new().uint(1, 9))
        .value(8, Value::Negative(0))
}

#[test]
fn fields_come_out_as_they_went_in() {
    let mut fields = Fields::decode(&sample().encode(), WIDE, "sample").unwrap();
    assert_eq!(fields.text(1, "a").unwrap(), "a");
    assert_eq!(fields.uint(2, "b").unwrap(), 5);
    assert_eq!(fields.bytes(3, "c").unwrap(), b"xyz");
    assert_eq!(fields.digest(4, "d").unwrap(), Digest::ZERO);
    assert!(fields.boolean(5, "e").unwrap());
    assert_eq!(fields.array(6, "f").unwrap(), [Value::Uint(1)]);
    let mut inner = fields.fields(7, "g").unwrap();
    assert_eq!(inner.uint(1, "h").unwrap(), 9);
    inner.finish().unwrap();
    assert_eq!(fields.value(8, "i").unwrap(), Value::Negative(0));
    assert_eq!(fields.maybe_text(9, "j").unwrap(), None);
    assert_eq!(fields.maybe_uint(9, "j").unwrap(), None);
    assert_eq!(fields.maybe_bytes(9, "j").unwrap(), None);
    assert_eq!(fields.maybe_digest(9, "j").unwrap(), None);
    assert_eq!(fields.maybe_value(9, "j").unwrap(), None);
    fields.finish().unwrap();
}

#[test]
fn absent_fields_are_not_written() {
    let none = Map::new().maybe_text(1, None).maybe_uint(2, None).maybe_bytes(3, None).maybe_digest(4, None);
    assert_eq!(none, Map::new());
    let given = Map::new()
        .maybe_text(1, Some("a"))
        .maybe_uint(2, Some(5))
        .maybe_bytes(3, Some(b"xyz"))
        .maybe_digest(4, Some(&Digest::ZERO));
    assert_eq!(given, Map::new().text(1, "a").uint(2, 5).bytes(3, b"xyz").digest(4, &Digest::ZERO));
}

#[track_caller]
fn check_field<T: std::fmt::Debug>(read: impl FnOnce(&mut Fields) -> Result<T, FieldError>, expect: &str) {
    let mut fields = Fields::from_value(sample().build(), "offer").unwrap();
    assert_eq!(read(&mut fields).unwrap_err().to_string(), expect);
}

#[test]
fn errors_name_the_field() {
    check_field(|f| f.uint(1, "size"), "offer.size (1): expected unsigned integer, found text");
    check_field(|f| f.text(2, "name"), "offer.name (2): expected text, found unsigned integer");
    check_field(|f| f.maybe_text(3, "name"), "offer.name (3): expected text, found bytes");
    check_field(|f| f.maybe_uint(5, "size"), "offer.size (5): expected unsigned integer, found boolean");
    check_field(|f| f.bytes(6, "data"), "offer.data (6): expected bytes, found array");
    check_field(|f| f.digest(3, "root"), "offer.root (3): expected 32 bytes, found 3");
    check_field(|f| f.maybe_digest(3, "root"), "offer.root (3): expected 32 bytes, found 3");
    check_field(|f| f.fixed::<16>(4, "id"), "offer.id (4): expected 16 bytes, found 32");
    check_field(|f| f.boolean(8, "flag"), "offer.flag (8): expected boolean, found negative integer");
    check_field(|f| f.array(7, "ranges"), "offer.ranges (7): expected array, found map");
    check_field(|f| f.fields(1, "price"), "offer.price (1): expected map, found text");
    check_field(|f| f.text(9, "name"), "offer.name (9): missing");
    check_field(|f| f.value(9, "any"), "offer.any (9): missing");
    check_field(|f| f.digest(9, "root"), "offer.root (9): missing");
    check_field(|f| f.fields(9, "price"), "offer.price (9): missing");
    check_field(|f| f.text(1, "name").and_then(|_| f.text(1, "name")), "offer.name (1): missing");
    check_field(
        |f| f.fields(7, "price")?.text(1, "unit"),
        "offer.price.unit (1): expected text, found unsigned integer",
    );
    check_field(|f| f.fields(7, "price")?.finish(), "offer.price: unknown field 1");

    let fields = Fields::from_value(Map::new().uint(17, 0).uint(20, 0).build(), "offer").unwrap();
    assert_eq!(fields.finish().unwrap_err().to_string(), "offer: unknown field 17");
    let error = Fields::from_value(Value::Uint(1), "offer").unwrap_err();
    assert_eq!(error.to_string(), "offer: expected map, found unsigned integer");
    let error = Fields::decode(&[0xa1], WIDE, "offer").unwrap_err();
    assert_eq!(
        error,
        FieldError::Malformed { what: "offer".to_owned(), source: CborError::Truncated { at: 0 } }
    );
}
