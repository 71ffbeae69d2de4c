//! How far the deposits are that are to be made.

use huitong_identity::ServiceError;
use huitong_proof::cbor::Map;
use huitong_store::{Read, Table, Tx};

use super::{VERSION, open};
use crate::model::Transfer;

/// Completed transfers that are still to be put into a depot, by id.
const DEPOSITS: Table = Table::new("transfer.deposit");

/// How far a deposit is; its files go in the order of their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How many files are there.
    pub(crate) next: u64,
    /// What the depot calls the upload of the file behind those, once begun.
    pub(crate) upload: Option<Vec<u8>>,
}

pub(crate) fn open_ids(read: &impl Read, limit: usize) -> Result<Vec<[u8; 16]>, ServiceError> {
    let rows = read.scan(&DEPOSITS, &[], None, limit)?;
    Ok(rows.into_iter().filter_map(|row| row.key.try_into().ok()).collect())
}

pub(crate) fn progress(read: &impl Read, id: &[u8; 16]) -> Result<Option<Progress>, ServiceError> {
    let Some(bytes) = read.get(&DEPOSITS, id)? else { return Ok(None) };
    let mut fields = open(&bytes, "deposit")?;
    let progress = Progress { next: fields.uint(1, "next")?, upload: fields.maybe_bytes(2, "upload")? };
    fields.finish()?;
    Ok(Some(progress))
}

pub(crate) fn put(tx: &mut Tx<'_>, id: &[u8; 16], progress: &Progress) -> Result<(), ServiceError> {
    let row = Map::new().uint(0, VERSION).uint(1, progress.next).maybe_bytes(2, progress.upload.as_deref());
    tx.put(&DEPOSITS, id, &row.encode())?;
    Ok(())
}

/// There is a row as long as there is something to put.
pub(crate) fn follow(tx: &mut Tx<'_>, transfer: &Transfer) -> Result<(), ServiceError> {
    match (transfer.awaits_deposit(), tx.get(&DEPOSITS, &transfer.id)?.is_some()) {
        (true, false) => put(tx, &transfer.id, &Progress::default())?,
        (false, true) => tx.delete(&DEPOSITS, &transfer.id)?,
        _ => {}
    }
    Ok(())
}
