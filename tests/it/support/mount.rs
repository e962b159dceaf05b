//! Filesystems that a test mounts, where it has the right to.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use super::report_skip;

/// A mounted filesystem. Dropping it unmounts it, also while a server uses it.
pub(crate) struct Mount {
    folder: TempDir,
    /// The directory of the image, if there is one.
    _image: Option<TempDir>,
}

impl Mount {
    /// Mounts an empty filesystem in a new directory below `parent`.
    pub(crate) fn tmpfs_below(parent: &Path) -> Option<Self> {
        let folder = TempDir::with_prefix_in("mount", parent).unwrap();
        let mounted = run("mount", &["-t", "tmpfs", "tmpfs"], folder.path());
        if !mounted {
            report_skip("no right to mount, so no other filesystem below the root is tried");
            return None;
        }
        Some(Self {
            folder,
            _image: None,
        })
    }

    /// Mounts an ext4 with inodes of 128 bytes, which have no room for parts of a second.
    pub(crate) fn ext4_with_whole_seconds() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let image_dir = tempfile::tempdir().unwrap();
        let image = image_dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let made = run("mkfs.ext4", &["-q", "-I", "128"], &image);
        let from = image.to_str().unwrap();
        if !made || !run("mount", &["-o", "loop", from], folder.path()) {
            report_skip("no mkfs.ext4 or no right to mount, so a coarse clock is not tried");
            return None;
        }
        Some(Self {
            folder,
            _image: Some(image_dir),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        assert!(run("umount", &["--lazy"], self.folder.path()));
    }
}

fn run(program: &str, options: &[&str], path: &Path) -> bool {
    let output = Command::new(program).args(options).arg(path).output();
    output.is_ok_and(|output| output.status.success())
}
