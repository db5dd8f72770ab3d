// Package rpc is the registry's gRPC surface: it checks requests, turns
// messages into values and errors into statuses, and leaves all else to the
// packages behind it.
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

// Server answers the registry's calls. Use New.
type Server struct {
	registryv1.UnimplementedRegistryServiceServer

	Deps
}

// Deps are what a Server is made of. All are required.
type Deps struct {
	Members *etcdstore.Store
	Tasks   *tasks.Tasks
	Cache   *cache.Cache
	// Copies is how many copies of a task are kept, the owner's included.
	Copies int
	// Stopped, when closed, ends the streams.
	Stopped <-chan struct{}
}

// New makes a server.
func New(deps Deps) *Server { return &Server{Deps: deps} }

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

// check turns the first complaint into INVALID_ARGUMENT.
func check(complaints ...error) error {
	for _, err := range complaints {
		if err != nil {
			return rpcerr.Invalid("%v", err)
		}
	}
	return nil
}

func failed(err error) error { return rpcerr.Status(err).Err() }
