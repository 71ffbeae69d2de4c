//! TLS 1.3 with certificates on both sides: who may connect to us, and whom we connect to.
//!
//! A certificate counts when its chain ends in a root of the directory's root list and
//! [`Directory::authenticate`] accepts the credential inside. Both happen in the handshake, before any request is
//! read. The credential is looked at only after the peer has proved possession of the certificate's key: a refusal
//! that goes on record must be about the node itself and not about somebody who holds a copy of its certificate.
//!
//! Sessions are never resumed, on either side: a resumed session skips the certificate, and with it a revocation that
//! came in between.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use huitong_grpc::{Dial, Load, Stream};
use huitong_identity::{AuthenticationError, Caller, Directory, Membership, NodeKeys};
use huitong_ids::NodeId;
use huitong_proof::{Clock, Digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::metrics::{Counted, Metrics};

const ALPN: &[u8] = b"h2";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that are taken from the network together. TLS alone takes a record of 16 KiB at a time, and the system then tells the
/// sender of each that there is room again.
const MANY_AT_ONCE: usize = 128 << 10;
/// The same where little comes.
const FEW_AT_ONCE: usize = 8 << 10;
/// Encrypted bytes that are given to the network together.
pub(crate) const SENT_AT_ONCE: usize = 160 << 10;
/// How long a caller waits for the other side's first bytes before it goes on without them.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(2);

/// A node whose revoked certificate was refused in a handshake, after it had proved that it holds the key.
#[derive(Debug)]
pub(crate) struct RefusedNode {
    pub(crate) node: String,
    pub(crate) reason: String,
}

/// What both directions share: our certificate and the rules about everybody else's.
#[derive(Clone)]
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    directory: Directory,
    clock: Arc<dyn Clock>,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl Tls {
    /// `keys` and `membership` of this node, `directory` for all others.
    pub(crate) fn new(
        keys: &NodeKeys,
        membership: &Membership,
        directory: Directory,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let mut chain = vec![CertificateDer::from(membership.certificate().to_vec())];
        // The root goes along: a node that enrols knows only its digest.
        let roots = directory.roots();
        chain.extend(
            roots
                .entry(membership.registrar().as_str())
                .map(|entry| CertificateDer::from(entry.certificate.clone())),
        );
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(keys.tls().serialize_der()));
        Self { provider: provider(), directory, clock, chain, key: Arc::new(key) }
    }

    /// The configuration of the listener for peers. Refusals of revoked nodes are handed to `refused`.
    pub(crate) fn peer_server(
        &self,
        refused: mpsc::Sender<RefusedNode>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let verifier = Arc::new(PeerVerifier { rules: self.rules(), refused: Some(refused) });
        let config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        Ok(Arc::new(without_resumption(config)))
    }

    /// The configuration of the listener for nodes that have no certificate yet.
    pub(crate) fn enrolment_server(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        Ok(Arc::new(without_resumption(config)))
    }

    /// The caller behind a handshake that this configuration completed.
    pub(crate) fn caller(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<Caller, rustls::Error> {
        let leaf = chain.and_then(<[_]>::first).ok_or(rustls::Error::NoCertificatesPresented)?;
        self.rules().authenticate(leaf).map_err(refusal_error)
    }

    fn rules(&self) -> Rules {
        Rules {
            provider: self.provider.clone(),
            directory: self.directory.clone(),
            clock: self.clock.clone(),
        }
    }

    fn client(&self) -> Result<TlsConnector, rustls::Error> {
        let verifier = Arc::new(PeerVerifier { rules: self.rules(), refused: None });
        let config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        Ok(TlsConnector::from(Arc::new(client_without_resumption(config))))
    }
}

/// Connects to enrolled nodes, showing our certificate and checking theirs.
pub(crate) struct PeerDial {
    tls: Tls,
    connector: TlsConnector,
    metrics: Metrics,
}

impl PeerDial {
    pub(crate) fn new(tls: Tls, metrics: Metrics) -> Result<Self, rustls::Error> {
        Ok(Self { connector: tls.client()?, tls, metrics })
    }
}

#[async_trait]
impl Dial for PeerDial {
    async fn dial(&self, address: &str, expect: &NodeId, load: Load) -> io::Result<Box<dyn Stream>> {
        let at_once = match load {
            Load::Answers => FEW_AT_ONCE,
            Load::Content => MANY_AT_ONCE,
        };
        let mut stream = connect(&self.connector, address, at_once).await?;
        let caller = self
            .tls
            .caller(stream.get_ref().1.peer_certificates())
            .map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))?;
        if caller.node() != expect {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{address} answers as node {}, expected {expect}", caller.node()),
            ));
        }
        // In TLS 1.3 the other side judges our certificate after our side of the handshake is over. Its first bytes
        // (HTTP/2 settings) or its alert say what it decided, so that a refusal is reported as what it is. A server
        // that stays silent until it is spoken to costs the timeout, not the connection.
        match tokio::time::timeout(FIRST_BYTES_TIMEOUT, stream.fill_buf()).await {
            Ok(Ok([])) => return Err(refused_us(address, "it closed the connection")),
            Ok(Err(error)) => return Err(refused_us(address, &error.to_string())),
            Ok(Ok(_)) | Err(_) => {}
        }
        Ok(Box::new(Counted::new(stream, &self.metrics)))
    }

    async fn dial_pinned(&self, address: &str, root: &Digest) -> io::Result<Box<dyn Stream>> {
        dial_pinned(address, root, self.tls.clock.clone()).await
    }
}

/// Connects before this node has an identity: only [`Dial::dial_pinned`] works.
pub(crate) struct PinnedDial {
    clock: Arc<dyn Clock>,
}

impl PinnedDial {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

#[async_trait]
impl Dial for PinnedDial {
    async fn dial(&self, _address: &str, expect: &NodeId, _load: Load) -> io::Result<Box<dyn Stream>> {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("this node has no certificate to show to node {expect}; enrol it first"),
        ))
    }

    async fn dial_pinned(&self, address: &str, root: &Digest) -> io::Result<Box<dyn Stream>> {
        dial_pinned(address, root, self.clock.clone()).await
    }
}

/// Why a handshake was refused, as a word for metrics and logs.
pub(crate) fn refusal_word(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::QuotaExceeded {
        return "too_many";
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::NoCertificatesPresented) => "no_certificate",
        Some(rustls::Error::InvalidCertificate(CertificateError::Revoked)) => "revoked",
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => "unknown_root",
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => "not_valid_now",
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))) => {
            match cause.downcast_ref::<AuthenticationError>() {
                Some(AuthenticationError::Malformed(_)) => "malformed",
                Some(AuthenticationError::Untrusted(_)) => "untrusted",
                Some(AuthenticationError::Mismatch { .. }) => "mismatch",
                Some(AuthenticationError::NotValidNow { .. }) => "not_valid_now",
                Some(AuthenticationError::Revoked { .. }) => "revoked",
                Some(AuthenticationError::Stale { .. }) => "stale",
                None => "certificate",
            }
        }
        Some(rustls::Error::InvalidCertificate(_)) => "certificate",
        Some(_) => "protocol",
        None => "closed",
    }
}

struct Rules {
    provider: Arc<CryptoProvider>,
    directory: Directory,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").finish_non_exhaustive()
    }
}

impl Rules {
    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        // A root that does not parse counts for nobody; the others still do.
        roots.add_parsable_certificates(
            self.directory.root_certificates().into_iter().map(CertificateDer::from),
        );
        roots
    }

    fn authenticate(&self, leaf: &CertificateDer<'_>) -> Result<Caller, AuthenticationError> {
        self.directory.authenticate(leaf, self.clock.now())
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }
}

/// The same rules for callers and for those we call. Names are not compared: the node id is the name.
#[derive(Debug)]
struct PeerVerifier {
    rules: Rules,
    refused: Option<mpsc::Sender<RefusedNode>>,
}

impl PeerVerifier {
    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = self.rules.verify_signature(message, certificate, signature)?;
        match self.rules.authenticate(certificate) {
            Ok(_) => Ok(valid),
            Err(error) => {
                if let (AuthenticationError::Revoked { node, .. }, Some(refused)) = (&error, &self.refused) {
                    // A full queue already holds what there is to say: refusals are bounded per node and minute.
                    let _ = refused.try_send(RefusedNode { node: node.clone(), reason: error.to_string() });
                }
                Err(refusal_error(error))
            }
        }
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let roots = Arc::new(self.rules.roots());
        WebPkiClientVerifier::builder_with_provider(roots, self.rules.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_client_cert(end_entity, intermediates, unix_time(&*self.rules.clock))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rules.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_chain(
            end_entity,
            &self.rules.roots(),
            intermediates,
            unix_time(&*self.rules.clock),
            &self.rules.provider,
        )
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rules.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts one registrar: the one whose root certificate has the pinned digest, and no other node under that root.
struct PinnedVerifier {
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
    root: Digest,
}

impl fmt::Debug for PinnedVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedVerifier").field("root", &self.root).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates
            .iter()
            .find(|certificate| Digest::sha256(certificate) == self.root)
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let verified = verify_server_chain(end_entity, &roots, &[], unix_time(&*self.clock), &self.provider)?;
        // Every connector's certificate ends in the same root. Only the registrar's own may see the invite's token.
        match (unit(end_entity), unit(pinned)) {
            (Some(leaf), Some(root)) if leaf == root => Ok(verified),
            _ => Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

async fn dial_pinned(address: &str, root: &Digest, clock: Arc<dyn Clock>) -> io::Result<Box<dyn Stream>> {
    let provider = provider();
    let verifier = Arc::new(PinnedVerifier { provider: provider.clone(), clock, root: *root });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client_without_resumption(config)));
    Ok(Box::new(connect(&connector, address, FEW_AT_ONCE).await?))
}

/// How long what was sent may be unacknowledged, or the other side's window shut, before the system ends a connection.
/// HTTP/2's own sign of life cannot notice: it waits behind what cannot be written.
pub(crate) const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// What all connections with other nodes have in common.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

/// `at_once`: bytes to take from the network together.
async fn connect(
    connector: &TlsConnector,
    address: &str,
    at_once: usize,
) -> io::Result<tokio_rustls::client::TlsStream<BufReader<TcpStream>>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{address:?} is not host:port")))?;
    let attempt = async {
        let tcp = TcpStream::connect(address).await?;
        prepare(&tcp)?;
        connector.connect(name, BufReader::with_capacity(at_once, tcp)).await
    };
    tokio::time::timeout(CONNECT_TIMEOUT, attempt).await.map_err(|_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{address} did not answer within {} s", CONNECT_TIMEOUT.as_secs()),
        )
    })?
}

fn verify_server_chain(
    end_entity: &CertificateDer<'_>,
    roots: &RootCertStore,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    provider: &CryptoProvider,
) -> Result<ServerCertVerified, rustls::Error> {
    let certificate = ParsedCertificate::try_from(end_entity)?;
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
    Ok(ServerCertVerified::assertion())
}

/// The one organisational unit of a certificate, which is the node id (N03 Annex A).
fn unit(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let mut units = parsed.subject().iter_organizational_unit();
    let unit = units.next()?.as_str().ok()?.to_owned();
    units.next().is_none().then_some(unit)
}

fn refusal_error(error: AuthenticationError) -> rustls::Error {
    rustls::Error::InvalidCertificate(match error {
        // The alert then tells the other side which of the two it is.
        AuthenticationError::Revoked { .. } => CertificateError::Revoked,
        AuthenticationError::NotValidNow { .. } => CertificateError::Expired,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

fn refused_us(address: &str, what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{address} did not accept this node's certificate: {what}"),
    )
}

fn without_resumption(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn client_without_resumption(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

fn only_tls13() -> rustls::Error {
    rustls::Error::General("only TLS 1.3 is spoken".to_owned())
}

fn unix_time(clock: &dyn Clock) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(clock.now().millis()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
