use huitong_ids::Segment;
use huitong_proof::Content;
use huitong_proof::cbor::{decode, encode};
use proptest::prelude::*;

use super::*;

const RESOURCE: &str = "791440300708461136T44031BH95JZY9";
const PRODUCT: &str = "691440300708461136T44031BH95JZYV";
const NODE: &str = "591440300708461136T440300000188*";
const ENTITY: &str = "91440300708461136T";

fn resource() -> ResourceRecord {
    ResourceRecord {
        name: "气象观测 2026".to_owned(),
        summary: "Hourly observations.\nTwo stations.".to_owned(),
        holder: ENTITY.parse().unwrap(),
        holder_name: "Example Weather Bureau".to_owned(),
        ownership: Ownership::Public,
        origin: Origin::Collected,
        format: DataFormat::Table,
        update_frequency: UpdateFrequency::Daily,
        security_level: SecurityLevel::Sensitive,
        grade: Grade::General,
        personal_information: PersonalInformation::Present,
        size: 5,
        root: Content::of_bytes(b"hello").root(),
        digests: FileDigests {
            sha256: Some(Digest::sha256(b"hello")),
            sm3: Some(Digest::from_bytes([7; 32])),
        },
        legacy_code: Some("1215202502281BH95JZY".to_owned()),
    }
}

fn product() -> ProductRecord {
    ProductRecord {
        name: "Weather".to_owned(),
        intro: String::new(),
        delivery_form: DeliveryForm::Report,
        provider_entity: ENTITY.parse().unwrap(),
        provider: NODE.parse().unwrap(),
        derived_from: vec![RESOURCE.parse().unwrap()],
        size: 5,
        root: Content::of_bytes(b"hello").root(),
        update_frequency: UpdateFrequency::Annual,
        security_level: SecurityLevel::Public,
        grade: Grade::Important,
        personal_information: PersonalInformation::Absent,
        file_name: FileName::parse("天气.csv").unwrap(),
        files: None,
        digests: FileDigests::default(),
    }
}

fn listing() -> ListingRecord {
    ListingRecord {
        product: PRODUCT.parse().unwrap(),
        provider: NODE.parse().unwrap(),
        name: "Weather".to_owned(),
        intro: "For farms".to_owned(),
        policy: b"{}".to_vec(),
        price: "free".to_owned(),
        version: 3,
        window_bytes: MIN_WINDOW_BYTES,
        series: false,
    }
}

#[test]
fn records_read_back_and_their_bytes_never_change() {
    let records = [
        ("resource", resource().encode().unwrap()),
        ("product", product().encode().unwrap()),
        ("listing", listing().encode().unwrap()),
    ];
    assert_eq!(ResourceRecord::decode(&records[0].1).unwrap(), resource());
    assert_eq!(ProductRecord::decode(&records[1].1).unwrap(), product());
    assert_eq!(ListingRecord::decode(&records[2].1).unwrap(), listing());
    // Frozen: a change here breaks every statement that names a record by its digest.
    let digests = records.map(|(name, bytes)| format!("{name} {}", Digest::sha256(&bytes)));
    assert_eq!(
        digests,
        [
            "resource 3a1c1a03301b8504b63858a4d0e334ddfbe9c1f49b93c2ca5bbd7b715adfadad",
            "product 5e45471b0dacac9e78170da697ff8acef90a598399d49ad9e1ac07024db96e5d",
            "listing b605221f5fb1acfafde8e3963a5a2db2cbae9e9e20ff619b1cdee2b4f81e4b3d",
        ]
    );
}

/// Encodes a good record, replaces or removes one entry, and reads it again.
fn altered(record: Vec<u8>, key: u64, value: Option<Value>) -> Vec<u8> {
    let Value::Map(mut map) = decode(&record, Limits::DOCUMENT).unwrap() else { panic!("a record is a map") };
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
    encode(&Value::Map(map))
}

fn text(text: &str) -> Option<Value> {
    Some(Value::Text(text.to_owned()))
}

#[test]
fn resource_entries_are_checked() {
    let check = |key, value: Option<Value>, accepted: bool| {
        let outcome = ResourceRecord::decode(&altered(resource().encode().unwrap(), key, value.clone()));
        assert_eq!(outcome.is_ok(), accepted, "entry {key} = {value:?}: {outcome:?}");
    };
    check(1, text("huitong/product/v1"), false);
    check(1, None, false);
    check(2, text(&"名".repeat(128)), true);
    check(2, text(&"名".repeat(129)), false);
    check(2, text(""), false);
    check(2, text("  "), false);
    check(2, text("two\nlines"), false);
    check(2, text("escape \u{1b}[2J"), false);
    check(2, None, false);
    check(3, text(&"摘".repeat(1024)), true);
    check(3, text(&"摘".repeat(1025)), false);
    check(3, text(""), true);
    check(3, text("a\u{0}b"), false);
    check(4, text("91440300708461136t"), false);
    check(6, text("personal"), true);
    check(6, text("other"), false);
    check(7, text("004"), true);
    check(7, text("005"), false);
    check(8, text("database"), true);
    check(9, text("009"), true);
    check(9, text("010"), false);
    check(10, text("005"), true);
    check(10, text("1"), false);
    check(11, text("core"), true);
    check(11, text("Core"), false);
    check(12, Some(Value::Uint(1)), false);
    check(13, Some(Value::Uint(u64::MAX)), true);
    check(13, Some(Value::Negative(0)), false);
    check(14, Some(Value::Bytes(vec![0; 31])), false);
    check(15, None, true);
    check(15, Some(Value::Bytes(vec![0; 33])), false);
    check(16, None, true);
    check(16, text(""), false);
    check(16, text(&"x".repeat(32)), true);
    check(16, text(&"x".repeat(33)), false);
    check(16, text("with space"), false);
    check(16, text("码"), false);
    check(17, text("unknown entry"), false);
}

#[test]
fn product_entries_are_checked() {
    let check = |key, value: Option<Value>, accepted: bool| {
        let outcome = ProductRecord::decode(&altered(product().encode().unwrap(), key, value.clone()));
        assert_eq!(outcome.is_ok(), accepted, "entry {key} = {value:?}: {outcome:?}");
    };
    let ids = |ids: &[&str]| Some(Value::Array(ids.iter().map(|id| Value::Text((*id).to_owned())).collect()));
    let many = |count: u8| {
        let entity: EntityCode = ENTITY.parse().unwrap();
        let segment = Segment::parse("4403").unwrap();
        let ids =
            (0..count).map(|n| DataId::mint(DataType::Resource, &entity, &segment, [n; 16], None).unwrap());
        Some(Value::Array(ids.map(|id| Value::Text(id.to_string())).collect()))
    };
    check(1, text("huitong/product/v2"), false);
    check(2, text(&"n".repeat(128)), true);
    check(2, text(&"n".repeat(129)), false);
    check(3, text(&"n".repeat(1025)), false);
    check(4, text("006"), true);
    check(4, text("007"), false);
    check(5, text(NODE), false);
    check(6, text(PRODUCT), false);
    check(6, text("591440300708461136T440300000189*"), false);
    check(7, ids(&[RESOURCE]), true);
    check(7, ids(&[]), false);
    check(7, ids(&[RESOURCE, RESOURCE]), false);
    check(7, ids(&[PRODUCT]), false);
    check(7, many(64), true);
    check(7, many(65), false);
    check(7, Some(Value::Array(vec![Value::Uint(1)])), false);
    check(8, text("5"), false);
    check(9, Some(Value::Bytes(Vec::new())), false);
    check(10, text("000"), false);
    check(11, text("006"), false);
    check(12, text(""), false);
    check(13, None, false);
    check(14, text("../secret"), false);
    check(14, None, false);
    check(15, Some(Value::Bool(true)), false);
}

#[test]
fn listing_entries_are_checked() {
    let check = |key, value: Option<Value>, accepted: bool| {
        let outcome = ListingRecord::decode(&altered(listing().encode().unwrap(), key, value.clone()));
        assert_eq!(outcome.is_ok(), accepted, "entry {key} = {value:?}: {outcome:?}");
    };
    check(2, text(RESOURCE), false);
    check(3, text(ENTITY), false);
    check(4, text(""), false);
    check(5, text(&"i".repeat(1024)), true);
    check(6, Some(Value::Bytes(Vec::new())), false);
    check(6, Some(Value::Bytes(vec![b' '; MAX_POLICY_BYTES])), true);
    check(6, Some(Value::Bytes(vec![b' '; MAX_POLICY_BYTES + 1])), false);
    check(7, text(""), true);
    check(7, text(&"价".repeat(128)), true);
    check(7, text(&"价".repeat(129)), false);
    check(8, text("02"), false);
    check(9, Some(Value::Uint(0)), false);
    check(9, Some(Value::Uint(u64::MAX)), true);
    check(10, Some(Value::Uint(MIN_WINDOW_BYTES - 1)), false);
    check(10, Some(Value::Uint(MAX_WINDOW_BYTES)), true);
    check(10, Some(Value::Uint(MAX_WINDOW_BYTES + 1)), false);
    check(11, Some(Value::Uint(0)), false);
}

#[test]
fn an_invalid_record_cannot_be_encoded() {
    assert!(ResourceRecord { name: String::new(), ..resource() }.encode().is_err());
    assert!(ProductRecord { derived_from: Vec::new(), ..product() }.encode().is_err());
    assert!(ListingRecord { window_bytes: 0, ..listing() }.encode().is_err());
}

#[test]
fn file_names_are_plain() {
    let check = |name: &str, accepted: bool| {
        assert_eq!(FileName::parse(name).is_ok(), accepted, "{name:?}");
    };
    check("data.csv", true);
    check("数据 2026.csv", true);
    check("..data", true);
    check(".hidden", true);
    check(&"x".repeat(255), true);
    check(&"x".repeat(256), false);
    check(&"字".repeat(85), true);
    check(&"字".repeat(86), false);
    check("", false);
    check(".", false);
    check("..", false);
    check("a/b", false);
    check("/etc/passwd", false);
    check("a\0b", false);
    check("a\nb", false);
    check("a\u{1b}[31mb", false);
}

#[test]
fn every_flipped_byte_gives_an_error_or_another_record() {
    let bytes = product().encode().unwrap();
    for position in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[position] ^= 0x01;
        if let Ok(record) = ProductRecord::decode(&flipped) {
            assert_ne!(record, product(), "byte {position}");
            assert_eq!(record.encode().unwrap(), flipped, "byte {position}");
        }
    }
    for length in 0..bytes.len() {
        assert!(ProductRecord::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
}

proptest! {
    #[test]
    fn reading_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = ResourceRecord::decode(&bytes);
        let _ = ProductRecord::decode(&bytes);
        let _ = ListingRecord::decode(&bytes);
    }

    #[test]
    fn a_file_name_stays_inside_its_directory(name in "\\PC{0,40}|[./a-c\\x00-\\x1f]{0,6}") {
        if let Ok(name) = FileName::parse(&name) {
            let joined = std::path::Path::new("/inbox").join(name.as_str());
            prop_assert_eq!(joined.parent(), Some(std::path::Path::new("/inbox")));
            prop_assert_eq!(joined.file_name().and_then(|name| name.to_str()), Some(name.as_str()));
        }
    }
}
