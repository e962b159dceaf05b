//! Filesystems that a test mounts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::assertions::report_skip;

/// A mounted filesystem. Dropping it unmounts it.
pub(crate) struct Mount {
    target: PathBuf,
    /// Holds the mount point or the image, where the mount has its own.
    _folder: Option<TempDir>,
}

impl Mount {
    /// Mounts at an existing folder or file. `None` without the right to mount.
    pub(crate) fn at(target: &Path, arguments: &[&str]) -> Option<Self> {
        let mounted = Command::new("mount").args(arguments).arg(target).output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self {
                target: target.to_owned(),
                _folder: None,
            });
        }
        report_skip("no right to mount, so other filesystems are not tried");
        None
    }

    /// Mounts a new tmpfs.
    pub(crate) fn tmpfs(options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Self::at(folder.path(), &["-t", "tmpfs", "-o", options, "tmpfs"])?;
        Some(mount.keeping(folder))
    }

    /// Mounts a new tmpfs on a new directory below `parent`.
    pub(crate) fn tmpfs_below(parent: &Path) -> Option<Self> {
        let folder = TempDir::with_prefix_in("mount", parent).unwrap();
        let mount = Self::at(folder.path(), &["-t", "tmpfs", "tmpfs"])?;
        Some(mount.keeping(folder))
    }

    /// Mounts a new ext4 whose inodes of 128 bytes keep times in whole seconds.
    pub(crate) fn ext4_with_small_inodes() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (image, target) = (folder.path().join("image"), folder.path().join("mount"));
        fs::create_dir(&target).unwrap();
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-I", "128"])
            .arg(&image)
            .output();
        if !made.is_ok_and(|made| made.status.success()) {
            report_skip("no mkfs.ext4, so a filesystem with whole seconds is not tried");
            return None;
        }
        let mount = Self::at(&target, &["-o", "loop", image.to_str().unwrap()])?;
        Some(mount.keeping(folder))
    }

    fn keeping(mut self, folder: TempDir) -> Self {
        self._folder = Some(folder);
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.target
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount")
            .arg("--lazy")
            .arg(&self.target)
            .status();
        assert!(unmounted.unwrap().success());
    }
}
