//! Times as people read them: how long ago, with the exact time for who wants it. Reads no clock.

use jiff::Timestamp;
use maud::{Markup, html};

/// Two units at most: `45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`.
pub fn span(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, unit: &str, small: i64, of: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {of}"),
    };
    match () {
        () if days > 0 => two(days, "d", hours % 24, "h"),
        () if hours > 0 => two(hours, "h", minutes % 60, "min"),
        () if minutes > 0 => format!("{minutes} min"),
        () => format!("{seconds} s"),
    }
}

/// Seconds from one time to another; clocks differ, so what seems to come first is at the same time.
fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs().max(0)
}

fn time(at: Timestamp, text: &str) -> Markup {
    let exact = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    html! { time datetime=(exact) title=(at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()) { (text) } }
}

/// How old something is: `3 h 5 min`.
pub fn age(now: Timestamp, at: Timestamp) -> Markup {
    time(at, &span(seconds(at, now)))
}

/// When something was: `3 h 5 min ago`.
pub fn ago(now: Timestamp, at: Timestamp) -> Markup {
    time(at, &format!("{} ago", span(seconds(at, now))))
}

/// When something will be: `in 3 h 5 min`, or for how long it has been due.
pub fn ahead(now: Timestamp, at: Timestamp) -> Markup {
    if at > now {
        time(at, &format!("in {}", span(seconds(now, at))))
    } else {
        time(at, &format!("due for {}", span(seconds(at, now))))
    }
}
