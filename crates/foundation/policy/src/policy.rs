use std::fmt;

use crate::compare;
use crate::constraint::{Constraint, Test};
use crate::error::PolicyError;
use crate::explain;
use crate::parse;
use crate::time::Times;
use crate::vocabulary::{Action, Language};

/// The largest policy document, in bytes.
pub const MAXIMUM_DOCUMENT_BYTES: usize = 8 * 1024;

/// How many JSON arrays and objects may lie inside each other; a policy needs seven.
pub const MAXIMUM_DEPTH: usize = 8;

/// A usage policy that this node understood completely, with the exact bytes it was read from.
///
/// The bytes are what both sides sign; they are never written anew from the typed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    document: Vec<u8>,
    permissions: Vec<Rule>,
    prohibitions: Vec<Rule>,
}

impl Policy {
    /// Reads a document in the names of the digital contract dictionary (`contractPolicies` with
    /// `permissionPolicies`, `prohibitionPolicies`, `obligationPolicies`): JSON in UTF-8, at most
    /// [`MAXIMUM_DOCUMENT_BYTES`] long and [`MAXIMUM_DEPTH`] deep.
    ///
    /// # Errors
    /// Anything this node could not enforce to the letter is a problem, and one problem refuses the document:
    /// unknown or repeated keys, names, operators and values, obligations, conditions that can never hold, and a
    /// policy without any permission. All problems are reported together, each with its JSON path.
    pub fn parse(document: &[u8]) -> Result<Policy, PolicyError> {
        let (permissions, prohibitions) = parse::read_rules(document)?;
        Ok(Policy { document: document.to_vec(), permissions, prohibitions })
    }

    /// The bytes the policy was read from.
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// The permissions in document order; at least one.
    pub fn permissions(&self) -> &[Rule] {
        &self.permissions
    }

    /// The prohibitions in document order.
    pub fn prohibitions(&self) -> &[Rule] {
        &self.prohibitions
    }

    /// The policy in plain words: one line per clause, each opened by the clause's name, and a last line for what is
    /// not mentioned.
    pub fn explain(&self, language: Language) -> Vec<String> {
        explain::policy(self, language)
    }

    /// Whether a decision needs counters.
    pub fn uses_count(&self) -> bool {
        self.permissions.iter().any(Rule::uses_count)
    }

    /// Whether every request this policy allows, `other` allows too. `true` only where that follows clause by
    /// clause; `false` means "not shown", not "wider".
    ///
    /// Counters belong to a clause, so a permission with a limited number of uses is only within the permission of
    /// the same place in `other`.
    pub fn is_within(&self, other: &Policy) -> bool {
        compare::is_within(self, other)
    }

    /// Whether no permission can cover the action at any time from `now` on: each one's time is over, or its uses are used up.
    pub fn is_spent(&self, action: Action, now: u64, used_up: &dyn Fn(&ClauseId) -> bool) -> bool {
        let mut covering = self.permissions.iter().filter(|rule| rule.covers(action));
        covering.all(|rule| used_up(&rule.id) || rule.times().is_over(now))
    }

    /// The next instant after `now` at which a time clause can change the decision, if there is one. Both are
    /// milliseconds since 1970-01-01 UTC.
    pub fn next_boundary(&self, now: u64) -> Option<u64> {
        let rules = self.permissions.iter().chain(&self.prohibitions);
        rules.filter_map(|rule| rule.times().next_change(now)).min()
    }
}

/// A permission or a prohibition: what it is about, and when it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its place in the document, such as `permission[0]`.
    pub id: ClauseId,
    /// The actions it covers, at least one; no action implies another.
    pub actions: Vec<Action>,
    /// The conditions, all of which must hold.
    pub constraints: Vec<Constraint>,
}

impl Rule {
    /// Whether the rule is about this action.
    pub fn covers(&self, action: Action) -> bool {
        self.actions.contains(&action)
    }

    /// Whether each use under this rule consumes its counter.
    pub fn uses_count(&self) -> bool {
        self.constraints.iter().any(|constraint| matches!(constraint.test, Test::Count { .. }))
    }

    /// When the time constraints of this rule hold, all together.
    pub(crate) fn times(&self) -> Times {
        let mut times = Times::always();
        for constraint in &self.constraints {
            match &constraint.test {
                Test::Time { moments, .. } | Test::Interval { moments, .. } => {
                    times.moments = times.moments.intersect(moments);
                }
                Test::Daily { minutes, .. } => times.minutes = times.minutes.intersect(minutes),
                Test::Count { .. }
                | Test::Address(_)
                | Test::Region(_)
                | Test::Party(_)
                | Test::Product(_) => {}
            }
        }
        times
    }
}

/// The name of a rule by its place in the document: `permission[0]`, `prohibition[2]`. Counters are kept under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClauseId(String);

impl ClauseId {
    /// The permission at `index`, counted from zero.
    pub fn permission(index: usize) -> ClauseId {
        ClauseId(format!("permission[{index}]"))
    }

    /// The prohibition at `index`, counted from zero.
    pub fn prohibition(index: usize) -> ClauseId {
        ClauseId(format!("prohibition[{index}]"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClauseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
