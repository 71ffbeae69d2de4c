//! Connections to servers: who is trusted, how long one waits, how often one tries.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsConnector;

use crate::error::Failure;
use crate::{Location, ObjectError, Settings};

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Among so many addresses of one host the time to connect is shared; further ones are tried in what the others leave.
const MOST_SHARES: u32 = 4;
/// Connections without a request that are kept to one server, and for how long.
const SPARE_CONNECTIONS: usize = 8;
const SPARE_TIME: Duration = Duration::from_secs(15);

/// The body of a request; its errors are those of the local file.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that lies in memory.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Sends requests to servers that certain certificates are trusted for.
#[derive(Clone)]
pub(crate) struct Net {
    client: Client<Dialer, Body>,
    /// The same for hosts that another host has named; with connections of its own.
    outside: Client<Dialer, Body>,
    tries: u32,
    pause: Duration,
    limit: Duration,
}

impl Net {
    /// `ca_certificate` is PEM, or `None` for the public authorities.
    pub(crate) fn new(ca_certificate: Option<&[u8]>, settings: &Settings) -> Result<Self, ObjectError> {
        let dialer = Dialer {
            tls: Arc::new(client_config(roots(ca_certificate)?)?),
            connect: settings.connect_timeout,
            idle: settings.idle_timeout,
            outside: false,
        };
        let client = |dialer| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(SPARE_TIME)
                .pool_max_idle_per_host(SPARE_CONNECTIONS)
                .build(dialer)
        };
        Ok(Self {
            outside: client(Dialer { outside: true, ..dialer.clone() }),
            client: client(dialer),
            tries: settings.tries.max(1),
            pause: settings.pause,
            limit: settings.request_timeout,
        })
    }

    /// One request, one answer. Any answer at all is a success here.
    pub(crate) async fn send(
        &self,
        at: &Location,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        sent(at, &self.client, request).await
    }

    /// The same to a host that a server has named, which must not lie inside: whoever runs that server cannot reach there.
    pub(crate) async fn send_outside(
        &self,
        at: &Location,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        sent(at, &self.outside, request).await
    }

    /// How long something may take in all in which as many bytes of content move; as a rule none do.
    pub(crate) fn limit(&self, bytes: u64) -> Duration {
        let mebibytes = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        self.limit.saturating_mul(mebibytes.max(1))
    }

    /// Tries until it succeeds, fails for good, has failed often enough, or takes too long.
    pub(crate) async fn tried<T, R>(&self, at: &Location, run: impl FnMut() -> R) -> Result<T, ObjectError>
    where
        R: Future<Output = Result<T, Failure>>,
    {
        self.tried_with(at, 0, run).await
    }

    /// The same for requests that move as many bytes of content.
    pub(crate) async fn tried_with<T, R>(
        &self,
        at: &Location,
        bytes: u64,
        mut run: impl FnMut() -> R,
    ) -> Result<T, ObjectError>
    where
        R: Future<Output = Result<T, Failure>>,
    {
        let mut patience = self.patience();
        let tries = async {
            loop {
                match run().await {
                    Ok(value) => return Ok(value),
                    Err(failure) => patience.after(at, failure).await?,
                }
            }
        };
        match tokio::time::timeout(self.limit(bytes), tries).await {
            Ok(outcome) => outcome,
            Err(_) => Err(patience.over(at)),
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience { left: self.tries, pause: self.pause, last: None }
    }
}

async fn sent(
    at: &Location,
    client: &Client<Dialer, Body>,
    request: Request<Body>,
) -> Result<Response<Incoming>, Failure> {
    client.request(request).await.map_err(|error| match bottom(&error) {
        Bottom::Inside => {
            let reason = "the server sends to an address inside this network, which is not followed; \
                              name the file's own URL";
            ObjectError::unusable(at, reason).into()
        }
        Bottom::Certificate(reason) => {
            let reason = format!("the server's certificate is not trusted ({reason}); check ca_certificate");
            ObjectError::unusable(at, reason).into()
        }
        Bottom::Other(reason) => Failure::Again(reason),
    })
}

/// How many more tries there are.
pub(crate) struct Patience {
    left: u32,
    pause: Duration,
    /// Why the last one came to nothing.
    last: Option<String>,
}

impl Patience {
    /// It has taken too long.
    pub(crate) fn over(self, at: &Location) -> ObjectError {
        let reason = self.last.unwrap_or_else(|| "it did not answer in full in time".to_owned());
        ObjectError::Unavailable { object: at.shown(), reason }
    }

    /// Waits until the next try, or says why there is none.
    pub(crate) async fn after(&mut self, at: &Location, failure: Failure) -> Result<(), ObjectError> {
        let reason = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Again(reason) => reason,
        };
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return Err(ObjectError::Unavailable { object: at.shown(), reason });
        }
        self.last = Some(reason);
        tokio::time::sleep(self.pause).await;
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// The whole body of an answer, which may be `most` bytes long.
pub(crate) async fn collect(at: &Location, body: Incoming, most: usize) -> Result<Bytes, Failure> {
    match Limited::new(body, most).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ObjectError::unusable(at, format!("the server's answer is longer than {most} bytes")).into())
        }
        Err(error) => Err(Failure::Again(cause(&*error))),
    }
}

/// Whether the same request may succeed a little later.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
}

/// What is at the bottom of an error. Nothing that was sent stands in it.
pub(crate) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    match bottom(error) {
        Bottom::Inside => Inside.to_string(),
        Bottom::Certificate(reason) | Bottom::Other(reason) => reason,
    }
}

/// A host outside was expected, and its addresses are none of the public ones.
#[derive(Debug, thiserror::Error)]
#[error("the address lies inside this network")]
struct Inside;

/// Whether an address belongs to this machine, this network, or to nobody: nothing a server outside may send us to.
fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || first == 0
                // Shared by the customers of a provider.
                || (first == 100 && (64..128).contains(&second))
        }
        IpAddr::V6(address) => {
            let segments = address.segments();
            let [.., high, low] = segments;
            // An address of version 4 in other clothes: mapped, or behind a translator.
            let is_translated = matches!(segments, [0x64, 0xff9b, 0, 0, 0, 0, ..]);
            let inner = address
                .to_ipv4()
                .or_else(|| is_translated.then(|| (u32::from(high) << 16 | u32::from(low)).into()));
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                || inner.is_some_and(|inner| is_inside(inner.into()))
        }
    }
}

enum Bottom {
    /// Where nobody may be sent.
    Inside,
    /// The other side is not who it should be.
    Certificate(String),
    Other(String),
}

fn bottom(error: &(dyn std::error::Error + 'static)) -> Bottom {
    let mut last = error;
    loop {
        // An I/O error gives what is inside it only when it is asked for that.
        let inside = last.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        let inside = inside.map(|inside| inside as &(dyn std::error::Error + 'static));
        let Some(next) = inside.or_else(|| last.source()) else { break };
        last = next;
    }
    if last.is::<Inside>() {
        return Bottom::Inside;
    }
    match last.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(reason)) => Bottom::Certificate(reason.to_string()),
        _ => Bottom::Other(last.to_string()),
    }
}

fn roots(ca_certificate: Option<&[u8]>) -> Result<RootCertStore, ObjectError> {
    let Some(pem) = ca_certificate else {
        return Ok(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect());
    };
    let invalid = |reason: String| ObjectError::invalid("ca_certificate", reason);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| invalid(format!("no PEM: {error}")))?;
        roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(invalid("no certificate in it; expected PEM".to_owned()));
    }
    Ok(roots)
}

fn client_config(roots: RootCertStore) -> Result<ClientConfig, ObjectError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ObjectError::invalid("tls", error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Opens connections.
#[derive(Clone)]
struct Dialer {
    tls: Arc<ClientConfig>,
    connect: Duration,
    idle: Duration,
    /// Whether nothing inside may be reached.
    outside: bool,
}

impl Dialer {
    async fn dial(self, uri: Uri) -> io::Result<TokioIo<Watched>> {
        let stream = tokio::time::timeout(self.connect, self.open(&uri)).await;
        let stream = stream.map_err(|_| silent("the connection did not come about in time"))??;
        Ok(TokioIo::new(Watched {
            stream,
            idle: self.idle,
            alarm: Box::pin(tokio::time::sleep(self.idle)),
            waiting: false,
        }))
    }

    async fn open(&self, uri: &Uri) -> io::Result<Box<dyn Duplex>> {
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let secure = uri.scheme_str() == Some("https");
        let stream = self.connect(host, uri.port_u16().unwrap_or(if secure { 443 } else { 80 })).await?;
        stream.set_nodelay(true)?;
        if !secure {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?))
    }
}

impl Dialer {
    /// One address after the other: one that is silent does not take the time of all.
    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
        if self.outside {
            found.retain(|address| !is_inside(address.ip()));
            if found.is_empty() {
                return Err(io::Error::other(Inside));
            }
        }
        let share = self.connect / u32::try_from(found.len()).unwrap_or(MOST_SHARES).clamp(1, MOST_SHARES);
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in found {
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = silent("the connection did not come about in time"),
            }
        }
        Err(failed)
    }
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<Watched>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Watched>>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that breaks when something is waited for, and nothing comes or goes for too long.
struct Watched {
    stream: Box<dyn Duplex>,
    idle: Duration,
    alarm: Pin<Box<Sleep>>,
    /// Whether the alarm is set.
    waiting: bool,
}

impl Watched {
    /// `outcome` is what the stream says to reading or writing.
    fn watch<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waiting = false;
            return outcome;
        }
        if !self.waiting {
            self.waiting = true;
            self.alarm.as_mut().reset(Instant::now().checked_add(self.idle).unwrap_or_else(Instant::now));
        }
        ready!(self.alarm.as_mut().poll(context));
        Poll::Ready(Err(silent("nothing came or went for too long")))
    }
}

fn silent(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watch(context, outcome)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.watch(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connection for Watched {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_told_from_those_outside() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("172.16.0.1", true),
            ("192.168.1.1", true),
            ("169.254.169.254", true),
            ("100.64.0.1", true),
            ("100.127.255.255", true),
            ("0.0.0.0", true),
            ("224.0.0.1", true),
            ("255.255.255.255", true),
            ("::1", true),
            ("::", true),
            ("fe80::1", true),
            ("fd00::1", true),
            ("ff02::1", true),
            ("::ffff:127.0.0.1", true),
            ("64:ff9b::a00:1", true),
            ("100.128.0.1", false),
            ("172.32.0.1", false),
            ("8.8.8.8", false),
            ("2001:4860:4860::8888", false),
            ("::ffff:8.8.8.8", false),
            ("64:ff9b::808:808", false),
        ] {
            assert_eq!(is_inside(address.parse().unwrap()), expected, "{address}");
        }
    }
}
