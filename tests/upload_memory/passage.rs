//! One large file on its way from a server to three clouds, and what memory that takes of the process.
//!
//! Must be alone in its process: all that the process holds meanwhile is counted, the server included.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use nodepool_operator::builder::checksum::{Algorithm, Digest, verified};
use nodepool_operator::builder::fan_out::{Fate, fan_out};
use nodepool_operator::builder::fetch::{Fetcher, Redirects};
use nodepool_operator::egress::{self, Egress};
use reqwest::Url;

const SIZE: u64 = 10 << 30;
/// The digest of so many zeros.
const DIGEST: &str = "732377e7f4a2abdc13ddfa1eb4c9c497fd2a2b294674d056cf51581b47dd586d";
const CLOUDS: usize = 3;

/// What it took.
pub struct Passage {
    /// Bytes of memory at most, beyond those of the process before.
    pub grown: u64,
    /// From the request to the last byte at the last cloud.
    pub took: Duration,
}

/// Ten GiB of zeros, their digest verified, for three clouds that only count them; panics unless all arrives.
pub async fn ten_gib() -> Passage {
    let url = zeros();
    let here = Egress::new(egress::networks("127.0.0.0/8").unwrap(), Vec::new());
    let (before, start) = (status("VmRSS:"), Instant::now());
    let fetched = Fetcher::new(here, Redirects::SameHost).unwrap().open(&url).await.unwrap();
    assert_eq!(fetched.length, Some(SIZE));
    let (fan, branches) = fan_out(CLOUDS);
    let receivers = branches.into_iter().map(|mut branch| {
        tokio::spawn(async move {
            let mut size = 0;
            // An error is told below; to panic here would be measured too.
            while let Some(Ok(chunk)) = branch.next().await {
                size += chunk.len() as u64;
            }
            size
        })
    });
    let digest = Digest::new(Algorithm::Sha256, DIGEST).unwrap();
    let (poured, sizes) = tokio::join!(fan.pour(verified(fetched.bytes, digest)), join_all(receivers));
    let passage = Passage { grown: status("VmHWM:").saturating_sub(before), took: start.elapsed() };
    assert_eq!((poured.outcome, poured.fates), (Ok(SIZE), vec![Fate::Served; CLOUDS]));
    assert!(sizes.into_iter().all(|size| size.unwrap() == SIZE));
    passage
}

/// A server of zeros, as fast as they are taken.
fn zeros() -> Url {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/zeros.raw", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).unwrap();
        }
        let stream = stream.get_mut();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").unwrap();
        let piece = vec![0; 1 << 20];
        for _ in 0..SIZE / piece.len() as u64 {
            stream.write_all(&piece).unwrap();
        }
    });
    url.parse().unwrap()
}

/// A size of Linux's account of this process, in bytes.
fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}
