//! The client credentials grant: RFC 6749 4.4, at an issuer that is found by OpenID discovery.

use std::{fmt, time::Duration};

use reqwest::{StatusCode, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    error::TokenError,
    token::{InvalidTokenText, Token},
};
use crate::oauth::{self, HttpClient, HttpReply};

/// What an issuer may say of a request it refuses, by RFC 6749 5.2 and RFC 8707. Other words are not
/// told on: they may be what was sent.
const ERROR_CODES: [&str; 9] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "access_denied",
    "temporarily_unavailable",
];

/// A client that an authorization server knows, and what it asks for.
#[derive(Clone)]
pub struct ClientCredentials {
    /// The authorization server, such as `https://issuer.example.com/realm`: exactly as it spells
    /// itself. Its token endpoint is what its `/.well-known/openid-configuration` names. All of it
    /// has to be https, or on a loopback host.
    pub issuer: String,
    /// The client's name there.
    pub client_id: String,
    /// Its password, sent by HTTP Basic.
    pub client_secret: String,
    /// What the token shall allow, as words with spaces between them; what the issuer chooses if
    /// none.
    pub scope: Option<String>,
    /// Which server the token shall be for. Sent as `audience`, which many issuers understand, and
    /// also as RFC 8707's `resource` where it is an absolute URI.
    pub audience: Option<String>,
}

/// Without the secret.
impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentials")
            .field("issuer", &self.issuer)
            .field("client_id", &self.client_id)
            .field("scope", &self.scope)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

pub(super) struct ClientCredentialsGrant {
    client: ClientCredentials,
    http: HttpClient,
}

impl ClientCredentialsGrant {
    pub(super) fn new(client: ClientCredentials) -> Self {
        let http = HttpClient::default();
        Self { client, http }
    }

    pub(super) fn client(&self) -> &ClientCredentials {
        &self.client
    }

    /// Asks for a token. Where to ask is asked each time: next to the life of a token it is nothing,
    /// and issuers move.
    pub(super) async fn request_token(&self) -> Result<Token, TokenError> {
        let configuration = self.http.discover(&self.client.issuer).await?;
        let endpoint = configuration.token_endpoint()?;
        let client = (&*self.client.client_id, &*self.client.client_secret);
        let asked = Instant::now();
        let answer = self.http.post(&endpoint, client, &self.form()).await?;
        if answer.status != StatusCode::OK {
            return Err(token_error(&endpoint, &answer));
        }
        parse_token_response(&answer, asked).map_err(|expected| {
            let url = oauth::redact(&endpoint);
            oauth::Error::Malformed { url, expected }.into()
        })
    }

    fn form(&self) -> Vec<(&str, &str)> {
        let mut form = vec![("grant_type", "client_credentials")];
        if let Some(scope) = &self.client.scope {
            form.push(("scope", scope));
        }
        if let Some(audience) = &self.client.audience {
            form.push(("audience", audience));
            if is_resource(audience) {
                form.push(("resource", audience));
            }
        }
        form
    }
}

/// RFC 8707: an absolute URI without a fragment.
fn is_resource(audience: &str) -> bool {
    Url::parse(audience).is_ok_and(|uri| uri.fragment().is_none())
}

/// What RFC 6749 5.1 says of a token.
#[derive(Deserialize)]
struct TokenResponse {
    access_token: String,
    token_type: String,
    expires_in: Option<Seconds>,
}

/// A number, or what some issuers have instead: its digits as a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Digits(String),
}

fn parse_token_response(answer: &HttpReply, asked: Instant) -> Result<Token, &'static str> {
    let response: TokenResponse =
        serde_json::from_slice(&answer.body).map_err(|_| "a token and its type")?;
    if !response.token_type.eq_ignore_ascii_case("bearer") {
        return Err("a bearer token");
    }
    let token = Token::parse(response.access_token.as_bytes())
        .map_err(|InvalidTokenText| "a token of visible ASCII that is not too long")?;
    let seconds = match response.expires_in {
        None => return Ok(token.expiry_from_jwt()),
        Some(Seconds::Number(seconds)) => seconds,
        Some(Seconds::Digits(digits)) => digits.parse().map_err(|_| "a number of seconds")?,
    };
    let left = Duration::try_from_secs_f64(seconds).map_err(|_| "a number of seconds")?;
    Ok(token.expires_in(left, asked))
}

fn token_error(endpoint: &Url, answer: &HttpReply) -> TokenError {
    #[derive(Deserialize)]
    struct ErrorResponse {
        error: String,
    }
    let url = oauth::redact(endpoint);
    let status = answer.status;
    let word = serde_json::from_slice::<ErrorResponse>(&answer.body)
        .ok()
        .and_then(|response| ERROR_CODES.into_iter().find(|word| *word == response.error));
    let is_transient = oauth::is_transient(status) || word == Some("temporarily_unavailable");
    let told = match word {
        Some(word) => format!("{url} answered {status}: {word}"),
        None => format!("{url} answered {status}"),
    };
    match is_transient {
        true => TokenError::Unreachable(told),
        false => TokenError::Refused(told),
    }
}

impl From<oauth::Error> for TokenError {
    fn from(error: oauth::Error) -> Self {
        match error.is_transient() {
            true => Self::Unreachable(error.to_string()),
            false => Self::Refused(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audience_that_is_a_uri_is_a_resource_too() {
        for uri in ["https://files.example.com", "urn:files", "api://files/x?y"] {
            assert!(is_resource(uri), "{uri}");
        }
        for name in ["files", "files.example.com", "/files", "https://a/b#c", ""] {
            assert!(!is_resource(name), "{name}");
        }
    }
}
