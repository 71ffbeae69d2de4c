//! Deliveries into S3-compatible storage, through real nodes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use huitong_objects::testing::S3Server;
use serde_json::Value;

use crate::support::{Demo, Running, ask, huitong, stderr, wait_for};

const OPEN: &str = r#"{"contractPolicies": {"permissionPolicies": [{"actions": ["delivery"], "constraints": [
    {"constraintName": "time", "constraintOperator": "lteq", "constraintValue": "2040-01-01T00:00:00Z"}]}]}}"#;
const LARGE: usize = (24 << 20) + 5;

/// The nodes of a finished demo, running again; the consumer reaches a bucket.
struct Space {
    demo: Demo,
    server: S3Server,
    consumer: Option<Running>,
    _others: Vec<Running>,
}

impl Space {
    fn new() -> Self {
        let demo = Demo::run(None);
        let server = S3Server::start();
        server.create_bucket("archive");
        let mut space = Self { demo, server, consumer: None, _others: Vec::new() };
        space.configure(space.server.secret_access_key());
        let serve = |node| Running::serve_until_it_answers(&space.config(node));
        space._others = ["regional", "provider"].map(serve).into();
        space.start();
        space
    }

    fn start(&mut self) {
        self.consumer = Some(Running::serve_until_it_answers(&self.config("consumer")));
    }

    /// A key for the bucket.
    fn configure(&self, secret: &str) {
        let config = self.config("consumer");
        let key = config.with_file_name("archive.secret");
        std::fs::write(&key, secret).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = std::fs::read_to_string(&config).unwrap();
        let text = text.split("\n[objects]").next().unwrap();
        let objects = format!(
            "\n[objects]\n[[objects.buckets]]\nname = \"archive\"\nendpoint = \"{}\"\nregion = \"us-east-1\"\n\
             path_style = true\naccess_key_id = \"{}\"\nsecret_access_key_file = \"archive.secret\"\nallow_http = true\n",
            self.server.endpoint(),
            self.server.access_key_id()
        );
        std::fs::write(&config, text.to_owned() + &objects).unwrap();
    }

    fn config(&self, node: &str) -> PathBuf {
        self.demo.path(node).join("node.toml")
    }

    fn home(&self, name: &str) -> PathBuf {
        self.demo.directory.path().join(name)
    }

    /// The contract about what lies at a path.
    fn agreed(&self, name: &str) -> String {
        let policy = self.home("policy.json");
        std::fs::write(&policy, OPEN).unwrap();
        let (path, policy) = (self.home(name), policy.display().to_string());
        let publish = ["catalog", "publish", path.to_str().unwrap(), "--policy", &policy];
        let product = ask(&self.config("provider"), &publish)["product"].as_str().unwrap().to_owned();
        self.ask(&["contract", "negotiate", &product])["contract"].as_str().unwrap().to_owned()
    }

    fn ask(&self, arguments: &[&str]) -> Value {
        ask(&self.config("consumer"), arguments)
    }

    fn staged(&self) -> usize {
        let received = self.ask(&["transfer", "list"])["transfers"].as_array().unwrap().len();
        assert!(received > 0);
        let staging = self.demo.path("consumer").join("data/received/.deposits");
        std::fs::read_dir(staging).map_or(0, Iterator::count)
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index as u8).wrapping_mul(31).wrapping_add((index >> 8) as u8)).collect()
}

#[test]
fn deliveries_go_into_a_bucket() {
    let mut space = Space::new();
    std::fs::create_dir_all(space.home("rain/2026")).unwrap();
    std::fs::write(space.home("rain/2026/a.csv"), bytes(300_000)).unwrap();
    std::fs::write(space.home("rain/empty"), "").unwrap();
    std::fs::write(space.home("large.bin"), bytes(LARGE)).unwrap();
    let dataset = space.agreed("rain");

    // A dataset, and the same again beside it.
    let fetched = space.ask(&["transfer", "fetch", &dataset, "--to", "s3://archive/in"]);
    assert_eq!(fetched["path"], "s3://archive/in/rain/");
    assert_eq!((&fetched["deposit"]["state"], &fetched["proven"]), (&"done".into(), &true.into()));
    assert_eq!(space.server.get("archive", "in/rain/2026/a.csv").unwrap(), bytes(300_000));
    assert_eq!(space.server.get("archive", "in/rain/empty").unwrap(), "");
    let fetched = space.ask(&["transfer", "fetch", &dataset, "--to", "s3://archive/in/"]);
    let marked = format!("s3://archive/in/rain-{}/", fetched["id"].as_str().unwrap());
    assert_eq!(fetched["path"], marked.as_str());
    assert_eq!(space.staged(), 0);

    // The node is killed in the middle, the key is wrong when it is back, and right in the end.
    let large = space.agreed("large.bin");
    space.server.hold(Some("partNumber=3"));
    let start = space.ask(&["transfer", "start", &large, "--to", "s3://archive/"]);
    let id = start["id"].as_str().unwrap().to_owned();
    wait_for("all parts but one have arrived", || space.server.uploads() == [3]);
    let shown = space.ask(&["transfer", "show", &id]);
    assert_eq!((&shown["state"], &shown["deposit"]["state"]), (&"COMPLETED".into(), &"open".into()));
    drop(space.consumer.take());
    space.server.hold(None);
    space.configure("another");
    space.start();
    wait_for("the reason is shown", || {
        let shown = space.ask(&["transfer", "show", &id]);
        shown["deposit"]["reason"].as_str().unwrap().contains("access denied")
    });
    assert!(space.server.get("archive", "large.bin").is_none());
    drop(space.consumer.take());
    space.configure(space.server.secret_access_key());
    space.start();
    let followed =
        huitong().args(["transfer", "watch", &id, "-c"]).arg(space.config("consumer")).output().unwrap();
    assert!(followed.status.success(), "{}", stderr(&followed));
    let shown = String::from_utf8_lossy(&followed.stdout).into_owned();
    assert!(shown.contains("deposit    s3://archive/large.bin done"), "{shown}");
    assert!(space.server.get("archive", "large.bin").unwrap() == bytes(LARGE));
    let sent = |part: &str| space.server.requests().iter().filter(|line| line.contains(part)).count();
    assert_eq!([sent("partNumber=1"), sent("partNumber=2"), sent("partNumber=4")], [1; 3], "sent once");
    assert_eq!(space.staged(), 0);

    // An operator gives a deposit up, and has it tried again.
    space.server.refuse("/archive/", 403, usize::MAX);
    let start = space.ask(&["transfer", "start", &large, "--to", "s3://archive/again/"]);
    let id = start["id"].as_str().unwrap().to_owned();
    wait_for("it is received, and not deposited", || {
        let shown = space.ask(&["transfer", "show", &id]);
        shown["deposit"]["reason"].as_str().unwrap().contains("access denied")
    });
    let given_up = space.ask(&["transfer", "cancel", &id, "--reason", "wrong bucket"]);
    assert_eq!((&given_up["state"], &given_up["deposit"]["state"]), (&"COMPLETED".into(), &"failed".into()));
    assert_eq!(given_up["deposit"]["reason"], "wrong bucket");
    assert!(std::fs::read(given_up["path"].as_str().unwrap()).unwrap() == bytes(LARGE));
    space.server.refuse_nothing();
    space.ask(&["transfer", "resume", &id]);
    wait_for("it is deposited after all", || {
        space.ask(&["transfer", "show", &id])["deposit"]["state"] == "done"
    });
    assert!(space.server.get("archive", "again/large.bin").unwrap() == bytes(LARGE));

    let to = ["transfer", "start", &large, "--to", "s3://elsewhere/", "-c"];
    let refused = huitong().args(to).arg(space.config("consumer")).output().unwrap();
    assert!(stderr(&refused).contains("no bucket of this name is configured"), "{}", stderr(&refused));
}
