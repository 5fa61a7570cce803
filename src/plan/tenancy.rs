//! Who may use a Provider or a Pool of another namespace: asked at every use, not only when it is written.
//!
//! Pure. What is not known denies, and is kept apart from what is denied: nothing is taken from anybody because a
//! namespace could not be read.

use std::collections::BTreeMap;

use kube::core::{Selector, SelectorExt};

use crate::api::allowed_namespaces::{AllowedNamespaces, NamespacesFrom};

/// Whether a namespace may use something of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may.
    Allowed,
    /// It may not.
    Denied,
    /// Nobody can tell now: it may not begin anything, and keeps what it has.
    Unknown,
}

/// Whether objects of the namespace `user`, with these labels if they are known, may use what lives in `owner`.
#[must_use]
pub fn access(
    owner: &str,
    allowed: Option<&AllowedNamespaces>,
    user: &str,
    labels: Option<&BTreeMap<String, String>>,
) -> Access {
    if owner == user {
        return Access::Allowed;
    }
    let Some(allowed) = allowed else { return Access::Denied };
    match allowed.from {
        NamespacesFrom::Same => Access::Denied,
        NamespacesFrom::All => Access::Allowed,
        NamespacesFrom::Selector => {
            let selector = allowed.selector.clone().map(Selector::try_from);
            match (selector, labels) {
                (Some(Ok(selector)), Some(labels)) if selector.matches(labels) => Access::Allowed,
                (Some(Ok(_)), Some(_)) => Access::Denied,
                // Of labels that are not known, or a selector that cannot be read or is not there.
                _ => Access::Unknown,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn asked(allowed: Value, user: &str, labels: Option<&[(&str, &str)]>) -> Access {
        let allowed: Option<AllowedNamespaces> = serde_json::from_value(allowed).unwrap();
        let labels =
            labels.map(|labels| labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect());
        access("shared", allowed.as_ref(), user, labels.as_ref())
    }

    fn by(selector: Value) -> Value {
        json!({"from": "Selector", "selector": selector})
    }

    #[test]
    fn a_namespace_uses_what_another_opens_to_it() {
        use Access::{Allowed, Denied, Unknown};
        let ci: Option<&[(&str, &str)]> = Some(&[("team", "ci")]);
        let none: Option<&[(&str, &str)]> = Some(&[]);
        let team = || by(json!({"matchLabels": {"team": "ci"}}));
        let expression = |operator: &str, values: &[&str]| {
            by(json!({"matchExpressions": [{"key": "team", "operator": operator, "values": values}]}))
        };
        for (allowed, user, labels, expected) in [
            // Its own, whatever it says, and whether or not its labels are known.
            (json!(null), "shared", None, Allowed),
            (json!({"from": "Same"}), "shared", None, Allowed),
            (team(), "shared", none, Allowed),
            // Another's: closed unless it says otherwise.
            (json!(null), "tenant", ci, Denied),
            (json!({}), "tenant", ci, Denied),
            (json!({"from": "Same"}), "tenant", ci, Denied),
            (json!({"from": "All"}), "tenant", None, Allowed),
            (team(), "tenant", ci, Allowed),
            (team(), "tenant", none, Denied),
            (team(), "tenant", Some(&[("team", "web")]), Denied),
            (expression("In", &["ci", "qa"]), "tenant", ci, Allowed),
            (expression("NotIn", &["ci"]), "tenant", ci, Denied),
            (expression("NotIn", &["ci"]), "tenant", none, Allowed),
            (expression("Exists", &[]), "tenant", ci, Allowed),
            (expression("DoesNotExist", &[]), "tenant", ci, Denied),
            // Kubernetes' empty selector means all.
            (by(json!({})), "tenant", none, Allowed),
            // Unknown labels, a selector that is missing, one with an operator that is none.
            (team(), "tenant", None, Unknown),
            (by(json!({})), "tenant", None, Unknown),
            (json!({"from": "Selector"}), "tenant", ci, Unknown),
            (expression("Like", &["c*"]), "tenant", ci, Unknown),
        ] {
            assert_eq!(asked(allowed.clone(), user, labels), expected, "{allowed} {user} {labels:?}");
        }
    }
}
