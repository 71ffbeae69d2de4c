use crate::compare::find_contradiction;
use crate::constraint::{Constraint, Test};
use crate::element::{Membership, Network, PartyName, ProductName, RegionCode};
use crate::error::{PolicyError, Problems};
use crate::explain;
use crate::json::{self, Value};
use crate::policy::{ClauseId, MAXIMUM_DEPTH, MAXIMUM_DOCUMENT_BYTES, Rule};
use crate::spans::{Span, Spans};
use crate::time::{Daily, Interval, other_minutes, parse_instant};
use crate::vocabulary::{Action, ConstraintName, Language, Operator};

/// Reads a document into its permissions and prohibitions.
pub(crate) fn read_rules(document: &[u8]) -> Result<(Vec<Rule>, Vec<Rule>), PolicyError> {
    if document.len() > MAXIMUM_DOCUMENT_BYTES {
        return Err(PolicyError::TooLarge { length: document.len() });
    }
    let value = json::read(document, MAXIMUM_DEPTH)
        .map_err(|error| PolicyError::NotJson { cause: error.to_string() })?;

    let mut problems = Problems::default();
    let [policies] = members("", &value, ["contractPolicies"], &mut problems);
    if policies.is_none() && matches!(value, Value::Object(_)) {
        problems.report("contractPolicies", "is missing; put the lists of policies inside it");
    }
    let Some(policies @ Value::Object(_)) = policies else {
        if let Some(other) = policies {
            problems.report("contractPolicies", format!("is {} where an object is meant", other.kind()));
        }
        return problems.into_result().map(|()| (Vec::new(), Vec::new()));
    };
    let keys = ["permissionPolicies", "prohibitionPolicies", "obligationPolicies"];
    let [permissions, prohibitions, obligations] = members("contractPolicies", policies, keys, &mut problems);
    let permissions = read_list("permissionPolicies", permissions, RuleKind::Permission, &mut problems);
    let prohibitions = read_list("prohibitionPolicies", prohibitions, RuleKind::Prohibition, &mut problems);
    let obligations = elements("obligationPolicies", obligations, &mut problems).unwrap_or_default();
    for index in 0..obligations.len() {
        problems.report(
            format!("obligationPolicies[{index}]"),
            "obligations are not enforced by this node; remove it, or agree on it outside the policy",
        );
    }
    problems.into_result()?;
    Ok((permissions, prohibitions))
}

#[derive(Clone, Copy, PartialEq)]
enum RuleKind {
    Permission,
    Prohibition,
}

impl RuleKind {
    fn clause(self, index: usize) -> ClauseId {
        match self {
            RuleKind::Permission => ClauseId::permission(index),
            RuleKind::Prohibition => ClauseId::prohibition(index),
        }
    }
}

fn read_list(path: &str, list: Option<&Value>, kind: RuleKind, problems: &mut Problems) -> Vec<Rule> {
    let Some(elements) = elements(path, list, problems) else {
        return Vec::new();
    };
    if kind == RuleKind::Permission && elements.is_empty() {
        problems.report(path, "holds no permission, so nothing would ever be allowed; add at least one");
    }
    let mut rules = Vec::with_capacity(elements.len());
    for (index, element) in elements.iter().enumerate() {
        rules.extend(read_rule(&format!("{path}[{index}]"), element, kind, index, problems));
    }
    rules
}

fn read_rule(
    path: &str,
    value: &Value,
    kind: RuleKind,
    index: usize,
    problems: &mut Problems,
) -> Option<Rule> {
    let [actions, constraints] = members(path, value, ["actions", "constraints"], problems);
    let actions = read_actions(&format!("{path}.actions"), actions, problems);
    let constraints_path = format!("{path}.constraints");
    let written = elements(&constraints_path, constraints, problems).unwrap_or_default();
    let mut rule = Rule { id: kind.clause(index), actions, constraints: Vec::with_capacity(written.len()) };
    for (position, element) in written.iter().enumerate() {
        let path = format!("{constraints_path}[{position}]");
        let constraint = read_constraint(&path, element, kind, &rule, problems);
        rule.constraints.extend(constraint);
    }
    let is_complete = rule.constraints.len() == written.len();
    if is_complete && let Some(contradiction) = find_contradiction(&rule) {
        problems.report(constraints_path, format!("{contradiction}; correct or remove one of them"));
    }
    Some(rule)
}

fn read_actions(path: &str, value: Option<&Value>, problems: &mut Problems) -> Vec<Action> {
    let Some(written) = elements(path, value, problems) else {
        return Vec::new();
    };
    if written.is_empty() {
        problems.report(path, "names no action; write at least one, e.g. [\"read\"]");
    }
    let mut actions = Vec::with_capacity(written.len());
    for (index, element) in written.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Value::Text(text) = element else {
            problems.report(path, format!("is {} where a string is meant", element.kind()));
            continue;
        };
        match Action::parse(text) {
            None => problems.report(
                path,
                format!("{} is not an action of the dictionary; correct or remove it", quote(text)),
            ),
            Some(Action::ExpansionItem) => problems.report(
                path,
                "\"expansionItem\" has no meaning this node could enforce; name the actions themselves",
            ),
            Some(action) if actions.contains(&action) => {
                problems.report(path, format!("{} is listed twice; remove one", quote(text)));
            }
            Some(action) => actions.push(action),
        }
    }
    actions
}

fn read_constraint(
    path: &str,
    value: &Value,
    kind: RuleKind,
    rule: &Rule,
    problems: &mut Problems,
) -> Option<Constraint> {
    let keys = ["constraintName", "constraintOperator", "constraintValue"];
    let [name, operator, value] = members(path, value, keys, problems);
    let name = read_name(&format!("{path}.constraintName"), name, problems);
    let operator_path = format!("{path}.constraintOperator");
    let operator = read_operator(&operator_path, operator, problems);
    let value_path = format!("{path}.constraintValue");
    if value.is_none() {
        problems.report(&value_path, "is missing");
    }
    let (name, operator, value) = (name?, operator?, value?);

    if kind == RuleKind::Prohibition && name == ConstraintName::Count {
        problems.report(
            format!("{path}.constraintName"),
            "\"count\" has no meaning in a prohibition; limit the permission instead",
        );
        return None;
    }
    if !name.operators().contains(&operator) {
        let allowed: Vec<&str> = name.operators().iter().map(|operator| operator.name()).collect();
        problems.report(
            operator_path,
            format!("{operator} has no meaning for {name}; use one of {}", allowed.join(", ")),
        );
        return None;
    }
    let values = read_values(&value_path, value, operator, problems)?;
    let test = read_test(&value_path, name, operator, &values, problems)?;
    let earlier = rule.constraints.iter().filter(|constraint| constraint.name == name).count();
    let clause = match earlier {
        0 => format!("{}.{name}", rule.id),
        _ => format!("{}.{name}[{earlier}]", rule.id),
    };
    let sentence = explain::condition(&test, operator, Language::English);
    let values = values.into_iter().map(|value| value.text).collect();
    Some(Constraint { clause, name, operator, values, test, sentence })
}

fn read_name(path: &str, value: Option<&Value>, problems: &mut Problems) -> Option<ConstraintName> {
    let text = text(path, value, problems)?;
    let name = ConstraintName::parse(text);
    if name.is_none() {
        let enforced: Vec<&str> = ConstraintName::ALL.iter().map(|name| name.wire()).collect();
        problems.report(
            path,
            format!(
                "{} is not enforced by this node; remove it or use one of {}",
                quote(text),
                enforced.join(", ")
            ),
        );
    }
    name
}

fn read_operator(path: &str, value: Option<&Value>, problems: &mut Problems) -> Option<Operator> {
    let text = text(path, value, problems)?;
    let operator = Operator::parse(text);
    if operator.is_none() {
        problems.report(
            path,
            format!(
                "{} is not an operator of the dictionary; write a code 01 to 12 or its name",
                quote(text)
            ),
        );
    }
    operator
}

/// One value of a constraint and where it stands.
struct Written {
    path: String,
    text: String,
}

/// A string, or for the operators that compare with several values an array of strings.
fn read_values(
    path: &str,
    value: &Value,
    operator: Operator,
    problems: &mut Problems,
) -> Option<Vec<Written>> {
    let takes_several = matches!(operator, Operator::IsAnyOf | Operator::IsNoneOf);
    match value {
        Value::Text(text) => Some(vec![Written { path: path.to_owned(), text: text.clone() }]),
        Value::Array(written) if takes_several && written.is_empty() => {
            problems.report(path, "is an empty list; write at least one value");
            None
        }
        Value::Array(written) if takes_several => {
            let mut values = Vec::with_capacity(written.len());
            for (index, element) in written.iter().enumerate() {
                let path = format!("{path}[{index}]");
                match element {
                    Value::Text(text) => values.push(Written { path, text: text.clone() }),
                    _ => problems.report(path, format!("is {} where a string is meant", element.kind())),
                }
            }
            (values.len() == written.len()).then_some(values)
        }
        Value::Array(_) => {
            problems
                .report(path, format!("is an array, but {operator} compares with one value; use isAnyOf"));
            None
        }
        _ => {
            problems.report(path, format!("is {} where a string is meant; put it in quotes", value.kind()));
            None
        }
    }
}

fn read_test(
    path: &str,
    name: ConstraintName,
    operator: Operator,
    values: &[Written],
    problems: &mut Problems,
) -> Option<Test> {
    match name {
        ConstraintName::Time => {
            let instant =
                *convert(values, |text| parse_instant(text).map_err(str::to_owned), problems)?.first()?;
            let Some(span) = time_span(operator, instant) else {
                problems.report(path, "leaves no instant; correct the operator or the value");
                return None;
            };
            Some(Test::Time { instant, moments: Spans::union(vec![span]) })
        }
        ConstraintName::TimeWindow => read_window(path, operator, values, problems),
        ConstraintName::Count => {
            let limit = *convert(values, |text| parse_limit(operator, text), problems)?.first()?;
            Some(Test::Count { limit })
        }
        ConstraintName::NetworkAddress if operator == Operator::Equal => {
            Some(Test::Address(membership(operator, convert(values, Network::parse_address, problems)?)))
        }
        ConstraintName::NetworkAddress => {
            Some(Test::Address(membership(operator, convert(values, Network::parse, problems)?)))
        }
        ConstraintName::Region => {
            Some(Test::Region(membership(operator, convert(values, RegionCode::parse, problems)?)))
        }
        ConstraintName::Party => {
            Some(Test::Party(membership(operator, convert(values, PartyName::parse, problems)?)))
        }
        ConstraintName::Product => {
            Some(Test::Product(membership(operator, convert(values, ProductName::parse, problems)?)))
        }
    }
}

fn read_window(path: &str, operator: Operator, values: &[Written], problems: &mut Problems) -> Option<Test> {
    let is_outside = operator == Operator::IsNoneOf;
    let intervals = values.iter().filter(|value| value.text.contains('/')).count();
    if intervals != 0 && intervals != values.len() {
        problems.report(path, "mixes intervals and daily windows; write a constraint for each kind");
        return None;
    }
    if intervals == 0 {
        let windows = convert(values, Daily::parse, problems)?;
        let inside = Spans::union(windows.iter().flat_map(Daily::spans).collect());
        let minutes = if is_outside { other_minutes(&inside) } else { inside };
        return Some(Test::Daily { windows, minutes });
    }
    let intervals = convert(values, Interval::parse, problems)?;
    let inside = Spans::union(intervals.iter().map(Interval::span).collect());
    let moments = if is_outside { inside.complement(u64::MAX) } else { inside };
    Some(Test::Interval { intervals, moments })
}

/// The instants, in whole milliseconds, that compare so with `instant`.
fn time_span(operator: Operator, instant: u64) -> Option<Span> {
    match operator {
        Operator::Greater => Some(Span { first: instant.checked_add(1)?, last: u64::MAX }),
        Operator::GreaterOrEqual => Some(Span { first: instant, last: u64::MAX }),
        Operator::Less => Some(Span { first: 0, last: instant.checked_sub(1)? }),
        Operator::LessOrEqual => Some(Span { first: 0, last: instant }),
        Operator::Equal
        | Operator::HasPart
        | Operator::IsA
        | Operator::IsAllOf
        | Operator::IsAnyOf
        | Operator::IsNoneOf
        | Operator::IsPartOf
        | Operator::NotEqual => None,
    }
}

/// How many uses are granted. `eq N` grants exactly N uses: taken word for word it would refuse the first of them.
fn parse_limit(operator: Operator, text: &str) -> Result<u64, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let number = text.parse::<u64>().ok().filter(|_| is_plain && text.len() <= 16);
    let number = number.ok_or("is not a number of uses; write 1 to 16 digits without unit, e.g. \"3\"")?;
    let limit = if operator == Operator::Less { number.saturating_sub(1) } else { number };
    if limit == 0 {
        return Err("allows no use at all; raise the number or remove the permission".to_owned());
    }
    Ok(limit)
}

fn membership<T>(operator: Operator, set: Vec<T>) -> Membership<T> {
    if operator == Operator::IsNoneOf { Membership::NoneOf(set) } else { Membership::AnyOf(set) }
}

/// Converts every value, reporting each that fails.
fn convert<T>(
    values: &[Written],
    parse: impl Fn(&str) -> Result<T, String>,
    problems: &mut Problems,
) -> Option<Vec<T>> {
    let mut converted = Vec::with_capacity(values.len());
    for value in values {
        match parse(&value.text) {
            Ok(element) => converted.push(element),
            Err(cause) => problems.report(&value.path, format!("{} {cause}", quote(&value.text))),
        }
    }
    (converted.len() == values.len()).then_some(converted)
}

/// The members of an object by key. Unknown and repeated keys are problems: a reader that skips the one or picks
/// among the other would enforce something else than the author wrote.
fn members<'v, const N: usize>(
    path: &str,
    value: &'v Value,
    keys: [&str; N],
    problems: &mut Problems,
) -> [Option<&'v Value>; N] {
    let mut found = [None; N];
    let Value::Object(object) = value else {
        let path = if path.is_empty() { "document" } else { path };
        problems.report(path, format!("is {} where an object is meant", value.kind()));
        return found;
    };
    for (key, member) in object {
        // Paths start below `contractPolicies`, whose name would stand in all of them.
        let path = match path {
            "" | "contractPolicies" => show_key(key),
            _ => format!("{path}.{}", show_key(key)),
        };
        let slot = keys.iter().position(|known| known == key).and_then(|position| found.get_mut(position));
        match slot {
            None => problems.report(
                path,
                format!("is not a key this node knows; remove it or use one of {}", keys.join(", ")),
            ),
            Some(Some(_)) => problems.report(path, "is written twice; keep one"),
            Some(slot) => *slot = Some(member),
        }
    }
    found
}

/// The elements of an array, where absent means empty; `None` where something else stands in its place.
fn elements<'v>(path: &str, value: Option<&'v Value>, problems: &mut Problems) -> Option<&'v [Value]> {
    match value {
        None => Some(&[]),
        Some(Value::Array(elements)) => Some(elements),
        Some(other) => {
            problems.report(path, format!("is {} where an array is meant", other.kind()));
            None
        }
    }
}

fn text<'v>(path: &str, value: Option<&'v Value>, problems: &mut Problems) -> Option<&'v str> {
    match value {
        Some(Value::Text(text)) => return Some(text),
        Some(other) => problems.report(path, format!("is {} where a string is meant", other.kind())),
        None => problems.report(path, "is missing"),
    }
    None
}

/// A piece of the document for a message: escaped, and cut where it is long.
fn quote(text: &str) -> String {
    const LONGEST: usize = 48;
    if text.chars().count() <= LONGEST {
        return format!("{text:?}");
    }
    let beginning: String = text.chars().take(LONGEST).collect();
    format!("{beginning:?}...")
}

fn show_key(key: &str) -> String {
    let is_plain = !key.is_empty() && key.len() <= 48 && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_plain { key.to_owned() } else { quote(key) }
}
