use huitong_proof::{Entropy, SeededEntropy};

use super::{Fate, Space, Who};
use crate::{AcceptCounter, Approval, State};

const FATES: [Fate; 4] = [Fate::Arrives, Fate::IsLost, Fate::AnswerIsLost, Fate::IsRepeated];

/// One random byte.
fn dice(entropy: &SeededEntropy) -> usize {
    let mut byte = [0];
    entropy.fill(&mut byte);
    usize::from(byte[0])
}

/// However the wire behaves, both sides end in the same contract, signed once.
#[tokio::test]
async fn loss_and_repetition_change_nothing() {
    let space = Space::new(Approval::Automatic).await;
    let standing = space.standing_terms();
    let mut cheap = standing.clone();
    cheap.price = "0".to_owned();
    for seed in 0..24u8 {
        let entropy = SeededEntropy::new(u64::from(seed));
        let id = [seed + 50; 16];
        let terms = if seed.is_multiple_of(2) { standing.clone() } else { cheap.clone() };
        space.request(id, terms, AcceptCounter::Yes).await;
        let mut tries = 0;
        while space.states_or_nothing(id) != [Some(State::Finalized); 2] || space.busy() {
            tries += 1;
            assert!(tries < 500, "seed {seed}: {:?}", space.states_or_nothing(id));
            let who = if dice(&entropy).is_multiple_of(2) { Who::Provider } else { Who::Consumer };
            let waiting = space.pending(who);
            if waiting.is_empty() {
                continue;
            }
            let chosen = &waiting[dice(&entropy) % waiting.len()];
            let _ = space.deliver(who, chosen, FATES[dice(&entropy) % FATES.len()]).await;
        }
        let [provider, consumer] = [Who::Provider, Who::Consumer].map(|who| space.seen_by(who, id));
        assert_eq!(provider.agreement_hash, consumer.agreement_hash, "seed {seed}");
        let statements = if seed.is_multiple_of(2) { 4 } else { 6 };
        for who in [Who::Provider, Who::Consumer] {
            let ledger = &space.node(who).ledger;
            let about = ledger.about(&ledger.store().view(), &id, 100).unwrap();
            assert_eq!(about.len(), statements, "seed {seed}: nothing was signed twice by repetition");
        }
    }
}

/// A node that stops after any message goes on where it was.
#[tokio::test]
async fn a_restart_after_each_message_loses_nothing() {
    let mut space = Space::new(Approval::Automatic).await;
    let id = [5; 16];
    let mut cheap = space.standing_terms();
    cheap.price = "0".to_owned();
    space.request(id, cheap, AcceptCounter::Yes).await;
    let mut restarts = 0;
    while space.busy() {
        for who in [Who::Consumer, Who::Provider] {
            let Some(first) = space.pending(who).into_iter().next() else { continue };
            // Delivered, but stopped before hearing so; then delivered again after the restart.
            let _ = space.deliver(who, &first, Fate::AnswerIsLost).await;
            restarts += 1;
            space = space.restart(100 + 2 * restarts).await;
            assert_eq!(space.deliver(who, &first, Fate::Arrives).await, Ok(()));
        }
    }
    assert_eq!(restarts, 6, "request, offer, acceptance, agreement, verification, finalisation");
    assert_eq!(space.states(id), [State::Finalized; 2]);
}

impl Space {
    fn busy(&self) -> bool {
        [Who::Provider, Who::Consumer].into_iter().any(|who| !self.pending(who).is_empty())
    }

    fn states_or_nothing(&self, id: [u8; 16]) -> [Option<State>; 2] {
        [Who::Provider, Who::Consumer]
            .map(|who| self.contracts(who).negotiation(&id).unwrap().map(|n| n.state))
    }
}
