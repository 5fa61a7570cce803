package main

import "github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

func describePort(port *ports.Port) fields {
	return fields{
		"id": port.ID, "name": port.Name, "network": port.NetworkID, "status": port.Status, "mac": port.MACAddress,
		"address": port.FixedIPs[0].IPAddress, "groups": len(port.SecurityGroups),
	}
}

func portName(port ports.Port) string { return port.Name }

func (c *cloud) portsBy(opts ports.ListOpts) []string {
	return sorted(all(c, ports.List(c.network, opts), ports.ExtractPorts), portName)
}

func (c *cloud) newPort(name string) *ports.Port {
	return must(ports.Create(c, c.network, ports.CreateOpts{Name: name, NetworkID: c.networkNamed("private").ID}).Extract())
}

func port(c *cloud, _ given) {
	network := c.networkNamed("private").ID
	say("network", network)
	made := c.newPort("mine")
	say("create", describePort(made))
	_, err := ports.Create(c, c.network, ports.CreateOpts{NetworkID: network}).Extract()
	refused("over-quota", err)
	say("show", describePort(must(ports.Get(c, c.network, made.ID).Extract())))
	say("list", c.portsBy(ports.ListOpts{Limit: 1}))
	say("find", c.portsBy(ports.ListOpts{Name: "mine"}))
	description := "ours"
	changed := must(ports.Update(c, c.network, made.ID, ports.UpdateOpts{Description: &description}).Extract())
	say("update", changed.Description)
	_, err = ports.Get(c, c.network, nobody).Extract()
	refused("missing", err)
	check(ports.Delete(c, c.network, made.ID).ExtractErr())
	say("delete", true)
	say("list-after", c.portsBy(ports.ListOpts{}))
}
