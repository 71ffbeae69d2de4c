//! A line of 200 ms and 0.5 % loss, in a network namespace of its own in which everything that takes part runs. The kernel hands
//! what is sent to the far address to this program, which lets it wait, loses some of it, and hands it back with sender and
//! receiver exchanged (no checksum changes by that): who dials the far address reaches a server here over a long line.

use std::io;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use tun_rs::DeviceBuilder;

use crate::fleet::{Fleet, Route};
use crate::report::{Report, Runs};
use crate::rivals::Nginx;
use crate::{Scale, data, directory};

/// The first argument of the process that measures inside; mebibytes and rounds follow.
const INSIDE: &str = "--inside-wan";
const FIGURES: &str = "wan_1_vs_curl, wan_8_vs_curl";
const ROUTE: Route = Route { listen: "10.99.0.1", reached: "10.99.0.2" };
/// In each direction.
const DELAY: Duration = Duration::from_millis(100);
/// One packet in so many is lost, in each direction.
const LOSS: u64 = 200;
/// As large as on a real line.
const PACKET: u16 = 1500;
/// Packets that are on the line at once, at most.
const LENGTH: usize = 200_000;
/// A round takes a minute.
const MOST_ROUNDS: usize = 3;
/// How a process inside says that there is no line.
const NO_LINE: i32 = 3;

/// Measures in a namespace of its own, or says why not.
pub(crate) fn run(report: &mut Report, scale: &Scale) {
    let program = std::env::current_exe().unwrap();
    let mebibytes = (scale.file_bytes >> 20) / 32;
    let rounds = scale.rounds.min(MOST_ROUNDS);
    let inside = format!("ip link set lo up && exec {} {INSIDE} {mebibytes} {rounds}", program.display());
    let done = Command::new("unshare").args(["--net", "sh", "-c", &inside]).stderr(Stdio::piped()).output();
    let done = match done {
        Ok(done) => done,
        Err(error) => return report.skipped(FIGURES, &format!("unshare: {error}")),
    };
    let said = String::from_utf8_lossy(&done.stderr);
    // unshare and ip end with 1 where they are not allowed to.
    if matches!(done.status.code(), Some(1 | NO_LINE)) {
        return report.skipped(FIGURES, said.trim());
    }
    assert!(done.status.success(), "the measurement inside failed: {said}");
    String::from_utf8(done.stdout).unwrap().lines().for_each(|line| report.add(line));
}

/// Whether this process is the one inside.
pub(crate) fn is_inside() -> bool {
    std::env::args().nth(1).is_some_and(|argument| argument == INSIDE)
}

/// Lays the line; it lasts as long as this process.
fn lay() -> io::Result<()> {
    let device = DeviceBuilder::new().name("far").ipv4(ROUTE.listen, 24, None).mtu(PACKET).build_sync()?;
    let device = Arc::new(device);
    let (enter, line) = mpsc::sync_channel::<(Instant, Vec<u8>)>(LENGTH);
    let near = Arc::clone(&device);
    std::thread::spawn(move || {
        let mut random = 88_172_645_463_325_252_u64;
        let mut buffer = vec![0; usize::from(PACKET)];
        while let Ok(length) = near.recv(&mut buffer) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // IPv4 only: version, and the two addresses behind the twelfth byte (RFC 791 section 3.1).
            if random.is_multiple_of(LOSS) || length < 20 || buffer[0] >> 4 != 4 {
                continue;
            }
            let mut packet = buffer[..length].to_vec();
            let (from, to) = packet[12..20].split_at_mut(4);
            from.swap_with_slice(to);
            if enter.try_send((Instant::now() + DELAY, packet)).is_err() {
                eprintln!("the line is full");
            }
        }
    });
    std::thread::spawn(move || {
        for (due, packet) in line {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let _ = device.send(&packet);
        }
    });
    Ok(())
}

/// Ours over one connection and over eight against curl, which has one.
pub(crate) fn measure() {
    if let Err(error) = lay() {
        eprintln!("no line of our own: /dev/net/tun: {error}");
        std::process::exit(NO_LINE);
    }
    let numbers: Vec<u64> = std::env::args().skip(2).map(|number| number.parse().unwrap()).collect();
    let (size, rounds) = (numbers[0] << 20, numbers[1]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut report = Report::default();
        for connections in [1, 8] {
            let place = tempfile::Builder::new().prefix("huitong-wan-").tempdir_in(directory()).unwrap();
            let sources = place.path().join("sources");
            std::fs::create_dir_all(&sources).unwrap();
            let Some(nginx) = Nginx::start(place.path(), &sources, ROUTE) else {
                return report.skipped(FIGURES, "nginx or curl is not installed");
            };
            data::file(&sources.join("far"), size, 9);
            let fleet = Fleet::start(place.path(), connections, ROUTE).await;
            let (contract, _) = fleet.agree(&sources.join("far"));
            let target = place.path().join("target");
            let (mut ours, mut theirs) = (Runs::default(), Runs::default());
            for round in 0..rounds {
                data::empty(&target);
                let seconds = fleet.consumer.fetch(&contract, &target, round + 1).await;
                ours.add(seconds, 0.0, 0.0);
                data::empty(&target);
                let (seconds, cpu, peak) = nginx.get("far", &target.join("far"));
                theirs.add(seconds, cpu, peak);
            }
            report.ratio(&format!("wan_{connections}_vs_curl"), size, &ours, &theirs);
        }
    });
}
