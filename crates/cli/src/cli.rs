//! The command line as clap reads it. Every option says what it does; nothing is decided here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use huitong_ids::{ContractId, DataId, EntityCode, NodeId};
use uuid::Uuid;

use crate::exit::EXIT_CODES;
use crate::output::Format;

/// A node of a trusted data space (可信数据空间): register, publish, agree, exchange, prove.
#[derive(Debug, Parser)]
#[command(name = "huitong", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The node's configuration [default: ./node.toml, else /etc/huitong/node.toml].
    #[arg(short, long, global = true, value_name = "FILE", help_heading = "Options of every command")]
    pub(crate) config: Option<PathBuf>,
    /// The node's admin socket, instead of the one its configuration names.
    #[arg(long, global = true, value_name = "SOCKET", help_heading = "Options of every command")]
    pub(crate) admin: Option<PathBuf>,
    /// Form of the result on stdout.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        help_heading = "Options of every command"
    )]
    pub(crate) output: Format,
    /// No notes and no progress on stderr.
    #[arg(short, long, global = true, help_heading = "Options of every command")]
    pub(crate) quiet: bool,
}

/// What `huitong` does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node until SIGTERM or SIGINT.
    Serve(Serve),
    /// Tell the whole story on this machine: three nodes, one dataset, one receipt, five refusals.
    #[command(after_help = "Example:\n  huitong demo --dir story --data table.csv")]
    Demo(Demo),
    /// Check a node's configuration, files, clock and connections.
    Doctor,
    /// Configuration files: the documented default, and a check.
    #[command(subcommand)]
    Config(Config),
    /// Who is who: invites, enrolment, nodes, revocation, trust.
    #[command(subcommand)]
    Identity(Identity),
    /// Data products: publish, list, search, show.
    #[command(subcommand)]
    Catalog(Catalog),
    /// Digital contracts: negotiate, read, decide, suspend, end.
    #[command(subcommand)]
    Contract(Contract),
    /// Transfers: fetch data under a contract, watch, pause, resume, cancel, list, show.
    #[command(subcommand)]
    Transfer(Transfer),
    /// Receipts: export, verify offline, read.
    #[command(subcommand)]
    Receipt(Receipt),
    /// The node's ledger of statements.
    #[command(subcommand)]
    Ledger(Ledger),
    /// Journal, index and ledger files: check, rebuild, back up, restore, export, count.
    #[command(subcommand)]
    Store(Store),
    /// Messages that wait for other nodes.
    #[command(subcommand)]
    Outbox(Outbox),
    /// What the node is and how it is.
    Status {
        /// Wait until the node takes work, for a minute at most.
        #[arg(long)]
        wait: bool,
    },
    /// Print the completion script of a shell.
    #[command(after_help = "Example:\n  source <(huitong completion bash)")]
    Completion {
        /// The shell.
        shell: CompletionShell,
    },
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Stop when stdin ends: the process that started this one is gone.
    #[arg(long, hide = true)]
    pub(crate) exit_with_parent: bool,
}

/// Options of `demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Keep everything in this directory, which must be new or empty [default: a temporary one, removed at the end].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The dataset to exchange [default: a bundled table of weather observations].
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    /// Do not remove the temporary directory at the end.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// `huitong config ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print a configuration with every key, its default and what it means.
    #[command(after_help = "Example:\n  huitong config show-default > node.toml")]
    ShowDefault,
    /// Check a configuration file without starting anything.
    Check,
}

/// What a node may do in the data space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Offers data.
    Provider,
    /// Uses data.
    Consumer,
}

/// `huitong identity ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Identity {
    /// Function node: invite one node of an organisation.
    #[command(
        after_help = "Example:\n  huitong identity invite --entity 91440300MA5DEMA08P --name \"Example \
                            Weather Service\" --out invite"
    )]
    Invite {
        /// The organisation's unified social credit code (统一社会信用代码), 18 characters.
        #[arg(long, value_name = "CODE")]
        entity: String,
        /// The organisation's name.
        #[arg(long)]
        name: String,
        /// What the node may do; repeat for several [default: provider and consumer].
        #[arg(long, value_enum)]
        role: Vec<RoleName>,
        /// How long the invite holds, such as 30m, 12h or 7d; at most 30d.
        #[arg(long, default_value = "1d", value_parser = lifetime)]
        lifetime: Duration,
        /// Write the invite to this new file, readable by its owner only, instead of stdout.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Enrol this node with an invite while it is not running. `serve` does the same by `identity.invite_file`.
    Enrol {
        /// File with the invite; - for stdin.
        #[arg(long, value_name = "FILE")]
        invite: PathBuf,
    },
    /// Who this node is.
    Show,
    /// Function node: the registered nodes.
    List,
    /// Function node: revoke a node for good.
    Revoke {
        /// Node id, as in `huitong identity list`.
        #[arg(value_parser = node_id)]
        node: String,
        /// Why; every node of the space can read it.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Print the trust file: with it, anybody can verify receipts offline.
    Trust {
        /// Write it to this file instead of stdout.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// A language of explanations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Lang {
    /// English.
    #[default]
    En,
    /// 简体中文.
    Zh,
}

/// `huitong catalog ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Catalog {
    /// Register and list a file, or a directory of files, as a data product.
    #[command(
        after_help = "Example:\n  huitong catalog publish table.csv --policy policy.json --name \"Daily \
                            observations\"\n\nA policy that allows one delivery, before 2040:\n  \
                            {\"contractPolicies\": {\"permissionPolicies\": [{\n    \
                            \"actions\": [\"delivery\", \"read\"],\n    \"constraints\": [\n      \
                            {\"constraintName\": \"count\", \"constraintOperator\": \"lteq\", \
                            \"constraintValue\": \"1\"},\n      \
                            {\"constraintName\": \"time\", \"constraintOperator\": \"lteq\", \
                            \"constraintValue\": \"2040-01-01T00:00:00Z\"}]}]}}"
    )]
    Publish {
        /// The file or directory, or a URL: s3://bucket/key, s3://bucket/prefix/ or https://host/path. It is published in
        /// place: keep it where it is, unchanged.
        #[arg(value_name = "PATH")]
        file: PathBuf,
        /// Usage policy, JSON in the national dictionary's names; - for stdin.
        #[arg(long, value_name = "FILE", required_unless_present = "renews")]
        policy: Option<PathBuf>,
        /// Publish a new version of this product, which keeps what is not said anew.
        #[arg(long, value_name = "PRODUCT", value_parser = product_id)]
        renews: Option<String>,
        /// Contracts cover later versions of the product too.
        #[arg(long, conflicts_with = "renews")]
        series: bool,
        /// Once it is listed, tell the consumers of all contracts that cover later versions that there is something to fetch.
        #[arg(long, requires = "renews")]
        push: bool,
        /// Hashes of the file to record beside its BLAKE3 root.
        #[arg(long, value_name = "HASH", value_enum, value_delimiter = ',')]
        digest: Vec<FileHash>,
        /// Product name, at most 128 characters [default: the name of the file or directory].
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// Introduction for those who search, at most 1024 characters.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        intro: String,
        /// Price, in words [default: free of charge].
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        price: String,
        /// Bytes that may travel before the consumer has acknowledged them, 1 MiB to 1 GiB [default: 64 MiB].
        #[arg(long, value_name = "BYTES", value_parser = value_parser!(u64).range(1 << 20..=1 << 30))]
        window: Option<u64>,
        /// Operation id; repeat a command with the id it printed to continue it.
        #[arg(long, value_name = "UUID", value_parser = operation_id)]
        id: Option<Uuid>,
    },
    /// What this node has published.
    List,
    /// Search the data space's catalog; without words, the newest products.
    #[command(after_help = "Example:\n  huitong catalog search weather daily")]
    Search {
        /// Words that all must occur in name or introduction.
        words: Vec<String>,
        /// Most hits, up to 100.
        #[arg(long, default_value_t = 20, value_parser = value_parser!(u64).range(1..=100))]
        limit: u64,
        /// Hits to skip.
        #[arg(long, default_value_t = 0)]
        offset: u64,
    },
    /// One product: provider, size, price and policy in plain words.
    Show {
        /// Product id, as in `huitong catalog search`.
        #[arg(value_parser = product_id)]
        product: String,
        /// Language of the policy's explanation.
        #[arg(long, value_enum, default_value_t)]
        lang: Lang,
    },
}

/// A hash of a whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileHash {
    /// SHA-256.
    Sha256,
    /// SM3, GB/T 32905-2016.
    Sm3,
}

/// `huitong contract ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Contract {
    /// Negotiate a contract for a product and wait for its end, or for a decision that is yours.
    Negotiate {
        /// Product id, as in `huitong catalog search`.
        #[arg(value_parser = product_id)]
        product: String,
        /// The policy to ask for; - for stdin [default: what the provider offers].
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        /// Accept the provider's counter-offer without asking.
        #[arg(long)]
        accept_counter: bool,
        /// Operation id; repeat a command with the id it printed to continue it.
        #[arg(long, value_name = "UUID", value_parser = operation_id)]
        id: Option<Uuid>,
        /// How long to wait.
        #[arg(long, default_value = "30s", value_parser = duration)]
        timeout: Duration,
    },
    /// A contract, or the terms on the table, in plain words.
    #[command(after_help = "Example:\n  huitong contract show CONTRACT --lang zh")]
    Show {
        /// Negotiation id or contract id.
        #[arg(value_parser = negotiation_id)]
        id: String,
        /// Language of the explanation.
        #[arg(long, value_enum, default_value_t)]
        lang: Lang,
    },
    /// The negotiations of this node, newest first.
    List,
    /// Consumer: accept the provider's offer, and wait for the signatures.
    Accept {
        /// Negotiation id or contract id.
        #[arg(value_parser = negotiation_id)]
        id: String,
        /// How long to wait.
        #[arg(long, default_value = "30s", value_parser = duration)]
        timeout: Duration,
    },
    /// Provider: approve a request that waits.
    Approve {
        /// Negotiation id or contract id.
        #[arg(value_parser = negotiation_id)]
        id: String,
    },
    /// Suspend a contract: nothing moves under it before this side resumes it.
    Suspend {
        /// Contract id or negotiation id.
        #[arg(value_parser = negotiation_id)]
        id: String,
        /// Why; the other side reads it.
        #[arg(long, default_value = "suspended by the operator", value_name = "TEXT")]
        reason: String,
    },
    /// Take back this side's suspension of a contract.
    Resume {
        /// Contract id or negotiation id.
        #[arg(value_parser = negotiation_id)]
        id: String,
    },
    /// End a negotiation, or a contract for good.
    Terminate {
        /// Negotiation id or contract id.
        #[arg(value_parser = negotiation_id)]
        id: String,
        /// Why; the other side reads it.
        #[arg(long, default_value = "ended by the operator", value_name = "TEXT")]
        reason: String,
    },
}

/// What is to be fetched, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Contract id, 47 characters, as in `huitong contract list`.
    #[arg(value_parser = contract_id)]
    pub(crate) contract: String,
    /// Product id [default: the contract's].
    #[arg(long, value_name = "ID", value_parser = product_id)]
    pub(crate) product: Option<String>,
    /// Directory to deliver into, which the node makes and writes, or s3://bucket/prefix/ [default: `received` in its data
    /// directory].
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// Which transfers run first where not all can.
    #[arg(long, value_name = "PRIORITY", value_parser = ["low", "normal", "high"], default_value = "normal")]
    pub(crate) priority: String,
    /// Operation id; repeat a command with the id it printed to continue it.
    #[arg(long, value_name = "UUID", value_parser = operation_id)]
    pub(crate) id: Option<Uuid>,
}

/// `huitong transfer ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Transfer {
    /// Fetch a contract's product and wait until it is here. Ctrl-C ends the waiting, not the transfer.
    #[command(
        after_help = "Examples:\n  huitong transfer fetch CONTRACT --to received\n  huitong transfer fetch CONTRACT \
                            --to s3://bucket/prefix/\n\nA file that exists \
                            already is never overwritten: the new one gets the transfer's id in its name."
    )]
    Fetch(Wanted),
    /// Start a transfer and return at once; the node goes on with it.
    Start(Wanted),
    /// Follow a transfer to its end, or all transfers until Ctrl-C; with `-o json` one line for each change.
    Watch {
        /// Transfer id, as in `huitong transfer list` [default: all transfers].
        #[arg(value_parser = transfer_id)]
        id: Option<Uuid>,
    },
    /// Hold up a transfer, on either side, until it is resumed. What has arrived stays.
    Pause {
        /// Transfer id, as in `huitong transfer list`.
        #[arg(value_parser = transfer_id)]
        id: Uuid,
        /// Why; the other side reads it.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Let a paused transfer go on. Of a completed one whose deposit into S3 has failed or was given up, it is tried again.
    Resume {
        /// Transfer id, as in `huitong transfer list`.
        #[arg(value_parser = transfer_id)]
        id: Uuid,
    },
    /// End a transfer for good, on either side. What has arrived of it is removed. Of a completed one whose deposit into S3 is not done,
    /// give that up: what was received stays on the disk.
    Cancel {
        /// Transfer id, as in `huitong transfer list`.
        #[arg(value_parser = transfer_id)]
        id: Uuid,
        /// Why; the other side reads it.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Show, set or lift a limit on how fast content leaves this node; running transfers follow at once.
    #[command(
        after_help = "Examples:\n  huitong transfer limit 50000000\n  huitong transfer limit 0 --each-peer\n\nA limit lasts \
                            until the node restarts; `[transfer]` in its configuration says what holds then."
    )]
    Limit {
        /// Bytes per second, at least 65536; 0 lifts the limit [default: show the limits].
        #[arg(value_name = "BYTES")]
        rate: Option<u64>,
        /// For the transfers to each peer.
        #[arg(long, requires = "rate", conflicts_with_all = ["each_contract", "transfer"])]
        each_peer: bool,
        /// For the transfers under each contract.
        #[arg(long, requires = "rate", conflicts_with = "transfer")]
        each_contract: bool,
        /// For one transfer.
        #[arg(long, requires = "rate", value_name = "ID", value_parser = transfer_id)]
        transfer: Option<Uuid>,
    },
    /// Order deliveries under a contract by schedule, when the provider pushes, or both.
    #[command(
        after_help = "Examples:\n  huitong transfer subscribe CONTRACT --cron \"30 2 * * *\" --to daily\n  huitong \
                            transfer subscribe CONTRACT --push\n\nOf a series only a version that is not here yet is \
                            delivered. Every delivery has its own receipt."
    )]
    Subscribe {
        /// Contract id, 47 characters, as in `huitong contract list`.
        #[arg(value_parser = contract_id)]
        contract: String,
        /// When deliveries are due: minute, hour, day of the month, month, day of the week.
        #[arg(long, value_name = "EXPRESSION", required_unless_present = "push")]
        cron: Option<String>,
        /// Time zone of the schedule, such as Asia/Shanghai [default: the node's own].
        #[arg(long, value_name = "ZONE", requires = "cron")]
        time_zone: Option<String>,
        /// Let the provider say that there is something to fetch.
        #[arg(long)]
        push: bool,
        /// Directory to deliver into, which the node makes and writes, or s3://bucket/prefix/ [default: `received` in its
        /// data directory].
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        /// Which transfers run first where not all can.
        #[arg(long, value_name = "PRIORITY", value_parser = ["low", "normal", "high"], default_value = "normal")]
        priority: String,
    },
    /// End such an order; transfers that it has started go on.
    Unsubscribe {
        /// Contract id.
        #[arg(value_parser = contract_id)]
        contract: String,
    },
    /// The orders of this node.
    Subscriptions,
    /// Provider: tell the consumer of a contract that there is something to fetch.
    Push {
        /// Contract id.
        #[arg(value_parser = contract_id)]
        contract: String,
    },
    /// The transfers of this node, newest first.
    List,
    /// One transfer.
    Show {
        /// Transfer id.
        #[arg(value_parser = transfer_id)]
        id: Uuid,
    },
}

/// `huitong receipt ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Receipt {
    /// Write out the receipt of a completed transfer.
    #[command(after_help = "Example:\n  huitong receipt export TRANSFER --out table.receipt")]
    Export {
        /// Transfer id, as in `huitong transfer list`.
        #[arg(value_parser = transfer_id)]
        transfer: Uuid,
        /// File to write; one that exists is replaced.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// How long to wait for the other node's proofs.
        #[arg(long, default_value = "15s", value_parser = duration)]
        timeout: Duration,
    },
    /// Verify a receipt with nothing but itself and a trust file: no node, no network.
    #[command(
        after_help = "Example:\n  huitong receipt verify table.receipt --trust trust.json\n\nExit codes: 0 \
                            valid, 3 invalid, 4 incomplete, 5 unreadable, 8 the policy is not met."
    )]
    Verify {
        /// The receipt.
        file: PathBuf,
        /// The trust file, from `huitong identity trust` of a party you trust.
        #[arg(long, value_name = "FILE")]
        trust: PathBuf,
        /// A quorum policy (C2SP tlog-policy) that both ledgers' checkpoints must satisfy.
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
    /// Take a receipt apart into files that tools of other transparency logs read (C2SP tlog-proof): for each statement
    /// and each ledger a proof, beside the statement's own bytes.
    #[command(after_help = "Example:\n  huitong receipt proofs table.receipt --out proofs")]
    Proofs {
        /// The receipt.
        file: PathBuf,
        /// Directory to write to; made if it is not there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// What a receipt says. Proves nothing: use `verify` for that.
    Show {
        /// The receipt.
        file: PathBuf,
    },
}

/// `huitong ledger ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Ledger {
    /// The newest signed checkpoint, a C2SP signed note.
    Checkpoint,
    /// The newest statements.
    List {
        /// Most statements, up to 1000.
        #[arg(long, default_value_t = 50, value_parser = value_parser!(u64).range(1..=1000))]
        limit: u64,
    },
    /// How far the ledger is signed and final, who witnesses it, and whether the node may sign.
    Status,
    /// The quorum policy in force (C2SP tlog-policy), for `huitong receipt verify --policy`.
    #[command(after_help = "Example:\n  huitong ledger policy > policy.txt")]
    Policy,
    /// Check another node's ledger against everything known of it. Exits with 3 if it contradicts itself.
    #[command(after_help = "Example:\n  huitong ledger audit NODE --fork-proof node.fork")]
    Audit {
        /// Node id, as in `huitong ledger list`.
        #[arg(value_parser = node_id)]
        node: String,
        /// Write a fork proof to this file if there is one.
        #[arg(long, value_name = "FILE")]
        fork_proof: Option<PathBuf>,
    },
    /// Fork proofs: that somebody signed two things that exclude each other.
    #[command(subcommand)]
    Fork(Fork),
    /// What the monitor has found.
    #[command(args_conflicts_with_subcommands = true)]
    Alerts {
        /// Also those that were dealt with.
        #[arg(long)]
        all: bool,
        #[command(subcommand)]
        command: Option<Alerts>,
    },
    /// Compare this node's ledger with what witnesses and counterparties know of it.
    Compare {
        /// End the safe mode although not everybody answers. Refused if somebody is known to know more.
        #[arg(long)]
        resume_unconfirmed: bool,
    },
    /// Get statements back that this node has lost, from witnesses and counterparties.
    Recover,
    /// Remove the bytes of one statement from this node for good; its hash, and who removed it and why, stay.
    #[command(
        after_help = "Example:\n  huitong ledger redact DIGEST --who \"Records office\" --reason \"retention of 5 \
                            years is over\""
    )]
    Redact {
        /// The statement's digest, 64 hexadecimal digits, as in `huitong ledger list -o json`.
        digest: String,
        /// Who demands it.
        #[arg(long)]
        who: String,
        /// Why: the retention rule, or the legal demand with its reference.
        #[arg(long)]
        reason: String,
    },
    /// Function node: the statements about all members' ledgers, one a day (log of logs).
    Logs {
        /// Make one now.
        #[arg(long)]
        state: bool,
        /// Most statements, up to 366.
        #[arg(long, default_value_t = 30, value_parser = value_parser!(u32).range(1..=366))]
        limit: u32,
        /// Show the checkpoints themselves: each is under its member's own signature.
        #[arg(long)]
        checkpoints: bool,
    },
}

/// `huitong ledger fork ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Fork {
    /// Verify a fork proof with nothing but itself and a trust file: no node, no network.
    #[command(
        after_help = "Exit codes: 0 the node is convicted, 3 the proof does not hold or is not about the node that it names,\n\
                      4 the signatures contradict each other but nobody says whose they are, 5 it cannot be read.\n\n\
                      Example:\n  huitong ledger fork verify node.fork --trust trust.json"
    )]
    Verify {
        /// The fork proof.
        file: PathBuf,
        /// Whose word counts for whose key it is: what `huitong identity trust` writes.
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
    },
}

/// `huitong ledger alerts ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Alerts {
    /// Say that an alert was dealt with.
    Resolve {
        /// Its number.
        id: u64,
    },
}

/// `huitong store ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Read everything and change nothing: journal, snapshots, index, ledger.
    #[command(
        after_help = "The node must not be running.\n\nExit codes: 0 clean, 14 damaged, 19 nothing is lost and the next \
                            start or `huitong store rebuild` mends it."
    )]
    Fsck(StorePlace),
    /// Build the index, and whatever else can be derived, anew. The node must not be running.
    Rebuild(StorePlace),
    /// Back up journal and ledger into a new directory, while the node runs or not. Keys are not in it.
    #[command(after_help = "Example:\n  huitong store snapshot /backup/2026-11-23")]
    Snapshot {
        /// The directory, which must not exist yet.
        directory: PathBuf,
        #[command(flatten)]
        place: StorePlace,
    },
    /// Put a backup in place of a store that is not there any more. The node starts in safe mode afterwards.
    #[command(after_help = "Example:\n  huitong store restore /backup/2026-11-23")]
    Restore {
        /// The backup.
        directory: PathBuf,
        #[command(flatten)]
        place: StorePlace,
    },
    /// Write every statement of the ledger as a line of JSON. The node must not be running.
    Export {
        /// File to write, which must not exist yet; - for stdout.
        file: PathBuf,
        #[command(flatten)]
        place: StorePlace,
    },
    /// Count what is there. The node must not be running.
    Stats(StorePlace),
}

/// Which store.
#[derive(Debug, Clone, Args)]
pub(crate) struct StorePlace {
    /// The node's data directory, instead of the one its configuration names.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// `huitong outbox ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Outbox {
    /// Messages that wait for other nodes, with the reason of the last failure.
    List,
}

/// Shells with a completion script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletionShell {
    /// bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// `45s`, `30m`, `12h`, `7d`; a plain number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds: u64 = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(format!("{unit:?} is not a unit of time; write s, m, h or d")),
    };
    let number: u64 =
        number.parse().map_err(|_| "is not a duration; write one like 45s, 30m, 12h or 7d".to_owned())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "is too long".to_owned())
}

/// How long an invite may hold.
fn lifetime(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(30 * 86_400);
    match duration(text)? {
        Duration::ZERO => Err("an invite must hold for some time".to_owned()),
        long if long > LONGEST => Err("an invite holds for 30d at most".to_owned()),
        good => Ok(good),
    }
}

const NO_UUID: &str = "not an id like 01a2094b-5ea5-7011-8bb2-bc9b5a055d63";

fn product_id(text: &str) -> Result<String, String> {
    DataId::parse(text)
        .map(|id| id.to_string())
        .map_err(|error| misplaced(text, &error, "`huitong catalog search` lists product ids"))
}

fn contract_id(text: &str) -> Result<String, String> {
    ContractId::parse(text)
        .map(|id| id.to_string())
        .map_err(|error| misplaced(text, &error, "`huitong contract list` lists contract ids"))
}

fn node_id(text: &str) -> Result<String, String> {
    NodeId::parse(text)
        .map(|id| id.to_string())
        .map_err(|error| misplaced(text, &error, "`huitong identity list` lists node ids"))
}

/// A negotiation is named by its own id or by its contract's.
fn negotiation_id(text: &str) -> Result<String, String> {
    match Uuid::parse_str(text) {
        Ok(id) => Ok(id.to_string()),
        Err(_) => contract_id(text),
    }
}

fn transfer_id(text: &str) -> Result<Uuid, String> {
    Uuid::parse_str(text)
        .map_err(|error| misplaced(text, &error, "`huitong transfer list` lists transfer ids"))
}

fn operation_id(text: &str) -> Result<Uuid, String> {
    Uuid::parse_str(text).map_err(|_| misplaced(text, &NO_UUID, "leave --id out to start something new"))
}

/// What is wrong with an id, and where to find the right one. Ids of many kinds are on one screen: the kind of a
/// misplaced one is named.
fn misplaced(text: &str, error: &dyn std::fmt::Display, next: &str) -> String {
    let kind = if Uuid::parse_str(text).is_ok() {
        "the id of a negotiation, transfer or publication"
    } else if ContractId::parse(text).is_ok() {
        "a contract id"
    } else if NodeId::parse(text).is_ok() {
        "a node id"
    } else if DataId::parse(text).is_ok() {
        "a product id"
    } else if EntityCode::parse(text).is_ok() {
        "the code of an organisation"
    } else {
        return format!("{error}; {next}");
    };
    format!("this is {kind}; {next}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_reference_names_every_command_and_option() {
        let reference = include_str!("../../../docs/cli.md");
        let mut missing = Vec::new();
        let mut open = vec![(String::from("huitong"), Cli::command())];
        while let Some((path, command)) = open.pop() {
            let commands = command.get_subcommands().filter(|one| one.get_name() != "help");
            open.extend(commands.map(|one| (format!("{path} {}", one.get_name()), one.clone())));
            let section: Vec<_> =
                reference.lines().filter(|line| line.contains(&format!("`{path}"))).collect();
            if section.is_empty() {
                missing.push(path.clone());
            }
            for option in command.get_arguments().filter(|one| !one.is_hide_set() && !one.is_global_set()) {
                let Some(long) = option.get_long().filter(|&long| long != "help" && long != "version") else {
                    continue;
                };
                if !section.iter().any(|line| line.contains(&format!("--{long}"))) {
                    missing.push(format!("{path} --{long}"));
                }
            }
        }
        assert!(missing.is_empty(), "docs/cli.md lacks {missing:?}");
    }

    #[test]
    fn the_exit_codes_are_documented_alike() {
        let page = include_str!("../../../docs/exit-codes.md");
        for code in (0..=8).chain(10..=19) {
            assert!(page.contains(&format!("\n| {code} |")), "docs/exit-codes.md lacks {code}");
            let shown = EXIT_CODES.split_whitespace().any(|word| word == code.to_string());
            assert!(shown, "--help lacks {code}");
        }
    }

    #[test]
    fn an_id_of_another_kind_is_named() {
        let check = |parsed: Result<String, String>, words: &str| {
            let refused = parsed.unwrap_err();
            assert!(refused.contains(words), "{refused}");
        };
        let operation = "01a2094b-5ea5-7011-8bb2-bc9b5a055d63";
        let contract = "8591440300MA5DEMA08P440320261123164424ASDDJAI8X";
        let (node, product) = ("591440300MA5DEMA08P44036VT4NXU34", "691440300MA5DEMA08P44037XO8O9EXR");
        check(product_id(contract), "a contract id; `huitong catalog search`");
        check(product_id(node), "a node id;");
        check(product_id(operation), "negotiation, transfer or publication");
        check(product_id("691440300MA5DEMA08P44037XO8O9EXX"), "expected R");
        check(contract_id(product), "a product id; `huitong contract list`");
        check(node_id("91440300MA5DEMA08P"), "the code of an organisation");
        check(negotiation_id(node), "a node id");
        check(transfer_id(contract).map(|id| id.to_string()), "a contract id; `huitong transfer list`");
        check(operation_id("x").map(|id| id.to_string()), "leave --id out");
        assert_eq!(product_id(product).as_deref(), Ok(product));
        assert_eq!(negotiation_id(operation).as_deref(), Ok(operation));
        assert_eq!(negotiation_id(contract).as_deref(), Ok(contract));
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("45", 45), ("45s", 45), ("2m", 120), ("12h", 43_200), ("30d", 2_592_000)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "s", "-1s", "1w", "1.5h", "99999999999999999999s", "999999999999999999d"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
        assert_eq!(lifetime("30d"), Ok(Duration::from_secs(2_592_000)));
        for text in ["0", "31d", "2592001s"] {
            assert!(lifetime(text).is_err(), "{text:?}");
        }
    }
}
