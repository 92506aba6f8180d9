//! Which writes a read has seen. If each written value is unique and no value is the beginning of
//! another, the value that was read can be split into written values in one way only.

use super::record::{Action, Record};

pub(super) struct Parts {
    /// For each read: how many writes it has seen.
    pub(super) len: Vec<usize>,
    /// For each write: the reads that have seen it.
    pub(super) reads: Vec<Vec<usize>>,
    /// For each read: whether its value does not begin with a put, or was absent. Such a read comes
    /// before all writes that it has not seen.
    pub(super) is_first: Vec<bool>,
}

/// A read saw a value that nobody wrote, or a write twice.
pub(super) struct Impossible;

impl Parts {
    /// `None`: reads do not show which writes they have seen.
    pub(super) fn of(calls: &[(usize, Record)]) -> Result<Option<Parts>, Impossible> {
        let mut writes: Vec<(&[u8], usize)> =
            calls.iter().enumerate().filter_map(written).collect();
        writes.sort_unstable();
        // In this order, a value stands right before the first value of which it is the beginning.
        let is_apart = |pair: &[(&[u8], usize)]| !pair[1].0.starts_with(pair[0].0);
        let is_any_empty = writes.first().is_some_and(|(value, _)| value.is_empty());
        if is_any_empty || !writes.windows(2).all(is_apart) {
            return Ok(None);
        }
        let mut parts = Parts {
            len: vec![0; calls.len()],
            reads: vec![Vec::new(); calls.len()],
            is_first: vec![false; calls.len()],
        };
        for (read, (_, record)) in calls.iter().enumerate() {
            let Some(seen) = record.seen() else { continue };
            let order = split(seen.as_deref().unwrap_or_default(), &writes, seen.is_some());
            let order = order.ok_or(Impossible)?;
            let is_put = |write: &usize| matches!(calls[*write].1.action, Action::Put(_));
            parts.is_first[read] = !order.first().is_some_and(is_put);
            parts.len[read] = order.len();
            order.into_iter().for_each(|write| parts.reads[write].push(read));
        }
        Ok(Some(parts))
    }
}

fn written((at, (_, record)): (usize, &(usize, Record))) -> Option<(&[u8], usize)> {
    match &record.action {
        Action::Put(value) | Action::Append(value) => Some((value, at)),
        Action::Get => None,
    }
}

/// The writes whose values, one after another, are these bytes. `None`: there are none, or one is
/// there twice.
fn split(mut bytes: &[u8], writes: &[(&[u8], usize)], is_value: bool) -> Option<Vec<usize>> {
    let mut order = Vec::new();
    while !bytes.is_empty() {
        // No value is the beginning of another, so only the last one that is not greater can be
        // next.
        let at = writes.partition_point(|(value, _)| *value <= bytes).checked_sub(1)?;
        let (value, write) = writes[at];
        bytes = bytes.strip_prefix(value)?;
        order.push(write);
    }
    let mut sorted = order.clone();
    sorted.sort_unstable();
    let is_once = sorted.windows(2).all(|pair| pair[0] != pair[1]);
    // No write is empty, so nobody wrote an empty value.
    (is_once && is_value != order.is_empty()).then_some(order)
}

/// How many reads are checked after each write. More would find little, and take long if every read
/// has seen every write before it.
const READS_LOOKED_AT_MAX: usize = 64;

/// How the order so far, and the value that it leads to, fit the reads that are left.
pub(super) struct Reached {
    parts: Parts,
    /// For each read: how many of the writes that it has seen are in the order.
    ordered: Vec<usize>,
    is_left: Vec<bool>,
    /// How many reads are left that have seen a write in the order. They need the value as it is
    /// now.
    begun: usize,
    /// How many reads are left that must come before all writes that they have not seen.
    first: usize,
    /// How many writes the value consists of.
    held: usize,
}

impl Reached {
    pub(super) fn new(parts: Parts) -> Reached {
        let calls = parts.len.len();
        let first = parts.is_first.iter().filter(|&&is_first| is_first).count();
        Reached {
            parts,
            ordered: vec![0; calls],
            is_left: vec![true; calls],
            begun: 0,
            first,
            held: 0,
        }
    }

    /// Whether no read has seen this write. While no read has begun, its place makes no difference:
    /// the next read has a put of its own before it.
    pub(super) fn is_unseen(&self, write: usize) -> bool {
        self.parts.reads[write].is_empty()
    }

    /// Whether a write that no read has seen can come now without taking a read's value away.
    pub(super) fn bears_unseen(&self) -> bool {
        self.begun == 0 && self.first == 0
    }

    /// Whether every read that is left can still get its value after this write, the last in the
    /// order.
    pub(super) fn bears(&self, write: usize, is_on_the_way: impl Fn(usize) -> bool) -> bool {
        let left = || self.parts.reads[write].iter().copied().filter(|&read| self.is_left[read]);
        let is_whole = |read| self.ordered[read] == self.held && is_on_the_way(read);
        self.first == 0
            && self.begun == left().count()
            && left().take(READS_LOOKED_AT_MAX).all(is_whole)
    }

    /// Adds this write to the order. Returns how many writes the value consisted of before.
    pub(super) fn write(&mut self, write: usize, is_put: bool) -> usize {
        for &read in &self.parts.reads[write] {
            self.ordered[read] += 1;
            if self.is_left[read] && self.ordered[read] == 1 {
                self.begun += 1;
                self.first -= usize::from(self.parts.is_first[read]);
            }
        }
        let held = if is_put { 1 } else { self.held + 1 };
        std::mem::replace(&mut self.held, held)
    }

    pub(super) fn unwrite(&mut self, write: usize, held: usize) {
        for &read in &self.parts.reads[write] {
            self.ordered[read] -= 1;
            if self.is_left[read] && self.ordered[read] == 0 {
                self.begun -= 1;
                self.first += usize::from(self.parts.is_first[read]);
            }
        }
        self.held = held;
    }

    /// Adds this read to the order.
    pub(super) fn read(&mut self, read: usize) {
        self.is_left[read] = false;
        match self.ordered[read] {
            0 => self.first -= usize::from(self.parts.is_first[read]),
            _ => self.begun -= 1,
        }
    }

    pub(super) fn unread(&mut self, read: usize) {
        self.is_left[read] = true;
        match self.ordered[read] {
            0 => self.first += usize::from(self.parts.is_first[read]),
            _ => self.begun += 1,
        }
    }
}
