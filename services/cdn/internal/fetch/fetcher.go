// Package fetch downloads the content of tasks to the local disk: from the source for an
// owner (Fetch), from other CDNs for a replica (Copy). It decides whether a copy on disk is
// current, splits the content into pieces, checks them, writes them, and announces them to
// a Sink. It keeps no state of a task when a call has returned.
//
// The ways of a fetch to a whole task:
//
//	whole copy on disk --its version is confirmed, or the source is unavailable--> served
//	whole copy on disk --the source has another version--------------------------> fetched from the start
//	partial copy, version confirmed --> missing pieces from other copies, then from the source
//	no usable copy -------------------> fetched from the start
//
// Invariants:
//
//   - Pieces of two versions are never mixed. A version is identified by length, piece
//     size and validators. Without validators, pieces that exist are compared.
//   - A piece is announced only after it is written and its MD5 is known.
//   - A slot bounds the memory: a piece from the source holds one from the time it was
//     read until it is written and hashed.
//   - Pieces stay on disk if a fetch is stopped, if another CDN owns the task, and if the
//     source does not answer or keeps interrupting the download. After any other error a
//     partial copy is removed.
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

// Sink receives the progress of a fetch or a copy. Its methods must not block. They may be
// called concurrently.
type Sink interface {
	// Provisional announces facts before the source has answered. It does nothing after
	// Settle.
	Provisional(facts task.Facts)
	// Settle announces the facts of the source and returns those to use: if Provisional
	// has announced a piece size, that size is kept.
	Settle(facts task.Facts) task.Facts
	// Begin passes the files of the task to the sink, which must close them when no
	// fetch or copy of the task runs any more.
	Begin(content *store.Content)
	// Withdraw announces that the pieces do not exist any more.
	Withdraw()
	// Land announces pieces that can be read.
	Land(pieces ...task.Piece)
	// Finish announces that the task is whole.
	Finish(result task.Result)
}

// Options holds the limits of all fetches together.
type Options struct {
	// MaxBandwidth limits the reading from sources, in bytes per second; 0 for no limit.
	MaxBandwidth int64
	// PoolSize is the number of pieces that may be hashed and written concurrently.
	PoolSize int
	// FactsTimeout is the time after which provisional facts are announced.
	FactsTimeout time.Duration
	// RetryDelay is the delay before an interrupted download is resumed. It doubles with
	// each attempt.
	RetryDelay time.Duration
	// PauseLimit is the pause in reading after which StillOwner is called.
	PauseLimit time.Duration
	// StillOwner reports whether this instance still owns a task in an epoch. An error
	// means that this is unknown. It may be nil.
	StillOwner func(ctx context.Context, id task.ID, epoch int64) (bool, error)
}

// Fetcher fetches and copies tasks. It is safe for concurrent use for different tasks.
type Fetcher struct {
	log     *zap.Logger
	store   *store.Store
	client  *source.Client
	options Options
	limiter *rate.Limiter // nil for no limit
	buffers buffers
	// slots bounds the pieces from sources that are hashed and written, and so the
	// memory for them.
	slots  chan struct{}
	copies Copies
	// transferSlots bounds the pieces that are downloaded from other CDNs, and copySlots
	// the tasks that are copied.
	transferSlots, copySlots chan struct{}
	metrics                  metrics
}

// maxCopying is the number of tasks that may be copied from other CDNs concurrently.
const maxCopying = 1024

// NewFetcher returns a fetcher.
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

// Collectors returns the metrics for registration.
func (f *Fetcher) Collectors() []prometheus.Collector { return f.metrics.collectors() }

// Held is a partial copy that an earlier fetch or copy has announced to the sink.
type Held struct {
	// Content holds the files, open for writing.
	Content *store.Content
	// Pieces are the announced pieces, whose MD5s are checked.
	Pieces []task.Piece
}

// Job is a task to fetch as its owner.
type Job struct {
	ID task.ID
	// Spec is the source.
	Spec *source.Spec
	// Epoch is the epoch in which this instance owns the task. It is 0 if the store has
	// not recorded the ownership.
	Epoch int64
	// Expected is the version of the pieces that peers have. It is nil if any version
	// is accepted.
	Expected *task.Facts
	// Recorded holds the facts in the record of the task. If the source still has that
	// version, it is split into pieces of the recorded size, like the other copies.
	Recorded task.Facts
	// Copies are the ids of other CDNs that may have pieces.
	Copies []string
	// Held is the announced partial copy. If it is nil, a copy on disk is used.
	Held *Held
}
