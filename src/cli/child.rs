//! COMMAND, which `watch`, `lock`, `elect` and `dev` run: its start, signals, and its exit status.
//!
//! | how COMMAND ends | exit status |
//! |---|---|
//! | it exits with a status | that one |
//! | signal N ends it | 128 + N |
//! | there is no such program | 127 |
//! | it cannot be started otherwise | 126 |
//!
//! Shells use the same numbers.
//!
//! # Signals
//! SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1 and SIGUSR2 are passed on to COMMAND, except those
//! that were ignored when `syncraft` started (`nohup`). While no COMMAND runs, they do to
//! `syncraft` what they do to any program, unless the caller wants to see them first
//! ([`Runner::holding`]). Behind those that end programs comes SIGCONT, because COMMAND may be
//! stopped.
//!
//! In the foreground of a terminal, COMMAND is in the terminal's group of processes, so that it may
//! read from the terminal, and Ctrl-Z stops both. Keys that send a signal send it to the whole
//! group, so SIGINT and SIGQUIT are not passed on a second time; other signals go to COMMAND itself
//! alone, because others use the group, too: the rest of a pipeline. Anywhere else, COMMAND has a
//! group of its own, and signals go to all of that.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind, PipeReader, Write};
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpgrp, kill_process, kill_process_group, waitid,
};
use rustix::termios::tcgetpgrp;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::{Exit, Failure};

const PASSED_ON: [i32; 6] = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2];

/// Those that say that a program shall end.
const ENDING: [i32; 4] = [SIGTERM, SIGINT, SIGQUIT, SIGHUP];

/// How often it is checked whether COMMAND may still run.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How long COMMAND and its group may take to end after SIGTERM. Then comes SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// Runs COMMANDs, one at a time.
pub(super) struct Runner {
    signals: Receiver<i32>,
    /// Locked while a signal has its effect, so that all that came before a change are told.
    effect: Arc<Mutex<Effect>>,
    is_in_foreground: bool,
}

/// What a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// What it does to any program.
    Usual,
    /// It is told. The next one has its usual effect: whoever sends another has no time to wait.
    ToldOnce,
    /// It is told.
    Told,
    /// As [`ToldOnce`](Effect::ToldOnce) if it ends programs. The others have no effect.
    EndToldOnce,
}

/// How a COMMAND has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// As in the table above.
    pub(super) status: u8,
    /// The first of the signals that end programs ([`ENDING`]) that came while it ran.
    pub(super) signal: Option<i32>,
}

impl Runner {
    /// From now on, signals are passed on.
    pub(super) fn new() -> Result<Runner, Failure> {
        let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let wanted = PASSED_ON.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
        let mut caught = Signals::new(wanted.chain([SIGCHLD])).map_err(cannot_catch)?;
        let (sender, signals) = channel();
        let effect = Arc::new(Mutex::new(Effect::Usual));
        let its_effect = Arc::clone(&effect);
        let pass_on = move || {
            for signal in caught.forever() {
                let mut effect = its_effect.lock();
                match *effect {
                    Effect::Usual => {
                        usual_effect(signal);
                        continue;
                    }
                    Effect::EndToldOnce if !ENDING.contains(&signal) => continue,
                    Effect::EndToldOnce => *effect = Effect::Usual,
                    Effect::ToldOnce if signal != SIGCHLD => *effect = Effect::Usual,
                    Effect::ToldOnce | Effect::Told => {}
                }
                if sender.send(signal).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(pass_on).map_err(cannot_catch)?;
        let is_in_foreground =
            fs::File::open("/dev/tty").is_ok_and(|tty| tcgetpgrp(tty) == Ok(getpgrp()));
        Ok(Runner { signals, effect, is_in_foreground })
    }

    /// From now on, the first signal has no effect while no COMMAND runs, but
    /// [`signal`](Self::signal) tells it: there is something to give back before the end. The
    /// second one has its usual effect.
    pub(super) fn holding(&self) {
        *self.effect.lock() = Effect::ToldOnce;
    }

    /// A signal that ends programs, if one has come while no COMMAND ran.
    pub(super) fn signal(&self) -> Option<i32> {
        self.signals.try_iter().find(|signal| *signal != SIGCHLD)
    }

    /// Waits for a signal that ends programs. One that has come after [`holding`](Self::holding)
    /// counts. The second one has its usual effect, and others have none.
    pub(super) fn wait_for_end(&self) {
        *self.effect.lock() = Effect::EndToldOnce;
        // If the thread that catches signals has died, nobody waits for ever.
        while self.signals.recv().is_ok_and(|signal| !ENDING.contains(&signal)) {}
    }

    /// Runs a COMMAND to its end. It gets `input` as its standard input, or ours. As soon as
    /// `may_run` is false, it is told to end, with all processes of its group.
    pub(super) fn run(
        &self,
        mut command: Command,
        input: Option<&[u8]>,
        may_run: impl Fn() -> bool,
    ) -> Result<Ended, Failure> {
        if let Some(input) = input {
            command.stdin(feed(input).map_err(cannot_feed)?);
        }
        if !self.is_in_foreground {
            command.process_group(0);
        }
        let effect = mem::replace(&mut *self.effect.lock(), Effect::Told);
        let started = command.spawn().map_err(|error| cannot_start(&command, &error));
        // With its end of the pipe: whoever writes to the other one notices the end of COMMAND.
        drop(command);
        let ended = started.and_then(|child| self.attend(child, may_run));
        *self.effect.lock() = effect;
        if effect == Effect::Usual {
            // Too late for COMMAND: they are for us.
            self.signal().into_iter().for_each(usual_effect);
        }
        ended
    }

    fn attend(&self, mut child: Child, may_run: impl Fn() -> bool) -> Result<Ended, Failure> {
        let pid = Pid::from_child(&child);
        let mut told_at: Option<Instant> = None;
        let mut ending = None;
        loop {
            if told_at.is_none() && !may_run() {
                self.send(pid, Signal::TERM);
                // It may be stopped.
                self.send(pid, Signal::CONT);
                told_at = Some(Instant::now());
            }
            let is_out_of_time = told_at.is_some_and(|at| at.elapsed() >= GRACE);
            if is_out_of_time {
                self.send(pid, Signal::KILL);
            }
            let may_leave_others = told_at.is_none() || is_out_of_time || self.is_in_foreground;
            if has_ended(pid)? && (may_leave_others || !group_runs(pid)) {
                let status = child.wait().map_err(cannot_wait)?;
                return Ok(Ended { status: code(status), signal: ending });
            }
            match self.signals.recv_timeout(CHECK_INTERVAL) {
                Ok(signal) => {
                    self.pass_on(pid, signal);
                    ending = ending.or(Some(signal).filter(|signal| ENDING.contains(signal)));
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The thread that catches signals has died: look again in a while.
                Err(RecvTimeoutError::Disconnected) => thread::sleep(CHECK_INTERVAL),
            }
        }
    }

    fn pass_on(&self, pid: Pid, number: i32) {
        let is_from_keys = self.is_in_foreground && [SIGINT, SIGQUIT].contains(&number);
        match Signal::from_named_raw(number) {
            Some(signal) if signal != Signal::CHILD && !is_from_keys => self.send(pid, signal),
            _ => return,
        }
        if ENDING.contains(&number) {
            // It may be stopped, and then would never get it.
            self.send(pid, Signal::CONT);
        }
    }

    /// Sends a signal to COMMAND, which has not been waited for, so that nobody else has its id.
    fn send(&self, pid: Pid, signal: Signal) {
        // It may have ended just now.
        let _ = match self.is_in_foreground {
            true => kill_process(pid, signal),
            false => kill_process_group(pid, signal),
        };
    }
}

/// Whether COMMAND has ended. It is not waited for, so that it keeps its id, and its group, too.
fn has_ended(pid: Pid) -> Result<bool, Failure> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let ended = waitid(WaitId::Pid(pid), options);
    ended.map(|ended| ended.is_some()).map_err(|errno| cannot_wait(errno.into()))
}

/// Whether a process of this group runs. Nobody knows without `/proc`: then none does.
fn group_runs(group: Pid) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut stats = processes.filter_map(|process| fs::read(process.path().join("stat")).ok());
    stats.any(|stat| runs_in(group, &String::from_utf8_lossy(&stat)))
}

/// Whether a process runs, and in this group, as its `/proc/PID/stat` has it: id, name in
/// parentheses, state, id of the parent, id of the group. A name may have parentheses of its own.
fn runs_in(group: Pid, stat: &str) -> bool {
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let has_ended = fields.next().is_none_or(|state| ["Z", "X"].contains(&state));
    !has_ended && fields.nth(1) == Some(&group.to_string())
}

fn usual_effect(signal: i32) {
    // It fails for no signal that is caught.
    let _ = emulate_default_handler(signal);
}

/// A COMMAND from its words. It finds these members without options.
pub(super) fn command(members: &str, words: &[OsString]) -> Command {
    let mut words = words.iter();
    let mut command = Command::new(words.next().expect("clap wants at least one word"));
    command.args(words).env("SYNCRAFT_MEMBERS", members);
    command
}

/// Bytes without a zero, for the environment.
pub(super) fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// Writes the input of a COMMAND, which need not read it: so a thread does it. It begins before
/// COMMAND, so that no COMMAND runs if the system has no thread.
fn feed(input: &[u8]) -> io::Result<PipeReader> {
    let (reader, mut writer) = io::pipe()?;
    let input = input.to_vec();
    let write = move || {
        // COMMAND may end before it has read everything.
        let _ = writer.write_all(&input);
    };
    thread::Builder::new().name("input".to_owned()).spawn(write)?;
    Ok(reader)
}

fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, signal) => code_of_signal(signal.unwrap_or_default()),
    }
}

/// The exit status of whoever ends because of a signal.
pub(super) fn code_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

fn cannot_catch(error: io::Error) -> Failure {
    Failure::not_applied(format!("cannot catch signals: {error}"))
}

fn cannot_feed(error: io::Error) -> Failure {
    let line = format!("cannot give COMMAND its input: {error}");
    Failure { exit: Exit::Command(126), line }
}

fn cannot_wait(error: io::Error) -> Failure {
    Failure::not_applied(format!("cannot wait for COMMAND: {error}"))
}

fn cannot_start(command: &Command, error: &io::Error) -> Failure {
    let status = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
    let line = format!("cannot run {:?}: {error}", command.get_program());
    Failure { exit: Exit::Command(status), line }
}

/// The signals that this process ignores, as bits, from `/proc/self/status`.
fn ignored(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_found() {
        let ignored = ignored("Name:\tsh\nSigBlk:\t00000000000000ff\nSigIgn:\t0000000000001001\n");
        assert_eq!(ignored, 1 << (SIGHUP - 1) | 1 << 12);
        assert_eq!(super::ignored(""), 0);
    }

    #[test]
    fn processes_of_a_group_are_found() {
        let group = Pid::from_raw(70).unwrap();
        for (stat, runs) in [
            ("72 (sleep) S 71 70 70 0", true),
            ("72 (a) Z 1 71) T 71 70 70 0", true),
            ("70 (sh) Z 60 70 70 0", false),
            ("72 (sleep) S 70 72 70 0", false),
            ("", false),
        ] {
            assert_eq!(runs_in(group, stat), runs, "{stat}");
        }
        assert!(group_runs(getpgrp()));
    }
}
