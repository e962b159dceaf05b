//! The commands.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

/// The name of standard input and of standard output.
const STDIO: &str = "-";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Upload a file, or continue its upload
    Put(PutArgs),
    /// Download a file, or continue its download
    Get(GetArgs),
    /// Show a file's size, time of change and etag
    Stat {
        /// The file on the server
        remote: String,
    },
    /// Discard an unfinished upload
    #[command(override_usage = "muxs abort [OPTIONS] <LOCAL> [REMOTE]\n       \
                          muxs abort [OPTIONS] --upload-id <ID> <REMOTE>")]
    Abort(AbortArgs),
    /// Send names and print the greetings, line by line, on a terminal or in a pipe
    Chat,
}

#[derive(Args)]
pub(crate) struct PutArgs {
    /// The file to upload; - is standard input
    pub(crate) local: PathBuf,
    /// Its name on the server; one that ends with a slash is a folder to put it in [default: the local file's name]
    #[arg(required_if_eq("local", STDIO))]
    pub(crate) remote: Option<String>,
    /// Fail if the server has a file of that name, instead of replacing it
    #[arg(long)]
    pub(crate) create_only: bool,
}

#[derive(Args)]
pub(crate) struct GetArgs {
    /// The file on the server
    pub(crate) remote: String,
    /// Where to put it, a file or a folder; - is standard output [default: the remote name's last component]
    pub(crate) local: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct AbortArgs {
    /// The file whose upload by put is discarded; with --upload-id, REMOTE instead
    #[arg(value_name = "LOCAL")]
    pub(crate) name: PathBuf,
    /// Its name on the server, as it was given to put
    #[arg(value_name = "REMOTE", conflicts_with = "upload_id")]
    pub(crate) remote: Option<String>,
    /// Discard the upload of REMOTE that has this id, whatever client began it
    #[arg(long, value_name = "ID")]
    pub(crate) upload_id: Option<String>,
}

impl Command {
    /// Whether the same command continues this one if it is interrupted.
    pub(crate) fn can_continue(&self) -> bool {
        match self {
            Self::Put(put) => !put.is_from_stdin(),
            Self::Get(get) => !get.is_to_stdout(),
            Self::Stat { .. } | Self::Abort(_) | Self::Chat => false,
        }
    }
}

impl PutArgs {
    pub(crate) fn is_from_stdin(&self) -> bool {
        is_stdio(&self.local)
    }

    pub(super) fn remote_is_folder(&self) -> bool {
        self.remote.as_deref().is_some_and(is_folder)
    }

    /// The name on the server, `None` if the local file has no name that could be one.
    pub(crate) fn remote_name(&self) -> Option<String> {
        remote_name(&self.local, self.remote.as_deref())
    }
}

impl GetArgs {
    pub(crate) fn is_to_stdout(&self) -> bool {
        self.local.as_deref().is_some_and(is_stdio)
    }
}

impl AbortArgs {
    pub(super) fn is_of_stdin(&self) -> bool {
        self.upload_id.is_none() && is_stdio(&self.name)
    }

    /// The name on the server of the local file, as for a put of the same arguments.
    pub(crate) fn remote_name(&self) -> Option<String> {
        remote_name(&self.name, self.remote.as_deref())
    }
}

fn is_stdio(path: &Path) -> bool {
    path.as_os_str() == STDIO
}

fn is_folder(remote: &str) -> bool {
    remote.ends_with('/')
}

fn remote_name(local: &Path, remote: Option<&str>) -> Option<String> {
    match remote {
        Some(remote) if !is_folder(remote) => Some(remote.to_owned()),
        folder => {
            let name = local.file_name()?.to_str()?;
            Some(format!("{}{name}", folder.unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_name_is_as_for_cp() {
        let name = |local: &str, remote: Option<&str>| remote_name(Path::new(local), remote);
        assert_eq!(name("a/f", None).as_deref(), Some("f"));
        assert_eq!(name("a/f", Some("b/g")).as_deref(), Some("b/g"));
        assert_eq!(name("a/f", Some("b/")).as_deref(), Some("b/f"));
        assert_eq!(name("a/..", None), None);
        assert_eq!(name("a/..", Some("b/")), None);
        assert_eq!(name("a/..", Some("b")).as_deref(), Some("b"));
    }
}
