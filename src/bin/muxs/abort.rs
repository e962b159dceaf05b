//! `muxs abort`.

use muxs::client::{Client, Error};
use tonic::Code;

use crate::{
    args::AbortArgs,
    connection::Connection,
    failure::{Failure, Job, Task},
    put::no_remote_name,
    report::Report,
};

pub(crate) async fn run(
    connection: &Connection,
    args: &AbortArgs,
    report: &mut Report,
) -> Result<(), Failure> {
    let remote = match args.upload_id {
        Some(_) => args.name.to_str().map(str::to_owned),
        None => args.remote_name(),
    };
    let remote = remote.ok_or_else(|| no_remote_name(&args.name))?;
    let client = connection.client().await?;
    let aborted = match &args.upload_id {
        Some(id) => {
            let watch = |event| report.event(event);
            client.abort_upload_with_events(&remote, id, watch).await
        }
        None => abort_upload_of(&client, args, &remote, report).await,
    };
    aborted.map_err(|error| {
        let task = Task {
            job: Job::Abort,
            remote: &remote,
            token_use: connection.token_use,
        };
        task.explain(&error)
    })?;
    report.aborted(&remote);
    Ok(())
}

/// Discards what a put of the same file has left, with `--create-only` and without.
async fn abort_upload_of(
    client: &Client,
    args: &AbortArgs,
    remote: &str,
    report: &mut Report,
) -> Result<(), Error> {
    let upload = client.upload(&args.name, remote);
    let replacing = upload.on_event(|event| report.event(event)).abort().await;
    let upload = client.upload(&args.name, remote).create_only();
    let creating = upload.on_event(|event| report.event(event)).abort().await;
    match (replacing, creating) {
        (Err(error), Ok(())) | (Ok(()), Err(error)) if error.code() == Some(Code::NotFound) => {
            Ok(())
        }
        (replacing, creating) => replacing.and(creating),
    }
}
