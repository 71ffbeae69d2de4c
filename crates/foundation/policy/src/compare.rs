use crate::constraint::{Constraint, Test};
use crate::element::{Element, Membership, Network, PartyName, ProductName, RegionCode};
use crate::policy::{Policy, Rule};

/// Whether `inner` allows nothing that `outer` denies, shown rule by rule:
/// every permission of `inner` lies inside one of `outer`, for each of its actions, and every prohibition of `outer`
/// is repeated or made pointless by `inner`.
pub(crate) fn is_within(inner: &Policy, outer: &Policy) -> bool {
    inner.permissions().iter().all(|permission| {
        permission.actions.iter().all(|action| {
            let mut wider = outer.permissions().iter().filter(|rule| rule.covers(*action));
            let mut forbidding = outer.prohibitions().iter().filter(|rule| rule.covers(*action));
            wider.any(|rule| implies(permission, rule))
                && forbidding.all(|prohibition| {
                    let mut own = inner.prohibitions().iter().filter(|rule| rule.covers(*action));
                    own.any(|rule| implies(prohibition, rule)) || excludes(permission, prohibition)
                })
        })
    })
}

/// Why no request at all can meet every condition of this rule, if that is so.
pub(crate) fn find_contradiction(rule: &Rule) -> Option<String> {
    if rule.times().is_empty() {
        return Some("can never hold: its time conditions have no instant in common".to_owned());
    }
    for (position, constraint) in rule.constraints.iter().enumerate() {
        let others: Vec<&Constraint> = rule
            .constraints
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != position)
            .map(|(_, other)| other)
            .collect();
        if is_refuted(constraint, &others) {
            return Some(format!("can never hold: its {} conditions exclude each other", constraint.name));
        }
    }
    None
}

/// Whether `wide` holds wherever `narrow` does, and can only fail where `narrow` fails. The second half is what lets
/// the same test serve prohibitions, which apply unless a condition is known to fail.
fn implies(narrow: &Rule, wide: &Rule) -> bool {
    let (inside, outside) = (narrow.times(), wide.times());
    let given: Vec<&Constraint> = narrow.constraints.iter().collect();
    inside.moments.is_subset(&outside.moments)
        && inside.minutes.is_subset(&outside.minutes)
        && wide.constraints.iter().all(|constraint| match &constraint.test {
            Test::Time { .. } | Test::Interval { .. } | Test::Daily { .. } => true,
            Test::Count { limit } => {
                narrow.id == wide.id
                    && narrow
                        .constraints
                        .iter()
                        .any(|own| matches!(own.test, Test::Count { limit: lower } if lower <= *limit))
            }
            Test::Address(membership) => membership.follows_from(&Network::conditions(&given)),
            Test::Region(membership) => membership.follows_from(&RegionCode::conditions(&given)),
            Test::Party(membership) => membership.follows_from(&PartyName::conditions(&given)),
            Test::Product(membership) => membership.follows_from(&ProductName::conditions(&given)),
        })
}

/// Whether a condition of `prohibition` is known to fail wherever `permission` holds.
fn excludes(permission: &Rule, prohibition: &Rule) -> bool {
    let (allowed, forbidden) = (permission.times(), prohibition.times());
    let given: Vec<&Constraint> = permission.constraints.iter().collect();
    let shared = crate::time::Times {
        moments: allowed.moments.intersect(&forbidden.moments),
        minutes: allowed.minutes.intersect(&forbidden.minutes),
    };
    shared.is_empty() || prohibition.constraints.iter().any(|constraint| is_refuted(constraint, &given))
}

/// Whether `constraint` is known to fail wherever all of `given` hold; time is compared elsewhere, as a whole.
fn is_refuted(constraint: &Constraint, given: &[&Constraint]) -> bool {
    match &constraint.test {
        Test::Time { .. } | Test::Interval { .. } | Test::Daily { .. } | Test::Count { .. } => false,
        Test::Address(membership) => membership.is_refuted_by(&Network::conditions(given)),
        Test::Region(membership) => membership.is_refuted_by(&RegionCode::conditions(given)),
        Test::Party(membership) => membership.is_refuted_by(&PartyName::conditions(given)),
        Test::Product(membership) => membership.is_refuted_by(&ProductName::conditions(given)),
    }
}

/// Picks the conditions that speak of the same fact.
trait Fact: Element + Sized {
    fn condition(test: &Test) -> Option<&Membership<Self>>;

    fn conditions<'c>(constraints: &[&'c Constraint]) -> Vec<&'c Membership<Self>> {
        constraints.iter().filter_map(|constraint| Self::condition(&constraint.test)).collect()
    }
}

impl Fact for Network {
    fn condition(test: &Test) -> Option<&Membership<Network>> {
        if let Test::Address(membership) = test { Some(membership) } else { None }
    }
}

impl Fact for RegionCode {
    fn condition(test: &Test) -> Option<&Membership<RegionCode>> {
        if let Test::Region(membership) = test { Some(membership) } else { None }
    }
}

impl Fact for PartyName {
    fn condition(test: &Test) -> Option<&Membership<PartyName>> {
        if let Test::Party(membership) = test { Some(membership) } else { None }
    }
}

impl Fact for ProductName {
    fn condition(test: &Test) -> Option<&Membership<ProductName>> {
        if let Test::Product(membership) = test { Some(membership) } else { None }
    }
}
