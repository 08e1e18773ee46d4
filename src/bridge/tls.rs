//! TLS of both sides: by the system's authorities, or by the one certificate that a URL pins.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, OtherError, RootCertStore,
    ServerConfig, SignatureScheme, WantsVerifier,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::base::id::hex;
use crate::base::units::plain;
use crate::limits::{BRIDGE_CERTIFICATE_MS, BRIDGE_PEM_MAX};
use crate::wire::bridge::BridgeUrl;

/// What browsers say for WebSocket.
const PROTOCOL: &[u8] = b"http/1.1";

/// What carries a bridge: TCP, or TLS over it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(ring::default_provider())).clone()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let hash = ::ring::digest::digest(&::ring::digest::SHA256, bytes);
    std::array::from_fn(|at| hash.as_ref()[at])
}

// ---- who calls ----

/// What the lines of a node share: the system's authorities, read when they are first needed.
pub(super) struct Client {
    usual: OnceLock<Arc<ClientConfig>>,
}

impl Client {
    pub(super) fn new() -> Self {
        Self { usual: OnceLock::new() }
    }

    /// TLS over a connection, to whom the URL names and to nobody else.
    pub(super) async fn wrap(&self, url: &BridgeUrl, tcp: TcpStream) -> Result<Box<dyn Stream>, String> {
        let config = match url.pin() {
            Some(pin) => pinned(*pin),
            None => self.usual.get_or_init(usual).clone(),
        };
        let name = ServerName::try_from(url.host().to_owned()).map_err(|error| error.to_string())?;
        let wrapped = TlsConnector::from(config).connect(name, tcp).await;
        wrapped.map(|stream| Box::new(stream) as Box<dyn Stream>).map_err(|error| why(&error))
    }
}

fn usual() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!(
            "this system names no authorities (package ca-certificates): only bridges with a pin are believed"
        );
    }
    Arc::new(finish(builder().with_root_certificates(roots).with_no_client_auth()))
}

fn pinned(pin: [u8; 32]) -> Arc<ClientConfig> {
    let verifier = Arc::new(Pinned { pin, provider: provider() });
    Arc::new(finish(builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites of both versions")
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config
}

/// A certificate that says that it is an authority's, in `webpki`'s words.
const SELF_SIGNED: &str = "CaUsedAsEndEntity";

const UNKNOWN: &str = "no authority of this system vouches for its certificate: ask its operator for a URL with a pin (#sha256=…)";

/// What went wrong, in words of ours where it is ours.
fn why(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => UNKNOWN.into(),
        Some(Error::InvalidCertificate(CertificateError::Other(other))) => match other.0.to_string() {
            // What webpki says of most certificates that sign themselves.
            text if text == SELF_SIGNED => UNKNOWN.into(),
            ours => ours,
        },
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "its certificate is of another name: ask its operator for the right URL, or for one with a pin (#sha256=…)".into(),
        Some(other) => format!("TLS: {other}"),
        None => format!("TLS: {}", plain(error)),
    }
}

/// The one certificate that is believed, whoever signed it and whatever name it has.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

/// It was another.
#[derive(Debug)]
struct WrongPin {
    wanted: [u8; 32],
    shown: [u8; 32],
}

impl fmt::Display for WrongPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wanted, shown) = (hex(&self.wanted), hex(&self.shown));
        write!(f, "it shows another certificate than the URL pins: sha256={shown}, not {wanted}")
    }
}

impl std::error::Error for WrongPin {}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = sha256(end_entity);
        if shown == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        let wrong = WrongPin { wanted: self.pin, shown };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))))
    }

    // That the other side has the certificate's key is what makes the pin worth anything.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

// ---- who is called ----

/// A certificate and its key, read again when the files change.
pub(super) struct Served {
    files: (PathBuf, PathBuf),
    state: Mutex<Read>,
}

struct Read {
    acceptor: TlsAcceptor,
    changed: Option<SystemTime>,
    looked: Instant,
}

impl Served {
    /// Reads them; an error is one line. With the certificate's pin, for the log.
    pub(super) fn new(certificate: &Path, key: &Path) -> Result<(Self, String), String> {
        let (acceptor, pin) = read(certificate, key)?;
        let state = Read { acceptor, changed: changed(certificate), looked: Instant::now() };
        let files = (certificate.to_owned(), key.to_owned());
        Ok((Self { files, state: Mutex::new(state) }, hex(&pin)))
    }

    /// What takes the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= Duration::from_millis(BRIDGE_CERTIFICATE_MS) {
            state.looked = Instant::now();
            let changed = changed(&self.files.0);
            if changed != state.changed {
                match read(&self.files.0, &self.files.1) {
                    Ok((acceptor, pin)) => {
                        tracing::info!("the bridge has another certificate: sha256={}", hex(&pin));
                        (state.acceptor, state.changed) = (acceptor, changed);
                    }
                    Err(error) => tracing::warn!("the bridge keeps the certificate that it has: {error}"),
                }
            }
        }
        state.acceptor.clone()
    }
}

fn changed(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

/// Certificates and key, and the SHA-256 of the first.
fn read(certificate: &Path, key: &Path) -> Result<(TlsAcceptor, [u8; 32]), String> {
    let bytes = |path: &Path| {
        let cannot = |error| format!("cannot read {}: {}", path.display(), plain(&error));
        match std::fs::metadata(path).map_err(cannot)?.len() {
            0..=BRIDGE_PEM_MAX => std::fs::read(path).map_err(cannot),
            _ => Err(format!("{} is too long for PEM", path.display())),
        }
    };
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(&bytes(certificate)?).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| format!("{} holds no certificate in PEM", certificate.display()))?;
    let secret = PrivateKeyDer::from_pem_slice(&bytes(key)?);
    let secret = secret.map_err(|_| format!("{} holds no private key in PEM", key.display()))?;
    let pin = sha256(&chain[0]);
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret));
    let mut config =
        config.map_err(|error| format!("{} and {}: {error}", certificate.display(), key.display()))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), pin))
}
