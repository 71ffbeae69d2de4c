//! One line of JSON per figure as it is measured, and the table at the end.

use serde_json::{Value, json};

#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<(String, f64, String)>,
}

/// One program's runs of one task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs {
    pub(crate) seconds: Vec<f64>,
    pub(crate) cpu: Vec<f64>,
    pub(crate) peak_mib: Vec<f64>,
}

impl Runs {
    pub(crate) fn add(&mut self, seconds: f64, cpu: f64, peak_mib: f64) {
        self.seconds.push(seconds);
        self.cpu.push(cpu);
        self.peak_mib.push(peak_mib);
    }

    fn gbps(&self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / 1e9 / median(&self.seconds)
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

impl Report {
    /// Our rate to theirs, round by round: how the two compare does not depend on how busy the machine was.
    pub(crate) fn ratio(&mut self, bench: &str, bytes: u64, ours: &Runs, theirs: &Runs) {
        let ratios: Vec<f64> =
            theirs.seconds.iter().zip(&ours.seconds).map(|(theirs, ours)| theirs / ours).collect();
        let value = median(&ratios);
        let (ours_gbps, theirs_gbps) = (ours.gbps(bytes), theirs.gbps(bytes));
        let line = json!({
            "bench": bench, "value": round(value), "ours_gbps": round(ours_gbps), "theirs_gbps": round(theirs_gbps),
            "cpu_s": [round(median(&ours.cpu)), round(median(&theirs.cpu))],
            "peak_mib": [round(median(&ours.peak_mib)), round(median(&theirs.peak_mib))],
            "rounds": ratios.len(),
        });
        let note = format!("ours {ours_gbps:.2} Gbit/s, theirs {theirs_gbps:.2} Gbit/s");
        self.print(bench, value, note, &line);
    }

    pub(crate) fn figure(&mut self, bench: &str, value: f64, note: &str) {
        let line = json!({ "bench": bench, "value": round(value) });
        self.print(bench, value, note.to_owned(), &line);
    }

    /// A line that another process has printed.
    pub(crate) fn add(&mut self, line: &str) {
        let Ok(figure) = serde_json::from_str::<Value>(line) else { return };
        if let (Some(bench), Some(value)) = (figure["bench"].as_str(), figure["value"].as_f64()) {
            let note =
                format!("ours {} Gbit/s, theirs {} Gbit/s", figure["ours_gbps"], figure["theirs_gbps"]);
            self.print(bench, value, note, &figure);
        }
    }

    pub(crate) fn skipped(&mut self, bench: &str, why: &str) {
        eprintln!("SKIPPED {bench}: {why}");
    }

    fn print(&mut self, bench: &str, value: f64, note: String, line: &Value) {
        println!("{line}");
        self.rows.push((bench.to_owned(), value, note));
    }

    pub(crate) fn print_table(&self) {
        println!("\n{:<24} {:>10}  measured", "figure", "value");
        for (bench, value, note) in &self.rows {
            println!("{bench:<24} {value:>10.3}  {note}");
        }
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
