//! The operators' unix socket: only the node's own user, and root, can open it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};

use futures_util::{Stream, StreamExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;

use crate::listener::ACCEPT_PAUSE;

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
        // Bound in a private directory and then moved: at no moment can anybody else open it. The draft's path is no
        // longer than that of `admin.sock`, so that both fit into a socket address.
        let private = directory.join(format!(".{}", std::process::id()));
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

    /// The connections of operators; another user's is closed. A connection that cannot be accepted is no end: the
    /// operator who comes to see why nothing works must get in as soon as it works again.
    pub(crate) fn connections(&mut self) -> impl Stream<Item = io::Result<UnixStream>> + Send + use<> {
        let own = rustix::process::geteuid().as_raw();
        // The file's mode already says so; a node whose files were given away by mistake still answers nobody else.
        let is_operator = move |stream: &UnixStream| {
            stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
        };
        tokio_stream::iter(self.listener.take()).map(UnixListenerStream::new).flatten().filter_map(
            move |accepted| async move {
                match accepted {
                    Ok(stream) => is_operator(&stream).then_some(Ok(stream)),
                    Err(error) => {
                        tracing::warn!(listener = "admin", %error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        None
                    }
                }
            },
        )
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Left behind it would only be found stale at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is not a socket is there"));
    }
    match BlockingStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers on it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_and_a_stale_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft stays behind");

        let second = AdminSocket::bind(&path).map(|_| ()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);

        drop(socket);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let _again = AdminSocket::bind(&path).unwrap();
    }

    #[tokio::test]
    async fn the_longest_path_that_can_be_connected_to_can_be_bound() {
        let directory = tempfile::tempdir().unwrap();
        let fill = 107 - "/admin.sock".len() - "/".len() - directory.path().as_os_str().len();
        let path = directory.path().join("d".repeat(fill)).join("admin.sock");
        let _socket = AdminSocket::bind(&path).unwrap();
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        fs::write(&path, "dear").unwrap();
        assert!(AdminSocket::bind(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"dear");
    }

    #[tokio::test]
    async fn the_own_user_is_let_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let mut socket = AdminSocket::bind(&path).unwrap();
        let mut connections = std::pin::pin!(socket.connections());
        let _client = UnixStream::connect(&path).await.unwrap();
        connections.next().await.unwrap().unwrap();
    }
}
