//! What has arrived over a connection and was not used yet.

use std::io;
use std::time::Duration;

use crate::transport::{Received, Transport};

/// How much is read at once, once a client has sent as much as the first reads take. Most requests
/// are shorter, and thousands of connections may be open.
const READ_LEN_BYTES: usize = 8 << 10;
const FIRST_READ_LEN_BYTES: usize = 1 << 10;

/// The bytes that follow.
#[derive(Debug, Default)]
pub(super) struct Input {
    space: Vec<u8>,
    begin: usize,
    end: usize,
    /// Whether a read has filled all of its space.
    is_large: bool,
}

impl Input {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.space[self.begin..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    /// These bytes were used.
    pub(super) fn consume(&mut self, len: usize) {
        assert!(len <= self.end - self.begin, "{len} bytes used of {}", self.end - self.begin);
        self.begin += len;
        if self.is_empty() {
            (self.begin, self.end) = (0, 0);
        }
    }

    /// Reads once.
    pub(super) fn fill(
        &mut self,
        transport: &Transport,
        timeout: Option<Duration>,
    ) -> io::Result<Received> {
        let read_len = if self.is_large { READ_LEN_BYTES } else { FIRST_READ_LEN_BYTES };
        if self.space.len() - self.end < read_len / 2 {
            self.space.drain(..self.begin);
            (self.begin, self.end) = (0, self.end - self.begin);
            self.space.resize(self.end + read_len, 0);
        }
        let received = transport.read(&mut self.space[self.end..], timeout)?;
        if let Received::Bytes(count) = received {
            self.end += count;
            self.is_large |= self.end == self.space.len();
        }
        Ok(received)
    }
}
