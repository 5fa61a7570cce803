//! Reads the refusals of OpenStack's services and decides what each means ([`ErrorClass`]).
//!
//! A refusal counts only when the service itself wrote it: its own JSON fault, or of Glance, which has none, the form
//! that its library gives to every refusal. Anything else (a proxy's page, half an answer) leaves open whether a change
//! was made. What reaches people is the fault's own message, from a closed set of keys, in one scrubbed line: never a
//! body, never what the service quotes of the request (rule 16).

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::call::Call;
use crate::cloud::ErrorClass;

/// The longest message that is shown.
const LONGEST_MESSAGE: usize = 256;
/// A longer word is a token, a key or encoded data, and nothing people need.
const LONGEST_WORD: usize = 64;
/// No cloud is obeyed for longer: a mistaken header would silence a Provider for ever.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The keys under which Nova, Neutron, Keystone and their middleware put a fault.
const FAULT_KEYS: [&str; 16] = [
    "badRequest",
    "unauthorized",
    "forbidden",
    "itemNotFound",
    "badMethod",
    "notAcceptable",
    "conflictingRequest",
    "overLimit",
    "tooManyRequests",
    "computeFault",
    "notImplemented",
    "serviceUnavailable",
    "serverCapacityUnavailable",
    "buildInProgress",
    "NeutronError",
    "error",
];

/// A fault that a service wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WrittenFault {
    pub(crate) key: String,
    /// Neutron's exception name.
    pub(crate) kind: String,
    pub(crate) message: String,
    /// Nova's `overLimit` may carry the wait in the body.
    retry_after: Option<u64>,
}

/// The fault in the answer to a call, when the service wrote one.
pub(crate) fn written_to(call: Call, status: u16, body: &[u8]) -> Option<WrittenFault> {
    written(body).or_else(|| call.asks_glance().then(|| written_by_glance(status, body))?)
}

/// Glance leaves the form to WebOb, which writes JSON or a page, as the client accepts.
fn written_by_glance(status: u16, body: &[u8]) -> Option<WrittenFault> {
    #[derive(Deserialize)]
    struct Refusal {
        code: String,
        message: String,
    }
    let told = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.code.starts_with(&format!("{status} ")).then_some(refusal.message)?,
        Err(_) => page(status, std::str::from_utf8(body).ok()?)?,
    };
    // What went wrong, and more of it.
    let message = told.replace("<br />", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    Some(WrittenFault { key: "webob".into(), message, ..WrittenFault::default() })
}

/// The text of WebOb's page; a proxy's has another form.
fn page(status: u16, body: &str) -> Option<String> {
    let rest = body.strip_prefix(&format!("<html>\n <head>\n  <title>{status} "))?;
    let (_, text) = rest.split_once("</title>\n </head>\n <body>\n  <h1>")?.1.split_once("</h1>\n")?;
    let text = text.strip_suffix("</html>")?.trim_end().strip_suffix("</body>")?;
    let marks = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#x27;", "'"), ("&#39;", "'"), ("&amp;", "&")];
    Some(marks.iter().fold(text.to_owned(), |text, (mark, sign)| text.replace(mark, sign)))
}

/// The fault in a body, when a service wrote one.
fn written(body: &[u8]) -> Option<WrittenFault> {
    let object: Map<String, Value> = serde_json::from_slice(body).ok()?;
    // Nova's version fault is {"errors": [{"title", "detail", ...}]}.
    if let Some(first) = object.get("errors").and_then(|errors| errors.get(0)) {
        let message = first.get("detail").and_then(Value::as_str).unwrap_or_default().to_owned();
        return Some(WrittenFault { key: "errors".into(), message, ..WrittenFault::default() });
    }
    let (key, inner) = object.iter().find(|(key, _)| FAULT_KEYS.contains(&key.as_str()))?;
    let text = |name: &str| inner.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let message = inner.as_str().map_or_else(|| text("message"), str::to_owned);
    let retry_after = inner.get("retryAfter").and_then(|v| v.as_u64().or_else(|| v.as_str()?.parse().ok()));
    Some(WrittenFault { key: key.clone(), kind: text("type"), message, retry_after })
}

/// What a status that is not a success means for this call.
pub(crate) fn class(call: Call, status: u16, fault: Option<&WrittenFault>, told_to_wait: bool) -> ErrorClass {
    if call == Call::Login {
        return login_class(status, fault);
    }
    match (status, fault) {
        // Whoever limits rates stands before the service: what it refuses was not acted on.
        (429, _) => ErrorClass::Throttled,
        (401, _) => ErrorClass::Auth,
        (413, Some(fault)) if is_quota(fault) => ErrorClass::Quota,
        (413, Some(fault)) if is_full(fault) => ErrorClass::NoCapacity,
        // Of Glance it is about what was sent, of others an old way to limit the rate.
        (413, fault) if told_to_wait || fault.is_some() && !call.asks_glance() => ErrorClass::Throttled,
        (413, _) => ErrorClass::Invalid,
        (400..=499, Some(fault)) => refusal(call, status, fault),
        (400 | 403 | 405 | 409 | 410 | 415, None) if !call.changes_cloud() => Call::plain_refusal(status),
        (501, Some(_)) => ErrorClass::Invalid,
        (300..=399, _) if !call.changes_cloud() => ErrorClass::Invalid,
        _ => lost(call),
    }
}

/// An exchange that ended without an answer: a question only where something may have changed.
pub(crate) const fn lost(call: Call) -> ErrorClass {
    if call.changes_cloud() { ErrorClass::Unclear } else { ErrorClass::Unavailable }
}

impl Call {
    /// A refusal without a written fault: good enough for a question, never for a change.
    const fn plain_refusal(status: u16) -> ErrorClass {
        match status {
            403 => ErrorClass::Auth,
            409 => ErrorClass::Conflict,
            _ => ErrorClass::Invalid,
        }
    }

    const fn asks_glance(self) -> bool {
        matches!(self, Self::ListImages | Self::GetImage | Self::CreateImage | Self::UploadImage | Self::DeleteImage)
    }

    /// Whether a 404 to this call can be about the very thing that was named.
    const fn names_one_thing(self) -> bool {
        matches!(
            self,
            Self::GetServer
                | Self::DeleteServer
                | Self::ForceDeleteServer
                | Self::SnapshotServer
                | Self::StopServer
                | Self::Console
                | Self::GetKeyPair
                | Self::DeleteKeyPair
                | Self::GetImage
                | Self::UploadImage
                | Self::DeleteImage
                | Self::AttachFloatingIp
                | Self::DeleteFloatingIp
                | Self::ClosePort
                | Self::DeletePort
                | Self::DisownPort
        )
    }
}

fn login_class(status: u16, fault: Option<&WrittenFault>) -> ErrorClass {
    match status {
        401 | 403 => ErrorClass::Auth,
        // One that was revoked, as opposed to an address where no Keystone is.
        404 if fault.is_some_and(|fault| fault.message.contains("Application Credential")) => ErrorClass::Auth,
        413 | 429 => ErrorClass::Throttled,
        300..=499 => ErrorClass::Invalid,
        _ => ErrorClass::Unavailable,
    }
}

fn refusal(call: Call, status: u16, fault: &WrittenFault) -> ErrorClass {
    if is_quota(fault) {
        return ErrorClass::Quota;
    }
    match status {
        404 if call.names_one_thing() && is_about_the_thing(fault) => ErrorClass::NotFound,
        // The path itself is unknown there: no proof that anything is gone.
        404 if call.names_one_thing() => lost(call),
        403 if is_policy(&fault.message) => ErrorClass::Auth,
        409 if is_exhausted(fault) => ErrorClass::NoCapacity,
        409 if fault.message.starts_with("Multiple possible networks") => ErrorClass::Invalid,
        // Also a change that was to hold for a revision that is over.
        409 | 412 => ErrorClass::Conflict,
        // Refused before any code of the service ran; a service being upgraded may serve it later.
        406 => ErrorClass::Unavailable,
        408 | 425 => lost(call),
        _ => ErrorClass::Invalid,
    }
}

/// "Instance … could not be found", "Floating IP … could not be found", as opposed to an unknown path.
fn is_about_the_thing(fault: &WrittenFault) -> bool {
    let says = |words: &str| fault.message.contains(words);
    fault.kind.ends_with("NotFound") && fault.kind != "HTTPNotFound"
        || says("nstance")
        || says("No image found with ID")
        || says("Failed to find image")
        || says("Keypair ") && says(" not found")
}

/// Of Glance's store, as opposed to the project's quota of it.
fn is_full(fault: &WrittenFault) -> bool {
    fault.message.contains("storage media is full")
}

fn is_quota(fault: &WrittenFault) -> bool {
    fault.kind == "OverQuota" || says_quota(&fault.message)
}

fn says_quota(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("quota") && (message.contains("exceed") || message.contains("over"))
        || message.contains("is over a limit")
        || message.contains("ports exceeded")
        || message.contains("number of defined ports") && message.contains("over the limit")
}

fn is_policy(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("policy") || message.contains("not authorized") || message.contains("not permitted")
}

fn is_exhausted(fault: &WrittenFault) -> bool {
    matches!(fault.kind.as_str(), "IpAddressGenerationFailure" | "ExternalIpAddressExhausted")
}

/// What the fault of a server in ERROR tells. A fault that names neither a quota nor a lack of room is the launch's own.
pub(crate) fn server_fault_class(message: &str) -> ErrorClass {
    let lower = message.to_ascii_lowercase();
    if says_quota(message) {
        ErrorClass::Quota
    } else if lower.contains("no valid host")
        || lower.contains("insufficient") && lower.contains("resources")
        || lower.contains("no more ip addresses")
        || lower.contains("no fixed ip addresses available")
    {
        ErrorClass::NoCapacity
    } else {
        ErrorClass::Invalid
    }
}

/// One line of at most 256 characters without anything that looks like a secret or like what the request carried.
pub(crate) fn scrub(message: &str, secrets: &[&SecretString]) -> String {
    let mut lines = message.lines();
    let mut text = lines.next().unwrap_or_default().to_owned();
    if let Some(exception) = lines.find_map(exception) {
        text = format!("{text} ({exception})");
    }
    for secret in secrets.iter().map(|secret| secret.expose_secret()).filter(|secret| secret.len() >= 4) {
        text = text.replace(secret, "[redacted]");
    }
    // Schema faults quote the rejected value, which may be user data: "… field/attribute user_data. Value: …. …".
    for quote in [". Value: ", " Value: ", "Failed validating"] {
        if let Some(at) = text.find(quote) {
            text.truncate(at);
        }
    }
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .map(|word| if word.chars().count() > LONGEST_WORD || word.contains("gAAAAA") { "[…]" } else { word })
        .collect();
    let line = words.join(" ");
    if line.chars().count() <= LONGEST_MESSAGE {
        return line;
    }
    line.chars().take(LONGEST_MESSAGE - 1).chain(['…']).collect()
}

/// The name in the line that Nova adds to an unexpected error: all that it tells of the cause.
fn exception(line: &str) -> Option<&str> {
    let path = line.strip_prefix("<class '")?.strip_suffix("'>")?;
    let name = path.rsplit('.').next()?;
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (plain && !name.is_empty() && name.len() <= LONGEST_WORD).then_some(name)
}

/// How long the cloud asked us to wait: seconds, or a date by its own clock, or Nova's old way in the body.
pub(crate) fn retry_after(headers: &HeaderMap, fault: Option<&WrittenFault>) -> Option<Duration> {
    let header = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim);
    let wait = match header {
        Some(text) => match text.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => until(http_date(text)?, cloud_clock(headers)),
        },
        None => Duration::from_secs(fault?.retry_after?),
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// The `Date` header, or our own clock.
pub(crate) fn cloud_clock(headers: &HeaderMap) -> Timestamp {
    let date = headers.get(DATE).and_then(|value| value.to_str().ok()).and_then(http_date);
    date.unwrap_or_else(Timestamp::now)
}

fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

fn until(then: Timestamp, now: Timestamp) -> Duration {
    u64::try_from(then.as_second() - now.as_second()).map(Duration::from_secs).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn judge(call: Call, status: u16, body: &str) -> ErrorClass {
        class(call, status, written_to(call, status, body.as_bytes()).as_ref(), false)
    }

    #[test]
    fn nova_refusals_to_a_boot() {
        let create = |status, key: &str, message: &str| {
            judge(Call::CreateServer, status, &format!(r#"{{"{key}": {{"code": {status}, "message": "{message}"}}}}"#))
        };
        use ErrorClass::*;
        let cases = [
            (400, "badRequest", "Can not find requested image", Invalid),
            (403, "forbidden", "Quota exceeded for instances: Requested 1, but already used 4 of 1 instances", Quota),
            (403, "forbidden", "The number of defined ports: 2 is over the limit: 0", Quota),
            (403, "forbidden", "Maximum number of ports exceeded", Quota),
            (403, "forbidden", "Maximum number of metadata items exceeds 128", Invalid),
            (403, "forbidden", "Policy doesn't allow os_compute_api:servers:create to be performed.", Auth),
            (401, "error", "The request you have made requires authentication.", Auth),
            (404, "itemNotFound", "The resource could not be found.", Invalid),
            (406, "computeFault", "Version 2.999 is not supported by the API.", Unavailable),
            (409, "conflictingRequest", "Port x is still in use.", Conflict),
            (
                409,
                "conflictingRequest",
                "Multiple possible networks found, use a Network ID to be more specific.",
                Invalid,
            ),
            (413, "overLimit", "This request was rate-limited.", Throttled),
            (413, "overLimit", "Quota exceeded for instances", Quota),
            (429, "overLimit", "Too many requests", Throttled),
            (500, "computeFault", "Unexpected API Error.", Unclear),
            (503, "computeFault", "busy", Unclear),
        ];
        for (status, key, message, expected) in cases {
            assert_eq!(create(status, key, message), expected, "{status} {message}");
        }
    }

    #[test]
    fn a_page_of_a_proxy_proves_nothing() {
        let page = "<html><body>nothing here</body></html>";
        for status in [200, 302, 400, 403, 404, 409, 500, 502, 503, 504] {
            assert_eq!(judge(Call::CreateServer, status, page), ErrorClass::Unclear, "{status}");
            assert_ne!(judge(Call::GetServer, status, page), ErrorClass::NotFound, "{status}");
            assert_eq!(judge(Call::DeleteServer, status, page), ErrorClass::Unclear, "{status}");
            assert_ne!(judge(Call::GetServer, status, page), ErrorClass::Unclear, "a question changes nothing");
        }
        assert_eq!(judge(Call::CreateServer, 429, page), ErrorClass::Throttled);
        assert_eq!(judge(Call::GetImage, 404, page), ErrorClass::Unavailable);
        let nginx = "<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body>\r\n<center><h1>403 Forbidden</h1>\
                     </center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";
        assert_eq!(judge(Call::DeleteImage, 403, nginx), ErrorClass::Unclear);
        assert_eq!(judge(Call::UploadImage, 413, nginx), ErrorClass::Invalid);
        let other = r#"{"code": "404 Not Found", "message": "No image found with ID 1"}"#;
        assert_eq!(judge(Call::DeleteImage, 403, other), ErrorClass::Unclear, "of another status");
    }

    /// Both forms in which Glance writes a refusal.
    fn glance(status: u16, reason: &str, told: &str) -> [String; 2] {
        let json = serde_json::json!({"message": format!("{told}<br /><br />\n\n\n"), "code": format!("{status} {reason}"),
                                      "title": reason});
        let told = told.replace('\'', "&#x27;");
        let page = format!(
            "<html>\n <head>\n  <title>{status} {reason}</title>\n </head>\n <body>\n  <h1>{status} {reason}</h1>\n  \
             {told}<br /><br />\n\n\n\n </body>\n</html>"
        );
        [json.to_string(), page]
    }

    #[test]
    fn glance_writes_its_refusals_in_two_forms() {
        use ErrorClass::*;
        let cases = [
            (Call::GetImage, 404, "Not Found", "No image found with ID x", NotFound),
            (Call::DeleteImage, 404, "Not Found", "Failed to find image x to delete", NotFound),
            (Call::DeleteImage, 404, "Not Found", "The resource could not be found.", Unclear),
            (Call::DeleteImage, 403, "Forbidden", "Image x is protected and cannot be deleted.", Invalid),
            (Call::DeleteImage, 403, "Forbidden", "You are not authorized to complete delete_image action.", Auth),
            (
                Call::DeleteImage,
                409,
                "Conflict",
                "Image x could not be deleted because it is in use: The image cannot be deleted.",
                Conflict,
            ),
            (Call::DeleteImage, 503, "Service Unavailable", "The store does not answer.", Unclear),
            (
                Call::UploadImage,
                409,
                "Conflict",
                "Image status transition from active to saving is not allowed",
                Conflict,
            ),
            (
                Call::UploadImage,
                415,
                "Unsupported Media Type",
                "The request media type a/b is not supported by this server.\n<br /><br />\nImage disk_format qcow2 \
                 does not match stream data raw",
                Invalid,
            ),
            (
                Call::UploadImage,
                413,
                "Request Entity Too Large",
                "Image exceeds the storage quota: The size of the data 9 will exceed the limit. 4 bytes remaining.",
                Quota,
            ),
            (
                Call::UploadImage,
                413,
                "Request Entity Too Large",
                "Project p is over a limit for [Resource image_size_total is over limit of 1 due to current usage 0 \
                 and delta 2]",
                Quota,
            ),
            (
                Call::UploadImage,
                413,
                "Request Entity Too Large",
                "Image storage media is full: There is not enough disk space on the image storage media.",
                NoCapacity,
            ),
            (
                Call::UploadImage,
                413,
                "Request Entity Too Large",
                "The incoming image is too large: Denying attempt to upload image larger than 5 bytes.",
                Invalid,
            ),
            (Call::UploadImage, 401, "Unauthorized", "This server could not verify that you are authorized", Auth),
            (Call::UploadImage, 500, "Internal Server Error", "The server has either erred", Unclear),
            (
                Call::CreateImage,
                413,
                "Request Entity Too Large",
                "The limit has been exceeded on the number of allowed image properties. Attempted: 130, Maximum: 128",
                Invalid,
            ),
            (Call::CreateImage, 403, "Forbidden", "Attribute 'status' is read-only.", Invalid),
        ];
        for (call, status, reason, told, expected) in cases {
            for body in glance(status, reason, told) {
                let written = written_to(call, status, body.as_bytes()).unwrap();
                let shown = told.replace("<br />", " ").split_whitespace().collect::<Vec<_>>().join(" ");
                assert_eq!((judge(call, status, &body), &written.message), (expected, &shown), "{body}");
                assert_ne!(judge(Call::GetServer, 404, &body), NotFound, "Nova writes nothing like it");
            }
        }
    }

    #[test]
    fn nova_refusals_about_snapshots_and_key_pairs() {
        use ErrorClass::*;
        let nova = |call, status, key: &str, message: &str| {
            judge(call, status, &format!(r#"{{"{key}": {{"code": {status}, "message": "{message}"}}}}"#))
        };
        let gone = "Instance 42 could not be found.";
        assert_eq!(nova(Call::SnapshotServer, 404, "itemNotFound", gone), NotFound);
        assert_eq!(nova(Call::StopServer, 404, "itemNotFound", gone), NotFound);
        let busy = "Cannot 'createImage' instance 42 while it is in task_state image_snapshot";
        assert_eq!(nova(Call::SnapshotServer, 409, "conflictingRequest", busy), Conflict);
        assert_eq!(nova(Call::SnapshotServer, 500, "computeFault", "Unexpected API Error."), Unclear);
        let none = "Keypair k not found for user u";
        assert_eq!(nova(Call::GetKeyPair, 404, "itemNotFound", none), NotFound);
        assert_eq!(nova(Call::DeleteKeyPair, 404, "itemNotFound", none), NotFound);
        let path = "The resource could not be found.";
        assert_eq!(nova(Call::DeleteKeyPair, 404, "itemNotFound", path), Unclear);
        assert_eq!(nova(Call::CreateKeyPair, 403, "forbidden", "Quota exceeded, too many key pairs."), Quota);
        assert_eq!(nova(Call::CreateKeyPair, 409, "conflictingRequest", "Key pair 'k' already exists."), Conflict);
    }

    #[test]
    fn proof_of_gone_is_about_the_server() {
        let gone = r#"{"itemNotFound": {"code": 404, "message": "Instance 42 could not be found."}}"#;
        let path = r#"{"itemNotFound": {"code": 404, "message": "The resource could not be found."}}"#;
        assert_eq!(judge(Call::GetServer, 404, gone), ErrorClass::NotFound);
        assert_eq!(judge(Call::DeleteServer, 404, gone), ErrorClass::NotFound);
        assert_eq!(judge(Call::GetServer, 404, path), ErrorClass::Unavailable);
        assert_eq!(judge(Call::DeleteServer, 404, path), ErrorClass::Unclear);
        let port =
            r#"{"NeutronError": {"type": "PortNotFound", "message": "Port 1 could not be found.", "detail": ""}}"#;
        assert_eq!(judge(Call::DeletePort, 404, port), ErrorClass::NotFound);
    }

    #[test]
    fn neutron_and_keystone() {
        let over = r#"{"NeutronError": {"type": "OverQuota", "message": "Quota exceeded for resources: ['port'].", "detail": ""}}"#;
        assert_eq!(judge(Call::CreateFloatingIp, 409, over), ErrorClass::Quota);
        let none = r#"{"NeutronError": {"type": "IpAddressGenerationFailure", "message": "No more IP addresses", "detail": ""}}"#;
        assert_eq!(judge(Call::CreateFloatingIp, 409, none), ErrorClass::NoCapacity);
        let busy = r#"{"NeutronError": {"type": "FloatingIPPortAlreadyAssociated", "message": "x", "detail": ""}}"#;
        assert_eq!(judge(Call::CreateFloatingIp, 409, busy), ErrorClass::Conflict);
        assert_eq!(judge(Call::CreatePort, 409, over), ErrorClass::Quota);
        let network = r#"{"NeutronError": {"type": "NetworkNotFound", "message": "Network 1 could not be found.", "detail": ""}}"#;
        assert_eq!(judge(Call::CreatePort, 404, network), ErrorClass::Invalid);
        let revised = r#"{"NeutronError": {"type": "RevisionNumberConstraintFailed", "message": "Constrained to 1, but current revision is 2", "detail": ""}}"#;
        assert_eq!(judge(Call::ClosePort, 412, revised), ErrorClass::Conflict);
        assert_eq!(judge(Call::Login, 401, ""), ErrorClass::Auth);
        assert_eq!(judge(Call::Login, 503, ""), ErrorClass::Unavailable);
        assert_eq!(judge(Call::Login, 404, ""), ErrorClass::Invalid);
        let revoked =
            r#"{"error": {"code": 404, "message": "Could not find Application Credential: 1.", "title": "Not Found"}}"#;
        assert_eq!(judge(Call::Login, 404, revoked), ErrorClass::Auth);
    }

    #[test]
    fn server_faults() {
        use ErrorClass::*;
        let cases = [
            ("No valid host was found. ", NoCapacity),
            ("Quota exceeded for ram: Requested 8192", Quota),
            ("Maximum number of ports exceeded", Quota),
            ("VolumeSizeExceedsAvailableQuota: Requested volume exceeds allowed gigabytes quota", Quota),
            ("Insufficient compute resources: Free memory 1 MB", NoCapacity),
            ("Exceeded maximum number of retries. Exhausted all hosts available", Invalid),
            ("Failed to terminate instance: will not die", Invalid),
        ];
        for (message, expected) in cases {
            assert_eq!(server_fault_class(message), expected, "{message}");
        }
    }

    #[test]
    fn messages_are_scrubbed() {
        let secret = SecretString::from("swordfish");
        assert_eq!(scrub("no swordfish here\nand <class 'x'>", &[&secret]), "no [redacted] here");
        let schema = "Invalid input for field/attribute user_data. Value: I2Nsb3Vk. 'I2Nsb3Vk' is too long";
        let unexpected = "Unexpected API Error. Please contact the administrator\n\
            <class 'keystoneauth1.exceptions.connection.ConnectFailure'>";
        assert_eq!(scrub(unexpected, &[]), "Unexpected API Error. Please contact the administrator (ConnectFailure)");
        assert_eq!(scrub("odd\n<class 'a b'>", &[]), "odd");
        assert_eq!(scrub(schema, &[]), "Invalid input for field/attribute user_data");
        assert_eq!(scrub(&format!("token {} bad", "a".repeat(80)), &[]), "token […] bad");
        assert_eq!(scrub("token gAAAAABmX bad", &[]), "token […] bad");
        assert_eq!(scrub(&"word ".repeat(100), &[]).chars().count(), 256);
    }

    #[test]
    fn waits_are_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers, None), None);
        headers.insert(RETRY_AFTER, HeaderValue::from_static("17"));
        assert_eq!(retry_after(&headers, None), Some(Duration::from_secs(17)));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("99999999"));
        assert_eq!(retry_after(&headers, None), Some(LONGEST_RETRY_AFTER));
        headers.insert(DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:00 GMT"));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(retry_after(&headers, None), Some(Duration::from_secs(37)));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("Sun, 06 Nov 1994 08:48:37 GMT"));
        assert_eq!(retry_after(&headers, None), Some(Duration::ZERO));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("soon"));
        assert_eq!(retry_after(&headers, None), None);
        let old = written(br#"{"overLimit": {"code": 413, "message": "m", "retryAfter": "5"}}"#);
        assert_eq!(retry_after(&HeaderMap::new(), old.as_ref()), Some(Duration::from_secs(5)));
    }
}
