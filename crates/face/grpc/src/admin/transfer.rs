//! Transfers and their receipts.

use std::path::PathBuf;

use huitong_identity::ServiceError;
use huitong_transfer::{StartTransfer, Transfer, TransferState, Transfers};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::watch::{Look, watch};
use super::{AdminServices, MAX_LISTED, Watch};
use crate::convert::{contract_id, data_id, fixed, hex};
use crate::peer::failed;
use crate::proto::admin as wire;

const BUFFERED: usize = 4;

impl AdminServices {
    pub(super) async fn start_transfer(
        &self,
        request: wire::StartTransferRequest,
    ) -> Result<wire::StartTransferResponse, Status> {
        let transfers = self.transfers()?;
        let command = command(request).map_err(self.failed())?;
        let transfer = transfers.start(command).await.map_err(self.failed())?;
        Ok(wire::StartTransferResponse { transfer: Some(message(transfers, transfer)) })
    }

    /// Ends once the transfer is terminated, or completed with the proofs of both ledgers: a client that does not wait
    /// for a complete receipt stops reading when it is completed.
    pub(super) async fn watch_transfer(
        &self,
        request: wire::WatchTransferRequest,
    ) -> Result<Watch<wire::WatchTransferResponse>, Status> {
        let transfers = self.transfers()?.clone();
        let wire::WatchTransferRequest { id } = request;
        let id = fixed("id", &id).map_err(self.failed())?;
        // An unknown id is the call's error, not the stream's.
        look(&transfers, &id).map_err(self.failed())?;
        let (out, stream) = mpsc::channel(BUFFERED);
        let standing = self.standing.clone();
        tokio::spawn(async move {
            let (commits, ticks) = (standing.ledger.store().commits(), transfers.changes());
            watch(out, commits, Some(ticks), || look(&transfers, &id).map_err(failed(&standing))).await;
        });
        Ok(ReceiverStream::new(stream))
    }

    pub(super) async fn list_transfers(
        &self,
        request: wire::ListTransfersRequest,
    ) -> Result<wire::ListTransfersResponse, Status> {
        let wire::ListTransfersRequest {} = request;
        let transfers = self.transfers()?;
        let listed = transfers.list(MAX_LISTED).map_err(self.failed())?;
        let listed = listed.into_iter().map(|transfer| message(transfers, transfer)).collect();
        Ok(wire::ListTransfersResponse { transfers: listed })
    }

    pub(super) async fn export_receipt(
        &self,
        request: wire::ExportReceiptRequest,
    ) -> Result<wire::ExportReceiptResponse, Status> {
        let transfers = self.transfers()?;
        let wire::ExportReceiptRequest { id } = request;
        let id = fixed("id", &id).map_err(self.failed())?;
        let receipt = transfers.receipt(&id).await.map_err(self.failed())?;
        Ok(wire::ExportReceiptResponse { receipt: receipt.into() })
    }
}

fn command(request: wire::StartTransferRequest) -> Result<StartTransfer, ServiceError> {
    let wire::StartTransferRequest { id, contract, product, directory } = request;
    let product = if product.is_empty() { None } else { Some(data_id("product", &product)?) };
    let directory = if directory.is_empty() { None } else { Some(PathBuf::from(directory)) };
    if directory.as_ref().is_some_and(|directory| !directory.is_absolute()) {
        let reason = "expected an absolute path: the node has another directory";
        return Err(ServiceError::invalid("directory", reason));
    }
    Ok(StartTransfer {
        id: fixed("id", &id)?,
        contract: contract_id("contract", &contract)?,
        product,
        directory,
    })
}

fn look(transfers: &Transfers, id: &[u8; 16]) -> Result<Look<wire::WatchTransferResponse>, ServiceError> {
    let transfer = transfers
        .transfer(id)?
        .ok_or_else(|| ServiceError::NotFound { what: format!("transfer {}", hex(id)) })?;
    let over = match transfer.state {
        TransferState::Terminated => true,
        TransferState::Completed => transfer.proven,
        TransferState::Requested | TransferState::Started => false,
    };
    let response = wire::WatchTransferResponse { transfer: Some(message(transfers, transfer)) };
    Ok(if over { Look::Ends(response) } else { Look::Goes(response) })
}

fn message(transfers: &Transfers, transfer: Transfer) -> wire::Transfer {
    wire::Transfer {
        bytes_moved: transfers.moved(&transfer.id),
        id: transfer.id.to_vec().into(),
        side: transfer.side.name().to_owned(),
        peer: transfer.peer.to_string(),
        contract: transfer.contract.to_string(),
        product: transfer.product.to_string(),
        state: transfer.state.name().to_owned(),
        size: transfer.size,
        bytes_acknowledged: transfer.acknowledged,
        blake3: transfer.root.map(|root| root.to_string()).unwrap_or_default(),
        path: transfer.path.map(|path| path.display().to_string()).unwrap_or_default(),
        code: transfer.code,
        reason: transfer.reason,
        proven: transfer.proven,
        started_milliseconds: transfer.started.millis(),
        finished_milliseconds: transfer.finished.map_or(0, |at| at.millis()),
    }
}
