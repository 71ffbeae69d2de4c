//! What comes before the content: the provider's offer, and the index that it is checked by.

use bytes::{Bytes, BytesMut};
use huitong_catalog::{AssetCertificate, AssetKind};
use huitong_contract::Coverage;
use huitong_identity::{Refusal, ServiceError};
use huitong_proof::{Content, Kind, MAX_GROUPS, Manifest, ManifestError, Statement};

use super::{Fetch, LEAF_BYTES, PATIENCE, blocking, broken};
use crate::details::{OfferDetail, UsageDetail};
use crate::model::{FromProvider, TransferState};
use crate::service::consumer::Stop;
use crate::service::destination::free_path;
use crate::{rules, tables};

impl Fetch<'_> {
    /// Statements up to the OFFER: checked, and on record before anything is answered.
    pub(super) async fn opening(&mut self) -> Result<OfferDetail, Stop> {
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

    /// Manifest and leaf values, checked against the agreed root and size.
    pub(super) async fn index(&mut self, offer: &OfferDetail) -> Result<Content, Stop> {
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
}
