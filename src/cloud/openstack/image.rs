//! Glance: finds images that others manage. Never makes, changes or deletes one.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::OpenStack;
use super::call::Call;
use super::catalog::Service;
use super::client::{Ask, checked};
use super::paging::Page;
use crate::cloud::{CloudError, ErrorClass, Image, ImageSelector};

#[derive(Deserialize)]
struct ImagesPage {
    images: Vec<WireImage>,
    /// A path, not an address.
    next: Option<String>,
}

impl Page for ImagesPage {
    type Item = WireImage;

    fn split(self) -> (Vec<WireImage>, Option<String>) {
        (self.images, self.next)
    }
}

#[derive(Deserialize)]
struct WireImage {
    id: String,
    name: Option<String>,
    status: String,
    created_at: Timestamp,
    os_hidden: Option<bool>,
    tags: Option<Vec<String>>,
    /// Glance puts custom properties beside its own.
    #[serde(flatten)]
    properties: BTreeMap<String, Value>,
}

impl OpenStack {
    pub(super) async fn find_images(&self, selector: &ImageSelector) -> Result<Vec<Image>, CloudError> {
        match selector {
            ImageSelector::Id(id) => self.image_by_id(id).await,
            ImageSelector::Name(name) => self.images_by_name(name).await,
        }
    }

    async fn image_by_id(&self, id: &str) -> Result<Vec<Image>, CloudError> {
        let path = ["images", checked(Call::GetImage, id)?];
        let ask = Ask::get(Call::GetImage, Service::Image, &path);
        match self.client.ask(ask, |answer| answer.json::<WireImage>()).await {
            Ok(wire) => Ok(vec![self.kept(wire)]),
            Err(error) if error.class == ErrorClass::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The name is compared once more here: a cloud may ignore the filter.
    async fn images_by_name(&self, name: &str) -> Result<Vec<Image>, CloudError> {
        let ask = Ask::get(Call::ListImages, Service::Image, &["images"])
            .query(vec![("name", name.to_owned()), ("limit", "1000".to_owned())]);
        let listed = self.client.list::<ImagesPage, _>(ask, |wire| self.kept(wire)).await?;
        Ok(listed.items.into_iter().filter(|image| image.name == name).collect())
    }

    fn kept(&self, wire: WireImage) -> Image {
        let ownership = self
            .identity
            .in_metadata(|key| wire.properties.get(key).and_then(Value::as_str))
            .or_else(|| self.identity.in_tags(wire.tags.as_deref()?));
        Image {
            id: wire.id,
            name: wire.name.unwrap_or_default(),
            active: wire.status == "active" && wire.os_hidden != Some(true),
            created: wire.created_at,
            ownership,
        }
    }
}
