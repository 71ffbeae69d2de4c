use crate::element::{Membership, Network, PartyName, ProductName, RegionCode, Truth};
use crate::policy::ClauseId;
use crate::spans::Spans;
use crate::time::{Daily, Interval};
use crate::vocabulary::{ConstraintName, Operator};

/// One condition of a rule, read and understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    pub(crate) clause: String,
    pub(crate) name: ConstraintName,
    pub(crate) operator: Operator,
    pub(crate) values: Vec<String>,
    pub(crate) test: Test,
    /// The condition in English words, made once: every decision repeats it.
    pub(crate) sentence: String,
}

impl Constraint {
    /// The clause as decisions name it: `permission[0].count`, and `permission[0].time[1]` for the second
    /// constraint of that name in the rule.
    pub fn clause(&self) -> &str {
        &self.clause
    }

    /// What is limited.
    pub fn name(&self) -> ConstraintName {
        self.name
    }

    /// How it is compared.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values as written in the document, one or more.
    pub fn values(&self) -> &[String] {
        &self.values
    }
}

/// The executable form of a constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Time {
        instant: u64,
        moments: Spans,
    },
    Interval {
        intervals: Vec<Interval>,
        moments: Spans,
    },
    Daily {
        windows: Vec<Daily>,
        minutes: Spans,
    },
    /// Holds while fewer than `limit` uses are counted; `limit` is at least 1.
    Count {
        limit: u64,
    },
    Address(Membership<Network>),
    Region(Membership<RegionCode>),
    Party(Membership<PartyName>),
    Product(Membership<ProductName>),
}

impl Test {
    pub(crate) fn run(&self, rule: &ClauseId, request: &crate::Request<'_>) -> Truth {
        match self {
            Test::Time { moments, .. } | Test::Interval { moments, .. } => {
                Truth::from(moments.contains(request.now))
            }
            Test::Daily { minutes, .. } => {
                Truth::from(minutes.contains(crate::time::minute_of_day(request.now)))
            }
            Test::Count { limit } => Truth::from((request.used)(rule) < *limit),
            Test::Address(membership) => membership.test(request),
            Test::Region(membership) => membership.test(request),
            Test::Party(membership) => membership.test(request),
            Test::Product(membership) => membership.test(request),
        }
    }
}
