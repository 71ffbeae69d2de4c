//! What a node that lost its newest statements may still have forgotten after it has come back, name by name.
//!
//! Nobody can tell such a node all that it has signed. So once it has been in safe mode, it takes nothing up again under
//! a name, be it the channel to a counterparty or the cosigning of a log, before that name is confirmed.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use huitong_proof::{ChannelHead, Digest};
use huitong_store::{Read, Tx};

use crate::error::LedgerError;
use crate::log::Ledger;
use crate::tables::{self, CONFIRMED};

/// Characters of a node id. Who has another name (an organisation, everybody) is no node and answers nothing.
const NODE_ID_LENGTH: usize = 32;
/// Numbers that are left out where nobody can say how many were used: more than any node signs between two backups.
const LEFT_OUT: u64 = 1 << 32;
/// Counterparties that are remembered as waited for.
const MAX_AWAITED: usize = 1_024;

/// Who says that this node has forgotten nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// Those with these names, who have answered since the node was closed. All others still have to.
    Answers(BTreeSet<String>),
    /// The operator, for everybody.
    Operator,
}

impl Ledger {
    /// Whether nothing that this node did under that name can be forgotten.
    ///
    /// # Errors
    /// Storage errors.
    pub fn is_confirmed(&self, r: &impl Read, name: &str) -> Result<bool, LedgerError> {
        Ok(!tables::is_in_doubt(r)? || r.get(&CONFIRMED, name.as_bytes())?.is_some())
    }

    /// Whether this node has to ask before it takes something up under a name that is not confirmed.
    ///
    /// # Errors
    /// Storage errors.
    pub fn is_in_doubt(&self, r: &impl Read) -> Result<bool, LedgerError> {
        tables::is_in_doubt(r)
    }

    /// From now on this node goes on under that name: whoever bears it has shown all that it holds, and that is here, or
    /// the name is new.
    ///
    /// # Errors
    /// Storage errors.
    pub fn confirm(&self, tx: &mut Tx<'_>, name: &str) -> Result<(), LedgerError> {
        if !self.is_confirmed(tx, name)? {
            tx.put(&CONFIRMED, name.as_bytes(), &[])?;
        }
        Ok(())
    }

    /// Counterparties to whom a statement was refused since this process began, because they have not answered yet.
    ///
    /// # Errors
    /// Storage errors.
    pub fn awaited(&self, r: &impl Read) -> Result<BTreeSet<String>, LedgerError> {
        let mut awaited = self.inner.awaited.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut open = BTreeSet::new();
        while let Some(audience) = awaited.pop_first() {
            if !self.is_confirmed(r, &audience)? {
                open.insert(audience);
            }
        }
        Ok(open)
    }

    /// The number of the next statement to an audience. `head` is the channel's.
    ///
    /// Where nobody can be asked, such as for statements to everybody or to this node itself, numbers are left out, so
    /// that none is used twice: a hole on such a channel convicts nobody.
    pub(crate) fn number_next(
        &self,
        tx: &mut Tx<'_>,
        head: Option<(u64, Digest)>,
        audience: &str,
    ) -> Result<ChannelHead, LedgerError> {
        if self.is_confirmed(tx, audience)? {
            return tables::next_on_channel(head, audience);
        }
        if audience.len() == NODE_ID_LENGTH && audience != self.node() {
            let mut awaited = self.inner.awaited.lock().unwrap_or_else(PoisonError::into_inner);
            if awaited.len() < MAX_AWAITED {
                awaited.insert(audience.to_owned());
            }
            return Err(LedgerError::Unconfirmed { audience: audience.to_owned() });
        }
        self.confirm(tx, audience)?;
        let (last, prev) = head.unwrap_or((0, Digest::ZERO));
        tables::next_on_channel(Some((last.saturating_add(LEFT_OUT), prev)), audience)
    }
}

/// Replaces all that was confirmed before: what an older copy of the store knows of an earlier recovery says nothing.
pub(crate) fn resume(tx: &mut Tx<'_>, resumption: &Resumption) -> Result<(), LedgerError> {
    for row in tx.scan(&CONFIRMED, &[], None, usize::MAX)? {
        tx.delete(&CONFIRMED, &row.key)?;
    }
    let Resumption::Answers(names) = resumption else { return tables::put_doubt(tx, false) };
    for name in names {
        tx.put(&CONFIRMED, name.as_bytes(), &[])?;
    }
    tables::put_doubt(tx, true)
}
