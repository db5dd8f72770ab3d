// Package fetch is how a task gets onto the disk: it decides whether the copy
// that is there may be served, asks the source otherwise, and cuts, checks and
// writes what comes. It does not know who asked nor who listens, and it keeps
// nothing in memory when a fetch is over.
package fetch

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

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
	// Begin says where the pieces are going to be. The content is the sink's from
	// then on, to be closed when nothing works on the task.
	Begin(content *store.Content)
	// Withdraw says that the pieces are not there any more.
	Withdraw()
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
	// PauseLimit is the pause in reading after which StillOwner is asked.
	PauseLimit time.Duration
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
	slots  chan struct{}
	copies Copies
	// transfers bounds the pieces that are fetched from other CDNs, copying the
	// CDNs that are followed for that.
	transferSlots, copySlots chan struct{}
	metrics                  metrics
}

// maxCopying is how many tasks are followed at other CDNs at a time.
const maxCopying = 1024

// NewFetcher makes a Fetcher.
func NewFetcher(log *zap.Logger, files *store.Store, client *source.Client, others Copies, options Options) *Fetcher {
	f := &Fetcher{
		log: log, store: files, client: client, copies: others, options: options,
		slots:         make(chan struct{}, options.PoolSize),
		transferSlots: make(chan struct{}, options.PoolSize),
		copySlots:     make(chan struct{}, maxCopying),
		metrics:       newMetrics(),
	}
	if options.MaxBandwidth > 0 {
		f.limiter = rate.NewLimiter(rate.Limit(options.MaxBandwidth), int(max(options.MaxBandwidth, 1<<20)))
	}
	return f
}

// Collectors are the metrics, to be registered.
func (f *Fetcher) Collectors() []prometheus.Collector { return f.metrics.collectors() }

// Held is a part of a task that has been told already.
type Held struct {
	// Content is where it is, open for more.
	Content *store.Content
	// Pieces have been checked.
	Pieces []task.Piece
}

// Job is a task that is to be fetched as its owner.
type Job struct {
	// ID names it.
	ID task.ID
	// Spec is its source.
	Spec *source.Spec
	// Epoch is the one in which it is owned here, 0 for none.
	Epoch int64
	// Expected is the version that peers have pieces of, nil for any.
	Expected *task.Facts
	// Recorded are the facts in the task's record. If the source still has that
	// version, it is cut into pieces of the recorded size, as other copies are.
	Recorded task.Facts
	// Copies are ids of other CDNs that may have some of it.
	Copies []string
	// Held is what is here already, nil for what may be found on disk.
	Held *Held
}
