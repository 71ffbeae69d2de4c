//! Messages of an exchange without copying content: gRPC's framing (length-prefixed messages) around bytes that stay where
//! they are. The encoding is that of `huitong.transfer.v1.ExchangeResponse`, as any other implementation writes it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use huitong_identity::ServiceError;
use huitong_transfer::{FromProvider, Pieces};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use tonic::Status;

use crate::MAX_MESSAGE_BYTES;
use crate::proto::transfer as wire;
use crate::proto::transfer::exchange_response::Frame;

/// Compression flag and length before each message.
const PREFIX: usize = 5;
/// A chunk's field among the response's, and a chunk's own fields.
const CHUNK: u32 = 3;
const GROUP: u32 = 1;
const DATA: u32 = 2;
/// Most bytes of a chunk's message before its content.
const HEAD: usize = 32;

/// A message with its prefix: what comes before the content, and the content.
pub(crate) fn encode(frame: FromProvider) -> (Bytes, Pieces) {
    let frame = match frame {
        FromProvider::Chunk { group, data } => return (chunk_head(group, data.len()), data),
        FromProvider::Statement(statement) => Frame::Statement(statement),
        FromProvider::Manifest(manifest) => Frame::Manifest(manifest),
        FromProvider::Leaves(leaves) => Frame::Leaves(leaves),
    };
    let message = wire::ExchangeResponse { frame: Some(frame) };
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX.saturating_add(length));
    put_prefix(&mut out, length);
    // The buffer grows where it must: this cannot fail.
    let _ = message.encode(&mut out);
    (out.freeze(), Pieces::default())
}

fn chunk_head(group: u64, content: usize) -> Bytes {
    let mut chunk = BytesMut::with_capacity(HEAD);
    if group != 0 {
        encode_key(GROUP, WireType::Varint, &mut chunk);
        encode_varint(group, &mut chunk);
    }
    encode_key(DATA, WireType::LengthDelimited, &mut chunk);
    encode_varint(content as u64, &mut chunk);
    let length = chunk.len().saturating_add(content);
    let mut message = BytesMut::with_capacity(HEAD);
    encode_key(CHUNK, WireType::LengthDelimited, &mut message);
    encode_varint(length as u64, &mut message);
    let mut out = BytesMut::with_capacity(HEAD);
    put_prefix(&mut out, message.len().saturating_add(length));
    out.put(message);
    out.put(chunk);
    out.freeze()
}

fn put_prefix(out: &mut BytesMut, length: usize) {
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// What has come of a stream of messages.
#[derive(Default)]
pub(crate) struct Incoming {
    pieces: Pieces,
    /// Length of the message that is coming, once its prefix is here.
    expected: Option<usize>,
}

impl Incoming {
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.pieces.push(bytes);
    }

    /// Whether a message has begun that is not whole.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.expected.is_some() || !self.pieces.is_empty()
    }

    /// The next whole message, if it is here.
    pub(crate) fn message(&mut self) -> Result<Option<Pieces>, Status> {
        let expected = match self.expected {
            Some(expected) => expected,
            None if self.pieces.len() < PREFIX => return Ok(None),
            None => {
                let mut prefix = Reader(self.pieces.split_to(PREFIX));
                if prefix.get_u8() != 0 {
                    return Err(Status::internal("a compressed message came, although none was asked for"));
                }
                let length = usize::try_from(prefix.get_u32()).unwrap_or(usize::MAX);
                if length > MAX_MESSAGE_BYTES {
                    return Err(Status::out_of_range(format!(
                        "a message of {length} bytes came; the limit is {MAX_MESSAGE_BYTES}"
                    )));
                }
                self.expected = Some(length);
                length
            }
        };
        if self.pieces.len() < expected {
            return Ok(None);
        }
        self.expected = None;
        Ok(Some(self.pieces.split_to(expected)))
    }
}

/// Reads a message of the provider.
pub(crate) fn decode(message: Pieces) -> Result<FromProvider, ServiceError> {
    if let Some((group, data)) = chunk_of(message.clone()) {
        return Ok(FromProvider::Chunk { group, data });
    }
    let message = wire::ExchangeResponse::decode(Reader(message))
        .map_err(|error| ServiceError::invalid("frame", format!("is not an ExchangeResponse: {error}")))?;
    let wire::ExchangeResponse { frame } = message;
    match frame {
        Some(Frame::Statement(statement)) => Ok(FromProvider::Statement(statement)),
        Some(Frame::Manifest(manifest)) => Ok(FromProvider::Manifest(manifest)),
        Some(Frame::Leaves(leaves)) => Ok(FromProvider::Leaves(leaves)),
        Some(Frame::Chunk(wire::Chunk { group, data })) => {
            Ok(FromProvider::Chunk { group, data: data.into() })
        }
        None => {
            Err(ServiceError::invalid("frame", "expected statement, manifest, leaves or chunk, found none"))
        }
    }
}

/// A chunk in the order of fields in which everybody writes it, its content last; anything else is for the decoder.
fn chunk_of(message: Pieces) -> Option<(u64, Pieces)> {
    let mut reader = Reader(message);
    if decode_key(&mut reader).ok()? != (CHUNK, WireType::LengthDelimited) {
        return None;
    }
    if decode_varint(&mut reader).ok()? != reader.remaining() as u64 {
        return None;
    }
    let mut group = 0;
    let mut key = decode_key(&mut reader).ok()?;
    if key == (GROUP, WireType::Varint) {
        group = decode_varint(&mut reader).ok()?;
        key = decode_key(&mut reader).ok()?;
    }
    let length =
        (key == (DATA, WireType::LengthDelimited)).then(|| decode_varint(&mut reader).ok()).flatten()?;
    (length == reader.remaining() as u64).then_some((group, reader.0))
}

/// Reads through the pieces of a message.
struct Reader(Pieces);

impl Buf for Reader {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn chunk(&self) -> &[u8] {
        self.0.as_slice().first().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, count: usize) {
        self.0.split_to(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        let taken = self.0.split_to(count);
        match taken.as_slice() {
            [piece] => piece.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(frame: FromProvider) -> Vec<u8> {
        let (head, data) = encode(frame);
        [head.as_ref(), &data.as_slice().concat()].concat()
    }

    fn by_the_generated_code(frame: Frame) -> Vec<u8> {
        let message = wire::ExchangeResponse { frame: Some(frame) }.encode_to_vec();
        [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
    }

    fn read(bytes: &[u8], step: usize) -> Vec<FromProvider> {
        let (mut incoming, mut read) = (Incoming::default(), Vec::new());
        for part in bytes.chunks(step) {
            incoming.push(Bytes::copy_from_slice(part));
            while let Some(message) = incoming.message().unwrap() {
                read.push(decode(message).unwrap());
            }
        }
        assert!(!incoming.is_unfinished());
        read
    }

    #[test]
    fn what_is_written_is_what_the_generated_code_writes() {
        for group in [0, 1, 127, 128, u64::MAX] {
            for length in [0, 1, 127, 128, 16_383, 16_384, 1 << 20] {
                let data = Bytes::from(vec![7; length]);
                let ours = whole(FromProvider::Chunk { group, data: data.clone().into() });
                let theirs = wire::Chunk { group, data };
                if length > 0 {
                    assert!(ours == by_the_generated_code(Frame::Chunk(theirs)), "{group}, {length}");
                }
            }
        }
        let bytes = Bytes::from_static(b"bytes");
        assert_eq!(
            whole(FromProvider::Statement(bytes.clone())),
            by_the_generated_code(Frame::Statement(bytes.clone()))
        );
        assert_eq!(
            whole(FromProvider::Leaves(bytes.clone())),
            by_the_generated_code(Frame::Leaves(bytes.clone()))
        );
        assert_eq!(
            whole(FromProvider::Manifest(bytes.clone())),
            by_the_generated_code(Frame::Manifest(bytes))
        );
    }

    #[test]
    fn messages_are_read_however_they_are_cut() {
        let data = Bytes::from((0..70_000_u32).map(|n| n as u8).collect::<Vec<_>>());
        let frames = || {
            [
                FromProvider::Statement(Bytes::from_static(b"statement")),
                FromProvider::Chunk { group: 0, data: data.clone().into() },
                FromProvider::Chunk { group: 300, data: Bytes::from_static(b"x").into() },
                FromProvider::Leaves(Bytes::from_static(b"leaves")),
                FromProvider::Manifest(data.clone()),
            ]
        };
        let sent: Vec<u8> = frames().into_iter().flat_map(whole).collect();
        for step in [1, 2, 5, 6, 7, 1000, 16_384, 50_000, sent.len()] {
            let read = read(&sent, step);
            let shown = |frame: FromProvider| whole(frame);
            assert!(read.into_iter().map(shown).eq(frames().into_iter().map(whole)), "{step}");
        }
    }

    #[test]
    fn other_orders_of_fields_are_read_by_the_decoder() {
        // The content first, then the group; and an unknown field between them.
        let chunk = [&[0x12, 3][..], b"abc", &[0x48, 9], &[0x08, 5]].concat();
        let message = [&[0x1a, chunk.len() as u8][..], &chunk].concat();
        let read = decode(Bytes::from(message).into()).unwrap();
        let FromProvider::Chunk { group: 5, data } = read else { panic!("{read:?}") };
        assert_eq!(data.as_slice().concat(), b"abc");
        for broken in [&[0x1a, 5, 0x12, 9, b'a'][..], &[0x1a], &[0xff; 12], &[]] {
            assert!(decode(Bytes::copy_from_slice(broken).into()).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn large_and_compressed_messages_are_refused_before_they_come() {
        let mut incoming = Incoming::default();
        incoming.push(Bytes::from_static(&[0, 0, 64, 0, 1]));
        assert!(incoming.message().is_err());
        let mut incoming = Incoming::default();
        incoming.push(Bytes::from_static(&[1, 0, 0, 0, 1]));
        assert!(incoming.message().is_err());
        let mut incoming = Incoming::default();
        incoming.push(Bytes::from_static(&[0, 0, 0]));
        assert!(incoming.message().unwrap().is_none() && incoming.is_unfinished());
    }
}
