//! The story up to the verified receipt: found, enrol, publish, find, negotiate, fetch, prove.

use std::path::{Path, PathBuf};
use std::time::Duration;

use huitong_grpc::proto::admin as api;
use huitong_identity::Trust;
use huitong_ledger::{PolicyError, QuorumPolicy};
use huitong_proof::{Clock as _, Content, SystemClock};
use huitong_transfer::receipt::{self, Outcome};
use tokio::time::Instant;

use crate::commands::catalog::{product_of, search};
use crate::commands::identity::{invite, write_private};
use crate::commands::receipt::report_text;
use crate::demo::fleet::{Fleet, Node, free_ports};
use crate::demo::narrator::Narrator;
use crate::demo::{policies, refusals};
use crate::exit::{Exit, Failure};
use crate::operations::{self, Until};
use crate::output::bytes;

/// How long one wait for another node may take, restarts included. Never the moving of bytes: that takes what it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const INVITE_LIFETIME: Duration = Duration::from_secs(3600);
const SEARCH_WORDS: &str = "huitong demo";
const INTRODUCTION: &str = "Published by huitong demo. 汇通演示数据。";
/// What the consumer asks for although the provider lists less.
const ASKED_COUNT: u32 = 5;

/// An organisation of the demo. The codes are well formed and belong to nobody.
pub(crate) struct Organisation {
    pub(crate) code: &'static str,
    pub(crate) name: &'static str,
}

const OPERATOR: Organisation = Organisation {
    code: "12440300MB2DEMA066",
    name: "Example Regional Data Centre 示例区域数据中心",
};
const PROVIDER: Organisation =
    Organisation { code: "91440300MA5DEMA08P", name: "Example Weather Service 示例气象服务" };
const CONSUMER: Organisation =
    Organisation { code: "91440300MA5DEMB12U", name: "Example Logistics 示例物流" };
/// The fourth organisation, which is no party of the contract.
pub(crate) const INTRUDER: Organisation =
    Organisation { code: "91440300MA5DEMC272", name: "Example Onlooker 示例旁观者" };

/// What came of the story.
pub(crate) struct Told {
    pub(crate) product: String,
    pub(crate) contract: String,
    pub(crate) bytes: u64,
    pub(crate) blake3: String,
    pub(crate) receipt: PathBuf,
    pub(crate) trust: PathBuf,
    /// Step and seconds, in order.
    pub(crate) seconds: Vec<(&'static str, f64)>,
}

/// The three nodes.
pub(crate) struct Nodes {
    pub(crate) regional: Node,
    pub(crate) provider: Node,
    pub(crate) consumer: Node,
}

/// What the story is about.
pub(crate) struct Scene<'a> {
    pub(crate) stage: &'a Path,
    pub(crate) narrator: &'a Narrator,
    /// `host:port` of the regional node for peers.
    pub(crate) registrar_address: String,
}

/// Starts the nodes and tells the story.
pub(crate) async fn tell(
    stage: &Path,
    dataset: &Path,
    fleet: &mut Fleet,
    narrator: &Narrator,
) -> Result<Told, Failure> {
    let mut watch = Stopwatch::start();
    narrator.say(&format!(
        "Huitong 汇通: one dataset, three nodes, one receipt. Everything is in {}.",
        stage.display()
    ));
    narrator.step(1, "A regional function node founds a data space; two organisations join it.");
    let (regional, registrar_address) = found(stage, fleet, narrator, &mut watch).await?;
    let scene = Scene { stage, narrator, registrar_address };
    let nodes = enrol(&scene, regional, fleet, &mut watch).await?;
    tokio::select! {
        told = exchange(&scene, dataset, &nodes, watch) => told,
        failure = nodes.regional.lost() => Err(failure),
        failure = nodes.provider.lost() => Err(failure),
        failure = nodes.consumer.lost() => Err(failure),
    }
}

async fn found(
    stage: &Path,
    fleet: &mut Fleet,
    narrator: &Narrator,
    watch: &mut Stopwatch,
) -> Result<(Node, String), Failure> {
    let directory = make_directory(stage, "regional")?;
    let socket = fleet.socket("regional", &directory)?;
    let ports = free_ports(3)?;
    let address =
        |index: usize| ports.get(index).map(|(port, _)| format!("127.0.0.1:{port}")).unwrap_or_default();
    let config = format!(
        "# Written by `huitong demo`.\n[node]\nrole = \"function\"\n\n[identity]\ndomain = \"127.0.0.1\"\n\
         entity = {}\nname = {}\nspace = \"huitong-demo\"\nsegment = {}\n\n[listen]\npeers = {}\nenrolment = {}\n\
         http = {}\nadmin = {}\n",
        quoted(OPERATOR.code),
        quoted(OPERATOR.name),
        quoted(policies::REGION),
        quoted(&address(0)),
        quoted(&address(1)),
        quoted(&address(2)),
        quoted(&socket.to_string_lossy()),
    );
    write(&directory.join("node.toml"), config.as_bytes())?;
    let registrar_address = address(0);
    drop(ports);
    let node = fleet.start("regional", &directory)?;
    let status = node.ready().await?;
    narrator.done(&format!("{} founded its root of trust", status.name), watch.lap("start"));
    narrator.detail(&format!("function node {}", status.node));
    Ok((node, registrar_address))
}

async fn enrol(
    scene: &Scene<'_>,
    regional: Node,
    fleet: &mut Fleet,
    watch: &mut Stopwatch,
) -> Result<Nodes, Failure> {
    let provider = connector(scene, &regional, fleet, "provider", &PROVIDER).await?;
    let consumer = connector(scene, &regional, fleet, "consumer", &CONSUMER).await?;
    let (providing, consuming) = tokio::try_join!(provider.ready(), consumer.ready())?;
    let took = watch.lap("enrol");
    scene.narrator.done("two connectors made their keys and enrolled with single-use invites", took);
    for (role, status) in [("provider", &providing), ("consumer", &consuming)] {
        scene.narrator.detail(&format!("{role} {} of {} ({})", status.node, status.name, status.entity));
    }
    Ok(Nodes { regional, provider, consumer })
}

/// Invites an organisation and starts its connector.
async fn connector(
    scene: &Scene<'_>,
    regional: &Node,
    fleet: &mut Fleet,
    name: &'static str,
    organisation: &Organisation,
) -> Result<Node, Failure> {
    let directory = make_directory(scene.stage, name)?;
    let socket = fleet.socket(name, &directory)?;
    let text = invite(&regional.admin, organisation.code, organisation.name, &[], INVITE_LIFETIME).await?;
    write_private(&directory.join("invite"), &format!("{text}\n"))?;
    let ports = free_ports(2)?;
    let ports: Vec<_> = ports.into_iter().collect();
    let numbers: Vec<u16> = ports.iter().map(|(port, _)| *port).collect();
    let config = connector_config(&scene.registrar_address, "invite", &numbers, &socket);
    write(&directory.join("node.toml"), config.as_bytes())?;
    drop(ports);
    fleet.start(name, &directory)
}

/// A connector's configuration. `ports`: for peers, for HTTP.
pub(crate) fn connector_config(registrar: &str, invite_file: &str, ports: &[u16], socket: &Path) -> String {
    let address = |index: usize| ports.get(index).map(|port| format!("127.0.0.1:{port}")).unwrap_or_default();
    format!(
        "# Written by `huitong demo`.\n[node]\nrole = \"connector\"\n\n[identity]\ndomain = \"127.0.0.1\"\n\
         registrar_address = {}\ninvite_file = {}\n\n[listen]\npeers = {}\nhttp = {}\nadmin = {}\n",
        quoted(registrar),
        quoted(invite_file),
        quoted(&address(0)),
        quoted(&address(1)),
        quoted(&socket.to_string_lossy()),
    )
}

async fn exchange(
    scene: &Scene<'_>,
    dataset: &Path,
    nodes: &Nodes,
    mut watch: Stopwatch,
) -> Result<Told, Failure> {
    let publication = publish(scene, dataset, nodes, &mut watch).await?;
    let product = publication.product.clone();
    let contract = negotiate(scene, &product, nodes, &mut watch).await?;
    let transfer = transfer(scene, &contract, &publication, nodes, &mut watch).await?;
    let (receipt, trust) = prove(scene, &transfer, nodes, &mut watch).await?;
    refusals::show(scene, &contract, &product, nodes).await?;
    watch.lap("refusals");
    let (seconds, total) = watch.total();
    scene.narrator.say("");
    scene.narrator.done("the whole story", total);
    Ok(Told { product, contract, bytes: transfer.size, blake3: transfer.blake3, receipt, trust, seconds })
}

async fn publish(
    scene: &Scene<'_>,
    dataset: &Path,
    nodes: &Nodes,
    watch: &mut Stopwatch,
) -> Result<api::Publication, Failure> {
    let narrator = scene.narrator;
    narrator.step(2, "The provider registers a dataset as a product and lists it with a policy.");
    let policy = policies::limited(1, SystemClock.now().saturating_add(YEAR));
    let publication = publish_file(&nodes.provider, dataset, policy).await?;
    narrator
        .done(&format!("listed {} ({})", publication.name, bytes(publication.size)), watch.lap("publish"));
    narrator.detail(&format!("product  {}", publication.product));
    narrator.detail(&format!("blake3   {}", publication.blake3));
    Ok(publication)
}

/// Publishes a file in place, for nothing.
pub(crate) async fn publish_file(
    provider: &Node,
    file: &Path,
    policy: Vec<u8>,
) -> Result<api::Publication, Failure> {
    let request = api::PublishRequest {
        id: operations::id_bytes(operations::new_id()).into(),
        path: operations::absolute(file)?,
        introduction: INTRODUCTION.to_owned(),
        policy: policy.into(),
        ..Default::default()
    };
    operations::publish(&provider.admin, request, |_| {}).await
}

async fn negotiate(
    scene: &Scene<'_>,
    product: &str,
    nodes: &Nodes,
    watch: &mut Stopwatch,
) -> Result<String, Failure> {
    let (narrator, admin) = (scene.narrator, &nodes.consumer.admin);
    narrator.step(3, "The consumer finds the product, resolves its id and reads the offer.");
    let began = Instant::now();
    let page = search(admin, SEARCH_WORDS, 0, 20).await?;
    if !page.hits.iter().any(|hit| hit.product == product) {
        return Err(Failure::failed(
            "demo.search",
            "the catalog does not find the product",
            "report a defect",
        ));
    }
    let found = product_of(admin, product).await?;
    let hit = found.hit.clone().unwrap_or_default();
    narrator.done(&format!("found {} by {}", hit.name, hit.provider_name), began.elapsed());
    narrator.detail(&format!("the registrar resolves it to {} at {}", hit.provider, found.address));
    for line in &found.english {
        narrator.detail(&format!("offer: {line}"));
    }

    narrator.step(4, "They negotiate; the contract is one document that both sign.");
    let began = Instant::now();
    let id = operations::id_bytes(operations::new_id());
    let asked = policies::limited(ASKED_COUNT, SystemClock.now().saturating_add(YEAR));
    let request = api::NegotiateRequest {
        id: id.clone().into(),
        product: product.to_owned(),
        policy: asked.into(),
        accept_counter_offer: false,
    };
    operations::negotiate(admin, request).await?;
    let countered = operations::settle(admin, &id, Until::Decision, PATIENCE).await?;
    expect_state(&countered, "OFFERED")?;
    narrator.done(
        &format!("asked for {ASKED_COUNT} deliveries; the provider answers with what it lists"),
        began.elapsed(),
    );
    let began = Instant::now();
    operations::decide(admin, &id, api::NegotiationDecision::Accept, "").await?;
    let agreed = operations::settle(admin, &id, Until::End, PATIENCE).await?;
    expect_state(&agreed, "FINALIZED")?;
    narrator.done("accepted, agreed, verified, finalised", began.elapsed());
    narrator.detail(&format!("contract  {}", agreed.contract));
    narrator.detail(&format!("hash      {}", agreed.agreement_hash));
    for line in agreed.english.iter().chain(&agreed.chinese) {
        narrator.detail(&format!("| {line}"));
    }
    watch.lap("negotiate");
    Ok(agreed.contract)
}

/// Gets a contract with the listed terms.
pub(crate) async fn contract_for(consumer: &Node, product: &str) -> Result<api::Negotiation, Failure> {
    let id = operations::id_bytes(operations::new_id());
    let request = api::NegotiateRequest {
        id: id.clone().into(),
        product: product.to_owned(),
        accept_counter_offer: true,
        ..Default::default()
    };
    operations::negotiate(&consumer.admin, request).await?;
    operations::settle(&consumer.admin, &id, Until::End, PATIENCE).await
}

fn expect_state(negotiation: &api::Negotiation, state: &str) -> Result<(), Failure> {
    if negotiation.state == state {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Refused,
        "demo.contract",
        format!("the negotiation is {}, not {state}: {}", negotiation.state, negotiation.reason),
        "look at the logs of provider and consumer",
    ))
}

async fn transfer(
    scene: &Scene<'_>,
    contract: &str,
    publication: &api::Publication,
    nodes: &Nodes,
    watch: &mut Stopwatch,
) -> Result<api::Transfer, Failure> {
    let narrator = scene.narrator;
    narrator.step(5, "The consumer fetches the data; every mebibyte is verified before it counts.");
    let began = Instant::now();
    let transfer = fetch(scene, nodes, contract, "").await?;
    if transfer.state != "COMPLETED" {
        return Err(Failure::new(
            Exit::Refused,
            transfer.code,
            transfer.reason,
            "look at the logs of provider and consumer",
        ));
    }
    let took = began.elapsed();
    watch.lap("transfer");
    narrator.done(&format!("{} arrived in {}", bytes(transfer.size), transfer.path), took);
    let root = root_of(Path::new(&transfer.path)).await?;
    if root != publication.blake3 || transfer.blake3 != root {
        return Err(Failure::failed(
            "demo.content",
            "the file that arrived is not the one published",
            "report a defect",
        ));
    }
    narrator.detail(&format!("blake3 {root}: the same as at the provider, and as `b3sum` prints"));
    Ok(transfer)
}

/// Fetches into the demo's directory; gives the transfer at its end, whichever that is.
pub(crate) async fn fetch(
    scene: &Scene<'_>,
    nodes: &Nodes,
    contract: &str,
    product: &str,
) -> Result<api::Transfer, Failure> {
    let request = api::StartTransferRequest {
        id: operations::id_bytes(operations::new_id()).into(),
        contract: contract.to_owned(),
        product: product.to_owned(),
        directory: operations::absolute(&scene.stage.join("received"))?,
        priority: String::new(),
    };
    operations::fetch(&nodes.consumer.admin, request, |_| {}).await
}

async fn root_of(file: &Path) -> Result<String, Failure> {
    let path = file.to_owned();
    let hashed = tokio::task::spawn_blocking(move || Content::of_file(&path, &mut |_| {})).await;
    let hashed = hashed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    hashed.map(|tree| tree.root().to_string()).map_err(|error| Failure::file("read", file, &error))
}

async fn prove(
    scene: &Scene<'_>,
    transfer: &api::Transfer,
    nodes: &Nodes,
    watch: &mut Stopwatch,
) -> Result<(PathBuf, PathBuf), Failure> {
    let narrator = scene.narrator;
    narrator.step(6, "Both ledgers prove their statements; the receipt is verified with nothing but itself and the trust file.");
    let began = Instant::now();
    let id = uuid::Uuid::from_slice(&transfer.id)
        .map_err(|error| Failure::failed("node.answer", error.to_string(), "report a defect"))?;
    let proven = operations::proven(&nodes.consumer.admin, id, PATIENCE).await?;
    if !proven.proven {
        return Err(Failure::failed(
            "demo.proof",
            "the ledgers' proofs did not arrive",
            "look at the nodes' logs",
        ));
    }
    let witnessed = operations::made_final(&nodes.consumer.admin, id, PATIENCE).await?;
    if witnessed.finality != "final" {
        return Err(Failure::failed(
            "demo.witness",
            "the registrar did not cosign both ledgers' checkpoints",
            "look at the nodes' logs",
        ));
    }
    let exported = operations::receipt(&nodes.consumer.admin, id).await?;
    let trust_text = operations::trust(&nodes.regional.admin).await?;
    let (receipt_path, trust_path) = (scene.stage.join("demo.receipt"), scene.stage.join("trust.json"));
    write(&receipt_path, &exported)?;
    write(&trust_path, trust_text.as_bytes())?;
    let trust = Trust::from_json(&trust_text)
        .map_err(|error| Failure::failed("demo.trust", error.to_string(), "report a defect"))?;
    let policy = operations::policy(&nodes.consumer.admin).await?;
    let policy: QuorumPolicy = policy
        .parse()
        .map_err(|error: PolicyError| Failure::failed("demo.policy", error.to_string(), "report a defect"))?;
    let report = receipt::verify(&exported, &trust, Some(&policy));
    for line in report_text(&report) {
        narrator.detail(&line);
    }
    if report.outcome() != Outcome::Valid {
        return Err(Failure::new(
            Exit::ReceiptInvalid,
            "demo.receipt",
            "the receipt does not verify",
            "report a defect",
        ));
    }
    let took = began.elapsed();
    watch.lap("verify");
    narrator.done(&format!("{} verifies", receipt_path.display()), took);
    Ok((receipt_path, trust_path))
}

pub(crate) fn make_directory(stage: &Path, name: &str) -> Result<PathBuf, Failure> {
    let directory = stage.join(name);
    std::fs::create_dir_all(&directory).map_err(|error| Failure::file("make", &directory, &error))?;
    Ok(directory)
}

pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, content).map_err(|error| Failure::file("write", path, &error))
}

/// A TOML string: JSON's escapes are among TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Seconds of each step.
struct Stopwatch {
    began: Instant,
    lap: Instant,
    laps: Vec<(&'static str, f64)>,
}

impl Stopwatch {
    fn start() -> Self {
        let now = Instant::now();
        Self { began: now, lap: now, laps: Vec::new() }
    }

    /// Ends a step; what comes next belongs to the next one.
    fn lap(&mut self, name: &'static str) -> Duration {
        let took = self.lap.elapsed();
        self.lap = Instant::now();
        self.laps.push((name, rounded(took)));
        took
    }

    fn total(mut self) -> (Vec<(&'static str, f64)>, Duration) {
        let total = self.began.elapsed();
        self.laps.push(("total", rounded(total)));
        (self.laps, total)
    }
}

/// Seconds with three decimals.
fn rounded(took: Duration) -> f64 {
    (took.as_secs_f64() * 1_000.0).round() / 1_000.0
}
