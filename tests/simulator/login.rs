//! Logging in: ways, refusals, tokens that end, HTTPS, and the addresses that clients start from.

use serde_json::{Value, json};

use super::cloud::{Cloud, application_credential, client, password};

fn credential(cloud: &Cloud) -> (String, String) {
    let text = std::fs::read_to_string(cloud.folder.join("clouds.yaml")).unwrap();
    let file: Value = serde_yaml::from_str(&text).unwrap();
    let auth = &file["clouds"]["simulator-application-credential"]["auth"];
    let part = |key: &str| auth[key].as_str().unwrap().to_owned();
    (part("application_credential_id"), part("application_credential_secret"))
}

#[tokio::test]
async fn the_clouds_yaml_names_two_ways_in() {
    let cloud = Cloud::launch(&["--region", "Mars", "--password", "s3cret"], client().build().unwrap());
    let text = std::fs::read_to_string(cloud.folder.join("clouds.yaml")).unwrap();
    let file: Value = serde_yaml::from_str(&text).unwrap();
    let by_password = &file["clouds"]["simulator"];
    assert_eq!(cloud.keystone, format!("{}/identity/v3", cloud.url));
    assert_eq!(by_password["auth"]["auth_url"], cloud.keystone.as_str());
    assert_eq!((&by_password["region_name"], &by_password["auth"]["password"]), (&json!("Mars"), &json!("s3cret")));
    assert_eq!(cloud.log_in(&password("s3cret")).await.status, 201);
    let (id, secret) = credential(&cloud);
    let answer = cloud.log_in(&application_credential(&id, &secret)).await;
    assert_eq!(answer.status, 201);
    let token = answer.json()["token"].clone();
    assert_eq!(token["methods"], json!(["application_credential"]));
    let endpoint = |kind: &str| {
        let catalog = token["catalog"].as_array().unwrap();
        let service = catalog.iter().find(|service| service["type"] == kind).unwrap();
        service["endpoints"][0].clone()
    };
    assert_eq!(endpoint("compute")["url"], format!("{}/compute/v2.1", cloud.url));
    assert_eq!(endpoint("image")["url"], format!("{}/image", cloud.url), "no version: a client must discover it");
    assert_eq!(endpoint("network")["region_id"], "Mars");
}

#[tokio::test]
async fn another_address_can_be_advertised() {
    let cloud = Cloud::start(&["--advertise-url", "http://127.0.0.1:1/cloud/"]).await;
    assert_eq!(cloud.keystone, "http://127.0.0.1:1/cloud/identity/v3");
    let catalog = cloud.get("/identity/v3/auth/catalog").await.json();
    let urls = catalog["catalog"].as_array().unwrap().iter().map(|service| service["endpoints"][0]["url"].as_str());
    assert!(urls.into_iter().all(|url| url.unwrap().starts_with("http://127.0.0.1:1/cloud/")), "{catalog}");
    let file = std::fs::read_to_string(cloud.folder.join("clouds.yaml")).unwrap();
    assert!(file.contains("\"http://127.0.0.1:1/cloud/identity/v3\""), "{file}");
}

#[tokio::test]
async fn wrong_log_ins_are_refused_alike() {
    let cloud = Cloud::start(&[]).await;
    let mut elsewhere = password("simulator");
    elsewhere["auth"]["scope"]["project"]["name"] = "nope".into();
    let (id, secret) = credential(&cloud);
    let wrong = [password("wrong"), elsewhere, application_credential(&id, "x")];
    for auth in wrong {
        let refused = cloud.log_in(&auth).await;
        assert_eq!(refused.status, 401);
        let message = "The request you have made requires authentication.";
        assert_eq!(refused.json(), json!({"error": {"code": 401, "message": message, "title": "Unauthorized"}}));
    }
    let nobody = cloud.log_in(&application_credential("none", &secret)).await;
    let message = "Could not find Application Credential: none.";
    assert_eq!(nobody.json(), json!({"error": {"code": 404, "message": message, "title": "Not Found"}}));
    let mut scoped = application_credential(&id, &secret);
    scoped["auth"]["scope"] = json!({"project": {"name": "simulator", "domain": {"id": "default"}}});
    let refused = cloud.log_in(&scoped).await;
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(refused.status == 401 && message.ends_with("Application credentials cannot request a scope."));
}

#[tokio::test]
async fn tokens_end() {
    let cloud = Cloud::start(&[]).await;
    let services = ["/compute/v2.1/servers", "/network/v2.0/ports", "/image/v2/images"];
    for path in services {
        assert_eq!(cloud.get(path).await.status, 200);
    }
    let revoked = cloud.post("/simulator/tokens/revoke", json!({})).await;
    assert_eq!(revoked.json(), json!({"revoked": 1}));
    for path in services {
        let refused = cloud.get(path).await;
        assert_eq!(refused.status, 401);
        let html = refused.header("content-type").starts_with("text/html");
        assert_eq!(html, path.starts_with("/image"), "Glance says it in HTML, the others in JSON");
    }
    cloud.set(json!({"tokenLife": "0s"})).await;
    let expired = cloud.log_in(&password("simulator")).await;
    *cloud.token.lock().unwrap() = expired.header("x-subject-token").to_owned();
    assert_eq!((expired.status, cloud.get(services[0]).await.status), (201, 401));
}

#[tokio::test]
async fn application_credentials_end_and_change() {
    let cloud = Cloud::start(&[]).await;
    let (id, secret) = credential(&cloud);
    let token = cloud.log_in(&application_credential(&id, &secret)).await;
    *cloud.token.lock().unwrap() = token.header("x-subject-token").to_owned();
    assert_eq!(cloud.get("/compute/v2.1/servers").await.status, 200);
    let path = format!("/simulator/application-credentials/{id}");
    cloud.post(&path, json!({"expiresInSeconds": -1})).await;
    assert_eq!(cloud.get("/compute/v2.1/servers").await.status, 401, "its tokens end with it");
    assert_eq!(cloud.log_in(&application_credential(&id, &secret)).await.status, 401);
    cloud.post(&path, json!({"expiresInSeconds": 600, "secret": "rotated"})).await;
    assert_eq!(cloud.log_in(&application_credential(&id, &secret)).await.status, 401);
    assert_eq!(cloud.log_in(&application_credential(&id, "rotated")).await.status, 201);
    assert_eq!(cloud.delete(&path).await.status, 204);
    assert_eq!(cloud.log_in(&application_credential(&id, "rotated")).await.status, 404);
}

#[tokio::test]
async fn https_is_as_good_as_its_certificate() {
    let folder = std::env::temp_dir().join(format!("simulator-tls-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder).unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let signed = rcgen::generate_simple_self_signed(names).unwrap();
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    let flags = ["--tls-certificate", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let trusted = reqwest::Certificate::from_pem(signed.cert.pem().as_bytes()).unwrap();
    let cloud = Cloud::launch(&flags, client().tls_certs_only([trusted]).build().unwrap());
    assert!(cloud.url.starts_with("https://127.0.0.1:"));
    let token = cloud.log_in(&password("simulator")).await;
    *cloud.token.lock().unwrap() = token.header("x-subject-token").to_owned();
    let id = cloud.server("over-tls").await;
    assert_eq!(cloud.show(&id).await.json()["server"]["status"], "ACTIVE");
    let big = json!({"name": "n", "count": 500, "ssh": "never"});
    cloud.post("/simulator/servers", big).await;
    assert_eq!(cloud.names("").await.len(), 501, "a large answer passes");
    let stranger = client().tls_certs_only([]).build().unwrap();
    assert!(stranger.get(format!("{}/identity/v3", cloud.url)).send().await.unwrap_err().is_connect());
    cloud.fault(json!({"fault": {"type": "cut"}, "call": "list-servers"})).await;
    let cut = cloud.send(reqwest::Method::GET, "/compute/v2.1/servers", None, &[]).await;
    assert!(cut.is_err());
    let _ = std::fs::remove_dir_all(&folder);
}
