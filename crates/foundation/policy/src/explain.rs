use std::fmt::Display;

use crate::constraint::{Constraint, Test};
use crate::element::{Membership, RegionCode};
use crate::policy::{Policy, Rule};
use crate::time::{Interval, show_instant};
use crate::vocabulary::{Language, Operator};

pub(crate) fn policy(policy: &Policy, language: Language) -> Vec<String> {
    let mut lines = Vec::new();
    for rule in policy.permissions() {
        let (plain, conditional) = match language {
            Language::English => (("allowed to ", ""), ("allowed to ", ", if all of this holds:")),
            Language::Chinese => (("允许", ""), ("允许", "，须同时满足：")),
        };
        describe_rule(rule, plain, conditional, language, &mut lines);
    }
    for rule in policy.prohibitions() {
        let (plain, conditional) = match language {
            Language::English => {
                (("forbidden to ", ""), ("forbidden to ", ", where all of this holds or is not known:"))
            }
            Language::Chinese => (("禁止", ""), ("禁止", "，以下条件全部成立或无法核实时适用：")),
        };
        describe_rule(rule, plain, conditional, language, &mut lines);
    }
    lines.push(
        match language {
            Language::English => {
                "default: whatever is not allowed above is forbidden; a prohibition beats a permission"
            }
            Language::Chinese => "default：以上未允许的一律禁止；禁止优先于允许",
        }
        .to_owned(),
    );
    lines
}

/// A condition in words, without its clause name; English reads on after "allowed only".
pub(crate) fn condition(test: &Test, operator: Operator, language: Language) -> String {
    match (test, language) {
        (Test::Time { instant, .. }, _) => time(operator, &show_instant(*instant), language),
        (Test::Interval { intervals, .. }, _) => {
            let words: Vec<String> =
                intervals.iter().map(|interval| interval_words(interval, language)).collect();
            window(operator, &words, language)
        }
        (Test::Daily { windows, .. }, Language::English) => {
            let words: Vec<String> = windows.iter().map(|window| format!("every day {window}")).collect();
            window(operator, &words, language)
        }
        (Test::Daily { windows, .. }, Language::Chinese) => {
            let words: Vec<String> = windows.iter().map(|window| format!("每日 {window}")).collect();
            window(operator, &words, language)
        }
        (Test::Count { limit: 1 }, Language::English) => "once".to_owned(),
        (Test::Count { limit }, Language::English) => format!("up to {limit} times in all"),
        (Test::Count { limit }, Language::Chinese) => format!("累计不超过 {limit} 次"),
        (Test::Address(membership), Language::English) => {
            member(membership, "from network address ", "from outside network address ", " or ")
        }
        (Test::Address(membership), Language::Chinese) => {
            member(membership, "来源网络地址属于 ", "来源网络地址不属于 ", " 或 ")
        }
        (Test::Region(membership), Language::English) => {
            let named = named_regions(membership, language);
            member(
                &named,
                "for callers registered in region ",
                "for callers registered outside region ",
                " or ",
            )
        }
        (Test::Region(membership), Language::Chinese) => {
            member(&named_regions(membership, language), "登记地域属于 ", "登记地域不属于 ", "、")
        }
        (Test::Party(membership), Language::English) => {
            member(membership, "for party ", "for any party but ", " or ")
        }
        (Test::Party(membership), Language::Chinese) => {
            member(membership, "使用主体为 ", "使用主体不是 ", " 或 ")
        }
        (Test::Product(membership), Language::English) => {
            member(membership, "for product ", "for any product but ", " or ")
        }
        (Test::Product(membership), Language::Chinese) => member(membership, "产品为 ", "产品不是 ", " 或 "),
    }
}

fn describe_rule(
    rule: &Rule,
    plain: (&str, &str),
    conditional: (&str, &str),
    language: Language,
    lines: &mut Vec<String>,
) {
    let (before, after) = if rule.constraints.is_empty() { plain } else { conditional };
    let colon = match language {
        Language::English => ": ",
        Language::Chinese => "：",
    };
    let actions: Vec<&str> = rule.actions.iter().map(|action| action.words(language)).collect();
    lines.push(format!("{}{colon}{before}{}{after}", rule.id, enumeration(&actions, language)));
    for constraint in &rule.constraints {
        lines.push(format!("{}{colon}{}", constraint.clause(), sentence(constraint, language)));
    }
}

/// `read`, `read and sell`, `read, sell and raise alerts`; 读取、交易.
fn enumeration(words: &[&str], language: Language) -> String {
    match (language, words) {
        (Language::English, [first @ .., last]) if !first.is_empty() => {
            format!("{} and {last}", first.join(", "))
        }
        (Language::English, _) => words.join(", "),
        (Language::Chinese, _) => words.join("、"),
    }
}

fn sentence(constraint: &Constraint, language: Language) -> String {
    match language {
        Language::English => constraint.sentence.clone(),
        Language::Chinese => condition(&constraint.test, constraint.operator, language),
    }
}

fn time(operator: Operator, instant: &str, language: Language) -> String {
    let (english, chinese) = match operator {
        Operator::Greater => ("after", "晚于"),
        Operator::GreaterOrEqual => ("from", "不早于"),
        Operator::Less => ("before", "早于"),
        // Reading refuses every other operator for an instant.
        _ => ("up to and including", "不晚于"),
    };
    match language {
        Language::English => format!("{english} {instant}"),
        Language::Chinese => format!("{chinese} {instant}"),
    }
}

fn interval_words(interval: &Interval, language: Language) -> String {
    let (start, end) = interval.bounds();
    let (start, end) = (show_instant(start), show_instant(end));
    match language {
        Language::English => format!("from {start} until before {end}"),
        Language::Chinese => format!("自 {start} 起至 {end} 前"),
    }
}

fn window(operator: Operator, words: &[String], language: Language) -> String {
    match (operator, language) {
        (Operator::IsNoneOf, Language::English) => format!("outside the time {}", words.join(" or ")),
        (Operator::IsNoneOf, Language::Chinese) => format!("不在以下时段：{}", words.join("；")),
        (_, Language::English) => words.join(" or "),
        (_, Language::Chinese) => words.join(" 或 "),
    }
}

/// The region codes with the names of their provinces: a reader need not know GB/T 2260-2007 by heart.
fn named_regions(regions: &Membership<RegionCode>, language: Language) -> Membership<String> {
    let named = |code: &RegionCode| {
        let code = code.to_string();
        let (province, rest) = code.split_at_checked(2).unwrap_or((&code, ""));
        let Some((_, english, chinese)) = PROVINCES.iter().find(|(number, ..)| *number == province) else {
            return code;
        };
        match (language, rest.is_empty()) {
            (Language::English, true) => format!("{code} ({english})"),
            (Language::English, false) => format!("{code} (in {english})"),
            (Language::Chinese, true) => format!("{code}（{chinese}）"),
            (Language::Chinese, false) => format!("{code}（{chinese}内）"),
        }
    };
    match regions {
        Membership::AnyOf(set) => Membership::AnyOf(set.iter().map(named).collect()),
        Membership::NoneOf(set) => Membership::NoneOf(set.iter().map(named).collect()),
    }
}

/// The first two digits of a region's code (GB/T 2260-2007) and the province's name.
const PROVINCES: [(&str, &str, &str); 34] = [
    ("11", "Beijing", "北京市"),
    ("12", "Tianjin", "天津市"),
    ("13", "Hebei", "河北省"),
    ("14", "Shanxi", "山西省"),
    ("15", "Inner Mongolia", "内蒙古自治区"),
    ("21", "Liaoning", "辽宁省"),
    ("22", "Jilin", "吉林省"),
    ("23", "Heilongjiang", "黑龙江省"),
    ("31", "Shanghai", "上海市"),
    ("32", "Jiangsu", "江苏省"),
    ("33", "Zhejiang", "浙江省"),
    ("34", "Anhui", "安徽省"),
    ("35", "Fujian", "福建省"),
    ("36", "Jiangxi", "江西省"),
    ("37", "Shandong", "山东省"),
    ("41", "Henan", "河南省"),
    ("42", "Hubei", "湖北省"),
    ("43", "Hunan", "湖南省"),
    ("44", "Guangdong", "广东省"),
    ("45", "Guangxi", "广西壮族自治区"),
    ("46", "Hainan", "海南省"),
    ("50", "Chongqing", "重庆市"),
    ("51", "Sichuan", "四川省"),
    ("52", "Guizhou", "贵州省"),
    ("53", "Yunnan", "云南省"),
    ("54", "Tibet", "西藏自治区"),
    ("61", "Shaanxi", "陕西省"),
    ("62", "Gansu", "甘肃省"),
    ("63", "Qinghai", "青海省"),
    ("64", "Ningxia", "宁夏回族自治区"),
    ("65", "Xinjiang", "新疆维吾尔自治区"),
    ("71", "Taiwan", "台湾省"),
    ("81", "Hong Kong", "香港特别行政区"),
    ("82", "Macao", "澳门特别行政区"),
];

fn member<T: Display>(membership: &Membership<T>, inside: &str, outside: &str, or: &str) -> String {
    let (opening, set) = match membership {
        Membership::AnyOf(set) => (inside, set),
        Membership::NoneOf(set) => (outside, set),
    };
    let words: Vec<String> = set.iter().map(T::to_string).collect();
    format!("{opening}{}", words.join(or))
}
