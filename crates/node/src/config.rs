//! The configuration file: what an operator writes (raw, with units in the names) and what the node works with
//! (validated). `config/node.toml` in the repository documents every key.

mod raw;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use huitong_contract::Approval;
use huitong_identity::Genesis;
use huitong_ids::NodeId;
use huitong_ledger::QuorumPolicy;
use huitong_transfer::Rates;

use self::raw::Raw;

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
    /// Those of them that move to or from one peer.
    pub max_concurrent_per_peer: usize,
    /// Connections of one transfer, as consumer; `None` chooses.
    pub connections: Option<usize>,
    /// How fast content leaves, until an operator says otherwise.
    pub rates: Rates,
    /// What this node reaches besides its own files.
    pub objects: ObjectStores,
    /// Who witnesses, reads and watches ledgers.
    pub ledger: LedgerRules,
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
    /// Open connections from one address (IPv6: from one /64), and of one node.
    pub max_connections_per_address: usize,
    /// Time to prove who one is.
    pub handshake_timeout: Duration,
    /// Time that running work gets when the node stops.
    pub drain_timeout: Duration,
}

/// Web servers and buckets that products may lie in, and deliveries go into.
#[derive(Debug, Clone)]
pub struct ObjectStores {
    /// Whether locations may be `http://`.
    pub allow_http: bool,
    /// PEM of the certificates of web servers; `None` means the public authorities.
    pub ca_file: Option<PathBuf>,
    /// The buckets.
    pub buckets: Vec<BucketAccess>,
}

/// How one S3-compatible bucket is reached.
#[derive(Debug, Clone)]
pub struct BucketAccess {
    /// Its name in `s3://` locations.
    pub name: String,
    /// Where the server is; `None` means AWS in this region.
    pub endpoint: Option<String>,
    /// What the server calls its region.
    pub region: String,
    /// Whether the bucket stands in the path rather than in the host name.
    pub path_style: bool,
    /// The access key's id.
    pub access_key_id: String,
    /// The file in which the access key itself lies.
    pub secret_access_key_file: PathBuf,
    /// Whether the endpoint may be `http://`.
    pub allow_http: bool,
    /// PEM of the endpoint's certificates; `None` means the public authorities.
    pub ca_file: Option<PathBuf>,
}

/// Who witnesses, reads and watches ledgers.
#[derive(Debug, Clone)]
pub struct LedgerRules {
    /// Whose cosignatures make this node's checkpoints final; `None`: the registrar alone, on a function node nobody.
    pub policy: Option<QuorumPolicy>,
    /// Nodes whose ledgers this one witnesses; a function node witnesses all its members besides.
    pub witness_for: Vec<NodeId>,
    /// Nodes that may read every entry of this ledger.
    pub regulators: Vec<NodeId>,
    /// How long after it was received a statement may be missing in its issuer's ledger.
    pub statement_delay: Duration,
    /// How old the newest checkpoint of another ledger may become.
    pub stale_after: Duration,
    /// How often other ledgers are looked at.
    pub monitor_interval: Duration,
    /// Whether the ledger is served on `listen.http`.
    pub http_log: bool,
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
    /// The quorum policy cannot be used.
    #[error(
        "ledger.policy_file {}: {reason}; correct the file, which is a C2SP tlog-policy, or set the key to \"\"",
        path.display()
    )]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
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

    /// Reads a configuration from its text. Relative paths are taken from `base`, where the quorum policy is read too.
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
