//! Random policies and requests from a small world, decided a second time by a naive model: calendar arithmetic on
//! local minutes, addresses as strings of bits, three-valued logic over `Option<bool>`.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::{
    DAY, ENTITY_A, ENTITY_B, HOUR, MIDNIGHT, MINUTE, NODE_A, NODE_B, PRODUCT_A, PRODUCT_B, constraint,
    document,
};
use crate::{Action, ClauseId, Operator, Policy, Request, Verdict, decide};

const SLOT: u64 = 30 * MINUTE;
const SLOTS: u64 = 96;
const ACTIONS: [Action; 3] = [Action::Read, Action::Delivery, Action::PolicyTransmit];
const NETWORKS: [(&str, bool); 7] = [
    ("10.0.0.0/8", false),
    ("10.1.0.0/16", false),
    ("10.1.2.3", true),
    ("192.0.2.0/24", false),
    ("0.0.0.0/0", false),
    ("2001:db8::/32", false),
    ("2001:db8::7", true),
];
const REGIONS: [&str; 5] = ["43", "44", "4301", "4302", "4403"];
const PARTIES: [&str; 4] = [NODE_A, NODE_B, ENTITY_A, ENTITY_B];
const PRODUCTS: [&str; 2] = [PRODUCT_A, PRODUCT_B];

#[derive(Clone, Debug)]
struct ModelPolicy {
    permissions: Vec<ModelRule>,
    prohibitions: Vec<ModelRule>,
}

#[derive(Clone, Debug)]
struct ModelRule {
    actions: Vec<Action>,
    constraints: Vec<ModelConstraint>,
}

#[derive(Clone, Debug)]
enum ModelConstraint {
    Time(Operator, u64),
    Intervals(Operator, Vec<(u64, u64)>),
    /// Start and end in slots of the local day, offset in minutes.
    Days(Operator, Vec<(u64, u64, i64)>),
    Count(Operator, u64),
    Address(Operator, Vec<&'static str>),
    Region(Operator, Vec<&'static str>),
    Party(Operator, Vec<&'static str>),
    Product(Operator, Vec<&'static str>),
}

#[derive(Clone, Debug)]
struct Facts {
    now: u64,
    action: Action,
    party: &'static str,
    entity: &'static str,
    product: &'static str,
    address: Option<IpAddr>,
    region: Option<&'static str>,
    used: [u64; 3],
}

impl Facts {
    fn ask<T>(&self, question: impl FnOnce(&Request<'_>) -> T) -> T {
        let used = |clause: &ClauseId| {
            let index = (0..3).find(|index| *clause == ClauseId::permission(*index)).unwrap();
            self.used[index]
        };
        question(&Request {
            now: self.now,
            action: self.action,
            party: self.party,
            entity: self.entity,
            product: self.product,
            address: self.address,
            region: self.region,
            used: &used,
        })
    }
}

impl ModelPolicy {
    fn document(&self) -> Vec<u8> {
        let list = |rules: &[ModelRule]| Value::Array(rules.iter().map(ModelRule::json).collect());
        document(&list(&self.permissions), &list(&self.prohibitions))
    }

    /// Whether the request is allowed, and which counters it consumes.
    fn decide(&self, facts: &Facts) -> (bool, Vec<ClauseId>) {
        let about = |rule: &&ModelRule| rule.actions.contains(&facts.action);
        let mut forbidding = self.prohibitions.iter().filter(about);
        if forbidding.any(|rule| rule.truths(facts, 0).all(|truth| truth != Some(false))) {
            return (false, Vec::new());
        }
        let mut holding = Vec::new();
        for (index, rule) in self.permissions.iter().enumerate() {
            if about(&rule) && rule.truths(facts, index).all(|truth| truth == Some(true)) {
                holding.push((index, rule.is_counted()));
            }
        }
        let is_free = holding.iter().any(|(_, is_counted)| !is_counted);
        let counts = if is_free { Vec::new() } else { holding.iter().take(1).collect() };
        (!holding.is_empty(), counts.into_iter().map(|(index, _)| ClauseId::permission(*index)).collect())
    }

    /// Whether the time conditions of each rule hold.
    fn time_truths(&self, now: u64) -> Vec<bool> {
        self.permissions.iter().chain(&self.prohibitions).map(|rule| rule.is_time(now)).collect()
    }
}

impl ModelRule {
    fn json(&self) -> Value {
        let actions: Vec<&str> = self.actions.iter().map(|action| action.wire()).collect();
        let constraints: Vec<Value> = self.constraints.iter().map(ModelConstraint::json).collect();
        json!({"actions": actions, "constraints": constraints})
    }

    fn truths(&self, facts: &Facts, index: usize) -> impl Iterator<Item = Option<bool>> {
        self.constraints.iter().map(move |constraint| constraint.truth(facts, index))
    }

    fn is_counted(&self) -> bool {
        self.constraints.iter().any(|constraint| matches!(constraint, ModelConstraint::Count(..)))
    }

    fn is_time(&self, now: u64) -> bool {
        use ModelConstraint::{Days, Intervals, Time};
        let facts = Facts { now, ..nobody() };
        let mut times = self
            .constraints
            .iter()
            .filter(|constraint| matches!(constraint, Time(..) | Intervals(..) | Days(..)));
        times.all(|constraint| constraint.truth(&facts, 0) == Some(true))
    }
}

impl ModelConstraint {
    fn json(&self) -> Value {
        // One spelling or the other, so that both are exercised.
        let spell = |operator: Operator, values: usize| {
            if values.is_multiple_of(2) { operator.wire() } else { operator.name() }
        };
        let (name, operator, values): (&str, Operator, Vec<String>) = match self {
            ModelConstraint::Time(operator, instant) => ("time", *operator, vec![write_instant(*instant)]),
            ModelConstraint::Intervals(operator, list) => {
                let write =
                    |(start, end): &(u64, u64)| format!("{}/{}", write_instant(*start), write_instant(*end));
                ("timeWindow", *operator, list.iter().map(write).collect())
            }
            ModelConstraint::Days(operator, list) => {
                let write = |(start, end, offset): &(u64, u64, i64)| {
                    let clock = |slot: u64| format!("{:02}:{:02}", slot / 2, slot % 2 * 30);
                    let sign = if *offset < 0 { '-' } else { '+' };
                    let (hours, minutes) = (offset.abs() / 60, offset.abs() % 60);
                    format!("{}-{}{sign}{hours:02}:{minutes:02}", clock(*start), clock(*end))
                };
                ("timeWindow", *operator, list.iter().map(write).collect())
            }
            ModelConstraint::Count(operator, number) => ("count", *operator, vec![number.to_string()]),
            ModelConstraint::Address(operator, list) => ("networkAddress", *operator, own(list)),
            ModelConstraint::Region(operator, list) => ("region", *operator, own(list)),
            ModelConstraint::Party(operator, list) => ("party", *operator, own(list)),
            ModelConstraint::Product(operator, list) => ("product", *operator, own(list)),
        };
        let spelling = spell(operator, values[0].len());
        match operator {
            Operator::IsAnyOf | Operator::IsNoneOf => constraint(name, spelling, json!(values)),
            _ => constraint(name, spelling, values[0].as_str()),
        }
    }

    fn truth(&self, facts: &Facts, rule: usize) -> Option<bool> {
        match self {
            ModelConstraint::Time(operator, instant) => Some(match operator {
                Operator::Greater => facts.now > *instant,
                Operator::GreaterOrEqual => facts.now >= *instant,
                Operator::Less => facts.now < *instant,
                _ => facts.now <= *instant,
            }),
            ModelConstraint::Intervals(operator, list) => {
                let inside = list.iter().any(|(start, end)| *start <= facts.now && facts.now < *end);
                Some(inside == (*operator != Operator::IsNoneOf))
            }
            ModelConstraint::Days(operator, list) => {
                let inside = list.iter().any(|(start, end, offset)| {
                    let local =
                        (i128::from(facts.now) + i128::from(*offset) * 60_000).rem_euclid(i128::from(DAY));
                    let (start, end) = (i128::from(start * SLOT), i128::from(end * SLOT));
                    if start < end { start <= local && local < end } else { start <= local || local < end }
                });
                Some(inside == (*operator != Operator::IsNoneOf))
            }
            ModelConstraint::Count(operator, number) => {
                let this_use = facts.used[rule] + 1;
                Some(if *operator == Operator::Less { this_use < *number } else { this_use <= *number })
            }
            ModelConstraint::Address(operator, list) => {
                let address = facts.address.map(bits);
                judge(
                    *operator,
                    list.iter().map(|network| {
                        let (base, length) = match network.split_once('/') {
                            Some((base, length)) => (base, Some(length.parse::<usize>().unwrap())),
                            None => (*network, None),
                        };
                        let base = bits(base.parse().unwrap());
                        // One character in front names the family.
                        let length = length.map_or(base.len(), |length| length + 1);
                        address.as_ref().map(|address| address.starts_with(&base[..length]))
                    }),
                )
            }
            ModelConstraint::Region(operator, list) => {
                let region = facts.region.filter(|region| *region != "0065");
                judge(*operator, list.iter().map(|code| region.map(|region| &region[..code.len()] == *code)))
            }
            ModelConstraint::Party(operator, list) => judge(
                *operator,
                list.iter().map(|name| {
                    let own = if name.len() == 32 { facts.party } else { facts.entity };
                    (!own.is_empty()).then_some(own == *name)
                }),
            ),
            ModelConstraint::Product(operator, list) => judge(
                *operator,
                list.iter().map(|name| (!facts.product.is_empty()).then_some(facts.product == *name)),
            ),
        }
    }
}

fn judge(operator: Operator, matches: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let matches: Vec<Option<bool>> = matches.collect();
    let any = if matches.contains(&Some(true)) {
        Some(true)
    } else if matches.contains(&None) {
        None
    } else {
        Some(false)
    };
    any.map(|any| any == (operator != Operator::IsNoneOf))
}

fn bits(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("4{:032b}", u32::from(address)),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => bits(IpAddr::V4(address)),
            None => format!("6{:0128b}", u128::from(address)),
        },
    }
}

fn own(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// RFC 3339 at one of two offsets, by civil arithmetic inside the three days of this world.
fn write_instant(instant: u64) -> String {
    let since = instant - (MIDNIGHT - DAY);
    let clock = |since: u64| {
        let (day, rest) = (14 + since / DAY, since % DAY);
        format!("2026-06-{day:02}T{:02}:{:02}:00", rest / HOUR, rest % HOUR / MINUTE)
    };
    if instant.is_multiple_of(2 * SLOT) {
        format!("{}Z", clock(since))
    } else {
        format!("{}+08:00", clock(since + 8 * HOUR))
    }
}

fn nobody() -> Facts {
    let [action, ..] = ACTIONS;
    Facts { now: 0, action, party: "", entity: "", product: "", address: None, region: None, used: [0; 3] }
}

fn any_constraint(is_permission: bool) -> impl Strategy<Value = ModelConstraint> {
    use Operator::{Equal, Greater, GreaterOrEqual, IsA, IsAnyOf, IsNoneOf, IsPartOf, Less, LessOrEqual};
    let instant = || (0..SLOTS).prop_map(|slot| MIDNIGHT + slot * SLOT);
    let one_or_more = |operator: Operator| match operator {
        IsAnyOf | IsNoneOf => 1..=3_usize,
        _ => 1..=1,
    };
    let time = (select(vec![Greater, GreaterOrEqual, Less, LessOrEqual]), instant())
        .prop_map(|(operator, instant)| ModelConstraint::Time(operator, instant));
    let window_operator = || select(vec![Equal, IsPartOf, IsAnyOf, IsNoneOf]);
    let intervals = window_operator().prop_flat_map(move |operator| {
        let interval = (instant(), 1..40_u64).prop_map(|(start, slots)| (start, start + slots * SLOT));
        prop::collection::vec(interval, one_or_more(operator))
            .prop_map(move |list| ModelConstraint::Intervals(operator, list))
    });
    let days = window_operator().prop_flat_map(move |operator| {
        let window = (0..48_u64, 0..=48_u64, select(vec![0_i64, 480, -330, 840]))
            .prop_filter("empty window", |(start, end, _)| start != end);
        prop::collection::vec(window, one_or_more(operator))
            .prop_map(move |list| ModelConstraint::Days(operator, list))
    });
    let address = select(vec![Equal, IsA, IsAnyOf, IsNoneOf]).prop_flat_map(move |operator| {
        let fitting = NETWORKS.iter().filter(move |(_, is_single)| operator != Equal || *is_single);
        let network = select(fitting.map(|(text, _)| *text).collect::<Vec<_>>());
        prop::collection::vec(network, one_or_more(operator))
            .prop_map(move |list| ModelConstraint::Address(operator, list))
    });
    let region = select(vec![Equal, IsPartOf, IsAnyOf, IsNoneOf]).prop_flat_map(move |operator| {
        prop::collection::vec(select(REGIONS.to_vec()), one_or_more(operator))
            .prop_map(move |list| ModelConstraint::Region(operator, list))
    });
    let party = select(vec![Equal, IsAnyOf, IsNoneOf]).prop_flat_map(move |operator| {
        prop::collection::vec(select(PARTIES.to_vec()), one_or_more(operator))
            .prop_map(move |list| ModelConstraint::Party(operator, list))
    });
    let product = select(vec![Equal, IsAnyOf]).prop_flat_map(move |operator| {
        prop::collection::vec(select(PRODUCTS.to_vec()), one_or_more(operator))
            .prop_map(move |list| ModelConstraint::Product(operator, list))
    });
    let count = (select(vec![Less, LessOrEqual, Equal]), 2..4_u64)
        .prop_map(|(operator, number)| ModelConstraint::Count(operator, number));
    prop_oneof![
        2 => time,
        1 => intervals,
        1 => days,
        2 => address,
        2 => region,
        2 => party,
        1 => product,
        (if is_permission { 2 } else { 0 }) => count,
    ]
}

fn any_rule(is_permission: bool) -> impl Strategy<Value = ModelRule> {
    let actions = prop::sample::subsequence(ACTIONS.to_vec(), 1..=3);
    (actions, prop::collection::vec(any_constraint(is_permission), 0..=3))
        .prop_map(|(actions, constraints)| ModelRule { actions, constraints })
}

fn any_policy() -> impl Strategy<Value = ModelPolicy> {
    (prop::collection::vec(any_rule(true), 1..=3), prop::collection::vec(any_rule(false), 0..=2))
        .prop_map(|(permissions, prohibitions)| ModelPolicy { permissions, prohibitions })
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let now =
        (0..SLOTS, -1..=1_i64).prop_map(|(slot, nudge)| (MIDNIGHT + slot * SLOT).wrapping_add_signed(nudge));
    let addresses =
        ["10.1.2.3", "::ffff:10.1.2.3", "10.1.9.9", "10.200.0.1", "192.0.2.9", "2001:db8::7", "2001:db9::"];
    let address = prop::option::weighted(0.9, select(addresses.map(|text| text.parse().unwrap()).to_vec()));
    let region = prop::option::weighted(0.9, select(vec!["4301", "4302", "4403", "3100", "0065"]));
    (
        now,
        select(ACTIONS.to_vec()),
        select(vec![NODE_A, NODE_A, NODE_B, ""]),
        select(vec![ENTITY_A, ENTITY_A, ENTITY_B, ""]),
        select(vec![PRODUCT_A, PRODUCT_A, PRODUCT_B, ""]),
        address,
        region,
        [0..4_u64, 0..4_u64, 0..4_u64],
    )
        .prop_map(|(now, action, party, entity, product, address, region, used)| Facts {
            now,
            action,
            party,
            entity,
            product,
            address,
            region,
            used,
        })
}

/// A change to a policy, in whatever direction.
#[derive(Clone, Debug)]
enum Edit {
    AddConstraint(usize, ModelConstraint),
    RemoveConstraint(usize, usize),
    RemoveAction(usize),
    AddPermission(ModelRule),
    RemovePermission(usize),
    AddProhibition(ModelRule),
    ChangeProhibition(usize, ModelConstraint),
    RelaxProhibition(usize, usize),
    RemoveProhibition(usize),
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let place = || 0..3_usize;
    prop_oneof![
        3 => (place(), any_constraint(true)).prop_map(|(rule, constraint)| Edit::AddConstraint(rule, constraint)),
        2 => (place(), place()).prop_map(|(rule, position)| Edit::RemoveConstraint(rule, position)),
        1 => place().prop_map(Edit::RemoveAction),
        1 => any_rule(true).prop_map(Edit::AddPermission),
        1 => place().prop_map(Edit::RemovePermission),
        2 => any_rule(false).prop_map(Edit::AddProhibition),
        2 => (place(), any_constraint(false)).prop_map(|(rule, constraint)| Edit::ChangeProhibition(rule, constraint)),
        2 => (place(), place()).prop_map(|(rule, position)| Edit::RelaxProhibition(rule, position)),
        1 => place().prop_map(Edit::RemoveProhibition),
    ]
}

fn apply(mut policy: ModelPolicy, edits: Vec<Edit>) -> ModelPolicy {
    fn remove<T>(list: &mut Vec<T>, position: usize) {
        if position < list.len() {
            list.remove(position);
        }
    }
    for edit in edits {
        match edit {
            Edit::AddConstraint(rule, constraint) => {
                policy
                    .permissions
                    .get_mut(rule)
                    .into_iter()
                    .for_each(|rule| rule.constraints.push(constraint.clone()));
            }
            Edit::RemoveConstraint(rule, position) => {
                policy
                    .permissions
                    .get_mut(rule)
                    .into_iter()
                    .for_each(|rule| remove(&mut rule.constraints, position));
            }
            Edit::RemoveAction(rule) => {
                let several = policy.permissions.get_mut(rule).filter(|rule| rule.actions.len() > 1);
                several.into_iter().for_each(|rule| remove(&mut rule.actions, 0));
            }
            Edit::AddPermission(rule) if policy.permissions.len() < 3 => policy.permissions.push(rule),
            Edit::AddPermission(_) => {}
            Edit::RemovePermission(rule) if policy.permissions.len() > 1 => {
                remove(&mut policy.permissions, rule)
            }
            Edit::RemovePermission(_) => {}
            Edit::AddProhibition(rule) => policy.prohibitions.push(rule),
            Edit::ChangeProhibition(rule, constraint) => {
                policy
                    .prohibitions
                    .get_mut(rule)
                    .into_iter()
                    .for_each(|rule| rule.constraints.push(constraint.clone()));
            }
            Edit::RelaxProhibition(rule, position) => {
                policy
                    .prohibitions
                    .get_mut(rule)
                    .into_iter()
                    .for_each(|rule| remove(&mut rule.constraints, position));
            }
            Edit::RemoveProhibition(rule) => remove(&mut policy.prohibitions, rule),
        }
    }
    policy
}

/// Parses what the generators made; only a contradiction may stand in the way, and then no request may ever meet
/// every condition of that permission.
fn parse(model: &ModelPolicy, requests: &[Facts]) -> Result<Option<Policy>, TestCaseError> {
    let error = match Policy::parse(&model.document()) {
        Ok(policy) => return Ok(Some(policy)),
        Err(error) => error,
    };
    for problem in error.problems() {
        prop_assert!(problem.message.starts_with("can never hold"), "{}", error);
        let (kind, rest) = problem.path.split_once('[').unwrap();
        let index: usize = rest[..1].parse().unwrap();
        let rules = if kind == "permissionPolicies" { &model.permissions } else { &model.prohibitions };
        for facts in requests {
            let holds = rules[index].truths(facts, 0).all(|truth| truth == Some(true));
            prop_assert!(!holds, "{} yet {:?} meets it", problem, facts);
        }
    }
    prop_assert!(!error.problems().is_empty(), "{}", error);
    Ok(None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn decisions_agree_with_the_model(
        model in any_policy(),
        requests in prop::collection::vec(any_facts(), 20),
    ) {
        let Some(policy) = parse(&model, &requests)? else { return Ok(()) };
        for facts in &requests {
            let decision = facts.ask(|request| decide(&policy, request));
            let expected = model.decide(facts);
            let found = (decision.verdict == Verdict::Allow, decision.counts.clone());
            prop_assert_eq!(found, expected, "{:?} of {:?}", decision, facts);
        }
        prop_assert!(policy.is_within(&policy));
    }

    #[test]
    fn what_a_policy_within_another_allows_the_other_allows_too(
        original in any_policy(),
        edits in prop::collection::vec(any_edit(), 1..=3),
        requests in prop::collection::vec(any_facts(), 40),
    ) {
        let edited = apply(original.clone(), edits);
        let (Some(one), Some(other)) = (parse(&original, &[])?, parse(&edited, &[])?) else { return Ok(()) };
        for (inner, outer) in [(&one, &other), (&other, &one)] {
            if inner.is_within(outer) {
                for facts in &requests {
                    let allows = |policy| facts.ask(|request| decide(policy, request)).verdict == Verdict::Allow;
                    prop_assert!(!allows(inner) || allows(outer), "{:?}", facts);
                }
            }
        }
    }

    #[test]
    fn adding_a_condition_or_a_prohibition_is_seen_to_narrow(
        original in any_policy(),
        place in 0..3_usize,
        condition in any_constraint(true),
        prohibition in any_rule(false),
    ) {
        let edits = vec![Edit::AddConstraint(place, condition), Edit::AddProhibition(prohibition)];
        let narrowed = apply(original.clone(), edits);
        let (Some(wide), Some(narrow)) = (parse(&original, &[])?, parse(&narrowed, &[])?) else { return Ok(()) };
        prop_assert!(narrow.is_within(&wide));
    }

    #[test]
    fn the_next_boundary_is_the_first_turn_of_a_time_clause(model in any_policy(), start in any_facts()) {
        let Some(policy) = parse(&model, &[])? else { return Ok(()) };
        let now = start.now;
        let before = model.time_truths(now);
        // Clauses of this world turn on a slot, or one millisecond after it.
        let end = MIDNIGHT + 2 * SLOTS * SLOT;
        let turns = (MIDNIGHT..end).step_by(usize::try_from(SLOT).unwrap()).flat_map(|slot| [slot, slot + 1]);
        let first = turns.filter(|instant| *instant > now).find(|instant| model.time_truths(*instant) != before);
        let found = policy.next_boundary(now);
        match first {
            Some(_) => prop_assert_eq!(found, first),
            None => prop_assert!(found.is_none_or(|found| found >= end), "{:?}", found),
        }
    }
}
