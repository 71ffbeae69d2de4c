//! The function node's side: registration, listing, search, resolution.

use bytes::Bytes;
use huitong_identity::{
    Caller, Membership, Refusal, Role, ServiceError, read_refusal, refuse, remember, statement_from,
};
use huitong_ids::{DataId, DataType};
use huitong_ledger::{Admission, Ledger};
use huitong_proof::{Digest, Draft, Kind, Statement, Timestamp, random};
use huitong_store::{Read, Tx};

use super::{Abort, Outcome, aborted};
use crate::model::{
    AssetKind, ListingNotice, ListingRecord, MAX_RECORD_BYTES, ProductRecord, RecordError, Registration,
    ResourceRecord, nfc,
};
use crate::peer::{Hit, Resolution, SearchPage, announces, require};
use crate::rules::{self, Applicant, Asset, Keywords, Listed, ListingStep};
use crate::tables::{self, AssetRow, ListingRow, RecentRow};

/// The longest keyword text of a search, in characters.
pub const MAX_KEYWORD_CHARS: usize = 128;
/// The longest page of a search, in hits.
pub const MAX_PAGE: u64 = 100;
/// The most listings that one search looks at, the newest first.
pub const MAX_EXAMINED: usize = 50_000;

const SCAN_PAGE: usize = 512;
/// Assigned ids carry 8 random characters; a second draw is already out of the ordinary.
const DRAWS: usize = 8;
/// The longest reason in a refusal, in characters: it may quote a policy, and must fit a statement.
const MAX_REASON_CHARS: usize = 2_000;

/// The unified catalog of a function node.
#[derive(Debug, Clone)]
pub struct Registry {
    ledger: Ledger,
    membership: Membership,
}

impl Registry {
    /// The catalog kept in the ledger's store. `membership` is the function node's own.
    pub fn new(ledger: Ledger, membership: Membership) -> Self {
        Self { ledger, membership }
    }

    /// Registers a resource or product for the caller and gives the ASSET CERTIFICATE over it.
    ///
    /// `statement` is the caller's REGISTRATION, `record` the exact bytes it names. The same statement again gives
    /// the same certificate, or the same refusal. Refusals are on record: `catalog.holder`, `catalog.provider`,
    /// `catalog.grade`, `catalog.derived`, `catalog.registered`, `catalog.renews`.
    pub async fn register(
        &self,
        caller: &Caller,
        statement: Bytes,
        record: Bytes,
    ) -> Result<Statement, ServiceError> {
        require_provider(caller)?;
        let statement = statement_from(caller, statement, &self.ledger)?;
        let registration = Registration::from_statement(&statement)?;
        let digest = checked_record(&registration.record, &record)?;
        let asset = match registration.kind {
            AssetKind::Resource => Asset::Resource(ResourceRecord::decode(&record)?),
            AssetKind::Product => Asset::Product(ProductRecord::decode(&record)?),
        };
        let Registration { kind, renews, .. } = registration;
        let command = Register { statement, kind, renews, asset, record, digest };
        let (this, caller) = (self.clone(), caller.clone());
        let outcome = self
            .ledger
            .store()
            .transact("catalog.register", move |tx| this.register_in(tx, &caller, &command))
            .await;
        match outcome {
            Ok(outcome) => outcome.into_result(),
            Err(error) => Err(aborted(&self.ledger, error).await),
        }
    }

    /// Takes the caller's listing of one of its products into the catalog.
    ///
    /// `statement` is the caller's LISTING, `record` the exact bytes it names. Versions start at 1 and go up by one;
    /// the same listing again changes nothing. Refusals are on record: `catalog.product`, `catalog.provider`,
    /// `catalog.policy`, `catalog.version`.
    pub async fn list(&self, caller: &Caller, statement: Bytes, record: Bytes) -> Result<(), ServiceError> {
        require_provider(caller)?;
        let statement = statement_from(caller, statement, &self.ledger)?;
        let notice = ListingNotice::from_statement(&statement)?;
        checked_record(&notice.record, &record)?;
        let listing = ListingRecord::decode(&record)?;
        announces(&notice, &record, &listing)?;
        let command = List { statement, listing, record };
        let (this, caller) = (self.clone(), caller.clone());
        let outcome =
            self.ledger.store().transact("catalog.list", move |tx| this.list_in(tx, &caller, &command)).await;
        match outcome {
            Ok(outcome) => outcome.into_result(),
            Err(error) => Err(aborted(&self.ledger, error).await),
        }
    }

    /// Listings whose name and introduction together contain every keyword, the newest first.
    ///
    /// Keywords stand apart by white space and match anywhere in a word, upper and lower case alike; none at all
    /// matches everything. At most [`MAX_KEYWORD_CHARS`] characters, pages of 1 to [`MAX_PAGE`] hits. One search looks
    /// at no more than [`MAX_EXAMINED`] listings, so beyond that many `total` counts only the newer ones.
    /// Reads the store; call it where blocking is allowed.
    pub fn search(&self, keywords: &str, offset: u64, limit: u64) -> Result<SearchPage, ServiceError> {
        let length = keywords.chars().count();
        if length > MAX_KEYWORD_CHARS {
            let expected = format!("expected at most {MAX_KEYWORD_CHARS} characters, found {length}");
            return Err(ServiceError::invalid("keywords", expected));
        }
        if limit == 0 || limit > MAX_PAGE {
            return Err(ServiceError::invalid("limit", format!("expected 1 to {MAX_PAGE}, found {limit}")));
        }
        let keywords = Keywords::new(&nfc(keywords));
        let end = offset.saturating_add(limit);
        let view = self.ledger.store().view();
        let mut page = SearchPage::default();
        let mut examined = 0_usize;
        let mut after: Option<Vec<u8>> = None;
        while examined < MAX_EXAMINED {
            let rows = tables::recent(
                &view,
                after.as_deref(),
                SCAN_PAGE.min(MAX_EXAMINED.saturating_sub(examined)),
            )?;
            let Some(last) = rows.last() else { break };
            after = Some(last.key.clone());
            examined = examined.saturating_add(rows.len());
            for row in &rows {
                let row = RecentRow::decode(&row.value)?;
                if keywords.match_all(&row.searchable) {
                    if page.total >= offset && page.total < end {
                        page.hits.push(row.hit);
                    }
                    page.total = page.total.saturating_add(1);
                }
            }
        }
        Ok(page)
    }

    /// What the catalog holds of a listed product: the version that is listed, also while a newer one is certified already.
    pub fn resolve(&self, product: &DataId) -> Result<Resolution, ServiceError> {
        let view = self.ledger.store().view();
        let unknown = || ServiceError::NotFound { what: format!("product {product}") };
        let asset = tables::asset(&view, product)?.ok_or_else(unknown)?;
        let listing = tables::listing(&view, product)?.ok_or_else(unknown)?;
        Ok(Resolution {
            product_record: listing.product_record.into(),
            certificate: self.stored_statement(&view, &listing.certificate)?,
            listing_record: listing.record.into(),
            listing: self.stored_statement(&view, &listing.statement)?,
            provider: asset.owner,
        })
    }

    fn register_in(
        &self,
        tx: &mut Tx<'_>,
        caller: &Caller,
        command: &Register,
    ) -> Result<Outcome<Statement>, Abort> {
        let statement = &command.statement;
        remember(tx, &self.ledger, caller)?;
        let known = self.ledger.admit(tx, statement)? == Admission::Known;
        let answered = if known { self.answered(tx, statement, Kind::AssetCertificate)? } else { None };
        if let Some(answered) = answered {
            return Ok(answered);
        }
        let publication = statement.body().subject;
        let registered = tables::registered_key(caller.node(), command.kind, &publication);
        let renewed = command.renews.as_ref().map(|id| tables::asset(tx, id)).transpose()?.flatten();
        let before = renewed.as_ref().map(|asset| (&asset.owner, asset.version));
        let verdict = match tx.get(&tables::REGISTERED, &registered)? {
            Some(id) => Err(already_registered(command.kind, &String::from_utf8_lossy(&id))),
            None => rules::registration(&applicant(caller), &command.asset, |id| {
                Ok::<_, ServiceError>(tables::asset(tx, id)?.map(|asset| asset.owner))
            })?
            .and_then(|()| rules::version(&applicant(caller), command.renews.as_ref(), before)),
        };
        let version = match verdict {
            Ok(version) => version,
            Err(refusal) => {
                let asked = format!("register a {}", command.kind.word());
                return self.refused(tx, caller, statement, refusal, &asked);
            }
        };
        let id = match &command.renews {
            Some(id) => id.clone(),
            None => self.mint(tx, command)?,
        };
        let certificate = self.ledger.issue(
            tx,
            Draft {
                kind: Kind::AssetCertificate,
                audience: caller.node().to_string(),
                subject: publication,
                agreement: Digest::ZERO,
                reference: statement.digest(),
                detail: command.asset.certificate(id.clone(), command.digest, version).to_detail(),
            },
        )?;
        let row = AssetRow {
            record: command.record.to_vec(),
            certificate: certificate.digest(),
            owner: caller.node().clone(),
            owner_name: caller.name().to_owned(),
            registered: Timestamp::from_millis(tx.time()),
            version,
        };
        tx.put(&tables::ASSETS, id.as_str().as_bytes(), &row.encode())?;
        tx.put(&tables::REGISTERED, &registered, id.as_str().as_bytes())?;
        Ok(Outcome::Done(certificate))
    }

    fn list_in(&self, tx: &mut Tx<'_>, caller: &Caller, command: &List) -> Result<Outcome<()>, Abort> {
        let List { statement, listing, record } = command;
        remember(tx, &self.ledger, caller)?;
        if self.ledger.admit(tx, statement)? == Admission::Known {
            return Ok(match self.answered(tx, statement, Kind::Refusal)? {
                Some(Outcome::Refused(refusal, statement)) => Outcome::Refused(refusal, statement),
                Some(Outcome::Done(_)) | None => Outcome::Done(()),
            });
        }
        let asset = tables::asset(tx, &listing.product)?;
        let listed = tables::listing(tx, &listing.product)?;
        let verdict = rules::listing(
            &applicant(caller),
            listing,
            record,
            asset.as_ref().map(|asset| &asset.owner),
            listed.as_ref().map(|listed| Listed { record: &listed.record, version: listed.version }),
        );
        match (verdict, asset) {
            (Err(refusal), _) => self.refused(tx, caller, statement, refusal, "list a product"),
            (Ok(ListingStep::Keep), _) => Ok(Outcome::Done(())),
            (Ok(ListingStep::Replace), Some(asset)) => {
                self.replace(tx, command, &asset, listed)?;
                Ok(Outcome::Done(()))
            }
            (Ok(ListingStep::Replace), None) => Err(tables::damaged("a listing without its product").into()),
        }
    }

    fn replace(
        &self,
        tx: &mut Tx<'_>,
        command: &List,
        asset: &AssetRow,
        listed: Option<ListingRow>,
    ) -> Result<(), Abort> {
        let List { statement, listing, record } = command;
        let product = ProductRecord::decode(&asset.record)?;
        let position = self.ledger.index_of(tx, &statement.digest())?;
        let position = position.ok_or_else(|| tables::damaged("a listing is not in the ledger"))?;
        if let Some(listed) = listed {
            tx.delete(&tables::RECENT, &RecentRow::key(listed.position))?;
        }
        let recent = RecentRow {
            searchable: rules::searchable(&listing.name, &listing.intro),
            hit: Hit {
                product: listing.product.clone(),
                name: listing.name.clone(),
                intro: listing.intro.clone(),
                provider: asset.owner.clone(),
                provider_name: asset.owner_name.clone(),
                security_level: product.security_level,
                size: product.size,
            },
        };
        let row = ListingRow {
            record: record.to_vec(),
            statement: statement.digest(),
            version: listing.version,
            position,
            listed: Timestamp::from_millis(tx.time()),
            product_record: asset.record.clone(),
            certificate: asset.certificate,
        };
        tx.put(&tables::RECENT, &RecentRow::key(position), &recent.encode())?;
        tx.put(&tables::LISTINGS, listing.product.as_str().as_bytes(), &row.encode())?;
        Ok(())
    }

    /// A free identifier of the holder's, in this function node's segment.
    fn mint(&self, tx: &Tx<'_>, command: &Register) -> Result<DataId, Abort> {
        let segment = self.membership.node().segment();
        let (holder, extension) = (command.asset.holder(), command.asset.extension());
        for _ in 0..DRAWS {
            let data_type: DataType = command.kind.data_type();
            let drawn = random(self.ledger.entropy().as_ref());
            let id = DataId::mint(data_type, holder, &segment, drawn, extension)
                .map_err(|error| ServiceError::invalid("resource.legacy_code", error))?;
            if tables::asset(tx, &id)?.is_none() {
                return Ok(id);
            }
        }
        Err(ServiceError::Internal("no free data id was drawn; the entropy source repeats itself".to_owned())
            .into())
    }

    /// Our own earlier answer to a statement that arrives again.
    fn answered(
        &self,
        tx: &Tx<'_>,
        statement: &Statement,
        done: Kind,
    ) -> Result<Option<Outcome<Statement>>, Abort> {
        for answer in self.ledger.answers(tx, &statement.digest())? {
            if answer.body().issuer != self.ledger.node() {
                continue;
            }
            if answer.kind() == Kind::Refusal {
                return Ok(Some(Outcome::Refused(read_refusal(&answer)?, answer)));
            }
            if answer.kind() == done {
                return Ok(Some(Outcome::Done(answer)));
            }
        }
        Ok(None)
    }

    fn refused<T>(
        &self,
        tx: &mut Tx<'_>,
        caller: &Caller,
        statement: &Statement,
        mut refusal: Refusal,
        asked: &str,
    ) -> Result<Outcome<T>, Abort> {
        refusal.reason = nfc(&refusal.reason).chars().take(MAX_REASON_CHARS).collect();
        let subject = statement.body().subject;
        let recorded = refuse(
            tx,
            &self.ledger,
            caller.node().as_str(),
            subject,
            Digest::ZERO,
            statement.digest(),
            &refusal,
            asked,
        )?;
        Ok(Outcome::Refused(refusal, recorded))
    }

    fn stored_statement(&self, r: &impl Read, digest: &Digest) -> Result<Statement, ServiceError> {
        let statement = self.ledger.statement(r, digest)?;
        statement.ok_or_else(|| tables::damaged("a statement that a catalog row names is not in the ledger"))
    }
}

struct Register {
    statement: Statement,
    kind: AssetKind,
    renews: Option<DataId>,
    asset: Asset,
    record: Bytes,
    digest: Digest,
}

struct List {
    statement: Statement,
    listing: ListingRecord,
    record: Bytes,
}

fn applicant(caller: &Caller) -> Applicant<'_> {
    Applicant { node: caller.node(), entity: caller.entity() }
}

fn require_provider(caller: &Caller) -> Result<(), ServiceError> {
    if caller.has(Role::Provider) {
        return Ok(());
    }
    let reason =
        format!("{} is not registered as a provider; ask the registrar for that role", caller.node());
    Err(ServiceError::Forbidden { reason })
}

fn checked_record(named: &Digest, record: &[u8]) -> Result<Digest, RecordError> {
    if record.len() > MAX_RECORD_BYTES {
        let expected = format!("expected at most {MAX_RECORD_BYTES} bytes, found {}", record.len());
        return Err(RecordError::value("record", expected));
    }
    let digest = Digest::sha256(record);
    require("record", digest == *named, "its SHA-256 is not the one that the statement names")?;
    Ok(digest)
}

fn already_registered(kind: AssetKind, id: &str) -> Refusal {
    Refusal::new(
        "catalog.registered",
        format!("a {} is registered under this publication id already: {id}", kind.word()),
        "use a new publication id for another record",
    )
}
