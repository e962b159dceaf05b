//! `muxs get`.

use std::{
    io,
    path::{Path, PathBuf},
};

use muxs::client::Error;

use crate::{
    args::GetArgs,
    connection::Connection,
    failure::{Failure, Job, Task},
    report::Report,
};

pub(crate) async fn run(
    connection: &Connection,
    args: &GetArgs,
    report: &mut Report,
) -> Result<(), Failure> {
    let remote = args.remote.as_str();
    let local = match args.is_to_stdout() {
        true => None,
        false => Some(target(remote, args.local.as_deref())?),
    };
    let client = connection.client().await?;
    let download = match &local {
        None => client.download_to(remote, tokio::io::stdout()),
        Some(path) => client.download(remote, path),
    };
    report.begin("Receiving");
    match download.on_event(|event| report.event(event)).await {
        Ok(info) => {
            report.transferred(&info, "received", local.is_some());
            Ok(())
        }
        // The program that reads the pipe needs no more.
        Err(Error::Stream { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
            report.end();
            Ok(())
        }
        Err(error) => {
            let task = Task {
                job: Job::Get(local.as_deref()),
                remote,
                token_use: connection.token_use,
            };
            Err(task.explain(&error))
        }
    }
}

/// The local file to write: as for `cp`, a folder means a file in it.
fn target(remote: &str, local: Option<&Path>) -> Result<PathBuf, Failure> {
    let remote = remote.trim_end_matches('/');
    let name = remote.rsplit('/').next().unwrap_or(remote);
    let Some(local) = local else {
        return Ok(name.into());
    };
    if local.is_dir() {
        return Ok(local.join(name));
    }
    match local.as_os_str().as_encoded_bytes().ends_with(b"/") {
        true => Err(Failure::local(format!(
            "there is no folder {}: make it first",
            local.display()
        ))),
        false => Ok(local.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_in_a_folder_has_the_last_component_of_the_remote_name() {
        let folder = tempfile::tempdir().unwrap();
        let target = |local: &Path| target("a/b/f", Some(local)).unwrap();
        assert_eq!(target(folder.path()), folder.path().join("f"));
        assert_eq!(target(&folder.path().join("")), folder.path().join("f"));
        assert_eq!(target(&folder.path().join("g")), folder.path().join("g"));
        assert_eq!(super::target("a/b/f", None).unwrap(), Path::new("f"));
    }

    #[test]
    fn target_in_a_missing_folder_is_refused() {
        let failure = target("f", Some(Path::new("missing/"))).unwrap_err();
        assert_eq!(
            failure.sentence,
            "there is no folder missing/: make it first"
        );
    }
}
