use huitong_ids::{EntityCode, NodeType, Segment};
use huitong_ledger::WitnessVerifier;
use huitong_proof::SigningKey;

use super::raw::Raw;
use super::*;

#[test]
fn the_documented_file_states_every_key_with_its_default() {
    let documented: Raw = toml::from_str(DOCUMENTED).unwrap();
    assert_eq!(documented, Raw::default());
    // Each default is written out: taking any one key away must still parse to the same, and all are there.
    let table: toml::Table = DOCUMENTED.parse().unwrap();
    let keys: usize = table.values().map(|section| section.as_table().unwrap().len()).sum();
    let debug = format!("{documented:?}");
    let fields = debug.matches(": ").count() - table.len();
    assert_eq!(keys, fields, "a key of the configuration is missing in config/node.toml");
}

#[test]
fn every_key_is_explained_by_a_comment() {
    let lines: Vec<_> = DOCUMENTED.lines().collect();
    for (line, before) in lines.iter().skip(1).zip(&lines) {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(before.starts_with("# "), "no comment above: {line}");
        }
    }
}

const FUNCTION: &str = r#"
    node.role = "function"
    identity = { domain = "regional.example", entity = "91440300708461136T", name = "Operator", segment = "4403" }
"#;
const CONNECTOR: &str = r#"identity.registrar_address = "regional.example:7443""#;

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::from_toml(text, Path::new("/base"))
}

#[test]
fn a_function_node() {
    let config = read(FUNCTION).unwrap();
    let NodeRole::Function(function) = &config.role else { panic!("{:?}", config.role) };
    assert_eq!(function.genesis.segment.as_str(), "4403");
    assert_eq!(function.advertised(&config.domain, 9), "regional.example:9");
    assert_eq!(config.advertised(7), "regional.example:7");
    assert_eq!(config.store_dir(), Path::new("/base/data/store"));
    assert_eq!(config.listen.admin, Path::new("/base/data/admin.sock"));
    assert_eq!(config.received_dir, Path::new("/base/data/received"));
}

#[test]
fn a_connector() {
    let config =
        read(&format!("{CONNECTOR}\nidentity.domain = \"::1\"\nidentity.invite_file = \"i\"")).unwrap();
    let NodeRole::Connector(connector) = &config.role else { panic!("{:?}", config.role) };
    assert_eq!(connector.invite_file.as_deref(), Some(Path::new("/base/i")));
    assert_eq!(config.advertised(7443), "[::1]:7443");
}

#[track_caller]
fn check(base: &str, line: &str, key: &str) {
    let error = read(&format!("{base}\n{line}")).unwrap_err().to_string();
    assert!(error.contains(key), "{line}: {error}");
    assert!(error.contains("; "), "no next step: {error}");
}

#[test]
fn bad_values_name_the_key() {
    read(CONNECTOR).unwrap();
    check("", "", "identity.registrar_address is empty");
    check(CONNECTOR, "node.role = \"both\"", "node.role is \"both\"");
    check(CONNECTOR, "node.data_dir = \"\"", "node.data_dir");
    check(CONNECTOR, "nodes.role = \"connector\"", "nodes");
    check(CONNECTOR, "identity.doman = \"x\"", "doman");
    check(CONNECTOR, "identity.domain = \"a b\"", "identity.domain");
    check(CONNECTOR, "identity.entity = \"91440300708461136T\"", "identity.entity");
    check(
        CONNECTOR,
        "identity.status_max_age_seconds = 0",
        "identity.status_max_age_seconds is 0, expected 5",
    );
    check(CONNECTOR, "identity.max_clock_skew_seconds = 0", "identity.max_clock_skew_seconds");
    check(CONNECTOR, "listen.peers = \"localhost:1\"", "listen.peers");
    check(CONNECTOR, "listen.http = \"0.0.0.0:1\"", "listen.http");
    check(CONNECTOR, "listen.admin = \"\"", "listen.admin");
    check(CONNECTOR, &format!("listen.admin = \"/{}\"", "a".repeat(120)), "listen.admin");
    check(CONNECTOR, "listen.advertise = \"host\"", "listen.advertise");
    check(CONNECTOR, "listen.advertise = \"::1:7443\"", "listen.advertise");
    check(CONNECTOR, "listen.advertise = \"host:0\"", "listen.advertise");
    check(CONNECTOR, "limits.max_connections = 0", "limits.max_connections is 0");
    check(CONNECTOR, "limits.max_connections_per_address = 0", "limits.max_connections_per_address");
    check(CONNECTOR, "limits.handshake_timeout_seconds = 0", "limits.handshake_timeout_seconds");
    check(CONNECTOR, "limits.drain_timeout_seconds = 99999", "limits.drain_timeout_seconds");
    check(CONNECTOR, "limits.drain_timeout_seconds = -1", "drain_timeout_seconds");
    check(CONNECTOR, "contract.approval = \"yes\"", "contract.approval");
    check(CONNECTOR, "transfer.received_dir = \"\"", "transfer.received_dir");
    check(CONNECTOR, "transfer.max_concurrent = 0", "transfer.max_concurrent");
    check(CONNECTOR, "transfer.rate_per_peer = 65535", "transfer.rate_per_peer");
    check(CONNECTOR, "ledger.witness_for = [\"x\"]", "ledger.witness_for is \"x\"");
    check(CONNECTOR, "ledger.regulators = [\"\"]", "ledger.regulators is empty");
    check(CONNECTOR, "ledger.policy_file = \"missing\"", "ledger.policy_file /base/missing: ");
    check(CONNECTOR, "ledger.statement_delay_seconds = 0", "ledger.statement_delay_seconds is 0, expected 1");
    check(CONNECTOR, "ledger.stale_after_seconds = 0", "ledger.stale_after_seconds");
    check(CONNECTOR, "ledger.monitor_interval_seconds = 0", "ledger.monitor_interval_seconds");
    check(CONNECTOR, "log.format = \"xml\"", "log.format");
    check(CONNECTOR, "log.level = \"\"", "log.level");
    check(FUNCTION, "listen.enrolment = \"x\"", "listen.enrolment");
    let function = |from: &str, to: &str| FUNCTION.replace(from, to);
    check(&function("\"4403\"", "\"0000\""), "", "identity.segment");
    check(&function("91440300708461136T", "91440300708461136A"), "", "identity.entity");
    check(&function("Operator", ""), "", "identity.name");
    check(&function("segment =", "space = \"\", segment ="), "", "identity.space");
    check(&function("segment =", "node_type = \"service\", segment ="), "", "identity.node_type");
    check(&function("segment =", "invite_file = \"i\", segment ="), "", "identity.invite_file");
}

#[test]
fn a_quorum_policy_is_read_and_checked_with_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("quorum.policy");
    let text = format!("{CONNECTOR}\nledger.policy_file = \"quorum.policy\"");
    let read = || Config::from_toml(&text, directory.path());
    let key = SigningKey::from_seed(&[7; 32]).verifying_key();
    let verifier = WitnessVerifier::new("node/huitong-witness/1", key).unwrap();
    let policy = QuorumPolicy::single("operator", verifier);
    std::fs::write(&file, policy.to_string()).unwrap();
    assert_eq!(read().unwrap().ledger.policy, Some(policy.clone()));
    assert_eq!(super::Config::from_toml(CONNECTOR, directory.path()).unwrap().ledger.policy, None);

    std::fs::write(&file, policy.to_string().replace("quorum operator", "quorum other")).unwrap();
    let error = read().unwrap_err().to_string();
    assert!(
        error.contains("quorum.policy: line 2 ") && error.contains("\"other\"") && error.contains("; "),
        "{error}"
    );
}

#[test]
fn nodes_are_named_by_their_ids() {
    let entity = EntityCode::parse("91440300708461136T").unwrap();
    let segment = Segment::parse("4403").unwrap();
    let [one, two] = [1, 2].map(|random| NodeId::mint(NodeType::Connector, &entity, &segment, [random; 16]));
    let text = format!(
        "{CONNECTOR}\nledger = {{ witness_for = [\"{one}\", \"{two}\", \"{one}\"], regulators = [\"{two}\"] }}"
    );
    let rules = read(&text).unwrap().ledger;
    assert_eq!(rules.witness_for, [one, two.clone()], "each once");
    assert_eq!(rules.regulators, [two]);
}

#[test]
fn http_on_other_addresses_has_to_be_asked_for() {
    let config =
        read(&format!("{CONNECTOR}\nlisten = {{ http = \"0.0.0.0:1\", http_allow_any = true }}")).unwrap();
    assert!(config.listen.http.is_some());
    assert!(read(&format!("{CONNECTOR}\nlisten.http = \"\"")).unwrap().listen.http.is_none());
}

#[test]
fn the_example_deployment_can_be_read() {
    for (text, is_function) in [
        (include_str!("../../../../deploy/config/regional.toml"), true),
        (include_str!("../../../../deploy/config/provider.toml"), false),
        (include_str!("../../../../deploy/config/consumer.toml"), false),
    ] {
        let config = read(text).unwrap();
        assert_eq!(matches!(config.role, NodeRole::Function(_)), is_function);
        assert_eq!(config.listen.admin, Path::new("/run/huitong/admin.sock"));
        assert_eq!(config.data_dir, Path::new("/var/lib/huitong"));
    }
}
