// Package swarm runs many peers at once and sums up what they did. What they
// are to do is in their configurations.
package swarm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/supernode-ha/supernode/test/pace"
	"github.com/supernode-ha/supernode/test/peer"
)

// Outcome is how one peer's download ended.
type Outcome struct {
	peer.Result
	// Err is why it failed.
	Err error
}

// Tally is the sum of many.
type Tally struct {
	// Outcomes are in the order of the peers.
	Outcomes []Outcome
	// Took is from the first start to the last end.
	Took time.Duration
	// FromCDN and FromPeers are bytes of content.
	FromCDN, FromPeers int64
	// Codes counts the answers to pulls.
	Codes map[int]int
	// Migrations, BackToSource and Failures are sums.
	Migrations, BackToSource, Failures int
	// WaitTime and HoldTime are sums over the peers, PeerTime that of how long
	// they took.
	WaitTime, HoldTime, PeerTime time.Duration
	// LongestPull is the longest of all.
	LongestPull time.Duration
}

// Err joins the errors of the peers that failed.
func (t Tally) Err() error {
	var errs []error
	for i, o := range t.Outcomes {
		if o.Err != nil {
			errs = append(errs, fmt.Errorf("peer %d (pulls by answer: %v, longest %s): %w", i, o.Codes, o.MaxPullTime, o.Err))
		}
	}
	return errors.Join(errs...)
}

// String is the tally on one line.
func (t Tally) String() string {
	pieces, doubles := 0, 0
	for _, o := range t.Outcomes {
		pieces += o.PieceFailures
		doubles += o.DuplicateOffers
	}
	return fmt.Sprintf("%d peers in %s: %d failed, %d migrations, %d back to the source; MB from CDN %d, from peers %d; "+
		"answers %v; pieces that failed %d, offered twice %d; share of time in pulls %.2f, waiting for nothing %.2f; longest pull %s",
		len(t.Outcomes), t.Took.Round(time.Millisecond), t.Failures, t.Migrations, t.BackToSource, t.FromCDN>>20, t.FromPeers>>20,
		t.Codes, pieces, doubles, share(t.HoldTime, t.PeerTime), share(t.WaitTime, t.PeerTime), t.LongestPull.Round(time.Millisecond))
}

func share(part, whole time.Duration) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// Swarm is peers that have been made. They serve each other until Close.
type Swarm struct {
	Peers []*peer.Peer
}

// New makes a peer of every configuration.
func New(configs []peer.Config) (*Swarm, error) {
	s := &Swarm{}
	for _, cfg := range configs {
		p, err := peer.New(cfg)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("making a peer: %w", err)
		}
		s.Peers = append(s.Peers, p)
	}
	return s, nil
}

// Download lets all of them download at once.
func (s *Swarm) Download(ctx context.Context) Tally {
	return s.DownloadAfter(ctx, make([]time.Duration, len(s.Peers)))
}

// DownloadAfter lets each of them download when its time has come.
func (s *Swarm) DownloadAfter(ctx context.Context, delays []time.Duration) Tally {
	t := Tally{Outcomes: make([]Outcome, len(s.Peers)), Codes: make(map[int]int)}
	began := time.Now()
	var all sync.WaitGroup
	for i, p := range s.Peers {
		all.Go(func() {
			if !pace.Pause(ctx, delays[i]) {
				t.Outcomes[i].Err = fmt.Errorf("waiting to begin: %w", context.Cause(ctx))
				return
			}
			t.Outcomes[i].Result, t.Outcomes[i].Err = p.Download(ctx)
		})
	}
	all.Wait()
	t.Took = time.Since(began)
	for _, o := range t.Outcomes {
		t.add(o)
	}
	return t
}

func (t *Tally) add(o Outcome) {
	t.FromCDN += o.BytesFromCDN
	t.FromPeers += o.BytesFromPeers
	t.Migrations += o.Migrations
	t.WaitTime += o.WaitTime
	t.HoldTime += o.HoldTime
	t.PeerTime += o.Duration
	t.LongestPull = max(t.LongestPull, o.MaxPullTime)
	for code, n := range o.Codes {
		t.Codes[code] += n
	}
	if o.BackToSource {
		t.BackToSource++
	}
	if o.Err != nil {
		t.Failures++
	}
}

// Close ends all peers.
func (s *Swarm) Close() {
	for _, p := range s.Peers {
		p.Close()
	}
}
