package run

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-net/internal/client"
	"github.com/supernode-ha/supernode/test/cmd/bench-net/internal/scenario"
	"github.com/supernode-ha/supernode/test/origin"
)

// Result is what a run measured.
type Result struct {
	Bound scenario.Bound
	// Median and Last are the times of the clients that were not killed, each
	// from its own start.
	Median, Last time.Duration
	// Pieces is the time from the first piece that arrived at any client to the
	// last one.
	Pieces time.Duration
	// Copies is how often the CDNs have sent the file, Source how often the
	// source has.
	Copies, Source float64
	// Calls is the number of calls at the gateways, Elapsed the time from the
	// first start to the last end.
	Calls   float64
	Elapsed time.Duration
	// Processor is what the supernodes have used.
	Processor time.Duration
	// FailedPieces counts the pieces that did not arrive right.
	FailedPieces int
	// NoUploads counts the clients that had no upload server, Killed those that
	// were killed and Wrong the others that did not end right.
	NoUploads, Killed, Wrong int
	// Err is why clients did not end right.
	Err error
}

// conclude measures what is left to be measured, and checks the files.
func (r *run) conclude(began time.Time, outcomes []client.Outcome) Result {
	result := Result{Bound: r.cfg.Scenario.Bound()}
	total, err := r.samples.total(context.WithoutCancel(r.s.Context()))
	if err != nil {
		r.s.Fatalf("%v", err)
	}
	size := r.cfg.Scenario.Size
	result.Calls, result.Processor = total.calls, total.cpu
	result.Source = float64(r.origin.Stats(path).BytesSent) / float64(size)
	// The wrapping is five bytes of a piece, which is nothing.
	result.Copies = total.sent / float64(size)
	sum := origin.MD5(size, r.cfg.Scenario.Seed)
	var times []time.Duration
	var first, last time.Time
	for i, o := range outcomes {
		if r.plan[i].Crash > 0 {
			result.Killed++
			continue
		}
		if o.NoUploads {
			result.NoUploads++
		}
		if err := errors.Join(o.Err, check(o.Path, size, sum)); err != nil {
			result.Wrong++
			result.Err = errors.Join(result.Err, fmt.Errorf("client %d (%s): %w", i+1, r.hosts[i].IP, err))
			continue
		}
		times = append(times, o.Ended.Sub(o.Began))
		result.Elapsed = max(result.Elapsed, o.Ended.Sub(began))
		result.FailedPieces += o.FailedPieces
		if !o.First.IsZero() && (first.IsZero() || o.First.Before(first)) {
			first = o.First
		}
		if o.Last.After(last) {
			last = o.Last
		}
	}
	if !first.IsZero() {
		result.Pieces = last.Sub(first)
	}
	if len(times) > 0 {
		slices.Sort(times)
		result.Median, result.Last = times[len(times)/2], times[len(times)-1]
	}
	return result
}

// check returns what is wrong with a file.
func check(path string, size int64, want string) error {
	if path == "" {
		return errors.New("there is no file")
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("checking the file: %w", err)
	}
	defer file.Close() //nolint:errcheck // only read
	sum := md5.New()
	n, err := io.Copy(sum, file)
	if err != nil {
		return fmt.Errorf("checking the file: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n != size || got != want {
		return fmt.Errorf("the file has %d bytes and MD5 %s instead of %d and %s", n, got, size, want)
	}
	return nil
}
