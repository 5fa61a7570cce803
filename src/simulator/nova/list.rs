//! GET of servers: pages, filters, `changes-since`, and cells that are down.

use axum::body::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Ask, no_server, view};
use crate::simulator::{
    faults::{DownCell, Kind, glob},
    pattern::Pattern,
    servers::{Server, State},
    wire::{Answer, Reply, encode_query, nova_error},
    world::World,
};

/// Query parameters that Nova knows, whether they mean anything here or not.
const KNOWN: &[&str] = &[
    "limit",
    "marker",
    "name",
    "status",
    "flavor",
    "image",
    "tags",
    "tags-any",
    "not-tags",
    "not-tags-any",
    "changes-since",
    "changes-before",
    "sort_key",
    "sort_dir",
    "ip",
    "ip6",
    "reservation_id",
    "host",
    "all_tenants",
    "deleted",
    "vm_state",
    "task_state",
    "power_state",
    "availability_zone",
    "key_name",
    "tenant_id",
    "project_id",
    "user_id",
    "uuid",
    "locked",
    "description",
    "hostname",
    "config_drive",
    "access_ip_v4",
    "access_ip_v6",
    "created_at",
    "launched_at",
    "terminated_at",
    "display_name",
    "display_description",
    "progress",
    "node",
    "soft_deleted",
    "root_device_name",
    "kernel_id",
    "ramdisk_id",
    "launch_index",
    "auto_disk_config",
    "locked_by",
    "block_device_mapping",
    "services",
    "metadata",
    "system_metadata",
    "info_cache",
    "security_groups",
    "pci_devices",
    "not-tags-any",
    "user_data",
];

/// Statuses that Nova knows.
const STATUSES: &[&str] = &[
    "ACTIVE",
    "BUILD",
    "DELETED",
    "ERROR",
    "HARD_REBOOT",
    "MIGRATING",
    "PASSWORD",
    "PAUSED",
    "REBOOT",
    "REBUILD",
    "RESCUE",
    "RESIZE",
    "REVERT_RESIZE",
    "SHELVED",
    "SHELVED_OFFLOADED",
    "SHUTOFF",
    "SOFT_DELETED",
    "SUSPENDED",
    "VERIFY_RESIZE",
];

/// Fields that servers can be sorted by.
const SORT_KEYS: &[&str] = &[
    "access_ip_v4",
    "access_ip_v6",
    "auto_disk_config",
    "availability_zone",
    "config_drive",
    "created_at",
    "display_description",
    "display_name",
    "host",
    "hostname",
    "image_ref",
    "instance_type_id",
    "kernel_id",
    "key_name",
    "launch_index",
    "launched_at",
    "locked",
    "locked_by",
    "node",
    "power_state",
    "progress",
    "project_id",
    "ramdisk_id",
    "root_device_name",
    "task_state",
    "terminated_at",
    "updated_at",
    "user_id",
    "uuid",
    "vm_state",
];

/// What a list asks for.
struct Filter<'a> {
    name: Option<Pattern>,
    statuses: Vec<&'a str>,
    equal: Vec<(&'a str, &'a str)>,
    tags: Vec<(&'a str, Vec<&'a str>)>,
    since: Option<Timestamp>,
    before: Option<Timestamp>,
    ignored: bool,
}

pub(super) fn list(world: &mut World, ask: &Ask<'_>) -> Answer {
    let detail = ask.call.segment(1) == "detail";
    check_params(ask)?;
    let has = |wanted: fn(&Kind) -> bool| ask.behaviours.iter().any(|behaviour| wanted(&behaviour.kind));
    let mut filter = filter(world, ask)?;
    filter.ignored = has(|kind| matches!(kind, Kind::FiltersIgnored {}));
    if has(|kind| matches!(kind, Kind::ChangesSinceIgnored {})) {
        filter.since = None;
    }
    let limit = limit(world, ask)?;
    check_sort_key(ask)?;
    let before = marker(world, ask)?;
    let down: Vec<(String, DownCell)> = down_cells(ask);
    if down.iter().any(|(_, mode)| *mode == DownCell::Error) {
        return Err(unexpected());
    }
    let shows_down = ask.version >= 69 && ask.request.query.iter().all(|(key, _)| key == "all_tenants");
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for server in candidates(world, ask, &filter, before) {
        if found.len() == limit.page {
            break;
        }
        match down.iter().find(|(names, _)| glob(names, &server.name)) {
            Some((_, DownCell::Unknown)) if shows_down => unknown.push(server.seq),
            Some(_) => {}
            // Reclaimable servers are only shown to who asks what changed.
            None if server.state == State::SoftDeleted && filter.since.is_none() => {}
            None if filter.ignored || filter.admits(server) => found.push(server.seq),
            None => {}
        }
    }
    let last = found.last().and_then(|seq| world.compute.servers.get(*seq)).map(|server| server.id.clone());
    let mut pieces: Vec<Bytes> = found.iter().map(|seq| render(world, *seq, detail, ask.version)).collect();
    pieces.extend(unknown.iter().filter_map(|seq| world.compute.servers.get(*seq)).map(|s| view::minimal(world, s)));
    let link = last.filter(|_| limit.links_at == Some(found.len())).map(|id| next_link(world, ask, detail, &id));
    Ok(Reply::raw(200, "application/json", assemble(&pieces, link)))
}

fn render(world: &mut World, seq: u64, detail: bool, version: u16) -> Bytes {
    if detail {
        return view::details(world, seq, version);
    }
    world.compute.servers.get(seq).map(|server| view::brief(world, server)).unwrap_or_default()
}

/// Joins what was rendered before; a page of a thousand servers is a copy, not a serialisation.
fn assemble(pieces: &[Bytes], next: Option<String>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + pieces.iter().map(|piece| piece.len() + 2).sum::<usize>());
    body.extend_from_slice(b"{\"servers\": [");
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            body.extend_from_slice(b", ");
        }
        body.extend_from_slice(piece);
    }
    body.push(b']');
    if let Some(href) = next {
        let links = json!([{"rel": "next", "href": href}]);
        body.extend_from_slice(format!(", \"servers_links\": {links}").as_bytes());
    }
    body.push(b'}');
    body
}

fn check_params(ask: &Ask<'_>) -> Result<(), Reply> {
    for (key, _) in &ask.request.query {
        let known = KNOWN.contains(&key.as_str());
        if !known && ask.version >= 75 {
            return Err(nova_error(400, &format!("'{key}' does not match any of the regexes: '^_'")));
        }
    }
    if ask.request.param("all_tenants").is_some_and(|value| !matches!(value, "0" | "False" | "false")) {
        let which = if ask.call.segment(1) == "detail" { "detail" } else { "index" };
        let message = format!("Policy doesn't allow os_compute_api:servers:{which}:get_all_tenants to be performed.");
        return Err(nova_error(403, &message));
    }
    Ok(())
}

fn check_sort_key(ask: &Ask<'_>) -> Result<(), Reply> {
    match ask.request.params("sort_key").find(|key| !SORT_KEYS.contains(key)) {
        None => Ok(()),
        Some(key) => {
            let known = SORT_KEYS.iter().map(|known| format!("'{known}'")).collect::<Vec<_>>().join(", ");
            let what = format!("Value: {key}. '{key}' is not one of [{known}]");
            Err(nova_error(400, &format!("Invalid input for query parameters sort_key. {what}")))
        }
    }
}

fn moment(ask: &Ask<'_>, world: &World, name: &str) -> Result<Option<Timestamp>, Reply> {
    let Some(text) = ask.request.param(name) else { return Ok(None) };
    let parsed = text.parse::<Timestamp>().or_else(|_| format!("{text}Z").parse());
    // A plus sign that the client did not escape arrives as a space.
    let parsed = parsed.or_else(|_| text.replace(' ', "+").parse());
    let at: Timestamp = parsed.map_err(|_| {
        let message =
            format!("Invalid input for query parameters {name}. Value: {text}. '{text}' is not a 'date-time'");
        nova_error(400, &message)
    })?;
    // The client speaks of the cloud's clock, the records are kept by ours.
    let skew = jiff::SignedDuration::from_secs(world.tunable.clock_skew_seconds);
    Ok(Some(at.checked_sub(skew).unwrap_or(at)))
}

fn filter<'a>(world: &World, ask: &Ask<'a>) -> Result<Filter<'a>, Reply> {
    let request = ask.request;
    let name = match request.param("name") {
        None => None,
        Some(text) => Some(Pattern::parse(text).ok_or_else(|| {
            let what = format!("Value: {text}. '{text}' is not a 'regex'");
            nova_error(400, &format!("Invalid input for query parameters name. {what}"))
        })?),
    };
    let statuses: Vec<&str> = request.params("status").collect();
    if statuses.iter().any(|status| !STATUSES.iter().any(|known| known.eq_ignore_ascii_case(status))) {
        return Err(nova_error(400, "Invalid status value"));
    }
    if statuses.iter().any(|status| status.eq_ignore_ascii_case("deleted")) {
        return Err(nova_error(403, "Only administrators may list deleted instances"));
    }
    let keys = ["flavor", "image", "key_name", "availability_zone", "vm_state", "ip", "locked", "host"];
    let equal = keys.iter().filter_map(|key| request.param(key).map(|value| (*key, value))).collect();
    let tag_keys = ["tags", "tags-any", "not-tags", "not-tags-any"];
    let tags = tag_keys
        .iter()
        .filter(|_| ask.version >= 26)
        .filter_map(|key| request.param(key).map(|value| (*key, value.split(',').collect())))
        .collect();
    Ok(Filter {
        name,
        statuses,
        equal,
        tags,
        since: moment(ask, world, "changes-since")?,
        before: moment(ask, world, "changes-before")?,
        ignored: false,
    })
}

impl Filter<'_> {
    fn admits(&self, server: &Server) -> bool {
        let status_fits = |status: &&str| status.eq_ignore_ascii_case(server.state.status());
        self.name.as_ref().is_none_or(|pattern| pattern.is_in(&server.name))
            && (self.statuses.is_empty() || self.statuses.iter().any(status_fits))
            && self.equal.iter().all(|(key, value)| equals(server, key, value))
            && self.tags.iter().all(|(key, wanted)| {
                let mut held = wanted.iter().map(|tag| server.tags.contains(*tag));
                match *key {
                    "tags" => held.all(|held| held),
                    "tags-any" => held.any(|held| held),
                    "not-tags" => !held.all(|held| held),
                    _ => !held.any(|held| held),
                }
            })
            && self.before.is_none_or(|before| server.updated <= before)
    }
}

fn equals(server: &Server, key: &str, value: &str) -> bool {
    match key {
        "flavor" => server.flavor.id == value,
        "image" => server.image.as_deref() == Some(value),
        "key_name" => server.key_name.as_deref() == Some(value),
        "availability_zone" => server.zone == value,
        "vm_state" => server.state.vm_state() == value,
        "locked" => server.locked == value.eq_ignore_ascii_case("true"),
        "ip" => {
            let pattern = Pattern::parse(value);
            let held = |text: String| pattern.as_ref().is_some_and(|pattern| pattern.is_in(&text));
            server.addresses.iter().any(|address| held(address.address.to_string()))
        }
        // Only administrators may ask for the host; for others it is ignored.
        _ => true,
    }
}

/// The servers that may be on the page, in order; as few as the indexes allow.
fn candidates<'w>(
    world: &'w World,
    ask: &Ask<'_>,
    filter: &Filter<'_>,
    before: Option<u64>,
) -> Box<dyn Iterator<Item = &'w Server> + 'w> {
    let servers = &world.compute.servers;
    let is_after_marker = move |server: &&Server| before.is_none_or(|before| server.seq < before);
    let literal = filter.name.as_ref().and_then(Pattern::literal).filter(|_| !filter.ignored);
    let sort = ask.request.param("sort_key").unwrap_or("created_at");
    let ascending = ask.request.param("sort_dir").is_some_and(|dir| dir == "asc");
    if sort != "created_at" || ascending {
        let mut all: Vec<&Server> = match filter.since {
            Some(since) => servers.changed_since(ceil_second(since)),
            None => servers.newest_first(None).collect(),
        };
        sort_by(&mut all, sort, ascending);
        let start = before.and_then(|seq| all.iter().position(|server| server.seq == seq)).map_or(0, |at| at + 1);
        return Box::new(all.into_iter().skip(start));
    }
    match (filter.since, literal) {
        (Some(since), _) => Box::new(servers.changed_since(ceil_second(since)).into_iter().filter(is_after_marker)),
        (None, Some(name)) => Box::new(servers.named(&name).into_iter().filter(is_after_marker)),
        (None, None) => Box::new(servers.newest_first(before)),
    }
}

/// Nova dates records by whole seconds, so half past a second is after everything within it.
fn ceil_second(at: Timestamp) -> i64 {
    at.as_second() + i64::from(at.subsec_nanosecond() > 0)
}

fn sort_by(servers: &mut [&Server], key: &str, ascending: bool) {
    match key {
        "display_name" | "name" => servers.sort_by(|a, b| (&a.name, a.seq).cmp(&(&b.name, b.seq))),
        "updated_at" => servers.sort_by_key(|server| (server.updated, server.seq)),
        "uuid" => servers.sort_by(|a, b| a.id.cmp(&b.id)),
        _ => servers.sort_by_key(|server| server.seq),
    }
    if !ascending {
        servers.reverse();
    }
}

/// How long a page is, and the length at which it gets a link to the next.
struct Limit {
    page: usize,
    links_at: Option<usize>,
}

fn limit(world: &World, ask: &Ask<'_>) -> Result<Limit, Reply> {
    let most = world.tunable.page_limit.max(1);
    let Some(text) = ask.request.param("limit") else { return Ok(Limit { page: most, links_at: Some(most) }) };
    let limit: usize = text.parse().map_err(|_| {
        let message =
            format!("Invalid input for query parameters limit. Value: {text}. '{text}' does not match '^[0-9]*$'");
        nova_error(400, &message)
    })?;
    Ok(match limit {
        0 => Limit { page: 0, links_at: None },
        limit => Limit { page: limit.min(most), links_at: Some(limit.min(most)) },
    })
}

fn marker(world: &World, ask: &Ask<'_>) -> Result<Option<u64>, Reply> {
    let Some(marker) = ask.request.param("marker").filter(|marker| !marker.is_empty()) else { return Ok(None) };
    // The record of a deleted server still marks its place.
    let server = world.compute.servers.find(marker);
    let server = server.ok_or_else(|| nova_error(400, &format!("marker [{marker}] not found")))?;
    if down_cells(ask).iter().any(|(names, _)| glob(names, &server.name)) {
        return Err(unexpected());
    }
    Ok(Some(server.seq))
}

fn next_link(world: &World, ask: &Ask<'_>, detail: bool, last: &str) -> String {
    let kept = ask.request.query.iter().filter(|(key, _)| key != "marker");
    let pairs = kept.map(|(key, value)| (key.as_str(), value.as_str())).chain([("marker", last)]);
    let path = if detail { "/compute/v2.1/servers/detail?" } else { "/compute/v2.1/servers?" };
    world.url(path) + &encode_query(pairs)
}

fn down_cells(ask: &Ask<'_>) -> Vec<(String, DownCell)> {
    let cell = |behaviour: &crate::simulator::faults::Behaviour| match behaviour.kind {
        Kind::DownCell { mode } => Some((behaviour.name.clone().unwrap_or_else(|| "*".to_owned()), mode)),
        _ => None,
    };
    ask.behaviours.iter().filter_map(cell).collect()
}

fn unexpected() -> Reply {
    let message = "Unexpected API Error. Please report this at http://bugs.launchpad.net/nova/ and attach the Nova \
                   API log if possible.\n<class 'oslo_db.exception.DBConnectionError'>";
    nova_error(500, message)
}

pub(super) fn show(world: &mut World, ask: &Ask<'_>) -> Answer {
    let server = existing(world, ask)?;
    if let Some((_, mode)) = down_cells(ask).iter().find(|(names, _)| glob(names, &server.name)) {
        if ask.version < 69 || *mode == DownCell::Error {
            return Err(unexpected());
        }
        return Ok(wrap(&view::minimal(world, server)));
    }
    let seq = server.seq;
    let mut shown = view::details(world, seq, ask.version).to_vec();
    // The one field that a GET shows and a list does not.
    if ask.version >= 71 && shown.pop() == Some(b'}') {
        shown.extend_from_slice(b", \"server_groups\": []}");
    }
    Ok(wrap(&shown))
}

fn wrap(server: &[u8]) -> Reply {
    let mut body = Vec::with_capacity(server.len() + 16);
    body.extend_from_slice(b"{\"server\": ");
    body.extend_from_slice(server);
    body.push(b'}');
    Reply::raw(200, "application/json", body)
}

/// The server of the path, 404 when it is not or no more.
pub(super) fn existing<'w>(world: &'w World, ask: &Ask<'_>) -> Result<&'w Server, Reply> {
    let id = ask.server_id();
    world.compute.servers.existing(id).ok_or_else(|| no_server(id))
}

pub(super) fn addresses(world: &World, ask: &Ask<'_>) -> Answer {
    let mut addresses = view::addresses(existing(world, ask)?);
    for address in addresses.as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
        for one in address.as_array_mut().into_iter().flatten() {
            *one = json!({"version": one["version"], "addr": one["addr"]});
        }
    }
    match ask.call.segment(3) {
        "" => Ok(Reply::json(200, &json!({"addresses": addresses}))),
        network => match addresses.get(network) {
            Some(list) => Ok(Reply::json(200, &json!({network: list}))),
            None => Err(nova_error(404, &format!("Network label {network} not found"))),
        },
    }
}

pub(super) fn security_groups(world: &World, ask: &Ask<'_>) -> Answer {
    let groups: Vec<Value> =
        existing(world, ask)?.security_groups.iter().map(|name| world.network.show_group(name)).collect();
    Ok(Reply::json(200, &json!({"security_groups": groups})))
}

pub(super) fn volume_attachments(world: &World, ask: &Ask<'_>) -> Answer {
    existing(world, ask)?;
    Ok(Reply::json(200, &json!({"volumeAttachments": []})))
}

pub(super) fn instance_actions(world: &World, ask: &Ask<'_>) -> Answer {
    let server = existing(world, ask)?;
    let message = (server.state == State::Error).then_some("Error");
    let create = json!({
        "action": "create", "instance_uuid": server.id, "message": message, "project_id": world.identity.project,
        "user_id": world.identity.user, "request_id": format!("req-{}", server.id),
        "start_time": world.long_stamp(server.created),
    });
    Ok(Reply::json(200, &json!({"instanceActions": [create]})))
}
