package keeper_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/taskid"
	"github.com/supernode-ha/supernode/services/cdn/internal/keeper"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const (
	self     = "self"
	patience = 20 * time.Second
	never    = time.Hour
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a registry that says what a test wants, where the real one would
// not: it is away, late, repeats itself or lies. Streams tell what is put into
// them; calls are noted and answered by the test's functions.
type script struct {
	registryv1.UnimplementedRegistryServiceServer
	mu      sync.Mutex
	members []*registryv1.Member                        // guarded by mu
	changed chan struct{}                               // closed and replaced with members; guarded by mu
	stream  chan *registryv1.WatchTasksResponse         // of the stream that is open; closed to end it; guarded by mu
	opened  int                                         // streams; guarded by mu
	away    bool                                        // guarded by mu
	calls   []string                                    // guarded by mu
	answers map[string]func(n int) (*record, error)     // by "call task", n counts from 1; guarded by mu
	counts  map[string]int                              // guarded by mu
	takes   func([]*registryv1.Copy) (*announce, error) // guarded by mu
	busy    int                                         // guarded by mu
	busiest int                                         // guarded by mu
	hold    chan struct{}                               // calls wait for it; guarded by mu
}

type (
	assertCollect = assert.CollectT
	record        = registryv1.TaskRecord
	announce      = registryv1.AnnounceCopiesResponse
	told          = registryv1.WatchTasksResponse
)

func (s *script) WatchMembers(_ *registryv1.WatchMembersRequest, stream registryv1.RegistryService_WatchMembersServer) error {
	for {
		s.mu.Lock()
		members, changed := s.members, s.changed
		s.mu.Unlock()
		if err := stream.Send(&registryv1.WatchMembersResponse{Members: members}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (s *script) setMembers(ids ...string) {
	var members []*registryv1.Member
	for _, id := range ids {
		m := &registryv1.Member{Id: id, Role: cluster.CDN, State: registryv1.MemberState_MEMBER_STATE_READY}
		if id[0] == '-' {
			m.Id, m.State = id[1:], registryv1.MemberState_MEMBER_STATE_DRAINING
		}
		m.Endpoint = m.Id
		members = append(members, m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = members
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *script) WatchTasks(req *registryv1.WatchTasksRequest, stream registryv1.RegistryService_WatchTasksServer) error {
	s.mu.Lock()
	if s.away || req.GetMemberId() != self {
		s.mu.Unlock()
		return status.Error(codes.Unavailable, "away")
	}
	messages := make(chan *told, 100)
	s.stream = messages
	s.opened++
	s.mu.Unlock()
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return status.Error(codes.Unavailable, "the store is away")
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// called notes a call and gives the answer to it.
func (s *script) called(ctx context.Context, call, id string) (*record, error) {
	s.mu.Lock()
	s.busy++
	s.busiest = max(s.busiest, s.busy)
	key := call + " " + nameOf(id)
	s.calls = append(s.calls, key)
	s.counts[key]++
	n, answer, hold, away := s.counts[key], s.answers[key], s.hold, s.away
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy--
	}()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}
	switch {
	case away:
		return nil, status.Error(codes.Unavailable, "away")
	case answer == nil:
		return nil, status.Error(codes.NotFound, "no such task")
	}
	return answer(n)
}

func (s *script) RepairTask(ctx context.Context, r *registryv1.RepairTaskRequest) (*registryv1.RepairTaskResponse, error) {
	rec, err := s.called(ctx, "repair", r.GetTaskId())
	return &registryv1.RepairTaskResponse{Record: rec}, err
}

func (s *script) MoveTask(ctx context.Context, r *registryv1.MoveTaskRequest) (*registryv1.MoveTaskResponse, error) {
	rec, err := s.called(ctx, fmt.Sprintf("move@%d", r.GetEpoch()), r.GetTaskId())
	return &registryv1.MoveTaskResponse{Record: rec}, err
}

func (s *script) ResignTask(ctx context.Context, r *registryv1.ResignTaskRequest) (*registryv1.ResignTaskResponse, error) {
	rec, err := s.called(ctx, "resign", r.GetTaskId())
	return &registryv1.ResignTaskResponse{Record: rec}, err
}

func (s *script) GetTask(ctx context.Context, r *registryv1.GetTaskRequest) (*registryv1.GetTaskResponse, error) {
	if !r.GetFresh() {
		return nil, status.Error(codes.InvalidArgument, "a copy may lag")
	}
	rec, err := s.called(ctx, "get", r.GetTaskId())
	return &registryv1.GetTaskResponse{Record: rec}, err
}

func (s *script) AnnounceCopies(_ context.Context, r *registryv1.AnnounceCopiesRequest) (*announce, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.takes == nil || s.away {
		return nil, status.Error(codes.Unavailable, "away")
	}
	return s.takes(r.GetCopies())
}

// tell sends on the stream that is open, once one is.
func (s *script) tell(t *testing.T, messages ...*told) {
	t.Helper()
	var stream chan *told
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		stream = s.stream
		return stream != nil
	}, patience, time.Millisecond)
	for _, m := range messages {
		stream <- m
	}
}

// cut ends the stream that is open.
func (s *script) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.stream)
	s.stream = nil
}

func (s *script) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *script) answer(key string, f func(n int) (*record, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[key] = f
}

func (s *script) count(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[key]
}

func (s *script) allCalls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// bench is a keeper that runs against a script.
type bench struct {
	*testing.T
	*script
	*recorder
	keeper *keeper.Keeper
	peers  *peers
}

func start(t *testing.T, replaceDelay time.Duration, disk ...task.Inventory) *bench {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return startAt(t, l, (&net.Dialer{}).DialContext, replaceDelay, disk...)
}

// startInBubble is start in a bubble of synctest, where no time passes as long
// as anybody has something to do.
func startInBubble(t *testing.T, replaceDelay time.Duration, disk ...task.Inventory) *bench {
	t.Helper()
	const window = 64 << 10
	l := bufconn.Listen(window)
	return startAt(t, l, func(ctx context.Context, _, _ string) (net.Conn, error) { return l.DialContext(ctx) }, replaceDelay, disk...)
}

type dial = func(ctx context.Context, network, address string) (net.Conn, error)

func startAt(t *testing.T, l net.Listener, dial dial, replaceDelay time.Duration, disk ...task.Inventory) *bench {
	t.Helper()
	b := &bench{
		T: t,
		script: &script{
			changed: make(chan struct{}), answers: make(map[string]func(int) (*record, error)), counts: make(map[string]int),
		},
		recorder: &recorder{standing: make(map[string]task.Standing), disk: disk},
		peers:    &peers{whole: make(map[string]bool)},
	}
	server := grpc.NewServer()
	registryv1.RegisterRegistryServiceServer(server, b.script)
	cdnv1.RegisterCdnServiceServer(server, b.peers)
	var work sync.WaitGroup
	work.Go(func() { _ = server.Serve(l) }) // ends when it is stopped
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, "tcp", address) }))
	require.NoError(t, err)
	client := registryv1.NewRegistryServiceClient(conn)
	view := cluster.NewView(client, zap.NewNop())
	b.keeper = keeper.New(self, keeper.Options{ReplaceDelay: replaceDelay, RetryDelay: time.Millisecond}, keeper.Deps{
		Logger: zap.NewNop(), Registry: client, Members: view,
		Dial: func(string) (grpc.ClientConnInterface, error) { return conn, nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	work.Go(func() { _ = view.Run(ctx) }) // has no errors
	work.Go(func() { b.keeper.Run(ctx, b.recorder) })
	t.Cleanup(func() {
		cancel()
		require.NoError(t, conn.Close())
		server.Stop()
		work.Wait()
	})
	return b
}

// setMembers changes the list and waits until the keeper has heard of it.
func (b *bench) setMembers(ids ...string) {
	b.Helper()
	b.script.setMembers(ids...)
	b.until(func() bool {
		crowd, err := b.keeper.Crowd(b.Context())
		require.NoError(b.T, err)
		return len(crowd) == len(ids) && !slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(crowd, id) })
	})
}

func (b *bench) until(what func() bool) {
	b.Helper()
	require.Eventually(b.T, what, patience, time.Millisecond)
}

func (b *bench) untilHas(standing string) {
	b.Helper()
	require.EventuallyWithT(b.T, func(c *assertCollect) { require.Equal(c, standing, b.has()) }, patience, time.Millisecond)
}

// idOf makes a task id that nameOf knows again.
func idOf(name string) string {
	id := []byte(taskid.Compute("", "", "", nil))
	for i := range id {
		id[i] = '0'
	}
	copy(id, fmt.Sprintf("%x", name))
	return string(id)
}

func nameOf(id string) string {
	var name []byte
	for i := 0; i+1 < len(id) && id[i:i+2] != "00"; i += 2 {
		var c byte
		if _, err := fmt.Sscanf(id[i:i+2], "%02x", &c); err != nil {
			return id
		}
		name = append(name, c)
	}
	return string(name)
}

// rec makes a record whose revision is 100 times its epoch.
func rec(name string, epoch int64, owner string, replicas ...string) *record {
	return &record{
		TaskId: idOf(name), Url: "http://origin/" + name, Owner: owner, Replicas: replicas, Epoch: epoch, Revision: 100 * epoch,
		PieceSize: 100, Source: &registryv1.SourceIdentity{Length: 1000, Etag: `"1"`}, Status: registryv1.TaskStatus_TASK_STATUS_SUCCESS,
	}
}

// later is the same record, written later.
func later(r *record, by int64) *record {
	r.Revision += by
	return r
}

func records(all ...*record) *told { return &told{Records: all, Replicas: 2} }

func complete(all ...*record) *told { return &told{Records: all, Replicas: 2, Complete: true} }

func copyOf(name string) task.Inventory {
	return task.Inventory{
		ID: task.ID(idOf(name)), URL: "http://origin/" + name, Epoch: 3, Pieces: 11, Whole: true,
		Facts: task.Facts{Length: 1000, PieceSize: 100, ETag: `"1"`},
	}
}
