//! What the page says, how it is cut, and that no text in it is ever taken for HTML.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::ages::span;
use super::*;
use crate::api::provider::LeakKind;

fn now() -> Timestamp {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

fn before(minutes: i64) -> Timestamp {
    now() - SignedDuration::from_mins(minutes)
}

fn verdict(health: Health, word: &str, message: &str) -> Verdict {
    Verdict { health, word: word.to_owned(), message: message.to_owned(), since: Some(before(12)) }
}

fn provider(name: &str, verdicts: Vec<Verdict>) -> ProviderRow {
    ProviderRow {
        key: Key::new("ci", name),
        verdicts,
        servers: Servers { max: 20, used: 14, ready: 5, building: 2, in_use: 5, held: 1, deleting: 1 },
        listed: Some(before(0)),
        leaks: Vec::new(),
    }
}

fn image(name: &str, verdicts: Vec<Verdict>) -> ImageRow {
    ImageRow {
        key: Key::new("ci", name),
        provider: "cloud-a".to_owned(),
        verdicts,
        current: Some(format!("{name}-cloud-a-1764075600")),
        built: Some(before(20 * 60 + 5)),
        next: Some(before(-4 * 60)),
        making: None,
        failures: 0,
    }
}

fn pool(name: &str, verdicts: Vec<Verdict>) -> PoolRow {
    PoolRow {
        key: Key::new("ci", name),
        verdicts,
        servers: Servers { max: 12, used: 9, ready: 3, building: 1, in_use: 4, held: 0, deleting: 1 },
        min_ready: 4,
        limited: true,
        image: "debian-13".to_owned(),
    }
}

fn request(number: usize, message: &str) -> RequestRow {
    RequestRow {
        key: Key::new("ci", &format!("job-{number}")),
        since: Some(before(7)),
        position: Some(1),
        wants: vec![("small".to_owned(), 2), ("big".to_owned(), 1)],
        wants_more: 1,
        why: Some(verdict(Health::Busy, "Queued", message)),
    }
}

/// A morning on which not all is well.
fn morning() -> Overview {
    let refused = "the cloud refuses the credentials; correct the Secret cloud-b";
    let good = || verdict(Health::Good, "Ready", "");
    let mut leaking =
        provider("cloud-a", vec![good(), verdict(Health::Bad, "QuotaExceeded", "cores: 40 of 40 are used")]);
    leaking.leaks = vec![(LeakKind::Server, 2), (LeakKind::Port, 1)];
    let mut new = image("fedora-42", vec![verdict(Health::Busy, "Building", "")]);
    (new.current, new.built, new.making) = (None, None, Some((ImageState::Uploading, Some(45))));
    let mut failing =
        image("debian-13", vec![verdict(Health::Good, "Available", ""), verdict(Health::Bad, "SetupFailed", "exit 1")]);
    (failing.failures, failing.next) = (3, Some(before(5)));
    Overview {
        at: now() - SignedDuration::from_secs(3),
        qualified: true,
        servers: Servers { max: 40, used: 14, ready: 5, building: 2, in_use: 5, held: 1, deleting: 1 },
        min_ready: 8,
        oldest_image: Some(before(20 * 60 + 5)),
        oldest_request: Some(before(7)),
        providers: Rows::most_urgent(vec![
            provider("calm", vec![good()]),
            provider("cloud-b", vec![verdict(Health::Bad, "AuthenticationFailed", refused)]),
            leaking,
            provider("paused", vec![verdict(Health::Off, "Paused", "")]),
        ]),
        images: Rows::most_urgent(vec![new, failing]),
        pools: Rows::most_urgent(vec![pool(
            "small",
            vec![verdict(Health::Busy, "Launching", "nodes are being launched")],
        )]),
        requests: Rows::first((0..ROWS + 3).map(|number| request(number, "no provider has room")).collect()),
        unreadable: Rows::first(vec!["Pool ci/odd".to_owned()]),
    }
}

/// The document without its style sheet.
fn shown(view: &View) -> String {
    let document = render(view, now(), false);
    assert_eq!(document.matches(STYLE).count(), 1, "the server allows exactly this style sheet");
    document.replace(STYLE, "")
}

fn facts(overview: Overview) -> View {
    View::Facts { overview: Arc::new(overview), silent: Vec::new() }
}

#[test]
fn a_morning_on_which_not_all_is_well() {
    let mut overview = morning();
    overview.requests.shown.truncate(1);
    insta::assert_snapshot!(shown(&facts(overview)).replace("><", ">\n<"));
}

#[test]
fn an_empty_installation_says_what_to_do_next() {
    let document = shown(&facts(Overview { at: now(), ..Overview::default() }));
    for words in
        ["No Provider yet. Put a", "No DiskImage yet.", "No Pool yet.", "No request waits.", "nothing yet · nodepool"]
    {
        assert!(document.contains(words), "{words} not in {document}");
    }
}

#[test]
fn a_standby_names_the_leader_and_one_that_starts_says_so() {
    let document = shown(&View::Standby { leader: Some("nodepool-operator-x7<b>_1".to_owned()) });
    assert!(document.contains("This replica stands by") && document.contains("nodepool-operator-x7&lt;b&gt;_1"));
    assert!(shown(&View::Standby { leader: None }).contains("which one is not known yet"));
    assert!(shown(&View::Starting).contains("The records are being read"));
}

#[test]
fn a_stuck_operator_warns_that_the_facts_may_be_old() {
    let view = View::Facts { overview: Arc::new(morning()), silent: vec!["engine: no progress for 95 s".to_owned()] };
    let document = shown(&view);
    assert!(document.contains("What follows may be old") && document.contains("engine: no progress for 95 s"));
}

#[test]
fn it_is_asked_again_only_when_the_reader_wants_it() {
    let calm = render(&View::Starting, now(), false);
    assert!(!calm.contains("http-equiv") && calm.contains(r#"<a href="?refresh">"#));
    let refreshing = render(&View::Starting, now(), true);
    assert!(
        refreshing.contains(r#"<meta http-equiv="refresh" content="30">"#) && refreshing.contains(r#"<a href="?">"#)
    );
}

/// Texts of a cloud, or of whoever may write a status.
const HOSTILE: [&str; 5] = [
    "<script>alert(1)</script>",
    "</style></p></table><img src=x onerror=alert(1)>",
    "\" onmouseover=\"alert(1)",
    "' autofocus onfocus='alert(1)",
    "&lt;b&gt;<!-- --><![CDATA[",
];

#[test]
fn no_text_is_taken_for_html() {
    for text in HOSTILE {
        // As long as the text, since that decides where a name may break.
        let harmless = "w".repeat(text.len());
        let (plain, document) = (shown(&facts(scribbled(&harmless))), shown(&facts(scribbled(text))));
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        assert_eq!(document.matches(&escaped).count(), 17, "{text} in {document}");
        assert!(document.replace(&escaped, &harmless) == plain, "{text} changed more than itself: {document}");
    }
}

/// The same text wherever one can be, attributes that hold one included.
fn scribbled(text: &str) -> Overview {
    let said = || vec![verdict(Health::Bad, text, text)];
    let mut image = image(text, said());
    (image.provider, image.current) = (text.to_owned(), Some(text.to_owned()));
    let mut pool = pool(text, said());
    pool.image = text.to_owned();
    let mut request = request(0, text);
    (request.key, request.wants) = (Key::new(text, text), vec![(text.to_owned(), 1)]);
    Overview {
        at: now(),
        qualified: true,
        providers: Rows::most_urgent(vec![provider(text, said())]),
        images: Rows::most_urgent(vec![image]),
        pools: Rows::most_urgent(vec![pool]),
        requests: Rows::first(vec![request]),
        unreadable: Rows::first(vec![text.to_owned()]),
        ..Overview::default()
    }
}

#[test]
fn the_page_stays_small_whatever_there_is() {
    let longest = "\"".repeat(MESSAGE);
    let said =
        || vec![verdict(Health::Bad, "LaunchesFailing", &longest), verdict(Health::Bad, "QuotaExceeded", &longest)];
    let name = |number: usize| format!("{number:063}");
    let many = 10_000;
    let overview = Overview {
        at: now(),
        qualified: true,
        providers: Rows::most_urgent((0..many).map(|number| provider(&name(number), said())).collect()),
        images: Rows::most_urgent((0..many).map(|number| image(&name(number), said())).collect()),
        pools: Rows::most_urgent((0..many).map(|number| pool(&name(number), said())).collect()),
        requests: Rows::first((0..many).map(|number| request(number, &longest)).collect()),
        unreadable: Rows::first((0..many).map(name).collect()),
        ..Overview::default()
    };
    let document = shown(&facts(overview));
    assert!(document.len() < 1_000_000, "{} bytes", document.len());
    assert_eq!(document.matches("and 9900 more").count(), 5);
}

#[test]
fn what_needs_a_person_comes_first_and_is_counted_when_it_is_cut_off() {
    let good = (0..ROWS).map(|number| pool(&format!("a-{number:03}"), vec![verdict(Health::Good, "Available", "")]));
    let bad =
        (0..ROWS + 1).map(|number| pool(&format!("z-{number:03}"), vec![verdict(Health::Bad, "NoValidHost", "")]));
    let rows = Rows::most_urgent(good.chain(bad).collect());
    assert_eq!((rows.shown.len(), rows.total, rows.bad), (ROWS, 2 * ROWS + 1, ROWS + 1));
    assert!(rows.shown.iter().all(|row| row.health() == Health::Bad));
    assert_eq!(&*rows.shown[0].key.name, "z-000");
}

#[test]
fn ages_have_two_units_at_most() {
    let hour = 3600;
    for (seconds, text) in [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (hour - 1, "59 min"),
        (hour, "1 h"),
        (hour + 300, "1 h 5 min"),
        (24 * hour, "1 d"),
        (52 * hour + 1800, "2 d 4 h"),
        (400 * 24 * hour, "400 d"),
    ] {
        assert_eq!(span(seconds), text);
    }
}

#[test]
fn a_time_is_shown_as_an_age_and_exactly() {
    let exact = r#"datetime="2026-11-26T11:55:00Z" title="2026-11-26 11:55:00 UTC""#;
    assert_eq!(ages::ago(now(), before(5)).0, format!("<time {exact}>5 min ago</time>"));
    assert_eq!(ages::ahead(now(), before(5)).0, format!("<time {exact}>due for 5 min</time>"));
    assert!(ages::ahead(now(), before(-90)).0.contains(">in 1 h 30 min<"));
    assert!(ages::age(now(), before(-1)).0.contains(">0 s<"), "a clock that is ahead");
}
