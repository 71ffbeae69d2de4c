//! Delivery measured against what a user would pick otherwise, in one run and interleaved.
//!
//! `tests/bench/transfer.sh` installs the other programs, builds the node and runs this with its arguments; what is not
//! there is said and skipped. `--quick` moves 1 GiB instead of 4, and 1,000 small files instead of 10,000; `--only NAME[,NAME]`
//! measures a part, `--only ours` one large file by ours alone, to compare builds. The nodes are real processes of the
//! release binary, and every figure is taken from where a user stands: from the command to the file that is in its place,
//! verified, acknowledged, receipted and logged.
//!
//! Files lie in memory (`/dev/shm`) unless `HUITONG_BENCH_DIR` says otherwise: on a disk that writes slower than the
//! network brings, every program measures the disk. `disk_vs_curl_sync` is the figure for a disk, where the other side has
//! to make its file durable too.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints and fails loudly"
)]

#[path = "transfer/data.rs"]
mod data;
#[path = "transfer/fleet.rs"]
mod fleet;
#[path = "transfer/measure.rs"]
mod measure;
#[path = "transfer/pump.rs"]
mod pump;
#[path = "transfer/report.rs"]
mod report;
#[path = "transfer/rivals.rs"]
mod rivals;
#[path = "transfer/wan.rs"]
mod wan;

use std::path::PathBuf;

/// How much is moved, and how often.
pub(crate) struct Scale {
    pub(crate) file_bytes: u64,
    pub(crate) rounds: usize,
    pub(crate) tiny: usize,
    pub(crate) small_files: usize,
    pub(crate) large_files: usize,
    /// Names of the parts to measure; empty means all.
    pub(crate) only: Vec<String>,
}

impl Scale {
    fn read() -> Self {
        let full = Self {
            file_bytes: 4 << 30,
            rounds: 5,
            tiny: 1_000,
            small_files: 10_000,
            large_files: 100,
            only: Vec::new(),
        };
        let mut scale = full;
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => {
                    scale = Self {
                        file_bytes: 1 << 30,
                        rounds: 3,
                        tiny: 300,
                        small_files: 1_000,
                        large_files: 20,
                        ..scale
                    };
                }
                "--only" => scale.only = arguments.next().unwrap().split(',').map(str::to_owned).collect(),
                // cargo passes this to every bench.
                "--bench" => {}
                other => {
                    eprintln!("unknown option {other}; there are --quick and --only NAME[,NAME]");
                    std::process::exit(2);
                }
            }
        }
        scale
    }

    pub(crate) fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == part)
    }
}

fn main() {
    if wan::is_inside() {
        return wan::measure();
    }
    let scale = Scale::read();
    let place = tempfile::Builder::new().prefix("huitong-transfer-").tempdir_in(directory()).unwrap();
    eprintln!("transfer bench: {} MiB, files in {}", scale.file_bytes >> 20, place.path().display());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut report = runtime.block_on(measure::all(place.path(), &scale));
    if scale.wants("wan") {
        wan::run(&mut report, &scale);
    }
    report.print_table();
}

/// Where the files lie.
fn directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("HUITONG_BENCH_DIR") {
        return directory.into();
    }
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}
