package server

import (
	"context"
	"fmt"
	"sync"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/peer"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/record"
)

// warmUps is how many files are downloaded at the same time before the clock.
const warmUps = 8

// warmUpNumber is the number of the first peer of a warm-up; it is none that a
// measured peer has.
const warmUpNumber = 10_000_000

// WarmUp lets a peer download each of the first files, so that the supernode has
// whole copies of them. The peers leave. It returns the number of pieces of the
// first file.
func WarmUp(ctx context.Context, v *Server, files int) (pieces int, err error) {
	var all sync.WaitGroup
	slots := make(chan struct{}, warmUps)
	counts := make([]int, files)
	errs := make([]error, files)
	for i := range files {
		slots <- struct{}{}
		all.Go(func() {
			counts[i], errs[i] = WarmUpOne(ctx, v, i)
			<-slots
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return counts[0], nil
}

// WarmUpOne does the same with one file.
func WarmUpOne(ctx context.Context, v *Server, number int) (pieces int, err error) {
	file := v.File(number)
	p, err := peer.New(peer.Config{Address: v.Address, Number: warmUpNumber + number, URL: file.URL, MD5: file.MD5},
		peer.Deps{Record: &record.Recorder{}, Directory: peer.NewDirectory()})
	if err != nil {
		return 0, err
	}
	if err := p.Download(ctx); err != nil {
		return 0, fmt.Errorf("getting a whole copy of %s to the supernode: %w", file.URL, err)
	}
	if err := p.Leave(ctx); err != nil {
		return 0, fmt.Errorf("getting a whole copy of %s to the supernode: %w", file.URL, err)
	}
	return p.Pieces(), nil
}
