//! `backup`: copies a running cluster into a file; checks such a file.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use syncraft::ErrorChain;
use syncraft::backup::{self, BackupHead, Contents, FetchError, Progress};

use super::args::{BackupArgs, BackupCommand, Common, VerifyArgs};
use super::asking::ask_cluster;
use super::output::{eprint_line, print};
use super::{Exit, Failure, Outcome};

/// The pause after all members have been asked in vain.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// How often a person is told how far it is, ...
const TERMINAL_PAUSE: Duration = Duration::from_millis(200);
/// ... and how often a log is.
const LOG_PAUSE: Duration = Duration::from_secs(10);

pub(super) fn backup(common: &Common, args: BackupArgs) -> Outcome {
    match args {
        BackupArgs { command: Some(BackupCommand::Verify(args)), .. } => verify(&args),
        BackupArgs { file: Some(file), .. } => write(common, &file),
        BackupArgs { .. } => Err(Failure::usage("no FILE")),
    }
}

fn write(common: &Common, file: &Path) -> Outcome {
    if file.as_os_str() == "-" {
        return Err(Failure::usage(
            "a backup is read back before it counts, so it goes to a file, not to standard output",
        ));
    }
    let endpoints = common.endpoints()?;
    let deadline = Instant::now() + common.timeout();
    if let Some(stranger) = ask_cluster(&endpoints, deadline).strangers().into_iter().next() {
        let words = format!("nobody knows which of several clusters is meant: {stranger}");
        return Err(Failure::not_applied(words));
    }
    loop {
        let mut last = None;
        for endpoint in endpoints.iter() {
            let mut told = Told::begin();
            let fetched =
                backup::fetch(&endpoint.addr, file, common.timeout(), &mut |it| told.at(it));
            told.end();
            match fetched {
                Ok((head, len)) => return done(file, &head, len),
                Err(error) if error.is_retryable() => last = Some(error),
                Err(FetchError::File(error)) => return Err(error.into()),
                Err(error) => return Err(failed(&error)),
            }
        }
        if let Some(error) = last.filter(|_| Instant::now() + ASK_PAUSE >= deadline) {
            return Err(failed(&error));
        }
        thread::sleep(ASK_PAUSE);
    }
}

fn failed(error: &FetchError) -> Failure {
    Failure::not_applied(ErrorChain(error).to_string())
}

fn done(file: &Path, head: &BackupHead, len: u64) -> Outcome {
    let BackupHead { revision, keys, .. } = head;
    let file = file.display();
    print(&[format!("{file}: revision {revision}, {keys} keys, {len} bytes\n").as_bytes()])?;
    Ok(Exit::Done)
}

/// Tells on standard error how far a backup is: on a terminal all the time, else if it takes long.
struct Told {
    is_terminal: bool,
    due: Instant,
    /// The line that is on the terminal.
    is_shown: bool,
}

impl Told {
    fn begin() -> Told {
        let is_terminal = io::stderr().is_terminal();
        let pause = if is_terminal { TERMINAL_PAUSE } else { LOG_PAUSE };
        Told { is_terminal, due: Instant::now() + pause, is_shown: false }
    }

    fn at(&mut self, Progress { done_bytes, total_bytes }: Progress) {
        let now = Instant::now();
        if now < self.due {
            return;
        }
        let percent = 100 * done_bytes.min(total_bytes) / total_bytes.max(1);
        let (done, total) = (done_bytes >> 20, total_bytes >> 20);
        let line = format!("syncraft: {done} of about {total} MiB ({percent} %)");
        if self.is_terminal {
            self.due = now + TERMINAL_PAUSE;
            self.is_shown = true;
            // To the beginning of the line, whose rest is erased.
            let _ = write!(io::stderr(), "\r{line}\x1b[K");
        } else {
            self.due = now + LOG_PAUSE;
            eprint_line(&line);
        }
    }

    fn end(&mut self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn verify(args: &VerifyArgs) -> Outcome {
    let contents = backup::verify(&args.file)?;
    let told = BackupJson::of(&args.file, &contents);
    let text = match args.json {
        true => serde_json::to_string(&told).expect("numbers and text") + "\n",
        false => told.to_lines(),
    };
    print(&[text.as_bytes()])?;
    Ok(Exit::Done)
}

/// What is in a backup, as scripts read it.
#[derive(Serialize)]
struct BackupJson<'a> {
    file: String,
    file_bytes: u64,
    crc32c: String,
    cluster_id: String,
    made_at: String,
    version: &'a str,
    level: u32,
    index: u64,
    revision: u64,
    keys: u64,
    bytes: u64,
    leases: u64,
}

impl BackupJson<'_> {
    fn of<'a>(file: &Path, contents: &'a Contents) -> BackupJson<'a> {
        let head = &contents.head;
        BackupJson {
            file: file.display().to_string(),
            file_bytes: contents.file_len_bytes,
            crc32c: format!("{:08x}", contents.crc),
            cluster_id: format!("{:016x}", head.cluster_id),
            made_at: utc(head.made_at_ms),
            version: &head.version,
            level: head.level,
            index: head.index.0,
            revision: head.revision.0,
            keys: head.keys,
            bytes: head.bytes,
            leases: contents.leases,
        }
    }

    fn to_lines(&self) -> String {
        let BackupJson { file, file_bytes, crc32c, cluster_id, made_at, version, .. } = self;
        let BackupJson { level, index, revision, keys, bytes, leases, .. } = self;
        format!(
            "{file}: a whole backup of {file_bytes} bytes, checksum {crc32c}\n\
             made at        {made_at} by syncraft {version}\n\
             cluster        {cluster_id}\n\
             revision       {revision}\n\
             log index      {index}\n\
             feature level  {level}\n\
             keys           {keys}\n\
             bytes          {bytes}\n\
             leases         {leases}\n"
        )
    }
}

/// A moment as RFC 3339 writes it, to the second.
fn utc(since_1970_ms: u64) -> String {
    let seconds = since_1970_ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day so many days after the first of January 1970. Years begin in March here, so
/// that the leap day is the last one of a year.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let days = days + 719_468;
    let (era, of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (400 * era + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_942_505, "2026-11-29T08:55:05Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds * 1000 + 999), expected);
        }
    }
}
