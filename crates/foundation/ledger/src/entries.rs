//! Finding and reading entries, wherever they are: in rows while they are new, in files once they are settled.

use std::ops::ControlFlow;
use std::sync::PoisonError;

use huitong_proof::{Digest, Envelope, Statement};
use huitong_store::Read;

use crate::archive::within_bundle;
use crate::error::LedgerError;
use crate::gaps::{EntryState, Gap};
use crate::log::Ledger;
use crate::lookup::{Fingerprint, Keys};
use crate::tables::{self, ENTRY};

/// An entry that was found by one of its keys.
pub(crate) enum Found {
    Statement(Statement),
    Gap(Box<Gap>),
}

impl Found {
    /// The statement's name; none for a lost one.
    pub(crate) fn digest(&self) -> Option<Digest> {
        match self {
            Self::Statement(statement) => Some(statement.digest()),
            Self::Gap(gap) => gap.removed.as_ref().map(|removed| removed.digest),
        }
    }

    /// The statement.
    ///
    /// # Errors
    /// [`LedgerError::Redacted`] for a gap.
    pub(crate) fn into_statement(self) -> Result<Statement, LedgerError> {
        match self {
            Self::Statement(statement) => Ok(statement),
            Self::Gap(gap) => Err(gap.to_error()),
        }
    }

    fn keys(&self) -> Option<Keys> {
        match self {
            Self::Statement(statement) => Some(Keys::of(statement)),
            Self::Gap(gap) => gap.keys(),
        }
    }
}

impl Ledger {
    /// An entry of the log, or what is left of it; nothing beyond the end of the log.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] and [`LedgerError::DamagedFile`] when it is neither here nor known to be removed;
    /// storage errors.
    pub fn entry_state(&self, r: &impl Read, index: u64) -> Result<Option<EntryState>, LedgerError> {
        // Each read may see a later commit than the one before: an entry may appear, or be settled, in between, once
        // each.
        for _ in 0..3 {
            // A row first: it is deleted only after the files hold the entry.
            if let Some(row) = r.get(&ENTRY, &index.to_be_bytes())? {
                if row.is_empty() {
                    return gap_at(r, index);
                }
                return Ok(Some(EntryState::Present(row)));
            }
            if index < tables::settled(r)? {
                return self.settled_entry(r, index);
            }
            if index >= tables::size(r)? {
                return Ok(None);
            }
        }
        Err(LedgerError::Damaged { what: "the row of an entry is missing" })
    }

    fn settled_entry(&self, r: &impl Read, index: u64) -> Result<Option<EntryState>, LedgerError> {
        // Until the file is rewritten it may still hold what was removed.
        if let Some(gap) = Gap::get(r, index)? {
            return Ok(Some(EntryState::Redacted(Box::new(gap))));
        }
        let (number, position) = within_bundle(index);
        let bundle = self.inner.archive.bundle(number)?;
        match bundle.entry(position) {
            Some(bytes) if !bytes.is_empty() => Ok(Some(EntryState::Present(bytes.to_vec()))),
            _ => gap_at(r, index),
        }
    }

    /// What is known of a gap at that index; nothing if there is none.
    ///
    /// # Errors
    /// Storage errors.
    pub fn gap(&self, r: &impl Read, index: u64) -> Result<Option<Gap>, LedgerError> {
        Gap::get(r, index)
    }

    pub(crate) fn at(&self, r: &impl Read, index: u64) -> Result<Option<Found>, LedgerError> {
        Ok(match self.entry_state(r, index)? {
            None => None,
            Some(EntryState::Present(bytes)) => {
                Some(Found::Statement(Envelope::decode(bytes)?.trusted(self.space())?))
            }
            Some(EntryState::Redacted(gap)) => Some(Found::Gap(gap)),
        })
    }

    /// The entry with that TBS digest, and its index.
    pub(crate) fn by_digest(
        &self,
        r: &impl Read,
        digest: &Digest,
    ) -> Result<Option<(u64, Found)>, LedgerError> {
        self.newest(r, Fingerprint::of_digest(digest), |keys| keys.digest == *digest)
    }

    /// The entry with that number on that channel, and its index.
    pub(crate) fn on_channel(
        &self,
        r: &impl Read,
        issuer: &str,
        audience: &str,
        seq: u64,
    ) -> Result<Option<(u64, Found)>, LedgerError> {
        self.newest(r, Fingerprint::of_channel(issuer, audience, seq), |keys| {
            keys.seq == seq && keys.issuer == issuer && keys.audience == audience
        })
    }

    /// The statements that `accept` takes, in log order, at most `limit`. Gaps are passed over.
    pub(crate) fn list(
        &self,
        r: &impl Read,
        fingerprint: Fingerprint,
        limit: usize,
        accept: impl Fn(&Keys) -> bool,
    ) -> Result<Vec<Statement>, LedgerError> {
        let mut list = Vec::new();
        let mut last = None;
        if limit == 0 {
            return Ok(list);
        }
        let mut take = |index: u64| -> Result<ControlFlow<()>, LedgerError> {
            // While a block is being settled it is found in both places.
            if last.is_some_and(|last| last >= index) {
                return Ok(ControlFlow::Continue(()));
            }
            last = Some(index);
            if let Some(Found::Statement(statement)) = self.at(r, index)?
                && accept(&Keys::of(&statement))
            {
                list.push(statement);
            }
            Ok(if list.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };

        // The newest are asked for first: what is settled meanwhile is then found in the runs.
        let recent = self.recent(fingerprint);
        for run in self.inner.archive.runs().iter() {
            let unreadable = |error| LedgerError::file("read", run.path())(error);
            for index in run.find(fingerprint).map_err(unreadable)? {
                if take(index.map_err(unreadable)?)?.is_break() {
                    return Ok(list);
                }
            }
        }
        for index in recent {
            if take(index)?.is_break() {
                break;
            }
        }
        Ok(list)
    }

    /// The newest entry that `accept` takes.
    fn newest(
        &self,
        r: &impl Read,
        fingerprint: Fingerprint,
        accept: impl Fn(&Keys) -> bool,
    ) -> Result<Option<(u64, Found)>, LedgerError> {
        let accepted = |index: u64| -> Result<Option<(u64, Found)>, LedgerError> {
            let Some(found) = self.at(r, index)? else { return Ok(None) };
            Ok(found.keys().is_some_and(|keys| accept(&keys)).then_some((index, found)))
        };
        for index in self.recent(fingerprint).into_iter().rev() {
            if let Some(found) = accepted(index)? {
                return Ok(Some(found));
            }
        }
        for run in self.inner.archive.runs().iter().rev() {
            let unreadable = |error| LedgerError::file("read", run.path())(error);
            for index in run.find(fingerprint).map_err(unreadable)? {
                if let Some(found) = accepted(index.map_err(unreadable)?)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    fn recent(&self, fingerprint: Fingerprint) -> Vec<u64> {
        self.inner.recent.lock().unwrap_or_else(PoisonError::into_inner).find(fingerprint)
    }
}

fn gap_at(r: &impl Read, index: u64) -> Result<Option<EntryState>, LedgerError> {
    let gap = Gap::get(r, index)?
        .ok_or(LedgerError::Damaged { what: "an entry is empty and nothing says who removed it" })?;
    Ok(Some(EntryState::Redacted(Box::new(gap))))
}
