// Command demo shows a cluster of three supernodes surviving: twenty peers
// download one file through it, a supernode is killed every few seconds, and
// every download ends with the right bytes. It ends with 1 if one does not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/supernode-ha/supernode/pkg/lifecycle"
	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/cmd/demo/internal/play"
	"github.com/supernode-ha/supernode/test/cmd/demo/internal/scene"
	"github.com/supernode-ha/supernode/test/cmd/demo/internal/screen"
	"github.com/supernode-ha/supernode/test/cmd/demo/internal/watch"
	"github.com/supernode-ha/supernode/test/operator"
	"github.com/supernode-ha/supernode/test/pace"
	"github.com/supernode-ha/supernode/test/stage"
)

const (
	// limit bounds the downloads. They take less than a minute.
	limit = 100 * time.Second

	size = 200_000_000
	rate = 5_000_000

	interrupted = 130
)

func main() {
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "names what happens: the same seed has the same supernodes killed")
	flag.Parse()
	ctx, stop := lifecycle.SignalContext(context.Background())
	err := run(ctx, *seed)
	told := ctx.Err() != nil
	stop()
	switch {
	case told:
		os.Exit(interrupted)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, seed uint64) error {
	out := screen.New(os.Stdout)
	if err := out.Print([]string{"building the commands and starting a cluster …"}); err != nil {
		return err
	}
	built, err := cluster.Build(ctx, false)
	if err != nil {
		return err
	}
	return errors.Join(stage.Run(ctx, "demo", os.Stderr, func(s *stage.Stage) {
		perform(s, built, play.Config{Seed: seed, Size: size, Rate: rate}, out)
	}), built.Remove())
}

// perform plays, watches and shows. What is wrong with it, the stage is told.
func perform(s *stage.Stage, built *cluster.Binaries, cfg play.Config, out *screen.Screen) {
	p, err := play.New(s, built, cfg)
	if err != nil {
		s.Fatalf("beginning: %v", err)
	}
	asks := operator.New(p.Registries)
	w := watch.New(asks, p.Task())
	ctx, cancel := context.WithTimeoutCause(s.Context(), limit, fmt.Errorf("it takes longer than %s", limit))
	var eyes sync.WaitGroup
	eyes.Go(func() { w.Run(ctx) })
	eyes.Go(func() {
		if err := show(ctx, out, func() scene.Scene { return p.Scene(w.Cast()) }); err != nil {
			s.Errorf("showing how it is: %v", err)
		}
	})
	tally, wrong := p.Run(ctx, w.Cast)
	last := p.Scene(w.Cast())
	cancel()
	eyes.Wait()
	asks.Close()
	if err := p.Close(); err != nil {
		s.Errorf("ending: %v", err)
	}
	if s.Context().Err() != nil {
		return // it was told to end, or has failed already
	}
	if wrong != nil {
		s.Errorf("not every download was right: %v", wrong)
	}
	if err := out.Print(append(screen.Draw(last, out.Width()), append([]string{""}, screen.Tell(tally)...)...)); err != nil {
		s.Errorf("telling what came out: %v", err)
	}
}

// show draws again and again until the context ends.
func show(ctx context.Context, out *screen.Screen, now func() scene.Scene) error {
	if err := out.Open(); err != nil {
		return err
	}
	for {
		if err := out.Show(screen.Draw(now(), out.Width())); err != nil {
			return errors.Join(err, out.Close())
		}
		if !pace.Pause(ctx, out.Every()) {
			return out.Close()
		}
	}
}
