//! What a command prints: text for people or JSON for programs on stdout, notes on stderr.

use std::io::{ErrorKind, IsTerminal as _};
use std::sync::OnceLock;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::exit::Failure;

/// The form of what goes to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON value; notes and errors are JSON lines on stderr.
    Json,
}

/// Where and how a command prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Form of the result.
    pub(crate) format: Format,
    /// No notes and no progress on stderr; errors still.
    pub(crate) quiet: bool,
}

impl Output {
    /// Prints the result of a command, in the chosen form.
    pub(crate) fn result(&self, json: &Value, text: impl FnOnce() -> String) {
        match self.format {
            Format::Text => print(&text()),
            Format::Json => print(&json.to_string()),
        }
    }

    /// One of several results that come one after another: a line of JSON; nothing for people, who see a progress bar.
    pub(crate) fn step(&self, json: impl FnOnce() -> Value) {
        if self.format == Format::Json {
            print(&json().to_string());
        }
    }

    /// Says something beside the result, on stderr.
    pub(crate) fn note(&self, text: &str) {
        match self.format {
            _ if self.quiet => {}
            Format::Text => print_error(text),
            Format::Json => print_error(&serde_json::json!({ "note": text }).to_string()),
        }
    }

    /// Prints an error, on stderr.
    pub(crate) fn error(&self, failure: &Failure) {
        match self.format {
            Format::Text => print_error(&failure.to_string()),
            Format::Json => print_error(&failure.to_json().to_string()),
        }
    }

    /// A progress bar over bytes on a terminal; invisible elsewhere.
    pub(crate) fn progress(&self, what: &str) -> ProgressBar {
        self.bar(what, "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}")
    }

    /// A progress bar over steps, each with its name and unit, on a terminal; invisible elsewhere.
    pub(crate) fn steps(&self) -> ProgressBar {
        self.bar("", "{msg} [{bar:30}] {human_pos}/{human_len} {prefix}")
    }

    fn bar(&self, what: &str, template: &str) -> ProgressBar {
        if self.quiet || self.format == Format::Json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        bar
    }
}

/// Why stdout did not take everything, if it did not.
static LOST: OnceLock<String> = OnceLock::new();

/// Writes one text and a line end to stdout. A reader that went away is not an error of ours; anything else is told by
/// [`lost`].
pub(crate) fn print(text: &str) {
    match write_line(&mut std::io::stdout().lock(), text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            // The first reason is the one that matters.
            let _ = LOST.set(error.to_string());
        }
        _ => {}
    }
}

/// Why something printed is not where stdout leads, such as a full disk.
pub(crate) fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// Writes one text and a line end to stderr.
pub(crate) fn print_error(text: &str) {
    let _ = write_line(&mut std::io::stderr().lock(), text);
}

fn write_line(to: &mut impl std::io::Write, text: &str) -> std::io::Result<()> {
    to.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        to.write_all(b"\n")?;
    }
    to.flush()
}

/// Rows with aligned columns; the first row is the heading. Says `empty` when there is no other row.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>], empty: &str) -> String {
    if rows.is_empty() {
        return empty.to_owned();
    }
    let heading: Vec<String> = heading.iter().map(|&cell| cell.to_owned()).collect();
    let mut widths = vec![0; heading.len()];
    for row in std::iter::once(&heading).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(columns(cell));
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(columns(cell)) + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Columns on a terminal: Chinese characters take two.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(|character| if is_wide(character) { 2 } else { 1 }).sum()
}

fn is_wide(character: char) -> bool {
    matches!(character, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' | '\u{20000}'..='\u{3fffd}')
}

/// `1 byte`, `121,417 bytes`.
pub(crate) fn bytes(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + if count == 1 { " byte" } else { " bytes" }
}

/// Bytes of a file, or of all the files of a dataset; no `files` for one file.
pub(crate) fn content(size: u64, files: u64) -> String {
    match files {
        0 => bytes(size),
        1 => format!("{} in 1 file", bytes(size)),
        files => format!("{} in {files} files", bytes(size)),
    }
}

/// A moment in milliseconds since 1970 as RFC 3339; `-` for none.
pub(crate) fn moment(milliseconds: u64) -> String {
    match milliseconds {
        0 => "-".to_owned(),
        some => huitong_proof::Timestamp::from_millis(some).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_are_grouped() {
        for (count, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1_000, "1,000 bytes"),
            (121_417, "121,417 bytes"),
            (1 << 30, "1,073,741,824 bytes"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn columns_line_up_for_chinese_too() {
        let rows = vec![vec!["数据".to_owned(), "1".to_owned()], vec!["ab".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["name", "n"], &rows, ""), "name  n\n数据  1\nab    22\n");
        assert_eq!(table(&["name"], &[], "nothing here"), "nothing here");
    }
}
