//! Accepting connections: bounded in number, each handshake in its own task and in bounded time.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use huitong_grpc::PeerConnection;
use huitong_identity::{AuthenticationError, Caller, Standing};
use huitong_ids::NodeId;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::metrics::{Counted, Metrics};
use crate::tls::{SENT_AT_ONCE, Tls, prepare, refusal_word};

/// Connections that have shaken hands and wait for the server to take them.
const READY_QUEUE: usize = 64;
/// Pause after the operating system refused to accept, most often because no file descriptor is left.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that has said nothing in HTTP/2 is not yet watched over by its keep-alive.
const PREFACE_BYTES: usize = 24;
/// How long a stranger's connection lasts at most: an enrolment is one call.
const STRANGER_LIFETIME: Duration = Duration::from_secs(30);
/// Lines about refused connections in each [`LOG_PERIOD`]: strangers must not be able to fill a log.
const MOST_LINES: u32 = 20;
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// How a listener behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) connections: usize,
    pub(crate) per_address: usize,
    pub(crate) handshake_timeout: Duration,
}

/// Decides what a completed handshake is worth.
pub(crate) trait Admit: Clone + Send + Sync + 'static {
    /// What requests of the connection carry in their extensions.
    type Info: Clone + Send + Sync + 'static;
    /// The connection's information, or why it is closed; `close` ends it later.
    fn admit(
        &self,
        remote: SocketAddr,
        chain: Option<&[CertificateDer<'_>]>,
        close: &CancellationToken,
    ) -> io::Result<Self::Info>;
    /// Called once for each connection that is handed to the server; `close` ends it.
    fn opened(&self, info: &Self::Info, close: &CancellationToken) -> Option<OpenConnection>;
    /// The longest that any connection lasts; `None` sets no end to one that has begun to speak.
    fn lifetime(&self) -> Option<Duration>;
    /// The word for metrics.
    fn name(&self) -> &'static str;
}

/// Runs until `stop`; connections that were handed out live on.
pub(crate) fn listen<A: Admit>(
    tcp: TcpListener,
    config: Arc<ServerConfig>,
    admit: A,
    bounds: Bounds,
    metrics: Metrics,
    stop: CancellationToken,
    close_all: CancellationToken,
) -> mpsc::Receiver<io::Result<Secured<A::Info>>> {
    let (ready, connections) = mpsc::channel(READY_QUEUE);
    let listening = Listening {
        acceptor: TlsAcceptor::from(config),
        admit,
        slots: Arc::new(Slots { counts: Mutex::default(), bounds }),
        metrics,
        ready,
        close_all,
        lines: Arc::default(),
    };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = listening.accept(tcp) => {}
        }
    });
    connections
}

/// Admits enrolled nodes.
#[derive(Clone)]
pub(crate) struct AdmitPeers {
    tls: Tls,
    registry: Connections,
    most_per_node: usize,
}

impl AdmitPeers {
    /// `most_per_node`: open connections of one node, from whichever addresses.
    pub(crate) fn new(tls: Tls, registry: Connections, most_per_node: usize) -> Self {
        Self { tls, registry, most_per_node }
    }
}

impl Admit for AdmitPeers {
    type Info = PeerConnection;

    fn admit(
        &self,
        remote: SocketAddr,
        chain: Option<&[CertificateDer<'_>]>,
        close: &CancellationToken,
    ) -> io::Result<PeerConnection> {
        let caller =
            self.tls.caller(chain).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if self.registry.count_of(caller.node()) >= self.most_per_node {
            let reason =
                format!("node {} has as many connections open as it may, see [limits]", caller.node());
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, reason));
        }
        Ok(PeerConnection { caller, remote, close: close.clone() })
    }

    fn opened(&self, info: &PeerConnection, close: &CancellationToken) -> Option<OpenConnection> {
        Some(self.registry.open(info, close.clone()))
    }

    fn lifetime(&self) -> Option<Duration> {
        None
    }

    fn name(&self) -> &'static str {
        "peers"
    }
}

/// What requests on the enrolment listener carry: nothing but where they come from.
#[derive(Debug, Clone)]
pub(crate) struct Stranger;

/// Admits anybody; the invite decides.
#[derive(Debug, Clone)]
pub(crate) struct AdmitStrangers;

impl Admit for AdmitStrangers {
    type Info = Stranger;

    fn admit(
        &self,
        _remote: SocketAddr,
        _chain: Option<&[CertificateDer<'_>]>,
        _close: &CancellationToken,
    ) -> io::Result<Stranger> {
        Ok(Stranger)
    }

    fn opened(&self, _info: &Stranger, _close: &CancellationToken) -> Option<OpenConnection> {
        None
    }

    fn lifetime(&self) -> Option<Duration> {
        Some(STRANGER_LIFETIME)
    }

    fn name(&self) -> &'static str {
        "enrolment"
    }
}

/// The open connections of authenticated nodes, so that a revocation ends them and a drain knows what it waits for.
#[derive(Clone)]
pub(crate) struct Connections {
    /// By number: an address comes again before everything of the connection before is gone.
    open: Arc<Mutex<HashMap<u64, Open>>>,
    opened: Arc<AtomicU64>,
    changed: watch::Sender<u64>,
    arrivals: broadcast::Sender<NodeId>,
}

struct Open {
    caller: Caller,
    remote: SocketAddr,
    close: CancellationToken,
    /// Carries a stream that ends only with the connection.
    endless: bool,
}

/// Registration of one open connection; dropping it takes the connection off the list.
pub(crate) struct OpenConnection {
    registry: Connections,
    number: u64,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.registry.table().remove(&self.number);
        self.registry.touch();
    }
}

impl Connections {
    /// Nodes that connect are named on `arrivals`: who calls us can be called again.
    pub(crate) fn new(arrivals: broadcast::Sender<NodeId>) -> Self {
        Self { open: Arc::default(), opened: Arc::default(), changed: watch::Sender::new(0), arrivals }
    }

    fn open(&self, connection: &PeerConnection, close: CancellationToken) -> OpenConnection {
        let PeerConnection { caller, remote, .. } = connection;
        // Whoever misses it loses nothing but a shorter wait.
        let _ = self.arrivals.send(caller.node().clone());
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let open = Open { caller: caller.clone(), remote: *remote, close, endless: false };
        self.table().insert(number, open);
        OpenConnection { registry: self.clone(), number }
    }

    /// The connection from `remote` carries a stream that does not end by itself.
    pub(crate) fn mark_endless(&self, remote: &SocketAddr) {
        for open in self.table().values_mut().filter(|open| open.remote == *remote) {
            open.endless = true;
        }
        // Whoever waits for the others to end has one less to wait for.
        self.touch();
    }

    /// Ends the connections of nodes that no longer count; returns how many.
    pub(crate) fn end_revoked(&self, standing: &Standing) -> usize {
        let now = standing.ledger.clock().now();
        let mut ended = 0;
        for open in self.table().values() {
            let verdict = standing.directory.recheck(&open.caller, now);
            // Stale lists close nothing: each request is refused by itself until the registrar is heard again.
            if matches!(
                verdict,
                Err(AuthenticationError::Revoked { .. } | AuthenticationError::NotValidNow { .. })
            ) && !open.close.is_cancelled()
            {
                open.close.cancel();
                ended += 1;
            }
        }
        ended
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }

    fn count_of(&self, node: &NodeId) -> usize {
        self.table().values().filter(|open| open.caller.node() == node).count()
    }

    /// Waits until no connection is left but those that would never end.
    pub(crate) async fn drained(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if self.table().values().all(|open| open.endless) {
                return;
            }
            // The sender lives in `self`.
            let _ = changed.changed().await;
        }
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that has shaken hands.
pub(crate) struct Secured<I, S = TlsStream<TcpStream>> {
    stream: Counted<S>,
    info: I,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    patience: Option<Patience>,
    _open: Option<OpenConnection>,
    _slot: Slot,
}

/// When a connection ends by itself.
struct Patience {
    over: Pin<Box<Sleep>>,
    /// Bytes that make up for it; `None` when nothing does.
    wanted: Option<usize>,
}

impl Patience {
    fn new(lifetime: Option<Duration>, handshake_timeout: Duration) -> Self {
        let (after, wanted) = match lifetime {
            Some(lifetime) => (lifetime, None),
            None => (handshake_timeout, Some(PREFACE_BYTES)),
        };
        Self { over: Box::pin(tokio::time::sleep(after)), wanted }
    }
}

impl<I, S> Secured<I, S> {
    /// An error once the connection is to end. Asked in whatever direction: while a peer takes nothing, HTTP/2 may only try to
    /// write.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the node on the other side is no longer accepted or reads nothing, or this node is stopping",
            ));
        }
        if self.patience.as_mut().is_some_and(|patience| patience.over.as_mut().poll(cx).is_ready()) {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the connection was open for as long as it may be",
            ));
        }
        Ok(())
    }
}

impl<I: Clone + Send + Sync + 'static> Connected for Secured<I> {
    type ConnectInfo = I;

    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

impl<I: Unpin, S: AsyncRead + Unpin> AsyncRead for Secured<I, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_over(cx)?;
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len().saturating_sub(before);
        if let Some(wanted) = self.patience.as_mut().and_then(|patience| patience.wanted.as_mut()) {
            *wanted = wanted.saturating_sub(read);
            if *wanted == 0 {
                self.patience = None;
            }
        }
        polled
    }
}

impl<I: Unpin, S: AsyncWrite + Unpin> AsyncWrite for Secured<I, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_over(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_over(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_over(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_over(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[derive(Clone)]
struct Listening<A: Admit> {
    acceptor: TlsAcceptor,
    admit: A,
    slots: Arc<Slots>,
    metrics: Metrics,
    ready: mpsc::Sender<io::Result<Secured<A::Info>>>,
    close_all: CancellationToken,
    lines: Arc<Lines>,
}

impl<A: Admit> Listening<A> {
    async fn accept(&self, tcp: TcpListener) {
        let listener = self.admit.name();
        loop {
            let (stream, remote) = match tcp.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(listener, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(slot) = Slots::take(&self.slots, remote.ip()) else {
                self.metrics.handshake_refused(listener, "too_many");
                if self.lines.one_more() {
                    tracing::warn!(listener, %remote, "connection closed: too many are open, see [limits]");
                }
                continue;
            };
            let this = self.clone();
            tokio::spawn(async move { this.shake_hands(stream, remote, slot).await });
        }
    }

    async fn shake_hands(self, stream: TcpStream, remote: SocketAddr, slot: Slot) {
        let listener = self.admit.name();
        let close = self.close_all.child_token();
        let handshake = async {
            prepare(&stream)?;
            let mut stream = self.acceptor.accept(stream).await?;
            stream.get_mut().1.set_buffer_limit(Some(SENT_AT_ONCE));
            let info = self.admit.admit(remote, stream.get_ref().1.peer_certificates(), &close)?;
            Ok::<_, io::Error>((stream, info))
        };
        let result = tokio::time::timeout(self.slots.bounds.handshake_timeout, handshake).await;
        let (stream, info) = match result {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => {
                let reason = refusal_word(&error);
                self.metrics.handshake_refused(listener, reason);
                if self.lines.one_more() {
                    tracing::info!(listener, %remote, reason, %error, "connection refused in the handshake");
                }
                return;
            }
            Err(_) => {
                self.metrics.handshake_refused(listener, "timeout");
                if self.lines.one_more() {
                    tracing::info!(listener, %remote, "connection closed: the handshake took too long");
                }
                return;
            }
        };
        self.metrics.connection_accepted(listener);
        let open = self.admit.opened(&info, &close);
        let stream = Counted::new(stream, &self.metrics);
        let patience = Patience::new(self.admit.lifetime(), self.slots.bounds.handshake_timeout);
        let closed = Box::pin(close.cancelled_owned());
        let secured = Secured { stream, info, closed, patience: Some(patience), _open: open, _slot: slot };
        // The server is gone when the node stops: then the connection ends here.
        let _ = self.ready.send(Ok(secured)).await;
    }
}

/// Counts log lines about connections that were refused.
#[derive(Default)]
struct Lines {
    /// When the present period began, and the lines in it.
    period: Mutex<Option<(Instant, u32)>>,
}

impl Lines {
    /// Whether there is room for one more line. The metrics count what is not written.
    fn one_more(&self) -> bool {
        self.one_more_at(Instant::now())
    }

    fn one_more_at(&self, now: Instant) -> bool {
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, lines) = period.filter(|(began, _)| now < *began + LOG_PERIOD).unwrap_or((now, 0));
        *period = Some((began, lines.saturating_add(1)));
        if lines == MOST_LINES {
            tracing::warn!(
                "more connections are refused than are logged; see huitong_handshakes_refused_total"
            );
        }
        lines < MOST_LINES
    }
}

struct Slots {
    counts: Mutex<Counts>,
    bounds: Bounds,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

struct Slot {
    slots: Arc<Slots>,
    address: IpAddr,
}

impl Slots {
    fn take(this: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let address = site(address);
        let mut counts = this.counts();
        let here = counts.by_address.get(&address).copied().unwrap_or(0);
        if counts.total >= this.bounds.connections || here >= this.bounds.per_address {
            return None;
        }
        counts.total += 1;
        counts.by_address.insert(address, here + 1);
        Some(Slot { slots: this.clone(), address })
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one address: whoever has one IPv6 address has the 2^64 around it (RFC 4291 section 2.5.1).
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address => address,
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.slots.counts();
        counts.total = counts.total.saturating_sub(1);
        if let Some(here) = counts.by_address.get_mut(&self.address) {
            *here = here.saturating_sub(1);
            if *here == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream};

    use super::*;

    #[test]
    fn connections_are_bounded_in_all_and_for_each_address() {
        let bounds = Bounds { connections: 3, per_address: 2, handshake_timeout: Duration::from_secs(1) };
        let open = Arc::new(Slots { counts: Mutex::default(), bounds });
        let (first, second) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let one = Slots::take(&open, first).unwrap();
        let two = Slots::take(&open, first).unwrap();
        assert!(Slots::take(&open, first).is_none(), "two from one address");
        let three = Slots::take(&open, second).unwrap();
        assert!(Slots::take(&open, second).is_none(), "three in all");
        drop(one);
        let four = Slots::take(&open, second).unwrap();
        drop((two, three, four));
        assert_eq!(open.counts().total, 0);
        assert!(open.counts().by_address.is_empty(), "no address is remembered");
    }

    #[tokio::test]
    async fn a_drain_notices_that_a_connection_became_endless() {
        let directory = tempfile::tempdir().unwrap();
        let network = huitong_identity::testing::network(directory.path()).await;
        let (arrivals, _named) = broadcast::channel(1);
        let connections = Connections::new(arrivals);
        let remote = SocketAddr::from(([127, 0, 0, 1], 1));
        let close = CancellationToken::new();
        let peer = PeerConnection { caller: network.provider.caller.clone(), remote, close };
        let open = connections.open(&peer, CancellationToken::new());
        let waiting = tokio::spawn({
            let connections = connections.clone();
            async move { connections.drained().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "an ordinary connection is waited for");
        connections.mark_endless(&remote);
        tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
        // The same address once more, before the first connection is gone.
        let again = connections.open(&peer, CancellationToken::new());
        drop(open);
        assert_eq!(connections.count(), 1);
        drop(again);
        assert_eq!(connections.count(), 0);
    }

    /// A connection whose peer reads nothing.
    fn stalled(
        close: &CancellationToken,
        lifetime: Option<Duration>,
    ) -> (Secured<(), DuplexStream>, DuplexStream) {
        let bounds = Bounds { connections: 1, per_address: 1, handshake_timeout: Duration::from_secs(600) };
        let slots = Arc::new(Slots { counts: Mutex::default(), bounds });
        let slot = Slots::take(&slots, IpAddr::from([127, 0, 0, 1])).unwrap();
        let (near, far) = tokio::io::duplex(16);
        let secured = Secured {
            stream: Counted::new(near, &Metrics::new()),
            info: (),
            closed: Box::pin(close.clone().cancelled_owned()),
            patience: Some(Patience::new(lifetime, bounds.handshake_timeout)),
            _open: None,
            _slot: slot,
        };
        (secured, far)
    }

    #[tokio::test]
    async fn a_connection_ends_although_its_peer_takes_nothing() {
        let close = CancellationToken::new();
        let (mut secured, _far) = stalled(&close, None);
        let writing = tokio::spawn(async move {
            let error = secured.write_all(&[7; 64]).await.unwrap_err();
            (error, secured)
        });
        tokio::task::yield_now().await;
        assert!(!writing.is_finished(), "there is no room for it");
        close.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(10), writing).await;
        let (error, mut secured) = ended.expect("it waits for its peer").unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        let slice = [io::IoSlice::new(&[7])];
        for error in [
            secured.write_vectored(&slice).await.unwrap_err(),
            secured.flush().await.unwrap_err(),
            secured.shutdown().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
    }

    #[tokio::test]
    async fn a_stranger_that_takes_nothing_has_its_time_and_no_more() {
        let (mut secured, _far) = stalled(&CancellationToken::new(), Some(Duration::from_millis(20)));
        let writing = tokio::time::timeout(Duration::from_secs(10), secured.write_all(&[7; 64])).await;
        let error = writing.expect("it waits for its peer").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_system_ends_a_connection_that_takes_nothing() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        for stream in [dialled, accepted] {
            prepare(&stream).unwrap();
            let patience = socket2::SockRef::from(&stream).tcp_user_timeout().unwrap();
            assert_eq!(patience, Some(crate::tls::UNACKNOWLEDGED));
            assert!(stream.nodelay().unwrap());
        }
    }

    #[test]
    fn an_ipv6_site_counts_as_one_address() {
        let parse = |text: &str| site(text.parse().unwrap());
        assert_eq!(parse("2001:db8:1:2:3::4"), parse("2001:db8:1:2::"));
        assert_ne!(parse("2001:db8:1:2::1"), parse("2001:db8:1:3::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), parse("192.0.2.1"));
        assert_ne!(parse("192.0.2.1"), parse("192.0.2.2"));
    }

    #[test]
    fn refusals_do_not_fill_the_log() {
        let (lines, now) = (Lines::default(), Instant::now());
        let written = |at| (0..1_000).filter(|_| lines.one_more_at(at)).count();
        assert_eq!(written(now), MOST_LINES as usize);
        assert_eq!(written(now + LOG_PERIOD / 2), 0);
        assert_eq!(written(now + LOG_PERIOD), MOST_LINES as usize);
    }
}
