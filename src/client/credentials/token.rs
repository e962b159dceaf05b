//! One access token, and how long it is good.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::HeaderValue;
use serde::Deserialize;
use tokio::time::Instant;

/// The most that a token may have, in bytes: servers take few headers that are longer.
pub(super) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How long before its end a token is replaced, but for one whose tenth is shorter.
const REFRESH_MARGIN: Duration = Duration::from_secs(60);

/// A token as it goes into a call. Its Debug shows nothing of it.
#[derive(Clone, Debug)]
pub(in crate::client) struct Token {
    /// With the scheme in front, and marked so that nobody prints or indexes it.
    bearer: HeaderValue,
    /// None if it is good until a server says otherwise.
    lifetime: Option<TokenLifetime>,
}

#[derive(Clone, Copy, Debug)]
struct TokenLifetime {
    refresh_at: Instant,
    expires_at: Instant,
}

/// It is not one line of visible ASCII, or too long.
#[derive(Debug)]
pub(super) struct InvalidTokenText;

impl Token {
    pub(super) fn parse(text: &[u8]) -> Result<Self, InvalidTokenText> {
        let token = text.trim_ascii();
        let is_one = (1..=MAX_TOKEN_BYTES).contains(&token.len())
            && token.iter().all(|byte| byte.is_ascii_graphic());
        if !is_one {
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

    /// Good for as long as whoever gave it said, from when it was asked for.
    pub(super) fn expires_in(mut self, left: Duration, asked: Instant) -> Self {
        self.lifetime = TokenLifetime::new(asked, left, left);
        self
    }

    /// Good for as long as the token says itself, if it is a JWT and says so. Nobody checks what it
    /// says: it is but a hint when to ask for the next.
    pub(super) fn expiry_from_jwt(mut self) -> Self {
        // The clock of this machine is compared with that of the issuer, as there is no other.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs_f64();
        self.lifetime = self.read_expiry().and_then(|claims| {
            let left = claims.exp - now;
            let whole = claims.iat.map_or(left, |issued| claims.exp - issued);
            let duration = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).ok();
            TokenLifetime::new(Instant::now(), duration(left)?, duration(whole)?)
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

    /// What goes into `authorization`.
    pub(in crate::client) fn header(&self) -> HeaderValue {
        self.bearer.clone()
    }

    /// Whether it is time for the next one.
    pub(super) fn needs_refresh(&self, now: Instant) -> bool {
        self.lifetime
            .is_some_and(|lifetime| lifetime.refresh_at <= now)
    }

    /// Whether it is of no use any more.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.lifetime
            .is_some_and(|lifetime| lifetime.expires_at <= now)
    }

    /// Lets it be used until then, or until its end.
    pub(super) fn postpone_refresh(&mut self, until: Instant) {
        if let Some(lifetime) = &mut self.lifetime {
            lifetime.refresh_at = until.min(lifetime.expires_at);
        }
    }
}

impl TokenLifetime {
    /// None where the end is further away than clocks go.
    fn new(now: Instant, left: Duration, whole: Duration) -> Option<Self> {
        let margin = REFRESH_MARGIN.min(whole / 10);
        Some(Self {
            refresh_at: now.checked_add(left.saturating_sub(margin))?,
            expires_at: now.checked_add(left)?,
        })
    }
}

/// What is read of a JWT, in seconds since 1970: RFC 7519 allows fractions.
#[derive(Deserialize)]
struct JwtExpiry {
    exp: f64,
    iat: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_of_visible_ascii() {
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
    fn a_debug_output_has_nothing_of_it() {
        let shown = format!("{:?}", Token::parse(b"secret").unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_token_is_replaced_a_minute_or_a_tenth_before_its_end() {
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
    fn a_jwt_says_itself_when_it_ends() {
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

    #[test]
    fn what_is_put_off_is_not_used_beyond_its_end() {
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
