//! A logger that keeps warnings and errors. A process has one logger, so a test that installs it
//! runs alone.

use parking_lot::Mutex;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.lock().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// Keeps what is logged from now on.
pub(crate) fn collect() {
    log::set_logger(&Collector).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
}

/// The lines so far that contain `words`.
pub(crate) fn lines(words: &str) -> Vec<String> {
    LINES.lock().iter().filter(|line| line.contains(words)).cloned().collect()
}
