// Package operator asks the processes of a running cluster over gRPC what an
// operator asks them: what a registry says of tasks and members, what a CDN
// has. What the answers should be is for those who ask.
package operator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/ring"
	"github.com/supernode-ha/supernode/test/cluster"
)

// askLimit bounds every question.
const askLimit = 2 * time.Second

// Operator asks, and keeps the connections for that until Close.
type Operator struct {
	registries func() []*cluster.Node

	mu    sync.Mutex // guards conns
	conns map[string]*grpc.ClientConn
}

// New makes an operator who knows these registries, at any time.
func New(registries func() []*cluster.Node) *Operator {
	return &Operator{registries: registries, conns: make(map[string]*grpc.ClientConn)}
}

// Close closes the connections.
func (o *Operator) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.conns {
		c.Close()
	}
}

// conn gives the connection to a node's endpoint.
func (o *Operator) conn(endpoint string) (*grpc.ClientConn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	conn := o.conns[endpoint]
	if conn == nil {
		var err error
		if conn, err = grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
			return nil, err
		}
		o.conns[endpoint] = conn
	}
	return conn, nil
}

// Ask asks one registry after the other until one answers.
func (o *Operator) Ask(call func(context.Context, registryv1.RegistryServiceClient) error) error {
	err := errors.New("no registry runs")
	for _, n := range o.registries() {
		if err = o.AskAt(n, call); err == nil {
			return nil
		}
	}
	return err
}

// AskAt asks one registry.
func (o *Operator) AskAt(n *cluster.Node, call func(context.Context, registryv1.RegistryServiceClient) error) error {
	conn, err := o.conn(n.RPC)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	if err := call(ctx, registryv1.NewRegistryServiceClient(conn)); err != nil {
		return fmt.Errorf("asking %s: %w", n.RPC, err)
	}
	return nil
}

// Record is what the store says of a task.
func (o *Operator) Record(id string) (*registryv1.TaskRecord, error) {
	var rec *registryv1.TaskRecord
	err := o.Ask(func(ctx context.Context, c registryv1.RegistryServiceClient) error {
		resp, err := c.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: id, Fresh: true})
		rec = resp.GetRecord()
		return err
	})
	return rec, err
}

// Ready are the ids of the members of a role that take new work.
func (o *Operator) Ready(role registryv1.Role) ([]string, error) {
	var ids []string
	err := o.Ask(func(ctx context.Context, c registryv1.RegistryServiceClient) error {
		resp, err := c.ListMembers(ctx, &registryv1.ListMembersRequest{Roles: []registryv1.Role{role}})
		for _, m := range resp.GetMembers() {
			if m.GetState() == registryv1.MemberState_MEMBER_STATE_READY {
				ids = append(ids, m.GetId())
			}
		}
		return err
	})
	return ids, err
}

// Pieces is how many pieces of a task a CDN has.
func (o *Operator) Pieces(cdn *cluster.Node, id string) (int64, error) {
	conn, err := o.conn(cdn.RPC)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	resp, err := cdnv1.NewCdnServiceClient(conn).Stat(ctx, &cdnv1.StatRequest{TaskId: id})
	if err != nil {
		return 0, fmt.Errorf("asking %s: %w", cdn.RPC, err)
	}
	return int64(resp.GetPieceCount()), nil
}

// Standby is who takes a task over from its scheduler: the first of those that
// are READY, in rendezvous order, that is another; "" when there is none.
func Standby(task, scheduler string, ready []string) string {
	var others []ring.Node
	for _, id := range ready {
		if id != scheduler {
			others = append(others, ring.Node{ID: id})
		}
	}
	id, _ := ring.First(task, others)
	return id
}
