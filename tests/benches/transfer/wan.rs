//! A line of 200 ms and 0.5 % loss: a network namespace of its own whose loopback the kernel's netem makes slow. Everything that
//! takes part runs inside.

use std::process::{Command, Stdio};

use crate::fleet::Fleet;
use crate::report::{Report, Runs};
use crate::rivals::Nginx;
use crate::{Scale, data, directory};

/// The first argument of the process that measures inside; mebibytes and rounds follow.
const INSIDE: &str = "--inside-wan";
/// Half of the round trip in each direction, the loss on each, and packets as large as on a real line.
const LINE: &str = "ip link set lo mtu 1500 && ip link set lo up && \
                    tc qdisc add dev lo root netem delay 100ms loss 0.5% limit 200000";

/// Measures in a namespace of its own, or says why not.
pub(crate) fn run(report: &mut Report, scale: &Scale) {
    let allowed = Command::new("unshare").args(["--net", "sh", "-c", LINE]).output();
    if !allowed.as_ref().is_ok_and(|done| done.status.success()) {
        let why = allowed.map_or_else(
            |error| error.to_string(),
            |done| String::from_utf8_lossy(&done.stderr).trim().replace('\n', "; "),
        );
        return report.skipped("wan_1_vs_curl, wan_8_vs_curl", &format!("no line to slow down here: {why}"));
    }
    let program = std::env::current_exe().unwrap();
    let mebibytes = (scale.file_bytes >> 20) / 64;
    let inside = format!("{LINE} && exec {} {INSIDE} {mebibytes} {}", program.display(), scale.rounds);
    let done = Command::new("unshare")
        .args(["--net", "sh", "-c", &inside])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(done.status.success(), "the measurement inside failed");
    String::from_utf8(done.stdout).unwrap().lines().for_each(|line| report.add(line));
}

/// Whether this process is the one inside.
pub(crate) fn is_inside() -> bool {
    std::env::args().nth(1).is_some_and(|argument| argument == INSIDE)
}

/// Ours over one connection and over eight against curl, which has one.
pub(crate) fn measure() {
    let numbers: Vec<u64> = std::env::args().skip(2).map(|number| number.parse().unwrap()).collect();
    let (size, rounds) = (numbers[0] << 20, numbers[1]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut report = Report::default();
        for connections in [1, 8] {
            let place = tempfile::Builder::new().prefix("huitong-wan-").tempdir_in(directory()).unwrap();
            let sources = place.path().join("sources");
            std::fs::create_dir_all(&sources).unwrap();
            let Some(nginx) = Nginx::start(place.path(), &sources) else {
                return report.skipped("wan_1_vs_curl, wan_8_vs_curl", "nginx or curl is not installed");
            };
            data::file(&sources.join("far"), size, 9);
            let fleet = Fleet::start(place.path(), connections).await;
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
