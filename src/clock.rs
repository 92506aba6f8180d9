//! The clock that ages are measured with.

use std::time::Duration;

/// The time since this machine started, including its sleep. [`Instant`](std::time::Instant) stands
/// still while a machine sleeps, but its data grows old. Systems other than Linux have only the
/// monotonic clock.
pub(crate) fn boot_time() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The time since an earlier reading.
pub(crate) fn since(moment: Duration) -> Duration {
    boot_time().saturating_sub(moment)
}
