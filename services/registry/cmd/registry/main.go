// Command registry runs a registry with an external etcd.
package main

import (
	"context"
	"os"

	"github.com/supernode-ha/supernode/pkg/process"
	"github.com/supernode-ha/supernode/pkg/settings"
	"github.com/supernode-ha/supernode/services/registry"
)

func main() {
	os.Exit(process.Main("registry", "Store the members of the cluster and the owner, replicas and scheduler of each task", build,
		settings.Registry, settings.Alone))
}

func build(_ context.Context, p *process.Process) error {
	// This command supports only an external etcd.
	p.Settings.UseHA = true
	service, err := registry.New(registry.ConfigFrom(p.Settings), registry.Deps{Logger: p.Log, Metrics: p.Metrics})
	if err != nil {
		return err
	}
	service.Register(p.RPC)
	p.Add("registry", service.Run)
	p.Serve()
	return p.ServeAdmin(service.WaitReady)
}
