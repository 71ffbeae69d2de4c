//! One line of JSON per figure as it is measured, and the table at the end.

/// The figures so far.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

struct Row {
    bench: String,
    value: f64,
    unit: &'static str,
    baseline: Option<Baseline>,
}

struct Baseline {
    value: f64,
    ratio: f64,
    what: &'static str,
}

impl Report {
    /// A figure that is compared with nothing.
    pub(crate) fn figure(&mut self, bench: &str, value: f64, unit: &'static str) {
        println!("{}", serde_json::json!({ "bench": bench, "value": value, "unit": unit }));
        self.rows.push(Row { bench: bench.to_owned(), value, unit, baseline: None });
    }

    /// A figure beside one that was measured in the same run; `what` says what the baseline is.
    pub(crate) fn compared(
        &mut self,
        bench: &str,
        value: f64,
        unit: &'static str,
        baseline: f64,
        what: &'static str,
    ) {
        let ratio = value / baseline;
        println!(
            "{}",
            serde_json::json!({ "bench": bench, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio })
        );
        let baseline = Some(Baseline { value: baseline, ratio, what });
        self.rows.push(Row { bench: bench.to_owned(), value, unit, baseline });
    }

    pub(crate) fn print_table(&self) {
        println!();
        println!(
            "{:<32} {:>12} {:<6} {:>12} {:>8}  baseline",
            "figure", "value", "unit", "baseline", "ratio"
        );
        for Row { bench, value, unit, baseline } in &self.rows {
            match baseline {
                None => println!("{bench:<32} {value:>12.3} {unit:<6}"),
                Some(Baseline { value: baseline, ratio, what }) => {
                    println!("{bench:<32} {value:>12.3} {unit:<6} {baseline:>12.3} {ratio:>8.3}  {what}");
                }
            }
        }
    }
}
