package reconciler_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// recordingEngine is an engine that records its calls.
type recordingEngine struct {
	mu        sync.Mutex
	standing  map[string]task.Standing // by name, without the released ones; guarded by mu
	assigned  []string                 // guarded by mu
	discarded []string                 // guarded by mu
	disk      []task.Inventory         // guarded by mu
}

func (r *recordingEngine) Assign(id task.ID, s task.Standing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.standing[nameOf(string(id))]; ok && known.Epoch > s.Epoch {
		return
	}
	r.standing[nameOf(string(id))] = s
	r.assigned = append(r.assigned, fmt.Sprintf("%s@%d", nameOf(string(id)), s.Epoch))
}

func (r *recordingEngine) Release(id task.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.standing, nameOf(string(id)))
	r.assigned = append(r.assigned, nameOf(string(id))+" released")
}

func (r *recordingEngine) Discard(_ context.Context, id task.ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.discarded = append(r.discarded, nameOf(string(id)))
	r.disk = slices.DeleteFunc(r.disk, func(c task.Inventory) bool { return c.ID == id })
	return nil
}

func (r *recordingEngine) Inventory(context.Context) ([]task.Inventory, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.disk), nil
}

func (r *recordingEngine) standings() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := ""
	for _, name := range slices.Sorted(maps.Keys(r.standing)) {
		s := r.standing[name]
		text += fmt.Sprintf("%s@%d:%s%v ", name, s.Epoch, s.Owner, s.Others)
	}
	return text
}

func (r *recordingEngine) history() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.assigned)
}

// otherCDNs answers Stat for all other CDNs.
type otherCDNs struct {
	cdnv1.UnimplementedCdnServiceServer
	mu    sync.Mutex
	whole map[string]bool // by name; guarded by mu
}

func (p *otherCDNs) Stat(_ context.Context, r *cdnv1.StatRequest) (*cdnv1.StatResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.whole[nameOf(r.GetTaskId())] {
		return nil, status.Error(codes.NotFound, "no local copy")
	}
	return &cdnv1.StatResponse{PieceCount: 1, Result: &cdnv1.SeedResult{PieceCount: 1}}, nil
}

func (p *otherCDNs) addWhole(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole[name] = true
}
