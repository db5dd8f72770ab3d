package peer_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/peer"
)

func TestAMigratedPeerKeepsWhatItHas(t *testing.T) {
	c, old, next := newCDN(t, length(2), pieceSize), newNode(t), newNode(t)
	old.pull = func(count int, _ request) string {
		if count == 1 {
			return c.offer(0)
		}
		old.awaitReport(0)
		return "500"
	}
	next.pull = func(count int, r request) string {
		switch {
		case count == 1:
			return c.offer(0, 1)
		case r.get("range") == rangeOf(0):
			return wait
		}
		next.awaitReport(1)
		return done(c.sum())
	}
	p := newPeer(t, nil, old.addr(), next.addr())
	result, err := download(t, p)
	require.NoError(t, err)
	requireContent(t, c, result)
	require.Equal(t, 1, result.Migrations)
	require.Equal(t, 1, result.DuplicateOffers)
	require.Equal(t, []int{0, 1}, result.Offered)
	require.Equal(t, 1, result.Codes[500])

	var first, second map[string]any
	require.NoError(t, json.Unmarshal([]byte(old.calls("/peer/registry")[0].body), &first))
	require.NoError(t, json.Unmarshal([]byte(next.calls("/peer/registry")[0].body), &second))
	require.Equal(t, first, second, "the same peer, cid and all")

	pulls := next.calls("/peer/task")
	require.Equal(t, "700 503 "+rangeOf(0)+" "+cdnCid,
		pulls[0].get("status")+" "+pulls[0].get("result")+" "+pulls[0].get("range")+" "+pulls[0].get("dstCid"))
	for _, r := range pulls[1:] {
		require.Equal(t, "701", r.get("status"))
		require.Equal(t, "503", r.get("result"))
	}
	for _, r := range next.calls("/peer/piece/suc") {
		require.Equal(t, rangeOf(1), r.get("pieceRange"), "a piece that was here is never reported through piece/suc")
	}
	require.Len(t, old.calls("/peer/piece/suc"), 1)
	require.Len(t, next.calls("/task/metrics"), 1)
	require.Empty(t, old.calls("/task/metrics"))
}

// After a migration that was answered 602, what else is in the queue goes to
// the old node still, and costs one more address.
func TestAWaitAfterMigrationSendsTheNextReportToTheOldNode(t *testing.T) {
	c, old, next, third := newCDN(t, length(2), pieceSize, 1), newNode(t), newNode(t), newNode(t)
	old.pull = func(count int, _ request) string {
		if count == 1 {
			return c.offer(0, 1)
		}
		return "503"
	}
	next.pull = func(int, request) string {
		c.open(1)
		old.awaitReport(1)
		return wait
	}
	third.pull = answers(done(c.sum()))
	result, err := download(t, newPeer(t, nil, old.addr(), next.addr(), third.addr()))
	require.NoError(t, err)
	requireContent(t, c, result)
	require.Equal(t, 2, result.Migrations)
	require.NotEmpty(t, next.calls("/peer/task"))
	pulls := old.calls("/peer/task")
	require.Equal(t, rangeOf(1), pulls[len(pulls)-1].get("range"))
}

func TestWhoCanMigrate(t *testing.T) {
	dead := newNode(t)
	dead.pull = answers("500")
	alone := []string{dead.addr()}
	for _, tt := range []struct {
		name       string
		nodes      []string
		migrations int
	}{
		{"one address cannot", alone, 0},
		{"a weight is no second address", []string{dead.addr() + "=2"}, 0},
		{"the address given twice is", []string{dead.addr(), dead.addr()}, 1},
		{"common weights are one", []string{dead.addr() + "=2", dead.addr() + "=2"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			result, err := download(t, newPeer(t, nil, tt.nodes...))
			require.ErrorIs(t, err, peer.ErrNoBackSource)
			require.Equal(t, tt.migrations, result.Migrations)
			require.Equal(t, 1003, result.Reason)
			require.Empty(t, result.Path)
		})
	}
}

// The documented meaning of 610 is to go to the source; what dfget does is to
// migrate first, as with any code that it does not know.
func TestASourceErrorMigratesBeforeItGoesToTheSource(t *testing.T) {
	source, err := origin.Start(origin.Config{})
	require.NoError(t, err)
	defer source.Close() //nolint:errcheck // the test is over
	source.Put("/f", origin.File{Size: 5000, Seed: 1})
	first, second := newNode(t), newNode(t)
	first.pull, second.pull = answers(`{"code":610}`), answers(`{"code":610}`)
	result, err := download(t, newPeer(t, func(c *peer.Config) {
		c.URL, c.NoBackSource = source.URL("/f"), false
	}, first.addr(), second.addr()))
	require.NoError(t, err)
	require.Equal(t, 1, result.Migrations)
	require.True(t, result.BackToSource)
	require.Equal(t, 3, result.Reason)
	require.Equal(t, origin.Content(5000, 1), readFile(t, result.Path))
	require.EqualValues(t, 1, source.Total().Bodies)
	require.Empty(t, first.calls("/task/metrics"), "the list is used up, there is nobody to tell")
	require.Empty(t, second.calls("/task/metrics"))
}

func TestRegistrationAnswers(t *testing.T) {
	code := func(code int) func(int, request) (int, string) {
		return func(int, request) (int, string) { return 200, fmt.Sprintf(`{"code":%d,"msg":"no"}`, code) }
	}
	t.Run("608 ends it", func(t *testing.T) {
		first, second := newNode(t), newNode(t)
		first.register = code(608)
		_, err := download(t, newPeer(t, nil, first.addr(), second.addr()))
		require.ErrorIs(t, err, peer.ErrNeedAuth)
		require.Empty(t, second.calls(""))
		require.Len(t, first.calls(""), 1)
	})
	t.Run("607 tries no other", func(t *testing.T) {
		first, second := newNode(t), newNode(t)
		first.register = code(607)
		result, err := download(t, newPeer(t, nil, first.addr(), second.addr()))
		require.ErrorIs(t, err, peer.ErrNoBackSource)
		require.Equal(t, 1001, result.Reason)
		require.Empty(t, second.calls(""))
	})
	t.Run("609 is asked again", func(t *testing.T) {
		n := newNode(t)
		n.register = func(count int, r request) (int, string) {
			if count == 1 {
				return 200, `{"code":609}`
			}
			return 200, registered(0)
		}
		n.pull = answers(done(""))
		_, err := download(t, newPeer(t, nil, n.addr()))
		require.NoError(t, err)
		require.Len(t, n.calls("/peer/registry"), 2)
	})
	t.Run("others try the next", func(t *testing.T) {
		first, second := newNode(t), newNode(t)
		first.register = func(int, request) (int, string) { return 500, `{"code":500}` }
		second.pull = answers(done(""))
		result, err := download(t, newPeer(t, nil, first.addr(), second.addr()))
		require.NoError(t, err)
		require.Zero(t, result.Migrations)
	})
	t.Run("numbers as strings are no answer", func(t *testing.T) {
		n := newNode(t)
		n.register = func(int, request) (int, string) {
			return 200, `{"code":200,"data":{"taskId":"x","fileLength":"5","pieceSize":4194304}}`
		}
		_, err := download(t, newPeer(t, nil, n.addr()))
		require.ErrorIs(t, err, peer.ErrNoBackSource)
	})
}
