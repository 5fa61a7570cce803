//! An answer of a cloud, and the assertions that cases make of it. Knows no side: what it compares is the wire's.

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::support::openstack::Login;

/// What a service answered.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// What was asked, for the message of a failed assertion.
    pub asked: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{self}: {error}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The token that this is the answer to a log-in with.
    pub fn login(&self) -> Login {
        Login::read(self.header("x-subject-token"), &self.json())
    }

    /// This status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// This status without a body.
    #[track_caller]
    pub fn empty(self, status: u16) -> Self {
        assert_eq!((self.status, self.text.as_str()), (status, ""), "{self}");
        self
    }

    /// This status and this whole body.
    #[track_caller]
    pub fn is(self, status: u16, body: &Value) -> Self {
        assert_eq!((self.status, &self.json()), (status, body), "{self}");
        self
    }

    /// Nova's fault of this status with this whole message.
    #[track_caller]
    pub fn nova(self, status: u16, message: &str) -> Self {
        let kind = match status {
            400 => "badRequest",
            403 => "forbidden",
            404 => "itemNotFound",
            409 => "conflictingRequest",
            _ => "computeFault",
        };
        self.is(status, &json!({kind: {"code": status, "message": message}}))
    }

    /// Nova's 400 whose message is about this field and ends so: between the two it quotes the value in Python's way.
    #[track_caller]
    pub fn invalid(self, field: &str, end: &str) -> Self {
        let message = self.json()["badRequest"]["message"].as_str().unwrap_or_default().to_owned();
        let start = format!("Invalid input for field/attribute {field}. Value: ");
        assert!(self.status == 400 && message.starts_with(&start) && message.ends_with(end), "{self}");
        self
    }

    /// Neutron's fault with this whole message.
    #[track_caller]
    pub fn neutron(self, status: u16, kind: &str, message: &str) -> Self {
        self.is(status, &json!({"NeutronError": {"type": kind, "message": message, "detail": ""}}))
    }

    /// Keystone's fault with this whole message.
    #[track_caller]
    pub fn keystone(self, status: u16, title: &str, message: &str) -> Self {
        self.is(status, &json!({"error": {"code": status, "message": message, "title": title}}))
    }

    /// Glance's fault: a page that says this, written as HTML is.
    #[track_caller]
    pub fn glance(self, status: u16, says: &str) -> Self {
        let says = &says.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;").replace('\'', "&#x27;");
        let is_html = self.header("content-type").starts_with("text/html") && self.text.starts_with("<html>");
        assert!(self.status == status && is_html && self.text.contains(says), "{self}");
        self
    }

    /// The names of the fields of an object in the body.
    pub fn fields(&self, of: &str) -> Vec<String> {
        let body = self.json();
        let object = if of.is_empty() { &body } else { &body[of] };
        object.as_object().unwrap_or_else(|| panic!("{self}")).keys().cloned().collect()
    }

    /// All values of one field of the objects in a list.
    pub fn each(&self, list: &str, field: &str) -> Vec<String> {
        let body = self.json();
        let list = body[list].as_array().unwrap_or_else(|| panic!("{self}"));
        list.iter().map(|item| item[field].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The text at a path such as `/server/id`.
    #[track_caller]
    pub fn at(&self, path: &str) -> String {
        let found = self.json().pointer(path).and_then(Value::as_str).map(str::to_owned);
        found.unwrap_or_else(|| panic!("{self}: no {path}"))
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text: String = self.text.chars().take(3000).collect();
        write!(f, "{} -> {} {text}", self.asked, self.status)
    }
}
