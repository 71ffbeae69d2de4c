//! Names that another registry handed out.

use std::fmt;

use crate::error::IdError;

/// An identifier of another registry, kept as received: never repaired.
///
/// Deployed registries hand out identifiers whose layout is right and whose check character is wrong. Refusing them
/// would cut their owners off; correcting them would make a name that nobody registered.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Foreign<T> {
    /// The identifier, character by character as received. At most 67 bytes.
    pub id: String,
    /// Whether its check character matches.
    pub check: CheckState<T>,
}

/// The outcome of comparing a check character.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum CheckState<T> {
    /// It matches: the identifier is as good as one of ours.
    Valid(T),
    /// It does not match. The layout is in order.
    Failed,
}

impl<T> Foreign<T> {
    /// The identifier as a checked type, if its check character matches.
    pub fn valid(&self) -> Option<&T> {
        match &self.check {
            CheckState::Valid(id) => Some(id),
            CheckState::Failed => None,
        }
    }

    /// `id` is well formed; `verified` tells whether its check character matches.
    pub(crate) fn receive(text: &str, id: T, verified: Result<(), IdError>) -> Self {
        let check = match verified {
            Ok(()) => CheckState::Valid(id),
            Err(_) => CheckState::Failed,
        };
        Self { id: text.to_owned(), check }
    }
}

impl<T> fmt::Display for Foreign<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.id)
    }
}
