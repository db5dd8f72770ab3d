// Package registrations remembers the registrations that this gateway has forwarded,
// so that a scheduler that lost its memory, or never had it because another
// one died, can be told again of a client that does not know. Which scheduler
// that is and when it has to be told is not known here.
//
// Registrations carry the source's headers, credentials included: they are
// kept in memory, for a while, and told to schedulers alone. What is kept is
// bounded in number, in bytes and in time:
//
//	Put --> live --End--> ended --Linger--> gone
//	          └--not heard of for Idle, or no room--> gone
package registrations

import (
	"container/list"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
)

// overhead in bytes is about what an entry takes beside its registration.
const overhead = 400

// Key names a registration.
type Key struct{ Task, Peer string }

// Facts are what the client was told when it registered.
type Facts struct {
	// Length of the source in bytes, negative when it was not known.
	Length int64
	// PieceSize is the wrapped size of a piece in bytes.
	PieceSize int32
}

// compatible tells whether a client that works with f can go on with other ones.
func (f Facts) compatible(other Facts) bool {
	return f.PieceSize == other.PieceSize && (f.Length == other.Length || f.Length < 0 || other.Length < 0)
}

// Config is the bounds; none may be 0.
type Config struct {
	// Entries and Bytes are how much is kept at most.
	Entries, Bytes int
	// Idle is how long a client is remembered that is not heard of.
	Idle time.Duration
	// Linger is how long one is remembered that has said that it is done:
	// reports may come behind that.
	Linger time.Duration
}

// Store is safe for concurrent use.
type Store struct {
	cfg     Config
	replays *prometheus.CounterVec

	mu      sync.Mutex // guards what follows
	entries map[Key]*list.Element
	live    *list.List // of *entry, who was heard of last first
	ended   *list.List // of *entry, who ended last first
	bytes   int
}

type entry struct {
	key     Key
	request []byte // a RegisterPeerRequest: as bytes it can be counted
	facts   Facts
	updated time.Time // when the client was heard of last, or ended
	list    *list.List

	// replaying is held by who replays; it guards registered, when a scheduler was last
	// told of the client.
	replaying  chan struct{}
	registered time.Time
}

func (e *entry) size() int { return len(e.request) + len(e.key.Task) + len(e.key.Peer) + overhead }

// New makes an empty store.
func New(cfg Config, metrics prometheus.Registerer) (*Store, error) {
	replays := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "supernode_gateway_replayed_registrations_total",
		Help: "Registrations that were repeated at a scheduler that did not know the peer, by result.",
	}, []string{"result"})
	if err := metrics.Register(replays); err != nil {
		return nil, fmt.Errorf("registering the metrics of registrations: %w", err)
	}
	return &Store{
		cfg: cfg, replays: replays, entries: make(map[Key]*list.Element), live: list.New(), ended: list.New(),
	}, nil
}

// Put remembers a registration that a scheduler has taken, and what it
// answered. It replaces an earlier one of the same peer.
func (s *Store) Put(req *schedulerv1.RegisterPeerRequest, facts Facts) {
	now := time.Now()
	e := &entry{
		key:   Key{Task: req.GetTaskId(), Peer: req.GetPeer().GetId()},
		facts: facts, updated: now, list: s.live, replaying: make(chan struct{}, 1), registered: now,
	}
	var err error
	if e.request, err = proto.Marshal(req); err != nil {
		return // it could not have been forwarded either
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(s.entries[e.key])
	s.entries[e.key] = s.live.PushFront(e)
	s.bytes += e.size()
	s.prune(now)
}

// Touch notes that a client is still there.
func (s *Store) Touch(key Key) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune(now)
	if el := s.entries[key]; el != nil {
		if e := el.Value.(*entry); e.list == s.live {
			e.updated = now
			s.live.MoveToFront(el)
		}
	}
}

// Has tells whether a registration is remembered.
func (s *Store) Has(key Key) bool { return s.find(key) != nil }

// End notes that a client's download is over, or that it serves no more.
func (s *Store) End(key Key) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if el := s.entries[key]; el != nil {
		if e := el.Value.(*entry); e.list == s.live {
			s.live.Remove(el)
			e.updated, e.list = now, s.ended
			s.entries[key] = s.ended.PushFront(e)
		}
	}
	s.prune(now)
}

func (s *Store) find(key Key) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune(time.Now())
	if el := s.entries[key]; el != nil {
		return el.Value.(*entry)
	}
	return nil
}

// removeIfCurrent forgets an entry, if it was not replaced meanwhile.
func (s *Store) removeIfCurrent(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if el := s.entries[e.key]; el != nil && el.Value == e {
		s.remove(el)
	}
}

// prune forgets what is too old, then what there is no room for: those that
// ended first. The caller holds mu, as in remove.
func (s *Store) prune(now time.Time) {
	for el := s.ended.Back(); el != nil && now.Sub(el.Value.(*entry).updated) > s.cfg.Linger; el = s.ended.Back() {
		s.remove(el)
	}
	for el := s.live.Back(); el != nil && now.Sub(el.Value.(*entry).updated) > s.cfg.Idle; el = s.live.Back() {
		s.remove(el)
	}
	for len(s.entries) > s.cfg.Entries || s.bytes > s.cfg.Bytes {
		el := s.ended.Back()
		if el == nil {
			el = s.live.Back()
		}
		s.remove(el)
	}
}

func (s *Store) remove(el *list.Element) {
	if el == nil {
		return
	}
	e := el.Value.(*entry)
	e.list.Remove(el)
	delete(s.entries, e.key)
	s.bytes -= e.size()
}
