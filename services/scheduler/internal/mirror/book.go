// Package mirror is the memory of tasks at a second scheduler: Book is what
// others have told this one, Sender tells them what this one knows. Who is the
// standby of a task is decided here; what is done with a memory when its
// scheduler dies is not.
package mirror

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/scheduler/internal/ids"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// Keep is how long a memory is kept whose scheduler tells nothing more: clients
// of a task that nobody took over by then are gone.
const Keep = 10 * time.Minute

// maxTasks bounds the tasks of a book.
const maxTasks = 1 << 17

// recalled is the stream that what was recalled is kept under.
const recalled = "recalled"

// Remembered is a task as its scheduler knew it.
type Remembered struct {
	// URL names the source without credentials, Source is what a CDN needs.
	URL    string
	Source *cdnv1.Source
	Memory swarm.Update
}

// Book is what other schedulers have told. It is safe for concurrent use.
type Book struct {
	mu    sync.Mutex // guards tasks
	tasks map[string]*page
}

// page is one task.
type page struct {
	from   string // the stream that told it
	told   time.Time
	url    string
	source *cdnv1.Source
	facts  *swarm.Facts
	result *swarm.Result
	pieces map[int32]swarm.PieceUpdate
	peers  peers
	// outdated are peers that have pieces of another version.
	outdated []string
	streams  bool // the stream tells of it
	orphaned bool // the stream ended while it did
}

// NewBook makes an empty book whose size is told to reg.
func NewBook(reg prometheus.Registerer) (*Book, error) {
	b := &Book{tasks: make(map[string]*page)}
	return b, reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "supernode_scheduler_mirrored_tasks", Help: "Tasks of other schedulers whose memory is kept here.",
	}, func() float64 {
		b.mu.Lock()
		defer b.mu.Unlock()
		return float64(len(b.tasks))
	}))
}

// Check refuses a message with names that cannot be. It comes before Take.
func Check(req *schedulerv1.MirrorRequest) error {
	for _, m := range req.GetTasks() {
		if err := ids.CheckTask(m.GetTaskId()); err != nil {
			return err
		}
		for _, p := range m.GetPeers() {
			if err := ids.Check(m.GetTaskId(), p.GetPeer().GetId()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Take notes what a stream tells. Only the stream that told a task anew may
// tell what changed in it.
func (b *Book) Take(stream string, req *schedulerv1.MirrorRequest, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note(stream, req, now)
}

// Recalled notes what a standby still knew of a task, as of somebody who tells
// nothing more, unless somebody has told of it meanwhile: that is newer.
func (b *Book) Recalled(taskID string, req *schedulerv1.MirrorRequest, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tasks[taskID] == nil {
		b.note(recalled, req, now)
	}
}

// note writes a message down. The caller holds mu.
func (b *Book) note(stream string, req *schedulerv1.MirrorRequest, now time.Time) {
	for _, m := range req.GetTasks() {
		p := b.tasks[m.GetTaskId()]
		if m.GetAnew() {
			if p == nil && len(b.tasks) >= maxTasks {
				continue
			}
			p = &page{
				from: stream, url: m.GetTaskUrl(), source: m.GetSource(), streams: true,
				pieces: make(map[int32]swarm.PieceUpdate), peers: peers{byID: make(map[string]kept)},
			}
			b.tasks[m.GetTaskId()] = p
		}
		if p != nil && p.from == stream {
			p.told = now
			p.take(m)
		}
	}
	for _, id := range req.GetReleased() {
		if p := b.tasks[id]; p != nil && p.from == stream {
			p.told, p.streams = now, false
		}
	}
	for _, id := range req.GetGone() {
		if p := b.tasks[id]; p != nil && p.from == stream {
			delete(b.tasks, id)
		}
	}
}

func (p *page) take(m *schedulerv1.TaskMemory) {
	if f := m.GetFacts(); f != nil {
		facts := factsOf(f)
		p.facts = &facts
	}
	if r := m.GetResult(); r != nil {
		p.result = &swarm.Result{MD5: r.GetMd5(), Length: r.GetLength(), PieceCount: r.GetPieceCount()}
	}
	for _, piece := range m.GetPieces() {
		p.pieces[piece.GetNum()] = swarm.PieceUpdate{Num: piece.GetNum(), MD5: piece.GetMd5(), Length: piece.GetLength()}
	}
	for _, peer := range m.GetPeers() {
		p.peers.take(peerOf(peer))
	}
	for _, id := range m.GetForgotten() {
		delete(p.peers.byID, id)
	}
	p.outdated = append(p.outdated, m.GetOutdated()...)
}

// Ended says that a stream tells nothing more: what it told is kept for a while.
func (b *Book) Ended(stream string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.tasks {
		if p.from == stream {
			p.told, p.orphaned, p.streams = now, p.orphaned || p.streams, false
		}
	}
}

// Knows tells whether anything is remembered of a task.
func (b *Book) Knows(taskID string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tasks[taskID] != nil
}

// Orphaned tells whether a task is remembered whose scheduler told of it until it
// was not heard any more: it is dead, as far as can be seen from here.
func (b *Book) Orphaned(taskID string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.tasks[taskID]
	return p != nil && p.orphaned
}

// Recall gives what is remembered of a task, if anything is. It stays there:
// whoever asks may find that the task is another's.
func (b *Book) Recall(taskID string) (Remembered, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.tasks[taskID]
	if p == nil {
		return Remembered{}, false
	}
	return Remembered{URL: p.url, Source: p.source, Memory: swarm.Update{
		Full: true, Facts: p.facts, Result: p.result,
		Pieces: slices.Collect(maps.Values(p.pieces)), Peers: p.peers.lend(),
		Outdated: slices.Clone(p.outdated),
	}}, true
}

// Parts gives what is remembered of a task as messages, none for nothing.
func (b *Book) Parts(taskID string) []*schedulerv1.TaskMemory {
	r, known := b.Recall(taskID)
	if !known {
		return nil
	}
	list := parts(taskID, r.Memory)
	list[0].TaskUrl, list[0].Source = r.URL, r.Source
	return list
}

// Forget drops what is remembered of a task.
func (b *Book) Forget(taskID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.tasks, taskID)
}

// Prune drops what nobody tells of any more, Keep after the last word.
func (b *Book) Prune(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.tasks, func(_ string, p *page) bool { return !p.streams && now.Sub(p.told) >= Keep })
}
