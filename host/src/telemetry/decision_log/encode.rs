//! Encodes a record as one line of JSON, within the limit of a line.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use super::record::{DecisionRecord, LeftOut};
use crate::limits;
use crate::telemetry::answered::AnsweredReview;
use crate::text;

/// Returns the line of a review, including its line break. A line over the limit leaves out first the
/// decisions and then the request too, and has `leftOut`.
pub(super) fn line(reviewed: &AnsweredReview) -> Vec<u8> {
    let whole = [None, Some(LeftOut::Decisions), Some(LeftOut::Request)].into_iter();
    let mut lines = whole.filter_map(|left_out| {
        let mut line = Bounded { bytes: Vec::with_capacity(1024), most: limits::DECISION_LOG_LINE.size() };
        let mut serializer = serde_json::Serializer::with_formatter(&mut line, Printable(CompactFormatter));
        DecisionRecord::without(left_out, reviewed).serialize(&mut serializer).ok()?;
        Some(line.bytes)
    });
    // The last form is far below the limit.
    let mut line = lines.next().unwrap_or_default();
    line.push(b'\n');
    line
}

/// A buffer that rejects writes beyond `most` bytes.
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

/// JSON with every character escaped that a terminal would not show as it is. The parsed text is exactly that
/// of the request, and a reader of the raw file is not deceived.
struct Printable(CompactFormatter);

impl Formatter for Printable {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.is_ascii() {
            // Control characters are escaped elsewhere, by the serializer.
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
