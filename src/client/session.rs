//! The calls of one transfer, with tokens if there are credentials, and what becomes of a token that
//! the server refuses.
//!
//! Such a token is forgotten, and another is asked for. The next attempt follows at once, unless one
//! more would come to the same: there is no other token, or the one that was refused had been asked
//! for by this transfer, and nothing advanced since. So a token that expires on the way costs a
//! transfer nothing, however often that happens, and a server that takes no token ends it after two.

use http::{HeaderValue, header::AUTHORIZATION};
use tonic::{Request, transport::Channel};

use super::credentials::{Credentials, TokenError};
use crate::pb::file_controller_client::FileControllerClient;

pub(super) struct Session {
    files: FileControllerClient<Channel>,
    credentials: Option<Credentials>,
    /// The token of the last call.
    last_token: Option<HeaderValue>,
    /// Whether a token was asked for by this transfer, and nothing advanced since.
    has_new_token: bool,
}

impl Session {
    pub(super) fn new(
        files: FileControllerClient<Channel>,
        credentials: Option<Credentials>,
    ) -> Self {
        Self {
            files,
            credentials,
            last_token: None,
            has_new_token: false,
        }
    }

    pub(super) fn files(&self) -> FileControllerClient<Channel> {
        self.files.clone()
    }

    /// A request that shows the token of now, if there are any.
    pub(super) async fn build_request<T>(&mut self, message: T) -> Result<Request<T>, TokenError> {
        let mut request = Request::new(message);
        if let Some(credentials) = &self.credentials {
            let (token, has_new_token) = credentials.current_token().await?;
            let headers = request.metadata_mut().as_mut();
            headers.insert(AUTHORIZATION, token.header());
            self.last_token = Some(token.header());
            self.has_new_token |= has_new_token;
        }
        Ok(request)
    }

    pub(super) fn record_progress(&mut self) {
        self.has_new_token = false;
    }

    /// Forgets the token that was refused, and says whether an attempt with another may follow.
    pub(super) async fn renew_token(&mut self) -> Result<bool, TokenError> {
        let (Some(credentials), Some(refused)) = (&self.credentials, self.last_token.take()) else {
            return Ok(false);
        };
        credentials.discard(&refused).await;
        if self.has_new_token || !credentials.is_renewable() {
            return Ok(false);
        }
        let (next, _) = credentials.current_token().await?;
        self.has_new_token = true;
        if next.header() == refused {
            // Not for others to be refused as well.
            credentials.discard(&refused).await;
            return Ok(false);
        }
        Ok(true)
    }
}
