//! The voice of the demo: on stdout, or on stderr when stdout carries JSON.

use std::time::Duration;

use crate::output::{Format, Output, print, print_error};

/// Tells the story line by line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Narrator {
    output: Output,
}

impl Narrator {
    pub(crate) fn new(output: Output) -> Self {
        Self { output }
    }

    /// A new step of the story.
    pub(crate) fn step(&self, number: u32, title: &str) {
        self.say(&format!("\n{number}. {title}"));
    }

    /// Something that has been done, and how long it took.
    pub(crate) fn done(&self, what: &str, took: Duration) {
        self.say(&format!("   ✓ {what} ({})", in_words(took)));
    }

    /// A detail of what has just been done.
    pub(crate) fn detail(&self, what: &str) {
        self.say(&format!("     {what}"));
    }

    /// A line of its own.
    pub(crate) fn say(&self, text: &str) {
        match self.output.format {
            Format::Text => print(text),
            Format::Json if !self.output.quiet => print_error(text),
            Format::Json => {}
        }
    }
}

fn in_words(took: Duration) -> String {
    match took.as_millis() {
        milliseconds @ 0..=999 => format!("{milliseconds} ms"),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}
