//! The record of one call, and how it is shown.

use std::fmt;
use std::time::Instant;

use bytes::Bytes;

#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) key: Bytes,
    pub(super) action: Action,
    pub(super) began: Moment,
    pub(super) ended: Option<(Moment, Outcome)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) order: u64,
    pub(super) at: Instant,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Put(Bytes),
    Append(Bytes),
    Get,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write is acknowledged.
    Done,
    /// What the read saw. `None`: the key was absent.
    Value(Option<Bytes>),
    /// The write had no effect and never will, or the read failed.
    NotApplied,
    /// The write may have happened, or may still happen.
    Unknown,
}

impl Record {
    /// A read that failed and a write that had no effect are not part of any order.
    pub(super) fn says_something(&self) -> bool {
        match (&self.action, &self.ended) {
            (_, Some((_, Outcome::NotApplied))) => false,
            (Action::Get, ended) => matches!(ended, Some((_, Outcome::Value(_)))),
            _ => true,
        }
    }

    /// By when the call must have taken effect, if it must have.
    pub(super) fn returned(&self) -> Option<u64> {
        match &self.ended {
            Some((_, Outcome::Unknown)) | None => None,
            Some((moment, _)) => Some(moment.order),
        }
    }

    pub(super) fn seen(&self) -> Option<&Option<Bytes>> {
        match &self.ended {
            Some((_, Outcome::Value(value))) => Some(value),
            _ => None,
        }
    }
}

/// One call in one line.
pub(super) struct Shown<'a> {
    pub(super) number: usize,
    pub(super) record: &'a Record,
    pub(super) began: Instant,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown { number, record, began } = self;
        let millis = |at: Instant| at.saturating_duration_since(*began).as_secs_f64() * 1e3;
        write!(f, "#{number} from {:.3} ms ", millis(record.began.at))?;
        match &record.ended {
            Some((moment, _)) => write!(f, "to {:.3} ms: ", millis(moment.at))?,
            None => f.write_str("on: ")?,
        }
        match &record.action {
            Action::Put(value) => write!(f, "put {}", quoted(value))?,
            Action::Append(value) => write!(f, "append {}", quoted(value))?,
            Action::Get => f.write_str("get")?,
        }
        match &record.ended {
            Some((_, Outcome::Done)) => f.write_str(", done"),
            Some((_, Outcome::Value(None))) => f.write_str(", absent"),
            Some((_, Outcome::Value(Some(value)))) => write!(f, ", saw {}", quoted(value)),
            Some((_, Outcome::NotApplied)) => f.write_str(", not applied"),
            Some((_, Outcome::Unknown)) | None => f.write_str(", outcome unknown"),
        }
    }
}

/// The value, escaped. Of a long value only the end, where appends show.
pub(super) fn quoted(value: &[u8]) -> String {
    const LEN_MAX: usize = 60;
    let tail = &value[value.len().saturating_sub(LEN_MAX)..];
    match tail.len() == value.len() {
        true => format!("\"{}\"", tail.escape_ascii()),
        false => format!("\"...{}\" ({} bytes)", tail.escape_ascii(), value.len()),
    }
}
