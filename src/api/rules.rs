//! The rules the API server checks for us, as CEL with a sentence that says what to write instead.
//!
//! Decides how each sort of field is refused. It must never say only that something is wrong, and never cost the
//! API server more than its budget: every string and list a rule reads has a maximum length.

use kube::core::{Message, Rule};

/// A name of a Provider, Pool or DiskImage: it becomes part of host names and label values.
const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// A name of any other Kubernetes object.
const DNS_SUBDOMAIN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// What [`super::Duration`] reads.
const DURATION: &str = "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$";
/// What [`super::Quantity`] reads.
const QUANTITY: &str = "^[0-9]{1,9}([.][0-9]{1,9})?(Ki|Mi|Gi|Ti|M|G|T)$";

fn rule(rule: String, message: String) -> Rule {
    Rule { rule, message: Some(Message::Message(message)), ..Rule::default() }
}

/// The field names an object of `kind`, one of ours.
#[must_use]
pub fn name_of(kind: &str) -> Rule {
    rule(
        format!("self.matches('{DNS_LABEL}')"),
        format!(
            "write the metadata.name of a {kind}: lower-case letters, digits and '-', such as my-{}",
            example(kind)
        ),
    )
}

/// Every item of the list names an object of `kind`, one of ours.
#[must_use]
pub fn names_of(kind: &str) -> Rule {
    rule(
        format!("self.all(name, name.matches('{DNS_LABEL}'))"),
        format!(
            "write a list with the metadata.name of each {kind}: lower-case letters, digits and '-', such as my-{}",
            example(kind)
        ),
    )
}

/// The field names a Secret, ConfigMap or another of Kubernetes' own objects in the same namespace.
#[must_use]
pub fn object_name(kind: &str) -> Rule {
    rule(
        format!("self.matches('{DNS_SUBDOMAIN}')"),
        format!("write the metadata.name of a {kind} in this namespace: lower-case letters, digits, '-' and '.'"),
    )
}

/// The field names a namespace.
#[must_use]
pub fn namespace() -> Rule {
    rule(
        format!("self.matches('{DNS_LABEL}')"),
        "write the name of a namespace: lower-case letters, digits and '-', such as ci-shared".into(),
    )
}

/// The object's own name fits in a label value, a host name and a server name, at most `max` characters.
#[must_use]
pub fn own_name(kind: &str, max: usize) -> Rule {
    rule(
        format!("self.metadata.name.size() <= {max} && self.metadata.name.matches('{DNS_LABEL}')"),
        format!(
            "name a {kind} with at most {max} lower-case letters, digits and '-', without dots: servers are named after it"
        ),
    )
}

/// A duration between two others, both included.
#[must_use]
pub fn duration(min: &str, max: &str) -> Rule {
    rule(
        format!(
            "self != '' && self.matches('{DURATION}') && duration(self) >= duration('{min}') && duration(self) <= duration('{max}')"
        ),
        format!("write a duration from {min} to {max} in whole hours, minutes or seconds, such as 90s, 10m or 8h"),
    )
}

/// A duration between two others, or `0s` for off.
#[must_use]
pub fn duration_or_off(min: &str, max: &str) -> Rule {
    rule(
        format!(
            "self != '' && self.matches('{DURATION}') && (duration(self) == duration('0s') || \
             (duration(self) >= duration('{min}') && duration(self) <= duration('{max}')))"
        ),
        format!(
            "write a duration from {min} to {max} in whole hours, minutes or seconds, such as 90s or 15m, or 0s for off"
        ),
    )
}

/// An amount of memory with its unit.
#[must_use]
pub fn memory() -> Rule {
    rule(
        format!(
            "type(self) == string && self.matches('{QUANTITY}') && quantity(self).compareTo(quantity('1Mi')) >= 0 && \
             quantity(self).compareTo(quantity('1024Ti')) <= 0"
        ),
        "write an amount of memory with its unit, such as 8Gi or 8192Mi; a bare number would mean bytes".into(),
    )
}

/// A cron schedule of five fields or a macro such as `@daily`.
#[must_use]
pub fn cron() -> Rule {
    rule(
        format!("self.matches('{}')", cron_pattern()),
        "write a cron schedule of five fields (minute 0-59, hour 0-23, day 1-31, month 1-12, weekday 0-7), \
         such as \"14 2 * * *\", or @daily"
            .into(),
    )
}

fn cron_pattern() -> String {
    let values = [
        "[0-5]?[0-9]",
        "([01]?[0-9]|2[0-3])",
        "(0?[1-9]|[12][0-9]|3[01])",
        "(0?[1-9]|1[0-2]|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)",
        "([0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)",
    ];
    let fields = values.map(|value| {
        let item = format!("({value}(-{value})?|([*]|{value}-{value})/[1-9][0-9]?|[*])");
        format!("{item}(,{item})*")
    });
    format!("^(@(hourly|daily|weekly|monthly)|{})$", fields.join(" +"))
}

/// The name of a time zone.
#[must_use]
pub fn time_zone() -> Rule {
    rule(
        "self.matches('^[A-Z][A-Za-z]*(/[A-Za-z0-9_+-]+)*$')".into(),
        "write a time zone's name in the IANA database, such as UTC or Europe/Berlin".into(),
    )
}

/// A web address.
#[must_use]
pub fn url() -> Rule {
    rule(
        "isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != ''".into(),
        "write a full address that starts with https:// or http://".into(),
    )
}

/// The name of a user on a server.
#[must_use]
pub fn username() -> Rule {
    rule(
        "self.matches('^[A-Za-z_][-A-Za-z0-9_.]*[$]?$')".into(),
        "write the name of a user on the server, such as debian, zuul or root".into(),
    )
}

/// Exactly one of the named fields is set.
#[must_use]
pub fn exactly_one(fields: &[&str]) -> Rule {
    let has: Vec<_> = fields.iter().map(|field| format!("has(self.{field})")).collect();
    rule(format!("[{}].exists_one(set, set)", has.join(", ")), format!("write exactly one of {}", fields.join(", ")))
}

/// The field never changes; `instead` says what to do.
#[must_use]
pub fn immutable(field: &str, instead: &str) -> Rule {
    rule("self == oldSelf".into(), format!("{field} cannot be changed; {instead}"))
}

/// The optional field is neither added nor removed later; put beside [`immutable`], which sees only changes.
#[must_use]
pub fn same_presence(field: &str, instead: &str) -> Rule {
    rule(
        format!("has(self.{field}) == has(oldSelf.{field})"),
        format!("{field} cannot be added or removed later; {instead}"),
    )
}

/// A state only moves where `may` allows it: the one source of the order is the Rust function.
#[must_use]
pub fn forward_only<S: Copy>(all: &[S], name: fn(S) -> &'static str, may: fn(S, S) -> bool) -> Rule {
    let (mut ways, mut words) = (Vec::new(), Vec::new());
    for from in all {
        let next: Vec<_> = all.iter().filter(|to| may(*from, **to)).map(|to| name(*to)).collect();
        let quoted: Vec<_> = next.iter().map(|to| format!("'{to}'")).collect();
        ways.push(format!("'{}': [{}]", name(*from), quoted.join(", ")));
        let next = if next.is_empty() { "nothing".into() } else { next.join(" or ") };
        words.push(format!("after {} comes {next}", name(*from)));
    }
    rule(
        format!("self == oldSelf || self in {{{}}}[oldSelf]", ways.join(", ")),
        format!("state only moves forward: {}", words.join("; ")),
    )
}

fn example(kind: &str) -> String {
    kind.to_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, string::string_regex};

    use super::*;
    use crate::api::{Duration, Quantity};

    fn accepted(pattern: &str) -> impl Strategy<Value = String> {
        string_regex(pattern.trim_start_matches('^').trim_end_matches('$')).unwrap()
    }

    proptest! {
        /// What the API server lets through must never fail to decode: one such record would hide all of its kind.
        #[test]
        fn every_accepted_duration_is_read(text in accepted(DURATION)) {
            prop_assume!(!text.is_empty() && text.len() <= Duration::MAX_LENGTH);
            prop_assert!(text.parse::<Duration>().is_ok());
        }

        #[test]
        fn every_accepted_quantity_is_read(text in accepted(QUANTITY)) {
            // The rule's upper bound, in short: the pattern alone reaches further than 64 bits of bytes.
            prop_assume!(!text.contains('T') || text.find(|c: char| !c.is_ascii_digit()) <= Some(6));
            prop_assert!(text.parse::<Quantity>().is_ok());
        }
    }
}
