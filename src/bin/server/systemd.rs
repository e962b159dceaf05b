//! What the service manager is told: systemd, or another that speaks its protocol (`sd_notify(3)`).
//! Started by none, all of this does nothing.

use std::{sync::Arc, time::Duration};

use muxs::server::{Address, Heartbeat};
use sd_notify::NotifyState;

/// Calls are served.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What is read again at SIGHUP is being read; [`ready`] says when it has been. Without the time,
/// the service manager would not know which of its requests this is the answer to.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell the time to the service manager"),
    }
}

/// The drain begins.
pub(crate) fn stopping(grace: Duration) {
    let grace = humantime::format_duration(grace);
    let status = format!("draining: calls under way may take another {grace}");
    tell(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// The sign of life that a service manager with a watchdog (`WatchdogSec=`) waits for: twice in the
/// time after which it kills.
pub(crate) fn heartbeat() -> Option<Heartbeat> {
    let patience = sd_notify::watchdog_enabled()?;
    (!patience.is_zero()).then(|| Heartbeat {
        every: patience / 2,
        beat: Arc::new(|| tell(&[NotifyState::Watchdog])),
    })
}

/// What a server does that is well, in the one line that `systemctl status` shows.
pub(crate) fn serving(addresses: &[Address]) -> String {
    let addresses: Vec<_> = addresses.iter().map(Address::to_string).collect();
    format!("serving on {}", addresses.join(", "))
}

fn tell(states: &[NotifyState<'_>]) {
    // A line that breaks would be another word to the service manager.
    let states: Vec<_> = states
        .iter()
        .map(|state| state.to_string().replace('\n', " "))
        .collect();
    let states: Vec<_> = states
        .iter()
        .map(|state| NotifyState::Custom(state))
        .collect();
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
