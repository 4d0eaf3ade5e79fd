//! Many patterns, of which an image is compared with few.

use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::Reference;
use crate::pattern::{Pattern, one_label_less};

/// Patterns in the order written, with an index: what it costs to find those of an image hardly grows with their number.
///
/// Most patterns name a registry and the first segments of a path, which the name of every image meant begins with. The
/// patterns are sorted by these; each beginning of an image's name is then looked up.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    list: Vec<Pattern>,
    /// Positions in `list`, sorted by [`Pattern::beginning`] and then by themselves.
    index: Vec<usize>,
}

/// As [`Pattern::beginning`] gives it.
type Beginning<'a> = (bool, &'a str, &'a str);

impl Patterns {
    /// These, in the order written.
    pub fn new(list: Vec<Pattern>) -> Self {
        let mut index: Vec<usize> = (0..).take(list.len()).collect();
        index.sort_unstable_by_key(|position| (list.get(*position).map(Pattern::beginning), *position));
        Self { list, index }
    }

    /// All, in the order written.
    pub fn all(&self) -> &[Pattern] {
        &self.list
    }

    /// The first in the order written that matches this image.
    pub fn first_match(&self, image: &Reference<'_>) -> Option<&Pattern> {
        let means = |position: &&usize| self.list.get(**position).is_some_and(|p| p.matches(image));
        let first = self
            .groups(image.registry, image.repository)
            .filter_map(|group| group.iter().find(means))
            .min()?;
        self.list.get(*first)
    }

    /// Whether one of them matches this image.
    pub fn matches(&self, image: &Reference<'_>) -> bool {
        self.groups(image.registry, image.repository)
            .flatten()
            .any(|position| self.list.get(*position).is_some_and(|p| p.matches(image)))
    }

    /// Those that mean some image of this registry and repository, in the order written.
    pub fn of_name<'a>(&'a self, registry: &str, repository: &str) -> Vec<&'a Pattern> {
        let mut found = self.in_order(self.groups(registry, repository));
        found.retain(|pattern| pattern.matches_name(registry, repository));
        found
    }

    /// Those that mean some image of this registry, in the order written.
    pub fn of_registry<'a>(&'a self, registry: &str) -> Vec<&'a Pattern> {
        self.in_order(self.of_host(registry).map(|(_, _, group)| group))
    }

    /// The positions of the patterns that may mean this name, as groups with one beginning, each in the order written.
    fn groups<'a, 'b>(
        &'a self,
        registry: &'b str,
        repository: &'b str,
    ) -> impl Iterator<Item = &'a [usize]> + use<'a, 'b> {
        self.of_host(registry).filter(|(_, _, group)| !group.is_empty()).flat_map(
            move |(below, host, group)| {
                beginnings(repository)
                    .map(move |path| self.equal(group, |wanted| wanted.cmp(&(below, host, path))))
            },
        )
    }

    /// The positions of the patterns that name this registry, and of those that name it by `*.`.
    fn of_host<'a, 'b>(
        &'a self,
        registry: &'b str,
    ) -> impl Iterator<Item = (bool, &'b str, &'a [usize])> + use<'a, 'b> {
        let hosts = [(false, Some(registry)), (true, one_label_less(registry))];
        hosts.into_iter().filter_map(|(below, host)| {
            let host = host?;
            let group = self.equal(&self.index, |(b, h, _)| (b, h).cmp(&(below, host)));
            Some((below, host, group))
        })
    }

    /// The part of a sorted group whose beginnings compare as equal.
    fn equal<'a>(&'a self, group: &'a [usize], compare: impl Fn(Beginning<'a>) -> Ordering) -> &'a [usize] {
        let order =
            |position: &usize| self.list.get(*position).map_or(Ordering::Less, |p| compare(p.beginning()));
        let (_, group) = group.split_at(group.partition_point(|position| order(position).is_lt()));
        let (group, _) = group.split_at(group.partition_point(|position| order(position).is_eq()));
        group
    }

    fn in_order<'a>(&'a self, groups: impl Iterator<Item = &'a [usize]>) -> Vec<&'a Pattern> {
        let mut positions: Vec<usize> = groups.flatten().copied().collect();
        positions.sort_unstable();
        positions.into_iter().filter_map(|position| self.list.get(position)).collect()
    }
}

/// No segment of a path, its first, its first two, and so on to all.
fn beginnings(path: &str) -> impl Iterator<Item = &str> {
    let before = path.match_indices('/').filter_map(|(slash, _)| path.get(..slash));
    core::iter::once("").chain(before).chain(core::iter::once(path))
}
