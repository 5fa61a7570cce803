//! The images of the project: what they are, and how they are shown.
//!
//! Image data is measured and hashed, never kept: a simulated boot reads none of it. What a snapshot kept of a server's
//! files is not here ([`crate::simulator::guests`]), only that there is something.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::checksum::Measured;
use crate::simulator::{guests::Kept, keystone::identity::seeded_id, servers::Server};

/// Where an image is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ImageStatus {
    Queued,
    Saving,
    Uploading,
    Importing,
    Active,
    Deactivated,
    Killed,
    PendingDelete,
    Deleted,
}

impl ImageStatus {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Saving => "saving",
            Self::Uploading => "uploading",
            Self::Importing => "importing",
            Self::Active => "active",
            Self::Deactivated => "deactivated",
            Self::Killed => "killed",
            Self::PendingDelete => "pending_delete",
            Self::Deleted => "deleted",
        }
    }
}

/// One image.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub id: String,
    pub seq: u64,
    pub name: Option<String>,
    pub status: ImageStatus,
    pub visibility: String,
    pub protected: bool,
    pub hidden: bool,
    pub owner: Option<String>,
    pub disk_format: Option<String>,
    pub container_format: Option<String>,
    pub min_disk: i64,
    pub min_ram: i64,
    pub data: Option<Measured>,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub tags: BTreeSet<String>,
    pub properties: BTreeMap<String, String>,
    /// Will never leave its status.
    pub stuck: bool,
    /// What it keeps of the server that it was made from.
    pub kept: Kept,
}

/// Size of what a snapshot uploads.
const SNAPSHOT_BYTES: u64 = 64 << 20;

impl Image {
    pub(crate) fn is_active(&self) -> bool {
        self.status == ImageStatus::Active
    }

    pub(crate) fn blank(id: String, now: Timestamp) -> Self {
        Self {
            id,
            seq: 0,
            name: None,
            status: ImageStatus::Queued,
            visibility: "shared".to_owned(),
            protected: false,
            hidden: false,
            owner: None,
            disk_format: None,
            container_format: None,
            min_disk: 0,
            min_ram: 0,
            data: None,
            created: now,
            updated: now,
            tags: BTreeSet::new(),
            properties: BTreeMap::new(),
            stuck: false,
            kept: Kept::default(),
        }
    }

    pub(crate) fn size(&self) -> Option<u64> {
        self.data.as_ref().map(|data| data.size)
    }

    /// Becomes active with this data.
    pub(crate) fn fill(&mut self, data: &Measured, now: Timestamp) {
        self.data = Some(data.clone());
        self.status = ImageStatus::Active;
        self.updated = now;
    }

    /// As Glance shows it; `stamp` writes a moment.
    pub(crate) fn view(&self, stamp: impl Fn(Timestamp) -> String) -> Value {
        let mut shown: Map<String, Value> =
            self.properties.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        let data = self.data.as_ref();
        let standard = json!({
            "id": self.id, "name": self.name, "status": self.status.word(), "visibility": self.visibility,
            "protected": self.protected, "os_hidden": self.hidden, "owner": self.owner,
            "disk_format": self.disk_format, "container_format": self.container_format,
            "min_disk": self.min_disk, "min_ram": self.min_ram, "size": self.size(), "virtual_size": null,
            "checksum": data.map(|data| &data.md5), "os_hash_algo": data.map(|_| "sha512"),
            "os_hash_value": data.map(|data| &data.sha512),
            "created_at": stamp(self.created), "updated_at": stamp(self.updated), "tags": self.tags,
            "self": format!("/v2/images/{}", self.id), "file": format!("/v2/images/{}/file", self.id),
            "schema": "/v2/schemas/image",
        });
        if let Value::Object(standard) = standard {
            shown.extend(standard);
        }
        Value::Object(shown)
    }
}

/// All images.
#[derive(Debug)]
pub(crate) struct Images {
    records: BTreeMap<u64, Image>,
    ids: HashMap<String, u64>,
    next: u64,
}

impl Images {
    /// The images that every public cloud has: two distributions, active and public.
    pub(crate) fn new(now: Timestamp) -> Self {
        let mut images = Self { records: BTreeMap::new(), ids: HashMap::new(), next: 0 };
        for (name, distro, version) in [("debian-13", "debian", "13"), ("ubuntu-24.04", "ubuntu", "24.04")] {
            let mut image = Image::blank(seeded_id(&format!("image/{name}")).to_string(), now);
            image.name = Some(name.to_owned());
            image.visibility = "public".to_owned();
            image.owner = Some(seeded_id("project/admin").simple().to_string());
            image.disk_format = Some("qcow2".to_owned());
            image.container_format = Some("bare".to_owned());
            image.properties.insert("os_distro".to_owned(), distro.to_owned());
            image.properties.insert("os_version".to_owned(), version.to_owned());
            image.fill(&Measured::imagined(name, 400 << 20), now);
            images.insert(image);
        }
        images
    }

    /// Takes an image in; false when its id is taken.
    pub(crate) fn insert(&mut self, mut image: Image) -> bool {
        if self.ids.contains_key(&image.id) {
            return false;
        }
        self.next += 1;
        image.seq = self.next;
        self.ids.insert(image.id.clone(), self.next);
        self.records.insert(self.next, image);
        true
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Image> {
        self.ids.get(id).and_then(|seq| self.records.get(seq))
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut Image> {
        self.ids.get(id).and_then(|seq| self.records.get_mut(seq))
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<Image> {
        self.ids.remove(id).and_then(|seq| self.records.remove(&seq))
    }

    /// Newest first, as Glance lists them.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Image> {
        self.records.values().rev()
    }

    pub(crate) fn set_kept(&mut self, id: &str, kept: Kept) {
        if let Some(image) = self.get_mut(id) {
            image.kept = kept;
        }
    }

    pub(crate) fn set_status(&mut self, id: &str, status: ImageStatus, now: Timestamp) {
        if let Some(image) = self.get_mut(id)
            && !image.stuck
        {
            image.status = status;
            image.updated = now;
        }
    }

    /// Leaves an image in a status for ever.
    pub(crate) fn stick(&mut self, id: &str, status: ImageStatus, now: Timestamp) {
        self.set_status(id, status, now);
        if let Some(image) = self.get_mut(id) {
            image.stuck = true;
        }
    }

    pub(crate) fn finish_snapshot(&mut self, id: &str, now: Timestamp) {
        if let Some(image) = self.get_mut(id)
            && !image.stuck
        {
            image.fill(&Measured::imagined(id, SNAPSHOT_BYTES), now);
            image.disk_format = Some("qcow2".to_owned());
            image.container_format = Some("bare".to_owned());
        }
    }

    /// The image that a snapshot will fill: it inherits the base's properties, and needs the server's disk.
    #[allow(clippy::too_many_arguments, reason = "a snapshot is that much: what, of whom, for whom, when")]
    pub(crate) fn queue_snapshot(
        &mut self,
        id: &str,
        name: &str,
        server: &Server,
        metadata: BTreeMap<String, String>,
        project: &str,
        user: &str,
        now: Timestamp,
    ) {
        let base = server.image.as_deref().and_then(|id| self.get(id));
        let mut properties = base.map(|base| base.properties.clone()).unwrap_or_default();
        properties.extend(metadata);
        for (key, value) in [
            ("instance_uuid", server.id.as_str()),
            ("base_image_ref", server.image.as_deref().unwrap_or_default()),
            ("user_id", user),
            ("owner_project_name", "simulator"),
            ("image_type", "snapshot"),
        ] {
            properties.insert(key.to_owned(), value.to_owned());
        }
        let mut image = Image::blank(id.to_owned(), now);
        image.name = Some(name.to_owned());
        image.visibility = "private".to_owned();
        image.owner = Some(project.to_owned());
        image.min_disk = server.flavor.disk;
        image.properties = properties;
        self.insert(image);
    }
}
