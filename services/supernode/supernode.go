// Package supernode is the four services in one process. It builds them, puts
// them in the order in which they start and stop, and has no logic of its own.
// They reach each other by the same calls as between processes, without a
// socket; standalone is a cluster of one.
package supernode

import (
	"context"
	"fmt"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/netaddr"
	"github.com/supernode-ha/supernode/pkg/process"
	"github.com/supernode-ha/supernode/services/cdn"
	"github.com/supernode-ha/supernode/services/gateway"
	"github.com/supernode-ha/supernode/services/registry"
	"github.com/supernode-ha/supernode/services/scheduler"
)

// Build adds the four services to a process. They start in this order and
// stop in the opposite one: first the members drain, and scheduler and CDN hand
// over what is theirs, while everything goes on serving, then nothing new is
// taken in, then the members leave, then what they stand on ends.
func Build(_ context.Context, p *process.Process) error {
	rest, err := netaddr.ListenAny(p.Settings.Port)
	if err != nil {
		return fmt.Errorf("the REST server: %w", err)
	}
	download, err := p.Listen(p.Settings.DownloadPort)
	if err != nil {
		return fmt.Errorf("the download server: %w", err)
	}
	registrySvc, err := registry.New(registry.ConfigFrom(p.Settings), registry.Deps{Logger: p.Log, Metrics: p.Metrics})
	if err != nil {
		return err
	}
	registrySvc.Register(p.RPC)
	p.Add("registry", registrySvc.Run)
	p.Serve()
	client := registryv1.NewRegistryServiceClient(p.RPC.Local())
	view := p.View(client)

	cdnSvc, err := cdn.New(cdn.ConfigFrom(p.ID, p.Settings), cdn.Deps{
		Logger: p.Log, Metrics: p.Metrics, Registry: client, Download: download,
		Members: view, Dial: p.Pool.Dial,
	})
	if err != nil {
		return err
	}
	cdnSvc.Register(p.RPC)
	p.Add("cdn", cdnSvc.Run)

	schedulerSvc, err := scheduler.New(scheduler.ConfigFrom(p.ID, p.Settings), scheduler.Deps{
		Logger: p.Log, Metrics: p.Metrics, Registry: client, Members: view, Dial: p.Pool.Dial,
	})
	if err != nil {
		return err
	}
	schedulerSvc.Register(p.RPC)
	p.Add("scheduler", schedulerSvc.Run)
	announcers := []*cluster.Announcer{
		p.Announce(client, cluster.Registry, nil),
		p.Announce(client, cluster.CDN, p.Serves(download)),
		p.Announce(client, cluster.Scheduler, nil),
		p.Announce(client, cluster.Gateway, nil),
	}

	gatewaySvc, err := gateway.New(gateway.ConfigFrom(p.ID, p.Settings), gateway.Deps{
		Logger: p.Log, Metrics: p.Metrics, Gatherer: p.Metrics, Members: view, Dial: p.Pool.Dial, REST: rest, Ready: view.CanServe,
	})
	if err != nil {
		return err
	}
	gatewaySvc.Register(p.RPC)
	p.Add("gateway", gatewaySvc.Run)
	p.Add("leaving of the cdn", cdnSvc.Leaving(p.Settings.GracePeriod/2, announcers...))
	p.Add("leaving of the scheduler", schedulerSvc.Leaving(p.Settings.GracePeriod/3, p.Settings.FinishTime(), announcers...))
	return nil
}
