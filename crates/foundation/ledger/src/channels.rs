//! What was said on a channel, from one issuer to one audience.

use huitong_proof::{Digest, Statement};
use huitong_store::Read;

use crate::entries::Found;
use crate::error::LedgerError;
use crate::log::Ledger;
use crate::tables::{self, HEAD, channel_key};

/// How many missing numbers in a row one call looks past.
const HOLES: u64 = 1_024;

/// The newest statement on one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Who speaks.
    pub issuer: String,
    /// To whom.
    pub audience: String,
    /// The highest number that was recorded.
    pub seq: u64,
    /// TBS digest of that statement.
    pub digest: Digest,
}

impl Ledger {
    /// The highest number recorded on a channel, and the digest of that statement. Also of one that was removed since.
    ///
    /// # Errors
    /// Storage errors.
    pub fn channel_head(
        &self,
        r: &impl Read,
        issuer: &str,
        audience: &str,
    ) -> Result<Option<(u64, Digest)>, LedgerError> {
        tables::head(r, issuer, audience)
    }

    /// At most `limit` channels behind `after` (issuer, audience), in an order of their own; for the next page pass the
    /// last one's names.
    ///
    /// # Errors
    /// Storage errors.
    pub fn channels(
        &self,
        r: &impl Read,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Result<Vec<Channel>, LedgerError> {
        let after = after.map(|(issuer, audience)| channel_key(issuer, audience));
        let rows = r.scan(&HEAD, &[], after.as_deref(), limit)?;
        rows.iter()
            .map(|row| {
                let (issuer, audience, seq, digest) = tables::read_channel(row)?;
                Ok(Channel { issuer, audience, seq, digest })
            })
            .collect()
    }

    /// The recorded statements on a channel from number `from_seq` on, in the order of their numbers, at most `limit`.
    ///
    /// Numbers that are not here (not arrived, removed, lost) are passed over; a hole of more than 1,024 of them ends the
    /// list.
    ///
    /// # Errors
    /// Storage errors.
    pub fn statements_on_channel(
        &self,
        r: &impl Read,
        issuer: &str,
        audience: &str,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Statement>, LedgerError> {
        let Some((last, _)) = tables::head(r, issuer, audience)? else { return Ok(Vec::new()) };
        let mut statements = Vec::new();
        let mut hole = 0_u64;
        for seq in from_seq..=last {
            if statements.len() >= limit || hole > HOLES {
                break;
            }
            match self.on_channel(r, issuer, audience, seq)? {
                Some((_, Found::Statement(statement))) => {
                    statements.push(statement);
                    hole = 0;
                }
                _ => hole = hole.saturating_add(1),
            }
        }
        Ok(statements)
    }
}
