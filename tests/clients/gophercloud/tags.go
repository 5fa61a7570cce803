package main

import (
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	servertags "github.com/gophercloud/gophercloud/v2/openstack/compute/v2/tags"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/attributestags"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
)

func tags(c *cloud, _ given) {
	c.serverTags()
	c.portTags()
	c.imageTags()
}

func inOrder(tags []string) []string {
	return sorted(tags, func(tag string) string { return tag })
}

func (c *cloud) serverTags() {
	plan := c.plan("tagged")
	plan.Tags = []string{"boot"}
	held := c.boot(plan)
	list := func() []string { return inOrder(must(servertags.List(c, c.compute, held.ID).Extract())) }
	say("server-create", held.Tags)
	both := servertags.ReplaceAllOpts{Tags: []string{"a", "b"}}
	must(servertags.ReplaceAll(c, c.compute, held.ID, both).Extract())
	check(servertags.Add(c, c.compute, held.ID, "c").ExtractErr())
	say("server-list", list())
	say("server-find", c.serversBy(servers.ListOpts{Tags: "a,c"}))
	check(servertags.Delete(c, c.compute, held.ID, "b").ExtractErr())
	say("server-remove", list())
	refused("server-missing", servertags.Delete(c, c.compute, held.ID, "b").ExtractErr())
	check(servertags.DeleteAll(c, c.compute, held.ID).ExtractErr())
	say("server-clear", list())
}

func (c *cloud) portTags() {
	held := c.newPort("tagged")
	list := func() []string { return inOrder(must(attributestags.List(c, c.network, "ports", held.ID).Extract())) }
	say("port-create", held.Tags)
	both := attributestags.ReplaceAllOpts{Tags: []string{"a", "b"}}
	must(attributestags.ReplaceAll(c, c.network, "ports", held.ID, both).Extract())
	check(attributestags.Add(c, c.network, "ports", held.ID, "c").ExtractErr())
	say("port-list", list())
	say("port-find", c.portsBy(ports.ListOpts{Tags: "a,c"}))
	check(attributestags.Delete(c, c.network, "ports", held.ID, "b").ExtractErr())
	say("port-remove", list())
	refused("port-missing", attributestags.Delete(c, c.network, "ports", held.ID, "b").ExtractErr())
	check(attributestags.DeleteAll(c, c.network, "ports", held.ID).ExtractErr())
	say("port-clear", list())
}

// Gophercloud has no call for one tag of an image: it replaces them all.
func (c *cloud) imageTags() {
	plan := images.CreateOpts{Name: "tagged", DiskFormat: "raw", ContainerFormat: "bare", Tags: []string{"boot"}}
	held := must(images.Create(c, c.image, plan).Extract())
	replace := func(tags ...string) {
		must(images.Update(c, c.image, held.ID, images.UpdateOpts{images.ReplaceImageTags{NewTags: tags}}).Extract())
	}
	list := func() []string { return inOrder(must(images.Get(c, c.image, held.ID).Extract()).Tags) }
	say("image-create", held.Tags)
	replace("a", "b", "c")
	say("image-list", list())
	say("image-find", c.imagesBy(images.ListOpts{Tags: []string{"c"}}))
	replace("a", "c")
	say("image-remove", list())
	replace([]string{}...)
	say("image-clear", list())
}
