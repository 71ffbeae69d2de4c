//! Opening a data directory and finding the identity in it, or asking a registrar for one.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use huitong_evidence::{Evidence, EvidenceSettings};
use huitong_grpc::{EnrolmentClient, Peers};
use huitong_identity::peer::EnrolmentPeer as _;
use huitong_identity::{
    Invite, JoinRequest, KeyError, NodeKeys, PeerError, Registrar, RootAuthority, ServiceError, Sources,
    Standing, StatusList, enrolment_request, found, join, load,
};
use huitong_ids::NodeId;
use huitong_proof::KeyFileError;
use huitong_store::Store;

use crate::config::{Config, Connector, FunctionNode, NodeRole};
use crate::error::StartError;
use crate::metrics::Metrics;
use crate::tls::{PeerDial, PinnedDial, Tls};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Enrols the node of this configuration with an invite, and returns its node id. A node that is enrolled already
/// keeps its identity. The node must not be running.
///
/// # Errors
/// [`StartError`]; [`StartError::RegistrarUnreachable`] may be tried again with the same invite.
pub async fn enrol(config: &Config, invite: &str, sources: &Sources) -> Result<NodeId, StartError> {
    let NodeRole::Connector(_) = &config.role else {
        return Err(StartError::OtherIdentity {
            key: "node.role",
            configured: "\"function\", which enrols others".to_owned(),
            stored: "an invite for a connector".to_owned(),
        });
    };
    let invite = parse_invite(invite)?;
    let home = Home::open(config, sources).await?;
    let id = match home.load(config, sources)? {
        Some(standing) => standing.membership.node().clone(),
        None => {
            let attempt = Enrolment::new(&home, config, invite, sources)?;
            attempt.once().await?;
            attempt.standing(config)?.membership.node().clone()
        }
    };
    home.store.close().await;
    Ok(id)
}

/// The identity of an enrolled node that is not running, and the other nodes as it reaches them. Holds the data
/// directory until the returned values are dropped.
///
/// # Errors
/// [`StartError`]; [`StartError::NotEnrolled`] when there is no identity.
pub async fn client(config: &Config, sources: &Sources) -> Result<(Standing, Peers), StartError> {
    let home = Home::open(config, sources).await?;
    let standing = home.load(config, sources)?.ok_or_else(|| StartError::NotEnrolled {
        reason: "its data directory holds no credential".to_owned(),
    })?;
    let tls = tls(&home.keys, &standing);
    let peers = peers(config, tls, &standing, None, &Metrics::new())?;
    Ok((standing, peers))
}

/// An open data directory.
pub(crate) struct Home {
    pub(crate) keys: NodeKeys,
    pub(crate) store: Store,
}

impl Home {
    /// Checks the keys, takes the directory's lock, and compares the clock with the journal.
    pub(crate) async fn open(config: &Config, sources: &Sources) -> Result<Self, StartError> {
        NodeKeys::check(&config.keys_dir())?;
        private_directory(&config.data_dir)?;
        let (directory, clock) = (config.store_dir(), sources.clock.clone());
        let opened = tokio::task::spawn_blocking(move || {
            Store::open(&directory, Arc::new(move || clock.now().millis()))
        });
        let store = opened.await.map_err(|error| {
            StartError::Damaged(format!("opening it failed: {error}; restore it from a backup"))
        })??;
        check_clock(config, sources, &store)?;
        // A node that has a past has keys; new ones would only hide that the old ones are lost.
        if store.opening().records > 0 {
            for name in ["tls.key", "statement.key", "log.key", "witness.key"] {
                let path = config.keys_dir().join(name);
                if !path.exists() {
                    return Err(KeyError::from(KeyFileError::Missing { path }).into());
                }
            }
        }
        let keys = NodeKeys::load_or_create(&config.keys_dir(), &*sources.entropy)?;
        Ok(Self { keys, store })
    }

    /// The identity that is stored here, if any.
    pub(crate) fn load(&self, config: &Config, sources: &Sources) -> Result<Option<Standing>, StartError> {
        let max_age = match &config.role {
            NodeRole::Function(_) => None,
            NodeRole::Connector(_) => Some(config.status_max_age),
        };
        let loaded =
            load(&self.store, &self.keys, sources, max_age).map_err(|error| stored(config, error))?;
        if let Some(standing) = &loaded {
            check_identity(config, standing)?;
            check_validity(config, sources, standing)?;
        }
        Ok(loaded)
    }

    /// The identity of a function node, which it gives itself at its first start.
    pub(crate) async fn found(
        &self,
        config: &Config,
        function: &FunctionNode,
        sources: &Sources,
    ) -> Result<(Standing, RootAuthority), StartError> {
        let known = self.load(config, sources)?;
        let root_key = config.keys_dir().join("root.key");
        if known.is_some() && !root_key.exists() {
            return Err(KeyError::from(KeyFileError::Missing { path: root_key }).into());
        }
        let root = RootAuthority::load_or_create(&config.keys_dir())?;
        let standing = match known {
            Some(standing) => standing,
            None => {
                let genesis = function.genesis.clone();
                let standing = found(&self.store, &self.keys, &root, genesis, sources)
                    .await
                    .map_err(|error| stored(config, error))?;
                tracing::info!(node = %standing.membership.node(), "founded a data space");
                standing
            }
        };
        Ok((standing, root))
    }

    /// The identity of a connector; at its first start it enrols with the invite, for as long as that takes.
    pub(crate) async fn join(
        &self,
        config: &Config,
        connector: &Connector,
        sources: &Sources,
    ) -> Result<Standing, StartError> {
        if let Some(standing) = self.load(config, sources)? {
            return Ok(standing);
        }
        let path = connector.invite_file.as_ref().ok_or_else(|| StartError::NotEnrolled {
            reason: "it has neither a credential nor an invite".to_owned(),
        })?;
        let text = fs::read_to_string(path).map_err(|error| StartError::NotEnrolled {
            reason: format!("identity.invite_file {}: {error}", path.display()),
        })?;
        let attempt = Enrolment::new(self, config, parse_invite(&text)?, sources)?;
        let mut pause = FIRST_PAUSE;
        loop {
            match attempt.once().await {
                Ok(()) => break,
                Err(StartError::RegistrarUnreachable { registrar, reason }) => {
                    tracing::warn!(%registrar, %reason, "the registrar cannot be reached; trying again");
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        attempt.standing(config)
    }
}

/// The TLS rules of a node with an identity.
pub(crate) fn tls(keys: &NodeKeys, standing: &Standing) -> Tls {
    let clock = standing.ledger.clock().clone();
    Tls::new(keys, &standing.membership, standing.directory.clone(), clock)
}

/// The other nodes, as this one reaches them.
pub(crate) fn peers(
    config: &Config,
    tls: Tls,
    standing: &Standing,
    registrar: Option<Registrar>,
    metrics: &Metrics,
) -> Result<Peers, StartError> {
    let dial = Arc::new(PeerDial::new(tls, metrics.clone()).map_err(unusable_certificate)?);
    let standing = standing.clone();
    Ok(match (registrar, &config.role) {
        (Some(registrar), _) => Peers::at_registrar(dial, standing, registrar),
        (None, NodeRole::Connector(connector)) => {
            Peers::new(dial, standing, connector.registrar_address.clone())
        }
        (None, NodeRole::Function(_)) => Peers::new(dial, standing, String::new()),
    })
}

/// The node's ledger among those of others.
pub(crate) fn evidence(
    config: &Config,
    keys: &NodeKeys,
    standing: &Standing,
) -> Result<Evidence, StartError> {
    let cosigner = keys
        .cosigner(standing.membership.node())
        .map_err(|error| StartError::Damaged(format!("{error}; restore it from a backup")))?;
    let rules = &config.ledger;
    let settings = EvidenceSettings {
        policy: rules.policy.clone(),
        witness_for: rules.witness_for.clone(),
        regulators: rules.regulators.clone(),
        statement_delay: rules.statement_delay,
        stale_after: rules.stale_after,
        ..EvidenceSettings::default()
    };
    Ok(Evidence::new(standing.clone(), cosigner, settings))
}

pub(crate) fn unusable_certificate(error: rustls::Error) -> StartError {
    StartError::Damaged(format!(
        "this node's own certificate cannot be used ({error}); restore it from a backup"
    ))
}

/// Makes a directory that only the node's user can enter, unless it is there.
pub(crate) fn private_directory(path: &Path) -> Result<(), StartError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(StartError::io(format!("directory {}", path.display())))
}

/// One enrolment, which may take several tries with the same request.
struct Enrolment<'a> {
    home: &'a Home,
    sources: &'a Sources,
    max_clock_skew: Duration,
    request: JoinRequest,
    sent: huitong_identity::EnrolmentRequest,
    client: EnrolmentClient,
}

impl<'a> Enrolment<'a> {
    fn new(
        home: &'a Home,
        config: &Config,
        invite: Invite,
        sources: &'a Sources,
    ) -> Result<Self, StartError> {
        let request = JoinRequest { invite, domain: config.domain.clone() };
        let sent = enrolment_request(&home.keys, &request, sources).map_err(StartError::records)?;
        let client = EnrolmentClient::new(Arc::new(PinnedDial::new(sources.clock.clone())));
        Ok(Self { home, sources, max_clock_skew: config.max_clock_skew, request, sent, client })
    }

    async fn once(&self) -> Result<(), StartError> {
        let registrar = self.request.invite.address.clone();
        let refused = |reason: String| StartError::EnrolmentRefused { registrar: registrar.clone(), reason };
        let grant = match self.client.enrol(&self.request.invite, self.sent.clone()).await {
            Ok(grant) => grant,
            Err(PeerError::Unavailable(reason)) => {
                return Err(StartError::RegistrarUnreachable { registrar, reason });
            }
            Err(error) => return Err(refused(error.to_string())),
        };
        // Signed by the registrar in the past, so a clock that stands before it is behind.
        let status =
            StatusList::decode(&grant.status.document).map_err(|error| refused(error.to_string()))?;
        let now = self.sources.clock.now();
        if status.issued > now.saturating_add(self.max_clock_skew) {
            let reason = format!("the registrar signed its revocation list at {}", status.issued);
            return Err(StartError::Clock { now, reason });
        }
        join(&self.home.store, &self.home.keys, &self.request, &self.sent, grant, self.sources).await.map_err(
            |error| match error {
                ServiceError::Store(_) => StartError::records(error),
                other => refused(other.to_string()),
            },
        )
    }

    fn standing(&self, config: &Config) -> Result<Standing, StartError> {
        let standing = self.home.load(config, self.sources)?;
        let standing = standing.ok_or_else(|| {
            StartError::Damaged("the new credential was not stored; restore it from a backup".to_owned())
        })?;
        tracing::info!(node = %standing.membership.node(), "enrolled");
        Ok(standing)
    }
}

fn parse_invite(text: &str) -> Result<Invite, StartError> {
    Invite::parse(text).map_err(|error| StartError::NotEnrolled { reason: error.to_string() })
}

/// A clock before the journal's last record would give new records times before old ones, and statements too.
fn check_clock(config: &Config, sources: &Sources, store: &Store) -> Result<(), StartError> {
    let now = sources.clock.now();
    let last = huitong_proof::Timestamp::from_millis(store.opening().last_time);
    if now.saturating_add(config.max_clock_skew) < last {
        let reason = format!("this node wrote its last record at {last}");
        return Err(StartError::Clock { now, reason });
    }
    Ok(())
}

fn check_validity(config: &Config, sources: &Sources, standing: &Standing) -> Result<(), StartError> {
    let now = sources.clock.now();
    let credential = standing.membership.credential();
    if now.saturating_add(config.max_clock_skew) < credential.not_before || now > credential.not_after {
        let reason = format!(
            "this node's credential is valid from {} to {}",
            credential.not_before, credential.not_after
        );
        return Err(StartError::Clock { now, reason });
    }
    Ok(())
}

/// The identity was given once; a configuration that says something else was meant for another node.
fn check_identity(config: &Config, standing: &Standing) -> Result<(), StartError> {
    let other = |key, configured: &dyn std::fmt::Display, stored: &dyn std::fmt::Display| {
        Err(StartError::OtherIdentity { key, configured: configured.to_string(), stored: stored.to_string() })
    };
    let credential = standing.membership.credential();
    if credential.domain != config.domain {
        return other("identity.domain", &config.domain, &credential.domain);
    }
    let genesis = match &config.role {
        NodeRole::Connector(_) if standing.membership.is_registrar() => {
            return other("node.role", &"\"connector\"", &"the role \"function\"");
        }
        NodeRole::Function(_) if !standing.membership.is_registrar() => {
            return other("node.role", &"\"function\"", &"the role \"connector\"");
        }
        NodeRole::Connector(_) => return Ok(()),
        NodeRole::Function(function) => &function.genesis,
    };
    if credential.entity != genesis.entity {
        return other("identity.entity", &genesis.entity, &credential.entity);
    }
    if credential.name != genesis.name {
        return other("identity.name", &genesis.name, &credential.name);
    }
    if credential.node.node_type() != genesis.node_type {
        let (configured, stored) =
            (format!("{:?}", genesis.node_type), format!("{:?}", credential.node.node_type()));
        return other("identity.node_type", &configured, &stored);
    }
    if credential.node.segment() != genesis.segment {
        return other("identity.segment", &genesis.segment.as_str(), &credential.node.segment().as_str());
    }
    if *standing.ledger.space() != genesis.space {
        return other("identity.space", &genesis.space, standing.ledger.space());
    }
    Ok(())
}

fn stored(config: &Config, error: ServiceError) -> StartError {
    match error {
        ServiceError::Conflict { reason } => StartError::OtherKeys { directory: config.keys_dir(), reason },
        other => StartError::records(other),
    }
}
