use huitong_proof::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::note::signature_line;
use crate::witness_fixture::*;

fn vkey(number: u8) -> String {
    cosigner(number).verifier().to_string()
}

/// Lines `witness w<n> <vkey>` for n below `count`.
fn witness_lines(count: u8) -> String {
    (0..count).map(|n| format!("witness w{n} {}\n", vkey(n))).collect()
}

fn parse(text: &str) -> QuorumPolicy {
    text.parse().unwrap_or_else(|refused| panic!("{refused}: {text}"))
}

/// The policy reads, writes itself so that it reads the same again, and demands what is expected.
fn check(text: &str, requirement: &str, least: usize) -> QuorumPolicy {
    let policy = parse(text);
    assert_eq!(policy.requirement(), requirement, "{text}");
    assert_eq!(policy.least_cosignatures(), least, "{text}");
    assert_eq!(parse(&policy.to_string()), policy, "{text}");
    policy
}

fn bare() -> SignedCheckpoint {
    History::new("entry", 4).signed(4)
}

fn names(quorum: &Quorum) -> Vec<&str> {
    quorum.cosignatures.iter().map(|cosignature| cosignature.name.as_str()).collect()
}

#[test]
fn policies_read_and_write() {
    let w = witness_lines(4);
    check("quorum none\n", "none", 0);
    check(&format!("{w}quorum none\n"), "none", 0);
    check(&format!("{w}quorum w2\n"), "w2", 1);
    check(&format!("{w}group g 2 w0 w1 w2\nquorum g\n"), "2 of 3: w0, w1, w2", 2);
    check(&format!("{w}group g any w0 w1\nquorum g\n"), "1 of 2: w0, w1", 1);
    check(&format!("{w}group g all w0 w1\nquorum g\n"), "2 of 2: w0, w1", 2);
    check(&format!("{w}group g 1 w3\nquorum g\n"), "1 of 1: w3", 1);
    check(
        &format!("{w}group a 2 w0 w1\ngroup b any w2 w3\ngroup q all a b\nquorum q\n"),
        "2 of 2: a (2 of 2: w0, w1), b (1 of 2: w2, w3)",
        3,
    );
    // The quorum may be a group inside another, and what it does not count may be there.
    check(&format!("{w}group a any w0 w1\ngroup b all a w2\nquorum a\n"), "1 of 2: w0, w1", 1);
    // Order, spacing, comments and empty lines are free as far as names are defined before they are used.
    let spaced = format!(
        "# operators\n\n \t \n\t quorum\tnone  \nwitness  w0\t{}   https://w0.example/ \n  # more\nlog {LOG_KEY}\n",
        vkey(0)
    );
    let policy = check(&spaced, "none", 0);
    assert_eq!(policy.logs(), [(log_verifier(), None)]);
    let url = Some("https://w0.example/".to_owned());
    assert_eq!(policy.witnesses(), [("w0".to_owned(), cosigner(0).verifier().clone(), url)]);
    assert_eq!(
        policy.to_string(),
        format!("log {LOG_KEY}\nwitness w0 {} https://w0.example/\nquorum none\n", vkey(0))
    );
    // Any octets that are no space can be names, a `#` inside one included; nothing is folded.
    let odd = format!(
        "witness K {}\nwitness \u{212a} {}\nwitness 见证 {} https://例.example/\nwitness a#b+c {}\n\
         group # all K \u{212a} 见证 a#b+c\nquorum #\n",
        vkey(0),
        vkey(1),
        vkey(2),
        vkey(3)
    );
    check(&odd, "4 of 4: K, \u{212a}, 见证, a#b+c", 4);
}

#[test]
fn refusals_name_line_and_fault() {
    let w = witness_lines(3);
    let name = |name: &str| name.to_owned();
    let form = |form| PolicyFault::Form { form };
    let threshold = |text: &str, members| PolicyFault::Threshold { text: name(text), members };
    let log_form = "log <vkey> [<url>]";
    let witness_form = "witness <name> <vkey> [<url>]";
    let group_form = "group <name> all|any|<k> <member>...";
    let with_key = |number: u8| {
        // The key of another witness under another name: same public key, other key id.
        let key = SigningKey::from_seed(&[number + 40; 32]).verifying_key();
        (WitnessVerifier::new("x", key.clone()).unwrap(), LogVerifier::new("x", key).unwrap())
    };
    // What follows the three witnesses, and the line (from 1) and fault that are expected.
    let table = [
        ("quorum w0".to_owned(), 4, PolicyFault::Unterminated),
        (name("quorum w0\n# cut o"), 5, PolicyFault::Unterminated),
        (name("quorum w0\r\n"), 4, PolicyFault::Character { byte: 13 }),
        (name("# \u{0}\nquorum w0\n"), 4, PolicyFault::Character { byte: 0 }),
        (name("# \u{7f}\nquorum w0\n"), 4, PolicyFault::Character { byte: 0x7f }),
        (name("quorums w0\n"), 4, PolicyFault::Keyword { word: name("quorums") }),
        (name("Quorum w0\n"), 4, PolicyFault::Keyword { word: name("Quorum") }),
        (name("quorum\u{a0}w0\n"), 4, PolicyFault::Keyword { word: name("quorum\u{a0}w0") }),
        (name("quorum\n"), 4, form("quorum <name>|none")),
        (name("quorum w0 w1\n"), 4, form("quorum <name>|none")),
        (name("quorum w0 # comment\n"), 4, form("quorum <name>|none")),
        (name("log\n"), 4, form(log_form)),
        (format!("log {LOG_KEY} u v\n"), 4, form(log_form)),
        (name("witness a\n"), 4, form(witness_form)),
        (format!("witness a {} u v\n", vkey(9)), 4, form(witness_form)),
        (name("group g\n"), 4, form(group_form)),
        (name("group g all\n"), 4, form(group_form)),
        (name("group g w0 w1\n"), 4, threshold("w0", 1)),
        (name("group g 0 w0 w1\n"), 4, threshold("0", 2)),
        (name("group g 3 w0 w1\n"), 4, threshold("3", 2)),
        (name("group g 01 w0 w1\n"), 4, threshold("01", 2)),
        (name("group g +1 w0 w1\n"), 4, threshold("+1", 2)),
        (name("group g -1 w0 w1\n"), 4, threshold("-1", 2)),
        (name("group g All w0 w1\n"), 4, threshold("All", 2)),
        (name("group g 99999999999999999999 w0\n"), 4, threshold("99999999999999999999", 1)),
        (name("group g all w0 none\n"), 4, PolicyFault::UndefinedName { name: name("none") }),
        (name("group g all w0 w7\n"), 4, PolicyFault::UndefinedName { name: name("w7") }),
        (name("group g all g\n"), 4, PolicyFault::UndefinedName { name: name("g") }),
        (name("group g all h\ngroup h all w0\n"), 4, PolicyFault::UndefinedName { name: name("h") }),
        (name("group g all w0 W1\n"), 4, PolicyFault::UndefinedName { name: name("W1") }),
        (name("group g all w0 w0\n"), 4, PolicyFault::SecondMembership { name: name("w0") }),
        (name("group g all w0\ngroup h all w0 w1\n"), 5, PolicyFault::SecondMembership { name: name("w0") }),
        (
            name("group g all w0\ngroup h all g\ngroup i all g\n"),
            6,
            PolicyFault::SecondMembership { name: name("g") },
        ),
        (name("group none all w0\n"), 4, PolicyFault::Name { name: name("none") }),
        (format!("witness none {}\n", vkey(9)), 4, PolicyFault::Name { name: name("none") }),
        (name("group w0 all w1\n"), 4, PolicyFault::DuplicateName { name: name("w0") }),
        (format!("witness w0 {}\n", vkey(9)), 4, PolicyFault::DuplicateName { name: name("w0") }),
        (format!("witness a {}\n", vkey(0)), 4, PolicyFault::DuplicateKey),
        (format!("witness a {}\n", with_key(0).0), 4, PolicyFault::DuplicateKey),
        (format!("log {}\nlog {}\n", with_key(0).1, with_key(0).1), 5, PolicyFault::DuplicateKey),
        (name("quorum w7\n"), 4, PolicyFault::UndefinedName { name: name("w7") }),
        (name("quorum g\ngroup g all w0\n"), 4, PolicyFault::UndefinedName { name: name("g") }),
        (name("quorum w0\nquorum w0\n"), 5, PolicyFault::SecondQuorum),
        (name("quorum none\n\nquorum none\n"), 6, PolicyFault::SecondQuorum),
    ];
    for (text, line, fault) in table {
        let refused = format!("{w}{text}").parse::<QuorumPolicy>().unwrap_err();
        assert!(refused.to_string().starts_with(&format!("line {line} of the quorum policy")), "{refused}");
        assert!(refused.to_string().contains(&fault.to_string()));
        assert_eq!(refused, PolicyError::Line { line, fault }, "{text:?}");
    }
    // Keys of the other kind, or no keys.
    for line in [format!("witness a {LOG_KEY}\n"), format!("log {}\n", vkey(9)), name("log x\n")] {
        let refused = format!("{w}{line}").parse::<QuorumPolicy>().unwrap_err();
        assert!(
            matches!(
                refused,
                PolicyError::Line { line: 4, fault: PolicyFault::Key(NoteError::KeyText { .. }) }
            ),
            "{refused:?}"
        );
    }
    for text in ["", "\n", "# only\n", &w] {
        assert_eq!(text.parse::<QuorumPolicy>(), Err(PolicyError::Whole(PolicyFault::NoQuorum)));
    }
    let long = "#".repeat(MAX_POLICY_BYTES + 1);
    assert_eq!(long.parse::<QuorumPolicy>(), Err(PolicyError::TooLong { found: long.len() }));
}

#[test]
fn every_flipped_bit_of_a_policy_without_comments_is_refused() {
    let text = format!("log {LOG_KEY}\n{}group g 2 w0 w1\nquorum g\n", witness_lines(2));
    let policy = parse(&text);
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            let Ok(flipped) = String::from_utf8(bytes) else { continue };
            // A tab is as good as a space, and the threshold is a choice like any other.
            if let Ok(other) = flipped.parse::<QuorumPolicy>() {
                let threshold = flipped.contains("group g 1") || flipped.contains("group g 3");
                assert!(threshold || other == policy, "byte {at}, bit {bit}: {flipped}");
            }
        }
    }
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        assert!(text[..end].parse::<QuorumPolicy>().is_err(), "cut at {end}");
    }
}

#[test]
fn limits_hold_at_least_what_the_specification_asks_for() {
    let key = |seed: usize| {
        let mut bytes = [3; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        SigningKey::from_seed(&bytes).verifying_key()
    };
    let log = |n: usize| format!("log {}\n", LogVerifier::new(format!("log{n}.example"), key(n)).unwrap());
    let witness = |n: usize| {
        format!("witness w{n} {}\n", WitnessVerifier::new(format!("w{n}.example"), key(n)).unwrap())
    };
    // Group n holds witness n and group n - 1, so that the deepest nesting is met, too.
    let group = |n: usize| match n {
        0 => "group g0 all w0\n".to_owned(),
        _ => format!("group g{n} any w{n} g{}\n", n - 1),
    };
    for count in [32, MAX_POLICY_ITEMS] {
        let lines = |line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
        let text = format!("{}{}{}quorum g{}\n", lines(&log), lines(&witness), lines(&group), count - 1);
        let policy = parse(&text);
        assert_eq!((policy.logs().len(), policy.witnesses().len()), (count, count));
        assert_eq!(policy.least_cosignatures(), 1);
        assert_eq!(parse(&policy.to_string()), policy);
        assert_eq!(policy.requirement().matches(" of ").count(), count);
    }
    let too_many = |text: String, line: usize| {
        assert_eq!(
            text.parse::<QuorumPolicy>(),
            Err(PolicyError::Line { line, fault: PolicyFault::TooMany })
        );
    };
    let full = |line: &dyn Fn(usize) -> String| (0..MAX_POLICY_ITEMS).map(line).collect::<String>();
    too_many(format!("{}{}", full(&log), log(MAX_POLICY_ITEMS)), MAX_POLICY_ITEMS + 1);
    too_many(format!("{}{}", full(&witness), witness(MAX_POLICY_ITEMS)), MAX_POLICY_ITEMS + 1);
    let groups = format!("{}{}group h all g{}\n", full(&witness), full(&group), MAX_POLICY_ITEMS - 1);
    too_many(groups, 2 * MAX_POLICY_ITEMS + 1);

    // What no note that is read can carry is refused, not waited for.
    let w = witness_lines(40);
    let members = |from: u8, to: u8| (from..to).map(|n| format!(" w{n}")).collect::<String>();
    let all_of = |count: u8| format!("{w}group g all{}\nquorum g\n", members(0, count));
    assert_eq!(parse(&all_of(15)).least_cosignatures(), 15);
    let fault = PolicyFault::OutOfReach { needed: 16 };
    assert_eq!(all_of(16).parse::<QuorumPolicy>(), Err(PolicyError::Line { line: 42, fault }));
    // A part that cannot be met is no harm where another suffices.
    let alternative = format!("{w}group a all{}\ngroup q any w39 a\nquorum q\n", members(0, 30));
    assert_eq!(parse(&alternative).least_cosignatures(), 1);
    let nested =
        format!("{w}group a all{}\ngroup b 8{}\ngroup q all a b\nquorum q\n", members(0, 8), members(8, 30));
    assert_eq!(
        nested.parse::<QuorumPolicy>().unwrap_err(),
        PolicyError::Line { line: 44, fault: PolicyFault::OutOfReach { needed: 16 } }
    );
}

#[test]
fn quorums_are_counted() {
    let policy = parse(&format!("{}group g 2 w0 w1 w2\nquorum g\n", witness_lines(4)));
    // Who cosigned, a second after another from 1000; whether that suffices; when it did.
    let check = |by: &[u8], satisfied: bool, reached: Option<u64>, missing: &[&str]| {
        let quorum = policy.evaluate(&cosigned(&bare(), by.iter().copied())).unwrap();
        assert_eq!(quorum.satisfied, satisfied, "{by:?}");
        assert_eq!(quorum.reached, reached.map(seconds), "{by:?}");
        assert_eq!(quorum.missing, missing, "{by:?}");
        let mut known: Vec<String> = by.iter().filter(|n| **n < 4).map(|n| format!("w{n}")).collect();
        known.sort();
        assert_eq!(names(&quorum), known, "{by:?}");
    };
    check(&[], false, None, &["w0", "w1", "w2"]);
    check(&[1], false, None, &["w0", "w2"]);
    check(&[1, 0], true, Some(1001), &["w2"]);
    check(&[2, 1, 0], true, Some(1001), &[]);
    // Witness 3 is known but does not count; witness 9 is unknown.
    check(&[3, 9, 1], false, None, &["w0", "w2"]);
    check(&[3, 9, 1, 4, 2], true, Some(1004), &["w0"]);

    // A group that the quorum does not hold is of no account.
    let policy = parse(&format!("{}group g any w0\ngroup h all w1 w2\nquorum g\n", witness_lines(3)));
    assert_eq!(policy.evaluate(&bare()).unwrap().missing, ["w0"]);

    let single = QuorumPolicy::single("registrar", cosigner(5).verifier().clone());
    let quorum = single.evaluate(&cosigned(&bare(), [4, 5])).unwrap();
    assert_eq!(
        (quorum.satisfied, quorum.reached, names(&quorum)),
        (true, Some(seconds(1001)), vec!["registrar"])
    );
    assert_eq!(single.evaluate(&bare()).unwrap().missing, ["registrar"]);
    let none = QuorumPolicy::none().evaluate(&bare()).unwrap();
    assert_eq!(none, Quorum { satisfied: true, reached: None, cosignatures: vec![], missing: vec![] });
}

/// Two groups within the quorum, one of them with a group of its own, and all subsets of six witnesses, as in the
/// tests of sigsum: `any` everywhere means anybody, 2 everywhere has this truth table.
#[test]
fn the_fewest_that_are_needed_are_found() {
    let groups = "group a 2 w0 w1 w2\ngroup b 1 w3 w4\ngroup q all a b\nquorum q\n";
    let policy = parse(&format!("{}{groups}", witness_lines(7)));
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    for (cosigned, fewest) in [
        (&["w0", "w1", "w2", "w3", "w4", "w5", "w6"][..], Some(&["w0", "w1", "w3"][..])),
        (&["w2", "w1", "w4", "w6"], Some(&["w1", "w2", "w4"])),
        (&["w0", "w3", "w4", "w5"], None),
        (&[], None),
    ] {
        assert_eq!(policy.fewest(&set(cosigned)), fewest.map(set), "{cosigned:?}");
    }
    // A path over fewer witnesses is taken before one over more.
    let either = "group a all w0 w1 w2\ngroup b all w3 w4\ngroup q any a b\nquorum q\n";
    let policy = parse(&format!("{}{either}", witness_lines(5)));
    assert_eq!(policy.fewest(&set(&["w0", "w1", "w2", "w3", "w4"])), Some(set(&["w3", "w4"])));
}

#[test]
fn nested_groups_count_as_published() {
    for k in [1, 2] {
        let policy = check(
            &format!(
                "{}group g0 {k} w0 w1\ngroup g1 {k} w2 w3\ngroup g2 {k} g1 w4 w5\ngroup q {k} g0 g2\nquorum q\n",
                witness_lines(6)
            ),
            &format!("{k} of 2: g0 ({k} of 2: w0, w1), g2 ({k} of 3: g1 ({k} of 2: w2, w3), w4, w5)"),
            if k == 1 { 1 } else { 4 },
        );
        let right = [
            false, false, false, false, false, false, false, true, false, false, false, true, true, true,
            true, true,
        ];
        for set in 0..64_u8 {
            let by = (0..6).filter(|n| set & (1 << n) != 0);
            let quorum = policy.evaluate(&cosigned(&bare(), by)).unwrap();
            let expected = if k == 1 { set != 0 } else { set & 3 == 3 && right[usize::from(set >> 2)] };
            assert_eq!(quorum.satisfied, expected, "k {k}, set {set:06b}");
            assert_eq!(quorum.reached.is_some(), expected);
            assert_eq!(u32::try_from(quorum.missing.len()).unwrap(), 6 - set.count_ones());
        }
    }
}

#[test]
fn a_false_line_of_a_known_witness_refuses_and_of_an_unknown_one_does_not() {
    let policy = QuorumPolicy::k_of(1, witnesses(2)).unwrap();
    let other = History::new("other", 4).checkpoint(4);
    let with = |number: u8| {
        let false_line = cosigner(number).cosign(&other, seconds(1));
        cosigned(&bare(), [0]).with_lines(&[false_line]).unwrap()
    };
    let bad = NoteError::BadSignature { name: cosigner(1).verifier().name().to_owned() };
    assert_eq!(policy.evaluate(&with(1)), Err(bad));
    assert!(policy.evaluate(&with(2)).unwrap().satisfied);
}

#[test]
fn listed_logs_are_demanded() {
    let with_logs = |logs: &str| parse(&format!("{logs}{}quorum w0\n", witness_lines(1)));
    let signed = cosigned(&bare(), [0]);
    let stranger = LogVerifier::new(ORIGIN, SigningKey::from_seed(&[70; 32]).verifying_key()).unwrap();
    let other = LogVerifier::new("other", log_signing_key().verifying_key()).unwrap();
    let (own, stranger) = (format!("log {LOG_KEY}\n"), format!("log {stranger}\n"));
    let unlisted = Err(NoteError::UnlistedLog { origin: ORIGIN.to_owned() });
    for (logs, listed) in [
        (String::new(), true),
        (own.clone(), true),
        (format!("{stranger}{own}"), true),
        (format!("{own}{stranger}"), true),
        (stranger.clone(), false),
        (format!("log {other}\n"), false),
    ] {
        let answer = with_logs(&logs).evaluate(&signed);
        if listed {
            assert!(answer.unwrap().satisfied, "{logs}");
        } else {
            assert_eq!(answer, unlisted, "{logs}");
        }
    }
    // A false line of a listed log refuses, whoever else signed.
    let false_line = signature_line(ORIGIN, &SigningKey::from_seed(&[70; 32]), "something else\n");
    let text = format!("{}{false_line}\n", signed.text());
    let with_false_line = SignedCheckpoint::parse(&text, &log_verifier()).unwrap();
    assert!(with_logs(&own).evaluate(&with_false_line).unwrap().satisfied);
    let bad = Err(NoteError::BadSignature { name: ORIGIN.to_owned() });
    assert_eq!(with_logs(&format!("{own}{stranger}")).evaluate(&with_false_line), bad);

    let policy = with_logs("").with_log(log_verifier(), Some("https://log.example/".to_owned())).unwrap();
    assert!(policy.evaluate(&signed).unwrap().satisfied);
    assert!(policy.to_string().starts_with(&format!("log {LOG_KEY} https://log.example/\n")));
    assert_eq!(policy.with_log(log_verifier(), None), Err(PolicyFault::DuplicateKey.into()));
}

#[test]
fn the_public_network_satisfies_a_policy() {
    let [a, b, c, d] = PUBLIC_WITNESSES;
    let text = format!(
        "log {PUBLIC_LOG}\nwitness little-garden {a}\nwitness smartit {b}\nwitness remora {c}\nwitness stagemole {d}\n\
         group operators 3 little-garden smartit remora stagemole\nquorum operators\n"
    );
    let policy = parse(&text);
    let signed = SignedCheckpoint::parse(PUBLIC, &PUBLIC_LOG.parse().unwrap()).unwrap();
    let quorum = policy.evaluate(&signed).unwrap();
    assert_eq!((quorum.satisfied, quorum.reached), (true, Some(seconds(PUBLIC_TIME))));
    assert_eq!(names(&quorum), ["little-garden", "smartit", "remora", "stagemole"]);
}

#[test]
fn built_policies_are_policies() {
    let k_of = QuorumPolicy::k_of(2, witnesses(3)).unwrap();
    check(&k_of.to_string(), "2 of 3: w0, w1, w2", 2);
    assert_eq!(parse(&k_of.to_string()), k_of);
    // A witness may be called like the group would be.
    let mut taken = witnesses(2);
    taken[1].0 = "quorum".to_owned();
    let taken = QuorumPolicy::k_of(1, taken).unwrap();
    assert_eq!(parse(&taken.to_string()), taken);
    assert_eq!(taken.requirement(), "1 of 2: w0, quorum");
    assert_eq!(parse(&QuorumPolicy::none().to_string()), QuorumPolicy::none());

    for (name, stands) in [
        ("registrar", "registrar"),
        ("a b\tc\n", "a-b-c-"),
        ("", "w1.example/"),
        ("none", "w1.example/"),
        ("见证", "见证"),
    ] {
        let single = QuorumPolicy::single(name, cosigner(1).verifier().clone());
        assert_eq!(single.requirement(), stands);
        assert_eq!(parse(&single.to_string()), single);
    }

    let refused = |k: usize, change: &dyn Fn(&mut Vec<Known>)| {
        let mut witnesses = witnesses(3);
        change(&mut witnesses);
        QuorumPolicy::k_of(k, witnesses).unwrap_err()
    };
    let threshold = |text: &str| PolicyFault::Threshold { text: text.to_owned(), members: 3 };
    assert_eq!(refused(0, &|_| ()), threshold("0").into());
    assert_eq!(refused(4, &|_| ()), threshold("4").into());
    assert_eq!(
        refused(1, &|w| w[1].0 = "w0".into()),
        PolicyFault::DuplicateName { name: "w0".into() }.into()
    );
    assert_eq!(refused(1, &|w| w[1].0 = "a b".into()), PolicyFault::Name { name: "a b".into() }.into());
    assert_eq!(refused(1, &|w| w[1].1 = w[0].1.clone()), PolicyFault::DuplicateKey.into());
    assert_eq!(refused(1, &|w| w[1].2 = Some("a b".into())), PolicyFault::Url { url: "a b".into() }.into());
    assert_eq!(refused(1, &|w| w[1].2 = Some(String::new())), PolicyFault::Url { url: String::new() }.into());
    let empty = PolicyFault::Threshold { text: "1".into(), members: 0 };
    assert_eq!(QuorumPolicy::k_of(1, Vec::new()), Err(empty.into()));
    assert_eq!(QuorumPolicy::k_of(16, witnesses(20)), Err(PolicyFault::OutOfReach { needed: 16 }.into()));
}

#[test]
fn a_quorum_that_one_liar_can_defeat_is_warned_of() {
    for (count, quorum, advice) in [
        (3, "group q 3 w0 w1 w2\nquorum q\n", Some("at least 4 witnesses")),
        (4, "group q 3 w0 w1 w2\nquorum q\n", Some("at least 4 witnesses")),
        (1, "quorum w0\n", Some("1 of 1 witnesses")),
        (4, "quorum none\n", Some("0 of 0 witnesses")),
        (4, "group q 2 w0 w1 w2 w3\nquorum q\n", Some("demand 3 of the 4")),
        (4, "group q 3 w0 w1 w2 w3\nquorum q\n", None),
        (7, "group q 4 w0 w1 w2 w3 w4 w5 w6\nquorum q\n", Some("demand 5 of the 7")),
        (7, "group q 5 w0 w1 w2 w3 w4 w5 w6\nquorum q\n", None),
        (6, "group a 2 w0 w1 w2\ngroup b 2 w3 w4 w5\ngroup q all a b\nquorum q\n", Some("demand 5 of the 6")),
    ] {
        let warning = parse(&format!("{}{quorum}", witness_lines(count))).split_view_warning();
        match advice {
            None => assert_eq!(warning, None, "{quorum}"),
            Some(advice) => {
                assert!(warning.as_ref().is_some_and(|it| it.contains(advice)), "{quorum}: {warning:?}")
            }
        }
    }
}

#[test]
fn safe_quorums_are_more_than_two_thirds() {
    let expected =
        [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (8, 6), (9, 7), (10, 7), (100, 67)];
    for (witnesses, quorum) in expected {
        assert_eq!(safe_quorum(witnesses), quorum);
    }
    assert_eq!(safe_quorum(0), 1);
    for witnesses in 1..500 {
        let quorum = safe_quorum(witnesses);
        assert!(3 * quorum > 2 * witnesses && 3 * (quorum - 1) <= 2 * witnesses, "{witnesses}");
        // Fewer than a third dishonest: no split view, and from 4 witnesses on no standstill either.
        let dishonest = (witnesses - 1) / 3;
        assert!(split_view_excluded(quorum, quorum, witnesses, dishonest));
        assert!(quorum <= witnesses - dishonest);
        assert_eq!(dishonest > 0, witnesses >= 4);
    }
    assert!(safe_quorum(usize::MAX) > usize::MAX / 3 * 2);
    assert!(!split_view_excluded(usize::MAX, usize::MAX, usize::MAX, usize::MAX));
}

/// Two histories of one log, signed by the log; the first `dishonest` witnesses cosign both, each of the others one.
/// Returns whether some way to divide the others satisfies one policy for one history and the other for the other.
fn split_view_succeeds(first: &QuorumPolicy, second: &QuorumPolicy, witnesses: u8, dishonest: u8) -> bool {
    let honest = History::new("entry", 4);
    let (one, two) = (honest.signed(4), honest.forked(2, "other", 4).signed(4));
    let others: Vec<u8> = (dishonest..witnesses).collect();
    (0..=others.len()).any(|at| {
        let (left, right) = others.split_at(at);
        let sees = |policy: &QuorumPolicy, signed: &SignedCheckpoint, by: &[u8]| {
            let by = (0..dishonest).chain(by.iter().copied());
            policy.evaluate(&cosigned(signed, by)).unwrap().satisfied
        };
        sees(first, &one, left) && sees(second, &two, right)
    })
}

#[test]
fn split_views_succeed_exactly_beyond_the_bound() {
    let (mut excluded, mut possible) = (0, 0);
    for n in 1..=7_u8 {
        let policies: Vec<_> =
            (1..=n).map(|k| QuorumPolicy::k_of(usize::from(k), witnesses(n)).unwrap()).collect();
        for (k1, k2) in (1..=n).flat_map(|k1| (k1..=n).map(move |k2| (k1, k2))) {
            let [first, second] = [k1, k2].map(|k| &policies[usize::from(k) - 1]);
            // Far from the bound nothing changes; look at it and its neighbours.
            let bound = i16::from(k1) + i16::from(k2) - i16::from(n);
            for f in (bound - 1..=bound + 1).filter_map(|f| u8::try_from(f).ok()).filter(|f| *f <= n) {
                let safe = split_view_excluded(k1.into(), k2.into(), n.into(), f.into());
                assert_eq!(safe, f < u8::try_from(bound.max(0)).unwrap());
                assert_eq!(
                    split_view_succeeds(first, second, n, f),
                    !safe,
                    "{k1} and {k2} of {n}, {f} dishonest"
                );
                if safe { excluded += 1 } else { possible += 1 }
            }
        }
    }
    assert!(excluded >= 50 && possible >= 100, "{excluded}, {possible}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Against a recursive reading of the policy: random groups over eight witnesses, random cosigners.
    #[test]
    fn evaluation_agrees_with_the_definition(
        shape in prop::collection::vec((1..5_usize, any::<u8>()), 1..6),
        by in prop::collection::btree_set(0..8_u8, 0..8),
    ) {
        let mut free: Vec<String> = (0..8).map(|n| format!("w{n}")).collect();
        let mut text = witness_lines(8);
        let mut groups: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
        for (number, (count, k)) in shape.into_iter().enumerate() {
            let members: Vec<String> = free.drain(..count.min(free.len())).collect();
            let k = usize::from(k) % members.len() + 1;
            text.push_str(&format!("group g{number} {k} {}\n", members.join(" ")));
            groups.insert(format!("g{number}"), (k, members));
            free.push(format!("g{number}"));
        }
        let quorum = groups.keys().last().unwrap().clone();
        let policy = parse(&format!("{text}quorum {quorum}\n"));

        fn holds(name: &str, groups: &BTreeMap<String, (usize, Vec<String>)>, by: &BTreeSet<String>) -> bool {
            match groups.get(name) {
                None => by.contains(name),
                Some((k, members)) => members.iter().filter(|m| holds(m, groups, by)).count() >= *k,
            }
        }
        // The witnesses in the order of their cosignatures: the quorum is reached with the first that completes it.
        let order: Vec<u8> = by.into_iter().rev().collect();
        let said = policy.evaluate(&cosigned(&bare(), order.iter().copied())).unwrap();
        let mut so_far = BTreeSet::new();
        let mut reached = None;
        for (witness, at) in order.iter().zip(1000..) {
            so_far.insert(format!("w{witness}"));
            if reached.is_none() && holds(&quorum, &groups, &so_far) {
                reached = Some(seconds(at));
            }
        }
        prop_assert_eq!(said.satisfied, reached.is_some());
        prop_assert_eq!(said.reached, reached);
        prop_assert!(!said.satisfied || said.cosignatures.len() >= policy.least_cosignatures());
        let again = parse(&policy.to_string());
        prop_assert_eq!(again, policy);
    }

    #[test]
    fn reader_never_panics(
        lines in prop::collection::vec(
            "(log|witness|group|quorum|#)?[ \t](g|w0|w1|all|any|none|2|\\PC{0,6})( (w0|w1|g|x|1))*",
            0..6,
        ),
        text in "\\PC{0,60}",
    ) {
        for text in [text, format!("{}{}\n", witness_lines(2), lines.join("\n"))] {
            if let Ok(policy) = text.parse::<QuorumPolicy>() {
                let written = policy.to_string();
                prop_assert_eq!(parse(&written).to_string(), written);
                policy.evaluate(&cosigned(&bare(), [0])).unwrap();
                let _ = policy.requirement();
            }
        }
    }
}
