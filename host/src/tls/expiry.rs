//! Expiry of certificates, and the notices about it. The caller passes the current time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::text;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Days before the expiry at which a notice is given, the latest notice first.
const AHEAD: [u32; 3] = [1, 7, 30];
/// If a certificate's lifetime is at most `LIVES` times the days of a notice, that notice is skipped: a
/// machine is assumed to renew such a certificate shortly before it expires.
const LIVES: u32 = 3;

/// The purpose of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The certificate that the host presents to clients.
    Serving,
    /// A certificate that the host presents beside its own, for clients that do not have it.
    ServingChain,
    /// An authority that signs client certificates.
    ClientCa,
}

impl Role {
    /// All roles, in order.
    pub const ALL: [Role; 3] = [Role::Serving, Role::ServingChain, Role::ClientCa];

    /// Returns the consequence of an invalid certificate of this role.
    fn consequence(self) -> &'static str {
        match self {
            Role::Serving => "clients refuse to connect to this host",
            Role::ServingChain => {
                "clients that need it on the way to an authority of theirs refuse to connect to this host"
            }
            Role::ClientCa => "clients whose certificates it has signed are refused",
        }
    }

    /// Returns the name in metrics and in `/readyz`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Serving => "serving",
            Role::ServingChain => "serving-chain",
            Role::ClientCa => "client-ca",
        }
    }
}

/// A certificate in force, with its validity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Certificate {
    /// The purpose.
    pub role: Role,
    /// The file that holds the certificate.
    pub file: PathBuf,
    /// The subject, escaped, on one line.
    pub subject: String,
    not_before: SystemTime,
    /// The end of the validity.
    pub not_after: SystemTime,
}

/// The state of a certificate for which a notice is due, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// The certificate has expired; the negated number of whole days since then.
    Expired(i64),
    /// The validity has not begun.
    NotYet,
    /// The certificate expires within this number of days.
    Within(u32),
}

impl Certificate {
    /// Reads the subject and the validity of a certificate. Returns None if the certificate cannot be read.
    pub(super) fn new(role: Role, file: &Path, certificate: &CertificateDer<'_>) -> Option<Certificate> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let validity = certificate.validity();
        Some(Certificate {
            role,
            file: file.to_owned(),
            subject: text::escape_and_truncate(&certificate.subject().to_string(), 256),
            not_before: system_time(validity.not_before),
            not_after: system_time(validity.not_after),
        })
    }

    /// Returns the state of the certificate. Returns None if no notice is due.
    pub fn nearness(&self, now: SystemTime) -> Option<Nearness> {
        let left = match self.not_after.duration_since(now) {
            Ok(left) if !left.is_zero() => left,
            ended => {
                let since = ended.err().map_or(Duration::ZERO, |since| since.duration());
                return Some(Nearness::Expired(-((since.as_secs() / DAY.as_secs()) as i64)));
            }
        };
        if now < self.not_before {
            return Some(Nearness::NotYet);
        }
        let lives = self.not_after.duration_since(self.not_before).unwrap_or_default();
        let within = AHEAD.into_iter().find(|days| left <= DAY * *days)?;
        (lives > DAY * LIVES * within).then_some(Nearness::Within(within))
    }

    /// Returns the notice, on one line. Returns None if none is due.
    pub fn notice(&self, now: SystemTime) -> Option<String> {
        let at = humantime::format_rfc3339_seconds(self.not_after);
        let (role, subject) = (self.role.name(), &self.subject);
        let message = match self.nearness(now)? {
            Nearness::Within(_) => {
                let left = self.not_after.duration_since(now).unwrap_or_default();
                let left = match left.as_secs() / DAY.as_secs() {
                    0 => "in less than a day".to_owned(),
                    1 => "in a day".to_owned(),
                    days => format!("in {days} days"),
                };
                format!("the {role} certificate of {subject} expires on {at}, {left}: replace the file")
            }
            Nearness::NotYet => {
                let from = humantime::format_rfc3339_seconds(self.not_before);
                let consequence = self.role.consequence();
                format!(
                    "the {role} certificate of {subject} is NOT VALID before {from}, so {consequence} until \
                     then: check this machine's clock, or replace the file"
                )
            }
            Nearness::Expired(_) => {
                let consequence = self.role.consequence();
                format!(
                    "the {role} certificate of {subject} has EXPIRED on {at}, so {consequence}: replace the \
                     file"
                )
            }
        };
        Some(message)
    }
}

fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

/// The notices already given. Each notice is given once, but the notice of an expired certificate once a day.
#[derive(Default)]
pub struct Notices(BTreeMap<Certificate, Nearness>);

impl Notices {
    /// Returns the notices that are due `now` for the certificates in force, and records these as given.
    pub fn due(&mut self, certificates: &[Certificate], now: SystemTime) -> Vec<(Nearness, String)> {
        self.0.retain(|certificate, _| certificates.contains(certificate));
        let mut due = Vec::new();
        for certificate in certificates {
            let Some(nearness) = certificate.nearness(now) else { continue };
            let said = self.0.get(certificate).is_some_and(|said| *said <= nearness);
            if let (false, Some(notice)) = (said, certificate.notice(now)) {
                self.0.insert(certificate.clone(), nearness);
                due.push((nearness, notice));
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BORN: Duration = Duration::from_secs(1_700_000_000);

    fn certificate(days: u32) -> Certificate {
        let not_before = UNIX_EPOCH + BORN;
        Certificate {
            role: Role::Serving,
            file: "cert.pem".into(),
            subject: "CN=host".to_owned(),
            not_before,
            not_after: not_before + DAY * days,
        }
    }

    /// Returns the notices given by checks every six hours, from the first day of the validity to three days
    /// after its end.
    fn said(certificate: &Certificate, days: u32) -> Vec<String> {
        let mut notices = Notices::default();
        let looks = (0..=4 * (days + 3)).map(|quarter| UNIX_EPOCH + BORN + DAY / 4 * quarter);
        let due = looks.flat_map(|now| notices.due(std::slice::from_ref(certificate), now));
        due.map(|(nearness, notice)| {
            let (_, end) = notice.split_once("CN=host ").unwrap();
            let when = end.split_once("Z, ").map_or(end, |(_, when)| when);
            format!("{nearness:?}: {when}")
        })
        .collect()
    }

    #[test]
    fn it_is_said_in_time_and_once() {
        let expired = ["Expired(0)", "Expired(-1)", "Expired(-2)", "Expired(-3)"]
            .map(|when| format!("{when}: so clients refuse to connect to this host: replace the file"));
        let ahead = |some: &[&str]| -> Vec<String> {
            let ahead = some.iter().map(|when| format!("{when}: replace the file"));
            ahead.chain(expired.iter().cloned()).collect()
        };
        let (month, week, day) = ("Within(30): in 30 days", "Within(7): in 7 days", "Within(1): in a day");
        assert_eq!(said(&certificate(365), 365), ahead(&[month, week, day]));
        assert_eq!(said(&certificate(91), 91), ahead(&[month, week, day]));
        assert_eq!(
            said(&certificate(90), 90),
            ahead(&[week, day]),
            "replaced by a machine, with 30 days left"
        );
        assert_eq!(said(&certificate(7), 7), ahead(&[day]));
        assert_eq!(said(&certificate(2), 2), ahead(&[]));
    }

    #[test]
    fn another_certificate_is_another_matter() {
        let (old, new) = (certificate(365), certificate(366));
        let now = UNIX_EPOCH + BORN + DAY * 360;
        let mut notices = Notices::default();
        assert_eq!(notices.due(std::slice::from_ref(&old), now).len(), 1);
        assert_eq!(notices.due(&[old.clone(), new.clone()], now).len(), 1);
        assert_eq!(notices.due(std::slice::from_ref(&new), now), []);
        assert_eq!(notices.due(std::slice::from_ref(&old), now).len(), 1, "it is back");
    }
}
