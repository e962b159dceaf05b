//! The TLS flags of the programs.

use std::{fs, process::Command};

use rustix::process::Signal;
use tonic::transport::{Certificate, ClientTlsConfig};

use crate::support::{
    Program,
    certificates::Authority,
    pki::{Pki, assert_greeted, assert_serves_certificate, greet},
    program::{assert_start_fails, muxs, server_command},
    tree, with_timeout,
};

impl Pki {
    /// The flags of a server with TLS.
    fn flags(&self) -> [String; 2] {
        ["cert", "key"].map(|what| format!("--tls-{what}={}", self.flag(&format!("{what}.pem"))))
    }

    async fn program(&self, more: &[&str]) -> Program {
        let flags = self.flags();
        let flags: Vec<_> = flags
            .iter()
            .map(String::as_str)
            .chain(more.to_vec())
            .collect();
        Program::start_with(&self.path("root"), &flags).await
    }
}

#[tokio::test]
async fn program_serves_tls_and_announces_https() {
    let pki = Pki::new();
    let mut program = pki.program(&[]).await;
    assert!(program.url.starts_with("https://"), "{}", program.url);
    assert_greeted(greet(&program.url, pki.trust()).await);
    program.signal(Signal::TERM);
    assert!(program.wait_end().await.success());
}

#[tokio::test]
async fn false_self_signed_variable_does_not_conflict_with_flags() {
    let pki = Pki::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command
        .env("MUXS_TLS_SELF_SIGNED", "0")
        .args(["--listen", "127.0.0.1:0", "--root"])
        .arg(pki.path("root"))
        .args(pki.flags());
    let program = Program::start_command(command).await;
    assert_greeted(greet(&program.url, pki.trust()).await);
}

#[tokio::test]
async fn program_requests_client_certificates() {
    let pki = Pki::new();
    let authority = format!("--tls-client-ca={}", pki.flag("authority.pem"));
    let known = || pki.trust().identity(pki.authority.client().identity());
    for (auth, lets_in_all) in [
        (None, false),
        (Some("--tls-client-auth=require"), false),
        (Some("--tls-client-auth=optional"), true),
    ] {
        let flags: Vec<_> = [authority.as_str()].into_iter().chain(auth).collect();
        let mut program = pki.program(&flags).await;
        assert_greeted(greet(&program.url, known()).await);
        let unknown = greet(&program.url, pki.trust()).await;
        assert_eq!(unknown.is_ok(), lets_in_all, "{auth:?}");
        // The next server uses the same root.
        program.signal(Signal::TERM);
        assert!(program.wait_end().await.success());
    }
}

/// Waits until `times` lines of the log contain these words.
async fn wait_logged(program: &Program, words: &str, times: usize) {
    let logged = async {
        while program.log().matches(words).count() < times {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(logged).await;
}

#[tokio::test]
async fn sighup_reloads_the_certificate_or_keeps_the_old_one() {
    const READ: &str = "certificate and key reloaded";
    const KEPT: &str = "the previous certificate and key stay in use";
    let pki = Pki::new();
    let [first, second, third] = [(); 3].map(|()| pki.authority.server());
    pki.install(&first);
    let mut program = pki.program(&[]).await;
    assert_serves_certificate(&pki, program.address, &first).await;

    pki.install(&second);
    program.signal(Signal::HUP);
    wait_logged(&program, READ, 1).await;
    assert_serves_certificate(&pki, program.address, &second).await;

    pki.write("key.pem", &third.key);
    program.signal(Signal::HUP);
    wait_logged(&program, KEPT, 1).await;
    assert_serves_certificate(&pki, program.address, &second).await;
    let log = program.log();
    assert!(
        log.contains(&pki.flag("key.pem")),
        "the log names the file: {log}"
    );

    pki.install(&third);
    program.signal(Signal::HUP);
    wait_logged(&program, READ, 2).await;
    assert_serves_certificate(&pki, program.address, &third).await;
    program.signal(Signal::TERM);
    assert!(program.wait_end().await.success());
}

#[test]
fn certificate_without_key_is_wrong_usage() {
    let pki = Pki::new();
    let [cert, key] = pki.flags();
    let authority = format!("--tls-client-ca={}", pki.flag("authority.pem"));
    let cases: [&[&str]; 7] = [
        &[&cert],
        &[&key],
        &[&authority],
        &["--tls-self-signed", &cert, &key],
        &["--tls-self-signed", &authority],
        &[&cert, &key, "--tls-client-auth=require"],
        &[&cert, &key, &authority, "--tls-client-auth=perhaps"],
    ];
    for flags in cases {
        let run = server_command()
            .args(["--listen", "127.0.0.1:0", "--root"])
            .arg(pki.path("root"))
            .args(flags)
            .assert();
        run.code(2).stdout("");
    }
    assert!(!pki.path("root").exists());
}

#[test]
fn start_fails_on_an_invalid_certificate_or_key() {
    let pki = Pki::new();
    let refuses = |sentence: String| {
        let mut command = server_command();
        command
            .args(["--listen", "127.0.0.1:0", "--root"])
            .arg(pki.path("root"))
            .args(pki.flags());
        command.arg(format!("--tls-client-ca={}", pki.flag("authority.pem")));
        assert_start_fails(&mut command, &sentence);
        assert!(!pki.path("root").exists());
    };
    let (cert, key, authority) = (
        pki.flag("cert.pem"),
        pki.flag("key.pem"),
        pki.flag("authority.pem"),
    );
    pki.write("key.pem", &pki.authority.server().key);
    refuses(format!(
        "the key in {key} does not belong to the certificate in {cert}"
    ));
    pki.write("key.pem", "garbage");
    refuses(format!("there is no private key in {key}"));
    fs::remove_file(&key).unwrap();
    refuses(format!(
        "cannot read {key}: No such file or directory (os error 2)"
    ));
    pki.install(&pki.authority.server());
    fs::remove_file(&cert).unwrap();
    refuses(format!(
        "cannot read {cert}: No such file or directory (os error 2)"
    ));
    pki.install(&pki.authority.server());
    pki.write("authority.pem", "garbage");
    refuses(format!("there is no certificate in {authority}"));
}

#[tokio::test]
async fn self_signed_certificate_is_generated_and_announced() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command
        .args(["--listen", "127.0.0.1:0", "--root", "root"])
        .arg("--tls-self-signed")
        .current_dir(folder.path());
    let mut program = Program::start_command(command).await;
    assert!(program.url.starts_with("https://"), "{}", program.url);
    let names: Vec<_> = tree(folder.path()).into_keys().collect();
    assert!(names.contains(&folder.path().join("muxs-dev-cert.pem")));
    let pem = fs::read_to_string(folder.path().join("muxs-dev-cert.pem")).unwrap();
    assert!(!pem.contains("PRIVATE"), "the private key is printed");
    let trust = || ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&pem));
    assert_greeted(greet(&program.url, trust()).await);
    let by_name = format!("https://localhost:{}", program.address.port());
    assert_greeted(greet(&by_name, trust()).await);

    let log = program.log();
    let advice = "cargo run --bin muxs -- ";
    let stderr = log
        .lines()
        .find_map(|line| line.trim().strip_prefix(advice));
    let stderr = stderr.unwrap_or_else(|| panic!("no advice in {log}"));
    let mut chat = assert_cmd::Command::new(env!("CARGO_BIN_EXE_muxs"));
    chat.args(stderr.split(' ')).current_dir(folder.path());
    chat.env_remove("MUXS_TOKEN").write_stdin("you");
    let run = tokio::task::spawn_blocking(move || chat.assert().success());
    let run = with_timeout(run).await.unwrap();
    assert_eq!(run.get_output().stdout, b"Hello, you!\n");

    // A generated certificate is not reloaded.
    program.signal(Signal::HUP);
    program.signal(Signal::TERM);
    assert!(program.wait_end().await.success());
}

#[tokio::test]
async fn public_plaintext_address_logs_a_warning() {
    const WARNING: &str = "see --tls-cert";
    let pki = Pki::new();
    let encrypted = pki.flags();
    let encrypted: Vec<_> = encrypted.iter().map(String::as_str).collect();
    for (listen, flags, warned) in [
        ("0.0.0.0:0", &[][..], true),
        ("0.0.0.0:0", &encrypted, false),
        ("127.0.0.1:0", &[], false),
        ("[::ffff:127.0.0.1]:0", &[], false),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
        command.args(["--listen", listen, "--root"]);
        command.arg(pki.path("root")).args(flags);
        let mut program = Program::start_command(command).await;
        program.signal(Signal::TERM);
        assert!(program.wait_end().await.success());
        let log = program.log();
        assert_eq!(log.contains(WARNING), warned, "{listen}: {log}");
    }
}

#[tokio::test]
async fn command_sends_certificates_and_explains_tls_errors() {
    let pki = Pki::new();
    let client = pki.authority.client();
    pki.write("client.pem", &client.cert);
    pki.write("client-key.pem", &client.key);
    let stranger = Authority::new("another authority");
    let unknown = stranger.client();
    pki.write("stranger.pem", &stranger.pem());
    pki.write("unknown.pem", &unknown.cert);
    pki.write("unknown-key.pem", &unknown.key);
    let required = format!("--tls-client-ca={}", pki.flag("authority.pem"));
    let strict = pki.program(&[&required]).await;
    let plain = Program::start(&pki.path("plain")).await;
    let (authority, stranger) = (pki.flag("authority.pem"), pki.flag("stranger.pem"));
    let (cert, key) = (pki.flag("client.pem"), pki.flag("client-key.pem"));
    let (unknown, unknown_key) = (pki.flag("unknown.pem"), pki.flag("unknown-key.pem"));
    let as_plain = strict.url.replace("https", "http");
    let as_strict = plain.url.replace("http", "https");
    let missing = pki.flag("missing.pem");

    let shown = ["--ca", &authority, "--cert", &cert, "--key", &key];
    let denied = [
        "--ca",
        &authority,
        "--cert",
        &unknown,
        "--key",
        &unknown_key,
    ];
    let with = |address: &str, more: &[&str]| {
        let mut chat = muxs(address);
        chat.args(more).arg("chat").write_stdin("you");
        chat
    };
    let good = with(&strict.url, &shown).assert().success();
    assert_eq!(good.get_output().stdout, b"Hello, you!\n");
    let trust = "is not signed by an authority trusted here; --ca FILE trusts";
    let cases: [(&str, &[&str], &str); 9] = [
        (&strict.url, &[], trust),
        (&strict.url, &["--ca", &stranger], trust),
        (&strict.url, &["--ca", &missing], "cannot read "),
        (&strict.url, &["--ca", &key], "there is no certificate in "),
        (
            &strict.url,
            &shown[..2],
            "if it requires a certificate of this client, --cert and --key",
        ),
        (
            &strict.url,
            &denied,
            "it may not accept the certificate of --cert",
        ),
        (&as_plain, &[], "encrypts: its address is https://"),
        (&as_strict, &shown, "its address begins with http://"),
        (
            &plain.url,
            &shown,
            "--ca and --cert are for addresses that begin with https://",
        ),
    ];
    for (address, flags, words) in cases {
        let run = with(address, flags).assert().code(1);
        let stderr = String::from_utf8(run.get_output().stderr.clone()).unwrap();
        assert!(
            stderr.starts_with("error: ") && stderr.contains(words),
            "{stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

/// A server that this client cannot use stays so: nothing is retried.
#[tokio::test]
async fn command_does_not_retry_a_server_that_it_cannot_use() {
    let pki = Pki::new();
    let required = format!("--tls-client-ca={}", pki.flag("authority.pem"));
    let server = pki.program(&[&required]).await;
    let authority = pki.flag("authority.pem");
    let as_plain = server.url.replace("https", "http");
    for (address, flags) in [
        (&server.url, &[][..]),
        (&server.url, &["--ca", &authority]),
        (&as_plain, &[]),
    ] {
        let run = muxs(address).args(flags).args(["stat", "a"]).assert();
        let stderr = String::from_utf8(run.code(78).get_output().stderr.clone()).unwrap();
        assert!(!stderr.contains("retrying"), "{stderr}");
        assert!(!stderr.contains("gave up"), "{stderr}");
    }
}
