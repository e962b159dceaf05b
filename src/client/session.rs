//! The calls of one transfer: adds access tokens, and replaces a token that the server refuses.
//!
//! A refused token is discarded and another is requested. The next attempt follows at once, unless it would
//! fail the same way: there is no other token, or this transfer had requested the refused token and has made
//! no progress since. So any number of tokens may expire during a transfer at no cost, and a server that
//! accepts none ends the transfer after two.

use http::{HeaderValue, header::AUTHORIZATION};
use tonic::{Request, transport::Channel};

use super::credentials::{Credentials, TokenError};
use crate::pb::file_controller_client::FileControllerClient;

pub(super) struct Session {
    files: FileControllerClient<Channel>,
    credentials: Option<Credentials>,
    /// The `authorization` of the last call.
    last_token: Option<HeaderValue>,
    /// Whether this transfer has requested a token since its last progress.
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

    /// Builds a request with the current token, if there are credentials.
    pub(super) async fn build_request<T>(&mut self, message: T) -> Result<Request<T>, TokenError> {
        let mut request = Request::new(message);
        if let Some(credentials) = &self.credentials {
            let (token, is_new) = credentials.current_token().await?;
            let headers = request.metadata_mut().as_mut();
            headers.insert(AUTHORIZATION, token.header());
            self.last_token = Some(token.header());
            self.has_new_token |= is_new;
        }
        Ok(request)
    }

    /// Allows the next refused token to be replaced.
    pub(super) fn record_progress(&mut self) {
        self.has_new_token = false;
    }

    /// Discards the refused token. Returns whether an attempt with another one may follow.
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
            // Keeps other transfers from using it.
            credentials.discard(&refused).await;
            return Ok(false);
        }
        Ok(true)
    }
}
