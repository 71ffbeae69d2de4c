//! What runs by itself: delivering this crate's messages, one `deliver` per outbox row.

use bytes::Bytes;
use huitong_identity::{Delivery, PeerError, ServiceError, credential_of};
use huitong_ids::NodeId;
use huitong_proof::cbor::{FieldError, Fields, Limits, Map};
use huitong_proof::{Envelope, Kind, Statement};
use huitong_store::{Pending, Tx, outbox};

use crate::model::{MAXIMUM_DOCUMENT_BYTES, Reason};
use crate::peer::ContractPeer;
use crate::service::Contracts;
use crate::tables;

/// The outbox topic this crate owns.
pub const TOPIC: &str = "contract";

/// A document, a statement (16 KiB), and room around them.
const PARCEL_LIMITS: Limits = Limits { bytes: MAXIMUM_DOCUMENT_BYTES + 32 * 1024, depth: 2 };

/// The payload of an outbox row: CBOR map 1 statement, 2 document, 3 negotiation id.
pub(crate) struct Parcel {
    pub(crate) statement: Bytes,
    pub(crate) document: Bytes,
    pub(crate) negotiation: [u8; 16],
}

impl Parcel {
    pub(crate) fn encode(&self) -> Vec<u8> {
        Map::new().bytes(1, &self.statement).bytes(2, &self.document).bytes(3, &self.negotiation).encode()
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, FieldError> {
        let mut fields = Fields::decode(payload, PARCEL_LIMITS, "parcel")?;
        let parcel = Self {
            statement: fields.bytes(1, "statement")?.into(),
            document: fields.bytes(2, "document")?.into(),
            negotiation: fields.fixed::<16>(3, "negotiation")?,
        };
        fields.finish()?;
        Ok(parcel)
    }
}

impl Contracts {
    /// Hands one outbox row of topic `contract` to its destination.
    ///
    /// `Ok`: taken and settled. A refusal by the peer ends the negotiation here, with the peer's code and reason; when
    /// the peer may think otherwise it is told so by a TERMINATION.
    ///
    /// # Errors
    /// [`Delivery::Retry`] when another attempt may succeed; [`Delivery::Dead`] when none will, with the consequence
    /// already durable.
    pub async fn deliver(&self, pending: &Pending, peer: &dyn ContractPeer) -> Result<(), Delivery> {
        let parcel = Parcel::decode(&pending.payload).map_err(|error| Delivery::Dead(error.to_string()))?;
        let to = NodeId::parse(&pending.destination).map_err(|error| Delivery::Dead(error.to_string()))?;
        match peer.submit(&to, parcel.statement.clone(), parcel.document.clone()).await {
            Ok(()) => {
                let id = pending.id;
                self.transact("contract.settle", move |_, tx| Ok(outbox::settle(tx, id)?))
                    .await
                    .map_err(retry)
            }
            // An answer that breaks the protocol may come from a peer that is being upgraded; ours is idempotent.
            Err(error @ (PeerError::Unavailable(_) | PeerError::Broken(_))) => {
                Err(Delivery::Retry(error.to_string()))
            }
            Err(PeerError::Refused { code, reason, statement }) => {
                let reason = Reason::new(&code, &reason);
                let text = reason.to_string();
                tracing::info!(peer = %to, code = %reason.code, "a contract message was refused");
                self.transact("contract.refused", move |contracts, tx| {
                    contracts.record_refusal(tx, &to, &parcel, reason, statement)
                })
                .await
                .map_err(retry)?;
                Err(Delivery::Dead(text))
            }
        }
    }

    /// The other node will never take this message: what that means for the negotiation.
    fn record_refusal(
        &self,
        tx: &mut Tx<'_>,
        peer: &NodeId,
        parcel: &Parcel,
        reason: Reason,
        refusal: Option<Bytes>,
    ) -> Result<(), ServiceError> {
        let sent = Envelope::decode(parcel.statement.clone())?.trusted(self.ledger().space())?;
        let signed = match refusal {
            Some(bytes) => self.signed_refusal(tx, peer, &sent, bytes)?,
            None => None,
        };
        if let Some(refusal) = &signed {
            // A contradiction in the peer's own statements changes nothing about its answer; its evidence is kept.
            if let Err(error) = self.ledger().admit(tx, refusal) {
                tracing::warn!(%peer, %error, "a refusal does not fit the peer's earlier statements");
            }
        }
        let Some(before) = tables::negotiation(tx, &parcel.negotiation)? else {
            return Ok(());
        };
        if before.state.is_terminal() {
            return Ok(());
        }
        let mut after = before.clone();
        let peer_knows_nothing = sent.kind() == Kind::ContractRequest && before.rounds == 0;
        if peer_knows_nothing && signed.is_some() {
            after.end(reason, self.now(tx));
        } else {
            self.send_termination(tx, &mut after, sent.digest(), reason)?;
        }
        tables::save(tx, Some(&before), &after)
    }

    /// The peer's refusal, if it is truly its answer to what we sent.
    fn signed_refusal(
        &self,
        tx: &Tx<'_>,
        peer: &NodeId,
        sent: &Statement,
        bytes: Bytes,
    ) -> Result<Option<Statement>, ServiceError> {
        let Some((credential, _)) = credential_of(tx, self.ledger(), peer)? else {
            return Ok(None);
        };
        let verified = Envelope::decode(bytes)
            .and_then(|envelope| envelope.verify(&credential.statement_key, self.ledger().space()));
        Ok(verified.ok().filter(|refusal| {
            let body = refusal.body();
            refusal.kind() == Kind::Refusal
                && body.issuer == peer.as_str()
                && body.audience == self.ledger().node()
                && body.subject == sent.body().subject
                && body.reference == sent.digest()
        }))
    }
}

fn retry(error: ServiceError) -> Delivery {
    Delivery::Retry(error.to_string())
}
