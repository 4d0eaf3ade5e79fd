//! Frames: a document as one line of JSON, and the bytes after the line.

use std::io::{self, BufRead, ErrorKind, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The reason why no line was read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The line has more bytes than the limit.
    #[error("a line has more than {0} bytes")]
    TooLong(u64),
    /// The writer ended before the end of the line.
    #[error("the writer ended early")]
    Ended,
    /// The line is not the document.
    #[error(transparent)]
    Document(#[from] serde_json::Error),
    /// The line cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> io::Error {
        match error {
            FrameError::TooLong(_) => io::Error::new(ErrorKind::InvalidData, error),
            FrameError::Ended => io::Error::new(ErrorKind::UnexpectedEof, error),
            FrameError::Document(error) => error.into(),
            FrameError::Io(error) => error,
        }
    }
}

/// Returns a document as a line of JSON.
///
/// # Errors
/// Returns an error if the document is no JSON.
pub fn line(document: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    Ok(line)
}

/// Writes a document as a line of JSON.
///
/// # Errors
/// Returns the error of the writer.
pub fn write(to: &mut impl Write, document: &impl Serialize) -> io::Result<()> {
    to.write_all(&line(document)?)
}

/// Reads a document from a line of at most `most` bytes, and nothing after the line.
///
/// # Errors
/// Returns an error if the line does not end within the limit, or is not the document.
pub fn read<T: DeserializeOwned>(from: &mut impl BufRead, most: u64) -> Result<T, FrameError> {
    let mut line = Vec::new();
    from.take(most.saturating_add(1)).read_until(b'\n', &mut line)?;
    match line.last() {
        Some(b'\n') => Ok(serde_json::from_slice(&line)?),
        _ if line.len() as u64 > most => Err(FrameError::TooLong(most)),
        _ => Err(FrameError::Ended),
    }
}

/// Splits a frame into its document and the bytes after the line. Returns None if it is not such a frame.
pub fn split<T: DeserializeOwned>(frame: &[u8]) -> Option<(T, &[u8])> {
    let end = frame.iter().position(|byte| *byte == b'\n')?;
    let (line, bytes) = frame.split_at_checked(end + 1)?;
    Some((serde_json::from_slice(line).ok()?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_within_the_limit_is_read_and_nothing_after_it() {
        let frame = [line(&["a", "b"]).unwrap(), b"\nrest".to_vec()].concat();
        assert_eq!(split(&frame), Some((vec!["a".to_owned(), "b".to_owned()], &b"\nrest"[..])));
        let mut reader = &frame[..];
        // The limit is without the line's end.
        let read_line: Vec<String> = read(&mut reader, 9).unwrap();
        assert_eq!((read_line.len(), reader), (2, &b"\nrest"[..]));
        assert!(matches!(read::<Vec<String>>(&mut &frame[..], 8), Err(FrameError::TooLong(8))));
        assert!(matches!(read::<Vec<String>>(&mut &frame[..5], 9), Err(FrameError::Ended)));
        assert!(matches!(read::<u64>(&mut &frame[..], 9), Err(FrameError::Document(_))));
    }
}
