//! How far the deposits are that are to be made.

use huitong_identity::ServiceError;
use huitong_proof::cbor::Map;
use huitong_store::{Read, Table, Tx};

use super::{VERSION, open};
use crate::model::Transfer;

/// Completed transfers that are still to be put into a depot, by id.
const DEPOSITS: Table = Table::new("transfer.deposit");

/// Rows that are read at a time.
const ROWS: usize = 1024;

/// How far a deposit is; its files go in the order of their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How many files are there.
    pub(crate) next: u64,
    /// What the depot calls the upload of the file behind those, once begun.
    pub(crate) upload: Option<Vec<u8>>,
}

/// All of them: none is out of sight because others come before it.
pub(crate) fn open_ids(read: &impl Read) -> Result<Vec<[u8; 16]>, ServiceError> {
    let (mut ids, mut after): (Vec<[u8; 16]>, Option<Vec<u8>>) = (Vec::new(), None);
    loop {
        let rows = read.scan(&DEPOSITS, &[], after.as_deref(), ROWS)?;
        after = rows.last().map(|row| row.key.clone());
        ids.extend(rows.into_iter().filter_map(|row| <[u8; 16]>::try_from(row.key).ok()));
        if after.is_none() {
            return Ok(ids);
        }
    }
}

/// Whether the deposit of another transfer, which is not all there yet, has this place.
pub(crate) fn is_taken(read: &impl Read, place: &str, id: &[u8; 16]) -> Result<bool, ServiceError> {
    for other in open_ids(read)?.iter().filter(|other| *other != id) {
        let path = super::transfer(read, other)?.and_then(|other| other.deposit?.path);
        if path.as_deref() == Some(place) {
            return Ok(true);
        }
    }
    Ok(false)
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
