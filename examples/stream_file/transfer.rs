//! `put`, `get` and `stat`.

use std::{io, path::Path, process::ExitCode};

use anyhow::Context;
use indicatif::HumanBytes;
use muxs::{
    client::{Client, Error},
    pb::FileInfo,
};
use serde_json::json;
use tonic::Code;

use crate::{
    Command,
    report::{Report, print_line},
    support::{Found, ServerArgs, authorize},
};

/// Codes of calls that failed start here, where those of sysexits.h do.
const CALL_FAILED: u8 = 64;

pub(crate) async fn run(
    server: &ServerArgs,
    command: Command,
    json: bool,
    quiet: bool,
) -> anyhow::Result<ExitCode> {
    // A token that would go where others can read it is refused before anything is sent.
    let (endpoint, credentials) = (server.endpoint()?, server.credentials()?);
    let channel = authorize(&endpoint, endpoint.connect_lazy(), credentials)?;
    let client = Client::new(channel);
    let addr = &server.addr;
    match server.find().await {
        Ok(Found::Server) => {}
        // What else may keep it from answering may also pass.
        Err(_) if quiet => {}
        Err(error) => eprintln!("Trying, although {error:#}."),
        Ok(Found::Nothing) => {
            let advice = " Start a server there with `cargo run --bin server`.";
            return Ok(no_server(
                &format!("nothing listens at {addr}"),
                advice,
                json,
            ));
        }
        Ok(Found::Unusable(why)) => {
            let why = format!("cannot use {addr}: {why}");
            return Ok(no_server(&why, "", json));
        }
    }
    match command {
        Command::Put {
            local,
            remote,
            create_only,
        } => {
            let mut report = Report::new("Sending", json, quiet)?;
            let sent = put(&client, &local, remote, create_only, &mut report).await?;
            Ok(end(&report, sent, "sent", true))
        }
        Command::Get { remote, local } => {
            let to_stdout = local.as_deref() == Some("-");
            if to_stdout && json {
                eprintln!("error: --json needs standard output for itself");
                return Ok(ExitCode::from(2));
            }
            let mut report = Report::new("Receiving", json, quiet)?;
            let received = get(&client, &remote, local, &mut report).await?;
            Ok(end(&report, received, "received", !to_stdout))
        }
        Command::Stat { remote } => stat(&client, &remote, json, quiet).await,
    }
}

/// Says so at once: a server of our own would take the file with it when it ends.
fn no_server(why: &str, advice: &str, json: bool) -> ExitCode {
    let code = Code::Unavailable as u8;
    if json {
        let line = json!({"event": "failed", "error": why, "code": code, "reason": null});
        print_line(io::stdout(), &line.to_string());
    }
    eprintln!("Failed: {why}.{advice}");
    ExitCode::from(CALL_FAILED + code)
}

async fn put(
    client: &Client,
    local: &str,
    remote: Option<String>,
    create_only: bool,
    report: &mut Report,
) -> anyhow::Result<Result<FileInfo, Error>> {
    let remote = match remote {
        Some(remote) => remote,
        None => Path::new(local)
            .file_name()
            .and_then(|name| name.to_str())
            .with_context(|| format!("{local} has no name that a server takes: say REMOTE"))?
            .to_owned(),
    };
    let upload = match local {
        "-" => client.upload_from(tokio::io::stdin(), remote),
        _ => client.upload(local, remote),
    };
    let upload = match create_only {
        true => upload.create_only(),
        false => upload,
    };
    Ok(upload.on_event(|event| report.event(event)).await)
}

async fn get(
    client: &Client,
    remote: &str,
    local: Option<String>,
    report: &mut Report,
) -> anyhow::Result<Result<FileInfo, Error>> {
    let last = remote.rsplit('/').next().unwrap_or(remote);
    let download = match local.as_deref() {
        Some("-") => client.download_to(remote, tokio::io::stdout()),
        local => client.download(remote, local.unwrap_or(last)),
    };
    Ok(download.on_event(|event| report.event(event)).await)
}

async fn stat(client: &Client, remote: &str, json: bool, quiet: bool) -> anyhow::Result<ExitCode> {
    let report = Report::new("", json, quiet)?;
    let info = match client.stat(remote).await {
        Ok(info) => info,
        Err(error) => return Ok(failed(&report, &error)),
    };
    if json {
        let line = json!({"event": "done", "filename": info.filename,
            "size": info.size, "etag": info.etag});
        print_line(io::stdout(), &line.to_string());
    } else {
        let size = HumanBytes(info.size);
        let line = format!("{remote}: {} bytes ({size}), etag {}", info.size, info.etag);
        print_line(io::stdout(), &line);
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells how a transfer ended.
fn end(report: &Report, result: Result<FileInfo, Error>, done: &str, to_stdout: bool) -> ExitCode {
    match result {
        Ok(info) => {
            let words = format!(
                "{} {done}: {}, etag {}",
                info.filename,
                report.rate(info.size),
                info.etag
            );
            match to_stdout {
                true => report.done(&info, &words, io::stdout()),
                false => report.done(&info, &words, io::stderr()),
            }
            ExitCode::SUCCESS
        }
        Err(error) => failed(report, &error),
    }
}

/// Tells why it failed, unless it is that whoever read has had enough.
pub(crate) fn failed(report: &Report, error: &Error) -> ExitCode {
    if let Error::Stream { source, .. } = error
        && source.kind() == io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    report.failed(error);
    match error.code() {
        Some(code) => ExitCode::from(CALL_FAILED + code as u8),
        None => ExitCode::FAILURE,
    }
}
