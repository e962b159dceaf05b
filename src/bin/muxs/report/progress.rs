//! How far a transfer is, and the line of a terminal that shows it.

use std::time::{Duration, Instant};

use super::units::{bytes, part, remaining};

/// The columns of the bar. With the longest numbers, the line has 79.
const BAR_COLUMNS: u64 = 16;

/// The bar's bytes that would survive an interruption, those that were transferred beside them, and the rest.
const DURABLE: char = '━';
const TRANSFERRED: char = '─';
const REST: char = '·';

/// The shortest time after which a rate is shown.
const MIN_RATED_TIME: Duration = Duration::from_millis(500);

const CYAN: &str = "\x1b[36m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// How far a transfer is.
pub(super) struct Progress {
    verb: &'static str,
    has_colours: bool,
    size: Option<u64>,
    /// The offset where this run began.
    began_at: Option<u64>,
    /// The current attempt: its offset, and when it was opened. `None` between two attempts.
    attempt: Option<(u64, Instant)>,
    /// The time of earlier attempts.
    connected: Duration,
    was_disconnected: bool,
    transferred: u64,
    durable: u64,
}

impl Progress {
    pub(super) fn new(verb: &'static str, has_colours: bool) -> Self {
        Self {
            verb,
            has_colours,
            size: None,
            began_at: None,
            attempt: None,
            connected: Duration::ZERO,
            was_disconnected: false,
            transferred: 0,
            durable: 0,
        }
    }

    pub(super) fn opened(&mut self, offset: u64, size: Option<u64>, now: Instant) {
        self.began_at.get_or_insert(offset);
        self.size = size;
        self.attempt = Some((offset, now));
        self.transferred = offset;
        self.durable = self.durable.max(offset);
    }

    pub(super) fn advanced(&mut self, transferred: u64, durable: u64) {
        self.transferred = transferred;
        self.durable = self.durable.max(durable);
    }

    /// The connection is lost, if there was one.
    pub(super) fn disconnected(&mut self, now: Instant) {
        self.was_disconnected = true;
        if let Some((_, opened)) = self.attempt.take() {
            self.connected += now - opened;
        }
    }

    pub(super) fn started_over(&mut self) {
        self.began_at = None;
        self.transferred = 0;
        self.durable = 0;
    }

    /// Where this run began and how long it was connected, `None` if it had nothing to transfer.
    pub(super) fn summary(&self, now: Instant) -> Option<(u64, Duration)> {
        Some((self.began_at?, self.connected + self.attempt_time(now)))
    }

    pub(super) fn was_disconnected(&self) -> bool {
        self.was_disconnected
    }

    fn attempt_time(&self, now: Instant) -> Duration {
        self.attempt
            .map_or(Duration::ZERO, |(_, opened)| now - opened)
    }

    /// The line of the terminal: bar, percentage and amount of what is durable; rate and time left.
    pub(super) fn line(&self, now: Instant) -> String {
        let mut line = match self.size {
            Some(size) => format!(
                "{} {} {:3}%  {}",
                self.verb,
                self.bar(size),
                percentage(self.durable, size),
                part(self.durable, size)
            ),
            None => format!("{} {}", self.verb, bytes(self.transferred)),
        };
        let time = self.attempt_time(now);
        if let Some((offset, _)) = self.attempt
            && time >= MIN_RATED_TIME
        {
            let rate = self.transferred.saturating_sub(offset) as f64 / time.as_secs_f64();
            line += &format!("  {}/s", bytes(rate as u64));
            let left = self.size.unwrap_or(0).saturating_sub(self.transferred);
            if left > 0 && rate >= 1.0 {
                let left = Duration::from_secs_f64((left as f64 / rate).min(1e9));
                line += &format!("  {} left", remaining(left));
            }
        }
        line
    }

    fn bar(&self, size: u64) -> String {
        let columns = |bytes: u64| match size {
            0 => BAR_COLUMNS,
            size => {
                (u128::from(BAR_COLUMNS) * u128::from(bytes.min(size)) / u128::from(size)) as u64
            }
        };
        let durable = columns(self.durable);
        let transferred = columns(self.transferred).max(durable);
        let run = |glyph: char, columns: u64| glyph.to_string().repeat(columns as usize);
        let (done, on_its_way) = (
            run(DURABLE, durable),
            run(TRANSFERRED, transferred - durable),
        );
        let rest = run(REST, BAR_COLUMNS - transferred);
        match self.has_colours {
            true => format!("{CYAN}{done}{on_its_way}{RESET}{DIM}{rest}{RESET}"),
            false => format!("{done}{on_its_way}{rest}"),
        }
    }
}

fn percentage(part: u64, whole: u64) -> u64 {
    match whole {
        0 => 100,
        whole => (100 * u128::from(part.min(whole)) / u128::from(whole)) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn bar_shows_durable_and_transferred_bytes() {
        let start = Instant::now();
        let mut progress = Progress::new("Sending", false);
        progress.opened(0, Some(100 * MIB), start);
        progress.advanced(50 * MIB, 25 * MIB);
        assert_eq!(
            progress.line(start),
            "Sending ━━━━────········  25%  25.0 of 100 MiB"
        );
        assert_eq!(
            progress.line(start + Duration::from_secs(5)),
            "Sending ━━━━────········  25%  25.0 of 100 MiB  10.0 MiB/s  5 s left"
        );
    }

    #[test]
    fn amount_does_not_go_back_after_a_lost_connection() {
        let start = Instant::now();
        let mut progress = Progress::new("Sending", false);
        progress.opened(0, Some(100 * MIB), start);
        progress.advanced(50 * MIB, 25 * MIB);
        progress.disconnected(start + Duration::from_secs(2));
        progress.opened(25 * MIB, Some(100 * MIB), start + Duration::from_secs(9));
        let line = progress.line(start + Duration::from_secs(9));
        assert_eq!(line, "Sending ━━━━············  25%  25.0 of 100 MiB");
        let summary = progress.summary(start + Duration::from_secs(10)).unwrap();
        assert_eq!(summary, (0, Duration::from_secs(3)));
        assert!(progress.was_disconnected());
    }

    #[test]
    fn line_without_a_size_has_no_bar() {
        let start = Instant::now();
        let mut progress = Progress::new("Sending", true);
        progress.opened(0, None, start);
        progress.advanced(29 * MIB, 25 * MIB);
        let line = progress.line(start + Duration::from_secs(2));
        assert_eq!(line, "Sending 29.0 MiB  14.5 MiB/s");
    }

    #[test]
    fn longest_line_fits_80_columns() {
        let start = Instant::now();
        let mut progress = Progress::new("Receiving", false);
        progress.opened(0, Some(999 * 1024 * MIB), start);
        progress.advanced(99 * MIB, 99 * MIB);
        let line = progress.line(start + Duration::from_secs(1));
        assert!(line.chars().count() < 80, "{line}");
    }

    #[test]
    fn empty_file_is_complete() {
        let start = Instant::now();
        let mut progress = Progress::new("Sending", false);
        progress.opened(0, Some(0), start);
        assert!(progress.line(start).ends_with("100%  0 of 0 B"));
    }
}
