//! A registry: its host and port. Each place has one spelling; the others that a runtime would dial to the
//! same place are refused.

use alloc::string::ToString;
use core::net::{Ipv4Addr, Ipv6Addr};

use crate::excerpt::Excerpt;

/// Longest host name of DNS in dotted form, in bytes (RFC 1035 §2.3.4).
const MAX_HOST: usize = 253;

/// The registry of a reference that names none.
pub(crate) const DOCKER_HUB: &str = "docker.io";
/// The name that Docker Hub's registry had before; still read as [`DOCKER_HUB`].
pub(crate) const DOCKER_INDEX: &str = "index.docker.io";

/// The fault of a registry, as the rest of a sentence that begins "registry `…`".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Upper-case letters.
    #[error("has upper-case letters: write it in lower case")]
    UpperCase,
    /// A character that no host name has.
    #[error("has `{0}`: a host name takes letters, digits, `-` and `.`")]
    Character(Excerpt),
    /// An empty label, or a label with `-` at an edge.
    #[error("is no host name: what stands between dots begins and ends with a letter or digit")]
    Label,
    /// A host name of more than 253 bytes; holds how many.
    #[error("has a host name of {0} bytes: at most {MAX_HOST} are allowed")]
    TooLong(usize),
    /// Brackets around what the grammar takes for no IPv6 address.
    #[error("is no IPv6 address as references take it: write it like `[2001:db8::1]`")]
    Ipv6,
    /// Another spelling of an IPv6 address; holds the canonical one.
    #[error("spells its address in a way that hides it from rules: write `[{0}]`")]
    Ipv6Spelling(Ipv6Addr),
    /// An IPv4 address in the form of an IPv6 address.
    #[error("is an IPv4 address written as IPv6, which hides it from rules: write `{0}`")]
    Ipv4InIpv6(Ipv4Addr),
    /// A number as the last label, and no IPv4 address in canonical form: `127.1`, `0x7f.0.0.1`,
    /// `2130706433`.
    #[error(
        "ends in a number, which some resolvers read as an IPv4 address: write four decimal numbers like \
            `192.0.2.1`"
    )]
    Number,
    /// An unspecified address, which dials the node itself.
    #[error(
        "is the unspecified address, which a runtime dials as its own node: write the registry's own address"
    )]
    Unspecified,
    /// No port number in canonical form.
    #[error("has no port `{0}`: write a number from 1 to 65535 without leading zeros")]
    Port(Excerpt),
    /// Nothing after the colon.
    #[error("has no port after `:`: write one, or leave out the `:`")]
    PortMissing,
}

/// Splits a registry into its host and its port.
pub(crate) fn split_port(registry: &str) -> (&str, Option<&str>) {
    match registry.rsplit_once(':') {
        // The last colon of an address without a port is inside its brackets.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    }
}

/// Checks that a registry is one, in the one spelling that it has.
pub(crate) fn check(registry: &str) -> Result<(), RegistryError> {
    if registry.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(RegistryError::UpperCase);
    }
    let (host, port) = split_port(registry);
    check_host(host)?;
    port.map_or(Ok(()), check_port)
}

fn check_host(host: &str) -> Result<(), RegistryError> {
    if host.contains([':', '[', ']']) {
        return check_ipv6(host);
    }
    if host.len() > MAX_HOST {
        return Err(RegistryError::TooLong(host.len()));
    }
    if let Some(c) = host.chars().find(|&c| !(c.is_ascii_alphanumeric() || c == '.' || c == '-')) {
        return Err(RegistryError::Character(Excerpt::of_char(c)));
    }
    if !host.split('.').all(is_label) {
        return Err(RegistryError::Label);
    }
    check_ipv4(host)
}

fn check_ipv6(host: &str) -> Result<(), RegistryError> {
    // Digits and colons only: the grammar takes neither zone (`%eth0`) nor dotted IPv4 part.
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let plain =
        address.filter(|a| a.bytes().all(|b| is_lower_hex(b) || b == b':')).ok_or(RegistryError::Ipv6)?;
    let read: Ipv6Addr = plain.parse().map_err(|_| RegistryError::Ipv6)?;
    if let Some(v4) = read.to_ipv4_mapped() {
        return Err(if v4.is_unspecified() {
            RegistryError::Unspecified
        } else {
            RegistryError::Ipv4InIpv6(v4)
        });
    }
    if read.is_unspecified() {
        return Err(RegistryError::Unspecified);
    }
    // The form of RFC 5952: one place, one spelling.
    if read.to_string() == plain { Ok(()) } else { Err(RegistryError::Ipv6Spelling(read)) }
}

/// Refuses every number but an IPv4 address in canonical form. `getaddrinfo` reads `127.1`, `0177.0.0.1` and
/// `2130706433` as `127.0.0.1`, Go's own resolver does not, and no top-level domain is a number.
fn check_ipv4(host: &str) -> Result<(), RegistryError> {
    let last = host.rsplit('.').next().unwrap_or_default();
    let digits = last.bytes().all(|b| b.is_ascii_digit());
    let hexadecimal = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(is_lower_hex));
    if !digits && !hexadecimal {
        return Ok(());
    }
    match host.parse::<Ipv4Addr>() {
        // `0.0.0.0/8` is this host on this network.
        Ok(address) if address.octets().first() == Some(&0) => Err(RegistryError::Unspecified),
        Ok(_) => Ok(()),
        Err(_) => Err(RegistryError::Number),
    }
}

pub(crate) fn check_port(port: &str) -> Result<(), RegistryError> {
    if port.is_empty() {
        return Err(RegistryError::PortMissing);
    }
    let canonical = !port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(_) if canonical => Ok(()),
        _ => Err(RegistryError::Port(Excerpt::of(port))),
    }
}

/// Returns whether this is one label of a host name, in lower case.
pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

pub(crate) fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}
