//! [`Alike`]: watches of one sink that are told the same changes, so that they are told together.

use std::sync::Arc;

use super::cursor::Piece;
use super::hub::SinkId;
use super::slots::SlotId;

/// So many are told together. More: the first one waits longer for the last one.
const ALIKE_MAX: usize = 256;

/// See the file. They come one after the other, and wait here until one comes that differs.
#[derive(Debug)]
pub(super) struct Alike {
    pub(super) sink: SinkId,
    pub(super) piece: Arc<Piece>,
    pub(super) watches: Vec<SlotId>,
    /// Their numbers, in the same order.
    pub(super) numbers: Vec<u64>,
}

impl Alike {
    pub(super) fn new(sink: SinkId, piece: Arc<Piece>) -> Alike {
        Alike { sink, piece, watches: Vec::new(), numbers: Vec::new() }
    }

    /// Whether one more of this sink that is told this belongs here.
    pub(super) fn takes(&self, sink: SinkId, piece: &Arc<Piece>) -> bool {
        self.sink == sink && Arc::ptr_eq(&self.piece, piece) && self.watches.len() < ALIKE_MAX
    }

    pub(super) fn push(&mut self, watch: SlotId, number: u64) {
        self.watches.push(watch);
        self.numbers.push(number);
    }
}
