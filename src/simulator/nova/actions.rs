//! DELETE of a server and the actions on one: power, lock, snapshot, console log.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Ask, attributes::invalid, list::existing, no_server};
use crate::simulator::{
    faults::Kind,
    lifecycle::SnapshotFate,
    servers::{Server, State},
    wire::{Answer, Reply, nova_error},
    world::World,
};

/// DELETE: 204 at once and again meanwhile, gone later.
pub(super) fn delete(world: &mut World, ask: &Ask<'_>) -> Answer {
    let server = existing(world, ask)?;
    if server.locked {
        return Err(nova_error(409, &format!("Instance {} is locked", server.id)));
    }
    remove(world, ask, false)
}

fn remove(world: &mut World, ask: &Ask<'_>, force: bool) -> Answer {
    let server = existing(world, ask)?;
    let (seq, soft_deleted, deleting) =
        (server.seq, server.state == State::SoftDeleted, server.task == Some("deleting"));
    let mut after = world.tunable.delete_time.0;
    let mut soft = world.tunable.soft_delete;
    let mut failure = None;
    for behaviour in ask.behaviours {
        match &behaviour.kind {
            Kind::DeleteIgnored {} => return Ok(Reply::empty(204)),
            Kind::DeleteError { message, after: wait } => {
                failure = Some(message.clone());
                after = wait.map_or(after, |wait| wait.0);
            }
            Kind::DeleteTime { after: wait } => after = wait.0,
            Kind::SoftDelete {} => soft = true,
            Kind::LeavePorts {} => {
                world.compute.servers.retouch(seq, |server| server.keeps_ports = true);
            }
            _ => {}
        }
    }
    if deleting || (soft_deleted && !force) {
        return Ok(Reply::empty(204));
    }
    match failure {
        Some(message) => world.begin_failing_delete(seq, after, message, ask.now),
        None if soft && !force => world.soft_delete(seq, ask.now),
        None => world.begin_delete(seq, after, ask.now),
    }
    Ok(Reply::empty(204))
}

/// Any POST to a server's `action`.
pub(super) fn act(world: &mut World, ask: &Ask<'_>) -> Answer {
    let body = ask.request.json().ok_or_else(|| nova_error(400, "Malformed request body"))?;
    let server = existing(world, ask)?.clone();
    match ask.call.name.as_str() {
        "create-snapshot" => snapshot(world, ask, &server, &body["createImage"]),
        "show-console-log" => console_log(world, &server, &body["os-getConsoleOutput"]),
        "force-delete-server" => remove(world, ask, true).map(|reply| Reply { status: 202, ..reply }),
        "stop-server" | "start-server" | "reboot-server" if server.locked => {
            Err(nova_error(409, &format!("Instance {} is locked", server.id)))
        }
        // No host was ever chosen for it that could be told.
        "stop-server" | "start-server" | "reboot-server"
            if server.launched.is_none() && server.state == State::Error =>
        {
            Err(nova_error(409, &format!("Instance {} is not ready", server.id)))
        }
        "restore-server" => {
            require(&server, "restore", &[State::SoftDeleted])?;
            world.start(server.seq, ask.now);
            Ok(Reply::empty(202))
        }
        "stop-server" => {
            require(&server, "stop", &[State::Active, State::Error])?;
            world.begin_stop(server.seq, ask.now);
            Ok(Reply::empty(202))
        }
        "start-server" => {
            require(&server, "start", &[State::Stopped])?;
            world.start(server.seq, ask.now);
            Ok(Reply::empty(202))
        }
        "reboot-server" => {
            require(&server, "reboot", &[State::Active, State::Stopped, State::Error])?;
            world.start(server.seq, ask.now);
            Ok(Reply::empty(202))
        }
        "lock-server" | "unlock-server" => {
            let locked = ask.call.name == "lock-server";
            world.compute.servers.change(server.seq, ask.now, |server| server.locked = locked);
            Ok(Reply::empty(202))
        }
        "update-server-security-groups" => groups(world, ask, &server, &body),
        _ => {
            let word = body.as_object().and_then(|body| body.keys().next()).cloned().unwrap_or_default();
            Err(nova_error(400, &format!("There is no such action: {word}")))
        }
    }
}

/// 409 in the words that clients match on.
fn require(server: &Server, action: &str, states: &[State]) -> Result<(), Reply> {
    let refuse = |what: &str, value: &str| {
        let message = format!("Cannot '{action}' instance {} while it is in {what} {value}", server.id);
        Err(nova_error(409, &message))
    };
    if let Some(task) = server.task
        && server.state != State::Building
    {
        return refuse("task_state", task);
    }
    if !states.contains(&server.state) {
        return refuse("vm_state", server.state.vm_state());
    }
    Ok(())
}

fn snapshot(world: &mut World, ask: &Ask<'_>, server: &Server, wanted: &Value) -> Answer {
    require(server, "createImage", &[State::Active, State::Stopped])?;
    let name = wanted["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        return Err(invalid("createImage", wanted, "'name' is a required property"));
    }
    let metadata: BTreeMap<String, String> = serde_json::from_value(wanted["metadata"].clone()).unwrap_or_default();
    let id = Uuid::new_v4().to_string();
    world.images.queue_snapshot(&id, name, server, metadata, &world.identity.project, &world.identity.user, ask.now);
    let mut fate = SnapshotFate::Saves;
    for behaviour in ask.behaviours {
        match &behaviour.kind {
            Kind::SnapshotFails { after } => {
                fate = SnapshotFate::Fails(after.map_or(Duration::from_secs(1), |after| after.0));
            }
            Kind::ImageStuck { status } => fate = SnapshotFate::Sticks(*status),
            _ => {}
        }
    }
    world.begin_snapshot(server.seq, id.clone(), fate, ask.now);
    if ask.version >= 45 {
        return Ok(Reply::json(202, &json!({"image_id": id})));
    }
    // A URL without a version, as Nova makes it.
    Ok(Reply::empty(202).with("location", world.url("/image/images/") + &id))
}

fn console_log(world: &mut World, server: &Server, wanted: &Value) -> Answer {
    if server.task == Some("spawning") {
        return Err(nova_error(404, &format!("Instance {} could not be found.", server.id)));
    }
    if server.launched.is_none() {
        return Err(nova_error(409, &format!("Instance {} is not ready", server.id)));
    }
    let mut lines = vec![
        format!("[    0.000000] Linux version 6.12.0-simulated ({})", server.flavor.name),
        "[    1.204211] Run /sbin/init as init process".to_owned(),
    ];
    if server.ssh_up {
        lines.push("-----BEGIN SSH HOST KEY KEYS-----".to_owned());
        lines.extend(world.host_keys(&server.id).into_iter().map(|key| format!("{key} root@{}", server.name)));
        lines.push("-----END SSH HOST KEY KEYS-----".to_owned());
        lines.push(format!("{} login:", server.name));
    }
    let length = wanted["length"].as_u64().or_else(|| wanted["length"].as_str()?.parse().ok());
    let keep = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(lines.len());
    let tail = lines.split_off(lines.len().saturating_sub(keep));
    Ok(Reply::json(200, &json!({"output": tail.join("\n") + "\n"})))
}

fn groups(world: &mut World, ask: &Ask<'_>, server: &Server, body: &Value) -> Answer {
    let (add, wanted) = match &body["addSecurityGroup"] {
        Value::Null => (false, &body["removeSecurityGroup"]),
        wanted => (true, wanted),
    };
    let name = wanted["name"].as_str().unwrap_or_default();
    let Some(name) = world.network.security_group(name) else {
        return Err(nova_error(404, &format!("Security group {name} not found.")));
    };
    let changed = world.compute.servers.change(server.seq, ask.now, |server| {
        server.security_groups.retain(|held| *held != name);
        if add {
            server.security_groups.push(name);
        }
    });
    changed.map(|()| Reply::empty(202)).ok_or_else(|| no_server(&server.id))
}
