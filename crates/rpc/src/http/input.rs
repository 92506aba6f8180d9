//! What has arrived over a connection and was not used yet.

use std::io;
use std::time::Duration;

use crate::transport::{Received, Transport};

const READ_LEN_BYTES: usize = 8 << 10;

/// The bytes that follow. It holds no memory while there are none.
#[derive(Debug, Default)]
pub(super) struct Input {
    space: Vec<u8>,
    begin: usize,
    end: usize,
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
        if self.space.len() - self.end < READ_LEN_BYTES / 2 {
            self.space.drain(..self.begin);
            (self.begin, self.end) = (0, self.end - self.begin);
            self.space.resize(self.end + READ_LEN_BYTES, 0);
        }
        let received = transport.read(&mut self.space[self.end..], timeout)?;
        if let Received::Bytes(count) = received {
            self.end += count;
        }
        Ok(received)
    }
}
