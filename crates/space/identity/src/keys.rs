//! A node's key files: TLS key, statement key, log key and witness key, never the same; a registrar also has a root
//! key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use huitong_ids::NodeId;
use huitong_ledger::{Cosigner, NoteError, witness_name_of};
use huitong_proof::key_file::{self, KeyFileError};
use huitong_proof::{Digest, Entropy, SigningKey};
use rcgen::KeyPair;
use zeroize::Zeroizing;

use crate::certificate::public_key_digest;

/// Why keys could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key file is missing, readable by others, or damaged.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// A TLS or root key file does not hold a PKCS #8 key.
    #[error("key file {} does not hold a PKCS #8 private key: {why}; restore it from a backup", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        why: String,
    },
    /// The key directory cannot be made or read.
    #[error("key directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
}

/// The four keys every node has.
#[derive(Clone)]
pub struct NodeKeys {
    tls: Arc<KeyPair>,
    statement: Arc<SigningKey>,
    log: Arc<SigningKey>,
    witness: Arc<SigningKey>,
}

impl std::fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeKeys").field("tls", &self.tls_digest()).finish_non_exhaustive()
    }
}

impl NodeKeys {
    /// Reads the keys from `dir`, making those that do not exist yet (mode 0600, directory 0700).
    pub fn load_or_create(dir: &Path, entropy: &dyn Entropy) -> Result<Self, KeyError> {
        create_directory(dir)?;
        Ok(Self {
            tls: Arc::new(key_pair(&dir.join("tls.key"))?),
            statement: Arc::new(signing_key(&dir.join("statement.key"), entropy)?),
            log: Arc::new(signing_key(&dir.join("log.key"), entropy)?),
            witness: Arc::new(signing_key(&dir.join("witness.key"), entropy)?),
        })
    }

    /// Checks the permissions of the key files that exist, changing nothing.
    pub fn check(dir: &Path) -> Result<(), KeyError> {
        for name in ["tls.key", "statement.key", "log.key", "witness.key", "root.key"] {
            let path = dir.join(name);
            if path.exists() {
                key_file::check_private(&path)?;
            }
        }
        Ok(())
    }

    /// The TLS key.
    pub fn tls(&self) -> &KeyPair {
        &self.tls
    }

    /// SHA-256 of the TLS key's SubjectPublicKeyInfo.
    pub fn tls_digest(&self) -> Digest {
        public_key_digest(&self.tls)
    }

    /// Signs statements.
    pub fn statement(&self) -> &SigningKey {
        &self.statement
    }

    /// Signs checkpoints of the ledger.
    pub fn log(&self) -> &SigningKey {
        &self.log
    }

    /// Cosigns checkpoints of other nodes' ledgers.
    pub fn witness(&self) -> &SigningKey {
        &self.witness
    }

    /// The witness key under the name that the credential of `node` gives it.
    ///
    /// # Errors
    /// None for a node id: its witness name is always a key name.
    pub fn cosigner(&self, node: &NodeId) -> Result<Cosigner, NoteError> {
        Cosigner::new(witness_name_of(node.as_str()), self.witness.as_ref().clone())
    }
}

/// A registrar's root key.
#[derive(Clone)]
pub struct RootAuthority {
    key: Arc<KeyPair>,
}

impl std::fmt::Debug for RootAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootAuthority").finish_non_exhaustive()
    }
}

impl RootAuthority {
    /// Reads `root.key` from `dir`, making it when it does not exist yet.
    pub fn load_or_create(dir: &Path) -> Result<Self, KeyError> {
        create_directory(dir)?;
        Ok(Self { key: Arc::new(key_pair(&dir.join("root.key"))?) })
    }

    pub(crate) fn key(&self) -> &KeyPair {
        &self.key
    }
}

fn create_directory(dir: &Path) -> Result<(), KeyError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| KeyError::Directory { path: dir.to_owned(), source })
}

fn signing_key(path: &Path, entropy: &dyn Entropy) -> Result<SigningKey, KeyError> {
    match key_file::load(path) {
        Ok(key) => Ok(key),
        Err(KeyFileError::Missing { .. }) => {
            let key = SigningKey::generate(entropy);
            key_file::save(path, &key)?;
            Ok(key)
        }
        Err(error) => Err(error.into()),
    }
}

fn key_pair(path: &Path) -> Result<KeyPair, KeyError> {
    let malformed =
        |error: rcgen::Error| KeyError::Malformed { path: path.to_owned(), why: error.to_string() };
    if path.exists() {
        key_file::check_private(path)?;
        let text = std::fs::read_to_string(path)
            .map_err(|source| KeyError::Directory { path: path.to_owned(), source })?;
        return KeyPair::from_pem(&Zeroizing::new(text)).map_err(malformed);
    }
    // The P-256 key comes from the operating system through ring: rcgen takes no other source.
    let key = KeyPair::generate().map_err(malformed)?;
    key_file::write_private(path, Zeroizing::new(key.serialize_pem()).as_bytes())?;
    Ok(key)
}
