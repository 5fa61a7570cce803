//! Glance: images found, made empty and deleted.
//!
//! An image is made once (its call is not repeatable), private, with its owner among its properties in the same call
//! (rule 10). Which of the images that carry our marks are ours is decided here; what becomes of them is not.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::OpenStack;
use super::call::Call;
use super::catalog::Service;
use super::client::{Ask, checked, nothing};
use super::ownership::{self, Identity};
use super::paging::Page;
use super::transport::{Answer, Garbage};
use crate::cloud::{
    CloudError, ErrorClass, Image, ImageSelector, ImageStatus, NewImage, OWNER_KEY, Ownership, SERVER_KEY,
};

/// The property in which Nova names the server of a snapshot.
const SNAPSHOT_OF: &str = "instance_uuid";

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
    protected: Option<bool>,
    size: Option<u64>,
    /// The project that has it.
    owner: Option<String>,
    tags: Option<Vec<String>>,
    /// Glance puts custom properties beside its own.
    #[serde(flatten)]
    properties: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct MadeImage {
    id: String,
}

impl WireImage {
    fn property(&self, key: &str) -> Option<&str> {
        self.properties.get(key).and_then(Value::as_str)
    }

    fn status(&self) -> ImageStatus {
        match self.status.as_str() {
            "queued" => ImageStatus::Queued,
            "active" => ImageStatus::Active,
            "deactivated" => ImageStatus::Deactivated,
            "killed" | "deleted" | "pending_delete" => ImageStatus::Gone,
            // Also uploading and importing; and what no Glance says yet is not taken for gone.
            _ => ImageStatus::Saving,
        }
    }

    /// A snapshot has the properties of the image that its server was booted from, our marks among them. It is ours
    /// only when it names its own server, which no other snapshot does (rule 10).
    fn has_inherited_marks(&self) -> bool {
        self.property(SNAPSHOT_OF).is_some_and(|server| self.property(SERVER_KEY) != Some(server))
    }

    fn ownership(&self, identity: &Identity) -> Option<Ownership> {
        let of_properties = || identity.in_metadata(|key| self.property(key));
        let of_tags = || identity.in_tags(self.tags.as_deref()?);
        if self.has_inherited_marks() { of_tags() } else { of_properties().or_else(of_tags) }
    }
}

impl OpenStack {
    pub(super) async fn find_images(&self, selector: &ImageSelector) -> Result<Vec<Image>, CloudError> {
        match selector {
            ImageSelector::Id(id) => match self.image(id).await {
                Ok(image) => Ok(vec![image]),
                Err(error) if error.class == ErrorClass::NotFound => Ok(Vec::new()),
                Err(error) => Err(error),
            },
            ImageSelector::Name(name) => self.images_by_name(name).await,
        }
    }

    pub(super) async fn image(&self, id: &str) -> Result<Image, CloudError> {
        let path = ["images", checked(Call::GetImage, id)?];
        let ask = Ask::get(Call::GetImage, Service::Image, &path);
        Ok(self.kept(self.client.ask(ask, |answer| answer.json::<WireImage>()).await?))
    }

    /// The name is compared once more here: a cloud may ignore the filter.
    async fn images_by_name(&self, name: &str) -> Result<Vec<Image>, CloudError> {
        let listed = self.list_images(vec![("name", name.to_owned())]).await?;
        Ok(listed.into_iter().map(|(_, image)| image).filter(|image| image.name == name).collect())
    }

    /// The mark is compared once more here, and the project: others' images may be shared with us.
    pub(super) async fn marked_images(&self, owner: &str) -> Result<Vec<Image>, CloudError> {
        let project = self.client.login().await?.project_id.clone();
        let marked = || vec![(OWNER_KEY, ownership::owner_value(owner))];
        let mut listed = self.list_images(marked()).await?;
        // Hidden images are in a list of their own. An older Glance takes the word for a property that no image has.
        let hidden = marked().into_iter().chain([("os_hidden", "true".to_owned())]).collect();
        listed.extend(self.list_images(hidden).await?);
        let is_ours = |image: &Image| image.ownership.as_ref().is_some_and(|mark| mark.owner == owner);
        let of_project = listed.into_iter().filter(|(of, _)| of.as_ref().is_none_or(|of| *of == project));
        // One that was hidden meanwhile is in both.
        let each: BTreeMap<String, Image> =
            of_project.map(|(_, image)| image).filter(is_ours).map(|image| (image.id.clone(), image)).collect();
        Ok(each.into_values().collect())
    }

    /// All pages, each image with the project that has it.
    async fn list_images(
        &self,
        query: Vec<(&'static str, String)>,
    ) -> Result<Vec<(Option<String>, Image)>, CloudError> {
        let query = query.into_iter().chain([("limit", "1000".to_owned())]).collect();
        let ask = Ask::get(Call::ListImages, Service::Image, &["images"]).query(query);
        let keep = |mut wire: WireImage| (wire.owner.take(), self.kept(wire));
        Ok(self.client.list::<ImagesPage, _>(ask, keep).await?.items)
    }

    pub(super) async fn make_image(&self, image: &NewImage) -> Result<String, CloudError> {
        let mut body: BTreeMap<String, String> = ownership::metadata(&image.properties, &image.ownership);
        // Above the DiskImage's own: what it calls a property may be one of Glance's attributes.
        let own = [
            ("name", image.name.as_str()),
            ("visibility", "private"),
            ("container_format", "bare"),
            ("disk_format", image.disk_format),
        ];
        body.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let ask = Ask::post(Call::CreateImage, Service::Image, &["images"], &json!(body));
        self.client.ask(ask, made_id).await
    }

    pub(super) async fn remove_image(&self, id: &str) -> Result<(), CloudError> {
        let path = ["images", checked(Call::DeleteImage, id)?];
        self.client.ask(Ask::delete(Call::DeleteImage, Service::Image, &path), nothing).await
    }

    fn kept(&self, wire: WireImage) -> Image {
        Image {
            status: wire.status(),
            ownership: wire.ownership(&self.identity),
            id: wire.id,
            name: wire.name.unwrap_or_default(),
            hidden: wire.os_hidden == Some(true),
            created: wire.created_at,
            size: wire.size,
            protected: wire.protected == Some(true),
        }
    }
}

/// An answer without an id is no answer: the image may exist all the same.
fn made_id(answer: &Answer) -> Result<String, Garbage> {
    let id = answer.json::<MadeImage>()?.id;
    if checked(Call::CreateImage, &id).is_ok() { Ok(id) } else { Err(Garbage) }
}
