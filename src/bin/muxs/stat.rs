//! `muxs stat`.

use crate::{
    connection::Connection,
    failure::{Failure, Job, Task},
    report::Report,
};

pub(crate) async fn run(
    connection: &Connection,
    remote: &str,
    report: &mut Report,
) -> Result<(), Failure> {
    let client = connection.client().await?;
    let found = client.stat_with_events(remote, |event| report.event(event));
    let found = found.await;
    let info = found.map_err(|error| {
        let task = Task {
            job: Job::Stat,
            remote,
            token_use: connection.token_use,
        };
        task.explain(&error)
    })?;
    report.found(&info);
    Ok(())
}
