//! Glance v2: images listed, shown, made, filled, changed and deleted. Its errors are HTML or JSON, as the real service's
//! are: what the client accepts.

pub(crate) mod checksum;
pub(crate) mod images;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::images::{Image, ImageStatus};
use super::{
    calls::Call,
    faults::{Behaviour, Kind},
    wire::{Answer, Reply, Request, encode_query, glance_error},
    world::World,
};

/// Page length where none is asked for, and the longest page.
const DEFAULT_PAGE: usize = 25;
const LONGEST_PAGE: usize = 1000;

const PATCH_TYPE: &str = "application/openstack-images-v2.1-json-patch";

/// Answers one call to Glance.
pub(crate) fn handle(
    world: &mut World,
    call: &Call,
    request: &Request,
    behaviours: &[Behaviour],
    now: Timestamp,
) -> Answer {
    if call.name == "versions" {
        return Ok(versions(world, call));
    }
    let id = call.segment(1);
    match call.name.as_str() {
        "list-images" => list(world, request, behaviours),
        "show-image" => found(world, id).map(|image| shown(world, image, 200)),
        "create-image" => create(world, request, behaviours, now),
        "update-image" => patch(world, id, request, now),
        "delete-image" => delete(world, id),
        "upload-image" | "stage-image" => upload(world, call, request, behaviours, now),
        "import-image" => {
            found(world, id)?;
            world.images.set_status(id, ImageStatus::Importing, now);
            Ok(Reply::empty(202))
        }
        "download-image" => found(world, id).map(|_| Reply::empty(204)),
        "deactivate-image" | "reactivate-image" => {
            if !request.body.is_empty() {
                return Err(glance_error(400, "A body is not expected with this request."));
            }
            let status = found(world, id)?.status;
            let (verb, to) = match call.name.as_str() {
                "deactivate-image" => ("deactivate", ImageStatus::Deactivated),
                _ => ("reactivate", ImageStatus::Active),
            };
            if !matches!(status, ImageStatus::Active | ImageStatus::Deactivated) {
                let message = format!("Not allowed to {verb} image in status '{}'", status.word());
                return Err(glance_error(403, &message));
            }
            world.images.set_status(id, to, now);
            Ok(Reply::empty(204))
        }
        "update-image-tags" => tags(world, call, request, now),
        "list-image-members" => {
            found(world, id)?;
            Ok(Reply::json(200, &json!({"members": [], "schema": "/v2/schemas/members"})))
        }
        "show-image-schema" => Ok(schema(call.segment(1))),
        "show-image-info" if id == "import" => {
            let methods = json!({"type": "array", "description": "Import methods available.", "value": []});
            Ok(Reply::json(200, &json!({"import-methods": methods})))
        }
        "show-image-info" => Ok(Reply::json(200, &json!({"stores": []}))),
        _ => Err(glance_error(404, "The resource could not be found.")),
    }
}

fn versions(world: &World, call: &Call) -> Reply {
    let version = |id: &str, status: &str| json!({"id": id, "status": status, "links": [{"rel": "self", "href": world.url("/image/v2/")}]});
    let all =
        json!({"versions": [version("v2.15", "CURRENT"), version("v2.9", "SUPPORTED"), version("v2.0", "SUPPORTED")]});
    let root = call.path.is_empty() && !call.versioned;
    Reply::json(if root { 300 } else { 200 }, &all)
}

fn found<'w>(world: &'w World, id: &str) -> Result<&'w Image, Reply> {
    let absent = || glance_error(404, &format!("No image found with ID {id}"));
    world.images.get(id).ok_or_else(absent)
}

fn shown(world: &World, image: &Image, status: u16) -> Reply {
    Reply::json(status, &image.view(|at| world.stamp(at)))
}

fn list(world: &World, request: &Request, behaviours: &[Behaviour]) -> Answer {
    let unfiltered = behaviours.iter().any(|behaviour| matches!(behaviour.kind, Kind::FiltersIgnored {}));
    let limit = match request.param("limit") {
        None => DEFAULT_PAGE,
        Some(text) => {
            let limit: usize = text.parse().map_err(|_| glance_error(400, "limit param must be an integer"))?;
            limit.min(LONGEST_PAGE)
        }
    };
    let mut rest: Vec<(&Image, Value)> = world
        .images
        .newest_first()
        .map(|image| (image, image.view(|at| world.stamp(at))))
        .filter(|(image, shown)| unfiltered || fits(request, image, shown))
        .collect();
    sort(request, &mut rest);
    if let Some(marker) = request.param("marker") {
        let at = rest.iter().position(|(image, _)| image.id == marker);
        let at = at.ok_or_else(|| glance_error(400, &format!("No image found with ID {marker}")))?;
        rest.drain(..=at);
    }
    let more = rest.len() > limit;
    rest.truncate(limit);
    let kept = || {
        let pairs = request.query.iter().filter(|(key, _)| key != "marker");
        pairs.map(|(key, value)| (key.as_str(), value.as_str()))
    };
    let first = encode_query(kept());
    let first = if first.is_empty() { "/v2/images".to_owned() } else { format!("/v2/images?{first}") };
    let mut body = json!({"first": first, "schema": "/v2/schemas/images"});
    if let Some((last, _)) = rest.last().filter(|_| more) {
        body["next"] = format!("/v2/images?{}", encode_query(kept().chain([("marker", last.id.as_str())]))).into();
    }
    body["images"] = rest.into_iter().map(|(_, shown)| shown).collect();
    Ok(Reply::json(200, &body))
}

/// Whether an image is among those asked for. Hidden ones are not, unless asked for.
fn fits(request: &Request, image: &Image, shown: &Value) -> bool {
    let hidden = request.param("os_hidden").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    image.hidden == hidden
        && request.query.iter().all(|(key, value)| match key.as_str() {
            "limit" | "marker" | "sort" | "sort_key" | "sort_dir" | "os_hidden" | "member_status" => true,
            "tag" => image.tags.contains(value),
            "visibility" if value == "all" => true,
            "size_min" => image.size().unwrap_or(0) >= value.parse().unwrap_or(0),
            "size_max" => image.size().unwrap_or(0) <= value.parse().unwrap_or(u64::MAX),
            key => match (&shown[key], value.strip_prefix("in:")) {
                (Value::Null, _) => false,
                (Value::String(held), Some(list)) => list.split(',').any(|one| one.trim_matches('"') == held),
                (Value::String(held), None) => held == value,
                (held, _) => {
                    let text = held.to_string();
                    text == value.to_lowercase()
                }
            },
        })
}

fn sort(request: &Request, images: &mut [(&Image, Value)]) {
    let (key, dir) = match request.param("sort").and_then(|sort| sort.split(',').next()) {
        Some(sort) => sort.split_once(':').unwrap_or((sort, "desc")),
        None => (request.param("sort_key").unwrap_or("created_at"), request.param("sort_dir").unwrap_or("desc")),
    };
    match key {
        "name" => images.sort_by(|(a, _), (b, _)| (&b.name, b.seq).cmp(&(&a.name, a.seq))),
        "size" => images.sort_by_key(|(image, _)| std::cmp::Reverse((image.size(), image.seq))),
        "updated_at" => images.sort_by_key(|(image, _)| std::cmp::Reverse((image.updated, image.seq))),
        _ => {}
    }
    if dir == "asc" {
        images.reverse();
    }
}

fn create(world: &mut World, request: &Request, behaviours: &[Behaviour], now: Timestamp) -> Answer {
    let body = request.json().ok_or_else(|| glance_error(400, "Malformed JSON in request body."))?;
    let wanted = body.as_object().ok_or_else(|| glance_error(400, "Expected a JSON object."))?;
    let id = wanted.get("id").and_then(Value::as_str).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    let mut image = Image::blank(id, now);
    image.owner = Some(world.identity.project.clone());
    for (key, value) in wanted {
        set(&mut image, key, value)?;
    }
    for behaviour in behaviours {
        if let Kind::ImageStuck { status } = behaviour.kind {
            (image.status, image.stuck) = (status, true);
        }
    }
    let reply = shown(world, &image, 201).with("location", world.url("/image/v2/images/") + &image.id);
    let id = image.id.clone();
    if world.images.insert(image) {
        return Ok(reply);
    }
    Err(glance_error(409, &format!("Image ID {id} already exists!")))
}

/// Sets one attribute of an image; what is not an attribute is a property of its own.
fn set(image: &mut Image, key: &str, value: &Value) -> Result<(), Reply> {
    let refuse = || glance_error(400, &format!("Invalid value for '{key}': {value}"));
    let text = || value.as_str().map(str::to_owned);
    let too_long = |value: &Value| value.as_str().is_some_and(|text| text.chars().count() > 255);
    if key == "name" && too_long(value) || key == "tags" && value.as_array().into_iter().flatten().any(too_long) {
        let message = format!("Provided object does not match schema 'image': {value} is too long");
        return Err(glance_error(400, &message));
    }
    match key {
        "id" => {}
        "name" => image.name = text(),
        "visibility" => match value.as_str() {
            Some("private" | "shared") => image.visibility = text().unwrap_or_default(),
            Some("public" | "community") => {
                return Err(glance_error(403, "You are not authorized to complete publicize_image action."));
            }
            _ => return Err(refuse()),
        },
        "protected" => image.protected = value.as_bool().ok_or_else(refuse)?,
        "os_hidden" => image.hidden = value.as_bool().ok_or_else(refuse)?,
        "min_disk" => image.min_disk = value.as_i64().ok_or_else(refuse)?,
        "min_ram" => image.min_ram = value.as_i64().ok_or_else(refuse)?,
        "tags" => image.tags = serde_json::from_value(value.clone()).map_err(|_| refuse())?,
        "disk_format" => {
            let known = ["ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop"];
            if !value.is_null() && !value.as_str().is_some_and(|format| known.contains(&format)) {
                let known = known.map(|format| format!("'{format}'")).join(", ");
                let what = format!("'{}' is not one of [None, {known}]", value.as_str().unwrap_or_default());
                return Err(glance_error(400, &format!("Provided object does not match schema 'image': {what}")));
            }
            image.disk_format = text();
        }
        "container_format" => image.container_format = text(),
        "status" | "owner" | "size" | "checksum" | "created_at" | "updated_at" | "self" | "file" | "schema"
        | "virtual_size" | "direct_url" | "locations" => {
            return Err(glance_error(403, &format!("Attribute '{key}' is read-only.")));
        }
        _ => {
            image.properties.insert(key.to_owned(), text().ok_or_else(refuse)?);
        }
    }
    Ok(())
}

fn patch(world: &mut World, id: &str, request: &Request, now: Timestamp) -> Answer {
    found(world, id)?;
    let content_type = request.header("content-type").unwrap_or_default();
    if !content_type.starts_with("application/openstack-images-v2") {
        let message = format!("{content_type} is not supported; use {PATCH_TYPE}");
        return Err(glance_error(415, &message).with("accept-patch", PATCH_TYPE));
    }
    let steps = request.json().ok_or_else(|| glance_error(400, "Malformed JSON in request body."))?;
    let mut image = found(world, id)?.clone();
    for step in steps.as_array().into_iter().flatten() {
        let path = step["path"].as_str().unwrap_or_default();
        let key = path.trim_start_matches('/');
        // A pointer into an attribute, as a diff of two lists of tags has them, is none of Glance's.
        if key.contains('/') {
            return Err(glance_error(400, &format!("Invalid JSON pointer for this resource: '{path}'")));
        }
        let key = key.replace("~1", "/").replace("~0", "~");
        match step["op"].as_str() {
            Some("remove") => {
                if image.properties.remove(&key).is_none() {
                    return Err(glance_error(409, &format!("Property {key} does not exist.")));
                }
            }
            Some("add" | "replace") => set(&mut image, &key, &step["value"])?,
            _ => return Err(glance_error(400, "Operations must be one of add, replace, remove.")),
        }
    }
    image.updated = now;
    let reply = shown(world, &image, 200);
    if let Some(held) = world.images.get_mut(id) {
        *held = image;
    }
    Ok(reply)
}

fn delete(world: &mut World, id: &str) -> Answer {
    let absent = || glance_error(404, &format!("Failed to find image {id} to delete"));
    let image = world.images.get(id).ok_or_else(absent)?;
    if image.protected {
        return Err(glance_error(403, &format!("Image {id} is protected and cannot be deleted.")));
    }
    if image.owner.as_deref() != Some(world.identity.project.as_str()) {
        return Err(glance_error(403, "You are not authorized to complete delete_image action."));
    }
    world.remove_image(id);
    Ok(Reply::empty(204))
}

fn upload(world: &mut World, call: &Call, request: &Request, behaviours: &[Behaviour], now: Timestamp) -> Answer {
    let id = call.segment(1);
    let image = found(world, id)?;
    if request.header("content-type") != Some("application/octet-stream") {
        return Err(glance_error(415, "Unsupported Content-Type; use application/octet-stream"));
    }
    // Its own data made it saving.
    let waits = request.upload.as_ref().is_some_and(|upload| upload.first) && image.status == ImageStatus::Saving;
    if !waits && image.status != ImageStatus::Queued {
        let message = format!("Image status transition from {} to saving is not allowed", image.status.word());
        return Err(glance_error(409, &message));
    }
    if image.disk_format.is_none() || image.container_format.is_none() {
        return Err(glance_error(400, "Properties disk_format, container_format must be set prior to saving data."));
    }
    let Some(data) = request.upload.as_ref().map(|upload| &upload.data) else {
        return Err(glance_error(400, "No data."));
    };
    let format = if data.head.starts_with(b"QFI\xfb") { "qcow2" } else { "raw" };
    if image.disk_format.as_deref() == Some("qcow2") && format != "qcow2" {
        return Err(glance_error(415, "Image disk_format qcow2 does not match stream data raw"));
    }
    for behaviour in behaviours {
        if let Kind::ImageStuck { status } = behaviour.kind {
            world.images.stick(id, status, now);
            return Ok(Reply::empty(204));
        }
    }
    let staged = call.name == "stage-image";
    if let Some(image) = world.images.get_mut(id).filter(|image| !image.stuck) {
        match staged {
            true => image.status = ImageStatus::Uploading,
            false => image.fill(data, now),
        }
    }
    Ok(Reply::empty(204))
}

fn tags(world: &mut World, call: &Call, request: &Request, now: Timestamp) -> Answer {
    found(world, call.segment(1))?;
    let tag = call.segment(3).to_owned();
    if let Some(image) = world.images.get_mut(call.segment(1)) {
        image.updated = now;
        if request.method.as_str() == "PUT" {
            image.tags.insert(tag);
        } else if !image.tags.remove(&tag) {
            return Err(glance_error(404, "The resource could not be found."));
        }
    }
    Ok(Reply::empty(204))
}

fn schema(name: &str) -> Reply {
    let string = json!({"type": "string"});
    let properties: Map<String, Value> = ["id", "name", "status", "visibility", "disk_format", "container_format"]
        .into_iter()
        .map(|key| (key.to_owned(), string.clone()))
        .collect();
    Reply::json(200, &json!({"name": name, "properties": properties, "additionalProperties": string}))
}
