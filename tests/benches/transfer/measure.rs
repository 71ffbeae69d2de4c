//! The tasks, each done by us and by the others in turn.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::fleet::{Fleet, LOOPBACK};
use crate::report::{Report, Runs, median};
use crate::rivals::{self, Nginx, Sshd};
use crate::{Scale, data, pump};

const NO_NGINX: &str = "nginx, curl or openssl is not installed";
const NO_SSH: &str = "sshd or rsync is not installed, or sshd may not run here";

pub(crate) async fn all(place: &Path, scale: &Scale) -> Report {
    let sources = place.join("sources");
    std::fs::create_dir_all(&sources).unwrap();
    let mut bench = Bench {
        place: place.to_owned(),
        nginx: Nginx::start(place, &sources, LOOPBACK),
        sshd: Sshd::start(place),
        fleet: Fleet::start(place, 0, LOOPBACK).await,
        sources,
        report: Report::default(),
        number: 0,
    };
    if scale.wants("limits") {
        for (name, rate) in pump::limits(place) {
            bench.report.figure(name, rate, "Gbit/s of one core, or of the place of the files");
        }
    }
    if scale.wants("file") {
        bench.file(scale).await;
    }
    if scale.only.iter().any(|part| part == "ours") {
        bench.ours_alone(scale).await;
    }
    if scale.wants("disk") {
        bench.disk(scale).await;
    }
    if scale.wants("small") {
        bench.files("small_files", scale.small_files, 4 << 10, scale).await;
    }
    if scale.wants("many") {
        bench.files("large_files", scale.large_files, 10 << 20, scale).await;
    }
    if scale.wants("memory") {
        bench.memory(scale).await;
    }
    if scale.wants("tiny") {
        bench.tiny(scale).await;
    }
    if scale.wants("publish") {
        bench.publish(scale);
    }
    bench.report
}

struct Bench {
    place: PathBuf,
    sources: PathBuf,
    nginx: Option<Nginx>,
    sshd: Option<Sshd>,
    fleet: Fleet,
    report: Report,
    /// Transfers so far; each needs an id of its own.
    number: u64,
}

impl Bench {
    /// One large file: ours, curl, curl and then b3sum, rsync over ssh, and the bare pump, in turn.
    async fn file(&mut self, scale: &Scale) {
        let source = self.sources.join("large");
        data::file(&source, scale.file_bytes, 1);
        let (contract, _) = self.fleet.agree(&source);
        let target = self.place.join("target");
        let (mut ours, mut curl, mut checked) = (Runs::default(), Runs::default(), Runs::default());
        let (mut rsync, mut bare) = (Runs::default(), Runs::default());
        for round in 0..=scale.rounds {
            data::empty(&target);
            let (seconds, cpu, peak) = self.ours(&contract, &target).await;
            data::empty(&target);
            let file = target.join("large");
            let theirs = self.nginx.as_ref().map(|nginx| nginx.get("large", &file));
            let hashed =
                theirs.filter(|_| rivals::is_installed("b3sum")).map(|_| rivals::hash("b3sum", &file));
            data::empty(&target);
            let copied = self.sshd.as_ref().map(|sshd| sshd.rsync(&source, &file));
            data::empty(&target);
            let pumped = rivals::is_installed("openssl").then(|| pump::pump(&self.place, &source, &file));
            if round == 0 {
                // Everybody's first run fills caches and grows buffers.
                continue;
            }
            ours.add(seconds, cpu, peak);
            if let Some((seconds, cpu, peak)) = theirs {
                curl.add(seconds, cpu, peak);
                if let Some(hashed) = hashed {
                    checked.add(seconds + hashed.0, cpu + hashed.1, peak.max(hashed.2));
                }
            }
            if let Some((seconds, cpu, peak)) = copied {
                rsync.add(seconds, cpu, peak);
            }
            if let Some(seconds) = pumped {
                bare.add(seconds, 0.0, 0.0);
            }
        }
        data::empty(&target);
        for (bench, theirs, missing) in [
            ("file_vs_curl", &curl, NO_NGINX),
            ("file_vs_curl_b3sum", &checked, "curl or b3sum is not installed"),
            ("file_vs_rsync_ssh", &rsync, NO_SSH),
            ("limit_ratio", &bare, "openssl is not installed"),
        ] {
            if theirs.seconds.is_empty() {
                self.report.skipped(bench, missing);
            } else {
                self.report.ratio(bench, scale.file_bytes, &ours, theirs);
            }
        }
        let peak = ours.peak_mib.iter().copied().fold(0.0, f64::max);
        self.report.figure("memory_peak_mib", peak, "MiB, the larger side, any run");
        std::fs::remove_file(source).unwrap();
    }

    /// One large file, by ours alone: what a change gives, in processor seconds of each side.
    async fn ours_alone(&mut self, scale: &Scale) {
        let source = self.sources.join("large");
        data::file(&source, scale.file_bytes, 1);
        let (contract, _) = self.fleet.agree(&source);
        let target = self.place.join("target");
        let gib = scale.file_bytes as f64 / f64::from(1 << 30);
        let mut runs: [Vec<f64>; 3] = Default::default();
        for round in 0..=3 * scale.rounds {
            data::empty(&target);
            let before = self.fleet.cpu_of_sides();
            let seconds = self.fetch(&contract, &target).await;
            let after = self.fleet.cpu_of_sides();
            if round == 0 {
                continue;
            }
            for (runs, seconds) in runs.iter_mut().zip([seconds, after.0 - before.0, after.1 - before.1]) {
                runs.push(seconds / gib);
            }
        }
        data::empty(&target);
        for (name, runs) in
            ["seconds_per_gib", "provider_cpu_s_per_gib", "consumer_cpu_s_per_gib"].into_iter().zip(&runs)
        {
            self.report.figure(name, median(runs), "median, ours alone");
        }
        std::fs::remove_file(source).unwrap();
    }

    /// A directory of files of one size: ours, rsync over ssh, and curl with several connections.
    async fn files(&mut self, name: &str, count: usize, size: u64, scale: &Scale) {
        let source = self.sources.join(name);
        data::empty(&source);
        let names: Vec<String> = (0..count).map(|number| format!("part-{}/{number}", number % 10)).collect();
        for (number, file) in names.iter().enumerate() {
            std::fs::create_dir_all(source.join(file).parent().unwrap()).unwrap();
            data::file(&source.join(file), size, number as u64 * 2 + 1);
        }
        let (contract, _) = self.fleet.agree(&source);
        let target = self.place.join("target");
        let (mut ours, mut rsync, mut curl) = (Runs::default(), Runs::default(), Runs::default());
        for round in 0..=scale.rounds {
            data::empty(&target);
            let (seconds, cpu, peak) = self.ours(&contract, &target).await;
            assert_eq!(data::count(&target), count);
            data::empty(&target);
            let copied = self.sshd.as_ref().map(|sshd| sshd.rsync(&source, &target));
            data::empty(&target);
            let got = self.nginx.as_ref().map(|nginx| nginx.get_all(name, &names, &target));
            if round == 0 {
                continue;
            }
            ours.add(seconds, cpu, peak);
            for (run, runs) in [(copied, &mut rsync), (got, &mut curl)] {
                if let Some((seconds, cpu, peak)) = run {
                    runs.add(seconds, cpu, peak);
                }
            }
        }
        data::empty(&target);
        for (rival, theirs, missing) in [("rsync", &rsync, NO_SSH), ("curl", &curl, NO_NGINX)] {
            let bench = format!("{name}_vs_{rival}");
            if theirs.seconds.is_empty() {
                self.report.skipped(&bench, missing);
            } else {
                self.report.ratio(&bench, count as u64 * size, &ours, theirs);
            }
        }
        std::fs::remove_dir_all(source).unwrap();
    }

    /// Memory of the larger side: one file four times as large, of which the disk holds only holes, and 64 transfers at
    /// once.
    async fn memory(&mut self, scale: &Scale) {
        let sparse = self.sources.join("sparse");
        std::fs::File::create(&sparse).unwrap().set_len(scale.file_bytes * 4).unwrap();
        let (contract, _) = self.fleet.agree(&sparse);
        let target = self.place.join("target");
        data::empty(&target);
        let (_, _, peak) = self.ours(&contract, &target).await;
        let note = format!("MiB, the larger side, one file of {} GiB", (scale.file_bytes * 4) >> 30);
        self.report.figure("memory_large_file_mib", peak, &note);
        data::empty(&target);
        std::fs::remove_file(sparse).unwrap();
        let source = self.sources.join("crowd");
        data::file(&source, scale.file_bytes / 16, 7);
        let (contract, _) = self.fleet.agree(&source);
        self.fleet.forget_peak();
        let numbers: Vec<u64> = (0..64).map(|number| self.number + 1 + number).collect();
        self.number += 64;
        let fetches = numbers.iter().map(|number| self.fleet.consumer.fetch(&contract, &target, *number));
        futures_util::future::join_all(fetches).await;
        let note =
            format!("MiB, the larger side, 64 transfers of {} MiB at once", (scale.file_bytes / 16) >> 20);
        self.report.figure("memory_64_transfers_mib", self.fleet.peak_mib(), &note);
        data::empty(&target);
        std::fs::remove_file(source).unwrap();
    }

    /// A file that has to be durable on a disk in the end: ours always is, curl's has to be made so.
    async fn disk(&mut self, scale: &Scale) {
        let Some(nginx) = &self.nginx else { return self.report.skipped("disk_vs_curl_sync", NO_NGINX) };
        let size = scale.file_bytes / 4;
        let source = self.sources.join("durable");
        data::file(&source, size, 5);
        let (contract, _) = self.fleet.agree(&source);
        let disk = tempfile::tempdir().unwrap();
        let target = disk.path().join("target");
        let (mut ours, mut theirs) = (Runs::default(), Runs::default());
        for _ in 0..scale.rounds {
            data::empty(&target);
            self.number += 1;
            ours.add(self.fleet.consumer.fetch(&contract, &target, self.number).await, 0.0, 0.0);
            data::empty(&target);
            let file = target.join("durable");
            let (seconds, ..) = nginx.get("durable", &file);
            theirs.add(seconds + rivals::sync(&file), 0.0, 0.0);
        }
        self.report.ratio("disk_vs_curl_sync", size, &ours, &theirs);
        std::fs::remove_file(source).unwrap();
    }

    /// A file of 1 KiB under an existing agreement, one after another and 64 at a time.
    async fn tiny(&mut self, scale: &Scale) {
        let source = self.sources.join("tiny");
        data::file(&source, 1024, 2);
        let (contract, _) = self.fleet.agree(&source);
        let target = self.place.join("target");
        data::empty(&target);
        let mut times = Vec::new();
        for _ in 0..scale.tiny {
            times.push(self.fetch(&contract, &target).await * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        self.report.figure("tiny_p50_ms", times[times.len() / 2], "ms, the whole exchange of 1 KiB");
        self.report.figure("tiny_p99_ms", times[times.len() * 99 / 100], "ms");
        let began = Instant::now();
        let count = scale.tiny as u64 * 2;
        let next = std::sync::atomic::AtomicU64::new(self.number);
        let last = self.number + count;
        let one = || async {
            loop {
                let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if number >= last {
                    return;
                }
                self.fleet.consumer.fetch(&contract, &target, number).await;
            }
        };
        let callers: Vec<_> = (0..64).map(|_| one()).collect();
        futures_util::future::join_all(callers).await;
        let rate = count as f64 / began.elapsed().as_secs_f64();
        self.number = last;
        self.report.figure("tiny_per_second_64", rate, "1/s, 64 in flight");
        data::empty(&target);
    }

    /// Publication computes the tree; `b3sum` and `sha256sum` read the same file.
    fn publish(&mut self, scale: &Scale) {
        let (mut ours, mut blake, mut sha) = (Runs::default(), Runs::default(), Runs::default());
        for round in 0..scale.rounds {
            let source = self.sources.join(format!("published-{round}"));
            data::file(&source, scale.file_bytes, 3 + round as u64);
            let cpu = self.fleet.cpu();
            let (_, seconds) = self.fleet.agree(&source);
            ours.add(seconds, self.fleet.cpu() - cpu, self.fleet.peak_mib());
            for (program, runs) in [("b3sum", &mut blake), ("sha256sum", &mut sha)] {
                if rivals::is_installed(program) {
                    let (seconds, cpu, peak) = rivals::hash(program, &source);
                    runs.add(seconds, cpu, peak);
                }
            }
            std::fs::remove_file(source).unwrap();
        }
        for (bench, theirs) in [("publish_vs_b3sum", &blake), ("publish_vs_sha256sum", &sha)] {
            if theirs.seconds.is_empty() {
                self.report.skipped(bench, "the program is not installed");
            } else {
                self.report.ratio(bench, scale.file_bytes, &ours, theirs);
            }
        }
    }

    async fn ours(&mut self, contract: &str, target: &Path) -> rivals::Run {
        self.fleet.forget_peak();
        let cpu = self.fleet.cpu();
        let seconds = self.fetch(contract, target).await;
        (seconds, self.fleet.cpu() - cpu, self.fleet.peak_mib())
    }

    async fn fetch(&mut self, contract: &str, target: &Path) -> f64 {
        self.number += 1;
        self.fleet.consumer.fetch(contract, target, self.number).await
    }
}
