//! Whole nodes in one process, over real sockets on free ports.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

// Always true here: it tells clippy that helpers of tests may unwrap too.
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod maintenance;
#[cfg(test)]
mod sandbox;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use huitong_catalog::CatalogPeer as _;
use huitong_grpc::proto::admin;
use huitong_identity::{Invite, PeerError};
use huitong_node::{Config, StartError, client, enrol, start};
use huitong_proof::{Clock, ManualClock, SystemClock};

use sandbox::{Space, connector_config, function_config, http_get, sources, until, until_async};

#[tokio::test(flavor = "multi_thread")]
async fn connectors_enrol_publish_and_find_each_other() {
    let mut space = Space::new().await;
    let provider = space.connector("provider", "91110000802100433B").await;
    let consumer = space.connector("consumer", "91330100799655058B").await;
    assert_ne!(provider.node.node_id, consumer.node.node_id);

    let file = space.directory.path().join("weather.csv");
    std::fs::write(&file, b"station,temperature\n1,20\n").unwrap();
    let publish = admin::PublishRequest {
        id: vec![7; 16].into(),
        path: file.display().to_string(),
        name: "Weather".to_owned(),
        policy: POLICY.as_bytes().to_vec().into(),
        ..Default::default()
    };
    let mut progress = provider.admin().publish(publish).await.unwrap().into_inner();
    let mut last = String::new();
    while let Some(step) = progress.message().await.unwrap() {
        let publication = step.publication.unwrap();
        last = format!("{} {}", publication.state, publication.reason);
    }
    assert_eq!(last, "listed ");

    let search = admin::SearchCatalogRequest { keywords: "weather".to_owned(), ..Default::default() };
    let found = consumer.admin().search_catalog(search).await.unwrap().into_inner();
    assert_eq!(found.total, 1);
    assert_eq!(found.hits[0].provider, provider.node.node_id.to_string());

    let product = admin::GetProductRequest { product: found.hits[0].product.clone() };
    let product = consumer.admin().get_product(product).await.unwrap().into_inner();
    assert_eq!(product.address, provider.node.advertised, "the provider's address came by the outbox");

    let negotiate = admin::NegotiateRequest {
        id: vec![8; 16].into(),
        product: found.hits[0].product.clone(),
        ..Default::default()
    };
    consumer.admin().negotiate(negotiate).await.unwrap();
    let watch = admin::WatchNegotiationRequest { id: vec![8; 16].into() };
    let mut progress = consumer.admin().watch_negotiation(watch).await.unwrap().into_inner();
    let mut negotiation = admin::Negotiation::default();
    while let Some(step) = progress.message().await.unwrap() {
        negotiation = step.negotiation.unwrap();
    }
    assert_eq!((negotiation.state.as_str(), negotiation.reason.as_str()), ("FINALIZED", ""));

    let begin = admin::StartTransferRequest {
        id: vec![9; 16].into(),
        contract: negotiation.contract,
        ..Default::default()
    };
    consumer.admin().start_transfer(begin).await.unwrap();
    let watch = admin::WatchTransferRequest { id: vec![9; 16].into() };
    let mut progress = consumer.admin().watch_transfer(watch).await.unwrap().into_inner();
    let mut transfer = admin::Transfer::default();
    while let Some(step) = progress.message().await.unwrap() {
        transfer = step.transfer.unwrap();
    }
    assert_eq!((transfer.state.as_str(), transfer.reason.as_str()), ("COMPLETED", ""));
    assert_eq!(std::fs::read(&transfer.path).unwrap(), std::fs::read(&file).unwrap());
    assert!(
        Path::new(&transfer.path).starts_with(consumer.directory.join("data/received")),
        "{}",
        transfer.path
    );

    // The evidence workers of both sides collect the other ledger's proofs.
    for node in [&provider, &consumer] {
        until_async(async || {
            let list =
                node.admin().list_transfers(admin::ListTransfersRequest {}).await.unwrap().into_inner();
            list.transfers.iter().any(|transfer| transfer.proven)
        })
        .await;
    }
    space.shutdown([provider, consumer]).await;
}

/// Reading and delivery, as often as one likes.
const POLICY: &str =
    r#"{"contractPolicies":{"permissionPolicies":[{"actions":["read","delivery"],"constraints":[]}]}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics() {
    let mut space = Space::new().await;
    let provider = space.connector("provider", "91110000802100433B").await;
    let address = provider.node.http_address.unwrap();
    assert_eq!(http_get(address, "/healthz").await, (200, "ok\n".to_owned()));
    until_async(async || http_get(address, "/readyz").await.0 == 200).await;
    let (code, text) = http_get(address, "/metrics").await;
    assert_eq!(code, 200);
    for metric in [
        "huitong_up 1",
        "huitong_ready 1",
        "huitong_ledger_statements ",
        "huitong_outbox_pending ",
        "huitong_outbox_dead 0",
        "huitong_status_list_age_seconds ",
        "huitong_process_resident_bytes ",
        "huitong_bytes_received_total ",
        "huitong_build_info{version=",
        "huitong_transfers{side=\"consumer\",state=\"COMPLETED\"} 0",
    ] {
        assert!(text.contains(metric), "{metric} is missing in:\n{text}");
    }
    let (_, text) = http_get(space.registrar.node.http_address.unwrap(), "/metrics").await;
    assert!(text.contains("method=\"huitong.identity.v1.IdentityService/FollowTrust\""), "{text}");
    assert!(text.contains("huitong_connections_accepted_total{listener=\"enrolment\"} 1"), "{text}");
    assert_eq!(http_get(address, "/nothing").await.0, 404);
    space.shutdown([provider]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_fail_in_the_handshake() {
    let mut space = Space::new().await;
    let provider = space.connector("provider", "91110000802100433B").await;
    let consumer = space.connector("consumer", "91330100799655058B").await;
    let genuine = consumer.node.standing().membership.certificate().to_vec();
    let target = provider.node.peers_address;
    let http = provider.node.http_address.unwrap();

    // The genuine certificate and key pass, so the refusals below are about what differs.
    let key = std::fs::read_to_string(consumer.directory.join("data/keys/tls.key")).unwrap();
    let key = rcgen::KeyPair::from_pem(&key).unwrap();
    sandbox::knock(target, Some((vec![genuine.clone()], key.serialize_der()))).await.unwrap();

    let mut refusals = Vec::new();
    let own_root = sandbox::OwnRoot::new();
    let cases = [
        ("no_certificate", None),
        ("unknown_root", Some(own_root.forge(&consumer.node.node_id, "127.0.0.1", &[]))),
        ("unknown_root", Some(own_root.forge(&consumer.node.node_id, "127.0.0.1", &genuine))),
    ];
    for (reason, identity) in cases {
        let error = sandbox::knock(target, identity).await.unwrap_err();
        refusals.push((reason, error));
    }
    // The space's own root key signs, as a registrar's would that was tricked: the credential inside still tells.
    let root = sandbox::OwnRoot::load(&space.registrar.directory, space.registrar.node.standing());
    for (reason, identity) in [
        ("malformed", root.forge(&consumer.node.node_id, "127.0.0.1", &[])),
        ("mismatch", root.forge(&consumer.node.node_id, "127.0.0.1", &genuine)),
        ("mismatch", root.forge(&provider.node.node_id, "127.0.0.1", &genuine)),
    ] {
        refusals.push((reason, sandbox::knock(target, Some(identity)).await.unwrap_err()));
    }
    for (reason, _) in &refusals {
        let wanted = format!("huitong_handshakes_refused_total{{listener=\"peers\",reason=\"{reason}\"}}");
        until_async(async || http_get(http, "/metrics").await.1.contains(&wanted)).await;
    }
    // Somebody with a copy of a certificate but without its key proves nothing.
    let other_key = rcgen::KeyPair::generate().unwrap().serialize_der();
    sandbox::knock(target, Some((vec![genuine], other_key))).await.unwrap_err();
    space.shutdown([provider, consumer]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_ends() {
    let mut space = Space::new().await;
    let consumer = space.connector("consumer", "91330100799655058B").await;
    let certificate = consumer.node.standing().membership.certificate().to_vec();
    let key = std::fs::read_to_string(consumer.directory.join("data/keys/tls.key")).unwrap();
    let key = rcgen::KeyPair::from_pem(&key).unwrap();
    let mut config = function_config(&space.directory.path().join("registrar"));
    space.registrar.node.shutdown().await;
    config.limits.handshake_timeout = Duration::from_secs(1);
    space.registrar.node = start(config, sources()).await.unwrap();

    let address = space.registrar.node.peers_address;
    let mut silent = sandbox::connect(address, Some((vec![certificate], key.serialize_der()))).await.unwrap();
    let mut sink = tokio::io::sink();
    let ended = tokio::io::copy(&mut silent, &mut sink);
    let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
    assert!(ended.is_ok(), "a silent connection keeps its place for ever");
    space.shutdown([consumer]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_is_cut_off_and_its_knocking_is_recorded() {
    let mut space = Space::new().await;
    let provider = space.connector("provider", "91110000802100433B").await;
    let consumer = space.connector("consumer", "91330100799655058B").await;
    let version = || space.registrar.node.standing().directory.status().version;
    let before = version();
    let http = space.registrar.node.http_address.unwrap();
    let connections = async |count: &str| {
        let wanted = format!("huitong_peer_connections {count}\n");
        until_async(async || http_get(http, "/metrics").await.1.contains(&wanted)).await;
    };
    connections("2").await;
    let revoke = admin::RevokeNodeRequest {
        node: consumer.node.node_id.to_string(),
        reason: "the key was lost".to_owned(),
    };
    space.registrar.admin().revoke_node(revoke).await.unwrap();
    assert!(version() > before);
    // The connection that was open ends, and no new one comes about.
    connections("1").await;
    // The provider learns of it by the stream, not by asking.
    until(|| provider.node.standing().directory.status().version > before).await;

    let (config, node) = (consumer.config.clone(), consumer.node.node_id.clone());
    consumer.node.shutdown().await;
    let (standing, peers) = client(&config, &sources()).await.unwrap();
    assert_eq!(standing.membership.node(), &node);
    let error = peers.search(standing.membership.registrar(), "weather", 0, 1).await.unwrap_err();
    let PeerError::Unavailable(text) = error else { panic!("{error}") };
    assert!(text.to_lowercase().contains("revoked"), "{text}");

    let recorded = async || {
        let list = admin::ListStatementsRequest { limit: 20 };
        let list = space.registrar.admin().list_statements(list).await.unwrap().into_inner();
        list.statements
            .iter()
            .filter(|statement| {
                statement.note.contains("identity.revoked") && statement.audience == node.to_string()
            })
            .count()
    };
    until_async(async || recorded().await > 0).await;
    let _ = peers.search(standing.membership.registrar(), "weather", 0, 1).await.unwrap_err();
    assert_eq!(recorded().await, 1, "once a minute at most");
    drop((standing, peers));
    space.shutdown([provider]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_at_once_when_nothing_runs_and_starts_again_as_itself() {
    let mut space = Space::new().await;
    let provider = space.connector("provider", "91110000802100433B").await;
    until(|| provider.node.ready().is_ok()).await;
    let (config, id) = (provider.config.clone(), provider.node.node_id.clone());
    let socket = provider.node.admin_socket.clone();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    // The provider follows the registrar's lists: that stream never ends by itself and must hold up neither of them.
    let begun = tokio::time::Instant::now();
    let registrar_config = space.registrar.config.clone();
    let Space { registrar, directory, .. } = space;
    let registrar_id = registrar.node.node_id.clone();
    registrar.node.shutdown().await;
    provider.node.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(15), "waited for the drain timeout, {:?}", begun.elapsed());
    assert!(!socket.exists());

    // So much later that its lists are too old, and the registrar is gone.
    let later = ManualClock::new(SystemClock.now());
    later.advance(config.status_max_age + Duration::from_secs(1));
    let provider =
        start(config, huitong_node::Sources { clock: Arc::new(later), ..sources() }).await.unwrap();
    assert_eq!(provider.node_id, id);
    let why = provider.ready().unwrap_err();
    assert!(why.contains("the registrar was last heard at"), "{why}");
    let registrar = start(registrar_config, sources()).await.unwrap();
    assert_eq!(registrar.node_id, registrar_id);
    registrar.ready().unwrap();
    registrar.shutdown().await;
    provider.shutdown().await;
    drop(directory);
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolling_first_and_serving_later() {
    let space = Space::new().await;
    let invite = space.invite("91110000802100433B").await;
    let home = space.directory.path().join("provider");
    let config = connector_config(&home, &space.registrar.node.advertised, None);
    let error = start(config.clone(), sources()).await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("start.not_enrolled", 16));

    let id = enrol(&config, &invite, &sources()).await.unwrap();
    assert_eq!(enrol(&config, &invite, &sources()).await.unwrap(), id, "the same node again");
    let ahead = ManualClock::new(SystemClock.now());
    ahead.advance(config.max_clock_skew + Duration::from_secs(5));
    let ahead = huitong_node::Sources { clock: Arc::new(ahead), ..sources() };
    let error = start(config.clone(), ahead).await.unwrap_err();
    assert_eq!(error.exit_code(), 13, "the registrar's clock shows another time: {error}");
    let node = start(config, sources()).await.unwrap();
    assert_eq!(node.node_id, id);

    let other =
        connector_config(&space.directory.path().join("other"), &space.registrar.node.advertised, None);
    let error = enrol(&other, &invite, &sources()).await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("start.enrolment_refused", 17), "{error}");

    // An invite shown to another node of the same space, which has a certificate of the same root.
    let mut misled = Invite::parse(&invite).unwrap();
    misled.address = node.advertised.clone();
    let error = enrol(&other, &misled.to_text(), &sources()).await.unwrap_err();
    assert!(
        matches!(&error, StartError::RegistrarUnreachable { reason, .. } if reason.contains("NotValidForName")),
        "{error}"
    );
    // And one that pins another root.
    let mut misled = Invite::parse(&invite).unwrap();
    misled.root = huitong_proof::Digest::sha256(b"another root");
    let error = enrol(&other, &misled.to_text(), &sources()).await.unwrap_err();
    assert!(
        matches!(&error, StartError::RegistrarUnreachable { reason, .. } if reason.contains("UnknownIssuer")),
        "{error}"
    );
    node.shutdown().await;
    space.shutdown([]).await;
}

#[track_caller]
fn check(result: Result<huitong_node::RunningNode, StartError>, exit: u8, code: &str) {
    let error = result.map(|_| ()).unwrap_err();
    assert_eq!((error.exit_code(), error.code()), (exit, code), "{error}");
    assert!(error.to_string().contains("; "), "no next step: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_not_to_start_has_its_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let config = function_config(directory.path());
    let running = start(config.clone(), sources()).await.unwrap();
    check(start(config.clone(), sources()).await, 15, "start.locked");
    let mut taken = function_config(&directory.path().join("second"));
    taken.listen.peers = running.peers_address;
    check(start(taken, sources()).await, 11, "start.address_in_use");
    running.shutdown().await;

    let keys = config.keys_dir();
    let mode = |mode| {
        std::fs::set_permissions(keys.join("statement.key"), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o644);
    check(start(config.clone(), sources()).await, 12, "start.keys");
    mode(0o600);
    let aside = keys.join("aside");
    std::fs::rename(keys.join("statement.key"), &aside).unwrap();
    check(start(config.clone(), sources()).await, 12, "start.keys");
    assert!(!keys.join("statement.key").exists(), "no new key hides the loss");
    std::fs::rename(&aside, keys.join("statement.key")).unwrap();

    let past = ManualClock::new(SystemClock.now());
    past.set(huitong_proof::Timestamp::from_millis(past.now().millis() - 3_600_000));
    let at = |clock: &ManualClock| huitong_node::Sources { clock: Arc::new(clock.clone()), ..sources() };
    check(start(config.clone(), at(&past)).await, 13, "start.clock");
    let future = ManualClock::new(SystemClock.now());
    future.advance(Duration::from_secs(2 * 365 * 24 * 3600));
    check(start(config.clone(), at(&future)).await, 13, "start.clock");

    let text = sandbox::function_toml().replace("\"4403\"", "\"3301\"");
    let other = Config::from_toml(&text, directory.path()).unwrap();
    check(start(other, sources()).await, 10, "start.config");
    let error = Config::read(Path::new("/nonexistent/node.toml")).unwrap_err();
    assert_eq!(StartError::from(error).exit_code(), 10);

    let again = start(config, sources()).await.unwrap();
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_cannot_take_all_connections_by_coming_from_many_addresses() {
    let mut space = Space::new().await;
    let consumer = space.connector("consumer", "91330100799655058B").await;
    let certificate = consumer.node.standing().membership.certificate().to_vec();
    let key = std::fs::read_to_string(consumer.directory.join("data/keys/tls.key")).unwrap();
    let key = rcgen::KeyPair::from_pem(&key).unwrap().serialize_der();
    let most = consumer.config.limits.max_connections_per_address;
    let address = space.registrar.node.peers_address;
    let mut open = Vec::new();
    for number in 0..=most {
        let from = std::net::IpAddr::from([127, 0, 1, if number % 2 == 0 { 1 } else { 2 }]);
        let identity = Some((vec![certificate.clone()], key.clone()));
        match sandbox::connect_from(from, address, identity).await {
            Ok(stream) => open.push(stream),
            // Its own connection for the trust stream is among them.
            Err(_) => break,
        }
    }
    assert!((most - 2..=most).contains(&open.len()), "{} connections", open.len());
    let http = space.registrar.node.http_address.unwrap();
    let wanted = "huitong_handshakes_refused_total{listener=\"peers\",reason=\"too_many\"} 1";
    until_async(async || http_get(http, "/metrics").await.1.contains(wanted)).await;
    drop(open);
    space.shutdown([consumer]).await;
}
