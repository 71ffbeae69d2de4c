//! What runs by itself: carrying a publication's messages to the registrar, one step after the other.

use bytes::Bytes;
use huitong_identity::{Delivery, PeerError, Refusal, ServiceError, read_refusal};
use huitong_ids::NodeId;
use huitong_proof::cbor::{Fields, Limits, Map};
use huitong_proof::{Digest, Envelope, Kind, Statement, VerifyingKey};
use huitong_store::{Pending, Tx, TxError, outbox};

use crate::model::{
    AssetCertificate, AssetKind, ListingNotice, ListingRecord, ProductRecord, PublicationState, RecordError,
    Registration, ResourceRecord,
};
use crate::peer::{CatalogPeer, require, trusted_registrar};
use crate::rules;
use crate::service::{Abort, Shelf, aborted};
use crate::tables::{self, Certified, PublicationRow};

/// The outbox topic of this crate's messages.
pub const TOPIC: &str = "catalog";

const LIMITS: Limits = Limits { bytes: 64 * 1024, depth: 2 };
const VERSION: u64 = 1;

/// What a message asks of the registrar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Register(AssetKind),
    List,
}

impl Step {
    /// The state in which this message is awaited; in any other it has been answered.
    fn awaited_in(self) -> PublicationState {
        match self {
            Self::Register(AssetKind::Resource) => PublicationState::RegisteringResource,
            Self::Register(AssetKind::Product) => PublicationState::RegisteringProduct,
            Self::List => PublicationState::Listing,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Register(kind) => kind.word(),
            Self::List => "listing",
        }
    }
}

/// Payload of an outbox row: 0 version, 1 publication id, 2 `resource`, `product` or `listing`, 3 statement, 4 record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) publication: [u8; 16],
    pub(crate) step: Step,
    pub(crate) statement: Bytes,
    pub(crate) record: Bytes,
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        Map::new()
            .uint(0, VERSION)
            .bytes(1, &self.publication)
            .text(2, self.step.word())
            .bytes(3, &self.statement)
            .bytes(4, &self.record)
            .encode()
    }

    fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Fields::decode(payload, LIMITS, "message")?;
        let version = fields.uint(0, "version")?;
        if version != VERSION {
            let reason = format!("{version} is not known to this program; run the newer program again");
            return Err(RecordError::value("message.version", reason));
        }
        let publication = fields.fixed::<16>(1, "publication")?;
        let word = fields.text(2, "step")?;
        let step = match AssetKind::from_word(&word) {
            Some(kind) => Step::Register(kind),
            None if word == Step::List.word() => Step::List,
            None => return Err(RecordError::value("message.step", format!("{word:?} is not a step"))),
        };
        let message = Self {
            publication,
            step,
            statement: fields.bytes(3, "statement")?.into(),
            record: fields.bytes(4, "record")?.into(),
        };
        fields.finish()?;
        Ok(message)
    }
}

/// What the registrar answered, verified.
#[derive(Clone)]
enum Answer {
    Certified {
        certificate: Statement,
        detail: AssetCertificate,
    },
    Listed,
    /// The end of the publication, with the registrar's signed refusal where it gave one.
    Refused {
        refusal: Refusal,
        statement: Option<Statement>,
    },
}

impl Shelf {
    /// Hands one message to the registrar and commits what its answer means: the next step of the publication with
    /// the next message, or its end. `Dead` when the publication has failed; the reason is on record by then.
    pub async fn deliver(&self, pending: &Pending, peer: &dyn CatalogPeer) -> Result<(), Delivery> {
        let dead = |error: &dyn std::fmt::Display| Delivery::Dead(error.to_string());
        let retry = |error: ServiceError| Delivery::Retry(error.to_string());
        let message = Message::decode(&pending.payload).map_err(|error| dead(&error))?;
        let registrar = NodeId::parse(&pending.destination).map_err(|error| dead(&error))?;
        if !self.is_awaited(&message).map_err(retry)? {
            return self.settle(pending.id).await.map_err(retry);
        }
        let key = self.registrar_key(&registrar).map_err(retry)?;
        let answer = self.ask(&message, &registrar, &key, peer).await?;
        let failed = match &answer {
            Answer::Refused { refusal, .. } => Some(refusal.to_string()),
            Answer::Certified { .. } | Answer::Listed => None,
        };
        let (this, row) = (self.clone(), pending.id);
        let committed = self
            .ledger
            .store()
            .transact("catalog.deliver", move |tx| this.advance(tx, row, &message, answer))
            .await;
        match (committed, failed) {
            (Err(error), _) => Err(retry(aborted(&self.ledger, error).await)),
            (Ok(()), Some(reason)) => Err(Delivery::Dead(reason)),
            (Ok(()), None) => Ok(()),
        }
    }

    fn is_awaited(&self, message: &Message) -> Result<bool, ServiceError> {
        let row = tables::publication(&self.ledger.store().view(), &message.publication)?;
        Ok(row.is_some_and(|row| row.state == message.step.awaited_in()))
    }

    async fn settle(&self, id: u64) -> Result<(), ServiceError> {
        let settled = self.ledger.store().transact("catalog.settle", move |tx| {
            outbox::settle(tx, id)?;
            Ok::<_, ServiceError>(())
        });
        settled.await.map_err(|error: TxError<ServiceError>| ServiceError::from(error))
    }

    async fn ask(
        &self,
        message: &Message,
        registrar: &NodeId,
        key: &VerifyingKey,
        peer: &dyn CatalogPeer,
    ) -> Result<Answer, Delivery> {
        let (statement, record) = (message.statement.clone(), message.record.clone());
        let answer = match message.step {
            Step::Register(_) => peer.register(registrar, statement, record).await.map(Some),
            Step::List => peer.list(registrar, statement, record).await.map(|()| None),
        };
        match answer {
            Ok(None) => Ok(Answer::Listed),
            Ok(Some(certificate)) => Ok(self.certified(message, registrar, key, certificate)),
            // A broken answer may come from a proxy or a node amid an upgrade: the registrar keeps its word by
            // digest, so asking again is safe, and the reason stays where the operator sees it.
            Err(error @ (PeerError::Unavailable(_) | PeerError::Broken(_))) => {
                Err(Delivery::Retry(error.to_string()))
            }
            Err(PeerError::Refused { code, reason, statement }) => {
                let told = Refusal::new(code, reason, "read the reason, then publish again under a new id");
                Ok(self.refused(registrar, key, told, statement))
            }
        }
    }

    /// A certificate counts only when our registrar signed it, to us, in answer to this very statement, about this
    /// very record.
    fn certified(&self, message: &Message, registrar: &NodeId, key: &VerifyingKey, bytes: Bytes) -> Answer {
        match self.check_certificate(message, registrar, key, bytes) {
            Ok((certificate, detail)) => Answer::Certified { certificate, detail },
            Err(error) => {
                let refusal = match error {
                    ServiceError::Refused { refusal, .. } => refusal,
                    other => Refusal::new(
                        "catalog.certificate",
                        format!("the registrar's certificate does not hold: {other}"),
                        "tell the registrar's operator; then publish again under a new id",
                    ),
                };
                Answer::Refused { refusal, statement: None }
            }
        }
    }

    fn check_certificate(
        &self,
        message: &Message,
        registrar: &NodeId,
        key: &VerifyingKey,
        bytes: Bytes,
    ) -> Result<(Statement, AssetCertificate), ServiceError> {
        let asked = Envelope::decode(message.statement.clone())?.trusted(self.ledger.space())?;
        let certificate = self.verified(registrar, key, bytes)?;
        let detail = AssetCertificate::from_statement(&certificate)?;
        let body = certificate.body();
        let answers = body.reference == asked.digest() && body.subject == message.publication;
        require("certificate.reference", answers, "it answers another registration")?;
        let id = match Registration::from_statement(&asked)?.renews {
            Some(id) => id,
            None => detail.id.clone(),
        };
        let (holder, root, size, derived_from, kind) = match message.step {
            Step::Register(kind @ AssetKind::Resource) => {
                let record = ResourceRecord::decode(&message.record)?;
                (record.holder, record.root, record.size, Vec::new(), kind)
            }
            Step::Register(kind @ AssetKind::Product) => {
                let record = ProductRecord::decode(&message.record)?;
                (record.provider_entity, record.root, record.size, record.derived_from, kind)
            }
            Step::List => {
                return Err(ServiceError::Internal("a listing is not answered by a certificate".to_owned()));
            }
        };
        let record = Digest::sha256(&message.record);
        let version = detail.version;
        let expected = AssetCertificate { id, record, kind, holder, root, size, derived_from, version };
        rules::certificate(&detail, &expected)
            .map_err(|refusal| ServiceError::Refused { refusal, statement: None })?;
        Ok((certificate, detail))
    }

    /// The registrar's refusal, in its signed words where they hold.
    fn refused(&self, registrar: &NodeId, key: &VerifyingKey, told: Refusal, bytes: Option<Bytes>) -> Answer {
        let signed = bytes.and_then(|bytes| {
            let statement = self.verified(registrar, key, bytes).ok()?;
            let refusal = read_refusal(&statement).ok()?;
            Some((refusal, statement))
        });
        match signed {
            Some((refusal, statement)) => Answer::Refused { refusal, statement: Some(statement) },
            None => Answer::Refused { refusal: told, statement: None },
        }
    }

    fn registrar_key(&self, registrar: &NodeId) -> Result<VerifyingKey, ServiceError> {
        let now = self.ledger.clock().now();
        Ok(trusted_registrar(&self.directory.roots(), registrar.as_str(), now)?.statement_key.clone())
    }

    /// A statement of our registrar to us.
    fn verified(
        &self,
        registrar: &NodeId,
        key: &VerifyingKey,
        bytes: Bytes,
    ) -> Result<Statement, ServiceError> {
        let statement = Envelope::decode(bytes)?.verify(key, self.ledger.space())?;
        let issuer = statement.body().issuer == registrar.as_str();
        require("statement.issuer", issuer, "it is not from our registrar")?;
        let audience = statement.body().audience == self.ledger.node();
        require("statement.audience", audience, "it is addressed to another node")?;
        Ok(statement)
    }

    fn advance(&self, tx: &mut Tx<'_>, pending: u64, message: &Message, answer: Answer) -> Result<(), Abort> {
        let id = &message.publication;
        let row = tables::publication(tx, id)?;
        let Some(mut row) = row.filter(|row| row.state == message.step.awaited_in()) else {
            outbox::settle(tx, pending)?;
            return Ok(());
        };
        match answer {
            Answer::Certified { certificate, detail } => {
                self.ledger.admit(tx, &certificate)?;
                self.registered(tx, id, &mut row, &certificate, detail)?;
                outbox::settle(tx, pending)?;
            }
            Answer::Listed => {
                row.state = PublicationState::Listed;
                if let Some(product) = &row.product {
                    tx.put(&tables::PRODUCTS, product.id.as_str().as_bytes(), id)?;
                    tx.put(&tables::VERSIONS, &tables::version_key(&product.id, &row.source.root), id)?;
                    if row.push {
                        tables::announce(tx, &product.id, None)?;
                    }
                }
                outbox::settle(tx, pending)?;
            }
            // The row stays: the worker buries it, so that the operator finds it among the dead.
            Answer::Refused { refusal, statement } => {
                if let Some(statement) = statement {
                    self.ledger.admit(tx, &statement)?;
                }
                row.state = PublicationState::Failed;
                row.reason = Some(refusal);
            }
        }
        self.save(tx, id, &mut row)
    }

    /// After the resource comes the product, after the product its listing.
    fn registered(
        &self,
        tx: &mut Tx<'_>,
        id: &[u8; 16],
        row: &mut PublicationRow,
        certificate: &Statement,
        detail: AssetCertificate,
    ) -> Result<(), Abort> {
        let certified = Certified { id: detail.id.clone(), certificate: certificate.digest() };
        let renewed = row.renews.as_ref().map(|id| tables::publication(tx, id)).transpose()?.flatten();
        match detail.kind {
            AssetKind::Resource => {
                let resource = ResourceRecord::decode(&row.resource_record)?;
                let record = self.product_record(row, &resource, detail.id).encode()?;
                row.resource = Some(certified);
                row.product_record = Some(record.clone());
                row.state = PublicationState::RegisteringProduct;
                let product = renewed.and_then(|renewed| renewed.product).map(|product| product.id);
                self.ask_to_register(tx, id, AssetKind::Product, record, product)
            }
            AssetKind::Product => {
                let product = row.product_record.as_deref().unwrap_or_default();
                let before = renewed.and_then(|renewed| renewed.listing_record);
                let before = before.map(|record| ListingRecord::decode(&record)).transpose()?;
                let version = before.map_or(1, |listing| listing.version.saturating_add(1));
                let listing = self.listing_record(row, &ProductRecord::decode(product)?, detail.id, version);
                let record = listing.encode()?;
                let notice = ListingNotice {
                    product: listing.product.clone(),
                    record: Digest::sha256(&record),
                    version: listing.version,
                    policy: listing.policy_digest(),
                };
                let statement = self.say(tx, id, Kind::Listing, certificate.digest(), notice.to_detail())?;
                if row.renews.is_none() {
                    tx.put(&tables::PRODUCTS, certified.id.as_str().as_bytes(), id)?;
                }
                row.product = Some(certified);
                row.listing_record = Some(record.clone());
                row.state = PublicationState::Listing;
                self.send(tx, id, Step::List, &statement, record)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back_and_refuse_anything_else() {
        let steps = [Step::Register(AssetKind::Resource), Step::Register(AssetKind::Product), Step::List];
        for step in steps {
            let (statement, record) = (Bytes::from_static(b"statement"), Bytes::from_static(b"record"));
            let message = Message { publication: [7; 16], step, statement, record };
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes).unwrap(), message);
            for length in 0..bytes.len() {
                assert!(Message::decode(&bytes[..length]).is_err(), "{length} bytes");
            }
        }
        let check = |version: u64, step: &str| {
            let payload =
                Map::new().uint(0, version).bytes(1, &[7; 16]).text(2, step).bytes(3, b"s").bytes(4, b"r");
            Message::decode(&payload.encode())
        };
        assert!(check(1, "listing").is_ok());
        assert!(check(2, "listing").is_err());
        assert!(check(1, "search").is_err());
    }
}
