package main

import "github.com/gophercloud/gophercloud/v2/openstack/compute/v2/keypairs"

func describeKeyPair(keyPair *keypairs.KeyPair) fields {
	return fields{"name": keyPair.Name, "key": keyPair.PublicKey, "fingerprint": keyPair.Fingerprint}
}

func (c *cloud) keyPairs() []string {
	held := all(c, keypairs.List(c.compute, keypairs.ListOpts{}), keypairs.ExtractKeyPairs)
	return sorted(held, func(keyPair keypairs.KeyPair) string { return keyPair.Name })
}

func keyPair(c *cloud, given given) {
	ours := keypairs.CreateOpts{Name: "ci", PublicKey: given.PublicKey}
	say("create", describeKeyPair(must(keypairs.Create(c, c.compute, ours).Extract())))
	_, err := keypairs.Create(c, c.compute, ours).Extract()
	refused("duplicate", err)
	say("show", describeKeyPair(must(keypairs.Get(c, c.compute, "ci", keypairs.GetOpts{}).Extract())))
	generated := must(keypairs.Create(c, c.compute, keypairs.CreateOpts{Name: "generated"}).Extract())
	say("generate", fields{"name": generated.Name, "key": generated.PublicKey, "private": generated.PrivateKey})
	say("list", c.keyPairs())
	_, err = keypairs.Get(c, c.compute, "nobody", keypairs.GetOpts{}).Extract()
	refused("missing", err)
	check(keypairs.Delete(c, c.compute, "ci", keypairs.DeleteOpts{}).ExtractErr())
	say("delete", true)
	say("list-after", c.keyPairs())
}
