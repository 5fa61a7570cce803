//! Image data on its way in: while it comes its image is saving, and when it breaks off the image waits for it again.
//!
//! Never decides what an upload is answered: Glance does, once all of it is there.

use std::sync::Arc;

use axum::body::Body;
use futures::StreamExt;

use super::{
    front::Simulator,
    glance::{
        checksum::{Measure, Measured},
        images::ImageStatus,
    },
};

/// Image data that came, and the image's place in the meantime.
pub(crate) struct Upload {
    pub data: Measured,
    /// The image became saving for this upload, and not for another.
    pub first: bool,
    /// Until the upload is answered.
    _saving: Option<Saving>,
}

impl Upload {
    /// Reads it to its end; nothing when it breaks off.
    pub(crate) async fn receive(simulator: &Arc<Simulator>, image: &str, body: Body) -> Option<Self> {
        let saving = Saving::begin(simulator, image);
        let mut measure = Measure::new();
        let mut stream = body.into_data_stream();
        while let Some(chunk) = stream.next().await {
            measure.update(&chunk.ok()?);
        }
        Some(Self { data: measure.finish(), first: saving.is_some(), _saving: saving })
    }
}

/// An image that is saving; dropped, it waits for its data again, unless they made it active meanwhile.
struct Saving {
    simulator: Arc<Simulator>,
    image: String,
}

impl Saving {
    fn begin(simulator: &Arc<Simulator>, image: &str) -> Option<Self> {
        let began = simulator.with(|world, _, now| {
            let waits = world.images.get(image).is_some_and(|image| image.status == ImageStatus::Queued);
            if waits {
                world.images.set_status(image, ImageStatus::Saving, now);
            }
            waits
        });
        began.then(|| Self { simulator: simulator.clone(), image: image.to_owned() })
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.simulator.with(|world, _, now| {
            if world.images.get(&self.image).is_some_and(|image| image.status == ImageStatus::Saving) {
                world.images.set_status(&self.image, ImageStatus::Queued, now);
            }
        });
    }
}
