//! Keys of every kind that people put into Secrets. Those in `samples` were made for this and open nothing.

use super::*;

macro_rules! sample {
    ($name:literal) => {
        include_str!(concat!("samples/", $name))
    };
}

const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICZAoZO1GkF18HpdJPkdXmAtuLiv11Uuf1gezMR/Z/tG";
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBL7DETWl8/\
                     EqFZhiDYKonIc0eKwC02Tq10KU4aglnhxxzTjWVlrJtzmA6K476vHkKQ58oxFY/kaycDKrliWpHyc=";

fn public(text: &str) -> Result<String, KeyError> {
    parse_private_key(text).map(|key| key.public_text())
}

#[test]
fn every_format_of_a_key_is_the_same_key() {
    assert_eq!(public(sample!("ed25519")), Ok(ED25519.to_owned()));
    for text in [sample!("ecdsa"), sample!("ecdsa-pem"), sample!("ecdsa-pkcs8")] {
        assert_eq!(public(text), Ok(ECDSA.to_owned()));
    }
    let rsa = sample!("rsa.pub").trim_end_matches(" test\n");
    for text in [sample!("rsa"), sample!("rsa-pem"), sample!("rsa-pkcs8")] {
        assert_eq!(public(text), Ok(rsa.to_owned()));
    }
    assert!(public(sample!("ed25519-pkcs8")).unwrap().starts_with("ssh-ed25519 "));
}

#[test]
fn what_yaml_makes_of_a_key_is_still_the_key() {
    let indented: String = sample!("ed25519").lines().map(|line| format!("    {line}  \r\n")).collect();
    assert_eq!(public(&format!("\n\n{indented}\n")), Ok(ED25519.to_owned()));
    let indented: String = sample!("rsa-pem").lines().map(|line| format!("\t{line}\n")).collect();
    assert!(public(&indented).is_ok());
}

#[test]
fn a_key_with_a_passphrase_is_refused_with_what_to_do() {
    for text in [sample!("protected"), sample!("protected-pem"), sample!("protected-pkcs8")] {
        assert_eq!(public(text), Err(KeyError::Protected));
    }
    assert!(KeyError::Protected.to_string().contains("ssh-keygen -p -N ''"));
}

#[test]
fn what_is_no_usable_private_key_is_told_apart() {
    let cut = |text: &'static str| &text[..text.len() / 2];
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let spki = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    for (text, error) in [
        ("", KeyError::NoKey),
        ("hunter2", KeyError::NoKey),
        (certificate, KeyError::NoKey),
        (ED25519, KeyError::Public),
        (spki, KeyError::Public),
        (cut(sample!("ed25519")), KeyError::Damaged),
        (cut(sample!("rsa-pem")), KeyError::Damaged),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\n", KeyError::Damaged),
        (sample!("rsa-short"), KeyError::Unusable),
        ("-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n", KeyError::Unusable),
    ] {
        assert_eq!(public(text), Err(error), "{text}");
        assert!(!error.to_string().contains("hunter2"));
    }
}

#[test]
fn a_made_key_is_new_and_reads_back() {
    let (one, other) = (make_key(), make_key());
    assert_ne!(one.public_text(), other.public_text());
    assert!(one.public_text().starts_with("ssh-ed25519 AAAA"));
    assert_eq!(public(one.private_text()), Ok(one.public_text().to_owned()));
}

#[test]
fn a_key_shows_nothing_private() {
    let key = make_key();
    let secret: Vec<&str> = key.private_text().lines().filter(|line| !line.starts_with("-----")).collect();
    for shown in [format!("{key:?}"), format!("{:?}", key.private_key()), format!("{:#?}", key.private_key())] {
        assert!(secret.iter().all(|line| !shown.contains(line)), "{shown}");
    }
    assert_eq!(format!("{:?}", key.private_key()), "PrivateKey(ssh-ed25519)");
    assert_eq!(format!("{:?}", parse_private_key(sample!("rsa")).unwrap()), "PrivateKey(ssh-rsa)");
}
