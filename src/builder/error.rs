//! How a source fails: the class decides what is done, the sentence is for people.
//!
//! Never holds a body, a path or a query of an address, or anything else that could carry a secret (rule 16).

use std::io;

/// What a failure of a source means for the next decision. Exhaustive on purpose: a new class must be answered
/// everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceClass {
    /// There is no such file.
    NotFound,
    /// Whoever has the file does not give it to us.
    Denied,
    /// The source is not what it was said to be, and stays so until somebody changes something.
    Invalid,
    /// The bytes have another digest than was promised: a wrong file, or one that is just being replaced.
    Mismatch,
    /// It passes: the server is away, slow, or broke off.
    Unavailable,
}

/// A source that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// What it means.
    pub class: SourceClass,
    /// One sentence that says what to do, when somebody can do something.
    pub message: String,
}

impl SourceError {
    pub(crate) fn new(class: SourceClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(SourceClass::Invalid, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(SourceClass::Unavailable, message)
    }
}

/// So that it passes through readers unharmed; `downcast` gives it back.
impl From<SourceError> for io::Error {
    fn from(error: SourceError) -> Self {
        Self::other(error)
    }
}
