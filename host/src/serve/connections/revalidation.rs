//! Revalidation of the client of an open connection. The trust in a client ends with the validity of its
//! certificates, or with the TLS material that verified them.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::lifetime::Directive;
use crate::tls::{Tls, TlsReader};

/// The client's certificates, and the TLS material that verified them.
pub(in crate::serve) struct Trust {
    /// Reader of the material in force. It saw last the material that verified the chain.
    material: TlsReader,
    /// Empty if no client certificate is required.
    chain: Vec<CertificateDer<'static>>,
    /// Time at which the trust ends, unless other TLS material ends it before.
    until: Option<SystemTime>,
}

impl Trust {
    /// Creates the trust in a client whose `chain` was verified `by` the material that `material` saw last.
    pub(in crate::serve) fn new(material: TlsReader, by: &Tls, chain: Vec<CertificateDer<'static>>) -> Trust {
        let until = by.trusted_until(&chain);
        Trust { material, chain, until }
    }

    /// Returns the client's certificate chain, leaf first.
    pub(in crate::serve) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Returns a reader that waits for the next change of the material.
    pub(in crate::serve) fn material(&self) -> TlsReader {
        self.material.clone()
    }

    /// Returns the directive that follows from the material in force and the time. Returns None if the client
    /// is trusted as before.
    pub(in crate::serve) fn check(&mut self, now: SystemTime) -> Option<Directive> {
        let renewed = self.material.has_changed();
        if !renewed && self.until.is_none_or(|until| now < until) {
            return None;
        }
        let material = if renewed { self.material.see() } else { self.material.current() };
        self.until = material.trusted_until(&self.chain);
        if self.until.is_some_and(|until| until <= now) {
            return Some(Directive::Revoke);
        }
        renewed.then_some(Directive::Retire)
    }
}
