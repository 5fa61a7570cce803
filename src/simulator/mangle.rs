//! What a transport fault does to an answer, on its way to the client.
//!
//! Works on finished answers only; whether the call took effect was decided before.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use futures::stream;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    calls::Service,
    faults::{AnswerBody, Kind, Mangle, RetryAfter},
    link::Link,
    wire::{Reply, reason},
};

const HUGE: usize = 10_000_000;
const PIECES: usize = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// The answer that an `answer` fault gives in place of the service's own.
pub(crate) fn instead(service: Service, fault: &Kind, now: Timestamp) -> Option<Reply> {
    let Kind::Answer { status, body, message, retry_after, .. } = fault else { return None };
    let text = message.as_deref().unwrap_or_else(|| default_message(*status));
    let mut reply = match body {
        AnswerBody::Service => over_limit(service, *status, text, retry_after.as_ref())
            .unwrap_or_else(|| Reply::error(service, *status, text)),
        AnswerBody::Html => html(*status),
        AnswerBody::Empty => Reply::empty(*status),
        AnswerBody::Garbage => Reply::raw(*status, "application/json", garbage()),
        AnswerBody::Truncated => Reply::raw(*status, "application/json", "{\"servers\": [{\"id\": \"0a"),
        AnswerBody::Huge => Reply::json(*status, &json!({"message": "x".repeat(HUGE)})),
    };
    match retry_after {
        Some(RetryAfter::Seconds(seconds)) => reply = reply.with("retry-after", seconds.to_string()),
        Some(RetryAfter::Date(seconds)) => reply = reply.with("retry-after", http_date(now, *seconds)),
        None => {}
    }
    Some(reply)
}

/// Nova's rate limit repeats the header's seconds in its body.
fn over_limit(service: Service, status: u16, text: &str, after: Option<&RetryAfter>) -> Option<Reply> {
    let (Service::Compute, 413 | 429) = (service, status) else { return None };
    let mut body = json!({"code": status, "message": text});
    if let Some(RetryAfter::Seconds(seconds) | RetryAfter::Date(seconds)) = after {
        body["retryAfter"] = seconds.to_string().into();
    }
    Some(Reply::json(status, &json!({"overLimit": body})))
}

fn default_message(status: u16) -> &'static str {
    match status {
        401 => "The request you have made requires authentication.",
        403 => "Quota exceeded for instances: Requested 1, but already used 5 of 5 instances",
        409 => "The request conflicts with the state of the resource.",
        413 | 429 => "This request was rate-limited.",
        500 => {
            "Unexpected API Error. Please report this at http://bugs.launchpad.net/nova/ and attach the Nova API \
                log if possible."
        }
        503 => "The server is currently unavailable. Please try again at a later time.",
        status => reason(status),
    }
}

fn html(status: u16) -> Reply {
    let title = format!("{status} {}", reason(status));
    let body = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
         <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    );
    Reply::raw(status, "text/html", body)
}

fn garbage() -> Vec<u8> {
    (0..512_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8 | 0x80).collect()
}

pub(crate) fn http_date(now: Timestamp, seconds: u64) -> String {
    let ahead = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    let at = now.checked_add(ahead).unwrap_or(now);
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The answer as it is sent.
pub(crate) fn send(reply: Reply) -> Response {
    finish(reply.status, reply.headers, Body::from(reply.body))
}

fn finish(status: u16, headers: Vec<(&'static str, String)>, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

/// Where the answer's links lead, for faults that bend them.
pub(crate) struct Origin<'a> {
    pub base: &'a str,
    /// Path and query of the request.
    pub target: &'a str,
}

/// The answer as it is sent, damaged.
pub(crate) fn send_mangled(mut reply: Reply, how: Mangle, origin: &Origin<'_>, link: &Link) -> Response {
    let half = reply.body.len() / 2;
    match how {
        Mangle::Truncate => reply.body = reply.body.slice(..half),
        Mangle::CutBody => {
            let (length, first, link) = (reply.body.len(), reply.body.slice(..half), link.clone());
            let rest = stream::unfold(Some(first), move |first| {
                let link = link.clone();
                async move {
                    if let Some(first) = first {
                        return Some((Ok(first), None));
                    }
                    // What was sent must leave the buffers first, or the client sees no answer at all.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    link.cut();
                    Some((Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)), None))
                }
            });
            let mut response = finish(reply.status, reply.headers, Body::from_stream(rest));
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            return response;
        }
        Mangle::Slow => return slow(reply),
        Mangle::Huge => {
            let mut padded = vec![b' '; HUGE];
            padded.extend_from_slice(&reply.body);
            reply.body = padded.into();
        }
        Mangle::Gzip => {
            reply.body = gzip(&reply.body).into();
            reply = reply.with("content-encoding", "gzip");
        }
        Mangle::Html => reply = html(200),
        Mangle::Garbage => reply.body = garbage().into(),
        Mangle::HttpsLinks => {
            let text = String::from_utf8_lossy(&reply.body).replace("http://", "https://");
            reply.body = text.into();
        }
        Mangle::LinkRepeated | Mangle::LinkForeign | Mangle::LinkRelative | Mangle::LinkMissing => {
            reply.body = bend_links(&reply.body, how, origin);
        }
        Mangle::NoVersionHeaders => {
            let version = ["openstack-api-version", "x-openstack-nova-api-version"];
            reply.headers.retain(|(name, _)| !version.contains(name));
        }
    }
    send(reply)
}

fn slow(reply: Reply) -> Response {
    let length = reply.body.len();
    let size = length.div_ceil(PIECES).max(1);
    let pieces = stream::unfold(reply.body, move |mut rest: Bytes| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(PAUSE).await;
        let piece = rest.split_to(size.min(rest.len()));
        Some((Ok::<_, std::io::Error>(piece), rest))
    });
    let mut response = finish(reply.status, reply.headers, Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn bend_links(body: &Bytes, how: Mangle, origin: &Origin<'_>) -> Bytes {
    let Ok(Value::Object(mut page)) = serde_json::from_slice::<Value>(body) else { return body.clone() };
    if how == Mangle::LinkMissing {
        page.retain(|key, _| !key.ends_with("_links") && key != "next");
    }
    let bend = |href: &str| match how {
        Mangle::LinkRepeated => format!("{}{}", origin.base, origin.target),
        Mangle::LinkForeign => href.replace(origin.base, "http://elsewhere.invalid"),
        _ => href.replace(origin.base, ""),
    };
    for (key, value) in &mut page {
        if key == "next"
            && let Some(href) = value.as_str()
        {
            *value = match how {
                Mangle::LinkForeign => format!("http://elsewhere.invalid{href}").into(),
                Mangle::LinkRepeated => origin.target.trim_start_matches("/image").into(),
                _ => bend(href).into(),
            };
        }
        if key.ends_with("_links") {
            for link in value.as_array_mut().into_iter().flatten() {
                link["href"] = bend(link["href"].as_str().unwrap_or_default()).into();
            }
        }
    }
    serde_json::to_vec(&Value::Object(page)).unwrap_or_default().into()
}

/// A gzip member of stored blocks: what it takes for a client to have to decompress.
fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = data.chunks(0xffff).peekable();
    if blocks.peek().is_none() {
        out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    out.extend_from_slice(&crc32(data).to_le_bytes());
    out.extend_from_slice(&u32::try_from(data.len() & 0xffff_ffff).unwrap_or_default().to_le_bytes());
    out
}

fn crc32(data: &[u8]) -> u32 {
    let byte = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    };
    !data.iter().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_standard_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn dates_are_http_dates() {
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(http_date(at, 5), "Fri, 02 Jan 2026 03:04:10 GMT");
    }

    #[test]
    fn links_bend() {
        let body = Bytes::from(r#"{"servers": [], "servers_links": [{"rel": "next", "href": "http://a/x?marker=1"}]}"#);
        let origin = Origin { base: "http://a", target: "/x?limit=1" };
        let href = |how| {
            let page: Value = serde_json::from_slice(&bend_links(&body, how, &origin)).unwrap();
            page["servers_links"][0]["href"].as_str().map(str::to_owned)
        };
        assert_eq!(href(Mangle::LinkRepeated).as_deref(), Some("http://a/x?limit=1"));
        assert_eq!(href(Mangle::LinkForeign).as_deref(), Some("http://elsewhere.invalid/x?marker=1"));
        assert_eq!(href(Mangle::LinkRelative).as_deref(), Some("/x?marker=1"));
        assert_eq!(href(Mangle::LinkMissing), None);
    }
}
