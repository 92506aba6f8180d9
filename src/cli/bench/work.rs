//! What a client does: which operation, on which key, with which value.

use syncraft::clerk::{Clerk, ClerkError};

use super::super::args::{BenchArgs, BenchOperation};

/// The values of one run are slices of this many different bytes: a store that kept equal values once would gain nothing.
const VARIETY_BYTES: usize = 4096;

/// The operations of a run.
#[derive(Clone, Debug)]
pub(super) struct Work {
    kind: Kind,
    keys: u64,
    value_size: usize,
    bytes: Vec<u8>,
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
        let bytes = (0..args.value_size + VARIETY_BYTES).map(|_| fastrand::u8(..)).collect();
        Work { kind, keys: args.keys, value_size: args.value_size, bytes }
    }

    /// Whether its keys have to be there.
    pub(super) fn reads(&self) -> bool {
        matches!(self.kind, Kind::Get | Kind::Mixed { .. })
    }

    /// What puts its keys there.
    pub(super) fn filling(&self) -> Work {
        Work { kind: Kind::Fill, ..self.clone() }
    }

    /// Does operation number `number` of the run.
    pub(super) fn run(
        &self,
        clerk: &Clerk,
        number: u64,
        rng: &mut fastrand::Rng,
    ) -> Result<(), ClerkError> {
        let key = match self.kind {
            Kind::Fill => number % self.keys,
            _ => rng.u64(..self.keys),
        };
        let key = format!("bench-{key:010}");
        let begin = rng.usize(..VARIETY_BYTES);
        let value = &self.bytes[begin..begin + self.value_size];
        match self.kind {
            Kind::Put | Kind::Fill => clerk.put(key, value),
            Kind::Append => clerk.append(key, value),
            Kind::Get => clerk.get(key).map(drop),
            Kind::Mixed { read_ratio } if rng.f64() < read_ratio => clerk.get(key).map(drop),
            Kind::Mixed { .. } => clerk.put(key, value),
        }
    }
}
