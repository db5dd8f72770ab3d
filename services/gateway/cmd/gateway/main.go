// Command gateway runs a gateway as a process of its own.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/netaddr"
	"github.com/supernode-ha/supernode/pkg/process"
	"github.com/supernode-ha/supernode/pkg/settings"
	"github.com/supernode-ha/supernode/services/gateway"
)

func main() {
	os.Exit(process.Main("gateway", "Answer dfget's REST calls", build, settings.Gateway, settings.WithRegistry))
}

func build(_ context.Context, p *process.Process) error {
	registry, err := p.Registry()
	if err != nil {
		return err
	}
	rest, err := netaddr.ListenAny(p.Settings.Port)
	if err != nil {
		return fmt.Errorf("listening for REST clients: %w", err)
	}
	p.Serve()
	view := p.View(registry)
	service, err := gateway.New(gateway.ConfigFrom(p.ID, p.Settings), gateway.Deps{
		Logger: p.Log, Metrics: p.Metrics, Gatherer: p.Metrics, Members: view, Dial: p.Pool.Dial, REST: rest, Ready: view.CanServe,
	})
	if err != nil {
		return err
	}
	service.Register(p.RPC)
	p.Announce(registry, cluster.Gateway, nil)
	p.Add("gateway", service.Run)
	return nil
}
