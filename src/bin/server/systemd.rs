//! Notifications to the service manager: systemd, or another with its protocol (`sd_notify(3)`).
//!
//! Without a service manager they do nothing.

use std::{sync::Arc, time::Duration};

use muxs::server::{Address, Heartbeat};
use sd_notify::NotifyState;

/// Reports that calls are served.
pub(crate) fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports that a reload has begun; [`notify_ready`] reports its end.
///
/// By the time, the service manager knows which of its requests this notification answers.
pub(crate) fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the time for the service manager"),
    }
}

/// Reports that the drain has begun.
pub(crate) fn notify_stopping(grace: Duration) {
    let grace = humantime::format_duration(grace);
    let status = format!("stopping: running calls have {grace} to end");
    notify(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// Returns the heartbeat for the service manager's watchdog (`WatchdogSec=`), at half its timeout.
pub(crate) fn heartbeat() -> Option<Heartbeat> {
    let timeout = sd_notify::watchdog_enabled()?;
    (!timeout.is_zero()).then(|| Heartbeat {
        every: timeout / 2,
        beat: Arc::new(|| notify(&[NotifyState::Watchdog])),
    })
}

/// Formats the status of a running server, a line for `systemctl status`.
pub(crate) fn format_status(addresses: &[Address]) -> String {
    let addresses: Vec<_> = addresses.iter().map(Address::to_string).collect();
    format!("serving on {}", addresses.join(", "))
}

fn notify(states: &[NotifyState<'_>]) {
    // A line break would start another assignment of the protocol.
    let states: Vec<_> = states
        .iter()
        .map(|state| state.to_string().replace('\n', " "))
        .collect();
    let states: Vec<_> = states
        .iter()
        .map(|state| NotifyState::Custom(state))
        .collect();
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
