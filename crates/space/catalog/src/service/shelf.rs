//! The connector's side: publishing files and datasets, and knowing what is on offer here.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use huitong_identity::{Directory, Membership, Role, ServiceError};
use huitong_ids::{DataId, DataType};
use huitong_ledger::Ledger;
use huitong_policy::Policy;
use huitong_proof::{Content, ContentRoot, Digest, Draft, Kind, Manifest, Statement, Timestamp};
use huitong_store::{Outgoing, Read, Tx};

use super::{Abort, aborted};
use crate::model::{
    AssetKind, FileName, ListingRecord, ProductRecord, Publication, PublicationState, Publish, Registration,
    ResourceRecord, ShelfProduct, Source, SourceFile, file_name_of, stamp, walk,
};
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
        }
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
        let publish = publish.normalised();
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
        let file_name = file_name_of(&publish.file)?;
        self.check_offer(&publish, &file_name)?;
        let source = self.read_source(&publish, progress).await?;
        let row = self.first_row(publish, request, file_name, source)?;
        let this = self.clone();
        let committed =
            self.ledger.store().transact("catalog.publish", move |tx| this.begin(tx, &id, row)).await;
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

    /// A product that this connector offers; `None` when it does not, or not yet.
    pub fn product(&self, id: &DataId) -> Result<Option<ShelfProduct>, ServiceError> {
        self.product_in(&self.ledger.store().view(), id)
    }

    /// As [`Shelf::product`], within a transaction or on a view.
    ///
    /// A product counts from the moment its LISTING is signed: the registrar may show it to others before its answer
    /// has come back.
    pub fn product_in(&self, r: &impl Read, id: &DataId) -> Result<Option<ShelfProduct>, ServiceError> {
        let Some(publication) = tables::publication_of(r, id)? else { return Ok(None) };
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
        Ok(Some(ShelfProduct {
            product: product.id,
            record: ProductRecord::decode(&record)?,
            certificate: certificate.ok_or_else(|| tables::damaged("a certificate is not in the ledger"))?,
            listing: ListingRecord::decode(&listing)?,
            source: row.source,
        }))
    }

    /// What a product consists of, from what was kept at publication: manifest and leaves, checked against the root.
    /// Blocks on the file system.
    pub fn content(&self, product: &ShelfProduct) -> Result<Content, ServiceError> {
        self.trees.content(&product.source).map_err(|error| {
            let place = self.trees.dir.join(product.source.root.to_string());
            let next_step = "publish it again under a new id";
            ServiceError::Internal(format!("{}: {error}; {next_step}", place.display()))
        })
    }

    /// Everything that can be known to be wrong before the file is read, which may take long.
    fn check_offer(&self, publish: &Publish, file_name: &FileName) -> Result<(), ServiceError> {
        Policy::parse(&publish.policy).map_err(|error| ServiceError::invalid("policy", error))?;
        let nothing = Source {
            path: publish.file.clone(),
            size: 0,
            root: Content::of_bytes(&[]).root(),
            files: None,
            stamp: stamp(&[]),
        };
        let resource = self.resource_record(publish, &nothing);
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
        self.listing_record(&row, &product, stand_in(DataType::Product)?).encode()?;
        Ok(())
    }

    /// Reads everything once and keeps the tree.
    async fn read_source(
        &self,
        publish: &Publish,
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<Source, ServiceError> {
        let (file, trees) = (publish.file.clone(), Arc::clone(&self.trees));
        let work = move || {
            let (source, content) = read_source(&file, progress)?;
            trees
                .keep(&content)
                .map_err(|error| ServiceError::Internal(format!("{}: {error}", trees.dir.display())))?;
            Ok(source)
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
    ) -> Result<PublicationRow, ServiceError> {
        let resource = self.resource_record(&publish, &source).encode()?;
        Ok(self.row(&publish, request, file_name, source, resource))
    }

    /// Commits the publication with its first statement and message, unless somebody was faster.
    fn begin(
        &self,
        tx: &mut Tx<'_>,
        id: &[u8; 16],
        mut row: PublicationRow,
    ) -> Result<PublicationRow, Abort> {
        if let Some(earlier) = tables::publication(tx, id)? {
            return Ok(earlier);
        }
        row.created = Timestamp::from_millis(tx.time());
        let record = row.resource_record.clone();
        self.ask_to_register(tx, id, AssetKind::Resource, record)?;
        self.save(tx, id, &mut row)?;
        Ok(row)
    }

    /// Signs a REGISTRATION for the record and sends both to the registrar.
    pub(crate) fn ask_to_register(
        &self,
        tx: &mut Tx<'_>,
        id: &[u8; 16],
        kind: AssetKind,
        record: Vec<u8>,
    ) -> Result<(), Abort> {
        let registration = Registration { kind, record: Digest::sha256(&record) };
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

    fn resource_record(&self, publish: &Publish, source: &Source) -> ResourceRecord {
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
            sha256: None,
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
        }
    }

    /// The first listing of a product.
    pub(crate) fn listing_record(
        &self,
        row: &PublicationRow,
        product: &ProductRecord,
        product_id: DataId,
    ) -> ListingRecord {
        ListingRecord {
            product: product_id,
            provider: product.provider.clone(),
            name: product.name.clone(),
            intro: product.intro.clone(),
            policy: row.policy.clone(),
            price: row.price.clone(),
            version: 1,
            window_bytes: row.window_bytes,
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

/// Hashes a file or the files of a directory, which must be at rest meanwhile.
fn read_source(file: &Path, mut progress: impl FnMut(u64)) -> Result<(Source, Content), ServiceError> {
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
    let content = match &listed {
        None => Content::of_file(&path, &mut progress),
        Some(files) => Content::of_dataset(files, &mut progress),
    }
    .map_err(|error| unreadable(&path, &error))?;
    // The manifest has the files in the order in which they were found.
    let after = match &listed {
        Some(files) if walk(&path)? != *files => None,
        _ => Some(look()?),
    };
    if after.as_ref() != Some(&before) {
        let reason = format!("{} changed while it was read; publish it when it is at rest", path.display());
        return Err(ServiceError::Conflict { reason });
    }
    let files = listed.map(|files| files.len() as u64);
    let source = Source { size: content.size(), root: content.root(), files, stamp: stamp(&before), path };
    Ok((source, content))
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
