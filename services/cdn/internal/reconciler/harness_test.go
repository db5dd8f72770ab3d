package reconciler_test

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
	"github.com/supernode-ha/supernode/services/cdn/internal/reconciler"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const (
	self        = "self"
	testTimeout = 20 * time.Second
	never       = time.Hour
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scriptedRegistry is a registry that a test scripts, for behaviour that the real one does
// not have on demand: it is unavailable or late, or it sends old, repeated or invalid
// records. Streams send the messages of the test. Calls are recorded, and functions of the
// test answer them.
type scriptedRegistry struct {
	registryv1.UnimplementedRegistryServiceServer
	mu          sync.Mutex
	members     []*registryv1.Member                        // guarded by mu
	changed     chan struct{}                               // closed and replaced with members; guarded by mu
	stream      chan *registryv1.WatchTasksResponse         // messages of the open stream; closed to end it; guarded by mu
	opened      int                                         // number of streams; guarded by mu
	unavailable bool                                        // guarded by mu
	calls       []string                                    // guarded by mu
	answers     map[string]func(n int) (*record, error)     // by "call task"; n counts the calls from 1; guarded by mu
	counts      map[string]int                              // guarded by mu
	onAnnounce  func([]*registryv1.Copy) (*announce, error) // guarded by mu
	running     int                                         // guarded by mu
	maxRunning  int                                         // guarded by mu
	blockCalls  chan struct{}                               // calls block until it is closed; guarded by mu
}

type (
	assertCollect = assert.CollectT
	record        = registryv1.TaskRecord
	announce      = registryv1.AnnounceCopiesResponse
	watchResponse = registryv1.WatchTasksResponse
)

func (s *scriptedRegistry) WatchMembers(_ *registryv1.WatchMembersRequest, stream registryv1.RegistryService_WatchMembersServer) error {
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

func (s *scriptedRegistry) setMembers(ids ...string) {
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

func (s *scriptedRegistry) WatchTasks(req *registryv1.WatchTasksRequest, stream registryv1.RegistryService_WatchTasksServer) error {
	s.mu.Lock()
	if s.unavailable || req.GetMemberId() != self {
		s.mu.Unlock()
		return status.Error(codes.Unavailable, "unavailable")
	}
	messages := make(chan *watchResponse, 100)
	s.stream = messages
	s.opened++
	s.mu.Unlock()
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return status.Error(codes.Unavailable, "the store is unavailable")
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// handleCall records a call and answers it.
func (s *scriptedRegistry) handleCall(ctx context.Context, call, id string) (*record, error) {
	s.mu.Lock()
	s.running++
	s.maxRunning = max(s.maxRunning, s.running)
	key := call + " " + nameOf(id)
	s.calls = append(s.calls, key)
	s.counts[key]++
	n, answer, hold, unavailable := s.counts[key], s.answers[key], s.blockCalls, s.unavailable
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running--
	}()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}
	switch {
	case unavailable:
		return nil, status.Error(codes.Unavailable, "unavailable")
	case answer == nil:
		return nil, status.Error(codes.NotFound, "no such task")
	}
	return answer(n)
}

func (s *scriptedRegistry) RepairTask(ctx context.Context, r *registryv1.RepairTaskRequest) (*registryv1.RepairTaskResponse, error) {
	rec, err := s.handleCall(ctx, "repair", r.GetTaskId())
	return &registryv1.RepairTaskResponse{Record: rec}, err
}

func (s *scriptedRegistry) MoveTask(ctx context.Context, r *registryv1.MoveTaskRequest) (*registryv1.MoveTaskResponse, error) {
	rec, err := s.handleCall(ctx, fmt.Sprintf("move@%d", r.GetEpoch()), r.GetTaskId())
	return &registryv1.MoveTaskResponse{Record: rec}, err
}

func (s *scriptedRegistry) ResignTask(ctx context.Context, r *registryv1.ResignTaskRequest) (*registryv1.ResignTaskResponse, error) {
	rec, err := s.handleCall(ctx, "resign", r.GetTaskId())
	return &registryv1.ResignTaskResponse{Record: rec}, err
}

func (s *scriptedRegistry) GetTask(ctx context.Context, r *registryv1.GetTaskRequest) (*registryv1.GetTaskResponse, error) {
	if !r.GetFresh() {
		return nil, status.Error(codes.InvalidArgument, "the record must be read from the store")
	}
	rec, err := s.handleCall(ctx, "get", r.GetTaskId())
	return &registryv1.GetTaskResponse{Record: rec}, err
}

func (s *scriptedRegistry) AnnounceCopies(_ context.Context, r *registryv1.AnnounceCopiesRequest) (*announce, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onAnnounce == nil || s.unavailable {
		return nil, status.Error(codes.Unavailable, "unavailable")
	}
	return s.onAnnounce(r.GetCopies())
}

// sendTasks waits for an open stream and sends messages on it.
func (s *scriptedRegistry) sendTasks(t *testing.T, messages ...*watchResponse) {
	t.Helper()
	var stream chan *watchResponse
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		stream = s.stream
		return stream != nil
	}, testTimeout, time.Millisecond)
	for _, m := range messages {
		stream <- m
	}
}

// breakStream ends the open stream with an error.
func (s *scriptedRegistry) breakStream() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.stream)
	s.stream = nil
}

func (s *scriptedRegistry) setUnavailable(unavailable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unavailable = unavailable
}

func (s *scriptedRegistry) onCall(key string, f func(n int) (*record, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[key] = f
}

func (s *scriptedRegistry) callCount(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[key]
}

func (s *scriptedRegistry) allCalls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// harness runs a reconciler with a scripted registry.
type harness struct {
	*testing.T
	*scriptedRegistry
	*recordingEngine
	reconciler *reconciler.Reconciler
	otherCDNs  *otherCDNs
}

func start(t *testing.T, replaceDelay time.Duration, disk ...task.Inventory) *harness {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return startAt(t, l, (&net.Dialer{}).DialContext, replaceDelay, disk...)
}

// startInSynctest is start for a synctest bubble, in which no time passes while a
// goroutine can run.
func startInSynctest(t *testing.T, replaceDelay time.Duration, disk ...task.Inventory) *harness {
	t.Helper()
	const window = 64 << 10
	l := bufconn.Listen(window)
	return startAt(t, l, func(ctx context.Context, _, _ string) (net.Conn, error) { return l.DialContext(ctx) }, replaceDelay, disk...)
}

type dial = func(ctx context.Context, network, address string) (net.Conn, error)

func startAt(t *testing.T, l net.Listener, dial dial, replaceDelay time.Duration, disk ...task.Inventory) *harness {
	t.Helper()
	h := &harness{
		T: t,
		scriptedRegistry: &scriptedRegistry{
			changed: make(chan struct{}), answers: make(map[string]func(int) (*record, error)), counts: make(map[string]int),
		},
		recordingEngine: &recordingEngine{standing: make(map[string]task.Standing), disk: disk},
		otherCDNs:       &otherCDNs{whole: make(map[string]bool)},
	}
	server := grpc.NewServer()
	registryv1.RegisterRegistryServiceServer(server, h.scriptedRegistry)
	cdnv1.RegisterCdnServiceServer(server, h.otherCDNs)
	var work sync.WaitGroup
	work.Go(func() { _ = server.Serve(l) }) // returns when the server is stopped
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, "tcp", address) }))
	require.NoError(t, err)
	client := registryv1.NewRegistryServiceClient(conn)
	view := cluster.NewView(client, zap.NewNop())
	h.reconciler = reconciler.New(self, reconciler.Options{ReplaceDelay: replaceDelay, RetryDelay: time.Millisecond}, reconciler.Deps{
		Logger: zap.NewNop(), Registry: client, Members: view,
		Dial: func(string) (grpc.ClientConnInterface, error) { return conn, nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	work.Go(func() { _ = view.Run(ctx) }) // always returns nil
	work.Go(func() { h.reconciler.Run(ctx, h.recordingEngine) })
	t.Cleanup(func() {
		cancel()
		require.NoError(t, conn.Close())
		server.Stop()
		work.Wait()
	})
	return h
}

// setMembers changes the list of members and waits until the reconciler has received it.
func (h *harness) setMembers(ids ...string) {
	h.Helper()
	h.scriptedRegistry.setMembers(ids...)
	h.eventually(func() bool {
		known, err := h.reconciler.MemberIDs(h.Context())
		require.NoError(h.T, err)
		return len(known) == len(ids) && !slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(known, id) })
	})
}

func (h *harness) eventually(what func() bool) {
	h.Helper()
	require.Eventually(h.T, what, testTimeout, time.Millisecond)
}

func (h *harness) awaitStandings(standing string) {
	h.Helper()
	require.EventuallyWithT(h.T, func(c *assertCollect) { require.Equal(c, standing, h.standings()) }, testTimeout, time.Millisecond)
}

// idOf returns a task id from which nameOf returns the name.
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

// newRecord returns a record whose revision is 100 times its epoch.
func newRecord(name string, epoch int64, owner string, replicas ...string) *record {
	return &record{
		TaskId: idOf(name), Url: "http://origin/" + name, Owner: owner, Replicas: replicas, Epoch: epoch, Revision: 100 * epoch,
		PieceSize: 100, Source: &registryv1.SourceIdentity{Length: 1000, Etag: `"1"`}, Status: registryv1.TaskStatus_TASK_STATUS_SUCCESS,
	}
}

// bumpRevision changes the revision of a record.
func bumpRevision(r *record, by int64) *record {
	r.Revision += by
	return r
}

func recordsMessage(all ...*record) *watchResponse { return &watchResponse{Records: all, Replicas: 2} }

func completeMessage(all ...*record) *watchResponse {
	return &watchResponse{Records: all, Replicas: 2, Complete: true}
}

func inventoryOf(name string) task.Inventory {
	return task.Inventory{
		ID: task.ID(idOf(name)), URL: "http://origin/" + name, Epoch: 3, Pieces: 11, Whole: true,
		Facts: task.Facts{Length: 1000, PieceSize: 100, ETag: `"1"`},
	}
}
