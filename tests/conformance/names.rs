//! What may be in a name, and how long it may be: at each limit, and one beyond.
//!
//! Of a boot, the form is checked before what it refers to: one of an image that is nowhere tells whether its form is
//! good, and builds nothing.

use serde_json::{Value, json};

use super::reply::Reply;
use super::side::{Compute, Image, NOBODY, Network, Side};

/// Spaces, quotes, what is special in URLs, SQL, HTML and shells, several scripts.
const ODD: &str = "a b'c\"d%41&e=f?g#h/i\\j<k>;l--m(n)[o]{p}*|^$ Ünïcödé 名前 имя";

async fn try_boot(side: &Side, extra: Value) -> Reply {
    let mut extra = extra;
    extra["imageRef"] = NOBODY.into();
    side.boot("x", extra).await
}

async fn is_good(side: &Side, extra: Value) {
    try_boot(side, extra).await.nova(400, "Can not find requested image");
}

async fn rename(side: &Side, name: &str) -> Reply {
    let machine = side.machine().await;
    let reply = side.put(Compute, &machine.path, json!({"server": {"name": name}})).await;
    side.put(Compute, &machine.path, json!({"server": {"name": "conformance-2"}})).await.expect(200);
    reply
}

async fn a_server_may_be_named_oddly(side: &Side) {
    assert_eq!(rename(side, ODD).await.expect(200).at("/server/name"), ODD);
}

async fn a_server_s_name_has_at_most_255_characters(side: &Side) {
    is_good(side, json!({"name": "名".repeat(255)})).await;
    try_boot(side, json!({"name": "x".repeat(256)})).await.invalid("name", "' is too long");
}

async fn a_server_s_name_is_not_empty(side: &Side) {
    try_boot(side, json!({"name": ""})).await.expect(400);
    try_boot(side, json!({"name": "   "})).await.expect(400);
    try_boot(side, json!({"name": 7})).await.invalid("name", "7 is not of type 'string'");
}

async fn a_server_s_name_has_no_space_around_it(side: &Side) {
    for name in [" x", "x ", "x\ny", "x\u{7}y"] {
        let message = "An invalid 'name' value was provided. The name must be: printable characters. Can not start or end \
                       with whitespace.";
        try_boot(side, json!({"name": name})).await.nova(400, message);
    }
}

async fn an_odd_name_is_found_again(side: &Side) {
    let name = side.name("a.b+c (d)");
    let id = side.booted(&name, json!({})).await;
    let pattern = "%5E".to_owned()
        + &name
            .replace('.', "%5C.")
            .replace('+', "%5C%2B")
            .replace('(', "%5C(")
            .replace(')', "%5C)")
            .replace(' ', "%20")
        + "%24";
    let found = side.get(Compute, &format!("/servers?name={pattern}")).await.expect(200);
    assert_eq!(found.each("servers", "id"), [id]);
}

async fn a_description_has_at_most_255_characters(side: &Side) {
    is_good(side, json!({"description": "é".repeat(255)})).await;
    try_boot(side, json!({"description": "x".repeat(256)})).await.invalid("description", "' is too long");
    is_good(side, json!({"description": ""})).await;
}

async fn metadata_values_have_at_most_255_characters(side: &Side) {
    is_good(side, json!({"metadata": {"k": "é".repeat(255), "empty": "", "odd": ODD}})).await;
    try_boot(side, json!({"metadata": {"k": "x".repeat(256)}})).await.invalid("k", "' is too long");
}

async fn metadata_values_are_text(side: &Side) {
    try_boot(side, json!({"metadata": {"k": 1}})).await.invalid("k", "1 is not of type 'string'");
    try_boot(side, json!({"metadata": {"k": null}})).await.invalid("k", "None is not of type 'string'");
}

async fn metadata_keys_are_letters_digits_and_a_few_signs(side: &Side) {
    is_good(side, json!({"metadata": {"a-b_c:d.e f9": "v"}})).await;
    is_good(side, json!({"metadata": {"k".repeat(255): "v"}})).await;
    for key in ["a/b", "ü", "", "a,b", "a=b"] {
        let reply = try_boot(side, json!({"metadata": {key: "v"}})).await.expect(400);
        assert!(reply.at("/badRequest/message").contains("does not match any of the regexes"), "{key:?}: {reply}");
    }
    try_boot(side, json!({"metadata": {"k".repeat(256): "v"}})).await.expect(400);
}

async fn metadata_of_a_server_that_is_there_follow_the_same_rules(side: &Side) {
    let machine = side.machine().await;
    let path = machine.path.clone() + "/metadata";
    let post = async |metadata: Value| side.post(Compute, &path, json!({"metadata": metadata})).await;
    let odd = post(json!({"case": ODD})).await.expect(200);
    assert_eq!(odd.at("/metadata/case"), ODD);
    post(json!({"case": "x".repeat(256)})).await.invalid("case", "' is too long");
    post(json!({"case": 1})).await.invalid("case", "1 is not of type 'string'");
    let many: serde_json::Map<String, Value> = (0..129).map(|index| (format!("k{index}"), json!("v"))).collect();
    post(Value::Object(many)).await.nova(403, "Maximum number of metadata items exceeds 128");
    side.delete(Compute, &format!("{path}/case")).await.empty(204);
}

async fn tags_have_at_most_60_characters(side: &Side) {
    is_good(side, json!({"tags": ["é".repeat(60), "a=b", "a b", "nodepool_owner=ns:x"]})).await;
    try_boot(side, json!({"tags": ["x".repeat(61)]})).await.invalid("0", "' is too long");
}

async fn tags_have_neither_comma_nor_slash(side: &Side) {
    for tag in ["a,b", "a/b"] {
        try_boot(side, json!({"tags": [tag]})).await.invalid("0", "' does not match '^[^,/]*$'");
    }
    try_boot(side, json!({"tags": [""]})).await.expect(400);
    try_boot(side, json!({"tags": [1]})).await.invalid("0", "1 is not of type 'string'");
}

async fn there_are_at_most_50_tags(side: &Side) {
    let tags = |count: usize| -> Value { (0..count).map(|index| format!("t{index}")).collect() };
    is_good(side, json!({"tags": tags(50)})).await;
    try_boot(side, json!({"tags": tags(51)})).await.invalid("tags", "is too long");
}

async fn an_odd_tag_is_kept(side: &Side) {
    let machine = side.machine().await;
    let tag = "näme=名 x&y?z";
    let plain = "name=x y&z?";
    let path = machine.path.clone() + "/tags";
    side.put(Compute, &path, json!({"tags": [plain, tag]})).await.is(200, &json!({"tags": [plain, tag]}));
    assert_eq!(side.show(&machine.id).await["tags"], json!([plain, tag]));
    let one = format!("{path}/name=x%20y%26z%3F");
    side.get(Compute, &one).await.empty(204);
    side.delete(Compute, &path).await.empty(204);
}

async fn user_data_have_at_most_64_kib_once_encoded(side: &Side) {
    is_good(side, json!({"user_data": "A".repeat(65_532)})).await;
    try_boot(side, json!({"user_data": "A".repeat(65_536)})).await.invalid("user_data", "' is too long");
}

async fn user_data_is_text(side: &Side) {
    try_boot(side, json!({"user_data": 7})).await.expect(400);
}

async fn key_pairs_are_named_plainly(side: &Side) {
    let make = async |name: &str| {
        let wanted = json!({"keypair": {"name": name, "public_key": super::things::PUBLIC_KEY}});
        side.post(Compute, "/os-keypairs", wanted).await
    };
    let good = side.name("a_b-c.d@e f");
    make(&good).await.expect(201);
    side.later(Compute, format!("/os-keypairs/{}", good.replace(' ', "%20")));
    for bad in ["a/b", "ü", ""] {
        make(bad).await.expect(400);
    }
}

async fn before_2_92_names_of_key_pairs_are_plainer(side: &Side) {
    let make = async |name: &str| {
        let wanted = json!({"keypair": {"name": name, "public_key": super::things::PUBLIC_KEY}});
        side.ask(reqwest::Method::POST, Compute, "/os-keypairs").no_version().json(&wanted).send().await
    };
    let good = side.name("a_b-c");
    make(&good).await.expect(200);
    side.later(Compute, format!("/os-keypairs/{good}"));
    for bad in ["a.b", "a@b"] {
        make(bad).await.expect(400);
    }
}

async fn key_pairs_need_a_key_and_have_one_name(side: &Side) {
    let name = side.name("key");
    let make = async |pair: Value| side.post(Compute, "/os-keypairs", json!({"keypair": pair})).await;
    make(json!({"name": name})).await.invalid("keypair", "'public_key' is a required property");
    let reply = make(json!({"name": name, "public_key": "nonsense"})).await;
    reply.nova(400, "Keypair data is invalid: failed to generate fingerprint");
    let pair = json!({"name": name, "public_key": super::things::PUBLIC_KEY});
    make(pair.clone()).await.expect(201);
    side.later(Compute, format!("/os-keypairs/{name}"));
    make(pair).await.nova(409, &format!("Key pair '{name}' already exists."));
    let path = "/os-keypairs/nobody";
    let reply = side.delete(Compute, path).await.expect(404);
    assert!(reply.at("/itemNotFound/message").starts_with("Keypair nobody not found for user "), "{reply}");
}

async fn an_image_may_be_named_oddly(side: &Side) {
    let name = format!("{ODD} {}", side.name("image"));
    let id = side.image(json!({"name": name})).await;
    let url = reqwest::Url::parse_with_params(&(side.url(Image) + "/images"), [("name", &name)]).unwrap();
    let found = side.get(Image, url.as_str()).await.expect(200);
    assert_eq!((found.each("images", "id"), found.each("images", "name")), (vec![id], vec![name]));
}

async fn an_image_s_name_has_at_most_255_characters(side: &Side) {
    side.image(json!({"name": "é".repeat(255)})).await;
    side.post(Image, "/images", json!({"name": "x".repeat(256)})).await.glance(400, "is too long");
}

async fn an_image_may_have_no_name(side: &Side) {
    let id = side.image(json!({"name": null})).await;
    assert_eq!(side.get(Image, &format!("/images/{id}")).await.expect(200).json()["name"], Value::Null);
}

async fn an_image_s_property_may_be_long(side: &Side) {
    let long = "x".repeat(4000);
    let id = side.image(json!({"note": long, "odd": ODD})).await;
    let image = side.get(Image, &format!("/images/{id}")).await.expect(200).json();
    assert_eq!((&image["note"], &image["odd"]), (&json!(long), &json!(ODD)));
}

async fn an_image_s_tags_have_at_most_255_characters(side: &Side) {
    side.image(json!({"tags": ["x".repeat(255)]})).await;
    side.post(Image, "/images", json!({"name": "x", "tags": ["x".repeat(256)]})).await.glance(400, "is too long");
}

async fn a_port_s_name_has_at_most_255_characters(side: &Side) {
    let port = side.port(json!({"name": "é".repeat(255), "description": ODD})).await;
    assert_eq!(port["description"], ODD);
    let wanted = json!({"port": {"network_id": side.given().await.private, "name": "x".repeat(256)}});
    let long = "x".repeat(256);
    let message = format!("Invalid input for name. Reason: '{long}' exceeds maximum length of 255.");
    side.post(Network, "/ports", wanted).await.neutron(400, "HTTPBadRequest", &message);
}

async fn a_description_in_neutron_has_at_most_255_characters(side: &Side) {
    side.floating_ip(json!({"description": "é".repeat(255)})).await.expect(201);
    let long = "x".repeat(256);
    let message = format!("Invalid input for description. Reason: '{long}' exceeds maximum length of 255.");
    side.floating_ip(json!({"description": long})).await.neutron(400, "HTTPBadRequest", &message);
}

async fn a_port_s_tags_have_limits(side: &Side) {
    let port = side.port(json!({})).await;
    let path = format!("/ports/{}/tags", port["id"].as_str().unwrap());
    let put = async |tag: &str| side.put(Network, &path, json!({"tags": [tag]})).await;
    put("nodepool_owner=ns:x é").await.expect(200);
    put(&"x".repeat(255)).await.expect(200);
    put(&"x".repeat(256)).await.expect(400);
}

conformance!(shared:
    a_server_may_be_named_oddly,
    a_server_s_name_has_at_most_255_characters,
    a_server_s_name_is_not_empty,
    a_server_s_name_has_no_space_around_it,
    an_odd_name_is_found_again,
    a_description_has_at_most_255_characters,
    metadata_values_have_at_most_255_characters,
    metadata_values_are_text,
    metadata_keys_are_letters_digits_and_a_few_signs,
    metadata_of_a_server_that_is_there_follow_the_same_rules,
    tags_have_at_most_60_characters,
    tags_have_neither_comma_nor_slash,
    there_are_at_most_50_tags,
    an_odd_tag_is_kept,
    user_data_have_at_most_64_kib_once_encoded,
    user_data_is_text,
    key_pairs_are_named_plainly,
    before_2_92_names_of_key_pairs_are_plainer,
    key_pairs_need_a_key_and_have_one_name,
    an_image_may_be_named_oddly,
    an_image_s_name_has_at_most_255_characters,
    an_image_may_have_no_name,
    an_image_s_property_may_be_long,
    an_image_s_tags_have_at_most_255_characters,
    a_port_s_name_has_at_most_255_characters,
    a_description_in_neutron_has_at_most_255_characters,
    a_port_s_tags_have_limits,
);
