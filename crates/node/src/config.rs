//! The configuration file: what an operator writes (raw, with units in the names) and what the node works with
//! (validated). `config/node.toml` in the repository documents every key.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use huitong_contract::Approval;
use huitong_identity::{Genesis, check_domain};
use huitong_ids::{EntityCode, NodeType, Segment};
use huitong_proof::SpaceId;
use serde::Deserialize;

/// The documented configuration file: every key with its default and a comment.
pub const DOCUMENTED: &str = include_str!("../../../config/node.toml");

/// The configuration of one node, checked as a whole.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the node is.
    pub role: NodeRole,
    /// Everything the node keeps.
    pub data_dir: PathBuf,
    /// The certificate's common name: where other nodes reach this one.
    pub domain: String,
    /// How long the revocation list counts without word from the registrar.
    pub status_max_age: Duration,
    /// The clock difference that is tolerated.
    pub max_clock_skew: Duration,
    /// Where the node listens.
    pub listen: Listen,
    /// Bounds against overload.
    pub limits: Limits,
    /// How a provider answers contract requests.
    pub approval: Approval,
    /// Where received files go.
    pub received_dir: PathBuf,
    /// Transfers at the same time, counted for each direction.
    pub max_concurrent_transfers: usize,
    /// What is logged and how.
    pub log: Log,
}

/// What a node is in its data space.
#[derive(Debug, Clone)]
pub enum NodeRole {
    /// Registers organisations, nodes and data (功能节点).
    Function(FunctionNode),
    /// An organisation's own node (接入连接器).
    Connector(Connector),
}

/// A function node's part of the configuration.
#[derive(Debug, Clone)]
pub struct FunctionNode {
    /// What it is founded as.
    pub genesis: Genesis,
    /// Where invited nodes enrol.
    pub enrolment: SocketAddr,
    /// `host:port` in invites; `None` means the domain with the port of the enrolment listener.
    pub advertise_enrolment: Option<String>,
}

/// A connector's part of the configuration.
#[derive(Debug, Clone)]
pub struct Connector {
    /// `host:port` of the registrar's listener for peers.
    pub registrar_address: String,
    /// Where the invite lies, for the first start.
    pub invite_file: Option<PathBuf>,
}

/// Where a node listens.
#[derive(Debug, Clone)]
pub struct Listen {
    /// For other nodes.
    pub peers: SocketAddr,
    /// For health and metrics; `None` turns them off.
    pub http: Option<SocketAddr>,
    /// The operators' unix socket.
    pub admin: PathBuf,
    /// `host:port` that other nodes are told; `None` means the domain with the port of the peer listener.
    pub advertise: Option<String>,
}

/// Bounds against overload.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open peer connections in all.
    pub max_connections: usize,
    /// Open connections from one address.
    pub max_connections_per_address: usize,
    /// Time to prove who one is.
    pub handshake_timeout: Duration,
    /// Time that running work gets when the node stops.
    pub drain_timeout: Duration,
}

/// What is logged and how. The program that runs the node sets logging up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A filter such as `info` or `info,huitong_node=debug`.
    pub level: String,
    /// For people or for collectors.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Not TOML, or a key that does not exist, or a value of another type.
    #[error("{place}: {reason}; every key is documented in config/node.toml")]
    Syntax {
        /// The file, or what stands for it.
        place: String,
        /// What the parser said.
        reason: String,
    },
    /// A value that cannot be used.
    #[error("{key} is {value}, expected {expected}; {next_step}")]
    Value {
        /// Path of the key.
        key: &'static str,
        /// The value as it stands.
        value: String,
        /// What it has to be.
        expected: String,
        /// What to do.
        next_step: String,
    },
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file or the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let absolute = std::path::absolute(path).map_err(unreadable)?;
        Self::parse(&text, absolute.parent().unwrap_or(Path::new("/")), &path.display().to_string())
    }

    /// Reads a configuration from its text. Relative paths are taken from `base`.
    ///
    /// # Errors
    /// [`ConfigError`], naming the key.
    pub fn from_toml(text: &str, base: &Path) -> Result<Self, ConfigError> {
        Self::parse(text, base, "the configuration")
    }

    /// Where the key files lie.
    pub fn keys_dir(&self) -> PathBuf {
        self.data_dir.join("keys")
    }

    /// Where journal and index lie.
    pub fn store_dir(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    /// Where the hash trees of published files lie.
    pub fn trees_dir(&self) -> PathBuf {
        self.data_dir.join("trees")
    }

    /// `host:port` that other nodes are told, when the peer listener is bound to `port`.
    pub fn advertised(&self, port: u16) -> String {
        self.listen.advertise.clone().unwrap_or_else(|| host_port(&self.domain, port))
    }

    fn parse(text: &str, base: &Path, place: &str) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            place: place.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        raw.validate(base)
    }
}

impl FunctionNode {
    /// `host:port` in invites, when the enrolment listener is bound to `port`.
    pub fn advertised(&self, domain: &str, port: u16) -> String {
        self.advertise_enrolment.clone().unwrap_or_else(|| host_port(domain, port))
    }
}

fn host_port(domain: &str, port: u16) -> String {
    match domain.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{port}"),
        Err(_) => format!("{domain}:{port}"),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    node: RawNode,
    identity: RawIdentity,
    listen: RawListen,
    limits: RawLimits,
    contract: RawContract,
    transfer: RawTransfer,
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
        Self { received_dir: "received".to_owned(), max_concurrent: 8 }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: "text".to_owned() }
    }
}

impl Raw {
    fn validate(self, base: &Path) -> Result<Config, ConfigError> {
        // Taken apart without `..`, so that a new key cannot be forgotten here.
        let Self { node, identity, listen, limits, contract, transfer, log } = self;
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
            max_concurrent_transfers: count("transfer.max_concurrent", transfer.max_concurrent, 1_024)?,
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

#[cfg(test)]
mod tests {
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
    fn http_on_other_addresses_has_to_be_asked_for() {
        let config =
            read(&format!("{CONNECTOR}\nlisten = {{ http = \"0.0.0.0:1\", http_allow_any = true }}"))
                .unwrap();
        assert!(config.listen.http.is_some());
        assert!(read(&format!("{CONNECTOR}\nlisten.http = \"\"")).unwrap().listen.http.is_none());
    }
}
