//! Logs and witnesses in memory, and a checkpoint of the public witness network, for tests.

use std::convert::Infallible;

use huitong_proof::{Digest, SigningKey, Timestamp};

use crate::merkle::{Nodes, consistency_path, inclusion_path, leaf_hash, node_hash, root};
use crate::{Checkpoint, Cosigner, LogVerifier, SignedCheckpoint, WitnessVerifier};

pub(crate) const ORIGIN: &str = "example/huitong-log/1";
pub(crate) const LOG_KEY: &str =
    "example/huitong-log/1+a348341d+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs";

/// What a witness of the public network held of a certificate log in 2026: the log signs twice, the first line is of
/// another type (RFC 6962), the last four are cosignatures.
pub(crate) const PUBLIC: &str = "arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

\u{2014} arche2025h1.staging.ct.transparency.dev \
zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
\u{2014} arche2025h1.staging.ct.transparency.dev \
ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
\u{2014} transparency.dev/DEV:witness-little-garden \
2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
\u{2014} witness1.smartit.nu/witness1 \
pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
\u{2014} remora.n621.de \
2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
\u{2014} witness.stagemole.eu \
Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==
";
pub(crate) const PUBLIC_LOG: &str =
    "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f";
pub(crate) const PUBLIC_WITNESSES: [&str; 4] = [
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
];
/// When all four cosigned.
pub(crate) const PUBLIC_TIME: u64 = 1_779_573_024;

pub(crate) fn seconds(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

pub(crate) fn log_signing_key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

pub(crate) fn log_verifier() -> LogVerifier {
    LOG_KEY.parse().unwrap()
}

/// The witness `w<number>` with a key of its own.
pub(crate) fn cosigner(number: u8) -> Cosigner {
    let key = SigningKey::from_seed(&[number.wrapping_add(40); 32]);
    Cosigner::new(format!("w{number}.example"), key).unwrap()
}

/// A witness as policies take it: name, key, URL.
pub(crate) type Known = (String, WitnessVerifier, Option<String>);

/// Names `w0`, `w1` ... with their keys.
pub(crate) fn witnesses(count: u8) -> Vec<Known> {
    (0..count).map(|n| (format!("w{n}"), cosigner(n).verifier().clone(), None)).collect()
}

/// The checkpoint cosigned by these witnesses, the first at second 1000, each a second after the one before.
pub(crate) fn cosigned(signed: &SignedCheckpoint, by: impl IntoIterator<Item = u8>) -> SignedCheckpoint {
    let lines: Vec<String> = by
        .into_iter()
        .zip(1000..)
        .map(|(number, at)| cosigner(number).cosign(signed.checkpoint(), seconds(at)))
        .collect();
    signed.with_lines(&lines).unwrap()
}

/// A log in memory; its hashes are computed anew each time they are asked for.
#[derive(Clone)]
pub(crate) struct History {
    leaves: Vec<Digest>,
}

impl History {
    /// Entries `<name> 0`, `<name> 1` ...
    pub(crate) fn new(name: &str, size: u64) -> Self {
        Self { leaves: (0..size).map(|n| leaf_hash(format!("{name} {n}").as_bytes())).collect() }
    }

    /// The same entries up to `from`, others after it.
    pub(crate) fn forked(&self, from: u64, name: &str, size: u64) -> Self {
        let mut leaves = Self::new(name, size).leaves;
        let kept = usize::try_from(from).unwrap();
        leaves[..kept].copy_from_slice(&self.leaves[..kept]);
        Self { leaves }
    }

    pub(crate) fn leaf(&self, index: u64) -> Digest {
        self.leaves[usize::try_from(index).unwrap()]
    }

    pub(crate) fn checkpoint(&self, size: u64) -> Checkpoint {
        let Ok(root) = root(self, size);
        Checkpoint { origin: ORIGIN.to_owned(), size, root }
    }

    pub(crate) fn signed(&self, size: u64) -> SignedCheckpoint {
        SignedCheckpoint::sign(self.checkpoint(size), &log_signing_key())
    }

    pub(crate) fn consistency(&self, old: u64, new: u64) -> Vec<Digest> {
        let Ok(path) = consistency_path(self, old, new);
        path
    }

    pub(crate) fn inclusion(&self, index: u64, size: u64) -> Vec<Digest> {
        let Ok(path) = inclusion_path(self, index, size);
        path
    }
}

impl Nodes for History {
    type Error = Infallible;

    fn node(&self, level: u8, index: u64) -> Result<Digest, Infallible> {
        if level == 0 {
            return Ok(self.leaf(index));
        }
        let (Ok(left), Ok(right)) = (self.node(level - 1, index * 2), self.node(level - 1, index * 2 + 1));
        Ok(node_hash(&left, &right))
    }
}
