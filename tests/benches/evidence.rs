//! What evidence costs: statements made durable and logged, proofs, checks, starts, memory.
//!
//! `cargo bench -p huitong-tests --bench evidence` works on a ledger of 10 million entries and takes a while and some
//! 15 GB of disk; `-- --quick` on one of 1 million, under 3 minutes; `-- --entries N` on one of that size. The files lie in a
//! directory of their own under the system's temporary directory, or under `HUITONG_BENCH_DIR`, and are removed.
//! Beside the table each figure is one line of JSON: `{"bench", "value", "unit", "baseline", "ratio"}`. Every baseline is
//! measured in the same run, on the same disk.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints and fails loudly"
)]

#[path = "evidence/node.rs"]
mod node;
#[path = "evidence/report.rs"]
mod report;
#[path = "evidence/writers.rs"]
mod writers;

use std::time::Duration;

use report::Report;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, directory] = arguments.as_slice()
        && mode == node::CHILD
    {
        return node::serve(directory.as_ref());
    }
    let options = Options::read(&arguments);
    let place = tempfile::Builder::new()
        .prefix("huitong-bench-")
        .tempdir_in(std::env::var_os("HUITONG_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into))
        .unwrap();
    let mut report = Report::default();
    eprintln!("evidence bench: {} entries, files in {}", options.entries, place.path().display());
    writers::measure(place.path(), options.writing, &mut report);
    node::measure(place.path(), options.entries, &mut report);
    report.print_table();
}

struct Options {
    entries: u64,
    /// How long each number of writers writes.
    writing: Duration,
}

impl Options {
    fn read(arguments: &[String]) -> Self {
        let mut options = Self { entries: 10_000_000, writing: Duration::from_secs(10) };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--quick" => options = Self { entries: 1_000_000, writing: Duration::from_secs(4) },
                "--entries" => options.entries = rest.next().unwrap().parse().unwrap(),
                // cargo passes this to every bench.
                "--bench" => {}
                other => {
                    eprintln!("unknown option {other}; there are --quick and --entries N");
                    std::process::exit(2);
                }
            }
        }
        options
    }
}
