//! Selection and order of cases.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};

use super::{LastRun, Position};
use crate::limits;
use crate::suite::{CaseId, Suite};

/// A condition on the name of a case, `SUITE › ROW › CASE`.
#[derive(Clone, Debug)]
pub struct Filter {
    is_excluding: bool,
    text: Text,
}

#[derive(Clone, Debug)]
enum Text {
    Contained(String),
    /// The whole name, with or without its suite.
    Is(String),
    Expression(Regex),
}

/// A text that is no filter.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FilterError {
    /// An empty text, which every name contains.
    #[error("the text is empty: write a part of a name, `=` and a whole name, or /RE/")]
    Empty,
    /// A regular expression that does not compile.
    #[error("{0}")]
    Expression(#[from] regex::Error),
}

impl FromStr for Filter {
    type Err = FilterError;

    /// Reads `TEXT`, `=NAME` or `/RE/`, each of them also after `!`.
    fn from_str(text: &str) -> Result<Filter, FilterError> {
        let (is_excluding, text) = text.strip_prefix('!').map_or((false, text), |text| (true, text));
        let expression = text.strip_prefix('/').and_then(|text| text.strip_suffix('/'));
        let text = match (expression, text.strip_prefix(IS)) {
            _ if matches!(text, "" | "=") => return Err(FilterError::Empty),
            (Some(expression), _) => {
                let mut builder = RegexBuilder::new(expression);
                Text::Expression(builder.size_limit(limits::EXPRESSION_SIZE.size()).build()?)
            }
            (None, Some(name)) => Text::Is(name.to_owned()),
            (None, None) => Text::Contained(text.to_owned()),
        };
        Ok(Filter { is_excluding, text })
    }
}

/// The mark of a whole name.
const IS: char = '=';

impl Filter {
    /// Returns the text of the filter that finds this case alone in its suite.
    pub fn of_case(id: &CaseId) -> String {
        format!("{IS}{}", id.within_suite())
    }

    fn finds(&self, id: &CaseId) -> bool {
        match &self.text {
            Text::Contained(text) => id.to_string().contains(text.as_str()),
            Text::Is(name) => id.within_suite() == *name || id.to_string() == *name,
            Text::Expression(expression) => expression.is_match(&id.to_string()),
        }
    }
}

/// The start of a sequence of pseudo-random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

impl FromStr for Seed {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Seed, Self::Err> {
        text.parse().map(Seed)
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Seed {
    /// Returns the next number of the sequence (SplitMix64).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Brings items into an order that depends on the seed alone (Fisher and Yates).
    fn shuffle<T>(mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = (self.next() % (last as u64 + 1)) as usize;
            items.swap(last, other);
        }
    }
}

/// The cases to run, and their order.
#[derive(Default)]
pub struct Selection {
    /// Conditions on the name. A case meets one of the including ones, if there are any, and no excluding
    /// one.
    pub filters: Vec<Filter>,
    /// The results of the last run, of which only the failed cases are selected.
    pub failed: Option<LastRun>,
    /// Order by chance. None: the order of the files.
    pub shuffle: Option<Seed>,
}

impl Selection {
    /// Returns the positions of the selected cases, in the order in which they are reported.
    pub fn plan(&self, suites: &[Suite]) -> Vec<Position> {
        let all = suites.iter().enumerate().flat_map(|(suite, of)| {
            of.cases
                .iter()
                .enumerate()
                .filter(|(_, case)| self.selects(of, &case.id))
                .map(move |(case, _)| (suite, case))
        });
        let mut plan: Vec<_> = all.collect();
        if let Some(seed) = self.shuffle {
            seed.shuffle(&mut plan);
        }
        plan
    }

    fn selects(&self, suite: &Suite, id: &CaseId) -> bool {
        let mut including = self.filters.iter().filter(|filter| !filter.is_excluding).peekable();
        (including.peek().is_none() || including.any(|filter| filter.finds(id)))
            && !self.filters.iter().any(|filter| filter.is_excluding && filter.finds(id))
            && self.failed.as_ref().is_none_or(|last| last.failed(suite, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_find_parts_of_names() {
        let id = CaseId {
            suite: "suites/images.yaml".into(),
            row: Some("digests".to_owned()),
            name: Some("others do not".to_owned()),
        };
        for (filter, expected) in [
            ("others", true),
            ("digests › others", true),
            ("Others", false),
            ("/^suites.*not$/", true),
            ("/(?i)OTHERS/", true),
            ("/^others/", false),
            ("/", true),
            ("=digests › others do not", true),
            ("=suites/images.yaml › digests › others do not", true),
            ("=others do not", false),
            ("=digests › others", false),
            ("==digests › others do not", false),
            ("!=digests › others do not", true),
        ] {
            let filter: Filter = filter.parse().unwrap();
            assert_eq!(filter.finds(&id), expected, "{filter:?}");
        }
        assert!("!x".parse::<Filter>().unwrap().is_excluding);
        assert!(Filter::of_case(&id).parse::<Filter>().unwrap().finds(&id));
        for (text, expected) in
            [("", "empty"), ("!", "empty"), ("=", "empty"), ("/(/", "unclosed group"), ("//", "")]
        {
            let parsed = text.parse::<Filter>();
            if expected.is_empty() {
                assert!(parsed.is_ok(), "{text}");
            } else {
                let error = parsed.unwrap_err().to_string();
                assert!(error.contains(expected), "{text}: {error}");
            }
        }
    }

    #[test]
    fn an_order_by_chance_holds_every_case_once_and_depends_on_the_seed() {
        let order = |seed| {
            let mut items: Vec<_> = (0..100).collect();
            Seed(seed).shuffle(&mut items);
            items
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(7);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }
}
