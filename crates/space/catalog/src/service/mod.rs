//! The use cases: load, decide, commit in one transaction.

mod registry;
mod shelf;

use huitong_identity::{Refusal, ServiceError};
use huitong_ledger::{Evidence, Ledger, LedgerError};
use huitong_proof::Statement;
use huitong_store::{StoreError, TxError};

use crate::model::RecordError;

pub use registry::{MAX_EXAMINED, MAX_KEYWORD_CHARS, MAX_PAGE, Registry};
pub use shelf::Shelf;

/// How a transaction of the catalog ends when it writes nothing.
#[derive(Debug)]
pub(crate) enum Abort {
    Service(ServiceError),
    /// A peer signed two statements that exclude each other. The evidence is kept by a transaction of its own.
    Fork {
        evidence: Box<Evidence>,
        reason: String,
    },
}

impl From<LedgerError> for Abort {
    fn from(error: LedgerError) -> Self {
        let reason = error.to_string();
        match error {
            LedgerError::Fork { evidence, .. } => Self::Fork { evidence, reason },
            other => Self::Service(ServiceError::from(other)),
        }
    }
}

impl From<StoreError> for Abort {
    fn from(error: StoreError) -> Self {
        Self::Service(ServiceError::Store(error))
    }
}

impl From<ServiceError> for Abort {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}

impl From<RecordError> for Abort {
    fn from(error: RecordError) -> Self {
        Self::Service(ServiceError::from(error))
    }
}

/// Turns a failed transaction into the service's error, after keeping the evidence of a fork.
pub(crate) async fn aborted(ledger: &Ledger, error: TxError<Abort>) -> ServiceError {
    match error {
        TxError::Store(error) => ServiceError::Store(error),
        TxError::Abort(Abort::Service(error)) => error,
        TxError::Abort(Abort::Fork { evidence, reason }) => match ledger.preserve(&evidence).await {
            Ok(()) => ServiceError::Conflict { reason },
            Err(error) => ServiceError::from(error),
        },
    }
}

/// What a committed transaction of the registrar says.
pub(crate) enum Outcome<T> {
    Done(T),
    Refused(Refusal, Statement),
}

impl<T> Outcome<T> {
    pub(crate) fn into_result(self) -> Result<T, ServiceError> {
        match self {
            Self::Done(value) => Ok(value),
            Self::Refused(refusal, statement) => {
                Err(ServiceError::Refused { refusal, statement: Some(statement) })
            }
        }
    }
}
