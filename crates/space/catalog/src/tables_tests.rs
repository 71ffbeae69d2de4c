use huitong_proof::{Content, FileDigests};

use super::*;
use crate::model::{DataFormat, Grade, Origin, Ownership, PersonalInformation, UpdateFrequency};

const RESOURCE: &str = "791440300708461136T44031BH95JZY9";
const PRODUCT: &str = "691440300708461136T44031BH95JZYV";
const NODE: &str = "591440300708461136T440300000188*";

fn asset_row() -> AssetRow {
    AssetRow {
        record: b"record".to_vec(),
        certificate: Digest::sha256(b"certificate"),
        owner: NODE.parse().unwrap(),
        owner_name: "owner".to_owned(),
        registered: Timestamp::from_millis(1),
        version: 2,
    }
}

fn listing_row() -> ListingRow {
    ListingRow {
        record: b"record".to_vec(),
        statement: Digest::sha256(b"statement"),
        version: 2,
        position: 3,
        listed: Timestamp::from_millis(4),
        product_record: b"product".to_vec(),
        certificate: Digest::sha256(b"certificate"),
    }
}

fn recent_row() -> RecentRow {
    RecentRow {
        hit: Hit {
            product: PRODUCT.parse().unwrap(),
            name: "Name".to_owned(),
            intro: "Intro".to_owned(),
            provider: NODE.parse().unwrap(),
            provider_name: "provider".to_owned(),
            security_level: SecurityLevel::Internal,
            size: 5,
        },
        searchable: "name\nintro".to_owned(),
    }
}

fn publication_row(state: PublicationState) -> PublicationRow {
    let root = Content::of_bytes(b"content").root();
    let certified = |id: &str| Some(Certified { id: id.parse().unwrap(), certificate: Digest::sha256(b"c") });
    let record = ResourceRecord {
        name: "name".to_owned(),
        summary: String::new(),
        holder: "91440300708461136T".parse().unwrap(),
        holder_name: "holder".to_owned(),
        ownership: Ownership::Enterprise,
        origin: Origin::Original,
        format: DataFormat::File,
        update_frequency: UpdateFrequency::Irregular,
        security_level: SecurityLevel::Internal,
        grade: Grade::General,
        personal_information: PersonalInformation::Absent,
        size: 7,
        root,
        digests: FileDigests::default(),
        legacy_code: None,
    };
    PublicationRow {
        state,
        request: Digest::sha256(b"request"),
        // A path need not be text.
        source: Source {
            place: Place::Here(PathBuf::from(OsString::from_vec(b"/data/\xff.csv".to_vec()))),
            size: 7,
            root,
            files: Some(3),
            stamp: Digest::sha256(b"stamp"),
            seal: Digest::sha256(b"seal"),
        },
        file_name: FileName::parse("name.csv").unwrap(),
        delivery_form: DeliveryForm::Dataset,
        policy: b"{}".to_vec(),
        price: "free".to_owned(),
        window_bytes: 1 << 20,
        series: true,
        push: true,
        renews: Some([8; 16]),
        renewed_by: None,
        resource_record: record.encode().unwrap(),
        resource: certified(RESOURCE),
        product_record: Some(b"product".to_vec()),
        product: certified(PRODUCT),
        listing_record: Some(b"listing".to_vec()),
        reason: Some(Refusal::new("code", "reason", "next step")),
        created: Timestamp::from_millis(1),
        updated: Timestamp::from_millis(2),
    }
}

#[test]
fn rows_read_back_and_their_bytes_never_change() {
    let rows = [
        ("asset", asset_row().encode()),
        ("listing", listing_row().encode()),
        ("recent", recent_row().encode()),
        ("publication", publication_row(PublicationState::Failed).encode()),
    ];
    assert_eq!(AssetRow::decode(&rows[0].1).unwrap().encode(), rows[0].1);
    assert_eq!(ListingRow::decode(&rows[1].1).unwrap().encode(), rows[1].1);
    assert_eq!(RecentRow::decode(&rows[2].1).unwrap().encode(), rows[2].1);
    assert_eq!(RecentRow::decode(&rows[2].1).unwrap().hit, recent_row().hit);
    assert_eq!(PublicationRow::decode(&rows[3].1).unwrap().encode(), rows[3].1);
    // Frozen: rows of this version lie in the journals of nodes. A new shape needs a new version.
    let digests = rows.map(|(name, bytes)| format!("{name} {}", Digest::sha256(&bytes)));
    assert_eq!(
        digests,
        [
            "asset 4dc6d2d15ab3731fd0a6c866c114ddc3e7732b66859d5d72c150923294188b4e",
            "listing 281fbe87be1c7331f77ec8f876a20104f56005c4d97e0e009f43bbeeed0088a4",
            "recent aca122157b8747fd6dd5da7ad5d90abb79e0ba825e916edb0fe70b09aafedccb",
            "publication e1fffb7ec706ce8ac5f40e4477b45d3a94b9b2420fc945293966cd237925af4d",
        ]
    );
}

#[test]
fn every_state_and_every_absence_reads_back() {
    for state in [
        PublicationState::RegisteringResource,
        PublicationState::RegisteringProduct,
        PublicationState::Listing,
        PublicationState::Listed,
        PublicationState::Failed,
    ] {
        let mut row = publication_row(state);
        (row.resource, row.product, row.reason) = (None, None, None);
        (row.product_record, row.listing_record) = (None, None);
        let read = PublicationRow::decode(&row.encode()).unwrap();
        assert_eq!(read.state, state);
        assert_eq!(read.source, row.source);
        let publication = read.publication([1; 16]).unwrap();
        assert_eq!(
            (publication.name.as_str(), publication.resource, publication.reason),
            ("name", None, None)
        );
    }
}

#[test]
fn damaged_and_newer_rows_are_not_read() {
    let good = publication_row(PublicationState::Listed).encode();
    for length in 0..good.len() {
        assert!(PublicationRow::decode(&good[..length]).is_err(), "{length} bytes");
    }
    let newer = Map::new().uint(0, 2).encode();
    let Err(ServiceError::Internal(reason)) = AssetRow::decode(&newer) else {
        panic!("a newer row was read")
    };
    assert!(reason.contains("version 2"), "{reason}");
    assert!(matches!(ListingRow::decode(b""), Err(ServiceError::Internal(_))));
}

#[test]
fn newer_listings_come_first() {
    let keys = [0, 1, 2, 255, 256, u64::MAX].map(RecentRow::key);
    assert!(keys.windows(2).all(|pair| pair[0] > pair[1]));
}
