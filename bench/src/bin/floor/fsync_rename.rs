//! Writes small files, each durable before the next of its thread begins.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use muxs_bench::noise;

/// The folder, in the root, of files that are not in place yet.
const STAGING: &str = ".staging";

/// The files, and how many are written at once.
#[derive(clap::Args, Debug)]
pub(crate) struct FsyncRename {
    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// How many files
    #[arg(long, value_name = "COUNT")]
    files: u32,
    /// Size of each
    #[arg(long, value_name = "COUNT")]
    bytes: usize,
    /// Into how many folders in turn
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    folders: u32,
    /// How many threads, each with one file at a time
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
}

/// A target folder, open to be synced.
struct Folder {
    path: PathBuf,
    handle: File,
}

impl FsyncRename {
    pub(crate) fn total_bytes(&self) -> u64 {
        u64::from(self.files) * self.bytes as u64
    }

    /// Writes the files, and returns the time that it takes.
    pub(crate) fn run(&self) -> Result<Duration> {
        let staging = self.root.join(STAGING);
        fs::create_dir_all(&staging)?;
        let folders = (0..self.folders)
            .map(|number| Folder::create(self.root.join(number.to_string())))
            .collect::<Result<Vec<_>>>()?;
        let content = noise(self.bytes);
        let next = AtomicU32::new(0);
        let write_files = || -> Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.files {
                    return Ok(());
                }
                let folder = &folders[(number % self.folders) as usize];
                folder.write(&staging, &number.to_string(), &content)?;
            }
        };
        let from = Instant::now();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads)
                .map(|_| scope.spawn(write_files))
                .collect();
            let panicked = |_| Err(anyhow!("a thread panicked"));
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(panicked))
        })?;
        Ok(from.elapsed())
    }
}

impl Folder {
    fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)?;
        let handle = File::open(&path)?;
        Ok(Self { path, handle })
    }

    /// Writes a file that is in place and durable afterwards.
    fn write(&self, staging: &Path, name: &str, content: &[u8]) -> Result<()> {
        let staged = staging.join(name);
        let mut file = File::create_new(&staged)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(staged, self.path.join(name))?;
        Ok(self.handle.sync_all()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_whole_and_in_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let floor = FsyncRename {
            root: root.path().to_owned(),
            files: 20,
            bytes: 1_001,
            folders: 3,
            threads: 4,
        };
        floor.run().unwrap();
        assert_eq!(floor.total_bytes(), 20 * 1_001);
        for number in 0..20 {
            let path = root.path().join(format!("{}/{number}", number % 3));
            assert_eq!(fs::metadata(path).unwrap().len(), 1_001);
        }
        let staged = fs::read_dir(root.path().join(STAGING)).unwrap();
        assert_eq!(staged.count(), 0);
    }
}
