//! Reads a file that a build left.
//!
//! It decides whether what lies there can be an image at all: one regular file with something in it, that nobody
//! changes meanwhile. It never writes or removes it.

use std::io;
use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::fs::File;
use tokio_util::io::ReaderStream;

use super::{Chunks, SourceClass, SourceError};

/// What is read at a time.
const PIECE: usize = 256 << 10;

/// Opens a file; its bytes, and how many there are.
///
/// # Errors
/// A sentence that says what to leave there instead.
pub async fn open(path: &Path) -> Result<(Chunks, u64), SourceError> {
    let shown = path.display();
    // Looked at first: to open a pipe is to wait for its other end.
    let about = tokio::fs::metadata(path).await.map_err(|error| unreadable(path, &error))?;
    if about.is_dir() {
        return Err(SourceError::invalid(format!("{shown} is a directory: name the one file in it that is the image")));
    }
    if !about.is_file() {
        return Err(SourceError::invalid(format!("{shown} is no regular file: leave the image itself there")));
    }
    if about.len() == 0 {
        return Err(SourceError::invalid(format!("{shown} is empty: the build must leave the image there")));
    }
    let file = File::open(path).await.map_err(|error| unreadable(path, &error))?;
    Ok((steady(ReaderStream::with_capacity(file, PIECE), path, about.len()), about.len()))
}

/// Ends in an error when the file turns out to have another length than it had: something still writes to it.
fn steady(bytes: ReaderStream<File>, path: &Path, length: u64) -> Chunks {
    let broken = path.display().to_string();
    let changed = format!("{broken} changed while it was read: the build must be over before the upload begins");
    let bytes = bytes.map_err(move |error| {
        SourceError::unavailable(format!("{broken} cannot be read to its end: {}", error.kind()))
    });
    let start = (bytes, length, changed);
    stream::try_unfold(start, |(mut bytes, left, changed)| async move {
        match (bytes.try_next().await?, left) {
            (Some(chunk), left) if chunk.len() as u64 <= left => {
                let left = left - chunk.len() as u64;
                Ok(Some((chunk, (bytes, left, changed))))
            }
            (None, 0) => Ok(None),
            _ => Err(SourceError::invalid(changed)),
        }
    })
    .boxed()
}

fn unreadable(path: &Path, error: &io::Error) -> SourceError {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => SourceError::new(
            SourceClass::NotFound,
            format!("there is no file {shown}: the build must leave the image under this very name"),
        ),
        io::ErrorKind::PermissionDenied => SourceError::new(
            SourceClass::Denied,
            format!("{shown} cannot be read: the build must leave it readable for the user of the upload"),
        ),
        kind => SourceError::unavailable(format!("{shown} cannot be read: {kind}")),
    }
}
