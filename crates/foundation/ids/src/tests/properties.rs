use std::fmt::Debug;

use proptest::prelude::*;

use crate::*;

const ALPHABET: &str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const NODE_ID: &str = "591440300708461136T44037K3M9Q2X";
const DATA_ID: &str = "791440300708461136T44031BH95JZY9";
const CONTRACT_ID: &str = "8491440300708461136T440320250829120000ABCD1234D";

/// The weighted form of MOD 37-2, straight from the definition, against the running form under test.
fn naive_mod37_2_holds(text: &str) -> bool {
    let value = |character: char| match character {
        '*' => 36,
        other => u128::from(other.to_digit(36).unwrap()),
    };
    let sum: u128 = text.chars().rev().enumerate().map(|(i, c)| value(c) * (1_u128 << i)).sum();
    sum % 37 == 1
}

fn replace(text: &str, at: usize, with: char) -> String {
    text.chars().enumerate().map(|(index, old)| if index == at { with } else { old }).collect()
}

fn swap(text: &str, one: usize, other: usize) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    characters.swap(one, other);
    characters.into_iter().collect()
}

/// The last character is the check character of the rest.
fn is_sealed(text: &str) -> bool {
    let (body, check) = text.split_at(text.len() - 1);
    checks::mod37_2(body).map(String::from).as_deref() == Some(check)
}

#[test]
fn every_substitution_is_detected() {
    let node_id = format!("{NODE_ID}{}", checks::mod37_2(NODE_ID).unwrap());
    let mut tried = 0;
    for original in [DATA_ID, &node_id] {
        assert!(is_sealed(original));
        for at in 0..original.len() {
            for with in ALPHABET.chars().filter(|&with| original.chars().nth(at) != Some(with)) {
                let damaged = replace(original, at, with);
                assert!(!is_sealed(&damaged), "{damaged}");
                assert!(NodeId::parse(&damaged).is_err() && DataId::parse(&damaged).is_err(), "{damaged}");
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 2 * 1120);
}

#[test]
fn every_swap_is_detected() {
    let mut tried = 0;
    for one in 0..DATA_ID.len() {
        for other in one + 1..DATA_ID.len() {
            let damaged = swap(DATA_ID, one, other);
            if damaged == DATA_ID {
                continue;
            }
            assert!(!is_sealed(&damaged), "{damaged}");
            assert!(DataId::parse(&damaged).is_err(), "{damaged}");
            tried += 1;
        }
    }
    assert!(tried > 400, "{tried}");
}

/// The weights repeat with period 36, so on a contract id only swaps 36 apart go unseen.
#[test]
fn swaps_in_a_contract_id() {
    for one in 0..CONTRACT_ID.len() {
        for other in one + 1..CONTRACT_ID.len() {
            let damaged = swap(CONTRACT_ID, one, other);
            if damaged != CONTRACT_ID {
                assert_eq!(is_sealed(&damaged), other - one == 36, "{damaged}");
            }
        }
    }
}

#[test]
fn every_substitution_in_a_contract_id_is_detected() {
    for at in 0..CONTRACT_ID.len() {
        for with in ALPHABET.chars().filter(|&with| CONTRACT_ID.chars().nth(at) != Some(with)) {
            let damaged = replace(CONTRACT_ID, at, with);
            assert!(!is_sealed(&damaged) && ContractId::parse(&damaged).is_err(), "{damaged}");
        }
    }
}

#[test]
fn random_bytes_change_the_id() {
    let entity = EntityCode::parse("91440300708461136T").unwrap();
    let segment = Segment::parse("4403").unwrap();
    let mint = |byte| NodeId::mint(NodeType::Connector, &entity, &segment, [byte; 16]);
    let ids: std::collections::BTreeSet<_> = (0..=255).map(mint).collect();
    assert_eq!(ids.len(), 256);
    assert_eq!(mint(0).as_str(), "591440300708461136T440300000000I");
}

fn entities() -> impl Strategy<Value = EntityCode> {
    "[0-9A-Z]{18}".prop_filter_map("citizen identity number", |text| EntityCode::parse(&text).ok())
}

fn segments() -> impl Strategy<Value = Segment> {
    "[0-8][0-9]{3}".prop_filter_map("no such segment", |text| Segment::parse(&text).ok())
}

fn node_types() -> impl Strategy<Value = NodeType> {
    prop::sample::select(NodeType::ALL.to_vec())
}

fn data_types() -> impl Strategy<Value = DataType> {
    prop::sample::select(DataType::ALL.to_vec())
}

/// Anything at all, and texts that come close to a name.
fn texts() -> impl Strategy<Value = String> {
    let near =
        prop::sample::select(vec![DATA_ID, CONTRACT_ID, "91440300708461136T", "11010519491231002X", "4403"]);
    let damaged = (near, any::<prop::sample::Index>(), any::<char>())
        .prop_map(|(text, at, with)| replace(text, at.index(text.len()), with));
    prop_oneof![any::<String>(), "[0-9A-Z*•]{0,70}", "\\PC{28,36}", damaged]
}

fn assert_faithful<T: Debug + PartialEq>(
    text: &str,
    strict: Result<T, IdError>,
    foreign: Result<Foreign<T>, IdError>,
) -> Result<(), TestCaseError> {
    if let Ok(foreign) = &foreign {
        prop_assert_eq!(&foreign.id, text);
    }
    match strict {
        Ok(id) => {
            prop_assert_eq!(format!("{id:?}"), text);
            prop_assert_eq!(foreign.unwrap().check, CheckState::Valid(id));
        }
        Err(IdError::Check { .. }) => prop_assert_eq!(foreign.unwrap().check, CheckState::Failed),
        Err(error) => {
            prop_assert!(error.to_string().len() < 300, "{}", error);
            prop_assert_eq!(foreign.unwrap_err(), error);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn running_form_equals_weighted_form(body in "[0-9A-Z]{1,64}") {
        let sealed = format!("{body}{}", checks::mod37_2(&body).unwrap());
        prop_assert!(naive_mod37_2_holds(&sealed));
        for wrong in ALPHABET.chars().chain(['*']).filter(|&wrong| !sealed.ends_with(wrong)) {
            let damaged = format!("{body}{wrong}");
            prop_assert!(!naive_mod37_2_holds(&damaged));
        }
    }

    #[test]
    fn other_checks_equal_their_definitions(
        social_credit in "[0-9A-HJ-NPQRTUWXY]{17}",
        organisation in "[0-9A-Z]{8}",
        citizen in "[0-9]{17}",
    ) {
        let value = |character: char| "0123456789ABCDEFGHJKLMNPQRTUWXY".find(character).unwrap();
        let weights = [1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28];
        let check = value(checks::uscc(&social_credit).unwrap());
        let sum: usize = social_credit.chars().zip(weights).map(|(c, weight)| value(c) * weight).sum();
        prop_assert_eq!((sum + check) % 31, 0);

        let weights = [3, 7, 9, 10, 5, 8, 4, 2];
        let sum: u32 = organisation.chars().zip(weights).map(|(c, weight)| c.to_digit(36).unwrap() * weight).sum();
        let expected = "0123456789X0".chars().nth(11 - sum as usize % 11);
        prop_assert_eq!(checks::organisation(&organisation), expected);

        // MOD 11-2 without its table of weights: powers of two, and a total that leaves 1.
        let check = match checks::citizen(&citizen).unwrap() {
            'X' => 10,
            digit => digit.to_digit(10).unwrap(),
        };
        let digits = citizen.chars().map(|digit| digit.to_digit(10).unwrap());
        let sum: u32 = digits.rev().enumerate().map(|(i, digit)| digit << (i + 1)).sum();
        prop_assert_eq!((sum + check) % 11, 1);
    }

    #[test]
    fn minted_node_ids_parse(node_type in node_types(), entity in entities(), segment in segments(), random: [u8; 16]) {
        let id = NodeId::mint(node_type, &entity, &segment, random);
        prop_assert!(naive_mod37_2_holds(id.as_str()));
        prop_assert_eq!(NodeId::parse(&id.to_string()), Ok(id.clone()));
        prop_assert_eq!((id.node_type(), id.entity(), id.segment()), (node_type, entity, segment));
    }

    #[test]
    fn minted_data_ids_parse(
        data_type in data_types(),
        entity in entities(),
        segment in segments(),
        random: [u8; 16],
        extension in prop::option::of("[!-~]{1,32}"),
    ) {
        let id = DataId::mint(data_type, &entity, &segment, random, extension.as_deref()).unwrap();
        prop_assert!(naive_mod37_2_holds(id.core()));
        prop_assert_eq!(DataId::parse(&id.to_string()), Ok(id.clone()));
        prop_assert_eq!(id.extension(), extension.as_deref());
        prop_assert_eq!((id.data_type(), id.entity(), id.segment()), (data_type, entity, segment));
    }

    #[test]
    fn minted_contract_ids_parse(
        minting in node_types(),
        entity in entities(),
        segment in segments(),
        (year, month, day) in (1_u32..=9999, 1_u32..=12, 1_u32..=28),
        (hour, minute, second) in (0_u32..24, 0_u32..60, 0_u32..60),
        random: [u8; 16],
    ) {
        let time14 = format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}");
        let id = ContractId::mint(minting, &entity, &segment, &time14, random).unwrap();
        prop_assert!(naive_mod37_2_holds(id.as_str()));
        prop_assert_eq!(ContractId::parse(&id.to_string()), Ok(id.clone()));
        prop_assert_eq!(id.time14(), time14);
        prop_assert_eq!((id.minting(), id.entity(), id.segment()), (minting, entity, segment));
    }

    #[test]
    fn any_text_is_read_faithfully_or_refused(text in texts()) {
        assert_faithful(&text, NodeId::parse(&text), NodeId::parse_foreign(&text))?;
        assert_faithful(&text, DataId::parse(&text), DataId::parse_foreign(&text))?;
        assert_faithful(&text, ContractId::parse(&text), ContractId::parse_foreign(&text))?;
        if let Ok(code) = EntityCode::parse(&text) {
            prop_assert_eq!(code.as_str(), &text);
            let is_organisation = code.kind() == EntityKind::Organisation;
            prop_assert_eq!(EntityCode::parse_organisation(&text).is_ok(), is_organisation);
        }
        if let Ok(segment) = Segment::parse(&text) {
            prop_assert_eq!(segment.as_str(), &text);
            prop_assert!(segment.region().is_some() != segment.industry().is_some());
        }
        for formula in [checks::mod37_2, checks::uscc, checks::organisation, checks::citizen] {
            let _ = formula(&text);
        }
        let _ = checks::is_citizen_id(&text);
    }

    #[test]
    fn length_is_refused_before_content(text in "[•*a-z]{68,200}") {
        prop_assert_eq!(NodeId::parse(&text), Err(IdError::Length { field: Field::NodeId, bytes: text.len() }));
        prop_assert_eq!(DataId::parse(&text), Err(IdError::Length { field: Field::DataId, bytes: text.len() }));
        prop_assert_eq!(
            ContractId::parse(&text),
            Err(IdError::Length { field: Field::ContractId, bytes: text.len() })
        );
    }
}
