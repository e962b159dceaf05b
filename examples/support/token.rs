//! Which token an example shows to a server that wants one.

use std::{
    env, fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Context;
use muxs::client::{ClientCredentials, Credentials};

/// The token itself. Not a flag: what stands in a command line, everybody on the machine can read.
const TOKEN: &str = "MUXS_TOKEN";

/// The password of `--client-id`, likewise.
const SECRET: &str = "MUXS_CLIENT_SECRET";

/// In the help of an example.
const HEADING: &str = "Access tokens, for a server that wants one";

pub(crate) const ADVICE: &str = " The server wants an access token, and none was given: \
    --token-file, MUXS_TOKEN, --token-command, or --issuer with --client-id give one.";

/// Whether there is a token to show, for those who tell how it went.
static IS_GIVEN: AtomicBool = AtomicBool::new(false);

pub(super) fn is_given() -> bool {
    IS_GIVEN.load(Ordering::Relaxed)
}

// Not a doc comment, which would become the help of the example.
// Where the token comes from.
#[derive(clap::Args)]
pub(super) struct TokenArgs {
    /// Show the server the access token in this file, which is read again for each token that is
    /// needed; without this and the next two, the one in the environment's MUXS_TOKEN, if any
    #[arg(long, value_name = "FILE", help_heading = HEADING, global = true)]
    #[arg(conflicts_with_all = ["token_command", "issuer"])]
    token_file: Option<PathBuf>,

    /// Show the server the access token that this command prints; it is run by sh, and again when
    /// the token expires or is refused
    #[arg(long, value_name = "COMMAND", help_heading = HEADING, global = true)]
    #[arg(conflicts_with = "issuer")]
    token_command: Option<String>,

    /// Get access tokens from this authorization server, such as https://issuer.example.com, by the
    /// grant of client credentials
    #[arg(long, value_name = "URL", help_heading = HEADING, global = true)]
    #[arg(requires = "client_id")]
    issuer: Option<String>,

    /// The client to be at the issuer; its secret is in --client-secret-file or in the
    /// environment's MUXS_CLIENT_SECRET
    #[arg(long, value_name = "ID", help_heading = HEADING, global = true)]
    #[arg(requires = "issuer")]
    client_id: Option<String>,

    /// The file with the secret of the client
    #[arg(long, value_name = "FILE", help_heading = HEADING, global = true)]
    #[arg(requires = "issuer")]
    client_secret_file: Option<PathBuf>,

    /// What to ask the issuer for, with spaces between, such as "files.read files.write" [default:
    /// what the issuer chooses]
    #[arg(long, value_name = "SCOPES", help_heading = HEADING, global = true)]
    #[arg(requires = "issuer")]
    scope: Option<String>,

    /// The server that the token shall be for, as the issuer calls it
    #[arg(long, value_name = "NAME", help_heading = HEADING, global = true)]
    #[arg(requires = "issuer")]
    token_audience: Option<String>,
}

impl TokenArgs {
    /// None if the server is not to be shown any.
    pub(super) fn credentials(&self) -> anyhow::Result<Option<Credentials>> {
        let credentials = self.find()?;
        IS_GIVEN.store(credentials.is_some(), Ordering::Relaxed);
        Ok(credentials)
    }

    fn find(&self) -> anyhow::Result<Option<Credentials>> {
        if let Some(path) = &self.token_file {
            return Ok(Some(Credentials::file(path)));
        }
        if let Some(command) = &self.token_command {
            return Ok(Some(Credentials::command(command)));
        }
        let (Some(issuer), Some(client_id)) = (&self.issuer, &self.client_id) else {
            return Ok(from_environment(TOKEN)?.map(Credentials::token));
        };
        let client = ClientCredentials {
            issuer: issuer.clone(),
            client_id: client_id.clone(),
            client_secret: self.secret()?,
            scope: self.scope.clone(),
            audience: self.token_audience.clone(),
        };
        Ok(Some(Credentials::client_credentials(client)))
    }

    fn secret(&self) -> anyhow::Result<String> {
        let Some(path) = &self.client_secret_file else {
            return from_environment(SECRET)?.with_context(|| {
                format!("--client-id needs a secret: in --client-secret-file or in {SECRET}")
            });
        };
        let secret = fs::read_to_string(path)
            .with_context(|| format!("cannot read the secret in {}", path.display()))?;
        // Editors end what they write with a line.
        let secret = secret.trim_end_matches(['\r', '\n']);
        anyhow::ensure!(
            !secret.is_empty(),
            "there is no secret in {}",
            path.display()
        );
        Ok(secret.to_owned())
    }
}

/// A variable that is empty is as good as none.
fn from_environment(name: &str) -> anyhow::Result<Option<String>> {
    match env::var_os(name).filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => match value.into_string() {
            Ok(value) => Ok(Some(value)),
            Err(_) => anyhow::bail!("{name} is not text"),
        },
    }
}
