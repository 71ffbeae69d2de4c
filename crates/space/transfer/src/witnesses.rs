//! Which cosignatures under a checkpoint a receipt can carry: those of nodes of this space whose credentials we hold.

use huitong_identity::{Credential, ServiceError};
use huitong_ids::NodeId;
use huitong_ledger::{SignedCheckpoint, witness_name_of};
use huitong_proof::Statement;

use crate::peer::EvidencePeer;
use crate::service::Transfers;

/// What every witness name ends in; before it stands the node id in lower case.
const NAME_END: &str = "/huitong-witness/1";

/// A checkpoint with no other signatures than its log's and those of known witnesses, all of them verified.
pub(crate) struct Witnessed {
    pub(crate) checkpoint: SignedCheckpoint,
    /// The credentials behind the cosignatures.
    pub(crate) witnesses: Vec<(Credential, Statement)>,
    /// Nodes that seem to have cosigned, but whose credentials are not here.
    unknown: Vec<NodeId>,
}

impl Transfers {
    /// Keeps of a checkpoint of the ledger of `keeper` what a receipt can carry.
    pub(crate) fn witnessed(
        &self,
        signed: &SignedCheckpoint,
        keeper: &NodeId,
    ) -> Result<Witnessed, ServiceError> {
        let view = self.ledger().store().view();
        sort_out(signed, keeper, |node| huitong_identity::credential_of(&view, self.ledger(), node))
    }

    /// The same, after asking for the credentials that are missing here. A witness that nobody vouches for is left out.
    pub(crate) async fn witnessed_by_all(
        &self,
        signed: &SignedCheckpoint,
        keeper: &NodeId,
        peer: &dyn EvidencePeer,
    ) -> Result<Witnessed, ServiceError> {
        let witnessed = self.witnessed(signed, keeper)?;
        if witnessed.unknown.is_empty() {
            return Ok(witnessed);
        }
        for node in &witnessed.unknown {
            if let Err(error) = self.learn(node, peer).await {
                tracing::debug!(%node, %error, "the credential of a witness is not to be had now");
            }
        }
        self.witnessed(signed, keeper)
    }

    async fn learn(&self, node: &NodeId, peer: &dyn EvidencePeer) -> Result<(), ServiceError> {
        let bytes = peer.credential(node).await?;
        let (credential, statement) = self
            .directory()
            .verify_credential(bytes)
            .map_err(|error| ServiceError::invalid("credential", error))?;
        if credential.node != *node {
            return Err(ServiceError::invalid("credential.node", "is another node than asked for"));
        }
        let ledger = self.ledger().clone();
        // Committed even if the registrar contradicts itself: the evidence of it is in this transaction.
        self.ledger()
            .store()
            .transact("transfer.witness", move |tx| -> Result<Result<(), ServiceError>, ServiceError> {
                Ok(huitong_identity::remember_credential(tx, &ledger, &credential, &statement))
            })
            .await?
    }
}

fn sort_out(
    signed: &SignedCheckpoint,
    keeper: &NodeId,
    credential_of: impl Fn(&NodeId) -> Result<Option<(Credential, Statement)>, ServiceError>,
) -> Result<Witnessed, ServiceError> {
    let refused = |error: huitong_ledger::NoteError| ServiceError::invalid("checkpoint", error);
    let bare = signed.with_log_signature_only();
    let (mut lines, mut witnesses, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for line in signed.signature_lines() {
        // A ledger is no witness of itself; foreign names are nobody whose key a receipt could prove.
        let Some(node) = node_of(&line).filter(|node| node != keeper) else { continue };
        let Some((credential, statement)) = credential_of(&node)? else {
            unknown.push(node);
            continue;
        };
        let alone = bare.with_lines(std::slice::from_ref(&line)).map_err(refused)?;
        let cosignature = alone.cosigned_by(&credential.witness).map_err(refused)?;
        if cosignature.is_some_and(|cosignature| credential.is_valid_at(cosignature.time)) {
            lines.push(line);
            witnesses.push((credential, statement));
        }
    }
    let checkpoint = bare.with_lines(&lines).map_err(refused)?;
    Ok(Witnessed { checkpoint, witnesses, unknown })
}

/// The node whose witness name is on a signature line.
fn node_of(line: &str) -> Option<NodeId> {
    let name = line.split(' ').nth(1)?;
    let node = NodeId::parse(&name.strip_suffix(NAME_END)?.to_ascii_uppercase()).ok()?;
    (witness_name_of(node.as_str()) == name).then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn witness_names_lead_to_nodes() {
        let entity = huitong_ids::EntityCode::parse_organisation("91440300708461136T").unwrap();
        let segment = huitong_ids::Segment::parse("4403").unwrap();
        let node = NodeId::mint(huitong_ids::NodeType::Connector, &entity, &segment, [7; 16]);
        let name = witness_name_of(node.as_str());
        assert_eq!(node_of(&format!("\u{2014} {name} AAAA")), Some(node.clone()));
        let (id, upper) = (node.as_str().to_ascii_lowercase(), node.as_str());
        for foreign in [
            "example.com/witness".to_owned(),
            format!("{id}/huitong-log/1"),
            format!("{id}/huitong-witness/2"),
            format!("{upper}/huitong-witness/1"),
            format!("{}/huitong-witness/1", &id[1..]),
            String::new(),
        ] {
            assert_eq!(node_of(&format!("\u{2014} {foreign} AAAA")), None, "{foreign:?}");
        }
        assert_eq!(node_of(""), None);
    }
}
