//! What can happen in a simulation, and lists of it drawn from a seed.

use huitong_proof::{SeededEntropy, random};

/// Nodes of a simulated space: the registrar has place 0, four connectors follow.
pub(crate) const NODES: usize = 5;

/// One thing that happens. Places and numbers wrap round, and what makes no sense where it stands does nothing, so that
/// any part of a list is a list, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A node signs statements to another and sends them off.
    Say { from: usize, to: usize, count: usize },
    /// One of the messages under way arrives, is doubled, or is lost.
    Arrive { message: usize, fate: Fate },
    /// A node signs a checkpoint and publishes it.
    Sign { node: usize },
    /// A node asks its witnesses.
    Cosign { node: usize },
    /// A node brings its mirrors of the ledgers that it witnesses up to date.
    Mirror { node: usize },
    /// A node looks at the ledgers of others.
    Monitor { node: usize },
    /// A node audits another.
    Audit { node: usize, of: usize },
    /// A node signs a checkpoint, has it cosigned, and everybody mirrors it.
    Round { node: usize },
    /// A node compares with those who have not answered yet.
    Compare { node: usize },
    /// The operator of a node in safe mode recovers its ledger.
    Recover { node: usize },
    /// The function node states how far the ledgers of its members are.
    StateLogs,
    /// Time passes.
    Advance { seconds: u64 },
    /// A node stops cleanly and starts again.
    Restart { node: usize },
    /// A node's machine goes down: it goes on from its directory as it is on disk, with what was in memory gone.
    Crash { node: usize },
    /// The operator copies a node's directory.
    Backup { node: usize },
    /// A node goes on from the last copy, and knows that it was restored.
    Restore { node: usize },
    /// A node goes on from the last copy and does not know it; everybody answers when it starts.
    RollBack { node: usize },
    /// A node is not there for a while.
    Down { node: usize },
    /// It is back.
    Up { node: usize },
    /// Nodes reach only those on their own side; bit n of `side` is the side of the node at place n.
    Part { side: u8 },
    /// All reach each other again.
    Heal,
    /// From now on so many of a hundred requests are lost, or their answers, or they are made twice, or (checkpoints for
    /// witnesses only) arrive much later.
    Weather { lost: u8, unanswered: u8, twice: u8, late: u8 },
    /// A checkpoint for a witness that was under way for long arrives.
    Late { request: usize },
    /// A node begins to keep two ledgers under one key and shows the second to one half of the others, by the bits of
    /// `half`. Only the first node to try does.
    Lie { node: usize, half: u8 },
    /// A witness begins to cosign whatever the liar asks it to. Only the first node to try does.
    Collude { node: usize },
    /// The liar tells somebody something from the ledger that it hides from him.
    Slip { to: usize },
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It arrives.
    Arrives,
    /// It arrives, and the same again later.
    Doubled,
    /// It does not arrive.
    Lost,
}

/// How the nodes of a simulated space are witnessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Witnesses {
    /// All others witness each ledger; so many must cosign.
    Others { quorum: usize },
    /// As without any configuration: the registrar alone, and nobody for the registrar.
    Registrar,
}

/// What can happen, as often as the seed says.
pub(crate) fn draw(seed: u64, steps: usize) -> Vec<Operation> {
    let mut dice = Dice::new(seed);
    // Most spaces are calm in some way, or nothing would ever be finished before the next disaster.
    let (liars, disasters, storms) = (dice.chance(60), dice.chance(65), dice.chance(60));
    let mut operations = Vec::with_capacity(steps);
    while operations.len() < steps {
        let operation = dice.operation();
        let fits = match operation {
            Operation::Lie { .. } | Operation::Collude { .. } | Operation::Slip { .. } => liars,
            Operation::Restore { .. } | Operation::RollBack { .. } => disasters,
            Operation::Weather { .. } | Operation::Part { .. } | Operation::Down { .. } => storms,
            _ => true,
        };
        if fits {
            operations.push(operation);
        }
    }
    if disasters && steps > 3 {
        let (half, victim) = (steps as u64 / 2, dice.node());
        let put_back = if dice.chance(65) {
            Operation::Restore { node: victim }
        } else {
            Operation::RollBack { node: victim }
        };
        operations[dice.below(half) as usize] = Operation::Backup { node: victim };
        operations[(half + dice.below(half)) as usize] = put_back;
    }
    operations
}

/// How the space of a seed is witnessed.
pub(crate) fn witnesses(seed: u64) -> Witnesses {
    if Dice::new(seed ^ 0x7769_746e_6573_7365).chance(75) {
        Witnesses::Others { quorum: 3 }
    } else {
        Witnesses::Registrar
    }
}

/// Draws that follow from a seed.
struct Dice(SeededEntropy);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(SeededEntropy::new(seed))
    }

    fn below(&mut self, bound: u64) -> u64 {
        u64::from_be_bytes(random(&self.0)) % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn node(&mut self) -> usize {
        self.below(NODES as u64) as usize
    }

    /// Two places that differ.
    fn pair(&mut self) -> (usize, usize) {
        let (first, step) = (self.node(), 1 + self.below(NODES as u64 - 1) as usize);
        (first, (first + step) % NODES)
    }

    /// A side with one or two connectors on it.
    fn side(&mut self) -> u8 {
        let (first, second) = self.pair();
        1 << first | 1 << second
    }

    fn operation(&mut self) -> Operation {
        let node = self.node();
        match self.below(1_000) {
            0..230 => {
                let (from, to) = self.pair();
                Operation::Say { from, to, count: 1 + self.below(3) as usize }
            }
            230..430 => {
                let fate = match self.below(10) {
                    0..7 => Fate::Arrives,
                    7..9 => Fate::Doubled,
                    _ => Fate::Lost,
                };
                Operation::Arrive { message: self.below(64) as usize, fate }
            }
            430..480 => Operation::Sign { node },
            480..550 => Operation::Cosign { node },
            550..580 => Operation::Mirror { node },
            580..640 => Operation::Monitor { node },
            640..650 => {
                let (node, of) = self.pair();
                Operation::Audit { node, of }
            }
            650..740 => Operation::Round { node },
            740..755 => Operation::Compare { node },
            755..775 => Operation::Recover { node },
            775..780 => Operation::StateLogs,
            780..830 => Operation::Advance { seconds: 1 << self.below(10) },
            830..850 => Operation::Restart { node },
            850..870 => Operation::Crash { node },
            870..895 => Operation::Backup { node },
            895..920 => Operation::Restore { node },
            920..935 => Operation::RollBack { node },
            935..942 => Operation::Down { node },
            942..954 => Operation::Up { node },
            954..960 => Operation::Part { side: self.side() },
            960..969 => Operation::Heal,
            969..977 => match self.below(3) {
                0 => Operation::Weather { lost: 0, unanswered: 0, twice: 0, late: 0 },
                _ => Operation::Weather {
                    lost: self.below(30) as u8,
                    unanswered: self.below(20) as u8,
                    twice: self.below(20) as u8,
                    late: self.below(10) as u8,
                },
            },
            977..983 => Operation::Late { request: self.below(8) as usize },
            983..990 => Operation::Lie { node: 1 + self.below(NODES as u64 - 1) as usize, half: self.side() },
            990..995 => Operation::Collude { node },
            _ => Operation::Slip { to: node },
        }
    }
}
