//! The network between the nodes of a simulated space, and what goes wrong on it.
//!
//! What becomes of a request follows from the seed, the step, who asks whom what, and how often he has in this step: not
//! from the order in which requests that are under way together happen to be served.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use huitong_evidence::{ChannelSide, ChannelStanding, Evidence, Included, LogPeer, WitnessAnswer};
use huitong_identity::{Caller, PeerError, ServiceError};
use huitong_ids::NodeId;
use huitong_ledger::{AddCheckpoint, SignedCheckpoint};
use huitong_proof::Digest;

use crate::operation::NODES;

const ADD_CHECKPOINT: &str = "add_checkpoint";
/// Why a request failed that arrives later.
const LATE: &str = "no answer in time";

/// Who answers for each node, and what goes wrong on the way to it.
pub(crate) struct Net {
    seed: u64,
    callers: Vec<Caller>,
    state: Mutex<State>,
}

/// What a net looks like at one moment.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) nodes: [Option<Evidence>; NODES],
    pub(crate) lie: Option<Lie>,
    pub(crate) colluder: Option<usize>,
    pub(crate) weather: Weather,
    pub(crate) down: [bool; NODES],
    /// On which side each node is, by bits.
    pub(crate) side: u8,
    /// Nothing goes wrong for the moment, and everybody is there.
    pub(crate) calm: bool,
    pub(crate) step: u64,
    asked: BTreeMap<Question, u64>,
    pub(crate) late: Vec<LateRequest>,
    /// Errors that no honest node answers.
    pub(crate) defects: Vec<String>,
}

/// A node that keeps two ledgers under one key.
#[derive(Clone)]
pub(crate) struct Lie {
    pub(crate) node: usize,
    /// Who is shown the second, by bits.
    pub(crate) half: u8,
    pub(crate) second: Evidence,
}

impl Lie {
    /// Which of the two ledgers that node is shown.
    pub(crate) fn version_for(&self, node: usize) -> Version {
        if self.half >> node & 1 == 1 { Version::Second } else { Version::First }
    }
}

/// Which of the two ledgers of a liar. Honest nodes have the first only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    First,
    Second,
}

/// What becomes of so many of a hundred requests.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) lost: u8,
    pub(crate) unanswered: u8,
    pub(crate) twice: u8,
    pub(crate) late: u8,
}

/// A checkpoint for a witness that is still under way.
pub(crate) struct LateRequest {
    pub(crate) from: usize,
    pub(crate) version: Version,
    to: usize,
    body: String,
}

type Question = (usize, Version, usize, &'static str);

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Served,
    Lost,
    Unanswered,
    Twice,
    Late,
}

impl Net {
    pub(crate) fn new(seed: u64, callers: Vec<Caller>) -> Arc<Self> {
        Arc::new(Self { seed, callers, state: Mutex::default() })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn caller(&self, node: usize) -> &Caller {
        &self.callers[node]
    }

    pub(crate) fn place(&self, id: &NodeId) -> Option<usize> {
        self.callers.iter().position(|caller| caller.node() == id)
    }

    /// Whether two nodes reach each other now. A liar's versions reach only whom they are for.
    pub(crate) fn reaches(&self, (from, version): (usize, Version), to: usize) -> bool {
        let state = self.state();
        let there = !state.down[from] && !state.down[to];
        let together = state.side >> from & 1 == state.side >> to & 1;
        let meant = match &state.lie {
            Some(lie) if lie.node == from => lie.version_for(to) == version,
            _ => version == Version::First,
        };
        (state.calm || (there && together)) && meant
    }

    /// What that node shows of itself to another.
    pub(crate) fn shown_to(&self, from: usize, to: usize) -> Option<Evidence> {
        let state = self.state();
        match &state.lie {
            Some(lie) if lie.node == to && lie.version_for(from) == Version::Second => {
                Some(lie.second.clone())
            }
            _ => state.nodes[to].clone(),
        }
    }

    /// A checkpoint that was under way for long arrives; nobody hears the answer.
    pub(crate) async fn deliver_late(&self, request: LateRequest) {
        let LateRequest { from, version, to, body } = request;
        if !self.reaches((from, version), to) {
            return;
        }
        if let Some(node) = self.shown_to(from, to) {
            let answer = node.add_checkpoint(self.caller(from), &body).await;
            self.note_defect(to, "add_checkpoint", &answer);
        }
    }

    fn fate(&self, question: Question) -> Fate {
        let (from, version, to, name) = question;
        let mut state = self.state();
        let step = state.step;
        let count = state.asked.entry(question).or_default();
        *count += 1;
        let drawn = [self.seed, step, from as u64, version as u64, to as u64, *count];
        let bytes: Vec<u8> = drawn.iter().flat_map(|number| number.to_be_bytes()).collect();
        let digest = Digest::sha256_parts(&[&bytes, name.as_bytes()]);
        let roll = u64::from_be_bytes(*digest.as_bytes().first_chunk().unwrap()) % 100;
        let Weather { lost, unanswered, twice, late } = state.weather;
        let fates = [
            (lost, Fate::Lost),
            (unanswered, Fate::Unanswered),
            (twice, Fate::Twice),
            (if name == ADD_CHECKPOINT { late } else { 0 }, Fate::Late),
        ];
        let mut bound = 0;
        for (share, fate) in fates {
            bound += u64::from(share);
            if roll < bound && !state.calm {
                return fate;
            }
        }
        Fate::Served
    }

    fn note_defect<T>(&self, node: usize, name: &str, answer: &Result<T, ServiceError>) {
        if let Err(error @ (ServiceError::Internal(_) | ServiceError::Store(_))) = answer {
            self.state().defects.push(format!("node {node} failed in {name}: {error}"));
        }
    }
}

impl State {
    /// A step begins: fates are drawn anew.
    pub(crate) fn begin(&mut self, step: u64) {
        self.step = step;
        self.asked.clear();
    }
}

/// The other nodes, as one of them reaches them.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) net: Arc<Net>,
    pub(crate) from: usize,
    pub(crate) version: Version,
}

impl Link {
    async fn call<T, F>(
        &self,
        to: &NodeId,
        name: &'static str,
        at_node: impl Fn(Evidence, Caller) -> F + Send,
    ) -> Result<T, PeerError>
    where
        T: Send,
        F: Future<Output = Result<T, ServiceError>> + Send,
    {
        let to = self.net.place(to).ok_or_else(|| unavailable("no such node"))?;
        if !self.net.reaches((self.from, self.version), to) {
            return Err(unavailable("no route"));
        }
        let fate = self.net.fate((self.from, self.version, to, name));
        match fate {
            Fate::Lost => return Err(unavailable("connection reset")),
            Fate::Late => return Err(unavailable(LATE)),
            Fate::Served | Fate::Unanswered | Fate::Twice => {}
        }
        let node = self.net.shown_to(self.from, to).ok_or_else(|| unavailable("connection refused"))?;
        let caller = self.net.caller(self.from).clone();
        if fate == Fate::Twice {
            let first = at_node(node.clone(), caller.clone()).await;
            self.net.note_defect(to, name, &first);
        }
        let answer = at_node(node, caller).await;
        self.net.note_defect(to, name, &answer);
        if fate == Fate::Unanswered {
            return Err(unavailable("connection reset before the answer"));
        }
        answer.map_err(|error| match error {
            ServiceError::Busy { .. } | ServiceError::SafeMode { .. } => unavailable(&error.to_string()),
            ServiceError::Internal(_) | ServiceError::Store(_) => unavailable(&error.to_string()),
            other => PeerError::Refused {
                code: "simulation".to_owned(),
                reason: other.to_string(),
                statement: None,
            },
        })
    }

    /// A dishonest witness cosigns whatever the liar asks for, from either of its ledgers.
    fn collusion(&self, to: &NodeId, body: &str) -> Option<WitnessAnswer> {
        let (colluder, lie) = {
            let state = self.net.state();
            (state.colluder?, state.lie.clone()?)
        };
        if lie.node != self.from || self.net.place(to) != Some(colluder) {
            return None;
        }
        let witness = self.net.state().nodes[colluder].clone()?;
        let log = &self.net.caller(self.from).credential().log;
        let request = AddCheckpoint::parse(body).ok()?;
        let signed = SignedCheckpoint::parse(&request.note, log).ok()?;
        let line = witness.cosigner().cosign(signed.checkpoint(), witness.now());
        Some(WitnessAnswer::Cosigned(format!("{line}\n")))
    }
}

fn unavailable(why: &str) -> PeerError {
    PeerError::Unavailable(why.to_owned())
}

#[async_trait]
impl LogPeer for Link {
    async fn add_checkpoint(&self, to: &NodeId, body: &str) -> Result<WitnessAnswer, PeerError> {
        if let Some(answer) = self.collusion(to, body) {
            return Ok(answer);
        }
        let at_node =
            |node: Evidence, caller: Caller| async move { node.add_checkpoint(&caller, body).await };
        let answer = self.call(to, ADD_CHECKPOINT, at_node).await;
        if let Err(PeerError::Unavailable(reason)) = &answer
            && reason == LATE
        {
            let to = self.net.place(to).ok_or_else(|| unavailable("no such node"))?;
            let request = LateRequest { from: self.from, version: self.version, to, body: body.to_owned() };
            self.net.state().late.push(request);
        }
        answer
    }

    async fn witnessed(&self, to: &NodeId, origin: &str) -> Result<Option<String>, PeerError> {
        let at_node = |node: Evidence, caller: Caller| async move { node.witnessed(&caller, origin) };
        self.call(to, "witnessed", at_node).await
    }

    async fn checkpoint(&self, to: &NodeId) -> Result<String, PeerError> {
        let at_node = |node: Evidence, caller: Caller| async move { node.checkpoint(&caller).await };
        self.call(to, "checkpoint", at_node).await
    }

    async fn consistency(&self, to: &NodeId, old: u64, new: u64) -> Result<Vec<Digest>, PeerError> {
        let at_node = |node: Evidence, caller: Caller| async move { node.consistency(&caller, old, new) };
        self.call(to, "consistency", at_node).await
    }

    async fn inclusion(&self, to: &NodeId, digest: &Digest, size: u64) -> Result<Included, PeerError> {
        let at_node = |node: Evidence, caller: Caller| async move { node.inclusion(&caller, digest, size) };
        self.call(to, "inclusion", at_node).await
    }

    async fn leaves(
        &self,
        to: &NodeId,
        origin: &str,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Digest>, PeerError> {
        let at_node =
            |node: Evidence, caller: Caller| async move { node.leaves(&caller, origin, from, limit) };
        self.call(to, "leaves", at_node).await
    }

    async fn channel(&self, to: &NodeId) -> Result<ChannelStanding, PeerError> {
        let at_node = |node: Evidence, caller: Caller| async move { node.channel(&caller) };
        self.call(to, "channel", at_node).await
    }

    async fn statements(
        &self,
        to: &NodeId,
        side: ChannelSide,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<Bytes>, PeerError> {
        let at_node =
            |node: Evidence, caller: Caller| async move { node.statements(&caller, side, from_seq, limit) };
        self.call(to, "statements", at_node).await
    }

    /// As the registrar gives it out.
    async fn credential(&self, of: &NodeId) -> Result<Bytes, PeerError> {
        let place = self.net.place(of).ok_or_else(|| unavailable("no such node"))?;
        let registrar = self.net.caller(0).node().clone();
        let bytes = self.net.caller(place).credential_statement().bytes().clone();
        if self.from == 0 {
            return Ok(bytes);
        }
        self.call(&registrar, "credential", |_, _| {
            let bytes = bytes.clone();
            async move { Ok(bytes) }
        })
        .await
    }
}
