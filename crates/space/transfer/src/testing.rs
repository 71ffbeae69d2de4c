//! Transfers of one node alone, for the tests of the crates above.

#![expect(clippy::expect_used, reason = "tests fail loudly")]

use std::fs;
use std::path::Path;

use huitong_catalog::Shelf;
use huitong_contract::{Approval, Contracts, Side};
use huitong_identity::ServiceError;
use huitong_identity::testing::TestNode;
use huitong_ids::{ContractId, DataId, DataType};

use crate::model::{
    Deposit, DepositState, Finality, Priority, Statements, Transfer, TransferSettings, TransferState,
};
use crate::{Rates, Transfers, tables};

/// The transfers of a node that receives into `received` in this directory.
#[must_use]
pub fn transfers(home: &Path, node: &TestNode) -> Transfers {
    let trees = home.join("trees");
    let shelf =
        Shelf::new(node.ledger.clone(), node.membership.clone(), node.standing.directory.clone(), trees);
    let contracts =
        Contracts::new(node.ledger.clone(), node.membership.clone(), shelf.clone(), Approval::Automatic);
    let settings = TransferSettings {
        received: home.join("received"),
        max_outgoing: 1,
        max_outgoing_per_peer: 1,
        connections: Some(1),
        rates: Rates::default(),
        policy: None,
    };
    Transfers::new(node.standing.clone(), contracts, shelf, settings)
}

/// A completed and proven transfer of files that lie in the node's directory and are still to be put at `location`: a
/// dataset, or with an empty path one file.
///
/// # Panics
/// When something is wrong with the disk.
pub async fn received(
    transfers: &Transfers,
    id: [u8; 16],
    location: &str,
    name: &str,
    files: &[(&str, &[u8])],
) -> Transfer {
    let transfer = completed(transfers, id, location, name, files);
    let place = transfer.path.clone().unwrap_or_default();
    for (path, bytes) in files {
        let path = if path.is_empty() { place.clone() } else { place.join(path) };
        fs::create_dir_all(path.parent().expect("a path in a directory")).expect("a directory");
        fs::write(path, bytes).expect("a file");
    }
    let stored = transfer.clone();
    let saved = transfers.ledger().store().transact("test", move |tx| tables::save(tx, &stored));
    saved.await.map_err(ServiceError::from).expect("a stored transfer");
    transfer
}

fn completed(
    transfers: &Transfers,
    id: [u8; 16],
    location: &str,
    name: &str,
    files: &[(&str, &[u8])],
) -> Transfer {
    let node = transfers.node();
    let (entity, segment) = (node.entity(), node.segment());
    let directory = transfers.staging_directory(&id);
    let now = transfers.ledger().clock().now();
    let size = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    Transfer {
        id,
        side: Side::Consumer,
        peer: node.clone(),
        contract: ContractId::mint(node.node_type(), &entity, &segment, "20260921141320", id)
            .expect("a contract id"),
        product: DataId::mint(DataType::Product, &entity, &segment, id, None).expect("a product id"),
        state: TransferState::Completed,
        priority: Priority::default(),
        size,
        acknowledged: size,
        acknowledged_groups: 0,
        groups: 0,
        files: files.iter().all(|(path, _)| !path.is_empty()).then_some(files.len() as u64),
        name: Some(name.to_owned()),
        root: None,
        version: None,
        path: Some(directory.join(name)),
        directory,
        deposit: Some(Deposit {
            location: location.to_owned(),
            path: None,
            state: DepositState::Open,
            reason: String::new(),
        }),
        suspended_by: None,
        code: String::new(),
        reason: String::new(),
        proven: true,
        finality: Finality::Final,
        started: now,
        finished: Some(now),
        statements: Statements::default(),
    }
}
