//! The ledger over HTTP: what this node has published, in the paths of C2SP tlog-tiles 0.1.0, and the node as a witness,
//! as C2SP tlog-witness 1.0.0 has it.
//!
//! ```text
//! GET  /log/checkpoint                     anybody
//! GET  /log/tile/<L>/<N>[.p/<W>]           anybody: a tile is hashes of salted statements
//! GET  /log/tile/entries/<N>[.p/<W>]       a node that is party to every entry in it, or a regulator
//! GET  /log/redacted/entries/<N>[.p/<W>]   the same, for a bundle with removed entries, which have length 0
//! POST /witness/add-checkpoint             anybody: the ledger's own signature is what counts
//! GET  /witness/<origin hash>/checkpoint   anybody
//! ```
//! `listen.http` has all of them, but knows nobody, so that it shows no entries. `listen.peers` has those under `/log`,
//! and its certificates say who asks.

use std::ops::Range;
use std::sync::Arc;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use huitong_evidence::{Evidence, WitnessAnswer};
use huitong_grpc::PeerConnection;
use huitong_identity::{Caller, ServiceError};
use huitong_ledger::{
    AddCheckpoint, EntryState, Ledger, LedgerError, MAX_ADD_CHECKPOINT_BYTES, SIZE_CONTENT_TYPE,
    WitnessRefusal,
};
use huitong_proof::Digest;

const TEXT: &str = "text/plain; charset=utf-8";
const BYTES: &str = "application/octet-stream";
const ENTRIES: &str = "tile/entries/";
const REDACTED: &str = "redacted/entries/";
/// A tile never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// A checkpoint is followed by the next one; entries are not for caches, and may be removed one day.
const NOT_KEPT: &str = "no-store";

/// The routes of `listen.http`.
pub(crate) fn open_routes(evidence: Evidence) -> Router {
    Router::new()
        .route("/log/{*path}", get(open_file))
        .route("/witness/add-checkpoint", post(add_checkpoint))
        .route("/witness/{origin}/checkpoint", get(witnessed))
        .with_state(Arc::new(evidence))
}

/// The routes of `listen.peers`, beside the gRPC services.
pub(crate) fn peer_routes(evidence: Evidence) -> Router {
    Router::new().route("/log/{*path}", get(peer_file)).with_state(Arc::new(evidence))
}

async fn open_file(State(evidence): State<Arc<Evidence>>, uri: Uri) -> Response {
    serve(evidence, uri, None).await
}

async fn peer_file(State(evidence): State<Arc<Evidence>>, request: Request) -> Response {
    let Some(peer) = request.extensions().get::<PeerConnection>() else {
        return text(StatusCode::UNAUTHORIZED, "connect with the certificate of an enrolled node");
    };
    // A connection may outlive the credential that it was opened with.
    let now = evidence.now();
    if let Err(error) = evidence.standing().directory.recheck(&peer.caller, now) {
        return text(StatusCode::UNAUTHORIZED, &error.to_string());
    }
    let caller = peer.caller.clone();
    serve(evidence, request.uri().clone(), Some(caller)).await
}

/// One file below `/log/`. Reading it blocks for as long as the disk does.
async fn serve(evidence: Arc<Evidence>, uri: Uri, caller: Option<Caller>) -> Response {
    let reading = move || {
        let path = uri.path().strip_prefix("/log/").unwrap_or_default();
        let bundle = path.strip_prefix(ENTRIES).map(|name| (name, Form::Whole));
        match bundle.or(path.strip_prefix(REDACTED).map(|name| (name, Form::Redacted))) {
            Some((name, form)) => entries(&evidence, caller.as_ref(), path, name, form),
            None => file(evidence.ledger(), path),
        }
    };
    match tokio::task::spawn_blocking(reading).await {
        Ok(response) => response,
        Err(error) => failed(&ServiceError::Internal(error.to_string())),
    }
}

fn file(ledger: &Ledger, path: &str) -> Response {
    let (content_type, caching) = if path == "checkpoint" { (TEXT, NOT_KEPT) } else { (BYTES, FOR_EVER) };
    content(ledger.read_public(path), content_type, caching)
}

/// Which form of a bundle is asked for. One that lacks entries is none of C2SP tlog-tiles, and has another path.
enum Form {
    Whole,
    Redacted,
}

fn entries(evidence: &Evidence, caller: Option<&Caller>, path: &str, name: &str, form: Form) -> Response {
    let Some(caller) = caller else {
        let reason = "entries are for their parties and for regulators: ask on the listener for nodes (listen.peers), \
                      with the certificate of a node";
        return text(StatusCode::FORBIDDEN, reason);
    };
    let Some(range) = bundle_range(name) else { return not_found() };
    match evidence.may_read(caller, range.clone()) {
        Ok(true) => {}
        // Whether there are so many entries is nobody else's business either.
        Ok(false) => {
            let reason = "these entries are for their parties and for regulators, and this node is not party to each of \
                          them; GetEntry of huitong.ledger.v1.LedgerService gives single entries";
            return text(StatusCode::FORBIDDEN, reason);
        }
        Err(error) => return failed(&error),
    }
    let bundle = match form {
        Form::Whole => evidence.ledger().bundle(path),
        Form::Redacted => redacted_bundle(evidence.ledger(), range),
    };
    content(bundle, BYTES, NOT_KEPT)
}

/// The entries of a bundle of the log of which some are removed: those have length 0. Nothing for a whole bundle, which
/// stands under its own path, and for one that no checkpoint covers.
fn redacted_bundle(ledger: &Ledger, range: Range<u64>) -> Result<Option<Vec<u8>>, LedgerError> {
    let view = ledger.store().view();
    let signed = ledger.latest_checkpoint(&view)?.map_or(0, |signed| signed.checkpoint().size);
    if range.end > signed {
        return Ok(None);
    }
    let (mut bundle, mut removed) = (Vec::new(), false);
    for index in range {
        let bytes = match ledger.entry_state(&view, index)? {
            Some(EntryState::Present(bytes)) => bytes,
            Some(EntryState::Redacted(_)) => {
                removed = true;
                Vec::new()
            }
            None => return Ok(None),
        };
        // Statements are far shorter than that.
        let Ok(length) = u16::try_from(bytes.len()) else { return Ok(None) };
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend_from_slice(&bytes);
    }
    Ok(removed.then_some(bundle))
}

/// The entries of the bundle `<N>[.p/<W>]`; nothing unless it is named as C2SP tlog-tiles names it.
fn bundle_range(name: &str) -> Option<Range<u64>> {
    let (number, width) = match name.split_once(".p/") {
        Some((number, width)) => {
            (number, width.parse::<u64>().ok().filter(|width| (1..256).contains(width))?)
        }
        None => (name, 256),
    };
    let number: u64 = number.replace(['x', '/'], "").parse().ok()?;
    let first = number.checked_mul(256)?;
    let range = first..first.checked_add(width)?;
    (bundle_name(number, width) == name).then_some(range)
}

/// Groups of three digits, all but the last with an `x` before it.
fn bundle_name(number: u64, width: u64) -> String {
    let mut name = format!("{:03}", number % 1_000);
    let mut rest = number / 1_000;
    while rest > 0 {
        name = format!("x{:03}/{name}", rest % 1_000);
        rest /= 1_000;
    }
    if width < 256 { format!("{name}.p/{width}") } else { name }
}

fn content(
    bytes: Result<Option<Vec<u8>>, LedgerError>,
    content_type: &'static str,
    caching: &'static str,
) -> Response {
    match bytes {
        Ok(Some(bytes)) => {
            ([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, caching)], bytes).into_response()
        }
        Ok(None) => not_found(),
        Err(error) => failed(&error.into()),
    }
}

async fn add_checkpoint(State(evidence): State<Arc<Evidence>>, request: Request) -> Response {
    let Ok(body) = to_bytes(request.into_body(), MAX_ADD_CHECKPOINT_BYTES).await else {
        let reason = format!("the request has more than {MAX_ADD_CHECKPOINT_BYTES} bytes");
        return text(StatusCode::PAYLOAD_TOO_LARGE, &reason);
    };
    let answer = match parse(&body) {
        Ok(request) => evidence.add_checkpoint_signed(&request).await,
        Err(refusal) => Ok(refusal.into()),
    };
    match answer {
        Ok(answer) => witness_answer(&answer),
        Err(error) => failed(&error),
    }
}

fn parse(body: &Bytes) -> Result<AddCheckpoint, WitnessRefusal> {
    let body = std::str::from_utf8(body)
        .map_err(|_| WitnessRefusal::Malformed { why: "it is not text".to_owned() })?;
    AddCheckpoint::parse(body)
}

fn witness_answer(answer: &WitnessAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = match answer {
        WitnessAnswer::Conflict { .. } => SIZE_CONTENT_TYPE,
        _ => TEXT,
    };
    let mut response = (status, [(header::CONTENT_TYPE, content_type)], answer.body()).into_response();
    if let WitnessAnswer::Busy { retry_after } = answer {
        let seconds = retry_after.as_secs().saturating_add(u64::from(retry_after.subsec_nanos() > 0));
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

async fn witnessed(State(evidence): State<Arc<Evidence>>, uri: Uri) -> Response {
    let origin = uri.path().strip_prefix("/witness/").and_then(|path| path.strip_suffix("/checkpoint"));
    let Some(origin) = origin.and_then(|origin| origin.parse::<Digest>().ok()) else { return not_found() };
    let reading = move || evidence.witnessed_under(&origin);
    match tokio::task::spawn_blocking(reading).await {
        Ok(Ok(checkpoint)) => content(Ok(checkpoint.map(String::into_bytes)), TEXT, NOT_KEPT),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&ServiceError::Internal(error.to_string())),
    }
}

fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "there is no such file")
}

/// What went wrong in this node is in its log; whoever reaches the port learns only that something did.
fn failed(error: &ServiceError) -> Response {
    match error {
        ServiceError::NotFound { .. } => not_found(),
        ServiceError::Store(_) | ServiceError::SafeMode { .. } | ServiceError::Busy { .. } => {
            text(StatusCode::SERVICE_UNAVAILABLE, "this node takes no changes now; /readyz says why")
        }
        error => {
            tracing::error!(%error, "a request for the ledger failed inside this node");
            text(StatusCode::INTERNAL_SERVER_ERROR, "internal error; the node's log says which")
        }
    }
}

fn text(status: StatusCode, line: &str) -> Response {
    (status, [(header::CONTENT_TYPE, TEXT)], format!("{line}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expect: Option<Range<u64>>) {
        assert_eq!(bundle_range(name), expect, "{name}");
    }

    #[test]
    fn a_bundle_has_one_name() {
        check("000", Some(0..256));
        check("000.p/1", Some(0..1));
        check("273.p/112", Some(69_888..70_000));
        // The example of C2SP tlog-tiles.
        check("x001/x234/067", Some(1_234_067 * 256..1_234_068 * 256));
        check("x001/000.p/255", Some(256_000..256_255));
        for name in [
            "",
            "0",
            "00",
            "0000",
            "x000/001",
            "001/002",
            "x001",
            "x1/002",
            "000.p/0",
            "000.p/256",
            "000.p/01",
            "000.p/",
            "000.p/1/",
            "000/",
            "/000",
            "+01",
            "-01",
            "00x",
            "x/000",
            "x001//002",
            "000.p/+1",
            "..",
            "000%2ep/1",
            "x999/x999/x999/x999/x999/x999/999",
        ] {
            check(name, None);
        }
    }
}
