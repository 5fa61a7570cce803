//! A key pair made twice is made once, whatever became of the first answer.

use super::*;
use crate::cloud::{Cloud, ErrorClass, key_pair_name};

const PAIRS: &str = "/compute/v2.1/os-keypairs";
const KEY: &str = "ssh-ed25519 AAAAC3Nza node";

/// Has a key pair of any name with this key.
fn taken(key: Option<&'static str>) -> Fake {
    Fake::start(move |seen| match (seen.method.as_str(), seen.path.starts_with(PAIRS)) {
        ("POST", true) => Some(nova_fault(409, "conflictingRequest", "Key pair 'k' already exists.")),
        ("GET", true) => Some(match key {
            Some(key) => Reply::Json(200, json!({"keypair": {"name": "k", "public_key": key, "type": "ssh"}})),
            None => nova_fault(404, "itemNotFound", "Keypair k not found for user u"),
        }),
        _ => None,
    })
}

#[tokio::test]
async fn a_public_key_is_sent_in_words_that_any_nova_knows() {
    let fake = Fake::start(|seen| seen.is("POST", PAIRS).then(|| Reply::Json(200, json!({"keypair": {"name": "k"}}))));
    let name = key_pair_name(&ownership());
    cloud(&fake).create_key_pair(&name, KEY).await.unwrap();
    let sent = fake.seen().pop().unwrap();
    assert_eq!(sent.body, json!({"keypair": {"name": "nodepool-me-record-1", "public_key": KEY}}));
    assert_eq!(sent.header("openstack-api-version"), None);
}

#[tokio::test]
async fn one_of_the_name_with_the_same_key_is_the_one() {
    for held in [KEY, "ssh-ed25519 AAAAC3Nza somebody@else\n", "ssh-ed25519 AAAAC3Nza"] {
        let fake = taken(Some(held));
        cloud(&fake).create_key_pair("k", KEY).await.unwrap();
        assert_eq!((fake.count("POST", PAIRS), fake.count("GET", "/compute/v2.1/os-keypairs/k")), (1, 1));
    }
    for other in [Some("ssh-ed25519 AAAAother node"), Some("ssh-rsa AAAAC3Nza node"), Some(""), None] {
        let error = cloud(&taken(other)).create_key_pair("k", KEY).await.unwrap_err();
        assert_eq!((error.class, error.call), (ErrorClass::Conflict, "compute create-key-pair"), "{other:?}");
    }
}

/// The first request took effect, and its answer got lost.
#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let fake = Fake::start(|seen| match (seen.method.as_str(), seen.before) {
        ("POST", 0) if seen.path == PAIRS => Some(Reply::Cut),
        ("POST", _) if seen.path == PAIRS => {
            Some(nova_fault(409, "conflictingRequest", "Key pair 'k' already exists."))
        }
        ("GET", _) if seen.path.starts_with(PAIRS) => {
            Some(Reply::Json(200, json!({"keypair": {"name": "k", "public_key": KEY}})))
        }
        _ => None,
    });
    cloud(&fake).create_key_pair("k", KEY).await.unwrap();
    assert_eq!(fake.count("POST", PAIRS), 2);
}

#[tokio::test]
async fn refusals_of_a_key_pair() {
    let cases = [
        (nova_fault(403, "forbidden", "Quota exceeded, too many key pairs."), ErrorClass::Quota),
        (nova_fault(400, "badRequest", "Keypair data is invalid: failed to generate fingerprint"), ErrorClass::Invalid),
        (Reply::Stall, ErrorClass::Unclear),
    ];
    for (reply, class) in cases {
        let answered = reply.clone();
        let fake = Fake::start(move |seen| seen.is("POST", PAIRS).then(|| answered.clone()));
        let error = impatient(&fake).create_key_pair("k", KEY).await.unwrap_err();
        assert_eq!(error.class, class, "{reply:?}");
        assert!(!error.to_string().contains("AAAA"), "{error}");
    }
    let fake = Fake::start(|_| None);
    for name in ["", "a/b", "../servers", "a b"] {
        let cloud = cloud(&fake);
        assert_eq!(cloud.create_key_pair(name, KEY).await.unwrap_err().class, ErrorClass::Invalid, "{name}");
        assert_eq!(cloud.delete_key_pair(name).await.unwrap_err().class, ErrorClass::Invalid, "{name}");
    }
    assert_eq!(fake.seen().iter().filter(|seen| seen.path.contains("keypairs")).count(), 0);
}

#[tokio::test]
async fn a_key_pair_that_is_gone_is_gone() {
    let path = "/compute/v2.1/os-keypairs/k";
    for reply in [Reply::Text(202, String::new()), nova_fault(404, "itemNotFound", "Keypair k not found for user u")] {
        let fake = Fake::start(move |seen| seen.is("DELETE", path).then(|| reply.clone()));
        cloud(&fake).delete_key_pair("k").await.unwrap();
        assert_eq!(fake.count("DELETE", path), 1);
    }
    let fake = Fake::start(move |seen| seen.is("DELETE", path).then(|| Reply::Text(404, "<html></html>".into())));
    assert_eq!(cloud(&fake).delete_key_pair("k").await.unwrap_err().class, ErrorClass::Unclear);
}

#[tokio::test]
async fn all_names_are_listed() {
    let pair = |name: &str| json!({"keypair": {"name": name, "public_key": KEY, "fingerprint": "f"}});
    let pages = [
        json!({"keypairs": [pair("a")], "keypairs_links": [{"rel": "next", "href": "http://h/os-keypairs?marker=a"}]}),
        json!({"keypairs": [pair("b")]}),
    ];
    let fake = Fake::start(move |seen| seen.is("GET", PAIRS).then(|| Reply::Json(200, pages[seen.before].clone())));
    assert_eq!(cloud(&fake).key_pairs().await.unwrap(), ["a", "b"]);
    let fake = Fake::start(|seen| seen.is("GET", PAIRS).then(|| Reply::Json(200, json!({}))));
    assert_eq!(cloud(&fake).key_pairs().await.unwrap_err().class, ErrorClass::Unavailable, "no list is no empty list");
}
