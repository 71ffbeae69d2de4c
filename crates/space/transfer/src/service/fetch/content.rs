//! The content: what is missing is asked for, received, verified, made durable and acknowledged.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use huitong_identity::{Refusal, ServiceError};
use huitong_proof::{Content, Digest, GROUP_BYTES, Kind, Statement};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{Fetch, PATIENCE, broken, in_time, index_time, silent};
use crate::details::{AcceptDetail, AckDetail, AckStatus};
use crate::model::{FromProvider, Suspender};
use crate::ranges::Ranges;
use crate::service::consumer::Stop;
use crate::service::sink::{Event, Run, Sink, Work};
use crate::service::stock::Patience;
use crate::service::{issue, order, stock};
use crate::share::Slots;
use crate::{rules, tables};

/// What has arrived is made durable and acknowledged at the latest after this.
const SYNC_EVERY: Duration = Duration::from_secs(2);

impl Fetch<'_> {
    /// The groups to ask for: all that are not here.
    pub(super) async fn missing(&mut self, content: &Arc<Content>) -> Result<Ranges, Stop> {
        let (part, content, acknowledged) =
            (self.part_path()?, Arc::clone(content), self.transfer.acknowledged_groups);
        // A mebibyte is moved sooner than looked for.
        let before = match content.size() > GROUP_BYTES {
            true => tables::delivered_before(&self.transfers.ledger().store().view(), &self.transfer)?,
            false => None,
        };
        let patience = Patience::until(Instant::now() + stock::PATIENCE);
        let within = patience.clone();
        let mut taken = tokio::task::spawn_blocking(move || {
            stock::take(&part, &content, acknowledged, before.as_deref(), &within)
        });
        let taken = loop {
            tokio::select! {
                biased;
                order = order(&mut self.orders) => if let Err(stop) = self.obey(&order) {
                    patience.end();
                    return Err(stop);
                },
                taken = &mut taken => break taken,
            }
        };
        match taken.map_err(|error| Stop::Retry(error.to_string()))? {
            Ok(missing) => Ok(missing),
            Err(error) => Err(self.destination_failed(&error).await?),
        }
    }

    /// Our newest acknowledgement, and the acceptance that it answers, may have been lost with the connection: the same bytes
    /// once more, or the provider would count what they cover as still on its way.
    pub(super) async fn say_again(&mut self, ack: &Statement) -> Result<(), Stop> {
        let ledger = self.transfers.ledger();
        let accept = ledger.statement(&ledger.store().view(), &ack.body().reference);
        if let Some(accept) = accept.map_err(ServiceError::from)? {
            self.send(&accept).await?;
        }
        self.send(ack).await
    }

    pub(super) async fn accept(&mut self, wanted: Ranges) -> Result<(), Stop> {
        let statement = self
            .change("transfer.accept", move |tx, ledger, transfer, contract| {
                if transfer.suspended_by.is_some() {
                    transfer.release();
                }
                let offer = transfer.statements.offer.unwrap_or(Digest::ZERO);
                let resume = transfer.statements.ack.unwrap_or(Digest::ZERO);
                let detail = AcceptDetail { wanted, resume }.to_detail();
                let statement = issue(tx, ledger, Kind::Accept, transfer, contract, offer, detail)?;
                transfer.statements.accept = Some(statement.digest());
                Ok(statement)
            })
            .await?;
        // Said again only now, so that nothing keeps the new acceptance from following at once: a provider that has not heard of
        // the one before would begin with what that wanted.
        if let Some(digest) = self.transfer.statements.ack {
            let ledger = self.transfers.ledger();
            let found = ledger.statement(&ledger.store().view(), &digest).map_err(ServiceError::from)?;
            if let Some(ack) = found {
                self.say_again(&ack).await?;
            }
        }
        self.send(&statement).await
    }

    /// Takes what is missing, up to the FINAL.
    pub(super) async fn receive(
        &mut self,
        content: Arc<Content>,
        missing: Ranges,
    ) -> Result<Statement, Stop> {
        let path = self.part_path()?;
        let sync_bytes = rules::sync_bytes(self.contract.agreement.window_bytes);
        let (written, wanted) = (Arc::clone(&content), missing.clone());
        let opened = tokio::task::spawn_blocking(move || Sink::open(path, written, wanted, sync_bytes))
            .await
            .map_err(|error| Stop::Retry(error.to_string()))?;
        let mut sink = match opened {
            Ok(sink) => sink,
            Err(error) => return Err(self.destination_failed(&error).await?),
        };
        let received = self.fill(&mut sink, &content, missing).await;
        // However this has ended, nothing is written behind it, and no failure to make something durable goes unheard: what the
        // system could not write it may have forgotten, although it still reads right.
        match (received, sink.close().await) {
            (Err(Stop::Retry(_)), Some(error)) => Err(self.unsynced(content, &error).await?),
            (received, _) => received,
        }
    }

    /// Forgets what was not made durable.
    async fn unsynced(&mut self, content: Arc<Content>, error: &io::Error) -> Result<Stop, Stop> {
        let ledger = self.transfers.ledger();
        // Somebody else may have ended the transfer, or come further.
        let stored = tables::transfer(&ledger.store().view(), &self.transfer.id)?;
        let Some(stored) = stored.filter(|stored| !stored.state.is_terminal()) else {
            return Ok(Stop::Retry("the transfer has ended".to_owned()));
        };
        let part = self.part_path()?;
        let discarded =
            tokio::task::spawn_blocking(move || stock::discard(&part, &content, stored.acknowledged_groups));
        match discarded.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "what was not made durable cannot be removed"),
            Err(error) => tracing::error!(%error, "removing what was not made durable died"),
        }
        self.destination_failed(error).await
    }

    async fn fill(
        &mut self,
        sink: &mut Sink,
        content: &Arc<Content>,
        mut missing: Ranges,
    ) -> Result<Statement, Stop> {
        let mut in_hand: Option<Run> = None;
        let slots = Slots::new(self.transfers.fetching.join());
        if missing.is_empty() {
            // Nothing to move, but the file must be there and durable before it is acknowledged.
            let _ = sink.work.send(Work::Sync).await;
        }
        let (peer, provider, id) = (self.peer, self.transfer.peer.clone(), self.transfer.id);
        let lanes = if missing.is_empty() { 0 } else { self.lanes };
        let mut opening: FuturesUnordered<_> = (0..lanes).map(|_| peer.lane(&provider, id)).collect();
        let mut heard_at = Instant::now();
        let mut sync = interval(SYNC_EVERY);
        sync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sync.reset();
        loop {
            tokio::select! {
                biased;
                order = order(&mut self.orders) => self.obey(&order)?,
                event = sink.events.recv() => match event {
                    Some(Event::Durable(groups)) => {
                        if let Some(last) = self.durable(content, groups).await? {
                            return Ok(last);
                        }
                    }
                    Some(Event::Wrong { group, reason }) => {
                        let named = named_group(content, group);
                        let refusal = Refusal::new("group.wrong", format!("{named} is not the agreed content: {reason}"), "keep the statements as evidence");
                        let offer = self.stored_offer()?;
                        return Err(self.abort(&refusal, &offer).await?);
                    }
                    Some(Event::Failed(error)) => return Err(self.destination_failed(&error).await?),
                    Some(Event::Unsynced(error)) => {
                        sink.unsynced = Some(error);
                        return Err(Stop::Retry("what has arrived cannot be made durable".to_owned()));
                    }
                    None => return Err(Stop::Retry("the writer stopped".to_owned())),
                },
                _ = sync.tick() => {
                    let _ = sink.work.try_send(Work::Sync);
                }
                // The writer is not waited for elsewhere: its events must be heard while it is busy.
                place = sink.work.reserve(), if in_hand.is_some() => match (place, in_hand.take()) {
                    (Ok(place), Some(run)) => {
                        heard_at = Instant::now();
                        place.send(Work::Groups(run));
                    }
                    // The writer has stopped; its last event says why.
                    _ => continue,
                },
                // One that cannot be opened is done without.
                Some(lane) = opening.next(), if !opening.is_empty() => if let Ok(lane) = lane { self.frames.add(lane) },
                // What is not asked for cannot come.
                () = slots.freed(), if !slots.is_free() => heard_at = Instant::now(),
                () = sleep_until(heard_at + PATIENCE), if in_hand.is_none() && slots.is_free() => return Err(silent(PATIENCE)),
                frame = self.frames.next(), if in_hand.is_none() && slots.is_free() => match self.frame(frame).await? {
                    FromProvider::Chunk { group, data } => {
                        let length = data.len() as u64;
                        let run = groups_of(content, group, length);
                        if !run.as_ref().is_some_and(|run| missing.remove(run)) {
                            let due = missing.first().unwrap_or(content.groups());
                            return Err(broken(&format!("group {group} with {length} bytes came where group {due} was due")));
                        }
                        heard_at = Instant::now();
                        self.transfers.add_moved(&self.transfer.id, length);
                        in_hand = Some(Run { first: group, data, _slot: slots.take() });
                    }
                    FromProvider::Statement(bytes) => return Err(self.unexpected(bytes).await?),
                    FromProvider::Manifest(_) | FromProvider::Leaves(_) => return Err(broken("leaf values among the content")),
                },
            }
        }
    }

    /// Signs for what is durable; after the last group waits for FINAL and gives it.
    async fn durable(&mut self, content: &Content, groups: u64) -> Result<Option<Statement>, Stop> {
        let bytes = content.prefix_bytes(groups);
        let complete = groups == content.groups();
        if groups <= self.transfer.acknowledged_groups && !complete {
            return Ok(None);
        }
        let root = content.root();
        let status = if complete { AckStatus::Complete } else { AckStatus::Partial };
        let ack = self
            .change("transfer.acknowledge", move |tx, ledger, transfer, contract| {
                // Another run of this transfer may have come further: what is signed never goes backwards.
                if groups <= transfer.acknowledged_groups && !complete {
                    return Ok(None);
                }
                let reference = transfer.statements.accept.unwrap_or(Digest::ZERO);
                let detail = AckDetail { root, groups, bytes, status }.to_detail();
                let statement = issue(tx, ledger, Kind::Ack, transfer, contract, reference, detail)?;
                transfer.acknowledged = bytes;
                transfer.acknowledged_groups = groups;
                transfer.statements.ack = Some(statement.digest());
                Ok(Some(statement))
            })
            .await?;
        let Some(ack) = ack else { return Ok(None) };
        self.send(&ack).await?;
        if !complete {
            return Ok(None);
        }
        in_time(index_time(&self.transfer), self.await_final()).await.map(Some)
    }

    /// A destination without room suspends the transfer, and the provider hears why; anything else is tried again.
    async fn destination_failed(&mut self, error: &io::Error) -> Result<Stop, Stop> {
        let reason = format!("the destination cannot be written: {error}");
        if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Ok(Stop::Retry(reason));
        }
        let reason = format!("{reason}; make room, the transfer goes on by itself");
        let (transfers, said) = (self.transfers.clone(), reason.clone());
        self.change("transfer.suspend", move |tx, ledger, transfer, _| {
            transfers.acknowledge_stop(tx, ledger, transfer, &said)?;
            transfer.suspend(Suspender::Space, "destination.full", &said);
            Ok(())
        })
        .await?;
        Ok(Stop::Retry(reason))
    }

    fn stored_offer(&self) -> Result<Statement, ServiceError> {
        let ledger = self.transfers.ledger();
        let digest = self.transfer.statements.offer.unwrap_or(Digest::ZERO);
        ledger
            .statement(&ledger.store().view(), &digest)?
            .ok_or_else(|| ServiceError::Internal("the offer of a transfer is missing".to_owned()))
    }
}

/// The groups that so many bytes are, from `first` on; `None` unless they are whole ones, and as few as go in a frame.
fn groups_of(content: &Content, first: u64, bytes: u64) -> Option<Range<u64>> {
    if bytes == 0 || bytes > GROUP_BYTES {
        return None;
    }
    let end = first.saturating_add(content.run(first, content.groups(), bytes));
    let length = content.prefix_bytes(end).saturating_sub(content.prefix_bytes(first));
    (length == bytes).then_some(first..end)
}

/// A group as people find it again.
fn named_group(content: &Content, group: u64) -> String {
    let entry = content.manifest().zip(content.place(group)).and_then(|(manifest, place)| {
        let entry = manifest.entries().get(place.file)?;
        Some(format!(
            "group {} of file {}",
            group.saturating_sub(content.file_groups(place.file).start),
            entry.path
        ))
    });
    entry.unwrap_or_else(|| format!("group {group}"))
}
