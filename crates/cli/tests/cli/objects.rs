//! Products that lie in S3-compatible storage and on a web server, through real nodes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use huitong_objects::testing::S3Server;
use serde_json::Value;

use crate::support::{Demo, Running, ask, huitong, stderr, wait_for};

const OPEN: &str = r#"{"contractPolicies": {"permissionPolicies": [{"actions": ["delivery"], "constraints": [
    {"constraintName": "time", "constraintOperator": "lteq", "constraintValue": "2040-01-01T00:00:00Z"}]}]}}"#;

/// The nodes of a finished demo, running again; the provider reaches a bucket and web servers.
struct Space {
    demo: Demo,
    server: S3Server,
    _nodes: Vec<Running>,
}

impl Space {
    fn new() -> Self {
        let demo = Demo::run(None);
        let server = S3Server::start();
        server.create_bucket("readings");
        let space = Self { demo, server, _nodes: Vec::new() };
        std::fs::write(space.policy(), OPEN).unwrap();
        space.configure(space.server.secret_access_key());
        let nodes = ["regional", "provider", "consumer"];
        Self {
            _nodes: nodes.map(|node| Running::serve_until_it_answers(&space.config(node))).into(),
            ..space
        }
    }

    fn configure(&self, secret: &str) {
        let config = self.config("provider");
        let key = config.with_file_name("readings.secret");
        std::fs::write(&key, secret).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = std::fs::read_to_string(&config).unwrap();
        let text = text.split("\n[objects]").next().unwrap();
        let objects = format!(
            "\n[objects]\nallow_http = true\n[[objects.buckets]]\nname = \"readings\"\nendpoint = \"{}\"\n\
             region = \"us-east-1\"\npath_style = true\naccess_key_id = \"{}\"\n\
             secret_access_key_file = \"readings.secret\"\nallow_http = true\n",
            self.server.endpoint(),
            self.server.access_key_id()
        );
        std::fs::write(&config, text.to_owned() + &objects).unwrap();
    }

    fn config(&self, node: &str) -> PathBuf {
        self.demo.path(node).join("node.toml")
    }

    fn policy(&self) -> PathBuf {
        self.demo.directory.path().join("policy.json")
    }

    /// Publishes, agrees, and gives the contract.
    fn agreed(&self, url: &str) -> String {
        let policy = self.policy();
        let publish = ["catalog", "publish", url, "--policy", policy.to_str().unwrap()];
        let product = ask(&self.config("provider"), &publish)["product"].as_str().unwrap().to_owned();
        let contract = ask(&self.config("consumer"), &["contract", "negotiate", &product]);
        contract["contract"].as_str().unwrap().to_owned()
    }

    fn target(&self, name: &str) -> String {
        self.demo.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn fetch(&self, contract: &str, target: &str) -> Value {
        ask(&self.config("consumer"), &["transfer", "fetch", contract, "--to", &self.target(target)])
    }

    /// A command to the provider that must fail, and what it says.
    fn refused(&self, arguments: &[&str]) -> String {
        let done = huitong().args(arguments).arg("-c").arg(self.config("provider")).output().unwrap();
        assert!(!done.status.success(), "{arguments:?} went through");
        stderr(&done)
    }
}

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|index| (index as u8).wrapping_mul(31).wrapping_add((index >> 8) as u8) ^ seed).collect()
}

#[test]
fn a_bucket_is_published_in_place() {
    let mut space = Space::new();
    let (one, large) = (bytes(300_000, 1), bytes((40 << 20) + 5, 2));
    space.server.put("readings", "2026/one.bin", one.clone());
    space.server.put("readings", "2026/deep/two.bin", bytes(5, 3));
    space.server.put("readings", "2026/empty", Vec::new());
    space.server.put("readings", "large.bin", large.clone());

    // One object, and a prefix as a dataset.
    let single = space.agreed("s3://readings/2026/one.bin");
    let fetched = space.fetch(&single, "single");
    assert_eq!(std::fs::read(fetched["path"].as_str().unwrap()).unwrap(), one);
    assert!(fetched["path"].as_str().unwrap().ends_with("/one.bin"), "{fetched}");
    let dataset = space.agreed("s3://readings/2026/");
    let fetched = space.fetch(&dataset, "dataset");
    let directory = Path::new(fetched["path"].as_str().unwrap());
    assert_eq!((fetched["files"].as_u64(), directory.file_name().unwrap().to_str()), (Some(3), Some("2026")));
    assert_eq!(std::fs::read(directory.join("one.bin")).unwrap(), one);
    assert_eq!(std::fs::read(directory.join("deep/two.bin")).unwrap(), bytes(5, 3));
    assert_eq!(std::fs::read(directory.join("empty")).unwrap(), b"");

    // The storage goes away in the middle, and comes back.
    let contract = space.agreed("s3://readings/large.bin");
    ask(&space.config("provider"), &["transfer", "limit", "1048576"]);
    let start = ["transfer", "start", &contract, "--to", &space.target("large")];
    let id = ask(&space.config("consumer"), &start)["id"].as_str().unwrap().to_owned();
    let show = |space: &Space| ask(&space.config("consumer"), &["transfer", "show", &id]);
    wait_for("something is acknowledged", || show(&space)["bytes_acknowledged"].as_u64().unwrap() > 0);
    space.server.stop();
    ask(&space.config("provider"), &["transfer", "limit", "0"]);
    wait_for("the consumer hears why it waits", || {
        show(&space)["reason"].as_str().unwrap().contains("does not reach its storage")
    });
    let before = show(&space);
    assert_eq!(before["state"], "STARTED", "{before}");
    space.server.restart();
    wait_for("the transfer completes", || show(&space)["state"] == "COMPLETED");
    assert!(std::fs::read(show(&space)["path"].as_str().unwrap()).unwrap() == large);

    // The key is revoked, and then it is not.
    space.server.refuse("/readings/2026/one.bin", 403, usize::MAX);
    let start = ["transfer", "start", &single, "--to", &space.target("again")];
    let id = ask(&space.config("consumer"), &start)["id"].as_str().unwrap().to_owned();
    let show = |space: &Space| ask(&space.config("consumer"), &["transfer", "show", &id]);
    wait_for("the consumer hears why it waits", || {
        show(&space)["reason"].as_str().unwrap().contains("does not reach its storage")
    });
    space.server.refuse_nothing();
    wait_for("the transfer completes", || show(&space)["state"] == "COMPLETED");
    assert_eq!(std::fs::read(show(&space)["path"].as_str().unwrap()).unwrap(), one);

    // What has changed is never sent in the place of what was agreed.
    space.server.put("readings", "2026/one.bin", bytes(300_000, 9));
    for contract in [&single, &dataset] {
        let to = space.target("changed");
        let mut fetch = huitong();
        fetch.args(["transfer", "fetch", contract, "--to", &to, "-c"]).arg(space.config("consumer"));
        let done = fetch.output().unwrap();
        assert!(stderr(&done).contains("cannot be read as it was published"), "{}", stderr(&done));
    }
    assert!(!Path::new(&space.target("changed")).join("one.bin").exists());
}

#[test]
fn what_cannot_be_published_says_why() {
    let mut space = Space::new();
    let policy = space.policy();
    let publish = |url| space.refused(&["catalog", "publish", url, "--policy", policy.to_str().unwrap()]);
    assert!(publish("s3://readings/absent.bin").contains("not found"));
    assert!(publish("s3://readings/nothing/").contains("nothing below this prefix"));
    assert!(publish("s3://other/file").contains("no bucket of this name is configured"));
    assert!(publish("ftp://example.org/file").contains("file"));
    assert!(publish("https://user:word@example.org/file").contains("file"));
    // A wrong key: the node starts, and says so when it is asked.
    space.server.put("readings", "file", bytes(5, 1));
    space.configure("not-the-key");
    let provider = space._nodes.remove(1);
    drop(provider);
    space._nodes.push(Running::serve_until_it_answers(&space.config("provider")));
    let said =
        space.refused(&["catalog", "publish", "s3://readings/file", "--policy", policy.to_str().unwrap()]);
    assert!(said.contains("access denied") && !said.contains("not-the-key"), "{said}");
    // Readable by others: the node does not start.
    let key = space.config("provider").with_file_name("readings.secret");
    drop(space._nodes.pop());
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let done = huitong().args(["serve", "-c"]).arg(space.config("provider")).output().unwrap();
    assert_eq!(done.status.code(), Some(18), "{}", stderr(&done));
    assert!(stderr(&done).contains("0600"), "{}", stderr(&done));
}

#[test]
fn a_file_on_a_web_server_is_published_in_place() {
    let space = Space::new();
    let content = bytes((2 << 20) + 9, 4);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/data/daily.csv", server.local_addr().unwrap());
    let served = content.clone();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let served = served.clone();
            std::thread::spawn(move || answer(&stream.unwrap(), &served));
        }
    });
    let contract = space.agreed(&url);
    let fetched = space.fetch(&contract, "web");
    assert!(fetched["path"].as_str().unwrap().ends_with("/daily.csv"), "{fetched}");
    assert!(std::fs::read(fetched["path"].as_str().unwrap()).unwrap() == content);
}

/// HEAD and ranges of one file, as any web server gives them.
fn answer(stream: &TcpStream, content: &[u8]) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        let mut from = None;
        for header in lines.by_ref().take_while(|line| !line.is_empty()) {
            let header = header.to_ascii_lowercase();
            if let Some(range) = header.strip_prefix("range: bytes=") {
                from = range.split('-').next().and_then(|first| first.parse::<usize>().ok());
            }
        }
        let (status, range, body) = match from {
            Some(from) => {
                let range =
                    format!("Content-Range: bytes {from}-{}/{}\r\n", content.len() - 1, content.len());
                ("206 Partial Content", range, &content[from..])
            }
            None => ("200 OK", String::new(), content),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nETag: \"v1\"\r\nAccept-Ranges: bytes\r\n{range}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut out = stream;
        if out.write_all(head.as_bytes()).is_err() {
            return;
        }
        if !request.starts_with("HEAD") && out.write_all(body).is_err() {
            return;
        }
    }
}
