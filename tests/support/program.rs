//! Copies of programs, which other users can run.

use std::path::Path;
use std::process::Command;

/// Copies a program. Another process does so: if this one had the copy open while another thread
/// starts a process, that process would have it open, too, and the copy would be busy.
pub(crate) fn copy_program(from: impl AsRef<Path>, to: &Path) {
    let status = Command::new("cp").arg(from.as_ref()).arg(to).status().expect("cp starts");
    assert!(status.success(), "cp: {status}");
}
