//! The typed client of a node's admin socket. It goes on when the node goes away and comes back, because every
//! operation carries an id that makes its repetition harmless.

use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use huitong_grpc::proto::admin as api;
use huitong_grpc::{AdminClient, admin_client};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::{Code, Response, Status, Streaming};

use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// The generated client on the node's socket.
pub(crate) type Client = AdminClient;

/// How long a command waits for a node, or for the node behind it, to come back.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection to one node's admin socket.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    client: Client,
    socket: PathBuf,
    output: Output,
    patience: Duration,
}

impl Admin {
    /// Connects to the node that `--admin` or the configuration names. A node that does not answer is an error at once.
    pub(crate) async fn open(global: &Global, output: Output) -> Result<Self, Failure> {
        let admin = Self::of(global, output)?;
        admin.connect_once().await?;
        Ok(admin)
    }

    /// A client of the node that `--admin` or the configuration names, which need not run yet.
    pub(crate) fn of(global: &Global, output: Output) -> Result<Self, Failure> {
        Ok(Self::at(socket_of(global)?, output))
    }

    /// A client of this socket, which nobody needs to listen on yet.
    pub(crate) fn at(socket: PathBuf, output: Output) -> Self {
        let client = admin_client(&socket);
        Self { client, socket, output, patience: PATIENCE }
    }

    /// The same client, which gives up at the first failure.
    pub(crate) fn impatient(mut self) -> Self {
        self.patience = Duration::ZERO;
        self
    }

    /// The socket's path.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    async fn connect_once(&self) -> Result<(), Failure> {
        UnixStream::connect(&self.socket).await.map(drop).map_err(|error| not_running(&self.socket, &error))
    }

    /// One call, repeated while the node, or the node that it needs, is away.
    pub(crate) async fn call<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut waiting = Waiting::new(self);
        loop {
            match call(self.client.clone()).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => waiting.after(&status).await?,
            }
        }
    }

    /// Follows a stream until `each` breaks with a result. A stream that ends before that is opened again.
    pub(crate) async fn watch<T, R, F>(
        &self,
        open: impl Fn(Client) -> F,
        mut each: impl FnMut(T) -> ControlFlow<R>,
    ) -> Result<R, Failure>
    where
        F: Future<Output = Result<Response<Streaming<T>>, Status>>,
    {
        let mut waiting = Waiting::new(self);
        loop {
            let mut stream = match open(self.client.clone()).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => {
                    waiting.after(&status).await?;
                    continue;
                }
            };
            loop {
                match stream.message().await {
                    Ok(Some(message)) => {
                        waiting = Waiting::new(self);
                        if let ControlFlow::Break(result) = each(message) {
                            return Ok(result);
                        }
                    }
                    Ok(None) => break tokio::time::sleep(FIRST_PAUSE).await,
                    Err(status) => break waiting.after(&status).await?,
                }
            }
        }
    }

    /// Follows a stream that must not be opened twice, to its end; gives its last message.
    pub(crate) async fn follow<T, F>(
        &self,
        open: impl Fn(Client) -> F,
        mut each: impl FnMut(&T),
    ) -> Result<Option<T>, Failure>
    where
        F: Future<Output = Result<Response<Streaming<T>>, Status>>,
    {
        let mut stream = self.call(open).await?;
        let mut last = None;
        while let Some(message) = stream.message().await.map_err(|status| Failure::from_status(&status))? {
            each(&message);
            last = Some(message);
        }
        Ok(last)
    }

    /// The node's own account of itself.
    pub(crate) async fn status(&self) -> Result<api::GetStatusResponse, Failure> {
        self.call(async |mut client: Client| client.get_status(api::GetStatusRequest {}).await).await
    }
}

/// One stretch of trouble: how long it lasts, and whether the person was told.
struct Waiting<'a> {
    admin: &'a Admin,
    since: Option<Instant>,
    pause: Duration,
}

impl<'a> Waiting<'a> {
    fn new(admin: &'a Admin) -> Self {
        Self { admin, since: None, pause: FIRST_PAUSE }
    }

    /// Waits before the next try, or says that there will be none.
    async fn after(&mut self, status: &Status) -> Result<(), Failure> {
        if !is_transient(status) {
            return Err(Failure::from_status(status));
        }
        let since = match self.since {
            Some(since) => since,
            None => {
                if !self.admin.patience.is_zero() {
                    self.admin.output.note(&format!(
                        "waiting up to {} s: {}",
                        self.admin.patience.as_secs(),
                        short_reason(status)
                    ));
                }
                *self.since.insert(Instant::now())
            }
        };
        if since.elapsed() >= self.admin.patience {
            return Err(if is_from_node(status) {
                Failure::from_status(status)
            } else {
                not_running(&self.admin.socket, &io::Error::other(short_reason(status)))
            });
        }
        tokio::time::sleep(self.pause).await;
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Whether the same call may succeed later. A status with details was written by the node; one without comes from a
/// connection that broke.
fn is_transient(status: &Status) -> bool {
    match status.code() {
        // Somebody has to look at it first.
        Code::Unavailable if is_safe_mode(status) => false,
        Code::Unavailable | Code::ResourceExhausted => true,
        Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded => !is_from_node(status),
        _ => false,
    }
}

fn is_from_node(status: &Status) -> bool {
    huitong_grpc::error_detail(status).is_some()
}

fn is_safe_mode(status: &Status) -> bool {
    huitong_grpc::error_detail(status).is_some_and(|detail| detail.code == "ledger.safe_mode")
}

fn short_reason(status: &Status) -> String {
    match huitong_grpc::error_detail(status) {
        Some(detail) if detail.code == "peer.unavailable" => {
            format!("the other node cannot be reached: {}", detail.reason)
        }
        Some(detail) => detail.reason,
        None => "the node does not answer on its admin socket".to_owned(),
    }
}

fn not_running(socket: &Path, error: &io::Error) -> Failure {
    let next = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "run this as the user that runs the node; nobody else may use its admin socket".to_owned()
        }
        _ => "start the node with `huitong serve -c FILE`, or name its socket with --config or --admin"
            .to_owned(),
    };
    Failure::new(
        Exit::NotRunning,
        "node.not-running",
        format!("no node answers on {}: {error}", socket.display()),
        next,
    )
}

fn socket_of(global: &Global) -> Result<PathBuf, Failure> {
    match &global.admin {
        Some(socket) => Ok(socket.clone()),
        None => Ok(crate::commands::load_config(global)?.listen.admin),
    }
}
