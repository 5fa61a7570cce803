//! Log-ins, tokens, the catalogue, and what the services say of a token that is no good.

use reqwest::Method;
use serde_json::{Value, json};

use super::reply::Reply;
use super::side::{Compute, Identity, Image, Network, Service, Side};

const REFUSED: &str = "The request you have made requires authentication.";

async fn a_password_gives_a_token(side: &Side) {
    let reply = side.log_in(&side.credentials(side.cloud)).await.expect(201);
    assert!(!reply.header("x-subject-token").is_empty());
    let token = &reply.json()["token"];
    assert_eq!(token["methods"], json!(["password"]));
    assert_eq!(token["project"]["id"].as_str().unwrap().len(), 32);
    assert_eq!(token["project"]["domain"], json!({"id": "default", "name": "Default"}));
    assert_eq!(token["is_domain"], false);
    token["user"]["id"].as_str().unwrap();
    token["expires_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    token["issued_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
}

async fn an_application_credential_gives_a_token_of_the_same_project(side: &Side) {
    let auth = side.credentials(side.by_application_credential());
    let reply = side.log_in(&auth).await.expect(201);
    assert_eq!(reply.json()["token"]["methods"], json!(["application_credential"]));
    assert_eq!(reply.login().project(), side.login.project());
}

async fn a_wrong_password_is_refused(side: &Side) {
    let mut auth = side.credentials(side.cloud);
    auth["auth"]["identity"]["password"]["user"]["password"] = "wrong".into();
    side.log_in(&auth).await.keystone(401, "Unauthorized", REFUSED);
}

async fn an_unknown_user_is_refused_in_the_same_words(side: &Side) {
    let mut auth = side.credentials(side.cloud);
    auth["auth"]["identity"]["password"]["user"]["name"] = "nobody".into();
    side.log_in(&auth).await.keystone(401, "Unauthorized", REFUSED);
}

async fn an_unknown_project_is_refused_in_the_same_words(side: &Side) {
    let mut auth = side.credentials(side.cloud);
    auth["auth"]["scope"]["project"]["name"] = "nowhere".into();
    side.log_in(&auth).await.keystone(401, "Unauthorized", REFUSED);
}

async fn an_unknown_domain_is_refused_in_the_same_words(side: &Side) {
    let mut auth = side.credentials(side.cloud);
    auth["auth"]["identity"]["password"]["user"]["domain"] = json!({"name": "Nowhere"});
    side.log_in(&auth).await.keystone(401, "Unauthorized", REFUSED);
}

async fn a_wrong_secret_is_refused(side: &Side) {
    let mut auth = side.credentials(side.by_application_credential());
    auth["auth"]["identity"]["application_credential"]["secret"] = "wrong".into();
    side.log_in(&auth).await.keystone(401, "Unauthorized", REFUSED);
}

async fn an_unknown_application_credential_is_not_found(side: &Side) {
    let (mut auth, id) = (side.credentials(side.by_application_credential()), "0".repeat(32));
    auth["auth"]["identity"]["application_credential"]["id"] = id.as_str().into();
    let message = format!("Could not find Application Credential: {id}.");
    side.log_in(&auth).await.keystone(404, "Not Found", &message);
}

async fn an_application_credential_cannot_be_given_a_scope(side: &Side) {
    let mut auth = side.credentials(side.by_application_credential());
    auth["auth"]["scope"] = json!({"project": {"id": side.login.project()}});
    let message = "Error authenticating with application credential: Application credentials cannot request a scope.";
    let error = json!({"code": 401, "title": "Unauthorized", "message": message, "identity": {}});
    side.log_in(&auth).await.is(401, &json!({"error": error}));
}

async fn a_refusal_names_keystone(side: &Side) {
    let mut auth = side.credentials(side.cloud);
    auth["auth"]["identity"]["password"]["user"]["password"] = "wrong".into();
    let reply = side.log_in(&auth).await.expect(401);
    assert!(reply.header("www-authenticate").starts_with("Keystone uri=\"http"), "{:?}", reply.headers);
}

async fn nova_and_neutron_refuse_a_bad_token_in_json(side: &Side) {
    let body = json!({"error": {"code": 401, "title": "Unauthorized", "message": REFUSED}});
    for (service, path) in [(Compute, "/servers/detail"), (Network, "/ports"), (Compute, "/limits")] {
        let reply = side.ask(Method::GET, service, path).token("gAAAAABbad").send().await.is(401, &body);
        assert!(reply.header("www-authenticate").starts_with("Keystone uri=\""), "{:?}", reply.headers);
    }
}

async fn glance_refuses_a_bad_token_with_a_page(side: &Side) {
    let reply = side.ask(Method::GET, Image, "/images").token("gAAAAABbad").send().await;
    reply.glance(401, "This server could not verify that you are authorized to access the document you requested.");
}

async fn no_token_is_a_bad_token(side: &Side) {
    let body = json!({"error": {"code": 401, "title": "Unauthorized", "message": REFUSED}});
    side.ask(Method::GET, Compute, "/servers").no_token().send().await.is(401, &body);
    side.ask(Method::GET, Network, "/ports").no_token().send().await.is(401, &body);
    side.ask(Method::GET, Image, "/images").no_token().send().await.glance(401, "401 Unauthorized");
}

async fn a_boot_with_a_bad_token_is_refused_before_nova_looks_at_it(side: &Side) {
    let body = json!({"error": {"code": 401, "title": "Unauthorized", "message": REFUSED}});
    side.ask(Method::POST, Compute, "/servers").token("gAAAAABbad").json(&json!({})).send().await.is(401, &body);
}

async fn a_revoked_token_stops_working(side: &Side) {
    let own = side.own_login().await;
    side.ask(Method::GET, Compute, "/limits").token(&own.token).send().await.expect(200);
    let revoke = side.ask(Method::DELETE, Identity, "/auth/tokens").token(&own.token);
    revoke.header("x-subject-token", &own.token).send().await.empty(204);
    refused(side, Compute, "/limits", &own.token).await;
}

async fn keystone_knows_no_revoked_token(side: &Side) {
    let own = side.own_login().await;
    let revoke = side.ask(Method::DELETE, Identity, "/auth/tokens");
    revoke.header("x-subject-token", &own.token).send().await.empty(204);
    let reply = refused(side, Identity, "/auth/catalog", &own.token).await;
    reply.keystone(401, "Unauthorized", REFUSED);
}

/// A service, Keystone included, believes a token that it has seen for a while.
async fn refused(side: &Side, service: Service, path: &str, token: &str) -> Reply {
    super::support::eventually(super::side::PATIENCE, async || {
        let reply = side.ask(Method::GET, service, path).token(token).send().await;
        if reply.status == 401 { Ok(reply) } else { Err(reply.to_string()) }
    })
    .await
}

async fn every_service_is_in_the_catalogue_with_three_interfaces(side: &Side) {
    for kind in ["identity", "compute", "image", "network"] {
        let catalog = side.login.body["catalog"].as_array().unwrap();
        let service = catalog.iter().find(|service| service["type"] == kind).unwrap_or_else(|| panic!("no {kind}"));
        let mut interfaces: Vec<&str> = Vec::new();
        for endpoint in service["endpoints"].as_array().unwrap() {
            assert_eq!((&endpoint["region"], &endpoint["region_id"]), (&json!("RegionOne"), &json!("RegionOne")));
            interfaces.push(endpoint["interface"].as_str().unwrap());
        }
        interfaces.sort_unstable();
        assert_eq!(interfaces, ["admin", "internal", "public"]);
    }
}

async fn only_compute_and_identity_have_their_version_in_the_catalogue(side: &Side) {
    let path = |kind: &str| side.login.catalog[kind].rsplit('/').next().unwrap().to_owned();
    assert_eq!((path("compute").as_str(), path("identity").as_str()), ("v2.1", "v3"));
    for kind in ["image", "network"] {
        assert!(!path(kind).starts_with('v'), "{kind}: {}", side.login.catalog[kind]);
    }
}

async fn the_token_tells_its_roles(side: &Side) {
    let roles = side.login.body["roles"].as_array().unwrap();
    let mut names: Vec<&str> = roles.iter().map(|role| role["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["member", "reader"]);
}

async fn keystone_tells_its_versions(side: &Side) {
    let root = side.url(Identity).trim_end_matches("/v3").to_owned() + "/";
    let versions = side.ask(Method::GET, Identity, &root).no_token().send().await.expect(300);
    let first = &versions.json()["versions"]["values"][0];
    assert_eq!((&first["id"], &first["status"]), (&json!("v3.14"), &json!("stable")));
    let one = side.ask(Method::GET, Identity, "/").no_token().send().await.expect(200);
    assert_eq!(one.json()["version"]["id"], "v3.14");
}

async fn a_log_in_that_is_no_json_is_refused(side: &Side) {
    let ask = side.ask(Method::POST, Identity, "/auth/tokens").no_token().body("application/json", "{");
    let reply = ask.send().await.expect(400);
    assert_eq!(reply.json()["error"]["title"], "Bad Request");
}

async fn a_token_without_a_scope_opens_nothing(side: &Side) {
    let mut auth = side.credentials(side.cloud);
    auth["auth"]["scope"] = "unscoped".into();
    let reply = side.log_in(&auth).await.expect(201);
    assert_eq!((&reply.json()["token"]["project"], &reply.json()["token"]["catalog"]), (&Value::Null, &Value::Null));
    let token = reply.header("x-subject-token").to_owned();
    let reply = side.ask(Method::GET, Compute, "/servers").token(&token).send().await;
    assert!(matches!(reply.status, 401 | 403), "{reply}");
}

conformance!(shared:
    a_password_gives_a_token,
    an_application_credential_gives_a_token_of_the_same_project,
    a_wrong_password_is_refused,
    an_unknown_user_is_refused_in_the_same_words,
    an_unknown_project_is_refused_in_the_same_words,
    an_unknown_domain_is_refused_in_the_same_words,
    a_wrong_secret_is_refused,
    an_unknown_application_credential_is_not_found,
    an_application_credential_cannot_be_given_a_scope,
    a_refusal_names_keystone,
    nova_and_neutron_refuse_a_bad_token_in_json,
    glance_refuses_a_bad_token_with_a_page,
    no_token_is_a_bad_token,
    a_boot_with_a_bad_token_is_refused_before_nova_looks_at_it,
    a_revoked_token_stops_working,
    keystone_knows_no_revoked_token,
    every_service_is_in_the_catalogue_with_three_interfaces,
    only_compute_and_identity_have_their_version_in_the_catalogue,
    the_token_tells_its_roles,
    keystone_tells_its_versions,
    a_log_in_that_is_no_json_is_refused,
    a_token_without_a_scope_opens_nothing,
);
