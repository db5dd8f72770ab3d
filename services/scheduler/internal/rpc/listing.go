package rpc

import (
	"cmp"
	"context"
	"slices"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

const (
	// maxListing is the maximum number of entries in a listing, and maxListingIDs that
	// of a listing of ids only.
	maxListing    = 10_000
	maxListingIDs = 100_000
	// maxListingPieces is the number of pieces from which on a listing is truncated.
	maxListingPieces = 200_000
	// listingChunk is the number of peers that are read from a task at a time, so that
	// its other calls are processed in between.
	listingChunk = 256
)

// listingKey identifies an entry of a listing: a peer in a task.
type listingKey struct {
	peerID string
	task   *task.Task
}

func compareKeys(a, b listingKey) int {
	return cmp.Or(cmp.Compare(a.peerID, b.peerID), cmp.Compare(a.task.ID, b.task.ID))
}

// ListPeers returns the peers that serve pieces, and their pieces.
func (s *Server) ListPeers(ctx context.Context, req *schedulerv1.ListPeersRequest) (*schedulerv1.ListPeersResponse, error) {
	return listPeers(ctx, s.tasks.All(), req, maxListingPieces)
}

// listPeers lists the peers of the given tasks.
func listPeers(
	ctx context.Context, tasks []*task.Task, req *schedulerv1.ListPeersRequest, maxPieces int,
) (*schedulerv1.ListPeersResponse, error) {
	most := int32(maxListing)
	if req.GetIdsOnly() {
		most = maxListingIDs
	}
	switch {
	case req.GetLimit() < 1 || req.GetLimit() > most:
		return nil, rpcerr.Invalid("limit %d: want 1 to %d", req.GetLimit(), most)
	case req.GetStart() < 0:
		return nil, rpcerr.Invalid("start %d is negative", req.GetStart())
	}
	keys, err := listingKeys(ctx, tasks, req.GetUrls(), int(req.GetStart())+int(req.GetLimit()))
	if err != nil {
		return nil, err
	}
	keys = keys[min(int(req.GetStart()), len(keys)):]
	if req.GetIdsOnly() {
		return &schedulerv1.ListPeersResponse{Entries: idEntries(keys)}, nil
	}
	return listEntries(ctx, keys, maxPieces)
}

// listingKeys returns the first n keys of the tasks with one of these URLs, or of all
// tasks if there are none. It holds the keys of one task and 2n others at most.
func listingKeys(ctx context.Context, tasks []*task.Task, urls []string, n int) ([]listingKey, error) {
	var keys []listingKey
	cut := func() {
		slices.SortFunc(keys, compareKeys)
		keys = keys[:min(n, len(keys))]
	}
	for _, t := range tasks {
		if len(urls) > 0 && !slices.Contains(urls, t.URL) {
			continue
		}
		ids, err := t.Sources(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			continue // the task has ended in the meantime
		}
		for _, id := range ids {
			if len(keys) >= 2*n {
				cut()
			}
			keys = append(keys, listingKey{id, t})
		}
	}
	cut()
	return keys, nil
}

func idEntries(keys []listingKey) []*schedulerv1.PeerEntry {
	entries := make([]*schedulerv1.PeerEntry, len(keys))
	for i, k := range keys {
		entries[i] = &schedulerv1.PeerEntry{Peer: &schedulerv1.Peer{Id: k.peerID}, TaskId: k.task.ID}
	}
	return entries
}

// listEntries returns the entries of keys, in their order. It leaves out those with
// which the number of pieces would exceed maxPieces, and all after them, but not the
// first entry. Peers that have left in the meantime are left out too.
func listEntries(ctx context.Context, keys []listingKey, maxPieces int) (*schedulerv1.ListPeersResponse, error) {
	out := &schedulerv1.ListPeersResponse{}
	pieces := 0
	for len(keys) > 0 {
		t, ids := keys[0].task, leadingPeers(keys)
		keys = keys[len(ids):]
		list, facts, err := t.Holdings(ctx, ids, maxPieces-pieces)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			continue // the task has ended in the meantime
		}
		for _, h := range list {
			if len(out.GetEntries()) > 0 && pieces+len(h.Pieces) > maxPieces {
				out.Truncated = true
				return out, nil
			}
			pieces += len(h.Pieces)
			out.Entries = append(out.Entries, entryProto(t, h, facts))
		}
		if pieces > maxPieces { // the first entry alone: the peers after it were not read
			out.Truncated = len(ids) > 1 || len(keys) > 0
			return out, nil
		}
	}
	return out, nil
}

// leadingPeers returns the peers of the first keys, as far as they are of one task, and
// listingChunk at most.
func leadingPeers(keys []listingKey) (ids []string) {
	for _, k := range keys[:min(listingChunk, len(keys))] {
		if k.task != keys[0].task {
			break
		}
		ids = append(ids, k.peerID)
	}
	return ids
}
