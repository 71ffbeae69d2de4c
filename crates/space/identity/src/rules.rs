//! Pure decisions of the registrar.

use huitong_proof::{Digest, Timestamp};

use crate::error::{Refusal, ServiceError};
use crate::tables::InviteRow;

/// What an enrolment with a known invite leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Enrolment {
    /// A new node.
    Mint,
    /// The same keys again: the same answer again.
    Repeat(String),
}

/// An invite admits one TLS key, once, until it expires.
pub(crate) fn decide_enrolment(
    invite: &InviteRow,
    key: &Digest,
    now: Timestamp,
) -> Result<Enrolment, Refusal> {
    match &invite.used {
        Some((used_by, node)) if used_by == key => Ok(Enrolment::Repeat(node.clone())),
        Some(_) => Err(Refusal::new(
            "enrolment.invite.used",
            "the invite has already admitted another node",
            "ask the registrar's operator for a new invite",
        )),
        None if now > invite.expires => Err(Refusal::new(
            "enrolment.invite.expired",
            format!("the invite expired at {}", invite.expires),
            "ask the registrar's operator for a new invite",
        )),
        None => Ok(Enrolment::Mint),
    }
}

/// A certificate's CN: a domain name or an IP address of at most 253 characters (N03 Annex A).
pub fn check_domain(domain: &str) -> Result<(), ServiceError> {
    let is_address = domain.parse::<std::net::IpAddr>().is_ok();
    let is_name = !domain.is_empty()
        && domain.len() <= 253
        && domain.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        });
    if is_address || is_name {
        Ok(())
    } else {
        Err(ServiceError::invalid("domain", format!("{domain:?} is neither a domain name nor an IP address")))
    }
}

/// A name people read: 1 to 128 characters without control characters.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), ServiceError> {
    let length = name.chars().count();
    if length == 0 || length > 128 || name.chars().any(char::is_control) {
        return Err(ServiceError::invalid(field, "must have 1 to 128 characters and no control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite(used: Option<(Digest, String)>) -> InviteRow {
        InviteRow {
            entity: "91440300708461136T".to_owned(),
            name: "Example".to_owned(),
            roles: Vec::new(),
            created: Timestamp::from_millis(0),
            expires: Timestamp::from_millis(1_000),
            used,
        }
    }

    #[test]
    fn an_invite_admits_one_key_once_until_it_expires() {
        let key = Digest::sha256(b"a");
        let other = Digest::sha256(b"b");
        let at = Timestamp::from_millis;
        assert_eq!(decide_enrolment(&invite(None), &key, at(1_000)), Ok(Enrolment::Mint));
        assert_eq!(
            decide_enrolment(&invite(None), &key, at(1_001)).unwrap_err().code,
            "enrolment.invite.expired"
        );
        let used = invite(Some((key, "node".to_owned())));
        assert_eq!(decide_enrolment(&used, &key, at(9_000)), Ok(Enrolment::Repeat("node".to_owned())));
        assert_eq!(decide_enrolment(&used, &other, at(1)).unwrap_err().code, "enrolment.invite.used");
    }

    #[test]
    fn domains() {
        for good in ["localhost", "node.example", "127.0.0.1", "::1", "a-b.example"] {
            check_domain(good).unwrap();
        }
        for bad in ["", "-a.example", "a..b", "a b", "exa_mple", &"a".repeat(254)] {
            check_domain(bad).unwrap_err();
        }
    }
}
