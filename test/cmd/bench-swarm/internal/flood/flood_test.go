package flood

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/httpconn"
)

// received holds the bodies of the requests that a server got.
type received struct {
	mu     sync.Mutex // guards bodies
	bodies []string
}

func (r *received) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	r.bodies = append(r.bodies, string(body))
	r.mu.Unlock()
	_, _ = w.Write([]byte(`{"code":607}`))
}

func newFlood(t *testing.T, kind Kind, size int, address string) *Flood {
	t.Helper()
	f, err := New(Config{Kind: kind, Size: size, Address: address, URL: "http://127.0.0.1:1/0", Missing: "http://127.0.0.1:1/missing/"})
	require.NoError(t, err)
	return f
}

func startServer(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestEveryFifthRegistrationHasAMalformedID(t *testing.T) {
	var got received
	f := newFlood(t, Registrations, 40, startServer(t, &got))
	require.NoError(t, f.Run(t.Context()))
	require.Equal(t, map[string]int64{"200/607": 40}, f.Tally().Outcomes())
	require.EqualValues(t, 40, f.Tally().Sent())
	require.EqualValues(t, 40, f.Tally().Latency().Count)
	counts := make(map[string]int)
	for _, body := range got.bodies {
		for _, id := range malformed() {
			if strings.Contains(body, `"cid":"`+id+`"`) {
				counts[id]++
			}
		}
	}
	for _, id := range malformed() {
		require.Equal(t, 2, counts[id], "%q", id)
	}
}

func TestNoTwoRegistrationsHaveAURLInCommonInTwoPasses(t *testing.T) {
	var got received
	f := newFlood(t, URLs, 60, startServer(t, &got))
	require.NoError(t, f.Run(t.Context()))
	require.NoError(t, f.Run(t.Context()))
	urls := make(map[string]bool)
	for _, body := range got.bodies {
		var registration struct{ RawURL, CID string }
		require.NoError(t, json.Unmarshal([]byte(body), &registration))
		require.NotEmpty(t, registration.CID)
		urls[registration.RawURL] = true
	}
	require.Len(t, urls, 120)
}

func TestFloodEndsWithItsContext(t *testing.T) {
	var got received
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := newFlood(t, Registrations, 1000, startServer(t, &got))
	require.NoError(t, f.Run(ctx))
	require.Empty(t, got.bodies)
}

func TestRequestsAreCutOffWithAReset(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	f := newFlood(t, Cut, 1, listener.Addr().String())
	m := member{cid: "cid", taskID: "task"}
	for how, complete := range map[int]bool{halfHead: false, halfBody: false, wholeThenReset: true} {
		request := string(f.cutRequest(m, how))
		require.Equal(t, complete, strings.HasSuffix(request, "\r\n\r\n"), request)
	}
	require.NoError(t, f.cutOne(t.Context(), m, halfHead))
	conn, err := listener.Accept()
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err = io.Copy(io.Discard, conn)
	require.ErrorContains(t, err, "reset")
}

func TestIdleConnectionsAreOpenedAgain(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	f := newFlood(t, Idle, 1, listener.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	for range 2 {
		conn, err := listener.Accept()
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	last, err := listener.Accept()
	require.NoError(t, err)
	cancel()
	require.NoError(t, <-ended)
	_, err = bufio.NewReader(last).ReadByte()
	require.ErrorIs(t, err, io.EOF, "nothing was sent")
	require.NoError(t, last.Close())
	require.EqualValues(t, 2, f.Tally().Outcomes()[closedByPeer])
}

func TestMissingSourceCounts(t *testing.T) {
	source, err := StartMissing()
	require.NoError(t, err)
	for range 2 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, source.Prefix+"1", nil)
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusNotFound, response.StatusCode)
	}
	require.EqualValues(t, 2, source.Requests())
	require.NoError(t, source.Close())
}

func TestOutcomesNameStatusAndCode(t *testing.T) {
	var tally Tally
	for want, body := range map[string]string{"200/607": `{"code":607}`, "500": `{"code":500}`, "404": `no JSON`} {
		status := map[string]int{"200/607": 200, "500": 500, "404": 404}[want]
		tally.answered(answerOf(status, body), nil)
		require.EqualValues(t, 1, tally.Outcomes()[want])
	}
	tally.answered(answerOf(0, ""), errors.New("cut"))
	require.EqualValues(t, 1, tally.Outcomes()[noAnswer])
}

func TestFloodsAreNamed(t *testing.T) {
	kinds, err := Parse("all")
	require.NoError(t, err)
	require.Equal(t, All(), kinds)
	kinds, err = Parse("none,cut")
	require.NoError(t, err)
	require.Equal(t, []Kind{None, Cut}, kinds)
	_, err = Parse("cut,")
	require.ErrorContains(t, err, "registrations")
}

func answerOf(status int, body string) httpconn.Answer {
	return httpconn.Answer{Status: status, Body: []byte(body)}
}
