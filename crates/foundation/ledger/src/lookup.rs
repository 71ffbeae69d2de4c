//! By what a statement is found: four fingerprints per entry, and those of the newest entries in memory.

use std::collections::{BTreeMap, BTreeSet};

use huitong_proof::{Digest, Statement};

/// The first 16 bytes of SHA-256 over a byte for the kind of key, and the key.
///
/// A fingerprint only says where to look: whoever looks compares the entry itself, so that two keys with one
/// fingerprint cost time and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Fingerprint(pub(crate) [u8; 16]);

/// One line of the index: this key leads to this entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) index: u64,
}

/// What an entry is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) digest: Digest,
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) seq: u64,
    pub(crate) subject: [u8; 16],
    /// Zeros if it answers nothing.
    pub(crate) reference: Digest,
}

const BY_DIGEST: u8 = 1;
const BY_CHANNEL: u8 = 2;
const BY_SUBJECT: u8 = 3;
const BY_REFERENCE: u8 = 4;

impl Fingerprint {
    pub(crate) fn of_digest(digest: &Digest) -> Self {
        Self::new(&[&[BY_DIGEST], digest.as_bytes()])
    }

    pub(crate) fn of_channel(issuer: &str, audience: &str, seq: u64) -> Self {
        let length = |name: &str| u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
        Self::new(&[
            &[BY_CHANNEL],
            &length(issuer),
            issuer.as_bytes(),
            &length(audience),
            audience.as_bytes(),
            &seq.to_be_bytes(),
        ])
    }

    pub(crate) fn of_subject(subject: &[u8; 16]) -> Self {
        Self::new(&[&[BY_SUBJECT], subject])
    }

    pub(crate) fn of_reference(reference: &Digest) -> Self {
        Self::new(&[&[BY_REFERENCE], reference.as_bytes()])
    }

    fn new(parts: &[&[u8]]) -> Self {
        let digest = Digest::sha256_parts(parts);
        let (first, _) = digest.as_bytes().split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
        Self(*first)
    }
}

impl Keys {
    pub(crate) fn of(statement: &Statement) -> Self {
        let body = statement.body();
        Self {
            digest: statement.digest(),
            issuer: body.issuer.clone(),
            audience: body.audience.clone(),
            seq: body.seq,
            subject: body.subject,
            reference: body.reference,
        }
    }

    /// The records that lead to entry `index`: three, or four if it answers something.
    pub(crate) fn records(&self, index: u64) -> impl Iterator<Item = Record> {
        let reference = (self.reference != Digest::ZERO).then(|| Fingerprint::of_reference(&self.reference));
        [
            Fingerprint::of_digest(&self.digest),
            Fingerprint::of_channel(&self.issuer, &self.audience, self.seq),
            Fingerprint::of_subject(&self.subject),
        ]
        .into_iter()
        .chain(reference)
        .map(move |fingerprint| Record { fingerprint, index })
    }
}

/// The records of the entries that are not settled, in memory.
///
/// They are noted while a transaction runs, so some may be of a transaction that was not committed after all, and
/// lead to an index where there is nothing, or something else. Readers compare the entry and pass over them; the next
/// entry with that index takes their place.
#[derive(Debug)]
pub(crate) struct Recent {
    /// Entries in a block.
    block: u64,
    /// What was noted of each entry.
    noted: BTreeMap<u64, Vec<Fingerprint>>,
    /// The same, by number of the block.
    blocks: BTreeMap<u64, BTreeSet<Record>>,
}

impl Recent {
    pub(crate) fn new(block: u64) -> Self {
        Self { block: block.max(1), noted: BTreeMap::new(), blocks: BTreeMap::new() }
    }

    /// Notes what leads to the last entry of the log.
    pub(crate) fn note(&mut self, keys: &Keys, index: u64) {
        self.forget_from(index);
        self.add(keys, index);
    }

    /// Notes what leads to an entry that was empty before.
    pub(crate) fn add(&mut self, keys: &Keys, index: u64) {
        let records: Vec<Record> = keys.records(index).collect();
        self.noted.insert(index, records.iter().map(|record| record.fingerprint).collect());
        self.blocks.entry(index / self.block).or_default().extend(records);
    }

    /// Nothing is found any more by what was noted of this index and those behind it.
    pub(crate) fn forget_from(&mut self, index: u64) {
        for (index, prints) in self.noted.split_off(&index) {
            if let Some(block) = self.blocks.get_mut(&(index / self.block)) {
                for fingerprint in prints {
                    block.remove(&Record { fingerprint, index });
                }
            }
        }
    }

    /// Forgets the blocks below `settled`: files hold them.
    pub(crate) fn settled(&mut self, settled: u64) {
        self.noted = self.noted.split_off(&settled);
        self.blocks = self.blocks.split_off(&(settled / self.block));
    }

    /// The entries that this may lead to, in log order.
    pub(crate) fn find(&self, fingerprint: Fingerprint) -> Vec<u64> {
        let (first, last) = (Record { fingerprint, index: 0 }, Record { fingerprint, index: u64::MAX });
        self.blocks.values().flat_map(|block| block.range(first..=last)).map(|record| record.index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(number: u8, reference: Digest) -> Keys {
        Keys {
            digest: Digest::sha256(&[number]),
            issuer: "a".to_owned(),
            audience: "b".to_owned(),
            seq: u64::from(number),
            subject: [7; 16],
            reference,
        }
    }

    #[test]
    fn names_do_not_reach_into_each_other() {
        let channels = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", "")];
        let prints: BTreeSet<_> =
            channels.iter().map(|(issuer, audience)| Fingerprint::of_channel(issuer, audience, 1)).collect();
        assert_eq!(prints.len(), 4);
        let digest = Digest::sha256(b"x");
        assert_ne!(Fingerprint::of_digest(&digest), Fingerprint::of_reference(&digest));
    }

    #[test]
    fn recent_records_are_found_until_they_are_settled() {
        let reference = Digest::sha256(b"asked");
        let mut recent = Recent::new(2);
        for number in 0..6 {
            let reference = if number % 2 == 0 { Digest::ZERO } else { reference };
            recent.note(&keys(number, reference), u64::from(number));
        }
        assert_eq!(recent.find(Fingerprint::of_subject(&[7; 16])), [0, 1, 2, 3, 4, 5]);
        assert_eq!(recent.find(Fingerprint::of_reference(&reference)), [1, 3, 5]);
        assert!(recent.find(Fingerprint::of_reference(&Digest::ZERO)).is_empty());
        assert_eq!(recent.find(Fingerprint::of_digest(&Digest::sha256(&[3]))), [3]);
        assert_eq!(recent.find(Fingerprint::of_channel("a", "b", 5)), [5]);
        recent.settled(4);
        assert_eq!(recent.find(Fingerprint::of_subject(&[7; 16])), [4, 5]);
    }

    #[test]
    fn what_was_not_committed_does_not_pile_up() {
        let mut recent = Recent::new(2);
        recent.note(&keys(0, Digest::ZERO), 0);
        // Transactions of three entries each that are all aborted, then one that is not.
        for round in 1..50 {
            for more in 0..3 {
                recent.note(&keys(round + 60 * more, Digest::ZERO), 1 + u64::from(more));
            }
        }
        assert_eq!(recent.noted.len(), 4);
        recent.note(&keys(200, Digest::ZERO), 1);
        assert_eq!(recent.find(Fingerprint::of_subject(&[7; 16])), [0, 1]);
        assert!(recent.find(Fingerprint::of_digest(&Digest::sha256(&[49]))).is_empty());
        assert_eq!(recent.find(Fingerprint::of_digest(&Digest::sha256(&[200]))), [1]);
    }
}
