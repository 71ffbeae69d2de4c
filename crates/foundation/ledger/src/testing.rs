//! Filling a log for tests and benches, through the same path as everything else.

use std::sync::{Arc, mpsc};
use std::thread;

use huitong_proof::{
    Anchor, ChannelHead, Clock, Digest, Draft, Entropy, Kind, Map, Signing, SigningKey, SpaceId, Statement,
    Timestamp,
};
use huitong_store::Store;

use crate::error::LedgerError;
use crate::log::{Identity, Ledger};

/// Statements that one transaction admits.
const BATCH: u64 = 2_000;
/// Entries between two publications.
const PUBLISHED: u64 = 4 * BATCH;
/// Statements about one subject.
const PER_SUBJECT: u64 = 6;

/// Like [`Ledger::open`], for a ledger that settles so many entries at once, if it is new.
///
/// # Errors
/// As of [`Ledger::open`].
pub fn open_with_block(
    store: Store,
    identity: Identity,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    block: u64,
) -> Result<Ledger, LedgerError> {
    Ledger::open_with(store, identity, clock, entropy, block)
}

/// Admits `count` signed statements of made-up peers, and publishes as it goes. They are signed on all processors,
/// which is what takes the time; `progress` hears how many are durable.
///
/// The statements look like those of transfers: about 420 bytes, six on one subject, each but the first answering the one
/// before it.
///
/// # Errors
/// Those of [`Ledger::admit`], [`Ledger::checkpoint`] and [`Ledger::publish`].
pub async fn fill(ledger: &Ledger, count: u64, progress: &mut dyn FnMut(u64)) -> Result<(), LedgerError> {
    let start = ledger.size(&ledger.store().view())?;
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let batches = count.div_ceil(BATCH);
    let receivers: Vec<mpsc::Receiver<Vec<Statement>>> = (0..threads)
        .map(|number| {
            let (sender, receiver) = mpsc::sync_channel(2);
            let (space, audience) = (*ledger.space(), ledger.node().to_owned());
            let mine = (number..batches).step_by(usize::try_from(threads).unwrap_or(1));
            let sizes: Vec<u64> =
                mine.map(|batch| count.saturating_sub(batch.saturating_mul(BATCH)).min(BATCH)).collect();
            thread::spawn(move || {
                let mut peer = Peer::new(start, number, space, audience);
                for size in sizes {
                    if sender.send(peer.say(size)).is_err() {
                        return;
                    }
                }
            });
            receiver
        })
        .collect();
    let mut done = 0_u64;
    for receiver in receivers.iter().cycle() {
        if done >= count {
            break;
        }
        // Waits for a thread that signs; the filler has the runtime's thread to itself.
        let Ok(batch) = receiver.recv() else { return Err(LedgerError::Worker) };
        let size = batch.len() as u64;
        let admitting = ledger.clone();
        ledger
            .store()
            .transact("ledger.fill", move |tx| {
                for statement in &batch {
                    admitting.admit(tx, statement)?;
                }
                Ok::<(), LedgerError>(())
            })
            .await?;
        done = done.saturating_add(size);
        if done.is_multiple_of(PUBLISHED) || done >= count {
            ledger.checkpoint().await?;
            ledger.publish().await?;
        }
        progress(done);
    }
    Ok(())
}

/// A made-up node that speaks to this one.
struct Peer {
    key: SigningKey,
    issuer: String,
    audience: String,
    space: SpaceId,
    seq: u64,
    prev: Digest,
    subject: [u8; 16],
}

impl Peer {
    fn new(start: u64, number: u64, space: SpaceId, audience: String) -> Self {
        let seed = *Digest::sha256_parts(&[&start.to_be_bytes(), &number.to_be_bytes()]).as_bytes();
        let issuer = format!("{start:016x}{number:016x}").to_ascii_uppercase();
        let (seq, prev, subject) = (0, Digest::ZERO, [0; 16]);
        Self { key: SigningKey::from_seed(&seed), issuer, audience, space, seq, prev, subject }
    }

    fn say(&mut self, count: u64) -> Vec<Statement> {
        (0..count).filter_map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Option<Statement> {
        let first = self.seq.is_multiple_of(PER_SUBJECT);
        let random = Digest::sha256_parts(&[self.issuer.as_bytes(), &self.seq.to_be_bytes()]);
        let (salt, _) = random.as_bytes().split_first_chunk::<16>()?;
        if first {
            self.subject = *salt;
        }
        let draft = Draft {
            kind: if first { Kind::Offer } else { Kind::Ack },
            audience: self.audience.clone(),
            subject: self.subject,
            agreement: random,
            reference: if first { Digest::ZERO } else { self.prev },
            detail: Map::new().uint(1, self.seq).digest(2, &random),
        };
        let signing = Signing {
            key: &self.key,
            space: &self.space,
            issuer: &self.issuer,
            channel: ChannelHead { seq: self.seq, prev: self.prev },
            anchor: Anchor::none(),
            time: Timestamp::from_millis(1_700_000_000_000_u64.saturating_add(self.seq)),
            salt: *salt,
        };
        let statement = Statement::sign(draft, signing).ok()?;
        self.seq = self.seq.checked_add(1)?;
        self.prev = statement.digest();
        Some(statement)
    }
}
