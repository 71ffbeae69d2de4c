//! A simulated space: five nodes over real stores, what is under way between them, and what happens to them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use huitong_evidence::{Evidence, EvidenceSettings, MIRRORED_LEAVES};
use huitong_identity::{ServiceError, remember};
use huitong_ids::NodeId;
use huitong_ledger::{EntryState, LedgerError, QuorumPolicy, leaf_hash};
use huitong_proof::cbor::Map;
use huitong_proof::{Digest, Draft, Kind, ManualClock, Statement};
use huitong_store::{Tx, TxError};
use tempfile::TempDir;

use crate::memory::{Memory, roots};
use crate::network::{Lie, Link, Net, Version, Weather};
use crate::operation::{Fate, NODES, Operation, Witnesses};
use crate::space::{Space, copy};

/// How long a statement may be missing in its issuer's ledger, in this space.
const STATEMENT_DELAY: Duration = Duration::from_secs(60);
/// How old a ledger's newest checkpoint may become.
const STALE_AFTER: Duration = Duration::from_secs(300);

/// Something that must never be, in words.
pub(crate) type Violation = String;

/// The whole space.
pub(crate) struct World {
    pub(crate) net: Arc<Net>,
    pub(crate) clock: ManualClock,
    pub(crate) witnesses: Witnesses,
    pub(crate) homes: Vec<Home>,
    pub(crate) messages: Vec<Message>,
    pub(crate) memory: Memory,
    /// The one node whose directory may be put back. Two disasters at once can take from the world what only those two
    /// knew, and then nobody can keep a node from signing it anew.
    pub(crate) victim: Option<usize>,
    /// It was put back behind its back, and does not know that it may have forgotten what it has cosigned.
    pub(crate) rolled_back: bool,
    /// How many entries the two ledgers of a liar have in common.
    pub(crate) parted_at: u64,
    /// What was done and what came of it.
    pub(crate) trace: Vec<String>,
    space: Arc<Space>,
    directory: TempDir,
    seed: u64,
    /// Of starts and copies, so that each is another.
    numbers: u64,
    step: u64,
}

/// One node as its operator and the observer see it.
pub(crate) struct Home {
    pub(crate) id: NodeId,
    data: PathBuf,
    backup: Option<PathBuf>,
    /// Leaf hashes of all entries that were there when it was last looked at.
    pub(crate) leaves: Vec<Digest>,
    /// Whether it was ever put back to an old copy.
    pub(crate) restored: bool,
    /// Whether what is not under a checkpoint may still be rearranged: it is in safe mode, or was a moment ago.
    unsettled: bool,
}

/// A statement on its way.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) from: usize,
    pub(crate) version: Version,
    pub(crate) to: usize,
    pub(crate) statement: Statement,
}

/// What came of a statement that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrived {
    Logged,
    Contradicted,
}

impl World {
    pub(crate) fn new(space: Arc<Space>, seed: u64, witnesses: Witnesses) -> Result<Self, Violation> {
        let clock = ManualClock::new(space.now);
        let callers = space.callers();
        let homes = callers.iter().map(|caller| caller.node().clone());
        let directory = TempDir::new().unwrap();
        let homes: Vec<Home> = (0..NODES)
            .zip(homes)
            .map(|(node, id)| {
                let data = directory.path().join(format!("{node}"));
                copy(space.data(node), &data);
                Home { id, data, backup: None, leaves: Vec::new(), restored: false, unsettled: false }
            })
            .collect();
        let mut world = Self {
            net: Net::new(seed, callers),
            clock,
            witnesses,
            homes,
            messages: Vec::new(),
            memory: Memory::default(),
            victim: None,
            rolled_back: false,
            parted_at: 0,
            trace: Vec::new(),
            space,
            directory,
            seed,
            numbers: 0,
            step: 0,
        };
        for node in 0..NODES {
            world.start(node)?;
        }
        Ok(world)
    }

    /// Everybody exchanges statements with everybody, in good order. Whom a node has met only after its directory was
    /// copied, it cannot ask when the copy is put back, unless its witnesses are the same nodes.
    pub(crate) async fn introduce(&mut self) -> Result<(), Violation> {
        for from in 0..NODES {
            for to in (0..NODES).filter(|to| *to != from) {
                self.act(Operation::Say { from, to, count: 1 }).await?;
                self.act(Operation::Arrive { message: 0, fate: Fate::Arrives }).await?;
            }
        }
        for node in 0..NODES {
            self.act(Operation::Round { node }).await?;
        }
        Ok(())
    }

    /// Does what the operation says, and looks whether all is as it must be.
    pub(crate) async fn act(&mut self, operation: Operation) -> Result<(), Violation> {
        self.step += 1;
        self.net.state().begin(self.step);
        let outcome = self.perform(operation).await?;
        let sizes: Vec<usize> = self.homes.iter().map(|home| home.leaves.len()).collect();
        self.look().await?;
        self.trace.push(format!("{operation:?}: {outcome}, sizes before {sizes:?}"));
        Ok(())
    }

    async fn perform(&mut self, operation: Operation) -> Result<String, Violation> {
        match operation {
            Operation::Say { from, to, count } => {
                let version = self.version_for(from, to);
                self.say((from, version), to, count).await
            }
            Operation::Arrive { message, fate } => self.arrive(message, fate).await,
            Operation::Sign { node } => self.sign(node).await,
            Operation::Cosign { node } => self.cosign(node).await,
            Operation::Mirror { node } => self.mirror(node).await,
            Operation::Monitor { node } => self.monitor(node).await,
            Operation::Audit { node, of } => self.audit(node, of).await,
            Operation::Round { node } => {
                let outcomes = [self.sign(node).await?, self.cosign(node).await?];
                for other in (0..NODES).filter(|other| *other != node) {
                    self.mirror(other).await?;
                }
                Ok(outcomes.join(", "))
            }
            Operation::Compare { node } => self.compare(node).await,
            Operation::Recover { node } => self.recover(node).await,
            Operation::StateLogs => self.state_logs().await,
            Operation::Advance { seconds } => {
                self.clock.advance(Duration::from_secs(seconds));
                Ok("later".to_owned())
            }
            Operation::Restart { node } => self.restart(node).await,
            Operation::Crash { node } => self.crash(node).await,
            Operation::Backup { node } => Ok(self.back_up(node)),
            Operation::Restore { node } => self.put_back(node, Marked::Yes).await,
            Operation::RollBack { node } => self.put_back(node, Marked::No).await,
            Operation::Down { node } => {
                self.net.state().down[node] = true;
                Ok("gone".to_owned())
            }
            Operation::Up { node } => {
                self.net.state().down[node] = false;
                Ok("there".to_owned())
            }
            Operation::Part { side } => {
                self.net.state().side = side;
                Ok("parted".to_owned())
            }
            Operation::Heal => {
                self.net.state().side = 0;
                Ok("together".to_owned())
            }
            Operation::Weather { lost, unanswered, twice, late } => {
                self.net.state().weather = Weather { lost, unanswered, twice, late };
                Ok("changed".to_owned())
            }
            Operation::Late { request } => self.late(request).await,
            Operation::Lie { node, half } => self.lie(node, half).await,
            Operation::Collude { node } => Ok(self.collude(node)),
            Operation::Slip { to } => self.slip(to).await,
        }
    }

    // Nodes and their versions.

    pub(crate) fn node(&self, node: usize) -> Evidence {
        self.net.state().nodes[node].clone().unwrap()
    }

    pub(crate) fn liar(&self) -> Option<usize> {
        self.net.state().lie.as_ref().map(|lie| lie.node)
    }

    pub(crate) fn is_honest(&self, node: usize) -> bool {
        self.liar() != Some(node)
    }

    pub(crate) fn link(&self, from: usize, version: Version) -> Link {
        Link { net: Arc::clone(&self.net), from, version }
    }

    /// The ledgers that a node keeps: one, unless it lies.
    pub(crate) fn versions(&self, node: usize) -> Vec<(Version, Evidence)> {
        let mut versions = vec![(Version::First, self.node(node))];
        if let Some(lie) = self.net.state().lie.clone().filter(|lie| lie.node == node) {
            versions.push((Version::Second, lie.second));
        }
        versions
    }

    fn version_for(&self, from: usize, to: usize) -> Version {
        match &self.net.state().lie {
            Some(lie) if lie.node == from => lie.version_for(to),
            _ => Version::First,
        }
    }

    fn version(&self, (node, version): (usize, Version)) -> Evidence {
        let state = self.net.state();
        match (&state.lie, version) {
            (Some(lie), Version::Second) if lie.node == node => lie.second.clone(),
            _ => state.nodes[node].clone().unwrap(),
        }
    }

    fn is_down(&self, node: usize) -> bool {
        self.net.state().down[node]
    }

    fn settings(&self, node: usize) -> EvidenceSettings {
        let mut settings = EvidenceSettings {
            statement_delay: STATEMENT_DELAY,
            stale_after: STALE_AFTER,
            start_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(60),
            ..EvidenceSettings::default()
        };
        if let Witnesses::Others { quorum } = self.witnesses {
            let others = || (0..NODES).filter(|other| *other != node);
            let witness = |other| {
                let verifier = self.net.caller(other).credential().witness.clone();
                (format!("witness-{other}"), verifier, None)
            };
            settings.policy = Some(QuorumPolicy::k_of(quorum, others().map(witness).collect()).unwrap());
            settings.witness_for = others().map(|other| self.homes[other].id.clone()).collect();
        }
        settings
    }

    // What happens.

    async fn say(&mut self, from: (usize, Version), to: usize, count: usize) -> Result<String, Violation> {
        if from.0 == to || self.is_down(from.0) {
            return Ok("nothing".to_owned());
        }
        for said in 0..count {
            match self.issue(from, to, said % 2 == 1).await? {
                Some(statement) => {
                    self.messages.push(Message { from: from.0, version: from.1, to, statement });
                }
                None => return Ok("not signed".to_owned()),
            }
        }
        Ok("said".to_owned())
    }

    /// Signs a statement; nothing in safe mode, and nothing to who has to answer first.
    async fn issue(
        &self,
        from: (usize, Version),
        to: usize,
        answers: bool,
    ) -> Result<Option<Statement>, Violation> {
        let node = self.version(from);
        let ledger = node.ledger().clone();
        let audience = self.homes[to].id.to_string();
        let last = ledger.channel_head(&ledger.store().view(), &audience, ledger.node());
        let last = last.map_err(|error| error.to_string())?.map(|(_, digest)| digest);
        let draft = Draft {
            kind: if answers { Kind::Accept } else { Kind::Offer },
            audience,
            subject: [7; 16],
            agreement: Digest::sha256(&[to as u8]),
            reference: last.filter(|_| answers).unwrap_or(Digest::ZERO),
            detail: Map::new(),
        };
        let issue = move |tx: &mut Tx<'_>| ledger.issue(tx, draft);
        let issued = node.ledger().store().transact("simulation.say", issue).await;
        match issued {
            Ok(statement) => {
                if self.is_honest(from.0) {
                    self.memory.judge(&statement)?;
                }
                Ok(Some(statement))
            }
            Err(TxError::Abort(LedgerError::SafeMode { .. } | LedgerError::Unconfirmed { .. })) => Ok(None),
            Err(error) => Err(format!("node {} cannot sign a statement: {error}", from.0)),
        }
    }

    async fn arrive(&mut self, message: usize, fate: Fate) -> Result<String, Violation> {
        if self.messages.is_empty() {
            return Ok("nothing".to_owned());
        }
        let place = message % self.messages.len();
        let Message { from, version, to, statement } = self.messages[place].clone();
        if fate != Fate::Lost && !self.net.reaches((from, version), to) {
            return Ok("no route".to_owned());
        }
        if fate != Fate::Doubled {
            self.messages.remove(place);
        }
        if fate == Fate::Lost {
            return Ok("lost".to_owned());
        }
        self.deliver(from, to, &statement).await
    }

    /// A statement arrives at what the other node shows of itself to its issuer.
    pub(crate) async fn deliver(
        &mut self,
        from: usize,
        to: usize,
        statement: &Statement,
    ) -> Result<String, Violation> {
        let node = self.net.shown_to(from, to).unwrap();
        let (ledger, caller, arriving) =
            (node.ledger().clone(), self.net.caller(from).clone(), statement.clone());
        let admit = move |tx: &mut Tx<'_>| -> Result<Arrived, ServiceError> {
            remember(tx, &ledger, &caller)?;
            match ledger.admit(tx, &arriving) {
                Ok(_) => Ok(Arrived::Logged),
                // The evidence is in this transaction.
                Err(LedgerError::Fork { .. }) => Ok(Arrived::Contradicted),
                Err(error) => Err(error.into()),
            }
        };
        let arrived = node.ledger().store().transact("simulation.arrive", admit).await;
        let arrived = arrived.map_err(|error| format!("node {to} cannot log what arrives: {error}"))?;
        if self.is_honest(from) {
            self.memory.reached(statement)?;
            if arrived == Arrived::Contradicted {
                return Err(format!(
                    "node {to} holds a statement of node {from} that excludes an honest one"
                ));
            }
        }
        let logged = node.ledger().index_of(&node.ledger().store().view(), &statement.digest());
        if arrived == Arrived::Logged && logged.map_err(|error| error.to_string())?.is_none() {
            return Err(format!("node {to} has acknowledged a statement that is not in its ledger"));
        }
        Ok(format!("{arrived:?} by {to}"))
    }

    pub(crate) async fn sign(&mut self, node: usize) -> Result<String, Violation> {
        if self.is_down(node) {
            return Ok("nothing".to_owned());
        }
        let mut outcome = String::new();
        for (_, evidence) in self.versions(node) {
            let ledger = evidence.ledger();
            let latest =
                || ledger.latest_checkpoint(&ledger.store().view()).map_err(|error| error.to_string());
            let (closed, before) = (evidence.safe_mode().is_some(), latest()?);
            match ledger.checkpoint().await {
                Ok(signed) => {
                    if closed && before.as_ref() != Some(&signed) {
                        return Err(format!("node {node} has signed a checkpoint in safe mode"));
                    }
                    outcome = format!("size {}", signed.checkpoint().size);
                    ledger.publish().await.map_err(|error| format!("node {node} cannot publish: {error}"))?;
                }
                Err(LedgerError::SafeMode { .. }) if closed => "safe mode".clone_into(&mut outcome),
                Err(error) => return Err(format!("node {node} cannot sign a checkpoint: {error}")),
            }
        }
        if self.is_honest(node) {
            self.check_signed(node).await?;
        }
        Ok(outcome)
    }

    /// What was signed is the root over the entries, computed without the ledger's help.
    async fn check_signed(&mut self, node: usize) -> Result<(), Violation> {
        let evidence = self.node(node);
        let view = evidence.ledger().store().view();
        let leaves = all_leaves(&evidence)?;
        let Some(signed) = evidence.ledger().latest_checkpoint(&view).map_err(|error| error.to_string())?
        else {
            return Ok(());
        };
        let checkpoint = signed.checkpoint();
        match roots(&leaves).get(checkpoint.size as usize) {
            Some(root) if *root == checkpoint.root => Ok(()),
            _ => Err(format!(
                "node {node} has signed a root at size {} that its entries do not have",
                checkpoint.size
            )),
        }
    }

    pub(crate) async fn cosign(&mut self, node: usize) -> Result<String, Violation> {
        if self.is_down(node) {
            return Ok("nothing".to_owned());
        }
        let mut outcomes = Vec::new();
        for (version, evidence) in self.versions(node) {
            let outcome = evidence.cosign_once(&self.link(node, version)).await;
            let outcome =
                outcome.map_err(|error| format!("node {node} cannot ask its witnesses: {error}"))?;
            outcomes.push(format!("{} by {:?}, final: {}", outcome.size, outcome.cosigned, outcome.is_final));
        }
        Ok(outcomes.join("; "))
    }

    pub(crate) async fn mirror(&mut self, node: usize) -> Result<String, Violation> {
        if self.is_down(node) {
            return Ok("nothing".to_owned());
        }
        let mut outcomes = Vec::new();
        for (version, evidence) in self.versions(node) {
            let mirrored = evidence.mirror_once(&self.link(node, version), MIRRORED_LEAVES).await;
            let mirrored = mirrored.map_err(|error| format!("node {node} cannot mirror: {error}"))?;
            outcomes.extend(
                mirrored
                    .into_iter()
                    .map(|(log, outcome)| format!("{:?}: {outcome:?}", self.net.place(&log.node))),
            );
        }
        Ok(outcomes.join(", "))
    }

    pub(crate) async fn monitor(&mut self, node: usize) -> Result<String, Violation> {
        if self.is_down(node) || !self.is_honest(node) {
            return Ok("nothing".to_owned());
        }
        let report = self.node(node).monitor_once(&self.link(node, Version::First)).await;
        let report = report.map_err(|error| format!("node {node} cannot look at others: {error}"))?;
        let states: Vec<String> = report
            .logs
            .iter()
            .map(|log| format!("{:?}: {:?}", self.net.place(&log.node), log.state))
            .collect();
        Ok(format!("{} raised, {} ended, {}", report.raised, report.ended, states.join(", ")))
    }

    async fn audit(&mut self, node: usize, of: usize) -> Result<String, Violation> {
        if self.is_down(node) || !self.is_honest(node) || node == of {
            return Ok("nothing".to_owned());
        }
        match self.node(node).audit(&self.link(node, Version::First), &self.homes[of].id).await {
            Ok(report) => Ok(format!("{:?}", report.outcome())),
            Err(ServiceError::NotFound { .. }) => Ok("unknown".to_owned()),
            Err(error) => Err(format!("node {node} cannot audit node {of}: {error}")),
        }
    }

    pub(crate) async fn compare(&mut self, node: usize) -> Result<String, Violation> {
        if self.is_down(node) || !self.is_honest(node) {
            return Ok("nothing".to_owned());
        }
        let comparison = self.node(node).compare_late(&self.link(node, Version::First)).await;
        let comparison = comparison.map_err(|error| format!("node {node} cannot compare: {error}"))?;
        Ok(format!("{} asked, safe mode: {:?}", comparison.compared.len(), comparison.safe_mode))
    }

    pub(crate) async fn recover(&mut self, node: usize) -> Result<String, Violation> {
        if self.is_down(node) || !self.is_honest(node) || self.node(node).safe_mode().is_none() {
            return Ok("nothing".to_owned());
        }
        match self.node(node).recover(&self.link(node, Version::First), &mut |_| {}).await {
            Ok(report) => Ok(format!(
                "{} to {}, {} back, {} lost, safe mode: {:?}",
                report.from_size,
                report.to_size,
                report.recovered,
                report.lost.len(),
                report.safe_mode
            )),
            Err(ServiceError::Peer(error)) => Ok(error.to_string()),
            Err(error) => Err(format!("node {node} cannot recover: {error}")),
        }
    }

    async fn state_logs(&mut self) -> Result<String, Violation> {
        if self.is_down(0) {
            return Ok("nothing".to_owned());
        }
        match self.node(0).state_logs().await {
            Ok(stated) => Ok(format!("{} ledgers", stated.logs.len())),
            Err(ServiceError::SafeMode { .. }) => Ok("safe mode".to_owned()),
            Err(error) => Err(format!("the function node cannot state the ledgers: {error}")),
        }
    }

    async fn late(&mut self, request: usize) -> Result<String, Violation> {
        let request = {
            let mut state = self.net.state();
            if state.late.is_empty() {
                return Ok("nothing".to_owned());
            }
            let place = request % state.late.len();
            state.late.remove(place)
        };
        self.net.deliver_late(request).await;
        Ok("arrived".to_owned())
    }

    // Stops, starts and copies.

    fn start(&mut self, node: usize) -> Result<(), Violation> {
        self.numbers += 1;
        let number = self.seed.wrapping_mul(1_000_003).wrapping_add(self.numbers);
        let evidence =
            self.space.start(node, &self.homes[node].data, number, &self.clock, self.settings(node));
        let evidence = evidence.map_err(|error| format!("node {node} does not start: {error}"))?;
        self.net.state().nodes[node] = Some(evidence);
        Ok(())
    }

    async fn stop(&mut self, node: usize) {
        let evidence = self.net.state().nodes[node].take();
        if let Some(evidence) = evidence {
            let store = evidence.ledger().store().clone();
            drop(evidence);
            store.close().await;
        }
    }

    /// As every start of a node.
    async fn compare_at_start(&self, node: usize) -> Result<String, Violation> {
        let comparison = self.node(node).compare_once(&self.link(node, Version::First)).await;
        let comparison = comparison.map_err(|error| format!("node {node} cannot compare: {error}"))?;
        Ok(format!("safe mode: {:?}", comparison.safe_mode))
    }

    fn new_directory(&mut self, node: usize) -> PathBuf {
        self.numbers += 1;
        self.directory.path().join(format!("{node}-{}", self.numbers))
    }

    async fn restart(&mut self, node: usize) -> Result<String, Violation> {
        if self.is_down(node) || !self.is_honest(node) {
            return Ok("nothing".to_owned());
        }
        self.stop(node).await;
        self.start(node)?;
        self.check_everything_is_there(node)?;
        self.compare_at_start(node).await
    }

    async fn crash(&mut self, node: usize) -> Result<String, Violation> {
        if self.is_down(node) || !self.is_honest(node) {
            return Ok("nothing".to_owned());
        }
        let data = self.new_directory(node);
        copy(&self.homes[node].data, &data);
        self.stop(node).await;
        std::fs::remove_dir_all(&self.homes[node].data).unwrap();
        self.homes[node].data = data;
        self.start(node)?;
        self.check_everything_is_there(node)?;
        self.compare_at_start(node).await
    }

    /// Acknowledged implies present, in the same order, and nothing else is there.
    fn check_everything_is_there(&self, node: usize) -> Result<(), Violation> {
        let (leaves, known) = (all_leaves(&self.node(node))?, &self.homes[node].leaves);
        if leaves == *known {
            return Ok(());
        }
        let same = leaves.iter().zip(known).take_while(|(now, before)| now == before).count();
        let (now, before) = (leaves.len(), known.len());
        Err(format!("node {node} had {before} entries and starts with {now}, of which {same} are the same"))
    }

    fn back_up(&mut self, node: usize) -> String {
        let backup = self.new_directory(node);
        copy(&self.homes[node].data, &backup);
        if let Some(older) = self.homes[node].backup.replace(backup) {
            std::fs::remove_dir_all(older).unwrap();
        }
        "copied".to_owned()
    }

    async fn put_back(&mut self, node: usize, marked: Marked) -> Result<String, Violation> {
        let Some(backup) = self.homes[node].backup.clone() else { return Ok("no copy".to_owned()) };
        if self.is_down(node) || !self.is_honest(node) || self.victim.is_some_and(|victim| victim != node) {
            return Ok("nothing".to_owned());
        }
        if self.net.state().colluder == Some(node) {
            return Ok("nothing".to_owned());
        }
        self.victim = Some(node);
        self.rolled_back |= marked == Marked::No;
        self.empty_the_wires_of(node).await?;
        self.stop(node).await;
        std::fs::remove_dir_all(&self.homes[node].data).unwrap();
        let data = self.new_directory(node);
        copy(&backup, &data);
        if marked == Marked::Yes {
            std::fs::write(data.join("restored"), "restored from a backup in a simulation\n").unwrap();
        }
        let home = &mut self.homes[node];
        (home.data, home.restored, home.unsettled) = (data, true, true);
        self.start(node)?;
        match marked {
            Marked::Yes => {
                for other in (0..NODES).filter(|other| *other != node) {
                    if self.issue((node, Version::First), other, false).await?.is_some() {
                        return Err(format!("node {node} was restored and signs before it has compared"));
                    }
                }
                self.sign(node).await?;
                self.compare_at_start(node).await
            }
            Marked::No => {
                // Nothing on disk says that it was rolled back. Whoever cannot be asked now is asked too late.
                self.net.state().calm = true;
                let compared = self.compare_at_start(node).await;
                self.net.state().calm = false;
                compared
            }
        }
    }

    /// What a machine has sent before it goes down arrives at once or never: its connections end with it. Were it to
    /// arrive after the comparison, nobody could have known of it.
    async fn empty_the_wires_of(&mut self, node: usize) -> Result<(), Violation> {
        let (gone, kept): (Vec<Message>, Vec<Message>) =
            self.messages.drain(..).partition(|message| message.from == node);
        self.messages = kept;
        for Message { from, version, to, statement } in gone {
            let arrives = statement.digest().as_bytes()[0] % 2 == 0;
            if arrives && self.net.reaches((from, version), to) {
                self.deliver(from, to, &statement).await?;
            }
        }
        let late = {
            let mut state = self.net.state();
            let (gone, kept) = state.late.drain(..).partition::<Vec<_>, _>(|request| request.from == node);
            state.late = kept;
            gone
        };
        for (number, request) in (0..).zip(late) {
            if number % 2 == 0 {
                self.net.deliver_late(request).await;
            }
        }
        Ok(())
    }

    // Dishonesty.

    async fn lie(&mut self, node: usize, half: u8) -> Result<String, Violation> {
        let others = ((1_u8 << NODES) - 1) & !(1 << node);
        let half = half & others;
        let taken = self.liar().is_some()
            || self.victim == Some(node)
            || self.net.state().colluder == Some(node)
            || self.is_down(node)
            || self.node(node).safe_mode().is_some();
        if taken || half == 0 || half == others {
            return Ok("nothing".to_owned());
        }
        let data = self.new_directory(node);
        copy(&self.homes[node].data, &data);
        self.numbers += 1;
        let number = self.seed.wrapping_mul(1_000_003).wrapping_add(self.numbers);
        let second = self.space.start(node, &data, number, &self.clock, self.settings(node))?;
        self.parted_at = size_of(&second)?;
        self.net.state().lie = Some(Lie { node, half, second });
        Ok(format!("from size {}", self.parted_at))
    }

    fn collude(&mut self, node: usize) -> String {
        let taken = self.liar() == Some(node) || self.victim == Some(node);
        let mut state = self.net.state();
        if taken || state.colluder.is_some() {
            return "nothing".to_owned();
        }
        state.colluder = Some(node);
        "colludes".to_owned()
    }

    async fn slip(&mut self, to: usize) -> Result<String, Violation> {
        let Some(liar) = self.liar().filter(|liar| *liar != to) else { return Ok("nothing".to_owned()) };
        if self.is_down(liar) || self.is_down(to) {
            return Ok("nothing".to_owned());
        }
        let hidden = match self.version_for(liar, to) {
            Version::First => Version::Second,
            Version::Second => Version::First,
        };
        match self.issue((liar, hidden), to, false).await? {
            Some(statement) => self.deliver(liar, to, &statement).await,
            None => Ok("safe mode".to_owned()),
        }
    }

    // What must hold after every step.

    pub(crate) async fn look(&mut self) -> Result<(), Violation> {
        if let Some(defect) = self.net.state().defects.first() {
            return Err(defect.clone());
        }
        for node in 0..NODES {
            if self.is_honest(node) {
                self.look_at(node)?;
            }
        }
        for holder in 0..NODES {
            for (_, evidence) in self.versions(holder) {
                self.look_at_what_is_kept(holder, &evidence)?;
            }
        }
        Ok(())
    }

    /// Acknowledged implies present: the ledger of an honest node only grows, unless it was put back.
    fn look_at(&mut self, node: usize) -> Result<(), Violation> {
        let evidence = self.node(node);
        let closed = evidence.safe_mode();
        if let Some(reason) = &closed
            && !self.homes[node].restored
        {
            return Err(format!("node {node} has lost nothing and signs nothing: {reason}"));
        }
        let leaves = if self.homes[node].unsettled || closed.is_some() {
            all_leaves(&evidence)?
        } else {
            let known = &self.homes[node].leaves;
            let size = size_of(&evidence)?;
            if size < known.len() as u64 {
                return Err(format!("node {node} had {} entries and has {size}", known.len()));
            }
            // The last one that is known stands for those before it; all are compared at the next start and at the end.
            let overlap = known.len().saturating_sub(1);
            let newest = leaves_from(&evidence, overlap as u64)?;
            if newest.first() != known.last() && !known.is_empty() {
                return Err(format!("entry {overlap} of node {node} has changed"));
            }
            known.iter().take(overlap).copied().chain(newest).collect()
        };
        let settles = self.homes[node].unsettled && closed.is_none();
        self.homes[node].leaves = leaves;
        self.homes[node].unsettled = closed.is_some();
        if settles {
            self.check_reopened(node)?;
        }
        Ok(())
    }

    /// A node that was put back signs again: then it lacks nothing that others keep.
    fn check_reopened(&self, node: usize) -> Result<(), Violation> {
        let roots = roots(&self.homes[node].leaves);
        for (size, root, who) in self.memory.roots_of(node) {
            match roots.get(size as usize) {
                Some(now) if now == root => {}
                Some(_) => {
                    return Err(format!(
                        "node {node} signs again with another root at size {size} than {who} keeps"
                    ));
                }
                None => {
                    return Err(format!(
                        "node {node} signs again with {} entries, and {who} keeps its size {size}",
                        roots.len() - 1
                    ));
                }
            }
        }
        Ok(())
    }

    /// No honest node has two roots for one size, whoever keeps them.
    fn look_at_what_is_kept(&mut self, holder: usize, evidence: &Evidence) -> Result<(), Violation> {
        let view = evidence.ledger().store().view();
        for node in (0..NODES).filter(|node| *node != holder) {
            if !self.is_honest(node) {
                continue;
            }
            let origin = self.net.caller(node).credential().log.name().to_owned();
            let failed = |error: LedgerError| error.to_string();
            let cosigned = huitong_ledger::witnessed(&view, &origin).map_err(failed)?;
            let cosigned = cosigned.map(|signed| signed.checkpoint().clone());
            let observed = evidence.ledger().observed(&view, &origin).map_err(failed)?;
            for (kept, how) in [(cosigned, "as a witness"), (observed, "as an observer")] {
                if let Some(kept) = kept {
                    let who = format!("node {holder} {how} (step {})", self.step);
                    self.memory.keeps(node, kept.size, kept.root, &who)?;
                }
            }
        }
        if !self.is_honest(holder) {
            return Ok(());
        }
        let forks = evidence.fork_proofs(None).map_err(|error| error.to_string())?;
        for fork in forks {
            let place = (0..NODES).find(|node| self.homes[*node].id.as_str() == fork.node);
            if place.is_none_or(|place| self.is_honest(place)) {
                return Err(format!(
                    "node {holder} has a fork proof against an honest node: {}",
                    fork.sentence
                ));
            }
        }
        Ok(())
    }

    pub(crate) async fn close(mut self) {
        for node in 0..NODES {
            self.stop(node).await;
        }
        let lie = self.net.state().lie.take();
        if let Some(lie) = lie {
            let store = lie.second.ledger().store().clone();
            drop(lie);
            store.close().await;
        }
    }
}

/// Whether a node can see that its directory was put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marked {
    Yes,
    No,
}

pub(crate) fn size_of(evidence: &Evidence) -> Result<u64, Violation> {
    evidence.ledger().size(&evidence.ledger().store().view()).map_err(|error| error.to_string())
}

/// Leaf hashes computed from the entries, not from the tree.
pub(crate) fn all_leaves(evidence: &Evidence) -> Result<Vec<Digest>, Violation> {
    leaves_from(evidence, 0)
}

fn leaves_from(evidence: &Evidence, first: u64) -> Result<Vec<Digest>, Violation> {
    let view = evidence.ledger().store().view();
    let leaf = |index| match evidence.ledger().entry_state(&view, index) {
        Ok(Some(EntryState::Present(bytes))) => Ok(leaf_hash(&bytes)),
        Ok(Some(EntryState::Redacted(gap))) => Ok(gap.leaf),
        Ok(None) => Err(format!("entry {index} is missing")),
        Err(error) => Err(error.to_string()),
    };
    (first..size_of(evidence)?).map(leaf).collect()
}
