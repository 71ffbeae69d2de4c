use crate::*;

const NODE_IDS: [(&str, NodeType, &str); 6] = [
    ("191440300708461136T110000000001I", NodeType::Global, "1100"),
    ("291440300708461136T4403A1B2C3D4F", NodeType::Regional, "4403"),
    ("391440300708461136T00650000ABCDH", NodeType::Industry, "0065"),
    ("491440300708461136T44037K3M9Q2XR", NodeType::Service, "4403"),
    ("591440300708461136T440300000001G", NodeType::Connector, "4403"),
    ("591440300708461136T440300000188*", NodeType::Connector, "4403"),
];

const DATA_IDS: [(&str, DataType, Option<&str>); 5] = [
    ("691440300708461136T440300000001V", DataType::Product, None),
    ("691440300708461136T44031BH95JZYV", DataType::Product, None),
    ("791440300708461136T00111BH95JZYH", DataType::Resource, None),
    ("791440300708461136T44031BH95JZY9", DataType::Resource, None),
    (
        "791440300708461136T44031BH95JZY9•1215202502281BH95JZY",
        DataType::Resource,
        Some("1215202502281BH95JZY"),
    ),
];

const CONTRACT_ID: &str = "8491440300708461136T440320250829120000ABCD1234D";
const FAILED_PORTAL_ID: &str = "712430000MB0L04692743002W3CAD81M";

#[test]
fn check_characters() {
    type Formula = fn(&str) -> Option<char>;
    fn check(formula: Formula, body: &str, expected: Option<char>) {
        assert_eq!(formula(body), expected, "{body}");
    }
    let mod37_2: Formula = checks::mod37_2;
    check(mod37_2, "G123489654321", Some('Y')); // published example of ISO 7064
    check(mod37_2, "591440300708461136T440300000188", Some('*'));
    check(mod37_2, "712430000MB0L04692743002W3CAD81", Some('1'));
    check(mod37_2, "0", Some('1'));
    check(mod37_2, "", None);
    check(mod37_2, "g1", None);
    check(mod37_2, "1*", None);
    check(mod37_2, "1４", None);

    check(checks::organisation, "D2143569", Some('X'));
    check(checks::organisation, "70846113", Some('6'));
    check(checks::organisation, "00000000", Some('0'));
    check(checks::organisation, "7084611", None);
    check(checks::organisation, "708461136", None);
    check(checks::organisation, "7084611x", None);

    check(checks::citizen, "11010519491231002", Some('X'));
    check(checks::citizen, "11010519781231234", Some('7'));
    check(checks::citizen, "1101051978123123", None);
    check(checks::citizen, "1101051978123123X", None);

    check(checks::uscc, "91440300708461136", Some('T'));
    check(checks::uscc, "91310105575958172", Some('A')); // the identity draft prints F
    check(checks::uscc, "9144030070846113", None);
    check(checks::uscc, "9144030070846113I", None);
    check(checks::uscc, "9144030070846113Z", None);
}

#[test]
fn citizen_identity_numbers() {
    fn check(text: &str, expected: bool) {
        assert_eq!(checks::is_citizen_id(text), expected, "{text}");
    }
    check("11010519491231002X", true);
    check("11010519491231002x", true);
    check("110105197812312347", true);
    check("110105197812312345", false); // the identity draft's sample: wrong check character
    check("11010519491231002", false);
    check("11010519491231002X ", false);
    check("Ⅺ010519491231002X", false);
    let with_check = |body: &str| format!("{body}{}", checks::citizen(body).unwrap());
    check(&with_check("91115619491231002"), true); // permanent resident from abroad, Beijing
    check(&with_check("83000019910101001"), true); // resident from Taiwan
    check(&with_check("11010520000229001"), true);
    check(&with_check("11010519000229001"), false); // 1900 had no 29 February
    check(&with_check("11010519491331002"), false); // month 13
    check(&with_check("11010519490431002"), false); // 31 April
    check(&with_check("11010510491231002"), false); // year 1049
    check(&with_check("10010519491231002"), false); // no such province
}

#[test]
fn organisations() {
    fn check(text: &str, expected: Result<EntityKind, IdError>) {
        let found = EntityCode::parse_organisation(text).map(|code| {
            assert_eq!(code.as_str(), text);
            assert_eq!(EntityCode::parse(text), Ok(code.clone()));
            code.kind()
        });
        assert_eq!(found, expected, "{text}");
    }
    let (entity, inner) = (Field::EntityCode, Field::OrganisationCode);
    let character =
        |position, found, expected| IdError::Character { field: entity, position, found, expected };
    let letters = "a character of GB 32100, which has no I, O, S, V or Z";
    for text in [
        "91440300708461136T",
        "91110000802100433B",
        "91330100799655058B",
        "914403001922038216",
        "91350100M000100Y43",
        "12430000MB0L046927",
        "91440300MA0TEXT04J",
    ] {
        check(text, Ok(EntityKind::Organisation));
    }
    check("91310105575958172F", Err(IdError::Check { field: entity, found: 'F', expected: 'A' }));
    check("91440300708461137T", Err(IdError::Check { field: inner, found: '7', expected: '6' }));
    check("9144030070846113OT", Err(character(17, 'O', letters)));
    check("9S440300708461136T", Err(character(2, 'S', letters)));
    check("91A40300708461136T", Err(character(3, 'A', "a digit of the administrative region")));
    check(
        "P1440300708461136T",
        Err(character(1, 'P', "a registration department of GB 32100; P marks a person")),
    );
    check("", Err(IdError::Length { field: entity, bytes: 0 }));
}

#[test]
fn entity_codes() {
    fn check(text: &str, expected: Result<EntityKind, IdError>) {
        assert_eq!(EntityCode::parse(text).map(|code| code.kind()), expected, "{text}");
    }
    let field = Field::EntityCode;
    let character = |position, found| IdError::Character {
        field,
        position,
        found,
        expected: "a digit or an upper-case letter",
    };
    check("91440300708461136T", Ok(EntityKind::Organisation));
    check("PAAAAAAAAAAAAAAA27", Ok(EntityKind::Person));
    check("91440300708461136A", Ok(EntityKind::Assigned));
    check("DEVICE000000000001", Ok(EntityKind::Assigned));
    check("110105197812312345", Ok(EntityKind::Assigned)); // its check character fails
    check("11010519491231002X", Err(IdError::CitizenId { field }));
    check("110105197812312347", Err(IdError::CitizenId { field }));
    check("91440300708461136t", Err(character(18, 't')));
    check("91440300708461136*", Err(character(18, '*')));
    check("9144030070846113 T", Err(character(17, ' ')));
    check("中440300708461136", Err(character(1, '中'))); // 18 bytes, 16 characters
    check("91440300708461136", Err(IdError::Length { field, bytes: 17 }));
    check("91440300708461136T\n", Err(IdError::Length { field, bytes: 19 }));
}

/// A text that meets both standards: an enterprise keeps its code, in any other register the person is protected.
#[test]
fn between_citizen_and_organisation() {
    let in_both = |region_and_year: &str| {
        (0..1000)
            .flat_map(|serial| (1..=28).map(move |day| (serial, day)))
            .map(|(serial, day)| format!("{region_and_year}01{day:02}{serial:03}"))
            .filter_map(|body| {
                let text = format!("{body}{}", checks::citizen(&body)?);
                let organisation_check = checks::organisation(text.get(8..16)?)?;
                (text.get(16..17)?.chars().next()? == organisation_check
                    && checks::uscc(&body)? == text.chars().last()?)
                .then_some(text)
            })
            .find(|text| checks::is_citizen_id(text))
            .unwrap()
    };
    let enterprise = in_both("9111011990"); // Yanqing, Beijing
    assert_eq!(EntityCode::parse_organisation(&enterprise).unwrap().kind(), EntityKind::Organisation);
    let association = in_both("5134011985");
    assert_eq!(EntityCode::parse(&association), Err(IdError::CitizenId { field: Field::EntityCode }));
    assert_eq!(
        EntityCode::parse_organisation(&association),
        Err(IdError::CitizenId { field: Field::EntityCode })
    );
}

#[test]
fn segments() {
    fn check(text: &str, expected: Result<(Option<&str>, Option<&str>, &str), IdError>) {
        let found = Segment::parse(text);
        let seen = found
            .as_ref()
            .map(|segment| (segment.region(), segment.industry(), segment.describe()))
            .map_err(Clone::clone);
        let expected = expected.map(|(region, industry, words)| (region, industry, words.to_owned()));
        assert_eq!(seen, expected, "{text}");
    }
    let unknown = |found: &str| Err(IdError::UnknownSegment { found: found.to_owned() });
    check("4403", Ok((Some("4403"), None, "广东省 (Guangdong), 4403")));
    check("1100", Ok((Some("1100"), None, "北京市 (Beijing), 1100")));
    check("8200", Ok((Some("8200"), None, "澳门特别行政区 (Macao), 8200")));
    check(
        "0001",
        Ok((
            None,
            Some("01"),
            "农、林、牧、渔业 (Agriculture, forestry, animal husbandry and fishery), 0001",
        )),
    );
    check("0047", Ok((None, Some("47"), "建筑业 (Construction), 0047")));
    check("0097", Ok((None, Some("97"), "国际组织 (International organisations), 0097")));
    check("0000", unknown("0000"));
    check("0098", unknown("0098"));
    check("0100", unknown("0100"));
    check("9900", unknown("9900"));
    let letter = IdError::Character { field: Field::Segment, position: 3, found: 'A', expected: "a digit" };
    check("44A3", Err(letter));
    check("440300", Err(IdError::Length { field: Field::Segment, bytes: 6 }));
    check("", Err(IdError::Length { field: Field::Segment, bytes: 0 }));
}

#[test]
fn node_ids() {
    for (text, node_type, segment) in NODE_IDS {
        let id = NodeId::parse(text).unwrap();
        assert_eq!(
            (id.to_string().as_str(), id.node_type(), id.entity().as_str(), id.segment().as_str()),
            (text, node_type, "91440300708461136T", segment)
        );
        assert_eq!(format!("{id:?}"), text);
        assert_eq!(text.parse(), Ok(id.clone()));
        assert_eq!(NodeId::parse_foreign(text).unwrap().valid(), Some(&id));
    }
}

#[test]
fn data_ids() {
    for (text, data_type, extension) in DATA_IDS {
        let id = DataId::parse(text).unwrap();
        assert_eq!((id.as_str(), id.data_type(), id.extension()), (text, data_type, extension));
        assert_eq!(Some(id.core()), text.get(..32));
        assert_eq!(id.entity().as_str(), "91440300708461136T");
        assert_eq!(text.parse(), Ok(id.clone()));
        assert_eq!(DataId::parse_foreign(text).unwrap().valid(), Some(&id));
    }
}

#[test]
fn data_id_extensions() {
    const CORE: &str = "791440300708461136T44031BH95JZY9";
    fn check(extension: &str, expected: Result<(), IdError>) {
        let text = format!("{CORE}•{extension}");
        let parsed = DataId::parse(&text);
        assert_eq!(parsed.clone().map(|_| ()), expected, "{text}");
        let parent = DataId::parse(CORE).unwrap();
        let minted =
            DataId::mint(parent.data_type(), &parent.entity(), &parent.segment(), [7; 16], Some(extension));
        assert_eq!(
            minted.as_ref().ok().and_then(DataId::extension),
            parsed.as_ref().ok().and_then(DataId::extension)
        );
        if let Ok(id) = parsed {
            assert!(id.as_str().len() <= DataId::MAXIMUM_BYTES);
        }
    }
    let extension = Field::Extension;
    let character = |position, found| {
        Err(IdError::Character {
            field: extension,
            position,
            found,
            expected: "printable ASCII without space",
        })
    };
    check("A", Ok(()));
    check("440300MB2/D000001-7_x", Ok(()));
    check(&"9".repeat(32), Ok(()));
    check(&"9".repeat(33), Err(IdError::Length { field: Field::DataId, bytes: 68 }));
    check("", Err(IdError::Length { field: extension, bytes: 0 }));
    check("a b", character(2, ' '));
    check("a\u{1b}[31m", character(2, '\u{1b}'));
    check("旧编码", character(1, '旧'));
    check("A•B", character(2, '•'));
    check("11010519491231002X", Err(IdError::CitizenId { field: extension }));
}

#[test]
fn contract_ids() {
    let id = ContractId::parse(CONTRACT_ID).unwrap();
    assert_eq!(id.minting(), NodeType::Service);
    assert_eq!(id.entity().as_str(), "91440300708461136T");
    assert_eq!(id.segment().as_str(), "4403");
    assert_eq!(id.time14(), "20250829120000");
    assert_eq!(id.to_string(), CONTRACT_ID);
    assert_eq!(ContractId::parse_foreign(CONTRACT_ID).unwrap().valid(), Some(&id));
}

#[test]
fn contract_times() {
    fn check(time14: &str, expected: bool) {
        let id = ContractId::parse(CONTRACT_ID).unwrap();
        let minted = ContractId::mint(NodeType::Connector, &id.entity(), &id.segment(), time14, [9; 16]);
        assert_eq!(minted.is_ok(), expected, "{time14}");
        if let Ok(minted) = minted {
            assert_eq!(minted.time14(), time14);
        }
    }
    check("20250829120000", true);
    check("20240229235959", true);
    check("20250229000000", false);
    check("21000229000000", false);
    check("20251301000000", false);
    check("20250001000000", false);
    check("20250100000000", false);
    check("20250829240000", false);
    check("20250829126000", false);
    check("20250829120060", false);
    check("00000101000000", false);
    check("2025082912000", false);
    check("2025-08-29T120", false);
}

#[test]
fn refusals_name_the_part() {
    fn check<T: std::fmt::Debug>(found: Result<T, IdError>, expected: &str) {
        assert_eq!(found.unwrap_err().to_string(), expected);
    }
    check(
        NodeId::parse("591440300708461136T440300000001H"),
        "node id ends in check character H, expected G; compare it with the original, one character is likely mistyped",
    );
    check(
        NodeId::parse("691440300708461136T440300000001V"),
        "node id has '6' as character 1, expected a node type, 1 to 5",
    );
    check(
        DataId::parse("591440300708461136T440300000001G"),
        "data id has '5' as character 1, expected a data type, 6 or 7",
    );
    check(
        NodeId::parse("5914"),
        "node id is 4 bytes long, expected 32 characters; check that it was copied whole",
    );
    check(
        NodeId::parse("511010519491231002X440300000001G"),
        "entity code is a citizen identity number, expected a pseudonymous code; register the person to obtain a P code",
    );
    check(
        NodeId::parse("591440300708461136T990300000001G"),
        "segment 9903 names no region or industry, expected a province of GB/T 2260 and two digits, or 00 and a class \
         01 to 97 of GB/T 4754; ask the function node which segment it serves",
    );
    check(
        NodeId::parse("591440300708461136T44030000000*G"),
        "node id has '*' as character 31, expected a digit or an upper-case letter (or * at the end)",
    );
    check(
        ContractId::parse("7491440300708461136T440320250829120000ABCD1234D"),
        "contract id has '7' as character 1, expected 8",
    );
    check(
        ContractId::parse("8691440300708461136T440320250829120000ABCD1234D"),
        "contract id has '6' as character 2, expected a node type, 1 to 5",
    );
    check(
        ContractId::parse("8491440300708461136T440320250230120000ABCD1234D"),
        "contract time 20250230120000 is not a moment of the calendar, expected YYYYMMDDHHMMSS in UTC",
    );
}

#[test]
fn foreign_ids_are_kept_as_received() {
    for text in [FAILED_PORTAL_ID, "791440300708461136T44031BH95JZYV"] {
        assert!(matches!(DataId::parse(text), Err(IdError::Check { field: Field::DataId, .. })), "{text}");
        let foreign = DataId::parse_foreign(text).unwrap();
        assert_eq!((foreign.id.as_str(), &foreign.check), (text, &CheckState::Failed));
    }
    let with_extension = format!("{FAILED_PORTAL_ID}•old/7");
    assert_eq!(DataId::parse_foreign(&with_extension).unwrap().to_string(), with_extension);
    let node = NodeId::parse_foreign("591440300708461136T440300000001H").unwrap();
    assert_eq!(node.check, CheckState::Failed);
    let contract = ContractId::parse_foreign("8491440300708461136T440320250829120000ABCD1234E").unwrap();
    assert_eq!(contract.check, CheckState::Failed);

    // A failed check character is forgiven; a broken layout or a citizen identity number is not.
    assert!(DataId::parse_foreign("512430000MB0L04692743002W3CAD81M").is_err());
    assert!(DataId::parse_foreign("711010519491231002X43002W3CAD81M").is_err());
    assert!(NodeId::parse_foreign("591440300708461136t440300000001G").is_err());
    assert!(ContractId::parse_foreign("8491440300708461136T440320259929120000ABCD1234D").is_err());
}

#[test]
fn type_characters() {
    for node_type in NodeType::ALL {
        assert_eq!(NodeType::from_character(node_type.character()), Some(node_type));
        assert_eq!(node_type.is_function_node(), node_type.chinese().ends_with("功能节点"));
        assert_eq!(node_type.is_function_node(), node_type.english().ends_with("function node"));
    }
    for data_type in DataType::ALL {
        assert_eq!(DataType::from_character(data_type.character()), Some(data_type));
    }
    assert_eq!(NodeType::ALL.map(NodeType::character), ['1', '2', '3', '4', '5']);
    assert_eq!(DataType::ALL.map(DataType::character), ['6', '7']);
    assert_eq!(NodeType::from_character('6'), None);
    assert_eq!(DataType::from_character('5'), None);
    assert_eq!((DataType::Product.chinese(), DataType::Resource.english()), ("数据产品", "data resource"));
}

#[test]
fn code_tables() {
    fn check(table: &tables::Table, rows: usize, code: &str, chinese: &str, english: &str) {
        assert_eq!(table.entries.len(), rows, "{}", table.english);
        assert!(table.entries.is_sorted_by(|one, next| one.code < next.code), "{}", table.english);
        let entry = table.find(code).unwrap();
        assert_eq!((entry.chinese, entry.english), (chinese, english));
        assert_eq!((table.find(""), table.find("999")), (None, None));
    }
    check(&tables::CLASSIFICATIONS, 4, "004", "应用场景", "Application");
    check(&tables::ORIGINS, 4, "002", "收集取得", "acquisition by collection");
    check(&tables::DELIVERY_FORMS, 6, "005", "数据对象", "data object");
    check(&tables::UPDATE_FREQUENCIES, 9, "009", "历史数据", "historical");
    check(&tables::QUALITY_LEVELS, 4, "001", "A级", "levelA");
    check(&tables::SECURITY_LEVELS, 5, "003", "敏感", "level3");
    check(&tables::SERVICE_TYPES, 5, "004", "数据库服务", "databaseService");
    check(&tables::TOPICS, 24, "C0200", "医疗卫生", "health care");
    check(&tables::SCENARIOS, 20, "U0300", "市场监测", "market monitoring");
    check(&tables::PROVINCES, 34, "54", "西藏自治区", "Xizang");
    check(&tables::INDUSTRY_SECTIONS, 20, "J", "金融业", "Finance");
}

#[test]
fn parents_in_the_tables() {
    fn check(table: &tables::Table, code: &str, expected: Option<&str>) {
        assert_eq!(table.parent(code).map(|entry| entry.code), expected, "{code}");
    }
    check(&tables::TOPICS, "A0100", Some("A0000"));
    check(&tables::TOPICS, "D0500", Some("D0000"));
    check(&tables::TOPICS, "D0000", None);
    check(&tables::TOPICS, "D0600", None);
    check(&tables::SCENARIOS, "V0400", Some("V0000"));
    check(&tables::PROVINCES, "44", None);
    check(&tables::DELIVERY_FORMS, "001", None);
}

#[test]
fn industry_sections() {
    fn check(class: &str, expected: Option<&str>) {
        assert_eq!(tables::industry_section(class).map(|entry| entry.code), expected, "{class}");
    }
    for (class, section) in [("01", "A"), ("05", "A"), ("06", "B"), ("13", "C"), ("43", "C"), ("44", "D")] {
        check(class, Some(section));
    }
    for (class, section) in [("65", "I"), ("66", "J"), ("70", "K"), ("83", "P"), ("96", "S"), ("97", "T")] {
        check(class, Some(section));
    }
    for class in ["00", "98", "99", "", "1", "001", "1A", "农"] {
        check(class, None);
    }
}
