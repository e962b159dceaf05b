//! What a token says, and whether that holds.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde::{
    Deserialize,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{AuthSettings, Scope, ScopeNames, keys::KeySet};
use crate::{files, server::wait::after};

/// The longest token, in bytes.
const LONGEST: usize = 8 * 1024;

/// How far the issuer's clock may be from ours.
const LEEWAY: Duration = Duration::from_secs(30);

/// The last second of the year 9999. Who says a later one means something else than a time.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// What tokens have to be.
#[derive(Debug)]
pub(in crate::server) struct Expected {
    issuer: String,
    audience: String,
    token_type: String,
    scopes: ScopeNames,
    folder_claim: Option<String>,
}

/// Who calls, by a token that was found good.
#[derive(Debug)]
pub(in crate::server) struct Caller {
    /// For the log.
    pub(in crate::server) subject: Arc<str>,
    pub(in crate::server) files: files::Principal,
    scopes: [bool; 3],
    /// When the token is good no longer.
    pub(in crate::server) until: Instant,
}

/// Why a token is no good. For the log: whoever sent it is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Flaw {
    /// There is none, or more than one, or it is of another scheme.
    Missing,
    TooLong,
    Malformed,
    Algorithm,
    Type,
    /// Who signed it is not known, and the keys have just been read.
    UnknownKey,
    Signature,
    Issuer,
    Audience,
    Expired,
    NotYet,
    /// A claim is missing, or not what it should be.
    Claims,
}

/// All that a token says, each thing once: which of two holds would be for the reader to choose.
struct Said(Map<String, Value>);

/// What of it is the same in all tokens.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    sub: String,
    exp: f64,
    iat: f64,
    /// Most issuers leave it out: it would say the same as `iat`. `null` is no time.
    #[serde(default, deserialize_with = "there")]
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

impl Expected {
    pub(super) fn new(settings: AuthSettings) -> Self {
        Self {
            issuer: settings.issuer,
            audience: settings.audience,
            token_type: settings.token_type,
            scopes: settings.scopes,
            folder_claim: settings.folder_claim,
        }
    }

    /// The name of a scope.
    pub(in crate::server) fn name(&self, scope: Scope) -> &str {
        match scope {
            Scope::Greeter => &self.scopes.greeter,
            Scope::Read => &self.scopes.read,
            Scope::Write => &self.scopes.write,
        }
    }

    /// Who calls with `token`.
    pub(super) fn check(&self, token: &str, keys: &KeySet) -> Result<Caller, Flaw> {
        let header = self.header(token)?;
        let id = header.kid.as_deref();
        if id.is_some_and(|id| !keys.has(id)) {
            return Err(Flaw::UnknownKey);
        }
        let validation = self.validation(header.alg);
        let mut flaw = Flaw::Algorithm;
        for key in keys.candidates(id, header.alg) {
            match decode::<Said>(token, key, &validation) {
                Ok(token) => return self.caller(token.claims, SystemTime::now()),
                Err(error) => flaw = error.into_kind().into(),
            }
        }
        Err(flaw)
    }

    /// What the token says of itself. Of that, only the algorithm and the name of the key are used,
    /// to choose from what there is here.
    fn header(&self, token: &str) -> Result<Header, Flaw> {
        if token.len() > LONGEST {
            return Err(Flaw::TooLong);
        }
        if token.bytes().filter(|byte| *byte == b'.').count() != 2 {
            return Err(Flaw::Malformed);
        }
        let header = decode_header(token).map_err(|_| Flaw::Malformed)?;
        // What it says is critical is not understood here, whatever it is; nor are claims that are
        // compressed, encrypted, or signed as they are.
        let differs = header.zip.is_some() || header.enc.is_some();
        if differs || header.crit.is_some() || header.extras.inner().contains_key("b64") {
            return Err(Flaw::Malformed);
        }
        // RFC 9068 4: with or without the prefix of a media type, in upper or lower case.
        let kind = header.typ.as_deref().ok_or(Flaw::Type)?;
        let kind = strip_prefix_ignoring_case(kind, "application/").unwrap_or(kind);
        match kind.eq_ignore_ascii_case(&self.token_type) {
            true => Ok(header),
            false => Err(Flaw::Type),
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

    /// What the library leaves open: the types of the claims, `iat`, and what exactly is over at
    /// the edge of the leeway.
    fn caller(&self, said: Said, now: SystemTime) -> Result<Caller, Flaw> {
        let folder = self.folder(&said)?;
        let claims = Claims::deserialize(Value::Object(said.0)).map_err(|_| Flaw::Claims)?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_err(|_| Flaw::NotYet)?.as_secs_f64();
        let leeway = LEEWAY.as_secs_f64();
        let is_time = |time: f64| (0.0..=LAST_SECOND).contains(&time);
        let nbf = claims.nbf.unwrap_or(claims.iat);
        if ![claims.exp, claims.iat, nbf].into_iter().all(is_time) {
            return Err(Flaw::Claims);
        }
        if claims.iss != self.issuer {
            return Err(Flaw::Issuer);
        }
        let is_for_us = match &claims.aud {
            Audience::One(audience) => *audience == self.audience,
            Audience::Several(audiences) => audiences.contains(&self.audience),
        };
        if !is_for_us {
            return Err(Flaw::Audience);
        }
        if claims.exp + leeway <= now {
            return Err(Flaw::Expired);
        }
        if nbf.max(claims.iat) - leeway > now {
            return Err(Flaw::NotYet);
        }
        if claims.sub.is_empty() {
            return Err(Flaw::Claims);
        }
        let rest = Duration::from_secs_f64(claims.exp + leeway - now);
        Ok(Caller {
            scopes: self.scopes(&claims.scope),
            files: files::Principal {
                owner: Some(claims.sub.clone()),
                folder,
            },
            subject: claims.sub.into(),
            until: after(rest),
        })
    }

    fn scopes(&self, scope: &str) -> [bool; 3] {
        [Scope::Greeter, Scope::Read, Scope::Write]
            .map(|wanted| scope.split(' ').any(|given| given == self.name(wanted)))
    }

    /// The folder that the caller is restricted to. What is no folder restricts to nothing.
    fn folder(&self, said: &Said) -> Result<Option<files::FilePath>, Flaw> {
        let claim = self.folder_claim.as_ref();
        match claim.and_then(|claim| said.0.get(claim)) {
            None => Ok(None),
            Some(Value::String(folder)) => {
                files::folder(folder).map(Some).map_err(|_| Flaw::Claims)
            }
            Some(_) => Err(Flaw::Claims),
        }
    }
}

impl Caller {
    pub(in crate::server) fn may(&self, scope: Scope) -> bool {
        self.scopes[scope as usize]
    }
}

impl From<jsonwebtoken::errors::ErrorKind> for Flaw {
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

impl<'de> Deserialize<'de> for Said {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EachOnce)
    }
}

struct EachOnce;

impl<'de> Visitor<'de> for EachOnce {
    type Value = Said;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut claims: A) -> Result<Said, A::Error> {
        let mut said = Map::new();
        while let Some((name, value)) = claims.next_entry()? {
            if said.insert(name, value).is_some() {
                return Err(A::Error::custom("a claim is there twice"));
            }
        }
        Ok(Said(said))
    }
}

/// A value that is there, whatever else it may be.
fn there<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    f64::deserialize(deserializer).map(Some)
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}
