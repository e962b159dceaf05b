//! The calls of the operating system that the store makes, each by its own name.
//!
//! In tests every one of them can be made to fail: see [`faults`].

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use cap_std::fs::{
    Dir, DirBuilder, DirBuilderExt, File, Metadata, MetadataExt, OpenOptions, ReadDir,
};
use rustix::{
    fd::AsFd,
    fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

/// The size of the largest extended attribute, in bytes.
#[cfg(target_os = "linux")]
const MAX_XATTR_BYTES: usize = 64 * 1024;

/// The attribute with a file's access control list.
const ACL: &str = "system.posix_acl_access";

/// The identity of a file or directory: the numbers of its device and its inode.
pub(super) type Inode = (u64, u64);

pub(super) fn inode_of(found: &Metadata) -> Inode {
    (found.dev(), found.ino())
}

pub(super) fn open(dir: &Dir, path: impl AsRef<Path>, options: &OpenOptions) -> io::Result<File> {
    faults::check("open")?;
    dir.open_with(path, options)
}

pub(super) fn open_dir(dir: &Dir, path: impl AsRef<Path>) -> io::Result<Dir> {
    faults::check("open_dir")?;
    dir.open_dir(path)
}

/// Opens another handle of the directory.
pub(super) fn clone_dir(dir: &Dir) -> io::Result<Dir> {
    faults::check("clone_dir")?;
    dir.try_clone()
}

/// The metadata of an entry itself: a link is not followed.
pub(super) fn lstat(dir: &Dir, path: impl AsRef<Path>) -> io::Result<Metadata> {
    faults::check("lstat")?;
    dir.symlink_metadata(path)
}

/// The metadata of what an entry leads to.
pub(super) fn stat(dir: &Dir, path: impl AsRef<Path>) -> io::Result<Metadata> {
    faults::check("stat")?;
    dir.metadata(path)
}

pub(super) fn fstat(file: &fs::File) -> io::Result<Metadata> {
    faults::check("fstat")?;
    Metadata::from_file(file)
}

pub(super) fn fstat_dir(dir: &Dir) -> io::Result<Metadata> {
    faults::check("fstat_dir")?;
    dir.dir_metadata()
}

/// The inode of the directory that is `height` levels above `dir`.
pub(super) fn inode_above(dir: &Dir, height: usize) -> io::Result<Inode> {
    faults::check("inode_above")?;
    let path: PathBuf = std::iter::repeat_n("..", height).collect();
    let found = match height {
        0 => rustix::fs::fstat(dir)?,
        _ => rustix::fs::statat(dir, path, AtFlags::empty())?,
    };
    Ok((found.st_dev, found.st_ino))
}

/// The mount that a file lies on: its number, where the system has one, and the device.
pub(super) type Mount = (u64, u64);

/// The mount that an entry of a directory lies on: it may be a mount point. An empty name is the directory.
#[cfg(target_os = "linux")]
pub(super) fn mount(dir: &Dir, name: &OsStr) -> io::Result<Mount> {
    use rustix::fs::StatxFlags;

    faults::check("mount")?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::statx(dir, name, flags, StatxFlags::MNT_ID) {
        Ok(found) => {
            let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
            let has_number = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
            Ok((if has_number { found.stx_mnt_id } else { 0 }, device))
        }
        Err(Errno::NOSYS) => Ok((0, dir.dir_metadata()?.dev())),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn mount(dir: &Dir, _name: &OsStr) -> io::Result<Mount> {
    Ok((0, dir.dir_metadata()?.dev()))
}

pub(super) fn canonicalize(dir: &Dir, path: impl AsRef<Path>) -> io::Result<PathBuf> {
    faults::check("canonicalize")?;
    dir.canonicalize(path)
}

pub(super) fn list(dir: &Dir) -> io::Result<ReadDir> {
    faults::check("list")?;
    dir.entries()
}

pub(super) fn read_all(mut file: &fs::File) -> io::Result<Vec<u8>> {
    faults::check("read_all")?;
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(content)
}

pub(super) fn read_exact_at(file: &fs::File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    faults::check("read_exact_at")?;
    file.read_exact_at(bytes, offset)
}

pub(super) fn write_at(file: &fs::File, content: &[u8], offset: u64) -> io::Result<()> {
    faults::check("write_at")?;
    file.write_all_at(content, offset)
}

pub(super) fn truncate(file: &fs::File, size: u64) -> io::Result<()> {
    faults::check("truncate")?;
    file.set_len(size)
}

/// Makes the content and the size of a file durable.
pub(super) fn fdatasync(file: &fs::File) -> io::Result<()> {
    faults::check("fdatasync")?;
    file.sync_data()
}

/// Makes the content and all metadata of a file durable.
pub(super) fn fsync(file: &fs::File) -> io::Result<()> {
    faults::check("fsync")?;
    file.sync_all()
}

/// Makes the entries of a directory durable. A file is only as durable as its names above it.
pub(super) fn fsync_dir(dir: &Dir) -> io::Result<()> {
    fsync_dir_by(&open_to_sync(dir)?)
}

/// The same by a handle that was opened for it.
pub(super) fn fsync_dir_by(handle: &fs::File) -> io::Result<()> {
    faults::check("fsync_dir")?;
    Ok(rustix::fs::fsync(handle)?)
}

/// Makes the whole filesystem of a directory durable.
#[cfg(target_os = "linux")]
pub(super) fn syncfs(dir: &Dir) -> io::Result<()> {
    faults::check("syncfs")?;
    Ok(rustix::fs::syncfs(open_to_sync(dir)?)?)
}

/// Makes all filesystems durable, the one of the directory among them.
#[cfg(not(target_os = "linux"))]
pub(super) fn syncfs(_dir: &Dir) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// Opens a handle that can be synced: the directory's own may be open for looking up names only (`O_PATH`).
pub(super) fn open_to_sync(dir: &Dir) -> io::Result<fs::File> {
    faults::check("open_to_sync")?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, ".", flags, Mode::empty())?.into())
}

/// Holds on to an entry's file, of which nothing else is needed: no permission is required for that.
#[cfg(target_os = "linux")]
pub(super) fn hold(dir: &Dir, name: &OsStr) -> io::Result<fs::File> {
    faults::check("hold")?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?.into())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn hold(_dir: &Dir, _name: &OsStr) -> io::Result<fs::File> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn rename(from: &Dir, old: &str, to: &Dir, new: &OsStr) -> io::Result<()> {
    faults::check("rename")?;
    from.rename(old, to, new)
}

/// Renames a file. Fails with [`io::ErrorKind::AlreadyExists`] if the new name exists.
pub(super) fn rename_noreplace(from: &Dir, old: &str, to: &Dir, new: &OsStr) -> io::Result<()> {
    faults::check("rename_noreplace")?;
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::RenameFlags;
        match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
            // The filesystem does not support the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            renamed => return Ok(renamed?),
        }
    }
    // A hard link replaces nothing either. A file with two names is in its place.
    from.hard_link(old, to, new)?;
    let _ = from.remove_file(old);
    Ok(())
}

pub(super) fn unlink(dir: &Dir, name: &str) -> io::Result<()> {
    faults::check("unlink")?;
    dir.remove_file(name)
}

pub(super) fn remove_tree(dir: &Dir, name: &str) -> io::Result<()> {
    faults::check("remove_tree")?;
    dir.remove_dir_all(name)
}

pub(super) fn mkdir(dir: &Dir, name: &OsStr) -> io::Result<()> {
    faults::check("mkdir")?;
    dir.create_dir(name)
}

/// Makes a directory that only the server's user may enter.
pub(super) fn mkdir_private(dir: &Dir, name: &str) -> io::Result<()> {
    faults::check("mkdir_private")?;
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    dir.create_dir_with(name, &builder)
}

/// Makes a symbolic link whose text leads nowhere: it holds a record.
pub(super) fn symlink(dir: &Dir, name: &str, text: &str) -> io::Result<()> {
    faults::check("symlink")?;
    Ok(rustix::fs::symlinkat(text, dir, name)?)
}

pub(super) fn readlink(dir: &Dir, name: &str) -> io::Result<String> {
    faults::check("readlink")?;
    let text = rustix::fs::readlinkat(dir, name, Vec::new())?;
    text.into_string()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

pub(super) fn set_mode(file: &fs::File, mode: u32) -> io::Result<()> {
    faults::check("set_mode")?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// Sets the permissions of an entry that may not be opened without them.
pub(super) fn set_mode_of(dir: &Dir, name: &str, mode: u32) -> io::Result<()> {
    faults::check("set_mode_of")?;
    Ok(rustix::fs::chmodat(
        dir,
        name,
        Mode::from_raw_mode(mode),
        AtFlags::empty(),
    )?)
}

/// Sets owner and group, of which None stays as it is.
pub(super) fn set_owner(file: &fs::File, owner: Option<u32>, group: Option<u32>) -> io::Result<()> {
    faults::check("set_owner")?;
    let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
    Ok(rustix::fs::fchown(file, owner, group)?)
}

pub(super) fn set_mtime(file: &fs::File, time: SystemTime) -> io::Result<()> {
    faults::check("set_mtime")?;
    file.set_modified(time)
}

/// Sets the mtime of an entry itself, a link.
pub(super) fn set_mtime_of(dir: &Dir, name: &str, time: SystemTime) -> io::Result<()> {
    faults::check("set_mtime_of")?;
    let since_epoch = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let time = Timespec {
        tv_sec: since_epoch.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: since_epoch.subsec_nanos().into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(
        dir,
        name,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

pub(super) fn set_xattr(file: &fs::File, name: &str, value: &str) -> io::Result<()> {
    faults::check("set_xattr")?;
    Ok(rustix::fs::fsetxattr(
        file,
        name,
        value.as_bytes(),
        XattrFlags::empty(),
    )?)
}

/// The access control list of an entry's file, as the kernel encodes it. None without one.
#[cfg(target_os = "linux")]
pub(super) fn acl(dir: &Dir, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    use rustix::fd::AsRawFd;

    faults::check("acl")?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    // A file that may not be opened for reading has attributes all the same.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // Most files have none, and a list may grow between the two calls.
    let found = rustix::fs::getxattr_query(&path, ACL).and_then(|_| {
        let mut buffer = vec![0; MAX_XATTR_BYTES];
        let size = rustix::fs::getxattr(&path, ACL, &mut buffer[..])?;
        buffer.truncate(size);
        Ok(buffer)
    });
    match found {
        Ok(acl) => Ok(Some(acl)),
        // There is none, or nothing is known of lists.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn acl(_dir: &Dir, _name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    Ok(None)
}

/// Removes the access control list, if there is one.
pub(super) fn remove_acl(file: &fs::File) -> io::Result<()> {
    faults::check("remove_acl")?;
    match rustix::fs::fremovexattr(file, ACL) {
        Err(error) if !matches!(error, Errno::NODATA | Errno::NOTSUP) => Err(error.into()),
        _ => Ok(()),
    }
}

pub(super) fn set_acl(file: &fs::File, acl: &[u8]) -> io::Result<()> {
    faults::check("set_acl")?;
    Ok(rustix::fs::fsetxattr(file, ACL, acl, XattrFlags::empty())?)
}

/// Reads an extended attribute of at most as many bytes as `buffer` has. None if there is none, or a longer
/// one.
pub(super) fn xattr<'a>(
    file: impl AsFd,
    name: &str,
    buffer: &'a mut [u8],
) -> io::Result<Option<&'a [u8]>> {
    faults::check("xattr")?;
    match rustix::fs::fgetxattr(file, name, &mut *buffer) {
        Ok(size) => Ok(Some(&buffer[..size])),
        Err(Errno::NODATA | Errno::RANGE | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Failures of the calls, on demand.
mod faults {
    use std::io;

    #[cfg(not(test))]
    #[inline]
    pub(super) fn check(_call: &'static str) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn check(call: &'static str) -> io::Result<()> {
        super::injected::check(call)
    }
}

#[cfg(test)]
pub(super) mod injected;
