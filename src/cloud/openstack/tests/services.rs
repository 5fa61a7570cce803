//! Which services answer: whatever they say, or not at all.

use super::*;
use crate::cloud::Cloud;

/// A cloud whose catalogue has every service at this address, and Neutron at a port where nobody listens.
fn without_neutron(fake_base: &str, number: usize) -> Reply {
    let Reply::With(status, mut body, headers) = token(fake_base, number, 3600) else { unreachable!() };
    for service in body["token"]["catalog"].as_array_mut().unwrap() {
        if service["type"] == "network" {
            for endpoint in service["endpoints"].as_array_mut().unwrap() {
                endpoint["url"] = json!(format!("http://{}", nobody()));
            }
        }
    }
    Reply::With(status, body, headers)
}

/// An address where nobody listens.
fn nobody() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn whoever_answers_anything_is_there() {
    // Apart from the version of compute, all of them answer 404 here.
    let fake = Fake::start(|_| None);
    assert_eq!(cloud(&fake).silent_services().await, []);
}

#[tokio::test]
async fn the_silent_ones_are_named() {
    let fake = Fake::start(|seen| match seen.path.as_str() {
        "/identity/v3/auth/tokens" => Some(without_neutron(&format!("http://{}", seen.header("host")?), seen.before)),
        "/image/" | "/image" => Some(Reply::Text(503, "<html>down</html>".into())),
        _ => None,
    });
    let silent = cloud(&fake).silent_services().await;
    let said: Vec<String> = silent.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "the network service does not answer: 127.0.0.1 refuses the connection",
            "the image service does not answer: 127.0.0.1 answers HTTP 503 without a readable fault",
        ]
    );
}

#[tokio::test]
async fn without_keystone_nothing_else_is_accused() {
    let fake = Fake::start(|_| Some(Reply::Cut));
    let silent = cloud(&fake).silent_services().await;
    assert_eq!(silent.iter().map(|silence| silence.service).collect::<Vec<_>>(), ["identity"]);
}
