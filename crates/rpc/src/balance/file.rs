//! [`FileSource`]: a list of endpoints in a file that is watched.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{Endpoint, EndpointError, FixedSource, Source};
use crate::ErrorChain;
use crate::net::{join, spawn};

/// How often the file is read.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// A longer file is refused. It is probably a mistake, such as a wrong path.
const FILE_LEN_MAX_BYTES: u64 = 64 * 1024;

/// A list of endpoints in a file: one `host:port [weight]` a line. `#` begins a comment. Empty
/// lines are ignored.
///
/// The whole file is read each second; its modification time alone could miss the second of two
/// quick changes. While the file is missing, empty or invalid, the last valid list stays in use,
/// and the mistake is logged once. A reader may see a file that is half written; to avoid that,
/// write another file and move it into place (`mv`).
#[derive(Debug)]
pub struct FileSource {
    list: Arc<FixedSource>,
    /// Dropping it ends the watcher.
    stop: Option<Sender<()>>,
    watcher: Option<JoinHandle<()>>,
}

impl FileSource {
    /// Reads the file, and watches it from now on.
    ///
    /// # Errors
    ///
    /// Every [`SourceError`]: the first list must be valid.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, SourceError> {
        Self::open_and_poll(path.into(), POLL_EVERY)
    }

    fn open_and_poll(path: PathBuf, every: Duration) -> Result<Self, SourceError> {
        let text = read(&path)?;
        let list = Arc::new(FixedSource::new(parse(&path, &text)?));
        let (stop, stopped) = bounded(0);
        let watched = Watched { path: path.clone(), text, logged_error: None, list: list.clone() };
        let watcher = spawn("rpc-endpoints".to_owned(), move || watched.run(&stopped, every))
            .map_err(|source| SourceError::Watch { path, source })?;
        Ok(FileSource { list, stop: Some(stop), watcher: Some(watcher) })
    }
}

impl Source for FileSource {
    fn endpoints(&self) -> Vec<Endpoint> {
        self.list.endpoints()
    }

    fn generation(&self) -> u64 {
        self.list.generation()
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.watcher.take().into_iter().for_each(join);
    }
}

/// Why a file has no list of endpoints.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The file cannot be read, is not text, or is longer than 64 KiB.
    #[error("cannot read the endpoints in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A line is not `host:port [weight]`.
    #[error("{}:{line}: bad endpoint", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: EndpointError,
    },
    /// The file has no endpoint.
    #[error("{}: no endpoint in it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The thread that watches the file cannot start.
    #[error("cannot watch {}", path.display())]
    Watch {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The state of the watcher.
struct Watched {
    path: PathBuf,
    /// The text that was read and parsed last, valid or not.
    text: String,
    /// What is wrong with the file now, as it was logged.
    logged_error: Option<String>,
    list: Arc<FixedSource>,
}

impl Watched {
    fn run(mut self, stopped: &Receiver<()>, every: Duration) {
        while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            self.poll();
        }
    }

    fn poll(&mut self) {
        match read(&self.path) {
            Err(error) => self.log_error_once(&error),
            Ok(text) if text == self.text && self.logged_error.is_none() => {}
            Ok(text) => {
                match parse(&self.path, &text) {
                    Err(error) => self.log_error_once(&error),
                    Ok(endpoints) => self.update(endpoints),
                }
                self.text = text;
            }
        }
    }

    fn update(&mut self, endpoints: Vec<Endpoint>) {
        self.logged_error = None;
        if endpoints != self.list.endpoints() {
            log::info!("rpc: {} endpoints in {}", endpoints.len(), self.path.display());
            self.list.set(endpoints);
        }
    }

    /// Logs what is wrong, unless it was logged before.
    fn log_error_once(&mut self, error: &SourceError) {
        let error = ErrorChain(error).to_string();
        if self.logged_error.as_ref() != Some(&error) {
            log::warn!("rpc: {error}; the endpoints known before stay in use");
            self.logged_error = Some(error);
        }
    }
}

fn read(path: &Path) -> Result<String, SourceError> {
    let read = || {
        let mut text = String::new();
        let len = File::open(path)?.take(FILE_LEN_MAX_BYTES + 1).read_to_string(&mut text)?;
        match len as u64 > FILE_LEN_MAX_BYTES {
            true => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it is longer than {FILE_LEN_MAX_BYTES} bytes"),
            )),
            false => Ok(text),
        }
    };
    read().map_err(|source| SourceError::Read { path: path.to_owned(), source })
}

fn parse(path: &Path, text: &str) -> Result<Vec<Endpoint>, SourceError> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let bad = |source| SourceError::BadLine { path: path.to_owned(), line: number + 1, source };
        let endpoint: Endpoint = line.parse().map_err(bad)?;
        if endpoints.iter().any(|other| other.addr() == endpoint.addr()) {
            let (text, why) = (line.to_owned(), "that address is already in the list");
            return Err(bad(EndpointError { text, why }));
        }
        endpoints.push(endpoint);
    }
    match endpoints.is_empty() {
        true => Err(SourceError::Empty { path: path.to_owned() }),
        false => Ok(endpoints),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file with this text, and a watcher that has read it.
    fn watched(text: &str) -> (tempfile::TempDir, Watched) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endpoints");
        fs::write(&path, text).unwrap();
        let list = Arc::new(FixedSource::new(parse(&path, text).unwrap()));
        (dir, Watched { path, text: text.to_owned(), logged_error: None, list })
    }

    #[test]
    fn lines_comments_and_weights() {
        let text = "# the west\n\na:1\n  b:2 3 # new\r\n";
        let endpoints = parse(Path::new("f"), text).unwrap();
        assert_eq!(endpoints, [Endpoint::new("a:1"), Endpoint::new("b:2").weighted(3)]);
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let check = |text: &str, line: usize, words: &str| {
            let error = parse(Path::new("f"), text).unwrap_err();
            let SourceError::BadLine { line: found, source, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!(*found, line, "{error}");
            assert!(error.to_string().starts_with(&format!("f:{line}")), "{error}");
            assert!(source.to_string().contains(words), "{source}");
        };
        check("a:1\n\nb", 3, "port is missing");
        check("a:1 0", 1, "weight");
        check("a:1\n#\na:1 2", 3, "already in the list");
        for text in ["", "\n", "# a:1\n"] {
            assert!(matches!(parse(Path::new("f"), text), Err(SourceError::Empty { .. })));
        }
    }

    #[test]
    fn the_first_list_must_be_valid() {
        let (dir, watched) = watched("a:1");
        fs::write(&watched.path, "a:1\nnonsense\n").unwrap();
        let error = FileSource::open(&watched.path).unwrap_err();
        assert!(matches!(error, SourceError::BadLine { line: 2, .. }), "{error}");
        let error = FileSource::open(dir.path().join("none")).unwrap_err();
        assert!(matches!(error, SourceError::Read { .. }), "{error}");
        fs::write(&watched.path, vec![b'#'; FILE_LEN_MAX_BYTES as usize + 1]).unwrap();
        let error = FileSource::open(&watched.path).unwrap_err();
        assert!(matches!(error, SourceError::Read { .. }), "{error}");
    }

    #[test]
    fn while_the_file_is_invalid_the_last_valid_list_stays_in_use() {
        let (_dir, mut watched) = watched("a:1");
        let generation = watched.list.generation();
        for text in ["a:1\nnonsense", "", "\u{fffd}"] {
            fs::write(&watched.path, text).unwrap();
            watched.poll();
            assert!(watched.logged_error.is_some(), "{text:?}");
        }
        fs::remove_file(&watched.path).unwrap();
        watched.poll();
        let logged_error = watched.logged_error.clone().unwrap();
        watched.poll();
        assert_eq!(watched.logged_error, Some(logged_error));
        assert_eq!(
            (watched.list.endpoints(), watched.list.generation()),
            (vec!["a:1".into()], generation)
        );
        // The same list again is not a change. A new list is.
        fs::write(&watched.path, "a:1 # back").unwrap();
        watched.poll();
        assert_eq!((watched.logged_error.as_ref(), watched.list.generation()), (None, generation));
        fs::write(&watched.path, "a:1\nb:1").unwrap();
        watched.poll();
        assert_eq!(watched.list.endpoints(), ["a:1".into(), "b:1".into()]);
        assert!(watched.list.generation() > generation);
    }

    #[test]
    fn the_watcher_sees_a_change_and_ends_with_the_source() {
        let (_dir, watched) = watched("a:1");
        let path = watched.path.clone();
        let source = FileSource::open_and_poll(path.clone(), Duration::from_millis(1)).unwrap();
        fs::write(&path, "b:1").unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while source.generation() == 0 {
            assert!(std::time::Instant::now() < deadline, "the change was not seen");
            std::thread::yield_now();
        }
        assert_eq!(source.endpoints(), ["b:1".into()]);
        let list = Arc::downgrade(&source.list);
        drop(source);
        // The watcher, which held the other reference, has ended.
        assert_eq!(list.strong_count(), 0);
    }
}
