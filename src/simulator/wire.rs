//! Requests and answers as the services of the cloud see them, and the shapes that each service gives its errors.
//!
//! Knows nothing of what the cloud holds. The error texts are those of the real services, so that a client that reads
//! them (quota or policy? both are 403) meets here what it will meet there.

use axum::{
    body::Bytes,
    http::{HeaderMap, Method},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};

use super::{calls::Service, incoming::Upload};

/// A request, its body read.
pub(crate) struct Request {
    pub method: Method,
    pub path: String,
    pub raw_query: String,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What came instead of a body that is read whole: image data.
    pub upload: Option<Upload>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The first value of a query parameter.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn params<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; nothing when it is not.
    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// An answer. Handlers also return it as an error, to leave early with `?`.
#[derive(Debug)]
pub(crate) struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// What Glance refuses a call with: its form is the one that the client accepts.
    pub refusal: Option<String>,
}

/// What a handler gives.
pub(crate) type Answer = Result<Reply, Reply>;

impl Reply {
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new(), refusal: None }
    }

    pub(crate) fn json(status: u16, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self::raw(status, "application/json", body)
    }

    pub(crate) fn raw(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self { status, headers, body: body.into(), refusal: None }
    }

    /// With what nobody may repeat: in a header, and in a refusal also in a field that no client knows.
    pub(crate) fn canaried(mut self, canary: &str) -> Self {
        if self.status >= 400
            && let Ok(Value::Object(mut body)) = serde_json::from_slice::<Value>(&self.body)
        {
            body.insert("debug".to_owned(), canary.into());
            self.body = Value::Object(body).to_string().into();
        }
        self.with("x-debug", canary.to_owned())
    }

    /// In the form that the client accepts: JSON where it accepts no page. WebOb, which decides it for Glance, does so
    /// for refusals only.
    pub(crate) fn accepted(self, request: &Request) -> Self {
        let accept = request.header("accept").unwrap_or("*/*");
        let takes_pages = ["text/html", "text/*", "*/*"].iter().any(|kind| accept.contains(kind));
        let Some(told) = self.refusal.as_ref().filter(|_| !takes_pages && accept.contains("json")) else { return self };
        let title = reason(self.status);
        let code = format!("{} {title}", self.status);
        let json = json!({"message": format!("{told}<br /><br />\n\n\n"), "code": code, "title": title});
        let headers = self.headers.into_iter().filter(|(name, _)| *name != "content-type");
        let Reply { headers: first, body, .. } = Self::json(self.status, &json);
        Self { status: self.status, headers: first.into_iter().chain(headers).collect(), body, refusal: None }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// An error in the shape of the service.
    pub(crate) fn error(service: Service, status: u16, message: &str) -> Self {
        match service {
            Service::Identity => keystone_error(status, message),
            Service::Compute => nova_error(status, message),
            Service::Network => neutron_error(status, neutron_type(status), message),
            Service::Image => glance_error(status, message),
            Service::Admin | Service::None => Self::json(status, &json!({"error": message})),
        }
    }
}

/// `{"<kind>": {"code": N, "message": "..."}}`
pub(crate) fn nova_error(status: u16, message: &str) -> Reply {
    let kind = match status {
        400 => "badRequest",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "itemNotFound",
        405 => "badMethod",
        409 => "conflictingRequest",
        413 | 429 => "overLimit",
        415 => "badMediaType",
        501 => "notImplemented",
        503 => "serviceUnavailable",
        _ => "computeFault",
    };
    Reply::json(status, &json!({kind: {"code": status, "message": message}}))
}

pub(crate) fn neutron_error(status: u16, kind: &str, message: &str) -> Reply {
    Reply::json(status, &json!({"NeutronError": {"type": kind, "message": message, "detail": ""}}))
}

fn neutron_type(status: u16) -> &'static str {
    match status {
        400 => "HTTPBadRequest",
        403 => "PolicyNotAuthorized",
        404 => "HTTPNotFound",
        409 => "Conflict",
        503 => "HTTPServiceUnavailable",
        _ => "HTTPInternalServerError",
    }
}

pub(crate) fn keystone_error(status: u16, message: &str) -> Reply {
    Reply::json(status, &json!({"error": {"code": status, "message": message, "title": reason(status)}}))
}

/// The 401 that the token check in front of Nova and Neutron gives; Glance's is written by another hand.
pub(crate) fn unauthorized(service: Service, keystone_url: &str) -> Reply {
    let message = "The request you have made requires authentication.";
    let reply = match service {
        Service::Image => {
            let text = "This server could not verify that you are authorized to access the document you requested. \
                        Either you supplied the wrong credentials (e.g., bad password), or your browser does not \
                        understand how to supply the credentials required.";
            glance_error(401, text)
        }
        _ => Reply::json(401, &json!({"error": {"code": 401, "title": "Unauthorized", "message": message}})),
    };
    reply.with("www-authenticate", format!("Keystone uri=\"{keystone_url}\""))
}

/// Glance's errors are HTML, to clients that accept it.
pub(crate) fn glance_error(status: u16, message: &str) -> Reply {
    let title = format!("{status} {}", reason(status));
    let page = escaped(message);
    let body = format!(
        "<html>\n <head>\n  <title>{title}</title>\n </head>\n <body>\n  <h1>{title}</h1>\n  {page}<br /><br />\n\
         \n\n\n </body>\n</html>"
    );
    Reply { refusal: Some(message.to_owned()), ..Reply::raw(status, "text/html; charset=UTF-8", body) }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#x27;")
}

pub(crate) fn reason(status: u16) -> &'static str {
    axum::http::StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason()).unwrap_or("Unknown")
}

/// For links in answers that repeat a client's own parameters.
pub(crate) fn encode_query<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    pairs.map(|(key, value)| format!("{}={}", percent(key), percent(value))).collect::<Vec<_>>().join("&")
}

/// RFC 3986's unreserved characters stay as they are.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn percent(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, RESERVED)
}
