//! Sweeps by hand and by chance.

use proptest::prelude::*;

use super::*;

const MINUTE: i64 = 60;

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + minute * MINUTE).unwrap()
}

fn thing(id: &str, owner: &str, record: &str) -> Thing {
    Thing {
        id: id.to_owned(),
        ownership: Some(Ownership { owner: owner.to_owned(), record: record.to_owned(), provider: "ns/a".to_owned() }),
        created: Some(at(-60)),
        attached_to: None,
    }
}

fn attached(id: &str, record: &str, to: &str) -> Thing {
    Thing { attached_to: Some(to.to_owned()), ..thing(id, "us", record) }
}

/// A live server, and whatever a test adds.
fn sweep() -> Sweep {
    Sweep {
        now: at(0),
        listed_at: at(0),
        owner: "us".to_owned(),
        provider: "ns/a".to_owned(),
        providers: ["ns/a".to_owned(), "ns/b".to_owned()].into(),
        servers: Some(vec![thing("live", "us", "record-1")]),
        ports: Some(vec![]),
        floating_ips: Some(vec![]),
        images: Some(vec![]),
        key_pairs: Some(vec![]),
        records: Some(["record-1".to_owned()].into()),
        sightings: Sightings::new(),
        refused: BTreeSet::new(),
        deletions: vec![],
        fleet: 20,
        minimum_age: Duration::from_secs(600),
        window: Duration::from_secs(600),
    }
}

fn with_server(server: Thing) -> Sweep {
    let mut sweep = sweep();
    sweep.servers.as_mut().unwrap().push(server);
    sweep
}

/// The findings of so many passes, a minute apart, in the same world.
fn passes(mut sweep: Sweep, count: i64) -> Findings {
    let mut findings = Findings::default();
    for minute in 0..count {
        (sweep.now, sweep.listed_at) = (at(minute), at(minute));
        findings = find_leaks(&sweep);
        sweep.sightings = findings.sightings.clone();
    }
    findings
}

fn ids(findings: &Findings) -> Vec<&str> {
    findings.delete.iter().map(|leak| leak.id.as_str()).collect()
}

#[test]
fn a_leaked_server_goes_on_the_second_sighting() {
    let sweep = with_server(thing("lost", "us", "record-9"));
    let first = passes(sweep.clone(), 1);
    assert_eq!(ids(&first), [""; 0]);
    assert_eq!(first.sightings.len(), 1);
    let second = passes(sweep, 2);
    assert_eq!(second.delete, [Leak { kind: Kind::Server, id: "lost".to_owned(), record: "record-9".to_owned() }]);
    assert_eq!(second.sightings.len(), 1, "remembered until it is gone, so that a refused deletion is tried again");
}

#[test]
fn what_is_not_ours_or_not_lost_is_never_touched() {
    type Change = fn(&mut Sweep);
    let cases: &[(&str, Change)] = &[
        ("foreign", |sweep| lost(sweep).ownership = None),
        ("another installation", |sweep| made(sweep).owner = "them".to_owned()),
        ("another installation's longer name", |sweep| made(sweep).owner = "us2".to_owned()),
        ("no record named", |sweep| made(sweep).record.clear()),
        ("its record lives", |sweep| made(sweep).record = "record-1".to_owned()),
        ("another provider's", |sweep| made(sweep).provider = "ns/b".to_owned()),
        ("we have no name", |sweep| {
            sweep.owner.clear();
            made(sweep).owner.clear();
        }),
        ("too young", |sweep| lost(sweep).created = Some(at(0))),
        ("made in the future", |sweep| lost(sweep).created = Some(at(5_000))),
        ("no age told, just seen", |sweep| lost(sweep).created = None),
        ("no age is enough", |sweep| sweep.minimum_age = Duration::MAX),
        ("servers not listed", |sweep| sweep.servers = None),
        ("records not read", |sweep| sweep.records = None),
        ("budget spent", |sweep| sweep.deletions = vec![at(0); 5]),
        ("budget spent, says a clock that was ahead", |sweep| sweep.deletions = vec![at(9_000); 5]),
    ];
    for (name, change) in cases {
        let mut sweep = with_server(thing("lost", "us", "record-9"));
        change(&mut sweep);
        assert_eq!(ids(&passes(sweep, 5)), [""; 0], "{name}");
    }
}

fn lost(sweep: &mut Sweep) -> &mut Thing {
    sweep.servers.as_mut().unwrap().last_mut().unwrap()
}

fn made(sweep: &mut Sweep) -> &mut Ownership {
    lost(sweep).ownership.as_mut().unwrap()
}

#[test]
fn age_counts_from_the_first_sighting_when_the_cloud_does_not_tell() {
    let mut sweep = with_server(thing("lost", "us", "record-9"));
    lost(&mut sweep).created = None;
    assert!(passes(sweep.clone(), 10).delete.is_empty());
    assert_eq!(ids(&passes(sweep, 11)), ["lost"]);
}

#[test]
fn age_is_told_by_the_clouds_own_clock() {
    let mut sweep = with_server(thing("lost", "us", "record-9"));
    lost(&mut sweep).created = Some(at(-5));
    sweep.sightings = passes(sweep.clone(), 1).sightings;
    (sweep.now, sweep.listed_at) = (at(60), at(1));
    assert!(find_leaks(&sweep).delete.is_empty(), "our clock is an hour ahead");
    sweep.listed_at = at(5);
    assert_eq!(ids(&find_leaks(&sweep)), ["lost"]);
}

#[test]
fn what_belonged_to_a_provider_that_is_no_more_is_collected() {
    let mut sweep = with_server(thing("lost", "us", "record-9"));
    made(&mut sweep).provider = "ns/gone".to_owned();
    assert_eq!(ids(&passes(sweep, 2)), ["lost"]);
}

#[test]
fn one_pass_cannot_count_twice() {
    let mut sweep = with_server(thing("lost", "us", "record-9"));
    for _ in 0..5 {
        let findings = find_leaks(&sweep);
        assert!(findings.delete.is_empty());
        sweep.sightings = findings.sightings;
    }
}

#[test]
fn a_thing_that_is_not_seen_or_names_another_record_starts_again() {
    let mut sweep = with_server(thing("lost", "us", "record-9"));
    sweep.sightings = passes(sweep.clone(), 1).sightings;
    sweep.now = at(1);
    let mut other = sweep.clone();
    made(&mut other).record = "record-8".to_owned();
    assert!(find_leaks(&other).delete.is_empty());
    let mut absent = sweep.clone();
    absent.servers.as_mut().unwrap().pop();
    assert!(find_leaks(&absent).sightings.is_empty());
    let mut failed = sweep;
    failed.servers = None;
    assert_eq!(find_leaks(&failed).sightings.len(), 1, "a failed list proves nothing");
}

#[test]
fn ports_and_floating_ips_go_only_when_nothing_holds_them() {
    type Case<'c> = (&'c str, Kind, Thing, bool);
    let cases: Vec<Case<'_>> = vec![
        ("a loose port", Kind::Port, thing("p", "us", "record-9"), true),
        ("the port of a live server", Kind::Port, attached("p", "record-9", "live"), false),
        ("the port of a foreign server", Kind::Port, attached("p", "record-9", "foreign"), false),
        ("the port of a server that is no more", Kind::Port, attached("p", "record-9", "gone"), true),
        ("a loose floating IP", Kind::FloatingIp, thing("f", "us", "record-9"), true),
        ("one on a port that is not ours", Kind::FloatingIp, attached("f", "record-9", "unknown-port"), false),
        ("one on a port of a live server", Kind::FloatingIp, attached("f", "record-9", "live-port"), false),
        ("one on a dead port", Kind::FloatingIp, attached("f", "record-9", "dead-port"), true),
        ("a foreign floating IP", Kind::FloatingIp, Thing { ownership: None, ..thing("f", "us", "x") }, false),
        ("one whose record lives", Kind::FloatingIp, thing("f", "us", "record-1"), false),
    ];
    for (name, kind, part, goes) in cases {
        let mut sweep = with_server(Thing { ownership: None, ..thing("foreign", "", "") });
        sweep.ports = Some(vec![attached("live-port", "record-1", "live"), attached("dead-port", "record-1", "gone")]);
        let id = part.id.clone();
        match kind {
            Kind::Port => sweep.ports.as_mut().unwrap().push(part),
            _ => sweep.floating_ips.as_mut().unwrap().push(part),
        }
        let found = passes(sweep.clone(), 2);
        assert_eq!(found.delete.iter().any(|leak| leak.id == id), goes, "{name}");
        for no_servers in [None, Some(vec![])] {
            sweep.servers = no_servers;
            let held = sweep.ports.iter().chain(&sweep.floating_ips).flatten();
            let held = held.filter(|thing| thing.id == id).any(|thing| thing.attached_to.is_some());
            let found = passes(sweep.clone(), 2);
            assert!(!held || found.delete.iter().all(|leak| leak.id != id), "{name}, servers not known");
        }
    }
}

fn list_of(sweep: &mut Sweep, kind: Kind) -> &mut Option<Vec<Thing>> {
    match kind {
        Kind::Server => &mut sweep.servers,
        Kind::FloatingIp => &mut sweep.floating_ips,
        Kind::Port => &mut sweep.ports,
        Kind::Image => &mut sweep.images,
        Kind::KeyPair => &mut sweep.key_pairs,
    }
}

#[test]
fn images_and_key_pairs_go_by_the_same_rules() {
    for kind in [Kind::Image, Kind::KeyPair] {
        let with = |thing: Thing| {
            let mut sweep = sweep();
            *list_of(&mut sweep, kind) = Some(vec![thing]);
            sweep
        };
        let lost = || thing("lost", "us", "record-9");
        let first = passes(with(lost()), 1);
        assert_eq!((ids(&first), first.sightings.len()), (vec![], 1), "{kind:?}");
        let second = passes(with(lost()), 2);
        assert_eq!(second.delete, [Leak { kind, id: "lost".to_owned(), record: "record-9".to_owned() }]);
        let kept = [
            ("its record lives", thing("lost", "us", "record-1")),
            ("another installation's", thing("lost", "them", "record-9")),
            ("nobody's", Thing { ownership: None, ..lost() }),
            ("too young", Thing { created: Some(at(0)), ..lost() }),
            ("no age told, just seen", Thing { created: None, ..lost() }),
        ];
        for (name, thing) in kept {
            assert_eq!(ids(&passes(with(thing), 5)), [""; 0], "{kind:?}: {name}");
        }
        assert_eq!(
            ids(&passes(with(Thing { created: None, ..lost() }), 11)),
            ["lost"],
            "{kind:?}: seen for long enough"
        );
        let mut failed = with(lost());
        failed.sightings = first.sightings.clone();
        failed.now = at(1);
        *list_of(&mut failed, kind) = None;
        let findings = find_leaks(&failed);
        assert!(findings.delete.is_empty() && findings.sightings == first.sightings, "a failed list proves nothing");
        *list_of(&mut failed, kind) = Some(vec![]);
        assert_eq!(find_leaks(&failed), Findings::default(), "what is gone is forgotten");
        let mut blind = with(lost());
        blind.records = None;
        assert!(passes(blind, 5).delete.is_empty());
    }
}

/// Protected images would have taken all of every window's room.
#[test]
fn what_the_cloud_refuses_to_delete_stands_behind_the_rest() {
    let mut sweep = sweep();
    let images = sweep.images.as_mut().unwrap();
    images.extend((0..7).map(|number| thing(&format!("protected-{number}"), "us", "record-9")));
    sweep.sightings = passes(sweep.clone(), 1).sightings;
    sweep.now = at(1);
    assert_eq!(ids(&find_leaks(&sweep)), ["protected-0", "protected-1", "protected-2", "protected-3", "protected-4"]);
    sweep.refused = (0..7).map(|number| (Kind::Image, format!("protected-{number}"))).collect();
    sweep.images.as_mut().unwrap().push(thing("lost", "us", "record-9"));
    sweep.key_pairs = Some(vec![thing("nodepool-us-record-9", "us", "record-9")]);
    let findings = passes(sweep, 3);
    assert_eq!(ids(&findings), ["lost", "nodepool-us-record-9", "protected-0", "protected-1", "protected-2"]);
    assert_eq!((findings.held_back, findings.sightings.len()), (4, 9), "and stay seen");
}

#[test]
fn a_budget_bounds_the_window_and_the_rest_waits() {
    for (fleet, expected) in [(0, 5), (20, 5), (100, 5), (119, 5), (120, 6), (1_000, 50), (u32::MAX, 214_748_364)] {
        assert_eq!(budget(fleet), expected);
    }
    let mut sweep = sweep();
    for number in 0..12 {
        sweep.servers.as_mut().unwrap().push(thing(&format!("lost-{number:02}"), "us", &format!("dead-{number}")));
    }
    let mut deleted = Vec::new();
    for minute in 0..40 {
        (sweep.now, sweep.listed_at) = (at(minute), at(minute));
        let findings = find_leaks(&sweep);
        for leak in &findings.delete {
            sweep.servers.as_mut().unwrap().retain(|server| server.id != leak.id);
            sweep.deletions.push(sweep.now);
            deleted.push(minute);
        }
        if minute == 1 {
            assert_eq!((findings.delete.len(), findings.held_back), (5, 7));
        }
        sweep.sightings = findings.sightings;
    }
    assert_eq!(deleted, [1, 1, 1, 1, 1, 11, 11, 11, 11, 11, 21, 21]);
    assert_eq!(sweep.servers.unwrap().len(), 1);
}

/// After a restart in an outage of the API, a sweep of another project saw no records and deleted every worker.
#[test]
fn an_empty_answer_after_a_restart_deletes_nothing() {
    let mut sweep = sweep();
    let servers: Vec<Thing> =
        (0..100).map(|number| thing(&format!("s{number}"), "us", &format!("r{number}"))).collect();
    sweep.servers = Some(servers);
    sweep.fleet = 100;
    sweep.records = Some(BTreeSet::new());
    let findings = passes(sweep.clone(), 50);
    assert!(findings.delete.is_empty());
    assert!(findings.frozen.unwrap().contains("100 things of ours"));
    assert!(findings.sightings.is_empty(), "what a frozen pass sees does not count");
    sweep.records = Some(["r1".to_owned()].into());
    let findings = passes(sweep.clone(), 50);
    assert_eq!((findings.delete.len(), findings.held_back), (5, 94), "a part of an answer is bounded all the same");
    sweep.records = None;
    assert!(passes(sweep, 50).delete.is_empty());
}

#[test]
fn a_few_leaks_go_although_no_record_is_left() {
    let mut sweep = with_server(thing("lost", "us", "record-9"));
    sweep.records = Some(BTreeSet::new());
    let findings = passes(sweep, 2);
    assert_eq!(ids(&findings), ["live", "lost"]);
    assert_eq!(findings.frozen, None);
}

fn any_thing() -> impl Strategy<Value = Thing> {
    let name = |names: Vec<&'static str>| prop::sample::select(names);
    (
        0..30_u8,
        prop::option::weighted(0.9, (name(vec!["us", "us", "them", ""]), 0..30_u8, name(vec!["ns/a", "ns/b", "ns/c"]))),
        prop::option::of(-30..10_i64),
        prop::option::of(0..30_u8),
    )
        .prop_map(|(id, ownership, created, attached_to)| Thing {
            id: id.to_string(),
            ownership: ownership.map(|(owner, record, provider)| Ownership {
                owner: owner.to_owned(),
                record: format!("r{record}"),
                provider: provider.to_owned(),
            }),
            created: created.map(at),
            attached_to: attached_to.map(|to| to.to_string()),
        })
}

fn any_list() -> impl Strategy<Value = Option<Vec<Thing>>> {
    prop::option::weighted(0.8, prop::collection::vec(any_thing(), 0..25))
}

fn any_sweep() -> impl Strategy<Value = Sweep> {
    let records = prop::option::weighted(0.8, prop::collection::btree_set(0..30_u8, 0..25));
    let lists = (any_list(), any_list(), any_list(), any_list(), any_list());
    (lists, records, prop::collection::vec(-20..10_i64, 0..8), 0..400_u32).prop_map(
        |((servers, ports, floating_ips, images, key_pairs), records, deletions, fleet)| Sweep {
            servers,
            ports,
            floating_ips,
            images,
            key_pairs,
            records: records.map(|records| records.into_iter().map(|record| format!("r{record}")).collect()),
            deletions: deletions.into_iter().map(at).collect(),
            fleet,
            ..sweep()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn only_what_is_ours_lost_and_seen_twice_goes(sweeps in prop::collection::vec(any_sweep(), 1..4)) {
        let mut before = Sightings::new();
        for (pass, mut sweep) in (0..).zip(sweeps) {
            (sweep.now, sweep.listed_at, sweep.sightings) = (at(pass), at(pass), before.clone());
            let findings = find_leaks(&sweep);
            let spent = sweep.spent();
            prop_assert!(findings.delete.is_empty() || findings.delete.len() + spent <= budget(sweep.fleet) as usize);
            for leak in &findings.delete {
                let records = sweep.records.as_ref().unwrap();
                prop_assert!(!records.contains(&leak.record));
                prop_assert_eq!(&before[&(leak.kind, leak.id.clone())].record, &leak.record);
                let things = sweep.list(leak.kind).unwrap();
                let made: Vec<&Ownership> =
                    things.iter().filter(|thing| thing.id == leak.id).filter_map(|thing| thing.ownership.as_ref()).collect();
                prop_assert!(made.iter().any(|made| made.owner == "us" && made.provider != "ns/b"));
            }
            prop_assert!(findings.frozen.is_none() || findings.delete.is_empty());
            let unique: BTreeSet<&Leak> = findings.delete.iter().collect();
            prop_assert_eq!(unique.len(), findings.delete.len());
            before = findings.sightings;
        }
    }

    #[test]
    fn a_fleet_with_all_its_records_loses_nothing(sweep in any_sweep(), passes_made in 1..6_i64) {
        let mut sweep = sweep;
        let things = Kind::ALL.into_iter().filter_map(|kind| sweep.list(kind)).flatten();
        let made: BTreeSet<String> = things.filter_map(|thing| thing.ownership.clone()).map(|made| made.record).collect();
        sweep.records = Some(made);
        prop_assert!(passes(sweep, passes_made).delete.is_empty());
    }
}
