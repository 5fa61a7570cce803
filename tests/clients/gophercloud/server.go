package main

import (
	"errors"
	"log"
	"net/http"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/keypairs"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
)

func describeServer(server *servers.Server) fields {
	addresses := []any{}
	for _, held := range server.Addresses {
		for _, address := range held.([]any) {
			addresses = append(addresses, address.(map[string]any)["addr"])
		}
	}
	return fields{
		"id": server.ID, "name": server.Name, "status": server.Status, "image": server.Image["id"],
		"flavor": server.Flavor["original_name"], "addresses": addresses, "metadata": server.Metadata, "key": server.KeyName,
	}
}

func serverName(server servers.Server) string { return server.Name }

func (c *cloud) serversBy(opts servers.ListOpts) []string {
	return sorted(all(c, servers.List(c.compute, opts), servers.ExtractServers), serverName)
}

// A server that can be booted, of a flavor that is looked up by its name.
func (c *cloud) plan(name string) servers.CreateOpts {
	flavor := ""
	for _, held := range all(c, flavors.ListDetail(c.compute, flavors.ListOpts{}), flavors.ExtractFlavors) {
		if held.Name == "small" {
			flavor = held.ID
		}
	}
	return servers.CreateOpts{
		Name: name, ImageRef: c.imageNamed("debian-13").ID, FlavorRef: flavor,
		Networks: []servers.Network{{UUID: c.networkNamed("private").ID}},
	}
}

func (c *cloud) boot(opts servers.CreateOptsBuilder) *servers.Server {
	made := must(servers.Create(c, c.compute, opts, nil).Extract())
	check(servers.WaitForStatus(c, c.compute, made.ID, "ACTIVE"))
	return must(servers.Get(c, c.compute, made.ID).Extract())
}

func (c *cloud) deleteServer(id string) {
	check(servers.Delete(c, c.compute, id).ExtractErr())
	err := servers.WaitForStatus(c, c.compute, id, "DELETED")
	var answer gophercloud.ErrUnexpectedResponseCode
	if !errors.As(err, &answer) || answer.Actual != http.StatusNotFound {
		log.Fatalf("the server did not go: %v", err)
	}
}

func server(c *cloud, given given) {
	must(keypairs.Create(c, c.compute, keypairs.CreateOpts{Name: "ci", PublicKey: given.PublicKey}).Extract())
	plan := c.plan("web")
	plan.Metadata = map[string]string{"job": "7"}
	made := c.boot(keypairs.CreateOptsExt{CreateOptsBuilder: plan, KeyName: "ci"})
	say("create", describeServer(made))
	say("show", describeServer(must(servers.Get(c, c.compute, made.ID).Extract())))
	say("list", c.serversBy(servers.ListOpts{}))
	say("find", c.serversBy(servers.ListOpts{Name: "^web$"}))
	_, err := servers.Get(c, c.compute, nobody).Extract()
	refused("missing", err)
	plan.ImageRef = nobody
	_, err = servers.Create(c, c.compute, plan, nil).Extract()
	refused("without-image", err)
	c.deleteServer(made.ID)
	say("delete", true)
	say("list-after", c.serversBy(servers.ListOpts{}))
}
