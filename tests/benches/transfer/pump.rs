//! The machine's own limits: a bare TLS pump from file to file, and each of the things that a byte has to go through.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::rivals::certificate;

const BUFFER: usize = 1 << 20;

/// rustls over TCP on loopback, one thread on each side, and nothing else: no frames, no hash, no receipt.
pub(crate) fn pump(place: &Path, from: &Path, to: &Path) -> f64 {
    let (certificate, key) = certificate(place);
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut source = File::open(from).unwrap();
    let began = Instant::now();
    let sender = std::thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        let connection = ServerConnection::new(Arc::new(server)).unwrap();
        let mut tls = StreamOwned::new(connection, tcp);
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = source.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            tls.write_all(&buffer[..read]).unwrap();
        }
        tls.conn.send_close_notify();
        tls.flush().unwrap();
    });
    let connection =
        ClientConnection::new(Arc::new(client), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut tls = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    let mut out = File::create(to).unwrap();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tls.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        out.write_all(&buffer[..read]).unwrap();
    }
    sender.join().unwrap();
    began.elapsed().as_secs_f64()
}

/// Gbit/s of one core: copying memory, AES-256-GCM, BLAKE3; and of the files' place: writing and making durable.
pub(crate) fn limits(place: &Path) -> [(&'static str, f64); 4] {
    const ROUNDS: usize = 256;
    let bits = (ROUNDS * BUFFER * 8) as f64 / 1e9;
    let source = vec![7_u8; BUFFER];
    let mut target = vec![0_u8; BUFFER];
    let rate = |work: &mut dyn FnMut()| {
        let began = Instant::now();
        for _ in 0..ROUNDS {
            work();
        }
        bits / began.elapsed().as_secs_f64()
    };
    let copy = rate(&mut || {
        target.copy_from_slice(std::hint::black_box(&source));
        std::hint::black_box(&target);
    });
    let key = ring::aead::UnboundKey::new(&ring::aead::AES_256_GCM, &[1; 32]).unwrap();
    let key = ring::aead::LessSafeKey::new(key);
    let seal = rate(&mut || {
        // Records as TLS cuts them.
        for record in target.chunks_mut(16 << 10) {
            let nonce = ring::aead::Nonce::assume_unique_for_key([0; 12]);
            let tag = key.seal_in_place_separate_tag(nonce, ring::aead::Aad::empty(), record).unwrap();
            std::hint::black_box(tag.as_ref());
        }
    });
    let hash = rate(&mut || {
        std::hint::black_box(blake3::hash(&source));
    });
    let path = place.join("disk");
    let mut file = File::create(&path).unwrap();
    let began = Instant::now();
    for _ in 0..ROUNDS {
        file.write_all(&source).unwrap();
    }
    file.sync_all().unwrap();
    let disk = bits / began.elapsed().as_secs_f64();
    std::fs::remove_file(path).unwrap();
    [("limit_memcpy", copy), ("limit_aes_256_gcm", seal), ("limit_blake3", hash), ("limit_write_sync", disk)]
}
