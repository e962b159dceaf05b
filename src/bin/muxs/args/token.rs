//! Where the access token comes from.

use std::{env, fs, path::PathBuf};

use anyhow::Context;
use muxs::client::{ClientCredentials, Credentials};

/// The variable with the token. There is no flag for it: everybody on the machine can read a command line.
const TOKEN: &str = "MUXS_TOKEN";

/// The variable with the secret of `--client-id`.
const SECRET: &str = "MUXS_CLIENT_SECRET";

const HEADING: &str = "Access tokens, for a server that requires them";

#[derive(clap::Args)]
pub(crate) struct TokenArgs {
    /// Send the access token in this file, which is read again for each call. Without this flag and the next two,
    /// the token in the environment's MUXS_TOKEN is sent, if there is one
    #[arg(long, value_name = "FILE", help_heading = HEADING, global = true)]
    #[arg(hide_short_help = true, conflicts_with_all = ["token_command", "issuer"])]
    token_file: Option<PathBuf>,

    /// Send the access token that this command prints; sh runs it, and again when the token expires or is refused
    #[arg(long, value_name = "COMMAND", help_heading = HEADING, global = true)]
    #[arg(hide_short_help = true, conflicts_with = "issuer")]
    token_command: Option<String>,

    /// Request access tokens from this authorization server, such as https://issuer.example.com, by the client
    /// credentials grant
    #[arg(long, value_name = "URL", help_heading = HEADING, global = true)]
    #[arg(hide_short_help = true, requires = "client_id")]
    pub(crate) issuer: Option<String>,

    /// This client's id at the issuer; its secret is in --client-secret-file or in the environment's
    /// MUXS_CLIENT_SECRET
    #[arg(long, value_name = "ID", help_heading = HEADING, global = true)]
    #[arg(hide_short_help = true, requires = "issuer")]
    client_id: Option<String>,

    /// The file with the secret of the client
    #[arg(long, value_name = "FILE", help_heading = HEADING, global = true)]
    #[arg(hide_short_help = true, requires = "issuer")]
    client_secret_file: Option<PathBuf>,

    /// The scopes to request, separated by spaces, such as "files.read files.write" [default: the issuer chooses]
    #[arg(long, value_name = "SCOPES", help_heading = HEADING, global = true)]
    #[arg(hide_short_help = true, requires = "issuer")]
    scope: Option<String>,

    /// The server that the token is for, as the issuer names it
    #[arg(long, value_name = "NAME", help_heading = HEADING, global = true)]
    #[arg(hide_short_help = true, requires = "issuer")]
    token_audience: Option<String>,
}

impl TokenArgs {
    /// Returns where tokens come from, `None` if none are sent.
    pub(crate) fn credentials(&self) -> anyhow::Result<Option<Credentials>> {
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
        // Editors end a file with a line feed.
        let secret = secret.trim_end_matches(['\r', '\n']);
        anyhow::ensure!(
            !secret.is_empty(),
            "there is no secret in {}",
            path.display()
        );
        Ok(secret.to_owned())
    }
}

/// Returns the value of a variable, `None` if it is empty.
fn from_environment(name: &str) -> anyhow::Result<Option<String>> {
    match env::var_os(name).filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => match value.into_string() {
            Ok(value) => Ok(Some(value)),
            Err(_) => anyhow::bail!("{name} is not text"),
        },
    }
}
