//! The frames of an exchange, as the consumer sends and receives them.

use bytes::Bytes;
use huitong_identity::ServiceError;
use huitong_transfer::{FromConsumer, FromProvider, Want};

use crate::proto::transfer as wire;
use crate::proto::transfer::exchange_request::Frame as RequestFrame;
use crate::proto::transfer::exchange_response::Frame as ResponseFrame;

pub(super) fn consumer_message(frame: FromConsumer) -> wire::ExchangeRequest {
    let frame = match frame {
        FromConsumer::Want(Want { transfer, contract, product }) => RequestFrame::Want(wire::Want {
            transfer: Bytes::copy_from_slice(&transfer),
            contract: contract.to_string(),
            product: product.to_string(),
        }),
        FromConsumer::Statement(statement) => RequestFrame::Statement(statement),
    };
    wire::ExchangeRequest { frame: Some(frame) }
}

pub(super) fn provider_frame(message: wire::ExchangeResponse) -> Result<FromProvider, ServiceError> {
    let wire::ExchangeResponse { frame } = message;
    match frame {
        Some(ResponseFrame::Statement(statement)) => Ok(FromProvider::Statement(statement)),
        Some(ResponseFrame::Manifest(manifest)) => Ok(FromProvider::Manifest(manifest)),
        Some(ResponseFrame::Leaves(leaves)) => Ok(FromProvider::Leaves(leaves)),
        Some(ResponseFrame::Chunk(wire::Chunk { group, data })) => Ok(FromProvider::Chunk { group, data }),
        None => {
            Err(ServiceError::invalid("frame", "expected statement, manifest, leaves or chunk, found none"))
        }
    }
}
