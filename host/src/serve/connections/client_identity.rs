//! Identity of clients, for their shares of memory, connections and turns. A certificate subject is one
//! client, regardless of the number of its certificates.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use rustls::pki_types::CertificateDer;

use crate::evaluate::turns::Client;
use crate::tls;

/// Returns the client at `peer`. `chain` is the client's verified certificate chain. Without a chain, the
/// client is identified by its network.
pub(in crate::serve) fn client(peer: SocketAddr, chain: &[CertificateDer<'_>]) -> Client {
    let subject = chain.first().and_then(tls::identity);
    subject.map_or_else(|| Client::Address(network(peer)), |subject| Client::Subject(subject.into()))
}

/// Returns the address of `peer`. For IPv6 returns the /64 network, since one machine has all addresses of a
/// /64.
pub(in crate::serve) fn network(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}
