//! Writing the whole log out for other programs.

use std::io::Write;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use huitong_proof::{Digest, Envelope, Kind, SpaceId};
use huitong_store::disk::Disk;
use huitong_store::{Progress, Unit};
use serde_json::{Value, json};

use super::Stopped;
use crate::archive::read_bundle;
use crate::error::LedgerError;
use crate::gaps::Gap;
use crate::merkle::leaf_hash;
use crate::tables;
use crate::tiles::WIDTH;

const PAGE: usize = 256;
const REPORTED: u64 = 65_536;

/// Writes every entry of a stopped node's ledger as a line of JSON, in log order. Says how many that were.
///
/// A line has `index`, `leaf` (leaf hash, hexadecimal), `digest` (TBS digest, hexadecimal), `kind`, `issuer`, `audience`,
/// `seq`, `subject` (hexadecimal), `reference` (hexadecimal, absent if it answers nothing), `time` (RFC 3339, the issuer's
/// claim) and `bytes` (base64 of the whole statement). Where bytes were removed there is, instead of `bytes`, `removed`
/// with `who`, `why`, `time` and `statement`; a lost entry has `index`, `leaf` and `lost`.
///
/// # Errors
/// [`LedgerError::File`] when it cannot be written; storage errors.
pub fn export(
    store: &Path,
    disk: &Disk,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, LedgerError> {
    let stopped = Stopped::open(store, disk)?;
    let (about, facts, view) = (stopped.about()?, stopped.facts()?, &stopped.view);
    let size = facts.extent.size;
    let mut write = |index: u64, bytes: &[u8]| -> Result<(), LedgerError> {
        if index.is_multiple_of(REPORTED) {
            progress(Progress { step: "export", done: index, total: size, unit: Unit::Entries });
        }
        let line = if bytes.is_empty() {
            let gap = facts
                .gaps
                .get(&index)
                .ok_or(LedgerError::Damaged { what: "an entry is empty and nothing says who removed it" })?;
            gap_line(gap)
        } else {
            line(index, bytes, &about.space)?
        };
        writeln!(out, "{line}").map_err(LedgerError::file("write the export of", &stopped.root))
    };
    for number in 0..facts.settled / WIDTH {
        let bundle = read_bundle(&stopped.root, number)?;
        for (index, bytes) in (number.saturating_mul(WIDTH)..).zip(bundle.entries()) {
            // A removal whose file was not rewritten yet counts.
            write(index, if facts.gaps.contains_key(&index) { &[] } else { bytes })?;
        }
    }
    let mut next = facts.settled;
    while next < size {
        let page = tables::entries(view, next, PAGE)?;
        if page.is_empty() {
            return Err(LedgerError::Damaged { what: "the row of an entry is missing" });
        }
        for bytes in page {
            write(next, &bytes)?;
            next = next.saturating_add(1);
        }
    }
    progress(Progress { step: "export", done: size, total: size, unit: Unit::Entries });
    Ok(size)
}

fn line(index: u64, bytes: &[u8], space: &SpaceId) -> Result<Value, LedgerError> {
    let statement = Envelope::decode(bytes.to_vec())?.trusted(space)?;
    let body = statement.body();
    let mut line = json!({
        "index": index,
        "leaf": leaf_hash(bytes).to_string(),
        "digest": statement.digest().to_string(),
        "kind": body.kind.name(),
        "issuer": body.issuer,
        "audience": body.audience,
        "seq": body.seq,
        "subject": hex(&body.subject),
        "time": body.time.to_string(),
        "bytes": STANDARD.encode(bytes),
    });
    if body.reference != Digest::ZERO
        && let Some(fields) = line.as_object_mut()
    {
        fields.insert("reference".to_owned(), body.reference.to_string().into());
    }
    Ok(line)
}

fn gap_line(gap: &Gap) -> Value {
    let Gap { index, leaf, who, why, time, removed } = gap;
    let leaf = leaf.to_string();
    let Some(removed) = removed else {
        return json!({ "index": index, "leaf": leaf, "lost": { "why": why, "time": time.to_string() } });
    };
    let kind = Kind::from_number(removed.kind).map_or("unknown", Kind::name);
    json!({
        "index": index,
        "leaf": leaf,
        "digest": removed.digest.to_string(),
        "kind": kind,
        "issuer": removed.issuer,
        "audience": removed.audience,
        "seq": removed.seq,
        "subject": hex(&removed.subject),
        "removed": {
            "who": who,
            "why": why,
            "time": time.to_string(),
            "statement": removed.statement.to_string(),
        },
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
