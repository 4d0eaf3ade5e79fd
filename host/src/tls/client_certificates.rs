//! Verification of client certificates: the chain up to an authority that is valid itself, and the configured
//! names.

use std::cell::Cell;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore};
use rustls::{Error, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::limits;
use crate::text;

/// Verifier of clients: a client needs a certificate of an authority and, where names are configured, one of
/// those names.
#[derive(Debug)]
pub(super) struct Clients {
    /// The authorities in the form that webpki takes. webpki does not check their validity.
    anchors: Vec<TrustAnchor<'static>>,
    /// The same authorities, in the same order.
    authorities: Vec<Authority>,
    names: Vec<String>,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    /// rustls' own verifier: it explains why a chain leads to no authority, and verifies signatures.
    inner: Arc<dyn ClientCertVerifier>,
}

/// An authority's name, and its validity in seconds since 1970.
#[derive(Debug)]
struct Authority {
    subject: String,
    not_before: i64,
    not_after: i64,
}

/// The reason why certificates cannot verify clients.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A certificate that is no authority's.
    #[error("a certificate in it cannot be a certificate authority: {0}")]
    NoAuthority(Error),
    /// A certificate with a wrong encoding.
    #[error("a certificate in it cannot be read: {0}")]
    Unreadable(x509_parser::nom::Err<X509Error>),
    /// A key with which no signature can be verified. Otherwise the host would reject each client of the
    /// authority with this subject.
    #[error(
        "the key of {0} can verify no client: this host takes RSA of 2048 to 8192 bits, ECDSA on P-256 or \
         P-384, and Ed25519"
    )]
    Key(String),
    /// More authorities of one name than webpki tries.
    #[error("{}", limits::AUTHORITIES_OF_A_NAME.says(.0, limits::AUTHORITIES_OF_A_NAME.default))]
    SameName(usize),
    /// rustls rejects the authorities together.
    #[error(transparent)]
    Verifier(VerifierBuilderError),
}

/// The reason why a client with a valid chain is rejected.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("the client's certificate is for {0}, which is not among tls.clientNames")]
    WrongName(String),
    #[error(
        "the client's certificate is signed by {0}, an authority of tls.clientCA that has EXPIRED: replace \
         both certificates"
    )]
    AuthorityExpired(String),
    #[error(
        "the client's certificate is signed by {0}, an authority of tls.clientCA that is not valid yet: is \
         this machine's clock right?"
    )]
    AuthorityNotYetValid(String),
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        CertificateError::Other(OtherError(Arc::new(refused))).into()
    }
}

impl Clients {
    /// Reads the certificates of the authorities.
    ///
    /// # Errors
    /// Returns an error if one of the certificates cannot verify clients.
    pub(super) fn new(
        certificates: &[CertificateDer<'static>],
        names: &[String],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Clients, AuthorityError> {
        let algorithms = provider.signature_verification_algorithms;
        let mut roots = RootCertStore::empty();
        let mut authorities = Vec::new();
        for certificate in certificates {
            roots.add(certificate.clone()).map_err(AuthorityError::NoAuthority)?;
            authorities.push(Authority::read(certificate, &algorithms)?);
        }
        let anchors = roots.roots.clone();
        check_names(&anchors)?;
        let hints = hints(&roots);
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(AuthorityError::Verifier)?;
        Ok(Clients { anchors, authorities, names: names.to_vec(), hints, algorithms, inner })
    }

    /// Returns the last second, since 1970, at which a client with this chain is trusted.
    pub(super) fn trusted_until(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<i64, Error> {
        let until = Cell::new(None);
        let refused = Cell::new(None);
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let accept = |path: &VerifiedPath<'_>| match self.authority(path.anchor(), seconds) {
            Ok(authority) => {
                let intermediates = path.intermediate_certificates().map(|one| not_after(&one.der()));
                until.set(intermediates.chain([not_after(end_entity), authority.not_after]).min());
                Ok(())
            }
            Err(why) => {
                refused.set(Some(why));
                // Another authority of the same name may be valid.
                Err(webpki::Error::UnknownIssuer)
            }
        };
        let usage = KeyUsage::client_auth();
        let certificate = EndEntityCert::try_from(end_entity);
        let verified = certificate.is_ok_and(|certificate| {
            let (algorithms, anchors) = (self.algorithms.all, self.anchors.as_slice());
            certificate
                .verify_for_usage(algorithms, anchors, intermediates, now, usage, None, Some(&accept))
                .is_ok()
        });
        match (verified, until.take(), refused.take()) {
            (true, Some(until), _) => Ok(until),
            (_, _, Some(refused)) => Err(refused.into()),
            _ => match self.inner.verify_client_cert(end_entity, intermediates, now) {
                Err(error) => Err(error),
                Ok(_) => Err(CertificateError::UnknownIssuer.into()),
            },
        }
    }

    /// Returns the authority of `anchor` that is valid for longest. A renewed authority with its old key
    /// occurs twice.
    fn authority(&self, anchor: &TrustAnchor<'_>, now: i64) -> Result<&Authority, Refused> {
        let all = self.anchors.iter().zip(&self.authorities);
        let same = || all.clone().filter(|(other, _)| *other == anchor).map(|(_, authority)| authority);
        if let Some(valid) = same().filter(|one| one.is_valid(now)).max_by_key(|one| one.not_after) {
            return Ok(valid);
        }
        Err(match same().find(|one| one.not_before > now) {
            Some(future) => Refused::AuthorityNotYetValid(future.subject.clone()),
            None => {
                Refused::AuthorityExpired(same().next().map(|one| one.subject.clone()).unwrap_or_default())
            }
        })
    }
}

impl Authority {
    fn read(
        certificate: &CertificateDer<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<Authority, AuthorityError> {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(AuthorityError::Unreadable)?;
        let subject = text::escape_and_truncate(&certificate.subject().to_string(), 256);
        if !can_verify(&certificate, algorithms) {
            return Err(AuthorityError::Key(subject));
        }
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Authority { subject, not_before, not_after })
    }

    fn is_valid(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// Returns whether signatures of an authority's key can be verified.
fn can_verify(certificate: &X509Certificate<'_>, algorithms: &WebPkiSupportedAlgorithms) -> bool {
    let key = certificate.public_key();
    // The AlgorithmIdentifier without its tag and its length, which has one byte.
    let identifier = key.raw.get(header_length(key.raw)..).and_then(|inner| {
        let length = usize::from(*inner.get(1)?);
        inner.get(2..length.checked_add(2)?)
    });
    let known = algorithms.all.iter().any(|one| Some(one.public_key_alg_id().as_ref()) == identifier);
    known
        && match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => (2048..=8192).contains(&rsa.key_size()),
            _ => true,
        }
}

/// Returns the number of bytes of a DER element's tag and length.
fn header_length(der: &[u8]) -> usize {
    match der.get(1) {
        Some(long) if *long >= 0x80 => 2 + usize::from(long & 0x7f),
        _ => 2,
    }
}

/// Checks the number of authorities with the same name: webpki tries a client's chain with each of them, and
/// gives up after a hundred.
fn check_names(anchors: &[TrustAnchor<'_>]) -> Result<(), AuthorityError> {
    let mut names: Vec<&[u8]> = anchors.iter().map(|anchor| anchor.subject.as_ref()).collect();
    names.sort_unstable();
    let most = names.chunk_by(|one, next| one == next).map(<[_]>::len).max().unwrap_or_default();
    if most > limits::AUTHORITIES_OF_A_NAME.size() { Err(AuthorityError::SameName(most)) } else { Ok(()) }
}

/// Returns the names of the authorities, by which a client can choose its certificate. The list is empty if
/// the names do not fit into a handshake.
fn hints(roots: &RootCertStore) -> Vec<DistinguishedName> {
    let subjects = roots.subjects();
    let bytes: usize = subjects.iter().map(|subject| subject.as_ref().len() + 2).sum();
    if bytes > limits::AUTHORITY_NAMES.size() { Vec::new() } else { subjects }
}

/// Returns the last second of a certificate's validity, or 0 if the certificate cannot be read.
fn not_after(certificate: &CertificateDer<'_>) -> i64 {
    X509Certificate::from_der(certificate).map_or(0, |(_, one)| one.validity().not_after.timestamp())
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trusted_until(end_entity, intermediates, now)?;
        if self.names.is_empty() {
            return Ok(ClientCertVerified::assertion());
        }
        let names = names_of(end_entity);
        if names.iter().any(|name| self.names.contains(name)) {
            return Ok(ClientCertVerified::assertion());
        }
        let shown: Vec<_> = names.iter().map(|name| text::escape_and_truncate(name, 128)).collect();
        Err(Refused::WrongName(text::truncate(&shown.join(", "), 512)).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Returns the common name, and the DNS names among the alternative names.
fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<String> = common.map(str::to_owned).collect();
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        names.extend(alternative.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        }));
    }
    names
}
