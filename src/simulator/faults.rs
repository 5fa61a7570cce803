//! What goes wrong, for which calls, and how often.
//!
//! A fault is one of two families. A *transport* fault changes how a call is answered, whatever the call is; at most one
//! applies to a call, the oldest that matches. A *behaviour* changes what the cloud does about a call that it takes;
//! all that match apply. Here is decided only which apply and how often: what a transport fault does to an answer is in
//! [`super::mangle`], what a behaviour means in the services.

use serde::{Deserialize, Serialize};

use super::{calls::Call, glance::images::ImageStatus, wait::Wait};

/// One fault as it is asked for and shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Fault {
    #[serde(default, skip_deserializing)]
    pub id: u64,
    /// Name of the call, `*` matching any run of characters; several with commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Whole path, with `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Part of the query string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Name of the server, image, port, … that the call is about, with `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Matching calls that are let through first.
    #[serde(default)]
    pub skip: u64,
    /// Calls it applies to; without it, until it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Waits before anything else happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Wait>,
    pub fault: Kind,
    /// Matching calls seen so far, those let through included.
    #[serde(default, skip_deserializing)]
    pub seen: u64,
    /// Calls it applied to.
    #[serde(default, skip_deserializing)]
    pub hits: u64,
}

/// What goes wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase", tag = "type", deny_unknown_fields)]
pub(crate) enum Kind {
    /// Answered like this, by the service or by something in front of it.
    Answer {
        status: u16,
        #[serde(default)]
        body: AnswerBody,
        #[serde(default)]
        message: Option<String>,
        #[serde(default)]
        retry_after: Option<RetryAfter>,
        /// The call takes effect all the same.
        #[serde(default)]
        effect: bool,
    },
    /// The connection is reset without an answer.
    Cut {
        #[serde(default)]
        effect: bool,
    },
    /// No answer, until the client gives up or the time is over (then reset).
    Hang {
        #[serde(default)]
        effect: bool,
        #[serde(default)]
        limit: Option<Wait>,
    },
    /// Answered 504 (or cut, or hung) at once; takes effect after a while.
    Late {
        after: Wait,
        #[serde(default)]
        reply: LateReply,
    },
    /// The real answer, damaged on its way.
    Mangle { how: Mangle },
    /// Only `delay`.
    Slow {},

    /// 202, then ERROR with this message.
    BuildError {
        #[serde(default = "no_valid_host")]
        message: String,
        #[serde(default = "five_hundred")]
        code: u16,
        #[serde(default)]
        after: Option<Wait>,
        /// A port was made before it failed, and stays for ever.
        #[serde(default)]
        leaves_port: bool,
    },
    /// 202, then BUILD for ever.
    BuildForever {},
    /// 202, then as if it had never been.
    Vanish {
        #[serde(default)]
        after: Option<Wait>,
    },
    /// One POST makes two servers of the same name.
    Duplicate {},
    /// The boot takes this long.
    BootTime { after: Wait },
    /// The SSH port of the server made by this call.
    Ssh {
        mode: SshFault,
        #[serde(default)]
        after: Option<Wait>,
    },
    /// 204, and nothing happens.
    DeleteIgnored {},
    /// 204, then ERROR.
    DeleteError {
        #[serde(default = "will_not_die")]
        message: String,
        #[serde(default)]
        after: Option<Wait>,
    },
    /// The deletion takes this long.
    DeleteTime { after: Wait },
    /// The server becomes SOFT_DELETED.
    SoftDelete {},
    /// The server goes, its ports stay.
    LeavePorts {},
    /// The call's filters (name, tags, status, …) are ignored.
    FiltersIgnored {},
    /// `changes-since` is ignored: a full list.
    ChangesSinceIgnored {},
    /// The servers whose name matches `name` live in a cell whose database is down.
    DownCell { mode: DownCell },
    /// The image that this call makes or uploads stays in this status.
    ImageStuck { status: ImageStatus },
    /// The snapshot fails after a while: its image disappears.
    SnapshotFails {
        #[serde(default)]
        after: Option<Wait>,
    },
}

/// Who wrote the body of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AnswerBody {
    /// The service, in its own shape.
    #[default]
    Service,
    /// A proxy: an HTML page.
    Html,
    Empty,
    /// Bytes that are no text.
    Garbage,
    /// JSON that ends in the middle.
    Truncated,
    /// 10 MB of JSON.
    Huge,
}

/// The form of a `Retry-After` header.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RetryAfter {
    Seconds(u64),
    /// The same as an HTTP date.
    Date(u64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LateReply {
    #[default]
    GatewayTimeout,
    Cut,
    Hang,
}

/// How an answer is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mangle {
    /// Half of the JSON, announced as if it were all.
    Truncate,
    /// Half of what was announced, then the connection is reset.
    CutBody,
    /// The body comes in 20 pieces, a quarter of a second apart.
    Slow,
    /// 10 MB of white space before the body.
    Huge,
    /// Compressed, though nobody asked.
    Gzip,
    /// 200, with an HTML page instead of the body.
    Html,
    Garbage,
    /// Links say `https://` (a TLS proxy in front that the service does not know of).
    HttpsLinks,
    /// Next-page links lead to this page again.
    LinkRepeated,
    /// Next-page links lead to another host.
    LinkForeign,
    /// Next-page links have no scheme and host.
    LinkRelative,
    /// There is no next-page link though there is a next page.
    LinkMissing,
    /// No microversion headers in the answer.
    NoVersionHeaders,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SshFault {
    Never,
    Silent,
    Late,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DownCell {
    /// As real clouds do: minimal records from 2.69 on where nothing was asked for in particular, else left out.
    Unknown,
    /// Left out of lists silently.
    Skip,
    /// Lists are 500.
    Error,
}

fn no_valid_host() -> String {
    "No valid host was found. ".to_owned()
}

fn will_not_die() -> String {
    "the simulator was told to".to_owned()
}

fn five_hundred() -> u16 {
    500
}

impl Kind {
    /// Whether it changes the answer; else it is a behaviour.
    pub(crate) fn is_transport(&self) -> bool {
        matches!(
            self,
            Self::Answer { .. }
                | Self::Cut { .. }
                | Self::Hang { .. }
                | Self::Late { .. }
                | Self::Mangle { .. }
                | Self::Slow {}
        )
    }

    /// The call it is about when the fault does not say.
    fn natural_call(&self) -> &'static str {
        match self {
            Self::BuildError { .. }
            | Self::BuildForever {}
            | Self::Vanish { .. }
            | Self::Duplicate {}
            | Self::BootTime { .. }
            | Self::Ssh { .. } => "create-server",
            Self::DeleteIgnored {}
            | Self::DeleteError { .. }
            | Self::DeleteTime { .. }
            | Self::SoftDelete {}
            | Self::LeavePorts {} => "delete-server",
            Self::FiltersIgnored {} => "list-*",
            Self::ChangesSinceIgnored {} => "list-servers",
            Self::DownCell { .. } => "list-servers,show-server",
            Self::SnapshotFails { .. } => "create-snapshot",
            Self::ImageStuck { .. } => "create-snapshot,create-image,upload-image",
            Self::Mangle {
                how: Mangle::LinkRepeated | Mangle::LinkForeign | Mangle::LinkRelative | Mangle::LinkMissing,
            } => "list-*",
            Self::Mangle { how: Mangle::HttpsLinks } => "versions",
            _ => "*",
        }
    }
}

/// What a fault is matched against.
pub(crate) struct Subject<'a> {
    pub call: &'a Call,
    pub method: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    /// Name of the thing the call is about, when it has one.
    pub name: Option<&'a str>,
}

impl Fault {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        let calls = self.call.as_deref().unwrap_or_else(|| self.fault.natural_call());
        let by_name = matches!(self.fault, Kind::DownCell { .. })
            || self.name.as_deref().is_none_or(|pattern| subject.name.is_some_and(|name| glob(pattern, name)));
        calls.split(',').any(|pattern| glob(pattern.trim(), &subject.call.name))
            && self.service.as_deref().is_none_or(|service| service == subject.call.service.word())
            && self.method.as_deref().is_none_or(|method| method.eq_ignore_ascii_case(subject.method))
            && self.path.as_deref().is_none_or(|pattern| glob(pattern, subject.path))
            && self.query.as_deref().is_none_or(|part| subject.query.contains(part))
            && by_name
    }

    fn is_spent(&self) -> bool {
        self.times.is_some_and(|times| self.hits >= times)
    }
}

/// The faults that are switched on, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    next: u64,
    pub all: Vec<Fault>,
}

/// The faults that apply to one call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    pub ids: Vec<u64>,
    pub delay: Wait,
    pub transport: Option<Kind>,
    pub behaviours: Vec<Behaviour>,
}

/// A behaviour that applies to a call.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    /// The fault's own pattern for names, for behaviours that are about several servers.
    pub name: Option<String>,
    pub kind: Kind,
}

impl Faults {
    pub(crate) fn add(&mut self, mut fault: Fault) -> u64 {
        self.next += 1;
        fault.id = self.next;
        self.all.push(fault);
        self.next
    }

    /// Switches one off; whether it was there.
    pub(crate) fn remove(&mut self, id: u64) -> bool {
        let before = self.all.len();
        self.all.retain(|fault| fault.id != id);
        self.all.len() != before
    }

    /// The faults that apply to this call; counts them.
    pub(crate) fn apply(&mut self, subject: &Subject<'_>) -> Applied {
        let mut applied = Applied::default();
        for fault in &mut self.all {
            let transport = fault.fault.is_transport();
            if fault.is_spent() || (transport && applied.transport.is_some()) || !fault.matches(subject) {
                continue;
            }
            fault.seen += 1;
            if fault.seen <= fault.skip {
                continue;
            }
            fault.hits += 1;
            applied.ids.push(fault.id);
            applied.delay = applied.delay.max(fault.delay.unwrap_or_default());
            if transport {
                applied.transport = Some(fault.fault.clone());
            } else {
                applied.behaviours.push(Behaviour { name: fault.name.clone(), kind: fault.fault.clone() });
            }
        }
        applied
    }
}

/// Whether `text` is like `pattern`, in which `*` stands for any run of characters.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(tail) = text.strip_prefix(head) else { return false };
    (0..=tail.len()).any(|at| tail.is_char_boundary(at) && glob(rest, &tail[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: serde_json::Value) -> Fault {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn counts_skipped_and_hit_calls() {
        let mut faults = Faults::default();
        faults.add(fault(serde_json::json!({
            "call": "create-server", "skip": 1, "times": 2, "fault": {"type": "answer", "status": 503}
        })));
        let call = Call::of("POST", "/compute/v2.1/servers", "p", b"");
        let subject = Subject { call: &call, method: "POST", path: "/", query: "", name: None };
        let hits: Vec<bool> = (0..4).map(|_| faults.apply(&subject).transport.is_some()).collect();
        assert_eq!(hits, [false, true, true, false]);
    }

    #[test]
    fn a_fault_that_cannot_be_read_is_refused() {
        let bad = serde_json::json!({"fault": {"type": "answer", "status": 503, "effects": true}});
        assert!(serde_json::from_value::<Fault>(bad).is_err());
        let bad = serde_json::json!({"time": 1, "fault": {"type": "cut"}});
        assert!(serde_json::from_value::<Fault>(bad).is_err());
    }

    #[test]
    fn globs() {
        assert!(glob("pool-*-1", "pool-a-1"));
        assert!(glob("*", ""));
        assert!(!glob("pool-*-1", "pool-a-2"));
        assert!(!glob("pool", "pools"));
    }
}
