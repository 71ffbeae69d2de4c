//! The servers of one node: gRPC for nodes and strangers, the operators' socket, plain HTTP.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use crate::admin::AdminSocket;
use crate::http::{BoundedListener, Observed};
use crate::listener::{Bounds, Connections, Secured, listen};
use crate::metrics::{CountCalls, Metrics};

const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Until a response begins, the request's last byte included. Our own callers wait for 20 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests are small: what other nodes may send before it is read, which bounds the memory of a connection. What a
/// provider sends goes through its client's windows.
pub(crate) const PEERS: Flow =
    Flow { streams: 64, stream_window: 256 << 10, connection_window: 1 << 20, headers: 64 << 10 };
/// An enrolment is one request of a few KiB from somebody unknown.
pub(crate) const STRANGERS: Flow =
    Flow { streams: 2, stream_window: 64 << 10, connection_window: 64 << 10, headers: 16 << 10 };

/// What one connection may have under way.
pub(crate) struct Flow {
    streams: u32,
    /// Bytes that are not read yet, of one stream.
    stream_window: u32,
    /// The same of all streams.
    connection_window: u32,
    /// Bytes of one request's header fields.
    headers: u32,
}

/// Starts the servers of one node.
pub(crate) struct Serving {
    pub(crate) servers: TaskTracker,
    pub(crate) bounds: Bounds,
    pub(crate) metrics: Metrics,
    pub(crate) accepting: CancellationToken,
    pub(crate) close: CancellationToken,
    pub(crate) calls: Vec<CountCalls>,
}

impl Serving {
    pub(crate) fn listen<A: crate::listener::Admit>(
        &self,
        listener: TcpListener,
        config: Arc<rustls::ServerConfig>,
        admit: A,
    ) -> mpsc::Receiver<std::io::Result<Secured<A::Info>>> {
        let (accepting, close) = (self.accepting.clone(), self.close.clone());
        listen(listener, config, admit, self.bounds, self.metrics.clone(), accepting, close)
    }

    pub(crate) fn grpc<I: Clone + Send + Sync + Unpin + 'static>(
        &mut self,
        name: &'static str,
        flow: Flow,
        routes: tonic::service::Routes,
        connections: mpsc::Receiver<std::io::Result<Secured<I>>>,
        registry: Option<Connections>,
    ) {
        let calls = CountCalls::new(name, self.metrics.clone(), registry);
        self.calls.push(calls.clone());
        let accepting = self.accepting.clone();
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .initial_stream_window_size(flow.stream_window)
            .initial_connection_window_size(flow.connection_window)
            .max_concurrent_streams(flow.streams)
            .http2_max_header_list_size(flow.headers)
            .timeout(REQUEST_TIMEOUT)
            .layer(calls)
            .serve_with_incoming_shutdown(
                routes.prepare(),
                ReceiverStream::new(connections),
                accepting.cancelled_owned(),
            );
        self.servers.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(listener = name, %error, "the server ended");
            }
        });
    }

    /// Operators' connections are not waited for: their streams go on until the operator has seen enough.
    pub(crate) fn admin(
        &self,
        routes: tonic::service::Routes,
        connections: impl futures_util::Stream<Item = std::io::Result<tokio::net::UnixStream>> + Send + 'static,
        socket: AdminSocket,
    ) {
        let close = self.close.clone();
        let server = Server::builder()
            .layer(CountCalls::new("admin", self.metrics.clone(), None))
            .serve_with_incoming(routes.prepare(), Box::pin(connections));
        self.servers.spawn(async move {
            let _socket = socket;
            tokio::select! {
                () = close.cancelled() => {}
                ended = server => if let Err(error) = ended {
                    tracing::error!(listener = "admin", %error, "the server ended");
                }
            }
        });
    }

    /// Answers until the very end, so that the drain can be watched.
    pub(crate) fn http(&self, listener: TcpListener, observed: Observed) {
        let close = self.close.clone();
        self.servers.spawn(async move {
            tokio::select! {
                () = close.cancelled() => {}
                ended = axum::serve(BoundedListener::new(listener), crate::http::router(observed)).into_future() => {
                    if let Err(error) = ended {
                        tracing::error!(listener = "http", %error, "the server ended");
                    }
                }
            }
        });
    }
}
