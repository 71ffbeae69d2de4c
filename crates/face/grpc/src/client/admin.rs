//! A node's own operator, at its admin socket.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::proto::admin::admin_service_client::AdminServiceClient;

/// The generated client of the admin interface.
pub type AdminClient = AdminServiceClient<Channel>;

/// A receipt with its proofs can be larger than gRPC's usual 4 MiB.
const LARGEST_ANSWER: usize = 64 << 20;

/// A client of this admin socket. It connects when it is first used, and again after its connection was lost.
pub fn admin_client(socket: &Path) -> AdminClient {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is for the HTTP/2 header only; the connector knows where to go.
    let channel = Endpoint::from_static("http://admin.localhost").connect_with_connector_lazy(connector);
    AdminServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER)
}
