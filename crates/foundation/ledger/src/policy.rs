//! Quorum policies as C2SP tlog-policy defines them: which logs count, who witnesses them, and how many cosignatures
//! make a checkpoint final.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use huitong_proof::Timestamp;

use crate::checkpoint::SignedCheckpoint;
use crate::cosignature::{Cosignature, WitnessVerifier};
use crate::note::{LogVerifier, MAX_SIGNATURES, NoteError, read_number};

/// The longest policy text that is read.
pub const MAX_POLICY_BYTES: usize = 256 * 1024;
/// The most logs, the most witnesses and the most groups of one policy; C2SP tlog-policy asks for at least 32.
pub const MAX_POLICY_ITEMS: usize = 256;

/// Stands for "no cosignature needed" in the quorum line; no witness or group may have this name.
const NONE: &str = "none";

/// The smallest number of witnesses out of `witnesses` that makes a quorum safe against split views: more than two
/// thirds, so 3 of 4, 5 of 7, 7 of 10.
///
/// A log with two histories must get a quorum for each. Two quorums of k out of n share at least 2k - n witnesses, and
/// with k > 2n/3 that is more than n/3: as long as fewer than a third of the witnesses are dishonest, an honest one
/// stands in both quorums and cosigns only one history (see [`split_view_excluded`]). With fewer than 4 witnesses the
/// answer is all of them, and one that is merely unreachable stops finality: such a set is not Byzantine-safe.
pub fn safe_quorum(witnesses: usize) -> usize {
    witnesses.saturating_sub(witnesses.div_ceil(3)).saturating_add(1)
}

/// Whether a quorum of `first` and one of `second` out of `witnesses` must share an honest witness when `dishonest` of
/// them cosign anything: k1 + k2 > n + f. One quorum may be a verifier's and the other a monitor's.
pub fn split_view_excluded(first: usize, second: usize, witnesses: usize, dishonest: usize) -> bool {
    first.saturating_add(second) > witnesses.saturating_add(dishonest)
}

/// A quorum policy: the whole configuration of trust that somebody needs to call a checkpoint final.
///
/// As text (`Display`, `FromStr`) it is a C2SP tlog-policy file: lines `log <vkey> [url]`, `witness <name> <vkey>
/// [url]`, `group <name> all|any|<k> <member>...` and exactly one `quorum <name>|none`, with comments after `#`.
/// `Display` writes group thresholds as numbers and leaves comments out. Witness keys are of type 4 (Ed25519
/// cosignature).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumPolicy {
    logs: Vec<(LogVerifier, Option<String>)>,
    witnesses: Vec<(String, WitnessVerifier, Option<String>)>,
    groups: Vec<Group>,
    /// Name of a witness or group, or [`NONE`]; empty while the policy is being read.
    quorum: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: String,
    threshold: usize,
    /// Names of witnesses, and of groups before this one.
    members: Vec<String>,
}

/// What a policy says about one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// Whether enough witnesses have cosigned.
    pub satisfied: bool,
    /// When the last cosignature that the quorum needed was made, taking the earliest ones that suffice: the
    /// checkpoint existed at that time. `None` while it is not satisfied, and for a policy that needs none.
    pub reached: Option<Timestamp>,
    /// The policy's witnesses that have cosigned, under their names in the policy and in its order.
    pub cosignatures: Vec<Cosignature>,
    /// The witnesses that count towards the quorum and have not cosigned, needed or not, in the policy's order.
    pub missing: Vec<String>,
}

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The text is longer than any this node reads.
    #[error("the quorum policy has {found} bytes; at most {MAX_POLICY_BYTES} are read")]
    TooLong {
        /// Bytes in the text.
        found: usize,
    },
    /// A line is refused.
    #[error("line {line} of the quorum policy is refused: {fault}")]
    Line {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        fault: PolicyFault,
    },
    /// The policy as a whole is refused.
    #[error("the quorum policy is refused: {0}")]
    Whole(PolicyFault),
}

/// What is wrong with a policy or one of its lines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFault {
    /// A control character other than tab and newline.
    #[error("it has the control character 0x{byte:02x}; only tab and newline are allowed")]
    Character {
        /// The character.
        byte: u8,
    },
    /// The last line does not end with a newline.
    #[error("it does not end with a newline; the file may be cut off")]
    Unterminated,
    /// The first word is no keyword.
    #[error("{word:?} is no keyword; use log, witness, group or quorum")]
    Keyword {
        /// The word.
        word: String,
    },
    /// Too few or too many items.
    #[error("expected: {form}")]
    Form {
        /// What the line should look like.
        form: &'static str,
    },
    /// A key text is refused.
    #[error(transparent)]
    Key(NoteError),
    /// A URL is empty or has spaces or control characters.
    #[error("{url:?} cannot stand as a URL in a policy")]
    Url {
        /// The URL.
        url: String,
    },
    /// Another line has the same public key.
    #[error("the same public key stands in a line before; list each key once")]
    DuplicateKey,
    /// A name is empty, `none`, or has spaces or control characters.
    #[error("{name:?} cannot be the name of a witness or group")]
    Name {
        /// The name.
        name: String,
    },
    /// A name is defined twice.
    #[error("the name {name:?} is defined in a line before")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A name is used before it is defined.
    #[error("the name {name:?} is not defined in a line before")]
    UndefinedName {
        /// The name.
        name: String,
    },
    /// A name is a member twice, so its vote would count twice.
    #[error("{name:?} is already member of a group; each witness and group counts once")]
    SecondMembership {
        /// The name.
        name: String,
    },
    /// A threshold is not `all`, `any` or a number from 1 to the number of members.
    #[error("{text:?} is no threshold: use all, any or a number from 1 to {members}")]
    Threshold {
        /// What stands there.
        text: String,
        /// Members of the group.
        members: usize,
    },
    /// There is a second quorum line.
    #[error("there is a quorum line before; keep one")]
    SecondQuorum,
    /// There is no quorum line.
    #[error("it has no quorum line; add \"quorum <name>\" or \"quorum none\"")]
    NoQuorum,
    /// More lines of a kind than are read.
    #[error("there are more than {MAX_POLICY_ITEMS} lines of this kind")]
    TooMany,
    /// No checkpoint that this node reads can satisfy it.
    #[error(
        "it needs at least {needed} cosignatures, but a checkpoint carries at most {} beside the log's signature",
        MAX_SIGNATURES - 1
    )]
    OutOfReach {
        /// The fewest cosignatures that satisfy the quorum.
        needed: usize,
    },
}

impl From<PolicyFault> for PolicyError {
    fn from(fault: PolicyFault) -> Self {
        Self::Whole(fault)
    }
}

impl QuorumPolicy {
    /// A policy that needs no cosignature.
    pub fn none() -> Self {
        Self { quorum: NONE.to_owned(), ..Self::unfinished() }
    }

    /// A policy with one witness, whose cosignature is needed.
    ///
    /// Spaces and control characters in the name become `-`; for an empty name and `none` the key's name stands in.
    pub fn single(name: impl Into<String>, verifier: WitnessVerifier) -> Self {
        let mut name: String = name.into();
        if name.is_empty() || name == NONE {
            name = format!("{}/", verifier.name());
        }
        let name = name.replace(|c: char| !is_name_character(c), "-");
        let quorum = name.clone();
        Self { witnesses: vec![(name, verifier, None)], quorum, ..Self::unfinished() }
    }

    /// A policy in which any `k` of the witnesses, each with name, key and URL, suffice.
    ///
    /// # Errors
    /// [`PolicyError::Whole`] when names or keys repeat, a name cannot stand in a policy, or `k` is 0, larger than the
    /// number of witnesses, or larger than 15.
    pub fn k_of(
        k: usize,
        witnesses: Vec<(String, WitnessVerifier, Option<String>)>,
    ) -> Result<Self, PolicyError> {
        let mut policy = Self::unfinished();
        let members: Vec<String> = witnesses.iter().map(|(name, ..)| name.clone()).collect();
        for (name, verifier, url) in witnesses {
            policy.add_witness(name, verifier, url)?;
        }
        let mut name = "quorum".to_owned();
        while policy.is_defined(&name) {
            name.push('-');
        }
        policy.add_group(name.clone(), &k.to_string(), members)?;
        policy.set_quorum(name)?;
        Ok(policy)
    }

    /// The same policy with one more log, for whoever publishes a policy together with its own log.
    ///
    /// # Errors
    /// [`PolicyError::Whole`] when the log's key is listed already, or there are too many logs.
    pub fn with_log(mut self, log: LogVerifier, url: Option<String>) -> Result<Self, PolicyError> {
        self.add_log(log, url)?;
        Ok(self)
    }

    /// Key and URL of the logs; when there are none, any log is accepted.
    pub fn logs(&self) -> &[(LogVerifier, Option<String>)] {
        &self.logs
    }

    /// Name in the policy, key and URL of the witnesses, those that the quorum does not count included.
    pub fn witnesses(&self) -> &[(String, WitnessVerifier, Option<String>)] {
        &self.witnesses
    }

    /// What the quorum demands, such as `2 of 3: a, b, c`; the one name for a single witness, `none` for no
    /// cosignature. Groups inside groups stand in parentheses after their names.
    pub fn requirement(&self) -> String {
        let mut described: BTreeMap<&str, String> = BTreeMap::new();
        for Group { name, threshold, members } in &self.groups {
            let of = |member: &String| match described.get(member.as_str()) {
                Some(inner) => format!("{member} ({inner})"),
                None => member.clone(),
            };
            let list: Vec<String> = members.iter().map(of).collect();
            described.insert(name, format!("{threshold} of {}: {}", members.len(), list.join(", ")));
        }
        described.remove(self.quorum.as_str()).unwrap_or_else(|| self.quorum.clone())
    }

    /// Why one dishonest witness could let a log show two histories under this policy; nothing when it could not. That
    /// takes at least 4 witnesses that count, and more than two thirds of them (see [`safe_quorum`]). Who stands behind
    /// the keys, no policy shows.
    pub fn split_view_warning(&self) -> Option<String> {
        let counted = self.counted();
        let witnesses = self.witnesses.iter().filter(|(name, ..)| counted.contains(name.as_str())).count();
        let needed = self.least_cosignatures();
        let advice = match witnesses {
            0..4 => "name at least 4 witnesses of different operators, of which 3 must cosign".to_owned(),
            _ if needed < safe_quorum(witnesses) => {
                format!("demand {} of the {witnesses}", safe_quorum(witnesses))
            }
            _ => return None,
        };
        Some(format!(
            "{needed} of {witnesses} witnesses make a checkpoint final: that is not safe against a log that shows two \
             histories and a witness that helps it; {advice}"
        ))
    }

    /// The fewest cosignatures that satisfy the quorum, from 0 to 15.
    pub fn least_cosignatures(&self) -> usize {
        self.fold(|_| Some(1_usize), |of_members, k| of_members.iter().take(k).sum()).unwrap_or(0)
    }

    /// The fewest of these witnesses, by name, that satisfy the quorum; nothing when all of them do not.
    pub fn fewest(&self, cosigned: &BTreeSet<String>) -> Option<BTreeSet<String>> {
        let one = |name: &str| cosigned.contains(name).then(|| (1, BTreeSet::from([name.to_owned()])));
        // By number first: the smallest sets of a group are those that it needs.
        let together = |of_members: &[(usize, BTreeSet<String>)], k: usize| {
            let names: BTreeSet<String> =
                of_members.iter().take(k).flat_map(|(_, names)| names.clone()).collect();
            (names.len(), names)
        };
        self.fold(one, together).map(|(_, names)| names)
    }

    /// Whether the checkpoint is final under this policy, and who has cosigned it.
    ///
    /// # Errors
    /// [`NoteError::UnlistedLog`] when the policy lists logs and none of them signed the checkpoint. A line of a
    /// listed log or witness that is false refuses the checkpoint: [`NoteError::BadSignature`],
    /// [`NoteError::CosignatureTime`].
    pub fn evaluate(&self, checkpoint: &SignedCheckpoint) -> Result<Quorum, NoteError> {
        self.check_log(checkpoint)?;
        let mut cosignatures = Vec::new();
        let mut times: BTreeMap<&str, Timestamp> = BTreeMap::new();
        for (name, verifier, _) in &self.witnesses {
            if let Some(Cosignature { time, .. }) = checkpoint.cosigned_by(verifier)? {
                times.insert(name, time);
                cosignatures.push(Cosignature { name: name.clone(), time });
            }
        }

        // A group is satisfied when its k-th fastest member is.
        let reached = self.fold(
            |witness| times.get(witness).copied(),
            |of_members, k| of_members.get(k.saturating_sub(1)).copied().unwrap_or_default(),
        );
        let counted = self.counted();
        let missing = self
            .witnesses
            .iter()
            .map(|(name, ..)| name)
            .filter(|name| counted.contains(name.as_str()) && !times.contains_key(name.as_str()))
            .cloned()
            .collect();
        Ok(Quorum { satisfied: self.quorum == NONE || reached.is_some(), reached, cosignatures, missing })
    }

    /// To be filled; no policy before it has a quorum.
    fn unfinished() -> Self {
        Self { logs: Vec::new(), witnesses: Vec::new(), groups: Vec::new(), quorum: String::new() }
    }

    fn check_log(&self, checkpoint: &SignedCheckpoint) -> Result<(), NoteError> {
        let origin = &checkpoint.checkpoint().origin;
        let mut unlisted = !self.logs.is_empty();
        for (log, _) in self.logs.iter().filter(|(log, _)| log.name() == origin) {
            match SignedCheckpoint::parse(checkpoint.text(), log) {
                Ok(_) => unlisted = false,
                Err(NoteError::NotSigned { .. }) => {}
                Err(refused) => return Err(refused),
            }
        }
        if unlisted { Err(NoteError::UnlistedLog { origin: origin.clone() }) } else { Ok(()) }
    }

    /// Carries values from witnesses through the groups to the quorum. A group with k values gets what `of_group`
    /// makes of the values of its members, sorted; one with fewer gets none. Groups name only groups before them, so
    /// one pass in their order suffices.
    fn fold<T: Ord + Clone>(
        &self,
        of_witness: impl Fn(&str) -> Option<T>,
        of_group: impl Fn(&[T], usize) -> T,
    ) -> Option<T> {
        let mut values: BTreeMap<&str, T> = BTreeMap::new();
        for (name, ..) in &self.witnesses {
            values.extend(of_witness(name).map(|value| (name.as_str(), value)));
        }
        for Group { name, threshold, members } in &self.groups {
            let mut of_members: Vec<T> =
                members.iter().filter_map(|member| values.get(member.as_str()).cloned()).collect();
            of_members.sort();
            if of_members.len() >= *threshold {
                values.insert(name, of_group(&of_members, *threshold));
            }
        }
        values.remove(self.quorum.as_str())
    }

    /// Names that count towards the quorum, directly or within groups.
    fn counted(&self) -> BTreeSet<&str> {
        let mut counted = BTreeSet::from([self.quorum.as_str()]);
        for Group { name, members, .. } in self.groups.iter().rev() {
            if counted.contains(name.as_str()) {
                counted.extend(members.iter().map(String::as_str));
            }
        }
        counted
    }

    fn read_line(&mut self, line: &str) -> Result<(), PolicyFault> {
        let mut items = line.split([' ', '\t']).filter(|item| !item.is_empty());
        let keyword = match items.next() {
            None => return Ok(()),
            Some(comment) if comment.starts_with('#') => return Ok(()),
            Some(keyword) => keyword,
        };
        let items: Vec<&str> = items.collect();
        let owned = |url: &[&str]| url.first().map(|&url| url.to_owned());
        match (keyword, items.as_slice()) {
            ("log", [key, url @ ..]) if url.len() < 2 => {
                self.add_log(key.parse().map_err(PolicyFault::Key)?, owned(url))
            }
            ("witness", [name, key, url @ ..]) if url.len() < 2 => {
                self.add_witness((*name).to_owned(), key.parse().map_err(PolicyFault::Key)?, owned(url))
            }
            ("group", [name, threshold, members @ ..]) if !members.is_empty() => {
                let members = members.iter().map(|&member| member.to_owned()).collect();
                self.add_group((*name).to_owned(), threshold, members)
            }
            ("quorum", [name]) => self.set_quorum((*name).to_owned()),
            ("log", _) => Err(PolicyFault::Form { form: "log <vkey> [<url>]" }),
            ("witness", _) => Err(PolicyFault::Form { form: "witness <name> <vkey> [<url>]" }),
            ("group", _) => Err(PolicyFault::Form { form: "group <name> all|any|<k> <member>..." }),
            ("quorum", _) => Err(PolicyFault::Form { form: "quorum <name>|none" }),
            (word, _) => Err(PolicyFault::Keyword { word: word.to_owned() }),
        }
    }

    fn add_log(&mut self, log: LogVerifier, url: Option<String>) -> Result<(), PolicyFault> {
        check_room(&self.logs)?;
        check_url(url.as_deref())?;
        if self.logs.iter().any(|(other, _)| other.key() == log.key()) {
            return Err(PolicyFault::DuplicateKey);
        }
        self.logs.push((log, url));
        Ok(())
    }

    fn add_witness(
        &mut self,
        name: String,
        verifier: WitnessVerifier,
        url: Option<String>,
    ) -> Result<(), PolicyFault> {
        check_room(&self.witnesses)?;
        check_url(url.as_deref())?;
        self.check_new_name(&name)?;
        if self.witnesses.iter().any(|(_, other, _)| other.key() == verifier.key()) {
            return Err(PolicyFault::DuplicateKey);
        }
        self.witnesses.push((name, verifier, url));
        Ok(())
    }

    fn add_group(&mut self, name: String, threshold: &str, members: Vec<String>) -> Result<(), PolicyFault> {
        check_room(&self.groups)?;
        self.check_new_name(&name)?;
        let mut taken: BTreeSet<&str> =
            self.groups.iter().flat_map(|group| &group.members).map(String::as_str).collect();
        for member in &members {
            if !self.is_defined(member) {
                return Err(PolicyFault::UndefinedName { name: member.clone() });
            }
            if !taken.insert(member) {
                return Err(PolicyFault::SecondMembership { name: member.clone() });
            }
        }
        let number = match threshold {
            "all" => Some(members.len()),
            "any" => Some(1),
            number => read_number(number).and_then(|number| usize::try_from(number).ok()),
        };
        match number {
            Some(threshold) if (1..=members.len()).contains(&threshold) => {
                self.groups.push(Group { name, threshold, members });
                Ok(())
            }
            _ => Err(PolicyFault::Threshold { text: threshold.to_owned(), members: members.len() }),
        }
    }

    fn set_quorum(&mut self, name: String) -> Result<(), PolicyFault> {
        if !self.quorum.is_empty() {
            return Err(PolicyFault::SecondQuorum);
        }
        if name != NONE && !self.is_defined(&name) {
            return Err(PolicyFault::UndefinedName { name });
        }
        self.quorum = name;
        let needed = self.least_cosignatures();
        if needed >= MAX_SIGNATURES {
            return Err(PolicyFault::OutOfReach { needed });
        }
        Ok(())
    }

    fn check_new_name(&self, name: &str) -> Result<(), PolicyFault> {
        if name.is_empty() || name == NONE || !name.chars().all(is_name_character) {
            return Err(PolicyFault::Name { name: name.to_owned() });
        }
        if self.is_defined(name) {
            return Err(PolicyFault::DuplicateName { name: name.to_owned() });
        }
        Ok(())
    }

    fn is_defined(&self, name: &str) -> bool {
        self.witnesses.iter().any(|(other, ..)| other == name) || self.groups.iter().any(|g| g.name == name)
    }
}

impl FromStr for QuorumPolicy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLong { found: text.len() });
        }
        let mut policy = Self::unfinished();
        for (before, line) in text.split_inclusive('\n').enumerate() {
            let read = match line.strip_suffix('\n') {
                None => Err(PolicyFault::Unterminated),
                Some(line) => check_characters(line).and_then(|()| policy.read_line(line)),
            };
            read.map_err(|fault| PolicyError::Line { line: before + 1, fault })?;
        }
        if policy.quorum.is_empty() {
            return Err(PolicyFault::NoQuorum.into());
        }
        Ok(policy)
    }
}

impl fmt::Display for QuorumPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spaced = |url: &Option<String>| url.as_ref().map(|url| format!(" {url}")).unwrap_or_default();
        for (log, url) in &self.logs {
            writeln!(f, "log {log}{}", spaced(url))?;
        }
        for (name, verifier, url) in &self.witnesses {
            writeln!(f, "witness {name} {verifier}{}", spaced(url))?;
        }
        for Group { name, threshold, members } in &self.groups {
            writeln!(f, "group {name} {threshold} {}", members.join(" "))?;
        }
        writeln!(f, "quorum {}", self.quorum)
    }
}

fn check_room<T>(items: &[T]) -> Result<(), PolicyFault> {
    if items.len() < MAX_POLICY_ITEMS { Ok(()) } else { Err(PolicyFault::TooMany) }
}

fn check_url(url: Option<&str>) -> Result<(), PolicyFault> {
    match url {
        Some(url) if url.is_empty() || !url.chars().all(is_name_character) => {
            Err(PolicyFault::Url { url: url.to_owned() })
        }
        _ => Ok(()),
    }
}

fn check_characters(line: &str) -> Result<(), PolicyFault> {
    match line.bytes().find(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
        Some(byte) => Err(PolicyFault::Character { byte }),
        None => Ok(()),
    }
}

/// Names are opaque to the format; only what ends an item or a line cannot be in one.
fn is_name_character(c: char) -> bool {
    c > ' ' && c != '\u{7f}'
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
