//! `muxs put`.

use std::path::Path;

use crate::{
    args::PutArgs,
    connection::Connection,
    failure::{Failure, Job, Task},
    report::Report,
};

pub(crate) async fn run(
    connection: &Connection,
    args: &PutArgs,
    report: &mut Report,
) -> Result<(), Failure> {
    let local = (!args.is_from_stdin()).then_some(args.local.as_path());
    let remote = args.remote_name();
    let remote = remote.ok_or_else(|| no_remote_name(&args.local))?;
    let client = connection.client().await?;
    let upload = match local {
        None => client.upload_from(tokio::io::stdin(), &remote),
        Some(path) => client.upload(path, &remote),
    };
    let upload = match args.create_only {
        true => upload.create_only(),
        false => upload,
    };
    report.begin("Sending");
    let sent = upload.on_event(|event| report.event(event)).await;
    let info = sent.map_err(|error| {
        let task = Task {
            job: Job::Put(local),
            remote: &remote,
            token_use: connection.token_use,
        };
        task.explain(&error)
    })?;
    report.transferred(&info, "sent", true);
    Ok(())
}

/// The failure of a local file whose name cannot be one on the server.
pub(crate) fn no_remote_name(local: &Path) -> Failure {
    let local = local.display();
    Failure::local(format!(
        "{local} has no name that can be one on the server: say REMOTE"
    ))
}
