//! What the provider decides before anything moves: whether the caller may have what it wants, and what that is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use huitong_catalog::{OpenSource, ShelfProduct};
use huitong_contract::{Contract, Contracts, Side, Standing};
use huitong_identity::{Caller, Refusal, ServiceError, refuse, remember};
use huitong_ledger::Ledger;
use huitong_policy::{Action, ClauseId};
use huitong_proof::{Content, ContentRoot, Digest, Kind, Statement, Timestamp, random};
use huitong_store::{Read, Tx};

use super::{Transfers, issue};
use crate::details::{DatasetShape, OfferDetail, UsageDetail};
use crate::model::{Finality, Priority, Statements, Transfer, TransferState, Want};
use crate::{rules, tables};

/// What the consumer hears of a file that cannot be delivered: where it lies here is none of its business.
pub(super) const SOURCE_CHANGED: &str = "the provider's file cannot be read as it was published";

/// Its files lie on another machine, which does not answer: the consumer comes again.
pub(super) fn source_away() -> ServiceError {
    ServiceError::Busy { reason: "the provider does not reach its storage; try again later".to_owned() }
}

/// What is delivered, as it was found before the decision.
#[derive(Clone)]
pub(super) struct Goods {
    pub(super) product: ShelfProduct,
    pub(super) content: Arc<Content>,
    pub(super) source: OpenSource,
}

/// Contents that exchanges are serving, by root and by whether they have a manifest: in memory once, however many exchanges
/// there are. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Contents(Arc<Mutex<HashMap<ContentKey, Weak<Content>>>>);

type ContentKey = (ContentRoot, bool);

impl Contents {
    fn get_or_load(
        &self,
        key: ContentKey,
        load: impl FnOnce() -> Result<Content, ServiceError>,
    ) -> Result<Arc<Content>, ServiceError> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(&key).and_then(Weak::upgrade) {
            return Ok(found);
        }
        let loaded = Arc::new(load()?);
        let mut known = known();
        known.retain(|_, content| content.strong_count() > 0);
        // Somebody may have been faster.
        if let Some(found) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(found);
        }
        known.insert(key, Arc::downgrade(&loaded));
        Ok(loaded)
    }
}

/// What the decision about a `Want` led to, already durable.
pub(super) enum Opening {
    Refused(Statement),
    Offered(Box<Offered>),
}

pub(super) struct Offered {
    pub(super) transfer: Transfer,
    pub(super) contract: Contract,
    /// `None` only for a transfer that is over or held up.
    pub(super) goods: Option<Goods>,
    /// The policy clauses whose counter this transfer has consumed.
    pub(super) consumed: Vec<String>,
    /// In the order in which they go out: certificate, usage, offer, and the final of a transfer that is over.
    pub(super) statements: Vec<Statement>,
}

impl Transfers {
    /// Whether the caller may have what it wants at all, by what is stored now.
    pub(super) fn may_open(&self, caller: &Caller, want: &Want) -> Result<bool, ServiceError> {
        let view = self.ledger().store().view();
        let contract = self.contracts.contract(&view, &want.contract)?;
        let existing = tables::transfer(&view, &want.transfer)?;
        Ok(rules::may_open(want, caller, contract.as_ref(), existing.as_ref()).is_ok())
    }

    /// Looks for the files before the transaction: the journal's writer must not wait for another disk. Who may not have
    /// them does not make us look.
    async fn goods(&self, caller: &Caller, want: &Want) -> Result<Looked, ServiceError> {
        let view = self.ledger().store().view();
        let contract = self.contracts.contract(&view, &want.contract)?;
        let existing = tables::transfer(&view, &want.transfer)?;
        drop(view);
        let moves = existing.as_ref().is_none_or(|found| !found.state.is_terminal() && !found.is_held());
        let may_open = rules::may_open(want, caller, contract.as_ref(), existing.as_ref());
        if !moves || !may_open.is_ok_and(Contract::in_force) {
            return Ok(Looked::Not);
        }
        // A transfer goes on with the version that it began with.
        let root = existing.and_then(|existing| existing.root);
        let root = root.or(contract.and_then(|contract| contract.agreement.root()));
        let product = match root {
            Some(root) => self.shelf.version(&want.product, &root)?,
            None => self.shelf.product(&want.product)?,
        };
        let Some(product) = product else { return Ok(Looked::Nothing) };
        let (shelf, contents) = (self.shelf.clone(), self.contents.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let key = (product.record.root, product.record.files.is_some());
            let content = contents.get_or_load(key, || shelf.content(&product))?;
            let source = shelf.open(&product, &content)?;
            Ok::<_, ServiceError>(Goods { product, content, source })
        });
        match looked.await.map_err(|error| ServiceError::Internal(error.to_string()))? {
            Ok(goods) => Ok(Looked::Found(Box::new(goods))),
            Err(error @ ServiceError::Busy { .. }) => {
                tracing::warn!(product = %want.product, %error, "a product cannot be read now");
                Err(source_away())
            }
            Err(error) => {
                tracing::warn!(product = %want.product, %error, "a product cannot be delivered");
                Ok(Looked::Changed)
            }
        }
    }

    /// Decides about a `Want` and commits the outcome: an offer with its counters consumed, or a refusal. Without a place
    /// nothing is looked for.
    pub(super) async fn open(
        &self,
        caller: &Caller,
        address: IpAddr,
        want: Want,
        has_place: bool,
    ) -> Result<Opening, ServiceError> {
        let goods = if has_place { self.goods(caller, &want).await? } else { Looked::Not };
        let (ledger, contracts, caller) = (self.ledger().clone(), self.contracts.clone(), caller.clone());
        self.ledger()
            .store()
            .transact("transfer.open", move |tx| -> Result<Opening, ServiceError> {
                remember(tx, &ledger, &caller)?;
                match decide(tx, &ledger, &contracts, &caller, address, &want, goods)? {
                    Ok(offered) => Ok(Opening::Offered(Box::new(offered))),
                    Err((refusal, agreement)) => {
                        // The consumer gives up when it reads the refusal; so does our side of a transfer under way.
                        if let Some(mut transfer) = tables::transfer(tx, &want.transfer)?
                            && rules::is_resumed_by(&want, &caller, &transfer)
                            && !transfer.state.is_terminal()
                        {
                            transfer.terminate(&refusal.code, &refusal.reason, ledger.clock().now());
                            tables::save(tx, &transfer)?;
                        }
                        let asked = format!("deliver {} under contract {}", want.product, want.contract);
                        let statement = refuse(
                            tx,
                            &ledger,
                            caller.node().as_str(),
                            want.transfer,
                            agreement,
                            Digest::ZERO,
                            &refusal,
                            &asked,
                        )?;
                        Ok(Opening::Refused(statement))
                    }
                }
            })
            .await
            .map_err(Into::into)
    }
}

/// What became of looking for the goods.
enum Looked {
    /// They are what was published.
    Found(Box<Goods>),
    /// The files cannot be read as they were published.
    Changed,
    /// There is no such product.
    Nothing,
    /// Nobody looked: they are not for this caller, or not any more.
    Not,
}

type Decided = Result<Offered, (Refusal, Digest)>;

fn decide(
    tx: &mut Tx<'_>,
    ledger: &Ledger,
    contracts: &Contracts,
    caller: &Caller,
    address: IpAddr,
    want: &Want,
    goods: Looked,
) -> Result<Decided, ServiceError> {
    let existing = tables::transfer(tx, &want.transfer)?;
    let contract = contracts.contract(tx, &want.contract)?;
    let contract = match rules::may_open(want, caller, contract.as_ref(), existing.as_ref()) {
        Ok(contract) => contract.clone(),
        Err(refusal) => return Ok(Err((refusal, Digest::ZERO))),
    };
    let refused = |refusal: Refusal| Ok(Err((refusal, contract.hash)));
    if let Some(transfer) = &existing {
        match transfer.state {
            TransferState::Terminated => {
                return refused(Refusal::new(
                    "transfer.ended",
                    format!("this transfer ended ({}): {}", transfer.code, transfer.reason),
                    "start a new transfer",
                ));
            }
            // Nothing moves any more, or not now: the same statements once again, whatever the policy says by now. Of one that
            // is held up nothing but its cancellation is heard.
            _ if transfer.state == TransferState::Completed || transfer.is_held() => {
                let statements = stored_statements(tx, ledger, transfer)?;
                let (transfer, consumed) = (transfer.clone(), Vec::new());
                return Ok(Ok(Offered { transfer, contract, goods: None, consumed, statements }));
            }
            _ => {}
        }
    }
    match &contract.standing {
        Standing::InForce => {}
        // No refusal, with which the consumer would give up: it waits, as its side of the contract does.
        Standing::Suspended(_) => return Err(ServiceError::Busy { reason: contract.standing.to_string() }),
        Standing::Ended(_) => {
            let reason = contract.standing.to_string();
            return refused(Refusal::new(rules::ENDED, reason, "negotiate a new contract"));
        }
    }
    let goods = match goods {
        Looked::Found(goods) => *goods,
        Looked::Changed => {
            return refused(Refusal::new(
                "source.changed",
                SOURCE_CHANGED,
                "ask the provider to publish it anew",
            ));
        }
        Looked::Nothing => {
            return refused(Refusal::new(
                "source.gone",
                "the product is no longer offered",
                "ask the provider",
            ));
        }
        Looked::Not => {
            let reason = "the contract has changed while the transfer was opened; ask again".to_owned();
            return Err(ServiceError::Busy { reason });
        }
    };
    let now = ledger.clock().now();
    if let Some(transfer) = existing {
        // It was opened by another exchange while we looked, with a version that has been renewed since.
        if transfer.root != Some(goods.content.root()) {
            let reason =
                "the transfer goes on with another version than was looked for; ask again".to_owned();
            return Err(ServiceError::Busy { reason });
        }
        let statements = stored_statements(tx, ledger, &transfer)?;
        let consumed = consumed_clauses(&statements)?;
        let used = |clause: &ClauseId| rules::used_while_running(&consumed, clause);
        if let Err(refusal) = rules::ask_policy(&contract.agreement, caller, address, now, &used) {
            return refused(refusal);
        }
        return Ok(Ok(Offered { transfer, contract, goods: Some(goods), consumed, statements }));
    }
    let read: &Tx<'_> = tx;
    // A counter that cannot be read counts as used up.
    let used = |clause: &ClauseId| tables::counter(read, &contract.hash, clause.as_str()).unwrap_or(u64::MAX);
    let decision = match rules::ask_policy(&contract.agreement, caller, address, now, &used) {
        Ok(decision) => decision,
        Err(refusal) => return refused(refusal),
    };
    let mut transfer = new_transfer(want, caller, &goods, now);
    // The counter is consumed before the first byte can leave: a crash over-counts, never under-counts.
    for clause in &decision.counts {
        let after = tables::counter(tx, &contract.hash, clause.as_str())?.saturating_add(1);
        tables::put_counter(tx, &contract.hash, clause.as_str(), after)?;
        let usage = UsageDetail {
            decision: random(&**ledger.entropy()),
            action: Action::Delivery.wire().to_owned(),
            counter: clause.as_str().to_owned(),
            after,
            context: Digest::sha256(format!("{now} {address} {} {}", caller.node(), want.product).as_bytes()),
        };
        let statement =
            issue(tx, ledger, Kind::Usage, &transfer, &contract, Digest::ZERO, usage.to_detail())?;
        transfer.statements.usage.push(statement.digest());
    }
    let offer = OfferDetail {
        product: want.product.clone(),
        root: goods.content.root(),
        size: goods.content.size(),
        window: contract.agreement.window_bytes,
        policy: Digest::sha256(&contract.agreement.policy),
        file_name: goods.product.record.file_name.clone(),
        usage: transfer.statements.usage.clone(),
        dataset: DatasetShape::of(&goods.content),
    };
    let negotiation = contracts.negotiation(&contract.negotiation)?;
    let finalisation = negotiation.and_then(|found| found.statements.finalisation).unwrap_or(Digest::ZERO);
    let statement = issue(tx, ledger, Kind::Offer, &transfer, &contract, finalisation, offer.to_detail())?;
    transfer.statements.offer = Some(statement.digest());
    tables::save(tx, &transfer)?;
    let statements = stored_statements(tx, ledger, &transfer)?;
    let consumed = consumed_clauses(&statements)?;
    Ok(Ok(Offered { transfer, contract, goods: Some(goods), consumed, statements }))
}

/// The policy clauses whose counter a transfer has consumed, by its own usage records.
fn consumed_clauses(statements: &[Statement]) -> Result<Vec<String>, ServiceError> {
    let usage = statements.iter().filter(|statement| statement.kind() == Kind::Usage);
    usage.map(|statement| Ok(UsageDetail::read(statement)?.counter)).collect()
}

fn new_transfer(want: &Want, caller: &Caller, goods: &Goods, now: Timestamp) -> Transfer {
    Transfer {
        id: want.transfer,
        side: Side::Provider,
        peer: caller.node().clone(),
        contract: want.contract.clone(),
        product: want.product.clone(),
        state: TransferState::Started,
        priority: Priority::default(),
        size: goods.content.size(),
        acknowledged: 0,
        acknowledged_groups: 0,
        groups: goods.content.groups(),
        files: goods.product.record.files,
        name: Some(goods.product.record.file_name.as_str().to_owned()),
        root: Some(goods.content.root()),
        version: Some(goods.product.version),
        path: None,
        directory: std::path::PathBuf::new(),
        deposit: None,
        suspended_by: None,
        code: String::new(),
        reason: String::new(),
        proven: false,
        finality: Finality::Provisional,
        started: now,
        finished: None,
        statements: Statements {
            certificate: Some(goods.product.certificate.digest()),
            ..Statements::default()
        },
    }
}

/// The statements that open (or, for a transfer that is over, close) an exchange, in the order in which they go out.
fn stored_statements(
    read: &impl Read,
    ledger: &Ledger,
    transfer: &Transfer,
) -> Result<Vec<Statement>, ServiceError> {
    let names = &transfer.statements;
    let digests = names.certificate.iter().chain(&names.usage).chain(&names.offer).chain(&names.last);
    digests
        .map(|digest| {
            ledger
                .statement(read, digest)?
                .ok_or_else(|| ServiceError::Internal(format!("statement {digest} of a transfer is missing")))
        })
        .collect()
}

/// Why nothing moves, to the consumer.
pub(super) fn held(transfer: &Transfer) -> String {
    match transfer.is_paused() {
        true => format!("the provider has paused this transfer: {}", transfer.reason),
        false => transfer.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::consumer_lies::Raw;
    use crate::tests::{ALWAYS, MIB, Space, policy, transfers_with};

    #[tokio::test]
    async fn nothing_is_looked_for_while_a_transfer_is_held_up() {
        let mut space = Space::new(2 * MIB, MIB, &policy(&[ALWAYS])).await;
        let id = [2; 16];
        let (raw, _) = Raw::open(&space, id).await;
        let Raw { out, frames, served } = raw;
        drop((out, frames));
        served.await.unwrap().unwrap();
        space.provider.pause(&id, "maintenance").await.unwrap();
        space.provider = transfers_with(space.home.path(), &space.network.provider, |_| {});
        let looked = || space.provider.contents.0.lock().unwrap().len();
        space.start(id).await;
        space.run(id).await.assert_retry("maintenance");
        assert_eq!(looked(), 0);
        space.provider.resume(&id).await.unwrap();
        assert_eq!(space.run(id).await.consumer, Ok(()));
        assert_eq!(looked(), 1);
    }

    #[test]
    fn a_content_is_in_memory_once_and_only_as_long_as_it_is_served() {
        let contents = Contents::default();
        let content = || Content::of_bytes(b"rain");
        let key = (content().root(), false);
        let first = contents.get_or_load(key, || Ok(content())).unwrap();
        let again = contents.get_or_load(key, || panic!("it is there")).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let other = contents.get_or_load((key.0, true), || Ok(content())).unwrap();
        assert!(!Arc::ptr_eq(&first, &other), "a dataset is not the file that its manifest would be");
        drop((first, again, other));
        assert!(contents.get_or_load(key, || Err(source_away())).is_err());
        contents.get_or_load(key, || Ok(content())).unwrap();
        assert_eq!(contents.0.lock().unwrap().len(), 1);
    }
}
