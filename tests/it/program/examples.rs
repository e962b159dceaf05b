//! The examples as processes.

use crate::support::{Program, program::example};

/// A privileged port of the loopback interface without a listener.
const NOBODY: [&str; 2] = ["--addr", "http://127.0.0.1:1"];

#[test]
fn hello_calls_every_shape_on_its_own_server() {
    let output = example("hello")
        .args(NOBODY)
        .assert()
        .success()
        .get_output()
        .clone();
    let replies = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = replies.lines().collect();
    assert_eq!(lines[..2], ["Hello, you!"; 2]);
    assert_eq!(lines[6], "Hello, Ada, Grace, Edsger and 2 others!");
    assert_eq!(
        lines[7..10],
        ["Hello, Ada!", "Hello, Grace!", "Hello, Edsger!"]
    );
    // The deadline that is met, the reply before the missed deadline, and its error.
    assert_eq!(
        lines[10..],
        [
            "Hello, you!",
            "Hello, you!",
            "DeadlineExceeded: the deadline of the call has passed"
        ]
    );
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("Nothing listens at http://127.0.0.1:1, so"),
        "{stderr}"
    );
}

#[tokio::test]
async fn hello_uses_the_given_server() {
    let root = tempfile::tempdir().unwrap();
    let program = Program::start(root.path()).await;
    let address = format!("http://{}", program.address);
    let output = example("hello")
        .args(["--addr", &address])
        .assert()
        .success()
        .get_output()
        .clone();
    assert!(output.stdout.starts_with(b"Hello, you!\n"));
    assert!(
        !String::from_utf8(output.stderr)
            .unwrap()
            .contains("Nothing listens")
    );
}

#[test]
fn piped_chat_prints_one_line_per_line() {
    example("bidi_chat")
        .args(NOBODY)
        .write_stdin("Ada\n\nGrace")
        .assert()
        .success()
        .stdout("Hello, Ada!\nHello, !\nHello, Grace!\n");
    example("bidi_chat")
        .args(NOBODY)
        .write_stdin("")
        .assert()
        .success()
        .stdout("");
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn stream_file_resumes_a_cut_transfer_on_its_own_server() {
    let mut command = example("stream_file");
    let output = command.args(NOBODY).args(["--size", "8MiB"]).assert();
    let output = output.success().get_output().clone();
    let table = text(output.stdout);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(rows[1].starts_with("upload, cut half-way"), "{table}");
    assert!(rows[2].starts_with("download"), "{table}");
    let stderr = text(output.stderr);
    let lost = "the connection to the server was lost.";
    assert!(stderr.contains(lost), "{stderr}");
    assert!(
        stderr.contains("\nThe copy has the same bytes."),
        "{stderr}"
    );
}
