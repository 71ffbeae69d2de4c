//! How a command ends: exit codes (`docs/exit-codes.md`) and the error a person reads.

use std::fmt;

use huitong_grpc::proto::error::ErrorDetail;
use serde_json::json;
use tonic::{Code, Status};

/// Shown under `huitong --help`; `docs/exit-codes.md` says the same at length.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done                          10  configuration is wrong
  1  failed                        11  an address is in use
  2  wrong usage                   12  a key file is readable by others or damaged
  3  receipt invalid               13  the clock is wrong
  4  receipt incomplete            14  the data directory is damaged
  5  input unreadable              15  the data directory is in use by another process
  6  refused by a rule or a node   16  not enrolled and no invite
  7  the node is not running       17  enrolment was refused
  8  the policy is not met         18  another start error
                                   19  the store needs mending";

/// The exit codes a command chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something went wrong that has no code of its own.
    Failed,
    /// The command line is not one of ours.
    Usage,
    /// A receipt is proven wrong.
    ReceiptInvalid,
    /// A receipt lacks something.
    ReceiptIncomplete,
    /// An input file cannot be read as what it should be.
    Unreadable,
    /// A rule, here or at another node, said no.
    Refused,
    /// Nobody answers on the admin socket.
    NotRunning,
    /// A receipt is valid, but not witnessed as the policy demands.
    PolicyNotMet,
    /// A store has lost nothing, but must be mended.
    Recoverable,
    /// A node could not start; the code is the start error's own.
    Start(u8),
}

impl Exit {
    /// The process's exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::ReceiptInvalid => 3,
            Self::ReceiptIncomplete => 4,
            Self::Unreadable => 5,
            Self::Refused => 6,
            Self::NotRunning => 7,
            Self::PolicyNotMet => 8,
            Self::Recoverable => 19,
            Self::Start(code) => code,
        }
    }
}

/// Why a command did not succeed: what it prints on stderr and how it exits.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// How the process exits.
    pub(crate) exit: Exit,
    /// Stable code, lower-case words.
    pub(crate) code: String,
    /// What happened, in one sentence.
    pub(crate) message: String,
    /// What to do next; may be empty.
    pub(crate) next: String,
}

impl Failure {
    pub(crate) fn new(
        exit: Exit,
        code: impl Into<String>,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { exit, code: code.into(), message: message.into(), next: next.into() }
    }

    /// Exit code 1.
    pub(crate) fn failed(
        code: impl Into<String>,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self::new(Exit::Failed, code, message, next)
    }

    /// From a message that ends in `; next step`, as those of a node's start do.
    pub(crate) fn from_sentence(exit: Exit, code: impl Into<String>, sentence: &str) -> Self {
        let (message, next) = sentence.rsplit_once("; ").unwrap_or((sentence, ""));
        Self::new(exit, code, message, next)
    }

    /// The same failure with this next step, if it has none yet.
    pub(crate) fn or_next(mut self, next: &str) -> Self {
        if self.next.is_empty() {
            next.clone_into(&mut self.next);
        }
        self
    }

    /// Whether a node said that it does not know the thing asked for.
    pub(crate) fn is_unknown(&self) -> bool {
        self.code == "request.unknown"
    }

    /// A file that could not be read or written.
    pub(crate) fn file(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::failed(
            "file",
            format!("cannot {doing} {}: {error}", path.display()),
            "check the path and its permissions",
        )
    }

    /// What an answer of a node's admin interface means for this process.
    pub(crate) fn from_status(status: &Status) -> Self {
        let exit = match status.code() {
            Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated | Code::Aborted => {
                Exit::Refused
            }
            _ => Exit::Failed,
        };
        match huitong_grpc::error_detail(status) {
            Some(ErrorDetail { code, reason, .. }) if code == "peer.unavailable" => Self::new(
                exit,
                code,
                format!("the other node cannot be reached: {reason}"),
                "try again later; `huitong doctor` checks the way to the registrar",
            ),
            Some(ErrorDetail { code, reason, next_step, .. }) if next_step.is_empty() => {
                Self::from_sentence(exit, code, &reason)
            }
            Some(ErrorDetail { code, reason, next_step, .. }) => {
                // Some reasons end with the next step already.
                let message = reason.strip_suffix(&next_step).unwrap_or(&reason).trim_end_matches("; ");
                Self::new(exit, code, message, next_step)
            }
            None => Self::new(
                exit,
                code_name(status.code()),
                status.message(),
                "look at the node's log, or run `huitong doctor`",
            ),
        }
    }

    /// The error as one JSON object.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        json!({"error": {
            "code": self.code, "message": self.message, "next": self.next, "exit": self.exit.code(),
        }})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        if !self.next.is_empty() {
            write!(f, "\n  next: {}", self.next)?;
        }
        Ok(())
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::NotFound => "not-found",
        Code::InvalidArgument => "invalid",
        Code::AlreadyExists | Code::Aborted => "conflict",
        Code::PermissionDenied | Code::Unauthenticated => "forbidden",
        Code::FailedPrecondition => "refused",
        Code::ResourceExhausted => "busy",
        Code::Unavailable => "unavailable",
        _ => "internal",
    }
}
