// Command supernode runs all four services in one process, with the command
// line of Dragonfly v1's supernode.
package main

import (
	"os"

	"github.com/supernode-ha/supernode/pkg/process"
	"github.com/supernode-ha/supernode/pkg/settings"
	"github.com/supernode-ha/supernode/services/supernode"
)

func main() {
	os.Exit(process.Main("supernode", "Distribute files among the machines of a cluster", supernode.Build,
		settings.Gateway, settings.CDN, settings.Scheduler, settings.Registry, settings.Bundle))
}
