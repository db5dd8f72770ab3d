package route

import (
	"context"
	"errors"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// A call that has no answer may be held, or its scheduler may be frozen or out
// of reach. gRPC's own keep-alive tells that in 10 s at the earliest, and a
// client waits for 5 s in all; so a scheduler that is silent is pinged. With
// these, one that hangs costs a call 1 s.
const (
	// quiet is how long a call may be without an answer before its scheduler
	// is pinged, and how old the answer to a ping may be to count.
	quiet = 500 * time.Millisecond
	// pingTimeout is how long a ping may take.
	pingTimeout = 500 * time.Millisecond
	// shunned is how long one that answered no ping is asked after the others.
	// It is about a lease: then it is no member any more, or well again.
	shunned = 5 * time.Second
	// endpoints bounds those whose pulse is known.
	endpoints = 1024
)

// errSilent is why a call to a scheduler that answers no ping was ended.
var errSilent = errors.New("it answers no ping")

// pulses is what is known of the schedulers' being alive. One ping at a time
// goes to an endpoint, however many calls wait there.
type pulses struct {
	known *lru.Cache[string, *pulse]
}

type pulse struct {
	turn chan struct{} // held by who pings

	mu   sync.Mutex // guards what follows
	at   time.Time  // when the last ping ended
	lost bool       // how
}

func (p *pulse) last() (at time.Time, lost bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, p.lost
}

// silent tells whether the endpoint is to be asked after the others.
func (ps *pulses) silent(endpoint string) bool {
	p, ok := ps.known.Peek(endpoint)
	if !ok {
		return false
	}
	at, lost := p.last()
	return lost && time.Since(at) < shunned
}

// watch pings until ctx ends, and gives errSilent once that gets no answer.
func (ps *pulses) watch(ctx context.Context, endpoint string, conn grpc.ClientConnInterface) error {
	p, ok := ps.known.Get(endpoint)
	if !ok {
		p = &pulse{turn: make(chan struct{}, 1)}
		if first, there, _ := ps.known.PeekOrAdd(endpoint, p); there {
			p = first
		}
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		if lost := p.ping(ctx, conn); lost {
			return errSilent
		}
		pause.Reset(quiet)
	}
}

// ping gives the result of somebody's ping that is new enough, else its own.
func (p *pulse) ping(ctx context.Context, conn grpc.ClientConnInterface) (lost bool) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-p.turn }()
	if at, lost := p.last(); time.Since(at) < quiet {
		return lost
	}
	limited, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	_, err := healthv1.NewHealthClient(conn).Check(limited, &healthv1.HealthCheckRequest{})
	if ctx.Err() != nil {
		return false // who asked has gone: that says nothing
	}
	// Whatever a server says, it is alive.
	code := status.Code(err)
	lost = code == codes.DeadlineExceeded || code == codes.Unavailable
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.lost = time.Now(), lost
	return lost
}
