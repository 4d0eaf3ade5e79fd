//! Generation of references from a seed: by the grammar, by changes to the tables of both sides, and of
//! random characters.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use serde_json::Value;

/// Characters of references, separators above all, and some whose lower case, upper case or looks are of
/// other alphabets: `K` (Kelvin), `ſ`, `İ`, `ı`, full-width letters, a combining mark.
const ALPHABET: &[char] = &[
    'a', 'b', 'f', 'k', 's', 'i', '0', '1', '9', 'A', 'F', 'K', 'S', 'I', '.', '.', '-', '_', '/', '/', ':',
    ':', '@', '[', ']', '%', '+', ' ', '\n', '\0', '$', '{', '\u{212a}', '\u{17f}', '\u{130}', '\u{131}',
    '\u{ff41}', '\u{301}',
];

/// Parts with a special meaning.
const WORDS: &[&str] = &[
    "localhost",
    "docker.io",
    "index.docker.io",
    "library",
    "registry.k8s.io",
    "ghcr.io",
    "example.com",
    "latest",
    "sha256",
    "sha384",
    "sha512",
    "sha256:",
    "@sha256:",
    "://",
    "..",
    "__",
    "---",
    "[::1]",
    "[2001:db8::1]",
    "[0:0:0:0:0:0:0:1]",
    ":443",
    ":0443",
    ":65536",
    "xn--bcher-kva",
    "LOCALHOST",
    "Docker.io",
    "foo_bar.com",
    "md5:",
];

/// Returns the inputs of a table of the host.
pub(crate) fn inputs(table: &str) -> Result<Vec<String>> {
    let rows: Vec<Value> = serde_json::from_str(table)?;
    let input = |row: &Value| Some(row.get("input")?.as_str()?.to_owned());
    rows.iter().map(input).collect::<Option<_>>().context("a row without input")
}

/// Returns the number of distinct references.
pub(crate) fn distinct(references: &[String]) -> usize {
    references.iter().collect::<BTreeSet<_>>().len()
}

/// Generates `count` references. The same seed and tables give the same references.
pub(crate) fn references(seed: u64, tables: &[String], count: usize) -> Vec<String> {
    let mut maker = Maker(StdRng::seed_from_u64(seed));
    // The unchanged tables come first.
    let mut references = tables.to_vec();
    references.truncate(count);
    while references.len() < count {
        references.push(match references.len() % 10 {
            0..4 => maker.by_grammar(),
            4..6 => {
                let text = maker.by_grammar();
                maker.changed(&text)
            }
            6..9 => {
                let text = maker.one(tables).clone();
                maker.changed(&text)
            }
            _ => maker.of(ALPHABET, 24),
        });
    }
    references
}

struct Maker(StdRng);

impl Maker {
    fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end.max(1))
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn one<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    fn of(&mut self, alphabet: &[char], most: usize) -> String {
        (0..=self.below(most)).map(|_| *self.one(alphabet)).collect()
    }

    fn by_grammar(&mut self) -> String {
        let mut text = String::new();
        if !self.chance(3) {
            text += &self.registry();
            text.push('/');
        }
        let components: Vec<_> = (0..=self.below(3)).map(|_| self.component()).collect();
        text += &components.join("/");
        if !self.chance(3) {
            text.push(':');
            text += &self.tag();
        }
        if self.chance(3) {
            text.push('@');
            text += &self.digest();
        }
        text
    }

    fn registry(&mut self) -> String {
        let mut registry = match self.below(8) {
            0 => (*self.one(WORDS)).to_owned(),
            1 => self.address(),
            2 => format!("{}.{}", self.of(&['a', 'b', '-', '_', 'A'], 6), self.of(&['c', 'o', 'm'], 4)),
            3 if self.chance(20) => "a.".repeat(self.below(3000)) + "b",
            _ => (0..=self.below(3))
                .map(|_| self.of(&['a', 'b', '0', '1', 'z'], 6))
                .collect::<Vec<_>>()
                .join("."),
        };
        if self.chance(3) {
            registry = format!(
                "{registry}:{}",
                match self.below(4) {
                    0 => self.of(&['0', '1', '4', '6'], 7),
                    1 => "443".to_owned(),
                    _ => self.below(70_000).to_string(),
                }
            );
        }
        registry
    }

    fn address(&mut self) -> String {
        let inner = match self.below(3) {
            0 => self.of(&['0', '1', 'a', 'f', ':', ':'], 12),
            1 => std::net::Ipv6Addr::from_bits(
                (u128::from(self.0.next_u64()) << 64) | u128::from(self.0.next_u64()),
            )
            .to_string(),
            _ => (0..8).map(|_| self.of(&['0', '1', 'f'], 4)).collect::<Vec<_>>().join(":"),
        };
        format!("[{inner}]")
    }

    fn component(&mut self) -> String {
        let mut component = self.of(&['a', 'b', 'c', '0', '9'], 8);
        while self.chance(3) {
            component += *self.one(&[".", "_", "__", "-", "--", "---"][..]);
            component += &self.of(&['a', 'b', 'c', '0', '9'], 8);
        }
        if self.chance(200) { component.repeat(self.below(60)) } else { component }
    }

    fn tag(&mut self) -> String {
        let most = if self.chance(50) { 140 } else { 12 };
        self.of(&['a', 'B', '0', '9', '_', '.', '-'], most)
    }

    fn digest(&mut self) -> String {
        let (algorithm, digits) =
            *self.one(&[("sha256", 64), ("sha256", 64), ("sha384", 96), ("sha512", 128), ("md5", 32)][..]);
        let digits = if self.chance(8) { self.below(140) } else { digits };
        let hex: String = (0..digits).map(|_| *self.one(&['0', '1', '9', 'a', 'f'][..])).collect();
        format!("{algorithm}:{hex}")
    }

    /// Makes one to three small changes.
    fn changed(&mut self, text: &str) -> String {
        let mut characters: Vec<char> = text.chars().collect();
        for _ in 0..=self.below(2) {
            let at = self.below(characters.len() + 1);
            match self.below(6) {
                0 => characters.insert(at, *self.one(ALPHABET)),
                1 if at < characters.len() => _ = characters.remove(at),
                2 if at < characters.len() => characters[at] = *self.one(ALPHABET),
                3 => drop(characters.splice(at..at, self.one(WORDS).chars())),
                4 if at < characters.len() => {
                    characters[at] = match characters[at] {
                        letter if letter.is_lowercase() => letter.to_uppercase().next().unwrap_or(letter),
                        letter => letter.to_lowercase().next().unwrap_or(letter),
                    }
                }
                _ => characters.truncate(at),
            }
        }
        characters.into_iter().collect()
    }
}
