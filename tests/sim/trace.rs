//! What happened: a hash of everything, and the last lines of text (all lines on replay).

use std::collections::VecDeque;
use std::fmt::Display;

/// Lines kept for a failure.
const LINES_MAX: usize = 400;

/// Whether lines are written at all: formatting costs more than the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    HashOnly,
    LastLines,
    Print,
}

pub(crate) struct Trace {
    detail: Detail,
    lines: VecDeque<String>,
    hash: u64,
}

impl Trace {
    pub(crate) fn new(detail: Detail) -> Trace {
        Trace { detail, lines: VecDeque::new(), hash: 0xcbf2_9ce4_8422_2325 }
    }

    /// Whether anybody will read it.
    pub(crate) fn is_told(&self) -> bool {
        self.detail != Detail::HashOnly
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Mixes numbers that describe an event into the hash (FNV-1a).
    pub(crate) fn mix(&mut self, numbers: &[u64]) {
        for &number in numbers {
            self.hash = (self.hash ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        }
    }

    /// No words, no line.
    pub(crate) fn line<D: Display>(&mut self, now_us: u64, words: impl FnOnce() -> D) {
        if !self.is_told() {
            return;
        }
        let words = words().to_string();
        if words.is_empty() {
            return;
        }
        let line = format!("{:>9}.{:03} {words}", now_us / 1_000, now_us % 1_000);
        if self.detail == Detail::Print {
            return println!("{line}");
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// A violation that unwinds still leaves its story.
impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.lines.iter().for_each(|line| println!("{line}"));
        }
    }
}
