use std::convert::Infallible;

use huitong_ids::{DataType, Segment};
use huitong_proof::FileDigests;
use huitong_proof::{Content, ContentRoot};
use proptest::prelude::*;

use super::*;
use crate::model::{
    DataFormat, DeliveryForm, FileName, MIN_WINDOW_BYTES, Origin, Ownership, PersonalInformation,
    UpdateFrequency,
};

const OURS: &str = "91440300708461136T";
const OTHERS: &str = "91110000802100433B";
const POLICY: &[u8] =
    br#"{"contractPolicies":{"permissionPolicies":[{"actions":["read"],"constraints":[]}]}}"#;

fn entity(code: &str) -> EntityCode {
    code.parse().unwrap()
}

fn node(code: &str, n: u8) -> NodeId {
    NodeId::mint(huitong_ids::NodeType::Connector, &entity(code), &Segment::parse("4403").unwrap(), [n; 16])
}

fn id(data_type: DataType, n: u8) -> DataId {
    DataId::mint(data_type, &entity(OURS), &Segment::parse("4403").unwrap(), [n; 16], None).unwrap()
}

fn content() -> ContentRoot {
    Content::of_bytes(b"content").root()
}

fn resource() -> ResourceRecord {
    ResourceRecord {
        name: "name".to_owned(),
        summary: String::new(),
        holder: entity(OURS),
        holder_name: "holder".to_owned(),
        ownership: Ownership::Enterprise,
        origin: Origin::Original,
        format: DataFormat::File,
        update_frequency: UpdateFrequency::Irregular,
        security_level: SecurityLevel::Internal,
        grade: Grade::General,
        personal_information: PersonalInformation::Absent,
        size: 7,
        root: content(),
        digests: FileDigests::default(),
        legacy_code: None,
    }
}

fn product() -> ProductRecord {
    ProductRecord {
        name: "name".to_owned(),
        intro: String::new(),
        delivery_form: DeliveryForm::Dataset,
        provider_entity: entity(OURS),
        provider: node(OURS, 1),
        derived_from: vec![id(DataType::Resource, 1)],
        size: 7,
        root: content(),
        update_frequency: UpdateFrequency::Irregular,
        security_level: SecurityLevel::Internal,
        grade: Grade::General,
        personal_information: PersonalInformation::Absent,
        file_name: FileName::parse("name.csv").unwrap(),
        files: None,
        digests: FileDigests::default(),
    }
}

fn offer() -> ListingRecord {
    ListingRecord {
        product: id(DataType::Product, 1),
        provider: node(OURS, 1),
        name: "name".to_owned(),
        intro: String::new(),
        policy: POLICY.to_vec(),
        price: String::new(),
        version: 1,
        window_bytes: MIN_WINDOW_BYTES,
        series: false,
    }
}

/// Resource 1 is ours, resource 2 is another node's, everything else is unknown.
fn owner_of(resource: &DataId) -> Result<Option<NodeId>, Infallible> {
    Ok(if *resource == id(DataType::Resource, 1) {
        Some(node(OURS, 1))
    } else if *resource == id(DataType::Resource, 2) {
        Some(node(OURS, 2))
    } else {
        None
    })
}

#[test]
fn what_may_be_registered() {
    let check = |asset: Asset, expected: Option<&str>| {
        let (node, entity) = (node(OURS, 1), entity(OURS));
        let applicant = Applicant { node: &node, entity: &entity };
        let Ok(verdict) = registration(&applicant, &asset, owner_of);
        let code = verdict.err().map(|refusal| {
            assert!(!refusal.reason.is_empty() && !refusal.next_step.is_empty());
            refusal.code
        });
        assert_eq!(code.as_deref(), expected);
    };
    check(Asset::Resource(resource()), None);
    check(Asset::Resource(ResourceRecord { holder: entity(OTHERS), ..resource() }), Some("catalog.holder"));
    for (grade, level, expected) in [
        (Grade::General, SecurityLevel::Public, None),
        (Grade::General, SecurityLevel::Sensitive, None),
        (Grade::General, SecurityLevel::Confidential, None),
        (Grade::General, SecurityLevel::TopSecret, Some("catalog.grade")),
        (Grade::Important, SecurityLevel::Public, Some("catalog.grade")),
        (Grade::Core, SecurityLevel::Public, Some("catalog.grade")),
    ] {
        check(Asset::Resource(ResourceRecord { grade, security_level: level, ..resource() }), expected);
        check(Asset::Product(ProductRecord { grade, security_level: level, ..product() }), expected);
    }
    check(Asset::Product(product()), None);
    check(
        Asset::Product(ProductRecord { provider_entity: entity(OTHERS), ..product() }),
        Some("catalog.holder"),
    );
    check(Asset::Product(ProductRecord { provider: node(OURS, 2), ..product() }), Some("catalog.provider"));
    for (derived_from, expected) in [
        (vec![1], None),
        (vec![2], Some("catalog.derived")),
        (vec![3], Some("catalog.derived")),
        (vec![1, 3], Some("catalog.derived")),
    ] {
        let derived_from = derived_from.into_iter().map(|n| id(DataType::Resource, n)).collect();
        check(Asset::Product(ProductRecord { derived_from, ..product() }), expected);
    }
}

#[test]
fn only_the_owner_makes_a_new_version() {
    let (us, other, entity) = (node(OURS, 1), node(OURS, 2), entity(OURS));
    let applicant = Applicant { node: &us, entity: &entity };
    let product = id(DataType::Product, 1);
    let check = |renews: Option<&DataId>, registered, expected: Result<u64, &str>| {
        let verdict = version(&applicant, renews, registered).map_err(|refusal| refusal.code);
        assert_eq!(verdict, expected.map_err(str::to_owned));
    };
    check(None, None, Ok(1));
    check(Some(&product), Some((&us, 1)), Ok(2));
    check(Some(&product), Some((&other, 1)), Err("catalog.renews"));
    check(Some(&product), None, Err("catalog.renews"));
}

#[test]
fn what_may_be_listed() {
    let check =
        |offer: &ListingRecord, owner: Option<u8>, listed: Option<(&ListingRecord, u64)>, expected| {
            let (us, entity) = (node(OURS, 1), entity(OURS));
            let applicant = Applicant { node: &us, entity: &entity };
            let owner = owner.map(|n| node(OURS, n));
            let before = listed.map(|(record, version)| (record.encode().unwrap(), version));
            let before = before.as_ref().map(|(record, version)| Listed { record, version: *version });
            let verdict = listing(&applicant, offer, &offer.encode().unwrap(), owner.as_ref(), before);
            assert_eq!(verdict.map_err(|refusal| refusal.code), expected);
        };
    let refused = |code: &str| Err(code.to_owned());
    let first = offer();
    let second = ListingRecord { version: 2, price: "1".to_owned(), ..offer() };
    check(&first, Some(1), None, Ok(ListingStep::Replace));
    check(&first, None, None, refused("catalog.product"));
    check(&first, Some(2), None, refused("catalog.provider"));
    check(&ListingRecord { provider: node(OURS, 2), ..offer() }, Some(1), None, refused("catalog.provider"));
    check(&ListingRecord { policy: b"{}".to_vec(), ..offer() }, Some(1), None, refused("catalog.policy"));
    check(&second, Some(1), None, refused("catalog.version"));
    check(&second, Some(1), Some((&first, 1)), Ok(ListingStep::Replace));
    check(&first, Some(1), Some((&first, 1)), Ok(ListingStep::Keep));
    check(
        &ListingRecord { price: "2".to_owned(), ..offer() },
        Some(1),
        Some((&first, 1)),
        refused("catalog.version"),
    );
    check(&first, Some(1), Some((&second, 2)), refused("catalog.version"));
    check(&ListingRecord { version: 4, ..offer() }, Some(1), Some((&second, 2)), refused("catalog.version"));
    let last = ListingRecord { version: u64::MAX, ..offer() };
    check(&last, Some(1), Some((&last, u64::MAX)), Ok(ListingStep::Keep));
}

#[test]
fn which_certificates_hold() {
    let expected = || AssetCertificate {
        id: id(DataType::Product, 9),
        record: Digest::sha256(b"record"),
        kind: AssetKind::Product,
        holder: entity(OURS),
        root: content(),
        size: 7,
        derived_from: vec![id(DataType::Resource, 1)],
        version: 1,
    };
    let check = |given: AssetCertificate, wrong: Option<&str>| {
        let verdict = certificate(&given, &expected());
        match wrong {
            None => assert_eq!(verdict, Ok(())),
            Some(wrong) => {
                let refusal = verdict.unwrap_err();
                assert_eq!(refusal.code, "catalog.certificate");
                assert!(refusal.reason.contains(wrong), "{refusal}");
            }
        }
    };
    check(expected(), None);
    check(AssetCertificate { kind: AssetKind::Resource, ..expected() }, Some("kind"));
    check(AssetCertificate { id: id(DataType::Resource, 9), ..expected() }, Some("kind"));
    check(AssetCertificate { record: Digest::ZERO, ..expected() }, Some("record"));
    check(AssetCertificate { holder: entity(OTHERS), ..expected() }, Some("holder"));
    check(AssetCertificate { size: 8, ..expected() }, Some("content"));
    check(AssetCertificate { root: Content::of_bytes(b"").root(), ..expected() }, Some("content"));
    check(AssetCertificate { derived_from: Vec::new(), ..expected() }, Some("resources"));
    let foreign =
        DataId::mint(DataType::Product, &entity(OTHERS), &Segment::parse("4403").unwrap(), [9; 16], None);
    check(AssetCertificate { id: foreign.unwrap(), ..expected() }, Some("holder"));
    check(AssetCertificate { id: id(DataType::Product, 8), ..expected() }, Some("identifier"));
}

#[test]
fn keywords_match_anywhere_and_all_of_them() {
    let check = |keywords: &str, expected: bool| {
        let text = searchable("深圳 Weather 2026", "Hourly RAIN data from Straße 5");
        assert_eq!(Keywords::new(keywords).match_all(&text), expected, "{keywords:?}");
    };
    check("", true);
    check("   ", true);
    check("weather", true);
    check("WEATHER rain", true);
    check("eath ourl", true);
    check("天气", false);
    check("深圳\u{3000}rain", true);
    check("weather snow", false);
    check("STRAßE", true);
    check("2026\nhourly", true);
    check("2026hourly", false);
}

proptest! {
    /// Written differently on purpose: windows of characters instead of a substring search.
    #[test]
    fn matching_agrees_with_a_naive_search(
        name in "[aAbBéÉß深 ]{0,8}",
        intro in "[aAbBéÉß深 \\n]{0,12}",
        keywords in "[aAbBéÉß深 ]{0,5}",
    ) {
        let lower = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<Vec<char>>();
        let (name_folded, intro_folded) = (lower(&name), lower(&intro));
        let contains = |text: &[char], term: &[char]| text.windows(term.len()).any(|window| window == term);
        let expected = keywords.split(' ').filter(|term| !term.is_empty()).map(lower).all(|term| {
            contains(&name_folded, &term) || contains(&intro_folded, &term)
        });
        prop_assert_eq!(Keywords::new(&keywords).match_all(&searchable(&name, &intro)), expected);
    }
}
