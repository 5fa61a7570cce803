//! The clouds.yaml with which any client finds the simulated cloud.

use serde_json::json;

use super::world::World;

/// Two ways to log in to the one project. JSON is YAML, but people will read this.
pub(crate) fn write(world: &World) -> String {
    let (url, region) = (quote(&world.url("/identity/v3")), quote(&world.fixed.region));
    let password = quote(&world.fixed.password);
    let credential = world.identity.credentials.keys().next().map(|id| quote(id)).unwrap_or_default();
    format!(
        "clouds:
  simulator:
    auth_type: password
    auth:
      auth_url: {url}
      username: simulator
      password: {password}
      project_name: simulator
      user_domain_name: Default
      project_domain_name: Default
    region_name: {region}
    interface: public
    identity_api_version: 3
  simulator-application-credential:
    auth_type: v3applicationcredential
    auth:
      auth_url: {url}
      application_credential_id: {credential}
      application_credential_secret: {password}
    region_name: {region}
    interface: public
    identity_api_version: 3
"
    )
}

fn quote(text: &str) -> String {
    json!(text).to_string()
}
