//! The scope that each method requires, and the principal that a token identifies.

use http::Extensions;
use serde_json::Value;

use crate::{
    files::{Principal, parse_folder},
    server::{Access, Claims, ClaimsHook, InvalidClaims, Scope},
};

/// The names of scopes in the claim `scope`.
#[derive(Clone, Debug)]
pub struct ScopeNames {
    /// The scope of the greeters. `greeter` by default.
    pub greeter: Scope,
    /// The scope of methods that read files. `files.read` by default.
    pub read: Scope,
    /// The scope of methods that write files. `files.write` by default.
    pub write: Scope,
}

impl Default for ScopeNames {
    fn default() -> Self {
        let scope = |name: &str| name.parse().expect("a valid name");
        Self {
            greeter: scope("greeter"),
            read: scope("files.read"),
            write: scope("files.write"),
        }
    }
}

impl ScopeNames {
    /// The required scope by path. A path that ends with a slash is that of a whole service. Other methods accept
    /// a valid token of any scope.
    pub(super) fn by_path(&self) -> [(&'static str, Access); 8] {
        let scope = |scope: &Scope| Access::Scope(scope.clone());
        [
            ("/muxs.Greeter/", scope(&self.greeter)),
            ("/helloworld.Greeter/", scope(&self.greeter)),
            ("/muxs.FileController/Read", scope(&self.read)),
            ("/muxs.FileController/ReadStream", scope(&self.read)),
            ("/muxs.FileController/Stat", scope(&self.read)),
            ("/muxs.FileController/Write", scope(&self.write)),
            ("/muxs.FileController/WriteStream", scope(&self.write)),
            ("/muxs.FileController/AbortUpload", scope(&self.write)),
        ]
    }
}

/// Returns a hook that gives handlers the [`Principal`] of their caller.
pub(super) fn principal_hook(folder_claim: Option<String>) -> ClaimsHook {
    ClaimsHook::new(move |claims| {
        let mut extensions = Extensions::new();
        extensions.insert(parse_principal(claims, folder_claim.as_deref())?);
        Ok(extensions)
    })
}

fn parse_principal(
    claims: &Claims,
    folder_claim: Option<&str>,
) -> Result<Principal, InvalidClaims> {
    let owner = claims.get("sub").and_then(Value::as_str);
    let folder = match folder_claim.and_then(|name| claims.get(name)) {
        None => None,
        Some(Value::String(folder)) => Some(parse_folder(folder).map_err(|_| InvalidClaims)?),
        // A restriction that cannot be read must not be ignored.
        Some(_) => return Err(InvalidClaims),
    };
    Ok(Principal {
        owner: Some(owner.ok_or(InvalidClaims)?.to_owned()),
        folder,
    })
}
