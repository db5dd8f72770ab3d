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

// oblivious makes a scheduler one that knows only who registered with it since
// forget was called.
func oblivious(s *scheduler, reason rpcerr.Reason) (forget func()) {
	var mu sync.Mutex // guards known
	known := false
	s.register = func(_ context.Context, in *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		known = true
		return &schedulerv1.RegisterPeerResponse{TaskId: in.GetTaskId(), Length: 300_000, PieceSize: 4 << 20}, nil
	}
	check := func() error {
		mu.Lock()
		defer mu.Unlock()
		if !known {
			return rpcerr.New(codes.NotFound, reason, "not known")
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
		known = false
	}
}

// registrations are those that a scheduler has seen.
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

func TestForgottenPeerIsRegisteredAgain(t *testing.T) {
	body := strings.Replace(good, `"cid"`, `"headers":["Authorization: `+secret+`"],"cid"`, 1)
	for _, reason := range []rpcerr.Reason{rpcerr.TaskNotFound, rpcerr.PeerNotFound} {
		s := &scheduler{id: "s1"}
		forget := oblivious(s, reason)
		w := start(t, gateway.Config{}, s)
		require.Equal(t, 200, w.post("/peer/registry", body).code())
		task := registrationsAt(s)[0].GetTaskId()
		want := 1
		for uri, code := range map[string]int{pullA: 602, sucA: 611, errorA: 200} {
			forget()
			want++
			require.Equal(t, code, w.get(strings.ReplaceAll(uri, taskA, task)).code(), "%s: %s", reason, uri)
			all := registrationsAt(s)
			require.Len(t, all, want)
			require.Equal(t, []string{"Authorization: " + secret}, all[want-1].GetSource().GetHeaders())
			require.True(t, all[want-1].GetAgain())
			all[want-1].Again = false
			require.Equal(t, all[0].String(), all[want-1].String())
		}
		// Whoever leaves is not taken in for that.
		forget()
		require.Equal(t, 612, w.get(strings.ReplaceAll(downA, taskA, task)).code())
		require.Len(t, registrationsAt(s), want)
		for _, e := range w.logs.All() {
			require.NotContains(t, fmt.Sprint(e.Message, e.ContextMap()), secret)
		}
		require.Contains(t, w.get("/metrics").raw, `supernode_gateway_replayed_registrations_total{result="done"} 3`)
	}
}

// TestTakeoverIsNotSeen kills the scheduler of a task: the next one takes it
// over, and knows nobody.
func TestTakeoverIsNotSeen(t *testing.T) {
	s := inOrder(2)
	w := start(t, gateway.Config{}, s...)
	task := registered(w, s[0])
	s[0].pull = pullAlways(rpcerr.New(codes.Unavailable, "", "gone"))
	s[0].register = func(context.Context, *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
		return nil, rpcerr.New(codes.Unavailable, "", "gone")
	}
	oblivious(s[1], rpcerr.TaskNotFound)
	require.Equal(t, `{"code":602,"msg":"nothing yet"}`+"\n", w.get(strings.ReplaceAll(pullA, taskA, task)).raw)
	require.Len(t, registrationsAt(s[1]), 1)
	require.Equal(t, 602, w.get(strings.ReplaceAll(pullA, taskA, task)).code())
	require.Len(t, registrationsAt(s[1]), 1)
}

// registered registers at whoever is first and gives the task.
func registered(w *world, all ...*scheduler) string {
	w.t.Helper()
	require.Equal(w.t, 200, w.post("/peer/registry", good).code())
	for _, s := range all {
		if r := registrationsAt(s); len(r) > 0 {
			return r[0].GetTaskId()
		}
	}
	require.Fail(w.t, "nobody was registered at")
	return ""
}

// A peer that nobody knows may be adopted by its pull, and by nothing else.
func TestStrangersAreNotRegistered(t *testing.T) {
	s := &scheduler{id: "s1"}
	oblivious(s, rpcerr.PeerNotFound)
	w := start(t, gateway.Config{}, s)
	got := w.get(pullA)
	require.Equal(t, http.StatusNotFound, got.status)
	requireEnvelope(t, got)
	// It can do nothing about what its reports come to.
	require.Equal(t, 611, w.get(sucA).code())
	require.Equal(t, 200, w.get(errorA).code())
	require.Equal(t, 612, w.get(downA).code())
	var adopted []bool
	for _, call := range s.calls() {
		if pull, ok := call.(*schedulerv1.PullPiecesRequest); ok {
			adopted = append(adopted, pull.GetAdopt())
		}
	}
	require.Equal(t, []bool{false, true}, adopted)
	s.pull = func(_ context.Context, in *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		if !in.GetAdopt() {
			return nil, rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "who is that")
		}
		return &schedulerv1.PullPiecesResponse{Answer: &schedulerv1.PullPiecesResponse_Wait{Wait: &schedulerv1.Wait{}}}, nil
	}
	require.Equal(t, 602, w.get(pullA).code())
	require.Empty(t, registrationsAt(s))
}

// TestChangedTaskIsTheClientsToHearOf has a task that begins anew with other
// pieces: the client would take them for the old ones.
func TestChangedTaskIsTheClientsToHearOf(t *testing.T) {
	s := &scheduler{id: "s1"}
	w := start(t, gateway.Config{}, s)
	task := registered(w, s)
	s.register = func(_ context.Context, in *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
		return &schedulerv1.RegisterPeerResponse{TaskId: in.GetTaskId(), Length: 300_000, PieceSize: 5 << 20}, nil
	}
	s.pull = pullAlways(rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "the task begins anew"))
	require.Equal(t, http.StatusNotFound, w.get(strings.ReplaceAll(pullA, taskA, task)).status)
	require.Len(t, registrationsAt(s), 2)
	require.Len(t, s.calls(), 3, "the pull is not repeated")
}

// TestReplayThatFails is repaired later, or ends the download.
func TestReplayThatFails(t *testing.T) {
	s := &scheduler{id: "s1"}
	w := start(t, gateway.Config{}, s)
	task := registered(w, s)
	pull := strings.ReplaceAll(pullA, taskA, task)
	s.pull = pullAlways(rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "not known"))
	for _, c := range []struct {
		err  error
		code int
	}{
		{rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "no CDN yet"), 602},
		{rpcerr.New(codes.NotFound, rpcerr.SourceNotFound, "no such file"), 610},
	} {
		s.register = func(context.Context, *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
			return nil, c.err
		}
		require.Equal(t, c.code, w.get(pull).code())
	}
	// A call is repeated once, and that is it.
	s.register = nil
	before := len(registrationsAt(s))
	require.Equal(t, http.StatusNotFound, w.get(pull).status)
	require.Len(t, registrationsAt(s), before+1)
}
