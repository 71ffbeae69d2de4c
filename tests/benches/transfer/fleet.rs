//! Three nodes as processes of the release binary, and their operator's clients.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use huitong_grpc::proto::admin as api;
use huitong_grpc::{AdminClient, admin_client};
use serde_json::Value;

const POLICY: &str = r#"{"contractPolicies": {"permissionPolicies": [{"actions": ["delivery", "read"], "constraints": [
  {"constraintName": "time", "constraintOperator": "lteq", "constraintValue": "2090-01-01T00:00:00Z"}]}]}}"#;
const FIRST_PORT: u16 = 16_100;
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Fleet {
    pub(crate) provider: Node,
    pub(crate) consumer: Node,
    _registrar: Node,
}

pub(crate) struct Node {
    child: Child,
    directory: PathBuf,
    pub(crate) client: AdminClient,
}

/// Where servers listen, and the address at which they are reached.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    pub(crate) listen: &'static str,
    pub(crate) reached: &'static str,
}

pub(crate) const LOOPBACK: Route = Route { listen: "127.0.0.1", reached: "127.0.0.1" };

/// The release binary beside this bench.
fn program() -> PathBuf {
    let bench = std::env::current_exe().unwrap();
    let program = bench.parent().unwrap().parent().unwrap().join("huitong");
    assert!(program.exists(), "build it first: cargo build --release --bin huitong");
    program
}

impl Fleet {
    /// `connections` is how many a transfer uses; 0 lets the node choose.
    pub(crate) async fn start(place: &Path, connections: usize, route: Route) -> Self {
        let port = |number: u16| FIRST_PORT + number;
        let Route { listen, reached } = route;
        let registrar = place.join("registrar");
        let text = format!(
            "[node]\nrole = \"function\"\n[identity]\ndomain = \"{reached}\"\nentity = \"12440300MB2DEMA066\"\n\
             name = \"Example Bench Centre\"\nspace = \"bench\"\nsegment = \"4403\"\n[listen]\n\
             peers = \"{listen}:{}\"\nenrolment = \"{listen}:{}\"\nhttp = \"\"\n",
            port(0),
            port(1)
        );
        let function = Node::start(&registrar, &text).await;
        let mut connectors = Vec::new();
        for (number, (name, entity)) in
            [("provider", "91440300MA5DEMA08P"), ("consumer", "91440300MA5DEMB12U")].into_iter().enumerate()
        {
            let directory = place.join(name);
            std::fs::create_dir_all(&directory).unwrap();
            let invite = directory.join("invite");
            let invite = invite.to_str().unwrap();
            function.ask(&["identity", "invite", "--entity", entity, "--name", name, "--out", invite]);
            let text = format!(
                "[identity]\ndomain = \"{reached}\"\nregistrar_address = \"{reached}:{}\"\ninvite_file = \"invite\"\n\
                 [listen]\npeers = \"{listen}:{}\"\nhttp = \"\"\n[transfer]\nmax_concurrent = 64\nmax_concurrent_per_peer = 64\nconnections = {connections}\n\
                 [limits]\nmax_connections_per_address = 512\n",
                port(0),
                port(2 + u16::try_from(number).unwrap())
            );
            connectors.push(Node::start(&directory, &text).await);
        }
        let consumer = connectors.pop().unwrap();
        let provider = connectors.pop().unwrap();
        Self { provider, consumer, _registrar: function }
    }

    /// Publishes a file or directory and agrees on a contract about it; gives the contract, and how long publishing took.
    pub(crate) fn agree(&self, path: &Path) -> (String, f64) {
        let policy = self.provider.directory.join("policy.json");
        std::fs::write(&policy, POLICY).unwrap();
        let began = Instant::now();
        let published = self.provider.ask(&[
            "catalog",
            "publish",
            path.to_str().unwrap(),
            "--policy",
            policy.to_str().unwrap(),
        ]);
        let publishing = began.elapsed().as_secs_f64();
        let negotiation =
            self.consumer.ask(&["contract", "negotiate", published["product"].as_str().unwrap()]);
        (negotiation["contract"].as_str().unwrap().to_owned(), publishing)
    }

    /// Processor seconds of both sides so far.
    pub(crate) fn cpu(&self) -> f64 {
        let (provider, consumer) = self.cpu_of_sides();
        provider + consumer
    }

    /// Processor seconds of the provider and of the consumer so far.
    pub(crate) fn cpu_of_sides(&self) -> (f64, f64) {
        (cpu_of(self.provider.child.id()), cpu_of(self.consumer.child.id()))
    }

    /// The larger of both sides' peaks since the last [`Fleet::forget_peak`].
    pub(crate) fn peak_mib(&self) -> f64 {
        [&self.provider, &self.consumer]
            .map(|node| memory_of(node.child.id(), "VmHWM"))
            .into_iter()
            .fold(0.0, f64::max)
    }

    pub(crate) fn forget_peak(&self) {
        for node in [&self.provider, &self.consumer] {
            // Allowed to the owner of a process; 5 resets the peak of resident memory.
            let _ = std::fs::write(format!("/proc/{}/clear_refs", node.child.id()), "5");
        }
    }
}

impl Node {
    async fn start(directory: &Path, configuration: &str) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("node.toml"), configuration).unwrap();
        let log = std::fs::File::create(directory.join("node.log")).unwrap();
        let child = Command::new(program())
            .args(["serve", "-c"])
            .arg(directory.join("node.toml"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let node = Self {
            child,
            directory: directory.to_owned(),
            client: admin_client(&directory.join("data/admin.sock")),
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = node.client.clone().get_status(api::GetStatusRequest {}).await;
            if status.is_ok_and(|status| status.into_inner().ready) {
                return node;
            }
            let log = || std::fs::read_to_string(directory.join("node.log")).unwrap();
            assert!(Instant::now() < deadline, "a node is not ready: {}", log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn ask(&self, arguments: &[&str]) -> Value {
        let done = Command::new(program())
            .args(arguments)
            .args(["-o", "json", "-c"])
            .arg(self.directory.join("node.toml"))
            .output()
            .unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    }

    /// Fetches under a contract and waits for the end; gives the seconds.
    pub(crate) async fn fetch(&self, contract: &str, to: &Path, number: u64) -> f64 {
        let mut client = self.client.clone();
        let mut id = [0_u8; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        id[8..].copy_from_slice(&(std::process::id() as u64).to_be_bytes());
        let began = Instant::now();
        let request = api::StartTransferRequest {
            id: id.to_vec().into(),
            contract: contract.to_owned(),
            product: String::new(),
            directory: to.to_str().unwrap().to_owned(),
            priority: String::new(),
        };
        client.start_transfer(request).await.unwrap();
        let request = api::WatchTransferRequest { id: id.to_vec().into() };
        let mut watching = client.watch_transfer(request).await.unwrap().into_inner();
        loop {
            let transfer = watching.message().await.unwrap().unwrap().transfer.unwrap();
            match transfer.state.as_str() {
                "COMPLETED" => return began.elapsed().as_secs_f64(),
                "TERMINATED" => panic!("{}: {}", transfer.code, transfer.reason),
                _ => {}
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor seconds that a process has used.
pub(crate) fn cpu_of(pid: u32) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    // The name, in brackets, may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// A line of a process's status, in MiB.
pub(crate) fn memory_of(pid: u32, field: &str) -> f64 {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return 0.0 };
    let Some(line) = status.lines().find_map(|line| line.strip_prefix(field)) else { return 0.0 };
    let kibibytes: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes / 1024.0
}
