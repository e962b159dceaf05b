//! TLS: who the server is, and which clients it lets in.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore, ServerConfig,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    },
    server::TlsStream,
};

/// The one protocol that is spoken here.
const ALPN: &[u8] = b"h2";

/// How long a certificate for development is good.
const DEVELOPMENT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Before its making, for a client whose clock is late.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 60 * 60);

/// Where the certificates of a server are, in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and an authority.
    pub cert: PathBuf,
    /// The key of the first.
    pub key: PathBuf,
    /// Which clients are let in.
    pub clients: ClientAuth,
}

/// Which clients are let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// All.
    Off,
    /// Those with a certificate of one of the authorities in this file.
    Required(PathBuf),
    /// Those, and those without a certificate.
    Optional(PathBuf),
}

/// What a server encrypts with. Clones share it, so that one [`Tls::reload`] is enough.
#[derive(Clone)]
pub struct Tls {
    files: Option<TlsFiles>,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads certificates and key, blocking.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let config = Arc::new(RwLock::new(read(&files)?));
        Ok(Self {
            files: Some(files),
            config,
        })
    }

    /// A certificate that is its own authority, for `names`: host names and IP addresses. It is good
    /// for a year; its key is never written down. Returns it in PEM for the clients who shall trust
    /// it.
    ///
    /// # Errors
    ///
    /// [`TlsError::Development`]: a name is not one.
    pub fn development(names: Vec<String>) -> Result<(Self, String), TlsError> {
        let failed = TlsError::Development;
        let mut params = rcgen::CertificateParams::new(names).map_err(failed)?;
        let now = SystemTime::now();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + DEVELOPMENT).into();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "muxs for development");
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let cert = params.self_signed(&key).map_err(failed)?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).expect("it was made as PKCS #8");
        let config = config(vec![cert.der().clone()], private, None)
            .expect("a certificate and the key it was signed with");
        let tls = Self {
            files: None,
            config: Arc::new(RwLock::new(config)),
        };
        Ok((tls, cert.pem()))
    }

    /// Reads the files again, blocking: connections to come get what is in them, those that are
    /// there stay as they are. Changes nothing if that fails, nor where there are no files.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    pub fn reload(&self) -> Result<(), TlsError> {
        if let Some(files) = &self.files {
            let config = read(files)?;
            *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        }
        Ok(())
    }

    /// The server's side of the handshake.
    pub(super) async fn accept<S>(&self, socket: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(self.config()).accept(socket).await?;
        // A client that offers other protocols only has been refused; this one offered none.
        match stream.get_ref().1.alpn_protocol() {
            Some(ALPN) => Ok(stream),
            _ => Err(io::Error::other(
                "the client does not ask for HTTP/2 by ALPN",
            )),
        }
    }

    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tls = f.debug_struct("Tls");
        tls.field("files", &self.files).finish_non_exhaustive()
    }
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let certs = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey(files.key.clone()),
        error => unreadable(&files.key)(error),
    })?;
    let clients = match &files.clients {
        ClientAuth::Off => None,
        ClientAuth::Required(ca) => Some(verifier(ca, true)?),
        ClientAuth::Optional(ca) => Some(verifier(ca, false)?),
    };
    config(certs, key, clients).map_err(|error| TlsError::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        error,
    })
}

fn config(
    certs: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder();
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(certs, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn verifier(ca: &Path, required: bool) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let authority = |reason| TlsError::Authority {
        file: ca.to_owned(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for cert in certificates(ca)? {
        roots
            .add(cert)
            .map_err(|error| authority(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder(roots.into());
    let builder = match required {
        true => builder,
        false => builder.allow_unauthenticated(),
    };
    builder
        .build()
        .map_err(|error| authority(error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs = CertificateDer::pem_file_iter(path).map_err(unreadable(path))?;
    let certs = certs.collect::<Result<Vec<_>, _>>();
    let certs = certs.map_err(unreadable(path))?;
    match certs.is_empty() {
        true => Err(TlsError::Empty(path.to_owned())),
        false => Ok(certs),
    }
}

fn unreadable(path: &Path) -> impl Fn(pem::Error) -> TlsError {
    let file = path.to_owned();
    move |error| TlsError::Unreadable {
        file: file.clone(),
        error,
    }
}

/// The system's own words, where it is the system's error.
fn unprefixed(error: &pem::Error) -> &dyn fmt::Display {
    match error {
        pem::Error::Io(error) => error,
        error => error,
    }
}

/// Why there is nothing to encrypt with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, or not in PEM.
    #[error("cannot read {}: {}", .file.display(), unprefixed(.error))]
    Unreadable {
        /// Its path.
        file: PathBuf,
        /// What is wrong with it.
        error: pem::Error,
    },
    /// A file holds no certificate.
    #[error("there is no certificate in {}", .0.display())]
    Empty(PathBuf),
    /// A file holds no private key.
    #[error("there is no private key in {}", .0.display())]
    NoKey(PathBuf),
    /// Certificate and key do not belong together, or are not what they should be.
    #[error("{} and {} are no certificate and its key: {error}", .cert.display(), .key.display())]
    Pair {
        /// Of the certificate.
        cert: PathBuf,
        /// Of the key.
        key: PathBuf,
        /// What is wrong with them.
        error: rustls::Error,
    },
    /// A file holds no authority that could vouch for clients.
    #[error("cannot trust clients by {}: {reason}", .file.display())]
    Authority {
        /// Its path.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate for development cannot be made.
    #[error("cannot make a certificate: {0}")]
    Development(rcgen::Error),
}
