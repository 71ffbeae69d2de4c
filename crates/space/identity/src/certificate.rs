//! X.509 certificates (N03 Annex A: CN = domain or IP, OU = node id) with the credential statement inside.

use huitong_ids::NodeId;
use huitong_proof::{Digest, Statement, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::ServiceError;
use crate::model::Credential;

/// Object identifier of the extension that carries the CREDENTIAL statement as an OCTET STRING.
///
/// 2.999 is the arc that ITU-T X.660 sets aside for examples; the project has no registered arc yet.
pub const CREDENTIAL_EXTENSION: &[u64] = &[2, 999, 26723, 1];

/// The same in DER (X.690 clause 8.19): the parser builds no identifier whose second arc is above 39.
const CREDENTIAL_EXTENSION_DER: &[u8] = &[0x88, 0x37, 0x81, 0xd0, 0x63, 0x01];

/// What a certificate says, before anything in it is believed.
pub(crate) struct Claims {
    pub(crate) common_name: String,
    pub(crate) unit: String,
    pub(crate) key: Digest,
    pub(crate) statement: Vec<u8>,
}

/// SHA-256 of the SubjectPublicKeyInfo of a key or of a certificate's key.
pub fn public_key_digest(key: &KeyPair) -> Digest {
    Digest::sha256(&key.subject_public_key_info())
}

/// A self-signed root for a registrar, valid for `years`.
pub(crate) fn self_signed_root(
    key: &KeyPair,
    name: &str,
    node: &NodeId,
    now: Timestamp,
    years: u64,
) -> Result<Vec<u8>, ServiceError> {
    let mut params = root_params(name, node)?;
    params.not_before = date(now.millis().saturating_sub(CLOCK_SLACK_MILLIS))?;
    params.not_after = date(now.millis().saturating_add(years.saturating_mul(YEAR_MILLIS)))?;
    Ok(params.self_signed(key).map_err(internal)?.der().to_vec())
}

/// The certificate of a node whose credential is already signed.
pub(crate) fn issue(
    root: &[u8],
    root_key: &KeyPair,
    subject_key: &impl PublicKeyData,
    credential: &Credential,
    statement: &Statement,
) -> Result<Vec<u8>, ServiceError> {
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(internal)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, credential.domain.as_str());
    params.distinguished_name.push(DnType::OrganizationalUnitName, credential.node.as_str());
    params.subject_alt_names = vec![match credential.domain.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(
            credential.domain.as_str().try_into().map_err(|e| ServiceError::invalid("domain", e))?,
        ),
    }];
    params.not_before = date(credential.not_before.millis())?;
    params.not_after = date(credential.not_after.millis())?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.custom_extensions =
        vec![CustomExtension::from_oid_content(CREDENTIAL_EXTENSION, octet_string(statement.bytes()))];
    let issuer = Issuer::from_ca_cert_der(&root.to_vec().into(), root_key).map_err(internal)?;
    Ok(params.signed_by(subject_key, &issuer).map_err(internal)?.der().to_vec())
}

/// A certificate signing request for this key; the registrar uses nothing of it but the key.
pub(crate) fn signing_request(key: &KeyPair, domain: &str) -> Result<Vec<u8>, ServiceError> {
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(internal)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, domain);
    Ok(params.serialize_request(key).map_err(internal)?.der().to_vec())
}

/// Parses a signing request and checks its proof of possession.
pub(crate) fn parse_request(der: &[u8]) -> Result<rcgen::PublicKey, ServiceError> {
    if der.len() > 8192 {
        return Err(ServiceError::invalid("csr", "longer than 8192 bytes"));
    }
    let request = CertificateSigningRequestParams::from_der(&der.to_vec().into()).map_err(|error| {
        ServiceError::invalid("csr", format!("{error}; send a PKCS #10 request signed by its own key"))
    })?;
    Ok(request.public_key)
}

/// SHA-256 of the SubjectPublicKeyInfo of a parsed request's key.
pub(crate) fn request_key_digest(key: &rcgen::PublicKey) -> Digest {
    Digest::sha256(&key.subject_public_key_info())
}

/// Reads what a certificate claims. Its chain has to be checked elsewhere.
pub(crate) fn claims(der: &[u8]) -> Result<Claims, String> {
    let (rest, certificate) = X509Certificate::from_der(der)
        .map_err(|error| format!("the certificate cannot be parsed: {error}"))?;
    if !rest.is_empty() {
        return Err("bytes follow the certificate".to_owned());
    }
    let subject = certificate.subject();
    let only = |mut found: Box<dyn Iterator<Item = Result<&str, _>> + '_>, what: &str| match (
        found.next(),
        found.next(),
    ) {
        (Some(Ok(text)), None) => Ok(text.to_owned()),
        (Some(Err::<_, x509_parser::error::X509Error>(_)), _) => Err(format!("the {what} is not text")),
        (None, _) => Err(format!("the certificate has no {what}")),
        (Some(Ok(_)), Some(_)) => Err(format!("the certificate has more than one {what}")),
    };
    let common_name =
        only(Box::new(subject.iter_common_name().map(|attribute| attribute.as_str())), "common name (CN)")?;
    let unit = only(
        Box::new(subject.iter_organizational_unit().map(|attribute| attribute.as_str())),
        "organisational unit (OU)",
    )?;
    let oid = x509_parser::oid_registry::Oid::new(CREDENTIAL_EXTENSION_DER.into());
    let extension = certificate
        .get_extension_unique(&oid)
        .map_err(|_| "the credential extension appears twice".to_owned())?
        .ok_or_else(|| "the certificate carries no credential statement".to_owned())?;
    let statement = read_octet_string(extension.value)
        .ok_or_else(|| "the credential extension is not an OCTET STRING".to_owned())?
        .to_vec();
    Ok(Claims { common_name, unit, key: Digest::sha256(certificate.public_key().raw), statement })
}

const YEAR_MILLIS: u64 = 365 * 24 * 3600 * 1000;
/// Certificates begin a little in the past so that a peer's slower clock accepts them.
pub(crate) const CLOCK_SLACK_MILLIS: u64 = 300_000;

fn root_params(name: &str, node: &NodeId) -> Result<CertificateParams, ServiceError> {
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(internal)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{name} root"));
    params.distinguished_name.push(DnType::OrganizationalUnitName, node.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn date(millis: u64) -> Result<OffsetDateTime, ServiceError> {
    i64::try_from(millis / 1000)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| ServiceError::Internal("a validity date is out of range".to_owned()))
}

/// DER OCTET STRING (X.690 clause 8.7) of at most 65,535 bytes.
fn octet_string(content: &[u8]) -> Vec<u8> {
    let mut out = vec![0x04];
    match content.len() {
        length @ 0..=0x7f => out.push(length as u8),
        length @ 0x80..=0xff => out.extend([0x81, length as u8]),
        length => {
            out.push(0x82);
            out.extend((length as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

fn read_octet_string(der: &[u8]) -> Option<&[u8]> {
    let (tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, content) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
        _ => return None,
    };
    (*tag == 0x04 && content.len() == length).then_some(content)
}

fn internal(error: rcgen::Error) -> ServiceError {
    ServiceError::Internal(format!("certificate: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octet_strings_round_trip_at_every_length_form() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff] {
            let content = vec![7; length];
            assert_eq!(
                read_octet_string(&octet_string(&content)),
                Some(content.as_slice()),
                "{length} bytes"
            );
        }
        for bad in [&[][..], &[4], &[4, 1], &[4, 0, 0], &[5, 0], &[4, 0x81], &[4, 0x83, 0, 0, 0]] {
            assert_eq!(read_octet_string(bad), None, "{bad:?}");
        }
    }
}
