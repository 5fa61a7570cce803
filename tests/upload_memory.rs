//! What an upload needs of memory does not grow with the image, nor with the number of clouds.
//!
//! Alone in its program: what is measured is the whole process, the server included.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

use futures::StreamExt;
use futures::future::join_all;
use nodepool_operator::builder::checksum::{Algorithm, Digest, verified};
use nodepool_operator::builder::fan_out::{Fate, fan_out};
use nodepool_operator::builder::fetch::Fetcher;
use reqwest::Url;

const SIZE: u64 = 10 << 30;
/// The digest of so many zeros.
const DIGEST: &str = "732377e7f4a2abdc13ddfa1eb4c9c497fd2a2b294674d056cf51581b47dd586d";
const CLOUDS: usize = 3;
const LIMIT: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_gib_pass_through_less_than_64_mib() {
    let url = zeros();
    let (before, start) = (status("VmRSS:"), Instant::now());
    let fetched = Fetcher::new().unwrap().open(&url).await.unwrap();
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
    let grown = status("VmHWM:").saturating_sub(before);
    println!("{} MiB more, {:.1} s", grown >> 20, start.elapsed().as_secs_f64());
    assert_eq!((poured.outcome, poured.fates), (Ok(SIZE), vec![Fate::Served; CLOUDS]));
    assert!(sizes.into_iter().all(|size| size.unwrap() == SIZE));
    assert!(grown < LIMIT, "{} MiB", grown >> 20);
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
