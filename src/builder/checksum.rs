//! The digest a file must have, and whether it has it.
//!
//! A digest is written down as a value, or stands in a list beside the file (`SHA256SUMS`, `CHECKSUM`, …). What is
//! compared is the file as it was downloaded, before anything is uncompressed. Lists are read, never believed for more
//! than they are: who signed one is not looked at, and what stands in one reaches no error.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use percent_encoding::percent_decode_str;
use reqwest::Url;
use sha2::{Digest as _, Sha256, Sha512};

use super::fetch::{Fetcher, shown};
use super::{Chunks, SourceClass, SourceError};

/// A longer file is no list of digests.
const LONGEST_LIST: usize = 1 << 20;

/// How a digest is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// Its name, as a DiskImage has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits a digest has.
    const fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A digest, written `sha256:…` with small letters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// A digest that somebody wrote down, in hexadecimal.
    ///
    /// # Errors
    /// [`SourceClass::Invalid`] when it has another number of digits, or other ones.
    pub fn new(algorithm: Algorithm, hex: &str) -> Result<Self, SourceError> {
        let (word, digits) = (algorithm.word(), algorithm.digits());
        if !is_hex(hex, algorithm) {
            return Err(SourceError::invalid(format!("write a {word} digest as {digits} hexadecimal digits")));
        }
        Ok(Self(format!("{word}:{}", hex.to_ascii_lowercase())))
    }

    /// The digest that a list has of a file, by the last segment of the file's address. A list of nothing but one
    /// digest is taken to be of that file.
    ///
    /// # Errors
    /// As [`Fetcher::open`] and its stream; [`SourceClass::Invalid`] when the list is none or lacks the file.
    pub async fn listed(fetcher: &Fetcher, list: &Url, file: &Url, algorithm: Algorithm) -> Result<Self, SourceError> {
        let mut bytes = fetcher.open(list).await?.bytes;
        let mut text = Vec::new();
        while let Some(chunk) = bytes.try_next().await? {
            if text.len() + chunk.len() > LONGEST_LIST {
                return Err(SourceError::invalid(format!(
                    "what {} has is longer than 1 MiB: name the list of digests (SHA256SUMS, CHECKSUM), not the file",
                    shown(list)
                )));
            }
            text.extend_from_slice(&chunk);
        }
        in_list(&String::from_utf8_lossy(&text), file_name(file).as_deref(), algorithm)
            .map_err(|why| SourceError::invalid(format!("the list of digests at {} {why}", shown(list))))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of the file at an address: its last segment. `None` for a directory.
#[must_use]
pub fn file_name(url: &Url) -> Option<String> {
    let last = url.path_segments()?.next_back().filter(|last| !last.is_empty())?;
    Some(percent_decode_str(last).decode_utf8_lossy().into_owned())
}

/// Passes bytes on and computes their digest; at their end `judge` says whether it is the right one.
pub(crate) fn judged(
    chunks: Chunks,
    algorithm: Algorithm,
    judge: impl FnOnce(Digest) -> Result<(), SourceError> + Send + 'static,
) -> Chunks {
    let start = (chunks, Hasher::new(algorithm), judge);
    stream::try_unfold(start, |(mut chunks, mut hasher, judge)| async move {
        let Some(chunk) = chunks.try_next().await? else {
            judge(hasher.finish())?;
            return Ok(None);
        };
        hasher.update(&chunk);
        Ok(Some((chunk, (chunks, hasher, judge))))
    })
    .boxed()
}

/// Passes bytes on; ends in [`SourceClass::Mismatch`] when they do not have this digest.
#[must_use]
pub fn verified(chunks: Chunks, expected: Digest) -> Chunks {
    let algorithm =
        if expected.0.starts_with(Algorithm::Sha512.word()) { Algorithm::Sha512 } else { Algorithm::Sha256 };
    judged(chunks, algorithm, move |found| {
        if found == expected {
            return Ok(());
        }
        let message = format!(
            "the file has the digest {found} where {expected} was promised: correct the checksum, or wait until the \
             file and its list belong together again"
        );
        Err(SourceError::new(SourceClass::Mismatch, message))
    })
}

enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    fn update(&mut self, chunk: &Bytes) {
        match self {
            Self::Sha256(hash) => hash.update(chunk),
            Self::Sha512(hash) => hash.update(chunk),
        }
    }

    fn finish(self) -> Digest {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (algorithm, hex) = match self {
            Self::Sha256(hash) => (Algorithm::Sha256, hex(&hash.finalize())),
            Self::Sha512(hash) => (Algorithm::Sha512, hex(&hash.finalize())),
        };
        Digest(format!("{}:{hex}", algorithm.word()))
    }
}

/// One line of a list.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    /// None for a digest that stands alone.
    name: Option<&'a str>,
    algorithm: Algorithm,
    hex: &'a str,
}

/// The digest of a file in a list, or what the list lacks, as the rest of a sentence.
fn in_list(text: &str, name: Option<&str>, algorithm: Algorithm) -> Result<Digest, String> {
    let entries: Vec<Entry<'_>> = content(text).filter_map(entry).collect();
    let own: Vec<&Entry<'_>> = match entries.as_slice() {
        [] => return Err("is none: name a file of lines such as `DIGEST  FILE` or `SHA256 (FILE) = DIGEST`".to_owned()),
        [only] if only.name.is_none() => vec![only],
        entries => entries.iter().filter(|entry| entry.name.is_some() && entry.name == name).collect(),
    };
    let of_algorithm = own.iter().filter(|entry| entry.algorithm == algorithm);
    let digests: BTreeSet<String> = of_algorithm.map(|entry| entry.hex.to_ascii_lowercase()).collect();
    match (digests.first(), own.first()) {
        (Some(hex), _) if digests.len() == 1 => Ok(Digest(format!("{}:{hex}", algorithm.word()))),
        (Some(_), _) => Err("has several digests of the file: write the right one as the checksum's value".to_owned()),
        (None, Some(other)) => {
            Err(format!("has only a {} digest of the file: set algorithm to that", other.algorithm.word()))
        }
        (None, None) => Err(format!(
            "does not name {} among its {} files: name the list that belongs to the file, or write the digest as the \
             checksum's value",
            name.unwrap_or("the file, as the address ends in no file name,"),
            entries.len()
        )),
    }
}

/// The lines of a list, without the armour of a clear-signed one.
fn content(text: &str) -> impl Iterator<Item = &str> {
    let mut in_signature = false;
    text.lines().map(str::trim_end).filter_map(move |line| {
        match line {
            "-----BEGIN PGP SIGNATURE-----" => in_signature = true,
            "-----END PGP SIGNATURE-----" => in_signature = false,
            _ if !in_signature => return Some(line.strip_prefix("- ").unwrap_or(line)),
            _ => {}
        }
        None
    })
}

/// What a line says, when it has a digest of a kind that we know.
fn entry(line: &str) -> Option<Entry<'_>> {
    let line = line.trim();
    tagged(line).or_else(|| plain(line))
}

/// BSD's form, `SHA256 (name) = digest`, which OpenSSL writes without the spaces.
fn tagged(line: &str) -> Option<Entry<'_>> {
    let (tag, rest) = line.split_once('(')?;
    let (name, hex) = rest.rsplit_once(')')?;
    let hex = hex.trim_start().strip_prefix('=')?.trim();
    let tag = tag.trim_end().to_ascii_lowercase();
    let algorithm = Algorithm::ALL.into_iter().find(|algorithm| tag == algorithm.word())?;
    is_hex(hex, algorithm).then_some(Entry { name: Some(local(name)), algorithm, hex })
}

/// The form of coreutils, `digest  name` or `digest *name`, and a digest alone.
fn plain(line: &str) -> Option<Entry<'_>> {
    let (hex, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let algorithm = Algorithm::ALL.into_iter().find(|&algorithm| is_hex(hex, algorithm))?;
    let name = rest.trim_start();
    let name = name.strip_prefix('*').unwrap_or(name);
    Some(Entry { name: (!name.is_empty()).then(|| local(name)), algorithm, hex })
}

fn local(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

fn is_hex(text: &str, algorithm: Algorithm) -> bool {
    text.len() == algorithm.digits() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "AAAA567890123456789012345678901234567890123456789012345678901234";
    const B: &str = "bbbb567890123456789012345678901234567890123456789012345678901234";

    fn look(text: &str, name: &str) -> Result<String, String> {
        in_list(text, Some(name), Algorithm::Sha256).map(|digest| digest.to_string())
    }

    fn found(hex: &str) -> Result<String, String> {
        Ok(format!("sha256:{}", hex.to_lowercase()))
    }

    #[test]
    fn every_form_of_a_line_is_read() {
        let long = A.repeat(2);
        for line in [
            format!("{A}  noble.img"),
            format!("{A} *noble.img"),
            format!("{A}  ./noble.img\r"),
            format!("{A}\tnoble.img"),
            format!("SHA256 (noble.img) = {A}"),
            format!("SHA256(noble.img)= {A}"),
            format!("SHA256 (./noble.img) = {A}"),
            // The other digests of the same file do not disturb.
            format!("SHA512 (noble.img) = {long}\nMD5 (noble.img) = 0123\nSHA256 (noble.img) = {A}"),
            format!("{long}  noble.img\n{A}  noble.img\n{A} *noble.img"),
        ] {
            let text = format!("# noble.img: 12345 bytes\n{B}  other.img\n\n{line}\n{B}  noble.img.manifest\n");
            assert_eq!(look(&text, "noble.img"), found(A), "{text}");
        }
    }

    #[test]
    fn names_may_hold_what_forms_are_made_of() {
        let text = format!("SHA256 (a (1).img) = {A}\n{B}  b c.img\n");
        assert_eq!(look(&text, "a (1).img"), found(A));
        assert_eq!(look(&text, "b c.img"), found(B));
    }

    #[test]
    fn a_signed_list_is_read_without_its_armour() {
        let text = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# f.qcow2: 1 bytes\n- SHA256 (-f.qcow2) = {B}\n\
             SHA256 (f.qcow2) = {A}\n-----BEGIN PGP SIGNATURE-----\n\n{B}  f.qcow2\n-----END PGP SIGNATURE-----\n"
        );
        assert_eq!(look(&text, "f.qcow2"), found(A));
        assert_eq!(look(&text, "-f.qcow2"), found(B));
    }

    #[test]
    fn a_digest_alone_is_that_of_the_file() {
        assert_eq!(look(&format!("{A}\n"), "any"), found(A));
        assert_eq!(in_list(A, None, Algorithm::Sha256).map(|digest| digest.to_string()), found(A));
        // Two that stand alone belong to nobody; one name is not another.
        assert!(look(&format!("{A}\n{B}\n"), "any").unwrap_err().contains("does not name any among its 2"));
        assert!(look(&format!("{A}  other\n"), "any").unwrap_err().contains("does not name any among its 1"));
    }

    #[test]
    fn what_a_list_lacks_is_told_without_its_content() {
        let cases = [
            ("<html>hunter2</html>".to_owned(), "is none"),
            (String::new(), "is none"),
            ("0123456789abcdef0123456789abcdef  noble.img".to_owned(), "is none"),
            (format!("{}  noble.img", A.repeat(2)), "only a sha512 digest of the file: set algorithm"),
            (A.repeat(2), "only a sha512 digest"),
            (format!("{A}  noble.img\n{B}  noble.img"), "several digests"),
            (format!("{A}  hunter2.img\n{A}  hunter2/noble.img"), "name the list that belongs to the file"),
        ];
        for (text, expected) in cases {
            let why = look(&text, "noble.img").unwrap_err();
            assert!(why.contains(expected) && !why.contains("hunter2"), "{text}: {why}");
        }
        let why = in_list(&format!("{A}  noble.img"), None, Algorithm::Sha256).unwrap_err();
        assert!(why.contains("ends in no file name"), "{why}");
    }

    #[test]
    fn the_name_is_the_last_segment_of_the_address() {
        let name = |url: &str| file_name(&Url::parse(url).unwrap());
        assert_eq!(name("https://u:p@h/a/b%20c+d.img?token=x#f").as_deref(), Some("b c+d.img"));
        assert_eq!(name("https://h/a%2Fb.img").as_deref(), Some("a/b.img"));
        assert_eq!(name("https://h/a/"), None);
        assert_eq!(name("https://h"), None);
    }

    #[test]
    fn a_value_is_checked() {
        assert_eq!(Digest::new(Algorithm::Sha256, A).unwrap().to_string(), found(A).unwrap());
        for (algorithm, hex) in
            [(Algorithm::Sha512, A), (Algorithm::Sha256, &A[1..]), (Algorithm::Sha256, &"x".repeat(64))]
        {
            let error = Digest::new(algorithm, hex).unwrap_err();
            assert!(error.message.contains("hexadecimal digits"), "{error}");
        }
    }
}
