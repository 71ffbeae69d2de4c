//! How many refusals one caller may cause: each becomes a durable statement in this node's ledger, so a caller that
//! asks for the impossible without end would fill the disk. So may what is taken without bringing anything to an end, such as
//! pushes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use huitong_identity::ServiceError;

/// Recorded refusals that a caller may cause at once.
pub(crate) const BURST: u32 = 100;
/// After this long there is room for one more.
pub(crate) const REFILL: Duration = Duration::from_secs(5);

/// The allowances of all callers by name. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Allowances {
    /// When a caller's allowance is whole again; who is not here has all of it.
    whole_at: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Allowances {
    /// Makes a call that may leave a record. Only one that was refused on record counts.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] when the caller's allowance is used up: then the call is not made.
    pub(super) async fn spend<T>(
        &self,
        caller: &str,
        call: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ServiceError> {
        self.take(caller)?;
        let answer = call.await;
        if !answer.as_ref().is_err_and(is_recorded) {
            self.give_back(caller);
        }
        answer
    }

    /// Takes one, before it is known what becomes of the call: calls side by side cannot exceed the allowance.
    pub(super) fn take(&self, caller: &str) -> Result<(), ServiceError> {
        self.take_at(caller, Instant::now())
    }

    fn take_at(&self, caller: &str, now: Instant) -> Result<(), ServiceError> {
        let mut whole_at = self.lock();
        whole_at.retain(|_, at| *at > now);
        let after = whole_at.get(caller).copied().unwrap_or(now) + REFILL;
        if after > now + REFILL * BURST {
            return Err(ServiceError::Busy {
                reason: format!(
                    "too many requests from {caller} that led to nothing; one more is heard every {} s",
                    REFILL.as_secs()
                ),
            });
        }
        whole_at.insert(caller.to_owned(), after);
        Ok(())
    }

    /// Takes back what [`Allowances::take`] took: nothing was recorded.
    pub(super) fn give_back(&self, caller: &str) {
        if let Some(at) = self.lock().get_mut(caller) {
            *at = at.checked_sub(REFILL).unwrap_or(*at);
        }
    }

    // A panic while holding the lock leaves a whole map behind.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.whole_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the answer left something durable that the caller could cause again and again.
pub(super) fn is_recorded(error: &ServiceError) -> bool {
    matches!(error, ServiceError::Refused { statement: Some(_), .. } | ServiceError::Conflict { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflict() -> impl Future<Output = Result<(), ServiceError>> {
        std::future::ready(Err(ServiceError::Conflict { reason: "again".to_owned() }))
    }

    fn is_busy<T>(answer: &Result<T, ServiceError>) -> bool {
        matches!(answer, Err(ServiceError::Busy { .. }))
    }

    #[tokio::test]
    async fn only_refusals_on_record_count_and_each_caller_has_its_own() {
        let allowances = Allowances::default();
        for _ in 0..10 * BURST {
            allowances.spend("a", async { Ok(()) }).await.unwrap();
            let missing = async { Err::<(), _>(ServiceError::NotFound { what: "it".to_owned() }) };
            assert!(!is_busy(&allowances.spend("a", missing).await));
        }
        for _ in 0..BURST {
            assert!(!is_busy(&allowances.spend("a", conflict()).await));
        }
        assert!(is_busy(&allowances.spend("a", conflict()).await));
        assert!(
            is_busy(&allowances.spend("a", async { Ok(()) }).await),
            "what a call will be is known too late"
        );
        assert!(!is_busy(&allowances.spend("b", conflict()).await), "others are heard");
    }

    #[tokio::test]
    async fn a_call_that_is_broken_off_counts() {
        let allowances = Allowances::default();
        for _ in 0..BURST {
            let never = allowances.spend("a", std::future::pending::<Result<(), ServiceError>>());
            tokio::select! { biased; _ = never => unreachable!(), () = async {} => {} }
        }
        assert!(is_busy(&allowances.take("a")));
    }

    #[test]
    fn an_allowance_comes_back_with_time() {
        let allowances = Allowances::default();
        let now = Instant::now();
        let spent = (0..2 * BURST).filter(|_| allowances.take_at("a", now).is_ok()).count();
        assert_eq!(spent, BURST as usize);
        assert!(is_busy(&allowances.take_at("a", now + REFILL / 2)));
        allowances.take_at("a", now + REFILL).unwrap();
        assert!(is_busy(&allowances.take_at("a", now + REFILL)));
        let later = now + REFILL * (BURST + 2);
        allowances.take_at("b", later).unwrap();
        assert_eq!(allowances.lock().len(), 1, "a whole allowance is not remembered");
    }
}
