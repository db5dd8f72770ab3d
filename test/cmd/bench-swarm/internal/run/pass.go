package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/peer"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/record"
)

// Pass is what was measured while a flood was sent once.
type Pass struct {
	// Flood is how long the flood was sent, Elapsed the time from the first start of
	// a download to the last end.
	Flood, Elapsed time.Duration
	// Latency holds how long the calls of the ordinary peers took.
	Latency record.Latency
	// Failed counts the ordinary peers that did not get their file.
	Failed int
	// Generator is the processor time of this process, Processor that of the
	// supernode, Peak its largest resident memory in bytes. The last two are 0 if no
	// process id is known.
	Generator, Processor time.Duration
	Peak                 int64

	err error // of peers, and of the flood
}

// pass sends the flood and lets the peers download at the same time. A flood that
// lasts ends with the downloads. The peers leave when both have ended.
func (k *flooded) pass(ctx context.Context) (Pass, error) {
	deps := peer.Deps{Record: &record.Recorder{}, Directory: peer.NewDirectory()}
	plan := k.cfg.Scenario.Draw()
	peers, err := makePeers(k.cfg.Scenario, plan, k.supernode, deps)
	if err != nil {
		return Pass{}, err
	}
	m := meter{supernode: k.supernode}
	if err := m.start(ctx); err != nil {
		return Pass{}, err
	}
	memory := watchMemory(ctx, k.supernode)
	sending := k.send(ctx)
	ends := downloadAll(ctx, peers, plan)
	lasted, wrong := sending.end()
	peak, memoryErr := memory.end()
	if err := errors.Join(m.stop(context.WithoutCancel(ctx)), memoryErr); err != nil {
		return Pass{}, err
	}
	var result Result
	result.add(ends)
	return Pass{
		Flood: lasted, Elapsed: result.Elapsed, Failed: result.Failed,
		Generator: m.generator, Processor: m.after.Processor - m.before.Processor, Peak: peak,
		err:     errors.Join(result.Err, wrong, leaveAll(ctx, peers, ends)),
		Latency: deps.Record.Latency(),
	}, nil
}

// sending is a flood that is being sent.
type sending struct {
	stop func() // before it is all sent
	done chan struct{}

	// These are set when done is closed.
	lasted time.Duration
	err    error
}

func (k *flooded) send(ctx context.Context) *sending {
	ctx, cancel := context.WithTimeout(ctx, floodLimit)
	s := &sending{stop: func() {}, done: make(chan struct{})}
	if k.cfg.Kind.Lasts() {
		s.stop = cancel
	}
	began := time.Now()
	go func() {
		defer close(s.done)
		defer cancel()
		if s.err = k.flood.Run(ctx); s.err != nil {
			s.err = fmt.Errorf("sending the flood %s: %w", k.cfg.Kind, s.err)
		}
		s.lasted = time.Since(began)
	}()
	return s
}

// end ends a flood that lasts, and waits for the end of any other.
func (s *sending) end() (time.Duration, error) {
	s.stop()
	<-s.done
	return s.lasted, s.err
}
