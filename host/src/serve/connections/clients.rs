//! Clients, as far as each has a share of what all use: one certificate's subject is one client, whatever number of
//! certificates it has.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use rustls::pki_types::CertificateDer;

use crate::evaluate::turns::Client;
use crate::tls;

/// Returns the client behind `peer`. `chain` is the certificates that it has shown, which are verified.
pub(in crate::serve) fn client(peer: SocketAddr, chain: &[CertificateDer<'_>]) -> Client {
    let subject = chain.first().and_then(tls::identity);
    subject.map_or_else(|| Client::Address(network(peer)), |subject| Client::Subject(subject.into()))
}

/// Returns the address of `peer`. Of IPv6 that is its network: one machine has all addresses of a /64.
pub(in crate::serve) fn network(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}
