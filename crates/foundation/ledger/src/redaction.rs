//! Removing the bytes of entries, from rows at once and from files soon after.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use huitong_proof::Timestamp;
use huitong_store::disk::DiskFile;
use huitong_store::{Read, Tx};

use crate::entries::Found;
use crate::error::LedgerError;
use crate::evidence::Evidence;
use crate::gaps::{Gap, Redaction, Removed};
use crate::log::Ledger;
use crate::merkle::leaf_hash;
use crate::place;
use crate::publish::Publishing;
use crate::tables::{self, ENTRY, ERASE};
use crate::tiles::{Bundle, BundleName, FilePath, WIDTH, encode_bundle};

/// Erasures looked at in one go.
const PAGE: usize = 4096;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
const FULL: u16 = 256;
const ENTRIES: usize = 256;

impl Ledger {
    /// Removes the bytes of an entry. From the commit of `tx` on nobody can read them here; the leaf hash, and what the
    /// entry was, stay as a [`Gap`], and proofs of it go on working.
    ///
    /// Afterwards [`Ledger::erase`] (which [`Ledger::publish`] begins with) takes the bytes out of the ledger's files,
    /// and the store's `compact` takes them out of its journal and snapshots. Backups made before still hold them.
    ///
    /// # Errors
    /// [`LedgerError::NotLogged`] when entry `index` is not the statement named; [`LedgerError::Redacted`] when it was
    /// removed before; [`LedgerError::IsEvidence`] when a fork is proven by it; storage errors.
    pub fn redact(&self, tx: &mut Tx<'_>, index: u64, redaction: &Redaction) -> Result<Gap, LedgerError> {
        let Redaction { digest, who, why, statement: announced } = redaction;
        let statement = match self.at(tx, index)? {
            Some(Found::Statement(statement)) if statement.digest() == *digest => statement,
            Some(Found::Gap(gap)) => return Err(gap.to_error()),
            _ => return Err(LedgerError::NotLogged { digest: *digest }),
        };
        let body = statement.body();
        if Evidence::holds(tx, statement.bytes())? {
            return Err(LedgerError::IsEvidence { index, issuer: body.issuer.clone() });
        }
        let gap = Gap {
            index,
            leaf: leaf_hash(statement.bytes()),
            who: who.clone(),
            why: why.clone(),
            time: Timestamp::from_millis(tx.time()),
            removed: Some(Removed {
                digest: *digest,
                issuer: body.issuer.clone(),
                audience: body.audience.clone(),
                seq: body.seq,
                subject: body.subject,
                reference: body.reference,
                kind: body.kind.number(),
                statement: *announced,
            }),
        };
        gap.put(tx)?;
        tx.put(&ERASE, &index.to_be_bytes(), &[])?;
        if tx.get(&ENTRY, &index.to_be_bytes())?.is_some() {
            tx.put(&ENTRY, &index.to_be_bytes(), &[])?;
        }
        Ok(gap)
    }

    /// Takes the bytes of removed entries out of the ledger's files. What a file held is overwritten with zeros before
    /// it is deleted, unless a backup shares it by a hard link.
    ///
    /// # Errors
    /// [`LedgerError::File`], [`LedgerError::DamagedFile`] and storage errors; what was not done is done by the next
    /// call.
    pub async fn erase(&self) -> Result<(), LedgerError> {
        loop {
            let rows = self.store().view().scan(&ERASE, &[], None, PAGE)?;
            let pending =
                rows.iter().map(|row| tables::number(&row.key)).collect::<Result<BTreeSet<u64>, _>>()?;
            if pending.is_empty() {
                return Ok(());
            }
            let mut publishing = self.inner.publishing.clone().lock_owned().await;
            let (ledger, bundles) = (self.clone(), pending.iter().map(|index| index / WIDTH).collect());
            let erased =
                tokio::task::spawn_blocking(move || ledger.erase_bundles(&mut publishing, &bundles)).await;
            erased.map_err(|_| LedgerError::Worker)??;
            self.store()
                .transact("ledger.erase", move |tx| {
                    for index in &pending {
                        tx.delete(&ERASE, &index.to_be_bytes())?;
                    }
                    Ok::<(), LedgerError>(())
                })
                .await?;
        }
    }

    fn erase_bundles(&self, publishing: &mut Publishing, bundles: &BTreeSet<u64>) -> Result<(), LedgerError> {
        let view = self.store().view();
        let settled = tables::settled(&view)?;
        for number in bundles {
            self.erase_partials(publishing, *number)?;
            if number.saturating_mul(WIDTH) < settled {
                self.rewrite(&view, *number)?;
            } else {
                // Rows still hold the rest; the next publication writes it anew.
                for path in [self.full_path(*number), self.inner.place.of_redacted(*number)] {
                    self.destroy(&path)?;
                }
                publishing.written = publishing.written.min(number.saturating_mul(WIDTH)).max(settled);
            }
            self.inner.archive.bundle_changed(*number);
        }
        Ok(())
    }

    fn erase_partials(&self, publishing: &mut Publishing, number: u64) -> Result<(), LedgerError> {
        let ours: Vec<String> = publishing
            .partials
            .iter()
            .filter(|path| matches!(path.parse(), Ok(FilePath::Entries(name)) if name.number == number))
            .cloned()
            .collect();
        for path in ours {
            self.destroy(&self.inner.place.root().join(&path))?;
            self.remove_partial(publishing, &path)?;
            publishing.text = None;
        }
        Ok(())
    }

    /// Writes a settled bundle again without its removed entries, durably, and then destroys the old file.
    fn rewrite(&self, view: &impl Read, number: u64) -> Result<(), LedgerError> {
        let (full, redacted) = (self.full_path(number), self.inner.place.of_redacted(number));
        let source = if redacted.exists() { &redacted } else { &full };
        let bundle = place::read(source)?
            .and_then(|bytes| Bundle::decode(bytes, FULL))
            .ok_or_else(|| LedgerError::damaged_file(source, "does not hold 256 entries"))?;
        let first = number.saturating_mul(WIDTH);
        let mut kept: Vec<&[u8]> = Vec::with_capacity(ENTRIES);
        let mut changed = false;
        for (index, bytes) in (first..).zip(bundle.entries()) {
            let removed = Gap::get(view, index)?.is_some();
            changed |= removed && !bytes.is_empty();
            kept.push(if removed { &[] } else { bytes });
        }
        if changed {
            let bytes = encode_bundle(kept)
                .ok_or(LedgerError::Damaged { what: "an entry is too long for a bundle" })?;
            // An older bundle with removed entries is replaced; what it held must not outlive it either.
            let replaced = redacted.exists().then(|| self.inner.place.disk().overwrite(&redacted));
            let replaced = replaced.transpose().map_err(LedgerError::file("open", &redacted))?;
            let links = links(&redacted);
            self.inner.place.put_durably(&redacted, |out| out.write_all(&bytes))?;
            self.inner.archive.bundle_changed(number);
            if let Some(mut file) = replaced
                && links == 1
            {
                overwrite(&mut file, bundle.bytes().len() as u64)
                    .map_err(LedgerError::file("overwrite", &redacted))?;
            }
        }
        if redacted.exists() { self.destroy(&full) } else { Ok(()) }
    }

    /// Overwrites a file with zeros and deletes it, durably. Does nothing if there is none.
    fn destroy(&self, path: &Path) -> Result<(), LedgerError> {
        let Ok(length) = fs::metadata(path).map(|metadata| metadata.len()) else { return Ok(()) };
        if links(path) == 1 {
            let mut file =
                self.inner.place.disk().overwrite(path).map_err(LedgerError::file("open", path))?;
            overwrite(&mut file, length).map_err(LedgerError::file("overwrite", path))?;
        }
        self.inner.place.remove_durably(path)
    }

    fn full_path(&self, number: u64) -> PathBuf {
        self.inner.place.of(&FilePath::Entries(BundleName::full(number)))
    }
}

fn overwrite(file: &mut DiskFile, length: u64) -> io::Result<()> {
    let mut offset = 0_u64;
    while offset < length {
        let piece = usize::try_from(length - offset).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_at(ZEROS.get(..piece).unwrap_or(&ZEROS), offset)?;
        offset = offset.saturating_add(piece as u64);
    }
    file.sync()
}

/// How many names a file has; a backup may have given it another.
fn links(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.nlink())
}

#[cfg(test)]
#[path = "redaction_tests.rs"]
mod tests;
