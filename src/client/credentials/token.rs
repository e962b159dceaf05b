//! One access token and its lifetime.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::HeaderValue;
use serde::Deserialize;
use tokio::time::Instant;

/// The longest token: few servers accept longer headers.
pub(super) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How long before its expiry a token is refreshed, at most a tenth of its lifetime.
const REFRESH_MARGIN: Duration = Duration::from_secs(60);

/// An access token. Its Debug output does not contain it.
#[derive(Clone, Debug)]
pub(in crate::client) struct Token {
    /// The token after its scheme, marked as sensitive.
    bearer: HeaderValue,
    /// `None` if the token is valid until a server refuses it.
    lifetime: Option<TokenLifetime>,
}

#[derive(Clone, Copy, Debug)]
struct TokenLifetime {
    refresh_at: Instant,
    expires_at: Instant,
}

/// The text is not one line of visible ASCII, or too long.
#[derive(Debug)]
pub(super) struct InvalidTokenText;

impl Token {
    pub(super) fn parse(text: &[u8]) -> Result<Self, InvalidTokenText> {
        let token = text.trim_ascii();
        let is_valid = (1..=MAX_TOKEN_BYTES).contains(&token.len())
            && token.iter().all(|byte| byte.is_ascii_graphic());
        if !is_valid {
            return Err(InvalidTokenText);
        }
        let bearer = [b"Bearer ", token].concat();
        let mut bearer = HeaderValue::from_bytes(&bearer).map_err(|_| InvalidTokenText)?;
        bearer.set_sensitive(true);
        Ok(Self {
            bearer,
            lifetime: None,
        })
    }

    /// Sets the lifetime that the issuer returned, which starts when the token was requested.
    #[cfg(feature = "client-oauth")]
    pub(super) fn expires_in(mut self, lifetime: Duration, requested_at: Instant) -> Self {
        self.lifetime = TokenLifetime::new(requested_at, lifetime, lifetime);
        self
    }

    /// Sets the lifetime from the token itself, if it is a JWT with an expiry. Its signature is not checked:
    /// the expiry only determines when the token is refreshed.
    pub(super) fn expiry_from_jwt(mut self) -> Self {
        // Assumes that this machine's clock agrees with the issuer's.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs_f64();
        self.lifetime = self.read_expiry().and_then(|claims| {
            let left = claims.exp - now;
            let total = claims.iat.map_or(left, |issued| claims.exp - issued);
            let duration = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).ok();
            TokenLifetime::new(Instant::now(), duration(left)?, duration(total)?)
        });
        self
    }

    fn read_expiry(&self) -> Option<JwtExpiry> {
        let mut parts = self.bearer.to_str().ok()?.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
        serde_json::from_slice(&payload).ok()
    }

    /// The value of the `authorization` header.
    pub(in crate::client) fn header(&self) -> HeaderValue {
        self.bearer.clone()
    }

    /// Whether another token should be requested.
    pub(super) fn needs_refresh(&self, now: Instant) -> bool {
        self.lifetime
            .is_some_and(|lifetime| lifetime.refresh_at <= now)
    }

    /// Whether the token is no longer valid.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.lifetime
            .is_some_and(|lifetime| lifetime.expires_at <= now)
    }

    /// Postpones the refresh to `until`, at most to the expiry.
    pub(super) fn postpone_refresh(&mut self, until: Instant) {
        if let Some(lifetime) = &mut self.lifetime {
            lifetime.refresh_at = until.min(lifetime.expires_at);
        }
    }
}

impl TokenLifetime {
    /// A lifetime of `total`, of which `left` remains. `None` if the clock cannot represent its end.
    fn new(now: Instant, left: Duration, total: Duration) -> Option<Self> {
        let margin = REFRESH_MARGIN.min(total / 10);
        Some(Self {
            refresh_at: now.checked_add(left.saturating_sub(margin))?,
            expires_at: now.checked_add(left)?,
        })
    }
}

/// The claims of a JWT that determine its lifetime, in seconds since 1970. RFC 7519 allows fractions.
#[derive(Deserialize)]
struct JwtExpiry {
    exp: f64,
    iat: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_line_of_visible_ascii_is_a_token() {
        let longest = "x".repeat(MAX_TOKEN_BYTES);
        for good in ["x", " a.b-c_d~e+f/g== \r\n", "!\"#{}", longest.as_str()] {
            let token = Token::parse(good.as_bytes()).unwrap();
            assert_eq!(token.header(), format!("Bearer {}", good.trim()));
            assert!(token.header().is_sensitive());
        }
        let longer = "x".repeat(MAX_TOKEN_BYTES + 1);
        for bad in [
            "",
            " \n",
            "a b",
            "a\nb",
            "a\tb",
            "a\0",
            "\u{e9}",
            longer.as_str(),
        ] {
            assert!(Token::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn debug_output_does_not_contain_the_token() {
        let shown = format!("{:?}", Token::parse(b"secret").unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[cfg(feature = "client-oauth")]
    #[test]
    fn token_is_refreshed_a_minute_or_a_tenth_before_its_expiry() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        for (left, replaced) in [(3600, 3540), (600, 540), (100, 90), (10, 9), (0, 0)] {
            let token = Token::parse(b"x").unwrap().expires_in(seconds(left), now);
            let instant = now + seconds(replaced);
            assert!(token.needs_refresh(instant), "{left}");
            if replaced > 0 {
                assert!(
                    !token.needs_refresh(instant - Duration::from_millis(1)),
                    "{left}"
                );
                assert!(!token.is_expired(instant), "{left}");
            }
            assert!(token.is_expired(now + seconds(left)), "{left}");
        }
        let token = Token::parse(b"x").unwrap();
        assert!(!token.needs_refresh(now + seconds(1_000_000)));
        let token = token.expires_in(Duration::MAX, now);
        assert!(!token.needs_refresh(now + seconds(1_000_000)));
    }

    #[test]
    fn lifetime_of_a_jwt_is_read_from_its_claims() {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let jwt = |claims: String| {
            let payload = BASE64_URL_SAFE_NO_PAD.encode(claims);
            let token = Token::parse(format!("e30.{payload}.c2ln").as_bytes()).unwrap();
            token.expiry_from_jwt()
        };
        let hour = jwt(format!("{{\"exp\":{},\"iat\":{now}}}", now + 3600));
        let in_minutes = |minutes: u64| Instant::now() + Duration::from_secs(60 * minutes);
        assert!(!hour.needs_refresh(in_minutes(58)));
        assert!(hour.needs_refresh(in_minutes(60)));
        let half = jwt(format!("{{\"exp\":{}.5}}", now + 1800));
        assert!(!half.needs_refresh(in_minutes(28)));
        assert!(half.needs_refresh(in_minutes(31)));
        let over = jwt(format!("{{\"exp\":{}}}", now - 10));
        assert!(over.is_expired(Instant::now()));
        for silent in ["{}", "[]", "{\"exp\":\"soon\"}", "{\"exp\":1e300}", "x"] {
            assert!(
                !jwt(silent.to_owned()).needs_refresh(in_minutes(1_000_000)),
                "{silent}"
            );
        }
        for opaque in ["opaque", "a.b", "a.e30", "a.!!.c", "a.b.c.d.e"] {
            let token = Token::parse(opaque.as_bytes()).unwrap();
            assert!(!token.expiry_from_jwt().needs_refresh(in_minutes(1_000_000)));
        }
    }

    #[cfg(feature = "client-oauth")]
    #[test]
    fn postponed_refresh_does_not_exceed_the_expiry() {
        let now = Instant::now();
        let mut token = Token::parse(b"x")
            .unwrap()
            .expires_in(Duration::from_secs(100), now);
        token.postpone_refresh(now + Duration::from_secs(95));
        assert!(!token.needs_refresh(now + Duration::from_secs(94)));
        token.postpone_refresh(now + Duration::from_secs(105));
        assert!(token.needs_refresh(now + Duration::from_secs(100)));
    }
}
