// Command bench-net measures downloads on links that are the bottleneck: every
// client, every supernode and the source is a host of its own, in a network
// namespace, behind a link of a given rate. It takes root, changes nothing
// outside of its own namespaces, and ends with 1 if a client ends wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/supernode-ha/supernode/pkg/lifecycle"
	"github.com/supernode-ha/supernode/test/cmd/bench-net/internal/client"
	"github.com/supernode-ha/supernode/test/cmd/bench-net/internal/run"
	"github.com/supernode-ha/supernode/test/cmd/bench-net/internal/table"
	"github.com/supernode-ha/supernode/test/lab"
	"github.com/supernode-ha/supernode/test/stage"
)

func main() {
	ctx, stop := lifecycle.SignalContext(context.Background())
	code, err := start(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-net:", err)
		code = 1
	}
	os.Exit(code)
}

// start decides what this process is: a client, the benchmark in namespaces of
// its own, or what starts that.
func start(ctx context.Context, args []string) (code int, err error) {
	if len(args) == 1 && args[0] == client.OwnCommand {
		return 0, client.Serve(ctx, os.Stdin, os.Stdout)
	}
	cfg, err := parse(args)
	if err != nil {
		return 1, err
	}
	if !lab.Inside() {
		return lab.Isolate()
	}
	if err := lab.Settle(); err != nil {
		return 1, err
	}
	return 0, bench(ctx, cfg, os.Stdout)
}

// bench runs every scenario as often as wanted. A client that ends wrong does
// not end it, but makes it fail.
func bench(ctx context.Context, cfg config, out io.Writer) error {
	if err := table.Head(out); err != nil {
		return err
	}
	var wrong error
	for _, sc := range cfg.scenarios {
		for i := range cfg.runs {
			one := cfg.run
			one.Scenario = sc
			one.Scenario.Seed += uint64(i)
			var result run.Result
			if err := stage.Run(ctx, "bench-net", os.Stderr, func(s *stage.Stage) { result = run.Run(s, one) }); err != nil {
				return err
			}
			if err := table.Row(out, sc.String(), cfg.client, result); err != nil {
				return err
			}
			wrong = errors.Join(wrong, result.Err)
		}
	}
	return wrong
}
