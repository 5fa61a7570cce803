//! What to do next with one version that is ours to make: from its record to the proof that nothing of it is left in
//! the cloud (rules 7, 9 and 14).
//!
//! One call answers one observation with one step. It never begins a version a second time: what a process that is
//! gone had begun is taken over only as far as the record tells, and is given up otherwise. It never lets a version be
//! used that its trial boots have not passed, and never deletes one that a node boots from.

use jiff::Timestamp;

use super::State;

/// What this process does for a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: another process had begun it.
    None,
    /// It waits for its server to answer.
    AwaitsServer,
    /// It is being made.
    Running,
    /// The image is active.
    Made,
    /// It could not be made.
    Failed,
}

/// The server on which a version is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// There is none, or it is still booting.
    Coming,
    /// It answers.
    Answers,
    /// Its launch failed, or it was lost.
    Failed,
}

/// How the trial boots went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trials {
    /// How many must become reachable.
    pub wanted: u32,
    /// How many did.
    pub good: u32,
    /// Whether one failed.
    pub failed: bool,
}

/// How far the removal of what is in the cloud is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Not begun.
    Due,
    /// Under way.
    Running,
    /// It failed; not again before.
    Later(Timestamp),
    /// Nothing of it is there any more.
    Done,
}

/// Everything that is known of one version.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Now.
    pub now: Timestamp,
    /// Its recorded state.
    pub state: State,
    /// Whether a person or a rollback rejected it.
    pub rejected: bool,
    /// Whether its image is still to be on its provider.
    pub wanted: bool,
    /// Whether its record is being deleted.
    pub condemned: bool,
    /// Whether the record says that something of it may be in the cloud: its finalizer.
    pub held: bool,
    /// What this process does for it.
    pub work: Work,
    /// The server on which it is made.
    pub server: Server,
    /// Whether its image's id is recorded, and the cloud needs nothing more from us to complete it.
    pub resumable: bool,
    /// Until when it must be made, and once it is made, tried.
    pub deadline: Timestamp,
    /// How its trial boots go.
    pub trials: Trials,
    /// Whether a node boots from it right now.
    pub booting: bool,
    /// The removal of what is in the cloud.
    pub removal: Removal,
}

/// Why a version could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// What made it says why.
    Work,
    /// Its server says why.
    Server,
    /// It took longer than `buildTimeout`.
    Timeout,
    /// The process that made it is gone.
    Interrupted,
    /// Its image is not to be on its provider any more.
    Unwanted,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until then.
    Wait(Option<Timestamp>),
    /// Make it on its server.
    Make,
    /// Take over what another process had begun: the image is recorded.
    Resume,
    /// Record that its trial boots run.
    MarkValidating,
    /// Record that it may be used.
    MarkReady,
    /// Record that it was found bad.
    MarkRejected,
    /// Record that it could not be made.
    MarkFailed(Failure),
    /// Remove what is in the cloud.
    Remove,
    /// Record that nothing is in the cloud: give up the finalizer.
    Release,
}

/// Answers one observation.
#[must_use]
pub fn decide(o: &Observation) -> Step {
    if o.condemned {
        return remove(o);
    }
    match o.state {
        State::Building | State::Uploading if o.rejected => Step::MarkFailed(Failure::Work),
        State::Building | State::Uploading | State::Validating if !o.wanted => Step::MarkFailed(Failure::Unwanted),
        State::Building | State::Uploading => make(o),
        State::Validating | State::Ready if o.rejected => Step::MarkRejected,
        State::Validating => validate(o),
        State::Ready | State::Rejected => Step::Wait(None),
        State::Failed | State::Deleting => remove(o),
    }
}

fn make(o: &Observation) -> Step {
    match (o.work, o.server) {
        (Work::Made, _) if o.trials.wanted == 0 => Step::MarkReady,
        (Work::Made, _) => Step::MarkValidating,
        (Work::Failed, _) => Step::MarkFailed(Failure::Work),
        (Work::None, _) if o.resumable => Step::Resume,
        (Work::None, _) => Step::MarkFailed(Failure::Interrupted),
        _ if o.now >= o.deadline => Step::MarkFailed(Failure::Timeout),
        (Work::AwaitsServer, Server::Failed) => Step::MarkFailed(Failure::Server),
        (Work::AwaitsServer, Server::Answers) => Step::Make,
        (Work::AwaitsServer, Server::Coming) | (Work::Running, _) => Step::Wait(Some(o.deadline)),
    }
}

/// All trial boots must become reachable; one that does not is enough to reject the version.
fn validate(o: &Observation) -> Step {
    match o.trials {
        Trials { failed: true, .. } => Step::MarkRejected,
        Trials { wanted, good, .. } if good >= wanted => Step::MarkReady,
        // What gets no servers must not keep the next version from being made for ever (rule 13).
        _ if o.now >= o.deadline => Step::MarkFailed(Failure::Timeout),
        _ => Step::Wait(Some(o.deadline)),
    }
}

fn remove(o: &Observation) -> Step {
    match o.removal {
        _ if !o.held => Step::Wait(None),
        Removal::Done => Step::Release,
        Removal::Running => Step::Wait(None),
        // Rule 7: a version in use by a booting node is not deleted; the node's end or its Ready is an event.
        _ if o.booting => Step::Wait(None),
        Removal::Later(at) if at > o.now => Step::Wait(Some(at)),
        Removal::Later(_) | Removal::Due => Step::Remove,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);
    const LATER: Timestamp = Timestamp::constant(1_800_000_600, 0);

    fn seen(state: State) -> Observation {
        Observation {
            now: NOW,
            state,
            rejected: false,
            wanted: true,
            condemned: false,
            held: true,
            work: Work::Running,
            server: Server::Coming,
            resumable: false,
            deadline: LATER,
            trials: Trials { wanted: 1, good: 0, failed: false },
            booting: false,
            removal: Removal::Due,
        }
    }

    #[test]
    fn a_version_is_made_tried_and_used() {
        let building = seen(State::Building);
        let cases = [
            ("it waits for its server", Observation { work: Work::AwaitsServer, ..building }, Step::Wait(Some(LATER))),
            (
                "its server answers",
                Observation { work: Work::AwaitsServer, server: Server::Answers, ..building },
                Step::Make,
            ),
            ("it is being made", building, Step::Wait(Some(LATER))),
            ("it is made", Observation { work: Work::Made, ..building }, Step::MarkValidating),
            ("it is uploaded", Observation { work: Work::Made, ..seen(State::Uploading) }, Step::MarkValidating),
            (
                "it is made and no trial is wanted",
                Observation { work: Work::Made, trials: Trials { wanted: 0, good: 0, failed: false }, ..building },
                Step::MarkReady,
            ),
            ("its trial boots", seen(State::Validating), Step::Wait(Some(LATER))),
            (
                "its trial answers",
                Observation { trials: Trials { wanted: 1, good: 1, failed: false }, ..seen(State::Validating) },
                Step::MarkReady,
            ),
            (
                "one of two answers",
                Observation { trials: Trials { wanted: 2, good: 1, failed: false }, ..seen(State::Validating) },
                Step::Wait(Some(LATER)),
            ),
            ("it is used", seen(State::Ready), Step::Wait(None)),
        ];
        for (name, observation, step) in cases {
            assert_eq!(decide(&observation), step, "{name}");
        }
    }

    #[test]
    fn what_goes_wrong_ends_it() {
        let building = seen(State::Building);
        let failed = Step::MarkFailed;
        let cases = [
            ("it could not be made", Observation { work: Work::Failed, ..building }, failed(Failure::Work)),
            (
                "its server failed",
                Observation { work: Work::AwaitsServer, server: Server::Failed, ..building },
                failed(Failure::Server),
            ),
            ("it takes too long", Observation { now: LATER, ..building }, failed(Failure::Timeout)),
            (
                "its server takes too long",
                Observation { now: LATER, work: Work::AwaitsServer, ..building },
                failed(Failure::Timeout),
            ),
            ("its process is gone", Observation { work: Work::None, ..building }, failed(Failure::Interrupted)),
            (
                "its process is gone, and its image is recorded",
                Observation { work: Work::None, resumable: true, ..seen(State::Uploading) },
                Step::Resume,
            ),
            (
                "what was made just before the deadline counts",
                Observation { now: LATER, work: Work::Made, ..building },
                Step::MarkValidating,
            ),
            (
                "its trial gets no server",
                Observation { now: LATER, ..seen(State::Validating) },
                failed(Failure::Timeout),
            ),
            (
                "nobody wants it any more",
                Observation { wanted: false, ..seen(State::Validating) },
                failed(Failure::Unwanted),
            ),
            ("what is in use stays", Observation { wanted: false, ..seen(State::Ready) }, Step::Wait(None)),
            ("it is rejected while it is made", Observation { rejected: true, ..building }, failed(Failure::Work)),
            (
                "a trial failed",
                Observation { trials: Trials { wanted: 2, good: 1, failed: true }, ..seen(State::Validating) },
                Step::MarkRejected,
            ),
            (
                "it is rejected while it is tried",
                Observation { rejected: true, ..seen(State::Validating) },
                Step::MarkRejected,
            ),
            ("it is rejected", Observation { rejected: true, ..seen(State::Ready) }, Step::MarkRejected),
            ("it was rejected", Observation { rejected: true, ..seen(State::Rejected) }, Step::Wait(None)),
        ];
        for (name, observation, step) in cases {
            assert_eq!(decide(&observation), step, "{name}");
        }
    }

    #[test]
    fn what_goes_leaves_nothing_behind() {
        let gone = Observation { condemned: true, ..seen(State::Ready) };
        let cases = [
            ("its image is removed", gone, Step::Remove),
            ("not while a node boots from it", Observation { booting: true, ..gone }, Step::Wait(None)),
            ("the cloud is asked", Observation { removal: Removal::Running, ..gone }, Step::Wait(None)),
            ("the cloud refuses", Observation { removal: Removal::Later(LATER), ..gone }, Step::Wait(Some(LATER))),
            ("it is asked again", Observation { removal: Removal::Later(NOW), ..gone }, Step::Remove),
            ("it is proven gone", Observation { removal: Removal::Done, booting: true, ..gone }, Step::Release),
            ("nothing holds it", Observation { held: false, ..gone }, Step::Wait(None)),
            ("what failed is cleaned up", seen(State::Failed), Step::Remove),
            ("and let go", Observation { removal: Removal::Done, ..seen(State::Failed) }, Step::Release),
            ("and left alone", Observation { held: false, ..seen(State::Failed) }, Step::Wait(None)),
            (
                "what is being made when its record is deleted goes as well",
                Observation { condemned: true, ..seen(State::Building) },
                Step::Remove,
            ),
        ];
        for (name, observation, step) in cases {
            assert_eq!(decide(&observation), step, "{name}");
        }
    }
}
