//! The flags for access tokens and reflection.

use clap::{Args as Flags, ValueEnum};
use humantime::Duration;
use muxs::{
    app::ScopeNames,
    server::{Auth, AuthError, AuthSettings, KeySource, Reflection},
};

#[derive(Debug, Flags)]
#[command(next_help_heading = "Access tokens")]
pub(crate) struct AuthArgs {
    /// Let in only who has an access token of this authorization server, named as its tokens name it
    #[arg(
        long,
        value_name = "URL",
        env = "MUXS_AUTH_ISSUER",
        requires = "auth_audience"
    )]
    auth_issuer: Option<String>,

    /// What a token has to be for (aud): a name for this server that the issuer knows
    #[arg(
        long,
        value_name = "NAME",
        env = "MUXS_AUTH_AUDIENCE",
        requires = "auth_issuer"
    )]
    auth_audience: Option<String>,

    /// The keys of the issuer, a JWK set [default: where the issuer says, by OpenID discovery]
    #[arg(
        long,
        value_name = "FILE|URL",
        env = "MUXS_AUTH_JWKS",
        requires = "auth_issuer"
    )]
    auth_jwks: Option<String>,

    /// Algorithms that a token may be signed with
    #[arg(
        long,
        value_name = "NAMES",
        env = "MUXS_AUTH_ALGORITHMS",
        default_value = "RS256,ES256,EdDSA",
        value_delimiter = ','
    )]
    auth_algorithms: Vec<String>,

    /// The type that a token has to say it is of; some issuers say JWT
    #[arg(
        long,
        value_name = "TYPE",
        env = "MUXS_AUTH_TOKEN_TYPE",
        default_value = "at+jwt"
    )]
    auth_token_type: String,

    /// The scope that greetings need
    #[arg(
        long,
        value_name = "SCOPE",
        env = "MUXS_AUTH_SCOPE_GREETER",
        default_value = "greeter"
    )]
    auth_scope_greeter: String,

    /// The scope that it needs to read files
    #[arg(
        long,
        value_name = "SCOPE",
        env = "MUXS_AUTH_SCOPE_READ",
        default_value = "files.read"
    )]
    auth_scope_read: String,

    /// The scope that it needs to write files
    #[arg(
        long,
        value_name = "SCOPE",
        env = "MUXS_AUTH_SCOPE_WRITE",
        default_value = "files.write"
    )]
    auth_scope_write: String,

    /// A claim with the folder below the root that its caller is restricted to; a token without it
    /// is good for all of the root [default: none]
    #[arg(long, value_name = "CLAIM", env = "MUXS_AUTH_FOLDER_CLAIM")]
    auth_folder_claim: Option<String>,

    /// How often the keys of the issuer are read again
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_AUTH_REFRESH",
        default_value = "5m"
    )]
    auth_refresh: Duration,

    /// How long the last keys are believed in while they cannot be read again
    #[arg(
        long,
        value_name = "DURATION",
        env = "MUXS_AUTH_KEYS_MAX_AGE",
        default_value = "1h"
    )]
    auth_keys_max_age: Duration,

    /// Who may ask what is served, by gRPC reflection
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
    /// Everybody
    Public,
    /// Who has an access token
    Authenticated,
    /// Nobody
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
            refresh: self.auth_refresh.into(),
            keys_max_age: self.auth_keys_max_age.into(),
            ..AuthSettings::new(issuer, audience)
        };
        Auth::load(settings).map(Some)
    }

    pub(crate) fn scopes(&self) -> Result<ScopeNames, AuthError> {
        Ok(ScopeNames {
            greeter: self.auth_scope_greeter.parse()?,
            read: self.auth_scope_read.parse()?,
            write: self.auth_scope_write.parse()?,
        })
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
