//! Every call that is made to a cloud, by name: what it is called in metrics and errors, how long it may take, how much
//! it may answer, and whether it can change the cloud.
//!
//! This table is the only place where these are decided; nothing here sends anything.

use std::time::Duration;

use super::catalog::Service;
use super::services;

/// One kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Login,
    Versions,
    ListServers,
    GetServer,
    CreateServer,
    DeleteServer,
    ForceDeleteServer,
    SnapshotServer,
    StopServer,
    Console,
    ListFlavors,
    GetLimits,
    ListKeyPairs,
    GetKeyPair,
    CreateKeyPair,
    DeleteKeyPair,
    ListImages,
    GetImage,
    CreateImage,
    UploadImage,
    DeleteImage,
    ListNetworks,
    ListFloatingIps,
    CreateFloatingIp,
    AttachFloatingIp,
    DeleteFloatingIp,
    ListSecurityGroups,
    ListPorts,
    CreatePort,
    ClosePort,
    DeletePort,
    DisownPort,
    /// Whether a service answers at all.
    Probe(Service),
}

impl Call {
    /// `service verb`, as errors name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Login => "identity login",
            Self::Versions => "compute versions",
            Self::ListServers => "compute list-servers",
            Self::GetServer => "compute get-server",
            Self::CreateServer => "compute create-server",
            Self::DeleteServer => "compute delete-server",
            Self::ForceDeleteServer => "compute force-delete-server",
            Self::SnapshotServer => "compute snapshot-server",
            Self::StopServer => "compute stop-server",
            Self::Console => "compute console",
            Self::ListFlavors => "compute list-flavors",
            Self::GetLimits => "compute get-limits",
            Self::ListKeyPairs => "compute list-key-pairs",
            Self::GetKeyPair => "compute get-key-pair",
            Self::CreateKeyPair => "compute create-key-pair",
            Self::DeleteKeyPair => "compute delete-key-pair",
            Self::ListImages => "image list-images",
            Self::GetImage => "image get-image",
            Self::CreateImage => "image create-image",
            Self::UploadImage => "image upload-image",
            Self::DeleteImage => "image delete-image",
            Self::ListNetworks => "network list-networks",
            Self::ListFloatingIps => "network list-floating-ips",
            Self::CreateFloatingIp => "network create-floating-ip",
            Self::AttachFloatingIp => "network attach-floating-ip",
            Self::DeleteFloatingIp => "network delete-floating-ip",
            Self::ListSecurityGroups => "network list-security-groups",
            Self::ListPorts => "network list-ports",
            Self::CreatePort => "network create-port",
            Self::ClosePort => "network close-port",
            Self::DeletePort => "network delete-port",
            Self::DisownPort => "network disown-port",
            Self::Probe(Service::Identity) => "identity probe",
            Self::Probe(Service::Compute) => "compute probe",
            Self::Probe(Service::Image) => "image probe",
            Self::Probe(Service::Network) => "network probe",
            Self::Probe(Service::Placement) => "placement probe",
        }
    }

    /// The service and the verb, as metrics name them.
    pub(crate) fn labels(self) -> (&'static str, &'static str) {
        self.name().split_once(' ').unwrap_or((self.name(), ""))
    }

    /// How long one exchange may take, body included; of an upload, how long it may stand still.
    pub(crate) const fn deadline(self) -> Duration {
        match self {
            // A boot has been seen to take 142 s to be answered; giving up earlier only makes unclear answers.
            Self::CreateServer => Duration::from_secs(180),
            // Answered when the volumes of the server are copied, or the image's bytes are gone from its store.
            Self::SnapshotServer | Self::DeleteImage => Duration::from_secs(180),
            Self::Probe(_) => services::DEADLINE,
            _ => Duration::from_secs(60),
        }
    }

    /// How long it may stand in line before that.
    pub(crate) const fn patience(self) -> Duration {
        match self {
            // It stands before a boot request, in the same line.
            Self::CreatePort => Self::CreateServer.deadline(),
            _ => self.deadline(),
        }
    }

    /// How many bytes of an answer are read before it is taken for garbage.
    pub(crate) const fn body_cap(self) -> usize {
        match self {
            Self::ListServers
            | Self::ListFlavors
            | Self::ListKeyPairs
            | Self::ListImages
            | Self::ListNetworks
            | Self::ListFloatingIps
            | Self::ListSecurityGroups
            | Self::ListPorts => 64 << 20,
            _ => 1 << 20,
        }
    }

    /// Whether an answer that got lost leaves a question open.
    pub(crate) const fn changes_cloud(self) -> bool {
        matches!(
            self,
            Self::CreateServer
                | Self::DeleteServer
                | Self::ForceDeleteServer
                | Self::SnapshotServer
                | Self::StopServer
                | Self::CreateKeyPair
                | Self::DeleteKeyPair
                | Self::CreateImage
                | Self::UploadImage
                | Self::DeleteImage
                | Self::CreateFloatingIp
                | Self::AttachFloatingIp
                | Self::DeleteFloatingIp
                | Self::CreatePort
                | Self::ClosePort
                | Self::DeletePort
                | Self::DisownPort
        )
    }

    /// Whether others wait for it: it goes before them when requests stand in line for the rate limit.
    pub(crate) const fn urgent(self) -> bool {
        matches!(self, Self::Login | Self::Versions | Self::ListServers)
    }

    /// Whether doing it twice is the same as doing it once, so that it may be sent again after a fault.
    pub(crate) const fn repeatable(self) -> bool {
        match self {
            Self::Login
            | Self::CreateServer
            | Self::ForceDeleteServer
            | Self::SnapshotServer
            | Self::Console
            | Self::CreateImage
            // Its bytes are gone once they are sent.
            | Self::UploadImage
            | Self::CreateFloatingIp
            | Self::AttachFloatingIp
            | Self::CreatePort => false,
            Self::Versions
            | Self::ListServers
            | Self::GetServer
            | Self::DeleteServer
            // The second finds it stopping.
            | Self::StopServer
            | Self::ListFlavors
            | Self::GetLimits
            | Self::ListKeyPairs
            | Self::GetKeyPair
            // The second finds the first, whose key is compared.
            | Self::CreateKeyPair
            | Self::DeleteKeyPair
            | Self::ListImages
            | Self::GetImage
            | Self::DeleteImage
            | Self::ListNetworks
            | Self::ListFloatingIps
            | Self::DeleteFloatingIp
            | Self::ListSecurityGroups
            | Self::ListPorts
            // For one revision: the second of two finds another, which is looked at anew.
            | Self::ClosePort
            | Self::DeletePort
            | Self::DisownPort
            // One cut connection is no silence.
            | Self::Probe(_) => true,
        }
    }
}
