// Package rpc implements the registry's gRPC service. It checks requests, converts
// messages to values and errors to statuses, and leaves everything else to the
// packages tasks, etcdstore and cache.
package rpc

import (
	"context"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdconn"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/tasks"
)

// Server implements the service.
type Server struct {
	registryv1.UnimplementedRegistryServiceServer

	Deps
}

// Deps holds the dependencies of a server. All are required.
type Deps struct {
	Members *etcdstore.Store
	Tasks   *tasks.Tasks
	Cache   *cache.Cache
	// Copies is the number of copies that a task should have, including the owner's.
	Copies int
	// Stopped is closed when the registry stops. It ends the streams.
	Stopped <-chan struct{}
}

// New returns a server.
func New(deps Deps) *Server { return &Server{Deps: deps} }

// wait waits for event. It returns an error if ctx ends or the registry stops.
func (s *Server) wait(ctx context.Context, event <-chan struct{}) error {
	select {
	case <-event:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.Stopped:
		return etcdconn.Unavailable("the registry is stopping")
	}
}

// check returns INVALID_ARGUMENT with the text of the first error, or nil if there is
// none.
func check(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return rpcerr.Invalid("%v", err)
		}
	}
	return nil
}

// toStatus converts an error to a gRPC status.
func toStatus(err error) error { return rpcerr.Status(err).Err() }
