//! A command that prints a token.

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{self, AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
};

use super::{error::TokenError, token::MAX_TOKEN_BYTES};

/// The longest run of a command: programs that call a remote server take seconds.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of a command's standard error that an error message repeats.
const MAX_STDERR_BYTES: usize = 300;

/// Runs `sh -c COMMAND` and returns its standard output. Dropping the future kills the command.
pub(super) async fn run(command: &str) -> Result<Vec<u8>, TokenError> {
    let failed = |error: io::Error| TokenError::Command(format!("cannot be run: {error}"));
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that the processes which the shell starts can be killed with it.
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

/// The process group of a command. Dropping it kills the processes.
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
            // Fails only if none of the processes is left.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Reads to the end and returns the first bytes: more than a token can have.
async fn read_head(output: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut output) = output {
        let limit = 2 * MAX_TOKEN_BYTES as u64;
        (&mut output).take(limit).read_to_end(&mut bytes).await?;
        io::copy(&mut output, &mut io::sink()).await?;
    }
    Ok(bytes)
}

/// Reads to the end and returns the last bytes.
async fn read_tail(output: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut output) = output {
        while output.read_buf(&mut bytes).await? > 0 {
            let excess = bytes.len().saturating_sub(4 * MAX_STDERR_BYTES);
            bytes.drain(..excess);
        }
    }
    Ok(bytes)
}

/// Returns the last line that is not blank, without control characters.
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
    async fn token_is_the_standard_output_alone() {
        let printed = run("echo noise >&2; printf 'to'; echo ken").await.unwrap();
        assert_eq!(printed, b"token\n");
        assert_eq!(run("cat").await.unwrap(), b"");
        let much = run("yes | head -c 1000000").await.unwrap();
        assert_eq!(much.len(), 2 * MAX_TOKEN_BYTES);
    }

    #[tokio::test]
    async fn failed_command_is_reported_with_status_and_last_stderr_line() {
        let message = async |command| run(command).await.unwrap_err().to_string();
        assert_eq!(
            message("echo token; echo first >&2; printf 'last\\033[2J\\n\\n' >&2; exit 3").await,
            "the command for tokens ended with exit status: 3: last[2J"
        );
        assert_eq!(
            message("exit 1").await,
            "the command for tokens ended with exit status: 1"
        );
        let long = message("yes complaint | tr -d '\\n' | head -c 100000 >&2; exit 1").await;
        assert!(long.len() < 400, "{long}");
    }

    /// A child of the shell holds the FIFO open: its end of file shows that the child is dead.
    #[tokio::test]
    async fn hanging_command_is_killed_with_its_child_processes() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
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
