//! Lists: all pages or an error, and the clouds' many ways to say where the next page is.

use super::*;
use crate::cloud::{Cloud, ErrorClass, ImageSelector, ServerQuery, ServerStatus};
use std::sync::{Arc, Mutex};

const DETAIL: &str = "/compute/v2.1/servers/detail";

fn page(ids: &[&str], next: Option<&str>) -> Reply {
    let servers: Vec<Value> = ids.iter().map(|id| json!({"id": id, "name": id, "status": "ACTIVE"})).collect();
    let links = next.map(|href| json!([{"rel": "next", "href": href}]));
    Reply::Json(200, json!({"servers": servers, "servers_links": links}))
}

/// Two pages, the first with this link.
fn paged(link: &'static str) -> Fake {
    Fake::start(move |seen| {
        seen.is("GET", DETAIL).then(|| match seen.query.contains("marker=b") {
            false => page(&["a", "b"], Some(link)),
            true => page(&["b", "c"], None),
        })
    })
}

async fn ids(fake: &Fake) -> Result<Vec<String>, CloudError> {
    let list = cloud(fake).list_servers(ServerQuery::Full).await?;
    Ok(list.servers.into_iter().map(|server| server.id).collect())
}

#[tokio::test]
async fn links_of_every_form_lead_to_the_next_page_and_nowhere_else() {
    for link in [
        "http://somewhere.else:8774/v2.1/servers/detail?marker=b",
        "https://127.0.0.1/servers/detail?limit=2&marker=b",
        "/servers/detail?marker=b",
        "?marker=b&limit=2",
    ] {
        let fake = paged(link);
        assert_eq!(ids(&fake).await.unwrap(), ["a", "b", "c"], "{link}");
        assert_eq!(fake.count("GET", DETAIL), 2, "each id once, from two pages of our own address");
    }
}

#[tokio::test]
async fn a_list_is_whole_or_an_error() {
    let next = "http://h/servers/detail?marker=b";
    let second: [fn() -> Reply; 8] = [
        || page(&["a", "b"], Some("http://h/servers/detail?marker=b")),
        || page(&[], Some("http://h/servers/detail?marker=x")),
        || page(&["c"], Some("http://h/servers/detail?page=3")),
        || Reply::Json(200, json!({"servers_links": []})),
        || Reply::Text(200, "<html>please log in</html>".into()),
        || Reply::Text(500, "<html>Traceback</html>".into()),
        || Reply::Truncated(json!({"servers": []})),
        || Reply::Cut,
    ];
    let each = second.map(|reply| async move {
        let fake = Fake::start(move |seen| {
            let later = seen.query.contains("marker");
            seen.is("GET", DETAIL).then(|| if later { reply() } else { page(&["a", "b"], Some(next)) })
        });
        ids(&fake).await.unwrap_err()
    });
    for error in futures::future::join_all(each).await {
        assert_eq!(error.class, ErrorClass::Unavailable, "{error}");
        assert_clean(&error);
    }
}

#[tokio::test]
async fn a_marker_that_is_gone_begins_the_list_anew() {
    let fake = Fake::start(|seen| {
        seen.is("GET", DETAIL).then(|| match (seen.before, seen.query.contains("marker")) {
            (_, false) => page(&["a", "b"], Some("http://h/x?marker=b")),
            (1, true) => nova_fault(400, "badRequest", "marker [b] not found"),
            _ => page(&["c"], None),
        })
    });
    assert_eq!(ids(&fake).await.unwrap(), ["a", "b", "c"]);
    assert_eq!(fake.count("GET", DETAIL), 4);
    let never = Fake::start(|seen| {
        seen.is("GET", DETAIL).then(|| match seen.query.contains("marker") {
            false => page(&["a"], Some("http://h/x?marker=a")),
            true => nova_fault(400, "badRequest", "marker [a] not found"),
        })
    });
    assert_eq!(ids(&never).await.unwrap_err().class, ErrorClass::Invalid);
    assert_eq!(never.count("GET", DETAIL), 6);
}

#[tokio::test]
async fn a_question_is_asked_again_after_a_passing_fault() {
    let fake = Fake::start(|seen| {
        let faults = [Reply::Cut, Reply::Text(502, String::new())];
        seen.is("GET", DETAIL).then(|| faults.get(seen.before).cloned().unwrap_or_else(|| page(&["a"], None)))
    });
    assert_eq!(ids(&fake).await.unwrap(), ["a"]);
    assert_eq!(fake.count("GET", DETAIL), 3);
}

#[tokio::test]
async fn changes_are_asked_for_by_the_clouds_clock() {
    let fake = Fake::start(|seen| {
        let date = vec![("Date", "Sun, 22 Nov 2026 10:00:05 GMT".to_owned())];
        seen.is("GET", DETAIL).then(|| {
            let gone = json!({"id": "a", "status": "DELETED", "updated": "2026-11-22T10:00:01Z", "addresses": {}});
            Reply::With(200, json!({"servers": [gone]}), date)
        })
    });
    let since = "2026-11-22T10:00:00.25Z".parse().unwrap();
    let list = cloud(&fake).list_servers(ServerQuery::ChangedSince(since)).await.unwrap();
    assert_eq!(list.taken_at, "2026-11-22T10:00:05Z".parse().unwrap());
    assert_eq!(list.servers[0].status, ServerStatus::Deleted);
    let seen = fake.seen().pop().unwrap();
    assert_eq!(seen.query, "changes-since=2026-11-22T10%3A00%3A00Z");
    assert_eq!(seen.header("openstack-api-version"), Some("compute 2.69"));
}

#[tokio::test]
async fn an_ignored_filter_is_no_answer_about_changes() {
    let old = json!({"servers": [{"id": "a", "status": "ACTIVE", "updated": "2026-11-20T00:00:00Z"}]});
    let fake = Fake::start(move |seen| seen.is("GET", DETAIL).then(|| Reply::Json(200, old.clone())));
    let since = "2026-11-22T10:00:00Z".parse().unwrap();
    let error = cloud(&fake).list_servers(ServerQuery::ChangedSince(since)).await.unwrap_err();
    assert!(error.class == ErrorClass::Invalid && error.message.contains("ignores"), "{error}");
    assert!(cloud(&fake).list_servers(ServerQuery::Full).await.is_ok());
}

/// What the version document says decides what is asked.
#[tokio::test]
async fn versions_decide_the_microversion() {
    let range = |max: &str| json!({"version": {"id": "v2.1", "version": max, "min_version": "2.1"}});
    let cases = [
        (Reply::Json(200, range("2.104")), Some("compute 2.69")),
        (Reply::Json(200, range("2.60")), Some("compute 2.47")),
        (Reply::Json(200, range("2.30")), None),
        (Reply::Json(200, json!({"version": {"id": "v2.0", "version": "", "min_version": ""}})), None),
        (Reply::Text(200, "<html>welcome</html>".into()), None),
        (Reply::Text(404, "<html>nothing here</html>".into()), None),
        (Reply::Text(302, String::new()), None),
        (Reply::Json(300, json!({"versions": [range("2.90")["version"]]})), Some("compute 2.69")),
    ];
    for (reply, expected) in cases {
        let shown = format!("{reply:?}");
        let fake = Fake::start(move |seen| seen.is("GET", "/compute/v2.1/").then(|| reply.clone()));
        let cloud = cloud(&fake);
        cloud.list_servers(ServerQuery::Full).await.unwrap();
        cloud.list_servers(ServerQuery::Full).await.unwrap();
        assert_eq!(fake.seen().pop().unwrap().header("openstack-api-version"), expected, "{shown}");
        assert_eq!(fake.count("GET", "/compute/v2.1/"), 1, "asked once: {shown}");
    }
}

#[tokio::test]
async fn a_version_document_that_cannot_be_had_now_is_asked_for_again() {
    let fake = Fake::start(|seen| {
        (seen.is("GET", "/compute/v2.1/") && seen.before < 3).then(|| Reply::Text(503, String::new()))
    });
    let cloud = cloud(&fake);
    assert_eq!(cloud.list_servers(ServerQuery::Full).await.unwrap_err().class, ErrorClass::Unavailable);
    assert!(cloud.list_servers(ServerQuery::Full).await.is_ok());
}

#[tokio::test]
async fn a_refused_microversion_is_learnt_anew() {
    let fake = Fake::start(|seen| match (seen.path.as_str(), seen.before) {
        (DETAIL, 0) => Some(nova_fault(406, "computeFault", "Version 2.69 is not supported by the API.")),
        ("/compute/v2.1/", 1) => {
            Some(Reply::Json(200, json!({"version": {"id": "v2.1", "version": "2.50", "min_version": "2.1"}})))
        }
        _ => None,
    });
    let cloud = cloud(&fake);
    assert_eq!(cloud.list_servers(ServerQuery::Full).await.unwrap_err().class, ErrorClass::Unavailable);
    cloud.list_servers(ServerQuery::Full).await.unwrap();
    assert_eq!(fake.seen().pop().unwrap().header("openstack-api-version"), Some("compute 2.47"));
}

#[tokio::test]
async fn images_by_name_and_id() {
    let image = |id: &str, name: &str, status: &str| {
        json!({"id": id, "name": name, "status": status, "created_at": "2026-11-22T10:00:00Z", "os_hidden": false,
               "tags": [], "nodepool_owner": "me", "size": 1, "locations": [{}]})
    };
    let all = [image("1", "debian", "active"), image("2", "debian", "queued"), image("3", "other", "active")];
    let fake = Fake::start(move |seen| match (seen.path.as_str(), seen.query.contains("marker")) {
        ("/image/v2/images", false) => {
            Some(Reply::Json(200, json!({"images": all[..2], "next": "/v2/images?marker=2"})))
        }
        ("/image/v2/images", true) => Some(Reply::Json(200, json!({"images": all[2..]}))),
        ("/image/v2/images/1", _) => Some(Reply::Json(200, all[0].clone())),
        ("/image/v2/images/9", _) => Some(glance_faults(404, "No image found with ID 9").first().unwrap().clone()),
        _ => None,
    });
    let cloud = cloud(&fake);
    let named = cloud.images(&ImageSelector::Name("debian".into())).await.unwrap();
    assert_eq!(
        named.iter().map(|image| (image.id.as_str(), image.bootable())).collect::<Vec<_>>(),
        [("1", true), ("2", false)]
    );
    assert_eq!(named[0].ownership.as_ref().unwrap().owner, "me");
    assert_eq!(cloud.images(&ImageSelector::Id("1".into())).await.unwrap()[0].name, "debian");
    assert_eq!(cloud.images(&ImageSelector::Id("9".into())).await.unwrap(), []);
    let error = cloud.images(&ImageSelector::Id("8".into())).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable, "a proxy's 404 is not Glance's");
}

#[tokio::test]
async fn flavors_limits_and_console() {
    let fake = Fake::start(|seen| match seen.path.as_str() {
        "/compute/v2.1/flavors/detail" => Some(Reply::Json(
            200,
            json!({"flavors": [{"id": "f", "name": "big", "vcpus": 4, "ram": 8192, "disk": 10, "swap": ""}]}),
        )),
        "/compute/v2.1/servers/s/action" if seen.before == 0 => Some(Reply::Json(200, json!({"output": "a\nb\nc\n"}))),
        "/compute/v2.1/servers/s/action" => Some(nova_fault(409, "conflictingRequest", "Instance s is not ready")),
        _ => None,
    });
    let cloud = cloud(&fake);
    let flavor = &cloud.flavors().await.unwrap()[0];
    assert_eq!((flavor.resources.cores, flavor.resources.ram_mib), (4, 8192));
    let limits = cloud.limits().await.unwrap();
    assert_eq!((limits.instances.max, limits.cores.max, limits.cores.used), (Some(10), None, 5));
    assert_eq!(cloud.console_tail("s", 2).await.unwrap(), "b\nc");
    assert_eq!(cloud.console_tail("s", 2).await.unwrap_err().class, ErrorClass::Conflict);
}

#[tokio::test]
async fn every_exchange_is_counted() {
    #[derive(Default)]
    struct Counted(Mutex<Vec<String>>);
    impl super::super::CallObserver for Counted {
        fn called(&self, service: &'static str, call: &'static str, result: &'static str, _: Duration) {
            self.0.lock().unwrap().push(format!("{service} {call} {result}"));
        }
    }
    let counted = Arc::new(Counted::default());
    let fake = Fake::start(|seen| (seen.is("GET", DETAIL) && seen.before == 0).then_some(Reply::Cut));
    let options = Options { observer: Some(counted.clone()), ..options() };
    let cloud = OpenStack::new(config("http", &fake, "", None), options).unwrap();
    cloud.list_servers(ServerQuery::Full).await.unwrap();
    let expected =
        ["identity login ok", "compute versions ok", "compute list-servers unavailable", "compute list-servers ok"];
    assert_eq!(*counted.0.lock().unwrap(), expected);
}
