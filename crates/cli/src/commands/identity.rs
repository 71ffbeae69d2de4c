//! `huitong identity`: invites, enrolment, the node's own identity, the registered nodes, revocation, trust.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use huitong_grpc::proto::admin as api;
use serde_json::json;

use crate::admin::{Admin, Client};
use crate::cli::{Global, Identity, RoleName};
use crate::commands::serve::{sources, start_failure};
use crate::commands::{list, load_config, read_input};
use crate::exit::Failure;
use crate::output::{Output, moment, table};
use crate::{operations, views};

const MAX_INVITE_BYTES: u64 = 16 << 10;

pub(crate) async fn run(command: Identity, global: &Global, output: Output) -> Result<(), Failure> {
    match command {
        Identity::Invite { entity, name, role, lifetime, out } => {
            let admin = Admin::open(global, output).await?;
            // Looked at first: an invite that cannot be written down would still hold.
            if let Some(path) = &out {
                check_absent(path)?;
            }
            let invite = invite(&admin, &entity, &name, &role, lifetime).await?;
            match out {
                Some(path) => {
                    write_private(&path, &format!("{invite}\n"))?;
                    output.result(&json!({ "invite_file": path }), || {
                        format!("invite written to {}; it is a secret until it is used", path.display())
                    });
                }
                None => output.result(&json!({ "invite": invite }), || invite.clone()),
            }
        }
        Identity::Enrol { invite } => enrol(&invite, global, output).await?,
        Identity::Show => show(global, output).await?,
        Identity::List => {
            let admin = Admin::open(global, output).await?;
            let nodes = admin
                .call(async |mut client: Client| client.list_nodes(api::ListNodesRequest {}).await)
                .await?
                .nodes;
            output.result(&list("nodes", nodes.iter().map(views::node)), || {
                let rows: Vec<_> = nodes.iter().map(node_row).collect();
                table(
                    &["node", "organisation", "name", "roles", "address", "state"],
                    &rows,
                    "no node is registered",
                )
            });
        }
        Identity::Revoke { node, reason } => {
            let admin = Admin::open(global, output).await?;
            let version = revoke(&admin, &node, &reason).await?;
            output.result(&json!({ "node": node, "status_version": version }), || {
                format!("{node} is revoked by version {version} of the revocation list")
            });
        }
        Identity::Trust { out } => {
            let trust = operations::trust(&Admin::open(global, output).await?).await?;
            match out {
                Some(path) => {
                    std::fs::write(&path, &trust).map_err(|error| Failure::file("write", &path, &error))?;
                    output.result(&json!({ "trust": path }), || {
                        format!("trust file written to {}", path.display())
                    });
                }
                // The file is JSON already, in either form of output.
                None => crate::output::print(&trust),
            }
        }
    }
    Ok(())
}

/// Asks a function node for an invite.
pub(crate) async fn invite(
    admin: &Admin,
    entity: &str,
    name: &str,
    roles: &[RoleName],
    lifetime: Duration,
) -> Result<String, Failure> {
    let roles = if roles.is_empty() { &[RoleName::Provider, RoleName::Consumer][..] } else { roles };
    let request = api::CreateInviteRequest {
        entity: entity.to_owned(),
        name: name.to_owned(),
        roles: roles.iter().map(|&role| role_name(role).to_owned()).collect(),
        lifetime_seconds: lifetime.as_secs(),
    };
    let answer = admin.call(async |mut client: Client| client.create_invite(request.clone()).await).await?;
    Ok(answer.invite)
}

/// Revokes a node; gives the version of the list that says so.
pub(crate) async fn revoke(admin: &Admin, node: &str, reason: &str) -> Result<u64, Failure> {
    let request = api::RevokeNodeRequest { node: node.to_owned(), reason: reason.to_owned() };
    let answer = admin.call(async |mut client: Client| client.revoke_node(request.clone()).await).await?;
    Ok(answer.status_version)
}

/// Whether a new file can be made here.
fn check_absent(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok() {
        let message = format!("{} exists already, and an invite replaces no file", path.display());
        return Err(Failure::failed("file", message, "remove it, or name another file with --out"));
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    tempfile::tempfile_in(directory).map(drop).map_err(|error| Failure::file("write", path, &error))
}

/// Writes a new file that only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| Failure::file("write", path, &error))
}

async fn enrol(invite: &Path, global: &Global, output: Output) -> Result<(), Failure> {
    let config = load_config(global)?;
    let invite = String::from_utf8_lossy(&read_input(invite, MAX_INVITE_BYTES)?).trim().to_owned();
    let node =
        huitong_node::enrol(&config, &invite, &sources()).await.map_err(|error| start_failure(&error))?;
    output.result(&json!({ "node": node.to_string() }), || {
        format!("enrolled as {node}; start it with `huitong serve`")
    });
    Ok(())
}

async fn show(global: &Global, output: Output) -> Result<(), Failure> {
    let status = Admin::open(global, output).await?.status().await?;
    let answer = json!({
        "node": status.node, "entity": status.entity, "name": status.name, "roles": status.roles,
        "registrar": status.registrar, "ledger_origin": status.ledger_origin,
        "credential_expires_milliseconds": status.credential_expires_milliseconds,
    });
    output.result(&answer, || {
        format!(
            "node          {}\norganisation  {} {}\nroles         {}\nregistrar     {}\nledger        {}\n\
             credential    until {}",
            status.node,
            status.entity,
            status.name,
            status.roles.join(", "),
            status.registrar,
            status.ledger_origin,
            moment(status.credential_expires_milliseconds)
        )
    });
    Ok(())
}

fn role_name(role: RoleName) -> &'static str {
    match role {
        RoleName::Provider => "provider",
        RoleName::Consumer => "consumer",
    }
}

fn node_row(node: &api::Node) -> Vec<String> {
    let state =
        if node.revoked { format!("revoked: {}", node.revocation_reason) } else { "active".to_owned() };
    let roles = node.roles.join(",");
    vec![node.node.clone(), node.entity.clone(), node.name.clone(), roles, node.address.clone(), state]
}
