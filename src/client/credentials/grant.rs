//! The client credentials grant (RFC 6749 4.4), with the token endpoint found by OpenID discovery.

use std::{fmt, time::Duration};

use reqwest::{StatusCode, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    error::TokenError,
    token::{InvalidTokenText, Token},
};
use crate::oauth::{self, HttpClient, HttpReply};

/// The error codes of RFC 6749 5.2 and RFC 8707. An error message repeats no others, because they may
/// contain what was sent.
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

/// A client registered with an authorization server, and the token to request for it.
#[derive(Clone)]
pub struct ClientCredentials {
    /// The authorization server, such as `https://issuer.example.com/realm`.
    ///
    /// Spelled exactly as in its metadata, at `/.well-known/openid-configuration`, which names the token
    /// endpoint. Both must be https, or on a loopback host.
    pub issuer: String,
    /// The client's id.
    pub client_id: String,
    /// The client's secret, sent by HTTP Basic authentication.
    pub client_secret: String,
    /// The scopes to request, separated by spaces. `None`: the issuer chooses.
    pub scope: Option<String>,
    /// The server that the token is for. Sent as `audience`, which many issuers understand, and also as RFC
    /// 8707's `resource` if it is an absolute URI.
    pub audience: Option<String>,
}

/// Shows everything but the secret.
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

    /// Requests a token. The token endpoint is discovered each time, because it may change, and the cost is
    /// small compared with the lifetime of a token.
    pub(super) async fn request_token(&self) -> Result<Token, TokenError> {
        let metadata = self.http.discover(&self.client.issuer).await?;
        let endpoint = metadata.token_endpoint()?;
        let client = (&*self.client.client_id, &*self.client.client_secret);
        let requested_at = Instant::now();
        let reply = self.http.post(&endpoint, client, &self.form()).await?;
        if reply.status != StatusCode::OK {
            return Err(parse_error_response(&endpoint, &reply));
        }
        parse_token_response(&reply, requested_at).map_err(|expected| {
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

/// Whether `audience` is a resource indicator (RFC 8707): an absolute URI without a fragment.
fn is_resource(audience: &str) -> bool {
    Url::parse(audience).is_ok_and(|uri| uri.fragment().is_none())
}

/// A successful response (RFC 6749 5.1).
#[derive(Deserialize)]
struct TokenResponse {
    access_token: String,
    token_type: String,
    expires_in: Option<Seconds>,
}

/// A number of seconds. Some issuers send it as a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Digits(String),
}

fn parse_token_response(reply: &HttpReply, requested_at: Instant) -> Result<Token, &'static str> {
    let response: TokenResponse =
        serde_json::from_slice(&reply.body).map_err(|_| "a token and its type")?;
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
    let lifetime = Duration::try_from_secs_f64(seconds).map_err(|_| "a number of seconds")?;
    Ok(token.expires_in(lifetime, requested_at))
}

fn parse_error_response(endpoint: &Url, reply: &HttpReply) -> TokenError {
    /// RFC 6749 5.2.
    #[derive(Deserialize)]
    struct ErrorResponse {
        error: String,
    }
    let url = oauth::redact(endpoint);
    let status = reply.status;
    let code = serde_json::from_slice::<ErrorResponse>(&reply.body)
        .ok()
        .and_then(|response| ERROR_CODES.into_iter().find(|code| *code == response.error));
    let is_transient = is_transient(status) || code == Some("temporarily_unavailable");
    let message = match code {
        Some(code) => format!("{url} answered {status}: {code}"),
        None => format!("{url} answered {status}"),
    };
    match is_transient {
        true => TokenError::Unreachable(message),
        false => TokenError::Refused(message),
    }
}

/// Whether a response status suggests that a retry may succeed.
fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

impl From<oauth::Error> for TokenError {
    fn from(error: oauth::Error) -> Self {
        let is_transient = match error {
            oauth::Error::Unreachable { .. } => true,
            oauth::Error::Status { status, .. } => is_transient(status),
            _ => false,
        };
        match is_transient {
            true => Self::Unreachable(error.to_string()),
            false => Self::Refused(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_uri_without_fragment_is_a_resource() {
        for uri in ["https://files.example.com", "urn:files", "api://files/x?y"] {
            assert!(is_resource(uri), "{uri}");
        }
        for name in ["files", "files.example.com", "/files", "https://a/b#c", ""] {
            assert!(!is_resource(name), "{name}");
        }
    }
}
