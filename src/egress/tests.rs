//! Which addresses are closed, however they are written.

use std::net::SocketAddr;

use reqwest::Url;

use super::{Closed, Egress, Why, networks};

fn egress(open: &[&str], cluster: &[&str]) -> Egress {
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Egress::new(networks(open), networks(cluster))
}

#[test]
fn what_only_the_operator_reaches_is_closed() {
    let usual = egress(&[], &["10.96.0.0/12", "fd00:10::/64"]);
    for (address, why) in [
        ("127.0.0.1", Some(Why::Loopback)),
        ("127.200.3.4", Some(Why::Loopback)),
        ("::1", Some(Why::Loopback)),
        ("::ffff:127.0.0.1", Some(Why::Loopback)),
        ("::127.0.0.1", Some(Why::Loopback)),
        ("64:ff9b::7f00:1", Some(Why::Loopback)),
        ("64:ff9b:1::7f00:1", Some(Why::Loopback)),
        ("2002:7f00:1::", Some(Why::Loopback)),
        ("169.254.169.254", Some(Why::LinkLocal)),
        ("::ffff:169.254.169.254", Some(Why::LinkLocal)),
        ("fe80::1", Some(Why::LinkLocal)),
        ("febf::1", Some(Why::LinkLocal)),
        ("0.0.0.0", Some(Why::Unspecified)),
        ("0.1.2.3", Some(Why::Unspecified)),
        ("::", Some(Why::Unspecified)),
        ("224.0.0.1", Some(Why::Multicast)),
        ("255.255.255.255", Some(Why::Multicast)),
        ("ff02::1", Some(Why::Multicast)),
        ("10.96.0.1", Some(Why::Cluster)),
        ("10.111.255.255", Some(Why::Cluster)),
        ("::ffff:10.96.0.1", Some(Why::Cluster)),
        ("fd00:10::7", Some(Why::Cluster)),
        ("10.112.0.1", None),
        ("192.168.1.1", None),
        ("172.16.0.1", None),
        ("203.0.113.7", None),
        ("2001:db8::1", None),
        ("fd00:11::7", None),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(usual.address(address).err().map(|closed| closed.1), why, "{address}");
    }
}

#[test]
fn what_is_opened_is_open_and_no_more() {
    let usual = egress(&["127.0.0.0/8", "10.96.7.0/24"], &["10.96.0.0/12"]);
    for open in ["127.0.0.1", "::ffff:127.0.0.1", "10.96.7.1"] {
        assert_eq!(usual.address(open.parse().unwrap()), Ok(()), "{open}");
    }
    for closed in ["::1", "169.254.169.254", "10.96.8.1"] {
        assert!(usual.address(closed.parse().unwrap()).is_err(), "{closed}");
    }
}

#[test]
fn lists_are_read_as_they_are_written() {
    for (text, wanted) in
        [("", ""), (" , ", ""), ("10.0.0.0/8", "10.0.0.0/8"), ("10.0.0.0/8, fd00::/8,", "10.0.0.0/8,fd00::/8")]
    {
        assert_eq!(Egress::new(networks(text).unwrap(), Vec::new()).open(), wanted, "{text}");
    }
    for wrong in ["10.0.0.0", "10.0.0.0/33", "localhost", "10.0.0.0/8;fd00::/8"] {
        let error = networks(wrong).unwrap_err();
        assert!(error.contains("write 10.0.0.0/8"), "{wrong}: {error}");
    }
}

#[test]
fn urls_are_judged_by_the_address_they_have_in_whatever_form() {
    let usual = egress(&[], &[]);
    for closed in [
        "http://127.0.0.1:5000/v3",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://[::1]:5000/",
        "http://[::ffff:7f00:1]/",
        "https://169.254.169.254/latest/meta-data",
        "http://0/",
    ] {
        assert!(usual.url(&Url::parse(closed).unwrap()).is_err(), "{closed}");
    }
    for open in ["https://cloud.example.org/v3", "http://203.0.113.7/", "http://[2001:db8::1]/", "http://localhost/"] {
        assert_eq!(usual.url(&Url::parse(open).unwrap()), Ok(()), "{open}: a name is judged when it is resolved");
    }
}

#[test]
fn of_a_names_addresses_the_open_ones_remain() {
    let usual = egress(&[], &[]);
    let of = |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
    let mixed = of(&["127.0.0.1:0", "203.0.113.7:0", "[::1]:0"]);
    assert_eq!(usual.open_ones(mixed.into_iter()), Ok(of(&["203.0.113.7:0"])));
    let closed = usual.open_ones(of(&["127.0.0.1:0"]).into_iter());
    assert_eq!(closed, Err(Closed("127.0.0.1".parse().unwrap(), Why::Loopback)));
    assert_eq!(usual.open_ones(std::iter::empty()), Ok(Vec::new()), "a name that is not there is the client's to tell");
}

#[tokio::test]
async fn a_name_that_leads_to_loopback_is_not_connected_to() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = |egress: &Egress| {
        reqwest::Client::builder().no_proxy().tls_certs_only([]).dns_resolver(egress.resolver()).build().unwrap()
    };
    let closed = client(&egress(&[], &[])).get("http://localhost:1/").send().await.unwrap_err();
    assert_eq!(super::closed(&closed).map(|closed| closed.1), Some(Why::Loopback), "{closed:?}");
    let refused =
        client(&egress(&["127.0.0.0/8", "::1/128"], &[])).get("http://localhost:1/").send().await.unwrap_err();
    assert!(super::closed(&refused).is_none() && refused.is_connect(), "{refused:?}");
}
