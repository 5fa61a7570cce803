//! The custom resources: one file a kind, and what the kinds share.
//!
//! Decides the shape of what users write and read: fields, bounds, defaults, and the rules the API server checks
//! by itself. It must never do I/O, read a clock, or decide what the operator does.

#![allow(clippy::duplicated_attributes, reason = "printer columns and fields of one type repeat it")]

pub mod allowed_namespaces;
pub mod conditions;
pub mod crds;
pub mod disk_image;
pub mod duration;
pub mod flavor;
pub mod node_request;
pub mod pool;
pub mod pool_node;
pub mod provider;
pub mod provider_image;
pub mod quantity;
pub mod rules;

pub use allowed_namespaces::{AllowedNamespaces, NamespacesFrom};
pub use disk_image::{DiskImage, DiskImageSpec, DiskImageStatus};
pub use duration::Duration;
pub use flavor::FlavorSelector;
pub use node_request::{NodeRequest, NodeRequestSpec, NodeRequestStatus, RequestState};
pub use pool::{Pool, PoolSpec, PoolStatus};
pub use pool_node::{NodeState, PoolNode, PoolNodeSpec, PoolNodeStatus};
pub use provider::{Provider, ProviderSpec, ProviderStatus};
pub use provider_image::{ImageState, ProviderImage, ProviderImageSpec, ProviderImageStatus};
pub use quantity::Quantity;

/// The API group of every kind.
pub const GROUP: &str = "nodepool.dev";
/// The one version served today.
pub const VERSION: &str = "v1alpha1";

/// Label on a [`PoolNode`]: the [`Pool`] it was booted for.
pub const LABEL_POOL: &str = "nodepool.dev/pool";
/// Label on a [`PoolNode`] whose [`Pool`] is in another namespace: that namespace.
pub const LABEL_POOL_NAMESPACE: &str = "nodepool.dev/pool-namespace";
/// Label on a [`PoolNode`] or [`ProviderImage`]: the [`Provider`] it lives in.
pub const LABEL_PROVIDER: &str = "nodepool.dev/provider";
/// Label on a [`PoolNode`] or [`ProviderImage`]: the [`DiskImage`] it comes from.
pub const LABEL_DISK_IMAGE: &str = "nodepool.dev/disk-image";

/// Label on a [`ProviderImage`]: its version, by which it is undone in all Providers at once.
pub const LABEL_VERSION: &str = "nodepool.dev/version";

/// Finalizer of a [`PoolNode`]: its server is not yet proven gone.
pub const FINALIZER_SERVER: &str = "nodepool.dev/server";
/// Finalizer of a [`Provider`] or [`Pool`]: nodes of it still exist.
pub const FINALIZER_DRAIN: &str = "nodepool.dev/drain";
/// Finalizer of a [`ProviderImage`]: its image in the cloud is not yet proven gone.
pub const FINALIZER_IMAGE: &str = "nodepool.dev/image";

/// Annotation of a [`PoolNode`]: the one process incarnation that may send its boot request.
pub const ANNOTATION_LAUNCHED_BY: &str = "nodepool.dev/launched-by";
/// Annotation of a [`PoolNode`]: how its template hash was computed, so a new formula does not replace every node.
pub const ANNOTATION_HASH_VERSION: &str = "nodepool.dev/hash-version";
/// Annotation of a [`DiskImage`]: asks for a new version now; any value that was not answered yet. On a [`ProviderImage`]:
/// the value that it was begun for.
pub const ANNOTATION_REBUILD: &str = "nodepool.dev/rebuild-requested-at";
