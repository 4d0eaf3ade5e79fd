//! Comparison with the container runtimes: 50,000 generated references are read by the host and by
//! distribution/reference, a Go module (`upstream.go`), and the fields are compared. A reference that the
//! host rejects although upstream accepts it must be of a documented kind. The host accepts none that
//! upstream rejects.
//!
//! `cargo test -p reference` needs Go, and a module proxy or its cache. The seed is printed;
//! `REFERENCE_SEED=N` makes the references of another one.

#[cfg(test)]
mod make;
#[cfg(test)]
#[path = "../support/go.rs"]
mod go;
#[cfg(test)]
mod upstream;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write as _;

    use anyhow::{Context as _, Result, ensure};
    use image_reference::{Image, ImageError, RegistryError, refuse_image_id};

    use crate::make;
    use crate::upstream::{Fields, Upstream};

    const COUNT: usize = 50_000;
    const SEED: u64 = 20_260_101;

    type IsKind = fn(&ImageError) -> bool;

    /// The kinds of references that the host rejects although upstream accepts them. Each is documented in
    /// host/image-reference/src/reference.rs.
    const KINDS: [(&str, IsKind); 11] = [
        ("upper-case letters in a registry", |error| is(error, |fault| *fault == RegistryError::UpperCase)),
        ("`_` in a registry", |error| {
            is(
                error,
                |fault| matches!(fault, RegistryError::Character(character) if character.to_string() == "_"),
            )
        }),
        ("a port that is none, or has leading zeros", |error| {
            is(error, |fault| matches!(fault, RegistryError::Port(_)))
        }),
        ("brackets around what is no IPv6 address", |error| is(error, |fault| *fault == RegistryError::Ipv6)),
        ("another spelling of an IPv6 address", |error| {
            is(error, |fault| matches!(fault, RegistryError::Ipv6Spelling(_)))
        }),
        ("an IPv4 address as IPv6", |error| is(error, |fault| matches!(fault, RegistryError::Ipv4InIpv6(_)))),
        ("a host that ends in a number and is no IPv4 address", |error| {
            is(error, |fault| *fault == RegistryError::Number)
        }),
        ("an unspecified address", |error| is(error, |fault| *fault == RegistryError::Unspecified)),
        ("a host name longer than DNS allows", |error| {
            is(error, |fault| matches!(fault, RegistryError::TooLong(_)))
        }),
        ("an image ID", |error| matches!(error, ImageError::ImageId(_))),
        ("longer than any reference in normal form", |error| matches!(error, ImageError::TooLong(_))),
    ];

    /// Returns whether a reference is rejected for this fault of its registry.
    fn is(error: &ImageError, fault: impl Fn(&RegistryError) -> bool) -> bool {
        matches!(error, ImageError::Registry(_, found) if fault(found))
    }

    #[test]
    fn the_host_reads_references_as_the_container_runtimes_do() {
        compare().unwrap();
    }

    fn compare() -> Result<()> {
        let seed = match std::env::var("REFERENCE_SEED") {
            Ok(seed) => seed.parse().context("REFERENCE_SEED is no number")?,
            Err(_) => SEED,
        };
        let upstream = Upstream::build()?;
        let mut tables = upstream.tables()?;
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../cases/references.json");
        tables.extend(make::inputs(&std::fs::read_to_string(own)?)?);
        let references = make::references(seed, &tables, COUNT);
        let read = upstream.read(&references)?;

        let mut counts: BTreeMap<&str, usize> = KINDS.iter().map(|(kind, _)| (*kind, 0)).collect();
        let (mut equal, mut neither, mut different) = (0, 0, Vec::new());
        for (text, theirs) in references.iter().zip(read) {
            let ours = refuse_image_id(text).and_then(|()| Image::parse(text));
            match (&ours, &theirs) {
                (Err(_), None) => neither += 1,
                (Ok(ours), Some(theirs)) if same(ours, theirs) => equal += 1,
                (Err(error), Some(_))
                    if let Some((kind, _)) = KINDS.iter().find(|(_, is_kind)| is_kind(error)) =>
                {
                    *counts.entry(kind).or_default() += 1;
                }
                _ => different.push(format!("{text:?}\n  host:     {ours:?}\n  upstream: {theirs:?}")),
            }
        }
        // The test harness would show other output only with `--nocapture` or after a failure.
        let mut out = std::io::stderr();
        writeln!(
            out,
            "REFERENCE_SEED={seed}: {COUNT} references, {} of them distinct",
            make::distinct(&references)
        )?;
        writeln!(out, "{equal:>7}  read with the same fields by both\n{neither:>7}  refused by both")?;
        for (kind, count) in &counts {
            writeln!(out, "{count:>7}  refused by the host alone: {kind}")?;
        }
        ensure!(
            different.is_empty(),
            "seed {seed}: {} undocumented differences, such as\n{}",
            different.len(),
            different.get(..different.len().min(20)).unwrap_or_default().join("\n")
        );
        ensure!(equal > COUNT / 10 && neither > COUNT / 10, "seed {seed}: the references show too little");
        Ok(())
    }

    /// Returns whether all fields are the same.
    fn same(ours: &Image, theirs: &Fields) -> bool {
        ours.registry == theirs.registry
            && ours.repository == theirs.repository
            && ours.tag == theirs.tag
            && ours.digest == theirs.digest
    }
}
