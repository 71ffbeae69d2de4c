//! A peer's statement, read: what it means, or why it means nothing.

use bytes::Bytes;
use huitong_identity::{Refusal, ServiceError};
use huitong_proof::cbor::{FieldError, Fields};
use huitong_proof::{Digest, Statement, Timestamp};

use crate::model::{Agreement, DocumentError, Hold, MAXIMUM_DOCUMENT_BYTES, Reason, Side, Standing, Terms};
use crate::rules::Event;

/// One statement of a negotiation with its document.
pub(super) struct Message {
    pub(super) event: Event,
    /// A statement that is truly signed but says nothing usable is refused on record, like any other.
    pub(super) content: Result<Content, Refusal>,
}

/// What the kinds carry.
pub(super) enum Content {
    Request(Terms),
    Offer(Terms),
    Acceptance {
        terms: Digest,
    },
    Agreement {
        document: Bytes,
        agreement: Box<Agreement>,
        stated_contract: String,
    },
    Verification {
        document: Digest,
        contract: String,
    },
    Finalisation,
    /// `step` is there where it ends a finalised contract.
    Termination {
        reason: Reason,
        step: Option<u64>,
    },
    Suspension {
        reason: Reason,
        step: u64,
    },
    Resumption {
        step: u64,
    },
}

impl Content {
    /// The step and the standing that its sender gives a finalised contract, if it speaks of that.
    pub(super) fn standing(&self, by: Side, since: Timestamp) -> Option<(u64, Standing)> {
        let hold = |reason: &Reason| Hold { by, reason: reason.clone(), since };
        match self {
            Self::Suspension { reason, step } => Some((*step, Standing::Suspended(hold(reason)))),
            Self::Resumption { step } => Some((*step, Standing::InForce)),
            Self::Termination { reason, step: Some(step) } => Some((*step, Standing::Ended(hold(reason)))),
            _ => None,
        }
    }
}

impl Message {
    /// Reads a verified statement.
    ///
    /// # Errors
    /// `Invalid` when it is no statement of a negotiation, or when the document is not the one it was signed with:
    /// that is a defect of transport, and says nothing about the statement.
    pub(super) fn read(statement: &Statement, document: Bytes) -> Result<Self, ServiceError> {
        if document.len() > MAXIMUM_DOCUMENT_BYTES {
            let reason = format!("at most {MAXIMUM_DOCUMENT_BYTES} bytes are read, {} came", document.len());
            return Err(ServiceError::invalid("document", reason));
        }
        let Some(event) = Event::of(statement.kind()) else {
            let reason = format!("a {} does not belong to a negotiation", statement.kind().name());
            return Err(ServiceError::invalid("statement.kind", reason));
        };
        let content = match read_content(event, statement, document) {
            Ok(content) => Ok(content),
            Err(Unreadable::Transport(error)) => return Err(error),
            Err(Unreadable::Content(reason)) => Err(Refusal::new(
                "contract.document",
                reason,
                "send what this version of the protocol defines; see the document's field list",
            )),
        };
        Ok(Self { event, content })
    }

    /// The terms of a request, if this is one.
    pub(super) fn requested(&self) -> Option<&Terms> {
        match &self.content {
            Ok(Content::Request(terms)) => Some(terms),
            _ => None,
        }
    }
}

enum Unreadable {
    Transport(ServiceError),
    Content(String),
}

impl From<FieldError> for Unreadable {
    fn from(error: FieldError) -> Self {
        Self::Content(error.to_string())
    }
}

impl From<DocumentError> for Unreadable {
    fn from(error: DocumentError) -> Self {
        Self::Content(error.to_string())
    }
}

fn read_content(event: Event, statement: &Statement, document: Bytes) -> Result<Content, Unreadable> {
    let mut detail = statement.detail("statement.detail")?;
    let content = match event {
        Event::Request => Content::Request(signed_terms(&mut detail, &document)?),
        Event::Offer => Content::Offer(signed_terms(&mut detail, &document)?),
        Event::Acceptance => {
            no_document(&document)?;
            Content::Acceptance { terms: detail.digest(1, "terms")? }
        }
        Event::Agreement => {
            same_document(detail.digest(1, "agreement")?, &document)?;
            let stated_contract = detail.text(2, "contract")?;
            let agreement = Box::new(Agreement::decode(&document)?);
            Content::Agreement { document, agreement, stated_contract }
        }
        Event::Verification => {
            no_document(&document)?;
            Content::Verification {
                document: detail.digest(1, "agreement")?,
                contract: detail.text(2, "contract")?,
            }
        }
        Event::Finalisation => {
            no_document(&document)?;
            Content::Finalisation
        }
        Event::Termination => {
            no_document(&document)?;
            Content::Termination { reason: reason(&mut detail)?, step: detail.maybe_uint(3, "step")? }
        }
        Event::Suspension => {
            no_document(&document)?;
            Content::Suspension { reason: reason(&mut detail)?, step: detail.uint(3, "step")? }
        }
        Event::Resumption => {
            no_document(&document)?;
            Content::Resumption { step: detail.uint(3, "step")? }
        }
    };
    detail.finish()?;
    Ok(content)
}

fn reason(detail: &mut Fields) -> Result<Reason, FieldError> {
    Ok(Reason::new(&detail.text(1, "code")?, &detail.text(2, "reason")?))
}

fn signed_terms(detail: &mut Fields, document: &Bytes) -> Result<Terms, Unreadable> {
    same_document(detail.digest(1, "terms")?, document)?;
    Ok(Terms::decode(document)?)
}

fn same_document(signed: Digest, document: &Bytes) -> Result<(), Unreadable> {
    if Digest::sha256(document) == signed {
        return Ok(());
    }
    let reason = "these are not the bytes whose SHA-256 the statement signs; send both again";
    Err(Unreadable::Transport(ServiceError::invalid("document", reason)))
}

fn no_document(document: &Bytes) -> Result<(), Unreadable> {
    if document.is_empty() {
        return Ok(());
    }
    let reason = "this kind of statement comes without a document";
    Err(Unreadable::Transport(ServiceError::invalid("document", reason)))
}
