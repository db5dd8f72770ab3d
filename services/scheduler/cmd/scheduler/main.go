// Command scheduler runs a scheduler of its own.
package main

import (
	"context"
	"os"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/process"
	"github.com/supernode-ha/supernode/pkg/settings"
	"github.com/supernode-ha/supernode/services/scheduler"
)

func main() {
	os.Exit(process.Main("scheduler", "Decide who fetches which piece from whom", build,
		settings.Scheduler, settings.WithRegistry, settings.Alone))
}

func build(_ context.Context, p *process.Process) error {
	registry, err := p.Registry()
	if err != nil {
		return err
	}
	p.Serve()
	view := p.View(registry)
	if err := p.ServeAdmin(view.Ready); err != nil {
		return err
	}
	service, err := scheduler.New(scheduler.ConfigFrom(p.ID, p.Settings), scheduler.Deps{
		Logger: p.Log, Metrics: p.Metrics, Registry: registry, Members: view, Dial: p.Pool.Dial,
	})
	if err != nil {
		return err
	}
	service.Register(p.RPC)
	// It leaves before its tasks end: who is asked meanwhile is no member any more.
	p.Add("scheduler", service.Run)
	announcer := p.Announce(registry, cluster.Scheduler, nil)
	p.Add("leaving", service.Leaving(p.Settings.GracePeriod/3, announcer))
	return nil
}
