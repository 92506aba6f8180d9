//! Chooses the operations of a client: their kind, key and value.

use bytes::Bytes;
use syncraft::clerk::{Clerk, ClerkError};

use super::super::args::{BenchArgs, BenchOperation};

/// The values of a run begin at this many different positions in random bytes, so that a store
/// could not save space by keeping equal values once.
const VARIETY_BYTES: usize = 4096;

/// `Op` of `kv_server_rpc.proto`: replace the value.
const PUT: &[u8] = b"Put";
/// `Op`: add to the end of the value.
const APPEND: &[u8] = b"Append";

/// The operations of a run.
#[derive(Clone, Debug)]
pub(super) struct Work {
    kind: Kind,
    keys: u64,
    value_size: usize,
    bytes: Bytes,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Put,
    Append,
    Get,
    Mixed {
        read_ratio: f64,
    },
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
        };
        let bytes =
            (0..args.value_size + VARIETY_BYTES).map(|_| fastrand::u8(..)).collect::<Vec<u8>>();
        let bytes = bytes.into();
        Work { kind, keys: args.keys, value_size: args.value_size, bytes }
    }

    /// The size of each value in bytes.
    pub(super) fn value_size(&self) -> usize {
        self.value_size
    }

    /// Whether it reads, so that its keys must exist.
    pub(super) fn reads(&self) -> bool {
        matches!(self.kind, Kind::Get | Kind::Mixed { .. })
    }

    /// The operations that create its keys.
    pub(super) fn filling(&self) -> Work {
        Work { kind: Kind::Fill, ..self.clone() }
    }

    /// Operation number `number` of the run.
    pub(super) fn operation(&self, number: u64, rng: &mut fastrand::Rng) -> Operation {
        let key = match self.kind {
            Kind::Fill => number % self.keys,
            _ => rng.u64(..self.keys),
        };
        let is_get = match self.kind {
            Kind::Get => true,
            Kind::Mixed { read_ratio } => rng.f64() < read_ratio,
            Kind::Put | Kind::Append | Kind::Fill => false,
        };
        let key = format!("bench-{key:010}").into();
        if is_get {
            return Operation::Get { key };
        }
        let begin = rng.usize(..VARIETY_BYTES);
        let value = self.bytes.slice(begin..begin + self.value_size);
        let op = if matches!(self.kind, Kind::Append) { APPEND } else { PUT };
        Operation::Write { op, key, value }
    }
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Get { key: Bytes },
    Write { op: &'static [u8], key: Bytes, value: Bytes },
}

impl Operation {
    /// Runs it with a Clerk, which finds the leader or waits for one.
    pub(super) fn run(&self, clerk: &Clerk) -> Result<(), ClerkError> {
        match self {
            Operation::Get { key } => clerk.get(key).map(drop),
            Operation::Write { op, key, value } if *op == APPEND => clerk.append(key, value),
            Operation::Write { key, value, .. } => clerk.put(key, value),
        }
    }
}
