//! The admin interface's messages as the JSON that `-o json` prints. Names are the interface's own; ids are text.

use huitong_grpc::proto::admin as api;
use serde_json::{Value, json};

use crate::operations::id_text;

pub(crate) fn status(status: &api::GetStatusResponse) -> Value {
    let api::GetStatusResponse {
        node,
        entity,
        name,
        roles,
        address,
        registrar,
        ready,
        not_ready_reason,
        status_version,
        status_age_milliseconds,
        ledger_size,
        ledger_origin,
        outbox,
        credential_expires_milliseconds,
        version,
        time_milliseconds,
    } = status;
    json!({
        "node": node, "entity": entity, "name": name, "roles": roles, "address": address,
        "registrar": registrar, "ready": ready, "not_ready_reason": not_ready_reason,
        "status_version": status_version, "status_age_milliseconds": status_age_milliseconds,
        "ledger_size": ledger_size, "ledger_origin": ledger_origin, "outbox": outbox,
        "credential_expires_milliseconds": credential_expires_milliseconds, "version": version,
        "time_milliseconds": time_milliseconds,
    })
}

pub(crate) fn node(node: &api::Node) -> Value {
    let api::Node { node, entity, name, roles, address, revoked, revocation_reason } = node;
    json!({
        "node": node, "entity": entity, "name": name, "roles": roles, "address": address,
        "revoked": revoked, "revocation_reason": revocation_reason,
    })
}

pub(crate) fn publication(publication: &api::Publication) -> Value {
    let api::Publication {
        id,
        state,
        name,
        path,
        size,
        blake3,
        resource,
        product,
        reason,
        files,
        series,
        sha256,
        sm3,
    } = publication;
    json!({
        "id": id_text(id), "state": state, "name": name, "path": path, "size": size, "blake3": blake3,
        "resource": resource, "product": product, "reason": reason, "files": files, "series": series,
        "sha256": sha256, "sm3": sm3,
    })
}

pub(crate) fn hit(hit: &api::Hit) -> Value {
    let api::Hit { product, name, introduction, provider, provider_name, security_level, size } = hit;
    json!({
        "product": product, "name": name, "introduction": introduction, "provider": provider,
        "provider_name": provider_name, "security_level": security_level, "size": size,
    })
}

pub(crate) fn product(product: &api::GetProductResponse) -> Value {
    let api::GetProductResponse {
        hit: found,
        address,
        blake3,
        file_name,
        price,
        policy,
        english,
        chinese,
        files,
        version,
        series,
        sha256,
        sm3,
    } = product;
    json!({
        "hit": found.as_ref().map(hit), "address": address, "blake3": blake3, "file_name": file_name,
        "files": files, "version": version, "series": series, "sha256": sha256, "sm3": sm3,
        "price": price, "policy": String::from_utf8_lossy(policy), "english": english, "chinese": chinese,
    })
}

pub(crate) fn negotiation(negotiation: &api::Negotiation) -> Value {
    let api::Negotiation {
        id,
        side,
        peer,
        product,
        product_name,
        state,
        national_state,
        contract,
        agreement_hash,
        reason,
        english,
        chinese,
        updated_milliseconds,
        standing,
        holds,
    } = negotiation;
    json!({
        "id": id_text(id), "side": side, "peer": peer, "product": product, "product_name": product_name,
        "state": state, "national_state": national_state, "contract": contract,
        "agreement_hash": agreement_hash, "reason": reason, "english": english, "chinese": chinese,
        "updated_milliseconds": updated_milliseconds, "standing": standing,
        "holds": holds.iter().map(hold).collect::<Vec<_>>(),
    })
}

fn hold(hold: &api::ContractHold) -> Value {
    let api::ContractHold { by, standing, code, reason, since_milliseconds } = hold;
    json!({
        "by": by, "standing": standing, "code": code, "reason": reason,
        "since_milliseconds": since_milliseconds,
    })
}

pub(crate) fn limits(limits: api::LimitTransfersResponse) -> Value {
    let api::LimitTransfersResponse { node, each_peer, each_contract } = limits;
    json!({ "node": node, "each_peer": each_peer, "each_contract": each_contract })
}

pub(crate) fn transfer(transfer: &api::Transfer) -> Value {
    let api::Transfer {
        id,
        side,
        peer,
        contract,
        product,
        state,
        size,
        bytes_moved,
        bytes_acknowledged,
        blake3,
        path,
        code,
        reason,
        proven,
        started_milliseconds,
        finished_milliseconds,
        finality,
        suspended_by,
        files,
        priority,
        version,
        groups,
        metering: metered,
        deposit: deposited,
    } = transfer;
    json!({
        "id": id_text(id), "side": side, "peer": peer, "contract": contract, "product": product,
        "state": state, "size": size, "bytes_moved": bytes_moved, "bytes_acknowledged": bytes_acknowledged,
        "blake3": blake3, "path": path, "code": code, "reason": reason, "proven": proven,
        "started_milliseconds": started_milliseconds, "finished_milliseconds": finished_milliseconds,
        "finality": finality, "suspended_by": suspended_by, "files": files, "priority": priority,
        "version": version, "groups": groups, "metering": metered.as_ref().map(metering),
        "deposit": deposited.as_ref().map(deposit),
    })
}

pub(crate) fn subscription(subscription: &api::Subscription) -> Value {
    let api::Subscription {
        contract,
        directory,
        priority,
        cron,
        time_zone,
        push,
        due_milliseconds,
        last_transfer,
        note,
    } = subscription;
    let last = if last_transfer.is_empty() { String::new() } else { id_text(last_transfer) };
    json!({
        "contract": contract, "directory": directory, "priority": priority, "cron": cron,
        "time_zone": time_zone, "push": push, "due_milliseconds": due_milliseconds,
        "last_transfer": last, "note": note,
    })
}

fn deposit(deposit: &api::Deposit) -> Value {
    let api::Deposit { location, path, state, reason } = deposit;
    json!({ "location": location, "path": path, "state": state, "reason": reason })
}

fn metering(metering: &api::Metering) -> Value {
    let api::Metering { bytes, groups, milliseconds, bytes_per_second } = metering;
    json!({
        "bytes": bytes, "groups": groups, "milliseconds": milliseconds, "bytes_per_second": bytes_per_second,
    })
}

pub(crate) fn statement(statement: &api::LoggedStatement) -> Value {
    let api::LoggedStatement { index, kind, issuer, audience, time_milliseconds, digest, note } = statement;
    json!({
        "index": index, "kind": kind, "issuer": issuer, "audience": audience,
        "time_milliseconds": time_milliseconds, "digest": digest, "note": note,
    })
}

pub(crate) fn outbox_message(message: &api::OutboxMessage) -> Value {
    let api::OutboxMessage { id, destination, topic, attempts, last_error, dead, created_milliseconds } =
        message;
    json!({
        "id": id, "destination": destination, "topic": topic, "attempts": attempts,
        "last_error": last_error, "dead": dead, "created_milliseconds": created_milliseconds,
    })
}

pub(crate) fn evidence(standing: &api::GetEvidenceResponse) -> Value {
    let api::GetEvidenceResponse {
        size,
        signed_size,
        final_size,
        cosigned,
        requirement,
        witnesses,
        safe_mode,
        alerts,
    } = standing;
    json!({
        "size": size, "signed_size": signed_size, "final_size": final_size, "cosigned": cosigned,
        "requirement": requirement, "witnesses": witnesses.iter().map(witness).collect::<Vec<_>>(),
        "safe_mode": safe_mode, "alerts": alerts,
    })
}

fn witness(witness: &api::Witness) -> Value {
    let api::Witness { name, node, size, time_milliseconds, last_error } = witness;
    json!({
        "name": name, "node": node, "size": size, "time_milliseconds": time_milliseconds,
        "last_error": last_error,
    })
}

pub(crate) fn check(check: &api::AuditCheck) -> Value {
    let api::AuditCheck { name, outcome, detail } = check;
    json!({ "name": name, "outcome": outcome, "detail": detail })
}

pub(crate) fn recovery(report: &api::RecoverLedgerResponse) -> Value {
    let api::RecoverLedgerResponse {
        step: _,
        done,
        total,
        recovered,
        lost,
        affected,
        signing,
        safe_mode,
        agreements,
    } = report;
    json!({
        "size_before": done, "size": total, "recovered": recovered, "lost": lost, "affected": affected,
        "agreements": agreements, "signing": signing, "safe_mode": safe_mode,
    })
}

pub(crate) fn alert(alert: &api::Alert) -> Value {
    let api::Alert {
        id,
        code,
        node,
        text,
        first_seen_milliseconds,
        last_seen_milliseconds,
        resolved_milliseconds,
        count,
    } = alert;
    json!({
        "id": id, "code": code, "node": node, "text": text, "first_seen_milliseconds": first_seen_milliseconds,
        "last_seen_milliseconds": last_seen_milliseconds, "resolved_milliseconds": resolved_milliseconds,
        "count": count,
    })
}

pub(crate) fn logs_statement(statement: &api::LogsStatement) -> Value {
    let api::LogsStatement { digest, time_milliseconds, index, logs, parts } = statement;
    json!({
        "digest": digest, "time_milliseconds": time_milliseconds, "index": index,
        "logs": logs.iter().map(log_head).collect::<Vec<_>>(), "parts": parts,
    })
}

fn log_head(head: &api::LogHead) -> Value {
    let api::LogHead { origin, size, root, cosigned_milliseconds, checkpoint } = head;
    json!({
        "origin": origin, "size": size, "root": root, "cosigned_milliseconds": cosigned_milliseconds,
        "checkpoint": checkpoint,
    })
}
