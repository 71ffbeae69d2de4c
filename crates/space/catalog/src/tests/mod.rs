//! The services, with a registrar and two connectors in one process.

mod publish;
mod registry;
mod support;
mod versions;
