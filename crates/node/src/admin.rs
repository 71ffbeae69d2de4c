//! The operators' unix socket: only the node's own user, and root, can open it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt as _};

/// A bound socket; the file is removed when this is dropped.
pub(crate) struct AdminSocket {
    listener: Option<UnixListener>,
    path: PathBuf,
}

impl AdminSocket {
    /// Binds `path` with mode 0600, making its directory with mode 0700 when it is missing. A socket file that nobody
    /// answers on is what a killed node left behind, and is replaced.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        remove_stale(path)?;
        // Bound in a private directory and then moved: at no moment can anybody else open it.
        let private = directory.join(format!(".admin-{}", std::process::id()));
        let _ = fs::remove_dir_all(&private);
        fs::DirBuilder::new().mode(0o700).create(&private)?;
        let draft = private.join("s");
        let bound = UnixListener::bind(&draft).and_then(|listener| {
            fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
            fs::rename(&draft, path)?;
            Ok(listener)
        });
        let _ = fs::remove_dir_all(&private);
        Ok(Self { listener: Some(bound?), path: path.to_owned() })
    }

    /// The connections of operators.
    pub(crate) fn connections(
        &mut self,
    ) -> impl Stream<Item = io::Result<impl AsyncRead + AsyncWrite + tonic::transport::server::Connected + Unpin + Send + 'static>>
    + Send
    + 'static {
        let own = rustix::process::geteuid().as_raw();
        let listener = self.listener.take().map(UnixListenerStream::new);
        tokio_stream::iter(listener).flat_map_unbounded(own)
    }
}
