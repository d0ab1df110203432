//! Signals that end the service.

use tokio::signal;

/// Waits for Ctrl-C or SIGTERM.
///
/// With Kubernetes, add a `preStop` hook that sleeps for 5 s. Otherwise clients may still be sent here after the port has
/// been closed.
pub async fn shutdown() {
    tokio::select! {
        Ok(()) = signal::ctrl_c() => {}
        Some(()) = terminate() => {}
        else => std::future::pending().await,
    }
}

#[cfg(unix)]
async fn terminate() -> Option<()> {
    let mut signals = signal::unix::signal(signal::unix::SignalKind::terminate()).ok()?;
    signals.recv().await
}

#[cfg(not(unix))]
async fn terminate() -> Option<()> {
    None
}
