//! A log file that is written and never read.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Context, Error};

/// When a log is full, it begins again at its start.
pub(crate) const LOG_BYTES: u64 = 64 << 20;
const FILL_BYTES: usize = 1 << 20;

pub(crate) struct Log {
    file: File,
    at: u64,
}

impl Log {
    /// Opens a log whose file has its full length and its blocks. A sync then writes the data
    /// alone, and nothing about the file.
    pub(crate) fn open(path: &Path) -> Result<Log, Error> {
        let open = || {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            if file.metadata()?.len() < LOG_BYTES {
                fill(&file)?;
            }
            Ok(Log { file, at: 0 })
        };
        open().context(|| format!("opening the log {}", path.display()))
    }

    /// Returns when `bytes` are on disk.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.at + bytes.len() as u64 > LOG_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.file.sync_data()
    }
}

fn fill(file: &File) -> io::Result<()> {
    let zeros = vec![0; FILL_BYTES];
    for at in (0..LOG_BYTES).step_by(FILL_BYTES) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()
}
