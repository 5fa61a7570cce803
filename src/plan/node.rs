//! What to do next with one node record, from its birth to the proof that its server is gone (rules 1, 2, 4, 5).
//!
//! One call answers one observation with at most one step and the time to look again. It never asks for a second boot
//! request, never frees a slot without proof, and never touches a node that a live request has.

use std::time::Duration;

use jiff::Timestamp;

use super::pressure::{grown, later};

/// The recorded state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Booting.
    Building,
    /// Booted, reachable, unused.
    Ready,
    /// Given to a request.
    InUse,
    /// Kept for people.
    Held,
    /// Its launch failed.
    Failed,
    /// Being destroyed.
    Deleting,
}

/// What is known of this record's one boot request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// We got the API server's 201 for it and have not used it: the only state in which a POST may be sent.
    Permitted,
    /// Our POST is under way.
    InFlight,
    /// The cloud named a server for it.
    Accepted,
    /// The cloud refused for certain; nothing was made.
    Refused {
        /// When.
        at: Timestamp,
    },
    /// Nobody can tell: a lost answer, or the process that held the permit is gone.
    Unclear,
    /// It was never sent and never will be: our own create was not answered with 201, so nobody holds the permit.
    Never,
}

/// The port that was made first for a boot request to name, and that the cloud lets one server have: whoever changes it
/// first, the server or we, decides whether the request can still make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// The record is booted without one, or its request is not in doubt.
    Off,
    /// The request may still pass.
    Open {
        /// When to close it, if the server does not show up before.
        close: Timestamp,
    },
    /// A server has it that the cloud cannot tell anything of, as when its cell is down: the request may have made it.
    Taken {
        /// When to ask again.
        again: Timestamp,
    },
    /// A request that has not passed by now is refused, however late it arrives.
    Closed {
        /// Since when, at the latest.
        at: Timestamp,
    },
}

impl Fence {
    /// The fence of a boot request that nobody can tell the outcome of from now on: looked for in lists first, since
    /// closing it ends a boot that is only slow.
    #[must_use]
    pub fn of_unclear(now: Timestamp) -> Self {
        Self::Open { close: later(now, LOOK_UP_AFTER) }
    }

    /// A server that tells nothing of itself has it, so many times by now: nothing is given up before it does.
    #[must_use]
    pub fn taken(now: Timestamp, failures: u32) -> Self {
        Self::Taken { again: later(now, grown(LOOK_UP_AFTER, failures, LONGEST_CLOSE)) }
    }

    /// It could not be closed so many times: later again.
    #[must_use]
    pub fn not_closed(now: Timestamp, failures: u32) -> Self {
        Self::Open { close: later(now, grown(LOOK_UP_AFTER, failures, LONGEST_CLOSE)) }
    }
}

/// What the shared view of the cloud says of the record's server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// The cloud has not been listed since the operator started.
    Unlisted,
    /// Not in the view. Absence proves nothing by itself.
    Missing {
        /// When the last complete list of any kind was taken.
        listed: Timestamp,
        /// When the last complete full list was taken.
        listed_full: Timestamp,
    },
    /// There.
    Present(Status),
    /// Proven gone: 404 by id, or a DELETED record.
    Gone,
}

/// A server's status, as far as a node's next step differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Being built, or not tellable now.
    Building,
    /// Running.
    Active {
        /// Since when we know.
        since: Timestamp,
    },
    /// Failed.
    Error,
    /// Its deletion is under way in the cloud, whoever asked for it.
    Deleting,
    /// Reclaimable: holds its slot until the cloud reclaims it or is forced to.
    SoftDeleted,
    /// Exists, but does not serve (SHUTOFF, PAUSED, …).
    Stopped,
}

/// How far the readiness probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// None under way.
    Idle,
    /// Under way.
    Running,
    /// It answered.
    Answered,
    /// An idle node that answered before did not answer its re-check.
    Lost,
}

/// Our request to delete the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Not sent.
    Unsent,
    /// Under way.
    InFlight,
    /// The cloud took it.
    Accepted {
        /// When.
        at: Timestamp,
        /// How many times by now: a cloud may say yes and do nothing.
        times: u32,
    },
    /// The cloud refused or did not answer; try again later.
    Failed {
        /// When to try again.
        retry: Timestamp,
    },
}

/// What became of the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody has the node.
    None,
    /// A live request has it.
    Live,
    /// The request is proven gone or ended, and wants its nodes destroyed.
    Released,
    /// The request is proven gone or ended, and wants its nodes kept for a look.
    ReleasedToHold,
}

/// A wish to keep the node for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// None.
    None,
    /// Until then, or for ever.
    Until(Option<Timestamp>),
}

/// Everything that is known of one node.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Now.
    pub now: Timestamp,
    /// When its record was made.
    pub created: Timestamp,
    /// Its recorded state.
    pub state: State,
    /// Whether the record is being deleted.
    pub condemned: bool,
    /// Its boot request.
    pub boot: Boot,
    /// What stands between that request and a server.
    pub fence: Fence,
    /// Whether a server id is known.
    pub server_known: bool,
    /// Whether the server id is recorded in status.
    pub server_recorded: bool,
    /// Its server.
    pub sighting: Sighting,
    /// Its probe.
    pub probe: Probe,
    /// Its deletion in the cloud.
    pub deletion: Deletion,
    /// When the server was last looked up by id, if ever.
    pub looked_up: Option<Timestamp>,
    /// Its claim.
    pub claim: Claim,
    /// Its hold.
    pub hold: Hold,
    /// Whether the provider's floating IP is still to be attached.
    pub address_missing: bool,
    /// From ACTIVE to reachable, at most.
    pub boot_timeout: Duration,
    /// From the record to ACTIVE, at most.
    pub launch_timeout: Duration,
    /// How long an unclear boot request is searched for at least.
    pub settle_time: Duration,
    /// When an idle node is to be probed again.
    pub recheck: Option<Timestamp>,
    /// Whether a write to the record, or a cloud call for it, is under way.
    pub busy: bool,
}

/// Why a launch or a node failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server went to ERROR; its fault says why.
    ServerError,
    /// It did not become ACTIVE in time.
    LaunchTimeout,
    /// It became ACTIVE and did not answer in time.
    BootTimeout,
    /// The boot request was refused.
    Refused,
    /// No server was found for an unclear boot request.
    NeverAppeared,
    /// The server disappeared or stopped by itself.
    ServerLost,
    /// It no longer answers.
    Unreachable,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing now.
    Wait,
    /// Send the one boot request (consumes the permit).
    Boot,
    /// Record the server's id: the boot lasts long enough for people to ask.
    RecordServer,
    /// Attach a floating IP.
    AttachAddress,
    /// Probe it.
    Probe,
    /// Record it as ready.
    MarkReady,
    /// Record it as in use.
    MarkInUse,
    /// Record it as held.
    MarkHeld,
    /// Ask for a hold on a released node.
    HoldReleased,
    /// Record the failure, with the fault and the console.
    MarkFailed(Failure),
    /// Delete the record; the finalizer keeps it until the server is gone.
    Condemn(Failure),
    /// Delete the record of a node that was used, or whose hold is over.
    Release,
    /// Record that it is being deleted: it lasts long enough for people to ask.
    MarkDeleting,
    /// Delete the server.
    DeleteServer,
    /// Delete a soft-deleted server for good.
    ForceDeleteServer,
    /// Look the server up by id.
    LookUp,
    /// Close the fence of an unclear boot request, or learn from it which server has passed.
    CloseFence,
    /// Ask for a complete list of the cloud's servers: the search for an unclear boot request ends with one.
    ListAll,
    /// Free the slot: remove what is left of the server, then the finalizer.
    Free,
}

/// A step and when to look again if nothing else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub step: Step,
    /// When to look again.
    pub wake: Option<Timestamp>,
}

/// How long a deletion may last before the record says so: shorter ones cost no write.
const DELETING_SHOWN_AFTER: Duration = Duration::from_secs(3);
/// How long the view may stay silent about an accepted deletion before the server is looked up by id.
const LOOK_UP_AFTER: Duration = Duration::from_secs(5);
/// How often a missing server is looked up.
const LOOK_UP_EVERY: Duration = Duration::from_secs(30);
/// The longest pause before a deletion without effect is sent again; the first is [`LOOK_UP_AFTER`] after the look-up.
const LONGEST_PUSH: Duration = Duration::from_secs(300);
/// The longest pause before a fence that could not be closed is tried again.
const LONGEST_CLOSE: Duration = Duration::from_secs(60);
/// How long after its fence was closed a boot request that had passed before may still bring a server into the lists:
/// Nova looks at the port early in the request, and writes the server down at its end.
/// Twice as long as it waits for a cell that hangs while it counts the quota in between.
const PASSED_SHOWS: Duration = Duration::from_secs(120);
/// How long a boot lasts before the record shows its server: shorter ones cost no write.
const SERVER_SHOWN_AFTER: Duration = Duration::from_secs(3);

/// Answers one observation.
#[must_use]
pub fn decide(o: &Observation) -> Decision {
    let decision = answer_to(o);
    // A time that is over would be asked about again at once, for ever.
    let wake = decision.wake.map(|at| if at <= o.now { soon(o) } else { at });
    Decision { wake, ..decision }
}

fn answer_to(o: &Observation) -> Decision {
    if o.busy {
        return wait(None);
    }
    if o.condemned {
        return destroy(o);
    }
    if let Some(decision) = ending(o) {
        return decision;
    }
    match o.state {
        State::Building => launch(o),
        State::Ready => idle(o),
        State::InUse => unless_lost(o, wait(None)),
        State::Held => unless_lost(o, held(o)),
        // A failed or deleting record that is not condemned yet: condemning it is what is left to do.
        State::Failed | State::Deleting => step(Step::Release),
    }
}

/// What ends a node in any state: a release, a hold, a claim that is not shown yet.
fn ending(o: &Observation) -> Option<Decision> {
    match (o.claim, o.hold) {
        (Claim::Released, Hold::None) => Some(step(Step::Release)),
        (Claim::ReleasedToHold, Hold::None) if o.state != State::Held => Some(step(Step::HoldReleased)),
        (_, Hold::Until(_)) if !matches!(o.state, State::Held | State::Deleting) => Some(step(Step::MarkHeld)),
        (Claim::Live, Hold::None) if o.state == State::Ready => Some(step(Step::MarkInUse)),
        _ => None,
    }
}

/// A node that somebody has, whose server may be gone: only proof ends it, whatever else is wrong with the server is
/// their business.
fn unless_lost(o: &Observation, otherwise: Decision) -> Decision {
    match o.sighting {
        Sighting::Gone => step(Step::Condemn(Failure::ServerLost)),
        Sighting::Missing { .. } if otherwise.step == Step::Wait => {
            match o.looked_up.map(|at| later(at, LOOK_UP_EVERY)) {
                Some(again) if o.now < again => wait(otherwise.wake.into_iter().chain([again]).min()),
                _ => step(Step::LookUp),
            }
        }
        _ => otherwise,
    }
}

/// Kept for people: until their time is over, and never less long than the request that has it lives.
fn held(o: &Observation) -> Decision {
    match o.hold {
        _ if o.claim == Claim::Live => wait(None),
        Hold::Until(None) => wait(None),
        Hold::Until(Some(until)) if until > o.now => wait(Some(until)),
        Hold::Until(Some(_)) | Hold::None => step(Step::Release),
    }
}

fn launch(o: &Observation) -> Decision {
    match o.boot {
        Boot::Permitted => return step(Step::Boot),
        Boot::Never => return step(Step::Condemn(Failure::NeverAppeared)),
        Boot::Refused { .. } => return step(Step::MarkFailed(Failure::Refused)),
        Boot::InFlight => return wait(None),
        Boot::Accepted | Boot::Unclear => {}
    }
    let deadline = later(o.created, o.launch_timeout);
    match o.sighting {
        Sighting::Gone => step(Step::MarkFailed(Failure::ServerLost)),
        Sighting::Present(Status::Error) => step(Step::MarkFailed(Failure::ServerError)),
        Sighting::Present(Status::SoftDeleted) => step(Step::MarkFailed(Failure::ServerLost)),
        Sighting::Present(Status::Active { since }) => answer(o, since),
        _ if o.now >= deadline && o.server_known => step(Step::MarkFailed(Failure::LaunchTimeout)),
        Sighting::Missing { listed_full, .. } if proves(o, listed_full) => {
            step(Step::MarkFailed(Failure::NeverAppeared))
        }
        Sighting::Missing { .. } if o.now >= searched(o) => list_all(o),
        Sighting::Missing { listed, .. } if may_close(o, listed) => step(Step::CloseFence),
        Sighting::Present(Status::Building | Status::Stopped | Status::Deleting) => show_server(o, deadline),
        // The cloud named it and does not show it: it may have vanished.
        Sighting::Missing { .. } if o.server_known => look_up_again(o, o.created, deadline),
        Sighting::Missing { .. } | Sighting::Unlisted => wait(Some(next_search(o).max(soon(o)))),
    }
}

/// Looks a missing server up by id now and then, the first time a while after `since`.
fn look_up_again(o: &Observation, since: Timestamp, deadline: Timestamp) -> Decision {
    match later(o.looked_up.unwrap_or(since), LOOK_UP_EVERY) {
        again if again <= o.now => step(Step::LookUp),
        again => wait(Some(again.min(deadline).max(soon(o)))),
    }
}

/// ACTIVE, but not yet known to answer.
fn answer(o: &Observation, since: Timestamp) -> Decision {
    let deadline = later(since, o.boot_timeout);
    if o.address_missing {
        let late = o.now >= deadline;
        let next = if late { Step::MarkFailed(Failure::BootTimeout) } else { Step::AttachAddress };
        return Decision { step: next, wake: (!late).then_some(deadline) };
    }
    match o.probe {
        Probe::Answered => step(Step::MarkReady),
        _ if o.now >= deadline => step(Step::MarkFailed(Failure::BootTimeout)),
        Probe::Idle | Probe::Lost => Decision { step: Step::Probe, wake: Some(deadline) },
        Probe::Running => show_server(o, deadline),
    }
}

fn show_server(o: &Observation, deadline: Timestamp) -> Decision {
    let shown = later(o.created, SERVER_SHOWN_AFTER);
    match (o.server_recorded, o.server_known) {
        (false, true) if o.now >= shown => step(Step::RecordServer),
        (false, true) => wait(Some(shown.min(deadline))),
        _ => wait(Some(deadline)),
    }
}

/// Ready and unclaimed: kept only while it is what `Ready` promises (rule 5).
fn idle(o: &Observation) -> Decision {
    match o.sighting {
        Sighting::Gone
        | Sighting::Present(Status::Error | Status::Stopped | Status::Deleting | Status::SoftDeleted) => {
            return step(Step::Condemn(Failure::ServerLost));
        }
        // A complete list without it proves nothing (a cell may be down): ask for it by id.
        Sighting::Missing { .. } => {
            return match o.looked_up.map(|at| later(at, LOOK_UP_EVERY)) {
                Some(again) if o.now < again => wait(Some(again)),
                _ => step(Step::LookUp),
            };
        }
        _ => {}
    }
    match (o.probe, o.recheck) {
        (Probe::Lost, _) => step(Step::Condemn(Failure::Unreachable)),
        // Its answer is the next event; when it was due is over.
        (Probe::Running, _) => wait(None),
        (_, Some(at)) if at <= o.now => step(Step::Probe),
        (_, at) => wait(at),
    }
}

/// Condemned: the slot is freed only by proof (rule 1).
fn destroy(o: &Observation) -> Decision {
    if !o.server_known {
        return destroy_unknown(o);
    }
    match (&o.sighting, o.deletion) {
        (Sighting::Gone, _) => step(Step::Free),
        (_, Deletion::InFlight) => wait(None),
        (_, Deletion::Failed { retry }) if retry > o.now => show_deleting(o, retry),
        (sighting, Deletion::Unsent | Deletion::Failed { .. }) => step(deletion_of(sighting)),
        (sighting, Deletion::Accepted { at, times }) => confirm(o, sighting, at, times),
    }
}

/// What ends a server that is seen like this.
const fn deletion_of(sighting: &Sighting) -> Step {
    match sighting {
        Sighting::Present(Status::SoftDeleted) => Step::ForceDeleteServer,
        _ => Step::DeleteServer,
    }
}

/// The deletion was accepted: wait for the proof, and push, ever more slowly, when it does not come.
fn confirm(o: &Observation, sighting: &Sighting, at: Timestamp, times: u32) -> Decision {
    let pause = grown(LOOK_UP_AFTER, times, LONGEST_PUSH);
    let looked_up = o.looked_up.filter(|looked_up| *looked_up > at);
    let (next, push) = match (sighting, looked_up) {
        // The cloud works on it; it may still have forgotten it.
        (Sighting::Present(Status::Deleting), _) => (later(at, LONGEST_PUSH), Step::DeleteServer),
        (Sighting::Present(Status::SoftDeleted), _) => (later(at, pause), Step::ForceDeleteServer),
        (_, None) => (later(at, LOOK_UP_AFTER), Step::LookUp),
        (Sighting::Present(_), Some(last)) => (later(last, pause), Step::DeleteServer),
        (_, Some(last)) => (later(last, LOOK_UP_EVERY), Step::LookUp),
    };
    if o.now < next { show_deleting(o, next) } else { step(push) }
}

/// Condemned before any server id was learned.
fn destroy_unknown(o: &Observation) -> Decision {
    match (o.boot, &o.sighting) {
        (Boot::Permitted | Boot::Never, _) => step(Step::Free),
        (Boot::InFlight, _) => wait(None),
        (_, Sighting::Gone) => step(Step::Free),
        // A certain refusal: one list taken after it confirms that nothing was made.
        (Boot::Refused { at }, Sighting::Missing { listed, .. }) if *listed > at => step(Step::Free),
        // An unclear one: the search goes on until a full list taken after the deadline shows nothing.
        (Boot::Unclear | Boot::Accepted, Sighting::Missing { listed_full, .. }) if proves(o, *listed_full) => {
            step(Step::Free)
        }
        (Boot::Unclear | Boot::Accepted, Sighting::Missing { .. }) if o.now >= searched(o) => list_all(o),
        (Boot::Unclear | Boot::Accepted, Sighting::Missing { listed, .. }) if may_close(o, *listed) => {
            step(Step::CloseFence)
        }
        _ => show_deleting(o, soon(o)),
    }
}

/// Until when an unclear boot request may still bring a server: a request is alive somewhere on its way for longer than
/// a short `launchTimeout`. Behind a closed fence only what had passed before still can.
fn searched(o: &Observation) -> Timestamp {
    let patience = later(o.created, o.launch_timeout.max(o.settle_time));
    match o.fence {
        Fence::Closed { at } if !o.server_known => patience.min(later(at, PASSED_SHOWS.min(o.settle_time))),
        Fence::Taken { .. } if !o.server_known => Timestamp::MAX,
        _ => patience,
    }
}

/// A complete list without the server, taken when none could come any more. Not while somebody unknown has the port.
fn proves(o: &Observation, listed_full: Timestamp) -> bool {
    let held = !o.server_known && matches!(o.fence, Fence::Taken { .. });
    !held && listed_full >= searched(o)
}

/// A list that was taken when the fence was due to be closed does not show the server.
fn may_close(o: &Observation, listed: Timestamp) -> bool {
    let due = match o.fence {
        Fence::Open { close } => close,
        Fence::Taken { again } => again,
        Fence::Off | Fence::Closed { .. } => return false,
    };
    !o.server_known && due <= listed && due <= o.now
}

/// When an unclear boot request is worth another look.
fn next_search(o: &Observation) -> Timestamp {
    match o.fence {
        Fence::Open { close: due } | Fence::Taken { again: due } if !o.server_known => searched(o).min(due),
        _ => searched(o),
    }
}

fn list_all(o: &Observation) -> Decision {
    Decision { step: Step::ListAll, wake: Some(later(o.now, Duration::from_secs(5))) }
}

fn show_deleting(o: &Observation, wake: Timestamp) -> Decision {
    if o.state == State::Deleting {
        return wait(Some(wake));
    }
    match o.deletion {
        Deletion::Accepted { at, .. } if o.now < later(at, DELETING_SHOWN_AFTER) => {
            wait(Some(later(at, DELETING_SHOWN_AFTER).min(wake)))
        }
        _ => step(Step::MarkDeleting),
    }
}

/// For what a list is going to tell, with no event of its own.
fn soon(o: &Observation) -> Timestamp {
    later(o.now, Duration::from_secs(1))
}

const fn step(step: Step) -> Decision {
    Decision { step, wake: None }
}

const fn wait(wake: Option<Timestamp>) -> Decision {
    Decision { step: Step::Wait, wake }
}

#[cfg(test)]
mod table;
