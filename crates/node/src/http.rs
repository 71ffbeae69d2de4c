//! `/healthz`, `/readyz` and `/metrics` for supervisors and monitoring, in plain HTTP on loopback, and the ledger for
//! tools that speak C2SP.

pub(crate) mod ledger;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use huitong_contract::Side;
use huitong_evidence::Evidence;
use huitong_identity::{ServiceError, Standing};
use huitong_store::outbox;
use huitong_transfer::Transfers;
use metrics::gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::health::Health;
use crate::listener::Connections;
use crate::metrics::Metrics;

/// Most rows that one reading of the metrics looks at in each table.
const MOST_ROWS: usize = 1_000;
const MOST_CONNECTIONS: usize = 64;
const LIFETIME: Duration = Duration::from_secs(10);

/// What the endpoints tell about.
#[derive(Clone)]
pub(crate) struct Observed {
    pub(crate) health: Health,
    pub(crate) evidence: Evidence,
    /// Whether the ledger and the witness are served too.
    pub(crate) serves_ledger: bool,
    pub(crate) transfers: Option<Transfers>,
    pub(crate) connections: Connections,
    pub(crate) metrics: Metrics,
}

pub(crate) fn router(observed: Observed) -> Router {
    let ledger =
        if observed.serves_ledger { ledger::open_routes(observed.evidence.clone()) } else { Router::new() };
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Arc::new(observed))
        .merge(ledger)
}

/// Accepts so many connections at the same time, each for so long: whoever reaches the port must not be able to take the
/// file descriptors that the node needs.
pub(crate) struct BoundedListener {
    tcp: TcpListener,
    places: Arc<Semaphore>,
}

impl BoundedListener {
    pub(crate) fn new(tcp: TcpListener) -> Self {
        Self { tcp, places: Arc::new(Semaphore::new(MOST_CONNECTIONS)) }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, remote) = axum::serve::Listener::accept(&mut self.tcp).await;
        (BoundedStream { stream, over: Box::pin(tokio::time::sleep(LIFETIME)), _place: place }, remote)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

pub(crate) struct BoundedStream {
    stream: TcpStream,
    over: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl BoundedStream {
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.over.as_mut().poll(cx).map(|()| io::Error::new(io::ErrorKind::TimedOut, "open for too long"))
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_over(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_over(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn healthz(State(observed): State<Arc<Observed>>) -> impl IntoResponse {
    answer(observed.health.alive(), Vec::new())
}

async fn readyz(State(observed): State<Arc<Observed>>) -> impl IntoResponse {
    answer(observed.health.ready(), observed.health.complaints())
}

fn answer(state: Result<(), String>, complaints: Vec<String>) -> (StatusCode, String) {
    let (code, mut text) = match state {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    };
    for complaint in complaints {
        text.push_str(&complaint);
        text.push('\n');
    }
    (code, text)
}

async fn metrics_text(State(observed): State<Arc<Observed>>) -> impl IntoResponse {
    // Reading tables blocks for as long as the disk does.
    let gathered = tokio::task::spawn_blocking(move || observed.gather()).await;
    match gathered {
        Ok(text) => {
            (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
        }
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            format!("{error}\n"),
        ),
    }
}

impl Observed {
    fn gather(&self) -> String {
        if let Err(error) = self.set_gauges() {
            tracing::warn!(%error, "some metrics could not be read");
        }
        self.metrics.render()
    }

    fn set_gauges(&self) -> Result<(), ServiceError> {
        let Standing { ledger, directory, .. } = self.evidence.standing();
        let now = ledger.clock().now();
        let set = |name: &'static str, value: f64| self.metrics.record(|| gauge!(name).set(value));
        set("huitong_up", if self.health.alive().is_ok() { 1.0 } else { 0.0 });
        set("huitong_ready", if self.health.ready().is_ok() { 1.0 } else { 0.0 });
        set("huitong_status_list_age_seconds", now.saturating_since(directory.confirmed()).as_secs_f64());
        set("huitong_peer_connections", number(self.connections.count()));
        if let Some(bytes) = resident_bytes() {
            set("huitong_process_resident_bytes", bytes);
        }
        let maintenance = ledger.store().maintenance();
        set("huitong_store_ok", if self.health.alive().is_ok() { 1.0 } else { 0.0 });
        set("huitong_store_snapshot_sequence", maintenance.last_snapshot_sequence.unwrap_or(0) as f64);
        set("huitong_store_journal_bytes", maintenance.journal_bytes as f64);
        let opening = ledger.store().opening();
        set("huitong_store_index_rebuilt", if opening.rebuilt.is_some() { 1.0 } else { 0.0 });
        set("huitong_store_dropped_bytes", opening.dropped_bytes as f64);
        set("huitong_ledger_safe_mode", if ledger.signing().is_err() { 1.0 } else { 0.0 });
        let standing = self.evidence.ledger_standing()?;
        set("huitong_ledger_statements", standing.size as f64);
        set("huitong_ledger_signed_size", standing.signed_size as f64);
        set("huitong_ledger_final_size", standing.final_size as f64);
        for witness in standing.witnesses {
            // Never is the beginning of the epoch.
            let last = witness.time.map_or(0.0, |time| time.millis() as f64 / 1000.0);
            self.metrics.record(|| {
                gauge!("huitong_witness_last_success_seconds", "witness" => witness.name).set(last);
            });
        }
        set("huitong_alerts_open", self.evidence.open_alerts()? as f64);
        let view = ledger.store().view();
        set("huitong_outbox_dead", number(outbox::dead(&view, 0, MOST_ROWS)?.len()));
        set("huitong_outbox_pending", number(outbox::pending(&view, None, MOST_ROWS)?.len()));
        if let Some(transfers) = &self.transfers {
            let mut counts: HashMap<(&'static str, &'static str), usize> = HashMap::new();
            for transfer in transfers.list(MOST_ROWS)? {
                let side = match transfer.side {
                    Side::Provider => "provider",
                    Side::Consumer => "consumer",
                };
                *counts.entry((side, transfer.state.name())).or_default() += 1;
            }
            for side in ["provider", "consumer"] {
                for state in ["REQUESTED", "STARTED", "COMPLETED", "TERMINATED"] {
                    let count = counts.get(&(side, state)).copied().unwrap_or(0);
                    self.metrics.record(|| {
                        gauge!("huitong_transfers", "side" => side, "state" => state).set(number(count));
                    });
                }
            }
        }
        Ok(())
    }
}

/// Memory of this process that is in RAM.
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn number(count: usize) -> f64 {
    count as f64
}
