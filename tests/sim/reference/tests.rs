//! The store against its model, without a cluster around it: faster, and with a snapshot after any
//! entry.

use syncraft::kv::{Command, Identity, SessionLimits, Store};
use syncraft::node::StateMachine;
use syncraft::raft::{Entry, Index, Payload, Term};

use super::Reference;
use crate::clerk::Read;
use crate::commands::{Commands, Drawn, Kinds};
use crate::machine::Machine;
use crate::overrides::env_number;

const SEEDS: u64 = 300;
const COMMANDS: u64 = 200;

/// A store that is written out and read in again at any time does what the model does, and so does
/// one that is not.
#[test]
fn the_store_does_what_its_model_does() {
    let from = env_number("SYNCRAFT_SIM_FROM").unwrap_or(0);
    for seed in from..from + SEEDS {
        println!("seed {seed}");
        check(seed);
    }
}

fn check(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let limits = SessionLimits {
        requests_max: rng.usize(1..5),
        sessions_max: rng.usize(1..5),
        answer_kept_max: rng.u64(50..500),
        answers_kept_max: rng.u64(100..2_000),
    };
    let mut kinds = Kinds::of_keys(rng.usize(1..4));
    kinds.draw(&mut rng);
    let mut commands = Commands::new(kinds, rng.u64(..));
    let mut reference = Reference::new(limits);
    let mut machines = [Machine::new(limits), Machine::new(limits)];
    let mut sent: Vec<Command> = Vec::new();
    // A log begins with a leader's no-op.
    let (mut index, mut now_ms) = (1, 0u64);
    let noop = Entry { index: Index(index), term: Term(1), payload: Payload::Noop };
    reference.apply(&noop);
    machines.iter_mut().for_each(|machine| drop(machine.apply(&noop)));
    while index < COMMANDS {
        let command = match commands.draw(&reference) {
            Drawn::Read(query) => {
                let expected = Read::expected(&query, Index(index), &reference);
                for machine in &machines {
                    assert_eq!(machine.read(&query), expected, "{query:?} at {index}");
                }
                continue;
            }
            // A copy of something that was sent before, perhaps long ago.
            Drawn::Write(_) if !sent.is_empty() && rng.u8(0..4) == 0 => {
                sent[rng.usize(sent.len().saturating_sub(6)..sent.len())].clone()
            }
            Drawn::Write(change) => {
                let client_id = format!("client {}", rng.u8(0..4)).into();
                let (request_id, seen_index) = (index as i64, Index(index));
                let identity = Identity { client_id, request_id, seen_index };
                Command { identity, change }
            }
        };
        sent.push(command.clone());
        index += 1;
        let mut bytes = command.encode().to_vec();
        if Store::is_stamped(&bytes) {
            // Now and then the same time again.
            now_ms += [0, 1, 30, 500][rng.usize(..4)];
            bytes.extend_from_slice(&now_ms.to_le_bytes());
        }
        let payload = Payload::Command(bytes.into());
        let entry = Entry { index: Index(index), term: Term(1), payload };
        reference.apply(&entry);
        for machine in &mut machines {
            let outcome = machine.apply(&entry).outcome;
            assert_eq!(outcome, reference.at(entry.index).outcome, "{command:?} at {index}");
            assert_eq!(machine.stats(), reference.stats(), "{command:?} at {index}");
        }
        assert_eq!(machines[0].digest(), machines[1].digest(), "{command:?} at {index}");
        if rng.u8(0..8) == 0 {
            machines[0].reborn();
        }
    }
}
