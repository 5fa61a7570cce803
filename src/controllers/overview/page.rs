//! Writes the overview as one HTML document that needs nothing else: no script, no font, no picture from elsewhere.
//!
//! A pure function of what there is to show and the time. Every text goes through `maud`, which escapes it: a name or a
//! message that looks like HTML is shown as it is. Nothing is told by colour alone.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::super::index::Key;
use super::ages::{age, ago, ahead};
use super::{Health, ImageRow, Overview, PoolRow, ProviderRow, RequestRow, Row, Rows, Servers, Verdict, View};
use crate::api::ImageState;

/// The one style sheet, inside the document: a server that shows it allows it by its hash and nothing else.
pub const STYLE: &str = include_str!("page.css");
/// How often a browser that was asked to asks again, in seconds.
const REFRESH: u8 = 30;
/// The longest name, in bytes, that is not broken into lines.
const ONE_LINE: usize = 28;
/// A small picture for the browser's tab.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' \
                    height='16' rx='3' fill='%232456c4'/%3E%3Cpath d='M4 5h8M4 8h8M4 11h5' stroke='%23fff' \
                    stroke-width='1.6'/%3E%3C/svg%3E";

/// The document. `refreshing`: the reader wants it anew by itself.
#[must_use]
pub fn render(view: &View, now: Timestamp, refreshing: bool) -> String {
    let (title, body) = match view {
        View::Standby { leader } => ("standby".to_owned(), standby(leader.as_deref())),
        View::Starting => ("starting".to_owned(), starting()),
        View::Facts { overview, silent } => (summary(overview), facts(overview, silent, now)),
    };
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if refreshing { meta http-equiv="refresh" content=(REFRESH); }
                title { (title) " · nodepool" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "nodepool" }
                    p { (as_of(view, now)) (again(refreshing)) }
                }
                main { (body) }
                footer {
                    p { "Point at an age to see the time in UTC. " code { "kubectl get nodepool" } " shows everything." }
                }
            }
        }
    };
    document.into_string()
}

fn as_of(view: &View, now: Timestamp) -> Markup {
    match view {
        View::Facts { overview, .. } => html! { "As of " (ago(now, overview.at)) ". " },
        View::Standby { .. } | View::Starting => html! {},
    }
}

fn again(refreshing: bool) -> Markup {
    html! {
        @if refreshing { a href="?" { "Stop refreshing" } } @else { a href="?refresh" { "Refresh every " (REFRESH) " s" } }
    }
}

/// For the browser's tab.
fn summary(overview: &Overview) -> String {
    let there = overview.providers.total + overview.images.total + overview.pools.total;
    match troubles(overview) {
        0 if there == 0 => "nothing yet".to_owned(),
        0 => "all well".to_owned(),
        1 => "1 needs attention".to_owned(),
        troubles => format!("{troubles} need attention"),
    }
}

fn troubles(overview: &Overview) -> usize {
    overview.providers.bad + overview.images.bad + overview.pools.bad + overview.unreadable.total
}

fn standby(leader: Option<&str>) -> Markup {
    html! {
        section.notice {
            h2 { "This replica stands by" }
            p {
                @match leader {
                    Some(leader) => { strong { (leader) } " acts, and its page shows everything." }
                    None => "Another replica acts, and its page shows everything; which one is not known yet."
                }
            }
            p { "This one takes over when that one ends, and reads no records before." }
        }
    }
}

fn starting() -> Markup {
    html! {
        section.notice {
            h2 { "The records are being read" }
            p { "This takes seconds. If it stays so, " code { "/readyz" } " and the log say what is missing." }
        }
    }
}

fn facts(overview: &Overview, silent: &[String], now: Timestamp) -> Markup {
    html! {
        (notices(overview, silent))
        (tiles(overview, now))
        (providers(overview, now))
        (images(overview, now))
        (pools(overview, now))
        (requests(overview, now))
    }
}

fn notices(overview: &Overview, silent: &[String]) -> Markup {
    html! {
        @if !silent.is_empty() {
            section.notice.bad {
                h2 { "What follows may be old" }
                ul { @for part in silent { li { (part) } } }
            }
        }
        @if overview.unreadable.total > 0 {
            section.notice.bad {
                h2 { "Records that cannot be read" }
                p { "They are left alone until somebody corrects them: " (overview.unreadable.shown.join(", ")) (more(&overview.unreadable)) }
            }
        }
    }
}

/// The whole at a glance; each tile leads to its table.
fn tiles(overview: &Overview, now: Timestamp) -> Markup {
    let servers = &overview.servers;
    let waiting = overview.requests.total;
    html! {
        nav aria-label="Sections" {
            (tile("providers", "Slots taken", html! { (servers.used) small { " of " (servers.max) } },
                html! { (bar(servers)) (trouble(&overview.providers)) }))
            (tile("images", "Oldest image", match overview.oldest_image {
                Some(built) => age(now, built),
                None => html! { "none" },
            }, trouble(&overview.images)))
            (tile("pools", "Nodes ready", html! { (servers.ready) small { " of " (overview.min_ready) } },
                html! { @if servers.building > 0 { (servers.building) " building, " } (trouble(&overview.pools)) }))
            (tile("requests", "Requests waiting", html! { (waiting) }, html! {
                @if let Some(since) = overview.oldest_request { "longest " (age(now, since)) } @else { "nobody waits" }
            }))
        }
    }
}

fn tile(id: &str, label: &str, value: Markup, below: Markup) -> Markup {
    html! {
        a href={ "#" (id) } {
            span.label { (label) }
            span.value { (value) }
            span.below { (below) }
        }
    }
}

fn trouble<T>(rows: &Rows<T>) -> Markup {
    html! {
        @match rows.bad {
            0 if rows.total == 0 => "none yet",
            0 => { (mark(Health::Good)) " all well" },
            1 => span.bad { (mark(Health::Bad)) " 1 needs attention" },
            bad => span.bad { (mark(Health::Bad)) " " (bad) " need attention" }
        }
    }
}

fn providers(overview: &Overview, now: Timestamp) -> Markup {
    let columns = [
        Column::text("Provider"),
        Column::text("State"),
        Column::text("Slots"),
        Column::state("In use", "in-use"),
        Column::state("Ready", "ready"),
        Column::state("Building", "building"),
        Column::state("Held", "held"),
        Column::state("Deleting", "deleting"),
        Column::text("Listed"),
        Column::text("Leaks"),
    ];
    let empty = html! { "No Provider yet. Put a " code { "clouds.yaml" } " into a Secret, and create a Provider that names it." };
    section("providers", "Providers", empty, &overview.providers, columns, |row: &ProviderRow| {
        let servers = &row.servers;
        [
            name(overview, &row.key),
            state(row, now),
            html! { span.of { (servers.used) " of " (servers.max) } (bar(servers)) },
            number(servers.in_use),
            number(servers.ready),
            number(servers.building),
            number(servers.held),
            number(servers.deleting),
            html! { @match row.listed { Some(at) => (ago(now, at)), None => (none("never")) } },
            html! {
                @if row.leaks.is_empty() { (none("none")) }
                @for (at, (kind, count)) in row.leaks.iter().enumerate() {
                    @if at > 0 { ", " } (count) " " (kind.as_str())
                }
            },
        ]
    })
}

fn images(overview: &Overview, now: Timestamp) -> Markup {
    let columns = [
        Column::text("Image"),
        Column::text("Provider"),
        Column::text("State"),
        Column::text("Current version"),
        Column::text("Age"),
        Column::text("Next"),
        Column::number("Failures"),
    ];
    let empty = html! {
        "No DiskImage yet. Create one that says what nodes boot from; an image that the cloud already has (source "
        code { "existing" } ") is the quickest."
    };
    section("images", "Images", empty, &overview.images, columns, |row: &ImageRow| {
        [
            name(overview, &row.key),
            whole(&row.provider),
            state(row, now),
            html! {
                @match &row.current { Some(current) => (whole(current)), None => (none("none")) }
                @if let Some((state, percent)) = row.making { (making(state, percent)) }
            },
            html! { @match row.built { Some(built) => (age(now, built)), None => (none("–")) } },
            html! { @match row.next { Some(next) => (ahead(now, next)), None => (none("–")) } },
            number(row.failures.into()),
        ]
    })
}

fn making(state: ImageState, percent: Option<i32>) -> Markup {
    html! {
        span.below { "next: " (state) @if let Some(percent) = percent { ", " (percent) " %" } }
    }
}

fn pools(overview: &Overview, now: Timestamp) -> Markup {
    let columns = [
        Column::text("Pool"),
        Column::text("State"),
        Column::state("Ready", "ready"),
        Column::state("Building", "building"),
        Column::state("In use", "in-use"),
        Column::state("Held", "held"),
        Column::state("Deleting", "deleting"),
        Column::text("All"),
        Column::text("Image"),
    ];
    let empty =
        html! { "No Pool yet. Create one that names a DiskImage, a flavor, and how many nodes are kept ready." };
    section("pools", "Pools", empty, &overview.pools, columns, |row: &PoolRow| {
        let servers = &row.servers;
        [
            name(overview, &row.key),
            state(row, now),
            html! { (servers.ready) small { " of " (row.min_ready) } },
            number(servers.building),
            number(servers.in_use),
            number(servers.held),
            number(servers.deleting),
            html! {
                span.of { (servers.used) @if row.limited { " of " (servers.max) } }
                (bar(servers))
            },
            whole(&row.image),
        ]
    })
}

fn requests(overview: &Overview, now: Timestamp) -> Markup {
    let columns = [
        Column::text("Request"),
        Column::text("Wants"),
        Column::text("Waits"),
        Column::number("Place"),
        Column::text("For"),
    ];
    let empty = html! { "No request waits." };
    section("requests", "Waiting requests", empty, &overview.requests, columns, |row: &RequestRow| {
        [
            name(overview, &row.key),
            html! {
                @for (at, (pool, count)) in row.wants.iter().enumerate() {
                    @if at > 0 { ", " } (count) " × " (pool)
                }
                @if row.wants_more > 0 { " and " (row.wants_more) " more" }
            },
            html! { @match row.since { Some(since) => (age(now, since)), None => (none("–")) } },
            html! { @match row.position { Some(position) => (position), None => (none("–")) } },
            html! {
                @match &row.why {
                    Some(why) => { (why.word) @if !why.message.is_empty() { p { (why.message) } } }
                    None => (none("not looked at yet"))
                }
            },
        ]
    })
}

/// One column of a table.
struct Column {
    label: &'static str,
    number: bool,
    /// The colour by which bars show what the column counts.
    swatch: Option<&'static str>,
}

impl Column {
    const fn text(label: &'static str) -> Self {
        Self { label, number: false, swatch: None }
    }

    const fn number(label: &'static str) -> Self {
        Self { label, number: true, swatch: None }
    }

    const fn state(label: &'static str, swatch: &'static str) -> Self {
        Self { label, number: true, swatch: Some(swatch) }
    }

    const fn class(&self) -> Option<&'static str> {
        if self.number { Some("number") } else { None }
    }
}

/// A table under its heading. Narrow screens show each row as a block, which takes a table's meaning from its elements: the roles say
/// it again.
fn section<T, const N: usize>(
    id: &str,
    title: &str,
    empty: Markup,
    rows: &Rows<T>,
    columns: [Column; N],
    cells: impl Fn(&T) -> [Markup; N],
) -> Markup {
    let heading = format!("{id}-heading");
    html! {
        section id=(id) aria-labelledby=(heading) {
            h2 id=(heading) { (title) " " span.count { (rows.total) } }
            @if rows.shown.is_empty() { p.empty { (empty) } } @else {
                table role="table" aria-labelledby=(heading) {
                    thead role="rowgroup" {
                        tr role="row" {
                            @for column in &columns {
                                th role="columnheader" scope="col" class=[column.class()] {
                                    @if let Some(swatch) = column.swatch { span.swatch.(swatch) aria-hidden="true" {} }
                                    (column.label)
                                }
                            }
                        }
                    }
                    tbody role="rowgroup" {
                        @for row in &rows.shown {
                            tr role="row" { (line(&columns, cells(row))) }
                        }
                    }
                }
                (more(rows))
            }
        }
    }
}

fn line<const N: usize>(columns: &[Column; N], cells: [Markup; N]) -> Markup {
    html! {
        @for (at, (column, cell)) in columns.iter().zip(cells).enumerate() {
            @if at == 0 {
                th role="rowheader" scope="row" { (cell) }
            } @else {
                td role="cell" data-label=(column.label) class=[column.class()] { (cell) }
            }
        }
    }
}

fn more<T>(rows: &Rows<T>) -> Markup {
    let more = rows.total.saturating_sub(rows.shown.len());
    html! { @if more > 0 { p.more { "and " (more) " more" } } }
}

fn name(overview: &Overview, key: &Key) -> Markup {
    html! {
        @if overview.qualified { span.namespace { (key.namespace) "/" } }
        (whole(&key.name))
    }
}

/// A name in one line, unless that would make the table too wide.
fn whole(name: &str) -> Markup {
    html! { @if name.len() <= ONE_LINE { span.whole { (name) } } @else { (name) } }
}

/// What is said of a row: each verdict with its mark and word, and the sentence of the most urgent.
fn state(row: &impl Row, now: Timestamp) -> Markup {
    let verdicts = row.verdicts();
    let worst = row.health();
    let told = verdicts.iter().find(|verdict| verdict.health == worst && !verdict.message.is_empty());
    html! {
        @for verdict in verdicts { (chip(verdict)) " " }
        @if let Some(told) = told {
            p { (told.message) @if let Some(since) = told.since { " " small { "(" (age(now, since)) ")" } } }
        }
    }
}

fn chip(verdict: &Verdict) -> Markup {
    html! { span.chip.(class(verdict.health)) { (mark(verdict.health)) " " (verdict.word) } }
}

/// A shape beside each colour.
fn mark(health: Health) -> Markup {
    let shape = match health {
        Health::Good => "✓",
        Health::Off => "‖",
        Health::Busy => "…",
        Health::Bad => "!",
    };
    html! { span.mark aria-hidden="true" { (shape) } }
}

const fn class(health: Health) -> &'static str {
    match health {
        Health::Good => "good",
        Health::Off => "off",
        Health::Busy => "busy",
        Health::Bad => "bad",
    }
}

fn number(number: i64) -> Markup {
    html! { @if number == 0 { (none("0")) } @else { (number) } }
}

fn none(word: &str) -> Markup {
    html! { span.none { (word) } }
}

/// How much of what may be is taken, and by what; the numbers stand beside it.
fn bar(servers: &Servers) -> Markup {
    let parts = [
        ("in-use", servers.in_use),
        ("ready", servers.ready),
        ("building", servers.building),
        ("held", servers.held),
        ("deleting", servers.deleting),
    ];
    let taken: i64 = parts.iter().map(|(_, count)| (*count).max(0)).sum();
    let whole = servers.max.max(taken).max(1);
    let mut start = 0;
    let parts = parts.map(|(state, count)| {
        let at = start;
        start += count.max(0);
        (state, at, count)
    });
    html! {
        svg.bar viewBox={ "0 0 " (whole) " 1" } preserveAspectRatio="none" aria-hidden="true" focusable="false" {
            @for (state, at, count) in parts {
                @if count > 0 { rect.(state) x=(at) width=(count) height="1" {} }
            }
        }
    }
}
