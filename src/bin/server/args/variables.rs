//! Environment variables that look like the server's and are not.

use std::ffi::OsStr;

use clap::{
    Command,
    error::{ContextKind, ContextValue},
};

/// The prefix of the server's variables.
const PREFIX: &str = "MUXS_";

/// The variables of the client, which may be set in the same environment.
const CLIENT_VARIABLES: [&str; 3] = ["MUXS_ADDR", "MUXS_CLIENT_SECRET", "MUXS_TOKEN"];

/// The prefixes of the variables of the project's tests and measurements.
const TEST_PREFIXES: [&str; 4] = [
    "MUXS_BENCH_",
    "MUXS_HISTORY_",
    "MUXS_INTEROP_",
    "MUXS_TEST_",
];

/// Logs a warning for each variable in the environment that no flag of `command` reads.
pub(super) fn warn_of_unknown(command: &Command) {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut unknown: Vec<_> = names.filter(|name| is_unknown(command, name)).collect();
    unknown.sort();
    for name in unknown {
        let known = closest(command, &name);
        match known {
            _ if name == "MUXS_OTLP_ENDPOINT" => {
                tracing::warn!("{name} is ignored: this server is built without the feature `otel`")
            }
            Some(known) => {
                tracing::warn!("the server has no variable {name}; the closest one is {known}");
            }
            None => tracing::warn!("the server has no variable {name}; --help lists all"),
        }
    }
}

/// Returns the variable that is set to nothing, if that is why a flag has no valid value.
pub(super) fn find_empty(command: &Command, error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    // The flag stands in the error as `--listen <ADDR>`.
    let flag = flag.strip_prefix("--")?.split(' ').next()?;
    let mut args = command.get_arguments();
    let name = args.find(|arg| arg.get_long() == Some(flag))?.get_env()?;
    let is_empty = std::env::var_os(name).is_some_and(|value| value.is_empty());
    match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) if value.is_empty() && is_empty => {
            Some(name.to_string_lossy().into_owned())
        }
        _ => None,
    }
}

/// Whether a variable is meant for the server, and no flag reads it.
pub(super) fn is_unknown(command: &Command, name: &str) -> bool {
    let is_plain = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    name.starts_with(PREFIX)
        && name.bytes().all(is_plain)
        && !is_read(command, name)
        && !CLIENT_VARIABLES.contains(&name)
        && !TEST_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !is_service_link(name)
}

fn is_read(command: &Command, name: &str) -> bool {
    let mut args = command.get_arguments();
    args.any(|arg| arg.get_env() == Some(OsStr::new(name)))
}

/// Whether Kubernetes may have set the variable: it does so for each service, here one named `muxs` or `muxs-…`.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_PORT")
        || ["_PORT_", "_SERVICE_"]
            .iter()
            .any(|part| name.contains(part))
}

/// Returns the variable whose name is most like an unknown one: that of the flag which clap suggests.
pub(super) fn closest(command: &Command, name: &str) -> Option<String> {
    let flag = name
        .strip_prefix(PREFIX)?
        .to_ascii_lowercase()
        .replace('_', "-");
    let parsed = command
        .clone()
        .try_get_matches_from(["server".to_owned(), format!("--{flag}")]);
    let error = parsed.err()?;
    let Some(ContextValue::String(suggested)) = error.get(ContextKind::SuggestedArg) else {
        return None;
    };
    let suggested = suggested.strip_prefix("--")?;
    let arg = command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(suggested))?;
    Some(arg.get_env()?.to_str()?.to_owned())
}
