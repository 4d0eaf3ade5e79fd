//! The mistakes in settings.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::{SettingsError, TextPosition};

/// Limit on the mistakes that are reported at once: the host shows no more.
pub(super) const MISTAKES: usize = 32;

/// Mistakes in settings, each with its place: the first 32.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<SettingsError>);

impl Mistakes {
    /// Returns one mistake.
    pub fn of(pointer: impl Into<String>, message: impl Into<String>) -> Mistakes {
        let mut mistakes = Mistakes::default();
        mistakes.add(pointer, message);
        mistakes
    }

    /// Adds a mistake: the JSON Pointer of a setting (`/allow/3`; the empty text is the settings as a whole),
    /// and a line that says what is wrong and what to write.
    pub fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.push(SettingsError { pointer: pointer.into(), message: message.into(), position: None });
    }

    /// Adds a mistake at a place in a setting that is a text in a language of its own.
    pub fn add_in_text(
        &mut self,
        pointer: impl Into<String>,
        position: TextPosition,
        message: impl Into<String>,
    ) {
        let position = Some(position);
        self.push(SettingsError { pointer: pointer.into(), message: message.into(), position });
    }

    fn push(&mut self, mistake: SettingsError) {
        if self.0.len() < MISTAKES {
            self.0.push(mistake);
        }
    }

    /// Returns whether there is no mistake.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of mistakes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the mistakes, in the order in which they were found.
    pub fn iter(&self) -> core::slice::Iter<'_, SettingsError> {
        self.0.iter()
    }

    /// Returns the places of the mistakes.
    pub fn pointers(&self) -> Vec<&str> {
        self.0.iter().map(|mistake| mistake.pointer.as_str()).collect()
    }
}

impl IntoIterator for Mistakes {
    type Item = SettingsError;
    type IntoIter = alloc::vec::IntoIter<SettingsError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a SettingsError;
    type IntoIter = core::slice::Iter<'a, SettingsError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Display for Mistakes {
    /// One mistake a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, SettingsError { pointer, message, .. }) in self.0.iter().enumerate() {
            let line = if number == 0 { "" } else { "\n" };
            let place = if pointer.is_empty() { "settings" } else { pointer };
            write!(f, "{line}{place}: {message}")?;
        }
        Ok(())
    }
}

impl core::error::Error for Mistakes {}
