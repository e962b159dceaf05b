//! What a failed command prints: what happened, and what to do.

use std::{
    error::Error as _,
    io,
    path::{Path, PathBuf},
};

use muxs::client::Error;
use tonic::Code;

/// The exit codes of failed calls start here, where those of sysexits.h do.
const CALL_FAILED: u8 = 64;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) sentence: String,
    /// `None` for a failure of this side.
    pub(crate) code: Option<Code>,
    pub(crate) reason: Option<String>,
}

/// Whether and how the command has an access token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenUse {
    None,
    Given,
    /// The client requests it from an issuer.
    Requested,
}

/// What a failed command was about.
pub(crate) struct Task<'a> {
    pub(crate) job: Job<'a>,
    /// The name on the server.
    pub(crate) remote: &'a str,
    pub(crate) token_use: TokenUse,
}

pub(crate) enum Job<'a> {
    /// Of this local file, `None` for standard input.
    Put(Option<&'a Path>),
    /// To this local file, `None` for standard output.
    Get(Option<&'a Path>),
    Stat,
    Abort,
    Chat,
}

impl Failure {
    pub(crate) fn local(sentence: impl Into<String>) -> Self {
        Self {
            sentence: without_number(&sentence.into()),
            code: None,
            reason: None,
        }
    }

    pub(crate) fn call(code: Code, sentence: String) -> Self {
        Self {
            sentence,
            code: Some(code),
            reason: None,
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        self.code.map_or(1, |code| CALL_FAILED + code as u8)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::local(format!("{error:#}"))
    }
}

impl Task<'_> {
    /// Explains why the task failed.
    pub(crate) fn explain(&self, error: &Error) -> Failure {
        let (attempts, last) = match error {
            Error::RetriesExhausted { attempts, last } => (Some(attempts), &**last),
            error => (None, error),
        };
        let what = self.describe(last);
        let sentence = match attempts {
            Some(attempts) if self.can_continue() => {
                format!("gave up after {attempts} attempts: {what}; the same command continues")
            }
            Some(attempts) => format!("gave up after {attempts} attempts: {what}"),
            None => what,
        };
        Failure {
            sentence,
            code: error.code(),
            reason: error.reason(),
        }
    }

    fn can_continue(&self) -> bool {
        matches!(self.job, Job::Put(Some(_)) | Job::Get(Some(_)))
    }

    fn describe(&self, error: &Error) -> String {
        let described = match error {
            Error::Call(status) => self.describe_call(error, status.message()),
            Error::Local { path, source, .. } => self.describe_local(path, source),
            Error::SourceChanged(path) => Some(format!(
                "{} changed while it was sent, and the server keeps the file of before; run the command \
                 again when it changes no more",
                path.display()
            )),
            _ => None,
        };
        described.unwrap_or_else(|| with_causes(error))
    }

    fn describe_call(&self, error: &Error, message: &str) -> Option<String> {
        let remote = self.remote;
        if error.code() == Some(Code::Unauthenticated) {
            return self.describe_token(error);
        }
        if let Job::Chat = self.job
            && error.reason().is_none_or(|reason| reason == "DRAINING")
        {
            return Some("the server went away: start the chat again once it is back".to_owned());
        }
        Some(match (error.reason()?.as_str(), &self.job) {
            ("NOT_FOUND", Job::Abort) => format!("no unfinished upload of {remote} on the server"),
            ("NOT_FOUND", _) => format!("{remote}: not found on the server"),
            ("NOT_A_FILE", Job::Put(_)) => format!(
                "{remote} is not a file on the server; if it is a folder, {remote}/ puts the file into it"
            ),
            ("NOT_A_FILE", _) => format!(
                "{remote} is not a file on the server; if it is a folder, name a file in it"
            ),
            ("FILENAME_INVALID", _) => {
                format!("the server does not accept the name {remote}: {message}")
            }
            ("EXISTS", _) => format!(
                "{remote} exists on the server, and --create-only keeps it from being replaced"
            ),
            ("INSUFFICIENT_SCOPE", _) => {
                let advice = match self.token_use {
                    TokenUse::Requested => "--scope requests it",
                    _ => "get a token that has it",
                };
                format!("{error}: {advice}")
            }
            ("OUTSIDE_FOLDER", _) => {
                format!("the access token is for another folder than that of {remote}")
            }
            ("DISK_FULL", Job::Put(Some(_))) => format!(
                "the server has no space left for {remote}; the same command continues once it has"
            ),
            ("SUPERSEDED", Job::Put(_)) => format!(
                "another run is uploading {remote}, has replaced it, or has discarded this upload"
            ),
            ("OUTSIDE_ROOT" | "OTHER_FILESYSTEM" | "READ_ONLY" | "TOO_LARGE", _) => {
                format!("the server refuses {remote}: {message}")
            }
            ("NAME_TOO_LONG", Job::Chat) => format!("the server refuses the name: {message}"),
            _ => return None,
        })
    }

    fn describe_token(&self, error: &Error) -> Option<String> {
        // A gateway that answers with a status of HTTP does not ask for a token of this kind.
        error.reason()?;
        Some(match self.token_use {
            TokenUse::None => "the server requires an access token: --token-file, MUXS_TOKEN or \
                 --token-command give one, --issuer with --client-id requests one"
                .to_owned(),
            _ => "the server does not accept the access token: it may have expired, or be for another \
                 server"
                .to_owned(),
        })
    }

    fn describe_local(&self, path: &Path, source: &io::Error) -> Option<String> {
        let shown = path.display();
        match (&self.job, source.kind()) {
            (Job::Put(Some(local)), io::ErrorKind::NotFound) if path == *local => Some(format!(
                "there is no file {shown}: check the name and its folder"
            )),
            (Job::Put(_), io::ErrorKind::IsADirectory) => Some(format!(
                "{shown} is a folder, and put takes one file: name a file in it, or send all of it with \
                 `tar c {shown} | muxs put - {}.tar`",
                self.remote.trim_end_matches('/')
            )),
            (Job::Put(_), io::ErrorKind::InvalidInput) => Some(format!(
                "{shown} is not a regular file; `muxs put - {} < {shown}` sends what can be read from it",
                self.remote
            )),
            (Job::Get(Some(local)), io::ErrorKind::NotFound) => {
                let folder = missing_parent(local)?;
                Some(format!(
                    "there is no folder {}: make it first",
                    folder.display()
                ))
            }
            (Job::Get(_), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Some(
                format!("no space left for {shown}; the same command continues once there is some"),
            ),
            _ => None,
        }
    }
}

/// The directory of a path, if it does not exist.
fn missing_parent(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    (!parent.as_os_str().is_empty() && !parent.exists()).then(|| parent.to_owned())
}

/// A failure and what caused it, as one sentence.
pub(crate) fn with_causes(error: &Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    without_number(&text)
}

/// Removes the number that follows the text of an error of the operating system.
fn without_number(text: &str) -> String {
    match text.split_once(" (os error ") {
        Some((before, rest)) => {
            let after = rest.split_once(')').map_or("", |(_, after)| after);
            format!("{before}{}", without_number(after))
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_operating_system_are_removed() {
        assert_eq!(without_number("cannot open x"), "cannot open x");
        assert_eq!(
            without_number("No such file (os error 2); Not a directory (os error 20)."),
            "No such file; Not a directory."
        );
    }
}
