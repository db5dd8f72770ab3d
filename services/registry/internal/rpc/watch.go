package rpc

import (
	"context"
	"strconv"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"google.golang.org/grpc"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/convert"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdconn"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

const (
	// maxBatch is the maximum number of entries in a message of WatchTasks.
	maxBatch = 500
	// defaultPage and maxPage are numbers of records in a page of ListTasks.
	defaultPage = 100
	maxPage     = 1000
)

// WatchTasks sends every record that names a member, then every change. A slow
// receiver gets the latest state of each task when it is ready again.
func (s *Server) WatchTasks(req *registryv1.WatchTasksRequest, stream grpc.ServerStreamingServer[registryv1.WatchTasksResponse]) error {
	key, err := keyFrom(req.GetRole(), req.GetMemberId())
	if err == nil && key.Role != record.RoleCDN && key.Role != record.RoleScheduler {
		err = rpcerr.Invalid("role %s: records name only CDNs and schedulers", key.Role)
	}
	if err != nil {
		return toStatus(err)
	}
	// A cache that is not complete yet must not look like a store without records.
	if err := s.wait(stream.Context(), s.Cache.Synced()); err != nil {
		return toStatus(err)
	}
	watch := s.Cache.Watch(key)
	defer watch.Close()
	for {
		if err := s.waitReady(stream.Context(), watch); err != nil {
			return toStatus(err)
		}
		batch := watch.Take(maxBatch)
		if len(batch.Records) == 0 && len(batch.Gone) == 0 && !batch.Complete {
			continue // a record has changed and changed back
		}
		resp := &registryv1.WatchTasksResponse{Gone: batch.Gone, Complete: batch.Complete, Replicas: int32(s.Copies)}
		for _, task := range batch.Records {
			resp.Records = append(resp.Records, convert.TaskTo(task))
		}
		if err := stream.Send(resp); err != nil {
			return toStatus(err)
		}
	}
}

// waitReady waits until the watch has changes. It returns an error if the watch or
// ctx ends, or if the registry stops.
func (s *Server) waitReady(ctx context.Context, watch *cache.Watch) error {
	select {
	case <-watch.Ended():
	default:
		select {
		case <-watch.Ready():
			return nil
		case <-watch.Ended():
		case <-ctx.Done():
			return ctx.Err()
		case <-s.Stopped:
			return etcdconn.Unavailable("the registry is stopping")
		}
	}
	return etcdconn.Unavailable("the registry has listed the store again: restart the watch")
}

// ListTasks returns a page of records from the cache.
func (s *Server) ListTasks(ctx context.Context, req *registryv1.ListTasksRequest) (*registryv1.ListTasksResponse, error) {
	size := int(req.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	if size < 1 || size > maxPage {
		return nil, toStatus(rpcerr.Invalid("page size %d: want 1 to %d, or 0", size, maxPage))
	}
	if member := req.GetMemberId(); member != "" {
		if err := check(record.CheckID(member)); err != nil {
			return nil, toStatus(err)
		}
	}
	if token := req.GetPageToken(); token != "" && taskid.Check(token) != nil {
		return nil, toStatus(rpcerr.Invalid("page token %s", strconv.Quote(token[:min(len(token), 80)])))
	}
	if err := s.wait(ctx, s.Cache.Synced()); err != nil {
		return nil, toStatus(err)
	}
	page, more := s.Cache.Tasks(req.GetMemberId(), req.GetPageToken(), size)
	resp := &registryv1.ListTasksResponse{}
	for _, task := range page {
		resp.Records = append(resp.Records, convert.TaskTo(task))
	}
	if more {
		resp.NextPageToken = page[len(page)-1].ID
	}
	return resp, nil
}
