// Package run carries out one run of a scenario: it starts the supernode, lets it
// get whole copies of all files, lets the peers download, and measures. It does the
// same while a flood is sent. What the peers do is package scenario's and package
// peer's, what is sent besides is package flood's.
package run

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/peer"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/record"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/scenario"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/server"
	"github.com/supernode-ha/supernode/test/pace"
	"github.com/supernode-ha/supernode/test/stage"
)

// farewells is how many peers leave at the same time.
const farewells = 32

// Config is what runs.
type Config struct {
	Scenario scenario.Scenario
	Server   server.Config
	// Timeout bounds the run.
	Timeout time.Duration
}

// end is how a peer's download ended.
type end struct {
	began, ended time.Time
	err          error
}

// Run runs it on a stage. What cannot be measured fails the stage.
func Run(s *stage.Stage, cfg Config) Result {
	ctx, cancel := context.WithTimeoutCause(s.Context(), cfg.Timeout, fmt.Errorf("the run takes longer than %s", cfg.Timeout))
	defer cancel()
	supernode := server.Start(s, cfg.Server)
	pieces, err := server.WarmUp(ctx, supernode, cfg.Scenario.Tasks)
	if err != nil {
		s.Fatalf("%v", err)
	}
	deps := peer.Deps{Record: &record.Recorder{}, Directory: peer.NewDirectory()}
	plan := cfg.Scenario.Draw()
	peers, err := makePeers(cfg.Scenario, plan, supernode, deps)
	if err != nil {
		s.Fatalf("%v", err)
	}
	m := meter{supernode: supernode}
	if err := m.start(ctx); err != nil {
		s.Fatalf("%v", err)
	}
	ends := downloadAll(ctx, peers, plan)
	if err := m.stop(context.WithoutCancel(ctx)); err != nil {
		s.Fatalf("%v", err)
	}
	result := Result{Pieces: pieces, Calls: deps.Record.Calls()}
	result.add(ends)
	result.use(m)
	result.Err = errors.Join(result.Err, leaveAll(ctx, peers, ends), supernode.Check())
	result.count(deps.Record, cfg.Scenario.Tasks)
	return result
}

func makePeers(sc scenario.Scenario, plan []scenario.Peer, supernode *server.Server, deps peer.Deps) ([]*peer.Peer, error) {
	peers := make([]*peer.Peer, len(plan))
	for i, p := range plan {
		file := supernode.File(p.Task)
		made, err := peer.New(peer.Config{
			Address: supernode.Address, Number: i, URL: file.URL, MD5: file.MD5, PieceTime: sc.PieceTime, Fail: sc.Fail,
			CrashAfter: p.CrashAfter, Unreachable: p.Unreachable, Lies: p.Lies, Seed: p.Seed,
		}, deps)
		if err != nil {
			return nil, err
		}
		peers[i] = made
	}
	return peers, nil
}

// downloadAll lets every peer download when its time has come, and returns how
// the downloads ended.
func downloadAll(ctx context.Context, peers []*peer.Peer, plan []scenario.Peer) []end {
	ends := make([]end, len(peers))
	var all sync.WaitGroup
	for i, p := range peers {
		all.Go(func() {
			e := &ends[i]
			if !pace.Pause(ctx, plan[i].Arrive) {
				e.err = context.Cause(ctx)
				return
			}
			e.began = time.Now()
			e.err = p.Download(ctx)
			e.ended = time.Now()
		})
	}
	all.Wait()
	return ends
}

// leaveAll lets all peers leave that have not crashed.
func leaveAll(ctx context.Context, peers []*peer.Peer, ends []end) error {
	var all sync.WaitGroup
	slots := make(chan struct{}, farewells)
	errs := make([]error, len(peers))
	for i, p := range peers {
		if errors.Is(ends[i].err, peer.ErrCrashed) || ctx.Err() != nil {
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			if err := p.Leave(ctx); err != nil {
				errs[i] = fmt.Errorf("peer %d: %w", i, err)
			}
			<-slots
		})
	}
	all.Wait()
	return joinFew(errs)
}

// mostErrors is how many errors of one kind are shown.
const mostErrors = 5

// joinFew joins the first errors and says how many more there are.
func joinFew(errs []error) error {
	var shown []error
	more := 0
	for _, err := range errs {
		switch {
		case err == nil:
		case len(shown) < mostErrors:
			shown = append(shown, err)
		default:
			more++
		}
	}
	if more > 0 {
		shown = append(shown, fmt.Errorf("and %d more", more))
	}
	return errors.Join(shown...)
}
