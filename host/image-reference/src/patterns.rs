//! Many patterns, of which an image is compared with few.

use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::Reference;
use crate::pattern::{Pattern, Shape, known_as};
use crate::registry::split_port;

/// Patterns in the order written, with an index: the cost of a search hardly grows with their number.
///
/// Most patterns name a registry and the first segments of a path, which the name of every image meant begins
/// with. The patterns are sorted by these; each beginning of an image's name is then looked up.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    list: Vec<Pattern>,
    /// Positions in `list`, sorted by [`Pattern::beginning`] and then by themselves.
    index: Vec<u32>,
    /// Positions of the first patterns in `list`, sorted by [`Pattern::literal`] and then by themselves, to
    /// find what a denial was near.
    by_path: Vec<u32>,
    /// The position of a pattern of each of the first registries without a `*`, to find what a denial was
    /// near.
    hosts: Vec<u32>,
    /// The shapes of hosts that there are, but for that without a `*`.
    shapes: Vec<Shape>,
    denies: bool,
}

/// A pattern that nearly matches an image, and what separates them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nearest<'a> {
    /// The pattern.
    pub pattern: &'a Pattern,
    /// The difference between the image and the pattern.
    pub by: Separation,
}

/// A difference between an image and a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separation {
    /// Another tag or digest.
    Version,
    /// A digest, beside which a tag does not count.
    TagBesideDigest,
    /// The number of path segments over those of the pattern.
    Deeper(usize),
    /// The number of path segments under those of the pattern.
    Shorter(usize),
    /// Another port of the same host.
    Port,
    /// A host that is one slip of the keyboard away.
    Typo,
    /// The same path in another registry.
    Registry,
}

/// Most patterns, the first ones, among which the same path is looked for in another registry.
const BY_PATH: usize = 1024;

/// Most hosts that are looked at for a slip, and patterns for another separation: a denial costs little,
/// however many patterns there are.
const LOOKED_AT: usize = 32;

impl Patterns {
    /// Indexes patterns of a list that allows or selects: each matches exactly as written.
    pub fn new(list: Vec<Pattern>) -> Self {
        let positions = || (0..).take(list.len()).collect::<Vec<u32>>();
        let mut index = positions();
        index.sort_unstable_by(|left, right| {
            let beginning = |position: &u32| at(&list, *position).map(Pattern::beginning);
            match (beginning(left), beginning(right)) {
                (Some(one), Some(other)) => compare(one, other).then(left.cmp(right)),
                _ => left.cmp(right),
            }
        });
        let literal = |position: &u32| at(&list, *position).map(Pattern::literal).unwrap_or_default();
        let mut by_path: Vec<u32> =
            (0..).take(list.len().min(BY_PATH)).filter(|position| !literal(position).is_empty()).collect();
        by_path.sort_unstable_by(|left, right| literal(left).cmp(literal(right)).then(left.cmp(right)));
        let mut hosts: Vec<u32> = Vec::new();
        let mut shapes = Vec::new();
        for position in &index {
            // Sorted by the shape first, and then by the host.
            let Some((shape, host, _)) = at(&list, *position).map(Pattern::beginning) else { continue };
            if shape != Shape::LITERAL {
                if shapes.last() != Some(&shape) {
                    shapes.push(shape);
                }
            } else if hosts.len() < LOOKED_AT
                && hosts.last().and_then(|last| at(&list, *last)).is_none_or(|last| last.registry() != host)
            {
                hosts.push(*position);
            }
        }
        Self { list, index, by_path, hosts, shapes, denies: false }
    }

    /// Indexes patterns of a list that denies. There a registry means all names and ports under which a
    /// runtime is known to reach it, and a tag is also looked for beside a digest:
    ///
    /// - no port, `:443` and `:80` are the same;
    /// - `docker.io`, every host below it, `registry.hub.docker.com` and `registry.ipv6.docker.com` are the
    ///   same;
    /// - `localhost`, every host below it, `127.0.0.0/8` and `[::1]` are the same.
    pub fn denying(list: Vec<Pattern>) -> Self {
        let list = list.into_iter().map(Pattern::everywhere).collect();
        Self { denies: true, ..Self::new(list) }
    }

    /// Returns all patterns, in the order written.
    pub fn all(&self) -> &[Pattern] {
        &self.list
    }

    /// Returns the first pattern, in the order written, that matches this image.
    pub fn first_match(&self, image: &Reference<'_>) -> Option<&Pattern> {
        let mut first = self.first(image);
        if self.denies {
            let (registry, library) = known_as(image.registry, !image.repository.contains('/'));
            let below_library;
            let repository = if library {
                below_library = alloc::format!("library/{}", image.repository);
                below_library.as_str()
            } else {
                image.repository
            };
            if *registry != *image.registry || library {
                first = least(first, self.first(&Reference { registry: &registry, repository, ..*image }));
            }
            // `*.docker.io` names the host that a runtime asks for `docker.io`.
            if *registry == *"docker.io" {
                first = least(
                    first,
                    self.first(&Reference { registry: "registry-1.docker.io", repository, ..*image }),
                );
            }
        }
        at(&self.list, first?)
    }

    fn first(&self, image: &Reference<'_>) -> Option<u32> {
        let mut first = None;
        self.each_group(image.registry, image.repository, &mut |group| {
            let found = group.iter().copied().find(|position| {
                at(&self.list, *position)
                    .is_some_and(|p| if self.denies { p.claims(image) } else { p.matches(image) })
            });
            first = least(first, found);
        });
        first
    }

    /// Returns whether a pattern matches this image.
    pub fn matches(&self, image: &Reference<'_>) -> bool {
        self.first_match(image).is_some()
    }

    /// Returns the patterns that match some image of this registry and repository, in the order written.
    pub fn of_name<'a>(&'a self, registry: &str, repository: &str) -> Vec<&'a Pattern> {
        let mut positions = Vec::new();
        self.each_group(registry, repository, &mut |group| positions.extend_from_slice(group));
        self.in_order(positions, &|pattern| pattern.matches_name(registry, repository))
    }

    /// Returns the patterns that match some image of this registry, in the order written.
    pub fn of_registry<'a>(&'a self, registry: &str) -> Vec<&'a Pattern> {
        let mut positions = Vec::new();
        self.each_host(registry, &mut |group| positions.extend_from_slice(group));
        self.in_order(positions, &|pattern| pattern.matches_registry(registry))
    }

    /// Returns a pattern from which an image that none matches differs in one field. The search looks at some
    /// neighbours in the index, so its time hardly depends on the number of patterns.
    pub fn nearest(&self, image: &Reference<'_>) -> Option<Nearest<'_>> {
        let Reference { registry, repository, .. } = *image;
        let mut known = false;
        self.each_host(registry, &mut |_| known = true);
        let of_registry = || self.near_version(image).or_else(|| self.near_depth(registry, repository));
        let near = if known { of_registry() } else { None };
        near.or_else(|| self.near_port(registry, repository))
            .or_else(|| self.near_host(registry, repository))
            .or_else(|| self.near_path(repository))
    }

    fn near_version(&self, image: &Reference<'_>) -> Option<Nearest<'_>> {
        let pattern = self.near_name(image.registry, image.repository)?;
        let by_tag = image.digest.is_some() && pattern.is_of_tag();
        let by = if by_tag { Separation::TagBesideDigest } else { Separation::Version };
        Some(Nearest { pattern, by })
    }

    fn near_depth(&self, registry: &str, repository: &str) -> Option<Nearest<'_>> {
        let mut positions = Vec::new();
        self.each_group(registry, repository, &mut |group| {
            positions.extend(group.iter().take(LOOKED_AT));
        });
        // Patterns with a longer beginning than the image are no group of it: the first of them stands for
        // all.
        self.each_host(registry, &mut |group| {
            let (_, longer) = self.split(group, &|pattern| {
                pattern.literal().bytes().lt(repository.bytes().chain(core::iter::once(b'/')))
            });
            positions.extend(longer.first());
        });
        let segments = repository.split('/').count();
        let mut nearest: Option<(usize, Nearest<'_>)> = None;
        for pattern in positions.into_iter().filter_map(|position| at(&self.list, position)) {
            let (wanted, or_more) = pattern.depth();
            let by = match wanted.cmp(&segments) {
                Ordering::Greater => Separation::Shorter(wanted.abs_diff(segments)),
                Ordering::Less if !or_more => Separation::Deeper(wanted.abs_diff(segments)),
                _ => continue,
            };
            let nearer = nearest.is_none_or(|(least, _)| wanted.abs_diff(segments) < least);
            if nearer && pattern.matches_registry(registry) && pattern.matches_so_far(repository) {
                nearest = Some((wanted.abs_diff(segments), Nearest { pattern, by }));
            }
        }
        nearest.map(|(_, nearest)| nearest)
    }

    fn near_port(&self, registry: &str, repository: &str) -> Option<Nearest<'_>> {
        let (host, port) = split_port(registry);
        let without = if port.is_some() { self.near_name(host, repository) } else { None };
        let other = || {
            let (_, with_port) = self.split(self.literal_hosts(), &|pattern| {
                pattern.registry().bytes().lt(host.bytes().chain(core::iter::once(b':')))
            });
            with_port.iter().take(LOOKED_AT).filter_map(|position| at(&self.list, *position)).find(
                |pattern| split_port(pattern.registry()).0 == host && pattern.matches_repository(repository),
            )
        };
        let pattern = without.or_else(other)?;
        Some(Nearest { pattern, by: Separation::Port })
    }

    fn near_host(&self, registry: &str, repository: &str) -> Option<Nearest<'_>> {
        let hosts = self.hosts.iter().filter_map(|position| Some(at(&self.list, *position)?.registry()));
        let pattern = hosts
            .filter(|host| is_one_slip(host, registry))
            .find_map(|host| self.near_name(host, repository))?;
        Some(Nearest { pattern, by: Separation::Typo })
    }

    fn near_path(&self, repository: &str) -> Option<Nearest<'_>> {
        let mut nearest = None;
        each_beginning(repository, &mut |path| {
            let group = self.equal(&self.by_path, &|pattern| pattern.literal().cmp(path));
            let mut near = group.iter().take(LOOKED_AT).filter_map(|position| at(&self.list, *position));
            nearest = near.find(|pattern| pattern.matches_repository(repository)).or(nearest);
        });
        nearest.map(|pattern| Nearest { pattern, by: Separation::Registry })
    }

    /// Returns the first pattern that matches some image of this registry and repository, among the first of
    /// each group.
    fn near_name(&self, registry: &str, repository: &str) -> Option<&Pattern> {
        let mut first = None;
        self.each_group(registry, repository, &mut |group| {
            let found = group.iter().copied().take(LOOKED_AT).find(|position| {
                at(&self.list, *position).is_some_and(|pattern| pattern.matches_name(registry, repository))
            });
            first = least(first, found);
        });
        at(&self.list, first?)
    }

    /// Visits the positions of the patterns that may mean this name, as groups with one beginning, each in
    /// the order written.
    fn each_group<'a>(&'a self, registry: &str, repository: &str, visit: &mut dyn FnMut(&'a [u32])) {
        self.each_host(registry, &mut |group| {
            each_beginning(repository, &mut |path| {
                let group = self.equal(group, &|pattern| pattern.literal().cmp(path));
                if !group.is_empty() {
                    visit(group);
                }
            });
        });
    }

    /// Visits the positions of the patterns that name this registry, and of those that may name it by a `*`.
    fn each_host<'a>(&'a self, registry: &str, visit: &mut dyn FnMut(&'a [u32])) {
        let mut look = |shape: Shape| {
            let group = self.equal(&self.index, &|pattern| {
                let (own, host, _) = pattern.beginning();
                own.cmp(&shape).then_with(|| shape.compare(host, registry))
            });
            if !group.is_empty() {
                visit(group);
            }
        };
        look(Shape::LITERAL);
        for shape in &self.shapes {
            if shape.fits(registry) {
                look(*shape);
            }
        }
    }

    /// Returns the positions of the patterns whose hosts have no `*`, sorted by the host.
    fn literal_hosts(&self) -> &[u32] {
        self.split(&self.index, &|pattern| pattern.beginning().0 == Shape::LITERAL).0
    }

    /// Splits sorted positions before the first for which this does not hold.
    fn split<'a>(&self, sorted: &'a [u32], holds: &dyn Fn(&Pattern) -> bool) -> (&'a [u32], &'a [u32]) {
        sorted.split_at(sorted.partition_point(|position| at(&self.list, *position).is_some_and(holds)))
    }

    /// Returns the part of sorted positions that compare as equal.
    fn equal<'a>(&self, sorted: &'a [u32], order: &dyn Fn(&Pattern) -> Ordering) -> &'a [u32] {
        let (_, rest) = self.split(sorted, &|pattern| order(pattern).is_lt());
        self.split(rest, &|pattern| order(pattern).is_eq()).0
    }

    fn in_order(&self, mut positions: Vec<u32>, means: &dyn Fn(&Pattern) -> bool) -> Vec<&Pattern> {
        positions.sort_unstable();
        let patterns = positions.into_iter().filter_map(|position| at(&self.list, position));
        patterns.filter(|pattern| means(pattern)).collect()
    }
}

fn at(list: &[Pattern], position: u32) -> Option<&Pattern> {
    list.get(usize::try_from(position).ok()?)
}

fn least(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    one.into_iter().chain(other).min()
}

type Beginning<'a> = (Shape, &'a str, &'a str);

fn compare((shape, host, path): Beginning<'_>, (other, its_host, its_path): Beginning<'_>) -> Ordering {
    shape.cmp(&other).then_with(|| shape.compare(host, its_host)).then_with(|| path.cmp(its_path))
}

/// Visits no segment of a path, its first, its first two, and so on to all.
fn each_beginning(path: &str, visit: &mut dyn FnMut(&str)) {
    visit("");
    for (at, byte) in path.bytes().enumerate() {
        if byte == b'/' {
            visit(path.get(..at).unwrap_or_default());
        }
    }
    visit(path);
}

/// Returns whether two texts differ by one inserted, removed or replaced character, or by two exchanged
/// neighbours.
fn is_one_slip(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len().abs_diff(other.len()) > 1 || one == other {
        return false;
    }
    let prefix = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (one, other) = (one.get(prefix..).unwrap_or_default(), other.get(prefix..).unwrap_or_default());
    let suffix = one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count();
    let middle = |text: &[u8]| text.len().saturating_sub(suffix);
    match (middle(one), middle(other)) {
        (0 | 1, 0 | 1) => true,
        (2, 2) => one.first() == other.get(1) && one.get(1) == other.first(),
        _ => false,
    }
}
