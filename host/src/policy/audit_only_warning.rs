//! Warning about namespaces where only policies in mode `audit` apply, so that every image is allowed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Entry;
use crate::config::{Mode, NamespacePattern, NamespacePatterns, Rules};

/// Limit on the namespace patterns that are examined. Further patterns are skipped: this is only a warning,
/// and a policy set is made for every change of a file.
const LOOKED_AT: usize = 1000;
/// Number of places and policies that a message names.
const NAMED: usize = 3;

/// Returns a warning if only policies in mode `audit` apply in some namespace. Returns None for a host in
/// mode `audit`, which denies nothing anyway.
pub(super) fn of(rules: &Rules, policies: &[Entry]) -> Option<String> {
    let audits = policies.iter().any(|entry| entry.placement.mode == Mode::Audit);
    if rules.mode == Mode::Audit || !audits {
        return None;
    }
    let of_same_images = of_same_images(policies);
    let all = places_of(rules, policies);
    let everywhere = all.len() == 1;
    let mut places = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    // A policy in force that applies to some images leaves the others to policies in mode `audit`.
    let mut of_images = false;
    for place in all {
        let namespace = place.example();
        if rules.exempt_namespaces.matches(&namespace) {
            continue;
        }
        let applying = policies
            .iter()
            .zip(&of_same_images)
            .filter(|(entry, _)| entry.placement.scope.applies(&namespace));
        let (in_force, audits): (Vec<_>, Vec<_>) =
            applying.partition(|(entry, _)| entry.placement.mode == Mode::Enforce);
        if in_force.iter().any(|(entry, _)| entry.placement.scope.images.is_all()) {
            continue;
        }
        let joined: BTreeSet<usize> = in_force.iter().map(|(_, images)| **images).collect();
        let mut alone = audits.into_iter().filter(|(_, images)| !joined.contains(images)).peekable();
        if alone.peek().is_none() {
            continue;
        }
        of_images |= !in_force.is_empty();
        for (entry, _) in alone {
            // One name over the limit, so that the message mentions others.
            if names.len() <= NAMED && !names.contains(&entry.name.as_str()) {
                names.push(entry.name.as_str());
            }
        }
        places.push(place);
    }
    if places.is_empty() {
        return None;
    }
    let shown = match everywhere {
        true => "in every namespace".to_owned(),
        false => first(places.iter().map(Place::shown)),
    };
    let (images, allowed) = match of_images {
        true => ("to some images ", "these images are allowed"),
        false => ("", "every image is allowed"),
    };
    Some(format!(
        "only policies in mode audit apply {images}{shown} ({}), so {allowed} there, whatever these say \
            (unless this is meant, take `mode: audit` away from one of them, or add a policy that is in \
            force there)",
        first(names.into_iter().map(str::to_owned))
    ))
}

/// Returns a number for each policy, equal for policies that apply to the same images.
fn of_same_images(policies: &[Entry]) -> Vec<usize> {
    let mut numbers = BTreeMap::new();
    let number = |images| {
        let next = numbers.len();
        *numbers.entry(images).or_insert(next)
    };
    policies.iter().map(|entry| entry.placement.scope.images.written()).map(number).collect()
}

/// Returns the first [`NAMED`] items in words, and mentions others if there are more.
fn first(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<_> = items.collect();
    let more = items.len().saturating_sub(NAMED);
    items.truncate(NAMED);
    if more > 0 {
        items.push("others".to_owned());
    }
    match items.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => items.concat(),
    }
}

/// Namespaces that the configuration distinguishes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Pattern(NamespacePattern),
    Others,
}

impl Place {
    /// Returns a namespace of this place that hardly matches a longer prefix of another entry.
    fn example(&self) -> String {
        match self {
            Place::Pattern(NamespacePattern::Name(name)) => name.clone(),
            Place::Pattern(NamespacePattern::Prefix(prefix)) => format!("{prefix}z"),
            Place::Others => "a-namespace-that-no-entry-names".to_owned(),
        }
    }

    fn shown(&self) -> String {
        match self {
            Place::Pattern(NamespacePattern::Name(name)) => format!("in namespace {name}"),
            Place::Pattern(NamespacePattern::Prefix(prefix)) => format!("in namespaces {prefix}*"),
            Place::Others => "in all other namespaces".to_owned(),
        }
    }
}

/// Returns the places of the configuration's patterns, in order, and the rest at the end.
fn places_of(rules: &Rules, policies: &[Entry]) -> Vec<Place> {
    let scopes = policies
        .iter()
        .flat_map(|entry| entry.placement.scope.include.iter().chain([&entry.placement.scope.exclude]));
    let patterns = scopes.chain([&rules.exempt_namespaces]).flat_map(NamespacePatterns::iter);
    let mut places: BTreeSet<_> = patterns.take(LOOKED_AT).map(Place::Pattern).collect();
    places.insert(Place::Others);
    places.into_iter().collect()
}
