//! What the operator says about buckets and web servers.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

/// One S3 bucket, and the credentials for it.
#[derive(Clone)]
pub struct Bucket {
    /// Its name, as in `s3://name/`.
    pub name: String,
    /// `https://host[:port]` of the server; `None` is AWS in the bucket's region.
    pub endpoint: Option<String>,
    /// What the server calls its region; `us-east-1` where it has none.
    pub region: String,
    /// Whether the bucket stands in the path, as servers that one runs oneself expect, and not in the host name, as AWS
    /// and the other public clouds do.
    pub path_style: bool,
    /// The access key's id.
    pub access_key_id: String,
    /// The access key itself.
    pub secret_access_key: Zeroizing<String>,
    /// Whether the endpoint may be `http://`, where whoever is on the line reads along.
    pub allow_http: bool,
    /// PEM of the certificates that the server's must end in; `None` trusts the public authorities.
    pub ca_certificate: Option<Vec<u8>>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Bucket")
            .field("name", &self.name)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// The time, by which requests are signed.
pub type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How servers are spoken to. Something is unavailable after `tries` tries, and after `request_timeout` at the latest.
#[derive(Clone)]
pub struct Settings {
    /// Whether locations may be `http://`.
    pub allow_http: bool,
    /// PEM of the certificates that a web server's must end in; `None` trusts the public authorities.
    pub ca_certificate: Option<Vec<u8>>,
    /// For the name, the connection and the TLS handshake together.
    pub connect_timeout: Duration,
    /// How long nothing at all may come or go on a connection while something is waited for.
    pub idle_timeout: Duration,
    /// How long a request may take in all, with all its tries; one that moves content, as long for each MiB begun. Less than the
    /// 60 seconds after which a consumer to whom nothing comes gives up an exchange.
    pub request_timeout: Duration,
    /// How often a request is tried.
    pub tries: u32,
    /// The pause after the first try; it doubles each time, up to 5 seconds.
    pub pause: Duration,
    /// The time, by which requests are signed.
    pub now: Now,
}

impl Settings {
    /// HTTPS only, 10 seconds to connect, 30 seconds of silence, 45 seconds in all, 6 tries.
    #[must_use]
    pub fn new(now: Now) -> Self {
        Self {
            allow_http: false,
            ca_certificate: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(45),
            tries: 6,
            pause: Duration::from_millis(250),
            now,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("allow_http", &self.allow_http)
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("tries", &self.tries)
            .finish_non_exhaustive()
    }
}
