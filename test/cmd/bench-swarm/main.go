// Command bench-swarm measures the control plane of a supernode: simulated peers
// make the calls that dfget makes, and no bytes of files are moved. It ends with 1
// if a peer does not get its file.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/supernode-ha/supernode/pkg/lifecycle"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/limits"
)

func main() {
	ctx, stop := lifecycle.SignalContext(context.Background())
	err := start(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-swarm:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, args []string, out io.Writer) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if err := limits.MakeRoom(cfg.scenario.Peers); err != nil {
		return err
	}
	return carryOut(ctx, cfg, out)
}
