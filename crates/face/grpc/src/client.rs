//! Other nodes, as this node reaches them.

mod admin;
mod channels;
mod enrolment;
pub(crate) mod exchange;
mod ledgers;
mod peers;
mod threads;
mod windows;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use huitong_ids::NodeId;
use huitong_proof::Digest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

pub use admin::{AdminClient, admin_client};
pub use channels::{Clocks, Peers};
pub use enrolment::EnrolmentClient;
pub use threads::Threads;

/// Largest HTTP/2 frame that we take.
const MAX_FRAME_BYTES: u32 = 256 << 10;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until the response begins; a stream may go on for as long as it likes.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A signed refusal of at most 16 KiB travels in a header field, in base64, beside its reason.
const MAX_HEADER_BYTES: u32 = 64 << 10;
/// Names the scheme and satisfies HTTP; who is at the other end is the dialler's business.
const URI: &str = "http://node.huitong.invalid";

/// A connection's two directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens connections to other nodes. The node implements it over mutual TLS.
#[async_trait]
pub trait Dial: Send + Sync {
    /// Connects to `host:port` with this node's certificate, and fails unless the other side proves to be `expect`.
    async fn dial(&self, address: &str, expect: &NodeId, load: Load) -> io::Result<Box<dyn Stream>>;

    /// Connects to `host:port` without a certificate of our own, and fails unless the other side's chain ends in the
    /// root certificate with this SHA-256.
    async fn dial_pinned(&self, address: &str, root: &Digest) -> io::Result<Box<dyn Stream>>;
}

/// What comes over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Answers to calls, and content of little size.
    Answers,
    /// The content of a transfer, as fast as the line gives it.
    Content,
}

/// Whom a connection is for.
#[derive(Clone)]
enum Target {
    Node(NodeId, Load),
    Pinned(Digest),
}

/// Short calls, and streams of small messages.
fn control_endpoint() -> Endpoint {
    Endpoint::from_static(URI)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
}

/// Exchanges, with so many bytes that may come unread.
fn exchange_endpoint(window: u32) -> Endpoint {
    control_endpoint()
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .max_frame_size(MAX_FRAME_BYTES)
}

/// A channel that dials when it is first used, and again after its connection was lost.
fn channel(endpoint: &Endpoint, dial: Arc<dyn Dial>, address: String, target: Target) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let (dial, address, target) = (Arc::clone(&dial), address.clone(), target.clone());
        async move {
            let stream = match &target {
                Target::Node(node, load) => dial.dial(&address, node, *load).await?,
                Target::Pinned(root) => dial.dial_pinned(&address, root).await?,
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    endpoint.connect_with_connector_lazy(connector)
}
