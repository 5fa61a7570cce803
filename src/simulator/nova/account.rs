//! What the project may have and has: quota, limits, zones, key pairs.

use base64::Engine as _;
use russh::keys::{Algorithm, PrivateKey, key::safe_rng, ssh_key::LineEnding};
use serde_json::{Map, Value, json};

use super::{Ask, attributes::invalid, flavors::Flavor};
use crate::simulator::{
    glance::checksum::Measure,
    wire::{Answer, Reply, nova_error},
    world::World,
};

/// Refuses what the quota does not allow, in the words of the real service; all that is exceeded is named.
pub(crate) fn check_quota(world: &World, flavor: &Flavor, count: u64, ports: usize) -> Result<(), Reply> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let (usage, tunable) = (world.compute.servers.usage, &world.tunable);
    let resources = [
        ("cores", flavor.vcpus * count, usage.cores, tunable.max_cores),
        ("instances", count, usage.servers, tunable.max_servers),
        ("ram", flavor.ram * count, usage.ram, tunable.max_ram),
    ];
    let over: Vec<_> =
        resources.into_iter().filter(|(_, wanted, used, limit)| *limit >= 0 && used + wanted > *limit).collect();
    if !over.is_empty() {
        let join = |part: fn(&(&str, i64, i64, i64)) -> String| over.iter().map(part).collect::<Vec<_>>().join(", ");
        let names = join(|(name, ..)| (*name).to_owned());
        let message = format!(
            "Quota exceeded for {names}: Requested {}, but already used {} of {} {names}",
            join(|(_, wanted, ..)| wanted.to_string()),
            join(|(_, _, used, _)| used.to_string()),
            join(|(.., limit)| limit.to_string()),
        );
        return Err(nova_error(403, &message));
    }
    let held = world.network.count("ports");
    let wanted = i64::try_from(ports).unwrap_or(i64::MAX).saturating_mul(count);
    if tunable.max_ports >= 0 && wanted > 0 {
        if held > tunable.max_ports {
            let message = format!("The number of defined ports: {held} is over the limit: {}", tunable.max_ports);
            return Err(nova_error(403, &message));
        }
        if held + wanted > tunable.max_ports {
            return Err(nova_error(403, "Maximum number of ports exceeded"));
        }
    }
    Ok(())
}

pub(super) fn limits(world: &World, ask: &Ask<'_>) -> Reply {
    let (usage, tunable) = (world.compute.servers.usage, &world.tunable);
    let mut absolute = json!({
        "maxTotalInstances": tunable.max_servers, "maxTotalCores": tunable.max_cores,
        "maxTotalRAMSize": tunable.max_ram, "maxServerMeta": 128, "maxTotalKeypairs": tunable.max_key_pairs,
        "maxServerGroups": 10, "maxServerGroupMembers": 10,
        "totalInstancesUsed": usage.servers, "totalCoresUsed": usage.cores, "totalRAMUsed": usage.ram,
        "totalServerGroupsUsed": 0,
    });
    if ask.version < 36 {
        absolute["maxSecurityGroups"] = (-1).into();
        absolute["maxSecurityGroupRules"] = (-1).into();
        absolute["maxTotalFloatingIps"] = (-1).into();
        absolute["totalSecurityGroupsUsed"] = 0.into();
        absolute["totalFloatingIpsUsed"] = 0.into();
    }
    if ask.version < 39 {
        absolute["maxImageMeta"] = 128.into();
    }
    if ask.version < 57 {
        absolute["maxPersonality"] = 5.into();
        absolute["maxPersonalitySize"] = 10240.into();
    }
    Reply::json(200, &json!({"limits": {"rate": [], "absolute": absolute}}))
}

pub(super) fn quota_set(world: &World, ask: &Ask<'_>) -> Reply {
    let (usage, tunable) = (world.compute.servers.usage, &world.tunable);
    let keys = i64::try_from(world.compute.key_pairs.len()).unwrap_or(i64::MAX);
    let mut all = vec![
        ("instances", tunable.max_servers, usage.servers),
        ("cores", tunable.max_cores, usage.cores),
        ("ram", tunable.max_ram, usage.ram),
        ("key_pairs", tunable.max_key_pairs, keys),
        ("metadata_items", 128, 0),
        ("server_groups", 10, 0),
        ("server_group_members", 10, 0),
    ];
    if ask.version < 36 {
        all.extend([("fixed_ips", -1, 0), ("floating_ips", -1, 0), ("security_groups", -1, 0)]);
        all.push(("security_group_rules", -1, 0));
    }
    if ask.version < 57 {
        all.extend([("injected_files", 5, 0), ("injected_file_content_bytes", 10240, 0)]);
        all.push(("injected_file_path_bytes", 255, 0));
    }
    let detail = ask.call.segment(2) == "detail";
    let mut set = Map::from_iter([("id".to_owned(), json!(ask.call.segment(1)))]);
    for (name, limit, used) in all {
        let shown = if detail { json!({"in_use": used, "limit": limit, "reserved": 0}) } else { json!(limit) };
        set.insert(name.to_owned(), shown);
    }
    Reply::json(200, &json!({"quota_set": set}))
}

pub(super) fn zones(world: &World) -> Reply {
    let zone = |name: &String| json!({"zoneName": name, "zoneState": {"available": true}, "hosts": null});
    let zones: Vec<Value> = world.fixed.zones.iter().map(zone).collect();
    Reply::json(200, &json!({"availabilityZoneInfo": zones}))
}

pub(super) fn key_pairs(world: &mut World, ask: &Ask<'_>) -> Answer {
    let name = ask.call.segment(1).to_owned();
    let absent = || {
        let user = &world.identity.user;
        nova_error(404, &format!("Keypair {name} not found for user {user}"))
    };
    match ask.call.name.as_str() {
        "list-key-pairs" => {
            let brief = |key: &Value| {
                let mut shown = key.clone();
                if let Some(fields) = shown.as_object_mut() {
                    fields.retain(|field, _| matches!(field.as_str(), "name" | "public_key" | "fingerprint" | "type"));
                }
                json!({"keypair": shown})
            };
            let all: Vec<Value> = world.compute.key_pairs.values().map(brief).collect();
            Ok(Reply::json(200, &json!({"keypairs": all})))
        }
        "show-key-pair" => {
            let key = world.compute.key_pairs.get(&name).ok_or_else(absent)?;
            Ok(Reply::json(200, &json!({"keypair": key})))
        }
        "delete-key-pair" => {
            if !world.compute.key_pairs.contains_key(&name) {
                return Err(absent());
            }
            world.compute.key_pairs.remove(&name);
            Ok(Reply::empty(if ask.version >= 2 { 204 } else { 202 }))
        }
        _ => create_key_pair(world, ask),
    }
}

fn create_key_pair(world: &mut World, ask: &Ask<'_>) -> Answer {
    let body = ask.request.json().unwrap_or_default();
    let wanted = &body["keypair"];
    let name = wanted["name"].as_str().unwrap_or_default();
    let invalid = |what: &str| Err(invalid("keypair", wanted, what));
    if wanted.get("name").is_none() {
        return invalid("'name' is a required property");
    }
    let newer = ask.version >= ONLY_GIVEN_KEYS;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ' ') || newer && matches!(c, '@' | '.');
    if name.is_empty() || name.chars().count() > 255 || !name.chars().all(plain) {
        let signs = if newer { "_\\\\-\\\\@\\\\." } else { "_\\\\-" };
        let what = format!("'{name}' does not match '^[{signs} a-zA-Z0-9]+$'");
        return Err(self::invalid("name", &wanted["name"], &what));
    }
    let (public_key, private_key) = match wanted.get("public_key").map(Value::as_str) {
        Some(Some(given)) => (given.to_owned(), None),
        None if ask.version < ONLY_GIVEN_KEYS => generate_key()?,
        _ => return invalid("'public_key' is a required property"),
    };
    let blob = public_key.split_whitespace().nth(1).unwrap_or_default();
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(blob) else {
        return Err(nova_error(400, "Keypair data is invalid: failed to generate fingerprint"));
    };
    if bytes.len() < 16 {
        return Err(nova_error(400, "Keypair data is invalid: failed to generate fingerprint"));
    }
    if world.compute.key_pairs.contains_key(name) {
        return Err(nova_error(409, &format!("Key pair '{name}' already exists.")));
    }
    let used = i64::try_from(world.compute.key_pairs.len()).unwrap_or(i64::MAX);
    if world.tunable.max_key_pairs >= 0 && used >= world.tunable.max_key_pairs {
        return Err(nova_error(403, "Quota exceeded, too many key pairs."));
    }
    let key = json!({
        "name": name, "public_key": public_key, "fingerprint": fingerprint(&bytes), "type": "ssh",
        "user_id": world.identity.user, "created_at": world.long_stamp(ask.now), "deleted": false,
        "deleted_at": null, "updated_at": null, "id": world.compute.key_pairs.len() + 1,
    });
    let mut shown = key.clone();
    world.compute.key_pairs.insert(name.to_owned(), key);
    if let Some(fields) = shown.as_object_mut() {
        // The rest is told by a look at it.
        fields.retain(|field, _| matches!(field.as_str(), "name" | "public_key" | "fingerprint" | "user_id" | "type"));
    }
    if let Some(private_key) = private_key {
        shown["private_key"] = private_key.into();
    }
    Ok(Reply::json(if ask.version >= 2 { 201 } else { 200 }, &json!({"keypair": shown})))
}

/// From this minor version on, Nova makes no keys, and takes two more signs in their names.
const ONLY_GIVEN_KEYS: u16 = 92;

/// A key that Nova makes: its public and its private half. The real service's are RSA, which is not built in here.
fn generate_key() -> Result<(String, Option<String>), Reply> {
    let failed = |error| nova_error(500, &format!("cannot make a key: {error}"));
    let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).map_err(failed)?;
    let public = key.public_key().to_openssh().map_err(failed)?;
    let private = key.to_openssh(LineEnding::LF).map_err(failed)?;
    Ok((format!("{public} Generated-by-Nova"), Some(private.to_string())))
}

/// The MD5 of a key, as `ssh-keygen -E md5 -l` tells it.
fn fingerprint(key: &[u8]) -> String {
    let mut measure = Measure::new();
    measure.update(key);
    let digest = measure.finish().md5;
    let pairs: Vec<&str> = (0..digest.len()).step_by(2).map(|at| &digest[at..at + 2]).collect();
    pairs.join(":")
}
