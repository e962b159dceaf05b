//! TLS: the certificate of the server, and client certificates.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, InconsistentKeys, RootCertStore, ServerConfig,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    },
    server::TlsStream,
};

/// The only protocol that is offered.
const ALPN: &[u8] = b"h2";

/// The validity of a certificate for development.
const DEVELOPMENT_VALIDITY: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Tolerance for a client whose clock is slow.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 60 * 60);

/// The files with a server's certificates, in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, followed by the intermediate ones.
    pub cert: PathBuf,
    /// The private key of the server's certificate.
    pub key: PathBuf,
    /// Whether clients need a certificate.
    pub clients: ClientAuth,
}

/// Whether clients need a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Client certificates are not requested.
    Off,
    /// A client needs a certificate signed by an authority in this file.
    Required(PathBuf),
    /// A client may have such a certificate, or none. Other certificates are rejected.
    Optional(PathBuf),
}

/// The TLS configuration of a server. Clones share it, so that one [`Tls::reload`] is enough.
#[derive(Clone)]
pub struct Tls {
    files: Option<TlsFiles>,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads certificates and key. Blocking.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let config = Arc::new(RwLock::new(read_config(&files)?));
        Ok(Self {
            files: Some(files),
            config,
        })
    }

    /// Creates a self-signed certificate for `names`, which are host names and IP addresses. It is valid for
    /// a year; its key is kept in memory only. Returns the certificate in PEM, for clients to trust.
    ///
    /// # Errors
    ///
    /// [`TlsError::Development`]: a name is neither a host name nor an IP address.
    pub fn development(names: Vec<String>) -> Result<(Self, String), TlsError> {
        let failed = TlsError::Development;
        let mut params = rcgen::CertificateParams::new(names).map_err(failed)?;
        let now = SystemTime::now();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + DEVELOPMENT_VALIDITY).into();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "muxs for development");
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let cert = params.self_signed(&key).map_err(failed)?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).expect("the key is PKCS #8");
        let config = build_config(vec![cert.der().clone()], private, None)
            .expect("the key belongs to the certificate");
        let tls = Self {
            files: None,
            config: Arc::new(RwLock::new(config)),
        };
        Ok((tls, cert.pem()))
    }

    /// Reads the files again, for new connections; open ones stay as they are. Blocking. If reading fails, or
    /// without files, nothing changes.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    pub fn reload(&self) -> Result<(), TlsError> {
        if let Some(files) = &self.files {
            let config = read_config(files)?;
            *self.config.write() = config;
        }
        Ok(())
    }

    /// Runs the server's side of the handshake.
    pub(in crate::server) async fn accept<S>(&self, socket: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(self.config()).accept(socket).await?;
        // rustls has refused a client that offers other protocols only; this one may have offered none.
        match stream.get_ref().1.alpn_protocol() {
            Some(ALPN) => Ok(stream),
            _ => Err(io::Error::other(
                "the client does not offer HTTP/2 (h2) by ALPN",
            )),
        }
    }

    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tls = f.debug_struct("Tls");
        tls.field("files", &self.files).finish_non_exhaustive()
    }
}

fn read_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let certs = read_certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey(files.key.clone()),
        error => read_error(&files.key)(error),
    })?;
    let clients = match &files.clients {
        ClientAuth::Off => None,
        ClientAuth::Required(ca) => Some(build_verifier(ca, true)?),
        ClientAuth::Optional(ca) => Some(build_verifier(ca, false)?),
    };
    build_config(certs, key, clients).map_err(|error| TlsError::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        error,
    })
}

fn build_config(
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

fn build_verifier(ca: &Path, required: bool) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let authority = |reason| TlsError::Authority {
        file: ca.to_owned(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for cert in read_certificates(ca)? {
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

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs = CertificateDer::pem_file_iter(path).map_err(read_error(path))?;
    let certs = certs.collect::<Result<Vec<_>, _>>();
    let certs = certs.map_err(read_error(path))?;
    match certs.is_empty() {
        true => Err(TlsError::Empty(path.to_owned())),
        false => Ok(certs),
    }
}

fn read_error(path: &Path) -> impl Fn(pem::Error) -> TlsError {
    let file = path.to_owned();
    move |error| TlsError::Unreadable {
        file: file.clone(),
        error,
    }
}

/// The operating system's error without the library's prefix.
fn without_prefix(error: &pem::Error) -> &dyn fmt::Display {
    match error {
        pem::Error::Io(error) => error,
        error => error,
    }
}

/// What is wrong with a key, whose certificate is in `cert`.
fn pair_problem(cert: &Path, error: &rustls::Error) -> String {
    let cert = cert.display();
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            format!("does not belong to the certificate in {cert}")
        }
        error => format!("cannot be used with the certificate in {cert}: {error}"),
    }
}

/// Certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, or is not PEM.
    #[error("cannot read {}: {}", .file.display(), without_prefix(.error))]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The cause.
        error: pem::Error,
    },
    /// A file contains no certificate.
    #[error("there is no certificate in {}", .0.display())]
    Empty(PathBuf),
    /// A file contains no private key.
    #[error("there is no private key in {}", .0.display())]
    NoKey(PathBuf),
    /// Certificate and key do not match, or are not usable.
    #[error("the key in {} {}", .key.display(), pair_problem(.cert, .error))]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The cause.
        error: rustls::Error,
    },
    /// A file contains no usable authority for client certificates.
    #[error("cannot use the client authorities in {}: {reason}", .file.display())]
    Authority {
        /// The file.
        file: PathBuf,
        /// The cause.
        reason: String,
    },
    /// A certificate for development cannot be created.
    #[error("cannot create a certificate: {0}")]
    Development(rcgen::Error),
}
