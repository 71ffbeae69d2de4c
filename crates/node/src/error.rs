//! Why a node does not start.

use std::io;
use std::path::PathBuf;

use huitong_identity::{KeyError, ServiceError};
use huitong_proof::{KeyFileError, Timestamp};
use huitong_store::OpenError;

use crate::config::ConfigError;

/// Why a node did not start. Each has a stable code and a process exit code.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration contradicts the identity that the data directory holds.
    #[error(
        "{key} is {configured}, but this data directory belongs to a node with {stored}; correct the key, or use another node.data_dir"
    )]
    OtherIdentity {
        /// The key.
        key: &'static str,
        /// Its value.
        configured: String,
        /// What the node is.
        stored: String,
    },
    /// Something else listens there.
    #[error("{key}: {address} is in use; stop the other process, or choose another address")]
    AddressInUse {
        /// The key.
        key: &'static str,
        /// Its value.
        address: String,
    },
    /// A key file is missing, open to others, or damaged.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The keys are not those of the identity in the data directory.
    #[error("the key files in {} do not belong to this data directory: {reason}", directory.display())]
    OtherKeys {
        /// Where the keys lie.
        directory: PathBuf,
        /// What does not fit, and what to do.
        reason: String,
    },
    /// The machine's clock cannot be right.
    #[error(
        "this machine's clock says {now}, but {reason}; set the clock (for example with chrony) and start again"
    )]
    Clock {
        /// What the clock says.
        now: Timestamp,
        /// What contradicts it.
        reason: String,
    },
    /// The data directory does not check.
    #[error("the data directory is damaged: {0}")]
    Damaged(String),
    /// Another process has the data directory open.
    #[error("{0}")]
    Locked(String),
    /// A connector that nobody has enrolled.
    #[error(
        "this node is not enrolled: {reason}; ask the registrar's operator for an invite, then run `huitong identity enrol` or set identity.invite_file"
    )]
    NotEnrolled {
        /// What is missing.
        reason: String,
    },
    /// The registrar said no, or what it answered is not what the invite promises.
    #[error("enrolment with {registrar} failed: {reason}; ask the registrar's operator for a new invite")]
    EnrolmentRefused {
        /// `host:port` of the enrolment listener.
        registrar: String,
        /// What was said.
        reason: String,
    },
    /// The registrar did not answer.
    #[error(
        "the registrar at {registrar} cannot be reached: {reason}; check the address, the network and that it runs, then try again"
    )]
    RegistrarUnreachable {
        /// `host:port` of the enrolment listener.
        registrar: String,
        /// What the connection said.
        reason: String,
    },
    /// The operating system refused something else.
    #[error("{what}: {reason}; check that it exists, its owner and mode, and the free space")]
    Io {
        /// What was tried, on what.
        what: String,
        /// What the system said.
        reason: String,
    },
}

impl StartError {
    /// A stable word for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config(_) | Self::OtherIdentity { .. } => "start.config",
            Self::AddressInUse { .. } => "start.address_in_use",
            Self::Keys(_) | Self::OtherKeys { .. } => "start.keys",
            Self::Clock { .. } => "start.clock",
            Self::Damaged(_) => "start.damaged",
            Self::Locked(_) => "start.locked",
            Self::NotEnrolled { .. } => "start.not_enrolled",
            Self::EnrolmentRefused { .. } => "start.enrolment_refused",
            Self::RegistrarUnreachable { .. } => "start.registrar_unreachable",
            Self::Io { .. } => "start.io",
        }
    }

    /// The exit code of the process: 10 configuration, 11 address in use, 12 keys, 13 clock, 14 damaged data,
    /// 15 data in use, 16 not enrolled, 17 enrolment refused, 18 anything of the operating system or the network.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::OtherIdentity { .. } => 10,
            Self::AddressInUse { .. } => 11,
            Self::Keys(KeyError::Directory { .. } | KeyError::File(KeyFileError::Io { .. })) => 18,
            Self::Keys(_) | Self::OtherKeys { .. } => 12,
            Self::Clock { .. } => 13,
            Self::Damaged(_) => 14,
            Self::Locked(_) => 15,
            Self::NotEnrolled { .. } => 16,
            Self::EnrolmentRefused { .. } => 17,
            Self::RegistrarUnreachable { .. } | Self::Io { .. } => 18,
        }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, reason: error.to_string() }
    }

    pub(crate) fn binding(
        key: &'static str,
        address: impl std::fmt::Display,
    ) -> impl FnOnce(io::Error) -> Self {
        let address = address.to_string();
        move |error| match error.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse { key, address },
            _ => Self::Io { what: format!("{key}: cannot listen on {address}"), reason: error.to_string() },
        }
    }

    /// For what the node's own records say about themselves.
    pub(crate) fn records(error: ServiceError) -> Self {
        match error {
            ServiceError::Store(error) => {
                Self::Io { what: "the store in the data directory".to_owned(), reason: error.to_string() }
            }
            other => Self::Damaged(format!("{other}; restore it from a backup")),
        }
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        match &error {
            OpenError::Locked { .. } => Self::Locked(error.to_string()),
            OpenError::Damaged { .. } | OpenError::Snapshot { .. } | OpenError::Version { .. } => {
                Self::Damaged(error.to_string())
            }
            OpenError::Io { source, .. } => {
                let reason = source.to_string();
                Self::Io { what: error.to_string(), reason }
            }
            OpenError::Index { .. } => {
                Self::Io { what: "the store's index".to_owned(), reason: error.to_string() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: StartError, code: &str, exit: u8) {
        assert_eq!((error.code(), error.exit_code()), (code, exit));
        let text = error.to_string();
        assert!(text.contains("; "), "no next step: {text}");
        assert!(!text.ends_with('.'), "{text}");
    }

    #[test]
    fn every_error_has_its_code_and_a_next_step() {
        let path = PathBuf::from("/x");
        let text = || "why".to_owned();
        let config = crate::Config::from_toml("", std::path::Path::new("/")).unwrap_err();
        check(config.into(), "start.config", 10);
        check(
            StartError::OtherIdentity { key: "identity.entity", configured: text(), stored: text() },
            "start.config",
            10,
        );
        let in_use = io::Error::from(io::ErrorKind::AddrInUse);
        check(StartError::binding("listen.peers", "127.0.0.1:1")(in_use), "start.address_in_use", 11);
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        check(StartError::binding("listen.peers", "127.0.0.1:1")(denied), "start.io", 18);
        let readable = KeyFileError::Readable { path: path.clone(), mode: 0o644 };
        check(KeyError::from(readable).into(), "start.keys", 12);
        check(StartError::OtherKeys { directory: path.clone(), reason: "a; b".to_owned() }, "start.keys", 12);
        check(StartError::Clock { now: Timestamp::default(), reason: text() }, "start.clock", 13);
        let damaged = OpenError::Damaged { segment: path.clone(), offset: 1, why: text() };
        check(damaged.into(), "start.damaged", 14);
        check(OpenError::Locked { directory: path, holder: text() }.into(), "start.locked", 15);
        check(StartError::NotEnrolled { reason: text() }, "start.not_enrolled", 16);
        check(
            StartError::EnrolmentRefused { registrar: text(), reason: text() },
            "start.enrolment_refused",
            17,
        );
        check(
            StartError::RegistrarUnreachable { registrar: text(), reason: text() },
            "start.registrar_unreachable",
            18,
        );
    }
}
