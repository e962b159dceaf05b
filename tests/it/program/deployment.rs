//! What `deploy/` and the page about deployment say twice.

use std::{collections::BTreeSet, time::Duration};

const SHUTDOWN: &str = include_str!("../../../src/server/shutdown.rs");
const ARGS: &str = include_str!("../../../src/bin/server/args/mod.rs");
const UNIT: &str = include_str!("../../../deploy/systemd/muxs.service");
const CONTAINERFILE: &str = include_str!("../../../deploy/Containerfile");
const PAGE: &str = include_str!("../../../docs/deploy.md");

/// The time in which OpenTelemetry's SDK exports the last spans.
const TRACES: Duration = Duration::from_secs(5);

/// The number of seconds that a text begins with.
fn seconds(text: &str) -> Duration {
    let digits = text.split(|char: char| !char.is_ascii_digit()).next();
    Duration::from_secs(digits.unwrap_or_default().parse().unwrap())
}

/// The number behind each occurrence of `name`.
fn numbers(text: &str, name: &str) -> Vec<Duration> {
    text.split(name).skip(1).map(seconds).collect()
}

/// The default of `--shutdown-grace`, and all times after it.
fn longest_stop() -> Duration {
    let (_, flag) = ARGS.split_once("env = \"MUXS_SHUTDOWN_GRACE\"").unwrap();
    let (_, grace) = flag.split_once("default_value = \"").unwrap();
    let phases = numbers(SHUTDOWN, "Duration::from_secs(");
    assert_eq!(phases.len(), 3, "{SHUTDOWN}");
    seconds(grace) + phases.into_iter().sum::<Duration>() + TRACES
}

#[test]
fn stop_timeouts_agree_and_are_longer_than_a_stop() {
    let timeouts = [
        numbers(UNIT, "\nTimeoutStopSec="),
        numbers(PAGE, "`TimeoutStopSec="),
        numbers(CONTAINERFILE, "--stop-timeout "),
        numbers(PAGE, "--stop-timeout "),
        numbers(PAGE, "terminationGracePeriodSeconds: "),
    ];
    assert!(
        timeouts.iter().all(|found| !found.is_empty()),
        "{timeouts:?}"
    );
    let timeouts: BTreeSet<_> = timeouts.into_iter().flatten().collect();
    let longest = longest_stop();
    assert!(timeouts.len() == 1, "{timeouts:?}");
    assert!(
        timeouts.iter().all(|timeout| *timeout > longest),
        "{timeouts:?}, {longest:?}"
    );
}

#[test]
fn builds_for_deployment_have_the_same_features() {
    for (name, text) in [
        ("unit", UNIT),
        ("Containerfile", CONTAINERFILE),
        ("page", PAGE),
    ] {
        let builds = text
            .lines()
            .filter(|line| line.contains("cargo build --release"));
        let builds: Vec<_> = builds.collect();
        assert!(!builds.is_empty(), "{name}");
        for build in builds {
            for flag in ["--locked", "--features otel", "--bin server"] {
                assert!(build.contains(flag), "{name}: {build}");
            }
        }
    }
}
