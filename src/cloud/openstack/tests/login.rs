//! One login serves all; refused credentials rest.

use super::fake::REQUEST_ID;
use super::*;
use crate::cloud::{Cloud, ErrorClass};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const TOKENS: &str = "/identity/v3/auth/tokens";
const LIMITS: &str = "/compute/v2.1/limits";

async fn at_once(cloud: &OpenStack, calls: usize) -> Vec<Result<(), CloudError>> {
    futures::future::join_all((0..calls).map(|_| async { cloud.limits().await.map(drop) })).await
}

/// Where the scripted cloud itself listens, from the request.
fn base(seen: &Seen) -> String {
    format!("http://{}", seen.header("host").unwrap())
}

#[tokio::test]
async fn fifty_calls_at_expiry_make_one_login() {
    // The first token is due for renewal at once.
    let fake = Fake::start(|seen| {
        seen.is("POST", TOKENS).then(|| token(&base(seen), seen.before, [0, 3600][seen.before.min(1)]))
    });
    let cloud = cloud(&fake);
    cloud.limits().await.unwrap();
    assert_eq!(fake.count("POST", TOKENS), 1);
    assert!(at_once(&cloud, 50).await.iter().all(Result::is_ok));
    assert_eq!(fake.count("POST", TOKENS), 2);
    assert_eq!(fake.count("GET", LIMITS), 51);
}

#[tokio::test]
async fn fifty_calls_with_a_revoked_token_make_one_login() {
    let revoked = Arc::new(AtomicBool::new(false));
    let now = revoked.clone();
    let fake = Fake::start(move |seen| {
        let old = seen.header("x-auth-token") == Some("token-0");
        (seen.is("GET", LIMITS) && old && now.load(Ordering::SeqCst)).then(unauthorized)
    });
    let cloud = cloud(&fake);
    cloud.limits().await.unwrap();
    revoked.store(true, Ordering::SeqCst);
    assert!(at_once(&cloud, 50).await.iter().all(Result::is_ok));
    assert_eq!((fake.count("POST", TOKENS), fake.count("GET", LIMITS)), (2, 101));
}

#[tokio::test]
async fn fifty_calls_share_one_refusal_and_then_credentials_rest() {
    let fake = Fake::start(|seen| seen.is("POST", TOKENS).then(unauthorized));
    let cloud = cloud(&fake);
    let outcomes = at_once(&cloud, 50).await;
    assert_eq!(fake.count("POST", TOKENS), 1);
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.class, ErrorClass::Auth);
        assert!(error.message.starts_with("Keystone refuses the credentials"), "{error}");
        assert_clean(&error);
    }
    for _ in 0..10 {
        cloud.limits().await.unwrap_err();
    }
    assert_eq!(fake.count("POST", TOKENS), 3, "then once a minute");
    let error = cloud.limits().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Auth);
    assert!(error.retry_after.unwrap() > Duration::from_secs(50) && error.message.contains("correct the Secret"));
}

#[tokio::test]
async fn a_service_that_always_refuses_costs_one_login_per_call() {
    let fake = Fake::start(|seen| seen.is("GET", LIMITS).then(unauthorized));
    let error = cloud(&fake).limits().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Auth);
    assert_eq!((fake.count("POST", TOKENS), fake.count("GET", LIMITS)), (2, 2));
}

/// Keystone gives one token with this life, and is away then.
fn away(life: i64) -> Fake {
    Fake::start(move |seen| {
        seen.is("POST", TOKENS).then(|| match seen.before {
            0 => token(&base(seen), 0, life),
            _ => Reply::Text(503, String::new()),
        })
    })
}

#[tokio::test]
async fn keystone_away_stops_nobody_whose_token_lives() {
    let fake = away(3);
    let cloud = cloud(&fake);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    // Renewal is due after four fifths of three seconds; the token is good for the rest.
    while fake.count("POST", TOKENS) < 2 {
        cloud.limits().await.unwrap();
        assert!(std::time::Instant::now() < deadline, "no renewal was tried");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cloud.limits().await.unwrap();
    assert_eq!(fake.count("POST", TOKENS), 2, "not with every call");
}

#[tokio::test]
async fn a_401_while_keystone_is_away_takes_the_token_from_nobody_else() {
    let fake = Fake::start(|seen| match seen.path.as_str() {
        TOKENS if seen.before > 0 => Some(Reply::Text(503, String::new())),
        "/image/v2/images" => Some(Reply::Text(401, "<html>401 Unauthorized</html>".into())),
        _ => None,
    });
    let cloud = cloud(&fake);
    let error = cloud.images(&crate::cloud::ImageSelector::Name("x".into())).await.unwrap_err();
    assert_eq!((error.class, error.call), (ErrorClass::Unavailable, "identity login"));
    cloud.limits().await.unwrap();
    assert_eq!(fake.count("POST", TOKENS), 2);
}

#[tokio::test]
async fn keystone_away_after_the_tokens_end() {
    let fake = away(0);
    let cloud = cloud(&fake);
    cloud.limits().await.unwrap();
    let error = cloud.limits().await.unwrap_err();
    assert_eq!((error.class, error.call), (ErrorClass::Unavailable, "identity login"));
}

#[tokio::test]
async fn what_a_token_must_bring() {
    let bring = |body: Value| {
        let fake = Fake::start(move |seen| {
            let header = vec![("X-Subject-Token", "token-0".to_owned())];
            seen.is("POST", TOKENS).then(|| Reply::With(201, body.clone(), header))
        });
        async move { cloud(&fake).check().await.unwrap_err() }
    };
    let expires = "2126-11-22T10:00:00.000000Z";
    let unscoped = bring(json!({"token": {"expires_at": expires}})).await;
    assert!(unscoped.class == ErrorClass::Invalid && unscoped.message.contains("no project"), "{unscoped}");
    let bare = bring(json!({"token": {"expires_at": expires, "project": {"id": "p"}}})).await;
    assert!(bare.class == ErrorClass::Invalid && bare.message.contains("no catalog"), "{bare}");
    let catalog = json!([{"type": "compute", "endpoints": [
        {"interface": "public", "region": "RegionOne", "url": "http://h/v2.1"}]}]);
    let partial = bring(json!({"token": {"expires_at": expires, "project": {"id": "p"}, "catalog": catalog}})).await;
    assert!(partial.message.contains("no image service"), "{partial}");
    let garbage = bring(json!("?")).await;
    assert_eq!(garbage.class, ErrorClass::Unavailable);
}

#[tokio::test]
async fn what_is_sent_to_log_in() {
    let fake = Fake::start(|_| None);
    cloud(&fake).check().await.unwrap();
    let password = &fake.seen()[0].body["auth"];
    assert_eq!(password["identity"]["password"]["user"]["domain"], json!({"id": "default"}));
    assert_eq!(password["scope"]["project"]["name"], "ci");
    let yaml = format!(
        "clouds: {{c: {{auth_type: v3applicationcredential, auth: {{auth_url: 'http://{}/identity/v3', \
         application_credential_id: app, application_credential_secret: s3cret}}}}}}",
        fake.address
    );
    let config = CloudConfig::from_yaml(yaml.as_bytes(), "c", None).unwrap();
    OpenStack::new(config, options()).unwrap().check().await.unwrap();
    let logins: Vec<Seen> = fake.seen().into_iter().filter(|seen| seen.is("POST", TOKENS)).collect();
    assert_eq!(
        logins[1].body,
        json!({"auth": {"identity": {"methods": ["application_credential"],
                        "application_credential": {"id": "app", "secret": "s3cret"}}}}),
        "an application credential refuses a scope"
    );
}

#[tokio::test]
async fn a_wrong_address_is_told_as_such() {
    let fake = Fake::start(|_| Some(Reply::Text(404, "<html>nothing here</html>".into())));
    let error = cloud(&fake).check().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Invalid);
    assert!(error.message.contains("`auth_url`"), "{error}");
    let fake = Fake::start(|_| Some(Reply::With(301, Value::Null, vec![("Location", "http://elsewhere/".into())])));
    let error = cloud(&fake).check().await.unwrap_err();
    assert!(error.class == ErrorClass::Invalid && error.message.contains("redirect"), "{error}");
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn what_is_no_service_of_openstack_is_not_read_through_us() {
    let said = |marked: bool| async move {
        let id = if marked { "req-1" } else { "" };
        let body = json!({"error": {"code": 400, "title": "Bad Request", "message": "the vault opens with 4711"}});
        let fake = Fake::start(move |_| Some(Reply::With(400, body.clone(), vec![(REQUEST_ID, id.to_owned())])));
        cloud(&fake).check().await.unwrap_err().message
    };
    let (unmarked, marked) = (said(false).await, said(true).await);
    assert!(!unmarked.contains("4711") && unmarked.contains("HTTP 400"), "{unmarked}");
    assert!(marked.contains("4711"), "Keystone's own words help: {marked}");
}
