//! What transfers keep, and how it is found. Every row begins with its record version under key 0.

pub(crate) mod deposits;
pub(crate) mod subscriptions;

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use huitong_contract::Side;
use huitong_identity::ServiceError;
use huitong_ids::{ContractId, DataId, NodeId};
use huitong_ledger::{Inclusion, Proofs};
use huitong_proof::cbor::{Fields, Limits, Map, Value};
use huitong_proof::{ContentRoot, Digest, Timestamp};
use huitong_store::{Read, Table, Tx};

use crate::model::{
    Deposit, DepositState, Finality, Priority, Statements, Suspender, Transfer, TransferState,
};

/// Transfers by id.
const TRANSFERS: Table = Table::with_history("transfer.transfer");
/// Consumer transfers that want to move, or whose end the provider has yet to hear, in the order in which they run: priority,
/// start time, id.
const RUNNABLE: Table = Table::new("transfer.runnable");
/// Ids of completed transfers whose evidence is not final, with when it is looked at again and how often it was: due (8),
/// attempts (8).
const PROVISIONAL: Table = Table::new("transfer.provisional");
/// The same in order of time: due (8), id.
const DUE: Table = Table::new("transfer.due");
/// Ids by start time, for listing: time (8, big endian), id.
const BY_TIME: Table = Table::new("transfer.by_time");
/// Transfers that have not ended, by contract: contract, id.
const LIVE: Table = Table::new("transfer.live");
/// Usage counters: agreement hash, clause.
const COUNTERS: Table = Table::with_history("transfer.counter");
/// What a consumer was delivered last by a peer under a name: peer, name -> id of the transfer.
const DELIVERED: Table = Table::new("transfer.delivered");
/// What a consumer was delivered last under a contract: contract id -> id of the transfer.
const LAST_COMPLETED: Table = Table::new("transfer.last_completed");
/// The newest version of its product that a consumer was offered under a contract: contract id -> number.
const NEWEST_VERSION: Table = Table::new("transfer.newest_version");
/// The other ledger's proofs, by transfer id.
const PROOFS: Table = Table::new("transfer.proofs");

const VERSION: u64 = 1;
/// Rows read at once where all are read.
const PAGE: usize = 1024;

pub(crate) fn transfer(read: &impl Read, id: &[u8; 16]) -> Result<Option<Transfer>, ServiceError> {
    read.get(&TRANSFERS, id)?.map(|bytes| decode(&bytes)).transpose()
}

pub(crate) fn save(tx: &mut Tx<'_>, transfer: &Transfer) -> Result<(), ServiceError> {
    if tx.get(&TRANSFERS, &transfer.id)?.is_none() {
        tx.put(&BY_TIME, &time_key(transfer), &[])?;
    }
    mark(tx, &RUNNABLE, &runnable_key(transfer), transfer.wants_to_run())?;
    mark(tx, &LIVE, &live_key(&transfer.contract, &transfer.id), !transfer.state.is_terminal())?;
    if transfer.state == TransferState::Completed && transfer.finality == Finality::Provisional {
        if attempts(tx, &transfer.id)?.is_none() {
            let due = transfer.finished.unwrap_or(transfer.started);
            postpone(tx, &transfer.id, Attempts { due, made: 0 })?;
        }
    } else {
        conclude(tx, &transfer.id)?;
    }
    deposits::follow(tx, transfer)?;
    // What is put elsewhere is not here when the next one comes.
    if transfer.side == Side::Consumer
        && transfer.state == TransferState::Completed
        && transfer.deposit.is_none()
        && let Some(key) = delivered_key(transfer)
    {
        tx.put(&DELIVERED, &key, &transfer.id)?;
    }
    tx.put(&TRANSFERS, &transfer.id, &encode(transfer))?;
    Ok(())
}

/// Transfers that have not ended, page by page.
pub(crate) fn all_live(read: &impl Read) -> Result<Vec<[u8; 16]>, ServiceError> {
    let (mut live, mut after): (Vec<[u8; 16]>, Option<Vec<u8>>) = (Vec::new(), None);
    loop {
        let rows = read.scan(&LIVE, &[], after.as_deref(), PAGE)?;
        live.extend(rows.iter().filter_map(|row| row.key.last_chunk().copied()));
        match rows.into_iter().last() {
            Some(last) => after = Some(last.key),
            None => return Ok(live),
        }
    }
}

/// Transfers that began after this one, the oldest first.
pub(crate) fn begun_after(
    read: &impl Read,
    (began, id): (Timestamp, [u8; 16]),
    limit: usize,
) -> Result<Vec<(Timestamp, [u8; 16])>, ServiceError> {
    let after = [began.millis().to_be_bytes().as_slice(), &id].concat();
    let rows = read.scan(&BY_TIME, &[], Some(&after), limit)?;
    let begun = rows.into_iter().filter_map(|row| {
        let (began, id) = row.key.split_first_chunk::<8>()?;
        Some((Timestamp::from_millis(u64::from_be_bytes(*began)), id.try_into().ok()?))
    });
    Ok(begun.collect())
}

/// Where the content lies that the same peer delivered last under the same name, if there is any.
pub(crate) fn delivered_before(
    read: &impl Read,
    transfer: &Transfer,
) -> Result<Option<PathBuf>, ServiceError> {
    let Some(key) = delivered_key(transfer) else { return Ok(None) };
    let Some(id) = read.get(&DELIVERED, &key)?.and_then(|id| <[u8; 16]>::try_from(id.as_slice()).ok()) else {
        return Ok(None);
    };
    Ok(self::transfer(read, &id)?.filter(|before| before.id != transfer.id).and_then(|before| before.path))
}

/// The provider has heard that our operator cancelled this transfer, or never will.
pub(crate) fn told(tx: &mut Tx<'_>, id: &[u8; 16]) -> Result<(), ServiceError> {
    match transfer(tx, id)? {
        Some(transfer) => mark(tx, &RUNNABLE, &runnable_key(&transfer), false),
        None => Ok(()),
    }
}

/// All of them: one that waits must not hide those behind it.
pub(crate) fn runnable(read: &impl Read) -> Result<Vec<[u8; 16]>, ServiceError> {
    const PAGE: usize = 1024;
    let (mut found, mut after) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let rows = read.scan(&RUNNABLE, &[], after.as_deref(), PAGE)?;
        found.extend(rows.iter().filter_map(|row| row.key.last_chunk::<16>()));
        match rows.into_iter().nth(PAGE.saturating_sub(1)) {
            Some(last) => after = Some(last.key),
            None => return Ok(found),
        }
    }
}

/// Transfers under a contract that have not ended, behind that one.
pub(crate) fn live(
    read: &impl Read,
    contract: &ContractId,
    after: Option<&[u8; 16]>,
    limit: usize,
) -> Result<Vec<[u8; 16]>, ServiceError> {
    let after = after.map(|id| live_key(contract, id));
    let rows = read.scan(&LIVE, contract.as_str().as_bytes(), after.as_deref(), limit)?;
    Ok(rows.into_iter().filter_map(|row| row.key.last_chunk().copied()).collect())
}

/// When a transfer's evidence is looked at again, and how often it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempts {
    pub(crate) due: Timestamp,
    pub(crate) made: u64,
}

/// Transfers whose evidence is not final and is to be looked at by now, the one that waits longest first.
pub(crate) fn due(read: &impl Read, now: Timestamp, limit: usize) -> Result<Vec<[u8; 16]>, ServiceError> {
    let rows = read.scan(&DUE, &[], None, limit)?;
    let due = rows.into_iter().map(|row| row.key).filter_map(|key| {
        let (due, id) = key.split_first_chunk::<8>()?;
        Some((u64::from_be_bytes(*due), <[u8; 16]>::try_from(id).ok()?))
    });
    Ok(due.take_while(|(due, _)| *due <= now.millis()).map(|(_, id)| id).collect())
}

pub(crate) fn attempts(read: &impl Read, id: &[u8; 16]) -> Result<Option<Attempts>, ServiceError> {
    let Some(row) = read.get(&PROVISIONAL, id)? else { return Ok(None) };
    let numbers = row.split_first_chunk::<8>().and_then(|(due, made)| Some((*due, made.try_into().ok()?)));
    let (due, made) =
        numbers.ok_or_else(|| ServiceError::Internal("a stored number of attempts is damaged".to_owned()))?;
    Ok(Some(Attempts {
        due: Timestamp::from_millis(u64::from_be_bytes(due)),
        made: u64::from_be_bytes(made),
    }))
}

/// Looks at a transfer's evidence again as `next` says.
pub(crate) fn postpone(tx: &mut Tx<'_>, id: &[u8; 16], next: Attempts) -> Result<(), ServiceError> {
    if let Some(before) = attempts(tx, id)?
        && before.due != next.due
    {
        tx.delete(&DUE, &due_key(before.due, id))?;
    }
    tx.put(&DUE, &due_key(next.due, id), &[])?;
    let row = [next.due.millis().to_be_bytes(), next.made.to_be_bytes()].concat();
    tx.put(&PROVISIONAL, id, &row)?;
    Ok(())
}

/// Never looks at a transfer's evidence again: it is final, or it will never be complete.
pub(crate) fn conclude(tx: &mut Tx<'_>, id: &[u8; 16]) -> Result<(), ServiceError> {
    if let Some(before) = attempts(tx, id)? {
        tx.delete(&DUE, &due_key(before.due, id))?;
        tx.delete(&PROVISIONAL, id)?;
    }
    Ok(())
}

/// Newest first. Walks the whole list: an operator's view, not a hot path.
pub(crate) fn newest(read: &impl Read, limit: usize) -> Result<Vec<Transfer>, ServiceError> {
    let mut newest = std::collections::VecDeque::with_capacity(limit.min(1024));
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = read.scan(&BY_TIME, &[], after.as_deref(), PAGE)?;
        let Some(last) = rows.last() else { break };
        after = Some(last.key.clone());
        for row in &rows {
            if newest.len() == limit {
                newest.pop_front();
            }
            newest.push_back(row.key.clone());
        }
    }
    let mut found = Vec::with_capacity(newest.len());
    for key in newest.into_iter().rev() {
        let id = key.get(8..).and_then(|id| <[u8; 16]>::try_from(id).ok());
        if let Some(transfer) = id.map(|id| transfer(read, &id)).transpose()?.flatten() {
            found.push(transfer);
        }
    }
    Ok(found)
}

/// The transfer that a consumer completed last under a contract.
pub(crate) fn last_completed(
    read: &impl Read,
    contract: &ContractId,
) -> Result<Option<Transfer>, ServiceError> {
    let id = read.get(&LAST_COMPLETED, contract.as_str().as_bytes())?;
    let id = id.and_then(|id| <[u8; 16]>::try_from(id.as_slice()).ok());
    Ok(id.map(|id| transfer(read, &id)).transpose()?.flatten())
}

pub(crate) fn put_last_completed(tx: &mut Tx<'_>, transfer: &Transfer) -> Result<(), ServiceError> {
    tx.put(&LAST_COMPLETED, transfer.contract.as_str().as_bytes(), &transfer.id)?;
    Ok(())
}

/// The newest version of its product that we were offered under a contract; 0 before the first.
pub(crate) fn newest_version(read: &impl Read, contract: &ContractId) -> Result<u64, ServiceError> {
    number(read, &NEWEST_VERSION, contract.as_str().as_bytes())
}

pub(crate) fn put_newest_version(
    tx: &mut Tx<'_>,
    contract: &ContractId,
    version: u64,
) -> Result<(), ServiceError> {
    tx.put(&NEWEST_VERSION, contract.as_str().as_bytes(), &version.to_be_bytes())?;
    Ok(())
}

pub(crate) fn counter(read: &impl Read, agreement: &Digest, clause: &str) -> Result<u64, ServiceError> {
    number(read, &COUNTERS, &counter_key(agreement, clause))
}

fn number(read: &impl Read, table: &Table, key: &[u8]) -> Result<u64, ServiceError> {
    match read.get(table, key)? {
        None => Ok(0),
        Some(bytes) => <[u8; 8]>::try_from(bytes.as_slice())
            .map(u64::from_be_bytes)
            .map_err(|_| ServiceError::Internal("a stored counter is damaged".to_owned())),
    }
}

pub(crate) fn put_counter(
    tx: &mut Tx<'_>,
    agreement: &Digest,
    clause: &str,
    value: u64,
) -> Result<(), ServiceError> {
    tx.put(&COUNTERS, &counter_key(agreement, clause), &value.to_be_bytes())?;
    Ok(())
}

pub(crate) fn put_proofs(tx: &mut Tx<'_>, id: &[u8; 16], proofs: &Proofs) -> Result<(), ServiceError> {
    let inclusion = proofs
        .inclusion
        .iter()
        .map(|inclusion| {
            Map::new()
                .digest(1, &inclusion.digest)
                .uint(2, inclusion.index)
                .array(3, inclusion.path.iter().map(|hash| Value::Bytes(hash.as_bytes().to_vec())).collect())
                .build()
        })
        .collect();
    let bytes = Map::new().uint(0, VERSION).text(1, &proofs.checkpoint).array(2, inclusion).encode();
    tx.put(&PROOFS, id, &bytes)?;
    Ok(())
}

pub(crate) fn proofs(read: &impl Read, id: &[u8; 16]) -> Result<Option<Proofs>, ServiceError> {
    let Some(bytes) = read.get(&PROOFS, id)? else { return Ok(None) };
    let mut fields = open(&bytes, "proofs")?;
    let checkpoint = fields.text(1, "checkpoint")?;
    let mut inclusion = Vec::new();
    for value in fields.array(2, "inclusion")? {
        let mut entry = Fields::from_value(value, "inclusion")?;
        let digest = entry.digest(1, "digest")?;
        let index = entry.uint(2, "index")?;
        let path = entry.array(3, "path")?.iter().map(hash).collect::<Result<_, _>>()?;
        entry.finish()?;
        inclusion.push(Inclusion { digest, index, path });
    }
    fields.finish()?;
    Ok(Some(Proofs { checkpoint, inclusion, consistency: Vec::new() }))
}

fn hash(value: &Value) -> Result<Digest, ServiceError> {
    match value {
        Value::Bytes(bytes) => Digest::from_slice(bytes),
        _ => None,
    }
    .ok_or_else(|| ServiceError::Internal("a stored hash is damaged".to_owned()))
}

fn encode(transfer: &Transfer) -> Vec<u8> {
    let statements = &transfer.statements;
    let deposit = transfer.deposit.as_ref();
    Map::new()
        .uint(0, VERSION)
        .bytes(1, &transfer.id)
        .uint(
            2,
            match transfer.side {
                Side::Provider => 1,
                Side::Consumer => 2,
            },
        )
        .text(3, transfer.peer.as_str())
        .text(4, transfer.contract.as_str())
        .text(5, transfer.product.as_str())
        .text(6, transfer.state.name())
        .uint(7, transfer.size)
        .uint(8, transfer.acknowledged)
        .maybe_bytes(9, transfer.root.as_ref().map(|root| root.as_bytes().as_slice()))
        .maybe_bytes(10, transfer.path.as_ref().map(|path| path.as_os_str().as_bytes()))
        .bytes(11, transfer.directory.as_os_str().as_bytes())
        .text(12, &transfer.code)
        .text(13, &transfer.reason)
        .boolean(14, transfer.proven)
        .uint(15, transfer.started.millis())
        .maybe_uint(16, transfer.finished.map(Timestamp::millis))
        .maybe_digest(17, statements.certificate.as_ref())
        .array(18, statements.usage.iter().map(|digest| Value::Bytes(digest.as_bytes().to_vec())).collect())
        .maybe_digest(19, statements.offer.as_ref())
        .maybe_digest(20, statements.accept.as_ref())
        .maybe_digest(21, statements.ack.as_ref())
        .maybe_digest(22, statements.last.as_ref())
        .boolean(23, transfer.finality == Finality::Final)
        .maybe_uint(
            24,
            transfer.suspended_by.map(|suspender| match suspender {
                Suspender::Operator => 1,
                Suspender::Peer => 2,
                Suspender::Space => 3,
                Suspender::Contract => 4,
            }),
        )
        .maybe_digest(25, statements.abort.as_ref())
        .uint(26, transfer.acknowledged_groups)
        .uint(27, transfer.groups)
        .maybe_uint(28, transfer.files)
        .maybe_text(29, transfer.name.as_deref())
        .text(30, transfer.priority.name())
        .maybe_uint(31, transfer.version)
        .maybe_text(32, deposit.map(|deposit| deposit.location.as_str()))
        .maybe_text(33, deposit.and_then(|deposit| deposit.path.as_deref()))
        .maybe_text(34, deposit.map(|deposit| deposit.state.name()))
        .maybe_text(35, deposit.map(|deposit| deposit.reason.as_str()))
        .encode()
}

fn decode(bytes: &[u8]) -> Result<Transfer, ServiceError> {
    let mut fields = open(bytes, "transfer")?;
    let damaged = |what: &str| ServiceError::Internal(format!("a stored transfer's {what} is damaged"));
    let path = |bytes: Vec<u8>| PathBuf::from(std::ffi::OsString::from_vec(bytes));
    let transfer = Transfer {
        id: fields.fixed(1, "id")?,
        side: match fields.uint(2, "side")? {
            1 => Side::Provider,
            2 => Side::Consumer,
            _ => return Err(damaged("side")),
        },
        peer: NodeId::parse(&fields.text(3, "peer")?).map_err(|_| damaged("peer"))?,
        contract: ContractId::parse(&fields.text(4, "contract")?).map_err(|_| damaged("contract"))?,
        product: DataId::parse(&fields.text(5, "product")?).map_err(|_| damaged("product"))?,
        state: state(&fields.text(6, "state")?).ok_or_else(|| damaged("state"))?,
        suspended_by: match fields.maybe_uint(24, "suspended_by")? {
            None => None,
            Some(1) => Some(Suspender::Operator),
            Some(2) => Some(Suspender::Peer),
            Some(3) => Some(Suspender::Space),
            Some(4) => Some(Suspender::Contract),
            Some(_) => return Err(damaged("suspender")),
        },
        size: fields.uint(7, "size")?,
        acknowledged: fields.uint(8, "acknowledged")?,
        acknowledged_groups: fields.uint(26, "acknowledged_groups")?,
        groups: fields.uint(27, "groups")?,
        files: fields.maybe_uint(28, "files")?,
        name: fields.maybe_text(29, "name")?,
        priority: Priority::from_name(&fields.text(30, "priority")?).ok_or_else(|| damaged("priority"))?,
        root: fields.maybe_bytes(9, "root")?.and_then(|bytes| ContentRoot::from_slice(&bytes)),
        version: fields.maybe_uint(31, "version")?,
        path: fields.maybe_bytes(10, "path")?.map(path),
        directory: path(fields.bytes(11, "directory")?),
        deposit: match fields.maybe_text(32, "deposit")? {
            None => None,
            Some(location) => Some(Deposit {
                location,
                path: fields.maybe_text(33, "deposit path")?,
                state: DepositState::from_name(&fields.text(34, "deposit state")?)
                    .ok_or_else(|| damaged("deposit state"))?,
                reason: fields.text(35, "deposit reason")?,
            }),
        },
        code: fields.text(12, "code")?,
        reason: fields.text(13, "reason")?,
        proven: fields.boolean(14, "proven")?,
        finality: if fields.boolean(23, "final")? { Finality::Final } else { Finality::Provisional },
        started: Timestamp::from_millis(fields.uint(15, "started")?),
        finished: fields.maybe_uint(16, "finished")?.map(Timestamp::from_millis),
        statements: Statements {
            certificate: fields.maybe_digest(17, "certificate")?,
            usage: fields.array(18, "usage")?.iter().map(hash).collect::<Result<_, _>>()?,
            offer: fields.maybe_digest(19, "offer")?,
            accept: fields.maybe_digest(20, "accept")?,
            ack: fields.maybe_digest(21, "ack")?,
            last: fields.maybe_digest(22, "final")?,
            abort: fields.maybe_digest(25, "abort")?,
        },
    };
    fields.finish()?;
    Ok(transfer)
}

fn state(name: &str) -> Option<TransferState> {
    use TransferState::{Completed, Requested, Started, Suspended, Terminated};
    [Requested, Started, Suspended, Completed, Terminated].into_iter().find(|state| state.name() == name)
}

fn open(bytes: &[u8], what: &'static str) -> Result<Fields, ServiceError> {
    let mut fields = Fields::decode(bytes, Limits::DOCUMENT, what)
        .map_err(|error| ServiceError::Internal(format!("stored {what}: {error}")))?;
    match fields.uint(0, "version") {
        Ok(VERSION) => Ok(fields),
        _ => Err(ServiceError::Internal(format!(
            "stored {what} has a version this program does not know; upgrade it"
        ))),
    }
}

fn mark(tx: &mut Tx<'_>, table: &Table, key: &[u8], wanted: bool) -> Result<(), ServiceError> {
    match (tx.get(table, key)?.is_some(), wanted) {
        (false, true) => tx.put(table, key, &[])?,
        (true, false) => tx.delete(table, key)?,
        _ => {}
    }
    Ok(())
}

fn runnable_key(transfer: &Transfer) -> Vec<u8> {
    let order: u8 = match transfer.priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    };
    [&[order], transfer.started.millis().to_be_bytes().as_slice(), &transfer.id].concat()
}

fn live_key(contract: &ContractId, id: &[u8; 16]) -> Vec<u8> {
    [contract.as_str().as_bytes(), id].concat()
}

fn due_key(due: Timestamp, id: &[u8; 16]) -> Vec<u8> {
    [due.millis().to_be_bytes().as_slice(), id].concat()
}

fn time_key(transfer: &Transfer) -> Vec<u8> {
    [transfer.started.millis().to_be_bytes().as_slice(), &transfer.id].concat()
}

/// Peer and the provider's name of the file or directory; what we have added to that name does not count.
fn delivered_key(transfer: &Transfer) -> Option<Vec<u8>> {
    let name = transfer.name.as_ref()?;
    let kind: &[u8] = if transfer.files.is_some() { b"/directory/" } else { b"/file/" };
    Some([transfer.peer.as_str().as_bytes(), kind, name.as_bytes()].concat())
}

fn counter_key(agreement: &Digest, clause: &str) -> Vec<u8> {
    [agreement.as_bytes().as_slice(), clause.as_bytes()].concat()
}
