//! What leaves for a consumer: the index of the content, and the groups that it wants, as fast as limits and window allow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use huitong_identity::ServiceError;
use huitong_proof::{Content, Kind};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{Exchange, Heard, IDLE, cannot_come, idle};
use crate::details::AcceptDetail;
use crate::lanes::Lanes;
use crate::model::{FromConsumer, FromProvider, Transfer};
use crate::ranges::Ranges;
use crate::rules;
use crate::service::opening::{Goods, SOURCE_CHANGED, source_away};
use crate::service::order;
use crate::service::source::{self, Run};
use crate::share::Buffers;

/// Bytes of the manifest or of the leaf list in one frame.
const INDEX_FRAME: usize = 1 << 20;
/// How often a running exchange asks whether it still may run.
const RECHECK: Duration = Duration::from_millis(500);

impl Exchange<'_> {
    /// Waits until these bytes may leave, and charges them. What others send meanwhile does not put that off.
    pub(super) async fn pay(&mut self, bytes: u64) -> Result<Heard, ServiceError> {
        let mut limits = self.transfers.pace.changes();
        let mut due = self.due();
        while due > Instant::now() {
            tokio::select! {
                biased;
                order = order(&mut self.orders) => if self.obey(&order).await? == Heard::Over {
                    return Ok(Heard::Over);
                },
                frame = self.incoming.recv(), if self.early.is_none() => {
                    if let Some(Ok(FromConsumer::Statement(bytes))) = &frame {
                        let said = self.statement(bytes.clone())?;
                        if said.kind() == Kind::Abort {
                            self.aborted(&said).await?;
                            return Ok(Heard::Over);
                        }
                    }
                    self.early = Some(frame);
                }
                () = self.out.closed() => return Ok(Heard::Over),
                Ok(()) = limits.changed() => due = self.due(),
                () = sleep_until(due) => {}
            }
        }
        self.charge(bytes);
        Ok(Heard::GoOn)
    }

    /// When the next bytes may leave: what has left before, by whichever exchange, is paid for first.
    fn due(&self) -> Instant {
        let Transfer { id, peer, contract, .. } = &self.offered.transfer;
        self.transfers.pace.due(id, peer, contract, Instant::now())
    }

    /// These bytes leave now. Says when the next ones may.
    fn charge(&self, bytes: u64) -> Instant {
        let Transfer { id, peer, contract, .. } = &self.offered.transfer;
        self.transfers.pace.leave(id, peer, contract, bytes, Instant::now())
    }

    /// Sends what is wanted, and takes what the consumer says meanwhile, until the transfer or the exchange ends.
    pub(super) async fn stream(&mut self, goods: Goods, mut wanted: Ranges) -> Result<(), ServiceError> {
        let Goods { content, source, .. } = goods;
        let window = self.offered.contract.agreement.window_bytes;
        let total = content.groups();
        let buffers = Buffers::new(self.transfers.serving.join());
        let mut reader = source::runs(source.clone(), Arc::clone(&content), wanted.clone(), buffers.clone());
        let mut next: Option<Run> = None;
        // All groups before this one were sent, or are the consumer's already.
        let mut arrived = wanted.first().unwrap_or(total);
        let mut under_way = UnderWay::default();
        let mut recheck = interval(RECHECK);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut moved_at = Instant::now();
        let out = self.out.clone();
        let lanes = std::mem::replace(&mut self.lanes, Lanes::new(self.caller.node().clone()).0);
        let mut limits = self.transfers.pace.changes();
        let mut may_leave_at = self.due();
        loop {
            let is_due = may_leave_at <= Instant::now();
            let may_send = is_due
                && next.as_ref().is_some_and(|run| {
                    under_way.bytes.saturating_add(run.data.len() as u64) <= window.max(run.data.len() as u64)
                });
            tokio::select! {
                biased;
                order = order(&mut self.orders) => if self.obey(&order).await? == Heard::Over { return Ok(()) },
                // Before what the consumer sends: however much that is, it puts off neither this nor the next.
                _ = recheck.tick() => if self.recheck().await? == Heard::Over { return Ok(()) },
                // What may not leave yet is not held against the consumer.
                () = sleep_until(moved_at.max(may_leave_at) + IDLE) => return Err(idle()),
                frame = self.incoming.recv() => {
                    let bytes = match frame {
                        Some(Ok(FromConsumer::Statement(bytes))) => bytes,
                        Some(Ok(FromConsumer::Want(_))) => return Err(ServiceError::invalid("frame", "a second want")),
                        // The connection broke, or was cut because its caller does not count any more: that is said
                        // with a signature.
                        Some(Err(_)) | None => return self.recheck().await.map(|_| ()),
                    };
                    let statement = self.statement(bytes)?;
                    match statement.kind() {
                        Kind::Ack => {
                            let before = self.offered.transfer.acknowledged_groups;
                            if self.acknowledged(statement, &content, arrived).await? == Heard::Over {
                                return Ok(());
                            }
                            if self.offered.transfer.acknowledged_groups > before {
                                moved_at = Instant::now();
                                under_way.arrived(self.offered.transfer.acknowledged_groups);
                            }
                        }
                        Kind::Accept if self.is_known(&statement)? => self.said_again()?,
                        // The acceptance before was said again, and was new to us.
                        Kind::Accept => {
                            wanted = self.accepted(statement, &content).await?;
                            reader = source::runs(source.clone(), Arc::clone(&content), wanted.clone(), buffers.clone());
                            next = None;
                            arrived = arrived.max(wanted.first().unwrap_or(total));
                        }
                        Kind::Abort => return self.aborted(&statement).await,
                        other => return Err(cannot_come(other)),
                    }
                }
                () = lanes.broken() => {
                    let reason = "one of the transfer's connections broke with content on it; come again";
                    return Err(ServiceError::Busy { reason: reason.to_owned() });
                }
                Ok(()) = limits.changed() => may_leave_at = self.due(),
                () = sleep_until(may_leave_at), if !is_due => {}
                run = reader.recv(), if next.is_none() && arrived < total => match run {
                    Some(Ok(run)) => next = Some(run),
                    Some(Err(error)) => {
                        tracing::warn!(%error, "a published file cannot be delivered");
                        return Err(match error {
                            ServiceError::Busy { .. } => source_away(),
                            _ => self.abort("source.changed", SOURCE_CHANGED).await?,
                        });
                    }
                    None => return Err(ServiceError::Internal("the reader stopped early".to_owned())),
                },
                // Over the first connection as long as it takes more.
                place = async { tokio::select! {
                    biased;
                    place = out.reserve() => place.ok(),
                    place = lanes.reserve(), if !lanes.is_empty() => place,
                }}, if may_send => {
                    let Some(place) = place else { return Ok(()) };
                    moved_at = Instant::now();
                    if let Some(Run { first, groups, data }) = next.take() {
                        let bytes = data.len() as u64;
                        self.transfers.add_moved(&self.offered.transfer.id, bytes);
                        may_leave_at = self.charge(bytes);
                        let end = first.saturating_add(groups);
                        if end > self.offered.transfer.acknowledged_groups {
                            under_way.leave(end, bytes);
                        }
                        arrived = wanted.first_from(end).unwrap_or(total);
                        place.send(FromProvider::Chunk { group: first, data: data.into() });
                    }
                }
            }
        }
    }

    /// How much can have arrived before this exchange, by what the consumer accepted last.
    pub(super) fn can_have_arrived(&self, content: &Content) -> Result<u64, ServiceError> {
        let transfer = &self.offered.transfer;
        let ledger = self.transfers.ledger();
        let Some(digest) = transfer.statements.accept else { return Ok(0) };
        let Some(accept) = ledger.statement(&ledger.store().view(), &digest)? else { return Ok(0) };
        let AcceptDetail { wanted, .. } = AcceptDetail::read(&accept)?;
        let window = self.offered.contract.agreement.window_bytes;
        Ok(rules::can_have_arrived(content, &wanted, transfer.acknowledged_groups, window))
    }
}

/// What was sent and is not acknowledged.
#[derive(Default)]
struct UnderWay {
    /// Behind the last group of each run, and its bytes.
    runs: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl UnderWay {
    fn leave(&mut self, end: u64, bytes: u64) {
        self.runs.push_back((end, bytes));
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn arrived(&mut self, groups: u64) {
        while let Some((_, bytes)) = self.runs.pop_front_if(|(end, _)| *end <= groups) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }
}

/// What a consumer must know before it says what it wants: manifest and leaf values, cut into frames, with the bytes of each.
pub(super) fn index_frames(content: Arc<Content>) -> impl Iterator<Item = (FromProvider, u64)> + Send {
    let of = Arc::clone(&content);
    let manifest = parts(move |sent| {
        let left = of.manifest().and_then(|manifest| manifest.encoded().get(sent..));
        left.and_then(|left| left.chunks(INDEX_FRAME).next()).unwrap_or_default().to_vec()
    });
    let leaves = parts(move |sent| content.leaf_bytes_from(sent, INDEX_FRAME));
    let manifest = manifest.map(|part| (part.len(), FromProvider::Manifest(part)));
    let leaves = leaves.map(|part| (part.len(), FromProvider::Leaves(part)));
    manifest.chain(leaves).map(|(bytes, frame)| (frame, bytes as u64))
}

/// Parts that are made as they are asked for, by what comes behind so many bytes, until nothing does. Each has memory of its
/// own: one that is not taken keeps nothing else.
fn parts(behind: impl Fn(usize) -> Vec<u8> + Send) -> impl Iterator<Item = Bytes> + Send {
    let mut sent = 0_usize;
    std::iter::from_fn(move || {
        let part = behind(sent);
        sent = sent.saturating_add(part.len());
        (!part.is_empty()).then(|| Bytes::from(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_cut_into_parts_that_keep_nothing_but_themselves() {
        let whole: Vec<u8> = (0..2 * INDEX_FRAME + 5).map(|at| (at % 251) as u8).collect();
        let cut: Vec<Bytes> =
            parts(|sent| whole[sent..].chunks(INDEX_FRAME).next().unwrap_or_default().to_vec()).collect();
        assert_eq!((cut.len(), cut.concat()), (3, whole));
        assert!(cut.iter().all(Bytes::is_unique));
        assert_eq!(parts(|_| Vec::new()).count(), 0);
        let content = Arc::new(Content::of_bytes(&vec![7; 3 << 20]));
        let frames: Vec<_> = index_frames(Arc::clone(&content)).collect();
        let [(FromProvider::Leaves(leaves), 96)] = frames.as_slice() else { panic!("{frames:?}") };
        assert_eq!(*leaves, content.leaf_bytes());
    }
}
