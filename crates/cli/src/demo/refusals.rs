//! What the nodes refuse: five ways to get at data that is not, or no longer, or not for this node, agreed.

use std::path::Path;
use std::time::Duration;

use huitong_grpc::Peers;
use huitong_grpc::proto::admin as api;
use huitong_identity::{PeerError, Trust, read_refusal};
use huitong_ids::{ContractId, DataId, NodeId};
use huitong_node::{Config, StartError};
use huitong_proof::{Clock as _, Envelope, SystemClock, Timestamp};
use huitong_transfer::{FromConsumer, FromProvider, TransferPeer as _, Want};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt as _;

use crate::commands::identity::{invite, revoke};
use crate::commands::serve::{sources, start_failure};
use crate::demo::fleet::Node;
use crate::demo::policies;
use crate::demo::story::{
    self, INTRUDER, Nodes, PATIENCE, Scene, connector_config, contract_for, make_directory, publish_file,
};
use crate::exit::Failure;
use crate::operations;

/// How long the second product may be used, first; longer when nodes were away meanwhile.
const SHORT_TERMS: [Duration; 3] =
    [Duration::from_millis(2_500), Duration::from_secs(15), Duration::from_secs(45)];
const SECOND_FILE: &str = "second-product.txt";
const POLL: Duration = Duration::from_millis(20);
/// Newest statements in which a refusal is looked for.
const RECENT: u64 = 200;
const INVITE_LIFETIME: Duration = Duration::from_secs(3600);

/// Shows each refusal: the clause, the bytes that arrived (none), and the record of it.
pub(crate) async fn show(
    scene: &Scene<'_>,
    contract: &str,
    product: &str,
    nodes: &Nodes,
) -> Result<(), Failure> {
    let narrator = scene.narrator;
    narrator
        .step(7, "What is not agreed is refused, with the clause, without a byte of data, and on record.");
    // Made first, so that its term runs out while the others are shown.
    let short = short_contract(scene, nodes).await?;

    let began = Instant::now();
    let second = story::fetch(scene, nodes, contract, "").await?;
    refused(scene, nodes, "a second fetch, although one was agreed", &second, ".count", began).await?;

    let began = Instant::now();
    let other = story::fetch(scene, nodes, contract, &short.product).await?;
    refused(scene, nodes, "another product under the same contract", &other, "contract.product", began)
        .await?;

    let intruder = Intruder::enrol(scene, nodes).await?;
    intruder.is_no_party(scene, contract, product, nodes).await?;
    intruder.is_revoked(scene, contract, product, nodes).await?;

    let began = Instant::now();
    while SystemClock.now() <= short.until {
        sleep(POLL).await;
    }
    let late = story::fetch(scene, nodes, &short.contract, "").await?;
    let what = format!("a fetch after {}, when the contract's term had ended", short.until);
    refused(scene, nodes, &what, &late, ".time", began).await
}

/// A contract that soon ends.
struct Short {
    product: String,
    contract: String,
    until: Timestamp,
}

async fn short_contract(scene: &Scene<'_>, nodes: &Nodes) -> Result<Short, Failure> {
    let file = scene.stage.join(SECOND_FILE);
    story::write(
        &file,
        "A second product, offered for a moment only.\n第二个产品,仅短时提供。\n".as_bytes(),
    )?;
    let mut reason = String::new();
    for term in SHORT_TERMS {
        let until = SystemClock.now().saturating_add(term);
        let product = publish_file(&nodes.provider, &file, policies::until(until)).await?.product;
        let negotiation = contract_for(&nodes.consumer, &product).await?;
        if negotiation.state == "FINALIZED" {
            return Ok(Short { product, contract: negotiation.contract, until });
        }
        reason = negotiation.reason;
    }
    Err(Failure::failed(
        "demo.contract",
        format!("no contract for the second product: {reason}"),
        "look at the logs",
    ))
}

/// Tells of a fetch of ours that was refused, after checking that it was.
async fn refused(
    scene: &Scene<'_>,
    nodes: &Nodes,
    what: &str,
    transfer: &api::Transfer,
    code: &str,
    began: Instant,
) -> Result<(), Failure> {
    if transfer.state != "TERMINATED" || !transfer.code.contains(code) || transfer.bytes_moved > 0 {
        return Err(Failure::failed(
            "demo.refusal",
            format!(
                "{what} should have been refused by {code} without data, but it is {} ({} {}) with {} bytes",
                transfer.state, transfer.code, transfer.reason, transfer.bytes_moved
            ),
            "report a defect",
        ));
    }
    let refusal = Shown { code: transfer.code.clone(), reason: transfer.reason.clone() };
    tell(scene, nodes, what, &refusal, began).await
}

struct Shown {
    code: String,
    reason: String,
}

/// Finds the refusal in the provider's ledger and tells of it.
async fn tell(
    scene: &Scene<'_>,
    nodes: &Nodes,
    what: &str,
    refusal: &Shown,
    began: Instant,
) -> Result<(), Failure> {
    let record = recorded(&nodes.provider, &refusal.code, PATIENCE).await?.ok_or_else(|| {
        Failure::failed(
            "demo.record",
            format!("the refusal {} is not in the provider's ledger", refusal.code),
            "report a defect",
        )
    })?;
    scene.narrator.done(&format!("refused: {what}"), began.elapsed());
    scene.narrator.detail(&format!("{}: {}", refusal.code, refusal.reason));
    scene.narrator.detail(&format!(
        "0 payload bytes arrived; statement {} of the provider's ledger records it",
        record.index
    ));
    Ok(())
}

/// The newest statement of the node's ledger whose note names this refusal.
async fn recorded(
    node: &Node,
    code: &str,
    patience: Duration,
) -> Result<Option<api::LoggedStatement>, Failure> {
    let deadline = Instant::now() + patience;
    loop {
        let statements = operations::statements(&node.admin, RECENT).await?;
        let found = statements.into_iter().find(|statement| statement.note.contains(code));
        if found.is_some() || Instant::now() >= deadline {
            return Ok(found);
        }
        sleep(POLL).await;
    }
}

/// A connector of a fourth organisation. It has keys and a certificate, and asks for what is not its own.
struct Intruder {
    node: NodeId,
    peers: Peers,
}

/// How the provider answered the intruder.
struct Answer {
    refusal: Result<Shown, PeerError>,
    payload_bytes: usize,
}

impl Intruder {
    async fn enrol(scene: &Scene<'_>, nodes: &Nodes) -> Result<Self, Failure> {
        let directory = make_directory(scene.stage, "intruder")?;
        // It never listens: the ports are only there because a configuration has them.
        let config = connector_config(
            &scene.registrar_address,
            "invite",
            &[0, 0],
            Path::new("/nonexistent/admin.sock"),
        );
        let path = directory.join("node.toml");
        story::write(&path, config.as_bytes())?;
        let config = Config::read(&path)
            .map_err(|error| Failure::failed("demo.config", error.to_string(), "report a defect"))?;
        let text = invite(&nodes.regional.admin, INTRUDER.code, INTRUDER.name, &[], INVITE_LIFETIME).await?;
        let deadline = Instant::now() + PATIENCE;
        let node = loop {
            match huitong_node::enrol(&config, &text, &sources()).await {
                Ok(node) => break node,
                // The registrar may be away for a moment.
                Err(StartError::RegistrarUnreachable { .. }) if Instant::now() < deadline => {
                    sleep(POLL).await
                }
                Err(error) => return Err(start_failure(&error)),
            }
        };
        let (_, peers) =
            huitong_node::client(&config, &sources()).await.map_err(|error| start_failure(&error))?;
        Ok(Self { node, peers })
    }

    async fn is_no_party(
        &self,
        scene: &Scene<'_>,
        contract: &str,
        product: &str,
        nodes: &Nodes,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let what = "another organisation's node with the consumer's contract number";
        let deadline = began + PATIENCE;
        loop {
            let answer = self.ask(scene, contract, product, nodes).await?;
            match answer.refusal {
                Ok(refusal) if refusal.code == "contract.party" && answer.payload_bytes == 0 => {
                    return tell(scene, nodes, what, &refusal, began).await;
                }
                // The provider may be away for a moment.
                Err(PeerError::Unavailable(_)) if Instant::now() < deadline => sleep(POLL).await,
                Ok(Shown { code, reason }) => return Err(not_refused(what, &format!("{code}: {reason}"))),
                Err(error) => return Err(not_refused(what, &error.to_string())),
            }
        }
    }

    async fn is_revoked(
        &self,
        scene: &Scene<'_>,
        contract: &str,
        product: &str,
        nodes: &Nodes,
    ) -> Result<(), Failure> {
        let what = "the same node after its certificate was revoked";
        let version =
            revoke(&nodes.regional.admin, self.node.as_str(), "asked for the data of others").await?;
        let deadline = Instant::now() + PATIENCE;
        while nodes.provider.admin.status().await?.status_version < version {
            if Instant::now() >= deadline {
                return Err(not_refused(what, "the revocation did not reach the provider"));
            }
            sleep(POLL).await;
        }
        let began = Instant::now();
        loop {
            let answer = self.ask(scene, contract, product, nodes).await?;
            let Err(error) = answer.refusal else {
                return Err(not_refused(what, "it was answered"));
            };
            // A provider that is away fails the call too: what counts is that it put this refusal on record.
            let code = "identity.revoked";
            if recorded(&nodes.provider, code, Duration::from_secs(1)).await?.is_some() {
                let refusal = Shown { code: code.to_owned(), reason: error.to_string() };
                return tell(scene, nodes, what, &refusal, began).await;
            }
            if Instant::now() >= deadline {
                return Err(not_refused(what, "the provider has no record of it"));
            }
        }
    }

    /// Asks the provider for the product, as its consumer would.
    async fn ask(
        &self,
        scene: &Scene<'_>,
        contract: &str,
        product: &str,
        nodes: &Nodes,
    ) -> Result<Answer, Failure> {
        let defect = |error: String| Failure::failed("demo.intruder", error, "report a defect");
        let provider = NodeId::parse(&nodes.provider.admin.status().await?.node)
            .map_err(|error| defect(error.to_string()))?;
        let want = Want {
            transfer: *operations::new_id().as_bytes(),
            contract: ContractId::parse(contract).map_err(|error| defect(error.to_string()))?,
            product: DataId::parse(product).map_err(|error| defect(error.to_string()))?,
        };
        let trust = std::fs::read_to_string(scene.stage.join("trust.json")).unwrap_or_default();
        let trust = Trust::from_json(&trust).map_err(|error| defect(error.to_string()))?;
        let (out, outgoing) = mpsc::channel(1);
        // The channel is empty and open: this cannot wait.
        let _ = out.send(FromConsumer::Want(want)).await;
        let mut frames = match self.peers.exchange(&provider, 0, outgoing).await {
            Ok(frames) => frames,
            Err(error) => return Ok(Answer { refusal: Err(error), payload_bytes: 0 }),
        };
        let mut payload_bytes = 0;
        loop {
            match frames.next().await {
                Some(Ok(FromProvider::Statement(bytes))) => {
                    let refusal = Envelope::decode(bytes)
                        .and_then(|envelope| envelope.trusted(&trust.space))
                        .ok()
                        .and_then(|statement| read_refusal(&statement).ok());
                    if let Some(refusal) = refusal {
                        let shown = Shown { code: refusal.code, reason: refusal.reason };
                        return Ok(Answer { refusal: Ok(shown), payload_bytes });
                    }
                }
                Some(Ok(FromProvider::Chunk { data, .. })) => payload_bytes += data.len(),
                Some(Ok(FromProvider::Manifest(_) | FromProvider::Leaves(_))) => {}
                Some(Err(PeerError::Refused { code, reason, .. })) => {
                    return Ok(Answer { refusal: Ok(Shown { code, reason }), payload_bytes });
                }
                Some(Err(error)) => return Ok(Answer { refusal: Err(error), payload_bytes }),
                None => {
                    let error = PeerError::Unavailable("the connection ended".to_owned());
                    return Ok(Answer { refusal: Err(error), payload_bytes });
                }
            }
        }
    }
}

fn not_refused(what: &str, instead: &str) -> Failure {
    Failure::failed(
        "demo.refusal",
        format!("{what} should have been refused, but: {instead}"),
        "look at the provider's log",
    )
}
