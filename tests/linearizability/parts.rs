//! Which writes a read has seen. That can be told if each written value is unique and none is the beginning of another:
//! then what is read is one of them after the other, in one way only.

use super::{Call, Calls, Op, State, Value};

/// A read of a value that nobody wrote, or in which a write stands twice.
#[derive(Debug)]
pub(super) struct Impossible {
    pub(super) at: usize,
}

pub(super) struct Parts {
    /// Of each read: the writes in it. Of a write: itself, if it is in any read.
    of: Vec<Calls>,
    /// Reads of a value that was not begun by a put, and of none: they come before all others.
    is_first: Vec<bool>,
}

impl Parts {
    /// `None`: it can't be told, so that each order has to be tried.
    pub(super) fn of(calls: &[&Call]) -> Result<Option<Parts>, Impossible> {
        let writes: Vec<(usize, &[u8])> = calls.iter().enumerate().filter_map(written).collect();
        let is_apart = |(at, value): &(usize, &[u8])| {
            let is_beginning =
                |(other, longer): &(usize, &[u8])| at != other && longer.starts_with(value);
            !value.is_empty() && !writes.iter().any(is_beginning)
        };
        if !writes.iter().all(is_apart) {
            return Ok(None);
        }
        let mut parts =
            Parts { of: vec![Calls::default(); calls.len()], is_first: vec![false; calls.len()] };
        for (at, call) in calls.iter().enumerate() {
            let Op::Get(read) = &call.op else { continue };
            let order = split(read.as_deref().unwrap_or_default(), &writes);
            let order = order.ok_or(Impossible { at })?;
            let is_put = |at: &usize| matches!(calls[*at].op, Op::Put(_));
            parts.is_first[at] = !order.first().is_some_and(is_put);
            for write in order {
                parts.of[at] = parts.of[at].with(write);
                parts.of[write] = parts.of[write].with(write);
            }
        }
        Ok(Some(parts))
    }

    /// Whether any read has this write in it.
    pub(super) fn is_read(&self, write: usize) -> bool {
        !self.of[write].is_empty()
    }

    /// Whether this read can never get its value, after the calls in order: a write in it has been put in order already, and
    /// the value is not on the way from there.
    pub(super) fn is_lost(&self, at: usize, read: &Value, ordered: Calls, state: &State) -> bool {
        let begun = self.of[at].and(ordered);
        if begun.is_empty() {
            return self.is_first[at] && state.value.is_some();
        }
        let (read, value) = (read.as_deref(), state.value.as_deref());
        begun != state.held || !read.unwrap_or_default().starts_with(value.unwrap_or_default())
    }
}

fn written<'a>((at, call): (usize, &&'a Call)) -> Option<(usize, &'a [u8])> {
    match &call.op {
        Op::Put(value) | Op::Append(value) => Some((at, value)),
        Op::Get(_) => None,
    }
}

/// The writes whose values these bytes are, one after the other, each once.
fn split(mut bytes: &[u8], writes: &[(usize, &[u8])]) -> Option<Vec<usize>> {
    let mut order = Vec::new();
    while !bytes.is_empty() {
        let (at, value) = writes.iter().find(|(_, value)| bytes.starts_with(value))?;
        if order.contains(at) {
            return None;
        }
        order.push(*at);
        bytes = &bytes[value.len()..];
    }
    Some(order)
}
