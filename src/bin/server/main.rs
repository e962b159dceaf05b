//! The server program: flags in, one line out for each address, then calls until it is told to
//! stop.

mod args;
mod development;
mod passed;
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
    app::{self, Config},
    files::Store,
    server::{Address, Limits, Listener, Tls},
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{self, SignalKind, signal};

use self::{
    args::{Args, LogFormat},
    passed::Passed,
};

fn main() -> ExitCode {
    let args = Args::of_the_process();
    let format = args.log_format;
    // Before anything is opened, and any thread started.
    let passed = passed::take_over();
    telemetry::start_logging(format);
    match passed.and_then(|passed| serve(args, passed)) {
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

fn serve(args: Args, passed: Vec<Passed>) -> anyhow::Result<()> {
    // It accepts connections; those who serve them are threads of the server's own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve_until_stopped(args, passed));
    // Dropping it would wait for its blocking threads, and so for a disk that does not answer.
    runtime.shutdown_background();
    served
}

async fn serve_until_stopped(args: Args, passed: Vec<Passed>) -> anyhow::Result<()> {
    // Before the line that says the server is ready: whoever has read it may send a signal.
    let mut stop = pin!(stop_signal()?);
    // Unhandled, it would end the process, and be it that a terminal was closed.
    let hangup = signal(SignalKind::hangup())?;
    // At the limit for the size of a file, a write sends this signal. Unhandled, it would end the
    // process; handled, even like this, the write fails as on a full disk.
    let _file_too_large = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
    let (admin, calls): (Vec<_>, Vec<_>) = passed.into_iter().partition(Passed::is_for_admin);
    let mut listeners = listen(calls, &args.listen).await?;
    let admin = listen(admin, args.admin_listen.as_slice()).await?;
    let addresses = listeners.iter().map(Listener::address);
    let addresses: Vec<_> = addresses.collect::<io::Result<_>>()?;
    let tls = match args.tls.tls_self_signed {
        true => Some(development::certificate(&addresses, args.log_format)?),
        false => args.tls.load()?,
    };
    let auth = args.auth.load()?;
    #[cfg(feature = "otel")]
    let traces = telemetry::Traces::start(args.otlp_endpoint.as_deref())?;
    let (root, settings) = (args.files.root.clone(), args.files.settings());
    // After a crash this may take its time, in which it can be stopped too.
    let store = tokio::select! {
        opened = tokio::task::spawn_blocking(move || Store::open(root, settings)) => opened??,
        () = &mut stop => return Ok(()),
    };
    let mut config = Config {
        chunk_bytes: args.files.chunk_bytes,
        limits: within_descriptors(args.limits.limits()),
        shutdown_grace: args.shutdown_grace.into(),
        tls: tls.clone(),
        auth,
        scopes: args.auth.scopes()?,
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
    let shutdown = serving_until(stop, systemd::serving(&addresses), hangup, tls, grace);
    app::run(listeners, config, shutdown).await?;
    #[cfg(feature = "otel")]
    traces.finish().await;
    tracing::info!("stopped");
    Ok(())
}

/// Tells the service manager what goes on from when calls are served until they shall end, which it
/// waits for.
async fn serving_until(
    stop: impl Future<Output = ()>,
    serving: String,
    hangup: unix::Signal,
    tls: Option<Tls>,
    grace: Duration,
) {
    systemd::ready(&serving);
    tokio::select! {
        () = stop => {}
        () = reload_at_hangup(hangup, tls, &serving) => {}
    }
    systemd::stopping(grace);
}

/// Listens on what was handed over, or else on addresses.
async fn listen(passed: Vec<Passed>, addresses: &[String]) -> anyhow::Result<Vec<Listener>> {
    match passed.is_empty() {
        true => bind(addresses).await,
        false => passed.into_iter().map(listen_on).collect(),
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

/// Listens on what was handed over, whatever `--listen` says.
fn listen_on(passed: Passed) -> anyhow::Result<Listener> {
    let name = passed.name.clone();
    let listener = passed.listen();
    listener.with_context(|| format!("cannot listen on the socket {name} that was handed over"))
}

/// Lets the process open as many descriptors as it may, and no more connections than leave half of
/// them for files.
fn within_descriptors(limits: Limits) -> Limits {
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
    let most = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
    if limits.max_connections > most {
        tracing::warn!(
            max_connections = most,
            "the limit of open files ({descriptors}) allows no more connections"
        );
    }
    Limits {
        max_connections: limits.max_connections.min(most),
        ..limits
    }
}

/// Says where, one line for each address. From the bind on, the system takes connections in.
fn announce(addresses: &[Address], encrypted: bool, root: &Path) {
    let mut out = io::stdout().lock();
    for address in addresses {
        let scheme = match (address, encrypted) {
            (Address::Tcp(_), true) => "https://",
            (Address::Tcp(_), false) => "http://",
            (Address::Unix(_), _) => "",
        };
        // Nobody may be reading; that is no reason not to serve.
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

/// Says where administrators are told how the server is.
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

/// Completes at the first SIGINT or SIGTERM; from then on, another ends the process at once.
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

/// Reads certificate and key again at each SIGHUP, for ever. Without them nothing is read; that is
/// told all the same, because whoever asked for a reload waits for its end.
async fn reload_at_hangup(mut hangup: unix::Signal, tls: Option<Tls>, serving: &str) {
    while hangup.recv().await.is_some() {
        systemd::reloading();
        match reload(tls.clone()).await {
            Ok(read) => {
                tracing::info!("{read}");
                systemd::ready(serving);
            }
            Err(error) => {
                let error = error.context("keeping certificate and key as they were");
                tracing::error!("{error:#}");
                systemd::ready(&format!("{serving}; {error:#}"));
            }
        }
    }
    pending().await
}

/// Reads what can be read again, and says what that was.
async fn reload(tls: Option<Tls>) -> anyhow::Result<&'static str> {
    let Some(tls) = tls else {
        return Ok("there is no certificate to read again");
    };
    tokio::task::spawn_blocking(move || tls.reload()).await??;
    Ok("certificate and key read again")
}
