//! Writing the journal: groups to the end of the last segment, and a new segment when that one is full.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::OpenError;
use crate::files;
use crate::record::Seed;
use crate::segment::{Header, Segment, Survey};

/// The journal's open end. After an error it must not be used again.
pub(crate) struct Journal {
    directory: PathBuf,
    identity: [u8; 16],
    number: u64,
    length: u64,
    file: Box<dyn JournalFile>,
    options: Options,
}

/// What a segment file must be able to do; the seam where tests make a disk fail.
pub(crate) trait JournalFile: Send {
    /// Writes all bytes at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything appended durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// Limits, and how a segment file is used.
#[derive(Clone)]
pub(crate) struct Options {
    /// A segment takes no further group once it is this long.
    pub(crate) segment_bytes: u64,
    pub(crate) wrap: Wrap,
}

/// Turns an open file into the journal's end.
pub(crate) type Wrap = Arc<dyn Fn(File) -> Box<dyn JournalFile> + Send + Sync>;

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024, wrap: Arc::new(|file| Box::new(file)) }
    }
}

impl JournalFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Journal {
    /// Continues a surveyed journal, cutting off its torn tail, or starts a new one.
    pub(crate) fn open(directory: &Path, survey: &Survey, options: Options) -> Result<Self, OpenError> {
        let draft = Segment::draft_path(directory);
        if draft.exists() {
            fs::remove_file(&draft).map_err(OpenError::io("remove", &draft))?;
        }
        let Some(last) = survey.segments.last() else {
            let header = Header { identity: random_identity(), number: 1, first_sequence: 1 };
            let file = create_segment(directory, &header).map_err(OpenError::io("create", directory))?;
            return Ok(Self::at_end_of(file, directory, &header, header_length(&header), options));
        };
        let file = open_for_append(&last.path).map_err(OpenError::io("open", &last.path))?;
        if survey.torn_bytes > 0 {
            file.set_len(last.length).map_err(OpenError::io("truncate", &last.path))?;
        }
        // The last process may have ended between a write and its fsync: what was read must be durable before
        // anyone sees it.
        file.sync_all().map_err(OpenError::io("sync", &last.path))?;
        files::sync_directory(directory).map_err(OpenError::io("sync directory", directory))?;
        Ok(Self::at_end_of(file, directory, &last.header, last.length, options))
    }

    fn at_end_of(file: File, directory: &Path, header: &Header, length: u64, options: Options) -> Self {
        let (identity, number) = (header.identity, header.number);
        let file = (options.wrap)(file);
        Self { directory: directory.to_owned(), identity, number, length, file, options }
    }

    pub(crate) fn identity(&self) -> [u8; 16] {
        self.identity
    }

    pub(crate) fn seed(&self) -> Seed {
        Seed::of(&self.identity)
    }

    /// Writes a group whose first transaction has this sequence, and returns when it is durable.
    pub(crate) fn append(&mut self, group: &[u8], first_sequence: u64) -> io::Result<()> {
        if self.length >= self.options.segment_bytes {
            self.rotate(first_sequence)?;
        }
        self.file.append(group)?;
        self.file.sync()?;
        self.length = self.length.saturating_add(group.len() as u64);
        Ok(())
    }

    fn rotate(&mut self, first_sequence: u64) -> io::Result<()> {
        let number =
            self.number.checked_add(1).ok_or_else(|| io::Error::other("segment numbers are exhausted"))?;
        let header = Header { identity: self.identity, number, first_sequence };
        let file = create_segment(&self.directory, &header)?;
        self.file = (self.options.wrap)(file);
        self.number = number;
        self.length = header_length(&header);
        Ok(())
    }
}

/// Creates a segment that holds its header. It gets its name only when it is complete, so that a segment
/// without a whole header is always damage.
fn create_segment(directory: &Path, header: &Header) -> io::Result<File> {
    let draft = Segment::draft_path(directory);
    let path = Segment::path(directory, header.number);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&header.encode())?;
    file.sync_all()?;
    fs::rename(&draft, &path)?;
    files::sync_directory(directory)?;
    open_for_append(&path)
}

fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

fn header_length(header: &Header) -> u64 {
    header.encode().len() as u64
}

/// The identity only has to differ between journals and to be unknown to peers. The keys of a `RandomState` come
/// from the operating system, and each state has its own.
fn random_identity() -> [u8; 16] {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    ((half() << 64) | half()).to_be_bytes()
}
