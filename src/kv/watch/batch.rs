//! [`Batch`]: watches of one sink that are due the same changes, so that they are told together.
//!
//! With 1,000 watches of one key, the locks and checks for each of them would take longer than to
//! send its bytes. A batch is told when a watch comes that does not belong to it, before a flush,
//! and at the end of a turn.
//!
//! # Invariants
//! - A watch in the batch is in no queue. Its cursor stays until it was told.
//! - Between turns the batch is empty.

use std::sync::Arc;

use super::cursor::Piece;
use super::hub::SinkId;
use super::slots::SlotId;

/// How many watches are told together at most. Larger: the first of them waits longer.
const WATCHES_MAX: usize = 256;

/// How much they are told together at most, unless one is told more.
const BYTES_MAX: u64 = 1 << 20;

/// See the file.
#[derive(Debug, Default)]
pub(super) struct Batch {
    due: Option<Due>,
    pub(super) watches: Vec<SlotId>,
    /// The numbers by which the sink knows them, in the same order.
    pub(super) numbers: Vec<u64>,
}

/// To whom the batch is told what.
#[derive(Debug)]
struct Due {
    sink: SinkId,
    piece: Arc<Piece>,
    piece_len: u64,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_none()
    }

    /// Whether a watch of this sink that is due this piece may join. Every watch may join an empty
    /// batch.
    pub(super) fn takes(&self, sink: SinkId, piece: &Arc<Piece>) -> bool {
        self.due.as_ref().is_none_or(|due| {
            let len = due.piece_len * (self.watches.len() as u64 + 1);
            due.sink == sink
                && Arc::ptr_eq(&due.piece, piece)
                && self.watches.len() < WATCHES_MAX
                && len <= BYTES_MAX
        })
    }

    /// Adds a watch that the batch [takes](Batch::takes).
    pub(super) fn push(&mut self, sink: SinkId, piece: Arc<Piece>, watch: SlotId, number: u64) {
        self.due.get_or_insert_with(|| {
            let piece_len = piece.changes.iter().map(|change| change.len_bytes()).sum();
            Due { sink, piece, piece_len }
        });
        self.watches.push(watch);
        self.numbers.push(number);
    }

    /// Takes out which sink is to be told what. The watches stay until they are
    /// [cleared](Batch::clear).
    pub(super) fn take(&mut self) -> Option<(SinkId, Arc<Piece>)> {
        self.due.take().map(|due| (due.sink, due.piece))
    }

    /// Forgets the watches, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.watches.clear();
        self.numbers.clear();
    }
}
