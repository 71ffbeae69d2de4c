//! What is stored, and how it is found again.

use huitong_identity::ServiceError;
use huitong_ids::{ContractId, NodeId};
use huitong_proof::Timestamp;
use huitong_proof::cbor::{Fields, Limits, Map, Value};
use huitong_store::{Read, Table, Tx};

use crate::model::{
    AcceptCounter, Agreement, Contract, DocumentError, Hold, Negotiation, Reason, Side, Standing, Standings,
    State, Stated, Statements, Terms,
};

/// negotiation id (16) -> [`Negotiation`]
const NEGOTIATIONS: Table = Table::with_history("contract.negotiation");
/// contract id (text) -> negotiation id
const CONTRACTS: Table = Table::new("contract.contract");
/// inverted creation time (8, big-endian) | negotiation id -> negotiation id, so that a scan begins with the newest
const NEWEST: Table = Table::new("contract.newest");
/// our side (1) | peer node id (text) -> number of negotiations that are not over
const OPEN: Table = Table::new("contract.open");
/// contract id (text) -> number of the change of its standing that its transfers have yet to follow
const RESTATED: Table = Table::new("contract.restated");

const ROW_VERSION: u64 = 1;

/// A row holds a terms document and an agreement document, each bounded.
const ROW_LIMITS: Limits = Limits { bytes: 4 * crate::MAXIMUM_DOCUMENT_BYTES, depth: 4 };

/// The negotiation with that id.
pub(crate) fn negotiation(r: &impl Read, id: &[u8; 16]) -> Result<Option<Negotiation>, ServiceError> {
    match r.get(&NEGOTIATIONS, id)? {
        None => Ok(None),
        Some(row) => decode(&row).map(Some).map_err(|error| damaged("contract.negotiation", &error)),
    }
}

/// The id of the negotiation that led to a contract.
pub(crate) fn negotiation_of(r: &impl Read, contract: &ContractId) -> Result<Option<[u8; 16]>, ServiceError> {
    match r.get(&CONTRACTS, contract.as_str().as_bytes())? {
        None => Ok(None),
        Some(row) => decode_id(&row).map(Some).map_err(|error| damaged("contract.contract", &error)),
    }
}

/// The newest negotiations first.
pub(crate) fn newest(r: &impl Read, limit: usize) -> Result<Vec<Negotiation>, ServiceError> {
    let mut found = Vec::new();
    for row in r.scan(&NEWEST, &[], None, limit)? {
        let id = decode_id(&row.value).map_err(|error| damaged("contract.newest", &error))?;
        if let Some(negotiation) = negotiation(r, &id)? {
            found.push(negotiation);
        }
    }
    Ok(found)
}

/// Negotiations in the order of their ids, those behind that one.
pub(crate) fn page(
    r: &impl Read,
    after: Option<&[u8; 16]>,
    limit: usize,
) -> Result<Vec<Negotiation>, ServiceError> {
    let rows = r.scan(&NEGOTIATIONS, &[], after.map(<[u8; 16]>::as_slice), limit)?;
    let decoded = rows.iter().map(|row| decode(&row.value));
    decoded.collect::<Result<_, _>>().map_err(|error| damaged("contract.negotiation", &error))
}

/// How many negotiations with `peer`, in which we are `side`, are not over.
pub(crate) fn open(r: &impl Read, side: Side, peer: &NodeId) -> Result<u64, ServiceError> {
    match r.get(&OPEN, &open_key(side, peer))? {
        None => Ok(0),
        Some(row) => decode_count(&row).map_err(|error| damaged("contract.open", &error)),
    }
}

/// The signed contract a negotiation led to; `None` as long as one signature is missing.
pub(crate) fn contract_of(negotiation: &Negotiation) -> Result<Option<Contract>, ServiceError> {
    let (Some(contract), Some(document), Some(hash)) =
        (&negotiation.contract, &negotiation.agreement, negotiation.agreement_hash)
    else {
        return Ok(None);
    };
    let agreement = Agreement::decode(document).map_err(|error| damaged("contract.negotiation", &error))?;
    Ok(Some(Contract {
        contract: contract.clone(),
        agreement,
        hash,
        state: negotiation.state,
        standing: negotiation.standings.together().clone(),
        negotiation: negotiation.id,
        peer: negotiation.peer.clone(),
        side: negotiation.side,
    }))
}

/// Stores a negotiation with everything by which it is found. `before` is the stored one it replaces.
pub(crate) fn save(
    tx: &mut Tx<'_>,
    before: Option<&Negotiation>,
    after: &Negotiation,
) -> Result<(), ServiceError> {
    tx.put(&NEGOTIATIONS, &after.id, &encode(after))?;
    if before.is_none() {
        tx.put(&NEWEST, &newest_key(after), &encode_id(&after.id))?;
    }
    if let Some(contract) = &after.contract
        && before.is_none_or(|before| before.contract.is_none())
    {
        tx.put(&CONTRACTS, contract.as_str().as_bytes(), &encode_id(&after.id))?;
    }
    if let (Some(contract), Some(before)) = (&after.contract, before)
        && before.standings != after.standings
    {
        let Standings { provider, consumer } = &after.standings;
        let change = provider.step.saturating_add(consumer.step);
        tx.put(&RESTATED, contract.as_str().as_bytes(), &encode_count(change))?;
    }
    let was_open = before.is_some_and(|before| !before.state.is_terminal());
    let is_open = !after.state.is_terminal();
    if was_open != is_open {
        let count = open(tx, after.side, &after.peer)?;
        let count = if is_open { count.saturating_add(1) } else { count.saturating_sub(1) };
        let key = open_key(after.side, &after.peer);
        if count == 0 {
            tx.delete(&OPEN, &key)?;
        } else {
            tx.put(&OPEN, &key, &encode_count(count))?;
        }
    }
    Ok(())
}

/// The next contract whose transfers have yet to follow its standing, with the number of the change.
pub(crate) fn restated(
    r: &impl Read,
    after: Option<&ContractId>,
) -> Result<Option<(ContractId, u64)>, ServiceError> {
    let after = after.map(|contract| contract.as_str().as_bytes());
    let Some(row) = r.scan(&RESTATED, &[], after, 1)?.pop() else { return Ok(None) };
    let contract = std::str::from_utf8(&row.key).ok().and_then(|text| ContractId::parse(text).ok());
    let Some(contract) = contract else {
        return Err(ServiceError::Internal("a key of table contract.restated is no contract id".to_owned()));
    };
    let change = decode_count(&row.value).map_err(|error| damaged("contract.restated", &error))?;
    Ok(Some((contract, change)))
}

/// The transfers have followed that change; if it was not the last one, they have to look again.
pub(crate) fn followed(tx: &mut Tx<'_>, contract: &ContractId, change: u64) -> Result<(), ServiceError> {
    let key = contract.as_str().as_bytes();
    if tx.get(&RESTATED, key)?.is_some_and(|row| row == encode_count(change)) {
        tx.delete(&RESTATED, key)?;
    }
    Ok(())
}

fn newest_key(negotiation: &Negotiation) -> Vec<u8> {
    let mut key = (u64::MAX - negotiation.created.millis()).to_be_bytes().to_vec();
    key.extend_from_slice(&negotiation.id);
    key
}

fn open_key(side: Side, peer: &NodeId) -> Vec<u8> {
    let mut key = vec![match side {
        Side::Provider => b'p',
        Side::Consumer => b'c',
    }];
    key.extend_from_slice(peer.as_str().as_bytes());
    key
}

fn encode_id(id: &[u8; 16]) -> Vec<u8> {
    Map::new().uint(0, ROW_VERSION).bytes(1, id).encode()
}

fn decode_id(row: &[u8]) -> Result<[u8; 16], DocumentError> {
    let mut fields = Fields::decode(row, ROW_LIMITS, "row")?;
    version(&mut fields)?;
    let id = fields.fixed::<16>(1, "negotiation")?;
    fields.finish()?;
    Ok(id)
}

fn encode_count(count: u64) -> Vec<u8> {
    Map::new().uint(0, ROW_VERSION).uint(1, count).encode()
}

fn decode_count(row: &[u8]) -> Result<u64, DocumentError> {
    let mut fields = Fields::decode(row, ROW_LIMITS, "row")?;
    version(&mut fields)?;
    let count = fields.uint(1, "count")?;
    fields.finish()?;
    Ok(count)
}

fn encode(n: &Negotiation) -> Vec<u8> {
    let map = Map::new()
        .uint(0, ROW_VERSION)
        .bytes(1, &n.id)
        .uint(2, n.side.number())
        .text(3, n.peer.as_str())
        .uint(4, n.state.number())
        .bytes(5, &n.terms.encode())
        .digest(6, &n.last)
        .digest(7, &n.opened_with)
        .boolean(8, n.accept_counter == AcceptCounter::Yes)
        .uint(9, n.rounds)
        .maybe_text(10, n.contract.as_ref().map(ContractId::as_str))
        .maybe_bytes(11, n.agreement.as_deref())
        .maybe_digest(12, n.agreement_hash.as_ref())
        .maybe_digest(13, n.statements.agreement.as_ref())
        .maybe_digest(14, n.statements.verification.as_ref())
        .maybe_digest(15, n.statements.finalisation.as_ref())
        .maybe_text(16, n.reason.as_ref().map(|reason| reason.code.as_str()))
        .maybe_text(17, n.reason.as_ref().map(|reason| reason.text.as_str()))
        .uint(18, n.created.millis())
        .uint(19, n.updated.millis())
        .boolean(22, n.is_ended_by_peer);
    let map = with_stated(map, 20, &n.standings.provider);
    with_stated(map, 21, &n.standings.consumer).encode()
}

/// What a party has said; nothing where it has said nothing.
fn with_stated(map: Map, key: u64, stated: &Stated) -> Map {
    if stated.step == 0 {
        return map;
    }
    let hold = stated.standing.hold();
    let standing = match &stated.standing {
        Standing::InForce => 0,
        Standing::Suspended(_) => 1,
        Standing::Ended(_) => 2,
    };
    let stated = Map::new()
        .uint(1, stated.step)
        .maybe_digest(2, stated.statement.as_ref())
        .uint(3, standing)
        .maybe_text(4, hold.map(|hold| hold.reason.code.as_str()))
        .maybe_text(5, hold.map(|hold| hold.reason.text.as_str()))
        .maybe_uint(6, hold.map(|hold| hold.since.millis()));
    map.map(key, stated)
}

fn stated(value: Option<Value>, by: Side) -> Result<Stated, DocumentError> {
    let Some(value) = value else { return Ok(Stated::default()) };
    let mut fields = Fields::from_value(value, "standing")?;
    let (step, statement) = (fields.uint(1, "step")?, fields.maybe_digest(2, "statement")?);
    let standing = fields.uint(3, "standing")?;
    let mut hold = || -> Result<Hold, DocumentError> {
        let reason = Reason { code: fields.text(4, "code")?, text: fields.text(5, "reason")? };
        Ok(Hold { by, reason, since: Timestamp::from_millis(fields.uint(6, "since")?) })
    };
    let standing = match standing {
        0 => Standing::InForce,
        1 => Standing::Suspended(hold()?),
        2 => Standing::Ended(hold()?),
        _ => return known("negotiation.standing", None),
    };
    fields.finish()?;
    Ok(Stated { standing, step, statement })
}

fn decode(row: &[u8]) -> Result<Negotiation, DocumentError> {
    let mut fields = Fields::decode(row, ROW_LIMITS, "negotiation")?;
    version(&mut fields)?;
    let terms = Terms::decode(&fields.bytes(5, "terms")?)?;
    let negotiation = Negotiation {
        id: fields.fixed::<16>(1, "id")?,
        side: known("negotiation.side", Side::from_number(fields.uint(2, "side")?))?,
        peer: NodeId::parse(&fields.text(3, "peer")?)
            .map_err(|error| DocumentError::Value { field: "negotiation.peer", reason: error.to_string() })?,
        state: known("negotiation.state", State::from_number(fields.uint(4, "state")?))?,
        last: fields.digest(6, "last")?,
        opened_with: fields.digest(7, "opened with")?,
        accept_counter: if fields.boolean(8, "accept counter")? {
            AcceptCounter::Yes
        } else {
            AcceptCounter::No
        },
        rounds: fields.uint(9, "rounds")?,
        contract: fields
            .maybe_text(10, "contract")?
            .map(|text| ContractId::parse(&text))
            .transpose()
            .map_err(|error| DocumentError::Value {
                field: "negotiation.contract",
                reason: error.to_string(),
            })?,
        agreement: fields.maybe_bytes(11, "agreement")?,
        agreement_hash: fields.maybe_digest(12, "agreement hash")?,
        statements: Statements {
            agreement: fields.maybe_digest(13, "agreement statement")?,
            verification: fields.maybe_digest(14, "verification statement")?,
            finalisation: fields.maybe_digest(15, "finalisation statement")?,
        },
        reason: match (fields.maybe_text(16, "reason code")?, fields.maybe_text(17, "reason")?) {
            (Some(code), Some(text)) => Some(Reason { code, text }),
            _ => None,
        },
        is_ended_by_peer: fields.boolean(22, "ended by peer")?,
        standings: Standings {
            provider: stated(fields.maybe_value(20, "provider's word")?, Side::Provider)?,
            consumer: stated(fields.maybe_value(21, "consumer's word")?, Side::Consumer)?,
        },
        created: Timestamp::from_millis(fields.uint(18, "created")?),
        updated: Timestamp::from_millis(fields.uint(19, "updated")?),
        product: terms.product.clone(),
        product_name: terms.name.clone(),
        terms,
    };
    fields.finish()?;
    Ok(negotiation)
}

fn version(fields: &mut Fields) -> Result<(), DocumentError> {
    match fields.uint(0, "version")? {
        ROW_VERSION => Ok(()),
        other => Err(DocumentError::Value {
            field: "row.version",
            reason: format!("version {other} was written by a newer release; run that release"),
        }),
    }
}

fn known<T>(field: &'static str, value: Option<T>) -> Result<T, DocumentError> {
    value.ok_or_else(|| DocumentError::Value { field, reason: "unknown number".to_owned() })
}

fn damaged(table: &str, error: &DocumentError) -> ServiceError {
    ServiceError::Internal(format!("a row of table {table} cannot be read: {error}"))
}
