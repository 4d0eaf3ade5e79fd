//! TLS for the apiserver: checks certificates, verifies clients and explains failed handshakes.

mod client_certificates;
mod expiry;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, OtherError, ServerConfig};
use tokio::sync::watch;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

pub use self::client_certificates::AuthorityError;
use self::client_certificates::{Clients, Refused};
pub use self::expiry::{Certificate, Nearness, Notices, Role};
use crate::config::{ClientAuth, TlsConfig};
use crate::fs::{self, FileError};
use crate::limits;
use crate::text;

/// The reason why TLS material cannot serve. Each message names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{}: {source}", text::path(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file's content cannot be used.
    #[error("{}: {problem}", text::path(path))]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The problem, with the content that is expected.
        problem: String,
    },
    /// The authorities in the file cannot verify clients.
    #[error("{}: {source}", text::path(path))]
    Authority {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: AuthorityError,
    },
}

/// TLS material that can serve.
pub struct Tls {
    config: Arc<ServerConfig>,
    certificates: Vec<Certificate>,
    clients: Option<Arc<Clients>>,
}

impl Tls {
    /// Returns the material in the form that a handshake needs.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Returns the time from which on a client with this chain, leaf first, is no longer trusted: its
    /// certificate, an intermediate, or the authority that signed the chain has expired. Returns None if
    /// clients need no certificate, and a time in the past if the chain is not trusted.
    pub fn trusted_until(&self, chain: &[CertificateDer<'_>]) -> Option<SystemTime> {
        let clients = self.clients.as_ref()?;
        let until = chain.split_first().and_then(|(leaf, intermediates)| {
            let now = UnixTime::now();
            clients.verify_client_cert(leaf, intermediates, now).ok()?;
            clients.trusted_until(leaf, intermediates, now).ok()
        });
        // A certificate is still valid in the last second.
        let seconds = u64::try_from(until.unwrap_or_default().saturating_add(1)).unwrap_or_default();
        Some(UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH))
    }

    /// Returns the certificates that the material depends on.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }
}

/// The writing end of the TLS material in force.
pub struct TlsStore(watch::Sender<Arc<Tls>>);

/// The reading end of the TLS material in force. Each handshake uses the material in force at its beginning.
#[derive(Clone)]
pub struct TlsReader(watch::Receiver<Arc<Tls>>);

impl TlsStore {
    /// Creates a store with the first material in force, and a reader.
    pub fn new(first: Arc<Tls>) -> (TlsStore, TlsReader) {
        let (store, reader) = watch::channel(first);
        (TlsStore(store), TlsReader(reader))
    }

    /// Puts `tls` in force for every handshake that begins after this call.
    pub fn publish(&mut self, tls: Arc<Tls>) {
        self.0.send_replace(tls);
    }
}

impl TlsReader {
    /// Returns the material in force.
    pub fn current(&self) -> Arc<Tls> {
        Arc::clone(&self.0.borrow())
    }

    /// Returns the material in force, and marks it as seen for [`TlsReader::changed`].
    pub fn see(&mut self) -> Arc<Tls> {
        Arc::clone(&self.0.borrow_and_update())
    }

    /// Returns whether material other than the material last seen is in force.
    pub fn has_changed(&self) -> bool {
        self.0.borrow().has_changed()
    }

    /// Waits until material other than the material last seen is in force.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Without a store the material never changes.
            std::future::pending().await
        }
    }
}

/// The bytes of the files that a [`TlsConfig`] names. A comparison of two materials detects a change.
#[derive(Clone, PartialEq)]
pub struct Material {
    config: TlsConfig,
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Material {
    /// Reads the files.
    ///
    /// # Errors
    /// Returns an error if a file is missing, unreadable or too large.
    pub fn read(config: &TlsConfig) -> Result<Material, TlsError> {
        let client_ca = match &config.client_auth {
            ClientAuth::Required { ca, .. } => Some(read(ca)?),
            ClientAuth::None => None,
        };
        Ok(Material {
            config: config.clone(),
            certificate: read(&config.certificate)?,
            key: read(&config.private_key)?,
            client_ca,
        })
    }

    /// Returns the configuration that names the files.
    pub fn config(&self) -> &TlsConfig {
        &self.config
    }

    /// Builds material that serves an apiserver: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// Returns the first file that cannot serve, with the reason.
    pub fn server_config(&self) -> Result<Arc<Tls>, TlsError> {
        let TlsConfig { certificate, private_key, client_auth } = &self.config;
        let chain = certificates(certificate, &self.certificate)?;
        let roles = [Role::Serving].into_iter().chain(std::iter::repeat(Role::ServingChain));
        let serving = roles.zip(&chain).filter_map(|(role, der)| Certificate::new(role, certificate, der));
        let mut watched: Vec<_> = serving.collect();
        check_serving(certificate, &chain)?;
        let bytes: usize = chain.iter().map(|der| der.len()).sum();
        if bytes > limits::SERVING_CHAIN.size() {
            let bound = limits::SERVING_CHAIN;
            return Err(unusable(certificate, bound.says(bytes, bound.default)));
        }
        let key = private_key_in(private_key, &self.key)?;

        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| unusable(certificate, error.to_string()))?;
        let mut clients = None;
        let builder = match (client_auth, &self.client_ca) {
            (ClientAuth::Required { ca, names }, Some(pem)) => {
                let authorities = certificates(ca, pem)?;
                let of_clients = |der: &_| Certificate::new(Role::ClientCa, ca, der);
                watched.extend(authorities.iter().filter_map(of_clients));
                let trusted = Clients::new(&authorities, names, &provider);
                let trusted =
                    Arc::new(trusted.map_err(|source| TlsError::Authority { path: ca.clone(), source })?);
                clients = Some(Arc::clone(&trusted));
                builder.with_client_cert_verifier(trusted)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => unusable(
                private_key,
                format!("this key does not belong to the certificate in {}", text::path(certificate)),
            ),
            other => unusable(private_key, format!("the key cannot be used: {other}")),
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A resumed session skips the check of the client's certificate, which may have expired since.
        // Connections are long-lived, so resumption would gain nothing.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        watched.sort_by_key(|certificate| certificate.not_after);
        Ok(Arc::new(Tls { config: Arc::new(config), certificates: watched, clients }))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let bound = limits::TLS_FILE;
    fs::read(path, bound.default).map_err(|error| {
        let source = match error {
            FileError::TooLarge(..) => io::Error::other(bound.says("", bound.default)),
            other => other.into(),
        };
        TlsError::Read { path: path.to_owned(), source }
    })
}

fn unusable(path: &Path, problem: impl Into<String>) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), problem: problem.into() }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) if contains(pem, "PRIVATE KEY-----") => Err(unusable(
            path,
            "it holds a private key where a certificate is wanted: are the two files swapped?",
        )),
        Ok(_) => Err(unusable(path, "it holds no PEM certificate (`-----BEGIN CERTIFICATE-----`)")),
        Err(error) => Err(unusable(path, format!("it is no PEM file: {error}"))),
    }
}

fn private_key_in(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let problem = if contains(pem, "ENCRYPTED") {
            "the key is encrypted: write it without a passphrase (`openssl pkey -in KEY -out PLAIN`)"
                .to_owned()
        } else if contains(pem, "BEGIN CERTIFICATE") {
            "it holds a certificate where a private key is wanted: are the two files swapped?".to_owned()
        } else {
            format!("it holds no private key in PEM form: {error}")
        };
        unusable(path, problem)
    })
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// Checks the requirements of Go's client (crypto/x509) for a serving certificate. A certificate that every
/// apiserver would reject is reported here, instead of in a pod's denial.
fn check_serving(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(), TlsError> {
    let Some(leaf) = chain.first() else { return Ok(()) };
    let (_, leaf) = X509Certificate::from_der(leaf)
        .map_err(|error| unusable(path, format!("its first certificate cannot be read: {error}")))?;
    if leaf.version() != X509Version::V3 {
        return Err(unusable(path, "its certificate is X.509 v1: make it v3, with subjectAltName"));
    }
    let validity = leaf.validity();
    let now = x509_parser::time::ASN1Time::now();
    if validity.not_after < now {
        return Err(unusable(path, format!("its certificate expired on {}", validity.not_after)));
    }
    if validity.not_before > now {
        return Err(unusable(
            path,
            format!(
                "its certificate is not valid before {}: is this machine's clock right?",
                validity.not_before
            ),
        ));
    }
    let names = leaf.subject_alternative_name().ok().flatten();
    if names.is_none_or(|names| names.value.general_names.is_empty()) {
        return Err(unusable(
            path,
            "its certificate has no subjectAltName, and Go's clients do not look at the common name: make \
             one with `-addext subjectAltName=DNS:localhost,IP:127.0.0.1`",
        ));
    }
    if let Ok(Some(usage)) = leaf.extended_key_usage()
        && !usage.value.server_auth
        && !usage.value.any
    {
        return Err(unusable(path, "its certificate is not for servers: extendedKeyUsage lacks serverAuth"));
    }
    Ok(())
}

/// Returns the identity of a certificate's owner, as DER: the subject, or the alternative names if the
/// subject is empty. Returns None if the certificate cannot be read or has neither.
pub fn identity(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    if certificate.subject().iter().next().is_some() {
        return Some(certificate.subject().as_raw().to_vec());
    }
    let names = certificate.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME).ok()??;
    Some(names.value.to_vec())
}

/// Returns the cause of a failed handshake for the log, with the remedy if it is known.
pub fn explain(error: &std::io::Error) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "the client hung up during the handshake".to_owned(),
            _ => error.to_string(),
        };
    };
    let plain = error.to_string();
    let advice = match error {
        rustls::Error::NoCertificatesPresented => {
            "the client sent no certificate: in the apiserver's kubeconfig the context must name a user that \
             has client-certificate and client-key"
        }
        rustls::Error::InvalidMessage(_) => "the client does not speak TLS: its URL must begin with https://",
        rustls::Error::AlertReceived(_) => {
            "the client refused this host's certificate: is it signed by the certificate-authority of the \
             apiserver's kubeconfig, and for the host name in its `server`?"
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the client's certificate is not signed by tls.clientCA"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => {
            "the client's certificate is not for clients: extendedKeyUsage lacks clientAuth (kubeadm's \
             apiserver.crt is a serving certificate; apiserver-kubelet-client.crt is for clients)"
        }
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))
            if cause.is::<Refused>() =>
        {
            return cause.to_string();
        }
        _ if plain.contains("UnsupportedCertVersion") => {
            "the client's certificate is X.509 v1: make it v3 (openssl x509 -req needs -extfile)"
        }
        _ if plain.contains("CaUsedAsEndEntity") => {
            "the client's certificate is a certificate authority's own: sign one for the client that is not \
             CA:TRUE"
        }
        _ => return text::escape(&plain),
    };
    format!("{advice} ({})", text::escape(&plain))
}
