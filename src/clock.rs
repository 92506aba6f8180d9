//! The clock that ages are measured with.

use std::time::Duration;

/// The time since this machine started, its sleep included, where the system can tell (Linux); else the monotonic clock. The
/// difference of two readings is what has passed; [`Instant`](std::time::Instant) stands still while a machine sleeps, and a
/// state grows old meanwhile.
pub(crate) fn boot_time() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What has passed since an earlier reading.
pub(crate) fn since(moment: Duration) -> Duration {
    boot_time().saturating_sub(moment)
}
