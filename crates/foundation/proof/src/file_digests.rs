//! Hashes of a whole file that others may ask for, beside the content root.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use sha2::Digest as _;
use sm3::Sm3;

use crate::Digest;

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

/// Hashes of a file that others may ask for; content is verified by its BLAKE3 root and not by these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileDigests {
    /// SHA-256.
    pub sha256: Option<Digest>,
    /// SM3 (GB/T 32905-2016).
    pub sm3: Option<Digest>,
}

/// Which of them to compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WantedDigests {
    /// SHA-256.
    pub sha256: bool,
    /// SM3 (GB/T 32905-2016).
    pub sm3: bool,
}

impl WantedDigests {
    /// Whether any is wanted.
    pub fn any(self) -> bool {
        self.sha256 || self.sm3
    }

    /// Reads the file once for each hash that is wanted, all at the same time; blocks.
    ///
    /// # Errors
    /// Whatever reading the file gives.
    pub fn of_file(self, path: &Path) -> io::Result<FileDigests> {
        let alone = |wanted: WantedDigests| move || digests_of(path, DigestsInOrder::new(wanted));
        std::thread::scope(|scope| {
            let sm3 = self.sm3.then(|| scope.spawn(alone(Self { sha256: false, sm3: true })));
            let sha256 = if self.sha256 { alone(Self { sha256: true, sm3: false })()?.sha256 } else { None };
            let sm3 = sm3.map(|thread| thread.join()).transpose();
            let sm3 = sm3.map_err(|_| io::Error::other("the thread that hashes has died"))?.transpose()?;
            Ok(FileDigests { sha256, sm3: sm3.and_then(|digests| digests.sm3) })
        })
    }
}

/// The same hashes of bytes that come in their order.
pub struct DigestsInOrder {
    sha256: Option<sha2::Sha256>,
    sm3: Option<Sm3>,
}

impl DigestsInOrder {
    /// Nothing yet.
    pub fn new(wanted: WantedDigests) -> Self {
        Self { sha256: wanted.sha256.then(sha2::Sha256::new), sm3: wanted.sm3.then(Sm3::new) }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(sm3) = &mut self.sm3 {
            sm3.update(bytes);
        }
    }

    /// There are no more.
    pub fn finish(self) -> FileDigests {
        let digest = |bytes: [u8; 32]| Digest::from_bytes(bytes);
        FileDigests {
            sha256: self.sha256.map(|hasher| digest(hasher.finalize().into())),
            sm3: self.sm3.map(|hasher| digest(hasher.finalize().into())),
        }
    }
}

fn digests_of(path: &Path, mut hashes: DigestsInOrder) -> io::Result<FileDigests> {
    let (mut file, mut buffer) = (File::open(path)?, vec![0; CHUNK]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hashes.finish()),
            Ok(read) => hashes.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_published_digests() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("abc");
        std::fs::write(&path, b"abc").unwrap();
        let both = WantedDigests { sha256: true, sm3: true }.of_file(&path).unwrap();
        assert_eq!(both.sha256, Some(Digest::sha256(b"abc")));
        // GB/T 32905-2016, annex A.1.
        let sm3 = "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0";
        assert_eq!(both.sm3.unwrap().to_string(), sm3);
        let mut in_order = DigestsInOrder::new(WantedDigests { sha256: true, sm3: true });
        in_order.update(b"ab");
        in_order.update(b"c");
        assert_eq!(in_order.finish(), both);
        assert_eq!(WantedDigests::default().of_file(&path).unwrap(), FileDigests::default());
    }

    #[test]
    fn a_long_file_is_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long");
        let bytes = vec![7; 3 * CHUNK + 5];
        std::fs::write(&path, &bytes).unwrap();
        let found = WantedDigests { sha256: true, sm3: false }.of_file(&path).unwrap();
        assert_eq!(found, FileDigests { sha256: Some(Digest::sha256(&bytes)), sm3: None });
    }
}
