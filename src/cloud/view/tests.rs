//! What follows from lists, and what does not.

use super::*;
use crate::cloud::Ownership;
use proptest::prelude::*;

fn server(id: &str, status: ServerStatus, owner: Option<&str>) -> Server {
    Server {
        id: id.to_owned(),
        name: format!("name-{id}"),
        status,
        ownership: owner.map(|owner| Ownership {
            owner: owner.to_owned(),
            record: format!("record-{id}"),
            provider: "ns/one".to_owned(),
        }),
        addresses: Vec::new(),
        availability_zone: None,
        created: None,
        resources: Some(Resources { instances: 1, cores: 2, ram_mib: 1024 }),
        fault: None,
    }
}

fn ours(id: &str, status: ServerStatus) -> Server {
    server(id, status, Some("me"))
}

fn list(at: i64, servers: Vec<Server>) -> ServerList {
    ServerList { servers, taken_at: Timestamp::from_second(at).unwrap() }
}

fn view() -> View {
    View::new("me", "ns/one")
}

fn bare(id: &str) -> Server {
    Server { name: String::new(), ownership: None, resources: None, ..server(id, ServerStatus::Unknown, None) }
}

#[test]
fn a_stable_world_is_silent() {
    let mut view = view();
    let all = || vec![ours("a", ServerStatus::Active), server("x", ServerStatus::Active, None)];
    let first = view.apply_full(list(100, all()));
    assert_eq!(first, Delta { changed: vec!["a".into()], gone: vec![], foreign: true });
    assert!(view.apply_full(list(700, all())).is_empty());
    assert!(view.apply_changes(list(701, all())).is_empty());
    assert_eq!(view.last_full_at(), Some(Timestamp::from_second(700).unwrap()));
    assert_eq!(view.changes_since(Duration::from_secs(60)), Some(Timestamp::from_second(641).unwrap()));
}

#[test]
fn absence_proves_nothing() {
    let mut view = view();
    view.apply_full(list(1, vec![ours("a", ServerStatus::Active)]));
    assert!(view.seen_in_last_full("a"));
    let delta = view.apply_full(list(2, vec![]));
    assert_eq!(delta, Delta { changed: vec!["a".into()], ..Delta::default() });
    assert!(!view.is_gone("a") && !view.seen_in_last_full("a") && view.get("a").is_none());
    assert_eq!(view.by_name("name-a"), ByName::Unknown);
    assert_eq!(view.apply_changes(list(3, vec![ours("a", ServerStatus::Active)])).changed, ["a"]);
    assert!(!view.seen_in_last_full("a"), "it was in no full list since");
}

#[test]
fn a_deleted_record_is_proof_and_stays_proof() {
    let mut view = view();
    view.apply_full(list(1, vec![ours("a", ServerStatus::Active), server("x", ServerStatus::Active, None)]));
    let mut nameless = ours("a", ServerStatus::Deleted);
    nameless.ownership = None;
    let delta = view.apply_changes(list(2, vec![nameless.clone(), server("x", ServerStatus::Deleted, None)]));
    assert_eq!(delta, Delta { changed: vec![], gone: vec!["a".into()], foreign: true });
    assert!(view.is_gone("a") && !view.is_gone("x"));
    assert_eq!(view.foreign(), Foreign::default());
    assert!(view.apply_changes(list(3, vec![nameless])).is_empty(), "the overlap brings it again");
    assert!(view.apply_full(list(4, vec![ours("a", ServerStatus::Active)])).is_empty(), "an old copy");
    assert!(view.get("a").is_none());
}

#[test]
fn a_server_never_seen_alive_is_proven_gone_too() {
    let mut view = view();
    let mut unseen = ours("a", ServerStatus::Deleted);
    unseen.ownership = None;
    assert_eq!(view.apply_changes(list(1, vec![unseen])).gone, ["a"]);
    assert!(view.apply_changes(list(1, vec![server("x", ServerStatus::Deleted, Some("you"))])).is_empty());
}

#[test]
fn a_cell_that_is_down_hides_nothing_that_was_known() {
    let mut view = view();
    view.apply_full(list(1, vec![ours("a", ServerStatus::Active), server("x", ServerStatus::Active, None)]));
    let used = view.foreign();
    let delta = view.apply_full(list(2, vec![bare("a"), bare("x")]));
    assert_eq!(delta.changed, ["a"]);
    let kept = view.get("a").unwrap();
    assert_eq!((kept.status, kept.name.as_str()), (ServerStatus::Unknown, "name-a"));
    assert_eq!(view.foreign(), used);
    assert!(view.seen_in_last_full("a"));
    let delta = view.apply_full(list(3, vec![bare("b")]));
    assert!(delta.foreign && view.foreign().unpriced == 1);
    assert!(view.apply_changes(list(4, vec![ours("b", ServerStatus::Active)])).changed == ["b"]);
    assert_eq!(view.foreign(), Foreign::default(), "it was ours all along");
}

#[test]
fn only_owner_and_provider_together_make_it_ours() {
    let mut view = view();
    let mut sibling = ours("s", ServerStatus::Active);
    sibling.ownership.as_mut().unwrap().provider = "ns/two".into();
    view.apply_full(list(1, vec![sibling, server("x", ServerStatus::Active, Some("you"))]));
    assert_eq!(view.ours().count(), 0);
    assert_eq!(view.foreign().resources, Resources { instances: 2, cores: 4, ram_mib: 2048 });
}

#[test]
fn twins_are_not_one() {
    let mut view = view();
    let twin = |id: &str| Server { name: "same".into(), ..ours(id, ServerStatus::Active) };
    view.apply_full(list(1, vec![twin("a"), twin("b")]));
    assert!(matches!(view.by_name("same"), ByName::Several(several) if several.len() == 2));
    view.prove_gone("a");
    assert!(matches!(view.by_name("same"), ByName::One(one) if one.id == "b"));
    assert!(view.is_gone("a"));
}

#[test]
fn what_is_gone_is_remembered_within_bounds() {
    let mut view = view();
    for id in 0..2 * MOST_GONE {
        view.prove_gone(&id.to_string());
    }
    assert_eq!((view.gone.ids.len(), view.gone.order.len()), (MOST_GONE, MOST_GONE));
    assert!(view.is_gone(&(2 * MOST_GONE - 1).to_string()) && !view.is_gone("0"));
}

fn any_server() -> impl Strategy<Value = Server> {
    let status = prop_oneof![
        4 => Just(ServerStatus::Active),
        1 => Just(ServerStatus::Build),
        1 => Just(ServerStatus::Deleted),
        1 => Just(ServerStatus::Unknown),
    ];
    (0u8..6, status, prop_oneof![Just(None), Just(Some("me")), Just(Some("you"))]).prop_map(|(id, status, owner)| {
        let id = id.to_string();
        if status == ServerStatus::Unknown { bare(&id) } else { server(&id, status, owner) }
    })
}

proptest! {
    /// However lists come: the indexes agree, sums are sums, nothing gone is shown, and repeating a list is silent.
    #[test]
    fn stays_consistent(lists in prop::collection::vec((any::<bool>(), prop::collection::vec(any_server(), 0..6)), 1..30)) {
        let mut view = view();
        for (at, (full, servers)) in lists.into_iter().enumerate() {
            let at = i64::try_from(at).unwrap();
            let each: HashMap<String, Server> = servers.into_iter().map(|s| (s.id.clone(), s)).collect();
            let servers: Vec<Server> = each.into_values().collect();
            let apply = |view: &mut View| {
                let list = list(at, servers.clone());
                if full { view.apply_full(list) } else { view.apply_changes(list) }
            };
            apply(&mut view);
            prop_assert!(apply(&mut view).is_empty());
            prop_assert_eq!(view.names.values().map(Vec::len).sum::<usize>(), view.ours.len());
            prop_assert!(view.ours().all(|s| !view.is_gone(&s.id) && matches!(view.by_name(&s.name), ByName::One(_))));
            let used = view.used;
            view.recount();
            prop_assert_eq!(used, view.used);
            prop_assert!(view.ours.keys().all(|id| !view.foreign.contains_key(id)));
        }
    }
}
