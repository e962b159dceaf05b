//! The server program: parses flags, prints a line for each address, serves until a stop signal.

mod announcement;
mod args;
mod self_signed;
mod socket_activation;
mod systemd;
mod telemetry;

use std::{
    future::pending,
    io::{self, ErrorKind},
    os::unix::fs::FileTypeExt,
    path::Path,
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow};
use muxs::{
    app::{self, Config, ScopeNames},
    files::Store,
    server::{Address, AuthError, Limits, Listener, Tls},
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{self, SignalKind, signal};

use self::{
    args::{Args, LogFormat},
    socket_activation::InheritedSocket,
};

fn main() -> ExitCode {
    let args = Args::parse_or_exit();
    let format = args.monitoring.log_format;
    // Before a file is opened or a thread is started.
    let inherited = socket_activation::from_env();
    telemetry::start_logging(format);
    Args::warn_of_unknown_variables();
    match inherited.and_then(|inherited| serve(args, inherited)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match format {
                LogFormat::Text => eprintln!("error: {error:#}"),
                LogFormat::Json => tracing::error!("{error:#}"),
            }
            exit_code(&error)
        }
    }
}

/// 2 if a flag is wrong, as clap has it, otherwise 1.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref() {
        Some(AuthError::Algorithm(_) | AuthError::NoAlgorithm | AuthError::Empty(_)) => {
            ExitCode::from(2)
        }
        _ => ExitCode::FAILURE,
    }
}

fn serve(args: Args, inherited: Vec<InheritedSocket>) -> anyhow::Result<()> {
    // This runtime accepts connections. The server serves them on threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve_until_stopped(args, inherited));
    // Dropping the runtime would wait for its blocking threads, which a hanging disk may block.
    runtime.shutdown_background();
    served
}

async fn serve_until_stopped(args: Args, inherited: Vec<InheritedSocket>) -> anyhow::Result<()> {
    // Before the server reports that it is ready: a signal may follow at once.
    let mut stop = pin!(stop_signal()?);
    // Unhandled, the signal would end the process, even if it only means that a terminal was closed.
    let hangup = signal(SignalKind::hangup())?;
    // A write beyond the file size limit raises this signal. Unhandled, the signal would end the process;
    // with a handler, the write fails as on a full disk.
    let _file_too_large = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
    // Before the ports are bound: an address in use must not hide what is wrong with a file.
    let loaded_tls = args.tls.load()?;
    let auth = args.auth.load()?;
    let scopes = match auth {
        Some(_) => args.auth.scopes(),
        None => ScopeNames::default(),
    };
    #[cfg(feature = "otel")]
    let traces = telemetry::Traces::start(args.monitoring.otlp_endpoint.as_deref())?;
    let (root, settings) = (args.files.root.clone(), args.files.settings());
    // Recovery after a crash may take long, so a stop signal interrupts it.
    let store = tokio::select! {
        opened = tokio::task::spawn_blocking(move || Store::open(root, settings)) => opened??,
        () = &mut stop => return Ok(()),
    };
    let (admin, calls): (Vec<_>, Vec<_>) = inherited
        .into_iter()
        .partition(InheritedSocket::is_for_admin);
    let mut listeners = listen(calls, &args.listen, "--listen").await?;
    let admin_address = args.monitoring.admin_listen.as_slice();
    let admin = listen(admin, admin_address, "--admin-listen").await?;
    let addresses = listeners.iter().map(Listener::address);
    let addresses: Vec<_> = addresses.collect::<io::Result<_>>()?;
    let tls = match args.tls.tls_self_signed {
        true => Some(self_signed::create_certificate(
            &addresses,
            args.monitoring.log_format,
        )?),
        false => loaded_tls.clone(),
    };
    let mut config = Config {
        chunk_bytes: args.files.chunk_bytes,
        limits: cap_by_fd_limit(args.limits.limits()),
        shutdown_grace: args.shutdown_grace,
        tls: tls.clone(),
        auth,
        scopes,
        folder_claim: args.auth.folder_claim(),
        reflection: args.auth.reflection(),
        heartbeat: systemd::heartbeat(),
        #[cfg(feature = "otel")]
        tracer: traces.tracer(),
        ..Config::new(store)
    };
    if let Some(workers) = args.workers() {
        config.workers = workers;
    }
    if config.auth.is_none() {
        const OPEN: &str = "no access token is required: every client that can connect may call every \
                            method; --auth-issuer requires tokens";
        match addresses.iter().any(is_public) && !args.tls.requires_certificates() {
            true => tracing::warn!("{OPEN}"),
            false => tracing::info!("{OPEN}"),
        }
    }
    announcement::print_addresses(&addresses, tls.is_some(), &args.files.root);
    for listener in admin {
        announcement::print_admin_address(&listener.address()?);
        listeners.push(listener.for_admin());
    }
    if config.auth.is_none() && tls.is_none() {
        announcement::print_first_command(&addresses);
    }
    let grace = config.shutdown_grace;
    let status = systemd::format_status(&addresses);
    let shutdown = notify_until_stopped(stop, status, hangup, loaded_tls, grace);
    app::run(listeners, config, shutdown).await?;
    #[cfg(feature = "otel")]
    traces.finish().await;
    tracing::info!("stopped");
    Ok(())
}

/// Whether clients on other machines may reach the address.
fn is_public(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        Address::Unix(_) => false,
    }
}

/// Completes at the stop signal. Handles reloads and notifies the service manager until then.
async fn notify_until_stopped(
    stop: impl Future<Output = ()>,
    status: String,
    hangup: unix::Signal,
    tls: Option<Tls>,
    grace: Duration,
) {
    systemd::notify_ready(&status);
    tokio::select! {
        () = stop => {}
        () = reload_at_hangup(hangup, tls, &status) => {}
    }
    systemd::notify_stopping(grace);
}

/// Listens on the inherited sockets, or without any on `addresses`, the values of `flag`.
async fn listen(
    inherited: Vec<InheritedSocket>,
    addresses: &[String],
    flag: &str,
) -> anyhow::Result<Vec<Listener>> {
    match inherited.is_empty() {
        true => bind(addresses, flag).await,
        false => inherited.into_iter().map(listen_on).collect(),
    }
}

async fn bind(addresses: &[String], flag: &str) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let bound = Listener::bind(address).await;
        let listener = bound.map_err(|error| explain_bind_error(address, flag, error));
        listeners.push(listener.with_context(|| format!("cannot listen on {address}"))?);
    }
    Ok(listeners)
}

/// Adds to the operating system's error what can be done about it.
fn explain_bind_error(address: &str, flag: &str, error: io::Error) -> anyhow::Error {
    let path = address.strip_prefix("unix:").map(Path::new);
    let advice = match error.kind() {
        ErrorKind::AddrInUse if path.is_some_and(is_no_socket) => {
            return anyhow!("the file exists and is not a socket; choose another path with {flag}");
        }
        ErrorKind::NotFound if let Some(parent) = path.and_then(Path::parent) => {
            return anyhow!("the folder {} does not exist; create it", parent.display());
        }
        ErrorKind::AddrInUse => {
            format!("stop the program that listens there, or choose another address with {flag}")
        }
        ErrorKind::AddrNotAvailable => {
            "no network interface of this machine has the address".to_owned()
        }
        ErrorKind::PermissionDenied if path.is_none() => {
            "ports below 1024 need a privilege".to_owned()
        }
        _ => return error.into(),
    };
    anyhow!("{error}; {advice}")
}

fn is_no_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket())
}

fn listen_on(socket: InheritedSocket) -> anyhow::Result<Listener> {
    let name = socket.name.clone();
    let listener = socket.into_listener();
    listener.with_context(|| format!("cannot use the inherited socket {name}"))
}

/// Raises the limit of open files as far as possible, and caps connections at half of it.
///
/// The other half is left for files.
fn cap_by_fd_limit(limits: Limits) -> Limits {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    let Some(descriptors) = getrlimit(Resource::Nofile).current else {
        return limits;
    };
    let cap = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
    if limits.max_connections > cap {
        tracing::warn!(
            max_connections = cap,
            "the limit on open files ({descriptors}) allows no more connections; raise it with \
             LimitNOFILE= in the systemd unit, or with `ulimit -n`"
        );
    }
    Limits {
        max_connections: limits.max_connections.min(cap),
        ..limits
    }
}

/// Completes at the first SIGINT or SIGTERM. The next one ends the process at once.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    async fn either(interrupt: &mut unix::Signal, terminate: &mut unix::Signal) {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    Ok(async move {
        either(&mut interrupt, &mut terminate).await;
        tokio::spawn(async move {
            either(&mut interrupt, &mut terminate).await;
            tracing::warn!("second signal: stopping at once, running calls are aborted");
            std::process::exit(1);
        });
    })
}

/// Reads certificate and key again at each SIGHUP, forever.
///
/// Without files nothing is read, but the end of the reload is reported all the same, because the service
/// manager waits for it.
async fn reload_at_hangup(mut hangup: unix::Signal, tls: Option<Tls>, status: &str) {
    while hangup.recv().await.is_some() {
        systemd::notify_reloading();
        match reload(tls.clone()).await {
            Ok(message) => {
                tracing::info!("{message}");
                systemd::notify_ready(status);
            }
            Err(error) => {
                let error =
                    error.context("reload failed, the previous certificate and key stay in use");
                tracing::error!("{error:#}");
                systemd::notify_ready(&format!("{status}; {error:#}"));
            }
        }
    }
    pending().await
}

/// Reads certificate and key again. Returns the message for the log.
async fn reload(tls: Option<Tls>) -> anyhow::Result<&'static str> {
    let Some(tls) = tls else {
        return Ok("SIGHUP ignored: without --tls-cert, there is no certificate file to reload");
    };
    tokio::task::spawn_blocking(move || tls.reload()).await??;
    Ok("certificate and key reloaded")
}
