//! One attempt of a consumer to bring a transfer to its end.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use huitong_catalog::{AssetCertificate, AssetKind};
use huitong_contract::{Contract, Coverage};
use huitong_identity::{Credential, PeerError, Refusal, ServiceError, read_refusal, statement_of};
use huitong_ledger::{Ledger, LedgerError};
use huitong_proof::{
    Content, Digest, Envelope, GROUP_BYTES, Kind, MAX_GROUPS, MAX_MANIFEST_BYTES, Manifest, ManifestError,
    Statement,
};
use huitong_store::Tx;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::consumer::Stop;
use super::destination::{free_path, marked_path, part_path, publish};
use super::sink::{Event, Run, Sink, Work};
use super::stock::Patience;
use super::{Abort, Order, Transfers, check_belongs, issue, order, stock, stopped};
use crate::details::{
    AcceptDetail, AckDetail, AckStatus, OfferDetail, UsageDetail, abort_detail, read_abort, read_final,
};
use crate::lanes::Confluence;
use crate::model::{FromConsumer, FromProvider, Suspender, Transfer, TransferState};
use crate::peer::TransferPeer;
use crate::ranges::Ranges;
use crate::share::Slots;
use crate::{rules, tables};

/// How long nothing may come from the provider.
const IDLE: Duration = Duration::from_secs(60);
/// How long no content may come: under a low limit of the provider a transfer's turn comes seldom. That the provider is there
/// at all is for the connection to find out.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the statements before content and index may take.
const OPENING: Duration = Duration::from_secs(600);
/// Bytes per second of an index that come at least: its provider's limits may be shared by many, but it does not trickle.
const SLOWEST_INDEX: u64 = 8 << 10;
/// Bytes of one leaf value.
const LEAF_BYTES: u64 = 32;
/// What has arrived is made durable and acknowledged at the latest after this.
const SYNC_EVERY: Duration = Duration::from_secs(2);
/// How long the provider may take to read our ABORT.
const LAST_WORD: Duration = Duration::from_secs(5);

/// One attempt.
pub(super) struct Fetch<'a> {
    pub(super) transfers: &'a Transfers,
    pub(super) transfer: Transfer,
    pub(super) contract: Contract,
    pub(super) credential: Credential,
    pub(super) peer: &'a dyn TransferPeer,
    /// Connections to open beside the first one.
    pub(super) lanes: usize,
    pub(super) frames: Confluence,
    pub(super) out: mpsc::Sender<FromConsumer>,
    pub(super) orders: watch::Receiver<()>,
    /// The provider, or the connection to it, has gone: what is said now is not heard.
    pub(super) is_cut_off: bool,
}

impl Fetch<'_> {
    pub(super) async fn run(mut self) -> Result<(), Stop> {
        if self.transfer.state == TransferState::Terminated {
            return self.tell_that_it_was_cancelled().await;
        }
        let outcome = self.deliver().await;
        if outcome.is_err() {
            self.say_last_word().await?;
        }
        outcome
    }

    /// The provider takes our ABORT once it has made its offer again; any other answer means that it is over there too.
    async fn tell_that_it_was_cancelled(&mut self) -> Result<(), Stop> {
        loop {
            match self.next().await {
                Ok(FromProvider::Statement(bytes)) => match self.statement(bytes)?.kind() {
                    Kind::Offer | Kind::Refusal | Kind::Abort => break,
                    _ => {}
                },
                Ok(_) => {}
                // It does not know of it any more, or does not deal with us.
                Err(Stop::Over(_)) => return Ok(self.transfers.told(&self.transfer.id).await?),
                Err(stop) => return Err(stop),
            }
        }
        self.say_last_word().await
    }

    /// Before we leave a transfer that was paused, suspended or cancelled: what we have signed about that.
    async fn say_last_word(&mut self) -> Result<(), Stop> {
        let ledger = self.transfers.ledger();
        let view = ledger.store().view();
        let Some(stored) = tables::transfer(&view, &self.transfer.id)? else { return Ok(()) };
        let Some(digest) = self.transfers.last_word(&stored) else { return Ok(()) };
        let found = ledger.statement(&view, &digest).map_err(ServiceError::from)?;
        drop(view);
        let Some(statement) = found else { return Ok(()) };
        self.send(&statement).await?;
        let told = self.wait_for_the_end().await;
        if told && stored.state == TransferState::Terminated {
            self.transfers.told(&stored.id).await?;
        }
        Ok(())
    }

    /// Leaving at once could cut the connection under our last word: the provider hangs up when it has read it. Says
    /// whether it did, and the connection did not break before.
    async fn wait_for_the_end(&mut self) -> bool {
        let hangs_up = async {
            loop {
                match self.frames.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) => return false,
                    None => return true,
                }
            }
        };
        timeout(LAST_WORD, hangs_up).await.unwrap_or(false) && !self.is_cut_off
    }

    async fn deliver(&mut self) -> Result<(), Stop> {
        let offer = in_time(OPENING, self.opening()).await?;
        if let Some(last) = self.already_acknowledged().await? {
            return self.finish(last).await;
        }
        let content = Arc::new(in_time(index_time(&self.transfer), self.index(&offer)).await?);
        let missing = self.missing(&content).await?;
        self.accept(missing.clone()).await?;
        let last = self.receive(content, missing).await?;
        self.finish(last).await
    }

    /// Statements up to the OFFER: checked, and on record before anything is answered.
    async fn opening(&mut self) -> Result<OfferDetail, Stop> {
        let (mut certificate, mut usage) = (None, Vec::new());
        let offer = loop {
            let statement = match self.next().await? {
                FromProvider::Statement(bytes) => self.statement(bytes)?,
                _ => return Err(broken("bytes before the offer")),
            };
            match statement.kind() {
                Kind::AssetCertificate if certificate.is_none() => certificate = Some(statement),
                Kind::Usage if usage.len() < 16 => {
                    UsageDetail::read(&statement)?;
                    usage.push(statement);
                }
                Kind::Refusal => return Err(self.refused(statement).await?),
                Kind::Abort => return Err(self.aborted(statement).await?),
                Kind::Offer => break statement,
                other => return Err(broken(&format!("a {} before the offer", other.name()))),
            }
        };
        let detail = OfferDetail::read(&offer)?;
        if let Err(refusal) = rules::check_offer(&detail, &self.contract.agreement) {
            return Err(self.abort(&refusal, &offer).await?);
        }
        if detail.usage != usage.iter().map(Statement::digest).collect::<Vec<_>>() {
            let refusal = Refusal::new(
                "offer.usage",
                "the offer names other usage statements than came with it",
                "keep the statements as evidence",
            );
            return Err(self.abort(&refusal, &offer).await?);
        }
        let certificate = certificate.ok_or_else(|| broken("no asset certificate came with the offer"))?;
        let registered =
            AssetCertificate::from_statement(&certificate).map_err(|error| broken(&error.to_string()))?;
        if registered.kind != AssetKind::Product
            || registered.id != detail.product
            || registered.root != detail.root
            || registered.size != detail.size
        {
            let refusal = Refusal::new(
                "offer.certificate",
                "the asset certificate is about other content",
                "keep the statements as evidence",
            );
            return Err(self.abort(&refusal, &offer).await?);
        }
        if self.transfer.statements.offer == Some(offer.digest()) {
            return Ok(detail);
        }
        if self.transfer.statements.offer.is_some() {
            let refusal = Refusal::new(
                "offer.changed",
                "the provider made another offer for a transfer that was under way",
                "keep the statements as evidence",
            );
            return Err(self.abort(&refusal, &offer).await?);
        }
        if self.transfers.is_here_already(&self.transfer, &self.contract, &detail)? {
            let reason = "a subscription ordered what is new; the offered version has been delivered before";
            let refusal = Refusal::new("offer.known", reason, "push when there is a new version");
            return Err(self.abort(&refusal, &offer).await?);
        }
        let newest =
            tables::newest_version(&self.transfers.ledger().store().view(), &self.transfer.contract)?;
        let oldest = newest.max(self.contract.agreement.version.unwrap_or_default());
        if registered.version < oldest {
            let reason = format!(
                "version {} is offered, version {oldest} was agreed on or offered before",
                registered.version
            );
            let refusal = Refusal::new("offer.version", reason, "keep the statements as evidence");
            return Err(self.abort(&refusal, &offer).await?);
        }
        let (directory, name, id) =
            (self.transfer.directory.clone(), detail.file_name.as_str().to_owned(), self.transfer.id);
        let path = blocking(move || free_path(&directory, &name, &id)).await?;
        let offered = detail.clone();
        self.change("transfer.offered", move |tx, ledger, transfer, contract| {
            for statement in std::iter::once(&certificate).chain(&usage).chain(std::iter::once(&offer)) {
                ledger.admit(tx, statement)?;
            }
            transfer.state = TransferState::Started;
            transfer.size = detail.size;
            transfer.groups = detail.groups();
            transfer.files = detail.dataset.map(|dataset| dataset.files);
            transfer.name = Some(detail.file_name.as_str().to_owned());
            transfer.root = Some(detail.root);
            transfer.version = Some(registered.version);
            if contract.agreement.coverage == Coverage::Series {
                if registered.version < tables::newest_version(tx, &transfer.contract)? {
                    let reason = "another transfer was offered a newer version just now".to_owned();
                    return Err(ServiceError::Busy { reason }.into());
                }
                tables::put_newest_version(tx, &transfer.contract, registered.version)?;
            }
            transfer.path = Some(path);
            transfer.statements.certificate = Some(certificate.digest());
            transfer.statements.usage = usage.iter().map(Statement::digest).collect();
            transfer.statements.offer = Some(offer.digest());
            Ok(())
        })
        .await?;
        Ok(offered)
    }

    /// After a crash behind the complete ACK: only the FINAL is missing. Says again, in the same bytes, what the
    /// provider may not have heard.
    async fn already_acknowledged(&mut self) -> Result<Option<Statement>, Stop> {
        let Some(digest) = self.transfer.statements.ack else { return Ok(None) };
        let ledger = self.transfers.ledger();
        let ack = ledger
            .statement(&ledger.store().view(), &digest)
            .map_err(ServiceError::from)?
            .ok_or_else(|| Stop::Retry("our own acknowledgement is missing".to_owned()))?;
        if AckDetail::read(&ack)?.status != AckStatus::Complete {
            return Ok(None);
        }
        self.say_again(&ack).await?;
        in_time(index_time(&self.transfer), self.await_final()).await.map(Some)
    }

    /// The groups to ask for: all that are not here.
    async fn missing(&mut self, content: &Arc<Content>) -> Result<Ranges, Stop> {
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
    async fn say_again(&mut self, ack: &Statement) -> Result<(), Stop> {
        let ledger = self.transfers.ledger();
        let accept = ledger.statement(&ledger.store().view(), &ack.body().reference);
        if let Some(accept) = accept.map_err(ServiceError::from)? {
            self.send(&accept).await?;
        }
        self.send(ack).await
    }

    async fn accept(&mut self, wanted: Ranges) -> Result<(), Stop> {
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

    /// Manifest and leaf values, checked against the agreed root and size.
    async fn index(&mut self, offer: &OfferDetail) -> Result<Content, Stop> {
        let wrong =
            |what: &dyn std::fmt::Display| broken(&format!("the content is not the agreed one: {what}"));
        let Some(shape) = offer.dataset else {
            let leaves = self.leaves(Content::leaf_byte_count([offer.size])).await?;
            let (size, root) = (offer.size, offer.root);
            let content = blocking(move || Content::of_file_leaves(size, root, &leaves)).await?;
            return content.map_err(|error| wrong(&error));
        };
        let is_manifest = |frame| match frame {
            FromProvider::Manifest(part) => Ok(part),
            other => Err(other),
        };
        let manifest = self.collect(shape.manifest_bytes, is_manifest).await?;
        let (manifest, root) = blocking(move || {
            let manifest = Manifest::decode(&manifest)?;
            let root = manifest.root();
            Ok::<_, ManifestError>((manifest, root))
        })
        .await?
        .map_err(|error| wrong(&error))?;
        let sizes = || manifest.entries().iter().map(|entry| entry.size);
        if root != offer.root || sizes().sum::<u64>() != offer.size {
            return Err(wrong(&"the manifest has another root or size"));
        }
        let leaves = self.leaves(Content::leaf_byte_count(sizes())).await?;
        let content = blocking(move || Content::of_manifest_leaves(manifest, &leaves)).await?;
        let content = content.map_err(|error| wrong(&error))?;
        if content.groups() != shape.groups || content.files() as u64 != shape.files {
            return Err(wrong(&"the offer names other numbers of files and groups than the manifest has"));
        }
        Ok(content)
    }

    async fn leaves(&mut self, expected: u64) -> Result<BytesMut, Stop> {
        let is_leaves = |frame| match frame {
            FromProvider::Leaves(part) => Ok(part),
            other => Err(other),
        };
        self.collect(expected, is_leaves).await
    }

    /// So many bytes out of frames of one kind.
    async fn collect(
        &mut self,
        expected: u64,
        part_of: impl Fn(FromProvider) -> Result<Bytes, FromProvider> + Send,
    ) -> Result<BytesMut, Stop> {
        // No more than an offer can speak of.
        let most = MAX_GROUPS.saturating_mul(LEAF_BYTES);
        let mut collected = BytesMut::with_capacity(usize::try_from(expected.min(most)).unwrap_or(0));
        while (collected.len() as u64) < expected {
            // Like content it may be kept back by the provider's limits.
            match part_of(self.next_within(PATIENCE).await?) {
                Ok(part)
                    if !part.is_empty()
                        && (collected.len() as u64).saturating_add(part.len() as u64) <= expected =>
                {
                    collected.extend_from_slice(&part);
                }
                Ok(_) => return Err(broken("more leaf values or manifest than the offer speaks of")),
                Err(FromProvider::Statement(bytes)) => return Err(self.unexpected(bytes).await?),
                Err(_) => return Err(broken("content before its manifest and leaf values")),
            }
        }
        Ok(collected)
    }

    /// Takes what is missing, up to the FINAL.
    async fn receive(&mut self, content: Arc<Content>, missing: Ranges) -> Result<Statement, Stop> {
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

    async fn await_final(&mut self) -> Result<Statement, Stop> {
        let mut skipped = 0_u64;
        let bytes = loop {
            match self.next_within(PATIENCE).await? {
                FromProvider::Statement(bytes) => break bytes,
                // A provider that had not heard our acknowledgement begins with these.
                FromProvider::Manifest(part) | FromProvider::Leaves(part) => {
                    skipped = skipped.saturating_add(part.len() as u64);
                    if part.is_empty() || skipped > index_bytes(&self.transfer) {
                        return Err(broken("more leaf values or manifest than there can be"));
                    }
                }
                FromProvider::Chunk { .. } => return Err(broken("bytes where the final was due")),
            }
        };
        let statement = self.statement(bytes.clone())?;
        if statement.kind() != Kind::Final {
            return Err(self.unexpected(bytes).await?);
        }
        let root = read_final(&statement)?;
        if Some(root) != self.transfer.root
            || Some(statement.body().reference) != self.transfer.statements.ack
        {
            return Err(broken("the final does not answer our acknowledgement"));
        }
        Ok(statement)
    }

    /// Puts the file in its place, then records the end.
    async fn finish(&mut self, last: Statement) -> Result<(), Stop> {
        let (part, path) = (self.part_path()?, self.transfer.path.clone().unwrap_or_default());
        let marked = marked_path(&path, &self.transfer.id);
        let path = tokio::task::spawn_blocking(move || publish(&part, &path, marked))
            .await
            .map_err(|error| Stop::Retry(error.to_string()))?
            .map_err(|error| Stop::Retry(format!("the received file cannot be put in its place: {error}")))?;
        self.change("transfer.completed", move |tx, ledger, transfer, _| {
            ledger.admit(tx, &last)?;
            transfer.path = Some(path);
            transfer.statements.last = Some(last.digest());
            transfer.state = TransferState::Completed;
            transfer.finished = Some(ledger.clock().now());
            tables::put_last_completed(tx, transfer)?;
            Ok(())
        })
        .await?;
        Ok(())
    }

    async fn next(&mut self) -> Result<FromProvider, Stop> {
        self.next_within(IDLE).await
    }

    async fn next_within(&mut self, patience: Duration) -> Result<FromProvider, Stop> {
        loop {
            let frame = tokio::select! {
                biased;
                order = order(&mut self.orders) => {
                    self.obey(&order)?;
                    continue;
                }
                frame = timeout(patience, self.frames.next()) => frame.map_err(|_| silent(patience))?,
            };
            return self.frame(frame).await;
        }
    }

    /// Ends this run if the order says so.
    fn obey(&self, order: &Order) -> Result<(), Stop> {
        match order {
            Order::TakenOver => Err(taken_over()),
            Order::LookAgain => {
                let stored = tables::transfer(&self.transfers.ledger().store().view(), &self.transfer.id)?;
                match stored.as_ref().map(stopped) {
                    Some(None) => Ok(()),
                    Some(Some(reason)) => Err(Stop::Retry(reason.to_owned())),
                    None => Err(Stop::Retry("the transfer is gone".to_owned())),
                }
            }
        }
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

    async fn frame(&mut self, frame: Option<Result<FromProvider, PeerError>>) -> Result<FromProvider, Stop> {
        match frame {
            Some(Ok(frame)) => Ok(frame),
            Some(Err(error)) => {
                self.is_cut_off = true;
                Err(self.transfers.peer_failed(&self.transfer, error).await)
            }
            None => {
                self.is_cut_off = true;
                Err(Stop::Retry("the provider closed the exchange".to_owned()))
            }
        }
    }

    /// A statement of the provider about this transfer, or the registrar's certificate of the product.
    fn statement(&self, bytes: Bytes) -> Result<Statement, ServiceError> {
        let ledger = self.transfers.ledger();
        let envelope = Envelope::decode(bytes.clone())?;
        let roots = self.transfers.standing.directory.roots();
        if let Some(root) = roots.entry(envelope.claimed_issuer()) {
            let statement = envelope.verify(&root.statement_key, ledger.space())?;
            // A registrar that is also the provider speaks about the transfer like any other provider.
            if statement.kind() == Kind::AssetCertificate {
                return Ok(statement);
            }
        }
        let statement = statement_of(&self.credential, bytes, ledger)?;
        if statement.kind() == Kind::Refusal {
            if statement.body().subject != self.transfer.id {
                return Err(ServiceError::invalid("statement.subject", "is another transfer"));
            }
        } else {
            check_belongs(&statement, &self.transfer, &self.contract)?;
        }
        Ok(statement)
    }

    /// A statement where none was due: the end of the transfer, or a breach of the protocol.
    async fn unexpected(&mut self, bytes: Bytes) -> Result<Stop, Stop> {
        let statement = self.statement(bytes)?;
        match statement.kind() {
            Kind::Abort => self.aborted(statement).await,
            Kind::Refusal => self.refused(statement).await,
            other => Err(broken(&format!("an unexpected {}", other.name()))),
        }
    }

    async fn refused(&mut self, statement: Statement) -> Result<Stop, Stop> {
        let refusal = read_refusal(&statement)?;
        self.ended_by(statement, refusal.code, refusal.reason).await
    }

    async fn aborted(&mut self, statement: Statement) -> Result<Stop, Stop> {
        let (code, reason) = read_abort(&statement)?;
        self.ended_by(statement, code, reason).await
    }

    async fn ended_by(&mut self, statement: Statement, code: String, reason: String) -> Result<Stop, Stop> {
        let shown = format!("{code}: {reason}");
        self.change("transfer.ended", move |tx, ledger, transfer, _| {
            ledger.admit(tx, &statement)?;
            transfer.terminate(&code, &reason, ledger.clock().now());
            Ok(())
        })
        .await?;
        Ok(Stop::Over(shown))
    }

    /// Ends the transfer for good with our own signed ABORT.
    async fn abort(&mut self, refusal: &Refusal, answered: &Statement) -> Result<Stop, Stop> {
        let (code, reason, answered) = (refusal.code.clone(), refusal.reason.clone(), answered.clone());
        let shown = refusal.to_string();
        let statement = self
            .change("transfer.abort", move |tx, ledger, transfer, contract| {
                // What made us stop is evidence: it is kept with our answer, and where it contradicts what the
                // provider signed before, both are kept as a pair by this very call.
                match ledger.admit(tx, &answered) {
                    Ok(_) | Err(LedgerError::Fork { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                let detail = abort_detail(&code, &reason);
                let statement =
                    issue(tx, ledger, Kind::Abort, transfer, contract, answered.digest(), detail)?;
                transfer.terminate(&code, &reason, ledger.clock().now());
                Ok(statement)
            })
            .await?;
        // It is over and on record, whether or not the provider still listens.
        let _ = self.send(&statement).await;
        self.wait_for_the_end().await;
        Ok(Stop::Over(shown))
    }

    async fn send(&mut self, statement: &Statement) -> Result<(), Stop> {
        let frame = FromConsumer::Statement(statement.bytes().clone());
        match timeout(IDLE, self.out.send(frame)).await {
            // Where the provider has hung up, what it said last is still to be read: it may be a signed end.
            Ok(Ok(()) | Err(_)) => Ok(()),
            Err(_) => Err(Stop::Retry("the provider took nothing for 60 seconds".to_owned())),
        }
    }

    fn stored_offer(&self) -> Result<Statement, ServiceError> {
        let ledger = self.transfers.ledger();
        let digest = self.transfer.statements.offer.unwrap_or(Digest::ZERO);
        ledger
            .statement(&ledger.store().view(), &digest)?
            .ok_or_else(|| ServiceError::Internal("the offer of a transfer is missing".to_owned()))
    }

    fn part_path(&self) -> Result<PathBuf, Stop> {
        part_path(&self.transfer).ok_or_else(|| Stop::Retry("the destination is not known yet".to_owned()))
    }

    /// Changes the stored transfer in one commit and keeps our copy equal to it.
    async fn change<T: Send + 'static>(
        &mut self,
        name: &'static str,
        step: impl FnOnce(&mut Tx<'_>, &Ledger, &mut Transfer, &Contract) -> Result<T, Abort> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let (transfer, value) = self.transfers.change(name, self.transfer.id, &self.contract, step).await?;
        self.transfer = transfer;
        Ok(value)
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

/// A peer that breaks the protocol may be restarting in the middle of a frame; what it signed is checked anew next time.
fn broken(what: &str) -> Stop {
    Stop::Retry(format!("the provider broke the protocol: {what}"))
}

/// The most bytes that manifest and leaf values of a transfer have.
fn index_bytes(transfer: &Transfer) -> u64 {
    let manifest = if transfer.files.is_some() { MAX_MANIFEST_BYTES as u64 } else { 0 };
    transfer.groups.saturating_mul(LEAF_BYTES).saturating_add(manifest)
}

/// How long those may take.
fn index_time(transfer: &Transfer) -> Duration {
    OPENING.saturating_add(Duration::from_secs(index_bytes(transfer) / SLOWEST_INDEX))
}

/// One deadline for several frames: each by itself may take its time.
async fn in_time<T>(limit: Duration, step: impl Future<Output = Result<T, Stop>> + Send) -> Result<T, Stop> {
    let late = || Stop::Retry(format!("the provider was not through within {} seconds", limit.as_secs()));
    timeout(limit, step).await.map_err(|_| late())?
}

/// Does what may take long on a thread that may wait.
async fn blocking<T: Send + 'static>(step: impl FnOnce() -> T + Send + 'static) -> Result<T, Stop> {
    tokio::task::spawn_blocking(step).await.map_err(|error| Stop::Retry(error.to_string()))
}

fn silent(within: Duration) -> Stop {
    Stop::Retry(format!("nothing came from the provider for {} seconds", within.as_secs()))
}

fn taken_over() -> Stop {
    Stop::Retry("another run of this transfer took over".to_owned())
}
