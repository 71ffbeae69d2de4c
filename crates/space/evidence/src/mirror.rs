//! Leaf hashes of the ledgers that this node witnesses: with them the owner of a ledger that was lost can put back what
//! counterparties return to it, and a fork can be proven entry by entry.
//!
//! They lie in plain files of 256 hashes under `mirror/<hex of SHA-256(origin)>/<number>` in the store's directory.
//! A hash counts only once the row of its ledger says so: after it was shown to lie under a root that the ledger has
//! signed, and after its file is durable. Only the newest hashes are kept; where they begin, the row holds the edge of
//! the tree before them, so that checking costs as much as there are new leaves.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use huitong_identity::ServiceError;
use huitong_ledger::{Checkpoint, verify_consistency, witnessed};
use huitong_proof::Digest;
use huitong_proof::cbor::{Fields, Limits, Map};
use huitong_store::disk::Disk;
use huitong_store::{Read, Table, Tx};

use crate::model::FollowedLog;
use crate::peer::{LogPeer, MAX_LEAVES};
use crate::service::Evidence;

mod frontier;

pub(crate) use frontier::Frontier;

/// Leaf hashes of one ledger that are kept unless the operator says otherwise.
pub const MIRRORED_LEAVES: u64 = 1_000_000;

/// Origin -> [`Mirror`].
const MIRRORS: Table = Table::new("evidence.mirror");

const VERSION: u64 = 1;
/// Hashes in one file.
const WIDTH: u64 = 256;
const HASH_BYTES: usize = 32;
/// Pages that are fetched in one go; the rest comes with the next.
const MAX_PAGES: usize = 64;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Directories that are being written to: one ledger's mirror grows in one place at a time.
static BUSY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// What is mirrored of one ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mirror {
    /// The tree before the first hash that is kept; a multiple of 256.
    start: Frontier,
    /// The tree with all of them.
    end: Frontier,
}

/// What became of one ledger's mirror in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mirroring {
    /// Every leaf under the newest checkpoint is here.
    Complete {
        /// Leaves of the ledger, from its first, that are covered.
        size: u64,
    },
    /// Some came, and there are more.
    Partial {
        /// Leaves that are covered.
        size: u64,
        /// Leaves under the newest checkpoint.
        of: u64,
    },
    /// None came, or they could not be checked; later attempts may succeed.
    Unavailable {
        /// Why.
        reason: String,
    },
    /// What the ledger's node gave does not hash to what the ledger has signed.
    Wrong {
        /// What does not fit.
        reason: String,
    },
}

/// Leaf hashes of a mirrored ledger from index `from` on, at most `limit`; fewer when there are no more. A ledger that is
/// not mirrored here, and leaves older than those that are kept, are [`ServiceError::NotFound`].
pub(crate) fn leaves(
    evidence: &Evidence,
    origin: &str,
    from: u64,
    limit: usize,
) -> Result<Vec<Digest>, ServiceError> {
    let unknown = |what: String| ServiceError::NotFound { what };
    let store = evidence.ledger().store();
    let Some(mirror) = load(&store.view(), origin)? else {
        return Err(unknown(format!("a mirror of {origin}")));
    };
    if from < mirror.start.size() {
        return Err(unknown(format!(
            "leaf {from} of {origin}, whose mirror starts at {},",
            mirror.start.size()
        )));
    }
    let to = mirror.end.size().min(from.saturating_add(limit as u64));
    match read(&directory(evidence, origin), from, to) {
        Ok(leaves) => Ok(leaves),
        Err(error) => {
            tracing::warn!(%origin, %error, "the mirror of a ledger cannot be read");
            Err(unknown(format!("leaf {from} of the mirror of {origin}")))
        }
    }
}

/// What this node's mirror of a ledger covers: the tree before the first hash that is kept, and how many leaves in all.
pub(crate) fn extent(evidence: &Evidence, origin: &str) -> Result<Option<(Frontier, u64)>, ServiceError> {
    let mirror = load(&evidence.ledger().store().view(), origin)?;
    Ok(mirror.map(|mirror| (mirror.start, mirror.end.size())))
}

impl Evidence {
    /// Brings the mirrors of all ledgers that this node witnesses up to their newest checkpoints, keeping the newest
    /// `kept` leaf hashes of each (see [`MIRRORED_LEAVES`]). Nobody is asked for a mirror that is complete, and who has
    /// failed is left to the next round of [`Evidence::monitor_once`], so this may run as often as checkpoints are
    /// cosigned: a leaf that was cosigned a moment ago is lost with its ledger unless it is here.
    pub async fn mirror_once(
        &self,
        peer: &dyn LogPeer,
        kept: u64,
    ) -> Result<Vec<(FollowedLog, Mirroring)>, ServiceError> {
        let mut outcomes = Vec::new();
        for log in self.followed()?.into_iter().filter(|log| log.witnessed) {
            // What failed is tried again by the monitor, at its pace. A ledger that is proven to have forked is mirrored on:
            // without the leaves of what this node has cosigned, others cannot prove the fork.
            if self.row(&log.node)?.mirror_since.is_some() {
                continue;
            }
            let Some(outcome) = self.mirror_log(peer, &log, kept).await? else { continue };
            if let Mirroring::Unavailable { .. } | Mirroring::Wrong { .. } = outcome {
                self.note_mirror_failure(&log.node).await?;
            }
            outcomes.push((log, outcome));
        }
        Ok(outcomes)
    }

    /// The same for one ledger; `None` when there is no checkpoint yet or somebody else is at it.
    pub(crate) async fn mirror_log(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        kept: u64,
    ) -> Result<Option<Mirroring>, ServiceError> {
        let Some(target) = self.newest_verified(log)? else { return Ok(None) };
        let directory = directory(self, log.log.name());
        let Some(_claim) = Claim::take(&directory) else { return Ok(None) };
        let kept = kept.max(WIDTH);

        let mut mirror = load(&self.ledger().store().view(), log.log.name())?.unwrap_or_default();
        if !tail_is_there(&directory, &mirror) {
            // A restored backup, or a lost disk: the hashes can be had again.
            mirror = self.forget(log.log.name(), &directory).await?;
        }
        let size = mirror.end.size();
        if size > target.size {
            return Ok(Some(Mirroring::Complete { size }));
        }
        if size == target.size {
            return Ok(Some(if mirror.end.root() == target.root {
                Mirroring::Complete { size }
            } else {
                wrong(&target, "the hashes that are kept lead to another root")
            }));
        }
        if target.size.saturating_sub(size) > kept {
            mirror = match self.skip_to(peer, log, &target, kept).await? {
                Ok(start) => {
                    self.forget(log.log.name(), &directory).await?;
                    Mirror { end: start.clone(), start }
                }
                Err(reason) => return Ok(Some(Mirroring::Unavailable { reason })),
            };
        }
        self.extend(peer, log, &target, kept, &directory, mirror).await.map(Some)
    }

    /// The newest checkpoint of that ledger which is known to extend all before it, or which this node has cosigned.
    pub(crate) fn newest_verified(&self, log: &FollowedLog) -> Result<Option<Checkpoint>, ServiceError> {
        let view = self.ledger().store().view();
        let cosigned = witnessed(&view, log.log.name())?.map(|signed| signed.checkpoint().clone());
        let observed = self.ledger().observed(&view, log.log.name())?;
        let newest = cosigned.into_iter().chain(observed).max_by_key(|checkpoint| checkpoint.size);
        Ok(newest.filter(|checkpoint| checkpoint.size > 0))
    }

    /// Fetches, writes and checks what comes after `mirror`, and then lets it count.
    async fn extend(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        target: &Checkpoint,
        kept: u64,
        directory: &Path,
        before: Mirror,
    ) -> Result<Mirroring, ServiceError> {
        let failed = |error: io::Error| ServiceError::Internal(format!("{}: {error}", directory.display()));
        let mut mirror = before.clone();
        let mut stopped = None;
        // The hashes of the file under way.
        let whole = mirror.end.size() / WIDTH * WIDTH;
        let mut open = read(directory, whole, mirror.end.size()).map_err(failed)?;
        for _ in 0..MAX_PAGES {
            let from = mirror.end.size();
            let left = usize::try_from(target.size.saturating_sub(from)).unwrap_or(usize::MAX);
            if left == 0 {
                break;
            }
            let asked = left.min(MAX_LEAVES);
            let asking = peer.leaves(&log.node, log.log.name(), from, asked);
            let page = match tokio::time::timeout(REQUEST_TIMEOUT, asking).await {
                Ok(Ok(page)) if !page.is_empty() && page.len() <= asked => page,
                Ok(Ok(page)) => {
                    stopped = Some(format!("gave {} leaf hashes from {from} on, not {asked}", page.len()));
                    break;
                }
                Ok(Err(error)) => {
                    stopped = Some(error.to_string());
                    break;
                }
                Err(_) => {
                    stopped = Some("did not answer in time".to_owned());
                    break;
                }
            };
            let mut files = Vec::new();
            for leaf in page {
                open.push(leaf);
                mirror.end.push(leaf);
                if mirror.end.size().is_multiple_of(WIDTH) {
                    files.push((mirror.end.size() / WIDTH - 1, std::mem::take(&mut open)));
                }
            }
            if !open.is_empty() {
                files.push((mirror.end.size() / WIDTH, open.clone()));
            }
            let (disk, place) = (self.ledger().store().disk().clone(), directory.to_owned());
            let written = tokio::task::spawn_blocking(move || write(&disk, &place, &files)).await;
            written.map_err(|error| ServiceError::Internal(error.to_string()))?.map_err(failed)?;
        }

        let size = mirror.end.size();
        if size == before.end.size() {
            return Ok(Mirroring::Unavailable { reason: stopped.unwrap_or_default() });
        }
        if let Err(outcome) = self.check(peer, log, target, &mirror.end).await {
            return Ok(outcome);
        }
        trim(directory, &mut mirror, kept).map_err(failed)?;
        let (origin, start) = (log.log.name().to_owned(), mirror.start.size());
        let keep = move |tx: &mut Tx<'_>| put(tx, &origin, &mirror);
        self.ledger().store().transact("evidence.mirror", keep).await?;
        // What lies before the start counts no more; what a crash leaves there goes the next time.
        let (disk, place) = (self.ledger().store().disk().clone(), directory.to_owned());
        let removed = tokio::task::spawn_blocking(move || remove_before(&disk, &place, start)).await;
        removed.map_err(|error| ServiceError::Internal(error.to_string()))?.map_err(failed)?;
        Ok(if size == target.size {
            Mirroring::Complete { size }
        } else {
            Mirroring::Partial { size, of: target.size }
        })
    }

    /// Whether the tree that was built is what the ledger has signed, or the beginning of it.
    async fn check(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        target: &Checkpoint,
        end: &Frontier,
    ) -> Result<(), Mirroring> {
        if end.size() == target.size {
            let fits = end.root() == target.root;
            return if fits {
                Ok(())
            } else {
                Err(wrong(target, "the leaf hashes that its node gives do not"))
            };
        }
        let asking = peer.consistency(&log.node, end.size(), target.size);
        let path = match tokio::time::timeout(REQUEST_TIMEOUT, asking).await {
            Ok(Ok(path)) => path,
            Ok(Err(error)) => return Err(Mirroring::Unavailable { reason: error.to_string() }),
            Err(_) => return Err(Mirroring::Unavailable { reason: "did not answer in time".to_owned() }),
        };
        verify_consistency(end.size(), &end.root(), target.size, &target.root, &path)
            .map_err(|error| wrong(target, &format!("the leaf hashes that its node gives do not: {error}")))
    }

    /// The edge of the tree from which on the newest `kept` leaves lie; the inner error says why it cannot be had.
    async fn skip_to(
        &self,
        peer: &dyn LogPeer,
        log: &FollowedLog,
        target: &Checkpoint,
        kept: u64,
    ) -> Result<Result<Frontier, String>, ServiceError> {
        let mut start = target.size.saturating_sub(kept).div_ceil(WIDTH).saturating_mul(WIDTH);
        if start.is_power_of_two() {
            // The path from such a size leaves out what is needed.
            start = start.saturating_add(WIDTH);
        }
        if start == 0 || start >= target.size {
            return Ok(Ok(Frontier::default()));
        }
        let asking = peer.consistency(&log.node, start, target.size);
        let path = match tokio::time::timeout(REQUEST_TIMEOUT, asking).await {
            Ok(Ok(path)) => path,
            Ok(Err(error)) => return Ok(Err(error.to_string())),
            Err(_) => return Ok(Err("did not answer in time".to_owned())),
        };
        let edge = Frontier::from_consistency(start, target.size, &target.root, &path);
        Ok(edge.ok_or_else(|| format!("does not show that size {} extends size {start}", target.size)))
    }

    /// Begins anew.
    async fn forget(&self, origin: &str, directory: &Path) -> Result<Mirror, ServiceError> {
        let key = origin.as_bytes().to_vec();
        let forget = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> { Ok(tx.delete(&MIRRORS, &key)?) };
        self.ledger().store().transact("evidence.mirror_reset", forget).await?;
        let (disk, place) = (self.ledger().store().disk().clone(), directory.to_owned());
        let removed = tokio::task::spawn_blocking(move || match disk.remove_directory(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        let failed = |error: &dyn std::fmt::Display| {
            ServiceError::Internal(format!("{}: {error}", directory.display()))
        };
        removed.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        Ok(Mirror::default())
    }
}

fn wrong(target: &Checkpoint, what: &str) -> Mirroring {
    Mirroring::Wrong { reason: format!("{what} lead to the root signed at size {}", target.size) }
}

/// Where the hashes of one ledger lie.
fn directory(evidence: &Evidence, origin: &str) -> PathBuf {
    let name = Digest::sha256(origin.as_bytes()).to_string();
    evidence.ledger().store().directory().join("mirror").join(name)
}

fn file(directory: &Path, number: u64) -> PathBuf {
    directory.join(number.to_string())
}

/// The hashes `from..to`.
fn read(directory: &Path, from: u64, to: u64) -> io::Result<Vec<Digest>> {
    let mut hashes = Vec::new();
    let mut next = from;
    while next < to {
        let number = next / WIDTH;
        let bytes = std::fs::read(file(directory, number))?;
        let first = usize::try_from(next % WIDTH).unwrap_or_default();
        let wanted =
            usize::try_from(to.min(number.saturating_add(1).saturating_mul(WIDTH)).saturating_sub(next))
                .unwrap_or_default();
        let (chunks, _) = bytes.as_chunks::<HASH_BYTES>();
        let before = hashes.len();
        hashes.extend(chunks.iter().skip(first).take(wanted).map(|chunk| Digest::from_bytes(*chunk)));
        if hashes.len().saturating_sub(before) < wanted {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("file {number} is too short")));
        }
        next = next.saturating_add(wanted as u64);
    }
    Ok(hashes)
}

/// Whether the newest file holds what the row says.
fn tail_is_there(directory: &Path, mirror: &Mirror) -> bool {
    let (start, end) = (mirror.start.size(), mirror.end.size());
    start == end || read(directory, end.saturating_sub(1), end).is_ok()
}

/// Puts files in place, each whole or not at all, and returns when all are durable.
fn write(disk: &Disk, directory: &Path, files: &[(u64, Vec<Digest>)]) -> io::Result<()> {
    disk.create_directory(directory)?;
    let held = disk.directory(directory)?;
    for (number, hashes) in files {
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
        let draft = directory.join(format!("{number}.tmp"));
        let mut out = disk.create(&draft)?;
        out.write_all(&bytes)?;
        out.sync()?;
        disk.rename(&draft, &file(directory, *number))?;
    }
    held.sync()
}

/// Moves the start up so that no more than `kept` hashes are left.
fn trim(directory: &Path, mirror: &mut Mirror, kept: u64) -> io::Result<()> {
    let start = mirror.end.size().saturating_sub(kept).div_ceil(WIDTH) * WIDTH;
    while mirror.start.size() < start {
        let from = mirror.start.size();
        for leaf in read(directory, from, from.saturating_add(WIDTH))? {
            mirror.start.push(leaf);
        }
    }
    Ok(())
}

fn remove_before(disk: &Disk, directory: &Path, start: u64) -> io::Result<()> {
    for number in (0..start / WIDTH).rev() {
        match disk.remove(&file(directory, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            removed => removed?,
        }
    }
    Ok(())
}

fn load(r: &impl Read, origin: &str) -> Result<Option<Mirror>, ServiceError> {
    r.get(&MIRRORS, origin.as_bytes())?.map(|row| Mirror::decode(&row)).transpose()
}

fn put(tx: &mut Tx<'_>, origin: &str, mirror: &Mirror) -> Result<(), ServiceError> {
    Ok(tx.put(&MIRRORS, origin.as_bytes(), &mirror.encode())?)
}

impl Mirror {
    fn encode(&self) -> Vec<u8> {
        let peaks =
            |edge: &Frontier| -> Vec<u8> { edge.peaks().iter().flat_map(|peak| *peak.as_bytes()).collect() };
        Map::new()
            .uint(1, VERSION)
            .uint(2, self.start.size())
            .bytes(3, &peaks(&self.start))
            .uint(4, self.end.size())
            .bytes(5, &peaks(&self.end))
            .encode()
    }

    fn decode(row: &[u8]) -> Result<Self, ServiceError> {
        let damaged = || ServiceError::Internal("a row of evidence.mirror is damaged".to_owned());
        let edge = |size: u64, peaks: Vec<u8>| {
            let (peaks, rest) = peaks.as_chunks::<HASH_BYTES>();
            let edge = Frontier::new(size, peaks.iter().map(|peak| Digest::from_bytes(*peak)).collect());
            edge.filter(|_| rest.is_empty()).ok_or_else(damaged)
        };
        let mut fields = Fields::decode(row, Limits::DOCUMENT, "evidence.mirror")?;
        let version = fields.uint(1, "version")?;
        let start = edge(fields.uint(2, "start")?, fields.bytes(3, "start_peaks")?)?;
        let end = edge(fields.uint(4, "end")?, fields.bytes(5, "end_peaks")?)?;
        fields.finish()?;
        if version != VERSION || start.size() > end.size() || !start.size().is_multiple_of(WIDTH) {
            return Err(damaged());
        }
        Ok(Self { start, end })
    }
}

/// A directory that nobody else writes to meanwhile.
struct Claim(PathBuf);

impl Claim {
    fn take(directory: &Path) -> Option<Self> {
        let mut busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(directory.to_owned()).then(|| Self(directory.to_owned()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        BUSY.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

#[cfg(test)]
#[path = "mirror/tests.rs"]
mod tests;
