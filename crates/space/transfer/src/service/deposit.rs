//! After a delivery that was ordered into a depot: what has been received is put there, file by file, and taken away here.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fs, io};

use huitong_identity::{Delivery, ServiceError};
use huitong_proof::id_text;
use huitong_store::Tx;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Transfers;
use super::destination::{marked_name, plain_name, remove};
use crate::model::{Deposit, DepositState, Transfer};
use crate::peer::{Depot, DepotError};
use crate::tables::deposits::Progress;
use crate::tables::{self, deposits};

/// Where in the node's own directory lies what is on its way into the depot.
const STAGING: &str = ".deposits";
/// How long whoever gives a deposit up waits until nothing of it is under way any more in the depot.
const CLEARING: Duration = Duration::from_secs(20);
const GIVEN_UP: &str = "the deposit was given up";
const NO_DEPOT: &str = "this node has no object storage; add the bucket to its configuration";

impl Transfers {
    /// The same transfers, which can deliver into this depot.
    #[must_use]
    pub fn with_depot(self, depot: Arc<dyn Depot>) -> Self {
        Self { depot: Some(depot), ..self }
    }

    /// Completed transfers that are still to be put into the depot; see [`Transfers::deposit`].
    pub fn open_deposits(&self) -> Result<Vec<[u8; 16]>, ServiceError> {
        deposits::open_ids(&self.ledger().store().view())
    }

    /// Puts a completed transfer into the depot, from where an earlier try has come to. It may be dropped at any time.
    pub async fn deposit(&self, id: &[u8; 16]) -> Result<(), Delivery> {
        let (sender, mut stop) = watch::channel(());
        lock(&self.depositing).insert(*id, sender);
        let tried = tokio::select! {
            biased;
            _ = stop.changed() => return Ok(()),
            tried = self.try_to_deposit(id) => tried,
        };
        lock(&self.depositing).remove(id);
        tried
    }

    async fn try_to_deposit(&self, id: &[u8; 16]) -> Result<(), Delivery> {
        let tried = match self.put_all(id).await {
            // Nothing of it stays there half.
            Err(DepotError::Never(reason)) => self.clear(id).await.and(Err(DepotError::Never(reason))),
            tried => tried,
        };
        let Err(error) = tried else {
            self.note_obstacle(id, None);
            return Ok(());
        };
        let reason = error.to_string();
        if !matches!(error, DepotError::Never(_)) {
            self.note_obstacle(id, Some(reason.clone()));
            return Err(Delivery::Retry(reason));
        }
        self.note_obstacle(id, None);
        let failed = self.give_up(*id, reason.clone()).await;
        failed.map_err(|error| Delivery::Retry(error.to_string()))?;
        Err(Delivery::Dead(reason))
    }

    /// Gives up the deposit of a completed transfer that is not done, for an operator. What was received stays where it lies.
    pub(super) async fn cancel_deposit(&self, id: &[u8; 16], reason: String) -> Result<(), ServiceError> {
        let begun = self.give_up(*id, reason).await?;
        let trying = lock(&self.depositing).remove(id);
        if let Some(trying) = trying {
            trying.send_replace(());
            trying.closed().await;
        }
        self.note_obstacle(id, None);
        let (Some(depot), Some(begun)) = (self.depot.as_deref(), begun) else { return Ok(()) };
        let reason = match timeout(CLEARING, depot.abort(&begun)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(transfer = id_text(id), %reason, "an unfinished upload may be left where a deposit was given up");
        Ok(())
    }

    /// Has a deposit that failed, or was given up, tried again.
    pub(super) async fn resume_deposit(&self, id: &[u8; 16]) -> Result<(), ServiceError> {
        let id = *id;
        let open = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
            let Some(mut transfer) = tables::transfer(tx, &id)? else { return Ok(()) };
            if let Some(deposit) = &mut transfer.deposit
                && deposit.state == DepositState::Failed
            {
                deposit.state = DepositState::Open;
                deposit.reason.clear();
                tables::save(tx, &transfer)?;
            }
            Ok(())
        };
        self.ledger().store().transact("transfer.deposit_again", open).await.map_err(Into::into)
    }

    /// Ends what was begun in the depot and is not finished.
    async fn clear(&self, id: &[u8; 16]) -> Result<(), DepotError> {
        let begun = deposits::progress(&self.ledger().store().view(), id)?.and_then(|begun| begun.upload);
        match (self.depot.as_deref(), begun) {
            (Some(depot), Some(begun)) => match depot.abort(&begun).await {
                // There is nothing that could be ended.
                Err(DepotError::Never(_)) => Ok(()),
                ended => ended,
            },
            _ => Ok(()),
        }
    }

    /// The directory for what one transfer is to put into the depot, and for nothing else.
    pub(crate) fn staging_directory(&self, id: &[u8; 16]) -> PathBuf {
        self.settings.received.join(STAGING).join(id_text(id))
    }

    /// A place in the depot, as it is written down.
    pub(super) fn place(&self, url: &str) -> Result<String, ServiceError> {
        let depot = self.depot.as_ref().ok_or_else(|| {
            ServiceError::invalid(
                "directory",
                format!("{url}: {NO_DEPOT}; name a directory of the node's machine"),
            )
        })?;
        let place = if url.ends_with('/') { url.to_owned() } else { format!("{url}/") };
        depot.check(&place).map_err(|error| ServiceError::invalid("directory", error.to_string()))?;
        Ok(place)
    }

    /// A transfer with the reason why its deposit is not done yet.
    pub(super) fn with_obstacle(&self, mut transfer: Transfer) -> Transfer {
        if transfer.awaits_deposit()
            && let Some(deposit) = &mut transfer.deposit
            && let Some(reason) = lock(&self.obstacles).get(&transfer.id)
        {
            deposit.reason.clone_from(reason);
        }
        transfer
    }

    fn note_obstacle(&self, id: &[u8; 16], reason: Option<String>) {
        let mut obstacles = lock(&self.obstacles);
        let before = match reason.clone() {
            Some(reason) => obstacles.insert(*id, reason),
            None => obstacles.remove(id),
        };
        drop(obstacles);
        if before != reason {
            self.ticks.send_modify(|ticks| *ticks = ticks.wrapping_add(1));
        }
    }

    async fn put_all(&self, id: &[u8; 16]) -> Result<(), DepotError> {
        let view = self.ledger().store().view();
        let found = tables::transfer(&view, id)?.zip(deposits::progress(&view, id)?);
        drop(view);
        let Some((transfer, progress)) = found else { return Ok(()) };
        let (Some(depot), Some(deposit)) = (self.depot.as_deref(), transfer.deposit.clone()) else {
            return Err(DepotError::Again(NO_DEPOT.to_owned()));
        };
        if progress.next < file_count(&transfer) {
            let files = received(&transfer).await?;
            Putting { transfers: self, depot, transfer: &transfer, deposit, files, progress }.run().await?;
        }
        let (staging, shown) = (transfer.directory.clone(), transfer.directory.display().to_string());
        match tokio::task::spawn_blocking(move || take_away(&staging)).await {
            Ok(Ok(())) => Ok(self.conclude_deposit(*id).await?),
            Ok(Err(error)) => Err(DepotError::Again(format!(
                "{shown}: all is deposited, but this cannot be removed: {error}"
            ))),
            Err(error) => Err(DepotError::Again(error.to_string())),
        }
    }

    /// All of it is there, and nothing of it here.
    async fn conclude_deposit(&self, id: [u8; 16]) -> Result<(), ServiceError> {
        self.change_deposit("transfer.deposited", id, |_, path, deposit| {
            deposit.state = DepositState::Done;
            *path = None;
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Gives what was begun in the depot and is not finished.
    ///
    /// # Errors
    /// `Conflict` when all of it is there, and only what lies here is still to be removed.
    async fn give_up(&self, id: [u8; 16], reason: String) -> Result<Option<Vec<u8>>, ServiceError> {
        let begun = self.change_deposit("transfer.not_deposited", id, move |tx, _, deposit| {
            let progress = deposits::progress(tx, &id)?.unwrap_or_default();
            if tables::transfer(tx, &id)?.is_some_and(|transfer| progress.next >= file_count(&transfer)) {
                let reason = "all of it is deposited already, and is only being removed here".to_owned();
                return Err(ServiceError::Conflict { reason });
            }
            deposit.state = DepositState::Failed;
            deposit.reason = reason;
            Ok(progress.upload)
        });
        Ok(begun.await?.flatten())
    }

    /// Changes the path and the deposit of a stored transfer whose deposit is open, in one commit.
    async fn change_deposit<T: Send + 'static>(
        &self,
        name: &'static str,
        id: [u8; 16],
        step: impl FnOnce(&mut Tx<'_>, &mut Option<PathBuf>, &mut Deposit) -> Result<T, ServiceError>
        + Send
        + 'static,
    ) -> Result<Option<T>, ServiceError> {
        let change = move |tx: &mut Tx<'_>| -> Result<Option<T>, ServiceError> {
            let Some(mut transfer) = tables::transfer(tx, &id)?.filter(Transfer::awaits_deposit) else {
                return Ok(None);
            };
            let Some(deposit) = &mut transfer.deposit else { return Ok(None) };
            let changed = step(tx, &mut transfer.path, deposit)?;
            tables::save(tx, &transfer)?;
            Ok(Some(changed))
        };
        self.ledger().store().transact(name, change).await.map_err(Into::into)
    }
}

/// One try.
struct Putting<'a> {
    transfers: &'a Transfers,
    depot: &'a dyn Depot,
    transfer: &'a Transfer,
    deposit: Deposit,
    /// All files, in the order of their paths.
    files: Vec<Received>,
    progress: Progress,
}

/// A file that was received.
struct Received {
    /// Where it lies.
    path: PathBuf,
    /// Where it lies in the dataset; empty for a product that is one file.
    below: String,
    size: u64,
}

impl Putting<'_> {
    async fn run(mut self) -> Result<(), DepotError> {
        if self.deposit.path.is_none() {
            self.settle().await?;
        }
        while self.progress.next < self.files.len() as u64 {
            match self.put_next().await {
                Ok(()) => {}
                Err(DepotError::Exists(reason)) => self.evade(reason).await?,
                Err(DepotError::Lost(reason)) => {
                    if let Some(upload) = self.progress.upload.take() {
                        self.depot.abort(&upload).await?;
                    }
                    self.keep().await?;
                    return Err(DepotError::Lost(reason));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.keep().await?)
    }

    /// Settles on the plain place if nothing is there and no other deposit of this node has it, or is about to: what is there
    /// already is for the depot to say, and what will be there is known here.
    async fn settle(&mut self) -> Result<(), DepotError> {
        let (plain, transfers) = (self.place(false), self.transfers);
        let deciding = Deciding::about(&transfers.deciding, &plain);
        let is_taken = || deposits::is_taken(&transfers.ledger().store().view(), &plain, &self.transfer.id);
        let is_ours = deciding.is_some() && !is_taken()? && self.depot.is_free(&plain).await?;
        let place = self.place(!is_ours);
        self.decide(place).await
    }

    /// The place that the name asks for, or the one that nobody else has.
    fn place(&self, is_marked: bool) -> String {
        let plain = plain_name(self.transfer.name.as_deref().unwrap_or_default());
        let name = if is_marked { marked_name(&plain, &self.transfer.id) } else { plain };
        let end = if self.transfer.files.is_some() { "/" } else { "" };
        format!("{}{name}{end}", self.deposit.location)
    }

    /// Settles on a place, before anything is put there.
    async fn decide(&mut self, place: String) -> Result<(), DepotError> {
        for file in &self.files {
            self.depot.check(&format!("{place}{}", file.below))?;
        }
        self.deposit.path = Some(place.clone());
        self.progress = Progress::default();
        let id = self.transfer.id;
        let decided = self.transfers.change_deposit("transfer.deposit_place", id, move |tx, _, deposit| {
            deposit.path = Some(place);
            deposits::put(tx, &id, &Progress::default())
        });
        match decided.await? {
            Some(()) => Ok(()),
            None => Err(DepotError::Again(GIVEN_UP.to_owned())),
        }
    }

    async fn put_next(&mut self) -> Result<(), DepotError> {
        let index = usize::try_from(self.progress.next).unwrap_or(usize::MAX);
        let Some(file) = self.files.get(index) else { return Ok(()) };
        let is_new = self.progress.upload.is_none();
        if is_new {
            let url = format!("{}{}", self.deposit.path.as_deref().unwrap_or_default(), file.below);
            let mark = format!("{}-{index}", id_text(&self.transfer.id));
            self.progress.upload = Some(self.depot.begin(&url, file.size, &mark).await?.to_vec());
            self.transfers.note_obstacle(&self.transfer.id, None);
            self.keep().await?;
        }
        self.depot.put(self.progress.upload.as_deref().unwrap_or_default(), &file.path, is_new).await?;
        self.progress = Progress { next: self.progress.next.saturating_add(1), upload: None };
        Ok(())
    }

    /// Somebody else has put something there in the meantime. What has none of our files yet moves to its own name.
    async fn evade(&mut self, reason: String) -> Result<(), DepotError> {
        let marked = self.place(true);
        if self.progress.next > 0 || self.deposit.path.as_ref() == Some(&marked) {
            return Err(DepotError::Exists(reason));
        }
        if let Some(upload) = &self.progress.upload {
            self.depot.abort(upload).await?;
        }
        self.decide(marked).await
    }

    /// Stores how far it is.
    async fn keep(&self) -> Result<(), ServiceError> {
        let (id, progress) = (self.transfer.id, self.progress.clone());
        let keep = move |tx: &mut Tx<'_>| -> Result<(), ServiceError> {
            match deposits::progress(tx, &id)? {
                Some(_) => deposits::put(tx, &id, &progress),
                None => Err(ServiceError::Conflict { reason: GIVEN_UP.to_owned() }),
            }
        };
        self.transfers.ledger().store().transact("transfer.deposit", keep).await.map_err(Into::into)
    }
}

/// One deposit decides about a place; others keep away from it until this is dropped.
struct Deciding<'a> {
    deciding: &'a Mutex<HashSet<String>>,
    place: String,
}

impl<'a> Deciding<'a> {
    /// `None` while another one does.
    fn about(deciding: &'a Mutex<HashSet<String>>, place: &str) -> Option<Self> {
        lock(deciding).insert(place.to_owned()).then(|| Self { deciding, place: place.to_owned() })
    }
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        lock(self.deciding).remove(&self.place);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn file_count(transfer: &Transfer) -> u64 {
    transfer.files.unwrap_or(1)
}

/// The files of a completed transfer, which lie where nobody else puts any.
async fn received(transfer: &Transfer) -> Result<Vec<Received>, DepotError> {
    let is_whole = |files: &[Received]| {
        files.len() as u64 == file_count(transfer)
            && files.iter().map(|file| file.size).sum::<u64>() == transfer.size
    };
    let (path, is_dataset) = (transfer.path.clone().unwrap_or_default(), transfer.files.is_some());
    let shown = path.display().to_string();
    let found = tokio::task::spawn_blocking(move || if is_dataset { files_below(&path) } else { file(path) });
    match found.await {
        Ok(Ok(files)) if is_whole(&files) => Ok(files),
        Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
            Err(DepotError::Again(format!("{shown}: cannot be read: {error}")))
        }
        // Its disk may come back.
        Ok(_) if !transfer.directory.exists() => Err(DepotError::Again(format!(
            "{shown}: is not there; bring it back, or cancel the transfer to give the deposit up"
        ))),
        Ok(_) => Err(DepotError::Never(format!(
            "{shown}: what was received is not there any more as it was; fetch it again"
        ))),
        Err(error) => Err(DepotError::Again(error.to_string())),
    }
}

fn file(path: PathBuf) -> io::Result<Vec<Received>> {
    let size = fs::symlink_metadata(&path)?.len();
    Ok(vec![Received { path, below: String::new(), size }])
}

fn files_below(directory: &Path) -> io::Result<Vec<Received>> {
    let mut files = Vec::new();
    let mut waiting = vec![(directory.to_owned(), String::new())];
    while let Some((directory, below)) = waiting.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name =
                entry.file_name().into_string().map_err(|_| io::Error::other("a name is not UTF-8"))?;
            let metadata = entry.metadata()?;
            let (path, below) = (entry.path(), format!("{below}{name}"));
            if metadata.is_dir() {
                waiting.push((path, format!("{below}/")));
            } else {
                files.push(Received { path, below, size: metadata.len() });
            }
        }
    }
    files.sort_unstable_by(|left, right| left.below.cmp(&right.below));
    Ok(files)
}

/// Removes what is deposited, for good; nothing to remove is fine.
fn take_away(staging: &Path) -> io::Result<()> {
    match remove(staging) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    fs::File::open(staging.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()
}

impl From<ServiceError> for DepotError {
    fn from(error: ServiceError) -> Self {
        Self::Again(error.to_string())
    }
}
