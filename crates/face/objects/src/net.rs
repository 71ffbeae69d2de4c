//! Connections to servers: who is trusted, how long one waits, how often one tries.

use std::future::Future;
use std::io;
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
    tries: u32,
    pause: Duration,
}

impl Net {
    /// `ca_certificate` is PEM, or `None` for the public authorities.
    pub(crate) fn new(ca_certificate: Option<&[u8]>, settings: &Settings) -> Result<Self, ObjectError> {
        let dialer = Dialer {
            tls: Arc::new(client_config(roots(ca_certificate)?)?),
            connect: settings.connect_timeout,
            idle: settings.idle_timeout,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(SPARE_TIME)
            .pool_max_idle_per_host(SPARE_CONNECTIONS)
            .build(dialer);
        Ok(Self { client, tries: settings.tries.max(1), pause: settings.pause })
    }

    /// One request, one answer. Any answer at all is a success here.
    pub(crate) async fn send(
        &self,
        at: &Location,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        self.client.request(request).await.map_err(|error| match bottom(&error) {
            Bottom::Certificate(reason) => {
                let reason =
                    format!("the server's certificate is not trusted ({reason}); check ca_certificate");
                ObjectError::unusable(at, reason).into()
            }
            Bottom::Other(reason) => Failure::Again(reason),
        })
    }

    /// Tries until it succeeds, fails for good, or has failed often enough.
    pub(crate) async fn tried<T, R>(
        &self,
        at: &Location,
        mut run: impl FnMut() -> R,
    ) -> Result<T, ObjectError>
    where
        R: Future<Output = Result<T, Failure>>,
    {
        let mut patience = self.patience();
        loop {
            match run().await {
                Ok(value) => return Ok(value),
                Err(failure) => patience.after(at, failure).await?,
            }
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience { left: self.tries, pause: self.pause }
    }
}

/// How many more tries there are.
pub(crate) struct Patience {
    left: u32,
    pause: Duration,
}

impl Patience {
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
        Bottom::Certificate(reason) | Bottom::Other(reason) => reason,
    }
}

enum Bottom {
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
        let stream =
            TcpStream::connect((host, uri.port_u16().unwrap_or(if secure { 443 } else { 80 }))).await?;
        stream.set_nodelay(true)?;
        if !secure {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?))
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
