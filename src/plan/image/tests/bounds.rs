//! Who starts when many are due.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const WIDE: Bounds = Bounds { per_provider: 100, in_all: 100 };

fn candidate(kind: Kind, image: usize, provider: usize, due_since: i64) -> Candidate {
    Candidate { image, provider, due_since: second(due_since), kind, joinable: false }
}

fn joinable(kind: Kind, image: usize, provider: usize, due_since: i64) -> Candidate {
    Candidate { joinable: true, ..candidate(kind, image, provider, due_since) }
}

/// Image, and the providers it starts on.
fn starts(candidates: &[Candidate], in_flight: &[Pair], bounds: Bounds) -> Vec<(usize, Vec<usize>)> {
    admit(candidates, in_flight, bounds).into_iter().map(|start| (start.image, start.providers)).collect()
}

fn bounds(per_provider: u32, in_all: u32) -> Bounds {
    Bounds { per_provider, in_all }
}

#[test]
fn the_longest_overdue_start_first_within_the_bounds() {
    use Kind::Snapshot;
    let due = [
        candidate(Snapshot, 0, 0, 30),
        candidate(Snapshot, 1, 0, 10),
        candidate(Snapshot, 2, 0, 20),
        candidate(Snapshot, 3, 1, 40),
    ];
    let all = [(1, vec![0]), (2, vec![0]), (0, vec![0]), (3, vec![1])];
    assert_eq!(starts(&due, &[], WIDE), all);
    assert_eq!(starts(&due, &[], bounds(100, 2)), all[..2], "two in all");
    assert_eq!(starts(&due, &[], bounds(1, 100)), [(1, vec![0]), (3, vec![1])], "a full provider is passed over");
    assert_eq!(starts(&due, &[], bounds(0, 100)), []);
    assert_eq!(starts(&due, &[], bounds(100, 0)), []);
    let in_flight = [Pair { image: 9, provider: 0 }, Pair { image: 8, provider: 1 }];
    assert_eq!(starts(&due, &in_flight, bounds(2, 100)), [(1, vec![0]), (3, vec![1])]);
    assert_eq!(starts(&due, &[in_flight, in_flight].concat(), bounds(2, 3)), [(1, vec![0])], "told twice is one");
    let both = [(1, vec![0]), (2, vec![0]), (3, vec![1])];
    assert_eq!(starts(&due, &[in_flight[1]; 2], bounds(2, 9)), both, "there as well");
    assert_eq!(starts(&due, &in_flight, bounds(2, 1)), [], "more in flight than is allowed now");
}

#[test]
fn an_image_starts_once_on_a_provider() {
    let due = [candidate(Kind::Snapshot, 0, 0, 1), candidate(Kind::Job, 0, 0, 2), candidate(Kind::Job, 1, 0, 3)];
    assert_eq!(starts(&due, &[Pair { image: 1, provider: 0 }], WIDE), [(0, vec![0])]);
}

#[test]
fn what_starts_together_shares_one_file_but_never_a_snapshot() {
    for kind in [Kind::Url, Kind::Job] {
        let due = [candidate(kind, 0, 2, 10), candidate(kind, 1, 0, 20), candidate(kind, 0, 1, 30)];
        assert_eq!(starts(&due, &[], WIDE), [(0, vec![2, 1]), (1, vec![0])]);
        assert_eq!(starts(&due, &[], bounds(1, 2)), [(0, vec![2]), (1, vec![0])], "nobody is passed for company");
    }
    let due = [candidate(Kind::Snapshot, 0, 0, 10), candidate(Kind::Snapshot, 0, 1, 10)];
    assert_eq!(starts(&due, &[], WIDE), [(0, vec![0]), (0, vec![1])]);
}

#[test]
fn those_that_will_be_due_soon_join_but_never_start_by_themselves() {
    for kind in [Kind::Url, Kind::Job] {
        let soon = [joinable(kind, 0, 1, 60), joinable(kind, 0, 2, 50), joinable(kind, 1, 1, 40)];
        assert_eq!(starts(&soon, &[], WIDE), []);
        let all = [&soon[..], &[candidate(kind, 0, 0, 30)]].concat();
        assert_eq!(starts(&all, &[], WIDE), [(0, vec![0, 2, 1])]);
        assert_eq!(starts(&all, &[], bounds(1, 2)), [(0, vec![0, 2])], "as the bounds permit");
        let other = candidate(kind, 2, 2, 35);
        let all = [&all[..], &[other]].concat();
        assert_eq!(starts(&all, &[], bounds(1, 2)), [(0, vec![0]), (2, vec![2])], "what is due comes first");
        let in_flight = [Pair { image: 0, provider: 2 }];
        assert_eq!(starts(&all, &in_flight, bounds(2, 9)), [(0, vec![0, 1]), (2, vec![2])], "not beside itself");
    }
    let snapshots = [candidate(Kind::Snapshot, 0, 0, 30), joinable(Kind::Snapshot, 0, 1, 40)];
    assert_eq!(starts(&snapshots, &[], WIDE), [(0, vec![0])], "a snapshot serves nobody else");
    let mixed = [candidate(Kind::Url, 0, 0, 30), joinable(Kind::Job, 0, 1, 40)];
    assert_eq!(starts(&mixed, &[], WIDE), [(0, vec![0])], "made in another way");
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let kind = prop::sample::select(vec![Kind::Snapshot, Kind::Url, Kind::Job]);
    (0..5_usize, 0..4_usize, 0..20_i64, kind, any::<bool>()).prop_map(|(image, provider, due_since, kind, joinable)| {
        Candidate { image, provider, due_since: second(due_since), kind, joinable }
    })
}

fn any_pair() -> impl Strategy<Value = Pair> {
    (0..5_usize, 0..4_usize).prop_map(|(image, provider)| Pair { image, provider })
}

proptest! {
    #[test]
    fn no_bound_is_passed_and_nothing_that_fits_is_left(
        candidates in vec(any_candidate(), 0..30), in_flight in vec(any_pair(), 0..6),
        per_provider in 0..4_u32, in_all in 0..8_u32,
    ) {
        let picked = admit(&candidates, &in_flight, bounds(per_provider, in_all));
        let mut pairs = in_flight.clone();
        pairs.sort();
        pairs.dedup();
        let before = pairs.clone();
        for start in &picked {
            prop_assert!(!start.providers.is_empty());
            prop_assert!(start.kind != Kind::Snapshot || start.providers.len() == 1);
            let same = picked.iter().filter(|other| (other.image, other.kind) == (start.image, start.kind)).count();
            prop_assert!(start.kind == Kind::Snapshot || same == 1, "one file for all");
            let alone = candidates.iter().any(|candidate| {
                !candidate.joinable && (candidate.image, candidate.kind) == (start.image, start.kind)
                    && start.providers.contains(&candidate.provider)
            });
            prop_assert!(alone, "somebody in it is due");
            for &provider in &start.providers {
                let pair = Pair { image: start.image, provider };
                prop_assert!(!pairs.contains(&pair), "twice");
                pairs.push(pair);
            }
        }
        let on = |pairs: &[Pair], provider| pairs.iter().filter(|pair| pair.provider == provider).count();
        for provider in 0..4 {
            let most = on(&before, provider).max(per_provider as usize);
            prop_assert!(on(&pairs, provider) <= most);
        }
        prop_assert!(pairs.len() <= before.len().max(in_all as usize));
        for candidate in candidates.iter().filter(|candidate| !candidate.joinable) {
            let pair = Pair { image: candidate.image, provider: candidate.provider };
            let full = pairs.len() >= in_all as usize || on(&pairs, pair.provider) >= per_provider as usize;
            prop_assert!(full || pairs.contains(&pair), "{candidate:?} fits and was left");
        }
    }

    #[test]
    fn nobody_starves(count in 1..30_usize, in_all in 1..4_u32, failing in vec(any::<bool>(), 30)) {
        // All due, in an order of their own; whoever fails is due again at once, behind the others.
        let mut waiting: Vec<Candidate> =
            (0..count).map(|image| candidate(Kind::Snapshot, image, image % 2, (image as i64 * 7) % 11)).collect();
        let mut served = vec![false; count];
        for round in 0..count as i64 {
            for (image, _) in starts(&waiting, &[], bounds(in_all, in_all)) {
                served[image] = true;
                waiting[image].due_since = second(1_000 + round);
                waiting[image].joinable = !failing[image];
            }
        }
        prop_assert!(served.iter().all(|served| *served));
    }
}
