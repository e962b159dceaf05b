//! Numbers for people: bytes in powers of 1024, and times, in three digits.

use std::time::Duration;

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A number of bytes, such as `61.0 MiB`.
pub(super) fn bytes(count: u64) -> String {
    let (unit, name) = unit(count);
    format!("{} {name}", in_unit(count, unit))
}

/// A part of a number of bytes, such as `37.2 of 61.0 MiB`.
pub(super) fn part(part: u64, whole: u64) -> String {
    let (unit, name) = unit(whole);
    format!("{} of {} {name}", in_unit(part, unit), in_unit(whole, unit))
}

/// A time that has passed, such as `82.2 ms`, `1.23 s` or `1 min 14 s`.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match time.as_secs() {
        _ if seconds < 0.9995 => format!("{} ms", three_digits(1000.0 * seconds)),
        0..60 => format!("{} s", three_digits(seconds)),
        _ => remaining(time),
    }
}

/// A time to come, in whole seconds.
pub(super) fn remaining(time: Duration) -> String {
    match time.as_secs_f64().round() as u64 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The unit in which a count has at most three digits before the point, and its name.
fn unit(count: u64) -> (f64, &'static str) {
    let largest = UNITS.len() - 1;
    let size = |power: usize| 1024_f64.powi(power as i32);
    let power = (0..largest).find(|&power| count as f64 / size(power) < 999.5);
    let power = power.unwrap_or(largest);
    (size(power), UNITS[power])
}

fn in_unit(count: u64, unit: f64) -> String {
    match unit == 1.0 {
        true => count.to_string(),
        false => three_digits(count as f64 / unit),
    }
}

/// Rounds a number below 999.5 to three digits, at most two of them behind the point.
fn three_digits(number: f64) -> String {
    match number {
        ..9.995 => format!("{number:.2}"),
        ..99.95 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_and_a_unit_of_1024() {
        for (count, text) in [
            (0, "0 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (6072, "5.93 KiB"),
            (64_000_000, "61.0 MiB"),
            (9_995 * 1024 / 1000 * 1024, "9.99 MiB"),
            (268_435_456, "256 MiB"),
            (1 << 30, "1.00 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text, "{count}");
        }
    }

    #[test]
    fn part_has_the_unit_of_the_whole() {
        assert_eq!(part(0, 64_000_000), "0.00 of 61.0 MiB");
        assert_eq!(part(39_000_000, 64_000_000), "37.2 of 61.0 MiB");
        assert_eq!(part(5, 10), "5 of 10 B");
    }

    #[test]
    fn durations_have_three_digits_or_two_units() {
        for (millis, text) in [
            (0.35, "0.35 ms"),
            (16.89, "16.9 ms"),
            (999.4, "999 ms"),
            (999.6, "1.00 s"),
            (1230.0, "1.23 s"),
            (29_730.0, "29.7 s"),
            (74_000.0, "1 min 14 s"),
            (3_900_000.0, "1 h 05 min"),
        ] {
            let time = Duration::from_secs_f64(millis / 1000.0);
            assert_eq!(duration(time), text);
        }
    }
}
