// Command etcd is etcd's own server. The main package of its release module cannot be required by another
// module (it is all replace directives), so this one calls the same entry point.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
