//! The ledgers in a receipt: inclusion proofs, checkpoints, and the witnesses that cosigned them.

use std::collections::BTreeSet;

use huitong_identity::Credential;
use huitong_ledger::{MAX_PATH, NoteError, SignedCheckpoint, verify_entry};
use huitong_proof::cbor::{Fields, Value};
use huitong_proof::{Digest, Statement, Timestamp};

use super::report::{CosignatureFacts, LedgerFacts, ProblemKind};
use super::verify::{Stop, Verification, source_chain};
use crate::model::Finality;

use ProblemKind::{Incomplete, Invalid, PolicyNotMet};

const NAMES: [&str; 2] = ["the provider's ledger", "the consumer's ledger"];

/// One ledger's part of the file, not yet believed.
pub(super) struct LogPart {
    checkpoint: String,
    inclusion: Vec<(u64, Vec<Digest>)>,
}

/// A node whose cosignatures count.
pub(super) struct Witness {
    credential: Credential,
    /// Parties cosign too, but do not make each other's evidence final by themselves.
    is_party: bool,
}

impl Verification<'_> {
    /// The parties, and the nodes whose credentials are in the file as witnesses'. Everybody has a key of its own: the
    /// signed message does not say whose it is.
    pub(super) fn witnesses(
        &mut self,
        credentials: &[Vec<u8>],
        parties: [&Credential; 2],
    ) -> Result<Vec<Witness>, Stop> {
        let mut witnesses: Vec<Witness> =
            parties.into_iter().map(|party| Witness { credential: party.clone(), is_party: true }).collect();
        let mut before: Option<String> = None;
        for (index, bytes) in credentials.iter().enumerate() {
            let what = format!("witnesses[{index}]");
            let credential = self.credential(&what, Some(bytes))?;
            let node = credential.node.to_string();
            if parties.iter().any(|party| party.node == credential.node) {
                return Err(self.stop(Invalid, what, "is a party, whose credential is in its own place"));
            }
            if before.is_some_and(|before| before >= node) {
                return Err(self.stop(Invalid, what, "is not in the order of node ids"));
            }
            before = Some(node);
            witnesses.push(Witness { credential, is_party: false });
        }
        let keys: BTreeSet<_> =
            witnesses.iter().map(|witness| witness.credential.witness.key().as_bytes()).collect();
        if keys.len() < witnesses.len() {
            return Err(self.stop(Invalid, "the witnesses", "two of them have one witness key"));
        }
        Ok(witnesses)
    }

    /// Both ledgers hold every shared statement, and every witness has cosigned at least one of them.
    pub(super) fn ledgers(
        &mut self,
        logs: &[LogPart],
        keepers: [&Credential; 2],
        witnesses: &[Witness],
        shared: &[Statement],
    ) -> Result<(), Stop> {
        let mut used = BTreeSet::new();
        for (number, (name, keeper)) in NAMES.into_iter().zip(keepers).enumerate() {
            match logs.get(number) {
                Some(log) => self.ledger(name, log, keeper, witnesses, shared, &mut used)?,
                None => self.report.problem(Incomplete, name, "the receipt carries no proofs of it"),
            }
        }
        if logs.len() > NAMES.len() {
            return Err(self.stop(Invalid, "logs", "more than the provider's and the consumer's"));
        }
        let idle =
            witnesses.iter().find(|witness| !witness.is_party && !used.contains(&witness.credential.node));
        match idle {
            Some(idle) if logs.len() == NAMES.len() => {
                let what = format!("witness {}", idle.credential.node);
                Err(self.stop(Invalid, what, "has cosigned neither ledger"))
            }
            _ => Ok(()),
        }
    }

    /// Every shared statement is in this ledger, whose checkpoint has no unknown signature.
    fn ledger<'w>(
        &mut self,
        name: &str,
        log: &LogPart,
        keeper: &Credential,
        witnesses: &'w [Witness],
        shared: &[Statement],
        used: &mut BTreeSet<&'w huitong_ids::NodeId>,
    ) -> Result<(), Stop> {
        let place = format!("{name}: checkpoint");
        let checkpoint = SignedCheckpoint::parse(&log.checkpoint, &keeper.log)
            .map_err(|error| self.stop(Invalid, &place, source_chain(&error)))?;
        let cosignatures = cosignatures(&checkpoint, keeper, witnesses)
            .map_err(|reason| self.stop(Invalid, &place, reason))?;
        if log.inclusion.len() > shared.len() {
            return Err(self.stop(Invalid, name, "it proves more statements than the receipt holds"));
        }
        let mut missing = false;
        for (position, statement) in shared.iter().enumerate() {
            let what = format!("{name}: proof of the {}", statement.kind().name());
            let Some((index, path)) = log.inclusion.get(position) else {
                self.report.problem(Incomplete, what, "is missing");
                missing = true;
                continue;
            };
            verify_entry(statement.bytes(), *index, path, checkpoint.checkpoint())
                .map_err(|error| self.stop(Invalid, what, error))?;
        }
        used.extend(cosignatures.iter().map(|(witness, _)| &witness.credential.node));
        if missing {
            return Ok(());
        }
        let head = checkpoint.checkpoint();
        self.report.claim(
            "ledger",
            format!(
                "all {} statements are in {name} {} at size {} with root {}",
                shared.len(),
                head.origin,
                head.size,
                head.root
            ),
        );
        for (Witness { credential, .. }, time) in &cosignatures {
            self.report.claim(
                "cosignature",
                format!(
                    "witness {} ({}) cosigned {name} at size {} at {time} by its clock",
                    credential.name, credential.node, head.size
                ),
            );
        }
        let (finality, not_after) = self.finality(name, &checkpoint, &cosignatures)?;
        let mut facts: Vec<CosignatureFacts> = cosignatures
            .iter()
            .map(|(Witness { credential, .. }, time)| CosignatureFacts {
                node: credential.node.to_string(),
                name: credential.name.clone(),
                time: *time,
            })
            .collect();
        facts.sort_by(|a, b| a.node.cmp(&b.node));
        self.report.ledgers.push(LedgerFacts {
            origin: head.origin.clone(),
            size: head.size,
            root: head.root,
            cosignatures: facts,
            finality,
            not_after,
        });
        Ok(())
    }

    /// Whether the cosignatures are enough, and since when: for the verifier's policy, or, without one, from the first one
    /// of a witness that is no party.
    fn finality(
        &mut self,
        name: &str,
        checkpoint: &SignedCheckpoint,
        cosignatures: &[(&Witness, Timestamp)],
    ) -> Result<(Finality, Option<Timestamp>), Stop> {
        let Some(policy) = self.policy else {
            let others = cosignatures.iter().filter(|(witness, _)| !witness.is_party);
            return Ok(match others.map(|(_, time)| *time).min() {
                Some(time) => (Finality::Final, Some(time)),
                None => (Finality::Provisional, None),
            });
        };
        match policy.evaluate(checkpoint) {
            Ok(quorum) if quorum.satisfied => Ok((Finality::Final, quorum.reached)),
            Ok(quorum) => {
                let reason = format!(
                    "the policy demands {}; there is no cosignature by {}",
                    policy.requirement(),
                    quorum.missing.join(", ")
                );
                self.report.problem(PolicyNotMet, name, reason);
                Ok((Finality::Provisional, None))
            }
            Err(error @ NoteError::UnlistedLog { .. }) => {
                self.report.problem(PolicyNotMet, name, error);
                Ok((Finality::Provisional, None))
            }
            Err(error) => Err(self.stop(Invalid, name, source_chain(&error))),
        }
    }
}

/// Who cosigned, and when. Every line is the log's or a verified one of a known witness, in the one order there is.
fn cosignatures<'w>(
    checkpoint: &SignedCheckpoint,
    keeper: &Credential,
    witnesses: &'w [Witness],
) -> Result<Vec<(&'w Witness, Timestamp)>, String> {
    let canonical = checkpoint.with_lines(&[]).map_err(|error| source_chain(&error))?;
    if canonical.text() != checkpoint.text() {
        return Err("its signature lines are repeated or out of order".to_owned());
    }
    let mut found = Vec::new();
    for (name, key_id) in checkpoint.cosigner_names() {
        let witness = witnesses
            .iter()
            .find(|known| {
                let verifier = &known.credential.witness;
                verifier.name() == name && verifier.key_id() == key_id
            })
            .ok_or_else(|| format!("it has a signature by {name}, whose credential is not in the receipt"))?;
        if witness.credential.node == keeper.node {
            return Err("its own node has cosigned it; a ledger is no witness of itself".to_owned());
        }
        let time = checkpoint
            .cosigned_by(&witness.credential.witness)
            .map_err(|error| source_chain(&error))?
            .ok_or_else(|| format!("the signature by {name} is not to be found"))?
            .time;
        if !witness.credential.is_valid_at(time) {
            return Err(format!("{name} cosigned it at {time}, outside its credential"));
        }
        found.push((witness, time));
    }
    Ok(found)
}

pub(super) fn read_log(value: Value) -> Result<LogPart, String> {
    let mut fields = Fields::from_value(value, "log").map_err(|error| error.to_string())?;
    let checkpoint = fields.text(1, "checkpoint").map_err(|error| error.to_string())?;
    let values = fields.array(2, "inclusion").map_err(|error| error.to_string())?;
    fields.finish().map_err(|error| error.to_string())?;
    let mut inclusion = Vec::with_capacity(values.len().min(64));
    for (number, value) in values.into_iter().enumerate() {
        let wrong = || format!("inclusion[{number}] is not [index, [hash]]");
        let Value::Array(pair) = value else { return Err(wrong()) };
        let [Value::Uint(index), Value::Array(hashes)] = pair.as_slice() else { return Err(wrong()) };
        if hashes.len() > MAX_PATH {
            return Err(wrong());
        }
        let path = hashes
            .iter()
            .map(|hash| match hash {
                Value::Bytes(bytes) => Digest::from_slice(bytes).ok_or_else(wrong),
                _ => Err(wrong()),
            })
            .collect::<Result<_, _>>()?;
        inclusion.push((*index, path));
    }
    Ok(LogPart { checkpoint, inclusion })
}
