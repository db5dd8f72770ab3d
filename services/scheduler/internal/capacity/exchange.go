package capacity

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

// Timing is how often an Exchange does what.
type Timing struct {
	// Interval is the shortest time between two requests on a stream, and Repeat
	// the longest.
	Interval, Repeat time.Duration
	// Silence is how long an instance may send nothing before its stream counts
	// as lost.
	Silence time.Duration
	// FirstPause and LastPause are the times between two tries to open a stream.
	FirstPause, LastPause time.Duration
	// Unsupported is the time until an instance of an older version is asked again.
	Unsupported time.Duration
}

// DefaultTiming is what a cluster uses.
func DefaultTiming() Timing {
	return Timing{
		Interval: 100 * time.Millisecond, Repeat: time.Second, Silence: 3 * time.Second,
		FirstPause: 100 * time.Millisecond, LastPause: 3 * time.Second, Unsupported: 5 * time.Minute,
	}
}

// Members are the members of the cluster.
type Members interface {
	Members(role cluster.Role) []cluster.Member
	// Changed is closed when the list is another one than now.
	Changed() <-chan struct{}
}

// ExchangeDeps are what an Exchange needs; all of them are required.
type ExchangeDeps struct {
	// SelfID is the scheduler's member id.
	SelfID  string
	Shares  *Shares
	Members Members
	// Dial connects to a member's endpoint; it keeps the connections.
	Dial func(endpoint string) (grpc.ClientConnInterface, error)
	Log  *zap.Logger
}

// Exchange keeps a stream to every CDN, draining ones too: they still send.
type Exchange struct {
	ExchangeDeps
	timing Timing
}

// NewExchange returns an exchange; Run must follow.
func NewExchange(timing Timing, deps ExchangeDeps) *Exchange {
	return &Exchange{ExchangeDeps: deps, timing: timing}
}

// Run keeps the streams until ctx ends.
func (e *Exchange) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, end := context.WithCancel(ctx)
	defer end()
	type place struct{ id, endpoint string }
	streams := make(map[place]func()) // ends one, and waits for it
	for {
		changed := e.Members.Changed()
		there := make(map[place]bool)
		for _, m := range e.Members.Members(cluster.CDN) {
			there[place{m.ID, m.Endpoint}] = true
		}
		for p, stop := range streams { // first, since an instance may have moved
			if !there[p] {
				stop()
				delete(streams, p)
			}
		}
		for p := range there {
			if streams[p] != nil {
				continue
			}
			inner, cancel := context.WithCancel(ctx)
			done := make(chan struct{})
			work.Go(func() {
				defer close(done)
				e.keep(inner, p.id, p.endpoint)
			})
			streams[p] = func() {
				cancel()
				<-done
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// keep has a stream to an instance open until ctx ends.
func (e *Exchange) keep(ctx context.Context, id, endpoint string) {
	pauses := &backoff.ExponentialBackOff{
		InitialInterval: e.timing.FirstPause, MaxInterval: e.timing.LastPause, Multiplier: 2, RandomizationFactor: 0.5,
	}
	pauses.Reset()
	log := e.Log.With(zap.String("cdn_id", id))
	for ctx.Err() == nil {
		granted, err := e.share(ctx, id, endpoint)
		e.Shares.Reset(id)
		if granted {
			pauses.Reset()
		}
		pause := pauses.NextBackOff()
		switch {
		case ctx.Err() != nil:
			return
		case status.Code(err) == codes.Unimplemented:
			pause = e.timing.Unsupported/2 + rand.N(e.timing.Unsupported/2+1)
			log.Info("the CDN does not share its capacity; using the default window",
				zap.Int("window", Default), zap.Duration("retry_in", pause))
		case granted:
			log.Info("lost the stream of the CDN's capacity; using the default window until it is back",
				zap.Int("window", Default), zap.Error(err), zap.Duration("retry_in", pause))
		default:
			log.Debug("cannot open a stream of the CDN's capacity", zap.Error(err), zap.Duration("retry_in", pause))
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

// share serves one stream to its end, and tells whether a window was granted.
func (e *Exchange) share(ctx context.Context, id, endpoint string) (granted bool, err error) {
	conn, err := e.Dial(endpoint)
	if err != nil {
		return false, fmt.Errorf("connecting to %s: %w", endpoint, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	silent := time.AfterFunc(e.timing.Silence, cancel)
	defer silent.Stop()
	var receiver sync.WaitGroup
	defer receiver.Wait()
	defer cancel()
	stream, err := cdnv1.NewCdnServiceClient(conn).ShareCapacity(ctx)
	if err != nil {
		return false, fmt.Errorf("asking %s for a part of its capacity: %w", endpoint, err)
	}
	receiver.Go(func() {
		defer cancel()
		for {
			var resp *cdnv1.ShareCapacityResponse
			if resp, err = stream.Recv(); err != nil {
				return
			}
			silent.Reset(e.timing.Silence)
			e.Shares.Grant(id, int(resp.GetWindow()))
			e.Shares.Deliver(id, resp.GetDeliveryRate())
			granted = true
		}
	})
	e.report(ctx, id, stream)
	cancel()
	receiver.Wait() // before its results are read
	return granted, err
}

// report sends the demand, when it changes and from time to time, until ctx or
// the stream ends.
func (e *Exchange) report(
	ctx context.Context, id string, stream grpc.BidiStreamingClient[cdnv1.ShareCapacityRequest, cdnv1.ShareCapacityResponse],
) {
	tick := time.NewTicker(e.timing.Interval)
	defer tick.Stop()
	last, sent := -1, time.Time{}
	for {
		inFlight, limited := e.Shares.Demand(id)
		if now := time.Now(); limited || inFlight != last || now.Sub(sent) >= e.timing.Repeat-e.timing.Interval {
			req := &cdnv1.ShareCapacityRequest{SchedulerId: e.SelfID, InFlight: int32(min(inFlight, most)), Limited: limited}
			if stream.Send(req) != nil {
				return // the receiver has the reason
			}
			last, sent = inFlight, now
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
