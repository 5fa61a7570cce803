"""openstacksdk against the cloud of the environment: `sdk.py SUBJECT` prints a line of JSON for each of its steps.

What a step said is for the caller to judge. Where the cloud layer has a call, it is that call.
"""

import json
import sys

import openstack
from openstack import exceptions

NOBODY = "00000000-0000-4000-8000-000000000000"


def say(step, said):
    print(json.dumps({"step": step, "said": said}))


def refused(step, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except exceptions.HttpException as error:
        told = {"kind": type(error).__name__, "status": error.status_code, "words": str(error)}
        print(json.dumps({"step": step, "refused": told}))
    else:
        sys.exit(f"{step}: the cloud did not refuse it")


def names(things):
    return sorted(thing.name for thing in things)


def describe_server(server):
    return {
        "id": server.id,
        "name": server.name,
        "status": server.status,
        "image": server.image.id,
        "flavor": server.flavor.name,
        "addresses": [address["addr"] for held in server.addresses.values() for address in held],
        "metadata": server.metadata,
        "key": server.key_name,
    }


def server(cloud, given):
    cloud.create_keypair("ci", given["publicKey"])
    made = cloud.create_server(
        "web", image="debian-13", flavor="small", network="private", key_name="ci", meta={"job": "7"}, auto_ip=False, wait=True
    )
    say("create", describe_server(made))
    say("show", describe_server(cloud.get_server("web")))
    say("list", names(cloud.list_servers()))
    say("find", names(cloud.compute.servers(name="^web$")))
    refused("missing", cloud.compute.get_server, NOBODY)
    flavor, network = cloud.get_flavor("small"), cloud.get_network("private")
    refused(
        "without-image",
        cloud.compute.create_server,
        name="none",
        image_id=NOBODY,
        flavor_id=flavor.id,
        networks=[{"uuid": network.id}],
    )
    say("delete", cloud.delete_server("web", wait=True))
    say("list-after", names(cloud.list_servers()))


def describe_image(image):
    return {
        "id": image.id,
        "name": image.name,
        "status": image.status,
        "visibility": image.visibility,
        "format": image.disk_format,
        "size": image.size,
        "hash": image.hash_value,
        "build": image.properties["build"],
    }


def image(cloud, given):
    made = cloud.create_image(
        "golden",
        filename=given["image"],
        disk_format="raw",
        container_format="bare",
        visibility="private",
        build="41",
        wait=True,
    )
    say("create", describe_image(made))
    say("show", describe_image(cloud.get_image("golden")))
    say("list", names(cloud.image.images(limit=1)))
    say("find", names(cloud.search_images("golden")))
    refused("missing", cloud.image.get_image, NOBODY)
    made = cloud.image.update_image(made, is_protected=True)
    refused("delete-protected", cloud.image.delete_image, made.id)
    cloud.image.update_image(made, is_protected=False)
    say("delete", cloud.delete_image("golden", wait=True))
    say("list-after", names(cloud.list_images()))


def describe_key_pair(key_pair):
    return {"name": key_pair.name, "key": key_pair.public_key, "fingerprint": key_pair.fingerprint}


def key_pair(cloud, given):
    say("create", describe_key_pair(cloud.create_keypair("ci", given["publicKey"])))
    refused("duplicate", cloud.create_keypair, "ci", given["publicKey"])
    say("show", describe_key_pair(cloud.get_keypair("ci")))
    generated = cloud.create_keypair("generated")
    say("generate", {"name": generated.name, "key": generated.public_key, "private": generated.private_key})
    say("list", names(cloud.list_keypairs()))
    refused("missing", cloud.compute.get_keypair, "nobody")
    say("delete", cloud.delete_keypair("ci"))
    say("list-after", names(cloud.list_keypairs()))


def describe_port(port):
    return {
        "id": port.id,
        "name": port.name,
        "network": port.network_id,
        "status": port.status,
        "mac": port.mac_address,
        "address": port.fixed_ips[0]["ip_address"],
        "groups": len(port.security_group_ids),
    }


def port(cloud, given):
    network = cloud.get_network("private")
    say("network", network.id)
    made = cloud.create_port(network.id, name="mine")
    say("create", describe_port(made))
    refused("over-quota", cloud.create_port, network.id)
    say("show", describe_port(cloud.get_port("mine")))
    say("list", names(cloud.network.ports(limit=1)))
    say("find", names(cloud.list_ports(filters={"name": "mine"})))
    say("update", cloud.network.update_port(made, description="ours").description)
    refused("missing", cloud.network.get_port, NOBODY)
    say("delete", cloud.delete_port("mine"))
    say("list-after", names(cloud.list_ports()))


def describe_floating_ip(floating_ip):
    return {
        "id": floating_ip.id,
        "address": floating_ip.floating_ip_address,
        "fixed": floating_ip.fixed_ip_address,
        "port": floating_ip.port_id,
        "network": floating_ip.floating_network_id,
    }


def floating_ip(cloud, given):
    say("network", cloud.get_network("public").id)
    network = cloud.get_network("private")
    port = cloud.create_port(network.id, name="mine")
    say("port", {"id": port.id, "address": port.fixed_ips[0]["ip_address"]})
    made = cloud.create_floating_ip(network="public")
    say("create", describe_floating_ip(made))
    say("show", describe_floating_ip(cloud.get_floating_ip(made.id)))
    say("list", sorted(one.floating_ip_address for one in cloud.network.ips(limit=1)))
    found = cloud.list_floating_ips(filters={"floating_ip_address": made.floating_ip_address})
    say("find", [one.floating_ip_address for one in found])
    say("update", cloud.network.update_ip(made, description="ours").description)
    say("attach", describe_floating_ip(cloud.network.update_ip(made, port_id=port.id)))
    refused("attach-second", cloud.network.create_ip, floating_network_id=made.floating_network_id, port_id=port.id)
    say("detach", describe_floating_ip(cloud.network.update_ip(made, port_id=None)))
    refused("missing", cloud.network.get_ip, NOBODY)
    say("delete", cloud.delete_floating_ip(made.id))
    say("list-after", sorted(one.floating_ip_address for one in cloud.list_floating_ips()))


def server_tags(cloud):
    compute = cloud.compute
    held = compute.create_server(
        name="tagged",
        image_id=cloud.get_image("debian-13").id,
        flavor_id=cloud.get_flavor("small").id,
        networks=[{"uuid": cloud.get_network("private").id}],
        tags=["boot"],
    )
    held = compute.wait_for_server(held)
    say("server-create", held.tags)
    held.set_tags(compute, ["a", "b"])
    compute.add_tag_to_server(held, "c")
    say("server-list", sorted(held.fetch_tags(compute).tags))
    say("server-find", names(compute.servers(tags="a,c")))
    compute.remove_tag_from_server(held, "b")
    say("server-remove", sorted(compute.get_server(held).tags))
    refused("server-missing", compute.remove_tag_from_server, held, "b")
    compute.remove_tags_from_server(held)
    say("server-clear", compute.get_server(held).tags)


def port_tags(cloud):
    network = cloud.network
    held = cloud.create_port(cloud.get_network("private").id, name="tagged")
    say("port-create", held.tags)
    network.set_tags(held, ["a", "b"])
    network.add_tag(held, "c")
    say("port-list", sorted(network.get_tags(held)))
    say("port-find", names(network.ports(tags="a,c")))
    network.remove_tag(held, "b")
    say("port-remove", sorted(network.get_port(held.id).tags))
    refused("port-missing", network.remove_tag, held, "b")
    network.remove_all_tags(held)
    say("port-clear", network.get_port(held.id).tags)


def image_tags(cloud):
    images = cloud.image
    held = images.create_image("tagged", disk_format="raw", container_format="bare", tags=["boot"])
    say("image-create", held.tags)
    images.update_image(held.id, tags=["a", "b"])
    images.add_tag(held, "c")
    say("image-list", sorted(images.get_image(held.id).tags))
    say("image-find", names(images.images(tag="c")))
    images.remove_tag(held, "b")
    say("image-remove", sorted(images.get_image(held.id).tags))
    refused("image-missing", images.remove_tag, held, "b")
    images.update_image(held.id, tags=[])
    say("image-clear", images.get_image(held.id).tags)
    # Of an image that it holds, the SDK sends the difference of the two lists.
    refused("image-difference", images.update_image, images.get_image(held.id), tags=["a"])


def tags(cloud, given):
    server_tags(cloud)
    port_tags(cloud)
    image_tags(cloud)


SUBJECTS = [server, image, key_pair, port, floating_ip, tags]

if __name__ == "__main__":
    subject = {subject.__name__: subject for subject in SUBJECTS}[sys.argv[1]]
    subject(openstack.connect(), json.loads(sys.argv[2]))
