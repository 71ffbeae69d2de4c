//! The connector's side: publishing files and datasets, and knowing what is on offer here.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use huitong_identity::{Directory, Membership, Role, ServiceError};
use huitong_ids::{DataId, DataType};
use huitong_ledger::Ledger;
use huitong_policy::Policy;
use huitong_proof::{
    Content, ContentRoot, Digest, DigestsInOrder, Draft, FileDigests, GroupPlace, Kind, Manifest, Statement,
    Timestamp, WantedDigests,
};
use huitong_store::{Outgoing, Read, Tx};

use super::{Abort, aborted};
use crate::model::{
    Announcement, AssetCertificate, AssetKind, Classification, FileName, ListingRecord, OpenSource, Place,
    ProductRecord, Publication, PublicationState, Publish, Registration, ResourceRecord, ShelfProduct,
    Source, SourceFile, list, seal, stamp, walk,
};
use crate::peer::Elsewhere;
use crate::tables::{self, PublicationRow};
use crate::workers::{Message, Step, TOPIC};

/// How the files of [`Trees`] end.
const MANIFEST: &str = "manifest";
/// As above.
const LEAVES: &str = "leaves";

/// The most publications that one call lists.
const MAX_LISTED: usize = 1_000;

/// What a connector publishes.
#[derive(Debug, Clone)]
pub struct Shelf {
    pub(crate) ledger: Ledger,
    pub(crate) membership: Membership,
    pub(crate) directory: Directory,
    trees: Arc<Trees>,
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

impl Shelf {
    /// The publications kept in the ledger's store; the manifests and the leaves of their content trees are files in
    /// `trees_dir`, which is made when it is first needed. `directory` says which registrar's answers to believe.
    pub fn new(ledger: Ledger, membership: Membership, directory: Directory, trees_dir: PathBuf) -> Self {
        Self {
            ledger,
            membership,
            directory,
            trees: Arc::new(Trees { dir: trees_dir, writing: Mutex::new(()) }),
            elsewhere: None,
        }
    }

    /// The same shelf, which also publishes what this reaches.
    #[must_use]
    pub fn reaching(self, elsewhere: Arc<dyn Elsewhere>) -> Self {
        Self { elsewhere: Some(elsewhere), ..self }
    }

    /// What a file, a directory or what lies at a URL is called: what consumers save it as.
    ///
    /// # Errors
    /// `Invalid` when it has no name, or none that is a file name.
    pub fn file_name(&self, file: &Path) -> Result<FileName, ServiceError> {
        Place::named(file).file_name(self.elsewhere.as_ref())
    }

    /// Looks for the files of a product, and whether they still are what was published; blocks. See [`Source::open`].
    pub fn open(&self, product: &ShelfProduct, content: &Content) -> Result<OpenSource, ServiceError> {
        product.source.open(content, self.elsewhere.as_ref())
    }

    /// Begins to publish a file, or a directory as a dataset: computes the root, keeps the tree, and asks the registrar.
    ///
    /// `progress` hears how many bytes have been read. Returns once the request is durable; [`Shelf::deliver`] takes it
    /// from there, and [`Shelf::publication`] tells how far it has come. The same request again gives the same
    /// publication; another request with the same id is a conflict.
    pub async fn publish(
        &self,
        publish: Publish,
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<Publication, ServiceError> {
        let mut publish = publish.normalised();
        let request = publish.fingerprint();
        if let Some(row) = tables::publication(&self.ledger.store().view(), &publish.id)? {
            return same_request(&publish.id, row, &request);
        }
        if !self.membership.credential().roles.contains(&Role::Provider) {
            let reason =
                "this node is not registered as a provider; ask the registrar for that role".to_owned();
            return Err(ServiceError::Forbidden { reason });
        }
        let id = publish.id;
        let file_name = self.file_name(&publish.file)?;
        let renewed = renewed(&self.ledger.store().view(), publish.renews.as_ref())?;
        let renews = publish.renews.clone().zip(renewed.as_ref().map(|(before, _)| *before));
        if let Some((_, renewed)) = &renewed {
            keep(&mut publish, renewed)?;
        }
        self.check_offer(&publish, &file_name)?;
        let (source, digests) = self.read_source(&publish, progress).await?;
        if renewed.is_some_and(|(_, renewed)| renewed.source.root == source.root) {
            let reason = "the newest version of the product has this very content".to_owned();
            return Err(ServiceError::Conflict { reason });
        }
        let row = self.first_row(publish, request, file_name, source, digests)?;
        let this = self.clone();
        let committed =
            self.ledger.store().transact("catalog.publish", move |tx| this.begin(tx, &id, row, renews)).await;
        match committed {
            Ok(row) => same_request(&id, row, &request),
            Err(error) => Err(aborted(&self.ledger, error).await),
        }
    }

    /// One publication, by the id under which it was asked for.
    pub fn publication(&self, id: &[u8; 16]) -> Result<Option<Publication>, ServiceError> {
        let row = tables::publication(&self.ledger.store().view(), id)?;
        row.map(|row| row.publication(*id)).transpose()
    }

    /// Publications in the order of their ids, those after `after`, at most `limit` and never more than 1000.
    pub fn publications(
        &self,
        after: Option<&[u8; 16]>,
        limit: usize,
    ) -> Result<Vec<Publication>, ServiceError> {
        let view = self.ledger.store().view();
        let after = after.map(<[u8; 16]>::as_slice);
        view.scan(&tables::PUBLICATIONS, &[], after, limit.min(MAX_LISTED))?
            .into_iter()
            .map(|row| {
                let id = <[u8; 16]>::try_from(row.key.as_slice())
                    .map_err(|_| tables::damaged("a publication id is not 16 bytes"))?;
                PublicationRow::decode(&row.value)?.publication(id)
            })
            .collect()
    }

    /// The newest version of a product that this connector offers; `None` when it does not, or not yet.
    pub fn product(&self, id: &DataId) -> Result<Option<ShelfProduct>, ServiceError> {
        self.product_in(&self.ledger.store().view(), id)
    }

    /// As [`Shelf::product`], within a transaction or on a view.
    ///
    /// A product counts from the moment its LISTING is signed: the registrar may show it to others before its answer
    /// has come back. A new version takes the place of the one before when the registrar has listed it, which may be hours
    /// later, or never.
    pub fn product_in(&self, r: &impl Read, id: &DataId) -> Result<Option<ShelfProduct>, ServiceError> {
        self.offered(r, tables::publication_of(r, id)?)
    }

    /// The version of a product that has this content; `None` when there is none.
    pub fn version(&self, id: &DataId, root: &ContentRoot) -> Result<Option<ShelfProduct>, ServiceError> {
        let view = self.ledger.store().view();
        match self.product_in(&view, id)? {
            Some(newest) if newest.source.root == *root => Ok(Some(newest)),
            _ => self.offered(&view, tables::publication_of_version(&view, id, root)?),
        }
    }

    /// The next product of whose newest version consumers are yet to hear.
    pub fn unannounced(&self, r: &impl Read) -> Result<Option<Announcement>, ServiceError> {
        tables::announcement(r)
    }

    /// Those up to this negotiation, or all of them, have been told of the product's newest version.
    pub fn announced(
        &self,
        tx: &mut Tx<'_>,
        product: &DataId,
        up_to: Option<&[u8; 16]>,
    ) -> Result<(), ServiceError> {
        match up_to {
            Some(_) => tables::announce(tx, product, up_to),
            None => tables::announced(tx, product),
        }
    }

    fn offered(
        &self,
        r: &impl Read,
        publication: Option<[u8; 16]>,
    ) -> Result<Option<ShelfProduct>, ServiceError> {
        let Some(publication) = publication else { return Ok(None) };
        let row = tables::publication(r, &publication)?;
        let row = row.ok_or_else(|| tables::damaged("a product is without its publication"))?;
        match row.state {
            PublicationState::Listing | PublicationState::Listed => {}
            PublicationState::RegisteringResource
            | PublicationState::RegisteringProduct
            | PublicationState::Failed => return Ok(None),
        }
        let (Some(product), Some(record), Some(listing)) =
            (row.product, row.product_record, row.listing_record)
        else {
            return Err(tables::damaged("a listed publication lacks its product or listing"));
        };
        let certificate = self.ledger.statement(r, &product.certificate)?;
        let certificate = certificate.ok_or_else(|| tables::damaged("a certificate is not in the ledger"))?;
        Ok(Some(ShelfProduct {
            product: product.id,
            record: ProductRecord::decode(&record)?,
            version: AssetCertificate::from_statement(&certificate)?.version,
            certificate,
            listing: ListingRecord::decode(&listing)?,
            source: row.source,
        }))
    }

    /// What a product consists of, from what was kept at publication: manifest and leaves, checked against the root.
    /// Blocks on the file system.
    pub fn content(&self, product: &ShelfProduct) -> Result<Content, ServiceError> {
        self.trees.content(&product.source).map_err(|error| {
            // What is there and cannot be read now may be read later.
            let passes = error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() != std::io::ErrorKind::NotFound);
            if passes {
                return ServiceError::Busy { reason: format!("{}: {error}", self.trees.dir.display()) };
            }
            let place = self.trees.dir.join(product.source.root.to_string());
            let next_step = "publish it again under a new id";
            ServiceError::Internal(format!("{}: {error}; {next_step}", place.display()))
        })
    }

    /// Everything that can be known to be wrong before the file is read, which may take long.
    fn check_offer(&self, publish: &Publish, file_name: &FileName) -> Result<(), ServiceError> {
        Policy::parse(&publish.policy).map_err(|error| ServiceError::invalid("policy", error))?;
        let nothing = Source {
            place: Place::named(&publish.file),
            size: 0,
            root: Content::of_bytes(&[]).root(),
            files: None,
            stamp: stamp(&[]),
            seal: Digest::ZERO,
        };
        let resource = self.resource_record(publish, &nothing, FileDigests::default());
        resource.encode()?;
        let credential = self.membership.credential();
        let segment = self.membership.node().segment();
        let stand_in = |data_type| {
            DataId::mint(data_type, &credential.entity, &segment, [0; 16], None)
                .map_err(|error| ServiceError::Internal(error.to_string()))
        };
        let row = self.row(publish, Digest::ZERO, file_name.clone(), nothing, Vec::new());
        let product = self.product_record(&row, &resource, stand_in(DataType::Resource)?);
        product.encode()?;
        self.listing_record(&row, &product, stand_in(DataType::Product)?, 1).encode()?;
        let has_many_files = match Place::named(&publish.file) {
            Place::Here(path) => path.is_dir(),
            Place::Elsewhere(url) => Place::is_prefix(&url),
        };
        if publish.digests.any() && has_many_files {
            let reason = "are of one file; publish a file, or leave them out";
            return Err(ServiceError::invalid("digests", reason));
        }
        Ok(())
    }

    /// Reads everything and keeps the tree.
    async fn read_source(
        &self,
        publish: &Publish,
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<(Source, FileDigests), ServiceError> {
        let (place, wanted) = (Place::named(&publish.file), publish.digests);
        let (trees, elsewhere) = (Arc::clone(&self.trees), self.elsewhere.clone());
        let work = move || {
            let (source, content, digests) = match place {
                Place::Here(file) => read_source(&file, wanted, progress)?,
                Place::Elsewhere(url) => read_elsewhere(url, wanted, elsewhere.as_ref(), progress)?,
            };
            trees
                .keep(&content)
                .map_err(|error| ServiceError::Internal(format!("{}: {error}", trees.dir.display())))?;
            Ok((source, digests))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(source) => source,
            Err(error) => Err(ServiceError::Internal(format!("reading the file was interrupted: {error}"))),
        }
    }

    fn first_row(
        &self,
        publish: Publish,
        request: Digest,
        file_name: FileName,
        source: Source,
        digests: FileDigests,
    ) -> Result<PublicationRow, ServiceError> {
        let resource = self.resource_record(&publish, &source, digests).encode()?;
        Ok(self.row(&publish, request, file_name, source, resource))
    }

    /// Commits the publication with its first statement and message, unless somebody was faster. It takes over from the
    /// publication that it was made from, of the product that it renews.
    fn begin(
        &self,
        tx: &mut Tx<'_>,
        id: &[u8; 16],
        mut row: PublicationRow,
        renews: Option<(DataId, [u8; 16])>,
    ) -> Result<PublicationRow, Abort> {
        if let Some(earlier) = tables::publication(tx, id)? {
            return Ok(earlier);
        }
        let mut resource = None;
        let (product, expected) = renews.unzip();
        if let Some((before, mut renewed)) = renewed(tx, product.as_ref())? {
            if Some(before) != expected {
                let reason = "another version was published while this one was read; publish it again";
                return Err(ServiceError::Conflict { reason: reason.to_owned() }.into());
            }
            resource = renewed.resource.as_ref().map(|resource| resource.id.clone());
            renewed.renewed_by = Some(*id);
            self.save(tx, &before, &mut renewed)?;
            row.renews = Some(before);
        }
        row.created = Timestamp::from_millis(tx.time());
        let record = row.resource_record.clone();
        self.ask_to_register(tx, id, AssetKind::Resource, record, resource)?;
        self.save(tx, id, &mut row)?;
        Ok(row)
    }

    /// Signs a REGISTRATION for the record, as a new version of `renews`, and sends both to the registrar.
    pub(crate) fn ask_to_register(
        &self,
        tx: &mut Tx<'_>,
        id: &[u8; 16],
        kind: AssetKind,
        record: Vec<u8>,
        renews: Option<DataId>,
    ) -> Result<(), Abort> {
        let registration = Registration { kind, record: Digest::sha256(&record), renews };
        let statement = self.say(tx, id, Kind::Registration, Digest::ZERO, registration.to_detail())?;
        self.send(tx, id, Step::Register(kind), &statement, record)
    }

    /// Signs a statement about a publication to the registrar.
    pub(crate) fn say(
        &self,
        tx: &mut Tx<'_>,
        id: &[u8; 16],
        kind: Kind,
        reference: Digest,
        detail: huitong_proof::cbor::Map,
    ) -> Result<Statement, Abort> {
        let audience = self.membership.registrar().to_string();
        let draft = Draft { kind, audience, subject: *id, agreement: Digest::ZERO, reference, detail };
        Ok(self.ledger.issue(tx, draft)?)
    }

    /// Queues a message to the registrar.
    pub(crate) fn send(
        &self,
        tx: &mut Tx<'_>,
        id: &[u8; 16],
        step: Step,
        statement: &Statement,
        record: Vec<u8>,
    ) -> Result<(), Abort> {
        let message =
            Message { publication: *id, step, statement: statement.bytes().clone(), record: record.into() };
        tx.send(Outgoing {
            destination: self.membership.registrar().to_string(),
            topic: TOPIC.to_owned(),
            payload: message.encode(),
        })?;
        Ok(())
    }

    pub(crate) fn save(&self, tx: &mut Tx<'_>, id: &[u8; 16], row: &mut PublicationRow) -> Result<(), Abort> {
        row.updated = Timestamp::from_millis(tx.time());
        tx.put(&tables::PUBLICATIONS, id, &row.encode())?;
        Ok(())
    }

    fn row(
        &self,
        publish: &Publish,
        request: Digest,
        file_name: FileName,
        source: Source,
        resource_record: Vec<u8>,
    ) -> PublicationRow {
        PublicationRow {
            state: PublicationState::RegisteringResource,
            request,
            source,
            file_name,
            delivery_form: publish.classification.delivery_form,
            policy: publish.policy.clone(),
            price: publish.price.clone(),
            window_bytes: publish.window_bytes,
            series: publish.series,
            push: publish.push,
            renews: None,
            renewed_by: None,
            resource_record,
            resource: None,
            product_record: None,
            product: None,
            listing_record: None,
            reason: None,
            created: Timestamp::from_millis(0),
            updated: Timestamp::from_millis(0),
        }
    }

    fn resource_record(&self, publish: &Publish, source: &Source, digests: FileDigests) -> ResourceRecord {
        let credential = self.membership.credential();
        let class = &publish.classification;
        ResourceRecord {
            name: publish.name.clone(),
            summary: publish.intro.clone(),
            holder: credential.entity.clone(),
            holder_name: credential.name.clone(),
            ownership: class.ownership,
            origin: class.origin,
            format: class.format,
            update_frequency: class.update_frequency,
            security_level: class.security_level,
            grade: class.grade,
            personal_information: class.personal_information,
            size: source.size,
            root: source.root,
            digests,
            legacy_code: class.legacy_code.clone(),
        }
    }

    /// The product made of one registered resource, as it is.
    pub(crate) fn product_record(
        &self,
        row: &PublicationRow,
        resource: &ResourceRecord,
        resource_id: DataId,
    ) -> ProductRecord {
        ProductRecord {
            name: resource.name.clone(),
            intro: resource.summary.clone(),
            delivery_form: row.delivery_form,
            provider_entity: resource.holder.clone(),
            provider: self.membership.node().clone(),
            derived_from: vec![resource_id],
            size: row.source.size,
            root: row.source.root,
            update_frequency: resource.update_frequency,
            security_level: resource.security_level,
            grade: resource.grade,
            personal_information: resource.personal_information,
            file_name: row.file_name.clone(),
            files: row.source.files,
            digests: resource.digests.clone(),
        }
    }

    /// The listing of a product.
    pub(crate) fn listing_record(
        &self,
        row: &PublicationRow,
        product: &ProductRecord,
        product_id: DataId,
        version: u64,
    ) -> ListingRecord {
        ListingRecord {
            product: product_id,
            provider: product.provider.clone(),
            name: product.name.clone(),
            intro: product.intro.clone(),
            policy: row.policy.clone(),
            price: row.price.clone(),
            version,
            window_bytes: row.window_bytes,
            series: row.series,
        }
    }
}

fn same_request(id: &[u8; 16], row: PublicationRow, request: &Digest) -> Result<Publication, ServiceError> {
    if row.request == *request {
        return row.publication(*id);
    }
    Err(ServiceError::Conflict {
        reason: "this publication id already stands for another request; choose a new id".to_owned(),
    })
}

/// The publication that makes the newest version of the product that is to be renewed.
fn renewed(
    r: &impl Read,
    renews: Option<&DataId>,
) -> Result<Option<([u8; 16], PublicationRow)>, ServiceError> {
    let Some(product) = renews else { return Ok(None) };
    let unknown =
        || ServiceError::NotFound { what: format!("product {product} among what this node publishes") };
    let id = tables::publication_of(r, product)?.ok_or_else(unknown)?;
    let row = tables::publication(r, &id)?.ok_or_else(unknown)?;
    let under_way = match &row.renewed_by {
        None => row.state != PublicationState::Listed,
        Some(next) => {
            tables::publication(r, next)?.is_some_and(|next| next.state != PublicationState::Failed)
        }
    };
    if under_way {
        let reason =
            format!("a version of product {product} is under way; publish the next one when it is listed");
        return Err(ServiceError::Conflict { reason });
    }
    Ok(Some((id, row)))
}

/// Fills what a new version leaves open with what the version before says.
fn keep(publish: &mut Publish, renewed: &PublicationRow) -> Result<(), ServiceError> {
    let before = ResourceRecord::decode(&renewed.resource_record)?;
    let fill = |text: &mut String, before: String| {
        if text.is_empty() {
            *text = before;
        }
    };
    fill(&mut publish.name, before.name);
    fill(&mut publish.intro, before.summary);
    fill(&mut publish.price, renewed.price.clone());
    if publish.policy.is_empty() {
        publish.policy.clone_from(&renewed.policy);
    }
    if publish.window_bytes == 0 {
        publish.window_bytes = renewed.window_bytes;
    }
    publish.series = renewed.series;
    publish.classification = Classification {
        ownership: before.ownership,
        origin: before.origin,
        format: before.format,
        delivery_form: renewed.delivery_form,
        update_frequency: before.update_frequency,
        security_level: before.security_level,
        grade: before.grade,
        personal_information: before.personal_information,
        legacy_code: before.legacy_code,
    };
    Ok(())
}

/// Hashes a file or the files of a directory, which must be at rest meanwhile.
fn read_source(
    file: &Path,
    wanted: WantedDigests,
    mut progress: impl FnMut(u64) + Send,
) -> Result<(Source, Content, FileDigests), ServiceError> {
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        ServiceError::invalid("file", format!("{} cannot be read: {error}", path.display()))
    };
    let path = fs::canonicalize(file).map_err(|error| unreadable(file, &error))?;
    let listed = if path.is_dir() { Some(walk(&path)?) } else { None };
    let look = || -> Result<Vec<SourceFile>, ServiceError> {
        match &listed {
            None => Ok(vec![SourceFile::look(path.clone())?]),
            Some(files) => files.iter().map(|(_, path)| SourceFile::look(path.clone())).collect(),
        }
    };
    let before = look()?;
    let (content, digests) = std::thread::scope(|scope| {
        let digests = scope.spawn(|| wanted.of_file(&path));
        let content = match &listed {
            None => Content::of_file(&path, &mut progress),
            Some(files) => Content::of_dataset(files, &mut progress),
        };
        (content, digests.join().unwrap_or_else(|_| Err(std::io::Error::other("hashing died"))))
    });
    let content = content.map_err(|error| unreadable(&path, &error))?;
    let digests = digests.map_err(|error| unreadable(&path, &error))?;
    // The manifest has the files in the order in which they were found.
    let after = match &listed {
        Some(files) if walk(&path)? != *files => None,
        _ => Some(look()?),
    };
    let seen = |files: &[SourceFile]| (stamp(files), seal(files));
    if after.as_deref().map(seen) != Some(seen(&before)) {
        let reason = format!("{} changed while it was read; publish it when it is at rest", path.display());
        return Err(ServiceError::Conflict { reason });
    }
    let files = listed.map(|files| files.len() as u64);
    let (size, root, place) = (content.size(), content.root(), Place::Here(path));
    let source = Source { place, size, root, files, stamp: stamp(&before), seal: seal(&before) };
    Ok((source, content, digests))
}

/// Hashes an object, or the objects below a prefix, each in the version in which it is listed.
fn read_elsewhere(
    url: String,
    wanted: WantedDigests,
    elsewhere: Option<&Arc<dyn Elsewhere>>,
    mut progress: impl FnMut(u64),
) -> Result<(Source, Content, FileDigests), ServiceError> {
    let files = list(&url, elsewhere)?;
    let names =
        Place::is_prefix(&url).then(|| files.iter().map(|file| file.name.clone()).collect::<Vec<_>>());
    let sizes: Vec<u64> = files.iter().map(|file| file.size).collect();
    let (mut open, mut done, mut digests) = (None, 0_u64, DigestsInOrder::new(wanted));
    let read = |place: GroupPlace, buffer: &mut Vec<u8>| -> Result<(), Unread> {
        let mut reader = match open.take() {
            Some((at, reader)) if at == place.file => reader,
            _ => files.get(place.file).ok_or_else(|| Unread(missing()))?.reader()?,
        };
        let length = usize::try_from(place.length).unwrap_or(usize::MAX);
        reader.append(place.offset, length, buffer)?;
        open = Some((place.file, reader));
        digests.update(buffer);
        done = done.saturating_add(place.length);
        progress(done);
        Ok(())
    };
    let dataset = names.as_ref().map(|names| names.len() as u64);
    let place = Place::Elsewhere(url);
    let content = Content::of_groups(names, &sizes, read).map_err(|Unread(error)| match error {
        ServiceError::Invalid { field, reason } => {
            ServiceError::Invalid { field, reason: format!("{place}: {reason}") }
        }
        other => other,
    })?;
    let (size, root) = (content.size(), content.root());
    let source = Source { place, size, root, files: dataset, stamp: stamp(&files), seal: Digest::ZERO };
    Ok((source, content, digests.finish()))
}

fn missing() -> ServiceError {
    ServiceError::Internal("a listed file is missing".to_owned())
}

/// Why a content elsewhere was not read.
struct Unread(ServiceError);

impl From<ServiceError> for Unread {
    fn from(error: ServiceError) -> Self {
        Self(error)
    }
}

impl From<std::io::Error> for Unread {
    fn from(error: std::io::Error) -> Self {
        Self(ServiceError::invalid("file", error.to_string()))
    }
}

/// Manifests and leaves of content trees, one file for each root.
#[derive(Debug)]
struct Trees {
    dir: PathBuf,
    /// Two publications of one file would otherwise write one temporary file.
    writing: Mutex<()>,
}

impl Trees {
    fn content(&self, source: &Source) -> Result<Content, Box<dyn std::error::Error>> {
        // There is nothing to know about the groups of files of one group but their roots.
        let leaves = |sizes: &mut dyn Iterator<Item = u64>| match Content::leaf_byte_count(sizes) {
            0 => Ok(Vec::new()),
            _ => fs::read(self.path(&source.root, LEAVES)),
        };
        if source.files.is_none() {
            let leaves = leaves(&mut std::iter::once(source.size))?;
            return Ok(Content::of_file_leaves(source.size, source.root, &leaves)?);
        }
        let manifest = Manifest::decode(&fs::read(self.path(&source.root, MANIFEST))?)?;
        if manifest.root() != source.root {
            return Err("the manifest is another one".into());
        }
        let leaves = leaves(&mut manifest.entries().iter().map(|entry| entry.size))?;
        Ok(Content::of_manifest_leaves(manifest, &leaves)?)
    }

    fn path(&self, root: &ContentRoot, what: &str) -> PathBuf {
        self.dir.join(format!("{root}.{what}"))
    }

    /// Writes each file so that it is either absent or whole, also after a power failure.
    fn keep(&self, content: &Content) -> std::io::Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(&self.dir)?;
        if let Some(manifest) = content.manifest() {
            self.write(&content.root(), MANIFEST, manifest.encoded())?;
        }
        let leaves = content.leaf_bytes();
        if !leaves.is_empty() {
            self.write(&content.root(), LEAVES, &leaves)?;
        }
        File::open(&self.dir)?.sync_all()
    }

    fn write(&self, root: &ContentRoot, what: &str, bytes: &[u8]) -> std::io::Result<()> {
        let temporary = self.path(root, "tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(root, what))
    }
}
