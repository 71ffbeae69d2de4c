//! Use cases of every node: load, decide, commit. The registrar's own are in [`crate::registrar`].

mod enrolment;
mod lists;
mod standing;
mod statements;

pub(crate) use enrolment::check_enrolment;
pub use enrolment::{JoinRequest, enrolment_request};
pub(crate) use lists::{publish_status, remember_roots, verify_roots, verify_status};
pub(crate) use standing::{CREDENTIAL_LIFETIME, log_of, validity_start, witness_of};
pub use standing::{Genesis, Membership, Sources, Standing, found, join, load, report_address};
pub use statements::{
    credential_of, members, prove_for, read_refusal, refuse, remember, remember_credential, statement_from,
    statement_of,
};
