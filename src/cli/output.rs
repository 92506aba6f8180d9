//! The two streams that a command writes to:
//!
//! | stream | content | if it cannot be written |
//! |---|---|---|
//! | standard output | the result | the command fails with a line that says so, and with status 3, or 4 if it has written |
//! | standard error | messages for people | nothing happens: nobody is there to read them |
//!
//! A pipe whose reader has gone away (`| head`) is no failure: the reader wants no more. A stream
//! that was closed before the start (`>&-`) counts as `/dev/null`. The standard library opens that
//! in its place; otherwise the next file or socket would get its number, and output would go there.

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Exit, Failure};

/// Writes a result to standard output.
pub(super) fn print(parts: &[&[u8]]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    finish(parts.iter().try_for_each(|part| out.write_all(part)).and_then(|()| out.flush()))
}

/// As [`print`], after something has been written: a script that tries again would write it twice.
pub(super) fn print_of_write(parts: &[&[u8]]) -> Result<(), Failure> {
    print(parts).map_err(|failure| Failure { exit: Exit::Unknown, ..failure })
}

/// A result of many lines, which goes to standard output in large pieces.
pub(super) struct Lines(BufWriter<StdoutLock<'static>>);

impl Lines {
    pub(super) fn begin() -> Lines {
        Lines(BufWriter::with_capacity(64 << 10, io::stdout().lock()))
    }

    /// Adds to the result. `false`: the reader wants no more.
    pub(super) fn print(&mut self, parts: &[&[u8]]) -> Result<bool, Failure> {
        let written = parts.iter().try_for_each(|part| self.0.write_all(part));
        let goes_on = written.is_ok();
        finish(written).map(|()| goes_on)
    }

    pub(super) fn end(mut self) -> Result<(), Failure> {
        finish(self.0.flush())
    }
}

/// Writes one of the results that come one by one, so that the reader has it at once. `false`: the
/// reader wants no more.
pub(super) fn print_now(parts: &[&[u8]]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    let line = parts.concat();
    let written = out.write_all(&line).and_then(|()| out.flush());
    let goes_on = written.is_ok();
    finish(written).map(|()| goes_on)
}

/// Whether standard output is a pipe whose reader has gone away, as far as the system tells.
pub(super) fn reader_is_gone() -> bool {
    let out = io::stdout();
    // Errors are reported whatever is asked for.
    let mut polled = [PollFd::new(&out, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&at_once)).is_ok() && polled[0].revents().contains(PollFlags::ERR)
}

/// Writes a line to standard error.
pub(super) fn eprint_line(line: &dyn Display) {
    // One write per line, so that lines of several processes do not mix.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Writes a message of clap: help and version are results, a usage error goes to standard error.
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
