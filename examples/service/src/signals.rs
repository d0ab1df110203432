//! Signals that end the service.

use std::io;

/// Ends at Ctrl-C or SIGTERM. Both are watched from the call on.
///
/// With Kubernetes, add a `preStop` hook that sleeps for 5 s. Otherwise clients may still be sent here after the port has
/// been closed.
///
/// # Errors
///
/// If the system does not let the process watch a signal.
#[cfg(unix)]
pub fn shutdown() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Ends at Ctrl-C, which is watched from the call on.
///
/// # Errors
///
/// If the system does not let the process watch it.
#[cfg(windows)]
pub fn shutdown() -> io::Result<impl Future<Output = ()>> {
    let mut ctrl_c = tokio::signal::windows::ctrl_c()?;
    Ok(async move { drop(ctrl_c.recv().await) })
}
