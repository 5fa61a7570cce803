// Gophercloud against the cloud of the environment: `gophercloud SUBJECT GIVEN` prints a line of JSON for each of its
// steps. What a step said is for the caller to judge.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/pagination"
)

const nobody = "00000000-0000-4000-8000-000000000000"

// What the caller has and wants used.
type given struct {
	PublicKey string `json:"publicKey"`
	Image     string `json:"image"`
}

type cloud struct {
	context.Context
	compute, image, network *gophercloud.ServiceClient
}

func connect(ctx context.Context) *cloud {
	auth, endpoint, tls, err := clouds.Parse()
	check(err)
	provider := must(config.NewProviderClient(ctx, auth, config.WithTLSConfig(tls)))
	compute := must(openstack.NewComputeV2(provider, endpoint))
	compute.Microversion = "2.90"
	return &cloud{
		Context: ctx,
		compute: compute,
		image:   must(openstack.NewImageV2(provider, endpoint)),
		network: must(openstack.NewNetworkV2(provider, endpoint)),
	}
}

func main() {
	subjects := map[string]func(*cloud, given){
		"server": server, "image": image, "key_pair": keyPair, "port": port, "floating_ip": floatingIP, "tags": tags,
	}
	if len(os.Args) != 3 || subjects[os.Args[1]] == nil {
		log.Fatal("usage: gophercloud SUBJECT GIVEN")
	}
	var had given
	check(json.Unmarshal([]byte(os.Args[2]), &had))
	subjects[os.Args[1]](connect(context.Background()), had)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

type fields map[string]any

func emit(line fields) {
	check(json.NewEncoder(os.Stdout).Encode(line))
}

func say(step string, said any) {
	emit(fields{"step": step, "said": said})
}

func refused(step string, err error) {
	var answer gophercloud.ErrUnexpectedResponseCode
	if !errors.As(err, &answer) {
		log.Fatalf("%s: the cloud did not refuse it, but: %v", step, err)
	}
	told := fields{"kind": fmt.Sprintf("%T", answer), "status": answer.Actual, "words": string(answer.Body)}
	emit(fields{"step": step, "refused": told})
}

// All that a list has, over all its pages.
func all[T any](ctx context.Context, pager pagination.Pager, extract func(pagination.Page) ([]T, error)) []T {
	return must(extract(must(pager.AllPages(ctx))))
}

func sorted[T any](things []T, name func(T) string) []string {
	names := []string{}
	for _, thing := range things {
		names = append(names, name(thing))
	}
	slices.Sort(names)
	return names
}

// The only one of its name.
func only[T any](name string, things []T) T {
	if len(things) != 1 {
		log.Fatalf("%d things have the name %s", len(things), name)
	}
	return things[0]
}

func (c *cloud) networkNamed(name string) networks.Network {
	pager := networks.List(c.network, networks.ListOpts{Name: name})
	return only(name, all(c, pager, networks.ExtractNetworks))
}

func (c *cloud) imageNamed(name string) images.Image {
	return only(name, all(c, images.List(c.image, images.ListOpts{Name: name}), images.ExtractImages))
}
