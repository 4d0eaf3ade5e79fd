//! One text with `*` in it: a path segment or a tag.

/// What is around each `*`. Matching takes the leftmost place for every part in between, which is never worse than a
/// later one, so there is nothing to go back to: the time is linear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    start: String,
    between: Vec<String>,
    /// None where there is no `*`.
    end: Option<String>,
}

impl Glob {
    pub(crate) fn new(text: &str) -> Self {
        let mut parts = text.split('*').map(str::to_owned);
        let start = parts.next().unwrap_or_default();
        let mut between: Vec<String> = parts.collect();
        let end = between.pop();
        Self { start, between, end }
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        let Some(mut rest) = text.strip_prefix(self.start.as_str()) else { return false };
        let Some(end) = &self.end else { return rest.is_empty() };
        for part in &self.between {
            let Some((_, after)) = rest.split_once(part.as_str()) else { return false };
            rest = after;
        }
        rest.ends_with(end.as_str())
    }
}
