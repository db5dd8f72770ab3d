// Package roster remembers the registrations that this gateway has forwarded,
// so that a scheduler that lost its memory, or never had it because another
// one died, can be told again of a client that does not know. Which scheduler
// that is and when it has to be told is not known here.
//
// Registrations carry the source's headers, credentials included: they are
// kept in memory, for a while, and told to schedulers alone. What is kept is
// bounded in number, in bytes and in time:
//
//	Keep --> live --End--> ended --Linger--> gone
//	          └--not heard of for Idle, or no room--> gone
package roster

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

// fit tells whether a client that works with f can go on with other ones.
func (f Facts) fit(other Facts) bool {
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

// Roster is safe for concurrent use.
type Roster struct {
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
	at      time.Time // when the client was heard of last, or ended
	in      *list.List

	// turn is held by who replays; it guards told, when a scheduler was last
	// told of the client.
	turn chan struct{}
	told time.Time
}

func (e *entry) size() int { return len(e.request) + len(e.key.Task) + len(e.key.Peer) + overhead }

// New makes an empty roster.
func New(cfg Config, metrics prometheus.Registerer) (*Roster, error) {
	replays := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "supernode_gateway_replayed_registrations_total",
		Help: "Registrations that were repeated at a scheduler that did not know the peer, by result.",
	}, []string{"result"})
	if err := metrics.Register(replays); err != nil {
		return nil, fmt.Errorf("registering the roster's metrics: %w", err)
	}
	return &Roster{
		cfg: cfg, replays: replays, entries: make(map[Key]*list.Element), live: list.New(), ended: list.New(),
	}, nil
}

// Keep remembers a registration that a scheduler has taken, and what it
// answered. It replaces an earlier one of the same peer.
func (r *Roster) Keep(req *schedulerv1.RegisterPeerRequest, facts Facts) {
	now := time.Now()
	e := &entry{
		key:   Key{Task: req.GetTaskId(), Peer: req.GetPeer().GetId()},
		facts: facts, at: now, in: r.live, turn: make(chan struct{}, 1), told: now,
	}
	var err error
	if e.request, err = proto.Marshal(req); err != nil {
		return // it could not have been forwarded either
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(r.entries[e.key])
	r.entries[e.key] = r.live.PushFront(e)
	r.bytes += e.size()
	r.prune(now)
}

// Heard notes that a client is still there.
func (r *Roster) Heard(key Key) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prune(now)
	if el := r.entries[key]; el != nil {
		if e := el.Value.(*entry); e.in == r.live {
			e.at = now
			r.live.MoveToFront(el)
		}
	}
}

// Knows tells whether a registration is remembered.
func (r *Roster) Knows(key Key) bool { return r.find(key) != nil }

// End notes that a client's download is over, or that it serves no more.
func (r *Roster) End(key Key) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if el := r.entries[key]; el != nil {
		if e := el.Value.(*entry); e.in == r.live {
			r.live.Remove(el)
			e.at, e.in = now, r.ended
			r.entries[key] = r.ended.PushFront(e)
		}
	}
	r.prune(now)
}

func (r *Roster) find(key Key) *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prune(time.Now())
	if el := r.entries[key]; el != nil {
		return el.Value.(*entry)
	}
	return nil
}

// drop forgets an entry, if it was not replaced meanwhile.
func (r *Roster) drop(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if el := r.entries[e.key]; el != nil && el.Value == e {
		r.forget(el)
	}
}

// prune forgets what is too old, then what there is no room for: those that
// ended first. The caller holds mu, as in forget.
func (r *Roster) prune(now time.Time) {
	for el := r.ended.Back(); el != nil && now.Sub(el.Value.(*entry).at) > r.cfg.Linger; el = r.ended.Back() {
		r.forget(el)
	}
	for el := r.live.Back(); el != nil && now.Sub(el.Value.(*entry).at) > r.cfg.Idle; el = r.live.Back() {
		r.forget(el)
	}
	for len(r.entries) > r.cfg.Entries || r.bytes > r.cfg.Bytes {
		el := r.ended.Back()
		if el == nil {
			el = r.live.Back()
		}
		r.forget(el)
	}
}

func (r *Roster) forget(el *list.Element) {
	if el == nil {
		return
	}
	e := el.Value.(*entry)
	e.in.Remove(el)
	delete(r.entries, e.key)
	r.bytes -= e.size()
}
