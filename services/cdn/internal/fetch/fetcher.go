// Package fetch is how a task gets onto the disk: it decides whether the copy
// that is there may be served, asks the source otherwise, and cuts, checks and
// writes what comes. It does not know who asked nor who listens, and it keeps
// nothing in memory when a fetch is over.
package fetch

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/source"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Sink is told how a fetch goes. Its methods may be called from several
// goroutines and must not wait.
type Sink interface {
	// Provisional announces facts before the source has answered, unless Settle
	// has been called.
	Provisional(facts task.Facts)
	// Settle announces what the source answered and gives back what holds: the
	// piece size stays what Provisional said.
	Settle(facts task.Facts) task.Facts
	// Begin says where the pieces are going to be.
	Begin(content *store.Content)
	// Land announces pieces that can be read.
	Land(pieces ...task.Piece)
	// Finish announces the end: the task is whole.
	Finish(result task.Result)
}

// Options are the limits of all fetches together.
type Options struct {
	// MaxBandwidth in bytes a second, 0 for none.
	MaxBandwidth int64
	// PoolSize is how many pieces may be checksummed and written at a time.
	PoolSize int
	// FactsTimeout is how long facts may be owed.
	FactsTimeout time.Duration
	// RetryDelay is waited before a cut fetch is continued; it doubles.
	RetryDelay time.Duration
	// StillOwner tells whether this instance still owns a task in an epoch; an
	// error says that nobody knows just now. It is asked before a source is read
	// on from after a pause.
	StillOwner func(ctx context.Context, id task.ID, epoch int64) (bool, error)
}

// Fetcher fetches tasks.
type Fetcher struct {
	log     *zap.Logger
	store   *store.Store
	client  *source.Client
	options Options
	limiter *rate.Limiter // nil for no limit
	buffers buffers
	// slots bounds the pieces that are checksummed and written, and with them
	// the memory that they hold.
	slots   chan struct{}
	metrics metrics
}

// NewFetcher makes a Fetcher.
func NewFetcher(log *zap.Logger, files *store.Store, client *source.Client, options Options) *Fetcher {
	f := &Fetcher{
		log: log, store: files, client: client, options: options,
		slots:   make(chan struct{}, options.PoolSize),
		metrics: newMetrics(),
	}
	if options.MaxBandwidth > 0 {
		f.limiter = rate.NewLimiter(rate.Limit(options.MaxBandwidth), int(max(options.MaxBandwidth, 1<<20)))
	}
	return f
}

// Collectors are the metrics, to be registered.
func (f *Fetcher) Collectors() []prometheus.Collector { return f.metrics.collectors() }

// Fetch makes the task whole, from disk or from its source, and tells sink.
// Errors are of the kinds that source and store give, or the cause that ctx
// ended with; then nothing half-made is left on disk.
func (f *Fetcher) Fetch(ctx context.Context, id task.ID, spec *source.Spec, sink Sink) error {
	how, err := f.fetch(ctx, id, spec, sink)
	if err != nil {
		how = strings.ToLower(string(rpcerr.ReasonOf(err)))
		if how == "" {
			how = "other"
		}
	}
	f.metrics.fetches.WithLabelValues(how).Inc()
	return err
}

// How a fetch that succeeded came by the content.
const (
	fromSource = "success"
	fromDisk   = "cached"
)

func (f *Fetcher) fetch(ctx context.Context, id task.ID, spec *source.Spec, sink Sink) (how string, err error) {
	log := f.log.With(zap.String("task_id", string(id)), zap.String("source_host", spec.Host()))
	saved := f.saved(log, id, spec)
	if saved != nil && spec.MD5 != "" { // named by its content: nothing to ask
		f.reuse(log, id, saved, sink)
		return fromDisk, nil
	}
	session := f.client.Session(spec)
	defer session.Close()
	res, err := f.open(ctx, session, saved, sink)
	if err != nil {
		return fromDisk, f.withoutSource(ctx, log, id, saved, sink, err)
	}
	defer res.Close()
	if res.NotModified {
		f.reuse(log, id, saved, sink)
		return fromDisk, nil
	}
	if err := f.take(ctx, log, id, spec, session, res, sink); err != nil {
		// ctx may have ended, and the leftovers must go all the same.
		return "", errors.Join(err, f.store.Remove(id))
	}
	return fromSource, nil
}

// saved gives the copy on disk that may be the task's, or nil.
func (f *Fetcher) saved(log *zap.Logger, id task.ID, spec *source.Spec) *store.Saved {
	saved, err := f.store.Load(id)
	switch {
	case errors.Is(err, store.ErrAbsent):
		return nil
	case err != nil:
		log.Warn("ignoring the copy on disk", zap.Error(err))
		return nil
	case spec.MD5 != "" && saved.Result.MD5 != spec.MD5:
		log.Info("the copy on disk has another MD5 than was asked for")
		return nil
	}
	return saved
}

// open asks the source, with provisional facts if it takes its time.
func (f *Fetcher) open(ctx context.Context, session *source.Session, saved *store.Saved, sink Sink) (*source.Response, error) {
	provisional := task.Facts{Length: -1, PieceSize: piece.DefaultSize}
	var have source.Validators
	if saved != nil {
		// Whatever the source will answer, the saved copy's size is right.
		provisional.PieceSize = saved.Meta.PieceSize
		have = source.Validators{ETag: saved.Meta.ETag, LastModified: saved.Meta.LastModifiedHeader()}
	}
	late := time.AfterFunc(f.options.FactsTimeout, func() { sink.Provisional(provisional) })
	defer late.Stop()
	return session.Get(ctx, have)
}

// withoutSource serves the copy on disk if the source cannot be asked just
// now, and gives err back otherwise.
func (f *Fetcher) withoutSource(
	ctx context.Context, log *zap.Logger, id task.ID, saved *store.Saved, sink Sink, err error,
) error {
	if saved == nil || ctx.Err() != nil {
		return err
	}
	if source.Transient(err) {
		log.Warn("serving the copy on disk unchecked", zap.Error(err))
		f.reuse(log, id, saved, sink)
		return nil
	}
	if rpcerr.ReasonOf(err) == rpcerr.SourceNotFound {
		return errors.Join(err, f.store.Remove(id))
	}
	return err // such as wrong credentials: no reason to lose what others may use
}

// reuse serves the copy on disk.
func (f *Fetcher) reuse(log *zap.Logger, id task.ID, saved *store.Saved, sink Sink) {
	if err := f.store.Touch(id, saved.Meta, time.Now().UnixMilli()); err != nil {
		log.Warn("noting the access", zap.Error(err))
	}
	sink.Settle(saved.Facts())
	sink.Begin(saved.Content)
	sink.Land(saved.Pieces...)
	sink.Finish(saved.Result)
	log.Info("serving the copy on disk", zap.Int64("length", saved.Result.Length))
}

// mismatch is content that is not what was asked for.
func mismatch(got, want string) error {
	return source.Broken("the source's content has the MD5 %s, not %s", got, want)
}

// brokenLength is content that ended elsewhere than announced.
func brokenLength(got, want int64) error {
	return source.Broken("the source sent %d bytes, not the %d it announced", got, want)
}
