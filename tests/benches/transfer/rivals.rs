//! The programs that we are measured against.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::fleet::{Route, cpu_of, memory_of};

const NGINX_PORT: u16 = 16_200;
const SSH_PORT: u16 = 16_201;

/// A run of another program: seconds, processor seconds of both of its sides, peak memory of the larger one.
pub(crate) type Run = (f64, f64, f64);

/// Whether a program can be run here.
pub(crate) fn is_installed(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("PATH=$PATH:/usr/sbin command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// nginx that serves a directory over TLS 1.3.
pub(crate) struct Nginx {
    master: Child,
    certificate: PathBuf,
    reached: &'static str,
}

impl Nginx {
    pub(crate) fn start(place: &Path, served: &Path, route: Route) -> Option<Self> {
        if !is_installed("nginx") || !is_installed("curl") || !is_installed("openssl") {
            return None;
        }
        let directory = place.join("nginx");
        std::fs::create_dir_all(&directory).unwrap();
        let (certificate, key) = certificate(&directory);
        let configuration = format!(
            "daemon off; user root; worker_processes auto; pid {0}/pid; error_log {0}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n\
             client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u;\n\
             scgi_temp_path {0}/s;\n\
             server {{ listen {4}:{NGINX_PORT} ssl; ssl_protocols TLSv1.3; ssl_certificate {1};\n\
             ssl_certificate_key {2}; root {3}; }} }}\n",
            directory.display(),
            certificate.display(),
            key.display(),
            served.display(),
            route.listen
        );
        let file = directory.join("nginx.conf");
        std::fs::write(&file, configuration).unwrap();
        let master =
            Command::new("/usr/sbin/nginx").arg("-c").arg(&file).arg("-p").arg(&directory).spawn().unwrap();
        let nginx = Self { master, certificate, reached: route.reached };
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect((route.reached, NGINX_PORT)).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(nginx)
    }

    /// One file.
    pub(crate) fn get(&self, name: &str, to: &Path) -> Run {
        let mut curl = self.curl();
        curl.arg("-o").arg(to).arg(url(name));
        self.measured(curl)
    }

    /// Many files below a directory, over eight connections.
    pub(crate) fn get_all(&self, directory: &str, names: &[String], to: &Path) -> Run {
        let list: String = names
            .iter()
            .map(|name| {
                format!(
                    "url = \"{}\"\noutput = \"{}\"\n",
                    url(&format!("{directory}/{name}")),
                    to.join(name).display()
                )
            })
            .collect();
        let file = to.with_extension("curl");
        std::fs::write(&file, list).unwrap();
        let mut curl = self.curl();
        curl.args(["--parallel", "--parallel-max", "8", "--create-dirs", "--config"]).arg(file);
        self.measured(curl)
    }

    fn curl(&self) -> Command {
        let mut curl = Command::new("curl");
        let server = format!("localhost:{NGINX_PORT}:{}:{NGINX_PORT}", self.reached);
        curl.args(["--connect-to", &server]);
        curl.args(["--silent", "--show-error", "--fail", "--http1.1", "--cacert"]).arg(&self.certificate);
        curl
    }

    fn measured(&self, command: Command) -> Run {
        let workers = children(self.master.id());
        let before: f64 = workers.iter().copied().map(cpu_of).sum();
        let (seconds, cpu, peak) = run(command);
        let after: f64 = workers.iter().copied().map(cpu_of).sum();
        let server = workers.iter().map(|pid| memory_of(*pid, "VmHWM")).fold(0.0, f64::max);
        (seconds, cpu + after - before, peak.max(server))
    }
}

fn url(name: &str) -> String {
    format!("https://localhost:{NGINX_PORT}/{name}")
}

impl Drop for Nginx {
    fn drop(&mut self) {
        stop(&mut self.master);
    }
}

/// sshd with a key of its own, for rsync.
pub(crate) struct Sshd {
    daemon: Child,
    directory: PathBuf,
}

impl Sshd {
    pub(crate) fn start(place: &Path) -> Option<Self> {
        if !is_installed("sshd") || !is_installed("rsync") || !is_installed("ssh-keygen") {
            return None;
        }
        let directory = place.join("ssh");
        std::fs::create_dir_all(&directory).unwrap();
        for name in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(directory.join(name));
            assert!(keygen.status().unwrap().success());
        }
        std::fs::copy(directory.join("user.pub"), directory.join("authorized")).unwrap();
        std::fs::create_dir_all("/run/sshd").ok()?;
        let daemon = Command::new("/usr/sbin/sshd")
            .args(["-D", "-f", "/dev/null", "-p", &SSH_PORT.to_string(), "-o", "ListenAddress=127.0.0.1"])
            .args(["-o", "StrictModes=no", "-o", "PermitRootLogin=yes", "-o", "UsePAM=no"])
            .args(["-o", &format!("AuthorizedKeysFile={}", directory.join("authorized").display())])
            .args(["-o", &format!("HostKey={}", directory.join("host").display())])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let sshd = Self { daemon, directory };
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", SSH_PORT)).is_err() {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(sshd)
    }

    /// A file or a directory. What the server side uses is not ours to see: its processes end with the connection.
    pub(crate) fn rsync(&self, from: &Path, to: &Path) -> Run {
        let remote = format!(
            "ssh -p {SSH_PORT} -i {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            self.directory.join("user").display()
        );
        let mut rsync = Command::new("rsync");
        rsync.args(["-a", "--whole-file", "-e", &remote]);
        rsync.arg(format!("root@127.0.0.1:{}", from.display())).arg(to);
        run(rsync)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        stop(&mut self.daemon);
    }
}

/// Hashes a file with another program.
pub(crate) fn hash(program: &str, file: &Path) -> Run {
    let mut command = Command::new(program);
    command.arg(file).stdout(Stdio::null());
    run(command)
}

/// Makes a file durable.
pub(crate) fn sync(file: &Path) -> f64 {
    let began = Instant::now();
    std::fs::File::open(file).unwrap().sync_all().unwrap();
    began.elapsed().as_secs_f64()
}

/// A self-signed certificate for localhost, and its key.
pub(crate) fn certificate(directory: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
    if !certificate.exists() {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success());
    }
    (certificate, key)
}

/// Runs a program to its end. What it used comes from the kernel's account of ended children.
fn run(mut command: Command) -> Run {
    let before = children_seconds();
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut peak = 0.0_f64;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        peak = peak.max(memory_of(child.id(), "VmHWM"));
        std::thread::sleep(Duration::from_millis(1));
    };
    let seconds = began.elapsed().as_secs_f64();
    assert!(status.success(), "{command:?}: {status}");
    (seconds, children_seconds() - before, peak)
}

/// Processor seconds of our children that have ended.
fn children_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[13].parse::<f64>().unwrap() + fields[14].parse::<f64>().unwrap()) / 100.0
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// SIGTERM, so that children end too.
fn stop(child: &mut Child) {
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let _ = child.wait();
}
