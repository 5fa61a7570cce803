//! The front door: reads a request, names it, lets its faults have their way, and hands it to its service.
//!
//! The world is behind one lock that is never held across an await. What the world asks of the machine (ports opened
//! and closed) is done under the same lock, so that it happens in the order in which it was asked.

use std::{
    future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    extract::{ConnectInfo, Query, State},
    http::request::Parts,
    response::Response,
};
use jiff::Timestamp;
use tokio::sync::Notify;

use super::{
    admin,
    calls::{Call, Record, Service},
    faults::{Applied, Behaviour, Kind, LateReply, Subject},
    glance,
    incoming::Upload,
    keystone,
    link::Link,
    mangle::{self, Origin},
    neutron, nova,
    ssh::Listeners,
    wire::{Reply, Request},
    world::{Effect, World},
};

/// Bodies other than image data that are read; user data is 64 KiB at most.
const LONGEST_BODY: usize = 4 << 20;

/// The whole cloud: its world, the open SSH ports, and the clock that drives it.
pub(crate) struct Simulator {
    /// Nova's paths may start with it.
    project: String,
    inner: Mutex<Inner>,
    wake: Notify,
}

struct Inner {
    world: World,
    listeners: Listeners,
}

impl Simulator {
    pub(crate) fn new(world: World, listeners: Listeners) -> Self {
        let project = world.identity.project.clone();
        Self { project, inner: Mutex::new(Inner { world, listeners }), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in one answer leaves a world that is still a world.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the world as it is now.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut World, &mut Listeners, Timestamp) -> R) -> R {
        let now = Timestamp::now();
        let mut inner = self.lock();
        let Inner { world, listeners } = &mut *inner;
        world.advance(now);
        let before = world.next_due();
        let result = work(world, listeners, now);
        for effect in world.take_effects() {
            carry_out(world, listeners, effect);
        }
        let after = world.next_due();
        drop(inner);
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.wake.notify_one();
        }
        result
    }

    /// Lets time pass in the world, for ever.
    pub(crate) async fn run_clock(self: Arc<Self>) {
        loop {
            let due = self.with(|world, _, _| world.next_due());
            let wait = due.map(|due| Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default());
            match wait {
                // A millisecond at least: what is due together is done together.
                Some(wait) => {
                    let rest = tokio::time::sleep(wait.max(Duration::from_millis(1)));
                    tokio::select! { () = rest => {}, () = self.wake.notified() => {} }
                }
                None => self.wake.notified().await,
            }
        }
    }
}

/// Does on the machine what the world asks of it.
fn carry_out(world: &mut World, listeners: &mut Listeners, effect: Effect) {
    match effect {
        Effect::Listen { address, server, mode, key } => listeners.listen(address, &server, mode, key),
        Effect::Unlisten { address } => listeners.unlisten(address),
        Effect::Provide { server, image } => listeners.guests.provide(&server, &image),
        Effect::Keep { server, image } => {
            let kept = listeners.guests.keep(&server, &image);
            world.images.set_kept(&image, kept);
        }
        Effect::Halt { server } => listeners.guests.halt(&server),
        Effect::Wipe { server } => listeners.guests.wipe(&server),
        Effect::Forget { image } => listeners.guests.forget_image(&image),
    }
}

/// Answers any request.
pub(crate) async fn answer(
    State(simulator): State<Arc<Simulator>>,
    ConnectInfo(link): ConnectInfo<Link>,
    request: axum::extract::Request,
) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let Some(request) = read(&simulator, parts, body).await else {
        return mangle::send(Reply::error(Service::None, 400, "the body could not be read"));
    };
    if request.path.starts_with("/simulator") {
        return mangle::send(admin::handle(&simulator, &request));
    }
    let call = Call::of(request.method.as_str(), &request.path, &simulator.project, &request.body);
    let (applied, reply) = simulator.with(|world, _, now| {
        let applied = apply_faults(world, &call, &request);
        if applied.transport.is_some() || !applied.delay.is_zero() {
            return (applied, None);
        }
        let reply = perform(world, &call, &request, &applied.behaviours, now);
        record(world, &call, &request, &applied, Outcome::of(&reply, started), now);
        (applied, Some(reply))
    });
    match reply {
        Some(reply) => mangle::send(reply),
        None => suffer(simulator, Arc::new((call, request)), applied, link, started).await,
    }
}

async fn read(simulator: &Arc<Simulator>, parts: Parts, body: Body) -> Option<Request> {
    let path = parts.uri.path().to_owned();
    let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map(|query| query.0).unwrap_or_default();
    let is_upload = path.starts_with("/image/") && (path.ends_with("/file") || path.ends_with("/stage"));
    let (body, upload) = if is_upload && parts.method == "PUT" {
        let image = path.rsplit('/').nth(1).unwrap_or_default();
        (Bytes::new(), Some(Upload::receive(simulator, image, body).await?))
    } else {
        (axum::body::to_bytes(body, LONGEST_BODY).await.ok()?, None)
    };
    let raw_query = parts.uri.query().unwrap_or_default().to_owned();
    Some(Request { method: parts.method, path, raw_query, query, headers: parts.headers, body, upload })
}

fn apply_faults(world: &mut World, call: &Call, request: &Request) -> Applied {
    if world.faults.all.is_empty() {
        return Applied::default();
    }
    let name = subject_name(world, call, request);
    let subject = Subject {
        call,
        method: request.method.as_str(),
        path: &request.path,
        query: &request.raw_query,
        name: name.as_deref(),
    };
    world.faults.apply(&subject)
}

/// The name of what a call is about: in the body when it is made, else by the id in the path.
fn subject_name(world: &World, call: &Call, request: &Request) -> Option<String> {
    if call.name.starts_with("create-") && call.segment(1).is_empty() {
        let body = request.json()?;
        let fields = match body.as_object()?.values().next()? {
            inner @ serde_json::Value::Object(_) => inner.clone(),
            _ => body,
        };
        return fields["name"].as_str().map(str::to_owned);
    }
    let id = call.segment(1);
    match call.service {
        Service::Compute => world.compute.servers.find(id).map(|server| server.name.clone()),
        Service::Image => world.images.get(id).and_then(|image| image.name.clone()),
        Service::Network => {
            world.network.find(call.segment(0), id).and_then(|item| item["name"].as_str()).map(str::to_owned)
        }
        _ => None,
    }
}

/// Does what the call asks for.
fn perform(world: &mut World, call: &Call, request: &Request, behaviours: &[Behaviour], now: Timestamp) -> Reply {
    let mut answer = || {
        if call.name != "versions" && call.service != Service::Identity {
            if !call.versioned {
                return Err(Reply::error(call.service, 404, "The resource could not be found."));
            }
            keystone::require_token(world, call.service, request, now)?;
        }
        match call.service {
            Service::Identity => keystone::handle(world, call, request, now),
            Service::Compute => nova::handle(world, call, request, behaviours, now),
            Service::Image => glance::handle(world, call, request, behaviours, now),
            Service::Network => neutron::api::handle(world, call, request, behaviours, now),
            Service::Admin | Service::None => Err(Reply::error(Service::None, 404, "there is no such service")),
        }
    };
    let (Ok(reply) | Err(reply)) = answer();
    identify(world, call, reply.accepted(request), now)
}

/// Every answer carries the id of its request, and the date that the cloud believes it is.
fn identify(world: &World, call: &Call, reply: Reply, now: Timestamp) -> Reply {
    let id = format!("req-{}", uuid::Uuid::new_v4());
    let mut reply = match call.service {
        Service::Compute => reply.with("x-compute-request-id", id.clone()),
        _ => reply,
    };
    if world.tunable.clock_skew_seconds != 0 {
        reply = reply.with("date", mangle::http_date(world.cloud_time(now), 0));
    }
    if let Some(canary) = &world.fixed.canary {
        reply = reply.canaried(canary);
    }
    reply.with("x-openstack-request-id", id)
}

/// How a call ended, as far as the client knows.
struct Outcome {
    status: u16,
    subject: Option<String>,
    took: Duration,
    /// It took effect long after it was made, and was recorded then.
    late: bool,
}

impl Outcome {
    fn of(reply: &Reply, started: Instant) -> Self {
        let location = reply.headers.iter().find(|(name, _)| *name == "location");
        let subject = location.and_then(|(_, url)| url.rsplit('/').next()).map(str::to_owned);
        Self { status: reply.status, subject, took: started.elapsed(), late: false }
    }

    fn silent(started: Instant) -> Self {
        Self { status: 0, subject: None, took: started.elapsed(), late: false }
    }
}

fn record(world: &mut World, call: &Call, request: &Request, applied: &Applied, outcome: Outcome, now: Timestamp) {
    let path = match request.raw_query.as_str() {
        "" => request.path.clone(),
        query => format!("{}?{query}", request.path),
    };
    let id = match call.segment(1) {
        "" | "detail" => outcome.subject,
        id => Some(id.to_owned()),
    };
    let name = match &id {
        Some(id) if call.service == Service::Compute => {
            world.compute.servers.find(id).map(|server| server.name.clone())
        }
        _ => None,
    };
    let name = name.or_else(|| subject_name(world, call, request));
    world.calls.add(Record {
        seq: 0,
        time: now,
        service: call.service,
        name: if outcome.late { format!("late-{}", call.name) } else { call.name.clone() },
        method: request.method.to_string(),
        path,
        status: outcome.status,
        subject_id: id,
        subject_name: name,
        faults: applied.ids.clone(),
        took_micros: u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX),
    });
}

/// Answers a call that a transport fault, or a delay, applies to.
async fn suffer(
    simulator: Arc<Simulator>,
    asked: Arc<(Call, Request)>,
    applied: Applied,
    link: Link,
    started: Instant,
) -> Response {
    if !applied.delay.is_zero() {
        tokio::time::sleep(applied.delay.0).await;
    }
    let (call, request) = &*asked;
    let act = || simulator.with(|world, _, now| perform(world, call, request, &applied.behaviours, now));
    let note = |outcome: Outcome| {
        simulator.with(|world, _, now| record(world, call, request, &applied, outcome, now));
    };
    match &applied.transport {
        None | Some(Kind::Slow {}) => {
            let reply = act();
            note(Outcome::of(&reply, started));
            mangle::send(reply)
        }
        Some(fault @ Kind::Answer { effect, .. }) => {
            let real = effect.then(act);
            let now = simulator.with(|world, _, now| world.cloud_time(now));
            let reply = mangle::instead(call.service, fault, now).unwrap_or_else(|| Reply::empty(500));
            let reply = simulator.with(|world, _, now| identify(world, call, reply.accepted(request), now));
            let subject = real.and_then(|real| Outcome::of(&real, started).subject);
            note(Outcome { subject, ..Outcome::of(&reply, started) });
            mangle::send(reply)
        }
        Some(Kind::Mangle { how }) => {
            let reply = act();
            note(Outcome::of(&reply, started));
            let base = simulator.with(|world, _, _| world.fixed.base.clone());
            let query = if request.raw_query.is_empty() { "" } else { "?" };
            let target = format!("{}{query}{}", request.path, request.raw_query);
            mangle::send_mangled(reply, *how, &Origin { base: &base, target: &target }, &link)
        }
        Some(Kind::Hang { effect, limit }) => {
            let subject = effect.then(act).and_then(|real| Outcome::of(&real, started).subject);
            note(Outcome { subject, ..Outcome::silent(started) });
            hang(&link, limit.map(|limit| limit.0)).await
        }
        Some(Kind::Late { after, reply }) => {
            note(Outcome::silent(started));
            let (after, reply) = (after.0, *reply);
            tokio::spawn(act_late(simulator.clone(), asked.clone(), applied.behaviours.clone(), after));
            match reply {
                LateReply::GatewayTimeout => {
                    let fault = Kind::Answer {
                        status: 504,
                        body: super::faults::AnswerBody::Html,
                        message: None,
                        retry_after: None,
                        effect: false,
                    };
                    mangle::instead(call.service, &fault, Timestamp::now()).map(mangle::send).unwrap_or_default()
                }
                LateReply::Cut => cut(&link),
                LateReply::Hang => hang(&link, None).await,
            }
        }
        Some(_) => {
            let effect = matches!(applied.transport, Some(Kind::Cut { effect: true }));
            let subject = effect.then(act).and_then(|real| Outcome::of(&real, started).subject);
            note(Outcome { subject, ..Outcome::silent(started) });
            cut(&link)
        }
    }
}

/// Whatever is sent now resets the connection instead.
fn cut(link: &Link) -> Response {
    link.cut();
    Response::default()
}

async fn hang(link: &Link, limit: Option<Duration>) -> Response {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => future::pending().await,
    }
    cut(link)
}

async fn act_late(simulator: Arc<Simulator>, asked: Arc<(Call, Request)>, behaviours: Vec<Behaviour>, after: Duration) {
    tokio::time::sleep(after).await;
    let (call, request) = &*asked;
    simulator.with(|world, _, now| {
        let started = Instant::now();
        let nobody_waits_for = perform(world, call, request, &behaviours, now);
        let outcome = Outcome { late: true, ..Outcome::of(&nobody_waits_for, started) };
        record(world, call, request, &Applied::default(), outcome, now);
    });
}
