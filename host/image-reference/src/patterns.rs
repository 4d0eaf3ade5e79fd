//! Many patterns, of which an image is compared with few.

use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::Reference;
use crate::pattern::{Pattern, Shape, known_as};
use crate::registry::split_port;

/// Patterns in the order written, with an index: what it costs to find those of an image hardly grows with their number.
///
/// Most patterns name a registry and the first segments of a path, which the name of every image meant begins with. The
/// patterns are sorted by these; each beginning of an image's name is then looked up.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    list: Vec<Pattern>,
    /// Positions in `list`, sorted by [`Pattern::beginning`] and then by themselves.
    index: Vec<u32>,
    /// Positions in `list`, sorted by [`Pattern::literal`] and then by themselves, to find what a denial was near.
    by_path: Vec<u32>,
    /// The shapes of hosts that there are, but for that without a `*`.
    shapes: Vec<Shape>,
    denies: bool,
}

/// A pattern that nearly matches an image, and what separates them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nearest<'a> {
    /// The pattern.
    pub pattern: &'a Pattern,
    /// What separates the image from it.
    pub by: Separation,
}

/// What separates an image from a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separation {
    /// Another tag or digest.
    Version,
    /// A digest, beside which a tag does not count.
    TagBesideDigest,
    /// So many path segments more than the pattern takes.
    Deeper(usize),
    /// So many path segments fewer than the pattern takes.
    Shorter(usize),
    /// Another port of the same host.
    Port,
    /// A host that is one slip of the keyboard away.
    Typo,
    /// The same path in another registry.
    Registry,
}

/// Most hosts that are looked at for a slip, and patterns for another separation: a denial costs little, however many
/// patterns there are.
const LOOKED_AT: usize = 32;

impl Patterns {
    /// Indexes patterns of a list that allows or selects: each means what it says and no more.
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
        let mut by_path = positions();
        by_path.retain(|position| !literal(position).is_empty());
        by_path.sort_unstable_by_key(|position| (literal(position), *position));
        let mut shapes: Vec<Shape> = list.iter().map(|pattern| pattern.beginning().0).collect();
        shapes.retain(|shape| *shape != Shape::LITERAL);
        shapes.sort_unstable();
        shapes.dedup();
        shapes.shrink_to_fit();
        Self { list, index, by_path, shapes, denies: false }
    }

    /// Indexes patterns of a list that denies. There a registry means all names and ports under which a runtime is
    /// known to reach it, and a tag is also looked for beside a digest:
    ///
    /// - no port, `:443` and `:80` are the same;
    /// - `docker.io`, every host below it, `registry.hub.docker.com` and `registry.ipv6.docker.com` are the same;
    /// - `localhost`, every host below it, `127.0.0.0/8` and `[::1]` are the same.
    pub fn denying(list: Vec<Pattern>) -> Self {
        let list = list.into_iter().map(Pattern::everywhere).collect();
        Self { denies: true, ..Self::new(list) }
    }

    /// All, in the order written.
    pub fn all(&self) -> &[Pattern] {
        &self.list
    }

    /// The first in the order written that matches this image.
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
        let means = |position: &&u32| {
            at(&self.list, **position)
                .is_some_and(|p| if self.denies { p.claims(image) } else { p.matches(image) })
        };
        self.groups(image.registry, image.repository)
            .filter_map(|group| group.iter().find(means))
            .min()
            .copied()
    }

    /// Whether one of them matches this image.
    pub fn matches(&self, image: &Reference<'_>) -> bool {
        self.first_match(image).is_some()
    }

    /// Those that mean some image of this registry and repository, in the order written.
    pub fn of_name<'a>(&'a self, registry: &str, repository: &str) -> Vec<&'a Pattern> {
        let mut found = self.in_order(self.groups(registry, repository));
        found.retain(|pattern| pattern.matches_name(registry, repository));
        found
    }

    /// Those that mean some image of this registry, in the order written.
    pub fn of_registry<'a>(&'a self, registry: &str) -> Vec<&'a Pattern> {
        let mut found = self.in_order(self.of_host(registry).map(|(_, group)| group));
        found.retain(|pattern| pattern.matches_registry(registry));
        found
    }

    /// The pattern from which one thing alone separates an image that none matches. Takes little time, however many
    /// patterns there are: it looks at some of those that are near in the index.
    pub fn nearest(&self, image: &Reference<'_>) -> Option<Nearest<'_>> {
        let Reference { registry, repository, .. } = *image;
        self.near_version(image)
            .or_else(|| self.near_depth(registry, repository))
            .or_else(|| self.near_port(registry, repository))
            .or_else(|| self.near_host(registry, repository))
            .or_else(|| self.near_path(registry, repository))
    }

    fn near_version(&self, image: &Reference<'_>) -> Option<Nearest<'_>> {
        let pattern = self.of_path(self.groups(image.registry, image.repository), |pattern| {
            pattern.matches_name(image.registry, image.repository)
        })?;
        let by_tag = image.digest.is_some() && pattern.is_of_tag();
        let by = if by_tag { Separation::TagBesideDigest } else { Separation::Version };
        Some(Nearest { pattern, by })
    }

    fn near_depth(&self, registry: &str, repository: &str) -> Option<Nearest<'_>> {
        let segments = repository.split('/').count();
        // Patterns with a longer beginning than the image are no group of it: the first of them stands for all.
        let longer = self.of_host(registry).filter_map(|(_, group)| {
            let before = group.partition_point(|position| {
                at(&self.list, *position).is_some_and(|pattern| {
                    pattern.literal().bytes().lt(repository.bytes().chain(core::iter::once(b'/')))
                })
            });
            group.get(before..before.saturating_add(1))
        });
        self.groups(registry, repository)
            .chain(longer)
            .flat_map(|group| group.iter().take(LOOKED_AT))
            .filter_map(|position| at(&self.list, *position))
            .filter(|pattern| pattern.matches_registry(registry) && pattern.matches_so_far(repository))
            .filter_map(|pattern| {
                let (wanted, or_more) = pattern.depth();
                let shorter = wanted.checked_sub(segments).filter(|missing| *missing > 0);
                let deeper = segments.checked_sub(wanted).filter(|more| *more > 0 && !or_more);
                let by = shorter.map(Separation::Shorter).or(deeper.map(Separation::Deeper))?;
                Some((shorter.or(deeper), Nearest { pattern, by }))
            })
            .min_by_key(|(by, _)| *by)
            .map(|(_, nearest)| nearest)
    }

    fn near_port(&self, registry: &str, repository: &str) -> Option<Nearest<'_>> {
        let (host, port) = split_port(registry);
        let without = port.and_then(|_| {
            self.of_path(self.groups(host, repository), |pattern| pattern.matches_name(host, repository))
        });
        let other = || {
            let literal = self.with_shape(Shape::LITERAL);
            let with_port = host.bytes().chain(core::iter::once(b':'));
            let before = literal.partition_point(|position| {
                at(&self.list, *position)
                    .is_some_and(|pattern| pattern.registry().bytes().lt(with_port.clone()))
            });
            let near = literal.get(before..).unwrap_or_default().iter().take(LOOKED_AT);
            near.filter_map(|position| at(&self.list, *position)).find(|pattern| {
                split_port(pattern.registry()).0 == host && pattern.matches_repository(repository)
            })
        };
        let pattern = without.or_else(other)?;
        Some(Nearest { pattern, by: Separation::Port })
    }

    fn near_host(&self, registry: &str, repository: &str) -> Option<Nearest<'_>> {
        let mut rest = self.with_shape(Shape::LITERAL);
        for _ in 0..LOOKED_AT {
            let host = at(&self.list, *rest.first()?)?.registry();
            if is_one_slip(host, registry) {
                let near = self
                    .of_path(self.groups(host, repository), |pattern| pattern.matches_name(host, repository));
                if let Some(pattern) = near {
                    return Some(Nearest { pattern, by: Separation::Typo });
                }
            }
            let same = rest.partition_point(|position| {
                at(&self.list, *position).is_some_and(|pattern| pattern.registry() <= host)
            });
            rest = rest.get(same..).unwrap_or_default();
        }
        None
    }

    fn near_path(&self, _: &str, repository: &str) -> Option<Nearest<'_>> {
        let pattern = beginnings(repository)
            .filter(|path| !path.is_empty())
            .filter_map(|path| {
                let group = equal(&self.by_path, |position| {
                    at(&self.list, *position).map_or(Ordering::Less, |pattern| pattern.literal().cmp(path))
                });
                self.of_path(core::iter::once(group), |pattern| pattern.matches_repository(repository))
            })
            .last()?;
        Some(Nearest { pattern, by: Separation::Registry })
    }

    /// The first of some patterns that is meant, of the first ones of each group.
    fn of_path<'a>(
        &'a self,
        groups: impl Iterator<Item = &'a [u32]>,
        means: impl Fn(&Pattern) -> bool,
    ) -> Option<&'a Pattern> {
        let found = groups.filter_map(|group| {
            let near = group.iter().take(LOOKED_AT);
            near.copied().find(|position| at(&self.list, *position).is_some_and(&means))
        });
        at(&self.list, found.min()?)
    }

    /// The positions of the patterns that may mean this name, as groups with one beginning, each in the order written.
    fn groups<'a, 'b>(
        &'a self,
        registry: &'b str,
        repository: &'b str,
    ) -> impl Iterator<Item = &'a [u32]> + use<'a, 'b> {
        self.of_host(registry).filter(|(_, group)| !group.is_empty()).flat_map(move |(_, group)| {
            beginnings(repository).map(move |path| {
                equal(group, |position| {
                    at(&self.list, *position).map_or(Ordering::Less, |pattern| pattern.literal().cmp(path))
                })
            })
        })
    }

    /// The positions of the patterns that name this registry, and of those that may name it by a `*`.
    fn of_host<'a, 'b>(
        &'a self,
        registry: &'b str,
    ) -> impl Iterator<Item = (Shape, &'a [u32])> + use<'a, 'b> {
        let shapes = core::iter::once(Shape::LITERAL).chain(self.shapes.iter().copied());
        shapes.filter(move |shape| shape.fits(registry)).map(move |shape| {
            let group = equal(&self.index, |position| {
                at(&self.list, *position).map_or(Ordering::Less, |pattern| {
                    let (own, host, _) = pattern.beginning();
                    own.cmp(&shape).then_with(|| shape.compare(host, registry))
                })
            });
            (shape, group)
        })
    }

    /// The positions of the patterns whose hosts have this shape.
    fn with_shape(&self, shape: Shape) -> &[u32] {
        equal(&self.index, |position| {
            at(&self.list, *position).map_or(Ordering::Less, |pattern| pattern.beginning().0.cmp(&shape))
        })
    }

    fn in_order<'a>(&'a self, groups: impl Iterator<Item = &'a [u32]>) -> Vec<&'a Pattern> {
        let mut positions: Vec<u32> = groups.flatten().copied().collect();
        positions.sort_unstable();
        positions.into_iter().filter_map(|position| at(&self.list, position)).collect()
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

/// The part of sorted positions that compare as equal.
fn equal(sorted: &[u32], order: impl Fn(&u32) -> Ordering) -> &[u32] {
    let (_, rest) = sorted.split_at(sorted.partition_point(|position| order(position).is_lt()));
    let (group, _) = rest.split_at(rest.partition_point(|position| order(position).is_eq()));
    group
}

/// No segment of a path, its first, its first two, and so on to all.
fn beginnings(path: &str) -> impl Iterator<Item = &str> {
    let before = path.match_indices('/').filter_map(|(slash, _)| path.get(..slash));
    core::iter::once("").chain(before).chain(core::iter::once(path))
}

/// Whether two texts differ by one character put in, left out or replaced, or by two neighbours exchanged.
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
