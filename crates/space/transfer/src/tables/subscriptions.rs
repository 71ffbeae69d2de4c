//! A consumer's standing orders for deliveries.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use huitong_identity::ServiceError;
use huitong_ids::ContractId;
use huitong_proof::Timestamp;
use huitong_proof::cbor::Map;
use huitong_store::{Read, Table, Tx};

use super::{VERSION, open};
use crate::model::{Priority, Subscription};
use crate::schedule::Schedule;

/// Subscriptions by contract id.
const SUBSCRIPTIONS: Table = Table::new("transfer.subscription");
/// What is due, in order of time: due (8, big endian), contract id.
const DUE: Table = Table::new("transfer.subscription_due");

pub(crate) fn subscription(
    read: &impl Read,
    contract: &ContractId,
) -> Result<Option<Subscription>, ServiceError> {
    read.get(&SUBSCRIPTIONS, contract.as_str().as_bytes())?.map(|bytes| decode(&bytes)).transpose()
}

/// Those behind this contract.
pub(crate) fn page(
    read: &impl Read,
    after: Option<&ContractId>,
    limit: usize,
) -> Result<Vec<Subscription>, ServiceError> {
    let rows = read.scan(&SUBSCRIPTIONS, &[], after.map(|after| after.as_str().as_bytes()), limit)?;
    rows.into_iter().map(|row| decode(&row.value)).collect()
}

/// The contracts whose subscriptions are due by now, the one that waits longest first.
pub(crate) fn due(read: &impl Read, now: Timestamp, limit: usize) -> Result<Vec<ContractId>, ServiceError> {
    let mut found = Vec::new();
    for row in read.scan(&DUE, &[], None, limit)? {
        let damaged = || ServiceError::Internal("a stored subscription's due time is damaged".to_owned());
        let (due, contract) = row.key.split_first_chunk::<8>().ok_or_else(damaged)?;
        if u64::from_be_bytes(*due) > now.millis() {
            break;
        }
        let contract = std::str::from_utf8(contract).map_err(|_| damaged())?;
        found.push(ContractId::parse(contract).map_err(|_| damaged())?);
    }
    Ok(found)
}

pub(crate) fn save(tx: &mut Tx<'_>, subscription: &Subscription) -> Result<(), ServiceError> {
    unmark(tx, &subscription.contract)?;
    if let Some(due) = subscription.due() {
        tx.put(&DUE, &due_key(due, &subscription.contract), &[])?;
    }
    tx.put(&SUBSCRIPTIONS, subscription.contract.as_str().as_bytes(), &encode(subscription))?;
    Ok(())
}

pub(crate) fn remove(tx: &mut Tx<'_>, contract: &ContractId) -> Result<(), ServiceError> {
    unmark(tx, contract)?;
    tx.delete(&SUBSCRIPTIONS, contract.as_str().as_bytes())?;
    Ok(())
}

fn unmark(tx: &mut Tx<'_>, contract: &ContractId) -> Result<(), ServiceError> {
    if let Some(before) = subscription(tx, contract)?.and_then(|before| before.due()) {
        tx.delete(&DUE, &due_key(before, contract))?;
    }
    Ok(())
}

fn due_key(due: Timestamp, contract: &ContractId) -> Vec<u8> {
    [due.millis().to_be_bytes().as_slice(), contract.as_str().as_bytes()].concat()
}

fn encode(subscription: &Subscription) -> Vec<u8> {
    let schedule = subscription.schedule.as_ref();
    Map::new()
        .uint(0, VERSION)
        .text(1, subscription.contract.as_str())
        .bytes(2, subscription.directory.as_os_str().as_bytes())
        .text(3, subscription.priority.name())
        .maybe_text(4, schedule.map(Schedule::expression))
        .maybe_text(5, schedule.and_then(Schedule::zone))
        .boolean(6, subscription.push)
        .uint(7, subscription.created.millis())
        .maybe_uint(8, subscription.scheduled.map(Timestamp::millis))
        .maybe_uint(9, subscription.pushed.map(Timestamp::millis))
        .maybe_bytes(10, subscription.last.as_ref().map(<[u8; 16]>::as_slice))
        .text(11, &subscription.note)
        .encode()
}

fn decode(bytes: &[u8]) -> Result<Subscription, ServiceError> {
    let damaged = |what: &str| ServiceError::Internal(format!("a stored subscription's {what} is damaged"));
    let mut fields = open(bytes, "subscription")?;
    let contract = ContractId::parse(&fields.text(1, "contract")?).map_err(|_| damaged("contract"))?;
    let directory = PathBuf::from(std::ffi::OsString::from_vec(fields.bytes(2, "directory")?));
    let priority = Priority::from_name(&fields.text(3, "priority")?).ok_or_else(|| damaged("priority"))?;
    let schedule = match (fields.maybe_text(4, "schedule")?, fields.maybe_text(5, "zone")?) {
        (None, _) => None,
        (Some(expression), zone) => Some(Schedule::stored(expression, zone)),
    };
    let push = fields.boolean(6, "push")?;
    let created = Timestamp::from_millis(fields.uint(7, "created")?);
    let scheduled = fields.maybe_uint(8, "scheduled")?.map(Timestamp::from_millis);
    let pushed = fields.maybe_uint(9, "pushed")?.map(Timestamp::from_millis);
    let last = fields.maybe_bytes(10, "last")?.map(|id| <[u8; 16]>::try_from(id.as_slice())).transpose();
    let last = last.map_err(|_| damaged("last transfer"))?;
    let note = fields.text(11, "note")?;
    fields.finish()?;
    Ok(Subscription { contract, directory, priority, schedule, push, created, scheduled, pushed, last, note })
}
