//! One running node: configuration, TLS, caller identity, background workers, health, metrics, start and drain.
//!
//! This crate owns everything between a configuration file and a process that serves: it opens the data directory,
//! finds or asks for the node's identity, binds the listeners, turns certificates into callers before any request is
//! read, runs the workers of the `space` crates, and brings all of it to an orderly end. It refuses to know what a
//! catalog entry, a contract or a transfer is: those rules are the services', and their interface is `huitong_grpc`'s.
//! It sets up no logging and reads no command line.

mod admin;
pub mod config;
mod error;
mod health;
mod http;
mod identity;
mod listener;
pub mod maintenance;
mod metrics;
mod objects;
mod serving;
mod start;
mod supervisor;
mod tls;
mod workers;

pub use config::{Config, ConfigError};
pub use error::StartError;
pub use huitong_identity::Sources;
pub use identity::{client, enrol};
pub use start::{RunningNode, start};
