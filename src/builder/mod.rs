//! Turns what an image is made of into bytes in a cloud.
//!
//! A source is read once, as a stream: checked as it comes, unpacked on the way, and given to all clouds at the same
//! time. Nothing is kept on disk or in memory as a whole, and bytes that are not what was promised never become an image.
//! This room knows no Kubernetes and decides no policy: when a version is due, how often it is tried again and which one
//! is used is decided elsewhere.
//!
//! How it is built: [`fetch`] or [`mod@file`] opens a source, [`checksum`] compares what comes with what was promised,
//! [`unpack`] uncompresses, [`fan_out`] makes one stream several, [`upload`] puts these together with the clouds, and
//! [`job`] is the program that runs beside whatever builds an image in a pod. [`shell`] logs in to a server, and [`setup`]
//! prepares it to become an image.

pub mod checksum;
pub mod error;
pub mod fan_out;
pub mod fetch;
pub mod file;
pub mod job;
pub mod setup;
pub mod shell;
pub mod unpack;
pub mod upload;

#[cfg(test)]
mod sshd;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use futures::stream::BoxStream;

pub use error::{SourceClass, SourceError};

/// The bytes of a source, as they come. Its end without an error means that it was whole and what was promised.
pub type Chunks = BoxStream<'static, Result<Bytes, SourceError>>;
