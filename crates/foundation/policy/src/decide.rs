use std::net::IpAddr;

use crate::constraint::{Constraint, Test};
use crate::element::Truth;
use crate::policy::{ClauseId, Policy, Rule};
use crate::time::show_instant;
use crate::vocabulary::Action;

/// What is asked, and every fact a policy may look at. Facts come from the node itself, never from the caller's own
/// claim; what the node does not know is left empty, which no clause takes in the caller's favour.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The present moment in milliseconds since 1970-01-01 UTC.
    pub now: u64,
    /// What is to be done.
    pub action: Action,
    /// Node id of who asks, 32 characters. Anything else counts as unknown.
    pub party: &'a str,
    /// Entity code of who asks, 18 characters. Anything else counts as unknown.
    pub entity: &'a str,
    /// Identifier of the product asked for, 32 characters with an optional extension. Anything else counts as
    /// unknown.
    pub product: &'a str,
    /// Address from which the call comes. IPv4-mapped IPv6 counts as IPv4.
    pub address: Option<IpAddr>,
    /// The four-digit region segment of the caller's attested registration (GB/T 2260-2007). Anything else, and an
    /// industry segment, counts as unknown.
    pub region: Option<&'a str>,
    /// How often the permission of that name was used already, before this request.
    pub used: &'a dyn Fn(&ClauseId) -> u64,
}

/// The answer to a request, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Allow or deny.
    pub verdict: Verdict,
    /// Every clause looked at: prohibitions, then permissions, in document order.
    pub clauses: Vec<ClauseVerdict>,
    /// The rules whose counter this use consumes; empty unless allowed. An uncounted permission that holds is used
    /// before a counted one, and among counted ones the first: one use never consumes two counters.
    pub counts: Vec<ClauseId>,
}

/// Allow or deny.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A permission holds and no prohibition applies.
    Allow,
    /// Refused.
    Deny {
        /// The clause that refused: `prohibition[0]`, the first failing clause of the first permission that covers
        /// the action such as `permission[0].count`, or `default` where no permission covers it.
        clause: String,
        /// Why, in plain words.
        reason: String,
    },
}

/// How one clause came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClauseVerdict {
    /// The clause: `permission[0].action`, `permission[0].count`.
    pub clause: String,
    /// Whether its condition is met. In a prohibition an unknown fact counts as met, in a permission as not met.
    pub holds: bool,
    /// Why, in plain words.
    pub reason: String,
}

/// Decides a request. A prohibition beats every permission; what no permission covers is denied.
pub fn decide(policy: &Policy, request: &Request<'_>) -> Decision {
    let rules = policy.prohibitions().iter().chain(policy.permissions());
    let mut clauses = Vec::with_capacity(rules.map(|rule| rule.constraints.len().saturating_add(1)).sum());
    let mut applying_prohibition = None;
    for rule in policy.prohibitions() {
        let outcome = weigh(rule, Effect::Forbidden, request, &mut clauses);
        if let Outcome::Holds { relied_on_unknown } = outcome
            && applying_prohibition.is_none()
        {
            applying_prohibition = Some((rule, relied_on_unknown));
        }
    }

    let mut first_failure = None;
    let mut granting: Option<&Rule> = None;
    for rule in policy.permissions() {
        match weigh(rule, Effect::Allowed, request, &mut clauses) {
            Outcome::NotCovered => {}
            Outcome::Fails { position } => first_failure = first_failure.or(Some(position)),
            Outcome::Holds { .. } => {
                if granting.is_none_or(|earlier| earlier.uses_count() && !rule.uses_count()) {
                    granting = Some(rule);
                }
            }
        }
    }

    let verdict = if let Some((rule, relied_on_unknown)) = applying_prohibition {
        let action = request.action;
        let reason = match relied_on_unknown {
            None => format!("{action} is forbidden here"),
            Some(clause) => format!(
                "{action} is forbidden here; {clause} could not be checked, so the prohibition is taken to apply"
            ),
        };
        Verdict::Deny { clause: rule.id.to_string(), reason }
    } else if granting.is_some() {
        Verdict::Allow
    } else if let Some(failure) = first_failure.and_then(|position| clauses.get(position)) {
        Verdict::Deny { clause: failure.clause.clone(), reason: failure.reason.clone() }
    } else {
        let reason = format!("no permission covers {}; whatever is not allowed is denied", request.action);
        Verdict::Deny { clause: "default".to_owned(), reason }
    };
    let counts = match (&verdict, granting) {
        (Verdict::Allow, Some(rule)) if rule.uses_count() => vec![rule.id.clone()],
        _ => Vec::new(),
    };
    Decision { verdict, clauses, counts }
}

#[derive(Clone, Copy)]
enum Effect {
    Allowed,
    Forbidden,
}

impl Effect {
    fn word(self) -> &'static str {
        match self {
            Effect::Allowed => "allowed",
            Effect::Forbidden => "forbidden",
        }
    }
}

enum Outcome<'p> {
    NotCovered,
    /// `position` of the first failing clause among the verdicts.
    Fails {
        position: usize,
    },
    /// `relied_on_unknown` names the first clause that was taken to hold without being known.
    Holds {
        relied_on_unknown: Option<&'p str>,
    },
}

fn weigh<'p>(
    rule: &'p Rule,
    effect: Effect,
    request: &Request<'_>,
    clauses: &mut Vec<ClauseVerdict>,
) -> Outcome<'p> {
    let is_covered = rule.covers(request.action);
    let about = if is_covered { "covers " } else { "does not cover " };
    clauses.push(ClauseVerdict {
        clause: [rule.id.as_str(), ".action"].concat(),
        holds: is_covered,
        reason: [about, request.action.wire()].concat(),
    });
    if !is_covered {
        return Outcome::NotCovered;
    }

    let mut failure = None;
    let mut relied_on_unknown = None;
    for constraint in &rule.constraints {
        let truth = constraint.test.run(&rule.id, request);
        let holds = match (truth, effect) {
            (Truth::Holds, _) | (Truth::Unknown, Effect::Forbidden) => true,
            (Truth::Fails, _) | (Truth::Unknown, Effect::Allowed) => false,
        };
        if !holds && failure.is_none() {
            failure = Some(clauses.len());
        }
        if truth == Truth::Unknown && relied_on_unknown.is_none() {
            relied_on_unknown = Some(constraint.clause());
        }
        let reason = match truth {
            Truth::Holds => constraint.sentence.clone(),
            Truth::Fails | Truth::Unknown => {
                let found = found(constraint, truth, &rule.id, request);
                format!("{} only {}, but {found}", effect.word(), constraint.sentence)
            }
        };
        clauses.push(ClauseVerdict { clause: constraint.clause.clone(), holds, reason });
    }
    match failure {
        Some(position) => Outcome::Fails { position },
        None => Outcome::Holds { relied_on_unknown },
    }
}

fn found(constraint: &Constraint, truth: Truth, rule: &ClauseId, request: &Request<'_>) -> String {
    if truth == Truth::Unknown {
        return match constraint.test {
            Test::Time { .. } | Test::Interval { .. } | Test::Daily { .. } => "the time is not known",
            Test::Count { .. } => "the number of uses is not known",
            Test::Address(_) => "the address of the caller is not known",
            Test::Region(_) => "the region of the caller is not known",
            Test::Party(_) => "the identity of the caller is not known",
            Test::Product(_) => "the product is not known",
        }
        .to_owned();
    }
    match &constraint.test {
        Test::Time { .. } | Test::Interval { .. } | Test::Daily { .. } => {
            format!("it is {}", show_instant(request.now))
        }
        Test::Count { .. } => match (request.used)(rule) {
            1 => "it has already been used once".to_owned(),
            uses => format!("it has already been used {uses} times"),
        },
        Test::Address(_) => match request.address {
            Some(address) => format!("the call comes from {}", address.to_canonical()),
            None => "the address of the caller is not known".to_owned(),
        },
        Test::Region(_) => format!("the caller is registered in {}", request.region.unwrap_or("no region")),
        Test::Party(_) => format!("the caller is node {} of entity {}", request.party, request.entity),
        Test::Product(_) => format!("the product is {}", request.product),
    }
}
