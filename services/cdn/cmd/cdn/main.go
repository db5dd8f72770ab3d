// Command cdn runs a CDN of its own.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/process"
	"github.com/supernode-ha/supernode/pkg/settings"
	"github.com/supernode-ha/supernode/services/cdn"
)

func main() {
	os.Exit(process.Main("cdn", "Fetch from sources and serve the first copies", build,
		settings.CDN, settings.WithRegistry, settings.Alone))
}

func build(_ context.Context, p *process.Process) error {
	registry, err := p.Registry()
	if err != nil {
		return err
	}
	download, err := p.Listen(p.Settings.DownloadPort)
	if err != nil {
		return fmt.Errorf("the download server: %w", err)
	}
	p.Serve()
	view := p.View(registry)
	if err := p.ServeAdmin(view.Ready); err != nil {
		return err
	}
	service, err := cdn.New(cdn.ConfigFrom(p.ID, p.Settings), cdn.Deps{
		Logger: p.Log, Metrics: p.Metrics, Registry: registry, Download: download,
		Members: view, Dial: p.Pool.Dial,
	})
	if err != nil {
		return err
	}
	service.Register(p.RPC)
	p.Add("cdn", service.Run)
	announcer := p.Announce(registry, cluster.CDN, p.Serves(download))
	p.Add("leaving", service.Leaving(p.Settings.GracePeriod/2, announcer))
	return nil
}
