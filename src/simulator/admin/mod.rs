//! The admin API under `/simulator/`: the state, the calls that were made, faults and settings, and what a test puts
//! into the cloud or takes out of it behind the back of the services' own APIs.
//!
//! Needs no token. `docs/simulator.md` and `--help` describe it; no fault touches it and no record counts it.

mod things;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    faults::Fault,
    front::Simulator,
    settings::Tunable,
    ssh::Listeners,
    wire::{Answer, Reply, Request},
    world::World,
};

/// What `--help` says about the admin API.
pub const HELP: &str = "\
Admin API (JSON, no token; docs/simulator.md has every field and fault):
  GET    /simulator/state                       servers now, most servers at once, SSH port, counts
  POST   /simulator/state/reset                 starts the highest counts again from what exists now
  GET    /simulator/settings                    what can be changed while it runs
  POST   /simulator/settings                    {\"bootTime\": \"0s\", \"maxServers\": 5}: changes these
  GET    /simulator/calls[?since=SEQ][&name=N]  each call made, and counters by name
  DELETE /simulator/calls                       forgets them
  GET    /simulator/faults[/ID]                 faults with their hits
  POST   /simulator/faults                      one fault, or a list; answers with ids:
           {\"call\": \"create-server\", \"times\": 1, \"fault\": {\"type\": \"answer\", \"status\": 503, \"effect\": true}}
  DELETE /simulator/faults[/ID]                 switches one off, or all
  GET    /simulator/servers[?deleted=true]      servers as the cloud knows them
  POST   /simulator/servers                     {\"name\": \"x\", \"tags\": [], \"metadata\": {}, \"age\": \"2h\", \"count\": 1}
  POST   /simulator/servers/ID                  {\"status\": \"ERROR\", \"message\": \"...\", \"ssh\": \"never\"}: changes one
  DELETE /simulator/servers[/ID]                gone at once, one or all
  POST   /simulator/purge                       forgets deleted servers (changes-since shows them no more)
  GET    /simulator/images                      images as the cloud knows them, newest first
  POST   /simulator/images[/ID]                 makes or changes an image, its status too
  DELETE /simulator/images/ID
  POST   /simulator/ports, /simulator/floating-ips   {\"tags\": [], \"description\": \"\", \"deviceId\": \"\", \"age\": \"1h\"}
  POST   /simulator/tokens/revoke               every token given out so far stops working
  GET    /simulator/application-credentials
  POST   /simulator/application-credentials[/ID]     makes or changes one: {\"secret\": \"...\", \"expiresAt\": \"...\"}
  DELETE /simulator/application-credentials/ID  and its tokens stop working

SSH: every server listens on its own address (default network 127.21.0.0/16), so the limit of open files must allow
one file a server: ulimit -n 12000 for 10,000 servers. The key pair of a server lets in. With --run-commands what is run
there runs ON THIS MACHINE, as the user that runs the simulator: in a folder of its server's own, which a snapshot copies
and each server booted from it starts with. A file no-ssh in it makes servers of such an image never answer SSH.";

/// Answers one call of the admin API.
pub(crate) fn handle(simulator: &Simulator, request: &Request) -> Reply {
    let answer = simulator.with(|world, listeners, now| dispatch(world, listeners, request, now));
    let (Ok(reply) | Err(reply)) = answer;
    reply
}

pub(crate) fn refuse(status: u16, message: impl std::fmt::Display) -> Reply {
    Reply::json(status, &json!({"error": message.to_string()}))
}

fn dispatch(world: &mut World, listeners: &Listeners, request: &Request, now: Timestamp) -> Answer {
    let path = request.path.clone();
    let path: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).skip(1).collect();
    match (request.method.as_str(), path.as_slice()) {
        ("GET", [] | ["state"]) => Ok(Reply::json(200, &state(world, listeners))),
        ("POST", ["state", "reset"]) => {
            world.compute.servers.reset_highest();
            Ok(Reply::json(200, &state(world, listeners)))
        }
        ("GET", ["settings"]) => Ok(Reply::json(200, &world.tunable)),
        ("POST" | "PATCH", ["settings"]) => settings(world, request),
        ("GET", ["calls"]) => calls(world, request),
        ("DELETE", ["calls"]) => {
            world.calls.clear();
            Ok(Reply::empty(204))
        }
        ("GET", ["faults"]) => Ok(Reply::json(200, &json!({"faults": world.faults.all}))),
        ("GET", ["faults", id]) => {
            let fault = world.faults.all.iter().find(|fault| fault.id.to_string() == *id);
            fault.map(|fault| Reply::json(200, fault)).ok_or_else(|| refuse(404, "no such fault"))
        }
        ("POST", ["faults"]) => add_faults(world, request),
        ("DELETE", ["faults"]) => {
            world.faults.all.clear();
            Ok(Reply::empty(204))
        }
        ("DELETE", ["faults", id]) => match id.parse().is_ok_and(|id| world.faults.remove(id)) {
            true => Ok(Reply::empty(204)),
            false => Err(refuse(404, "no such fault")),
        },
        ("POST", ["tokens", "revoke"]) => Ok(Reply::json(200, &json!({"revoked": world.identity.revoke_all()}))),
        _ => things::dispatch(world, request, &path, now),
    }
}

fn state(world: &World, listeners: &Listeners) -> Value {
    let usage = world.compute.servers.usage;
    let mut states = std::collections::BTreeMap::<&str, u64>::new();
    let mut ssh = 0_u64;
    for server in world.compute.servers.newest_first(None) {
        *states.entry(server.state.status()).or_default() += 1;
        ssh += u64::from(server.ssh_up);
    }
    let inside = listeners.guests.count();
    json!({
        "servers": {
            "existing": usage.servers, "own": usage.own, "foreign": usage.servers - usage.own,
            "highest": usage.highest, "highestOwn": usage.highest_own, "byStatus": states, "sshUp": ssh,
            "cores": usage.cores, "ramMiB": usage.ram,
        },
        "ports": world.network.count("ports"),
        "floatingIps": world.network.count("floatingips"),
        "images": world.images.newest_first().count(),
        "keyPairs": world.compute.key_pairs.len(),
        "tokens": world.identity.token_count(),
        "sshPort": world.fixed.ssh_port,
        "sshListeners": listeners.count(),
        "sshFailures": listeners.failures,
        "runsCommands": listeners.guests.run_commands(),
        "commands": inside.commands,
        "folders": inside.folders,
        "url": world.fixed.base,
        "authUrl": world.url("/identity/v3"),
        "region": world.fixed.region,
        "project": world.identity.project,
        "started": world.fixed.started.to_string(),
        "lastCall": world.calls.seq,
        "faults": world.faults.all.len(),
        "settings": world.tunable,
    })
}

/// Changes only what is named; a name that is none is refused with the names that are.
fn settings(world: &mut World, request: &Request) -> Answer {
    let mut merged = serde_json::to_value(&world.tunable).map_err(|error| refuse(500, error))?;
    let wanted = request.json().ok_or_else(|| refuse(400, "the body is not JSON"))?;
    for (key, value) in wanted.as_object().into_iter().flatten() {
        merged[key.as_str()] = value.clone();
    }
    let tunable: Tunable = serde_json::from_value(merged).map_err(|error| refuse(400, error))?;
    world.tunable = tunable;
    // The clock may have changed, and every rendering tells the time.
    world.compute.servers.forget_renderings();
    Ok(Reply::json(200, &world.tunable))
}

fn calls(world: &World, request: &Request) -> Answer {
    let since = match request.param("since") {
        None => 0,
        Some(text) => text.parse().map_err(|_| refuse(400, "since is the number of a call"))?,
    };
    let name = request.param("name");
    let kept: Vec<_> = world.calls.since(since).filter(|call| name.is_none_or(|name| name == call.name)).collect();
    let counts = &world.calls.counts;
    Ok(Reply::json(200, &json!({"last": world.calls.seq, "calls": kept, "counts": counts})))
}

fn add_faults(world: &mut World, request: &Request) -> Answer {
    let body = request.json().ok_or_else(|| refuse(400, "the body is not JSON"))?;
    let many = body.is_array();
    let list = match body {
        Value::Array(list) => list,
        one => vec![one],
    };
    let parse = |value: Value| serde_json::from_value::<Fault>(value).map_err(|error| refuse(400, error));
    let faults = list.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<u64> = faults.into_iter().map(|fault| world.faults.add(fault)).collect();
    Ok(match ids.first() {
        Some(id) if !many => Reply::json(201, &json!({"id": id})),
        _ => Reply::json(201, &json!({"ids": ids})),
    })
}
