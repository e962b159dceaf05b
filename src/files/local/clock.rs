//! The clock by which uploads expire: it advances only while a server runs, and cannot be set.
//!
//! A server that was off for a day has given no client a chance to resume an upload. The wall clock's steps
//! do not count either.

use std::time::{Instant, SystemTime};

use cap_std::fs::{Dir, OpenOptions};

use crate::files::local::disk;

/// The mtime of this file is the time when the clock last stood.
const CLOCK: &str = "clock";

/// Begins at the wall's time when the root is first used, and counts the time for which a store was open.
#[derive(Debug)]
pub(super) struct RunningClock {
    file: std::fs::File,
    resumed_from: SystemTime,
    resumed: Instant,
}

impl RunningClock {
    /// Continues the clock of a private directory.
    pub(super) fn resume(private: &Dir) -> std::io::Result<Self> {
        let mut options = OpenOptions::new();
        let is_new = matches!(disk::lstat(private, CLOCK), Err(error) if error.kind() == std::io::ErrorKind::NotFound);
        let file = disk::open(private, CLOCK, options.create(true).write(true))?.into_std();
        let resumed_from = match is_new {
            true => SystemTime::now(),
            false => file.metadata()?.modified()?,
        };
        let clock = Self {
            file,
            resumed_from,
            resumed: Instant::now(),
        };
        clock.save()?;
        Ok(clock)
    }

    pub(super) fn now(&self) -> SystemTime {
        self.resumed_from + self.resumed.elapsed()
    }

    /// Keeps the time for the next server. The time since the last call is lost in a crash.
    pub(super) fn save(&self) -> std::io::Result<()> {
        disk::set_mtime(&self.file, self.now())
    }
}

impl Drop for RunningClock {
    fn drop(&mut self) {
        let _ = self.save();
    }
}
