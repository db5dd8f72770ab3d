package httpconn

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const request = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n"

func TestAnswersOfAServerAreRead(t *testing.T) {
	long := strings.Repeat("0123456789", 5000)
	answers := []string{"", "short", long}
	connections := atomic.Int64{}
	number := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200 + number)
		_, _ = io.WriteString(w, answers[number]) // the long one goes out in chunks
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	c := New(server.Listener.Addr().String())
	defer c.Close()
	for number = range answers {
		a, err := c.Do(t.Context(), []byte(request))
		require.NoError(t, err)
		require.Equal(t, 200+number, a.Status)
		require.Equal(t, answers[number], string(a.Body))
		require.Positive(t, a.Took)
	}
	require.EqualValues(t, 1, connections.Load())
}

// serve answers each request with the next answer and closes the connection
// behind those that are marked so.
func serve(t *testing.T, answers ...string) *Conn {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for len(answers) > 0 {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			for len(answers) > 0 {
				if _, err := http.ReadRequest(in); err != nil {
					break
				}
				text, closes := strings.CutSuffix(answers[0], "CLOSE")
				answers = answers[1:]
				_, _ = io.WriteString(conn, text)
				if closes {
					break
				}
			}
			_ = conn.Close()
		}
	}()
	c := New(listener.Addr().String())
	t.Cleanup(func() {
		c.Close()
		_ = listener.Close()
		<-done
	})
	return c
}

func answer(body string, headers ...string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%s\r\n%s", len(body), strings.Join(headers, ""), body)
}

func TestRequestIsSentAgainIfTheConnectionBreaksBeforeTheAnswer(t *testing.T) {
	c := serve(t, answer("1")+"CLOSE", "CLOSE", "CLOSE", answer("2", "Connection: close\r\n")+"CLOSE", answer("3"))
	for _, want := range []string{"1", "2", "3"} {
		a, err := c.Do(t.Context(), []byte(request))
		require.NoError(t, err)
		require.Equal(t, want, string(a.Body))
	}
}

func TestAnswersThatAreBrokenAreErrors(t *testing.T) {
	for _, text := range []string{
		"SSH-2.0\r\n\r\nCLOSE", "HTTP/1.1 abc\r\n\r\nCLOSE", "HTTP/1.1 200 OK\r\n\r\nCLOSE",
		"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshortCLOSE", "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nCLOSE",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nCLOSE",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\nCLOSE",
	} {
		c := serve(t, text)
		_, err := c.Do(t.Context(), []byte(request))
		require.ErrorIs(t, err, ErrNoAnswer, text)
	}
}

func TestServerThatIsNotThereIsAnError(t *testing.T) {
	_, err := New("127.0.0.1:1").Do(t.Context(), []byte(request))
	require.ErrorIs(t, err, ErrNoAnswer)
}
