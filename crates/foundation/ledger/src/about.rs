//! The file `about`: whose log the files beside it are, in which version, for tools that read them without the node.

use std::io::Write;

use huitong_proof::SpaceId;

use crate::error::LedgerError;
use crate::place::{self, ABOUT, Place};
use crate::tiles::WIDTH;

const FORMAT: &str = "huitong-ledger 1";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) space: SpaceId,
    pub(crate) node: String,
    pub(crate) origin: String,
    /// Entries that are settled together, and that the shortest lookup runs cover.
    pub(crate) block: u64,
}

impl About {
    /// What the file says, if there is one.
    pub(crate) fn read(root: &std::path::Path) -> Result<Option<Self>, LedgerError> {
        let path = root.join(ABOUT);
        let Some(bytes) = place::read(&path)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines();
        if lines.next() != Some(FORMAT) {
            let what =
                "says that the ledger was written by another version of this program; use that version";
            return Err(LedgerError::damaged_file(&path, what));
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let mut read = || {
            let space = field("space")?.parse().ok()?;
            let node = field("node")?.to_owned();
            let origin = field("origin")?.to_owned();
            let block = field("block")?
                .parse()
                .ok()
                .filter(|block: &u64| *block > 0 && block.is_multiple_of(WIDTH))?;
            Some(Self { space, node, origin, block })
        };
        let about = read();
        about.map(Some).ok_or_else(|| LedgerError::damaged_file(&path, "does not say whose log this is"))
    }

    /// Writes the file unless it says the same already.
    pub(crate) fn keep(&self, place: &Place) -> Result<(), LedgerError> {
        let Self { space, node, origin, block } = self;
        let text = format!("{FORMAT}\nspace {space}\nnode {node}\norigin {origin}\nblock {block}\n");
        let path = place.root().join(ABOUT);
        if place::read(&path)?.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        place.put_durably(&path, |out| out.write_all(text.as_bytes()))
    }
}
