//! Checks one access token.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::Extensions;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde::{
    Deserialize,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{
    jwks::Jwks,
    settings::{AuthSettings, Scope},
};
use crate::server::timer::deadline_after;

const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The accepted difference between the issuer's clock and this server's.
const LEEWAY: Duration = Duration::from_secs(30);

/// The last second of the year 9999. A later value is not a time in seconds, but probably in milliseconds.
const MAX_TIME: f64 = 253_402_300_799.0;

/// Checks tokens against the settings.
#[derive(Clone, Debug)]
pub(super) struct TokenValidator {
    issuer: String,
    audience: String,
    token_type: String,
    claims_hook: Option<ClaimsHook>,
}

/// The caller of a method, as a valid access token identifies it.
///
/// A handler finds it in its request: `request.extensions().get::<Arc<Identity>>()`.
#[derive(Debug)]
pub struct Identity {
    subject: Arc<str>,
    scope: String,
    expires_at: Instant,
    extensions: Extensions,
}

/// The claims of a valid token by name.
#[derive(Debug)]
pub struct Claims(Map<String, Value>);

/// A function that reads further claims of each token whose signature, issuer, audience and times are valid. The
/// values that it returns are added to the extensions of the token's requests, for handlers to use.
///
/// The result is cached for each worker thread until the keys are refreshed. The function must not block.
#[derive(Clone)]
pub struct ClaimsHook(Arc<Hook>);

type Hook = dyn Fn(&Claims) -> Result<Extensions, InvalidClaims> + Send + Sync;

/// A claim has an unusable value: the token is treated as invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidClaims;

/// Why a token is invalid. For the log: the client gets the same status for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum InvalidToken {
    /// No token, more than one, or another scheme.
    Missing,
    TooLong,
    Malformed,
    Algorithm,
    Type,
    /// The key is unknown, and the keys were refreshed recently.
    UnknownKey,
    Signature,
    Issuer,
    Audience,
    Expired,
    NotYet,
    /// A claim is missing or has a wrong type or value.
    Claims,
}

/// The claims that the server reads itself.
#[derive(Deserialize)]
struct RegisteredClaims {
    iss: String,
    aud: Audience,
    sub: String,
    exp: f64,
    iat: f64,
    /// Most issuers leave it out, since it would equal `iat`. `null` is invalid.
    #[serde(default, deserialize_with = "present")]
    nbf: Option<f64>,
    #[serde(default)]
    scope: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl TokenValidator {
    pub(super) fn new(settings: AuthSettings) -> Self {
        Self {
            issuer: settings.issuer,
            audience: settings.audience,
            token_type: settings.token_type,
            claims_hook: None,
        }
    }

    pub(super) fn with_claims_hook(&self, hook: ClaimsHook) -> Self {
        Self {
            claims_hook: Some(hook),
            ..self.clone()
        }
    }

    /// Returns the identity that a valid token proves.
    pub(super) fn validate(&self, token: &str, keys: &Jwks) -> Result<Identity, InvalidToken> {
        let header = self.header(token)?;
        let id = header.kid.as_deref();
        if id.is_some_and(|id| !keys.contains(id)) {
            return Err(InvalidToken::UnknownKey);
        }
        let validation = self.validation(header.alg);
        let mut invalid = InvalidToken::Algorithm;
        for key in keys.candidates(id, header.alg) {
            match decode::<Claims>(token, key, &validation) {
                Ok(token) => return self.identity(token.claims, SystemTime::now()),
                Err(error) => invalid = error.into_kind().into(),
            }
        }
        Err(invalid)
    }

    /// Parses the token's header. Only its algorithm and key id are used, to select among the keys here.
    fn header(&self, token: &str) -> Result<Header, InvalidToken> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(InvalidToken::TooLong);
        }
        if token.bytes().filter(|byte| *byte == b'.').count() != 2 {
            return Err(InvalidToken::Malformed);
        }
        let header = decode_header(token).map_err(|_| InvalidToken::Malformed)?;
        // No critical extensions are supported, nor compressed, encrypted or unencoded payloads.
        let is_transformed = header.zip.is_some() || header.enc.is_some();
        if is_transformed || header.crit.is_some() || header.extras.inner().contains_key("b64") {
            return Err(InvalidToken::Malformed);
        }
        // RFC 9068 4: with or without the prefix of a media type, in upper or lower case.
        let token_type = header.typ.as_deref().ok_or(InvalidToken::Type)?;
        let token_type =
            strip_prefix_ignoring_case(token_type, "application/").unwrap_or(token_type);
        match token_type.eq_ignore_ascii_case(&self.token_type) {
            true => Ok(header),
            false => Err(InvalidToken::Type),
        }
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation
    }

    /// Checks what jsonwebtoken does not: the types of the claims, `iat`, and the exact end of the leeway.
    fn identity(&self, claims: Claims, now: SystemTime) -> Result<Identity, InvalidToken> {
        let all = &claims;
        let claims = RegisteredClaims::deserialize(&claims.0).map_err(|_| InvalidToken::Claims)?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_err(|_| InvalidToken::NotYet)?.as_secs_f64();
        let leeway = LEEWAY.as_secs_f64();
        let is_time = |time: f64| (0.0..=MAX_TIME).contains(&time);
        let nbf = claims.nbf.unwrap_or(claims.iat);
        if ![claims.exp, claims.iat, nbf].into_iter().all(is_time) {
            return Err(InvalidToken::Claims);
        }
        if claims.iss != self.issuer {
            return Err(InvalidToken::Issuer);
        }
        let is_audience = match &claims.aud {
            Audience::One(audience) => *audience == self.audience,
            Audience::Several(audiences) => audiences.contains(&self.audience),
        };
        if !is_audience {
            return Err(InvalidToken::Audience);
        }
        if claims.exp + leeway <= now {
            return Err(InvalidToken::Expired);
        }
        if nbf.max(claims.iat) - leeway > now {
            return Err(InvalidToken::NotYet);
        }
        if claims.sub.is_empty() {
            return Err(InvalidToken::Claims);
        }
        let lifetime = Duration::from_secs_f64(claims.exp + leeway - now);
        let extensions = match &self.claims_hook {
            Some(hook) => hook.call(all)?,
            None => Extensions::new(),
        };
        Ok(Identity {
            subject: claims.sub.into(),
            scope: claims.scope,
            expires_at: deadline_after(lifetime),
            extensions,
        })
    }
}

impl Identity {
    /// The claim `sub`.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Whether the claim `scope` contains a scope.
    pub fn has_scope(&self, scope: &Scope) -> bool {
        self.scope.split(' ').any(|name| name == scope.as_str())
    }

    /// When the token expires, and with it the calls that carry it. The accepted difference of clocks is
    /// included.
    pub(in crate::server) fn expires_at(&self) -> Instant {
        self.expires_at
    }

    /// Adds the identity, and what the claims hook returned, to the extensions of a request.
    pub(in crate::server) fn attach_to(self: &Arc<Self>, extensions: &mut Extensions) {
        extensions.extend(self.extensions.clone());
        extensions.insert(Arc::clone(self));
    }
}

impl Claims {
    /// The value of a claim.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}

impl ClaimsHook {
    /// A hook that calls `hook`.
    pub fn new(
        hook: impl Fn(&Claims) -> Result<Extensions, InvalidClaims> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(hook))
    }

    /// A panic of the hook makes the token invalid, and does not end the connection.
    fn call(&self, claims: &Claims) -> Result<Extensions, InvalidToken> {
        let result = catch_unwind(AssertUnwindSafe(|| (self.0)(claims)));
        result
            .unwrap_or(Err(InvalidClaims))
            .map_err(|InvalidClaims| InvalidToken::Claims)
    }
}

impl fmt::Debug for ClaimsHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimsHook").finish_non_exhaustive()
    }
}

impl From<jsonwebtoken::errors::ErrorKind> for InvalidToken {
    fn from(kind: jsonwebtoken::errors::ErrorKind) -> Self {
        use jsonwebtoken::errors::ErrorKind;
        match kind {
            ErrorKind::InvalidSignature => Self::Signature,
            ErrorKind::InvalidAlgorithm => Self::Algorithm,
            ErrorKind::InvalidIssuer => Self::Issuer,
            ErrorKind::InvalidAudience => Self::Audience,
            ErrorKind::ExpiredSignature => Self::Expired,
            ErrorKind::ImmatureSignature => Self::NotYet,
            ErrorKind::Base64(_) | ErrorKind::InvalidToken => Self::Malformed,
            _ => Self::Claims,
        }
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueKeys)
    }
}

/// Refuses a claim that is there twice: readers disagree about which one counts.
struct UniqueKeys;

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Claims, A::Error> {
        let mut claims = Map::new();
        while let Some((name, value)) = entries.next_entry()? {
            if claims.insert(name, value).is_some() {
                return Err(A::Error::custom("duplicate claim"));
            }
        }
        Ok(Claims(claims))
    }
}

/// Deserializes a field that is present, so that `null` is not taken for a missing one.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    f64::deserialize(deserializer).map(Some)
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}
