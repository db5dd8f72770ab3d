// Command scheduler runs a scheduler as a process of its own.
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
	os.Exit(process.Main("scheduler", "Choose the pieces that peers download, and from which sources", build,
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
	// Parts stop in the opposite order: the tasks are handed over and the member is
	// unregistered before the tasks end, so that no call is sent to an ended task.
	p.Add("scheduler", service.Run)
	announcer := p.Announce(registry, cluster.Scheduler, nil)
	p.Add("leaving", service.Leaving(p.Settings.GracePeriod/3, p.Settings.FinishTime(), announcer))
	return nil
}
