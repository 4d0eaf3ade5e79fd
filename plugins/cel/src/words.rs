//! Names that were meant instead of misspelt ones.

/// Returns the name that is nearest to `word`. Returns None if none is near.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = word.chars().count().min(64) / 3 + 1;
    let distances = names.into_iter().map(|name| (distance(word, name), name));
    distances.filter(|(distance, _)| *distance <= most.min(3)).min().map(|(_, name)| name)
}

/// Returns the number of characters to insert, remove or replace between two names.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (number, character) in one.chars().take(64).enumerate() {
        let mut next = vec![number + 1];
        let mut left = number + 1;
        for ((above_left, above), wanted) in row.iter().zip(row.iter().skip(1)).zip(&other) {
            let replaced = above_left + usize::from(character != *wanted);
            left = replaced.min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_near_and_another_word_is_not() {
        let names = ["registry", "repository", "tag"];
        assert_eq!(nearest("registri", names), Some("registry"));
        assert_eq!(nearest("regsitry", names), Some("registry"));
        assert_eq!(nearest("tags", names), Some("tag"));
        assert_eq!(nearest("digest", names), None);
        assert_eq!(nearest("", names), None);
    }
}
