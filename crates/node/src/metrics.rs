//! What the node counts. Each node has its own recorder, so that several nodes in one process stay apart.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use huitong_grpc::PeerConnection;
use metrics::{counter, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tower::Layer;

use crate::listener::Connections;

/// Streams that end only with their connection: a stopping node does not wait for them.
const ENDLESS: [&str; 3] = ["/FollowTrust", "/Watch", "/ServerReflectionInfo"];
/// Paths that are answered without gRPC begin like this.
const LEDGER_FILES: &str = "log/";

/// Counters and gauges of one node. Clones share them.
#[derive(Clone)]
pub(crate) struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    traffic: Arc<Traffic>,
}

#[derive(Default)]
struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        Self { recorder: Arc::new(recorder), handle, traffic: Arc::default() }
    }

    pub(crate) fn connection_accepted(&self, listener: &'static str) {
        self.record(|| counter!("huitong_connections_accepted_total", "listener" => listener).increment(1));
    }

    pub(crate) fn handshake_refused(&self, listener: &'static str, reason: &'static str) {
        self.record(|| {
            counter!("huitong_handshakes_refused_total", "listener" => listener, "reason" => reason)
                .increment(1);
        });
    }

    pub(crate) fn worker_failed(&self, worker: &'static str) {
        self.record(|| counter!("huitong_worker_failures_total", "worker" => worker).increment(1));
    }

    fn call(&self, listener: &'static str, method: String, code: String) {
        self.record(|| {
            counter!("huitong_rpc_total", "listener" => listener, "method" => method, "code" => code)
                .increment(1);
        });
    }

    /// Sets gauges; `set` uses the `metrics` macros.
    pub(crate) fn record(&self, set: impl FnOnce()) {
        with_local_recorder(&*self.recorder, set);
    }

    /// Everything in the Prometheus text format.
    pub(crate) fn render(&self) -> String {
        let traffic = &self.traffic;
        self.record(|| {
            counter!("huitong_bytes_received_total").absolute(traffic.received.load(Ordering::Relaxed));
            counter!("huitong_bytes_sent_total").absolute(traffic.sent.load(Ordering::Relaxed));
            gauge!("huitong_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        });
        self.handle.run_upkeep();
        self.handle.render()
    }
}

/// A connection to or from another node whose content bytes are counted.
pub(crate) struct Counted<S> {
    stream: S,
    traffic: Arc<Traffic>,
}

impl<S> Counted<S> {
    pub(crate) fn new(stream: S, metrics: &Metrics) -> Self {
        Self { stream, traffic: metrics.traffic.clone() }
    }
}

fn add(total: &AtomicU64, bytes: usize) {
    total.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        add(&self.traffic.received, buf.filled().len().saturating_sub(before));
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = &polled {
            add(&self.traffic.sent, *bytes);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(bytes)) = &polled {
            add(&self.traffic.sent, *bytes);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Counts the calls of one listener by method and by the code with which they were answered; a stream counts with the
/// code it began with.
#[derive(Clone)]
pub(crate) struct CountCalls {
    listener: &'static str,
    metrics: Metrics,
    connections: Option<Connections>,
    running: watch::Sender<u64>,
}

impl CountCalls {
    /// `connections`: where endless streams are marked.
    pub(crate) fn new(listener: &'static str, metrics: Metrics, connections: Option<Connections>) -> Self {
        Self { listener, metrics, connections, running: watch::Sender::new(0) }
    }

    /// Waits until no call is being answered.
    pub(crate) async fn idle(&self) {
        // The sender lives in `self`.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }
}

impl<S> Layer<S> for CountCalls {
    type Service = CountedCalls<S>;

    fn layer(&self, inner: S) -> CountedCalls<S> {
        CountedCalls { inner, counts: self.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct CountedCalls<S> {
    inner: S,
    counts: CountCalls,
}

impl<S> Service<http::Request<Body>> for CountedCalls<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let counts = self.counts.clone();
        let method = request.uri().path().trim_start_matches('/').to_owned();
        if ENDLESS.iter().any(|endless| request.uri().path().ends_with(endless)) {
            counts.mark_endless(request.extensions().get::<PeerConnection>().map(|peer| peer.remote));
        }
        let running = Running::new(counts.running.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            drop(running);
            // What does not exist gets one name, and so do the files of the ledger: a caller must not be able to invent
            // metrics.
            let (method, code) = match response.headers().get("grpc-status") {
                None if method.starts_with(LEDGER_FILES) => {
                    ("log".to_owned(), response.status().as_str().to_owned())
                }
                None => (method, format!("{:?}", Code::Ok)),
                Some(code) => match Code::from_bytes(code.as_bytes()) {
                    Code::Unimplemented => ("unknown".to_owned(), format!("{:?}", Code::Unimplemented)),
                    code => (method, format!("{code:?}")),
                },
            };
            counts.metrics.call(counts.listener, method, code);
            Ok(response)
        })
    }
}

impl CountCalls {
    fn mark_endless(&self, remote: Option<SocketAddr>) {
        if let (Some(connections), Some(remote)) = (&self.connections, remote) {
            connections.mark_endless(&remote);
        }
    }
}

/// One call that is being answered, also when its caller goes away.
struct Running(watch::Sender<u64>);

impl Running {
    fn new(running: watch::Sender<u64>) -> Self {
        running.send_modify(|count| *count = count.saturating_add(1));
        Self(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}
