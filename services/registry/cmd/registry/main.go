// Command registry runs a registry of its own against an external etcd.
package main

import (
	"context"
	"os"

	"github.com/supernode-ha/supernode/pkg/process"
	"github.com/supernode-ha/supernode/pkg/settings"
	"github.com/supernode-ha/supernode/services/registry"
)

func main() {
	os.Exit(process.Main("registry", "Know the members of the cluster and whom each task belongs to", build,
		settings.Registry, settings.Alone))
}

func build(_ context.Context, p *process.Process) error {
	// A registry that runs alone has no store but the etcd it is told of.
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
