//! A function node and connectors that enrol with it, and clients that are up to no good.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use huitong_grpc::proto::admin;
use huitong_grpc::proto::admin::admin_service_client::AdminServiceClient;
use huitong_identity::{CREDENTIAL_EXTENSION, Standing};
use huitong_ids::NodeId;
use huitong_node::{Config, RunningNode, Sources, start};
use huitong_proof::{SystemClock, SystemEntropy};
use hyper_util::rt::TokioIo;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};

/// Longer than the pauses between the tries of any worker in these tests.
const PATIENCE: Duration = Duration::from_secs(40);

/// A node that runs, and what it was made of.
pub(crate) struct Node {
    pub(crate) node: RunningNode,
    pub(crate) config: Config,
    pub(crate) directory: PathBuf,
}

impl Node {
    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        let path = self.node.admin_socket.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        AdminServiceClient::new(Endpoint::from_static("http://admin").connect_with_connector_lazy(connector))
    }
}

/// A function node with room for connectors.
pub(crate) struct Space {
    pub(crate) registrar: Node,
    pub(crate) directory: tempfile::TempDir,
}

impl Space {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// One whose registrar is configured a little differently.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("registrar");
        let mut config = function_config(&home);
        change(&mut config);
        let node = start(config.clone(), sources()).await.unwrap();
        Self { registrar: Node { node, config, directory: home }, directory }
    }

    pub(crate) async fn invite(&self, entity: &str) -> String {
        let request = admin::CreateInviteRequest {
            entity: entity.to_owned(),
            name: format!("Organisation {entity}"),
            roles: vec!["provider".to_owned(), "consumer".to_owned()],
            lifetime_seconds: 0,
        };
        self.registrar.admin().create_invite(request).await.unwrap().into_inner().invite
    }

    pub(crate) async fn connector(&mut self, name: &str, entity: &str) -> Node {
        let home = self.directory.path().join(name);
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("invite"), self.invite(entity).await).unwrap();
        let config = connector_config(&home, &self.registrar.node.advertised, Some("invite"));
        let node = start(config.clone(), sources()).await.unwrap();
        let node = Node { node, config, directory: home };
        until(|| node.node.ready().is_ok()).await;
        node
    }

    pub(crate) async fn shutdown<const N: usize>(self, connectors: [Node; N]) {
        for connector in connectors {
            connector.node.shutdown().await;
        }
        self.registrar.node.shutdown().await;
    }
}

pub(crate) fn sources() -> Sources {
    Sources { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
}

pub(crate) fn function_toml() -> &'static str {
    r#"
        node.role = "function"
        [identity]
        domain = "127.0.0.1"
        entity = "91440300708461136T"
        name = "Example Regional Function Node"
        segment = "4403"
        [listen]
        peers = "127.0.0.1:0"
        enrolment = "127.0.0.1:0"
        http = "127.0.0.1:0"
    "#
}

pub(crate) fn function_config(home: &Path) -> Config {
    Config::from_toml(function_toml(), home).unwrap()
}

pub(crate) fn connector_config(home: &Path, registrar: &str, invite: Option<&str>) -> Config {
    let text = format!(
        r#"
        [identity]
        domain = "127.0.0.1"
        registrar_address = "{registrar}"
        invite_file = "{}"
        [listen]
        peers = "127.0.0.1:0"
        http = "127.0.0.1:0"
    "#,
        invite.unwrap_or_default()
    );
    Config::from_toml(&text, home).unwrap()
}

/// Waits for a condition that nothing announces.
#[track_caller]
pub(crate) fn until(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    until_async(async move || condition())
}

#[track_caller]
pub(crate) fn until_async(condition: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let wait = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited in vain: {place}");
    }
}

pub(crate) async fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = http(address, "GET", path, &[]).await;
    (answer.status, String::from_utf8(answer.body).unwrap())
}

/// An answer in HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
}

/// One request on a connection of its own, in plain HTTP/1.1.
pub(crate) async fn http(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let mut answer = Vec::new();
    let send = async {
        // Whoever sends too much may be answered before it is all sent.
        let _ = writing.write_all(&[head.as_bytes(), body].concat()).await;
    };
    let (read, ()) = tokio::join!(reading.read_to_end(&mut answer), send);
    if answer.is_empty() {
        read.unwrap();
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    Answer {
        status,
        content_type: header("content-type").unwrap_or_default(),
        body: answer[end + 4..].to_vec(),
    }
}

/// One GET on the listener for nodes, in HTTP/2 with the certificate of the node that lives there.
pub(crate) async fn peer_get(address: SocketAddr, home: &Path, certificate: &[u8], path: &str) -> Answer {
    let key = std::fs::read_to_string(home.join("data/keys/tls.key")).unwrap();
    let key = KeyPair::from_pem(&key).unwrap().serialize_der();
    let identity = (vec![certificate.to_vec()], key);
    let connector = tower::service_fn(move |_| {
        let identity = identity.clone();
        async move { secure([127, 0, 0, 1].into(), address, Some(identity)).await.map(TokioIo::new) }
    });
    let mut channel = Endpoint::from_static("http://node").connect_with_connector(connector).await.unwrap();
    let request = tonic::codegen::http::Request::get(path).body(tonic::body::Body::empty()).unwrap();
    tower::ServiceExt::ready(&mut channel).await.unwrap();
    let response = tower::Service::call(&mut channel, request).await.unwrap();
    let status = response.status().as_u16();
    let content_type = response.headers().get("content-type").map_or("", |value| value.to_str().unwrap());
    let content_type = content_type.to_owned();
    let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), 1 << 20).await.unwrap();
    Answer { status, content_type, body: body.to_vec() }
}

/// A certificate authority that is not the space's, or that has the space's stolen key.
pub(crate) struct OwnRoot {
    certificate: Vec<u8>,
    key: KeyPair,
}

impl OwnRoot {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Example Regional Function Node root");
        Self { certificate: params.self_signed(&key).unwrap().der().to_vec(), key }
    }

    pub(crate) fn load(home: &Path, standing: &Standing) -> Self {
        let key = std::fs::read_to_string(home.join("data/keys/root.key")).unwrap();
        let key = KeyPair::from_pem(&key).unwrap();
        Self { certificate: standing.directory.root_certificates().remove(0), key }
    }

    /// A certificate for `node` under a new key, with the credential of the certificate `copied` when that is given.
    pub(crate) fn forge(&self, node: &NodeId, domain: &str, copied: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut params = CertificateParams::new(vec![domain.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, domain);
        params.distinguished_name.push(DnType::OrganizationalUnitName, node.as_str());
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        if !copied.is_empty() {
            let (_, parsed) = x509_parser::parse_x509_certificate(copied).unwrap();
            // The parser builds no identifier under 2.999; the credential is the only extension that it does not know.
            let credential =
                parsed.extensions().iter().find(|extension| extension.parsed_extension().unsupported());
            let credential = credential.unwrap().value.to_vec();
            params.custom_extensions =
                vec![CustomExtension::from_oid_content(CREDENTIAL_EXTENSION, credential)];
        }
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_ca_cert_der(&self.certificate.clone().into(), &self.key).unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        (vec![leaf, self.certificate.clone()], key.serialize_der())
    }
}

/// Shakes hands with whatever is given and waits for the first bytes of the answer.
pub(crate) async fn knock(
    address: SocketAddr,
    identity: Option<(Vec<Vec<u8>>, Vec<u8>)>,
) -> std::io::Result<()> {
    connect(address, identity).await.map(drop)
}

/// The same, and keeps the connection without having said anything in HTTP/2.
pub(crate) async fn connect(
    address: SocketAddr,
    identity: Option<(Vec<Vec<u8>>, Vec<u8>)>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    connect_from([127, 0, 0, 1].into(), address, identity).await
}

/// The same from one of this machine's addresses.
pub(crate) async fn connect_from(
    from: IpAddr,
    address: SocketAddr,
    identity: Option<(Vec<Vec<u8>>, Vec<u8>)>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut stream = secure(from, address, identity).await?;
    let mut first = [0; 9];
    stream.read_exact(&mut first).await?;
    assert_eq!(first[3], 4, "an HTTP/2 SETTINGS frame");
    Ok(stream)
}

async fn secure(
    from: IpAddr,
    address: SocketAddr,
    identity: Option<(Vec<Vec<u8>>, Vec<u8>)>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)));
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = chain.into_iter().map(CertificateDer::from).collect();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
            // Not `with_client_auth_cert`: that would notice a key that is not the certificate's.
            let provider = rustls::crypto::ring::default_provider();
            let key = provider.key_provider.load_private_key(key).unwrap();
            config.with_client_cert_resolver(Arc::new(Shown(Arc::new(rustls::sign::CertifiedKey::new(
                chain, key,
            )))))
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let tcp = socket.connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

#[derive(Debug)]
struct Shown(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Trusting(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
