// Command supernode runs all four services in one process, with the command
// line of Dragonfly v1's supernode.
package main

import (
	"context"
	"os"

	"github.com/supernode-ha/supernode/pkg/lifecycle"
	"github.com/supernode-ha/supernode/pkg/process"
	"github.com/supernode-ha/supernode/pkg/settings"
	"github.com/supernode-ha/supernode/services/supernode"
)

func main() {
	ctx, stop := lifecycle.SignalContext(context.Background())
	defer stop()
	cmd := process.Command("supernode", "Distribute files among the machines of a cluster", supernode.Build,
		settings.Gateway, settings.CDN, settings.Scheduler, settings.Registry, settings.Bundle)
	if err := cmd.ExecuteContext(ctx); err != nil {
		os.Exit(1)
	}
}
