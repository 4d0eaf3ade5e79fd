//! Certificates that the host makes itself, for the demo.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// A certificate and its private key, in PEM form.
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS #8.
    pub key: String,
}

/// A certificate authority with one server and one client.
pub struct Pki {
    /// The authority's certificate. Its key is not kept.
    pub authority: String,
    /// The server's, for `localhost`, `127.0.0.1` and `::1`.
    pub server: Identity,
    /// The apiserver's, with common name `kube-apiserver`.
    pub client: Identity,
}

/// Makes an authority and two identities, valid for a year.
///
/// # Errors
/// Returns an error if the system gives no random numbers.
pub fn make() -> Result<Pki, rcgen::Error> {
    let mut authority = params("image-policy-host demo CA", &[])?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

    let sign = |mut params: CertificateParams, usage| -> Result<Identity, rcgen::Error> {
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &authority)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    };
    Ok(Pki {
        server: sign(
            params("image-policy-host", &["localhost", "127.0.0.1", "::1"])?,
            ExtendedKeyUsagePurpose::ServerAuth,
        )?,
        client: sign(params("kube-apiserver", &[])?, ExtendedKeyUsagePurpose::ClientAuth)?,
        authority: authority.pem(),
    })
}

fn params(common_name: &str, names: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = time::OffsetDateTime::now_utc();
    // Clocks differ a little between machines.
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(365);
    Ok(params)
}
