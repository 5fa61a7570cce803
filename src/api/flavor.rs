//! How a flavor is chosen: by its name, or as the smallest that has enough memory.
//!
//! Decides only what users write; which flavor that is, only the cloud knows.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{Quantity, rules};

/// A flavor by name, or the smallest with enough memory. Exactly one of `name` and `minRam`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::exactly_one(&["name", "minRam"]),
    validation = ("!has(self.nameFilter) || has(self.minRam)", "write nameFilter only beside minRam; with name there is nothing to filter"),
)]
pub struct FlavorSelector {
    /// The flavor's exact name in the cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub name: Option<String>,
    /// At least this much memory, such as `8Gi`; the smallest flavor that has it is taken, whatever its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::memory())]
    pub min_ram: Option<Quantity>,
    /// With `minRam`: only flavors whose name contains this text, such as `perf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub name_filter: Option<String>,
}

impl FlavorSelector {
    /// The flavor with this exact name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::default() }
    }
}
