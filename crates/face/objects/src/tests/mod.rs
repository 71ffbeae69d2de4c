//! Against servers in the test process: S3 by somebody else, and web servers that behave as told.

mod depot;
mod location;
mod put;
mod s3;
mod sources;
mod web;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::testing::{S3Server, settings};
use crate::{Bucket, Location, ObjectError, Objects};

const MIB: usize = 1 << 20;

fn at(url: &str) -> Location {
    Location::parse(url).unwrap()
}

fn objects(bucket: Bucket) -> Objects {
    Objects::new(vec![bucket], &settings()).unwrap()
}

/// A server with one bucket `data`, and the way to it.
fn server() -> (S3Server, Objects) {
    let server = S3Server::start();
    let objects = objects(server.create_bucket("data"));
    (server, objects)
}

/// Bytes in which no two places look alike.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = vec![0; length];
    for word in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
    bytes
}

/// Far longer than anything here takes, and far shorter than for ever.
async fn bounded<T>(run: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), run).await.expect("ends by itself")
}

async fn read(objects: &Objects, url: &str) -> Result<Vec<u8>, ObjectError> {
    let object = objects.list(&at(url), 1).await?.remove(0);
    let mut buffer = Vec::new();
    let size = usize::try_from(object.size).unwrap();
    objects.reader(&object).read_at(0, &mut buffer, size).await.map(|()| buffer)
}

/// A server that sends what it is told for the first line of each request: a whole answer, and after it a byte now and then,
/// without end.
async fn dribbling(answer: impl Fn(&str) -> String + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    stream.read_buf(&mut request).await?;
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                stream.write_all(answer(text.lines().next().unwrap()).as_bytes()).await?;
                loop {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    stream.write_all(b" ").await?;
                }
                #[expect(unreachable_code, reason = "says what the errors are")]
                Ok::<_, std::io::Error>(())
            });
        }
    });
    address
}
