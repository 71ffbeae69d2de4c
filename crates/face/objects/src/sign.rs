//! Signatures of requests: AWS Signature Version 4, in the `Authorization` header.

use std::time::SystemTime;

use hyper::HeaderMap;
use hyper::header::HeaderValue;
use jiff::Timestamp;
use ring::{digest, hmac};
use zeroize::Zeroizing;

/// Who signs, and for where.
pub(crate) struct Signer {
    pub(crate) region: String,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: Zeroizing<String>,
}

/// What is signed of a request: its path and query are percent-encoded, the query is sorted by name.
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    /// SHA-256 of the body.
    pub(crate) body: &'a digest::Digest,
}

impl Signer {
    /// Adds date, digest and signature to the headers; `host` and every `x-amz-` header there is are signed.
    pub(crate) fn sign(&self, now: SystemTime, request: &Signed<'_>, headers: &mut HeaderMap) -> Option<()> {
        let moment = Timestamp::try_from(now).ok()?.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = moment.get(..8)?;
        let body = hex::encode(request.body);
        headers.insert("x-amz-date", HeaderValue::from_str(&moment).ok()?);
        headers.insert("x-amz-content-sha256", HeaderValue::from_str(&body).ok()?);

        let mut names: Vec<&str> = headers
            .keys()
            .map(|name| name.as_str())
            .filter(|name| *name == "host" || name.starts_with("x-amz-"))
            .collect();
        names.sort_unstable();
        let mut canonical = format!("{}\n{}\n{}\n", request.method, request.path, request.query);
        for name in &names {
            let value = headers.get(*name)?.to_str().ok()?;
            canonical.push_str(&format!("{name}:{}\n", value.trim()));
        }
        let names = names.join(";");
        canonical.push_str(&format!("\n{names}\n{body}"));

        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let canonical = hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
        let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{canonical}");
        let secret = Zeroizing::new(format!("AWS4{}", self.secret_access_key.as_str()));
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        for step in [day, &self.region, "s3", "aws4_request"] {
            key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, step.as_bytes()).as_ref());
        }
        let signature = hex::encode(hmac::sign(&key, text.as_bytes()));
        let id = &self.access_key_id;
        let value =
            format!("AWS4-HMAC-SHA256 Credential={id}/{scope},SignedHeaders={names},Signature={signature}");
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        headers.insert("authorization", value);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The worked examples of the S3 documentation ("Signature Calculations for the Authorization Header").
    #[test]
    fn signatures_are_those_of_the_published_examples() {
        let signer = Signer {
            region: "us-east-1".to_owned(),
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: Zeroizing::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let empty = digest::digest(&digest::SHA256, b"");
        for (query, expected) in [
            ("lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            ("max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("host", HeaderValue::from_static("examplebucket.s3.amazonaws.com"));
            headers.insert("if-match", HeaderValue::from_static("\"not signed\""));
            let request = Signed { method: "GET", path: "/", query, body: &empty };
            signer.sign(now, &request, &mut headers).unwrap();
            let value = headers["authorization"].to_str().unwrap();
            assert_eq!(
                value,
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
                     SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature={expected}"
                )
            );
        }
    }
}
