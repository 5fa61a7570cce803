//! The vectors of 2014's allocator: its own tests, and runs of its code.

use super::super::distribute::{Grant, Label, Place, distribute};
use super::Lab;

/// Grants as a table: by provider, by label.
fn share(available: &[i64], labels: &[(u32, &[usize])]) -> Vec<Vec<u32>> {
    let labels: Vec<Label> = labels
        .iter()
        .map(|&(amount, providers)| Label {
            amount,
            places: providers.iter().map(|&provider| Place { provider, wait: 0 }).collect(),
        })
        .collect();
    table(&distribute(available, &labels), available.len(), labels.len())
}

fn table(grants: &[Grant], providers: usize, labels: usize) -> Vec<Vec<u32>> {
    let mut table = vec![vec![0; labels]; providers];
    for grant in grants {
        table[grant.provider][grant.label] += grant.amount;
    }
    table
}

const BOTH: &[usize] = &[0, 1];
const ALL: &[usize] = &[0, 1, 2];
const A: &[usize] = &[0];
const B: &[usize] = &[1];

#[test]
fn shares_as_2014_did() {
    type Case<'c> = (&'c str, &'c [i64], &'c [(u32, &'c [usize])], &'c [&'c [u32]]);
    let cases: &[Case<'_>] = &[
        ("one label, one node", &[10], &[(1, A)], &[&[1]]),
        ("one label, two nodes", &[10], &[(2, A)], &[&[2]]),
        ("two labels, one provider", &[10], &[(1, A), (1, A)], &[&[1, 1]]),
        ("two labels, two each", &[10], &[(2, A), (2, A)], &[&[2, 2]]),
        ("one each goes to the first", &[10, 10], &[(1, BOTH), (1, BOTH)], &[&[1, 1], &[0, 0]]),
        ("two each are halved", &[10, 10], &[(2, BOTH), (2, BOTH)], &[&[1, 1], &[1, 1]]),
        ("three each: halves go up", &[10, 10], &[(3, BOTH), (3, BOTH)], &[&[2, 2], &[1, 1]]),
        ("four each", &[10, 10], &[(4, BOTH), (4, BOTH)], &[&[2, 2], &[2, 2]]),
        ("just enough", &[4, 4], &[(4, BOTH), (4, BOTH)], &[&[2, 2], &[2, 2]]),
        ("not enough", &[2, 2], &[(4, BOTH), (4, BOTH)], &[&[1, 1], &[1, 1]]),
        ("below zero is none", &[-5, 20], &[(5, BOTH), (5, BOTH)], &[&[0, 0], &[5, 5]]),
        ("the rarer label first: one", &[10, 10], &[(1, A), (1, BOTH)], &[&[1, 1], &[0, 0]]),
        ("the rarer label first: two", &[10, 10], &[(2, A), (2, BOTH)], &[&[2, 1], &[0, 1]]),
        ("the rarer label first: three", &[10, 10], &[(3, A), (3, BOTH)], &[&[3, 2], &[0, 1]]),
        ("the rarer label first: four", &[10, 10], &[(4, A), (4, BOTH)], &[&[4, 2], &[0, 2]]),
        ("the rarer label takes it all", &[4, 4], &[(4, A), (4, BOTH)], &[&[4, 0], &[0, 4]]),
        ("both run out", &[2, 2], &[(4, A), (4, BOTH)], &[&[2, 0], &[0, 2]]),
        ("in proportion to what is free", &[100, 50, 10], &[(16, ALL)], &[&[10], &[5], &[1]]),
        ("one goes to the biggest", &[100, 50, 10], &[(1, ALL)], &[&[1], &[0], &[0]]),
        ("ten over three equals", &[30, 30, 30], &[(10, ALL)], &[&[3], &[4], &[3]]),
        ("in proportion to what is asked", &[20], &[(30, A), (10, A)], &[&[15, 5]]),
        ("nothing free", &[0, 0], &[(3, BOTH)], &[&[0], &[0]]),
        ("nothing wanted", &[5], &[], &[&[]]),
    ];
    for (name, available, labels, expected) in cases {
        assert_eq!(share(available, labels), *expected, "{name}");
    }
}

#[test]
fn indexes_that_point_nowhere_are_left_alone() {
    let places = vec![Place { provider: 9, wait: 0 }, Place { provider: 0, wait: 2 }];
    assert_eq!(distribute(&[3], &[Label { amount: 2, places }]), vec![Grant { provider: 0, label: 0, amount: 2 }]);
    assert!(distribute(&[], &[Label { amount: 2, places: vec![] }]).is_empty());
}

/// Runs rounds as 2014 did: who got nothing anywhere waits one round longer. Returns who got something, in order.
fn rounds(available: &[i64], labels: &[(u32, &[usize])], count: usize) -> Vec<Vec<(usize, u32)>> {
    let mut waits = vec![0_u32; labels.len()];
    let mut story = Vec::new();
    for _ in 0..count {
        let asked: Vec<Label> = labels
            .iter()
            .zip(&waits)
            .map(|(&(amount, providers), &wait)| Label {
                amount,
                places: providers.iter().map(|&provider| Place { provider, wait }).collect(),
            })
            .collect();
        let grants = distribute(available, &asked);
        for (label, wait) in waits.iter_mut().enumerate() {
            *wait = if grants.iter().any(|grant| grant.label == label) { 0 } else { *wait + 1 };
        }
        story.push(grants.iter().map(|grant| (grant.label + 1, grant.amount)).collect());
    }
    story
}

/// Only who got something, in order, as the tests of 2014 wrote it down.
fn names(story: Vec<Vec<(usize, u32)>>) -> Vec<usize> {
    story.into_iter().flatten().map(|(label, _)| label).collect()
}

#[test]
fn one_slot_goes_round() {
    let labels = vec![(1, BOTH); 8];
    assert_eq!(names(rounds(&[1, 0], &labels, 11)), [7, 1, 2, 3, 4, 5, 6, 8, 7, 1, 2]);
}

#[test]
fn enough_for_all_serves_all_in_every_round() {
    let labels = vec![(1, BOTH); 8];
    for round in rounds(&[4, 4], &labels, 11) {
        assert_eq!(names(vec![round]), [1, 3, 5, 7, 2, 4, 6, 8]);
    }
}

#[test]
fn a_big_fish_leaves_the_second_slot_to_the_others() {
    let mut labels = vec![(1, BOTH); 8];
    labels[0].0 = 100;
    let story = names(rounds(&[1, 1], &labels, 11));
    assert_eq!(story, [1, 1, 1, 2, 1, 3, 1, 4, 1, 5, 1, 6, 1, 7, 1, 8, 1, 2, 1, 3, 1, 4]);
}

/// The first label only on one provider, the last only on the other; 2014's test asked for those two first.
fn with_fixed_ends(amount: u32) -> Vec<(u32, &'static [usize])> {
    let mut labels = vec![(amount, BOTH); 8];
    labels[0].1 = A;
    labels[1].1 = B;
    labels
}

fn fixed_names(story: Vec<Vec<(usize, u32)>>) -> Vec<usize> {
    names(story).into_iter().map(|asked| [1, 8, 2, 3, 4, 5, 6, 7][asked - 1]).collect()
}

#[test]
fn labels_tied_to_a_provider_take_turns_with_those_that_are_not() {
    let even = fixed_names(rounds(&[1, 1], &with_fixed_ends(1), 11));
    assert_eq!(even, [1, 6, 1, 8, 1, 2, 1, 3, 1, 4, 1, 5, 1, 7, 1, 6, 1, 8, 1, 2, 1, 3]);
    let over = fixed_names(rounds(&[1, 1], &with_fixed_ends(20), 11));
    assert_eq!(over, [1, 6, 2, 8, 3, 3, 4, 4, 5, 5, 7, 7, 1, 6, 2, 8, 3, 3, 4, 4, 5, 5]);
    for round in rounds(&[4, 4], &with_fixed_ends(1), 11) {
        assert_eq!(fixed_names(vec![round]), [1, 2, 4, 6, 8, 3, 5, 7]);
    }
}

/// The same vectors through the whole pass, on providers of that many slots.
#[test]
fn standby_follows_the_vectors() {
    type Case<'c> = (&'c [u32], &'c [(u32, &'c [usize])], &'c [&'c [usize]]);
    let cases: &[Case<'_>] = &[
        (&[10, 10], &[(1, BOTH), (1, BOTH)], &[&[1, 1], &[0, 0]]),
        (&[10, 10], &[(3, BOTH), (3, BOTH)], &[&[2, 2], &[1, 1]]),
        (&[4, 4], &[(4, BOTH), (4, BOTH)], &[&[2, 2], &[2, 2]]),
        (&[2, 2], &[(4, BOTH), (4, BOTH)], &[&[1, 1], &[1, 1]]),
        (&[0, 20], &[(5, BOTH), (5, BOTH)], &[&[0, 0], &[5, 5]]),
        (&[10, 10], &[(3, A), (3, BOTH)], &[&[3, 2], &[0, 1]]),
        (&[4, 4], &[(4, A), (4, BOTH)], &[&[4, 0], &[0, 4]]),
        (&[100, 50, 10], &[(16, ALL)], &[&[10], &[5], &[1]]),
        (&[100, 50, 10], &[(1, ALL)], &[&[1], &[0], &[0]]),
        (&[30, 30, 30], &[(10, ALL)], &[&[3], &[4], &[3]]),
        (&[20], &[(30, A), (10, A)], &[&[15, 5]]),
    ];
    for (providers, pools, expected) in cases {
        let mut lab = Lab::providers(providers);
        for &(min_ready, places) in *pools {
            lab.pool(min_ready, places);
        }
        let plan = lab.plan();
        for (provider, row) in expected.iter().enumerate() {
            for (pool, &count) in row.iter().enumerate() {
                assert_eq!(super::created(&plan, pool, provider), count, "{providers:?} {pools:?}");
            }
        }
    }
}
