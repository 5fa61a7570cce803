package main

import "github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"

func describeFloatingIP(floatingIP *floatingips.FloatingIP) fields {
	return fields{
		"id": floatingIP.ID, "address": floatingIP.FloatingIP, "fixed": orNull(floatingIP.FixedIP),
		"port": orNull(floatingIP.PortID), "network": floatingIP.FloatingNetworkID,
	}
}

// Gophercloud makes the empty string of null; other clients do not.
func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func (c *cloud) floatingIPsBy(opts floatingips.ListOpts) []string {
	held := all(c, floatingips.List(c.network, opts), floatingips.ExtractFloatingIPs)
	return sorted(held, func(floatingIP floatingips.FloatingIP) string { return floatingIP.FloatingIP })
}

func (c *cloud) changeFloatingIP(id string, change floatingips.UpdateOpts) *floatingips.FloatingIP {
	return must(floatingips.Update(c, c.network, id, change).Extract())
}

func floatingIP(c *cloud, _ given) {
	network := c.networkNamed("public").ID
	say("network", network)
	port := c.newPort("mine")
	say("port", fields{"id": port.ID, "address": port.FixedIPs[0].IPAddress})
	made := must(floatingips.Create(c, c.network, floatingips.CreateOpts{FloatingNetworkID: network}).Extract())
	say("create", describeFloatingIP(made))
	say("show", describeFloatingIP(must(floatingips.Get(c, c.network, made.ID).Extract())))
	say("list", c.floatingIPsBy(floatingips.ListOpts{Limit: 1}))
	say("find", c.floatingIPsBy(floatingips.ListOpts{FloatingIP: made.FloatingIP}))
	description, none := "ours", ""
	say("update", c.changeFloatingIP(made.ID, floatingips.UpdateOpts{Description: &description}).Description)
	say("attach", describeFloatingIP(c.changeFloatingIP(made.ID, floatingips.UpdateOpts{PortID: &port.ID})))
	second := floatingips.CreateOpts{FloatingNetworkID: network, PortID: port.ID}
	_, err := floatingips.Create(c, c.network, second).Extract()
	refused("attach-second", err)
	say("detach", describeFloatingIP(c.changeFloatingIP(made.ID, floatingips.UpdateOpts{PortID: &none})))
	_, err = floatingips.Get(c, c.network, nobody).Extract()
	refused("missing", err)
	check(floatingips.Delete(c, c.network, made.ID).ExtractErr())
	say("delete", true)
	say("list-after", c.floatingIPsBy(floatingips.ListOpts{}))
}
