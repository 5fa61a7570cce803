//! What cases ask for and make on either side: flavors, images and networks by name, servers, ports, images.

use serde_json::{Value, json};
use tokio::sync::{Mutex as Turn, MutexGuard, OnceCell};

use super::reply::Reply;
use super::side::{Compute, Image, Network, Side};

/// A key that nobody has the other half of.
pub const PUBLIC_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFbgsHmjjMGkB3cntXbSsB1uXnzsiQnxEWZkswjdL0M1 conformance";

/// Ids of what both clouds have from the beginning.
#[derive(Clone)]
pub struct Given {
    flavors: Vec<Value>,
    pub image: String,
    pub private: String,
    pub public: String,
}

impl Given {
    pub fn flavor(&self, name: &str) -> String {
        let found = self.flavors.iter().find(|flavor| flavor["name"] == name);
        found.unwrap_or_else(|| panic!("no flavor {name}"))["id"].as_str().unwrap().to_owned()
    }
}

/// The servers that all cases of a side share: booted once, and found again by the next run.
const LASTING: &str = "conformance";

static LASTING_SERVERS: [OnceCell<Vec<String>>; 2] = [const { OnceCell::const_new() }; 2];
static TURNS: [Turn<()>; 2] = [const { Turn::const_new(()) }; 2];
static GIVEN: [OnceCell<Given>; 2] = [const { OnceCell::const_new() }; 2];

/// A shared server that no other case touches meanwhile.
pub struct Machine {
    pub id: String,
    pub path: String,
    _turn: MutexGuard<'static, ()>,
}

impl Side {
    pub async fn given(&self) -> &'static Given {
        let cell = &GIVEN[self.kind as usize];
        cell.get_or_init(|| async {
            let flavors = self.get(Compute, "/flavors/detail").await.expect(200).json()["flavors"].clone();
            let network = async |name: &str| {
                self.get(Network, &format!("/networks?name={name}")).await.expect(200).at("/networks/0/id")
            };
            Given {
                flavors: flavors.as_array().unwrap().clone(),
                image: self.get(Image, "/images?name=debian-13").await.expect(200).at("/images/0/id"),
                private: network("private").await,
                public: network("public").await,
            }
        })
        .await
    }

    /// The body of a boot that can only succeed, with these attributes above it; null takes one out.
    pub async fn boot_body(&self, name: &str, extra: Value) -> Value {
        let given = self.given().await;
        let mut server = json!({
            "name": name, "flavorRef": given.flavor("nano"), "imageRef": given.image,
            "networks": [{"uuid": given.private}],
        });
        for (key, value) in extra.as_object().unwrap() {
            if value.is_null() {
                server.as_object_mut().unwrap().remove(key);
            } else {
                server[key] = value.clone();
            }
        }
        json!({"server": server})
    }

    /// One boot; its server goes when the case ends.
    pub async fn boot(&self, name: &str, extra: Value) -> Reply {
        let body = self.boot_body(name, extra).await;
        let reply = self.post(Compute, "/servers", body).await;
        if reply.status == 202
            && let Some(id) = reply.json()["server"]["id"].as_str()
        {
            self.later(Compute, format!("/servers/{id}"));
        }
        reply
    }

    /// The id of a server that was taken.
    pub async fn booted(&self, name: &str, extra: Value) -> String {
        self.boot(name, extra).await.expect(202).at("/server/id")
    }

    pub async fn show(&self, id: &str) -> Value {
        self.get(Compute, &format!("/servers/{id}")).await.expect(200).json()["server"].clone()
    }

    /// The server once it has this status and nothing is under way.
    pub async fn settled(&self, id: &str, status: &str) -> Value {
        let settled = |reply: &Reply| {
            let server = &reply.json()["server"];
            reply.status != 200
                || server["OS-EXT-STS:task_state"].is_null()
                    && [status, "ERROR"].iter().any(|end| server["status"] == *end)
        };
        let reply = self.until(Compute, &format!("/servers/{id}"), settled).await.expect(200);
        assert_eq!(reply.json()["server"]["status"], status, "{reply}");
        reply.json()["server"].clone()
    }

    pub async fn active(&self, id: &str) -> Value {
        self.settled(id, "ACTIVE").await
    }

    /// Until its host builds it: before that, a real Nova knows it for a GET and not for an action.
    pub async fn spawning(&self, id: &str) {
        let spawns = |reply: &Reply| reply.json()["server"]["OS-EXT-STS:task_state"] == "spawning";
        self.until(Compute, &format!("/servers/{id}"), spawns).await;
    }

    pub async fn gone(&self, id: &str) -> Reply {
        self.until(Compute, &format!("/servers/{id}"), |reply| reply.status == 404).await
    }

    pub async fn act(&self, id: &str, action: Value) -> Reply {
        self.post(Compute, &format!("/servers/{id}/action"), action).await
    }

    /// Three servers that stay: the first is only looked at, the second lent to one case at a time, the third left alone.
    pub async fn lasting(&self) -> &'static [String] {
        let found = async || {
            let path = format!("/servers/detail?name=^{LASTING}-[123]$&sort_key=display_name&sort_dir=asc");
            self.get(Compute, &path).await.expect(200)
        };
        let cell = &LASTING_SERVERS[self.kind as usize];
        let ids = cell.get_or_init(|| async {
            let held = found().await;
            if held.each("servers", "status") == ["ACTIVE"; 3] {
                return held.each("servers", "id");
            }
            for id in held.each("servers", "id") {
                self.delete(Compute, &format!("/servers/{id}")).await;
                self.gone(&id).await;
            }
            let extra = json!({"flavorRef": self.given().await.flavor("tiny"), "min_count": 3, "max_count": 3});
            let body = self.boot_body(LASTING, extra).await;
            self.post(Compute, "/servers", body).await.expect(202);
            let ids = found().await.each("servers", "id");
            for id in &ids {
                self.active(id).await;
            }
            ids
        });
        ids.await
    }

    /// An ACTIVE server that no case changes.
    pub async fn server(&self) -> &'static str {
        &self.lasting().await[0]
    }

    /// An ACTIVE server that this case may change, and leaves as it was.
    pub async fn machine(&self) -> Machine {
        let turn = TURNS[self.kind as usize].lock().await;
        let id = self.lasting().await[1].clone();
        // A case that failed may have left it so.
        if self.show(&id).await["status"] == "SHUTOFF" {
            self.act(&id, json!({"os-start": null})).await;
        }
        self.active(&id).await;
        Machine { path: format!("/servers/{id}"), id, _turn: turn }
    }

    /// A new port, with these attributes.
    pub async fn port(&self, extra: Value) -> Value {
        let mut port = json!({"network_id": self.given().await.private, "name": self.name("port")});
        extra.as_object().unwrap().iter().for_each(|(key, value)| port[key] = value.clone());
        let reply = self.post(Network, "/ports", json!({"port": port})).await.expect(201);
        self.later(Network, format!("/ports/{}", reply.at("/port/id")));
        reply.json()["port"].clone()
    }

    /// A new port with these tags, which take a call of their own.
    pub async fn tagged_port(&self, tags: &[&str]) -> Value {
        let port = self.port(json!({})).await;
        let path = format!("/ports/{}/tags", port["id"].as_str().unwrap());
        self.put(Network, &path, json!({"tags": tags})).await.expect(200);
        port
    }

    /// A new floating address, with these attributes.
    pub async fn floating_ip(&self, extra: Value) -> Reply {
        let mut wanted = json!({"floating_network_id": self.given().await.public});
        extra.as_object().unwrap().iter().for_each(|(key, value)| wanted[key] = value.clone());
        let reply = self.post(Network, "/floatingips", json!({"floatingip": wanted})).await;
        if reply.status == 201 {
            self.later(Network, format!("/floatingips/{}", reply.at("/floatingip/id")));
        }
        reply
    }

    /// The id of a new image that waits for its data.
    pub async fn image(&self, extra: Value) -> String {
        let mut image = json!({"name": self.name("image"), "disk_format": "raw", "container_format": "bare"});
        extra.as_object().unwrap().iter().for_each(|(key, value)| image[key] = value.clone());
        let id = self.post(Image, "/images", image).await.expect(201).at("/id");
        self.later(Image, format!("/images/{id}"));
        id
    }

    pub async fn upload(&self, id: &str, data: impl Into<reqwest::Body>) -> Reply {
        let ask = self.ask(reqwest::Method::PUT, Image, &format!("/images/{id}/file"));
        ask.body("application/octet-stream", data).send().await
    }

    /// Changes an image, step by step.
    pub async fn patch(&self, id: &str, steps: Value) -> Reply {
        let ask = self.ask(reqwest::Method::PATCH, Image, &format!("/images/{id}"));
        ask.body("application/openstack-images-v2.1-json-patch", steps.to_string()).send().await
    }
}
