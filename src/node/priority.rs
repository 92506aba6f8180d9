//! [`lower_priority`]: threads whose work nobody waits for in milliseconds.

/// Gives this thread a smaller share when other threads want the processor, because a client waits
/// for a put, and nobody in the same way for a snapshot, or for the last of a million keys. `nice`
/// is 1 to 19: at 10 a thread has a tenth of the share of others, at 19 a seventieth.
#[cfg(target_os = "linux")]
pub(crate) fn lower_priority(nice: i32) {
    // On Linux this concerns the calling thread alone. If it fails, puts wait a little longer.
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        log::debug!("cannot lower the priority of a thread: {error}");
    }
}

/// On other systems it would concern the whole process.
#[cfg(not(target_os = "linux"))]
pub(crate) fn lower_priority(_nice: i32) {}
