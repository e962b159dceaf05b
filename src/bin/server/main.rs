//! The server program: parses flags, prints a line for each address, serves until a stop signal.

mod args;
mod self_signed;
mod socket_activation;
mod systemd;
mod telemetry;

use std::{
    future::pending,
    io::{self, Write},
    path::Path,
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use muxs::{
    app::{self, Config, ScopeNames},
    files::Store,
    server::{Address, Limits, Listener, Tls},
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{self, SignalKind, signal};

use self::{
    args::{Args, LogFormat},
    socket_activation::InheritedSocket,
};

fn main() -> ExitCode {
    let args = Args::parse_or_exit();
    let format = args.log_format;
    // Before a file is opened or a thread is started.
    let inherited = socket_activation::from_env();
    telemetry::start_logging(format);
    match inherited.and_then(|inherited| serve(args, inherited)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match format {
                LogFormat::Text => eprintln!("error: {error:#}"),
                LogFormat::Json => tracing::error!("{error:#}"),
            }
            ExitCode::FAILURE
        }
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
    let (admin, calls): (Vec<_>, Vec<_>) = inherited
        .into_iter()
        .partition(InheritedSocket::is_for_admin);
    let mut listeners = listen(calls, &args.listen).await?;
    let admin = listen(admin, args.admin_listen.as_slice()).await?;
    let addresses = listeners.iter().map(Listener::address);
    let addresses: Vec<_> = addresses.collect::<io::Result<_>>()?;
    let tls = match args.tls.tls_self_signed {
        true => Some(self_signed::create_certificate(
            &addresses,
            args.log_format,
        )?),
        false => args.tls.load()?,
    };
    let auth = args.auth.load()?;
    let scopes = match auth {
        Some(_) => args.auth.scopes()?,
        None => ScopeNames::default(),
    };
    #[cfg(feature = "otel")]
    let traces = telemetry::Traces::start(args.otlp_endpoint.as_deref())?;
    let (root, settings) = (args.files.root.clone(), args.files.settings());
    // Recovery after a crash may take long, so a stop signal interrupts it.
    let store = tokio::select! {
        opened = tokio::task::spawn_blocking(move || Store::open(root, settings)) => opened??,
        () = &mut stop => return Ok(()),
    };
    let mut config = Config {
        chunk_bytes: args.files.chunk_bytes,
        limits: cap_by_fd_limit(args.limits.limits()),
        shutdown_grace: args.shutdown_grace.into(),
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
    if let Some(workers) = args.workers {
        config.workers = workers;
    }
    if config.auth.is_none() {
        tracing::info!("open: whoever can connect may call; see --auth-issuer");
    }
    announce(&addresses, tls.is_some(), &args.files.root);
    for listener in admin {
        announce_admin(&listener.address()?);
        listeners.push(listener.for_admin());
    }
    let grace = config.shutdown_grace;
    let status = systemd::format_status(&addresses);
    let shutdown = notify_until_stopped(stop, status, hangup, tls, grace);
    app::run(listeners, config, shutdown).await?;
    #[cfg(feature = "otel")]
    traces.finish().await;
    tracing::info!("stopped");
    Ok(())
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

/// Listens on the inherited sockets, whatever `--listen` says; without any, on `addresses`.
async fn listen(
    inherited: Vec<InheritedSocket>,
    addresses: &[String],
) -> anyhow::Result<Vec<Listener>> {
    match inherited.is_empty() {
        true => bind(addresses).await,
        false => inherited.into_iter().map(listen_on).collect(),
    }
}

async fn bind(addresses: &[String]) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = Listener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn listen_on(socket: InheritedSocket) -> anyhow::Result<Listener> {
    let name = socket.name.clone();
    let listener = socket.into_listener();
    listener.with_context(|| format!("cannot listen on the socket {name} that was handed over"))
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
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let Some(descriptors) = getrlimit(Resource::Nofile).current else {
        return limits;
    };
    let cap = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
    if limits.max_connections > cap {
        tracing::warn!(
            max_connections = cap,
            "the limit of open files ({descriptors}) allows no more connections"
        );
    }
    Limits {
        max_connections: limits.max_connections.min(cap),
        ..limits
    }
}

/// Prints a line for each address. The kernel accepts connections from the bind on.
fn announce(addresses: &[Address], encrypted: bool, root: &Path) {
    let mut out = io::stdout().lock();
    for address in addresses {
        let scheme = match (address, encrypted) {
            (Address::Tcp(_), true) => "https://",
            (Address::Tcp(_), false) => "http://",
            (Address::Unix(_), _) => "",
        };
        // A closed standard output does not keep the server from serving.
        let _ = writeln!(
            out,
            "muxs listening on {scheme}{address}, serving {}",
            root.display()
        );
        if let Address::Tcp(address) = address
            && !address.ip().to_canonical().is_loopback()
            && !encrypted
        {
            tracing::warn!(
                %address,
                "whoever is on the way can read and change what is sent here: see --tls-cert"
            );
        }
    }
    let _ = out.flush();
}

/// Prints the address of the administrative endpoints.
fn announce_admin(address: &Address) {
    let scheme = match address {
        Address::Tcp(_) => "http://",
        Address::Unix(_) => "",
    };
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "muxs admin on {scheme}{address}");
    let _ = out.flush();
    if let Address::Tcp(address) = address
        && !address.ip().to_canonical().is_loopback()
    {
        tracing::warn!(%address, "whoever reaches this address is told how the server is");
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
            tracing::warn!("stopped at once, calls under way are cut");
            std::process::exit(1);
        });
    })
}

/// Reads certificate and key again at each SIGHUP, for ever.
///
/// Without them nothing is read, but the end of the reload is reported all the same, because the service
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
                let error = error.context("keeping certificate and key as they were");
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
        return Ok("there is no certificate to read again");
    };
    tokio::task::spawn_blocking(move || tls.reload()).await??;
    Ok("certificate and key read again")
}
