//! The binary `huitong`: reads the command line, hands over, and ends with the documented exit code.

mod admin;
mod cli;
mod commands;
mod demo;
mod exit;
mod operations;
mod output;
mod views;

fn main() -> std::process::ExitCode {
    commands::run()
}
