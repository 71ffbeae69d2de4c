//! What other nodes know of this node's ledger, and this node of theirs.

use huitong_contract::Contracts;
use huitong_evidence::{
    Alert, Answer, Asked, AuditCheck, AuditOutcome, AuditReport, Compared, Comparison, LedgerStanding,
    LogHead, LogsStatement, Progress, RecoveryReport, WitnessStanding,
};
use huitong_identity::ServiceError;
use huitong_proof::{Kind, Statement};
use huitong_store::Tx;
use huitong_transfer::Transfers;
use tonic::Status;

use super::work::show_work;
use super::{AdminServices, MAX_LISTED, Watch};
use crate::convert::{length, node_id};
use crate::proto::admin as wire;

const DEFAULT_LOGS: u32 = 30;
/// A year of days.
const MAX_LOGS: u32 = 366;

impl AdminServices {
    pub(super) async fn get_evidence(
        &self,
        request: wire::GetEvidenceRequest,
    ) -> Result<wire::GetEvidenceResponse, Status> {
        let wire::GetEvidenceRequest {} = request;
        let standing = self.evidence.ledger_standing().map_err(self.failed())?;
        let alerts = self.evidence.open_alerts().map_err(self.failed())?;
        let LedgerStanding { size, signed_size, final_size, cosigned, requirement, witnesses, safe_mode } =
            standing;
        Ok(wire::GetEvidenceResponse {
            size,
            signed_size,
            final_size,
            cosigned: cosigned.unwrap_or_default(),
            requirement: requirement.unwrap_or_default(),
            witnesses: witnesses.into_iter().map(witness).collect(),
            safe_mode: safe_mode.unwrap_or_default(),
            alerts,
        })
    }

    pub(super) async fn get_quorum_policy(
        &self,
        request: wire::GetQuorumPolicyRequest,
    ) -> Result<wire::GetQuorumPolicyResponse, Status> {
        let wire::GetQuorumPolicyRequest {} = request;
        let policy = self.evidence.policy_text().map_err(self.failed())?;
        Ok(wire::GetQuorumPolicyResponse { policy })
    }

    pub(super) async fn audit_ledger(
        &self,
        request: wire::AuditLedgerRequest,
    ) -> Result<wire::AuditLedgerResponse, Status> {
        let wire::AuditLedgerRequest { node } = request;
        let node = node_id("node", &node).map_err(self.failed())?;
        let report = self.evidence.audit(&self.peers, &node).await.map_err(self.failed())?;
        let AuditReport { node: _, time: _, checkpoint, checks, fork_proof } = report;
        Ok(wire::AuditLedgerResponse {
            checkpoint: checkpoint.unwrap_or_default(),
            checks: checks.into_iter().map(check_message).collect(),
            fork_proof: fork_proof.map(|proof| proof.to_text()).unwrap_or_default(),
        })
    }

    pub(super) async fn state_logs(
        &self,
        request: wire::StateLogsRequest,
    ) -> Result<wire::StateLogsResponse, Status> {
        let wire::StateLogsRequest {} = request;
        self.registrar()?;
        let statement = self.evidence.state_logs().await.map_err(self.failed())?;
        Ok(wire::StateLogsResponse { statement: Some(logs_message(statement)) })
    }

    pub(super) async fn list_logs(
        &self,
        request: wire::ListLogsRequest,
    ) -> Result<wire::ListLogsResponse, Status> {
        let wire::ListLogsRequest { limit, checkpoints } = request;
        self.registrar()?;
        let limit = if limit == 0 { DEFAULT_LOGS } else { limit.min(MAX_LOGS) };
        let mut statements = self.evidence.list_logs(limit as usize).map_err(self.failed())?;
        if !checkpoints {
            statements.iter_mut().flat_map(|one| &mut one.logs).for_each(|head| head.checkpoint = None);
        }
        Ok(wire::ListLogsResponse { statements: statements.into_iter().map(logs_message).collect() })
    }

    pub(super) async fn list_alerts(
        &self,
        request: wire::ListAlertsRequest,
    ) -> Result<wire::ListAlertsResponse, Status> {
        let wire::ListAlertsRequest { all } = request;
        let alerts = self.evidence.alerts(all, MAX_LISTED).map_err(self.failed())?;
        Ok(wire::ListAlertsResponse { alerts: alerts.into_iter().map(alert_message).collect() })
    }

    pub(super) async fn resolve_alert(
        &self,
        request: wire::ResolveAlertRequest,
    ) -> Result<wire::ResolveAlertResponse, Status> {
        let wire::ResolveAlertRequest { id } = request;
        self.evidence.resolve_alert(id).await.map_err(self.failed())?;
        Ok(wire::ResolveAlertResponse {})
    }

    /// Everybody who has to confirm the ledger is asked now, however often they have answered.
    pub(super) async fn compare_ledger(
        &self,
        request: wire::CompareLedgerRequest,
    ) -> Result<wire::CompareLedgerResponse, Status> {
        let wire::CompareLedgerRequest { resume_unconfirmed } = request;
        let compared = self.evidence.compare_all(&self.peers).await.map_err(self.failed())?;
        // Who has shown something that is missing here is heard before the operator.
        let Comparison { compared, safe_mode } = if resume_unconfirmed {
            let resumed = self.evidence.resume_unconfirmed().await.map_err(self.failed())?;
            Comparison { safe_mode: resumed.safe_mode, ..compared }
        } else {
            compared
        };
        Ok(wire::CompareLedgerResponse {
            signing: safe_mode.is_none(),
            safe_mode: safe_mode.unwrap_or_default(),
            checks: compared.into_iter().map(answer_check).collect(),
        })
    }

    /// Goes on when the client goes away; asked again, it goes on where it was.
    pub(super) async fn recover_ledger(
        &self,
        request: wire::RecoverLedgerRequest,
    ) -> Result<Watch<wire::RecoverLedgerResponse>, Status> {
        let wire::RecoverLedgerRequest {} = request;
        let (evidence, peers) = (self.evidence.clone(), self.peers.clone());
        let evidence = match (self.contracts.clone(), self.transfers.clone()) {
            (Some(contracts), Some(transfers)) => {
                evidence.taking_up(move |tx, statement| take_up(tx, statement, &contracts, &transfers))
            }
            _ => evidence,
        };
        Ok(show_work(self.standing.clone(), |steps| async move {
            let mut show = |progress: Progress| {
                steps.send_replace(Some(recovery_step(progress)));
            };
            Ok(recovery_report(evidence.recover(&peers, &mut show).await?))
        }))
    }
}

/// Brings a usage counter, or the standing of a contract, up to what a recovered statement says.
fn take_up(
    tx: &mut Tx<'_>,
    statement: &Statement,
    contracts: &Contracts,
    transfers: &Transfers,
) -> Result<(), ServiceError> {
    match statement.kind() {
        Kind::Usage if transfers.has_issued(statement) => transfers.recount(tx, statement).map(drop),
        Kind::Suspension | Kind::Resumption | Kind::Termination => contracts.restate(tx, statement),
        _ => Ok(()),
    }
}

fn recovery_step(progress: Progress) -> wire::RecoverLedgerResponse {
    let Progress { step, done, total } = progress;
    wire::RecoverLedgerResponse { step: step.to_owned(), done, total, ..Default::default() }
}

fn recovery_report(report: RecoveryReport) -> wire::RecoverLedgerResponse {
    let RecoveryReport {
        from_size,
        to_size,
        recovered,
        lost,
        statements: _,
        affected,
        agreements,
        safe_mode,
    } = report;
    wire::RecoverLedgerResponse {
        step: String::new(),
        done: from_size,
        total: to_size,
        recovered,
        lost: length(lost.len()),
        affected: affected.into_iter().collect(),
        signing: safe_mode.is_none(),
        safe_mode: safe_mode.unwrap_or_default(),
        agreements: agreements.iter().map(ToString::to_string).collect(),
    }
}

fn alert_message(alert: Alert) -> wire::Alert {
    let Alert { id, code, node, subject: _, text, first_seen, last_seen, count, resolved } = alert;
    wire::Alert {
        id,
        code,
        node,
        text,
        first_seen_milliseconds: first_seen.millis(),
        last_seen_milliseconds: last_seen.millis(),
        resolved_milliseconds: resolved.map_or(0, |at| at.millis()),
        count,
    }
}

fn witness(standing: WitnessStanding) -> wire::Witness {
    let WitnessStanding { name, node, size, time, last_error } = standing;
    wire::Witness {
        name,
        node: node.map(|node| node.to_string()).unwrap_or_default(),
        size,
        time_milliseconds: time.map_or(0, |time| time.millis()),
        last_error: last_error.unwrap_or_default(),
    }
}

fn check_message(check: AuditCheck) -> wire::AuditCheck {
    let AuditCheck { name, outcome, detail } = check;
    wire::AuditCheck { name, outcome: outcome.name().to_owned(), detail }
}

fn answer_check(compared: Compared) -> wire::AuditCheck {
    let Compared { who, asked, answer } = compared;
    let part = match asked {
        Asked::Witness => "witness",
        Asked::Counterparty => "counterparty",
    };
    let (outcome, detail) = match answer {
        Answer::NotAhead { detail } => (AuditOutcome::Ok, detail),
        Answer::Ahead { detail } => (AuditOutcome::Failed, detail),
        Answer::Unknown { reason } => (AuditOutcome::Warning, reason),
    };
    check_message(AuditCheck { name: format!("{part} {who}"), outcome, detail })
}

fn logs_message(statement: LogsStatement) -> wire::LogsStatement {
    let LogsStatement { digest, time, index, logs, parts } = statement;
    wire::LogsStatement {
        digest: digest.to_string(),
        time_milliseconds: time.millis(),
        index,
        logs: logs.into_iter().map(log_head).collect(),
        parts: parts.iter().map(ToString::to_string).collect(),
    }
}

fn log_head(head: LogHead) -> wire::LogHead {
    let LogHead { origin, size, root, cosigned, checkpoint } = head;
    let cosigned_milliseconds = cosigned.map_or(0, |time| time.millis());
    let checkpoint = checkpoint.unwrap_or_default();
    wire::LogHead { origin, size, root: root.to_string(), cosigned_milliseconds, checkpoint }
}
