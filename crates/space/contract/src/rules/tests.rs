use super::*;

/// The table of the Dataspace Protocol 2025-1, written the other way round: by state, as text.
/// `C` consumer, `P` provider; a termination row lists who may send it by the diagram.
const PROTOCOL: &str = "
-          request      C   REQUESTED
-          offer        P   OFFERED
REQUESTED  offer        P   OFFERED
REQUESTED  agreement    P   AGREED
ACCEPTED   agreement    P   AGREED
OFFERED    request      C   REQUESTED
OFFERED    acceptance   C   ACCEPTED
AGREED     verification C   VERIFIED
VERIFIED   finalisation P   FINALIZED
REQUESTED  termination  CP  TERMINATED
OFFERED    termination  CP  TERMINATED
ACCEPTED   termination  P   TERMINATED
VERIFIED   termination  P   TERMINATED
AGREED     termination  C   TERMINATED
";

fn word(event: Event) -> &'static str {
    match event {
        Event::Request => "request",
        Event::Offer => "offer",
        Event::Acceptance => "acceptance",
        Event::Agreement => "agreement",
        Event::Verification => "verification",
        Event::Finalisation => "finalisation",
        Event::Termination => "termination",
        Event::Suspension => "suspension",
        Event::Resumption => "resumption",
    }
}

fn by_protocol(state: Option<State>, sender: Side, event: Event) -> Option<&'static str> {
    let from = state.map_or("-", State::name);
    let initial = match sender {
        Side::Consumer => 'C',
        Side::Provider => 'P',
    };
    PROTOCOL.lines().find_map(|line| {
        let columns: Vec<&'static str> = line.split_whitespace().collect();
        let matches = columns.len() == 4
            && columns[0] == from
            && columns[1] == word(event)
            && columns[2].contains(initial);
        matches.then(|| columns[3])
    })
}

fn every_case() -> impl Iterator<Item = (Option<State>, Side, Event)> {
    let states = std::iter::once(None).chain(State::ALL.into_iter().map(Some));
    states.flat_map(|state| {
        [Side::Consumer, Side::Provider]
            .into_iter()
            .flat_map(move |sender| Event::ALL.into_iter().map(move |event| (state, sender, event)))
    })
}

#[test]
fn what_we_send_follows_the_protocols_diagram() {
    let mut allowed = 0;
    for (state, sender, event) in every_case() {
        let expected = by_protocol(state, sender, event);
        let found = may_send(state, sender, event).map(State::name).ok();
        assert_eq!(found, expected, "{state:?} {sender:?} {event:?}");
        allowed += usize::from(expected.is_some());
    }
    assert_eq!((every_case().count(), allowed), (8 * 2 * 9, 16), "every case, every line of the table");
}

#[test]
fn what_we_take_adds_only_terminations_in_open_states() {
    for (state, sender, event) in every_case() {
        let open = state.is_some_and(|state| !state.is_terminal());
        let expected = match by_protocol(state, sender, event) {
            None if event == Event::Termination && open => Some("TERMINATED"),
            other => other,
        };
        assert_eq!(
            next(state, sender, event).map(State::name).ok(),
            expected,
            "{state:?} {sender:?} {event:?}"
        );
    }
}

#[test]
fn a_refused_event_names_state_sender_and_event() {
    let refusal = next(Some(State::Finalized), Side::Consumer, Event::Acceptance).unwrap_err();
    assert_eq!(refusal.code, "contract.state");
    for part in ["FINALIZED", "consumer", Event::Acceptance.name()] {
        assert!(refusal.reason.contains(part), "{} lacks {part}", refusal.reason);
    }
}

#[test]
fn each_event_has_its_own_kind() {
    for event in Event::ALL {
        assert_eq!(Event::of(event.kind()), Some(event));
    }
    assert_eq!(Event::ALL.map(|event| event.kind().number()), [24, 25, 26, 27, 28, 29, 30, 34, 35]);
    assert_eq!(Event::of(Kind::Refusal), None);
}
