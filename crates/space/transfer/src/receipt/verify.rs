//! Offline verification: a receipt and a trust file in, claims and problems out. Pure.

use bytes::Bytes;
use huitong_catalog::{AssetCertificate, AssetKind};
use huitong_contract::{Agreement, agreement_hash};
use huitong_identity::{Credential, Role, Trust, TrustedRegistrar};
use huitong_ledger::QuorumPolicy;
use huitong_proof::cbor::{Fields, Value};
use huitong_proof::{Digest, Envelope, Kind, Statement};

use super::ledgers::{LogPart, read_log};
use super::report::{Facts, ProblemKind, Report};
use super::{FORMAT, LIMITS, REGISTRAR_STATEMENTS};
use crate::details::{AcceptDetail, AckDetail, AckStatus, OfferDetail, UsageDetail, read_final};

use ProblemKind::{Incomplete, Invalid, Unreadable};

/// Why verification cannot go on: already in the report.
pub(super) struct Stop;

/// Checks a receipt against the registrars that the verifier trusts and, if given, against the quorum of witnesses that it
/// demands. Needs nothing else: no node, no network, no clock.
pub fn verify(bytes: &[u8], trust: &Trust, policy: Option<&QuorumPolicy>) -> Report {
    let mut report = Report::default();
    let facts = Verification { report: &mut report, trust, policy }.run(bytes).ok();
    // Figures count only in a receipt that holds as a whole.
    report.facts = facts.filter(|_| report.problems.is_empty());
    report
}

pub(super) struct Verification<'a> {
    pub(super) report: &'a mut Report,
    trust: &'a Trust,
    pub(super) policy: Option<&'a QuorumPolicy>,
}

/// The file, taken apart but not yet believed.
struct Parts {
    agreement: Vec<u8>,
    statements: Vec<Vec<u8>>,
    logs: Vec<LogPart>,
    witnesses: Vec<Vec<u8>>,
}

impl Verification<'_> {
    fn run(&mut self, bytes: &[u8]) -> Result<Facts, Stop> {
        let parts = self.take_apart(bytes)?;
        let mut statements = parts.statements.iter();
        let provider = self.credential("the provider's credential", statements.next())?;
        let consumer = self.credential("the consumer's credential", statements.next())?;
        let certificate = self.certificate(statements.next())?;
        for (what, credential, role) in [
            ("the provider's credential", &provider, Role::Provider),
            ("the consumer's credential", &consumer, Role::Consumer),
        ] {
            if !credential.roles.contains(&role) {
                return Err(self.stop(Invalid, what, format!("does not name the role {}", role.name())));
            }
        }
        if provider.node == consumer.node {
            return Err(self.stop(Invalid, "the consumer's credential", "is the provider's"));
        }
        let agreement = Agreement::decode(&parts.agreement)
            .map_err(|error| self.stop(Invalid, "the agreement document", error))?;
        self.parties(&agreement, &provider, &consumer)?;

        let mut shared = Vec::new();
        for (index, bytes) in parts.statements.iter().enumerate().skip(REGISTRAR_STATEMENTS) {
            shared.push(self.shared(index, bytes, &provider, &consumer)?);
        }
        let chain = Chain::sort(&shared).map_err(|(kind, what, reason)| self.stop(kind, what, reason))?;
        let hash = self.agreement(&parts.agreement, &agreement, &chain)?;
        self.asset(&certificate, &agreement)?;
        let facts = self.delivery(&chain, &agreement, &certificate.0, [&provider, &consumer], &hash)?;

        let witnesses = self.witnesses(&parts.witnesses, [&provider, &consumer])?;
        self.ledgers(&parts.logs, [&provider, &consumer], &witnesses, &shared)?;
        Ok(facts)
    }

    fn take_apart(&mut self, bytes: &[u8]) -> Result<Parts, Stop> {
        let unreadable = |report: &mut Report, error: &dyn std::fmt::Display| {
            report.problem(Unreadable, "the receipt file", error);
            Stop
        };
        let mut fields = Fields::decode(bytes, LIMITS, "receipt")
            .map_err(|error| unreadable(self.report, &source_chain(&error)))?;
        let format =
            fields.text(1, "format").map_err(|error| unreadable(self.report, &source_chain(&error)))?;
        if format != FORMAT {
            return Err(unreadable(self.report, &format!("format {format:?} is not {FORMAT:?}")));
        }
        let agreement =
            fields.bytes(2, "agreement").map_err(|error| unreadable(self.report, &source_chain(&error)))?;
        let values =
            fields.array(3, "statements").map_err(|error| unreadable(self.report, &source_chain(&error)))?;
        let statements =
            byte_strings("statements", values).map_err(|error| unreadable(self.report, &error))?;
        let values =
            fields.array(4, "logs").map_err(|error| unreadable(self.report, &source_chain(&error)))?;
        let mut logs = Vec::with_capacity(values.len().min(2));
        for (index, value) in values.into_iter().enumerate() {
            let log = read_log(value)
                .map_err(|error| unreadable(self.report, &format!("logs[{index}]: {error}")))?;
            logs.push(log);
        }
        let values =
            fields.array(5, "witnesses").map_err(|error| unreadable(self.report, &source_chain(&error)))?;
        let witnesses = byte_strings("witnesses", values).map_err(|error| unreadable(self.report, &error))?;
        fields.finish().map_err(|error| unreadable(self.report, &source_chain(&error)))?;
        Ok(Parts { agreement, statements, logs, witnesses })
    }

    /// A registrar's statement about a node: signed by a registrar that the trust file names.
    pub(super) fn credential(&mut self, what: &str, bytes: Option<&Vec<u8>>) -> Result<Credential, Stop> {
        let (statement, registrar) = self.registrar_statement(what, bytes)?;
        let credential =
            Credential::from_statement(&statement).map_err(|error| self.stop(Invalid, what, error))?;
        self.report.claim(
            "credential",
            format!(
                "registrar {} ({}) certified node {} of {} ({}), valid from {} to {}",
                registrar.name,
                registrar.node,
                credential.node,
                credential.name,
                credential.entity,
                credential.not_before,
                credential.not_after
            ),
        );
        Ok(credential)
    }

    fn certificate(&mut self, bytes: Option<&Vec<u8>>) -> Result<(AssetCertificate, String), Stop> {
        let what = "the asset certificate";
        let (statement, registrar) = self.registrar_statement(what, bytes)?;
        let certificate =
            AssetCertificate::from_statement(&statement).map_err(|error| self.stop(Invalid, what, error))?;
        if certificate.kind != AssetKind::Product {
            return Err(self.stop(Invalid, what, "is not about a data product"));
        }
        Ok((certificate, format!("{} ({})", registrar.name, registrar.node)))
    }

    fn registrar_statement(
        &mut self,
        what: &str,
        bytes: Option<&Vec<u8>>,
    ) -> Result<(Statement, TrustedRegistrar), Stop> {
        let bytes = bytes.ok_or_else(|| self.stop(Incomplete, what, "is missing"))?;
        let envelope = self.envelope(what, bytes)?;
        let trust = self.trust;
        let registrar = trust.registrar(envelope.claimed_issuer()).ok_or_else(|| {
            let reason =
                format!("its issuer {:?} is not a registrar of the trust file", envelope.claimed_issuer());
            self.stop(Invalid, what, reason)
        })?;
        let statement = envelope
            .verify(&registrar.statement_key, &trust.space)
            .map_err(|error| self.stop(Invalid, what, source_chain(&error)))?;
        Ok((statement, registrar.clone()))
    }

    fn parties(
        &mut self,
        agreement: &Agreement,
        provider: &Credential,
        consumer: &Credential,
    ) -> Result<(), Stop> {
        for (what, party, credential) in
            [("provider", &agreement.provider, provider), ("consumer", &agreement.consumer, consumer)]
        {
            if party.node != credential.node
                || party.entity != credential.entity
                || party.name != credential.name
            {
                return Err(self.stop(
                    Invalid,
                    "the agreement document",
                    format!("its {what} is not the one whose credential is in the receipt"),
                ));
            }
        }
        if agreement.space != self.trust.space {
            return Err(self.stop(Invalid, "the agreement document", "belongs to another data space"));
        }
        Ok(())
    }

    /// A statement of one of the two parties to the other.
    fn shared(
        &mut self,
        index: usize,
        bytes: &[u8],
        provider: &Credential,
        consumer: &Credential,
    ) -> Result<Statement, Stop> {
        let place = format!("statements[{index}]");
        let envelope = self.envelope(&place, bytes)?;
        let issuer = envelope.claimed_issuer().to_owned();
        let (credential, other) = if issuer == provider.node.as_str() {
            (provider, consumer)
        } else if issuer == consumer.node.as_str() {
            (consumer, provider)
        } else {
            return Err(self.stop(Invalid, place, format!("its issuer {issuer:?} is neither party")));
        };
        let statement = envelope
            .verify(&credential.statement_key, &self.trust.space)
            .map_err(|error| self.stop(Invalid, &place, source_chain(&error)))?;
        let what = format!("{place} ({})", statement.kind().name());
        if statement.body().audience != other.node.as_str() {
            return Err(self.stop(Invalid, what, "is not addressed to the other party"));
        }
        if !credential.is_valid_at(statement.body().time) {
            let reason = format!("was signed at {}, outside its issuer's credential", statement.body().time);
            return Err(self.stop(Invalid, what, reason));
        }
        Ok(statement)
    }

    /// Both signed one byte string; gives the agreement hash.
    fn agreement(
        &mut self,
        document: &[u8],
        agreement: &Agreement,
        chain: &Chain<'_>,
    ) -> Result<Digest, Stop> {
        let signed = Digest::sha256(document);
        for (statement, by, from) in [
            (chain.agreement, "the provider's agreement", &agreement.provider.node),
            (chain.verification, "the consumer's verification", &agreement.consumer.node),
        ] {
            let read = statement.detail("agreement").and_then(|mut detail| {
                let named = (detail.digest(1, "document")?, detail.text(2, "contract")?);
                detail.finish()?;
                Ok(named)
            });
            let (digest, contract) = read.map_err(|error| self.stop(Invalid, by, error))?;
            if digest != signed || contract != agreement.contract.as_str() {
                return Err(self.stop(Invalid, by, "signs another agreement document"));
            }
            let body = statement.body();
            if body.issuer != from.as_str()
                || body.subject != agreement.negotiation
                || body.agreement != Digest::ZERO
            {
                return Err(self.stop(
                    Invalid,
                    by,
                    "comes from the wrong party, or belongs to another negotiation or agreement",
                ));
            }
        }
        if chain.verification.body().reference != chain.agreement.digest() {
            return Err(self.stop(
                Invalid,
                "the consumer's verification",
                "does not answer the provider's agreement",
            ));
        }
        let hash = agreement_hash(document, chain.agreement, chain.verification);
        let finalisation = chain.finalisation.body();
        if finalisation.subject != agreement.negotiation
            || finalisation.agreement != hash
            || finalisation.reference != chain.verification.digest()
            || finalisation.issuer != agreement.provider.node.as_str()
        {
            return Err(self.stop(Invalid, "the finalisation", "does not close this agreement"));
        }
        self.report.claim(
            "agreement",
            format!(
                "{} ({}) and {} ({}) both signed contract {} on product {} ({}), the provider at {} and the consumer at {} by their own clocks",
                agreement.provider.name, agreement.provider.node, agreement.consumer.name, agreement.consumer.node,
                agreement.contract, agreement.product_name, agreement.product,
                chain.agreement.body().time, chain.verification.body().time
            ),
        );
        Ok(hash)
    }

    fn asset(&mut self, certificate: &(AssetCertificate, String), agreement: &Agreement) -> Result<(), Stop> {
        let (certificate, registrar) = certificate;
        if certificate.id != agreement.product
            || agreement
                .root()
                .is_some_and(|root| root != certificate.root || agreement.size != certificate.size)
            || certificate.holder != agreement.provider.entity
        {
            return Err(self.stop(
                Invalid,
                "the asset certificate",
                "is about another product than the agreement",
            ));
        }
        if agreement.version.is_some_and(|oldest| certificate.version < oldest) {
            return Err(self.stop(
                Invalid,
                "the asset certificate",
                "is about an older version than was agreed on",
            ));
        }
        self.report.claim(
            "asset",
            format!(
                "registrar {registrar} registered version {} of product {} of {} bytes with BLAKE3 root {} for {}",
                certificate.version, certificate.id, certificate.size, certificate.root, certificate.holder
            ),
        );
        Ok(())
    }

    fn delivery(
        &mut self,
        chain: &Chain<'_>,
        agreement: &Agreement,
        certificate: &AssetCertificate,
        [provider, consumer]: [&Credential; 2],
        hash: &Digest,
    ) -> Result<Facts, Stop> {
        let transfer = chain.offer.body().subject;
        let moved = [
            ("the offer", chain.offer, provider),
            ("the acceptance", chain.accept, consumer),
            ("the acknowledgement", chain.ack, consumer),
            ("the final", chain.last, provider),
        ];
        for (what, statement, by) in
            moved.into_iter().chain(chain.usage.iter().map(|usage| ("a usage record", *usage, provider)))
        {
            let body = statement.body();
            if body.issuer != by.node.as_str() {
                return Err(self.stop(Invalid, what, "comes from the wrong party"));
            }
            if body.agreement != *hash {
                return Err(self.stop(Invalid, what, "belongs to another agreement"));
            }
            if body.subject != transfer {
                return Err(self.stop(Invalid, what, "belongs to another transfer"));
            }
        }
        let offer = OfferDetail::read(chain.offer).map_err(|error| self.stop(Invalid, "the offer", error))?;
        if offer.product != agreement.product
            || offer.root != certificate.root
            || offer.size != certificate.size
            || offer.window != agreement.window_bytes
            || offer.policy != Digest::sha256(&agreement.policy)
            || chain.offer.body().reference != chain.finalisation.digest()
        {
            return Err(self.stop(Invalid, "the offer", "is not what was agreed"));
        }
        if offer.usage != chain.usage.iter().map(|usage| usage.digest()).collect::<Vec<_>>() {
            let kind = if offer.usage.len() > chain.usage.len() { Incomplete } else { Invalid };
            return Err(self.stop(kind, "the usage records", "are not those that the offer names"));
        }
        for usage in &chain.usage {
            UsageDetail::read(usage).map_err(|error| self.stop(Invalid, "a usage record", error))?;
        }
        AcceptDetail::read(chain.accept).map_err(|error| self.stop(Invalid, "the acceptance", error))?;
        if chain.accept.body().reference != chain.offer.digest() {
            return Err(self.stop(Invalid, "the acceptance", "does not answer the offer"));
        }
        let ack =
            AckDetail::read(chain.ack).map_err(|error| self.stop(Invalid, "the acknowledgement", error))?;
        if chain.ack.body().reference != chain.accept.digest() {
            return Err(self.stop(Invalid, "the acknowledgement", "does not follow the acceptance"));
        }
        if ack.root != offer.root
            || ack.status != AckStatus::Complete
            || ack.bytes != offer.size
            || ack.groups != offer.groups()
        {
            return Err(self.stop(
                Incomplete,
                "the acknowledgement",
                format!("covers {} of {} bytes", ack.bytes, offer.size),
            ));
        }
        let root = read_final(chain.last).map_err(|error| self.stop(Invalid, "the final", error))?;
        if root != offer.root || chain.last.body().reference != chain.ack.digest() {
            return Err(self.stop(Invalid, "the final", "does not answer the acknowledgement"));
        }
        let (offered, acknowledged, closed) =
            (chain.offer.body().time, chain.ack.body().time, chain.last.body().time);
        let what =
            format!("{} bytes of product {} with BLAKE3 root {}", ack.bytes, agreement.product, ack.root);
        let under = format!("under contract {}", agreement.contract);
        self.report.claim(
            "offer",
            format!(
                "provider {} ({}) offered {what} at {offered} by its clock, {under}",
                provider.name, provider.node
            ),
        );
        self.report.claim(
            "acknowledgement",
            format!(
                "consumer {} ({}) acknowledged {what}, between {offered} (provider's clock) and {acknowledged} (its own clock), {under}",
                consumer.name, consumer.node
            ),
        );
        self.report.claim(
            "final",
            format!("provider {} ({}) closed the transfer of {what} as delivered at {closed} by its clock, {under}", provider.name, provider.node),
        );
        Ok(Facts {
            contract: agreement.contract.to_string(),
            product: agreement.product.to_string(),
            product_name: agreement.product_name.clone(),
            provider: provider.node.to_string(),
            provider_name: provider.name.clone(),
            consumer: consumer.node.to_string(),
            consumer_name: consumer.name.clone(),
            bytes: ack.bytes,
            blake3: ack.root,
            offered,
            acknowledged,
            closed,
        })
    }

    fn envelope(&mut self, what: &str, bytes: &[u8]) -> Result<Envelope, Stop> {
        Envelope::decode(Bytes::copy_from_slice(bytes))
            .map_err(|error| self.stop(Invalid, what, source_chain(&error)))
    }

    pub(super) fn stop(
        &mut self,
        kind: ProblemKind,
        what: impl Into<String>,
        reason: impl std::fmt::Display,
    ) -> Stop {
        self.report.problem(kind, what, reason);
        Stop
    }
}

/// The shared statements by their part in the story.
struct Chain<'a> {
    agreement: &'a Statement,
    verification: &'a Statement,
    finalisation: &'a Statement,
    usage: Vec<&'a Statement>,
    offer: &'a Statement,
    accept: &'a Statement,
    ack: &'a Statement,
    last: &'a Statement,
}

impl<'a> Chain<'a> {
    /// The order is fixed, so that one set of statements has one receipt.
    fn sort(shared: &'a [Statement]) -> Result<Self, (ProblemKind, String, String)> {
        let mut rest = shared.iter().peekable();
        let agreement = next(&mut rest, Kind::Agreement)?;
        let verification = next(&mut rest, Kind::Verification)?;
        let finalisation = next(&mut rest, Kind::Finalisation)?;
        let mut usage = Vec::new();
        while let Some(statement) = rest.next_if(|statement| statement.kind() == Kind::Usage) {
            usage.push(statement);
        }
        let offer = next(&mut rest, Kind::Offer)?;
        let accept = next(&mut rest, Kind::Accept)?;
        let ack = next(&mut rest, Kind::Ack)?;
        let last = next(&mut rest, Kind::Final)?;
        match rest.next() {
            None => Ok(Self { agreement, verification, finalisation, usage, offer, accept, ack, last }),
            Some(more) => Err((
                Invalid,
                format!("a further {}", more.kind().name()),
                "has no place in a receipt".to_owned(),
            )),
        }
    }
}

fn next<'a>(
    rest: &mut std::iter::Peekable<std::slice::Iter<'a, Statement>>,
    kind: Kind,
) -> Result<&'a Statement, (ProblemKind, String, String)> {
    match rest.next() {
        Some(statement) if statement.kind() == kind => Ok(statement),
        Some(other) => Err((
            Incomplete,
            format!("the {}", kind.name()),
            format!("is missing; a {} stands in its place", other.kind().name()),
        )),
        None => Err((Incomplete, format!("the {}", kind.name()), "is missing".to_owned())),
    }
}

fn byte_strings(what: &str, values: Vec<Value>) -> Result<Vec<Vec<u8>>, String> {
    let bytes = values.into_iter().enumerate().map(|(index, value)| match value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(format!("{what}[{index}] is not a byte string")),
    });
    bytes.collect()
}

/// An error with its sources, which errors do not repeat in their own text.
pub(super) fn source_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
