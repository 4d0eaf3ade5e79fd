//! Certificates with any defect that a test needs, from a new authority.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SigningKey as _,
};
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

/// Properties of a certificate. The default is sound, and has no usage.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Wanted {
    pub(crate) common_name: String,
    /// DNS names and addresses of the subjectAltName; without any the extension is missing.
    pub(crate) names: Vec<String>,
    /// Values of extendedKeyUsage; without any the extension is missing.
    pub(crate) usages: Vec<Usage>,
    /// CA:TRUE
    pub(crate) authority: bool,
    pub(crate) valid: Validity,
    pub(crate) signer: Signer,
    /// Whether the certificate is X.509 v1, self-signed, without extensions.
    pub(crate) version1: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Usage {
    ServerAuth,
    ClientAuth,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Validity {
    #[default]
    Now,
    /// Valid for a year, of which twenty hours remain.
    Expiring,
    Expired,
    NotYet,
    /// Valid for this many more seconds.
    Seconds(i64),
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Signer {
    /// The authority that both sides trust.
    #[default]
    Authority,
    /// An intermediate authority that the trusted one signed. Its certificate is appended to the chain.
    Intermediate,
    /// An authority that neither side trusts.
    Stranger,
    Itself,
}

impl Wanted {
    pub(crate) fn server() -> Wanted {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
        Wanted {
            common_name: "image-policy-host".to_owned(),
            names,
            usages: vec![Usage::ServerAuth],
            ..Wanted::default()
        }
    }

    pub(crate) fn client() -> Wanted {
        Wanted {
            common_name: "kube-apiserver".to_owned(),
            usages: vec![Usage::ClientAuth],
            ..Wanted::default()
        }
    }
}

/// A chain, leaf first, and the leaf's private key, in PEM form.
pub(crate) struct Identity {
    pub(crate) chain: String,
    pub(crate) key: String,
}

/// The authorities of a test.
pub(crate) struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
    stranger: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Pki {
        Pki::valid(Validity::Now)
    }

    /// Makes an authority with this validity, and a sound intermediate one.
    pub(crate) fn valid(valid: Validity) -> Pki {
        let key = || KeyPair::generate().unwrap();
        let named = |name: &str| authority(name, Validity::Now);
        let top = CertifiedIssuer::self_signed(authority("authority", valid), key()).unwrap();
        let intermediate = CertifiedIssuer::signed_by(named("intermediate"), key(), &top).unwrap();
        let stranger = CertifiedIssuer::self_signed(named("stranger"), key()).unwrap();
        Pki { authority: top, intermediate, stranger }
    }

    /// Returns the trusted authority's certificate with another validity, as when it is renewed with its old
    /// key.
    pub(crate) fn renewed(&self, valid: Validity) -> String {
        authority("authority", valid).self_signed(self.authority.key()).unwrap().pem()
    }

    /// Returns the certificate of the trusted authority, in PEM form.
    pub(crate) fn authority(&self) -> String {
        self.authority.pem()
    }

    pub(crate) fn issue(&self, wanted: &Wanted) -> Identity {
        let key = KeyPair::generate().unwrap();
        let parameters = parameters(wanted);
        let chain = match wanted.signer {
            _ if wanted.version1 => version1(&wanted.common_name, &key),
            Signer::Authority => parameters.signed_by(&key, &self.authority).unwrap().pem(),
            Signer::Intermediate => {
                let leaf = parameters.signed_by(&key, &self.intermediate).unwrap();
                leaf.pem() + &self.intermediate.pem()
            }
            Signer::Stranger => parameters.signed_by(&key, &self.stranger).unwrap().pem(),
            Signer::Itself => parameters.self_signed(&key).unwrap().pem(),
        };
        Identity { chain, key: key.serialize_pem() }
    }
}

/// Returns the certificate of an authority whose key is not kept.
pub(crate) fn lone_authority(name: &str) -> String {
    authority(name, Validity::Now).self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn authority(name: &str, valid: Validity) -> CertificateParams {
    parameters(&Wanted { common_name: name.to_owned(), authority: true, valid, ..Wanted::default() })
}

fn parameters(wanted: &Wanted) -> CertificateParams {
    let mut parameters = CertificateParams::new(wanted.names.clone()).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, wanted.common_name.as_str());
    parameters.extended_key_usages = wanted
        .usages
        .iter()
        .map(|usage| match usage {
            Usage::ServerAuth => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::ClientAuth => ExtendedKeyUsagePurpose::ClientAuth,
        })
        .collect();
    if wanted.authority {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    }
    let (from, to) = match wanted.valid {
        Validity::Now => (-24, Duration::hours(24)),
        Validity::Expiring => (-364 * 24, Duration::hours(20)),
        Validity::Expired => (-3 * 24, Duration::hours(-24)),
        Validity::NotYet => (24, Duration::hours(3 * 24)),
        Validity::Seconds(seconds) => (-24, Duration::seconds(seconds)),
    };
    let now = OffsetDateTime::now_utc();
    parameters.not_before = now + Duration::hours(from);
    parameters.not_after = now + to;
    parameters
}

/// Makes a certificate of X.509 v1, as `openssl x509 -req` does without `-extfile`. rcgen makes v3 only.
fn version1(common_name: &str, key: &KeyPair) -> String {
    let ecdsa_with_sha256 = der(0x30, &[&[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]]);
    let name = der(
        0x30,
        &[&der(0x31, &[&der(0x30, &[&[0x06, 3, 0x55, 4, 3], &der(0x0c, &[common_name.as_bytes()])])])],
    );
    let time = |text: &str| der(0x17, &[text.as_bytes()]);
    let validity = der(0x30, &[&time("200101000000Z"), &time("491231235959Z")]);
    let serial = [0x02, 1, 1];
    let public_key = key.subject_public_key_info();
    let to_sign = der(0x30, &[&serial, &ecdsa_with_sha256, &name, &validity, &name, &public_key]);
    let signature = key.sign(&to_sign).unwrap();
    let certificate = der(0x30, &[&to_sign, &ecdsa_with_sha256, &der(0x03, &[&[0], &signature])]);
    pem("CERTIFICATE", &certificate)
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap();
    let [high, low] = length.to_be_bytes();
    let mut encoded = match length {
        0..128 => vec![tag, low],
        128..256 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    encoded.extend(content);
    encoded
}

/// Encodes `der` as PEM, on one long line of base64, which parsers accept.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut base64 = String::new();
    for chunk in der.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * index) & 63) as usize];
            base64.push(if index <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
}
