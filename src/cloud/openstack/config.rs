//! Reads one cloud out of a `clouds.yaml` and says what is missing in it.
//!
//! The layout is the one every OpenStack client reads. What comes out is checked as far as it can be without a call.
//! An error names keys, never values: a password may stand where a name was meant (rule 16).

use std::collections::BTreeMap;

use reqwest::Url;
use secrecy::SecretString;
use serde::Deserialize;

/// What is wrong with a `clouds.yaml` or the options beside it: a sentence that says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(crate) String);

impl ConfigError {
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

/// How to log in.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    /// User and password, scoped to a project.
    Password { user: Named, password: SecretString, project: Named },
    /// An application credential, by id or by name and user; it brings its own scope.
    ApplicationCredential { id: Option<String>, name: Option<String>, user: Option<Named>, secret: SecretString },
}

/// A user or a project: by id, or by name within a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) domain_id: Option<String>,
    pub(crate) domain_name: Option<String>,
}

/// One cloud of a `clouds.yaml`, checked.
#[derive(Clone, Debug)]
pub struct CloudConfig {
    /// Keystone's address, ending in `/v3`.
    pub(crate) auth_url: Url,
    pub(crate) credentials: Credentials,
    pub(crate) region: Option<String>,
    pub(crate) interface: Interface,
    /// Endpoints that replace the catalog's, by service type.
    pub(crate) overrides: BTreeMap<&'static str, Url>,
    /// A PEM bundle that replaces the system's authorities.
    pub(crate) ca_pem: Option<Vec<u8>>,
}

/// Which of a service's endpoints to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// For everybody.
    #[default]
    Public,
    /// For machines of the cloud's own network.
    Internal,
    /// For administrators.
    Admin,
}

impl Interface {
    /// Reads `public`, `internal`, `admin`, with or without the old suffix `URL`.
    ///
    /// # Errors
    /// A sentence, when it is none of them.
    pub fn parse(word: &str) -> Result<Self, ConfigError> {
        match word.trim_end_matches("URL") {
            "public" => Ok(Self::Public),
            "internal" => Ok(Self::Internal),
            "admin" => Ok(Self::Admin),
            _ => Err(ConfigError::new("`interface` must be public, internal or admin")),
        }
    }

    /// Keystone's word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Admin => "admin",
        }
    }
}

#[derive(Deserialize)]
struct File {
    clouds: Option<BTreeMap<String, Option<Entry>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<Auth>,
    auth_type: Option<String>,
    profile: Option<String>,
    region_name: Option<String>,
    interface: Option<String>,
    endpoint_type: Option<String>,
    identity_api_version: Option<Scalar>,
    cacert: Option<String>,
    cert: Option<String>,
    verify: Option<Scalar>,
    insecure: Option<Scalar>,
    compute_endpoint_override: Option<String>,
    image_endpoint_override: Option<String>,
    network_endpoint_override: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth_url: Option<String>,
    username: Option<String>,
    user_id: Option<String>,
    #[serde(deserialize_with = "secret")]
    password: Option<SecretString>,
    project_name: Option<String>,
    tenant_name: Option<String>,
    project_id: Option<String>,
    tenant_id: Option<String>,
    domain_id: Option<String>,
    domain_name: Option<String>,
    user_domain_name: Option<String>,
    user_domain_id: Option<String>,
    project_domain_name: Option<String>,
    project_domain_id: Option<String>,
    application_credential_id: Option<String>,
    application_credential_name: Option<String>,
    #[serde(deserialize_with = "secret")]
    application_credential_secret: Option<SecretString>,
    #[serde(deserialize_with = "secret")]
    token: Option<SecretString>,
}

/// The crate's own deserializer is an optional feature; this one moves the text straight into the secret.
fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

/// A value that people write as a word, a number or a boolean.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Number(f64),
    Text(String),
}

impl Scalar {
    /// Whether it is any of YAML's or Python's ways to say no.
    fn is_false(&self) -> bool {
        match self {
            Self::Bool(value) => !value,
            Self::Number(value) => *value == 0.0,
            Self::Text(text) => matches!(text.to_ascii_lowercase().as_str(), "false" | "no" | "off" | "0"),
        }
    }
}

impl CloudConfig {
    /// Reads the cloud `name` out of a `clouds.yaml`. `cacert` is the PEM bundle from the same Secret, if there is one.
    ///
    /// # Errors
    /// A sentence that names the key to mend, without any value of the file.
    pub fn from_yaml(clouds_yaml: &[u8], name: &str, cacert: Option<&[u8]>) -> Result<Self, ConfigError> {
        let mut entry = entry(clouds_yaml, name)?;
        refuse_unsupported(&entry)?;
        let auth =
            entry.auth.take().ok_or_else(|| ConfigError::new(format!("add an `auth` section to the cloud {name}")))?;
        let auth_url = auth_url(auth.auth_url.as_deref())?;
        let interface = match entry.interface.as_deref().or(entry.endpoint_type.as_deref()) {
            Some(word) => Interface::parse(word)?,
            None => Interface::default(),
        };
        Ok(Self {
            auth_url,
            credentials: credentials(entry.auth_type.as_deref(), auth)?,
            region: filled(entry.region_name.take()),
            interface,
            overrides: overrides(&entry)?,
            ca_pem: ca_pem(entry.cacert, cacert)?,
        })
    }
}

fn entry(clouds_yaml: &[u8], name: &str) -> Result<Entry, ConfigError> {
    let file: File = serde_yaml::from_slice(clouds_yaml).map_err(|error| {
        // The parser's own words may quote the line, and with it a password: only the place is told.
        let place = error.location().map(|at| format!(" (line {})", at.line())).unwrap_or_default();
        ConfigError::new(format!(
            "clouds.yaml cannot be read{place}: write YAML with `clouds`, below it the cloud's name, below that `auth`"
        ))
    })?;
    let mut clouds = file.clouds.ok_or_else(|| ConfigError::new("clouds.yaml has no `clouds` section"))?;
    match clouds.remove(name) {
        Some(entry) => Ok(entry.unwrap_or_default()),
        None => {
            let known: Vec<&str> = clouds.keys().map(String::as_str).take(8).collect();
            Err(ConfigError::new(format!(
                "clouds.yaml has no cloud named {name}; set spec.cloud.cloudName to one of: {}",
                known.join(", ")
            )))
        }
    }
}

fn refuse_unsupported(entry: &Entry) -> Result<(), ConfigError> {
    let refuse = |sentence: &str| Err(ConfigError::new(sentence));
    if entry.verify.as_ref().is_some_and(Scalar::is_false) || entry.insecure.as_ref().is_some_and(|v| !v.is_false()) {
        return refuse(
            "certificates are always verified: remove `verify: false` and put the cloud's CA under the key `cacert` \
             of the Secret",
        );
    }
    if entry.profile.is_some() {
        return refuse("`profile` is not supported: write `auth_url` and `region_name` out");
    }
    if entry.cert.is_some() {
        return refuse("client certificates (`cert`) are not supported: use a password or an application credential");
    }
    let version_3 = match &entry.identity_api_version {
        None => true,
        Some(Scalar::Number(number)) => (3.0..4.0).contains(number),
        Some(Scalar::Text(text)) => text.trim_start_matches('v').starts_with('3'),
        Some(Scalar::Bool(_)) => false,
    };
    if !version_3 {
        return refuse("only version 3 of the identity API is supported: set `identity_api_version: 3`");
    }
    Ok(())
}

fn auth_url(text: Option<&str>) -> Result<Url, ConfigError> {
    let text = text.ok_or_else(|| ConfigError::new("`auth.auth_url` is missing"))?;
    let mut url = endpoint(text, "auth.auth_url")?;
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v2.0").unwrap_or(path);
    let path = if path.ends_with("/v3") { path.to_owned() } else { format!("{path}/v3") };
    url.set_path(&path);
    Ok(url)
}

/// A base address: http or https, a host, and nothing that could carry a secret.
fn endpoint(text: &str, key: &str) -> Result<Url, ConfigError> {
    let refuse = || ConfigError::new(format!("`{key}` must be a plain http:// or https:// address"));
    let mut url = Url::parse(text.trim()).map_err(|_| refuse())?;
    let plain = matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
    if !plain || !url.username().is_empty() || url.password().is_some() {
        return Err(refuse());
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn overrides(entry: &Entry) -> Result<BTreeMap<&'static str, Url>, ConfigError> {
    let all = [
        ("compute", "compute_endpoint_override", &entry.compute_endpoint_override),
        ("image", "image_endpoint_override", &entry.image_endpoint_override),
        ("network", "network_endpoint_override", &entry.network_endpoint_override),
    ];
    all.into_iter()
        .filter_map(|(service, key, value)| Some((service, key, value.as_deref()?)))
        .map(|(service, key, value)| Ok((service, endpoint(value, key)?)))
        .collect()
}

fn ca_pem(in_file: Option<String>, beside: Option<&[u8]>) -> Result<Option<Vec<u8>>, ConfigError> {
    let pem = match (beside, in_file) {
        (Some(pem), _) => pem.to_vec(),
        (None, Some(text)) if text.contains("-----BEGIN") => text.into_bytes(),
        (None, Some(_)) => {
            return Err(ConfigError::new(
                "`cacert` names a file, which the operator cannot read: put the PEM under the key `cacert` of the \
                 Secret",
            ));
        }
        (None, None) => return Ok(None),
    };
    match reqwest::Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(Some(pem)),
        _ => Err(ConfigError::new("`cacert` must hold PEM certificates (-----BEGIN CERTIFICATE-----) of authorities")),
    }
}

fn credentials(auth_type: Option<&str>, auth: Auth) -> Result<Credentials, ConfigError> {
    let application = auth.application_credential_id.is_some()
        || auth.application_credential_name.is_some() && auth.password.is_none();
    match auth_type {
        Some("v3applicationcredential") => application_credential(auth),
        Some("password" | "v3password") => password(auth),
        None if application => application_credential(auth),
        None if auth.token.is_none() => password(auth),
        _ => Err(ConfigError::new(
            "`auth_type` must be v3password or v3applicationcredential: a bare token ends within hours",
        )),
    }
}

fn application_credential(auth: Auth) -> Result<Credentials, ConfigError> {
    let secret = auth
        .application_credential_secret
        .ok_or_else(|| ConfigError::new("`auth.application_credential_secret` is missing"))?;
    let id = filled(auth.application_credential_id);
    let name = filled(auth.application_credential_name);
    if id.is_none() && name.is_none() {
        return Err(ConfigError::new("`auth.application_credential_id` is missing"));
    }
    let user = if id.is_some() {
        None
    } else {
        let domains = (auth.user_domain_id.or(auth.domain_id), auth.user_domain_name.or(auth.domain_name));
        Some(named(auth.user_id, auth.username, domains).ok_or_else(|| {
            ConfigError::new(
                "an application credential by name needs its user: write `auth.application_credential_id` instead, or \
                 add `auth.username` and `auth.user_domain_name`",
            )
        })?)
    };
    Ok(Credentials::ApplicationCredential { id, name, user, secret })
}

fn password(auth: Auth) -> Result<Credentials, ConfigError> {
    let password = auth.password.ok_or_else(|| ConfigError::new("`auth.password` is missing"))?;
    let user_domains = (
        auth.user_domain_id.or_else(|| auth.domain_id.clone()),
        auth.user_domain_name.or_else(|| auth.domain_name.clone()),
    );
    let user = named(auth.user_id, auth.username, user_domains)
        .ok_or_else(|| ConfigError::new("`auth.username` or `auth.user_id` is missing"))?;
    let project_domains = (auth.project_domain_id.or(auth.domain_id), auth.project_domain_name.or(auth.domain_name));
    let project = named(auth.project_id.or(auth.tenant_id), auth.project_name.or(auth.tenant_name), project_domains)
        .ok_or_else(|| ConfigError::new("`auth.project_name` or `auth.project_id` is missing"))?;
    Ok(Credentials::Password { user, password, project })
}

/// `None` when neither id nor name is given. A name without a domain is in Keystone's own first domain.
fn named(
    id: Option<String>,
    name: Option<String>,
    (domain_id, domain_name): (Option<String>, Option<String>),
) -> Option<Named> {
    if let Some(id) = filled(id) {
        return Some(Named { id: Some(id), ..Named::default() });
    }
    let name = filled(name)?;
    let domain_id = filled(domain_id);
    let domain_name = if domain_id.is_some() { None } else { filled(domain_name) };
    let domain_id = if domain_id.is_none() && domain_name.is_none() { Some("default".to_owned()) } else { domain_id };
    Some(Named { id: None, name: Some(name), domain_id, domain_name })
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "
clouds:
  one:
    auth:
      auth_url: https://keystone.example/identity
      username: ci
      password: 12345
      project_name: ci
      user_domain_name: Default
      project_domain_name: Default
    region_name: RegionOne
    identity_api_version: 3
  two:
    auth_type: v3applicationcredential
    auth: {auth_url: 'http://h:5000/v3/', application_credential_id: abc, application_credential_secret: s3cret-x}
    interface: internalURL
";

    fn read(yaml: &str, name: &str) -> Result<CloudConfig, ConfigError> {
        CloudConfig::from_yaml(yaml.as_bytes(), name, None)
    }

    #[test]
    fn reads_password_and_application_credential() {
        let one = read(PASSWORD, "one").unwrap();
        assert_eq!(one.auth_url.as_str(), "https://keystone.example/identity/v3");
        assert_eq!(one.region.as_deref(), Some("RegionOne"));
        let Credentials::Password { user, project, .. } = &one.credentials else { panic!("password") };
        assert_eq!(user.domain_name.as_deref(), Some("Default"));
        assert_eq!(project.name.as_deref(), Some("ci"));
        let two = read(PASSWORD, "two").unwrap();
        assert_eq!(two.auth_url.as_str(), "http://h:5000/v3");
        assert_eq!(two.interface, Interface::Internal);
        assert!(matches!(two.credentials, Credentials::ApplicationCredential { .. }));
    }

    #[test]
    fn says_what_to_write_without_values() {
        let base = |auth: &str, rest: &str| format!("clouds: {{c: {{auth: {{{auth}}}{rest}}}}}");
        let full = "auth_url: 'https://k', username: u, password: hunter2secret, project_name: p";
        let cases = [
            ("clouds: {d: {}}".to_owned(), "set spec.cloud.cloudName to one of: d"),
            ("cloud: {}".to_owned(), "`clouds` section"),
            ("clouds: {c: }".to_owned(), "`auth` section"),
            ("clouds: [hunter2secret".to_owned(), "cannot be read"),
            ("clouds: {c: {auth: hunter2secret}}".to_owned(), "cannot be read"),
            (base("username: u", ""), "`auth.auth_url` is missing"),
            (base("auth_url: 'ftp://hunter2secret'", ""), "plain http"),
            (base("auth_url: 'https://u:hunter2secret@k/'", ""), "plain http"),
            (base("auth_url: 'https://k', username: u, project_name: p", ""), "`auth.password` is missing"),
            (base("auth_url: 'https://k', password: hunter2secret, project_name: p", ""), "`auth.username`"),
            (base("auth_url: 'https://k', username: u, password: hunter2secret", ""), "`auth.project_name`"),
            (base("auth_url: 'https://k', application_credential_id: i", ""), "application_credential_secret"),
            (
                base(
                    "auth_url: 'https://k', application_credential_secret: hunter2secret",
                    ", auth_type: v3applicationcredential",
                ),
                "application_credential_id",
            ),
            (
                base("auth_url: 'https://k', application_credential_name: n, application_credential_secret: x", ""),
                "needs its user",
            ),
            (base(full, ", verify: false"), "always verified"),
            (base(full, ", verify: 'False'"), "always verified"),
            (base(full, ", insecure: true"), "always verified"),
            (base(full, ", cacert: /etc/ca.pem"), "under the key `cacert`"),
            (base(full, ", interface: hunter2secret"), "public, internal or admin"),
            (base(full, ", identity_api_version: 2"), "version 3"),
            (base(full, ", auth_type: v3token"), "v3password or"),
            (base(full, ", profile: ovh"), "`profile`"),
            (base(full, ", compute_endpoint_override: 'nonsense hunter2secret'"), "compute_endpoint_override"),
        ];
        for (yaml, expected) in cases {
            let error = read(&yaml, "c").unwrap_err().to_string();
            assert!(error.contains(expected), "{yaml}: {error}");
            assert!(!error.contains("hunter2secret"), "{error}");
        }
        assert!(read(&base(full, ", verify: true, identity_api_version: '3'"), "c").is_ok());
    }

    #[test]
    fn secrets_do_not_show() {
        let shown = format!("{:?} {:?}", read(PASSWORD, "one").unwrap(), read(PASSWORD, "two").unwrap());
        assert!(!shown.contains("12345") && !shown.contains("s3cret-x"), "{shown}");
    }

    #[test]
    fn a_bundle_must_hold_a_certificate() {
        let error = CloudConfig::from_yaml(PASSWORD.as_bytes(), "one", Some(b"garbage")).unwrap_err();
        assert!(error.to_string().contains("must hold PEM certificates"));
    }
}
