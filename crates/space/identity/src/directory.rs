//! Whom this node believes at this moment: the root list, the revocation list, and how fresh they are.

use std::collections::HashMap;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use huitong_proof::{Envelope, Statement, Timestamp};
use tokio::sync::watch;

use crate::certificate;
use crate::documents::{Revocation, RootList, StatusList};
use crate::model::{Caller, Credential, Role};

/// Why a certificate does not make its holder a [`Caller`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    /// The certificate lacks what every node's certificate has.
    #[error("{0}; enrol the node with a registrar of this space")]
    Malformed(String),
    /// The credential inside was not signed by a trusted registrar, or was altered.
    #[error("the credential in the certificate is not a trusted registrar's: {0}")]
    Untrusted(String),
    /// Certificate and credential contradict each other.
    #[error("the certificate's {field} is not the credential's")]
    Mismatch {
        /// Which part.
        field: &'static str,
    },
    /// Outside the credential's validity.
    #[error("the credential is valid from {not_before} to {not_after}; renew it, or set the clock")]
    NotValidNow {
        /// First moment.
        not_before: Timestamp,
        /// Last moment.
        not_after: Timestamp,
    },
    /// The registrar has revoked the node.
    #[error("node {node} was revoked at {at}: {reason}")]
    Revoked {
        /// The node.
        node: String,
        /// Since when.
        at: Timestamp,
        /// Why.
        reason: String,
    },
    /// Our own lists are too old to accept anybody.
    #[error(
        "this node last heard from its registrar at {confirmed}, longer ago than it may; nobody is accepted until it does"
    )]
    Stale {
        /// Last confirmation.
        confirmed: Timestamp,
    },
}

/// The trust view of one node. Clones share it.
#[derive(Debug, Clone)]
pub struct Directory {
    inner: Arc<RwLock<Inner>>,
    changes: watch::Sender<u64>,
    max_age: Option<Duration>,
}

#[derive(Debug)]
struct Inner {
    roots: RootList,
    status: StatusList,
    revoked: HashMap<String, Revocation>,
    confirmed: Timestamp,
}

impl Directory {
    /// `max_age`: how long the lists count without word from the registrar; `None` for the registrar itself.
    pub(crate) fn new(
        roots: RootList,
        status: StatusList,
        confirmed: Timestamp,
        max_age: Option<Duration>,
    ) -> Self {
        let revoked = by_node(&status);
        Self {
            inner: Arc::new(RwLock::new(Inner { roots, status, revoked, confirmed })),
            changes: watch::Sender::new(0),
            max_age,
        }
    }

    /// Turns a certificate, whose chain the TLS layer has checked against [`Directory::root_certificates`], into a
    /// caller: node id, TLS key and domain must be those of the credential inside, which a trusted registrar signed,
    /// which is valid now, and which is not revoked.
    pub fn authenticate(&self, certificate: &[u8], now: Timestamp) -> Result<Caller, AuthenticationError> {
        let claims = certificate::claims(certificate).map_err(AuthenticationError::Malformed)?;
        let (credential, statement) = self.verify_credential(claims.statement.into())?;
        if claims.unit != credential.node.as_str() {
            return Err(AuthenticationError::Mismatch { field: "organisational unit (OU)" });
        }
        if claims.key != credential.tls_key {
            return Err(AuthenticationError::Mismatch { field: "public key" });
        }
        if claims.common_name != credential.domain {
            return Err(AuthenticationError::Mismatch { field: "common name (CN)" });
        }
        let caller = Caller::new(credential, statement);
        self.recheck(&caller, now)?;
        Ok(caller)
    }

    /// Checks that a CREDENTIAL statement is a listed registrar's. Whether it holds now, and whether its node was
    /// revoked, is not asked: what a node signed in its time stays signed.
    pub fn verify_credential(
        &self,
        statement: Bytes,
    ) -> Result<(Credential, Statement), AuthenticationError> {
        let malformed = |error: &dyn std::fmt::Display| AuthenticationError::Malformed(error.to_string());
        let envelope = Envelope::decode(statement).map_err(|error| malformed(&error))?;
        let statement = {
            let inner = self.read();
            let root = inner.roots.entry(envelope.claimed_issuer()).ok_or_else(|| {
                AuthenticationError::Untrusted(format!(
                    "{} is not on the root list",
                    envelope.claimed_issuer()
                ))
            })?;
            envelope
                .verify(&root.statement_key, &inner.roots.space)
                .map_err(|e| AuthenticationError::Untrusted(e.to_string()))?
        };
        let credential = Credential::from_statement(&statement).map_err(|error| malformed(&error))?;
        Ok((credential, statement))
    }

    /// Whether a caller that was authenticated earlier still counts: validity, root list, revocation, freshness.
    pub fn recheck(&self, caller: &Caller, now: Timestamp) -> Result<(), AuthenticationError> {
        let credential = caller.credential();
        if !credential.is_valid_at(now) {
            return Err(AuthenticationError::NotValidNow {
                not_before: credential.not_before,
                not_after: credential.not_after,
            });
        }
        let inner = self.read();
        if now > inner.roots.expires {
            return Err(AuthenticationError::Untrusted(format!(
                "the root list expired at {}",
                inner.roots.expires
            )));
        }
        if let Some(revocation) = inner.revoked.get(credential.node.as_str()) {
            return Err(AuthenticationError::Revoked {
                node: credential.node.to_string(),
                at: revocation.at,
                reason: revocation.reason.clone(),
            });
        }
        // A stale node must still be able to talk to its registrar, or it could never become fresh again.
        let is_registrar =
            caller.has(Role::Registrar) && inner.roots.entry(credential.node.as_str()).is_some();
        if !is_registrar && self.is_too_old(inner.confirmed, now) {
            return Err(AuthenticationError::Stale { confirmed: inner.confirmed });
        }
        Ok(())
    }

    /// The root certificates (DER) that peers' chains must end in.
    pub fn root_certificates(&self) -> Vec<Vec<u8>> {
        self.read().roots.entries.iter().map(|entry| entry.certificate.clone()).collect()
    }

    /// The root list in force.
    pub fn roots(&self) -> RootList {
        self.read().roots.clone()
    }

    /// The revocation list in force.
    pub fn status(&self) -> StatusList {
        self.read().status.clone()
    }

    /// When the registrar last confirmed the lists.
    pub fn confirmed(&self) -> Timestamp {
        self.read().confirmed
    }

    /// Whether peers are refused because the lists are too old.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.is_too_old(self.read().confirmed, now)
    }

    /// A confirmation far in the future is from a clock that was wrong: how old it is, nobody knows.
    fn is_too_old(&self, confirmed: Timestamp, now: Timestamp) -> bool {
        let apart = now.saturating_since(confirmed).max(confirmed.saturating_since(now));
        self.max_age.is_some_and(|max_age| apart > max_age)
    }

    /// Counts changes of either list; running exchanges recheck their caller on each.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn replace_roots(&self, roots: RootList) {
        self.write().roots = roots;
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn replace_status(&self, status: StatusList) {
        {
            let mut inner = self.write();
            inner.revoked = by_node(&status);
            inner.status = status;
        }
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The registrar was heard at `now`. A clock that was ahead and is set back takes the confirmation back with it.
    pub(crate) fn confirm(&self, now: Timestamp) {
        self.write().confirmed = now;
    }

    // A panic while holding the lock leaves whole values behind: each write is one assignment.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn by_node(status: &StatusList) -> HashMap<String, Revocation> {
    status.revoked.iter().map(|entry| (entry.node.to_string(), entry.clone())).collect()
}
