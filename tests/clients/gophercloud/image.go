package main

import (
	"os"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
)

func describeImage(image *images.Image) fields {
	return fields{
		"id": image.ID, "name": image.Name, "status": image.Status, "visibility": image.Visibility,
		"format": image.DiskFormat, "size": image.SizeBytes, "hash": image.Properties["os_hash_value"],
		"build": image.Properties["build"],
	}
}

func imageName(image images.Image) string { return image.Name }

func (c *cloud) imagesBy(opts images.ListOpts) []string {
	return sorted(all(c, images.List(c.image, opts), images.ExtractImages), imageName)
}

func (c *cloud) protect(id string, protected bool) {
	must(images.Update(c, c.image, id, images.UpdateOpts{images.ReplaceImageProtected{NewProtected: protected}}).Extract())
}

func image(c *cloud, given given) {
	visibility := images.ImageVisibilityPrivate
	made := must(images.Create(c, c.image, images.CreateOpts{
		Name: "golden", DiskFormat: "raw", ContainerFormat: "bare", Visibility: &visibility,
		Properties: map[string]string{"build": "41"},
	}).Extract())
	data := must(os.Open(given.Image))
	check(imagedata.Upload(c, c.image, made.ID, data).ExtractErr())
	say("create", describeImage(must(images.Get(c, c.image, made.ID).Extract())))
	named := c.imageNamed("golden")
	say("show", describeImage(&named))
	say("list", c.imagesBy(images.ListOpts{Limit: 1}))
	say("find", c.imagesBy(images.ListOpts{Name: "golden"}))
	_, err := images.Get(c, c.image, nobody).Extract()
	refused("missing", err)
	c.protect(made.ID, true)
	refused("delete-protected", images.Delete(c, c.image, made.ID).ExtractErr())
	c.protect(made.ID, false)
	check(images.Delete(c, c.image, made.ID).ExtractErr())
	say("delete", true)
	say("list-after", c.imagesBy(images.ListOpts{}))
}
