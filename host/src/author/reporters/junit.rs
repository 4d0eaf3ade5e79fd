//! Results as JUnit XML, in the form that both common schemas accept: that of Jenkins (junit-10.xsd of its
//! xUnit plugin), and the stricter one of Apache Ant. They have no place for the file and line of a case, so
//! both stand at the beginning of a failure's text.

use std::collections::HashSet;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

use super::broken::Broken;
use super::coverage::{Finding, findings};
use super::entry::{CaseResult, Counts, Entry, Group, Groups, Totals};
use super::{ReportError, Reporter};
use crate::text;

/// Collects results, and writes one document at the end: a test suite for each suite, or row of its matrix.
pub(super) struct Junit {
    started: SystemTime,
    /// A case has its element.
    suites: Groups<String>,
    /// Names of cases. Some readers show one case for each name.
    names: HashSet<String>,
}

impl Junit {
    pub(super) fn new(started: SystemTime) -> Junit {
        Junit { started, suites: Groups::default(), names: HashSet::new() }
    }

    /// Returns the name of a case of a suite, with a number if another case has the name.
    fn name(&mut self, suite: &str, name: &str) -> String {
        let numbers = std::iter::once(String::new()).chain((2..).map(|number| format!(" ({number})")));
        let mut names = numbers.map(|number| format!("{name}{number}"));
        let id = |name: &str| format!("{suite}\n{name}");
        names.find(|name| self.names.insert(id(name))).unwrap_or_default()
    }

    /// Adds the coverage of a policy as a case.
    fn finding(&mut self, finding: &Finding) {
        let (name, failed) = (self.name(&finding.suite, &finding.name), !finding.gaps.is_empty());
        let gaps: Vec<_> = finding.gaps.iter().map(|gap| gap.message.as_str()).collect();
        let result = match gaps.first() {
            None => String::new(),
            Some(first) => problem("failure", first, "coverage", &gaps.join("\n")),
        };
        let case = testcase(&name, &finding.suite, Duration::ZERO, &result);
        let is_new = self.suites.all.last().is_none_or(|group| group.suite != finding.suite);
        if is_new {
            self.suites.all.push(Group::new(finding.suite.clone()));
        }
        if let Some(group) = self.suites.all.last_mut() {
            group.counts.passed += usize::from(!failed);
            group.counts.failed += usize::from(failed);
            group.cases.push(case);
        }
    }

    /// Returns the suite of the problems that kept cases from being judged.
    fn errors(&mut self, problems: &[Broken]) -> Group<String> {
        let mut group = Group::new("host test".to_owned());
        for broken in problems {
            let place = broken.place().unwrap_or_else(|| "problem".to_owned());
            let name = self.name(&group.suite, &place);
            let (line, message) = (broken.line(), broken.without_place());
            let first = message.lines().next().unwrap_or_default();
            let case =
                testcase(&name, &group.suite, Duration::ZERO, &problem("error", first, "broken", &line));
            group.cases.push(case);
        }
        group
    }

    fn write(&self, errors: Option<Group<String>>, output: &mut dyn Write) -> Result<(), ReportError> {
        let timestamp = timestamp(self.started);
        let suites = self.suites.all.iter().map(|group| (group, 0));
        let suites = suites.chain(errors.iter().map(|group| (group, group.cases.len()))).enumerate();
        let suites: String =
            suites.map(|(number, (group, errors))| suite(number, group, errors, &timestamp)).collect();
        let document =
            format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n{suites}</testsuites>\n");
        output.write_all(document.as_bytes()).map_err(ReportError::StandardOutput)
    }
}

/// Returns whether XML 1.0 can hold a character.
fn is_xml(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Returns a text for an element or an attribute in double quotation marks. Characters that XML cannot hold
/// go.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars().filter(|character| is_xml(*character)) {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            // `]]>` may not stand in a text.
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Readers replace these by spaces in an attribute, and `\r` by `\n` in a text.
            '\t' | '\r' => escaped.push_str(&format!("&#{};", u32::from(character))),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Returns seconds, as the schemas have them.
fn seconds(took: Duration) -> String {
    format!("{:.3}", took.as_secs_f64())
}

/// Returns the time in UTC. The schema of Ant has no time zone.
fn timestamp(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", u8::from(month))
}

/// Returns the element of a case that failed or is broken.
fn problem(name: &str, message: &str, kind: &str, body: &str) -> String {
    let (message, body) = (escape(message), escape(body));
    format!("      <{name} message=\"{message}\" type=\"{kind}\">{body}</{name}>\n")
}

/// Returns the element of a case. `result` is the element of its result, or empty for a case that passed.
fn testcase(name: &str, class: &str, took: Duration, result: &str) -> String {
    let (name, class, took) = (escape(name), escape(class), seconds(took));
    let head = format!("    <testcase name=\"{name}\" classname=\"{class}\" time=\"{took}\"");
    match result {
        "" => format!("{head}/>\n"),
        result => format!("{head}>\n{result}    </testcase>\n"),
    }
}

fn element(name: &str, entry: &Entry<'_>) -> String {
    let result = match entry.result {
        CaseResult::Passed | CaseResult::Updated => String::new(),
        CaseResult::Skipped => "      <skipped/>\n".to_owned(),
        CaseResult::Failed => {
            let first = entry.lines().into_iter().next().unwrap_or_default();
            let place = format!("{}:{}:{}", text::path(&entry.path), entry.line, entry.column);
            let body = std::iter::once(place).chain(entry.body()).collect::<Vec<_>>().join("\n");
            problem("failure", &first, "difference", &body)
        }
    };
    testcase(name, &entry.suite, entry.took, &result)
}

/// Returns the element of a suite. Its cases are those of the group, of which `errors` are broken.
fn suite(number: usize, group: &Group<String>, errors: usize, timestamp: &str) -> String {
    let Counts { failed, skipped, .. } = group.counts;
    format!(
        "  <testsuite name=\"{name}\" package=\"{package}\" id=\"{number}\" timestamp=\"{timestamp}\" \
         hostname=\"localhost\" tests=\"{tests}\" failures=\"{failed}\" errors=\"{errors}\" \
         skipped=\"{skipped}\" time=\"{time}\">\n    <properties>\n      \
         <property name=\"file\" value=\"{package}\"/>\n    \
         </properties>\n{cases}    <system-out/>\n    <system-err/>\n  </testsuite>\n",
        name = escape(&group.name()),
        package = escape(&group.suite),
        tests = group.counts.all() + errors,
        time = seconds(group.took),
        cases = group.cases.concat(),
    )
}

impl Reporter for Junit {
    fn case(&mut self, entry: &Entry<'_>, _: &mut dyn Write) -> io::Result<()> {
        let name = self.name(&entry.suite, &entry.name);
        self.suites.add(entry, element(&name, entry));
        Ok(())
    }

    fn finish(&mut self, totals: &Totals, output: &mut dyn Write) -> Result<(), ReportError> {
        findings(totals).iter().for_each(|finding| self.finding(finding));
        self.write(None, output)
    }

    fn broken(&mut self, problems: &[Broken], _: &Totals, output: &mut dyn Write) -> Result<(), ReportError> {
        let errors = self.errors(problems);
        self.write(Some(errors), output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_can_end_no_element_and_no_attribute() {
        for (text, escaped) in [
            ("a < b && c > d", "a &lt; b &amp;&amp; c &gt; d"),
            ("\"q\" 'a'", "&quot;q&quot; 'a'"),
            ("]]>", "]]&gt;"),
            ("\u{0}\u{8}\u{b}\u{c}\u{1b}[31m\u{fffe}\u{ffff}x", "[31mx"),
            ("tab\tcr\rlf\n", "tab&#9;cr&#13;lf\n"),
            ("ü›\u{10ffff}", "ü›\u{10ffff}"),
        ] {
            assert_eq!(escape(text), escaped, "{text:?}");
        }
    }

    #[test]
    fn times_are_those_of_the_schemas() {
        for (seconds_since, expected) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_796_119_199, "2026-12-01T09:59:59"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(seconds_since * 1000 + 999);
            assert_eq!(timestamp(time), expected);
        }
        for (millis, expected) in [(0, "0.000"), (61, "0.061"), (1_234_567, "1234.567")] {
            assert_eq!(seconds(Duration::from_millis(millis)), expected);
        }
    }
}
