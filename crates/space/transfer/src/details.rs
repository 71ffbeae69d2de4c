//! The details of the transfer's statements (kinds 1 to 9), as `docs/receipt-format.md` fixes them.

use huitong_catalog::FileName;
use huitong_identity::ServiceError;
use huitong_ids::DataId;
use huitong_proof::cbor::{Fields, Map, Value};
use huitong_proof::{
    Content, ContentRoot, Digest, GROUP_BYTES, GROUP_LOG2, Kind, MAX_FILES, MAX_GROUPS, MAX_MANIFEST_BYTES,
    Statement, group_count,
};

use crate::ranges::Ranges;

/// Window mode: plaintext groups against signed acknowledgements.
const MODE_WINDOW: u64 = 0;
/// The acknowledgement speaks of plaintext.
const STAGE_PLAINTEXT: u64 = 1;

/// OFFER (kind 1): {1 product id, 2 content root, 3 size, 4 log2 of the group size, 5 mode, 6 window bytes, 15 SHA-256
/// of the policy document, 17 file name, 18 [digests of the USAGE statements], 19 [files, groups, bytes of the manifest]}.
/// 19 is there for a dataset of files only; the content root is then the BLAKE3 hash of its manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferDetail {
    /// The product.
    pub product: DataId,
    /// BLAKE3 root of the content.
    pub root: ContentRoot,
    /// Bytes.
    pub size: u64,
    /// Most bytes that travel unacknowledged.
    pub window: u64,
    /// SHA-256 of the policy document.
    pub policy: Digest,
    /// Name of the file, or of the dataset's directory.
    pub file_name: FileName,
    /// The USAGE statements of this transfer: naming them here keeps them from getting lost.
    pub usage: Vec<Digest>,
    /// What is known of a dataset of files before its manifest; `None` for a product that is one file.
    pub dataset: Option<DatasetShape>,
}

/// What is known of a dataset of files before its manifest: enough to bound what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatasetShape {
    /// Number of files.
    pub files: u64,
    /// Groups in all files.
    pub groups: u64,
    /// Bytes of the encoded manifest.
    pub manifest_bytes: u64,
}

impl DatasetShape {
    /// The shape of a dataset; `None` for a content that is one file.
    pub(crate) fn of(content: &Content) -> Option<Self> {
        let manifest = content.manifest()?;
        Some(Self {
            files: manifest.entries().len() as u64,
            groups: content.groups(),
            manifest_bytes: manifest.encoded().len() as u64,
        })
    }

    fn read(values: &[Value], size: u64) -> Result<Self, ServiceError> {
        let [Value::Uint(files), Value::Uint(groups), Value::Uint(manifest_bytes)] = values else {
            return Err(ServiceError::invalid(
                "offer.dataset",
                "must be [files, groups, bytes of the manifest]",
            ));
        };
        let shape = Self { files: *files, groups: *groups, manifest_bytes: *manifest_bytes };
        // Each file has at most one group that is not full.
        let possible = (1..=MAX_FILES as u64).contains(&shape.files)
            && shape.manifest_bytes <= MAX_MANIFEST_BYTES as u64
            && shape.groups >= group_count(size)
            && shape.groups <= (size / GROUP_BYTES).saturating_add(shape.files);
        if possible {
            return Ok(shape);
        }
        let expected = format!(
            "must be 1 to {MAX_FILES} files, no more groups than they can have, and a manifest of at most {MAX_MANIFEST_BYTES} bytes"
        );
        Err(ServiceError::invalid("offer.dataset", expected))
    }
}

impl OfferDetail {
    /// Groups in all files.
    pub fn groups(&self) -> u64 {
        self.dataset.map_or_else(|| group_count(self.size), |dataset| dataset.groups)
    }

    pub(crate) fn to_detail(&self) -> Map {
        Map::new()
            .text(1, self.product.as_str())
            .bytes(2, self.root.as_bytes())
            .uint(3, self.size)
            .uint(4, u64::from(GROUP_LOG2))
            .uint(5, MODE_WINDOW)
            .uint(6, self.window)
            .digest(15, &self.policy)
            .text(17, self.file_name.as_str())
            .array(18, self.usage.iter().map(|digest| Value::Bytes(digest.as_bytes().to_vec())).collect())
            .maybe_array(
                19,
                self.dataset.map(|DatasetShape { files, groups, manifest_bytes }| {
                    [files, groups, manifest_bytes].map(Value::Uint).to_vec()
                }),
            )
    }

    /// Reads the detail of a verified OFFER.
    pub fn read(statement: &Statement) -> Result<Self, ServiceError> {
        let mut fields = open(statement, Kind::Offer, "offer")?;
        let product = DataId::parse(&fields.text(1, "product")?)
            .map_err(|error| ServiceError::invalid("offer.product", error))?;
        let root = root(&mut fields, 2, "offer.root")?;
        let size = fields.uint(3, "size")?;
        expect(&mut fields, 4, "group size", u64::from(GROUP_LOG2))?;
        expect(&mut fields, 5, "mode", MODE_WINDOW)?;
        let window = fields.uint(6, "window")?;
        let policy = fields.digest(15, "policy")?;
        let file_name = FileName::parse(&fields.text(17, "file_name")?)
            .map_err(|error| ServiceError::invalid("offer.file_name", error))?;
        let usage = fields.array(18, "usage")?.iter().map(digest).collect::<Result<_, _>>()?;
        let dataset = match fields.maybe_value(19, "dataset")? {
            None => None,
            Some(Value::Array(values)) => Some(DatasetShape::read(&values, size)?),
            Some(_) => return Err(ServiceError::invalid("offer.dataset", "must be an array")),
        };
        fields.finish()?;
        let offer = Self { product, root, size, window, policy, file_name, usage, dataset };
        if offer.groups() > MAX_GROUPS {
            return Err(ServiceError::invalid("offer.size", format!("is more than {MAX_GROUPS} groups")));
        }
        Ok(offer)
    }
}

/// ACCEPT (kind 2): {1 wanted ranges [[start, end], ...] of groups, 2 digest of the consumer's last ACK or zeros}.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AcceptDetail {
    /// The groups that the consumer does not hold.
    pub(crate) wanted: Ranges,
    /// The consumer's last ACK, or zeros.
    pub(crate) resume: Digest,
}

impl AcceptDetail {
    pub(crate) fn to_detail(&self) -> Map {
        Map::new().array(1, self.wanted.to_values()).digest(2, &self.resume)
    }

    pub(crate) fn read(statement: &Statement) -> Result<Self, ServiceError> {
        let mut fields = open(statement, Kind::Accept, "accept")?;
        let wanted = Ranges::read(fields.array(1, "ranges")?)?;
        let resume = fields.digest(2, "resume")?;
        fields.finish()?;
        Ok(Self { wanted, resume })
    }
}

/// How far an acknowledgement goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AckStatus {
    /// A prefix of the content.
    Partial,
    /// All of it.
    Complete,
    /// A prefix, and for now the consumer takes no more.
    Stopped {
        /// Why, in plain words.
        reason: String,
    },
}

/// ACK (kind 3): {1 stage = 1, 2 content root, 3 ranges [[0, groups]], 5 bytes verified and durable, 6 status 0 partial,
/// 1 complete or 2 stopped, 7 why it stopped}. Cumulative: it covers everything from the first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckDetail {
    /// BLAKE3 root of the content.
    pub root: ContentRoot,
    /// Groups from the first one.
    pub groups: u64,
    /// Bytes in those groups.
    pub bytes: u64,
    /// Partial, complete or stopped.
    pub status: AckStatus,
}

impl AckDetail {
    pub(crate) fn to_detail(&self) -> Map {
        Map::new()
            .uint(1, STAGE_PLAINTEXT)
            .bytes(2, self.root.as_bytes())
            .array(3, Ranges::of(0..self.groups).to_values())
            .uint(5, self.bytes)
            .uint(
                6,
                match self.status {
                    AckStatus::Partial => 0,
                    AckStatus::Complete => 1,
                    AckStatus::Stopped { .. } => 2,
                },
            )
            .maybe_text(
                7,
                match &self.status {
                    AckStatus::Stopped { reason } => Some(reason),
                    AckStatus::Partial | AckStatus::Complete => None,
                },
            )
    }

    /// Reads the detail of a verified ACK.
    pub fn read(statement: &Statement) -> Result<Self, ServiceError> {
        let mut fields = open(statement, Kind::Ack, "ack")?;
        expect(&mut fields, 1, "stage", STAGE_PLAINTEXT)?;
        let root = root(&mut fields, 2, "ack.root")?;
        let held = Ranges::read(fields.array(3, "ranges")?)?;
        let bytes = fields.uint(5, "bytes")?;
        let status = match fields.uint(6, "status")? {
            0 => AckStatus::Partial,
            1 => AckStatus::Complete,
            2 => AckStatus::Stopped { reason: fields.text(7, "reason")? },
            _ => {
                let expected = "must be 0 (partial), 1 (complete) or 2 (stopped)";
                return Err(ServiceError::invalid("ack.status", expected));
            }
        };
        fields.finish()?;
        let groups = held.end();
        if held != Ranges::of(0..groups) {
            return Err(ServiceError::invalid(
                "ack.ranges",
                "must be one range from the first group on, or none",
            ));
        }
        Ok(Self { root, groups, bytes, status })
    }
}

/// FINAL (kind 5): {1 content root, 2 verdict "delivered"}.
pub(crate) fn final_detail(root: &ContentRoot) -> Map {
    Map::new().bytes(1, root.as_bytes()).text(2, VERDICT)
}

const VERDICT: &str = "delivered";

pub(crate) fn read_final(statement: &Statement) -> Result<ContentRoot, ServiceError> {
    let mut fields = open(statement, Kind::Final, "final")?;
    let root = root(&mut fields, 1, "final.root")?;
    if fields.text(2, "verdict")? != VERDICT {
        return Err(ServiceError::invalid("final.verdict", "must be \"delivered\""));
    }
    fields.finish()?;
    Ok(root)
}

/// ABORT (kind 7): {1 code, 2 reason}.
pub(crate) fn abort_detail(code: &str, reason: &str) -> Map {
    Map::new().text(1, code).text(2, reason)
}

pub(crate) fn read_abort(statement: &Statement) -> Result<(String, String), ServiceError> {
    let mut fields = open(statement, Kind::Abort, "abort")?;
    let read = (fields.text(1, "code")?, fields.text(2, "reason")?);
    fields.finish()?;
    Ok(read)
}

/// USAGE (kind 9): {1 transfer id, 2 action, 3 counter (policy clause), 4 delta, 5 value after, 6 SHA-256 of the
/// decision's context}.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsageDetail {
    pub(crate) decision: [u8; 16],
    pub(crate) action: String,
    pub(crate) counter: String,
    pub(crate) after: u64,
    pub(crate) context: Digest,
}

impl UsageDetail {
    pub(crate) fn to_detail(&self) -> Map {
        Map::new()
            .bytes(1, &self.decision)
            .text(2, &self.action)
            .text(3, &self.counter)
            .uint(4, 1)
            .uint(5, self.after)
            .digest(6, &self.context)
    }

    pub(crate) fn read(statement: &Statement) -> Result<Self, ServiceError> {
        let mut fields = open(statement, Kind::Usage, "usage")?;
        let decision = fields.fixed(1, "decision")?;
        let action = fields.text(2, "action")?;
        let counter = fields.text(3, "counter")?;
        expect(&mut fields, 4, "delta", 1)?;
        let after = fields.uint(5, "after")?;
        let context = fields.digest(6, "context")?;
        fields.finish()?;
        Ok(Self { decision, action, counter, after, context })
    }
}

fn open(statement: &Statement, kind: Kind, what: &'static str) -> Result<Fields, ServiceError> {
    if statement.kind() != kind {
        return Err(ServiceError::invalid(
            "statement.kind",
            format!("expected {}, found {}", kind.name(), statement.kind().name()),
        ));
    }
    Ok(statement.detail(what)?)
}

fn expect(fields: &mut Fields, key: u64, name: &'static str, value: u64) -> Result<(), ServiceError> {
    let found = fields.uint(key, name)?;
    if found == value {
        Ok(())
    } else {
        Err(ServiceError::invalid(name, format!("must be {value}, is {found}")))
    }
}

fn root(fields: &mut Fields, key: u64, field: &'static str) -> Result<ContentRoot, ServiceError> {
    let bytes = fields.bytes(key, "root")?;
    ContentRoot::from_slice(&bytes).ok_or_else(|| ServiceError::invalid(field, "must have 32 bytes"))
}

fn digest(value: &Value) -> Result<Digest, ServiceError> {
    match value {
        Value::Bytes(bytes) => Digest::from_slice(bytes),
        _ => None,
    }
    .ok_or_else(|| ServiceError::invalid("offer.usage", "must be digests of 32 bytes"))
}
