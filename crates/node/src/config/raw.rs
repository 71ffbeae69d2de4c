//! The configuration as it stands in the file, with its defaults, and how it becomes a [`Config`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use huitong_contract::Approval;
use huitong_identity::{Genesis, check_domain};
use huitong_ids::{EntityCode, NodeId, NodeType, Segment};
use huitong_ledger::QuorumPolicy;
use huitong_proof::SpaceId;
use huitong_transfer::{LOWEST_RATE, MOST_LANES, Rates};
use serde::Deserialize;

use super::{
    BucketAccess, Config, ConfigError, Connector, FunctionNode, LedgerRules, Limits, Listen, Log, LogFormat,
    NodeRole, ObjectStores,
};

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    node: RawNode,
    identity: RawIdentity,
    listen: RawListen,
    limits: RawLimits,
    contract: RawContract,
    transfer: RawTransfer,
    objects: RawObjects,
    ledger: RawLedger,
    log: RawLog,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawNode {
    role: String,
    data_dir: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawIdentity {
    domain: String,
    registrar_address: String,
    invite_file: String,
    entity: String,
    name: String,
    space: String,
    node_type: String,
    segment: String,
    status_max_age_seconds: u64,
    max_clock_skew_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawListen {
    peers: String,
    enrolment: String,
    http: String,
    http_allow_any: bool,
    admin: String,
    advertise: String,
    advertise_enrolment: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    max_connections: u64,
    max_connections_per_address: u64,
    handshake_timeout_seconds: u64,
    drain_timeout_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawContract {
    approval: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawTransfer {
    received_dir: String,
    max_concurrent: u64,
    max_concurrent_per_peer: u64,
    connections: u64,
    rate: u64,
    rate_per_peer: u64,
    rate_per_contract: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawObjects {
    allow_http: bool,
    ca_file: String,
    buckets: Vec<RawBucket>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBucket {
    name: String,
    #[serde(default)]
    endpoint: String,
    region: String,
    #[serde(default)]
    path_style: bool,
    access_key_id: String,
    secret_access_key_file: String,
    #[serde(default)]
    allow_http: bool,
    #[serde(default)]
    ca_file: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLedger {
    policy_file: String,
    witness_for: Vec<String>,
    regulators: Vec<String>,
    statement_delay_seconds: u64,
    stale_after_seconds: u64,
    monitor_interval_seconds: u64,
    http_log: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLog {
    level: String,
    format: String,
}

impl Default for RawNode {
    fn default() -> Self {
        Self { role: "connector".to_owned(), data_dir: "data".to_owned() }
    }
}

impl Default for RawIdentity {
    fn default() -> Self {
        Self {
            domain: "localhost".to_owned(),
            registrar_address: String::new(),
            invite_file: String::new(),
            entity: String::new(),
            name: String::new(),
            space: "huitong".to_owned(),
            node_type: "regional".to_owned(),
            segment: String::new(),
            status_max_age_seconds: 300,
            max_clock_skew_seconds: 300,
        }
    }
}

impl Default for RawListen {
    fn default() -> Self {
        Self {
            peers: "127.0.0.1:7443".to_owned(),
            enrolment: "127.0.0.1:7444".to_owned(),
            http: "127.0.0.1:7480".to_owned(),
            http_allow_any: false,
            admin: "admin.sock".to_owned(),
            advertise: String::new(),
            advertise_enrolment: String::new(),
        }
    }
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_address: 64,
            handshake_timeout_seconds: 10,
            drain_timeout_seconds: 20,
        }
    }
}

impl Default for RawContract {
    fn default() -> Self {
        Self { approval: "automatic".to_owned() }
    }
}

impl Default for RawTransfer {
    fn default() -> Self {
        Self {
            received_dir: "received".to_owned(),
            max_concurrent: 8,
            max_concurrent_per_peer: 0,
            connections: 0,
            rate: 0,
            rate_per_peer: 0,
            rate_per_contract: 0,
        }
    }
}

impl Default for RawLedger {
    fn default() -> Self {
        Self {
            policy_file: String::new(),
            witness_for: Vec::new(),
            regulators: Vec::new(),
            statement_delay_seconds: 600,
            stale_after_seconds: 3_600,
            monitor_interval_seconds: 60,
            http_log: true,
        }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: "text".to_owned() }
    }
}

impl Raw {
    pub(super) fn validate(self, base: &Path) -> Result<Config, ConfigError> {
        // Taken apart without `..`, so that a new key cannot be forgotten here.
        let Self { node, identity, listen, limits, contract, transfer, objects, ledger, log } = self;
        if node.data_dir.is_empty() {
            return Err(value("node.data_dir", &node.data_dir, "a directory", "name one that the node owns"));
        }
        let data_dir = base.join(&node.data_dir);
        check_domain(&identity.domain).map_err(|_| {
            value(
                "identity.domain",
                &identity.domain,
                "a domain name or an IP address",
                "set the name at which other nodes reach this one",
            )
        })?;
        let role = match node.role.as_str() {
            "function" => function_node(&identity, &listen)?,
            "connector" => connector(&identity, &listen, base)?,
            other => {
                return Err(value(
                    "node.role",
                    other,
                    "\"connector\" or \"function\"",
                    "choose one of the two",
                ));
            }
        };
        let max_concurrent = count("transfer.max_concurrent", transfer.max_concurrent, 1_024)?;
        let config = Config {
            role,
            domain: identity.domain,
            status_max_age: seconds(
                "identity.status_max_age_seconds",
                identity.status_max_age_seconds,
                5,
                604_800,
            )?,
            max_clock_skew: seconds(
                "identity.max_clock_skew_seconds",
                identity.max_clock_skew_seconds,
                1,
                86_400,
            )?,
            listen: Listen {
                peers: socket("listen.peers", &listen.peers)?,
                http: http_address(&listen)?,
                admin: admin_path(&data_dir, &listen.admin)?,
                advertise: optional_address("listen.advertise", &listen.advertise)?,
            },
            limits: Limits {
                max_connections: count("limits.max_connections", limits.max_connections, 1_000_000)?,
                max_connections_per_address: count(
                    "limits.max_connections_per_address",
                    limits.max_connections_per_address,
                    1_000_000,
                )?,
                handshake_timeout: seconds(
                    "limits.handshake_timeout_seconds",
                    limits.handshake_timeout_seconds,
                    1,
                    300,
                )?,
                drain_timeout: seconds(
                    "limits.drain_timeout_seconds",
                    limits.drain_timeout_seconds,
                    0,
                    3_600,
                )?,
            },
            approval: match contract.approval.as_str() {
                "automatic" => Approval::Automatic,
                "manual" => Approval::Manual,
                other => {
                    return Err(value(
                        "contract.approval",
                        other,
                        "\"automatic\" or \"manual\"",
                        "choose one of the two",
                    ));
                }
            },
            received_dir: match transfer.received_dir.as_str() {
                "" => {
                    return Err(value(
                        "transfer.received_dir",
                        "",
                        "a directory",
                        "name where received files go",
                    ));
                }
                directory => data_dir.join(directory),
            },
            max_concurrent_transfers: max_concurrent,
            max_concurrent_per_peer: match transfer.max_concurrent_per_peer {
                0 => max_concurrent.div_ceil(2),
                some => count("transfer.max_concurrent_per_peer", some, 1_024)?,
            },
            connections: match transfer.connections {
                0 => None,
                some => Some(count("transfer.connections", some, MOST_LANES as u64 + 1)?),
            },
            rates: Rates {
                node: rate("transfer.rate", transfer.rate)?,
                each_peer: rate("transfer.rate_per_peer", transfer.rate_per_peer)?,
                each_contract: rate("transfer.rate_per_contract", transfer.rate_per_contract)?,
            },
            objects: object_stores(objects, base)?,
            ledger: ledger_rules(&ledger, base)?,
            log: Log {
                level: match log.level.as_str() {
                    "" => {
                        return Err(value(
                            "log.level",
                            "",
                            "a level such as \"info\"",
                            "set one, or remove the key",
                        ));
                    }
                    level => level.to_owned(),
                },
                format: match log.format.as_str() {
                    "text" => LogFormat::Text,
                    "json" => LogFormat::Json,
                    other => {
                        return Err(value(
                            "log.format",
                            other,
                            "\"text\" or \"json\"",
                            "choose one of the two",
                        ));
                    }
                },
            },
            data_dir,
        };
        Ok(config)
    }
}

fn function_node(identity: &RawIdentity, listen: &RawListen) -> Result<NodeRole, ConfigError> {
    for (key, set) in [
        ("identity.registrar_address", &identity.registrar_address),
        ("identity.invite_file", &identity.invite_file),
    ] {
        if !set.is_empty() {
            return Err(value(
                key,
                set,
                "nothing in a function node",
                "remove it, or set node.role = \"connector\"",
            ));
        }
    }
    let entity = EntityCode::parse_organisation(&identity.entity).map_err(|error| {
        value(
            "identity.entity",
            &identity.entity,
            "a unified social credit code of 18 characters",
            &format!("correct it ({error})"),
        )
    })?;
    let name_length = identity.name.chars().count();
    if name_length == 0 || name_length > 128 || identity.name.chars().any(char::is_control) {
        return Err(value(
            "identity.name",
            &identity.name,
            "1 to 128 characters without control characters",
            "set the operator's registered name",
        ));
    }
    let space_length = identity.space.chars().count();
    if space_length == 0 || space_length > 128 {
        return Err(value("identity.space", &identity.space, "1 to 128 characters", "name the data space"));
    }
    let node_type = match identity.node_type.as_str() {
        "regional" => NodeType::Regional,
        "industry" => NodeType::Industry,
        "global" => NodeType::Global,
        other => {
            return Err(value(
                "identity.node_type",
                other,
                "\"regional\", \"industry\" or \"global\"",
                "choose one of the three",
            ));
        }
    };
    let segment = Segment::parse(&identity.segment).map_err(|error| {
        value(
            "identity.segment",
            &identity.segment,
            "the four digits of a region or industry, such as \"4403\"",
            &format!("correct it ({error})"),
        )
    })?;
    Ok(NodeRole::Function(FunctionNode {
        genesis: Genesis {
            entity,
            name: identity.name.clone(),
            domain: identity.domain.clone(),
            node_type,
            segment,
            space: SpaceId::from_name(&identity.space),
        },
        enrolment: socket("listen.enrolment", &listen.enrolment)?,
        advertise_enrolment: optional_address("listen.advertise_enrolment", &listen.advertise_enrolment)?,
    }))
}

fn connector(identity: &RawIdentity, listen: &RawListen, base: &Path) -> Result<NodeRole, ConfigError> {
    let only_function = [
        ("identity.entity", &identity.entity),
        ("identity.name", &identity.name),
        ("identity.segment", &identity.segment),
        ("listen.advertise_enrolment", &listen.advertise_enrolment),
    ];
    for (key, set) in only_function {
        if !set.is_empty() {
            return Err(value(
                key,
                set,
                "nothing in a connector",
                "remove it: the registrar's invite decides it; or set node.role = \"function\"",
            ));
        }
    }
    let registrar_address = optional_address("identity.registrar_address", &identity.registrar_address)?
        .ok_or_else(|| {
            value(
                "identity.registrar_address",
                "",
                "host:port",
                "set the address of the registrar's `listen.peers`; its operator knows it",
            )
        })?;
    let invite_file =
        if identity.invite_file.is_empty() { None } else { Some(base.join(&identity.invite_file)) };
    Ok(NodeRole::Connector(Connector { registrar_address, invite_file }))
}

/// The most buckets that one node knows.
const MOST_BUCKETS: usize = 64;

fn object_stores(raw: RawObjects, base: &Path) -> Result<ObjectStores, ConfigError> {
    let file = |path: &str| if path.is_empty() { None } else { Some(base.join(path)) };
    let RawObjects { allow_http, ca_file, buckets } = raw;
    if buckets.len() > MOST_BUCKETS {
        let expected = format!("at most {MOST_BUCKETS} buckets");
        return Err(value("objects.buckets", &buckets.len().to_string(), &expected, "remove some"));
    }
    let bucket = |raw: RawBucket| {
        let missing = [
            ("objects.buckets.name", &raw.name),
            ("objects.buckets.region", &raw.region),
            ("objects.buckets.access_key_id", &raw.access_key_id),
            ("objects.buckets.secret_access_key_file", &raw.secret_access_key_file),
        ];
        if let Some((key, _)) = missing.into_iter().find(|(_, text)| text.is_empty()) {
            return Err(value(key, "", "a value", "set it, or remove the bucket"));
        }
        Ok(BucketAccess {
            name: raw.name,
            endpoint: (!raw.endpoint.is_empty()).then_some(raw.endpoint),
            region: raw.region,
            path_style: raw.path_style,
            access_key_id: raw.access_key_id,
            secret_access_key_file: base.join(raw.secret_access_key_file),
            allow_http: raw.allow_http,
            ca_file: file(&raw.ca_file),
        })
    };
    let buckets = buckets.into_iter().map(bucket).collect::<Result<_, _>>()?;
    Ok(ObjectStores { allow_http, ca_file: file(&ca_file), buckets })
}

fn ledger_rules(ledger: &RawLedger, base: &Path) -> Result<LedgerRules, ConfigError> {
    let RawLedger {
        policy_file,
        witness_for,
        regulators,
        statement_delay_seconds,
        stale_after_seconds,
        monitor_interval_seconds,
        http_log,
    } = ledger;
    const WEEK: u64 = 7 * 24 * 3_600;
    let policy = match policy_file.as_str() {
        "" => None,
        file => Some(policy(&base.join(file))?),
    };
    Ok(LedgerRules {
        policy,
        witness_for: nodes("ledger.witness_for", witness_for)?,
        regulators: nodes("ledger.regulators", regulators)?,
        statement_delay: seconds("ledger.statement_delay_seconds", *statement_delay_seconds, 1, WEEK)?,
        stale_after: seconds("ledger.stale_after_seconds", *stale_after_seconds, 1, 4 * WEEK)?,
        monitor_interval: seconds("ledger.monitor_interval_seconds", *monitor_interval_seconds, 1, 86_400)?,
        http_log: *http_log,
    })
}

fn policy(path: &Path) -> Result<QuorumPolicy, ConfigError> {
    let refused = |reason: String| ConfigError::Policy { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    text.parse().map_err(|error: huitong_ledger::PolicyError| refused(error.to_string()))
}

fn nodes(key: &'static str, texts: &[String]) -> Result<Vec<NodeId>, ConfigError> {
    let mut nodes = Vec::with_capacity(texts.len());
    for text in texts {
        let node = NodeId::parse(text).map_err(|error| {
            value(key, text, "node ids of 32 characters", &format!("correct this one ({error})"))
        })?;
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

fn http_address(listen: &RawListen) -> Result<Option<SocketAddr>, ConfigError> {
    if listen.http.is_empty() {
        return Ok(None);
    }
    let address = socket("listen.http", &listen.http)?;
    if !address.ip().is_loopback() && !listen.http_allow_any {
        return Err(value(
            "listen.http",
            &listen.http,
            "a loopback address",
            "use 127.0.0.1, or set listen.http_allow_any = true if other machines may read the metrics",
        ));
    }
    Ok(Some(address))
}

/// Longest path of a unix socket on Linux (`sun_path` without its terminating zero byte).
const MAX_SOCKET_PATH: usize = 107;

fn admin_path(data_dir: &Path, text: &str) -> Result<PathBuf, ConfigError> {
    let path = data_dir.join(text);
    if text.is_empty() || path.file_name().is_none() {
        return Err(value("listen.admin", text, "the path of a unix socket", "name a file"));
    }
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(value(
            "listen.admin",
            &path.display().to_string(),
            &format!("a path of at most {MAX_SOCKET_PATH} bytes, this has {length}"),
            "set a shorter absolute path, such as /run/huitong/admin.sock",
        ));
    }
    Ok(path)
}

fn socket(key: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    text.parse().map_err(|_| {
        value(
            key,
            text,
            "an IP address and port, such as \"0.0.0.0:7443\"",
            "write the address of this machine's interface, not a name",
        )
    })
}

fn optional_address(key: &'static str, text: &str) -> Result<Option<String>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let good = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_is_good = match bare {
            Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.contains(':') && check_domain(host).is_ok(),
        };
        host_is_good && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if !good {
        return Err(value(key, text, "host:port", "write for example \"node.example:7443\""));
    }
    Ok(Some(text.to_owned()))
}

fn seconds(key: &'static str, found: u64, least: u64, most: u64) -> Result<Duration, ConfigError> {
    if (least..=most).contains(&found) {
        return Ok(Duration::from_secs(found));
    }
    Err(ConfigError::Value {
        key,
        value: found.to_string(),
        expected: format!("{least} to {most}"),
        next_step: "choose a number of seconds in between".to_owned(),
    })
}

/// 0 is no limit.
fn rate(key: &'static str, found: u64) -> Result<Option<u64>, ConfigError> {
    match found {
        0 => Ok(None),
        LOWEST_RATE.. => Ok(Some(found)),
        _ => Err(ConfigError::Value {
            key,
            value: found.to_string(),
            expected: format!("0 for no limit, or at least {LOWEST_RATE} bytes per second"),
            next_step: "raise it".to_owned(),
        }),
    }
}

fn count(key: &'static str, found: u64, most: u64) -> Result<usize, ConfigError> {
    match usize::try_from(found) {
        Ok(number) if (1..=most).contains(&found) => Ok(number),
        _ => Err(ConfigError::Value {
            key,
            value: found.to_string(),
            expected: format!("1 to {most}"),
            next_step: "choose a number in between".to_owned(),
        }),
    }
}

fn value(key: &'static str, found: &str, expected: &str, next_step: &str) -> ConfigError {
    let shown = if found.is_empty() { "empty".to_owned() } else { format!("{found:?}") };
    ConfigError::Value { key, value: shown, expected: expected.to_owned(), next_step: next_step.to_owned() }
}
