//! Puts on record that a revoked node was turned away in the handshake.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use huitong_identity::{Refusal, ServiceError, Standing, refuse};
use huitong_proof::{Digest, random};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::LONGEST_PAUSE;
use crate::supervisor::{Stopping, Supervisor};
use crate::tls::RefusedNode;

/// One statement for each node and this long: a node that keeps knocking does not fill the ledger.
const QUIET: Duration = Duration::from_secs(60);

pub(super) fn spawn(supervisor: &Supervisor, standing: Standing, refused: mpsc::Receiver<RefusedNode>) {
    // Outlives a failed round; the lock is held by the one round that runs.
    let queue = Arc::new(Mutex::new((refused, HashMap::new())));
    supervisor.spawn("refusals", Stopping::AtOnce, LONGEST_PAUSE, move || {
        let (standing, queue) = (standing.clone(), queue.clone());
        async move {
            let mut queue = queue.lock().await;
            let (refused, recorded) = &mut *queue;
            while let Some(next) = refused.recv().await {
                let now = Instant::now();
                recorded.retain(|_, at: &mut Instant| now.duration_since(*at) < QUIET);
                if recorded.contains_key(&next.node) {
                    continue;
                }
                recorded.insert(next.node.clone(), now);
                match record(&standing, next).await {
                    Ok(()) => {}
                    // The log line has to do.
                    Err(error @ ServiceError::SafeMode { .. }) => tracing::warn!(%error, "not put on record"),
                    Err(error) => return Err(error.to_string()),
                }
            }
            Ok(())
        }
    });
}

async fn record(standing: &Standing, refused: RefusedNode) -> Result<(), ServiceError> {
    tracing::warn!(node = %refused.node, reason = %refused.reason, "a revoked node tried to connect");
    let ledger = standing.ledger.clone();
    let refusal = Refusal::new(
        "identity.revoked",
        refused.reason,
        "a revoked node does not come back; ask the registrar's operator for an invite for a new one",
    );
    standing
        .ledger
        .store()
        .transact("node.refuse_revoked", move |tx| {
            let subject = random(&**ledger.entropy());
            refuse(tx, &ledger, &refused.node, subject, Digest::ZERO, Digest::ZERO, &refusal, "TLS handshake")
        })
        .await?;
    Ok(())
}
