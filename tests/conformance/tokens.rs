//! A Keystone that hands log-ins on and remembers the last token that was given: to revoke the very token that a
//! client holds. Never changes what it passes.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::side::{Identity, Side};

/// What was seen.
#[derive(Default)]
pub struct Watched(Mutex<String>);

impl Watched {
    pub fn last(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

/// Its address, to stand where the clouds.yaml names Keystone's.
pub async fn listen(side: &Side, watched: Arc<Watched>) -> String {
    let (http, url) = (side.http.clone(), side.url(Identity) + "/auth/tokens");
    let log_in = async move |body: Bytes| -> Response {
        let request = http.post(&url).header("content-type", "application/json").body(body);
        let answer = request.send().await.unwrap();
        let status = StatusCode::from_u16(answer.status().as_u16()).unwrap();
        let token = answer.headers()["x-subject-token"].to_str().unwrap().to_owned();
        watched.0.lock().unwrap().clone_from(&token);
        let headers = [("x-subject-token", token), ("content-type", "application/json".to_owned())];
        (status, headers, answer.bytes().await.unwrap()).into_response()
    };
    let app = Router::new().route("/v3/auth/tokens", axum::routing::post(log_in));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/v3", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}
