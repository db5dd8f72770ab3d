// Package registrations stores the registrations that this gateway has forwarded
// and replays them. A replay registers a peer again at a scheduler that does not
// have it, because it was restarted or has taken the task over, while the client
// behind the peer is not involved. The caller decides when to replay and to
// which scheduler.
//
// Invariants:
//
//   - A registration contains the headers of the source, which may be
//     credentials. It is kept in memory only and sent to schedulers only.
//   - The store is bounded in entries, in bytes and in time.
//   - One registration is replayed by one call at a time.
//
// The states of an entry:
//
//	Put --> live --End--> ended --after Linger, or no room--> removed
//	          └--no Touch for Idle, or no room--> removed
//
// If there is no room, ended entries are removed before live ones. A replay
// that shows that the task has changed removes the entry, too.
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

// overhead is the estimated memory of an entry without its registration, in
// bytes.
const overhead = 400

// Key identifies a registration.
type Key struct{ Task, Peer string }

// Facts holds the properties of the task that the client got in the answer to
// its registration.
type Facts struct {
	// Length is the length of the source in bytes, negative if unknown.
	Length int64
	// PieceSize is the size of a piece in bytes, including its wrapping.
	PieceSize int32
}

// compatible reports whether a client that was given f can continue its download
// with the facts in other.
func (f Facts) compatible(other Facts) bool {
	return f.PieceSize == other.PieceSize && (f.Length == other.Length || f.Length < 0 || other.Length < 0)
}

// Config holds the bounds of a store. None may be 0.
type Config struct {
	// Entries and Bytes limit the number and the total size of the entries.
	Entries, Bytes int
	// Idle is how long a live entry is kept without a Touch.
	Idle time.Duration
	// Linger is how long an entry is kept after End, for reports of the client
	// that arrive later.
	Linger time.Duration
}

// Store holds registrations. It is safe for concurrent use.
type Store struct {
	cfg     Config
	replays *prometheus.CounterVec

	mu      sync.Mutex // guards the fields below
	entries map[Key]*list.Element
	live    *list.List // of *entry, the most recently touched first
	ended   *list.List // of *entry, the most recently ended first
	bytes   int        // total size of the entries
}

// entry is a stored registration.
type entry struct {
	key     Key
	request []byte // an encoded RegisterPeerRequest, so that its size is known
	facts   Facts
	updated time.Time  // the last Put, Touch or End
	list    *list.List // live or ended

	// replaying is a semaphore of one that the running replay holds. It guards
	// registered, the time of the last successful registration.
	replaying  chan struct{}
	registered time.Time
}

// size returns the estimated memory of the entry in bytes.
func (e *entry) size() int { return len(e.request) + len(e.key.Task) + len(e.key.Peer) + overhead }

// New creates an empty store and registers its metrics.
func New(cfg Config, metrics prometheus.Registerer) (*Store, error) {
	replays := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "supernode_gateway_replayed_registrations_total",
		Help: "Registrations that were replayed to a scheduler that did not have the peer, by result.",
	}, []string{"result"})
	if err := metrics.Register(replays); err != nil {
		return nil, fmt.Errorf("registering the metrics of registrations: %w", err)
	}
	return &Store{
		cfg: cfg, replays: replays, entries: make(map[Key]*list.Element), live: list.New(), ended: list.New(),
	}, nil
}

// Put stores a registration that a scheduler has accepted, and the facts from its
// answer. It replaces an earlier registration of the same peer.
func (s *Store) Put(req *schedulerv1.RegisterPeerRequest, facts Facts) {
	now := time.Now()
	e := &entry{
		key:   Key{Task: req.GetTaskId(), Peer: req.GetPeer().GetId()},
		facts: facts, updated: now, list: s.live, replaying: make(chan struct{}, 1), registered: now,
	}
	var err error
	if e.request, err = proto.Marshal(req); err != nil {
		return // cannot happen: the request has just been sent to a scheduler
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(s.entries[e.key])
	s.entries[e.key] = s.live.PushFront(e)
	s.bytes += e.size()
	s.prune(now)
}

// Touch records that a client has made a call, so that its entry is not removed
// as idle.
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

// Has reports whether a registration is stored.
func (s *Store) Has(key Key) bool { return s.find(key) != nil }

// End records that a client has finished its download or has stopped serving.
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

// find returns the entry of key, or nil.
func (s *Store) find(key Key) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune(time.Now())
	if el := s.entries[key]; el != nil {
		return el.Value.(*entry)
	}
	return nil
}

// removeIfCurrent removes an entry unless a later Put has replaced it.
func (s *Store) removeIfCurrent(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if el := s.entries[e.key]; el != nil && el.Value == e {
		s.remove(el)
	}
}

// prune removes the entries that are too old, and then as many as exceed the
// limits, ended entries first and the oldest first. The caller holds mu.
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

// remove removes the entry of el, which may be nil. The caller holds mu.
func (s *Store) remove(el *list.Element) {
	if el == nil {
		return
	}
	e := el.Value.(*entry)
	e.list.Remove(el)
	delete(s.entries, e.key)
	s.bytes -= e.size()
}
