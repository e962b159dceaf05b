//! The flags for access tokens and reflection.

use std::time::Duration;

use clap::{Args as Flags, ValueEnum};
use muxs::{
    app::ScopeNames,
    server::{Auth, AuthError, AuthSettings, KeySource, Reflection, Scope},
};

use super::values::parse_nonzero_duration;

#[derive(Debug, Flags)]
#[command(next_help_heading = "Access tokens")]
pub(crate) struct AuthArgs {
    /// Require an access token from this authorization server, spelled as in the tokens' claim `iss`
    /// [default: none]
    #[arg(
        long,
        value_name = "URL",
        env = "MUXS_AUTH_ISSUER",
        requires = "auth_audience"
    )]
    auth_issuer: Option<String>,

    /// This server's name in the tokens' claim `aud` [default: none]
    #[arg(
        long,
        value_name = "NAME",
        env = "MUXS_AUTH_AUDIENCE",
        requires = "auth_issuer"
    )]
    auth_audience: Option<String>,

    /// The issuer's keys, a JWK set [default: found by OpenID discovery]
    #[arg(
        long,
        value_name = "FILE|URL",
        env = "MUXS_AUTH_JWKS",
        requires = "auth_issuer"
    )]
    auth_jwks: Option<String>,

    /// Signature algorithms that tokens may use, separated by commas
    #[arg(
        long,
        value_name = "NAMES",
        env = "MUXS_AUTH_ALGORITHMS",
        default_value = "RS256,ES256,EdDSA",
        value_delimiter = ','
    )]
    auth_algorithms: Vec<String>,

    /// Required token type (`typ`); some issuers use `JWT`
    #[arg(
        long,
        value_name = "TYPE",
        env = "MUXS_AUTH_TOKEN_TYPE",
        default_value = "at+jwt"
    )]
    auth_token_type: String,

    /// Scope that the greeters require
    #[arg(
        long,
        value_name = "SCOPE",
        env = "MUXS_AUTH_SCOPE_GREETER",
        default_value = "greeter"
    )]
    auth_scope_greeter: Scope,

    /// Scope that reading files requires
    #[arg(
        long,
        value_name = "SCOPE",
        env = "MUXS_AUTH_SCOPE_READ",
        default_value = "files.read"
    )]
    auth_scope_read: Scope,

    /// Scope that writing files requires
    #[arg(
        long,
        value_name = "SCOPE",
        env = "MUXS_AUTH_SCOPE_WRITE",
        default_value = "files.write"
    )]
    auth_scope_write: Scope,

    /// Claim that restricts a caller to a folder below the root; a token without it gives access to
    /// the whole root [default: none]
    #[arg(long, value_name = "CLAIM", env = "MUXS_AUTH_FOLDER_CLAIM")]
    auth_folder_claim: Option<String>,

    /// Fetch the issuer's keys at this interval
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_AUTH_REFRESH",
        default_value = "5m",
        value_parser = parse_nonzero_duration
    )]
    auth_refresh: Duration,

    /// Use the issuer's last keys for this time if they cannot be fetched
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_AUTH_KEYS_MAX_AGE",
        default_value = "1h",
        value_parser = parse_nonzero_duration
    )]
    auth_keys_max_age: Duration,

    /// Who may list the services and messages by gRPC reflection
    #[arg(
        long,
        value_name = "WHO",
        env = "MUXS_REFLECTION",
        default_value = "public"
    )]
    reflection: ReflectionArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ReflectionArg {
    /// Every client
    Public,
    /// Clients with an access token
    Authenticated,
    /// No client
    Off,
}

impl AuthArgs {
    /// Loads the settings for access tokens, `None` without an issuer. Blocking.
    pub(crate) fn load(&self) -> Result<Option<Auth>, AuthError> {
        let (Some(issuer), Some(audience)) = (&self.auth_issuer, &self.auth_audience) else {
            return Ok(None);
        };
        let settings = AuthSettings {
            keys: match &self.auth_jwks {
                None => KeySource::Discovery,
                Some(url) if url.contains("://") => KeySource::Url(url.clone()),
                Some(file) => KeySource::File(file.into()),
            },
            algorithms: self.auth_algorithms.clone(),
            token_type: self.auth_token_type.clone(),
            refresh: self.auth_refresh,
            keys_max_age: self.auth_keys_max_age,
            ..AuthSettings::new(issuer, audience)
        };
        Auth::load(settings).map(Some)
    }

    pub(crate) fn requires_tokens(&self) -> bool {
        self.auth_issuer.is_some()
    }

    pub(crate) fn scopes(&self) -> ScopeNames {
        ScopeNames {
            greeter: self.auth_scope_greeter.clone(),
            read: self.auth_scope_read.clone(),
            write: self.auth_scope_write.clone(),
        }
    }

    pub(crate) fn folder_claim(&self) -> Option<String> {
        self.auth_folder_claim.clone()
    }

    pub(crate) fn reflection(&self) -> Reflection {
        match self.reflection {
            ReflectionArg::Public => Reflection::Public,
            ReflectionArg::Authenticated => Reflection::Authenticated,
            ReflectionArg::Off => Reflection::Off,
        }
    }
}
