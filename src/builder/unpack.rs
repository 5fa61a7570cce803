//! Uncompresses bytes on their way.
//!
//! A file of several members is one file. It must end where its data ends: half a member and anything after the last one
//! are errors, not an end. How much comes out is for the receiver to bound; how much memory a file may ask for is
//! bounded here.

use std::io;

use async_compression::tokio::bufread::{BzDecoder, GzipDecoder, XzDecoder, ZstdDecoder};
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::{Chunks, SourceError};

/// What comes out at a time: large enough to be cheap, small enough to be computed in a few milliseconds.
const PIECE: usize = 256 << 10;
/// As much as `xz -9` asks for, twice. Zstandard's decoder keeps to 128 MiB by itself (`--long=27`).
const XZ_MEMORY: u64 = 128 << 20;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// gzip.
    Gz,
    /// xz.
    Xz,
    /// Zstandard.
    Zst,
    /// bzip2.
    Bz2,
}

impl Compression {
    /// Its name, as a DiskImage has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gz => "gz",
            Self::Xz => "xz",
            Self::Zst => "zst",
            Self::Bz2 => "bz2",
        }
    }
}

/// Uncompresses bytes as they come, if they are compressed. All of them are read, whatever they say of their end, so
/// that an error after it (of their digest) is met.
#[must_use]
pub fn unpack(chunks: Chunks, compression: Option<Compression>) -> Chunks {
    let Some(compression) = compression else { return chunks };
    let packed = StreamReader::new(chunks.map_err(io::Error::from));
    match compression {
        Compression::Gz => {
            let mut decoder = GzipDecoder::new(packed);
            decoder.multiple_members(true);
            pieces(decoder, compression)
        }
        Compression::Xz => {
            let mut decoder = XzDecoder::with_mem_limit(packed, XZ_MEMORY);
            decoder.multiple_members(true);
            pieces(decoder, compression)
        }
        Compression::Zst => {
            let mut decoder = ZstdDecoder::new(packed);
            decoder.multiple_members(true);
            pieces(decoder, compression)
        }
        Compression::Bz2 => {
            let mut decoder = BzDecoder::new(packed);
            decoder.multiple_members(true);
            pieces(decoder, compression)
        }
    }
}

fn pieces(decoder: impl AsyncRead + Send + 'static, compression: Compression) -> Chunks {
    ReaderStream::with_capacity(decoder, PIECE).map_err(move |error| told(error, compression)).boxed()
}

/// The source's own error, or what the decoder's means.
fn told(error: io::Error, compression: Compression) -> SourceError {
    let word = compression.word();
    let (kind, of_source) = (error.kind(), error.downcast::<SourceError>());
    of_source.unwrap_or_else(|_| {
        SourceError::invalid(match kind {
            io::ErrorKind::UnexpectedEof => {
                format!("the file ends before its {word} data does: is it whole, and is its compression {word}?")
            }
            _ => format!(
                "the file cannot be uncompressed as {word}, or not with the memory there is for it: correct its \
                 compression"
            ),
        })
    })
}

#[cfg(test)]
mod tests {
    use async_compression::Level;
    use async_compression::tokio::bufread::{BzEncoder, GzipEncoder, XzEncoder, ZstdEncoder};
    use async_compression::zstd::CParameter;
    use bytes::Bytes;
    use futures::stream;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::builder::SourceClass;

    const ALL: [Compression; 4] = [Compression::Gz, Compression::Xz, Compression::Zst, Compression::Bz2];

    /// What no compressor makes small.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..length).map(|_| next()).collect()
    }

    async fn packed(data: &[u8], compression: Compression) -> Vec<u8> {
        let mut out = Vec::new();
        match compression {
            Compression::Gz => GzipEncoder::new(data).read_to_end(&mut out).await,
            Compression::Xz => XzEncoder::new(data).read_to_end(&mut out).await,
            Compression::Zst => {
                // As the `zstd` program does.
                let checksum = [CParameter::checksum_flag(true)];
                ZstdEncoder::with_quality_and_params(data, Level::Default, &checksum).read_to_end(&mut out).await
            }
            Compression::Bz2 => BzEncoder::new(data).read_to_end(&mut out).await,
        }
        .unwrap();
        out
    }

    fn chunks(data: &[u8], size: usize) -> Vec<Result<Bytes, SourceError>> {
        data.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect()
    }

    async fn unpacked(
        source: Vec<Result<Bytes, SourceError>>,
        compression: Compression,
    ) -> Result<Vec<u8>, SourceError> {
        let pieces = unpack(stream::iter(source).boxed(), Some(compression));
        pieces
            .try_fold(Vec::new(), |mut all, piece| async move {
                assert!(piece.len() <= PIECE);
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await
    }

    #[tokio::test]
    async fn one_member_and_many_come_out_as_they_went_in() {
        let (first, second) = (noise(300_000), vec![7; 300_000]);
        for compression in ALL {
            let one = packed(&first, compression).await;
            let both = [one.clone(), packed(&[], compression).await, packed(&second, compression).await].concat();
            for size in [1_000, 65_536, both.len()] {
                assert_eq!(unpacked(chunks(&one, size), compression).await.unwrap(), first, "{compression:?}");
                let out = unpacked(chunks(&both, size), compression).await.unwrap();
                assert_eq!(out, [first.clone(), second.clone()].concat(), "{compression:?}");
            }
        }
    }

    #[tokio::test]
    async fn members_that_end_with_a_chunk_are_not_the_end() {
        for compression in ALL {
            let one = packed(b"one", compression).await;
            let source = vec![Ok(Bytes::from(one.clone())), Ok(Bytes::from(one))];
            assert_eq!(unpacked(source, compression).await.unwrap(), b"oneone", "{compression:?}");
        }
    }

    #[tokio::test]
    async fn what_is_cut_anywhere_is_an_error() {
        let data = noise(3_000);
        for compression in ALL {
            let whole = packed(&data, compression).await;
            for length in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
                let error = unpacked(chunks(&whole[..length], 500), compression).await.unwrap_err();
                assert_eq!(error.class, SourceClass::Invalid, "{compression:?} {length}");
                // Of nothing, xz's decoder does not say that it is too short.
                assert!(length == 0 || error.message.contains("ends before"), "{compression:?} {length}: {error}");
                let second = [&whole[..], &whole[..length]].concat();
                assert!(length == 0 || unpacked(chunks(&second, 500), compression).await.is_err(), "second {length}");
            }
        }
    }

    #[tokio::test]
    async fn what_follows_the_data_is_an_error() {
        for compression in ALL {
            let whole = packed(b"data", compression).await;
            for garbage in [&b"garbage after the end"[..], b"\x01", b"\n"] {
                for size in [1, whole.len(), 1000] {
                    let out = unpacked(chunks(&[&whole[..], garbage].concat(), size), compression).await;
                    assert_eq!(out.unwrap_err().class, SourceClass::Invalid, "{compression:?} {garbage:?} {size}");
                }
            }
        }
    }

    #[tokio::test]
    async fn another_compression_is_told() {
        for (is, said) in [(Compression::Gz, Compression::Xz), (Compression::Zst, Compression::Gz)] {
            let error = unpacked(chunks(&packed(&noise(9000), is).await, 100), said).await.unwrap_err();
            assert!(error.message.contains(said.word()) && error.message.contains("compression"), "{error}");
        }
    }

    #[tokio::test]
    async fn damage_inside_is_an_error() {
        for compression in ALL {
            let mut data = packed(&noise(5_000), compression).await;
            let middle = data.len() / 2;
            data[middle] ^= 0xff;
            assert!(unpacked(chunks(&data, 777), compression).await.is_err(), "{compression:?}");
        }
    }

    #[tokio::test]
    async fn an_error_of_the_source_passes_through_even_after_the_last_byte() {
        for compression in ALL {
            let whole = packed(b"data", compression).await;
            let wrong = SourceError::new(SourceClass::Mismatch, "wrong digest");
            let source = vec![Ok(Bytes::from(whole)), Err(wrong.clone())];
            assert_eq!(unpacked(source, compression).await.unwrap_err(), wrong, "{compression:?}");
        }
    }

    #[tokio::test]
    async fn a_bomb_comes_out_in_pieces() {
        for compression in ALL {
            let bomb = packed(&vec![0; 10 << 20], compression).await;
            assert!(bomb.len() < 12_000, "{compression:?} {}", bomb.len());
            let mut pieces = unpack(stream::iter(vec![Ok(Bytes::from(bomb))]).boxed(), Some(compression));
            let piece = pieces.try_next().await.unwrap().unwrap();
            assert!(piece.len() <= PIECE, "{compression:?}");
        }
    }

    #[tokio::test]
    async fn a_file_that_asks_for_too_much_memory_is_refused() {
        let mut out = Vec::new();
        let window = [CParameter::window_log(28), CParameter::enable_long_distance_matching(true)];
        let data = noise(2 << 20);
        ZstdEncoder::with_quality_and_params(&data[..], Level::Default, &window).read_to_end(&mut out).await.unwrap();
        let error = unpacked(chunks(&out, 1 << 16), Compression::Zst).await.unwrap_err();
        assert!(error.message.contains("memory"), "{error}");
    }
}
