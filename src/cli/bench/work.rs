//! Chooses the operations of a client: their kind, key and value.

use bytes::Bytes;
use syncraft::clerk::{Clerk, ClerkError};
use syncraft::kv::model::{KeyRange, Range};

use super::super::args::{BenchArgs, BenchOperation};
use super::measured::Failed;
use super::swap::{Revisions, Swap};

/// The values of a run begin at this many different positions in random bytes, so that a store
/// could not save space by keeping equal values once.
const VARIETY_BYTES: usize = 4096;

/// What all keys begin with. Their numbers follow.
const PREFIX: &str = "bench-";
/// The length of a key, in bytes.
pub(super) const KEY_LEN: usize = 16;

/// `Op` of `kv_server_rpc.proto`: replace the value.
const PUT: &[u8] = b"Put";
/// `Op`: add to the end of the value.
const APPEND: &[u8] = b"Append";

/// The operations of a run.
#[derive(Clone, Debug)]
pub(super) struct Work {
    kind: Kind,
    clients: u64,
    keys: u64,
    value_size: usize,
    bytes: Bytes,
}

#[derive(Clone, Debug)]
enum Kind {
    Put,
    Append,
    Get,
    Mixed {
        read_ratio: f64,
    },
    Cas(Revisions),
    Range,
    /// Each key once.
    Fill,
}

impl Work {
    pub(super) fn new(args: &BenchArgs) -> Work {
        let kind = match args.operation {
            BenchOperation::Put => Kind::Put,
            BenchOperation::Append => Kind::Append,
            BenchOperation::Get => Kind::Get,
            BenchOperation::Mixed => Kind::Mixed { read_ratio: args.read_ratio },
            BenchOperation::Cas => Kind::Cas(Revisions::of_absent(args.keys)),
            BenchOperation::Range => Kind::Range,
            BenchOperation::Watch | BenchOperation::Lease => {
                unreachable!("they have loads of their own")
            }
        };
        let bytes =
            (0..args.value_size + VARIETY_BYTES).map(|_| fastrand::u8(..)).collect::<Vec<u8>>();
        let (clients, bytes) = (args.clients as u64, bytes.into());
        Work { kind, clients, keys: args.keys, value_size: args.value_size, bytes }
    }

    /// How many bytes one operation moves, about.
    pub(super) fn operation_len_bytes(&self) -> usize {
        match self.kind {
            Kind::Range => (KEY_LEN + self.value_size) * self.keys as usize,
            _ => self.value_size,
        }
    }

    /// Whether its keys must exist.
    pub(super) fn needs_keys(&self) -> bool {
        match self.kind {
            Kind::Get | Kind::Mixed { .. } | Kind::Cas(_) | Kind::Range => true,
            Kind::Put | Kind::Append | Kind::Fill => false,
        }
    }

    /// The operations that create its keys.
    pub(super) fn filling(&self) -> Work {
        Work { kind: Kind::Fill, ..self.clone() }
    }

    /// Reads what must be known of the keys before the first operation.
    pub(super) fn read_keys(&self, clerk: &Clerk) -> Result<(), ClerkError> {
        match &self.kind {
            Kind::Cas(revisions) => revisions.read(clerk, self.all_keys(), number_of),
            _ => Ok(()),
        }
    }

    /// Operation number `number` of the run, for this client.
    pub(super) fn operation(&self, number: u64, client: u64, rng: &mut fastrand::Rng) -> Operation {
        let key = match self.kind {
            Kind::Range => return Operation::Range { keys: self.all_keys(), count: self.keys },
            Kind::Fill => number % self.keys,
            Kind::Cas(_) => self.own_key(client, rng),
            _ => rng.u64(..self.keys),
        };
        let is_get = match self.kind {
            Kind::Get => true,
            Kind::Mixed { read_ratio } => rng.f64() < read_ratio,
            _ => false,
        };
        if is_get {
            return Operation::Get { key: key_of(key) };
        }
        let begin = rng.usize(..VARIETY_BYTES);
        let value = self.bytes.slice(begin..begin + self.value_size);
        match &self.kind {
            Kind::Cas(revisions) => Operation::Swap(Swap::new(revisions, key, key_of(key), value)),
            Kind::Append => Operation::Write { op: APPEND, key: key_of(key), value },
            _ => Operation::Write { op: PUT, key: key_of(key), value },
        }
    }

    /// One of the keys that no other client uses: every `clients`th, from the client's number on.
    fn own_key(&self, client: u64, rng: &mut fastrand::Rng) -> u64 {
        let count = (self.keys - client).div_ceil(self.clients);
        client + self.clients * rng.u64(..count)
    }

    fn all_keys(&self) -> KeyRange {
        KeyRange::between(key_of(0), key_of(self.keys)).expect("there is at least one key")
    }
}

fn key_of(number: u64) -> Bytes {
    format!("{PREFIX}{number:010}").into()
}

/// The number of a key, if it is one of ours.
fn number_of(key: &[u8]) -> Option<u64> {
    let number = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.parse().ok()?;
    (key_of(number) == key).then_some(number)
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Get {
        key: Bytes,
    },
    Write {
        op: &'static [u8],
        key: Bytes,
        value: Bytes,
    },
    Swap(Swap),
    /// All entries of `keys`, which should be `count`.
    Range {
        keys: KeyRange,
        count: u64,
    },
}

impl Operation {
    /// Runs it with a Clerk, which finds the leader or waits for one. `may_have_run`: an earlier
    /// attempt may have taken effect unheard.
    pub(super) fn run(&self, clerk: &Clerk, may_have_run: bool) -> Result<(), Failed> {
        match self {
            Operation::Get { key } => drop(clerk.get(key)?),
            Operation::Write { op, key, value } if *op == APPEND => clerk.append(key, value)?,
            Operation::Write { key, value, .. } => clerk.put(key, value)?,
            Operation::Swap(swap) => swap.run(clerk, may_have_run)?,
            Operation::Range { keys, .. } => {
                let (_, found) = clerk.range(&Range::of(keys.clone()))?;
                self.check_found(found.entries.len())?;
            }
        }
        Ok(())
    }

    /// Whether a range has found all its keys. With fewer, it would look faster than it is.
    pub(super) fn check_found(&self, found: usize) -> Result<(), Failed> {
        match self {
            Operation::Range { count, .. } if *count != found as u64 => {
                Err(Failed::not_applied(format!("the range has {found} keys in place of {count}")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_have_numbers() {
        for number in [0, 7, 9_999_999_999] {
            let key = key_of(number);
            assert_eq!((key.len(), number_of(&key)), (KEY_LEN, Some(number)));
        }
        for foreign in ["", "bench-", "bench-x", "bench-1", "bench-00000000001"] {
            assert_eq!(number_of(foreign.as_bytes()), None, "{foreign}");
        }
    }

    #[test]
    fn no_two_clients_swap_the_same_key_and_all_keys_have_an_owner() {
        let mut rng = fastrand::Rng::with_seed(1);
        for (clients, keys) in [(1, 1), (1, 5), (3, 3), (3, 10), (4, 6)] {
            let kind = Kind::Cas(Revisions::of_absent(keys));
            let work = Work { kind, clients, keys, value_size: 0, bytes: vec![0; 5000].into() };
            let mut owned = BTreeSet::new();
            for client in 0..clients {
                let of_client: BTreeSet<u64> =
                    (0..500).map(|_| work.own_key(client, &mut rng)).collect();
                assert!(owned.is_disjoint(&of_client), "{clients} clients, {keys} keys");
                owned.extend(of_client);
            }
            assert_eq!(owned, (0..keys).collect(), "{clients} clients");
        }
    }
}
