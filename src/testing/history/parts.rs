//! Which writes a read has seen. That can be told if each written value is unique and none is the beginning of another:
//! then what is read is one of them after the other, in one way only.

use super::{Action, Record};

pub(super) struct Parts {
    /// Of each read, how many writes are in it.
    pub(super) len: Vec<usize>,
    /// Of each write: the reads that it is in.
    pub(super) reads: Vec<Vec<usize>>,
    /// Reads of a value that no put began, and of none: they come before all writes that are not in them.
    pub(super) is_first: Vec<bool>,
}

/// A read of a value that nobody wrote, or in which a write stands twice.
pub(super) struct Impossible;

impl Parts {
    /// `None`: it can't be told.
    pub(super) fn of(calls: &[(usize, Record)]) -> Result<Option<Parts>, Impossible> {
        let mut writes: Vec<(&[u8], usize)> =
            calls.iter().enumerate().filter_map(written).collect();
        writes.sort_unstable();
        // Sorted, what begins another stands right before the first that it begins.
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

/// The writes whose values these bytes are, one after the other, each once.
fn split(mut bytes: &[u8], writes: &[(&[u8], usize)], is_value: bool) -> Option<Vec<usize>> {
    let mut order = Vec::new();
    while !bytes.is_empty() {
        // None begins another, so the last that is not greater is the only one that can be it.
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

/// How many reads are looked at after each write: more would find little and take long, where each write is in every read after it.
const READS_LOOKED_AT_MAX: usize = 64;

/// How an order so far, and the value that it leads to, fit the reads that are left.
pub(super) struct Reached {
    parts: Parts,
    /// Of each read: how many of its writes are in the order.
    ordered: Vec<usize>,
    is_left: Vec<bool>,
    /// Reads that are left and of which a write is in the order: they can only be had from the value as it is.
    begun: usize,
    /// Reads that are left and must come before any write that is not in them.
    first: usize,
    /// Of how many writes the value is made.
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

    /// Whether no read has seen this write. As long as no read is begun it makes no difference when it comes: the next read
    /// has a put of its own before it.
    pub(super) fn is_unseen(&self, write: usize) -> bool {
        self.parts.reads[write].is_empty()
    }

    /// Whether a write that no read has seen costs no read its value.
    pub(super) fn bears_unseen(&self) -> bool {
        self.begun == 0 && self.first == 0
    }

    /// Whether no read that is left has lost its value by this write, the last in the order.
    pub(super) fn bears(&self, write: usize, is_on_the_way: impl Fn(usize) -> bool) -> bool {
        let left = || self.parts.reads[write].iter().copied().filter(|&read| self.is_left[read]);
        let is_whole = |read| self.ordered[read] == self.held && is_on_the_way(read);
        self.first == 0
            && self.begun == left().count()
            && left().take(READS_LOOKED_AT_MAX).all(is_whole)
    }

    /// This write is the next in the order; of how many the value was made before.
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

    /// This read is next.
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
