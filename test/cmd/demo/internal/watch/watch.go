// Package watch keeps an eye on who is what to a task, as the registries say.
// What happens to whom is decided elsewhere.
package watch

import (
	"context"
	"sync"
	"time"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/test/cmd/demo/internal/scene"
	"github.com/supernode-ha/supernode/test/operator"
	"github.com/supernode-ha/supernode/test/pace"
)

const every = 200 * time.Millisecond

// Watcher asks again and again.
type Watcher struct {
	operator *operator.Operator
	task     string

	mu   sync.Mutex // guards cast
	cast scene.Cast
}

// New makes a watcher of a task. Nothing is asked before Run.
func New(o *operator.Operator, task string) *Watcher {
	return &Watcher{operator: o, task: task}
}

// Run watches until the context ends.
func (w *Watcher) Run(ctx context.Context) {
	for pace.Pause(ctx, every) {
		w.look()
	}
}

// look asks once. While nobody answers all stays as it was seen last.
func (w *Watcher) look() {
	rec, err := w.operator.Record(w.task)
	if err != nil {
		return // there is none yet, or no registry can be asked
	}
	ready, err := w.operator.Ready(registryv1.Role_ROLE_SCHEDULER)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cast = scene.Cast{
		Owner: rec.GetOwner(), Replicas: rec.GetReplicas(), Scheduler: rec.GetScheduler(),
		Standby: operator.Standby(w.task, rec.GetScheduler(), ready),
	}
}

// Cast is who was what when that was last seen.
func (w *Watcher) Cast() scene.Cast {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cast
}
