//! Keystone v3: tokens by password, application credential and token; the catalogue; what clients look up on the way.
//!
//! One user, one project, one domain: a second project is a second simulator.

pub(crate) mod identity;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use self::identity::{ApplicationCredential, NAME, Token, seeded_id};
use super::{
    calls::{Call, Service},
    wire::{Answer, Reply, Request, keystone_error, unauthorized},
    world::World,
};

const REFUSED: &str = "The request you have made requires authentication.";

/// Answers one call to Keystone.
pub(crate) fn handle(world: &mut World, call: &Call, request: &Request, now: Timestamp) -> Answer {
    if call.name == "versions" {
        return Ok(versions(world, call));
    }
    if call.name == "auth" {
        return authenticate(world, request, now);
    }
    let id = request.header("x-auth-token").unwrap_or_default();
    let Some(token) = world.identity.token(id, now).cloned() else {
        return Err(refused(world));
    };
    match call.name.as_str() {
        "show-token" => {
            let subject = request.header("x-subject-token").unwrap_or_default().to_owned();
            let shown = world.identity.token(&subject, now).cloned().ok_or_else(|| not_found("token", &subject))?;
            Ok(Reply::json(200, &json!({"token": describe(world, &shown)})).with("x-subject-token", subject))
        }
        "revoke-token" => {
            let subject = request.header("x-subject-token").unwrap_or_default().to_owned();
            world.identity.revoke(&subject);
            Ok(Reply::empty(204))
        }
        "show-catalog" => Ok(Reply::json(200, &json!({"catalog": catalog(world), "links": {"self": null}}))),
        "list-projects" => Ok(Reply::json(200, &json!({"projects": [project(world)], "links": {"next": null}}))),
        "show-project" => Ok(Reply::json(200, &json!({"project": project(world)}))),
        "show-user" => Ok(Reply::json(200, &json!({"user": user(world)}))),
        "show-domain" => Ok(Reply::json(200, &json!({"domain": domain()}))),
        "list-application-credentials" => {
            let name = request.param("name");
            let held = world.identity.credentials.values();
            let all: Vec<Value> = held
                .filter(|credential| name.is_none_or(|name| name == credential.name))
                .map(|credential| show_credential(world, credential, false))
                .collect();
            Ok(Reply::json(200, &json!({"application_credentials": all, "links": {"next": null}})))
        }
        "show-application-credential" => {
            let credential = find_credential(world, call)?;
            Ok(Reply::json(200, &json!({"application_credential": show_credential(world, credential, false)})))
        }
        "create-application-credential" => create_credential(world, request, &token),
        "delete-application-credential" => {
            let id = find_credential(world, call)?.id.clone();
            world.identity.credentials.remove(&id);
            Ok(Reply::empty(204))
        }
        _ => Err(keystone_error(404, "The resource could not be found.")),
    }
}

fn refused(world: &World) -> Reply {
    keystone_error(401, REFUSED).with("www-authenticate", format!("Keystone uri=\"{}\"", world.url("/identity/v3")))
}

/// The check in front of the other services.
pub(crate) fn require_token(world: &World, service: Service, request: &Request, now: Timestamp) -> Result<(), Reply> {
    let id = request.header("x-auth-token").unwrap_or_default();
    match world.identity.token(id, now) {
        Some(token) if token.scoped => Ok(()),
        _ => Err(unauthorized(service, &world.url("/identity"))),
    }
}

fn not_found(what: &str, id: &str) -> Reply {
    keystone_error(404, &format!("Could not find {what}: {id}."))
}

fn versions(world: &World, call: &Call) -> Reply {
    let version = json!({
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": world.url("/identity/v3/")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    });
    if call.versioned {
        return Reply::json(200, &json!({"version": version}));
    }
    Reply::json(300, &json!({"versions": {"values": [version]}})).with("location", world.url("/identity/v3/"))
}

fn authenticate(world: &mut World, request: &Request, now: Timestamp) -> Answer {
    let body = request.json().ok_or_else(|| keystone_error(400, "Malformed JSON in request body."))?;
    let auth = &body["auth"];
    let methods = auth["identity"]["methods"].as_array().cloned().unwrap_or_default();
    let method = methods.first().and_then(Value::as_str).unwrap_or_default().to_owned();
    let identity = &auth["identity"][method.as_str()];
    let life = world.tunable.token_life.signed();
    let mut token = Token {
        issued: now,
        expires: now.checked_add(life).unwrap_or(Timestamp::MAX),
        scoped: true,
        method: "password",
        credential: None,
    };
    match method.as_str() {
        "password" => {
            if !is_user(world, &identity["user"]) || identity["user"]["password"] != world.identity.password.as_str() {
                return Err(refused(world));
            }
            token.scoped = scope(world, &auth["scope"])?;
        }
        "token" => {
            let id = identity["id"].as_str().unwrap_or_default();
            let held = world.identity.token(id, now).ok_or_else(|| refused(world))?;
            (token.method, token.expires, token.credential) = ("token", held.expires, held.credential.clone());
            token.scoped = scope(world, &auth["scope"])?;
        }
        "application_credential" => {
            if !auth["scope"].is_null() {
                let message = "Error authenticating with application credential: Application credentials cannot \
                               request a scope.";
                let error = json!({"code": 401, "title": "Unauthorized", "message": message, "identity": {}});
                return Err(Reply::json(401, &json!({"error": error})));
            }
            token.method = "application_credential";
            token.credential = Some(check_credential(world, identity, now)?);
        }
        _ => return Err(refused(world)),
    }
    let body = json!({"token": describe(world, &token)});
    let id = world.identity.issue(token);
    Ok(Reply::json(201, &body).with("x-subject-token", id))
}

fn is_user(world: &World, user: &Value) -> bool {
    user["id"] == world.identity.user.as_str() || (user["name"] == NAME && is_domain(&user["domain"]))
}

fn is_domain(domain: &Value) -> bool {
    domain["id"] == "default" || domain["name"] == "Default"
}

/// Whether the token will be for the project; a wrong project is refused like a wrong password.
fn scope(world: &World, scope: &Value) -> Result<bool, Reply> {
    if scope.is_null() || scope == "unscoped" || scope["unscoped"].is_object() {
        return Ok(false);
    }
    let project = &scope["project"];
    let known =
        project["id"] == world.identity.project.as_str() || (project["name"] == NAME && is_domain(&project["domain"]));
    if known { Ok(true) } else { Err(refused(world)) }
}

fn check_credential(world: &World, identity: &Value, now: Timestamp) -> Result<String, Reply> {
    let held = match identity["id"].as_str() {
        Some(id) => {
            let found = world.identity.credentials.get(id);
            Some(found.ok_or_else(|| not_found("Application Credential", id))?)
        }
        None if is_user(world, &identity["user"]) => {
            world.identity.credentials.values().find(|credential| identity["name"] == credential.name.as_str())
        }
        None => None,
    };
    held.filter(|credential| identity["secret"] == credential.secret.as_str())
        .and_then(|credential| world.identity.credential(&credential.id, now))
        .map(|credential| credential.id.clone())
        .ok_or_else(|| refused(world))
}

fn describe(world: &World, token: &Token) -> Value {
    let time = |at| world.long_stamp(at) + "Z";
    let mut shown = json!({
        "methods": [token.method],
        "user": user(world),
        "audit_ids": [Uuid::new_v4().simple().to_string()],
        "expires_at": time(token.expires),
        "issued_at": time(token.issued),
    });
    if token.scoped {
        shown["project"] = json!({"domain": domain(), "id": world.identity.project, "name": NAME});
        shown["is_domain"] = false.into();
        shown["roles"] = roles();
        shown["catalog"] = catalog(world);
    }
    if let Some(credential) = token.credential.as_ref().and_then(|id| world.identity.credentials.get(id)) {
        shown["application_credential"] =
            json!({"id": credential.id, "name": credential.name, "restricted": true, "access_rules": []});
    }
    shown
}

fn roles() -> Value {
    json!([
        {"id": seeded_id("role/member").simple().to_string(), "name": "member"},
        {"id": seeded_id("role/reader").simple().to_string(), "name": "reader"},
    ])
}

fn domain() -> Value {
    json!({"id": "default", "name": "Default"})
}

fn user(world: &World) -> Value {
    json!({"domain": domain(), "id": world.identity.user, "name": NAME, "password_expires_at": null})
}

fn project(world: &World) -> Value {
    json!({
        "id": world.identity.project, "name": NAME, "domain_id": "default", "parent_id": "default", "enabled": true,
        "is_domain": false, "description": "", "options": {}, "tags": [],
        "links": {"self": world.url("/identity/v3/projects/") + &world.identity.project},
    })
}

/// Compute and identity end with their version; image and network have none, so that a client must discover it.
fn catalog(world: &World) -> Value {
    let services = [
        ("identity", "keystone", "/identity/v3/"),
        ("compute", "nova", "/compute/v2.1"),
        ("image", "glance", "/image"),
        ("network", "neutron", "/network"),
    ];
    let entry = |(kind, name, path): (&str, &str, &str)| {
        let url = world.tunable.catalog_urls.get(kind).cloned().unwrap_or_else(|| world.url(path));
        let endpoint = |interface: &str| {
            json!({
                "id": seeded_id(&format!("endpoint/{kind}/{interface}")).simple().to_string(),
                "interface": interface, "region": world.fixed.region, "region_id": world.fixed.region, "url": url,
            })
        };
        let endpoints: Vec<Value> =
            world.tunable.catalog_interfaces.iter().map(|interface| endpoint(interface)).collect();
        json!({
            "id": seeded_id(&format!("service/{kind}")).simple().to_string(), "type": kind, "name": name,
            "endpoints": endpoints,
        })
    };
    services.into_iter().map(entry).collect()
}

fn find_credential<'a>(world: &'a World, call: &Call) -> Result<&'a ApplicationCredential, Reply> {
    let id = call.segment(3);
    world.identity.credentials.get(id).ok_or_else(|| not_found("Application Credential", id))
}

fn show_credential(world: &World, credential: &ApplicationCredential, with_secret: bool) -> Value {
    let mut shown = json!({
        "id": credential.id, "name": credential.name, "description": null, "project_id": world.identity.project,
        "expires_at": credential.expires.map(|at| world.long_stamp(at)), "roles": roles(), "unrestricted": false,
        "links": {"self": world.url("/identity/v3/users/") + &world.identity.user
            + "/application_credentials/" + &credential.id},
    });
    if with_secret {
        shown["secret"] = credential.secret.as_str().into();
    }
    shown
}

fn create_credential(world: &mut World, request: &Request, token: &Token) -> Answer {
    if token.credential.is_some() {
        let message = "You are not authorized to perform the requested action: \
                       identity:create_application_credential.";
        return Err(keystone_error(403, message));
    }
    let body = request.json().unwrap_or_default();
    let wanted = &body["application_credential"];
    let name = wanted["name"].as_str().ok_or_else(|| keystone_error(400, "'name' is a required property"))?;
    let credential = ApplicationCredential {
        id: Uuid::new_v4().simple().to_string(),
        name: name.to_owned(),
        secret: wanted["secret"].as_str().map_or_else(|| Uuid::new_v4().simple().to_string(), str::to_owned),
        expires: wanted["expires_at"].as_str().and_then(parse_expiry),
    };
    let reply = Reply::json(201, &json!({"application_credential": show_credential(world, &credential, true)}));
    world.identity.credentials.insert(credential.id.clone(), credential);
    Ok(reply)
}

/// Keystone takes a moment with or without `Z`, and means UTC.
fn parse_expiry(text: &str) -> Option<Timestamp> {
    format!("{}Z", text.trim_end_matches('Z')).parse().ok()
}
