// Package stage is what a command gives to package cluster in the place of a
// test: something that can fail, has a directory, and cleans up whatever
// happens. What is played there is the command's.
package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"

	"github.com/supernode-ha/supernode/test/cluster"
)

// Stage is a cluster.Scope.
type Stage struct {
	name string
	dir  string
	out  io.Writer // of what is told of those that failed
	told context.Context
	ctx  context.Context
	fail context.CancelCauseFunc

	mu   sync.Mutex // guards what follows
	dirs int
	ends []func()
	errs []error
}

var _ cluster.Scope = (*Stage)(nil)

// Run runs a play, and then all that is to be done at its end, whatever it came
// to. It gives what the play failed with, and the cause when ctx has ended.
func Run(ctx context.Context, name string, out io.Writer, play func(*Stage)) error {
	dir, err := os.MkdirTemp("", "supernode-"+name)
	if err != nil {
		return fmt.Errorf("making a place for the play: %w", err)
	}
	s := &Stage{name: name, dir: dir, out: out, told: ctx}
	s.ctx, s.fail = context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() { // Fatalf ends it
		defer close(done)
		defer s.unwind()
		play(s)
	}()
	<-done
	s.errs = append(s.errs, os.RemoveAll(dir))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(s.errs...)
}

// unwind does what is to be done at the end, all of it even if something fails.
func (s *Stage) unwind() {
	s.fail(nil)
	s.mu.Lock()
	if len(s.ends) == 0 {
		s.mu.Unlock()
		return
	}
	end := s.ends[len(s.ends)-1]
	s.ends = s.ends[:len(s.ends)-1]
	s.mu.Unlock()
	defer s.unwind()
	end()
}

// Name names the play.
func (s *Stage) Name() string { return s.name }

// Context ends when the play is to end: it failed, is over, or was told to.
func (s *Stage) Context() context.Context { return s.ctx }

// Cleanup has something done at the end, the latest first.
func (s *Stage) Cleanup(end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = append(s.ends, end)
}

// TempDir makes a directory that is there until the end.
func (s *Stage) TempDir() string {
	s.mu.Lock()
	s.dirs++
	dir := filepath.Join(s.dir, strconv.Itoa(s.dirs))
	s.mu.Unlock()
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.Fatalf("making a directory: %v", err)
	}
	return dir
}

// Fatalf fails, and ends the goroutine that calls it and the context.
func (s *Stage) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	s.fail(fmt.Errorf(format, args...))
	runtime.Goexit()
}

// Errorf fails, and goes on.
func (s *Stage) Errorf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, fmt.Errorf(format, args...))
}

// Logf tells more.
func (s *Stage) Logf(format string, args ...any) {
	_, _ = fmt.Fprintf(s.out, format+"\n", args...) // there is nowhere else to say it
}

// Failed says that something failed. What fails because the play was told to
// end in the midst of it does not count.
func (s *Stage) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.errs) > 0 && s.told.Err() == nil
}

// Helper does nothing: no line is told.
func (s *Stage) Helper() {}
