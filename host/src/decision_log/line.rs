//! One line: all that is known of a review, so that it can be judged again.

use std::io::{self, Write};

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::ser::{CompactFormatter, Formatter};

use crate::bounds;
use crate::config::Mode;
use crate::reviewed::{ReviewId, Reviewed};
use crate::text;
use crate::verdict::{DecidedBy, ImageVerdict, Malfunction, MalfunctionKind, Outcome, Said};

/// The line of a review, its end included. One over the bound leaves out first what the policies said, and then what was
/// asked, and says so.
pub(super) fn of(reviewed: &Reviewed) -> Vec<u8> {
    let whole = [None, Some("decisions"), Some("request")].into_iter();
    let mut lines = whole.filter_map(|left_out| {
        let mut line = Bounded { bytes: Vec::with_capacity(1024), most: bounds::DECISION_LOG_LINE.size() };
        let mut serializer = serde_json::Serializer::with_formatter(&mut line, Printable(CompactFormatter));
        Line::new(reviewed, left_out).serialize(&mut serializer).ok()?;
        Some(line.bytes)
    });
    // The last form is far below the bound.
    let mut line = lines.next().unwrap_or_default();
    line.push(b'\n');
    line
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    id: ReviewId,
    time: String,
    generation: &'a str,
    namespace: &'a str,
    #[serde(serialize_with = "pairs")]
    annotations: &'a [(String, String)],
    verdict: &'static str,
    decided_by: DecidedBy,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(serialize_with = "images")]
    images: (&'a [ImageVerdict], bool),
    microseconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<&'static str>,
}

impl<'a> Line<'a> {
    fn new(reviewed: &'a Reviewed, left_out: Option<&'static str>) -> Line<'a> {
        let Reviewed { review, verdict, .. } = reviewed;
        let request = left_out != Some("request");
        Line {
            id: reviewed.id,
            time: humantime::format_rfc3339_millis(reviewed.at).to_string(),
            generation: reviewed.generation(),
            namespace: if request { &review.namespace } else { "" },
            annotations: if request { &review.annotations } else { &[] },
            verdict: verdict.disposition.name(),
            decided_by: verdict.disposition.decided_by(),
            reason: &verdict.reason,
            images: (if request { &verdict.images } else { &[] }, left_out.is_none()),
            microseconds: u64::try_from(reviewed.took.as_micros()).unwrap_or(u64::MAX),
            left_out,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageLine<'a> {
    original: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    allowed: bool,
    decided_by: DecidedBy,
    #[serde(serialize_with = "decisions")]
    decisions: &'a [Said],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DecisionLine<'a> {
    policy: &'a str,
    mode: Mode,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    malfunction: Option<MalfunctionKind>,
}

fn pairs<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (key, value) in pairs {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

fn images<S: Serializer>(
    (images, with_decisions): &(&[ImageVerdict], bool),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(images.len()))?;
    for ImageVerdict { judged, allowed, decided_by, .. } in *images {
        let image = judged.image.as_ref();
        list.serialize_element(&ImageLine {
            original: &judged.original,
            registry: image.ok().map(|image| image.registry.as_str()),
            repository: image.ok().map(|image| image.repository.as_str()),
            tag: image.ok().and_then(|image| image.tag.as_deref()),
            digest: image.ok().and_then(|image| image.digest.as_deref()),
            error: image.err().map(String::as_str),
            allowed: *allowed,
            decided_by: *decided_by,
            decisions: if *with_decisions { &judged.said } else { &[] },
        })?;
    }
    list.end()
}

fn decisions<S: Serializer>(said: &[Said], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(said.len()))?;
    for said in said {
        let judgement = said.judgement.as_ref();
        list.serialize_element(&DecisionLine {
            policy: &said.policy,
            mode: said.mode,
            outcome: said.outcome(),
            code: judgement.ok().map(|decision| decision.code.as_str()),
            reason: said.reason(),
            malfunction: judgement.err().map(Malfunction::kind),
        })?;
    }
    list.end()
}

/// Refuses what is more than so many bytes.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// JSON in which every character that a terminal would not show as it is, is escaped: what is read from it is what was
/// asked, and whoever looks at the file is not deceived.
struct Printable(CompactFormatter);

impl Formatter for Printable {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.is_ascii() {
            // Control characters come another way.
            return self.0.write_string_fragment(writer, fragment);
        }
        for character in fragment.chars() {
            if text::is_plain(character) {
                write!(writer, "{character}")?;
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}
