//! A command that prints a token.

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{self, AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
};

use super::{error::TokenError, token::MAX_TOKEN_BYTES};

/// How long a command may take: programs that ask a server far away take seconds.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// How much is told of what a command complained of, in bytes.
const MAX_STDERR_BYTES: usize = 300;

/// What `sh -c COMMAND` prints. Dropped before, the command is killed.
pub(super) async fn run(command: &str) -> Result<Vec<u8>, TokenError> {
    let failed = |error: io::Error| TokenError::Command(format!("cannot be run: {error}"));
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // One of its own, to be killed with all that the shell starts.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let group = ProcessGroup(child.id());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = timeout(COMMAND_TIMEOUT, async {
        tokio::try_join!(read_head(stdout), read_tail(stderr), child.wait())
    });
    let Ok(ended) = ended.await else {
        let seconds = COMMAND_TIMEOUT.as_secs();
        return Err(TokenError::Command(format!(
            "took more than {seconds} s and was killed"
        )));
    };
    let (printed, stderr, status) = ended.map_err(failed)?;
    group.disarm();
    match (status.success(), last_line(&stderr)) {
        (true, _) => Ok(printed),
        (false, None) => Err(TokenError::Command(format!("ended with {status}"))),
        (false, Some(line)) => Err(TokenError::Command(format!("ended with {status}: {line}"))),
    }
}

/// The processes of a command. Dropping it kills them.
struct ProcessGroup(Option<u32>);

impl ProcessGroup {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let leader = self.0.and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(leader) = leader {
            // Refused only where there is none of them any more.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Reads to the end, and keeps as much as shows whether it is a token.
async fn read_head(output: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut output) = output {
        let most = 2 * MAX_TOKEN_BYTES as u64;
        (&mut output).take(most).read_to_end(&mut kept).await?;
        io::copy(&mut output, &mut io::sink()).await?;
    }
    Ok(kept)
}

/// Reads to the end, and keeps the last of it.
async fn read_tail(output: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut output) = output {
        while output.read_buf(&mut kept).await? > 0 {
            let excess = kept.len().saturating_sub(4 * MAX_STDERR_BYTES);
            kept.drain(..excess);
        }
    }
    Ok(kept)
}

/// The last line that says something, without what a terminal would obey.
fn last_line(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let mut line: String = line.chars().filter(|char| !char.is_control()).collect();
    line.truncate(line.floor_char_boundary(MAX_STDERR_BYTES));
    Some(line)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read};

    use rustix::fs::{CWD, Mode, mkfifoat};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_a_command_prints_is_the_token_and_nothing_else_is() {
        let printed = run("echo noise >&2; printf 'to'; echo ken").await.unwrap();
        assert_eq!(printed, b"token\n");
        assert_eq!(run("cat").await.unwrap(), b"");
        let much = run("yes | head -c 1000000").await.unwrap();
        assert_eq!(much.len(), 2 * MAX_TOKEN_BYTES);
    }

    #[tokio::test]
    async fn a_command_that_fails_tells_its_status_and_its_last_complaint() {
        let told = async |command| run(command).await.unwrap_err().to_string();
        assert_eq!(
            told("echo token; echo first >&2; printf 'last\\033[2J\\n\\n' >&2; exit 3").await,
            "the command for tokens ended with exit status: 3: last[2J"
        );
        assert_eq!(
            told("exit 1").await,
            "the command for tokens ended with exit status: 1"
        );
        let long = told("yes complaint | tr -d '\\n' | head -c 100000 >&2; exit 1").await;
        assert!(long.len() < 400, "{long}");
    }

    /// What the shell has started holds the other end of the FIFO, and it ends when that is dead.
    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        mkfifoat(CWD, &fifo, Mode::RWXU).unwrap();
        let command = format!("sleep 1000 > '{}'; echo token", fifo.display());
        let running = tokio::spawn(async move { run(&command).await });
        let (opened, has_started) = oneshot::channel();
        let reader = std::thread::spawn(move || {
            let mut fifo = File::options().read(true).open(fifo).unwrap();
            opened.send(()).unwrap();
            fifo.read_to_end(&mut Vec::new()).unwrap()
        });
        has_started.await.unwrap();
        tokio::time::pause();
        tokio::time::advance(COMMAND_TIMEOUT).await;
        let error = running.await.unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the command for tokens took more than 30 s and was killed"
        );
        assert_eq!(reader.join().unwrap(), 0);
    }
}
