//! The two streams that a command writes to.
//!
//! | stream | what stands on it | if it cannot be written |
//! |---|---|---|
//! | standard output | the result | the command has failed: status 3, and a line that says so |
//! | standard error | what a person may want to know | nothing: nobody is there to be told |
//!
//! A pipe whose reader has gone away (`| head`) is no failure: its reader wants no more. A stream that was closed before the
//! start (`>&-`) counts as `/dev/null`, which is what the standard library opens in its place: otherwise the next file or
//! socket would get its number, and output would go there.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use super::Failure;

/// Writes a result to standard output.
pub(super) fn print(parts: &[&[u8]]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    finish(parts.iter().try_for_each(|part| out.write_all(part)).and_then(|()| out.flush()))
}

/// Writes a line to standard error.
pub(super) fn tell(line: &dyn Display) {
    // One write for the line, so that those of several processes do not mix.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Writes what clap has to say: help and the version are a result, and a mistake in the command line is told.
pub(super) fn print_usage(usage: &clap::Error) -> Result<(), Failure> {
    let printed = usage.print().and_then(|()| io::stdout().flush());
    if usage.use_stderr() { Ok(()) } else { finish(printed) }
}

fn finish(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::not_applied(format!("cannot write the result: {error}")))
        }
        _ => Ok(()),
    }
}
