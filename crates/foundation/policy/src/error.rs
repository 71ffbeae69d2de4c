use std::fmt;

use crate::policy::{MAXIMUM_DEPTH, MAXIMUM_DOCUMENT_BYTES};

/// How many problems one refusal lists; the rest are only counted.
const MAXIMUM_PROBLEMS: usize = 16;

/// Why a policy document was refused. No part of a refused document is ever enforced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The document is larger than [`MAXIMUM_DOCUMENT_BYTES`].
    #[error(
        "policy document has {length} bytes, more than the {MAXIMUM_DOCUMENT_BYTES} allowed; split it or shorten its lists"
    )]
    TooLarge {
        /// Length of the refused document in bytes.
        length: usize,
    },
    /// The bytes are not one JSON value in UTF-8, or nest deeper than [`MAXIMUM_DEPTH`].
    #[error(
        "policy document is not JSON of at most {MAXIMUM_DEPTH} levels: {cause}; correct the document at that position"
    )]
    NotJson {
        /// What the JSON reader met, with line and column.
        cause: String,
    },
    /// The JSON is not a policy that this node can enforce.
    #[error("policy document is invalid: {}", list(.problems, *.omitted))]
    Invalid {
        /// Every problem found, in document order, at most sixteen.
        problems: Vec<Problem>,
        /// How many further problems are not listed.
        omitted: usize,
    },
}

impl PolicyError {
    /// The problems of an invalid policy; empty for a document that could not be read as JSON at all.
    pub fn problems(&self) -> &[Problem] {
        match self {
            PolicyError::Invalid { problems, .. } => problems,
            PolicyError::TooLarge { .. } | PolicyError::NotJson { .. } => &[],
        }
    }
}

/// One thing that is wrong with a policy document, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// JSON path below `contractPolicies`, e.g. `permissionPolicies[0].constraints[1].constraintName`.
    pub path: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path, self.message)
    }
}

/// Collects problems while a document is read, so that its author sees all of them at once.
#[derive(Default)]
pub(crate) struct Problems {
    listed: Vec<Problem>,
    omitted: usize,
}

impl Problems {
    pub(crate) fn report(&mut self, path: impl Into<String>, message: impl Into<String>) {
        if self.listed.len() < MAXIMUM_PROBLEMS {
            self.listed.push(Problem { path: path.into(), message: message.into() });
        } else {
            self.omitted = self.omitted.saturating_add(1);
        }
    }

    pub(crate) fn into_result(self) -> Result<(), PolicyError> {
        if self.listed.is_empty() {
            return Ok(());
        }
        Err(PolicyError::Invalid { problems: self.listed, omitted: self.omitted })
    }
}

fn list(problems: &[Problem], omitted: usize) -> String {
    let mut text = problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ");
    if omitted > 0 {
        text.push_str(&format!("; and {omitted} more"));
    }
    text
}
