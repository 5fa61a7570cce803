//! One record, at most one boot request, whatever is answered.

use super::*;
use crate::cloud::{Cloud, ErrorClass};
use secrecy::SecretString;

const SERVERS: &str = "/compute/v2.1/servers";

fn failing(reply: Reply) -> Fake {
    Fake::start(move |seen| seen.is("POST", SERVERS).then(|| reply.clone()))
}

#[tokio::test]
async fn every_fault_after_the_send_is_unclear_and_sent_once() {
    let faults = [
        nova_fault(500, "computeFault", "Unexpected API Error."),
        Reply::Text(500, "<html>Traceback</html>".into()),
        Reply::Text(502, "<html>bad gateway</html>".into()),
        Reply::Text(503, "<html>unavailable</html>".into()),
        Reply::Text(504, "<html>late</html>".into()),
        Reply::Text(200, "<html>please log in</html>".into()),
        Reply::Text(404, "<html>nothing here</html>".into()),
        Reply::Text(302, String::new()),
        Reply::Json(202, json!({"server": {}})),
        Reply::Json(202, json!({"server": {"id": "../../x"}})),
        Reply::Truncated(json!({"server": {"id": "new-1"}})),
        Reply::Cut,
        Reply::Stall,
    ];
    for fault in faults {
        let fake = failing(fault.clone());
        let error = impatient(&fake).create_server(&boot("n")).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Unclear, "{fault:?}: {error}");
        assert_eq!(fake.count("POST", SERVERS), 1, "{fault:?}");
        assert_eq!(error.call, "compute create-server");
        assert_clean(&error);
    }
}

#[tokio::test]
async fn a_refusal_of_nova_is_a_refusal_and_sent_once() {
    let cases = [
        (nova_fault(400, "badRequest", "Can not find requested image"), ErrorClass::Invalid),
        (
            nova_fault(403, "forbidden", "Quota exceeded for cores: Requested 2, but already used 6 of 2 cores"),
            ErrorClass::Quota,
        ),
        (nova_fault(409, "conflictingRequest", "Port x is still in use."), ErrorClass::Conflict),
        (nova_fault(413, "overLimit", "This request was rate-limited."), ErrorClass::Throttled),
        (nova_fault(429, "overLimit", "Too many requests."), ErrorClass::Throttled),
        (Reply::Text(429, "<html>slow down</html>".into()), ErrorClass::Throttled),
    ];
    for (reply, class) in cases {
        let fake = failing(reply.clone());
        let error = cloud(&fake).create_server(&boot("n")).await.unwrap_err();
        assert_eq!((error.class, fake.count("POST", SERVERS)), (class, 1), "{reply:?}");
        assert_eq!(error.request_id.as_deref(), Some("req-1"));
        assert_clean(&error);
    }
}

#[tokio::test]
async fn before_the_send_nothing_is_unclear() {
    // Nobody listens where the catalog says Nova is.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let fake = Fake::start(|_| None);
    let rest = format!(", compute_endpoint_override: 'http://{nobody}/v2.1'");
    let cloud = OpenStack::new(config("http", &fake, &rest, None), options()).unwrap();
    let error = cloud.create_server(&boot("n")).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable, "{error}");
    // Keystone does not answer.
    let fake = Fake::start(|seen| (seen.method == "POST").then_some(Reply::Stall));
    let error = impatient(&fake).create_server(&boot("n")).await.unwrap_err();
    assert_eq!((error.class, error.call), (ErrorClass::Unavailable, "identity login"));
    assert_eq!(fake.count("POST", SERVERS), 0);
}

#[tokio::test]
async fn a_refused_token_is_renewed_and_the_boot_sent_again() {
    let fake = Fake::start(|seen| (seen.is("POST", SERVERS) && seen.before == 0).then(unauthorized));
    assert_eq!(cloud(&fake).create_server(&boot("n")).await.unwrap(), "new-1");
    assert_eq!((fake.count("POST", SERVERS), fake.count("POST", "/identity/v3/auth/tokens")), (2, 2));
}

#[tokio::test]
async fn a_401_that_no_service_wrote_is_not_followed_by_another_boot() {
    let fake = failing(Reply::Text(401, "<html>who are you?</html>".into()));
    let error = cloud(&fake).create_server(&boot("n")).await.unwrap_err();
    assert_eq!((error.class, fake.count("POST", SERVERS)), (ErrorClass::Auth, 1));
}

#[tokio::test]
async fn marks_and_wishes_are_in_the_request() {
    let fake = Fake::start(|_| None);
    let request = BootRequest {
        networks: vec!["b6f3c6a4-5a57-4d6f-9c0b-1f2e3d4c5b6a".into()],
        security_groups: vec!["ssh".into()],
        availability_zone: Some("az1".into()),
        key_name: Some("key".into()),
        config_drive: Some(true),
        user_data: Some(SecretString::from("#!/bin/sh\n")),
        metadata: [("team".to_owned(), "a".to_owned())].into(),
        ..boot("np-1")
    };
    cloud(&fake).create_server(&request).await.unwrap();
    let seen = fake.seen().into_iter().find(|seen| seen.is("POST", SERVERS)).unwrap();
    assert_eq!(seen.header("openstack-api-version"), Some("compute 2.52"));
    assert_eq!(seen.header("x-auth-token"), Some("token-0"));
    assert_eq!(
        seen.body["server"],
        json!({
            "name": "np-1", "imageRef": "image-1", "flavorRef": "flavor-1", "min_count": 1, "max_count": 1,
            "metadata": {"team": "a", "nodepool_owner": "me", "nodepool_record": "record-1", "nodepool_provider": "ns/one"},
            "tags": ["nodepool_owner=me", "nodepool_record=record-1", "nodepool_provider=ns:one"],
            "networks": [{"uuid": "b6f3c6a4-5a57-4d6f-9c0b-1f2e3d4c5b6a"}], "security_groups": [{"name": "ssh"}],
            "availability_zone": "az1", "key_name": "key", "config_drive": true, "user_data": "IyEvYmluL3NoCg==",
        })
    );
}

#[tokio::test]
async fn user_data_that_nova_quotes_is_not_shown() {
    let message = "Invalid input for field/attribute user_data. Value: IyEvYmlu. 'IyEvYmlu' is too long";
    let fake = failing(nova_fault(400, "badRequest", message));
    let error = cloud(&fake).create_server(&boot("n")).await.unwrap_err();
    assert_eq!(error.message, "Invalid input for field/attribute user_data");
}

#[tokio::test]
async fn deletion_is_repeated_and_its_404_is_proof() {
    let path = "/compute/v2.1/servers/s-1";
    let fake = Fake::start(move |seen| {
        (seen.is("DELETE", path)).then(|| match seen.before {
            0 => Reply::Cut,
            _ => nova_fault(404, "itemNotFound", "Instance s-1 could not be found."),
        })
    });
    let error = cloud(&fake).delete_server("s-1").await.unwrap_err();
    assert_eq!((error.class, fake.count("DELETE", path)), (ErrorClass::NotFound, 2));
    let fake = Fake::start(|seen| (seen.method == "DELETE").then_some(Reply::Text(500, String::new())));
    let error = cloud(&fake).delete_server("s-1").await.unwrap_err();
    assert_eq!((error.class, fake.count("DELETE", path)), (ErrorClass::Unclear, 3));
    assert_eq!(cloud(&fake).delete_server("../../v3/users").await.unwrap_err().class, ErrorClass::Invalid);
}

#[tokio::test]
async fn a_network_is_looked_up_once_until_a_boot_is_refused() {
    let fake = Fake::start(|seen| match seen.path.as_str() {
        "/network/v2.0/networks" => {
            Some(Reply::Json(200, json!({"networks": [{"id": "n-1", "name": "net"}, {"id": "n-2", "name": "net2"}]})))
        }
        SERVERS if seen.before == 1 => Some(nova_fault(400, "badRequest", "Network n-1 could not be found.")),
        _ => None,
    });
    let cloud = cloud(&fake);
    let request = BootRequest { networks: vec!["net".into()], ..boot("n") };
    for expected in [true, false, true] {
        assert_eq!(cloud.create_server(&request).await.is_ok(), expected);
    }
    assert_eq!(fake.count("GET", "/network/v2.0/networks"), 2);
    let error = cloud.create_server(&BootRequest { networks: vec!["other".into()], ..boot("n") }).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Invalid);
    assert!(error.message.contains("no network named other"), "{error}");
    assert_eq!(fake.count("POST", SERVERS), 3);
}

#[tokio::test]
async fn retry_after_is_silence() {
    let fake = Fake::start(|seen| {
        let slow = vec![("Retry-After", "1".to_owned())];
        (seen.is("POST", SERVERS) && seen.before == 0)
            .then(|| Reply::With(429, json!({"overLimit": {"code": 429, "message": "slow"}}), slow))
    });
    let cloud = cloud(&fake);
    let error = cloud.create_server(&boot("a")).await.unwrap_err();
    assert_eq!((error.class, error.retry_after), (ErrorClass::Throttled, Some(Duration::from_secs(1))));
    // Both wait, and neither is refused.
    let (again, limits) = tokio::join!(async { cloud.create_server(&boot("b")).await }, cloud.limits());
    again.unwrap();
    limits.unwrap();
    let seen = fake.seen();
    let at = seen.iter().position(|seen| seen.is("POST", SERVERS)).unwrap();
    assert!(seen[at + 1..].iter().all(|later| later.at.duration_since(seen[at].at) >= Duration::from_millis(995)));
}

#[tokio::test]
async fn a_long_retry_after_is_told_and_nothing_is_sent() {
    let fake = Fake::start(|seen| {
        let slow = vec![("Retry-After", "120".to_owned())];
        seen.is("GET", "/compute/v2.1/limits").then_some(Reply::With(503, Value::Null, slow))
    });
    let cloud = cloud(&fake);
    let error = cloud.limits().await.unwrap_err();
    assert_eq!((error.class, error.retry_after), (ErrorClass::Unavailable, Some(Duration::from_secs(120))));
    let before = fake.seen().len();
    let error = cloud.create_server(&boot("a")).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Throttled);
    assert!(error.retry_after.unwrap() > Duration::from_secs(100));
    assert_eq!(fake.seen().len(), before);
}

#[tokio::test]
async fn what_lost_its_right_while_it_waited_is_not_sent() {
    let fake = Fake::start(|_| None);
    let request = BootRequest { may_still: std::sync::Arc::new(|| false), ..boot("n") };
    let error = cloud(&fake).create_server(&request).await.unwrap_err();
    assert_eq!((error.class, fake.count("POST", SERVERS)), (ErrorClass::Unavailable, 0), "{error}");
}
