package keeper_test

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

// recorder is an engine that notes what it is told.
type recorder struct {
	mu        sync.Mutex
	standing  map[string]task.Standing // by name, without those released; guarded by mu
	assigned  []string                 // guarded by mu
	discarded []string                 // guarded by mu
	disk      []task.Inventory         // guarded by mu
}

func (r *recorder) Assign(id task.ID, s task.Standing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.standing[nameOf(string(id))]; ok && known.Epoch > s.Epoch {
		return
	}
	r.standing[nameOf(string(id))] = s
	r.assigned = append(r.assigned, fmt.Sprintf("%s@%d", nameOf(string(id)), s.Epoch))
}

func (r *recorder) Release(id task.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.standing, nameOf(string(id)))
	r.assigned = append(r.assigned, nameOf(string(id))+" released")
}

func (r *recorder) Discard(_ context.Context, id task.ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.discarded = append(r.discarded, nameOf(string(id)))
	r.disk = slices.DeleteFunc(r.disk, func(c task.Inventory) bool { return c.ID == id })
	return nil
}

func (r *recorder) Inventory(context.Context) ([]task.Inventory, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.disk), nil
}

func (r *recorder) has() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := ""
	for _, name := range slices.Sorted(maps.Keys(r.standing)) {
		s := r.standing[name]
		text += fmt.Sprintf("%s@%d:%s%v ", name, s.Epoch, s.Owner, s.Others)
	}
	return text
}

func (r *recorder) history() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.assigned)
}

// peers are the other CDNs, as far as Stat goes.
type peers struct {
	cdnv1.UnimplementedCdnServiceServer
	mu    sync.Mutex
	whole map[string]bool // by name; guarded by mu
}

func (p *peers) Stat(_ context.Context, r *cdnv1.StatRequest) (*cdnv1.StatResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.whole[nameOf(r.GetTaskId())] {
		return nil, status.Error(codes.NotFound, "nothing of it is here")
	}
	return &cdnv1.StatResponse{PieceCount: 1, Result: &cdnv1.SeedResult{PieceCount: 1}}, nil
}

func (p *peers) have(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole[name] = true
}
