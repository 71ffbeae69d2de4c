//! What ended the writing, shared by everyone who can find out.

use std::sync::OnceLock;

use crate::StoreError;
use crate::index::IndexPlace;

/// The first failure of an open store. After it nothing is written any more.
#[derive(Debug)]
pub(crate) struct Failure {
    first: OnceLock<StoreError>,
    /// Whether the index was what failed, first or later.
    condemned: OnceLock<()>,
    place: IndexPlace,
}

impl Failure {
    pub(crate) fn none(place: IndexPlace) -> Self {
        Self { first: OnceLock::new(), condemned: OnceLock::new(), place }
    }

    /// Takes note of a failure; says which one was the first. An index that failed is not used again.
    pub(crate) fn note(&self, failure: StoreError) -> &StoreError {
        if matches!(failure, StoreError::Index { .. }) {
            self.condemned.get_or_init(|| self.place.condemn());
        }
        self.first.get_or_init(|| {
            tracing::error!(%failure, "the store accepts no more transactions");
            failure
        })
    }

    pub(crate) fn first(&self) -> Option<&StoreError> {
        self.first.get()
    }

    /// Whether the index may be used again.
    pub(crate) fn spares_the_index(&self) -> bool {
        self.condemned.get().is_none()
    }
}
