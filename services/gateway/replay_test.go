package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway"
)

// requireRegistration makes a scheduler fail the calls of its only peer with reason
// until the peer registers. After unregister the peer has to register again.
func requireRegistration(s *scheduler, reason rpcerr.Reason) (unregister func()) {
	var mu sync.Mutex // guards registered
	registered := false
	s.register = func(_ context.Context, in *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		registered = true
		return registerAnswer(in), nil
	}
	check := func() error {
		mu.Lock()
		defer mu.Unlock()
		if !registered {
			return rpcerr.New(codes.NotFound, reason, "not registered")
		}
		return nil
	}
	s.pull = func(context.Context, *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		return waitAnswer("nothing yet"), check()
	}
	s.report = func(context.Context) error { return check() }
	return func() {
		mu.Lock()
		defer mu.Unlock()
		registered = false
	}
}

// registrationsAt returns the registrations that a scheduler received.
func registrationsAt(s *scheduler) []*schedulerv1.RegisterPeerRequest {
	var all []*schedulerv1.RegisterPeerRequest
	for _, c := range s.calls() {
		if r, ok := c.(*schedulerv1.RegisterPeerRequest); ok {
			all = append(all, r)
		}
	}
	return all
}

const secret = "Bearer c2VjcmV0"

func TestPeerIsRegisteredAgainAtASchedulerWithoutIt(t *testing.T) {
	body := strings.Replace(good, `"cid"`, `"headers":["Authorization: `+secret+`"],"cid"`, 1)
	for _, reason := range []rpcerr.Reason{rpcerr.TaskNotFound, rpcerr.PeerNotFound} {
		s := &scheduler{id: "s1"}
		unregister := requireRegistration(s, reason)
		gw := start(t, gateway.Config{}, s)
		require.Equal(t, 200, gw.post("/peer/registry", body).code())
		task := registrationsAt(s)[0].GetTaskId()
		want := 1
		for uri, code := range map[string]int{pullA: 602, sucA: 611, errorA: 200} {
			unregister()
			want++
			require.Equal(t, code, gw.get(strings.ReplaceAll(uri, taskA, task)).code(), "%s: %s", reason, uri)
			all := registrationsAt(s)
			require.Len(t, all, want)
			require.Equal(t, []string{"Authorization: " + secret}, all[want-1].GetSource().GetHeaders())
			require.True(t, all[want-1].GetAgain())
			all[want-1].Again = false
			require.Equal(t, all[0].String(), all[want-1].String())
		}
		// A peer that leaves is not registered again.
		unregister()
		require.Equal(t, 612, gw.get(strings.ReplaceAll(downA, taskA, task)).code())
		require.Len(t, registrationsAt(s), want)
		for _, e := range gw.logs.All() {
			require.NotContains(t, fmt.Sprint(e.Message, e.ContextMap()), secret)
		}
		require.Contains(t, gw.get("/metrics").raw, `supernode_gateway_replayed_registrations_total{result="done"} 3`)
	}
}

// The scheduler of the task dies, and the next one takes the task over without its
// peers.
func TestTakeoverIsTransparentToTheClient(t *testing.T) {
	s := schedulersInOrder(2)
	gw := start(t, gateway.Config{}, s...)
	task := registerTask(gw, s[0])
	s[0].pull = pullAlways(rpcerr.New(codes.Unavailable, "", "stopped"))
	s[0].register = registerAlways(rpcerr.New(codes.Unavailable, "", "stopped"))
	requireRegistration(s[1], rpcerr.TaskNotFound)
	require.Equal(t, `{"code":602,"msg":"nothing yet"}`+"\n", gw.get(strings.ReplaceAll(pullA, taskA, task)).raw)
	require.Len(t, registrationsAt(s[1]), 1)
	require.Equal(t, 602, gw.get(strings.ReplaceAll(pullA, taskA, task)).code())
	require.Len(t, registrationsAt(s[1]), 1)
}

// registerTask registers the good registration and returns the task. all are the
// schedulers that may receive it.
func registerTask(gw *testGateway, all ...*scheduler) string {
	gw.t.Helper()
	require.Equal(gw.t, 200, gw.post("/peer/registry", good).code())
	for _, s := range all {
		if r := registrationsAt(s); len(r) > 0 {
			return r[0].GetTaskId()
		}
	}
	require.Fail(gw.t, "no scheduler received the registration")
	return ""
}

func TestUnknownPeerIsAdoptedByAPullOnly(t *testing.T) {
	s := &scheduler{id: "s1"}
	requireRegistration(s, rpcerr.PeerNotFound)
	gw := start(t, gateway.Config{}, s)
	got := gw.get(pullA)
	require.Equal(t, http.StatusNotFound, got.status)
	requireEnvelope(t, got)
	// Reports are acknowledged, because the client could not react to an error.
	require.Equal(t, 611, gw.get(sucA).code())
	require.Equal(t, 200, gw.get(errorA).code())
	require.Equal(t, 612, gw.get(downA).code())
	var adopted []bool
	for _, call := range s.calls() {
		if pull, ok := call.(*schedulerv1.PullPiecesRequest); ok {
			adopted = append(adopted, pull.GetAdopt())
		}
	}
	require.Equal(t, []bool{false, true}, adopted)
	s.pull = func(_ context.Context, in *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		if !in.GetAdopt() {
			return nil, rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "unknown")
		}
		return &schedulerv1.PullPiecesResponse{Answer: &schedulerv1.PullPiecesResponse_Wait{Wait: &schedulerv1.Wait{}}}, nil
	}
	require.Equal(t, 602, gw.get(pullA).code())
	require.Empty(t, registrationsAt(s))
}

// The task starts from scratch with another piece size. The client would mistake
// the new pieces for the old ones.
func TestPullFailsIfTheTaskHasChangedSinceTheRegistration(t *testing.T) {
	s := &scheduler{id: "s1"}
	gw := start(t, gateway.Config{}, s)
	task := registerTask(gw, s)
	s.register = func(_ context.Context, in *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
		return &schedulerv1.RegisterPeerResponse{TaskId: in.GetTaskId(), Length: 300_000, PieceSize: 5 << 20}, nil
	}
	s.pull = pullAlways(rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "the task starts from scratch"))
	require.Equal(t, http.StatusNotFound, gw.get(strings.ReplaceAll(pullA, taskA, task)).status)
	require.Len(t, registrationsAt(s), 2)
	require.Len(t, s.calls(), 3, "the pull is not repeated")
}

func TestFailedReplayIsAWaitOrASourceError(t *testing.T) {
	s := &scheduler{id: "s1"}
	gw := start(t, gateway.Config{}, s)
	task := registerTask(gw, s)
	pull := strings.ReplaceAll(pullA, taskA, task)
	s.pull = pullAlways(rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "not registered"))
	for _, c := range []struct {
		err  error
		code int
	}{
		{rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "no CDN yet"), 602},
		{rpcerr.New(codes.NotFound, rpcerr.SourceNotFound, "no such file"), 610},
	} {
		s.register = registerAlways(c.err)
		require.Equal(t, c.code, gw.get(pull).code())
	}
	// After a successful replay the pull is repeated once only.
	s.register = nil
	before := len(registrationsAt(s))
	require.Equal(t, http.StatusNotFound, gw.get(pull).status)
	require.Len(t, registrationsAt(s), before+1)
}
